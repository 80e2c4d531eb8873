//! Reads and writes by the daemon: within the rate limits, and with which buffers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::rate_limit::{Client, RateLimiter};
use crate::config::{Config, DataPath};
use crate::fs::{Caller, ClientState, Fs, Read, Result, Write, buffer};
use crate::source::SourceTree;

/// How many bytes queued writes may keep in memory, all together. A write beyond that is done at once and only its
/// reply is delayed: a worker must never wait, and clients with many threads have many requests. Chosen.
const MAX_BUFFERED: usize = 64 << 20;

/// The largest value of an extended attribute, in bytes (linux/limits.h).
const XATTR_SIZE_MAX: usize = 65536;

/// How the data of files is moved.
#[derive(Debug)]
pub(super) struct DataMover {
    /// Files bypass the page cache.
    pub(super) direct_io: bool,
    /// Locks are taken on the source; otherwise the kernel keeps them, within the mount.
    pub(super) locks_on_source: bool,
    /// The source or a mount below it had a server when the daemon started.
    has_servers: bool,
    /// The largest write and the largest readahead, in bytes.
    pub(super) max_write: u32,
    pub(super) max_readahead: u32,
    reads: Arc<RateLimiter>,
    writes: Arc<RateLimiter>,
    buffered: Arc<AtomicUsize>,
}

impl DataMover {
    pub(super) fn new(config: &Config, has_servers: bool) -> Self {
        let data = &config.data;
        Self {
            direct_io: data.direct_io,
            locks_on_source: config.locks_on_source,
            has_servers,
            max_write: data.max_write(),
            max_readahead: data.max_readahead(),
            reads: RateLimiter::new(data.read_rate, ClientState::of),
            writes: RateLimiter::new(data.write_rate, ClientState::of),
            buffered: Arc::default(),
        }
    }

    /// Whether close(2) has to be followed: to release locks on the source, or to send data to a server.
    pub(super) fn needs_flush(&self, tree: &SourceTree) -> bool {
        self.locks_on_source || self.has_servers || !tree.is_private()
    }

    /// The size of the largest request, in bytes.
    pub(super) fn max_request_size(&self) -> usize {
        // The data of a write, the value of an extended attribute, or two names, and the headers before them.
        (self.max_write as usize).max(XATTR_SIZE_MAX) + 8192
    }

    /// Changes the rates. They do not limit files that the kernel reads and writes by passthrough.
    pub(super) fn set_rates(&self, data: &DataPath) {
        self.reads.set_rate(data.read_rate);
        self.writes.set_rate(data.write_rate);
    }

    /// Whether any rate limits the data, so that it must come by the daemon.
    pub(super) fn is_rate_limited(&self) -> bool {
        self.reads.is_set() || self.writes.is_set()
    }

    /// Whether a rate limits reads through the page cache. Pages that the kernel has read are then worth keeping.
    pub(super) fn limits_reads(&self) -> bool {
        self.reads.is_set() && !self.direct_io
    }

    /// Reads and replies, now or later. EINTR when the client is killed while it is queued.
    pub(super) fn read<F>(&self, fs: &Arc<Fs>, caller: Caller, read: Read, size: usize, answer: F)
    where
        F: FnOnce(Result<&[u8]>) + Send + 'static,
    {
        let serve = move |fs: &Fs, answer: F| {
            let read = buffer::zeroed(size).and_then(|mut buffer| {
                let count = fs.read(&caller, &read, &mut buffer)?;
                Ok((buffer, count))
            });
            match read {
                Ok((buffer, count)) => {
                    answer(Ok(&buffer[..count]));
                    count
                }
                Err(e) => {
                    answer(Err(e));
                    0
                }
            }
        };
        if !self.reads.must_wait(size) {
            let moved = serve(fs, answer);
            return self.reads.refund(size - moved);
        }
        let fs = Arc::clone(fs);
        let client = Client { id: caller.pid, for_cache: read.for_cache };
        self.reads.enqueue(size, client, move |dequeued| match dequeued {
            Ok(()) => serve(&fs, answer),
            Err(e) => {
                answer(Err(e));
                0
            }
        });
    }

    /// Writes and replies, now or later. EINTR when the client is killed while it is queued.
    ///
    /// Write-back has no client (its caller has no thread) and is never aborted: once it was sent the page is clean for
    /// the kernel. A client that is killed waits for it, as on a slow disk.
    pub(super) fn write<F>(&self, fs: &Arc<Fs>, caller: Caller, data: &[u8], how: Write, answer: F)
    where
        F: FnOnce(Result<usize>) + Send + 'static,
    {
        let size = data.len();
        let reply = |result: Result<usize>, answer: F| {
            answer(result);
            result.unwrap_or(0)
        };
        if !self.writes.must_wait(size) {
            let moved = reply(fs.write(&caller, data, &how), answer);
            return self.writes.refund(size - moved);
        }
        let client = Client { id: caller.pid, for_cache: false };
        if self.buffered.fetch_add(size, Ordering::Relaxed) + size > MAX_BUFFERED {
            self.buffered.fetch_sub(size, Ordering::Relaxed);
            let result = fs.write(&caller, data, &how);
            return self.writes.enqueue(size, client, move |_| reply(result, answer));
        }
        let data = match buffer::copied(data) {
            Ok(data) => data,
            Err(e) => {
                self.buffered.fetch_sub(size, Ordering::Relaxed);
                return answer(Err(e));
            }
        };
        let (fs, buffered) = (Arc::clone(fs), Arc::clone(&self.buffered));
        self.writes.enqueue(size, client, move |dequeued| {
            let result = dequeued.and_then(|()| fs.write(&caller, &data, &how));
            buffered.fetch_sub(size, Ordering::Relaxed);
            reply(result, answer)
        });
    }
}
