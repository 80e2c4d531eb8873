//! An inode that a lookup has found, before the table says whether it is a known one.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::identity::{Freshness, InodeIdentity, MatchResult};
use super::inode::Inode;
use super::mounts::MountIndex;
use super::via_link::ViaLink;

/// A found inode that may or may not be a known one.
///
/// The caller decides by the handle, or by the descriptors of both.
#[derive(Debug)]
pub(super) struct Ambiguous {
    pub(super) known: Arc<Inode>,
    pub(super) found: InodeCandidate,
}

/// For callers that cannot decide further.
///
/// The found inode is open, and is thus the only one with its number.
impl From<Ambiguous> for Errno {
    fn from(_: Ambiguous) -> Self {
        Self::STALE
    }
}

/// An inode that was found, and may be in the table already.
#[derive(Debug)]
pub(super) struct InodeCandidate {
    pub(super) identity: InodeIdentity,
    pub(super) freshness: Freshness,
    pub(super) mount: MountIndex,
    pub(super) kind: FileType,
    /// Keeps the inode reachable if it has no handle.
    pub(super) pin: Option<OwnedFd>,
    /// The symbolic link through which a directory was reached.
    pub(super) via: Option<Arc<ViaLink>>,
    /// Results of comparing descriptors with known inodes, by the serial numbers of those.
    pub(super) compared: Vec<(u64, MatchResult)>,
}
