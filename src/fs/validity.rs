//! How long the kernel may cache an answer: the rules, and what they ask of the watch.
//!
//! The server turns the result into a timeout by the mount's cache policy (`fuse/ttl.rs`).

use std::ffi::OsStr;

use rustix::fs::{FileType, Statx};

use super::{DirEntryRef, Fs};
use crate::source::Inode;
use crate::view::Verdict;
use crate::watch::Watch;

/// How long the kernel may cache an answer. Of two rules the stricter one holds, which is the lesser value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheValidity {
    /// Not at all.
    Uncached,
    /// For the timeout of the cache policy.
    Timeout,
    /// Until it is invalidated, because a mark reports changes by processes on the source.
    WhileWatched,
}

impl CacheValidity {
    /// Returns the validity of a directory's names. `is_reported`: its mark reports every change of them.
    pub(super) fn of_names(is_reported: bool) -> Self {
        if is_reported { Self::WhileWatched } else { Self::Timeout }
    }

    /// Returns the validity of an inode's attributes.
    ///
    /// `is_changing`: they may change at any moment without an event. `is_reported`: marks report every change since
    /// before they were read; it may set a mark, and is asked only where the answer matters.
    pub(super) fn of_attributes(is_changing: bool, is_reported: impl FnOnce() -> bool) -> Self {
        match is_changing {
            true => Self::Uncached,
            false => Self::of_names(is_reported()),
        }
    }

    /// Returns the validity of a missing name, by what the view says of it.
    ///
    /// A name that is excluded in every directory never appears. One that is excluded by its path may, when a directory
    /// is renamed.
    fn of_absence(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Hidden => Self::WhileWatched,
            Verdict::Shown | Verdict::ByPath => Self::Uncached,
        }
    }
}

impl Fs {
    /// Prepares the lookup of a name.
    ///
    /// An event in the directory from now on limits how long the kernel may cache the result.
    pub(super) fn entry_ref<'a>(&self, dir: &'a Inode, name: &'a OsStr) -> DirEntryRef<'a> {
        let validity = self.watch_names(dir);
        DirEntryRef { dir, name, validity, event_seq: self.event_seq(dir) }
    }

    pub(super) fn event_seq(&self, dir: &Inode) -> u32 {
        self.watch.as_ref().map_or(0, |watch| watch.event_seq(dir))
    }

    /// Returns how long the kernel may cache attributes that come with an entry.
    ///
    /// As long as the name, if marks report all changes of the inode, and the directory's has reported no event since
    /// before the lookup.
    pub(super) fn found_validity(
        &self,
        entry_ref: &DirEntryRef<'_>,
        inode: &Inode,
        stat: &Statx,
    ) -> CacheValidity {
        if entry_ref.validity != CacheValidity::WhileWatched || !self.tree.is_watchable(inode) {
            return CacheValidity::Timeout;
        }
        CacheValidity::of_attributes(self.is_changing(inode), || {
            let had_event = self.event_seq(entry_ref.dir) != entry_ref.event_seq;
            !had_event && self.watches_attributes(inode, stat)
        })
    }

    /// Returns whether every change of an inode with the attributes `stat` becomes an event.
    pub(super) fn watches_attributes(&self, inode: &Inode, stat: &Statx) -> bool {
        let Some(watch) = &self.watch else { return false };
        match inode.kind() {
            FileType::Directory => inode.is_watched(),
            // The kernel invalidates the cached data of a file by its attributes, and a store to a mapping on the
            // source makes no event.
            FileType::RegularFile if !self.uses_passthrough() => false,
            _ => watch.ensure_mark_queued(&self.tree, inode, stat),
        }
    }

    /// Marks a directory, so that changes of its names become events. Returns how long the kernel may cache its names.
    pub(super) fn watch_names(&self, dir: &Inode) -> CacheValidity {
        let delivers =
            |watch: &Watch| watch.ensure_marked(&self.tree, dir) && watch.is_delivering(dir);
        CacheValidity::of_names(self.watch.as_ref().is_some_and(delivers))
    }

    /// Returns whether attributes of an inode may change at any moment without an event.
    ///
    /// That is so while write events are suppressed, and, with passthrough, while a file is open for writing: a
    /// client's shared mapping is then one of the source's file, and a store to it makes no event.
    pub(super) fn is_changing(&self, inode: &Inode) -> bool {
        inode.is_busy() || (self.uses_passthrough() && inode.has_writers())
    }

    /// Returns how long the kernel may cache that an excluded name does not exist.
    ///
    /// A name that is excluded in every directory never appears. One that is excluded by its path may, when a directory
    /// is renamed.
    pub(super) fn absence_validity(&self, name: &OsStr) -> CacheValidity {
        CacheValidity::of_absence(self.view().excluded.match_name(name))
    }

    /// Returns how long the kernel may cache a name that was found.
    pub(super) fn name_validity(
        &self,
        entry_ref: &DirEntryRef<'_>,
        inode: &Inode,
        is_by_link: bool,
    ) -> CacheValidity {
        let DirEntryRef { name, validity, .. } = *entry_ref;
        let view = self.view();
        // The kernel decrements its own link count at an unlink. A file shown with the count 1 then counts as deleted,
        // and link(2) of another name fails with ENOENT, until the kernel looks the file up again.
        let miscounts = view.attr_overrides.hide_hard_links || view.resolve_symlinks.is_some();
        if (miscounts && !inode.kind().is_dir()) || view.excluded.ends_a_path(name) {
            return CacheValidity::Uncached;
        }
        // The target of a symbolic link may change without an event in the link's directory.
        if is_by_link { validity.min(CacheValidity::Timeout) } else { validity }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stricter_of_two_rules_holds() {
        assert_eq!(CacheValidity::WhileWatched.min(CacheValidity::Timeout), CacheValidity::Timeout);
        assert_eq!(CacheValidity::Uncached.min(CacheValidity::Timeout), CacheValidity::Uncached);
    }

    #[test]
    fn attributes_are_cached_for_long_only_while_a_mark_reports_all_changes() {
        assert_eq!(CacheValidity::of_attributes(false, || true), CacheValidity::WhileWatched);
        assert_eq!(CacheValidity::of_attributes(false, || false), CacheValidity::Timeout);
        let asked = || -> bool { panic!("a mark would be set in vain") };
        assert_eq!(CacheValidity::of_attributes(true, asked), CacheValidity::Uncached);
    }

    #[test]
    fn an_excluded_name_stays_away_unless_its_path_decides() {
        assert_eq!(CacheValidity::of_absence(Verdict::Hidden), CacheValidity::WhileWatched);
        assert_eq!(CacheValidity::of_absence(Verdict::ByPath), CacheValidity::Uncached);
    }
}
