//! What a mount leaves to the source's filesystem and must not get wrong: reserved space, quotas, groups, file
//! capabilities. Each closure runs at a kernel idmapped mount and at a shiftbind mount; the results must be equal.
//! Needs root.

#[path = "../support/mod.rs"]
mod support;

mod capabilities;
mod groups;
mod reserved_space;

use std::fmt::Debug;
use std::fs;
use std::path::Path;

use support::{Mount, kernel_mount, scratch};

/// The container's root, and a user of the container, as the mount shows them.
const ROOT: u32 = 100_000;
const USER: u32 = 101_000;

/// Runs `run` at both mounts, each of a new directory that `fill` has filled as root on the source.
#[track_caller]
fn same_as_idmapped<T: PartialEq + Debug>(
    passthrough: &str,
    fill: impl Fn(&Path),
    run: impl Fn(&Path) -> T,
) {
    let both = scratch();
    let (source, kernel) = (both.dir("source"), both.dir("kernel"));
    fill(&source);
    kernel_mount(&source, &kernel, &[support::SHIFT.to_owned()]);
    let expected = run(&kernel);
    rustix::mount::unmount(&kernel, rustix::mount::UnmountFlags::DETACH).expect("unmount");
    let mount =
        Mount::builder().map(support::SHIFT).arg(format!("--passthrough={passthrough}")).start();
    fill(mount.source());
    let got = run(mount.path());
    assert_eq!(got, expected, "ours, then the kernel's idmapped mount's");
    let (got, expected) = (support::shape(mount.source()), support::shape(&source));
    assert_eq!(got, expected, "on the source: ours, then the kernel's idmapped mount's");
}

fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).expect("chmod");
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}
