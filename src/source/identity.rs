//! Decides whether two lookups found the same inode.
//!
//! A filesystem reuses inode numbers. Inodes that had the same number one after the other differ in their file handle
//! and, on the ext family, in their creation time (btime). The btime comes with statx(2), while a handle costs a system
//! call of its own.
//!
//! The kernel takes the btime from the coarse clock (Linux `current_time`), so two inodes may have the same btime if
//! the first was removed within the same clock tick. Once the clock has advanced, an inode that still exists is the
//! last one with its btime, because every later inode gets a later one. An inode younger than a tick is therefore also
//! compared by handle.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{AtFlags, Statx, StatxFlags, statx};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::node_id::Domain;
use crate::sys::handle::{FileHandle, name_to_handle};

/// Identifies an inode of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InodeIdentity {
    pub(super) domain: Domain,
    pub(super) ino: u64,
    pub(super) generation: Generation,
}

/// Distinguishes the inodes that have the same inode number one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    /// The daemon holds the inode open, so the number cannot be reused.
    ///
    /// The handle is that of the filesystem, if it has handles. The number alone does not distinguish it from another
    /// inode that has the same number at the same time.
    Held(Option<FileHandle>),
    /// The inode has this file handle.
    Handle(FileHandle),
    /// The inode has this btime and this i_generation (ext family).
    ///
    /// `None`: it is the last inode with this btime, whatever its i_generation is.
    Btime(Btime, Option<u32>),
}

impl Generation {
    /// Returns the generation from the attributes alone, on a mount where the btime identifies inodes.
    ///
    /// `None` if it takes a handle: for directories, and without a usable btime.
    pub(super) fn of(stat: &Statx) -> Option<Self> {
        // The watch knows directories by their handles.
        let is_dir = u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFDIR;
        let btime = if is_dir { None } else { Btime::of(stat) };
        btime.map(|btime| Self::Btime(btime, None))
    }

    /// Returns the generation from attributes and handle.
    ///
    /// `by_btime`: the btime identifies inodes on this mount.
    pub(super) fn with(stat: &Statx, handle: FileHandle, by_btime: bool) -> Self {
        match (Self::of(stat).filter(|_| by_btime), i_generation(&handle)) {
            (Some(Self::Btime(btime, _)), Some(i_generation)) => {
                Self::Btime(btime, Some(i_generation))
            }
            _ => Self::Handle(handle),
        }
    }
}

/// A creation time in nanoseconds, packed into 64 bits with an alignment of 4 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Btime {
    high: u32,
    low: u32,
}

const NANOSECOND_BITS: u32 = 30;

impl Btime {
    /// Returns the btime in these attributes.
    ///
    /// `None` if they have none, one that the ext family cannot store, or the time 0: an inode of 128 bytes has no room
    /// for a btime (ext3), and ext4 reports 0 if it gets room later.
    pub(super) fn of(stat: &Statx) -> Option<Self> {
        let has_btime = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        let (seconds, nanoseconds) = (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec);
        if has_btime && (seconds, nanoseconds) != (0, 0) {
            Self::at(seconds, nanoseconds)
        } else {
            None
        }
    }

    pub(super) fn at(seconds: i64, nanoseconds: u32) -> Option<Self> {
        let seconds = u64::try_from(seconds).ok().filter(|s| *s < 1 << (64 - NANOSECOND_BITS))?;
        let packed = (seconds << NANOSECOND_BITS) | u64::from(nanoseconds);
        Some(Self { high: (packed >> 32) as u32, low: packed as u32 })
    }

    fn packed(self) -> u64 {
        (u64::from(self.high) << 32) | u64::from(self.low)
    }
}

/// A time of the coarse clock, from which the kernel takes btimes.
#[derive(Debug, Clone, Copy)]
pub(super) struct CoarseTime(u64);

/// Longer than the longest tick of the coarse clock (10 ms, with HZ=100).
pub const MAX_TICK: Duration = Duration::from_millis(12);

impl CoarseTime {
    /// Returns the current time of the coarse clock.
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        // If the clock is out of range, 0 makes every inode count as created within the tick.
        Self(Btime::at(now.tv_sec, now.tv_nsec as u32).map_or(0, Btime::packed))
    }

    /// Returns whether the clock has advanced since the btime of an inode.
    ///
    /// The inode must have existed at `self` or later.
    pub(super) fn is_past_tick_of(self, btime: Btime) -> bool {
        let btime = btime.packed();
        let second = (self.0 >> NANOSECOND_BITS).checked_sub(btime >> NANOSECOND_BITS);
        match second {
            None => false,
            Some(seconds) => {
                let part = |packed: u64| packed & ((1 << NANOSECOND_BITS) - 1);
                part(self.0) + seconds.min(10) * 1_000_000_000
                    > part(btime) + MAX_TICK.as_nanos() as u64
            }
        }
    }
}

/// Whether an inode may share its btime with another one, as of when its attributes were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// The attributes were read within the tick of the btime: another inode may have the same one.
    WithinTick,
    /// As `WithinTick`, but the inode is open now, and is thus the last one with its number.
    HeldOpen,
    /// The attributes were read after the tick: no later inode has this btime.
    PastTick,
}

impl Freshness {
    /// Classifies attributes that were requested after `asked`.
    ///
    /// `otherwise` is returned if they are not past the tick.
    pub(super) fn of(generation: &Generation, asked: CoarseTime, otherwise: Self) -> Self {
        match generation {
            Generation::Btime(btime, _) if asked.is_past_tick_of(*btime) => Self::PastTick,
            _ => otherwise,
        }
    }
}

/// Result of comparing an inode that was found with one that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MatchResult {
    Same,
    Different,
    /// Undecided.
    ///
    /// Compare the handles, read the attributes again after the tick or, for held inodes, compare both descriptors.
    Ambiguous,
}

impl InodeIdentity {
    /// Compares a found inode with this one, which is known.
    ///
    /// `is_settled`: the attributes of this one were read past the tick of its btime.
    pub(super) fn compare(
        &self,
        is_settled: bool,
        found: &Self,
        freshness: Freshness,
    ) -> MatchResult {
        if (self.domain, self.ino) != (found.domain, found.ino) {
            return MatchResult::Different;
        }
        let same_if = |same| if same { MatchResult::Same } else { MatchResult::Different };
        let (known, found) = match (&self.generation, &found.generation) {
            (Generation::Btime(known, i_generation), Generation::Btime(found, other))
                if known == found =>
            {
                (i_generation, other)
            }
            (Generation::Held(None), Generation::Held(None)) => return MatchResult::Ambiguous,
            (known, found) => return same_if(known == found),
        };
        match (known, found) {
            (Some(known), Some(found)) => same_if(known == found),
            (None, None) => MatchResult::Same,
            (Some(_), None) if is_settled => MatchResult::Same,
            (None, Some(_)) if freshness != Freshness::WithinTick => MatchResult::Same,
            _ => MatchResult::Ambiguous,
        }
    }

    /// Returns whether this inode may have this handle.
    pub(super) fn may_match_handle(&self, handle: &FileHandle) -> bool {
        match &self.generation {
            Generation::Held(_) => false,
            Generation::Handle(known) => known == handle,
            Generation::Btime(_, None) => true,
            Generation::Btime(_, known) => *known == i_generation(handle),
        }
    }

    /// Returns the generation number that FUSE sends with the node id (`fuse_entry_out.generation`).
    ///
    /// It distinguishes the inode from others that have or had its number, for NFS clients, which keep file handles
    /// longer than the kernel keeps the inode. `is_last`: the inode was past the tick of its btime when it was found,
    /// so that the btime suffices. `None` for held inodes, which nothing distinguishes once the descriptor is closed.
    pub(super) fn fuse_generation(&self, is_last: bool) -> Option<u32> {
        let mut hash = Fnv::default();
        match &self.generation {
            Generation::Held(_) => return None,
            Generation::Handle(handle) => {
                hash.add(&handle.kind().to_ne_bytes());
                hash.add(handle.bytes());
            }
            Generation::Btime(btime, i_generation) => {
                hash.add(&btime.packed().to_ne_bytes());
                if let Some(i_generation) = i_generation.filter(|_| !is_last) {
                    hash.add(&i_generation.to_ne_bytes());
                }
            }
        }
        Some(hash.folded())
    }

    /// Returns whether two identities may be of one inode.
    pub(super) fn may_be_same(&self, other: &Self) -> bool {
        self.compare(false, other, Freshness::WithinTick) != MatchResult::Different
    }

    /// Returns the handle by which the inode is opened, if there is one.
    pub(super) fn handle(&self) -> Option<FileHandle> {
        match self.generation {
            Generation::Held(_) => None,
            Generation::Handle(handle) => Some(handle),
            // A handle with generation 0 opens any inode of the number (Linux `ext4_nfs_get_inode`).
            Generation::Btime(_, i_generation) => ext_handle(self.ino, i_generation.unwrap_or(0)),
        }
    }

    /// Returns whether the handle may open a later inode with the same number as well.
    ///
    /// The caller then checks what it opened ([`Self::verify`]).
    pub(super) fn handle_ignores_generation(&self) -> bool {
        match &self.generation {
            Generation::Held(_) => false,
            Generation::Btime(_, i_generation) => i_generation.unwrap_or(0) == 0,
            // All files of an image that mke2fs(8) has filled have generation 0.
            Generation::Handle(handle) => i_generation(handle) == Some(0),
        }
    }

    /// Checks that an open file is this inode: ESTALE if not.
    pub(super) fn verify(&self, fd: &OwnedFd) -> Result<(), Errno> {
        let is_it = match &self.generation {
            Generation::Held(_) => true,
            Generation::Btime(btime, _) => {
                let stat = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME)?;
                Btime::of(&stat) == Some(*btime)
            }
            Generation::Handle(handle) => name_to_handle(fd, c"")?.0 == *handle,
        };
        if is_it { Ok(()) } else { Err(Errno::STALE) }
    }
}

/// 64-bit FNV-1a hash.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn folded(&self) -> u32 {
        (self.0 >> 32) as u32 ^ self.0 as u32
    }
}

/// FILEID_INO32_GEN of linux/exportfs.h.
const INO32_GEN: i32 = 1;

/// Builds a file handle of the ext family.
pub(super) fn ext_handle(ino: u64, i_generation: u32) -> Option<FileHandle> {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&u32::try_from(ino).ok()?.to_ne_bytes());
    bytes[4..].copy_from_slice(&i_generation.to_ne_bytes());
    FileHandle::from_parts(INO32_GEN, &bytes)
}

/// Returns the i_generation in a file handle of the ext family.
pub(super) fn i_generation(handle: &FileHandle) -> Option<u32> {
    let is_one = handle.kind() == INO32_GEN && handle.bytes().len() == 8;
    let bytes = handle.bytes().get(4..8).filter(|_| is_one)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Freshness::{HeldOpen, PastTick, WithinTick};
    use MatchResult::{Ambiguous, Different, Same};

    fn with_btime(at: u32, i_generation: Option<u32>) -> InodeIdentity {
        let btime = Btime::at(1_000_000, at).unwrap();
        InodeIdentity {
            domain: Domain(0),
            ino: 42,
            generation: Generation::Btime(btime, i_generation),
        }
    }

    #[test]
    fn btimes_distinguish_inodes_and_i_generations_those_of_one_tick() {
        for freshness in [WithinTick, HeldOpen, PastTick] {
            for settled in [false, true] {
                let compare =
                    |known: InodeIdentity, found| known.compare(settled, &found, freshness);
                assert_eq!(compare(with_btime(1, None), with_btime(2, None)), Different);
                assert_eq!(compare(with_btime(1, Some(7)), with_btime(2, Some(7))), Different);
                assert_eq!(compare(with_btime(1, Some(7)), with_btime(1, Some(8))), Different);
                assert_eq!(compare(with_btime(1, Some(7)), with_btime(1, Some(7))), Same);
                assert_eq!(compare(with_btime(1, None), with_btime(1, None)), Same);
                let elsewhere = InodeIdentity { ino: 43, ..with_btime(1, None) };
                assert_eq!(compare(with_btime(1, None), elsewhere), Different);
            }
        }
        // The known inode was read within the tick only: it may be gone, and the found one created in the same tick.
        assert_eq!(
            with_btime(1, Some(7)).compare(false, &with_btime(1, None), PastTick),
            Ambiguous
        );
        assert_eq!(with_btime(1, Some(7)).compare(true, &with_btime(1, None), PastTick), Same);
        // The found inode may be gone by now, and the known one created in the same tick.
        assert_eq!(
            with_btime(1, None).compare(true, &with_btime(1, Some(7)), WithinTick),
            Ambiguous
        );
        assert_eq!(with_btime(1, None).compare(true, &with_btime(1, Some(7)), HeldOpen), Same);
        assert_eq!(with_btime(1, None).compare(true, &with_btime(1, Some(7)), PastTick), Same);
    }

    #[test]
    fn two_held_inodes_differ_by_handle_or_are_ambiguous() {
        let held = |generation| InodeIdentity {
            domain: Domain(0),
            ino: 42,
            generation: Generation::Held(generation),
        };
        let [one, other] = [1, 2].map(|i_generation| ext_handle(42, i_generation));
        let compare = |known: InodeIdentity, found| known.compare(true, &found, HeldOpen);
        assert_eq!(compare(held(one), held(one)), Same);
        assert_eq!(compare(held(one), held(other)), Different);
        assert_eq!(compare(held(one), held(None)), Different);
        assert_eq!(compare(held(None), held(None)), Ambiguous);
    }

    #[test]
    fn a_fuse_generation_is_unique_and_independent_of_how_the_inode_was_found() {
        let handle = |i_generation| {
            let generation = Generation::Handle(ext_handle(42, i_generation).unwrap());
            InodeIdentity { domain: Domain(0), ino: 42, generation }
        };
        assert_ne!(handle(7).fuse_generation(true), handle(8).fuse_generation(true));
        assert_ne!(
            with_btime(1, None).fuse_generation(true),
            with_btime(2, None).fuse_generation(true)
        );
        assert_ne!(
            with_btime(1, Some(7)).fuse_generation(false),
            with_btime(1, Some(8)).fuse_generation(false)
        );
        assert_eq!(
            with_btime(1, Some(7)).fuse_generation(true),
            with_btime(1, None).fuse_generation(true)
        );
        assert_eq!(
            InodeIdentity { generation: Generation::Held(None), ..handle(7) }.fuse_generation(true),
            None
        );
    }

    #[test]
    fn a_handle_matches_only_identities_that_may_have_it() {
        let handle = ext_handle(42, 7).unwrap();
        let with = |generation| InodeIdentity { domain: Domain(0), ino: 42, generation };
        assert!(
            with_btime(1, None).may_match_handle(&handle)
                && with_btime(1, Some(7)).may_match_handle(&handle)
        );
        assert!(
            !with_btime(1, Some(8)).may_match_handle(&handle)
                && !with(Generation::Held(None)).may_match_handle(&handle)
        );
        assert!(with(Generation::Handle(handle)).may_match_handle(&handle));
        assert_eq!(with_btime(1, Some(7)).handle(), Some(handle));
        assert!(!with_btime(1, Some(7)).handle_ignores_generation());
        assert_eq!(
            with_btime(1, None).handle(),
            ext_handle(42, 0),
            "a handle that opens any generation"
        );
        assert!(with_btime(1, None).handle_ignores_generation());
        let zero = ext_handle(42, 0).unwrap();
        assert!(
            with_btime(1, Some(0)).handle_ignores_generation()
                && with(Generation::Handle(zero)).handle_ignores_generation()
        );
        assert!(
            !with(Generation::Handle(handle)).handle_ignores_generation()
                && !with(Generation::Held(None)).handle_ignores_generation()
        );
        assert_eq!(ext_handle(1 << 32, 7), None);
        assert_eq!(i_generation(&FileHandle::from_parts(2, &[0; 8]).unwrap()), None);
    }

    #[test]
    fn a_file_is_past_its_tick_when_the_coarse_clock_has_advanced() {
        let at = |seconds, nanoseconds| Btime::at(seconds, nanoseconds).unwrap();
        let now = |seconds, nanoseconds| CoarseTime(at(seconds, nanoseconds).packed());
        let margin = MAX_TICK.subsec_nanos();
        assert!(!now(5, 100).is_past_tick_of(at(5, 100)));
        assert!(!now(5, 100 + margin).is_past_tick_of(at(5, 100)));
        assert!(now(5, 101 + margin).is_past_tick_of(at(5, 100)));
        assert!(!now(6, 0).is_past_tick_of(at(5, 999_999_999)));
        assert!(now(6, 0).is_past_tick_of(at(5, 100)));
        assert!(now(1_000_000_000, 0).is_past_tick_of(at(5, 999_999_999)));
        assert!(!now(5, 0).is_past_tick_of(at(6, 100)), "created in the future");
        assert!(!CoarseTime(0).is_past_tick_of(at(0, 1)), "no clock");
    }

    #[test]
    fn all_btimes_that_ext4_stores_are_distinct() {
        let last = Btime::at((1 << 34) - 1, 999_999_999).unwrap();
        assert_ne!(Some(last), Btime::at((1 << 34) - 1, 999_999_998));
        assert_ne!(Btime::at(1, 5), Btime::at(2, 5));
        assert_eq!(Btime::at(1 << 34, 1), None);
        assert_eq!(Btime::at(-1, 1), None, "before 1970");
    }

    #[test]
    fn btimes_come_from_the_coarse_clock() {
        let before = CoarseTime::now();
        let file = tempfile::tempfile().unwrap();
        let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = rustix::fs::statx(&file, c"", rustix::fs::AtFlags::EMPTY_PATH, mask).unwrap();
        if let Some(btime) = Btime::of(&stat) {
            assert!(btime.packed() >= before.0);
            assert!(!before.is_past_tick_of(btime));
        }
    }
}
