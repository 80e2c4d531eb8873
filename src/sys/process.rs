//! What a daemon does to its own process: forking, descriptors, signals, local time.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::thread;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::gettid;

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Fork {
    /// The process that forked, and its child.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Forks a process that has a single thread. With more threads the child could find a lock held for ever, so that is
/// refused (EBUSY).
pub fn fork() -> io::Result<Fork> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: this is the only thread, so the child inherits every lock and every data structure in a consistent state.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid)
            .map(Fork::Parent)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// Runs `work` on a thread of its own and returns when the kernel has let go of the thread: what belonged to it alone
/// (namespaces, filesystem ids) is gone then, and [`fork`] is possible again. join(3) returns earlier.
///
/// # Errors
/// EAGAIN when no thread can be started, EIO when `work` panicked, else what `work` says.
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

/// Waits until a thread of this process that has returned is no longer a task of it.
fn wait_until_gone(task: Pid) {
    let task = format!("/proc/self/task/{}", task.as_raw_nonzero());
    while fs::exists(&task).unwrap_or(false) {
        thread::sleep(Duration::from_micros(50));
    }
}

/// Ends a forked child at once: nothing that was buffered before the fork is written twice.
pub fn exit_now(status: u8) -> ! {
    // SAFETY: _exit has no precondition and does not return.
    unsafe { libc::_exit(i32::from(status)) }
}

/// The descriptors above standard error that were open before this program opened any of its own.
#[derive(Debug)]
pub struct InheritedDescriptors(Vec<RawFd>);

impl InheritedDescriptors {
    /// Lists them. To be called before this program keeps a descriptor of its own.
    pub fn list() -> io::Result<Self> {
        let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|fd| *fd > 2)
            .collect();
        // The listing itself used a descriptor, which is closed by now.
        Ok(Self(open.into_iter().filter(|fd| is_open(*fd)).collect()))
    }

    /// Closes them.
    pub fn close(self) {
        for fd in self.0 {
            // SAFETY: the descriptor came from whoever started this program; nothing in this program owns it, since it
            // was open before anything here opened a descriptor.
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

/// Leaves only the given descriptors above standard error open. For a forked child that ends by [`exit_now`] and uses
/// nothing that it inherited but these.
pub fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > first {
            // SAFETY: the caller promises that owners of these descriptors are never used or dropped in this process.
            unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
        }
        first = first.max(fd.saturating_add(1));
    }
}

/// A set of signals that are taken by [`SignalSet::wait`] instead of interrupting a thread.
#[derive(Clone)]
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// Blocks these signals in this thread and in all that it will start.
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

    /// Waits for the next of them.
    pub fn wait(&self) -> io::Result<Signal> {
        let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
        loop {
            // SAFETY: both pointers are to live objects; the kernel fills the second before it returns a signal's number.
            let number = unsafe { libc::sigwaitinfo(&raw const self.0, info.as_mut_ptr()) };
            if number > 0 {
                // SAFETY: filled, see above. A signal that was queued carries a value.
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

/// A signal that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// Its number.
    pub number: i32,
    /// Whether it came by [`sigqueue`], and so neither from a terminal nor from a shell.
    pub queued: bool,
}

/// What a signal of [`sigqueue`] carries: "shif".
const SIGQUEUE_VALUE: usize = 0x7368_6966;

/// What `siginfo_t` holds of a queued signal (sigaction(2)): the fields after the code are aligned as pointers are.
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

/// As large as the kernel reads.
#[repr(C)]
union FullInfo {
    queued: QueuedInfo,
    whole: libc::siginfo_t,
}

/// Sends a signal that the receiver can tell from one of a terminal or a shell. The rule of kill(2) says who may: EPERM;
/// ESRCH when the process is gone.
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

/// The local time, as the fields of a log line: month (0 to 11), day, hour, minute, second.
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
