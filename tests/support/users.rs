//! Callers of any uid: a thread that takes other credentials, runs a closure and ends.

use std::panic::resume_unwind;
use std::thread;

use rustix::fs::Mode;
use rustix::process::{Gid, Uid, umask};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::sys;

/// Runs the closure with that uid, gid and supplementary groups, a umask of 022 and a working directory of its own.
///
/// On Linux credentials belong to threads, so concurrent tests are not affected. Processes that the closure starts
/// inherit the credentials.
pub(crate) fn as_user<T: Send>(
    uid: u32,
    gid: u32,
    groups: &[u32],
    run: impl FnOnce() -> T + Send,
) -> T {
    // The mount shows changes made on the source within milliseconds, not at once.
    std::thread::sleep(std::time::Duration::from_millis(50));
    apart(|| {
        let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_groups(&groups).expect("set the groups");
        set_thread_res_gid(gid, gid, gid).expect("set the gid");
        set_thread_res_uid(uid, uid, uid).expect("set the uid");
        umask(Mode::from_raw_mode(0o022));
        run()
    })
}

/// Runs the closure as root with that umask.
pub(crate) fn as_root_with_umask<T: Send>(mask: u32, run: impl FnOnce() -> T + Send) -> T {
    apart(|| {
        umask(Mode::from_raw_mode(mask));
        run()
    })
}

fn apart<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sys::unshare_fs();
            run()
        });
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}
