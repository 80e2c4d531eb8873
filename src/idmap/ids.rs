//! The id types: of the source or of the mount, of a user or of a group.
//!
//! A source id is what the source stores on disk; a mount id is what programs see at the mount. Their types differ, so
//! that a forgotten translation does not compile. Raw `u32` ids exist only at the two borders: system calls and the
//! FUSE wire.

use std::fmt;
use std::marker::PhantomData;

/// Marks ids of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum User {}

/// Marks ids of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {}

/// What an id names: [`User`] or [`Group`].
pub trait Kind: Copy + Ord + fmt::Debug + Send + Sync + 'static {
    /// The word for it in messages: `uid` or `gid`.
    const WORD: &'static str;
}

impl Kind for User {
    const WORD: &'static str = "uid";
}

impl Kind for Group {
    const WORD: &'static str = "gid";
}

/// The largest id: 4294967295 means "no id" in every system call.
pub const MAX_ID: u32 = u32::MAX - 1;

/// "No id", in system calls and on the FUSE wire.
pub const NO_ID: u32 = u32::MAX;

/// An id as stored on the source. Never [`NO_ID`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId<K: Kind>(u32, PhantomData<K>);

/// An id as seen at the mount. Never [`NO_ID`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountId<K: Kind>(u32, PhantomData<K>);

/// A uid as stored on the source.
pub type SourceUid = SourceId<User>;
/// A gid as stored on the source.
pub type SourceGid = SourceId<Group>;
/// A uid as seen at the mount.
pub type MountUid = MountId<User>;
/// A gid as seen at the mount.
pub type MountGid = MountId<Group>;

macro_rules! raw_id {
    ($name:ident) => {
        impl<K: Kind> $name<K> {
            /// The id, unless it is [`NO_ID`].
            #[must_use]
            pub const fn new(raw: u32) -> Option<Self> {
                if raw == NO_ID { None } else { Some(Self(raw, PhantomData)) }
            }

            /// The number, for a system call or the wire.
            #[must_use]
            pub const fn raw(self) -> u32 {
                self.0
            }
        }

        impl<K: Kind> fmt::Display for $name<K> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

raw_id!(SourceId);
raw_id!(MountId);
