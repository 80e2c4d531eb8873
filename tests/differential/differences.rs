//! The differences that are allowed, each with its reason. Everything else fails the test.
//!
//! An entry is about what one caller is told; whatever is allowed here, what stands on the source and what the mount
//! shows afterwards must still be equal.

use rustix::io::Errno;

use crate::op::Op;
use crate::world::{Difference, Outcome};

/// One allowed difference.
pub(crate) struct Allowed {
    /// What differs, in a few words.
    pub(crate) name: &'static str,
    /// Why it cannot be otherwise.
    #[expect(dead_code, reason = "for the reader")]
    pub(crate) why: &'static str,
    matches: fn(&Op, &Outcome, &Outcome) -> bool,
}

/// All of them.
pub(crate) const ALLOWED: &[Allowed] = &[
    Allowed {
        name: "no O_TMPFILE",
        why: "fuser carries no FUSE_TMPFILE, and the kernel then says EOPNOTSUPP before it asks us",
        matches: |op, _, ours| {
            matches!(op, Op::Tmpfile { .. }) && ours.errno == Some(Errno::OPNOTSUPP)
        },
    },
    Allowed {
        name: "EACCES before EOVERFLOW",
        why: "an idmapped mount asks first whether a caller can be stored (may_create), then whether he may write the \
              directory; on FUSE the kernel checks the directory and asks us afterwards",
        matches: |op, kernel, ours| {
            creates(op)
                && kernel.errno == Some(Errno::OVERFLOW)
                && ours.errno == Some(Errno::ACCESS)
        },
    },
];

fn creates(op: &Op) -> bool {
    matches!(
        op,
        Op::Open { .. }
            | Op::WriteFile { .. }
            | Op::Mkdir { .. }
            | Op::Mknod { .. }
            | Op::Symlink { .. }
            | Op::Link { .. }
            | Op::FdLink { .. }
            | Op::Rename { .. }
    )
}

/// The entry that allows a difference.
pub(crate) fn allowed(op: &Op, difference: &Difference) -> Option<&'static Allowed> {
    match difference {
        Difference::Outcome { kernel, ours } => {
            ALLOWED.iter().find(|allowed| (allowed.matches)(op, kernel, ours))
        }
        Difference::State { .. } => None,
    }
}
