//! Counts requests and errors by opcode, for `shiftbind stat`.
//!
//! Each description of /dev/fuse, and so each worker, has counters of its own, which no other processor writes: a request
//! costs an addition in the worker's own cache, not the move of a cache line between processors.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use serde_json::{Map, Value, json};

use super::request_log::name_of;

/// How many descriptions have counters of their own; those beyond share them. Chosen: as many as there are workers by
/// default at most.
const STRIPES: usize = 16;

/// The number of opcodes that are counted apart, more than the kernel has (`enum fuse_opcode`).
const OPCODES: usize = 64;

/// The counters of one description. They begin at a boundary of two cache lines (adjacent lines are prefetched together).
#[derive(Debug)]
#[repr(align(128))]
struct Stripe {
    requests: [AtomicU64; OPCODES],
    errors: [AtomicU64; OPCODES],
}

#[derive(Debug)]
struct Counts {
    stripes: [Stripe; STRIPES],
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
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        let stripes = std::array::from_fn(|_| Stripe { requests: zeros(), errors: zeros() });
        Self { counts: Arc::new(Counts { stripes, next: AtomicUsize::new(1) }), stripe: 0 }
    }
}

impl CountsHandle {
    /// A handle for another description of the same mount.
    pub(super) fn another(&self) -> Self {
        let number = self.counts.next.fetch_add(1, Ordering::Relaxed);
        Self { counts: Arc::clone(&self.counts), stripe: number % STRIPES }
    }

    /// Counts a request.
    pub(super) fn request(&self, opcode: u32) {
        if let Some(count) = self.counts.stripes[self.stripe].requests.get(opcode as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a request that is answered with an errno.
    pub(super) fn error(&self, opcode: u32) {
        if let Some(count) = self.counts.stripes[self.stripe].errors.get(opcode as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts in JSON, by the opcode's name.
    pub(super) fn describe(&self) -> Value {
        let sum = |of: &dyn Fn(&Stripe) -> &AtomicU64| -> u64 {
            self.counts.stripes.iter().map(|stripe| of(stripe).load(Ordering::Relaxed)).sum()
        };
        let mut told = Map::new();
        for opcode in 0..OPCODES {
            let requests = sum(&|stripe| &stripe.requests[opcode]);
            let errors = sum(&|stripe| &stripe.errors[opcode]);
            if let (1.., Ok(number)) = (requests, u32::try_from(opcode)) {
                let known = name_of(number);
                let name =
                    if told.contains_key(known) { opcode.to_string() } else { known.to_owned() };
                told.insert(name, json!({ "count": requests, "errors": errors }));
            }
        }
        Value::Object(told)
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
            handle.request(opcode::LOOKUP);
        }
        one.request(opcode::LOOKUP);
        one.error(opcode::LOOKUP);
        one.request(4096);
        assert_eq!(one.describe(), json!({ "LOOKUP": { "count": 41, "errors": 1 } }));
    }
}
