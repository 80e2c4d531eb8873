//! Micro-benchmarks of the id map: one translation in each direction through maps of 1 to 10,000 extents.

use divan::{Bencher, black_box};
use shiftbind::idmap::{Extent, IdMap, MountUid, SourceUid, User};

/// 340 is the maximum of a user namespace (`UID_GID_MAP_MAX_EXTENTS`) and so of a kernel idmapped mount.
const EXTENTS: [u32; 4] = [1, 10, 340, 10_000];
/// Ids per extent; as many lie between two extents.
const COUNT: u32 = 100;
const SHIFT: u32 = 1_000_000;

fn main() {
    divan::main();
}

/// Extents with a hole after each, mount ids in reverse order, so that neither side is a plain shift.
fn map(extents: u32) -> IdMap<User> {
    let list = (0..extents).map(|i| {
        Extent::new(i * 2 * COUNT, SHIFT + (extents - 1 - i) * 2 * COUNT, COUNT).expect("fits")
    });
    IdMap::new(list.collect()).expect("disjoint")
}

/// Ids spread over a range in an order that branch predictors do not learn; half of them lie in holes.
fn ids(extents: u32, base: u32) -> Vec<u32> {
    let span = extents * 2 * COUNT;
    let mut state = 0x2545_f491_u32;
    (0..4096)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            base + state % span
        })
        .collect()
}

#[divan::bench(args = EXTENTS)]
fn to_mount(bencher: Bencher<'_, '_>, extents: u32) {
    let map = map(extents);
    let ids: Vec<_> = ids(extents, 0).into_iter().filter_map(SourceUid::new).collect();
    let mut next = ids.iter().cycle();
    bencher.bench_local(move || next.next().map(|id| map.to_mount(*black_box(id))));
}

#[divan::bench(args = EXTENTS)]
fn to_source(bencher: Bencher<'_, '_>, extents: u32) {
    let map = map(extents);
    let ids: Vec<_> = ids(extents, SHIFT).into_iter().filter_map(MountUid::new).collect();
    let mut next = ids.iter().cycle();
    bencher.bench_local(move || next.next().map(|id| map.to_source(*black_box(id))));
}

/// The case of nearly every request: the caller's and the owner's ids are the same few.
#[divan::bench(args = EXTENTS)]
fn to_mount_of_one_id(bencher: Bencher<'_, '_>, extents: u32) {
    let map = map(extents);
    let id = SourceUid::new((extents / 2) * 2 * COUNT).expect("an id");
    bencher.bench_local(|| map.to_mount(black_box(id)));
}
