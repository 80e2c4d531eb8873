//! Clients that list a directory into memory that a stopped FUSE server does not supply: the kernel holds the directory's
//! lock meanwhile, and takes in what the listing has brought only afterwards.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Gid, Pid, Signal, Uid, kill_process};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::{Mount, Process, eventually, sys};

/// A daemon that is stopped by SIGSTOP until this is dropped.
pub(crate) struct Stopped(Pid);

impl Stopped {
    pub(crate) fn new(mount: &Mount) -> Self {
        let pid = Pid::from_raw(mount.pid().expect("a daemon runs") as i32).expect("a pid");
        kill_process(pid, Signal::STOP).expect("stop");
        let stopped = Self(pid);
        eventually("all threads are stopped", || {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("list the threads");
            threads
                .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("stat")).ok())
                .all(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
        });
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // The daemon may have ended.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// A client that is about to list a directory, into memory that a server supplies until [`Self::stall`].
pub(crate) struct StalledListing {
    client: Process,
    server: Mount,
}

impl StalledListing {
    /// Starts the client, which has opened the directory.
    pub(crate) fn prepare(dir: &Path) -> Self {
        let server = Mount::builder().arg("--passthrough=off").start();
        let memory = server.in_source("memory");
        fs::write(&memory, vec![0; 1 << 16]).expect("write");
        fs::set_permissions(&memory, std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .expect("chmod");
        let client = lists_into(&server.join("memory"), dir);
        Self { client, server }
    }

    /// Lets the client list the directory, until it waits for its memory. The listing goes on when the result is dropped.
    pub(crate) fn stall(&self) -> Stopped {
        let stopped = Stopped::new(&self.server);
        self.client.signal(Signal::CONT);
        eventually("the process waits for its memory", || {
            matches!(state_of(&self.client), Some('S' | 'D'))
        });
        std::thread::sleep(Duration::from_millis(100));
        stopped
    }

    /// The state of the client in /proc/PID/stat.
    pub(crate) fn state(&self) -> Option<char> {
        state_of(&self.client)
    }

    /// Waits until the client has listed the directory.
    pub(crate) fn end(self) {
        assert_eq!(self.client.wait(), Some(0), "the directory was listed");
    }
}

/// Starts a process of uid 1000 that lists `dir` into memory mapped from `file`. It stops itself before getdents64(2).
pub(crate) fn lists_into(file: &Path, dir: &Path) -> Process {
    let dir = CString::new(dir.as_os_str().as_bytes()).expect("no NUL");
    let lists = move |file: &File| {
        become_user();
        let Ok(mut memory) = sys::Mapping::new(file, 1 << 16, true) else { return 1 };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(dir) = rustix::fs::open(&dir, flags, Mode::empty()) else { return 2 };
        let _ = kill_process(rustix::process::getpid(), Signal::STOP);
        u8::from(memory.list(&dir).is_err())
    };
    let process = Process::on(file, lists);
    eventually("the process has stopped before the listing", || state_of(&process) == Some('T'));
    process
}

/// Switches a child that was just forked to uid and gid 1000.
///
/// A child that is forked by the thread of `as_user` would be killed when that thread ends (PR_SET_PDEATHSIG).
pub(crate) fn become_user() {
    let (uid, gid) = (Uid::from_raw(1000), Gid::from_raw(1000));
    let _ = set_thread_groups(&[]);
    let _ = set_thread_res_gid(gid, gid, gid);
    let _ = set_thread_res_uid(uid, uid, uid);
}

/// The state of a process in /proc/PID/stat.
pub(crate) fn state_of(process: &Process) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid())).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}
