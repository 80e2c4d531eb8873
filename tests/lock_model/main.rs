//! Compares random steps of several lock owners with a model of fcntl(2) and flock(2).
//!
//! The owners have several threads each, and open files at the mount and on its source. The same steps on a plain
//! directory compare the model with the kernel's own locks.

mod model;
mod stress;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::{Mount, scratch, sys};
use world::{Step, World};

/// The number of random sequences that each test runs.
fn cases() -> u32 {
    std::env::var("SHIFTBIND_TEST_LOCK_CASES").map_or(24, |text| text.parse().expect("a number"))
}

fn run(here: &Path, there: &Path) {
    sys::interrupt_on(libc::SIGUSR1);
    let names = AtomicU32::new(0);
    let steps = proptest::collection::vec(any::<Step>(), 1..150);
    let config = Config { cases: cases(), failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&steps, |steps| {
        let name = format!("case-{}", names.fetch_add(1, Ordering::Relaxed));
        let names = [0, 1].map(|file| format!("{name}-{file}"));
        names.iter().for_each(|name| fs::write(there.join(name), "text").expect("make a file"));
        let paths = [here, there].map(|dir| names.each_ref().map(|name| dir.join(name)));
        let mut world = World::new(paths);
        for (number, step) in steps.iter().enumerate() {
            let step = world.step(*step);
            step.map_err(|e| TestCaseError::fail(format!("step {number}: {e}")))?;
        }
        Ok(())
    });
    if let Err(e) = result {
        panic!("{e}");
    }
}

#[test]
fn random_steps_on_a_plain_directory_do_what_the_model_says() {
    let dir = scratch();
    run(dir.path(), dir.path());
}

#[test]
fn random_steps_at_the_mount_and_on_its_source_do_what_the_model_says() {
    let mount = Mount::identity();
    run(mount.path(), mount.source());
}

#[test]
fn random_steps_at_two_mounts_of_a_source_do_what_the_model_says() {
    let mount = Mount::identity();
    let other = Mount::builder().source(mount.source()).arg("--threads=1").start();
    run(mount.path(), other.path());
}
