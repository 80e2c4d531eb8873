//! Timing the part of a workload that counts, and loops to be timed.

use std::io;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::count::{Counter, Counts};

/// So much was done in so long.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Operations, of whatever kind the workload is made of.
    pub operations: u64,
    /// The time they took.
    pub seconds: f64,
}

impl Sample {
    /// Operations per second.
    pub fn rate(self) -> f64 {
        self.operations as f64 / self.seconds
    }
}

/// Given to a workload, which does its preparations outside and its work inside [`Stopwatch::time`].
#[derive(Default)]
pub struct Stopwatch<'a> {
    /// Counts what the daemon is asked meanwhile.
    pub counter: Option<&'a Counter>,
    /// What was timed.
    pub sample: Option<Sample>,
    /// What was counted.
    pub counts: Option<Counts>,
}

impl Stopwatch<'_> {
    /// Times work that tells how many operations it was.
    pub fn time(&mut self, work: impl FnOnce() -> io::Result<u64>) -> io::Result<()> {
        self.around(|| {
            let start = Instant::now();
            let operations = work()?;
            Ok(Sample { operations, seconds: start.elapsed().as_secs_f64() })
        })
    }

    /// For work that is timed by itself.
    pub fn around(&mut self, work: impl FnOnce() -> io::Result<Sample>) -> io::Result<()> {
        if let Some(counter) = self.counter {
            counter.start()?;
        }
        let sample = work()?;
        if let Some(counter) = self.counter {
            self.counts = Some(counter.stop(sample.operations)?);
        }
        self.sample = Some(sample);
        Ok(())
    }
}

/// Repeats an operation until the time is over; how often.
pub fn repeat_for(
    time: Duration,
    mut operation: impl FnMut() -> io::Result<()>,
) -> io::Result<u64> {
    // Looking at the clock is not free beside a call that is answered from a cache.
    const CALLS_PER_CLOCK_READ: u64 = 16;
    let start = Instant::now();
    let mut done = 0;
    while start.elapsed() < time {
        for _ in 0..CALLS_PER_CLOCK_READ {
            operation()?;
        }
        done += CALLS_PER_CLOCK_READ;
    }
    Ok(done)
}

/// Runs one piece of work per thread, all started at once; the sum of what they return.
pub fn in_threads<W>(pieces: Vec<W>) -> io::Result<u64>
where
    W: FnOnce() -> io::Result<u64> + Send,
{
    let sum = AtomicU64::new(0);
    let start = Barrier::new(pieces.len());
    thread::scope(|scope| {
        let (sum, start) = (&sum, &start);
        let threads: Vec<_> = pieces
            .into_iter()
            .map(|piece| {
                scope.spawn(move || {
                    start.wait();
                    sum.fetch_add(piece()?, Ordering::Relaxed);
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
        })
    })?;
    Ok(sum.into_inner())
}
