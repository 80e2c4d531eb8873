//! Compares a mount with the kernel's idmapped mount of a twin source: the same operations by the same callers must
//! return the same results, leave the same on the source and be shown alike. Needs root.
//!
//! `SHIFTBIND_DIFF_CASES` and `SHIFTBIND_DIFF_STEPS` lengthen the random runs, `SHIFTBIND_DIFF_SEED` repeats one,
//! `SHIFTBIND_DIFF_ALL` runs every named case by every caller (some minutes), `SHIFTBIND_DIFF_EVERY=N` only every
//! Nth, `SHIFTBIND_DIFF_BINARY` tests another binary, `SHIFTBIND_DIFF_DIR` names a directory for the sources instead
//! of a tmpfs.

mod act;
mod caller;
mod differences;
#[allow(dead_code)]
#[path = "../support/machine.rs"]
mod machine;
mod named;
mod observe;
mod op;
#[path = "../support/patience.rs"]
mod patience;
mod random;
mod scenario;
#[path = "../support/small_filesystem.rs"]
mod small_filesystem;
mod sys;
mod value;
mod world;

use named::Cases;
use scenario::SCENARIOS;
use world::{Engine, World};

/// Runs on a thread of its own, whose mount namespace ends with it.
fn on_own_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    match std::thread::spawn(body).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn named_cases(scenario: usize, engine: Engine, cases: Cases) -> named::Report {
    on_own_thread(move || named::run(&mut World::new(SCENARIOS[scenario], engine), cases))
}

/// The random sequences per scenario: the three scenarios come to more than 10,000 steps.
const CASES: u32 = 90;

/// Whether this kernel's FUSE has idmapped mounts, as `--explain` says, which makes the checks of a mount. If not, the test
/// is skipped.
fn has_idmappable() -> bool {
    let room = tempfile::tempdir().expect("tempdir");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_shiftbind"))
        .args(["--explain", "-oidmappable"])
        .args([room.path(), room.path()])
        .output()
        .expect("run shiftbind");
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("this kernel's FUSE has no idmapped mounts") {
        machine::skipped("this kernel's FUSE has no idmapped mounts");
        return false;
    }
    assert!(output.status.success(), "{said}");
    true
}

fn random_steps(scenario: usize, engine: Engine, cases: u32) -> Result<usize, String> {
    on_own_thread(move || random::run(World::new(SCENARIOS[scenario], engine), cases))
}

#[test]
fn named_cases_of_a_container_range_are_answered_as_the_kernel_does() {
    named_cases(0, Engine::Shiftbind, Cases::All).assert_equal();
}

#[test]
fn named_cases_of_a_permutation_are_answered_as_the_kernel_does() {
    named_cases(1, Engine::Shiftbind, Cases::Every(2)).assert_equal();
}

#[test]
fn named_cases_of_a_map_with_holes_are_answered_as_the_kernel_does() {
    named_cases(2, Engine::Shiftbind, Cases::Every(2)).assert_equal();
}

#[test]
fn named_cases_are_answered_alike_where_shiftbind_has_the_kernel_make_the_mount() {
    // On slow machines fewer cases run, and few of them are left here.
    let enough = if std::env::var_os("SHIFTBIND_DIFF_EVERY").is_some() { 0 } else { 300 };
    for scenario in 0..SCENARIOS.len() {
        let report = named_cases(scenario, Engine::ShiftbindByKernel, Cases::Every(10));
        assert!(report.observations > enough, "only {}", report.observations);
        report.assert_equal();
    }
}

#[test]
fn setuid_setgid_and_capabilities_are_cleared_as_the_kernel_does() {
    named_cases(0, Engine::Shiftbind, Cases::ClearingOfSetuid).assert_equal();
}

#[test]
fn setuid_setgid_and_capabilities_are_cleared_as_the_kernel_does_without_passthrough() {
    named_cases(0, Engine::ShiftbindWithoutPassthrough, Cases::ClearingOfSetuid).assert_equal();
}

#[test]
fn named_cases_of_an_idmappable_mount_are_answered_as_the_kernel_does() {
    if has_idmappable() {
        named_cases(0, Engine::Idmappable, Cases::Every(2)).assert_equal();
    }
}

#[test]
fn named_cases_of_an_idmapped_clone_of_a_mount_are_answered_as_the_kernel_does() {
    for (scenario, every) in [(0, 1), (2, 3)].into_iter().filter(|_| has_idmappable()) {
        named_cases(scenario, Engine::IdmappedClone, Cases::Every(every)).assert_equal();
    }
}

#[test]
fn clearing_of_setuid_without_a_known_caller_is_answered_as_the_kernel_does() {
    let engines = [Engine::Idmappable, Engine::IdmappedClone];
    for engine in engines.into_iter().filter(|_| has_idmappable()) {
        named_cases(0, engine, Cases::ClearingOfSetuid).assert_equal();
    }
}

#[test]
fn random_steps_on_an_idmapped_clone_never_part_from_the_kernel() {
    if has_idmappable() {
        random_steps(0, Engine::IdmappedClone, CASES).unwrap_or_else(|report| panic!("{report}"));
    }
}

#[test]
fn random_steps_on_a_container_range_never_part_from_the_kernel() {
    random_steps(0, Engine::Shiftbind, CASES).unwrap_or_else(|report| panic!("{report}"));
}

#[test]
fn random_steps_on_a_permutation_never_part_from_the_kernel() {
    random_steps(1, Engine::Shiftbind, CASES).unwrap_or_else(|report| panic!("{report}"));
}

#[test]
fn random_steps_on_a_map_with_holes_never_part_from_the_kernel() {
    random_steps(2, Engine::Shiftbind, CASES).unwrap_or_else(|report| panic!("{report}"));
}

#[test]
fn the_harness_finds_no_difference_between_two_mounts_of_the_kernel() {
    for scenario in 0..SCENARIOS.len() {
        let report = named_cases(scenario, Engine::Kernel, Cases::Every(10));
        assert!(report.observations > 300, "only {}", report.observations);
        report.assert_equal();
    }
    random_steps(0, Engine::Kernel, 20).unwrap_or_else(|report| panic!("{report}"));
}

#[test]
fn the_harness_finds_a_wrong_map() {
    let report = named_cases(0, Engine::KernelWithAnotherMap, Cases::Every(10));
    assert!(report.differences() > 20, "only {} differences were found", report.differences());
    assert!(random_steps(0, Engine::KernelWithAnotherMap, CASES).is_err());
}
