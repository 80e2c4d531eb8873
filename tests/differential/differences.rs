//! The allowed differences, each with its reason. Any other difference fails the test.
//!
//! Unless an entry's `parts` is set, the contents of both sources and what both mounts show must still be equal
//! afterwards.
//!
//! One more difference is not listed but normalised (`act::xattr_value`): an ACL's unmapped id reads as 4294967294
//! and not as 4294967295, because the kernel takes no invalid id from a FUSE server.

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use crate::op::Op;
use crate::world::{Difference, Engine, Outcome};

/// One allowed difference.
pub(crate) struct Allowed {
    /// What differs, in a few words.
    pub(crate) name: &'static str,
    /// Why shiftbind cannot do otherwise.
    #[expect(dead_code, reason = "for the reader")]
    pub(crate) why: &'static str,
    /// Whether the sources differ afterwards, so that later steps cannot be compared.
    pub(crate) parts: bool,
    only: Only,
    matches: fn(&Op, &Outcome, &Outcome) -> bool,
    /// Which states may differ if `parts` is set.
    excuses: Excuses,
}

/// Where a difference is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Only {
    Everywhere,
    /// Where idmapped mounts show ACLs as they are stored (`World::acls_as_stored`), which marks the kernels before Linux
    /// 6.2.
    OldKernels,
    /// Where an idmapped mount gives an unmapped caller an O_TMPFILE file (`World::tmpfile_unchecked`).
    TmpfileUnchecked,
    /// Where the kernel does not tell the daemon who sends a request (`idmappable`).
    HiddenCallers,
    /// The same, at the mount itself: an idmapped mount of it is checked by the kernel.
    Idmappable,
}

/// What is known of the kernel and the second mount.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conditions {
    /// Idmapped mounts show ACLs as they are stored.
    pub(crate) old_kernel: bool,
    /// An idmapped mount gives an unmapped caller an O_TMPFILE file.
    pub(crate) tmpfile_unchecked: bool,
    pub(crate) engine: Engine,
}

impl Conditions {
    fn meet(self, only: Only) -> bool {
        match only {
            Only::Everywhere => true,
            Only::OldKernels => self.old_kernel,
            Only::TmpfileUnchecked => self.tmpfile_unchecked,
            Only::HiddenCallers => {
                matches!(self.engine, Engine::Idmappable | Engine::IdmappedClone)
            }
            Only::Idmappable => self.engine == Engine::Idmappable,
        }
    }
}

/// Which differing states an entry allows.
#[derive(Clone, Copy)]
enum Excuses {
    /// Any state.
    All,
    /// Lost setuid and setgid bits.
    LostSetBits,
    /// A lost setgid bit.
    LostSetgid,
    /// A lost file capability.
    LostCapability,
}

/// All allowed differences.
pub(crate) const ALLOWED: &[Allowed] = &[
    Allowed {
        name: "EACCES or EPERM before EOVERFLOW when creating",
        why: "an idmapped mount first checks whether the caller can be stored (may_create), then whether the caller may \
              write the directory, link a directory or make a device; on FUSE the kernel checks all these before it sends \
              the request",
        parts: false,
        only: Only::Everywhere,
        matches: |op, kernel, ours| {
            let earlier = [Some(Errno::ACCESS), Some(Errno::PERM)];
            creates(op) && kernel.errno == Some(Errno::OVERFLOW) && earlier.contains(&ours.errno)
        },
        excuses: Excuses::All,
    },
    Allowed {
        name: "EPERM before EOVERFLOW when changing the owner",
        why: "an idmapped mount first checks whether the new owner can be stored (notify_change), then whether the \
              caller may give the file away; on FUSE the kernel checks that (setattr_prepare) before it sends the request",
        parts: false,
        only: Only::Everywhere,
        matches: |op, kernel, ours| {
            matches!(op, Op::Chown { .. } | Op::FdChown { .. })
                && kernel.errno == Some(Errno::OVERFLOW)
                && ours.errno == Some(Errno::PERM)
        },
        excuses: Excuses::All,
    },
    Allowed {
        name: "a whiteout by an unmapped caller",
        why: "an idmapped mount stores the whiteout with an invalid owner; the daemon refuses that before the source can \
              return other errors",
        parts: true,
        only: Only::Everywhere,
        matches: |op, _, ours| {
            matches!(op, Op::Rename { flags, .. } if flags.contains(RenameFlags::WHITEOUT))
                && ours.errno == Some(Errno::OVERFLOW)
        },
        excuses: Excuses::All,
    },
    Allowed {
        name: "a capability lost to a failed fallocate",
        why: "FUSE clears file capabilities (file_modified) before the daemon can refuse the mode",
        parts: true,
        only: Only::Everywhere,
        matches: |op, kernel, ours| {
            matches!(op, Op::FdAllocate { .. })
                && kernel == ours
                && kernel.errno == Some(Errno::OPNOTSUPP)
        },
        excuses: Excuses::All,
    },
    Allowed {
        name: "setuid lost to a write by root",
        why: "the kernel writes to a backing file (fuse_passthrough_write_iter) with the credentials of the thread that \
              registered it, which lack CAP_FSETID: bits that were added while the file was open are cleared by the next \
              write, even by root's. A file that has such bits when it is opened gets no passthrough; but where a file \
              has a capability, too, the request before the write (file_remove_privs) looks like that of chown(-1, -1), \
              which clears the bits",
        parts: true,
        only: Only::Everywhere,
        matches: |op, kernel, ours| {
            matches!(op, Op::FdWrite { .. } | Op::FdMappedWrite { .. } | Op::FdCopyRange { .. })
                && kernel == ours
                && kernel.errno.is_none()
        },
        excuses: Excuses::LostSetBits,
    },
    Allowed {
        name: "a capability lost to a mapped write",
        why: "without passthrough the kernel sends the pages written through a mapping as WRITE requests, and the source \
              removes the capability (file_remove_privs), as for any write",
        parts: true,
        only: Only::Everywhere,
        matches: |op, kernel, ours| matches!(op, Op::FdMappedWrite { .. }) && kernel == ours,
        excuses: Excuses::LostCapability,
    },
    Allowed {
        name: "lseek from the end, or for data and holes, in a directory",
        why: "the kernel answers for FUSE directories by their size (generic_file_llseek), without a request; tmpfs returns EINVAL",
        parts: false,
        only: Only::Everywhere,
        matches: |op, kernel, _| {
            matches!(op, Op::FdSeek { .. }) && kernel.errno == Some(Errno::INVAL)
        },
        excuses: Excuses::All,
    },
    Allowed {
        name: "EINVAL before EPERM or EACCES when an ACL is set",
        why: "Linux 6.1 translates the ids of an ACL (vfs_set_acl_prepare) before it checks the caller; newer kernels and \
              shiftbind check the caller first",
        parts: false,
        only: Only::OldKernels,
        matches: |op, kernel, ours| {
            let (Op::SetXattr { name, .. } | Op::FdSetXattr { name, .. }) = op else {
                return false;
            };
            let earlier = [Some(Errno::ACCESS), Some(Errno::PERM)];
            name.starts_with("system.posix_acl_")
                && kernel.errno == Some(Errno::INVAL)
                && earlier.contains(&ours.errno)
        },
        excuses: Excuses::All,
    },
    Allowed {
        name: "O_TMPFILE by an unmapped caller",
        why: "such a kernel makes a file with an invalid owner (vfs_tmpfile does not check whether the caller can be stored); \
              kernels with the check and shiftbind return EOVERFLOW. Of Debian's kernels 6.1.176, 6.16.12, 6.18.15, 6.19.14 \
              and 7.1.3 lack it, 6.12.117, 7.1.13, 7.2.13 and 7.3.4 have it",
        parts: false,
        only: Only::TmpfileUnchecked,
        matches: |op, kernel, ours| {
            matches!(op, Op::Tmpfile { .. })
                && kernel.errno.is_none()
                && ours.errno == Some(Errno::OVERFLOW)
        },
        excuses: Excuses::All,
    },
    Allowed {
        name: "a name by an unmapped caller that the kernel does not tell",
        why: "LINK and RENAME name no caller with FUSE_ALLOW_IDMAP, so that the daemon cannot refuse a caller that could not be \
              stored; neither stores an id of the caller, and the kernel has checked the directories",
        parts: true,
        only: Only::Idmappable,
        matches: |op, kernel, ours| {
            matches!(op, Op::Link { .. } | Op::FdLink { .. } | Op::Rename { .. })
                && kernel.errno == Some(Errno::OVERFLOW)
                && ours.errno.is_none()
        },
        excuses: Excuses::All,
    },
    Allowed {
        name: "chown(-1, -1) of a file with set bits by its owner",
        why: "the kernel takes the clearing out of the request (fuse_setattr) and checks no owner; the daemon cannot, and refuses \
              it, since any user could send it",
        parts: true,
        only: Only::HiddenCallers,
        matches: |op, kernel, ours| {
            matches!(op, Op::Chown { .. } | Op::FdChown { .. })
                && kernel.errno.is_none()
                && ours.errno == Some(Errno::PERM)
        },
        excuses: Excuses::All,
    },
    Allowed {
        name: "chown of a file with set bits with CAP_CHOWN alone",
        why: "the kernel checks CAP_CHOWN (setattr_prepare), but not for the bits that go, which natively takes CAP_FOWNER; the bits \
              go",
        parts: true,
        only: Only::HiddenCallers,
        matches: |op, kernel, ours| {
            matches!(op, Op::Chown { .. } | Op::FdChown { .. })
                && kernel.errno == Some(Errno::PERM)
                && ours.errno.is_none()
        },
        excuses: Excuses::All,
    },
    Allowed {
        name: "a setgid bit lost although the caller is in the group",
        why: "the daemon does not know the caller's groups, so a write to a file that its group cannot execute, a chown, and the \
              removal of an ACL take the bit",
        parts: true,
        only: Only::HiddenCallers,
        matches: |_, kernel, ours| kernel == ours && kernel.errno.is_none(),
        excuses: Excuses::LostSetgid,
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

/// Whether `ours` differs from `kernel` only by missing setuid and setgid bits, or by one of them.
fn lost_set_bits(kernel: &str, ours: &str, lost: u32) -> bool {
    let mode = |text: &str| {
        let (mode, rest) = text.split_once(' ')?;
        Some((u32::from_str_radix(mode, 8).ok()?, rest.to_owned()))
    };
    match (mode(kernel), mode(ours)) {
        (Some((kernel, kernel_rest)), Some((ours, our_rest))) => {
            ours != kernel && ours == kernel & !lost && our_rest == kernel_rest
        }
        _ => false,
    }
}

/// Whether `ours` differs from `kernel` only by a missing file capability.
fn lost_capability(kernel: &str, ours: &str) -> bool {
    let without = |text: &str| {
        let kept = text.split(' ').filter(|word| !word.starts_with("security.capability="));
        kept.collect::<Vec<_>>().join(" ")
    };
    kernel != ours && without(kernel) == ours
}

/// The result of judging a step's differences.
pub(crate) struct Verdict {
    /// The entries that allow differences of the step.
    pub(crate) allowed: Vec<&'static Allowed>,
    /// The differences that no entry allows.
    pub(crate) unexpected: Vec<Difference>,
}

/// Matches the differences after a step with the allowed ones.
pub(crate) fn judge(
    op: &Op,
    outcomes: &[Outcome; 2],
    mut differences: Vec<Difference>,
    conditions: Conditions,
) -> Verdict {
    let [kernel, ours] = outcomes;
    let mut allowed = Vec::new();
    for entry in ALLOWED {
        if differences.is_empty() {
            break;
        }
        if !conditions.meet(entry.only) || !(entry.matches)(op, kernel, ours) {
            continue;
        }
        let before = differences.len();
        differences.retain(|d| match d {
            Difference::Outcome { .. } => false,
            Difference::State { kernel, ours, .. } => match entry.excuses {
                Excuses::All => !entry.parts,
                Excuses::LostSetBits => !lost_set_bits(kernel, ours, 0o6000),
                Excuses::LostSetgid => !lost_set_bits(kernel, ours, 0o2000),
                Excuses::LostCapability => !lost_capability(kernel, ours),
            },
        });
        if differences.len() < before {
            allowed.push(entry);
        }
    }
    Verdict { allowed, unexpected: differences }
}
