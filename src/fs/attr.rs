//! Attributes: stat, chmod, chown, truncate, utimens, statfs.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, StatVfs, Statx, Timespec, Timestamps};
use rustix::io::Errno;

use super::killpriv::SETGID;
use super::{Attr, CacheValidity, Caller, Fs, Result, SetAttr, SetTime};
use crate::source::{ActingAs, Inode, NodeId};
use crate::view::View;

impl Fs {
    /// The attributes of an inode.
    pub fn getattr(&self, caller: &Caller, node: NodeId) -> Result<Attr> {
        let inode = self.tree.inode(node)?;
        self.read_as(caller, &inode)?;
        let (stat, validity) = self.watched_stat(&inode)?;
        Ok(self.attr(caller, &inode, &stat, validity))
    }

    /// An inode's attributes, and how long they may be believed.
    fn watched_stat(&self, inode: &Inode) -> Result<(Statx, CacheValidity)> {
        let validity = self.watch_attributes(inode);
        let stat = self.tree.stat(inode)?;
        if !self.gained_links(inode, &stat) {
            return Ok((stat, validity));
        }
        // Now by a mark of its own, set before its attributes are read.
        let validity = self.watch_attributes(inode);
        Ok((self.tree.stat(inode)?, validity))
    }

    /// Changes attributes and tells the new ones. EOVERFLOW when an owner or group to be set has no counterpart on the
    /// source; nothing is changed then.
    ///
    /// `handle`: the open file that the change came through (ftruncate(2)). EAGAIN when it would have to wait for somebody's
    /// lease and `may_wait` is false.
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
        // One view for what is permitted and what is stored: the next may come at any moment.
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
        let mut acting = self.act_for(caller)?;
        if uid.is_some() || gid.is_some() {
            // The owner comes before a mode that came along: the source takes setuid and setgid bits, and the mode is the
            // last word.
            acting.set_fsetid(self.chown_keeps_setgid(caller, &inode)?);
            acting.chown(&fd, uid, gid)?;
        } else if asked.is_empty()
            && let Ok(keeps_setgid) = self.chown_keeps_setgid(caller, &inode)
        {
            // chown(path, -1, -1) has its effects all the same. But the same request comes before a write or fallocate
            // that takes set bits (Linux `file_remove_privs`), by anyone who may write: there is nothing to refuse, and
            // what a stranger may not take by a chown, his write takes when it comes.
            acting.set_fsetid(keeps_setgid);
            acting.chown(&fd, None, None)?;
        }
        if let Some(mode) = set.mode {
            let mode = self.permitted_setid_bits(&view, caller, &inode, mode)?;
            if mode & SETGID != 0 {
                // The kernel has taken the bit from whoever may not give it.
                acting.set_fsetid(true);
            }
            acting.chmod(&fd, mode)?;
        }
        if let Some(size) = set.size {
            acting = self.write_as(caller, &inode, self.rights_to_write(caller, &inode)?)?;
            self.truncate(&acting, (&inode, &fd), handle, size, may_wait)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            acting.set_times(&fd, &timestamps(set.atime, set.mtime))?;
        }
        let (stat, validity) = self.watched_stat(&inode)?;
        Ok(self.attr(caller, &inode, &stat, validity))
    }

    /// What remains of a change after the view's policies. EPERM when part of it is refused.
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
            // What comes before an open with O_TRUNC, and does nothing to a device (open(2)), whatever it is shown as.
            FileType::BlockDevice if size == 0 && handle.is_none() => return Ok(()),
            _ => return Err(Errno::INVAL),
        }
        if let Some(handle) = handle
            && let Ok(file) = self.files.get(handle)
            && file.is_writable()
        {
            return acting.truncate(file.open()?, size);
        }
        // Opening waits for others to give back their leases (fcntl(2), F_SETLEASE); no worker does.
        let file = match acting.open_to_truncate(fd, OFlags::NONBLOCK) {
            Err(Errno::AGAIN) if may_wait => acting.open_to_truncate(fd, OFlags::empty())?,
            result => result?,
        };
        acting.truncate(&file, size)
    }

    /// The filesystem's size and room, of the source that the inode is on.
    pub fn statfs(&self, node: NodeId) -> Result<StatVfs> {
        let inode = self.tree.inode(node)?;
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
