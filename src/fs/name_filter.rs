//! Excluded names, and how long the kernel may cache names.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::{Fs, Result};
use crate::source::{FoundInode, Inode, component};
use crate::view::{Excluded, Verdict, View, is_numbered_alias};

/// Where a directory is, for patterns that are paths.
enum DirPath {
    /// At this path below the source's root.
    Below(Vec<u8>),
    /// Outside the source, reached through a symbolic link: no pattern applies there.
    Outside,
    /// Not known: every path pattern may match.
    Unknown,
}

/// The excluded names of one directory, for the duration of one request.
pub(super) struct ExcludedNames<'a> {
    excluded: &'a Excluded,
    fs: &'a Fs,
    dir: &'a Inode,
    /// The directory's path, read when the first name needs it.
    path: OnceCell<DirPath>,
}

impl ExcludedNames<'_> {
    /// Returns whether a name is excluded.
    pub(super) fn has(&self, name: &OsStr) -> bool {
        match self.excluded.match_name(name) {
            Verdict::Shown => false,
            Verdict::Hidden => true,
            Verdict::ByPath => match self.path.get_or_init(|| self.fs.dir_path(self.dir)) {
                DirPath::Below(path) => self.excluded.hides(path, name),
                DirPath::Outside => false,
                DirPath::Unknown => true,
            },
        }
    }
}

impl Fs {
    /// Returns the excluded names of a directory.
    pub(super) fn excluded_names<'a>(
        &'a self,
        view: &'a View,
        dir: &'a Inode,
    ) -> ExcludedNames<'a> {
        ExcludedNames { excluded: &view.excluded, fs: self, dir, path: OnceCell::new() }
    }

    fn dir_path(&self, dir: &Inode) -> DirPath {
        match self.tree.path_of(dir) {
            // A directory's path may have an alias in it: the kernel names it by the first name that it was found by.
            Ok(Some(_)) if self.tree.finds_by_other_names(dir) && !self.tree.lists_path_of(dir) => {
                DirPath::Unknown
            }
            Ok(Some(path)) => DirPath::Below(path),
            Ok(None) if self.tree.follows_links() => DirPath::Outside,
            // The directory was moved out of the source, or is too deep.
            Ok(None) | Err(_) => DirPath::Unknown,
        }
    }

    /// Checks a name to look up or remove: ENOENT if it is excluded.
    pub(super) fn check_name_shown(&self, dir: &Inode, name: &OsStr) -> Result<()> {
        if self.hides(dir, name) { Err(Errno::NOENT) } else { Ok(()) }
    }

    /// Checks a name to create: EPERM if it is excluded.
    pub(super) fn check_new_name(&self, dir: &Inode, name: &OsStr) -> Result<()> {
        if self.hides(dir, name) { Err(Errno::PERM) } else { Ok(()) }
    }

    fn hides(&self, dir: &Inode, name: &OsStr) -> bool {
        let view = self.view();
        !view.excluded.is_empty()
            && (self.excluded_names(&view, dir).has(name) || self.finds_excluded(&view, dir, name))
    }

    /// Returns whether the source finds an excluded file by this name, although no pattern matches the name.
    ///
    /// Some filesystems find a file by a name with other letters: upper case in place of lower case. So a name that only
    /// its letters' case tells from an excluded one is hidden unless the source lists that very name.
    fn finds_excluded(&self, view: &View, dir: &Inode, name: &OsStr) -> bool {
        self.finds_in_other_letters(view, dir, name) || self.finds_by_alias(view, dir, name)
    }

    /// Returns whether a name is an alias of an excluded one: the source has a file by it, and lists that file under no
    /// name that is shown.
    ///
    /// FAT and NTFS have a short name beside each long one, SMB servers make one up, HFS+ composes characters in one way. FAT
    /// and SMB also drop dots and spaces at a name's end, NTFS takes `NAME::$DATA` for NAME, vfat `:0073` for `s` with
    /// `uni_xlate`: on these filesystems the form of a name excludes none.
    /// Where patterns are paths, an alias of a directory would lead past them, so every alias is hidden.
    fn finds_by_alias(&self, view: &View, dir: &Inode, name: &OsStr) -> bool {
        let may_be = is_numbered_alias(name.as_bytes()) || self.tree.finds_by_other_names(dir);
        if !may_be {
            return false;
        }
        let excluded = self.excluded_names(view, dir);
        let is_shown = |other: &OsStr| !view.excluded.has_paths() && !excluded.has(other);
        self.tree.fd(dir).is_ok_and(|fd| match component(name) {
            Ok(name) => {
                self.tree.has_name(&fd, &name) && !self.tree.lists_itself_or(&fd, &name, is_shown)
            }
            Err(_) => false,
        })
    }

    fn finds_in_other_letters(&self, view: &View, dir: &Inode, name: &OsStr) -> bool {
        if !view.excluded.may_hide(name) {
            return false;
        }
        let path = match view.excluded.has_paths().then(|| self.dir_path(dir)) {
            None | Some(DirPath::Outside) => Some(Vec::new()),
            Some(DirPath::Below(path)) => Some(path),
            Some(DirPath::Unknown) => None,
        };
        view.excluded.would_hide(path.as_deref(), name)
            && self.tree.fd(dir).is_ok_and(|fd| match component(name) {
                Ok(name) => self.tree.has_name(&fd, &name) && !self.tree.lists(dir, &fd, &name),
                Err(_) => false,
            })
    }

    /// Returns whether some names are excluded by their path, so that renaming a directory may hide or show them.
    #[must_use]
    pub fn hides_by_path(&self) -> bool {
        self.view().excluded.has_paths()
    }

    /// Returns whether the target of a symbolic link is excluded. The link is then shown as dangling.
    pub(super) fn leads_to_excluded(&self, view: &View, found: &FoundInode) -> bool {
        !view.excluded.is_empty()
            && match self.dir_path(&found.inode) {
                DirPath::Below(path) => view.excluded.hides_path(&path),
                DirPath::Outside => false,
                DirPath::Unknown => true,
            }
    }
}
