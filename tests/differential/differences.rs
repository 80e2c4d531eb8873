//! The differences that are allowed, each with its reason. Everything else fails the test.
//!
//! Unless an entry says that the two part for good, what stands on the source and what the mount shows afterwards must
//! still be equal.
//!
//! One more is not listed but evened out where values are told (`act::xattr_value`): an ACL's unmapped id reads as
//! 4294967294 and not as 4294967295, because the kernel takes no invalid id from a FUSE server.

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use crate::op::Op;
use crate::value::Id;
use crate::world::{Difference, Outcome};

/// One allowed difference.
pub(crate) struct Allowed {
    /// What differs, in a few words.
    pub(crate) name: &'static str,
    /// Why it cannot be otherwise.
    #[expect(dead_code, reason = "for the reader")]
    pub(crate) why: &'static str,
    /// The sources part with it: nothing after it can be compared.
    pub(crate) parts: bool,
    matches: fn(&Op, &Outcome, &Outcome) -> bool,
    /// Which states it allows to differ, if they part.
    excuses: Excuses,
}

/// Which differing states an entry allows.
#[derive(Clone, Copy)]
enum Excuses {
    /// Whatever the operation left.
    All,
    /// That one has lost setuid and setgid bits.
    LostSetBits,
    /// That one has lost a file capability.
    LostCapability,
}

/// All of them.
pub(crate) const ALLOWED: &[Allowed] = &[
    Allowed {
        name: "EACCES or EPERM before EOVERFLOW when creating",
        why: "an idmapped mount asks first whether the caller can be stored (may_create), then whether he may write the \
              directory, link a directory or make a device; on FUSE the kernel looks at all these before it asks us",
        parts: false,
        matches: |op, kernel, ours| {
            let earlier = [Some(Errno::ACCESS), Some(Errno::PERM)];
            creates(op) && kernel.errno == Some(Errno::OVERFLOW) && earlier.contains(&ours.errno)
        },
        excuses: Excuses::All,
    },
    Allowed {
        name: "EPERM before EOVERFLOW when changing the owner",
        why: "an idmapped mount asks first whether the new owner can be stored (notify_change), then whether the caller \
              may give the file away; on FUSE the kernel looks at that (setattr_prepare) before it asks us",
        parts: false,
        matches: |op, kernel, ours| {
            matches!(op, Op::Chown { .. } | Op::FdChown { .. })
                && kernel.errno == Some(Errno::OVERFLOW)
                && ours.errno == Some(Errno::PERM)
        },
        excuses: Excuses::All,
    },
    Allowed {
        name: "chown to nobody by a stranger",
        why: "chown(-1, -1) clears set bits and is refused to whoever may not do that; but FUSE takes the clearing out of \
              the request (fuse_setattr), which then looks like the one before a stranger's write (file_remove_privs): \
              we answer it, and clear nothing",
        parts: false,
        matches: |op, kernel, ours| {
            let empty = |uid, gid| uid == Id::Keep && gid == Id::Keep;
            matches!(*op, Op::Chown { uid, gid, .. } | Op::FdChown { uid, gid, .. } if empty(uid, gid))
                && kernel.errno == Some(Errno::PERM)
                && ours.errno.is_none()
        },
        excuses: Excuses::All,
    },
    Allowed {
        name: "a whiteout by a caller who cannot be stored",
        why: "an idmapped mount stores the whiteout with no owner at all; we refuse to store that, before the \
              source can find other faults",
        parts: true,
        matches: |op, _, ours| {
            matches!(op, Op::Rename { flags, .. } if flags.contains(RenameFlags::WHITEOUT))
                && ours.errno == Some(Errno::OVERFLOW)
        },
        excuses: Excuses::All,
    },
    Allowed {
        name: "a capability lost to a failed fallocate",
        why: "FUSE clears file capabilities (file_modified) before it asks whether the mode is known",
        parts: true,
        matches: |op, kernel, ours| {
            matches!(op, Op::FdAllocate { .. })
                && kernel == ours
                && kernel.errno == Some(Errno::OPNOTSUPP)
        },
        excuses: Excuses::All,
    },
    Allowed {
        name: "a capability lost to a refused chown",
        why: "the VFS removes file capabilities (security_inode_killpriv) before it asks the filesystem to change the \
              owner; on an idmapped mount the new owner is refused before that",
        parts: true,
        matches: |op, kernel, ours| {
            matches!(op, Op::Chown { .. } | Op::FdChown { .. })
                && kernel == ours
                && kernel.errno == Some(Errno::OVERFLOW)
        },
        excuses: Excuses::All,
    },
    Allowed {
        name: "setuid lost to a write by root",
        why: "what the kernel writes to a source's file past us (fuse_passthrough_write_iter) is written with the rights \
              of whoever handed the file over, and those lack CAP_FSETID: bits that were added while the file was open \
              go with the next write, also with root's. A file that has such bits when it is opened is not handed \
              over; but where a file has a capability, too, the request that comes before the write (file_remove_privs) \
              looks like that of chown(-1, -1), which takes the bits",
        parts: true,
        matches: |op, kernel, ours| {
            matches!(op, Op::FdWrite { .. } | Op::FdMappedWrite { .. } | Op::FdCopyRange { .. })
                && kernel == ours
                && kernel.errno.is_none()
        },
        excuses: Excuses::LostSetBits,
    },
    Allowed {
        name: "a capability lost to a mapped write",
        why: "without passthrough what was written to a mapping comes back to us as a write, and the source takes the \
              capability then (file_remove_privs), as it does for any write",
        parts: true,
        matches: |op, kernel, ours| matches!(op, Op::FdMappedWrite { .. }) && kernel == ours,
        excuses: Excuses::LostCapability,
    },
    Allowed {
        name: "lseek from the end, or for data and holes, in a directory",
        why: "FUSE's directories answer by their size (generic_file_llseek) and do not ask us; tmpfs says EINVAL",
        parts: false,
        matches: |op, kernel, _| {
            matches!(op, Op::FdSeek { .. }) && kernel.errno == Some(Errno::INVAL)
        },
        excuses: Excuses::All,
    },
];

fn creates(op: &Op) -> bool {
    matches!(
        op,
        Op::Open { .. }
            | Op::Tmpfile { .. }
            | Op::WriteFile { .. }
            | Op::Mkdir { .. }
            | Op::Mknod { .. }
            | Op::Symlink { .. }
            | Op::Link { .. }
            | Op::FdLink { .. }
            | Op::Rename { .. }
    )
}

/// Whether the second description differs from the first by setuid and setgid bits that are gone, and by nothing else.
fn lost_set_bits(kernel: &str, ours: &str) -> bool {
    let mode = |text: &str| {
        let (mode, rest) = text.split_once(' ')?;
        Some((u32::from_str_radix(mode, 8).ok()?, rest.to_owned()))
    };
    match (mode(kernel), mode(ours)) {
        (Some((kernel, kernel_rest)), Some((ours, our_rest))) => {
            ours != kernel && ours == kernel & !0o6000 && our_rest == kernel_rest
        }
        _ => false,
    }
}

/// Whether the second description differs from the first by a file capability that is gone, and by nothing else.
fn lost_capability(kernel: &str, ours: &str) -> bool {
    let without = |text: &str| {
        let kept = text.split(' ').filter(|word| !word.starts_with("security.capability="));
        kept.collect::<Vec<_>>().join(" ")
    };
    kernel != ours && without(kernel) == ours
}

/// What is left of a step's differences.
pub(crate) struct Verdict {
    /// The entries that allow the others.
    pub(crate) allowed: Vec<&'static Allowed>,
    /// What nothing allows.
    pub(crate) unexpected: Vec<Difference>,
}

/// Judges the differences after a step.
pub(crate) fn judge(op: &Op, outcomes: &[Outcome; 2], mut differences: Vec<Difference>) -> Verdict {
    let [kernel, ours] = outcomes;
    let mut allowed = Vec::new();
    for entry in ALLOWED {
        if differences.is_empty() {
            break;
        }
        if !(entry.matches)(op, kernel, ours) {
            continue;
        }
        let before = differences.len();
        differences.retain(|d| match d {
            Difference::Outcome { .. } => false,
            Difference::State { kernel, ours, .. } => match entry.excuses {
                Excuses::All => !entry.parts,
                Excuses::LostSetBits => !lost_set_bits(kernel, ours),
                Excuses::LostCapability => !lost_capability(kernel, ours),
            },
        });
        if differences.len() < before {
            allowed.push(entry);
        }
    }
    Verdict { allowed, unexpected: differences }
}
