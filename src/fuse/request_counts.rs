//! Counts what goes through /dev/fuse, for `shiftbind stat`: requests, errors and latencies by opcode, bytes, notifications.
//!
//! Each description of /dev/fuse, and so each worker, has counters of its own, which no other processor writes: a request
//! costs some additions in the worker's own cache, not the move of a cache line between processors.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::latency::{Histogram, Latencies};
use super::request_log::name_of;

/// How many descriptions have counters of their own; those beyond share them. Chosen: as many as there are workers by
/// default at most.
const STRIPES: usize = 16;

/// The number of opcodes that are counted apart, more than the kernel has (`enum fuse_opcode`).
const OPCODES: usize = 64;

/// The number of notification codes that are counted apart, more than the kernel has (`enum fuse_notify_code`).
const NOTIFICATIONS: usize = 16;

/// The counters of one description. They begin at a boundary of two cache lines (adjacent lines are prefetched together).
#[derive(Debug)]
#[repr(align(128))]
struct Stripe {
    requests: [AtomicU64; OPCODES],
    errors: [AtomicU64; OPCODES],
    /// Allocated with the first answer of its kind: most kinds never come.
    latencies: [OnceLock<Box<Histogram>>; OPCODES],
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

impl Default for Stripe {
    fn default() -> Self {
        Self {
            requests: zeros(),
            errors: zeros(),
            latencies: std::array::from_fn(|_| OnceLock::new()),
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
        }
    }
}

fn zeros<const COUNT: usize>() -> [AtomicU64; COUNT] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

#[derive(Debug)]
struct Counts {
    stripes: [Stripe; STRIPES],
    /// Notifications are few: one for each change of what the kernel has cached.
    notifications: [AtomicU64; NOTIFICATIONS],
    unknown: [AtomicU64; NOTIFICATIONS],
    next: AtomicUsize,
}

/// The counters of one mount, and which of them are for one description of /dev/fuse.
#[derive(Debug)]
pub(super) struct CountsHandle {
    counts: Arc<Counts>,
    stripe: usize,
}

impl Default for CountsHandle {
    fn default() -> Self {
        let counts = Counts {
            stripes: std::array::from_fn(|_| Stripe::default()),
            notifications: zeros(),
            unknown: zeros(),
            next: AtomicUsize::new(1),
        };
        Self { counts: Arc::new(counts), stripe: 0 }
    }
}

impl CountsHandle {
    /// A handle for another description of the same mount.
    pub(super) fn another(&self) -> Self {
        let number = self.counts.next.fetch_add(1, Ordering::Relaxed);
        Self { counts: Arc::clone(&self.counts), stripe: number % STRIPES }
    }

    fn own(&self) -> &Stripe {
        &self.counts.stripes[self.stripe]
    }

    /// Counts a request.
    pub(super) fn request(&self, opcode: u32) {
        add(&self.own().requests, opcode as usize, 1);
    }

    /// Counts the answer to a request: the time since a worker has read it, and whether it is an errno.
    pub(super) fn answer(&self, opcode: u32, latency: Duration, is_error: bool) {
        if is_error {
            add(&self.own().errors, opcode as usize, 1);
        }
        if let Some(histogram) = self.own().latencies.get(opcode as usize) {
            histogram.get_or_init(Box::default).record(latency);
        }
    }

    /// Counts the data of an answered READ.
    pub(super) fn read(&self, bytes: usize) {
        self.own().read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts the data of a WRITE that was written.
    pub(super) fn written(&self, bytes: usize) {
        self.own().written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a notification by its code, and whether the kernel had what it is about.
    pub(super) fn notification(&self, code: i32, was_known: bool) {
        let Ok(code) = usize::try_from(code) else { return };
        add(&self.counts.notifications, code, 1);
        if !was_known {
            add(&self.counts.unknown, code, 1);
        }
    }

    /// The counts of requests in JSON, by the opcode's name.
    pub(super) fn describe(&self) -> Value {
        let mut told = Map::new();
        for opcode in 0..OPCODES {
            let requests = self.sum(|stripe| &stripe.requests[opcode]);
            let errors = self.sum(|stripe| &stripe.errors[opcode]);
            let (1.., Ok(number)) = (requests, u32::try_from(opcode)) else { continue };
            let known = name_of(number);
            let name = if told.contains_key(known) { opcode.to_string() } else { known.to_owned() };
            let histograms = self.counts.stripes.iter();
            let histograms = histograms.filter_map(|stripe| stripe.latencies[opcode].get());
            let mut kind = json!({ "count": requests, "errors": errors });
            if let Some(latency) = Latencies::of(histograms.map(Box::as_ref)).describe() {
                kind["latency"] = latency;
            }
            told.insert(name, kind);
        }
        Value::Object(told)
    }

    /// The bytes that were read and written by the daemon, in JSON.
    pub(super) fn describe_data(&self) -> Value {
        json!({
            "read_bytes": self.sum(|stripe| &stripe.read_bytes),
            "written_bytes": self.sum(|stripe| &stripe.written_bytes),
        })
    }

    /// The notifications with these codes in JSON, by name.
    pub(super) fn describe_notifications(&self, codes: &[(i32, &str)]) -> Value {
        let count = |of: &[AtomicU64; NOTIFICATIONS], code: i32| {
            let count = usize::try_from(code).ok().and_then(|code| of.get(code));
            count.map_or(0, |count| count.load(Ordering::Relaxed))
        };
        let describe = |(code, name): &(i32, &str)| {
            let sent = count(&self.counts.notifications, *code);
            let unknown = count(&self.counts.unknown, *code);
            ((*name).to_owned(), json!({ "sent": sent, "unknown": unknown }))
        };
        Value::Object(codes.iter().map(describe).collect())
    }

    fn sum(&self, of: impl Fn(&Stripe) -> &AtomicU64) -> u64 {
        self.counts.stripes.iter().map(|stripe| of(stripe).load(Ordering::Relaxed)).sum()
    }
}

fn add(counters: &[AtomicU64], at: usize, count: u64) {
    if let Some(counter) = counters.get(at) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::opcode;
    use super::*;

    #[test]
    fn counts_of_all_descriptions_add_up_by_name() {
        let one = CountsHandle::default();
        let others: Vec<CountsHandle> = (0..40).map(|_| one.another()).collect();
        for handle in &others {
            handle.request(opcode::FORGET);
            handle.read(10);
        }
        one.request(opcode::FORGET);
        one.request(4096);
        one.answer(4096, Duration::ZERO, true);
        assert_eq!(one.describe(), json!({ "FORGET": { "count": 41, "errors": 0 } }));
        assert_eq!(one.describe_data(), json!({ "read_bytes": 400, "written_bytes": 0 }));
    }

    #[test]
    fn an_answer_is_counted_with_its_latency() {
        let one = CountsHandle::default();
        let other = one.another();
        one.request(opcode::LOOKUP);
        other.request(opcode::LOOKUP);
        one.answer(opcode::LOOKUP, Duration::from_micros(1), false);
        other.answer(opcode::LOOKUP, Duration::from_micros(1), true);
        let latency = json!({ "sum_ns": 2000, "buckets": [[1000, 2]] });
        let lookup = json!({ "count": 2, "errors": 1, "latency": latency });
        assert_eq!(one.describe(), json!({ "LOOKUP": lookup }));
    }

    #[test]
    fn notifications_are_counted_by_code() {
        let counts = CountsHandle::default();
        counts.another().notification(2, true);
        counts.notification(2, false);
        counts.notification(4096, true);
        let told = counts.describe_notifications(&[(2, "INVAL_INODE"), (3, "INVAL_ENTRY")]);
        assert_eq!(told["INVAL_INODE"], json!({ "sent": 2, "unknown": 1 }));
        assert_eq!(told["INVAL_ENTRY"], json!({ "sent": 0, "unknown": 0 }));
    }
}
