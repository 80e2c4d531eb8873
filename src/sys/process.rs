//! System calls on the daemon's own process: fork, descriptors, signals, local time.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions, kill_process, waitpid};
use rustix::thread::gettid;

/// The process that fork(2) returned in.
#[derive(Debug)]
pub enum Fork {
    /// The parent, with the pid of the child.
    Parent(Pid),
    /// The child.
    Child,
}

/// Forks. With more than one thread it fails with EBUSY, since the child could find a lock held forever.
pub fn fork() -> io::Result<Fork> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: this is the only thread, so the child inherits every lock and every data structure in a consistent state.
    unsafe { fork_for_system_calls() }
}

/// Forks, whatever the number of threads.
///
/// # Safety
/// The child makes system calls only and ends by [`exit_now`]: another thread may have held any lock, that of the allocator
/// included.
pub unsafe fn fork_for_system_calls() -> io::Result<Fork> {
    // SAFETY: the caller's.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid)
            .map(Fork::Parent)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// Runs `work` on a new thread, and returns when the kernel has removed the thread.
///
/// Then its namespaces and filesystem ids are released, and [`fork`] is possible again. A join alone can return
/// earlier.
///
/// # Errors
/// EAGAIN if no thread can be started, EIO if `work` panicked, else the error of `work`.
pub fn run_in_thread<T: Send>(
    name: &str,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let (result, task) = thread::scope(|scope| {
        let work = || (work(), gettid());
        let thread = thread::Builder::new().name(name.into()).spawn_scoped(scope, work)?;
        thread.join().map_err(|_| io::Error::from_raw_os_error(libc::EIO))
    })?;
    wait_until_gone(task);
    result
}

/// Waits until a thread that has returned is no longer in /proc/self/task.
fn wait_until_gone(task: Pid) {
    let task = format!("/proc/self/task/{}", task.as_raw_nonzero());
    while fs::exists(&task).unwrap_or(false) {
        thread::sleep(Duration::from_micros(50));
    }
}

/// Forbids other processes to trace this one or to look into it (PR_SET_DUMPABLE, ptrace(2)), unless they have
/// CAP_SYS_PTRACE in the user namespace that the program was started in.
///
/// A child does this before it enters a container's user namespace: root of the container has CAP_SYS_PTRACE there, and the
/// child may still have ids and descriptors of ours. A change of ids sets it anew (Linux `commit_creds`).
pub fn forbid_tracing() -> io::Result<()> {
    // SAFETY: takes integers only, and changes a flag of this process.
    let result = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends a forked child with _exit(2), so that output buffered before the fork is not written twice.
pub fn exit_now(status: u8) -> ! {
    // SAFETY: _exit has no precondition and does not return.
    unsafe { libc::_exit(i32::from(status)) }
}

/// Kills a child and waits for its end, for 200 ms at most: one that a server keeps in a system call is left to the kernel.
pub fn kill_and_reap(child: Pid) {
    let _ = kill_process(child, rustix::process::Signal::KILL);
    let end = Instant::now() + Duration::from_millis(200);
    while let Ok(None) = waitpid(Some(child), WaitOptions::NOHANG) {
        if Instant::now() > end {
            return;
        }
        thread::sleep(Duration::from_micros(200));
    }
}

/// The descriptors above standard error that the process inherited.
#[derive(Debug)]
pub struct InheritedDescriptors(Vec<RawFd>);

impl InheritedDescriptors {
    /// Lists them. Must be called before this program opens a descriptor that it keeps.
    pub fn list() -> io::Result<Self> {
        let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|fd| *fd > 2)
            .collect();
        // The listing used a descriptor of its own, which is closed now.
        Ok(Self(open.into_iter().filter(|fd| is_open(*fd)).collect()))
    }

    /// Closes them.
    pub fn close(self) {
        for fd in self.0 {
            // SAFETY: the parent process passed the descriptor; nothing in this program owns it, since it was open
            // before this program opened any.
            unsafe { libc::close(fd) };
        }
    }
}

fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD only reads the descriptor's flags, and fails cleanly on a closed one.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

/// Makes `target` the process's standard input, output and error.
pub fn replace_stdio(target: impl AsFd) -> io::Result<()> {
    for fd in 0..=2 {
        // SAFETY: dup2 closes and replaces one of the three standard descriptors, which no Rust object owns.
        if unsafe { libc::dup2(target.as_fd().as_raw_fd(), fd) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Closes all descriptors above standard error except the given ones.
///
/// For a forked child that uses no other inherited descriptor and ends by [`exit_now`]. It allocates nothing.
pub fn close_all_but(keep: &[RawFd]) {
    let mut first = 3;
    while first < u32::MAX {
        let kept = keep.iter().filter_map(|fd| u32::try_from(*fd).ok());
        let next = kept.filter(|fd| *fd >= first).min().unwrap_or(u32::MAX);
        if next > first {
            // SAFETY: the caller promises that owners of these descriptors are never used or dropped in this process.
            unsafe { libc::syscall(libc::SYS_close_range, first, next - 1, 0) };
        }
        first = next.saturating_add(1);
    }
}

/// Lets the process end with status 0 when one of these signals comes, whatever it does: a system call that blocks is
/// interrupted.
///
/// # Errors
/// EINVAL for a number that is no signal's, or one that cannot be caught.
pub fn exit_at(signals: &[i32]) -> io::Result<()> {
    extern "C" fn exit(_: libc::c_int) {
        // SAFETY: _exit(2) is safe in a signal handler.
        unsafe { libc::_exit(0) }
    }
    for signal in signals {
        let handler = exit as extern "C" fn(libc::c_int);
        // SAFETY: the handler makes one system call, which does not return.
        if unsafe { libc::signal(*signal, handler as libc::sighandler_t) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A set of blocked signals, received by [`SignalSet::wait`].
#[derive(Clone)]
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// Blocks these signals in this thread and the threads that it starts.
    pub fn block(signals: &[i32]) -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the whole set and cannot fail with a valid pointer.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for signal in signals {
            // SAFETY: the set is initialised; an invalid signal number only makes the call fail.
            unsafe { libc::sigaddset(&raw mut set, *signal) };
        }
        // SAFETY: the set is initialised, and the previous mask is not asked for.
        match unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
        } {
            0 => Ok(Self(set)),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }

    /// Waits for one of the signals (sigwaitinfo(2)).
    pub fn wait(&self) -> io::Result<Signal> {
        let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
        loop {
            // SAFETY: both pointers are to live objects; the kernel fills the second one before it returns a signal's
            // number.
            let number = unsafe { libc::sigwaitinfo(&raw const self.0, info.as_mut_ptr()) };
            if number > 0 {
                // SAFETY: filled, see above. A queued signal carries a value.
                let (code, value) = unsafe {
                    let info = info.assume_init_ref();
                    (info.si_code, info.si_value())
                };
                let queued = code == libc::SI_QUEUE && value.sival_ptr as usize == SIGQUEUE_VALUE;
                return Ok(Signal { number, queued });
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

/// A received signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// Its number.
    pub number: i32,
    /// Whether [`sigqueue`] sent it, and not a terminal or a shell.
    pub queued: bool,
}

/// The value that [`sigqueue`] sends: "shif".
const SIGQUEUE_VALUE: usize = 0x7368_6966;

/// The part of `siginfo_t` for a queued signal (sigaction(2)). The fields after the code have the alignment of a
/// pointer.
#[repr(C)]
#[derive(Clone, Copy)]
struct QueuedInfo {
    number: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    from: QueuedFrom,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct QueuedFrom {
    pid: libc::pid_t,
    uid: libc::uid_t,
    value: usize,
}

/// The size that the kernel reads.
#[repr(C)]
union FullInfo {
    queued: QueuedInfo,
    whole: libc::siginfo_t,
}

/// Sends a signal with a value, by which the receiver tells it from one of a terminal or shell.
///
/// # Errors
/// EPERM by the rules of kill(2); ESRCH if the process is gone.
pub fn sigqueue(process: impl AsFd, number: i32) -> io::Result<()> {
    let from = QueuedFrom {
        pid: rustix::process::getpid().as_raw_nonzero().get(),
        uid: rustix::process::getuid().as_raw(),
        value: SIGQUEUE_VALUE,
    };
    // SAFETY: all bytes zero is a value of either member.
    let mut info: FullInfo = unsafe { std::mem::zeroed() };
    info.queued = QueuedInfo { number, errno: 0, code: libc::SI_QUEUE, from };
    // SAFETY: the descriptor is open, and the kernel reads one siginfo_t.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_fd().as_raw_fd(),
            number,
            &raw const info,
            0,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The local time as the fields of a log line: month (0 to 11), day, hour, minute, second.
#[must_use]
pub fn local_time(seconds_since_1970: i64) -> Option<[i32; 5]> {
    let mut fields = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both pointers are to live objects; localtime_r fills the whole struct when it returns non-null.
    let fields = unsafe {
        if libc::localtime_r(&raw const seconds_since_1970, fields.as_mut_ptr()).is_null() {
            return None;
        }
        fields.assume_init()
    };
    Some([fields.tm_mon, fields.tm_mday, fields.tm_hour, fields.tm_min, fields.tm_sec])
}
