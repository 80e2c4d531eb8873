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
pub(super) struct Identity {
    pub(super) domain: Domain,
    pub(super) ino: u64,
    pub(super) life: Life,
}

/// Which one of those that have an inode number one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// The one that is held open: its number cannot be used again. With the handle that its filesystem gives it, where
    /// it gives one; the number alone does not tell it from another that lives at the same time.
    Held(Option<FileHandle>),
    /// The one with this handle.
    Handle(FileHandle),
    /// On a filesystem of the ext family, the one that was born then, with this generation. `None`: it is the last one
    /// that was born then, whatever its generation is.
    Born(Birth, Option<u32>),
}

impl Life {
    /// The life that attributes are of, on a mount that tells lives by births. `None` where it takes a handle to tell.
    pub(super) fn of(stat: &Statx) -> Option<Self> {
        // Directories are known to the watch by their handles.
        let is_dir = u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFDIR;
        let birth = if is_dir { None } else { Birth::of(stat) };
        birth.map(|birth| Self::Born(birth, None))
    }

    /// The life with these attributes and this handle. `by_birth`: whether its mount tells lives by births.
    pub(super) fn with(stat: &Statx, handle: FileHandle, by_birth: bool) -> Self {
        match (Self::of(stat).filter(|_| by_birth), generation(&handle)) {
            (Some(Self::Born(birth, _)), Some(generation)) => Self::Born(birth, Some(generation)),
            _ => Self::Handle(handle),
        }
    }
}

/// When a file was born, to the nanosecond, in 64 bits that need no alignment of more than four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Birth {
    high: u32,
    low: u32,
}

const NANOSECOND_BITS: u32 = 30;

impl Birth {
    /// The birth that attributes tell. `None` where they tell none, or one that no filesystem of the ext family can store,
    /// or the time 0: where there was no room for a birth (ext3), it is told as that once there is.
    pub(super) fn of(stat: &Statx) -> Option<Self> {
        let told = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        let (seconds, nanoseconds) = (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec);
        if told && (seconds, nanoseconds) != (0, 0) { Self::at(seconds, nanoseconds) } else { None }
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
pub(super) struct Moment(u64);

/// More than the longest tick of the clock that files' times are taken from (HZ=100).
pub const LONGEST_TICK: Duration = Duration::from_millis(12);

impl Moment {
    /// The present.
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        // What is not before it is young.
        Self(Birth::at(now.tv_sec, now.tv_nsec as u32).map_or(0, Birth::packed))
    }

    /// Whether the clock had moved on since a file was born that was there at this time or later.
    pub(super) fn is_well_after(self, birth: Birth) -> bool {
        let birth = birth.packed();
        let second = (self.0 >> NANOSECOND_BITS).checked_sub(birth >> NANOSECOND_BITS);
        match second {
            None => false,
            Some(seconds) => {
                let part = |packed: u64| packed & ((1 << NANOSECOND_BITS) - 1);
                part(self.0) + seconds.min(10) * 1_000_000_000
                    > part(birth) + LONGEST_TICK.as_nanos() as u64
            }
        }
    }
}

/// When an inode was looked at, seen from its birth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sighting {
    /// In the tick that it was born in, perhaps: another may have been born in it before or after.
    Young,
    /// Likewise, but it is open now, and thus the last one with its number.
    Open,
    /// Later.
    Old,
}

impl Sighting {
    /// Of a life whose attributes were asked for after `asked`. `otherwise`: what it is when it is not old.
    pub(super) fn of(life: &Life, asked: Moment, otherwise: Self) -> Self {
        match life {
            Life::Born(birth, _) if asked.is_well_after(*birth) => Self::Old,
            _ => otherwise,
        }
    }
}

/// Whether what was found is what was known before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Likeness {
    Same,
    Different,
    /// It takes another look: at the handle, or when the clock has moved on; of those that are held, at both descriptors.
    Unsure,
}

impl Identity {
    /// Whether an inode that was found is this one, which is known. `is_settled`: this one was seen when it was old.
    pub(super) fn likeness(&self, is_settled: bool, found: &Self, seen: Sighting) -> Likeness {
        if (self.domain, self.ino) != (found.domain, found.ino) {
            return Likeness::Different;
        }
        let same_if = |same| if same { Likeness::Same } else { Likeness::Different };
        let (known, found) = match (&self.life, &found.life) {
            (Life::Born(known, generation), Life::Born(found, other)) if known == found => {
                (generation, other)
            }
            (Life::Held(None), Life::Held(None)) => return Likeness::Unsure,
            (known, found) => return same_if(known == found),
        };
        match (known, found) {
            (Some(known), Some(found)) => same_if(known == found),
            (None, None) => Likeness::Same,
            (Some(_), None) if is_settled => Likeness::Same,
            (None, Some(_)) if seen != Sighting::Young => Likeness::Same,
            _ => Likeness::Unsure,
        }
    }

    /// Whether it may be the inode with this handle.
    pub(super) fn may_have(&self, handle: &FileHandle) -> bool {
        match &self.life {
            Life::Held(_) => false,
            Life::Handle(known) => known == handle,
            Life::Born(_, None) => true,
            Life::Born(_, known) => *known == generation(handle),
        }
    }

    /// What tells it from others that have or had its number, in 32 bits: for whoever keeps numbers for longer than the
    /// inode is known. `is_last`: it was found when it was the last one of its birth, so that it needs nothing else.
    /// `None` where nothing tells, once its descriptor is closed.
    pub(super) fn generation(&self, is_last: bool) -> Option<u32> {
        let mut hash = Fnv::default();
        match &self.life {
            Life::Held(_) => return None,
            Life::Handle(handle) => {
                hash.add(&handle.kind().to_ne_bytes());
                hash.add(handle.bytes());
            }
            Life::Born(birth, generation) => {
                hash.add(&birth.packed().to_ne_bytes());
                if let Some(generation) = generation.filter(|_| !is_last) {
                    hash.add(&generation.to_ne_bytes());
                }
            }
        }
        Some(hash.folded())
    }

    /// Whether two identities may be of one inode.
    pub(super) fn may_be(&self, other: &Self) -> bool {
        self.likeness(false, other, Sighting::Young) != Likeness::Different
    }

    /// The handle by which it is opened, where there is one.
    pub(super) fn handle(&self) -> Option<FileHandle> {
        match self.life {
            Life::Held(_) => None,
            Life::Handle(handle) => Some(handle),
            // Generation 0 opens any (Linux `ext4_nfs_get_inode`).
            Life::Born(_, generation) => ext_handle(self.ino, generation.unwrap_or(0)),
        }
    }

    /// Whether its handle may open other lives as well, so that it is to be seen whether what it opened is this one
    /// ([`Self::is_of`]).
    pub(super) fn opens_others(&self) -> bool {
        match &self.life {
            Life::Held(_) => false,
            Life::Born(_, generation) => generation.unwrap_or(0) == 0,
            // Of an image that mke2fs(8) has filled all files have generation 0.
            Life::Handle(handle) => generation(handle) == Some(0),
        }
    }

    /// Whether an open file is of this life: ESTALE when it is not.
    pub(super) fn is_of(&self, fd: &OwnedFd) -> Result<(), Errno> {
        let is_it = match &self.life {
            Life::Held(_) => true,
            Life::Born(birth, _) => {
                let stat = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME)?;
                Birth::of(&stat) == Some(*birth)
            }
            Life::Handle(handle) => name_to_handle(fd, c"")?.0 == *handle,
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
pub(super) fn ext_handle(ino: u64, generation: u32) -> Option<FileHandle> {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&u32::try_from(ino).ok()?.to_ne_bytes());
    bytes[4..].copy_from_slice(&generation.to_ne_bytes());
    FileHandle::from_parts(INO32_GEN, &bytes)
}

/// The generation in a handle of the ext family.
pub(super) fn generation(handle: &FileHandle) -> Option<u32> {
    let is_one = handle.kind() == INO32_GEN && handle.bytes().len() == 8;
    let bytes = handle.bytes().get(4..8).filter(|_| is_one)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Likeness::{Different, Same, Unsure};
    use Sighting::{Old, Open, Young};

    fn born(at: u32, generation: Option<u32>) -> Identity {
        let birth = Birth::at(1_000_000, at).unwrap();
        Identity { domain: Domain(0), ino: 42, life: Life::Born(birth, generation) }
    }

    #[test]
    fn births_tell_lives_apart_and_generations_those_of_one_tick() {
        for seen in [Young, Open, Old] {
            for settled in [false, true] {
                let likeness = |known: Identity, found| known.likeness(settled, &found, seen);
                assert_eq!(likeness(born(1, None), born(2, None)), Different);
                assert_eq!(likeness(born(1, Some(7)), born(2, Some(7))), Different);
                assert_eq!(likeness(born(1, Some(7)), born(1, Some(8))), Different);
                assert_eq!(likeness(born(1, Some(7)), born(1, Some(7))), Same);
                assert_eq!(likeness(born(1, None), born(1, None)), Same);
                let elsewhere = Identity { ino: 43, ..born(1, None) };
                assert_eq!(likeness(born(1, None), elsewhere), Different);
            }
        }
        // What is known was seen young only: it may be gone, and what was found born in the same tick.
        assert_eq!(born(1, Some(7)).likeness(false, &born(1, None), Old), Unsure);
        assert_eq!(born(1, Some(7)).likeness(true, &born(1, None), Old), Same);
        // What was found may be gone by now, and what is known born in the same tick.
        assert_eq!(born(1, None).likeness(true, &born(1, Some(7)), Young), Unsure);
        assert_eq!(born(1, None).likeness(true, &born(1, Some(7)), Open), Same);
        assert_eq!(born(1, None).likeness(true, &born(1, Some(7)), Old), Same);
    }

    #[test]
    fn of_two_that_are_held_the_handles_tell_or_it_takes_a_look_at_both() {
        let held = |life| Identity { domain: Domain(0), ino: 42, life: Life::Held(life) };
        let [one, other] = [1, 2].map(|generation| ext_handle(42, generation));
        let likeness = |known: Identity, found| known.likeness(true, &found, Open);
        assert_eq!(likeness(held(one), held(one)), Same);
        assert_eq!(likeness(held(one), held(other)), Different);
        assert_eq!(likeness(held(one), held(None)), Different);
        assert_eq!(likeness(held(None), held(None)), Unsure);
    }

    #[test]
    fn a_generation_is_one_lives_alone_and_the_same_whatever_it_took_to_tell_the_last_one() {
        let handle = |generation| {
            let life = Life::Handle(ext_handle(42, generation).unwrap());
            Identity { domain: Domain(0), ino: 42, life }
        };
        assert_ne!(handle(7).generation(true), handle(8).generation(true));
        assert_ne!(born(1, None).generation(true), born(2, None).generation(true));
        assert_ne!(born(1, Some(7)).generation(false), born(1, Some(8)).generation(false));
        assert_eq!(born(1, Some(7)).generation(true), born(1, None).generation(true));
        assert_eq!(Identity { life: Life::Held(None), ..handle(7) }.generation(true), None);
    }

    #[test]
    fn a_handle_is_of_those_who_may_have_it() {
        let handle = ext_handle(42, 7).unwrap();
        let with = |life| Identity { domain: Domain(0), ino: 42, life };
        assert!(born(1, None).may_have(&handle) && born(1, Some(7)).may_have(&handle));
        assert!(!born(1, Some(8)).may_have(&handle) && !with(Life::Held(None)).may_have(&handle));
        assert!(with(Life::Handle(handle)).may_have(&handle));
        assert_eq!(born(1, Some(7)).handle(), Some(handle));
        assert!(!born(1, Some(7)).opens_others());
        assert_eq!(born(1, None).handle(), ext_handle(42, 0), "that opens any");
        assert!(born(1, None).opens_others());
        let zero = ext_handle(42, 0).unwrap();
        assert!(born(1, Some(0)).opens_others() && with(Life::Handle(zero)).opens_others());
        assert!(
            !with(Life::Handle(handle)).opens_others() && !with(Life::Held(None)).opens_others()
        );
        assert_eq!(ext_handle(1 << 32, 7), None);
        assert_eq!(generation(&FileHandle::from_parts(2, &[0; 8]).unwrap()), None);
    }

    #[test]
    fn a_file_is_old_when_the_clock_has_moved_on() {
        let at = |seconds, nanoseconds| Birth::at(seconds, nanoseconds).unwrap();
        let now = |seconds, nanoseconds| Moment(at(seconds, nanoseconds).packed());
        let margin = LONGEST_TICK.subsec_nanos();
        assert!(!now(5, 100).is_well_after(at(5, 100)));
        assert!(!now(5, 100 + margin).is_well_after(at(5, 100)));
        assert!(now(5, 101 + margin).is_well_after(at(5, 100)));
        assert!(!now(6, 0).is_well_after(at(5, 999_999_999)));
        assert!(now(6, 0).is_well_after(at(5, 100)));
        assert!(now(1_000_000_000, 0).is_well_after(at(5, 999_999_999)));
        assert!(!now(5, 0).is_well_after(at(6, 100)), "born in the future");
        assert!(!Moment(0).is_well_after(at(0, 1)), "no clock");
    }

    #[test]
    fn births_that_ext4_can_store_are_told_apart() {
        let last = Birth::at((1 << 34) - 1, 999_999_999).unwrap();
        assert_ne!(Some(last), Birth::at((1 << 34) - 1, 999_999_998));
        assert_ne!(Birth::at(1, 5), Birth::at(2, 5));
        assert_eq!(Birth::at(1 << 34, 1), None);
        assert_eq!(Birth::at(-1, 1), None, "before 1970");
    }

    #[test]
    fn the_clock_is_the_one_that_files_are_born_by() {
        let before = Moment::now();
        let file = tempfile::tempfile().unwrap();
        let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = rustix::fs::statx(&file, c"", rustix::fs::AtFlags::EMPTY_PATH, mask).unwrap();
        if let Some(birth) = Birth::of(&stat) {
            assert!(birth.packed() >= before.0);
            assert!(!before.is_well_after(birth));
        }
    }
}
