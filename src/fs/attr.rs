//! Attributes: stat, chmod, chown, truncate, utimens, statfs.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, StatVfs, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::{Attr, Caller, Fs, Result, SetAttr, SetTime, Trust};
use crate::source::{Inode, NodeId, proc_path};
use crate::sys;

impl Fs {
    /// The attributes of an inode.
    pub fn getattr(&self, node: NodeId) -> Result<Attr> {
        let inode = self.tree.inode(node)?;
        let trust = self.cover_attributes(&inode);
        let stat = self.tree.stat(&inode)?;
        Ok(Attr::shown(&inode, &stat, &self.ids, trust))
    }

    /// Changes attributes and tells the new ones. EOVERFLOW when an owner or group to be set has no counterpart on the
    /// source; nothing is changed then.
    ///
    /// `handle`: the open file that the change came through (ftruncate(2)).
    pub fn setattr(
        &self,
        caller: &Caller,
        node: NodeId,
        handle: Option<u64>,
        set: &SetAttr,
    ) -> Result<Attr> {
        let inode = self.tree.inode(node)?;
        let uid = match set.uid {
            Some(uid) => Some(self.ids.uid_to_source(uid).ok_or(Errno::OVERFLOW)?),
            None => None,
        };
        let gid = match set.gid {
            Some(gid) => Some(self.ids.gid_to_source(gid).ok_or(Errno::OVERFLOW)?),
            None => None,
        };
        let fd = self.tree.fd(&inode)?;
        // Nothing at all to set is chown(path, -1, -1), which has its effects all the same.
        if uid.is_some() || gid.is_some() || set.is_empty() {
            let keeps_setgid = self.chown_keeps_setgid(caller, &inode)?;
            self.credentials.set_fsetid(keeps_setgid);
            // The owner first: the source takes setuid and setgid bits, and a mode that came along is the last word.
            let uid = uid.map(|u| Uid::from_raw(u.raw()));
            let gid = gid.map(|g| Gid::from_raw(g.raw()));
            rustix::fs::chownat(&*fd, c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = set.mode {
            self.credentials.set_fsetid(true);
            chmod(&fd, mode & 0o7777)?;
        }
        if let Some(size) = set.size {
            self.write_as(caller, self.rights_to_write(caller, &inode)?)?;
            self.truncate(&inode, &fd, handle, size)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            set_times(&fd, set.atime, set.mtime)?;
        }
        let trust = match inode.is_watched() {
            true => Trust::Watched,
            false => Trust::Fresh,
        };
        Ok(Attr::shown(&inode, &self.tree.stat(&inode)?, &self.ids, trust))
    }

    fn truncate(&self, inode: &Inode, fd: &OwnedFd, handle: Option<u64>, size: u64) -> Result<()> {
        if inode.kind() != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        if let Some(handle) = handle
            && let Ok(file) = self.files.get(handle)
            && file.is_writable()
        {
            return rustix::fs::ftruncate(file.open()?, size);
        }
        sys::file::truncate(&proc_path(fd), size)
    }

    /// The filesystem's size and room, of the source that the inode is on.
    pub fn statfs(&self, node: NodeId) -> Result<StatVfs> {
        let inode = self.tree.inode(node)?;
        let fd = self.tree.fd(&inode)?;
        rustix::fs::fstatvfs(&*fd)
    }
}

fn chmod(fd: &OwnedFd, mode: u32) -> Result<()> {
    match sys::file::chmod_fd(fd, mode) {
        Err(Errno::NOSYS) => {
            let path = proc_path(fd);
            rustix::fs::chmod(&*path, Mode::from_raw_mode(mode))
        }
        result => result,
    }
}

fn set_times(fd: &OwnedFd, atime: Option<SetTime>, mtime: Option<SetTime>) -> Result<()> {
    let spec = |time: Option<SetTime>| match time {
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Some(SetTime::To(t)) => Timespec { tv_sec: t.sec, tv_nsec: t.nsec.into() },
    };
    let times = Timestamps { last_access: spec(atime), last_modification: spec(mtime) };
    rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH)
}
