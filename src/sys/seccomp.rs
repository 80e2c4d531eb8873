//! Seccomp filters: the instructions of classic BPF that they are made of (seccomp(2)).

use std::os::raw::c_ulong;

/// Where `seccomp_data` has the number of the system call.
pub(super) const NR_OFFSET: u32 = 0;
/// Where it has the architecture.
pub(super) const ARCH_OFFSET: u32 = 4;

/// Where it has the lower half of an argument, of which each has 64 bits.
pub(super) const fn argument_offset(index: u32) -> u32 {
    16 + 8 * index + if cfg!(target_endian = "big") { 4 } else { 0 }
}

/// Loads the word at an offset of `seccomp_data`.
pub(super) const fn load(at: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0)
}

/// Skips so many instructions if the loaded word has this value, or if it does not.
pub(super) const fn skip(value: u32, if_equal: u8, if_not: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, if_equal, if_not)
}

/// Ends the filter with an action (SECCOMP_RET_*).
pub(super) const fn end(action: u32) -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, action, 0, 0)
}

const fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// Puts a filter in force for the calling thread and its children. Returns whether the kernel has accepted it.
///
/// It allocates nothing, so that a child that has just been forked may call it.
pub(super) fn install(filter: &[libc::sock_filter]) -> bool {
    let len = filter.len() as libc::c_ushort;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    let mode = c_ulong::from(libc::SECCOMP_MODE_FILTER);
    // SAFETY: the filter outlives the call, which copies it.
    unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) == 0 }
}
