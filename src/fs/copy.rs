//! Calls copy_file_range(2) in chunks, so that a long copy can be interrupted: a signal does not end the system call.

use std::time::{Duration, Instant};

use super::Result;

/// The size of the first chunk, in bytes: it takes a disk 2 to 20 ms. Chosen.
const FIRST_CHUNK: usize = 8 << 20;
/// After a chunk that took less, the next one is four times as large: a reflink takes as long for any length.
const FAST: Duration = Duration::from_millis(10);
/// After a chunk that took more, the next one is a quarter as large.
const SLOW: Duration = Duration::from_millis(100);
/// The smallest chunk, in bytes: a multiple of every filesystem's block size, which reflinks must be aligned to.
const MIN_CHUNK: usize = 1 << 20;

/// Copies `len` bytes in chunks; returns the number of bytes copied.
///
/// `copy` gets the number of bytes copied before and the size of the chunk, and returns how much of it it has copied.
/// The copy ends early at the end of the file, when interrupted, and after an error.
///
/// # Errors
/// What `copy` returns for the first chunk. A later error is not reported: the bytes copied before it are.
pub(super) fn in_chunks(
    len: usize,
    is_interrupted: impl Fn() -> bool,
    mut copy: impl FnMut(usize, usize) -> Result<usize>,
) -> Result<usize> {
    let (mut done, mut chunk) = (0, FIRST_CHUNK);
    loop {
        let start = Instant::now();
        let chunk_len = chunk.min(len - done);
        let result = copy(done, chunk_len);
        let elapsed = start.elapsed();
        match result {
            Ok(count) => {
                done += count;
                if count < chunk_len || done >= len {
                    return Ok(done);
                }
            }
            Err(e) if done == 0 => return Err(e),
            Err(_) => return Ok(done),
        }
        if is_interrupted() {
            return Ok(done);
        }
        if elapsed < FAST {
            chunk = chunk.saturating_mul(4);
        } else if elapsed > SLOW {
            chunk = (chunk / 4).max(MIN_CHUNK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;
    use std::cell::RefCell;

    const LEN: usize = 0x7fff_f000;

    #[test]
    fn a_fast_copy_takes_few_calls_and_a_slow_one_many() {
        let chunks = RefCell::new(Vec::new());
        let copied = in_chunks(
            LEN,
            || false,
            |done, len| {
                assert_eq!(chunks.borrow().iter().sum::<usize>(), done);
                chunks.borrow_mut().push(len);
                Ok(len)
            },
        );
        assert_eq!(copied, Ok(LEN));
        assert!(chunks.borrow().len() < 8, "{chunks:?}");
        assert!(chunks.borrow().iter().rev().skip(1).all(|len| len % MIN_CHUNK == 0));
        let slow = |_, len: usize| {
            std::thread::sleep(SLOW + FAST);
            Ok(len)
        };
        let calls = std::cell::Cell::new(0);
        let interrupt = || calls.replace(calls.get() + 1) == 2;
        assert_eq!(in_chunks(LEN, interrupt, slow), Ok((8 << 20) + (2 << 20) + (1 << 20)));
    }

    #[test]
    fn a_copy_ends_at_the_end_of_the_file_and_fails_only_if_nothing_was_copied() {
        assert_eq!(in_chunks(LEN, || false, |done, _| Ok(1000 - done)), Ok(1000));
        assert_eq!(in_chunks(LEN, || false, |_, _| Err(Errno::NOSPC)), Err(Errno::NOSPC));
        let full = |done, len| if done == 0 { Ok(len) } else { Err(Errno::NOSPC) };
        assert_eq!(in_chunks(LEN, || false, full), Ok(FIRST_CHUNK));
        assert_eq!(in_chunks(0, || false, |_, len| Ok(len)), Ok(0));
    }
}
