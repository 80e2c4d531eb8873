//! Memory that was freed, given back to the system.

/// Gives back what the allocator keeps (malloc_trim(3)). Only glibc's does.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes an integer; the allocator's own locks guard its memory.
    unsafe {
        libc::malloc_trim(0);
    }
}
