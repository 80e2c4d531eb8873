//! What a view keeps the kernel from doing by itself: as little as it can.

use super::{ChangePolicy, View};

/// Who checks permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checks {
    /// The kernel, on what we show (`default_permissions`).
    Kernel,
    /// We, at every request.
    Daemon,
}

/// See the module's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Who checks permissions. If we do, the kernel keeps no names: each step of a path must come to us.
    pub checks: Checks,
    /// Whether attributes depend on who asks: the kernel then keeps none.
    pub per_caller: bool,
    /// Whether the kernel is to look for extended attributes, and so for ACLs.
    pub xattrs: bool,
}

impl View {
    /// What this view asks of the mount.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let changes = &self.changes;
        // The kernel would refuse strangers what is to succeed for everybody.
        let ignores = [changes.chown, changes.chgrp, changes.chmod].contains(&ChangePolicy::Ignore);
        let per_caller = self.mirror.is_some();
        let checks = if ignores || per_caller { Checks::Daemon } else { Checks::Kernel };
        Needs { checks, per_caller, xattrs: changes.xattrs != super::Xattrs::None }
    }
}
