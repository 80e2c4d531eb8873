//! Attributes: stat, chmod, chown, truncate, utimens, statfs.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, StatVfs, Statx, Timespec, Timestamps};
use rustix::io::Errno;

use super::mode_bits::SETGID;
use super::{Attr, CacheValidity, Caller, Fs, Result, SetAttr, SetTime};
use crate::source::{ActingAs, Inode, NodeId};
use crate::view::View;

impl Fs {
    /// Returns the attributes of an inode.
    pub fn getattr(&self, caller: &Caller, node: NodeId) -> Result<Attr> {
        let inode = self.tree.inode(node)?;
        self.read_as(caller, &inode)?;
        let (stat, validity) = self.watched_stat(&inode)?;
        Ok(self.attr(caller, &inode, &stat, validity))
    }

    /// Reads an inode's attributes, and returns how long the kernel may cache them.
    fn watched_stat(&self, inode: &Inode) -> Result<(Statx, CacheValidity)> {
        // Before the attributes are read: later changes become events.
        let is_changing = self.is_changing(inode);
        if let Some(watch) = &self.watch
            && inode.kind().is_dir()
        {
            watch.ensure_marked(&self.tree, inode);
        }
        let stat = self.tree.stat(inode)?;
        let is_reported = || self.watches_attributes(inode, &stat);
        let validity = match self.watch {
            None => CacheValidity::Timeout,
            Some(_) => CacheValidity::of_attributes(is_changing, is_reported),
        };
        Ok((stat, validity))
    }

    /// Changes attributes and returns the new ones.
    ///
    /// `handle` is the open file of an ftruncate(2). EOVERFLOW if an owner or group to be set is unmapped; nothing is
    /// changed then. EAGAIN if the change must wait for the end of a lease (fcntl(2), F_SETLEASE) and `may_wait` is
    /// false.
    pub fn setattr(
        &self,
        caller: &Caller,
        node: NodeId,
        handle: Option<u64>,
        set: &SetAttr,
        may_wait: bool,
    ) -> Result<Attr> {
        let inode = self.tree.inode(node)?;
        let asked = set;
        // The same view for the checks and the change: a reload may replace it in between.
        let view = self.view();
        let through = handle.and_then(|handle| self.files.get(handle).ok());
        let handle_writes = through.is_some_and(|file| file.is_writable());
        let permitted = self.permitted(&view, &inode, asked)?;
        let set = &self.may_set(caller, &inode, handle_writes, permitted)?;
        let (uid, gid) = {
            let ids = &view.ids;
            let uid = set.uid.map(|uid| ids.uid_to_source(uid).ok_or(Errno::OVERFLOW));
            let gid = set.gid.map(|gid| ids.gid_to_source(gid).ok_or(Errno::OVERFLOW));
            (uid.transpose()?, gid.transpose()?)
        };
        let fd = self.tree.fd(&inode)?;
        // Now, since an error may come after the first of several changes.
        inode.note_change();
        let mut acting = self.act_for(caller)?;
        if uid.is_some() || gid.is_some() {
            // Change the owner before the mode: chown(2) clears setuid and setgid bits on the source, which the mode
            // may set.
            // The kernel has permitted the chown (`setattr_prepare`). Whether a caller that it does not tell is in the
            // group, and so keeps the setgid bit, is not known.
            let keeps_setgid = match caller.ids {
                Some(_) => self.chown_keeps_setgid(caller, &inode)?,
                None => false,
            };
            acting.set_fsetid(keeps_setgid);
            acting.chown(&fd, uid, gid)?;
        } else if asked.is_empty() {
            // chown(path, -1, -1) clears setuid and setgid bits as well. The kernel sends the same request before a
            // write or fallocate that clears them (Linux `file_remove_privs`), for any caller that may write. It must
            // not fail then: where the caller may not clear the bits by chown(2), the following write clears them.
            match self.chown_keeps_setgid(caller, &inode) {
                Ok(keeps_setgid) => {
                    acting.set_fsetid(keeps_setgid);
                    acting.chown(&fd, None, None)?;
                }
                Err(e) if caller.is_in_chown() => return Err(e),
                Err(_) => {}
            }
        }
        if let Some(mode) = set.mode {
            let mode = self.permitted_setid_bits(&view, caller, &inode, mode)?;
            if mode & SETGID != 0 {
                // The kernel has already cleared the bit if the caller may not set it.
                acting.set_fsetid(true);
            }
            acting.chmod(&fd, mode)?;
        }
        if let Some(size) = set.size {
            let rights = self.rights_to_truncate(caller, &inode, set.kills_suidgid)?;
            acting = self.write_as(caller, &inode, rights)?;
            self.truncate(&acting, (&inode, &fd), handle, size, may_wait)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            acting.set_times(&fd, &timestamps(set.atime, set.mtime))?;
        }
        self.inode_changed(&inode)?;
        let (stat, validity) = self.watched_stat(&inode)?;
        Ok(self.attr(caller, &inode, &stat, validity))
    }

    /// Applies the view's policies to a change. EPERM if part of it is refused.
    fn permitted(&self, view: &View, inode: &Inode, set: &SetAttr) -> Result<SetAttr> {
        let mut set = *set;
        set.uid = view.changes.chown.pass(set.uid)?;
        set.gid = view.changes.chgrp.pass(set.gid)?;
        if let Some(asked) = set.mode {
            let kind = inode.kind();
            let now = || Ok(u32::from(self.tree.stat(inode)?.stx_mode) & 0o7777);
            set.mode = view.changes.chmod(kind, asked & 0o7777, now)?;
        }
        Ok(set)
    }

    fn truncate(
        &self,
        acting: &ActingAs<'_>,
        (inode, fd): (&Inode, &OwnedFd),
        handle: Option<u64>,
        size: u64,
        may_wait: bool,
    ) -> Result<()> {
        match inode.kind() {
            FileType::RegularFile => {}
            // The kernel sends this before an open with O_TRUNC, which has no effect on a device (open(2)).
            FileType::BlockDevice if size == 0 && handle.is_none() => return Ok(()),
            _ => return Err(Errno::INVAL),
        }
        if let Some(handle) = handle
            && let Ok(file) = self.files.get(handle)
            && file.is_writable()
        {
            return acting.truncate(file.open()?, size);
        }
        // Opening may wait for another process to give up its lease (fcntl(2), F_SETLEASE), and a worker must not wait.
        let file = match acting.open_to_truncate(fd, OFlags::NONBLOCK) {
            Err(Errno::AGAIN) if may_wait => acting.open_to_truncate(fd, OFlags::empty())?,
            result => result?,
        };
        acting.truncate(&file, size)
    }

    /// Returns size and free space of the filesystem that the inode is on.
    pub fn statfs(&self, caller: &Caller, node: NodeId) -> Result<StatVfs> {
        let inode = self.tree.inode(node)?;
        self.read_as(caller, &inode)?;
        let fd = self.tree.fd(&inode)?;
        rustix::fs::fstatvfs(&*fd)
    }
}

fn timestamps(atime: Option<SetTime>, mtime: Option<SetTime>) -> Timestamps {
    let spec = |time: Option<SetTime>| match time {
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Some(SetTime::To(t)) => Timespec { tv_sec: t.sec, tv_nsec: t.nsec.into() },
    };
    Timestamps { last_access: spec(atime), last_modification: spec(mtime) }
}
