//! What a view keeps the kernel from doing by itself: as little as possible.

use super::{ChangePolicy, View};

/// Where permissions are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checks {
    /// In the kernel, on what the mount presents (`default_permissions`).
    Kernel,
    /// In the daemon, at every request.
    Daemon,
}

/// What a view requires of the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Where permissions are checked. In the daemon, the kernel caches no names: each step of a path must be a request.
    pub checks: Checks,
    /// Whether attributes depend on the caller: the kernel then caches none.
    pub per_caller: bool,
    /// Whether the kernel is to ask for extended attributes, and so for ACLs.
    pub xattrs: bool,
}

impl View {
    /// What this view requires of the mount.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let changes = &self.changes;
        // An ignored change succeeds for every caller; the kernel would refuse it to all but the owner.
        let ignores = [changes.chown, changes.chgrp, changes.chmod].contains(&ChangePolicy::Ignore);
        let per_caller = self.mirror.is_some();
        let checks = if ignores || per_caller { Checks::Daemon } else { Checks::Kernel };
        Needs { checks, per_caller, xattrs: changes.xattrs != super::Xattrs::None }
    }
}
