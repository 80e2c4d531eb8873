//! What makes two look-ups find the same inode.
//!
//! Files that have an inode number one after the other are told apart by their handles, or by when they were born. A
//! birth comes with the attributes, while a handle takes a system call of its own. It is the coarse clock's time
//! (Linux `current_time`), so two files may be born at one time if the first was gone within the same tick. But when the
//! clock has moved on, a file that is there then is the last one born at its time: every later one is born later. Files
//! as young as the tick are told apart by their handles as well.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{AtFlags, Statx, StatxFlags, statx};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::inode::Domain;
use crate::sys::handle::{FileHandle, name_to_handle};

/// An inode of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InodeIdentity {
    pub(super) domain: Domain,
    pub(super) ino: u64,
    pub(super) generation: Generation,
}

/// Which one of those that have an inode number one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    /// The one that is held open: its number cannot be used again. With the handle that its filesystem gives it, where
    /// it gives one; the number alone does not tell it from another that lives at the same time.
    Held(Option<FileHandle>),
    /// The one with this handle.
    Handle(FileHandle),
    /// On a filesystem of the ext family, the one that was born then, with this generation. `None`: it is the last one
    /// that was born then, whatever its generation is.
    Btime(Btime, Option<u32>),
}

impl Generation {
    /// The life that attributes are of, on a mount that tells lives by births. `None` where it takes a handle to tell.
    pub(super) fn of(stat: &Statx) -> Option<Self> {
        // Directories are known to the watch by their handles.
        let is_dir = u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFDIR;
        let btime = if is_dir { None } else { Btime::of(stat) };
        btime.map(|btime| Self::Btime(btime, None))
    }

    /// The life with these attributes and this handle. `by_btime`: whether its mount tells lives by births.
    pub(super) fn with(stat: &Statx, handle: FileHandle, by_btime: bool) -> Self {
        match (Self::of(stat).filter(|_| by_btime), i_generation(&handle)) {
            (Some(Self::Btime(btime, _)), Some(i_generation)) => {
                Self::Btime(btime, Some(i_generation))
            }
            _ => Self::Handle(handle),
        }
    }
}

/// When a file was born, to the nanosecond, in 64 bits that need no alignment of more than four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Btime {
    high: u32,
    low: u32,
}

const NANOSECOND_BITS: u32 = 30;

impl Btime {
    /// The birth that attributes tell. `None` where they tell none, or one that no filesystem of the ext family can store,
    /// or the time 0: where there was no room for a birth (ext3), it is told as that once there is.
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

/// A time by the clock that births are taken from.
#[derive(Debug, Clone, Copy)]
pub(super) struct CoarseTime(u64);

/// More than the longest tick of the clock that files' times are taken from (HZ=100).
pub const MAX_TICK: Duration = Duration::from_millis(12);

impl CoarseTime {
    /// The present.
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        // What is not before it is young.
        Self(Btime::at(now.tv_sec, now.tv_nsec as u32).map_or(0, Btime::packed))
    }

    /// Whether the clock had moved on since a file was born that was there at this time or later.
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

/// When an inode was looked at, seen from its birth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// In the tick that it was born in, perhaps: another may have been born in it before or after.
    WithinTick,
    /// Likewise, but it is open now, and thus the last one with its number.
    HeldOpen,
    /// Later.
    PastTick,
}

impl Freshness {
    /// Of a life whose attributes were asked for after `asked`. `otherwise`: what it is when it is not old.
    pub(super) fn of(generation: &Generation, asked: CoarseTime, otherwise: Self) -> Self {
        match generation {
            Generation::Btime(btime, _) if asked.is_past_tick_of(*btime) => Self::PastTick,
            _ => otherwise,
        }
    }
}

/// Whether what was found is what was known before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MatchResult {
    Same,
    Different,
    /// It takes another look: at the handle, or when the clock has moved on; of those that are held, at both descriptors.
    Ambiguous,
}

impl InodeIdentity {
    /// Whether an inode that was found is this one, which is known. `is_settled`: this one was seen when it was old.
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

    /// Whether it may be the inode with this handle.
    pub(super) fn may_match_handle(&self, handle: &FileHandle) -> bool {
        match &self.generation {
            Generation::Held(_) => false,
            Generation::Handle(known) => known == handle,
            Generation::Btime(_, None) => true,
            Generation::Btime(_, known) => *known == i_generation(handle),
        }
    }

    /// What tells it from others that have or had its number, in 32 bits: for whoever keeps numbers for longer than the
    /// inode is known. `is_last`: it was found when it was the last one of its birth, so that it needs nothing else.
    /// `None` where nothing tells, once its descriptor is closed.
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

    /// Whether two identities may be of one inode.
    pub(super) fn may_be_same(&self, other: &Self) -> bool {
        self.compare(false, other, Freshness::WithinTick) != MatchResult::Different
    }

    /// The handle by which it is opened, where there is one.
    pub(super) fn handle(&self) -> Option<FileHandle> {
        match self.generation {
            Generation::Held(_) => None,
            Generation::Handle(handle) => Some(handle),
            // Generation 0 opens any (Linux `ext4_nfs_get_inode`).
            Generation::Btime(_, i_generation) => ext_handle(self.ino, i_generation.unwrap_or(0)),
        }
    }

    /// Whether its handle may open other lives as well, so that it is to be seen whether what it opened is this one
    /// ([`Self::verify`]).
    pub(super) fn handle_ignores_generation(&self) -> bool {
        match &self.generation {
            Generation::Held(_) => false,
            Generation::Btime(_, i_generation) => i_generation.unwrap_or(0) == 0,
            // Of an image that mke2fs(8) has filled all files have generation 0.
            Generation::Handle(handle) => i_generation(handle) == Some(0),
        }
    }

    /// Whether an open file is of this life: ESTALE when it is not.
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

/// The hash FNV-1a of 64 bits.
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

/// FILEID_INO32_GEN.
const INO32_GEN: i32 = 1;

/// A handle of the ext family.
pub(super) fn ext_handle(ino: u64, i_generation: u32) -> Option<FileHandle> {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&u32::try_from(ino).ok()?.to_ne_bytes());
    bytes[4..].copy_from_slice(&i_generation.to_ne_bytes());
    FileHandle::from_parts(INO32_GEN, &bytes)
}

/// The generation in a handle of the ext family.
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
        // What is known was seen young only: it may be gone, and what was found born in the same tick.
        assert_eq!(
            with_btime(1, Some(7)).compare(false, &with_btime(1, None), PastTick),
            Ambiguous
        );
        assert_eq!(with_btime(1, Some(7)).compare(true, &with_btime(1, None), PastTick), Same);
        // What was found may be gone by now, and what is known born in the same tick.
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
        assert_eq!(with_btime(1, None).handle(), ext_handle(42, 0), "that opens any");
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
        assert!(!now(5, 0).is_past_tick_of(at(6, 100)), "born in the future");
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
