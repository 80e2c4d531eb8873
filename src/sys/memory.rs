//! Returns freed heap to the system.
//!
//! glibc gives each thread its own arena. malloc_trim(3) releases free pages inside all arenas, but those at the end of
//! the first one only; what a worker allocated last would never be returned. So all threads share one arena.

/// Makes all threads allocate from one arena (mallopt(3)). Must be called before the first thread is started.
///
/// It has an effect with glibc only.
pub fn use_single_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two integers.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Returns free heap to the system (malloc_trim(3)). It has an effect with glibc only.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes an integer; the allocator's own locks guard its memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use std::fs::File;
    use std::hint::black_box;
    use std::io::Read;
    use std::process::Command;

    /// Set in the child process that runs the test: the allocator's settings apply to a whole process.
    const INNER: &str = "SHIFTBIND_TEST_MEMORY";
    const NAME: &str = "sys::memory::tests::heap_freed_by_a_worker_returns_to_the_system";

    /// Reads without allocating: an allocation would make the allocator trim the end of its arena.
    fn resident_kib() -> usize {
        let mut statm = [0; 128];
        let len = File::open("/proc/self/statm").unwrap().read(&mut statm).unwrap();
        let pages = std::str::from_utf8(&statm[..len]).unwrap().split(' ').nth(1).unwrap();
        pages.parse::<usize>().unwrap() * rustix::param::page_size() / 1024
    }

    #[test]
    fn heap_freed_by_a_worker_returns_to_the_system() {
        if std::env::var_os(INNER).is_some() {
            return allocate_and_give_back();
        }
        // With --test-threads=1 libtest starts no thread, so that only the first arena exists.
        let mut inner = Command::new(std::env::current_exe().unwrap());
        inner.args([NAME, "--exact", "--test-threads=1"]).env(INNER, "1");
        let output = inner.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    fn allocate_and_give_back() {
        super::use_single_arena();
        let before = resident_kib();
        let worker = std::thread::spawn(move || {
            let mut inodes: Vec<_> = (0..200_000).map(|at| black_box(Box::new([at; 28]))).collect();
            let full = resident_kib();
            // The vector stays: freeing so large a block would trim the heap as well.
            inodes.clear();
            super::trim_heap();
            (full, resident_kib())
        });
        let (full, after) = worker.join().unwrap();
        assert!(full > before + 20_000, "{before} KiB, then {full}");
        assert!(after < before + 4_000, "{before} KiB, then {full}, then {after}");
    }
}
