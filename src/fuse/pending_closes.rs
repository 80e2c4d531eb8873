//! Which workers may have read a RELEASE and not served it: a lock that it releases is not refused meanwhile.

use super::protocol::opcode;
use super::worker_pool::WorkerPool;
use super::worker_slot::WorkerSlot;
use crate::fs::{NotedWorkers, PendingCloses};
use crate::source::NodeId;

impl PendingCloses for WorkerPool {
    fn note(&self, node: NodeId) -> NotedWorkers {
        let noted = self.slots.iter().enumerate().filter_map(|(index, slot)| {
            // Before the look, so that a request that begins after it is not missed.
            let progress = slot.progress();
            may_close(slot, node).then_some((index, progress))
        });
        NotedWorkers { node, workers: noted.collect() }
    }

    fn are_pending(&self, noted: &mut NotedWorkers) -> bool {
        let node = noted.node;
        noted.workers.retain(|(index, before)| {
            let slot = &self.slots[*index];
            match slot.progress().wrapping_sub(*before) {
                0 => may_close(slot, node),
                // A worker that was between two requests has begun the one that it had read.
                1 if before % 2 == 0 => serves_release(slot, node),
                _ => false,
            }
        });
        !noted.workers.is_empty()
    }
}

/// Whether a worker serves a RELEASE of a file, or has perhaps read one and not begun it: it is between two requests and does not
/// wait in read(2).
fn may_close(slot: &WorkerSlot, node: NodeId) -> bool {
    match slot.progress() % 2 {
        0 => slot.is_running(),
        _ => serves_release(slot, node),
    }
}

fn serves_release(slot: &WorkerSlot, node: NodeId) -> bool {
    // The root has another node id on the wire where a source is attached by name.
    let is_of_it = |nodeid| node == NodeId::ROOT || nodeid == node.0;
    slot.current_request()
        .is_some_and(|head| head.opcode == opcode::RELEASE && is_of_it(head.nodeid))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::device::Device;
    use super::super::interrupts::Interrupts;
    use super::super::protocol::RequestHead;
    use super::*;

    const FILE: NodeId = NodeId(7);

    #[test]
    fn a_worker_is_waited_for_until_it_has_served_the_release() {
        let pool = WorkerPool::new(2, Arc::<Interrupts>::default(), false);
        let device = Arc::new(Device::new(std::fs::File::open("/dev/null").unwrap().into()));
        let head = |opcode| RequestHead { opcode, unique: 1, nodeid: FILE.0, uid: 0, pid: 0 };
        let [released, other] = [opcode::RELEASE, opcode::READ].map(head);
        let slot = &pool.slots[0];
        assert!(!pool.are_pending(&mut pool.note(FILE)), "no worker has begun");
        slot.begin(other, &device);
        assert!(!pool.are_pending(&mut pool.note(FILE)), "it serves another request");
        slot.end();
        slot.begin(released, &device);
        let mut noted = pool.note(FILE);
        assert!(pool.are_pending(&mut noted) && pool.are_pending(&mut noted));
        slot.end();
        assert!(!pool.are_pending(&mut noted));
        slot.begin(released, &device);
        assert!(!pool.are_pending(&mut noted), "a later one");
        slot.end();
        slot.begin(RequestHead { nodeid: 8, ..released }, &device);
        assert!(!pool.are_pending(&mut pool.note(FILE)), "of another file");
        assert!(pool.are_pending(&mut pool.note(NodeId(8))));
        assert!(pool.are_pending(&mut pool.note(NodeId::ROOT)), "which may have another number");
        slot.end();
    }

    #[test]
    fn a_worker_that_runs_between_two_requests_may_have_read_a_release() {
        let pool = WorkerPool::new(2, Arc::<Interrupts>::default(), false);
        let device = Arc::new(Device::new(std::fs::File::open("/dev/null").unwrap().into()));
        let (is_occupied, stops) = (AtomicBool::new(false), AtomicBool::new(false));
        let slot = &pool.slots[0];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                slot.occupy();
                is_occupied.store(true, Ordering::Release);
                while !stops.load(Ordering::Acquire) {
                    std::hint::spin_loop();
                }
            });
            while !is_occupied.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            let [mut noted, mut also] = [pool.note(FILE), pool.note(FILE)];
            assert!(pool.are_pending(&mut noted));
            let head = |opcode| RequestHead { opcode, unique: 1, nodeid: FILE.0, uid: 0, pid: 0 };
            slot.begin(head(opcode::RELEASE), &device);
            assert!(pool.are_pending(&mut noted), "it has begun what it had read");
            slot.end();
            assert!(!pool.are_pending(&mut noted));
            slot.begin(head(opcode::READ), &device);
            assert!(!pool.are_pending(&mut also), "it had read another request");
            slot.end();
            stops.store(true, Ordering::Release);
        });
    }
}
