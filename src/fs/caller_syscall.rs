//! Reads which system call a caller waits in, where two system calls send the same request.

use super::Caller;

/// The numbers of chown(2) and its variants.
const CHOWNS: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
];

impl Caller {
    /// Returns whether the caller's thread is in chown(2) or a variant, read from /proc (proc_pid_syscall(5)).
    ///
    /// The thread waits for the reply, so it is still in the system call that sent the request. `false` also for a 32-bit
    /// program, whose system calls have other numbers, and for a caller that /proc does not show.
    pub(super) fn is_in_chown(&self) -> bool {
        let line = std::fs::read_to_string(format!("/proc/{}/syscall", self.pid));
        self.pid != 0 && line.is_ok_and(|line| number(&line).is_some_and(|n| CHOWNS.contains(&n)))
    }
}

/// Returns the number in a line of /proc/PID/syscall: -1 if the thread is in no system call. `None` if it runs.
fn number(line: &str) -> Option<libc::c_long> {
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_system_call_is_read() {
        assert_eq!(number("260 0xffffff9c 0x7ffe 0x5 0x5 0x0 0x0 0x7ffe 0x7f"), Some(260));
        assert_eq!(number("-1 0x7ffe 0x7f"), Some(-1));
        assert_eq!(number("running\n"), None);
        assert_eq!(number(""), None);
    }
}
