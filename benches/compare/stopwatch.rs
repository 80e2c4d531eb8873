//! Times the relevant part of a workload, and loops to be timed.

use std::io;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::count::{Counter, Counts};

/// Operations and the time that they took.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Operations of the workload's kind.
    pub operations: u64,
    /// The elapsed time in seconds.
    pub seconds: f64,
}

impl Sample {
    /// Operations per second.
    pub fn rate(self) -> f64 {
        self.operations as f64 / self.seconds
    }
}

/// Passed to a workload, which prepares outside and works inside [`Stopwatch::time`].
#[derive(Default)]
pub struct Stopwatch<'a> {
    /// Counts the daemon's requests during the work.
    pub counter: Option<&'a Counter>,
    /// The timed sample.
    pub sample: Option<Sample>,
    /// The counts.
    pub counts: Option<Counts>,
}

impl Stopwatch<'_> {
    /// Times work that returns its number of operations.
    pub fn time(&mut self, work: impl FnOnce() -> io::Result<u64>) -> io::Result<()> {
        self.around(|| {
            let start = Instant::now();
            let operations = work()?;
            Ok(Sample { operations, seconds: start.elapsed().as_secs_f64() })
        })
    }

    /// Runs work that times itself.
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

/// Repeats an operation until `time` has passed; returns the number of operations.
pub fn repeat_for(
    time: Duration,
    mut operation: impl FnMut() -> io::Result<()>,
) -> io::Result<u64> {
    // Reading the clock is not free compared with a call that the kernel answers from its cache.
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

/// Runs each piece on its own thread, all started at once; returns the sum of their results.
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
