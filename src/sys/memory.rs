//! Memory that was freed, given back to the system.
//!
//! glibc gives each thread an arena of its own, and malloc_trim(3) gives back what is free in the middle of all arenas
//! but at the end of the first only: what a worker allocated last would stay with us for good. So there is one.

/// From now on all threads take their memory from one arena (mallopt(3)); to be called before the first is started.
/// Changes glibc only, whose arenas these are.
pub fn use_single_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two integers.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives back what the allocator keeps (malloc_trim(3)). Only glibc's does.
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

    /// Set in the process that the test is about: the allocator's settings are a whole process's.
    const INNER: &str = "SHIFTBIND_TEST_MEMORY";
    const NAME: &str = "sys::memory::tests::heap_freed_by_a_worker_returns_to_the_system";

    /// Asks without allocating, which would make the allocator look at its arena's end.
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
        // With one thread libtest starts none, so that no arena but the first exists.
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
            // Not the vector: nor may so large a piece be freed.
            inodes.clear();
            super::trim_heap();
            (full, resident_kib())
        });
        let (full, after) = worker.join().unwrap();
        assert!(full > before + 20_000, "{before} KiB, then {full}");
        assert!(after < before + 4_000, "{before} KiB, then {full}, then {after}");
    }
}
