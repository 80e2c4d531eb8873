//! Permission checks of our own, for mounts where the kernel must not check: what is ignored has to succeed for
//! everybody, and what a mirror shows depends on who looks. Each says what the kernel would, on what is shown to the
//! caller; elsewhere none of this runs.
//!
//! Some ways lead past us there. The kernel opens FIFOs and sockets without a request: who may not use one does not get
//! to it (devices are shut off by the mount). `.` and `..` are not looked up, so that a directory on the way is
//! searched by its neighbours in the path only.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{Access, AtFlags, FileType, OFlags, RenameFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::caller::LazyCallerCreds;
use super::killpriv::{SETGID, SETUID};
use super::permission::{Capability, Requester, permits};
use super::restricted::FMODE_EXEC;
use super::{Caller, Fs, Result, SetAttr, SetTime};
use crate::source::{Inode, NodeId, proc_path};
use crate::translate::SourceAcl;
use crate::view::{ChangePolicy, PresentedAttr, Viewer};

/// S_ISVTX of inode(7).
const STICKY: u32 = 0o1000;
pub(super) const GROUP_EXECUTE: u32 = 0o010;

const READ: Access = Access::READ_OK;
const WRITE: Access = Access::WRITE_OK;
const SEARCH: Access = Access::EXEC_OK;

impl Fs {
    /// Whether the caller may access an inode in these ways: access(2). EACCES if not.
    pub fn access(&self, caller: &Caller, node: NodeId, wanted: Access) -> Result<()> {
        let inode = self.tree.inode(node)?;
        self.check(caller, &inode, wanted)?;
        self.mount_permits(&inode, wanted)
    }

    fn check(&self, caller: &Caller, inode: &Inode, wanted: Access) -> Result<()> {
        let stat = self.tree.stat(inode)?;
        self.check_found(&LazyCallerCreds::of(caller), caller, inode, &stat, wanted)
    }

    fn check_found(
        &self,
        requester: &LazyCallerCreds<'_>,
        caller: &Caller,
        inode: &Inode,
        stat: &Statx,
        wanted: Access,
    ) -> Result<()> {
        let (mut file, view) = (self.shown(caller, stat), self.view());
        file.mode &= !u32::from(self.denied_to_mounter(&view.attr_overrides, inode));
        let acl = || match self.needs.xattrs {
            true => self.access_acl(&*self.tree.fd(inode)?, stat, &file),
            false => Ok(None),
        };
        match permits(requester, &file, acl, &view.ids, wanted)? {
            true => Ok(()),
            false => Err(Errno::ACCESS),
        }
    }

    /// The access ACL, with ids as stored and as far as the permissions that are shown go; `None` where there is none
    /// or the source knows no ACLs.
    fn access_acl(
        &self,
        fd: &OwnedFd,
        stat: &Statx,
        shown: &PresentedAttr,
    ) -> Result<Option<SourceAcl>> {
        match super::xattr::get(&proc_path(fd), "system.posix_acl_access".as_ref()) {
            Ok(value) => {
                let mut acl = SourceAcl::parse(&value)?;
                acl.apply_mode(u32::from(stat.stx_mode), shown.mode);
                Ok(Some(acl))
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether names in a directory may be looked up.
    pub(super) fn may_search(&self, caller: &Caller, dir: &Inode) -> Result<()> {
        if self.checks() { self.check(caller, dir, SEARCH) } else { Ok(()) }
    }

    /// Whether a FIFO or socket may be got at, which the kernel then opens or connects to without asking.
    pub(super) fn may_reach_special(
        &self,
        caller: &Caller,
        inode: &Inode,
        stat: &Statx,
    ) -> Result<()> {
        let wanted = match inode.kind() {
            FileType::Fifo => READ | WRITE,
            FileType::Socket => WRITE,
            _ => return Ok(()),
        };
        if !self.checks() {
            return Ok(());
        }
        self.check_found(&LazyCallerCreds::of(caller), caller, inode, stat, wanted)
    }

    /// Whether a directory may be listed.
    pub(super) fn may_list(&self, caller: &Caller, dir: &Inode) -> Result<()> {
        if self.checks() { self.check(caller, dir, READ) } else { Ok(()) }
    }

    /// Whether a regular file may be opened so.
    pub(super) fn may_open(&self, caller: &Caller, inode: &Inode, flags: OFlags) -> Result<()> {
        if !self.checks() {
            return Ok(());
        }
        let wanted = match flags & OFlags::ACCMODE {
            _ if flags.bits() & FMODE_EXEC != 0 => Access::EXEC_OK,
            OFlags::RDONLY => READ,
            OFlags::WRONLY => WRITE,
            _ => READ | WRITE,
        };
        self.check(caller, inode, wanted)
    }

    /// Whether names may be made in a directory.
    pub(super) fn may_make_in(&self, caller: &Caller, dir: &Inode) -> Result<()> {
        if self.checks() { self.check(caller, dir, WRITE | SEARCH) } else { Ok(()) }
    }

    /// Whether a name may be taken away: EACCES by the directory's permissions, EPERM by its sticky bit, EOVERFLOW for
    /// what is unmapped.
    pub(super) fn may_remove(
        &self,
        caller: &Caller,
        (dir, dir_fd): (&Inode, &OwnedFd),
        name: &CStr,
    ) -> Result<()> {
        if !self.checks() {
            return Ok(());
        }
        self.check_removal(&LazyCallerCreds::of(caller), caller, (dir, dir_fd), name).map(drop)
    }

    /// As [`Self::may_remove`]; gives what the name means, if anything.
    fn check_removal(
        &self,
        requester: &LazyCallerCreds<'_>,
        caller: &Caller,
        (dir, dir_fd): (&Inode, &OwnedFd),
        name: &CStr,
    ) -> Result<Option<Statx>> {
        let dir_stat = self.tree.stat(dir)?;
        self.check_found(requester, caller, dir, &dir_stat, WRITE | SEARCH)?;
        self.check_victim(requester, caller, &dir_stat, (dir_fd, name))
    }

    /// Whether a name may be taken away from a directory to which a symbolic link led, and which nobody has looked up.
    /// The kernel was not asked about it.
    pub(super) fn may_remove_target(
        &self,
        caller: &Caller,
        (dir_fd, name): (&OwnedFd, &std::ffi::CStr),
    ) -> Result<()> {
        let (requester, view) = (LazyCallerCreds::of(caller), self.view());
        let stat = rustix::fs::statx(dir_fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        let dir = self.shown(caller, &stat);
        let acl = || match self.needs.xattrs {
            true => self.access_acl(dir_fd, &stat, &dir),
            false => Ok(None),
        };
        match permits(&requester, &dir, acl, &view.ids, WRITE | SEARCH)? {
            true => self.check_victim(&requester, caller, &stat, (dir_fd, name)).map(drop),
            false => Err(Errno::ACCESS),
        }
    }

    /// The sticky bit's part of it.
    fn check_victim(
        &self,
        requester: &LazyCallerCreds<'_>,
        caller: &Caller,
        dir_stat: &Statx,
        (dir_fd, name): (&OwnedFd, &std::ffi::CStr),
    ) -> Result<Option<Statx>> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let Ok(stat) = rustix::fs::statx(dir_fd, name, flags, StatxFlags::BASIC_STATS) else {
            return Ok(None);
        };
        let (victim, shown_dir) = (self.shown(caller, &stat), self.shown(caller, dir_stat));
        if victim.uid.is_none() || victim.gid.is_none() {
            return Err(Errno::OVERFLOW);
        }
        let sticky = u32::from(dir_stat.stx_mode) & STICKY != 0;
        if sticky && !requester.owns(&victim) && !requester.owns(&shown_dir) {
            return match requester.has_over(Capability::Fowner, &victim) {
                true => Ok(Some(stat)),
                false => Err(Errno::PERM),
            };
        }
        Ok(Some(stat))
    }

    /// Whether a name may be moved over another, or exchanged with it.
    pub(super) fn may_rename(
        &self,
        caller: &Caller,
        from: (&Inode, &OwnedFd, &CStr),
        to: (&Inode, &OwnedFd, &CStr),
        flags: RenameFlags,
    ) -> Result<()> {
        if !self.checks() {
            return Ok(());
        }
        let requester = LazyCallerCreds::of(caller);
        let moved = self.check_removal(&requester, caller, (from.0, from.1), from.2)?;
        // Also where the new name means nothing yet: the directory's permissions are the same.
        let target = self.check_removal(&requester, caller, (to.0, to.1), to.2)?;
        if from.0.node() == to.0.node() {
            return Ok(());
        }
        // The `..` of a directory that changes its parent is written.
        let target = target.filter(|_| flags.contains(RenameFlags::EXCHANGE));
        for (place, stat) in [(from, moved), (to, target)] {
            let Some(stat) = stat else { continue };
            if FileType::from_raw_mode(u32::from(stat.stx_mode)).is_dir() {
                let inode = self.tree.lookup(place.0, place.1, place.2, FileType::Directory)?;
                let checked =
                    self.check_found(&requester, caller, &inode.inode, &inode.stat, WRITE);
                self.undo_lookup(inode.inode.node());
                checked?;
            }
        }
        Ok(())
    }

    /// Whether an inode may get one more name in a directory.
    pub(super) fn may_link(&self, caller: &Caller, inode: &Inode, dir: &Inode) -> Result<()> {
        if !self.checks() {
            return Ok(());
        }
        let (requester, stat) = (LazyCallerCreds::of(caller), self.tree.stat(inode)?);
        let file = self.shown(caller, &stat);
        if file.uid.is_none() || file.gid.is_none() {
            return Err(Errno::OVERFLOW);
        }
        // Linux `may_linkat`, fs.protected_hardlinks of proc(5).
        if !requester.owns(&file) && protects_hardlinks() {
            let mode = u32::from(stat.stx_mode);
            let runs_as_group = mode & (SETGID | GROUP_EXECUTE) == SETGID | GROUP_EXECUTE;
            let plain = inode.kind().is_file() && mode & SETUID == 0 && !runs_as_group;
            let usable = plain
                && match self.check_found(&requester, caller, inode, &stat, READ | WRITE) {
                    Err(Errno::ACCESS) => false,
                    result => result.map(|()| true)?,
                };
            if !usable && !requester.has_over(Capability::Fowner, &file) {
                return Err(Errno::PERM);
            }
        }
        self.check(caller, dir, WRITE | SEARCH)
    }

    /// Whether the caller may do what an inode's owner may: EPERM if not.
    pub(super) fn may_act_as_owner(&self, caller: &Caller, inode: &Inode) -> Result<()> {
        if !self.checks() {
            return Ok(());
        }
        let file = self.shown(caller, &self.tree.stat(inode)?);
        match LazyCallerCreds::of(caller).acts_as_owner(&file) {
            true => Ok(()),
            false => Err(Errno::PERM),
        }
    }

    /// Whether an extended attribute may be read or changed. The kernel has seen to `security.*` and `trusted.*`.
    pub(super) fn may_use_xattr(
        &self,
        caller: &Caller,
        inode: &Inode,
        name: &[u8],
        wanted: Access,
    ) -> Result<()> {
        if !self.checks() || name.starts_with(b"security.") || name.starts_with(b"trusted.") {
            return Ok(());
        }
        let (requester, stat) = (LazyCallerCreds::of(caller), self.tree.stat(inode)?);
        let is_acl = name.starts_with(b"system.");
        // ACLs everybody reads, and the owner sets. In a directory where everybody makes files, its attributes are his.
        let of_owner = is_acl || (inode.kind().is_dir() && u32::from(stat.stx_mode) & STICKY != 0);
        if wanted.contains(WRITE)
            && of_owner
            && !requester.acts_as_owner(&self.shown(caller, &stat))
        {
            return Err(Errno::PERM);
        }
        if is_acl { Ok(()) } else { self.check_found(&requester, caller, inode, &stat, wanted) }
    }

    /// What of a change of attributes the caller may make, after the view's policies (Linux `setattr_prepare`,
    /// chown(2), chmod(2), utimensat(2), truncate(2)). `handle_writes`: it comes through a file that is open for
    /// writing.
    pub(super) fn may_set(
        &self,
        caller: &Caller,
        inode: &Inode,
        handle_writes: bool,
        mut set: SetAttr,
    ) -> Result<SetAttr> {
        if !self.checks() || set.is_empty() {
            return Ok(set);
        }
        let (requester, stat) = (LazyCallerCreds::of(caller), self.tree.stat(inode)?);
        let file = self.shown(caller, &stat);
        let changes = |wanted| self.check_found(&requester, caller, inode, &stat, wanted);
        // Times that come with a length are those of the write.
        let touches = set.size.is_none()
            && (set.atime, set.mtime) == (Some(SetTime::Now), Some(SetTime::Now));
        if set.size.is_some() && !handle_writes {
            changes(WRITE)?;
        }
        if touches && !requester.acts_as_owner(&file) {
            changes(WRITE)?;
        }
        if (file.uid.is_none() && set.uid.is_none()) || (file.gid.is_none() && set.gid.is_none()) {
            return Err(Errno::OVERFLOW);
        }
        let chowns = |is_mapped| match is_mapped {
            true => requester.has_over(Capability::Chown, &file),
            false => requester.has(Capability::Chown),
        };
        if let Some(uid) = set.uid {
            let is_shown = requester.owns(&file) && file.uid == Some(uid);
            if is_shown && matches!(self.viewer(&self.view(), caller), Viewer::Mirrored(_)) {
                // It is his already, as far as he sees; the source keeps its owner, unless he may give files away
                // there.
                set.uid = chowns(true).then_some(uid);
            } else if !is_shown && !chowns(file.uid.is_some()) {
                return Err(Errno::PERM);
            }
        }
        if let Some(gid) = set.gid {
            let joins = requester.owns(&file) && (file.gid == Some(gid) || requester.is_in(gid));
            if !joins && !chowns(file.gid.is_some()) {
                return Err(Errno::PERM);
            }
        }
        if let Some(mode) = set.mode {
            if !requester.acts_as_owner(&file) {
                if self.view().changes.chmod != ChangePolicy::Ignore {
                    return Err(Errno::PERM);
                }
                // To ignore succeeds for everybody; only the owner sets what is let through of it all the same.
                set.mode = None;
            } else if mode & SETGID != 0 && !requester.keeps_setgid(&file) {
                // Whoever is not in the file's group does not give its rights away.
                set.mode = Some(mode & !SETGID);
            }
        }
        let has_times = set.atime.is_some() || set.mtime.is_some();
        if has_times && set.size.is_none() && !touches && !requester.acts_as_owner(&file) {
            return Err(Errno::PERM);
        }
        Ok(set)
    }
}

pub(super) fn protects_hardlinks() -> bool {
    std::fs::read("/proc/sys/fs/protected_hardlinks").is_ok_and(|value| !value.starts_with(b"0"))
}
