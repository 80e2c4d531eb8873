//! Which names are there: excluded ones are not, and what a name may be believed to mean for how long.

use std::cell::OnceCell;
use std::ffi::OsStr;

use rustix::io::Errno;

use super::{CacheValidity, DirEntryRef, Fs, Result};
use crate::source::{FoundInode, Inode};
use crate::view::{Excluded, Verdict, View};

/// The excluded names of one directory, for the time of one request.
pub(super) struct ExcludedNames<'a> {
    excluded: &'a Excluded,
    fs: &'a Fs,
    dir: &'a Inode,
    /// Asked for when the first name needs it. `None`: the directory is not below the source's root.
    path: OnceCell<Option<Vec<u8>>>,
}

impl ExcludedNames<'_> {
    /// Whether a name is excluded.
    pub(super) fn has(&self, name: &OsStr) -> bool {
        match self.excluded.match_name(name) {
            Verdict::Shown => false,
            Verdict::Hidden => true,
            Verdict::ByPath => {
                let path = self.path.get_or_init(|| self.fs.tree.path_of(self.dir));
                path.as_ref().is_some_and(|path| self.excluded.hides(path, name))
            }
        }
    }
}

impl Fs {
    /// The excluded names of a directory.
    pub(super) fn excluded_names<'a>(
        &'a self,
        view: &'a View,
        dir: &'a Inode,
    ) -> ExcludedNames<'a> {
        ExcludedNames { excluded: &view.excluded, fs: self, dir, path: OnceCell::new() }
    }

    /// ENOENT for an excluded name.
    pub(super) fn check_name_shown(&self, dir: &Inode, name: &OsStr) -> Result<()> {
        if self.excluded_names(&self.view(), dir).has(name) { Err(Errno::NOENT) } else { Ok(()) }
    }

    /// EPERM for a name that may not be made, because it is excluded.
    pub(super) fn check_new_name(&self, dir: &Inode, name: &OsStr) -> Result<()> {
        if self.excluded_names(&self.view(), dir).has(name) { Err(Errno::PERM) } else { Ok(()) }
    }

    /// How long an excluded name may be believed to be missing. By itself it never appears; where its path decides, a
    /// directory may move.
    pub(super) fn absence_validity(&self, name: &OsStr) -> CacheValidity {
        match self.view().excluded.match_name(name) {
            Verdict::Hidden => CacheValidity::WhileWatched,
            Verdict::Shown | Verdict::ByPath => CacheValidity::Uncached,
        }
    }

    /// How long a name may be believed to mean what was found at a place.
    pub(super) fn name_validity(
        &self,
        entry_ref: &DirEntryRef<'_>,
        inode: &Inode,
        is_by_link: bool,
    ) -> CacheValidity {
        let DirEntryRef { name, validity, .. } = *entry_ref;
        let view = self.view();
        // The kernel counts names by itself: when one goes that was shown as the only one, it takes the file for gone
        // (link(2) of another name fails with ENOENT) until it looks it up again.
        let miscounts = view.attr_overrides.hide_hard_links || view.resolve_symlinks.is_some();
        if (miscounts && !inode.kind().is_dir()) || view.excluded.ends_a_path(name) {
            return CacheValidity::Uncached;
        }
        // Where a link leads is not watched.
        if is_by_link && validity == CacheValidity::WhileWatched {
            CacheValidity::Timeout
        } else {
            validity
        }
    }

    /// Whether a symbolic link leads to what an excluded name hides: it then leads nowhere.
    pub(super) fn leads_to_excluded(&self, view: &View, found: &FoundInode) -> bool {
        !view.excluded.is_empty()
            && self.tree.path_of(&found.inode).is_some_and(|path| view.excluded.hides_path(&path))
    }
}
