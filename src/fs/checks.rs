//! Permission checks for mounts where the kernel must not make them.
//!
//! That is so where a change is ignored, which has to succeed for every caller, and with a mirror, which shows each
//! caller something else. Each check gives the kernel's result for what the view shows to the caller. On other mounts
//! they do nothing.
//!
//! Two checks are weaker than the kernel's. The kernel opens FIFOs and sockets without a request, so the lookup of one
//! is refused to callers that may not use it (device files are disabled by the mount). `.` and `..` are not looked up,
//! so a directory in a path is searched only by its neighbours in the path.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{Access, AtFlags, FileType, OFlags, RenameFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::caller::LazyCallerCreds;
use super::mode_bits::{FMODE_EXEC, GROUP_EXECUTE, SETGID, SETUID, STICKY};
use super::permission::{Capability, Requester, permits};
use super::{Caller, Fs, Result, SetAttr, SetTime};
use crate::source::{Inode, NodeId, OtherServers, proc_path};
use crate::translate::SourceAcl;
use crate::view::{ChangePolicy, PresentedAttr, Viewer};

const READ: Access = Access::READ_OK;
const WRITE: Access = Access::WRITE_OK;
const SEARCH: Access = Access::EXEC_OK;

impl Fs {
    /// Checks access(2): EACCES if the caller may not access the inode in these ways.
    pub fn access(&self, caller: &Caller, node: NodeId, wanted: Access) -> Result<()> {
        let inode = self.tree.inode(node)?;
        self.check(caller, &inode, wanted)?;
        self.mount_permits(&inode, wanted)
    }

    fn check(&self, caller: &Caller, inode: &Inode, wanted: Access) -> Result<()> {
        let stat = self.tree.stat(inode)?;
        self.check_found(&self.requester(caller), caller, inode, &stat, wanted)
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

    /// Reads the access ACL, with ids as stored, limited to the permissions that are shown.
    ///
    /// `None` if there is none, or the source has no ACLs.
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

    /// Checks a lookup in a directory.
    pub(super) fn may_search(&self, caller: &Caller, dir: &Inode) -> Result<()> {
        if self.checks() { self.check(caller, dir, SEARCH) } else { Ok(()) }
    }

    /// Checks the lookup of a FIFO or socket.
    ///
    /// The kernel then opens it, or connects to it, without a request.
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
        self.check_found(&self.requester(caller), caller, inode, stat, wanted)
    }

    /// Checks the listing of a directory.
    pub(super) fn may_list(&self, caller: &Caller, dir: &Inode) -> Result<()> {
        if self.checks() { self.check(caller, dir, READ) } else { Ok(()) }
    }

    /// Checks an open of a regular file.
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

    /// Checks the creation of a name in a directory.
    pub(super) fn may_make_in(&self, caller: &Caller, dir: &Inode) -> Result<()> {
        if self.checks() { self.check(caller, dir, WRITE | SEARCH) } else { Ok(()) }
    }

    /// Checks the removal of a name.
    ///
    /// EACCES by the directory's permissions, EPERM by its sticky bit, EOVERFLOW if the inode's owner or group is
    /// unmapped.
    pub(super) fn may_remove(
        &self,
        caller: &Caller,
        (dir, dir_fd): (&Inode, &OwnedFd),
        name: &CStr,
    ) -> Result<()> {
        if !self.checks() {
            return Ok(());
        }
        self.check_removal(&self.requester(caller), caller, (dir, dir_fd), name).map(drop)
    }

    /// As [`Self::may_remove`]. Returns the attributes of the name, if it exists.
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

    /// Checks the removal of a symbolic link's target (resolve-symlinks).
    ///
    /// The kernel has checked the link only, and has not looked up the directory of the target.
    pub(super) fn may_remove_target(
        &self,
        caller: &Caller,
        (dir_fd, name): (&OwnedFd, &std::ffi::CStr),
    ) -> Result<()> {
        let (requester, view) = (self.requester(caller), self.view());
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

    /// Checks owner and sticky bit of a name to remove (Linux `may_delete`).
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

    /// Checks a rename, a replacement or an exchange.
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
        let requester = self.requester(caller);
        let moved = self.check_removal(&requester, caller, (from.0, from.1), from.2)?;
        // Also if the new name does not exist: the permissions of the directory are the same.
        let target = self.check_removal(&requester, caller, (to.0, to.1), to.2)?;
        if from.0.node() == to.0.node() {
            return Ok(());
        }
        // A directory that gets another parent is written to, because of its `..`.
        let target = target.filter(|_| flags.contains(RenameFlags::EXCHANGE));
        for (entry, stat) in [(from, moved), (to, target)] {
            let Some(stat) = stat else { continue };
            if FileType::from_raw_mode(u32::from(stat.stx_mode)).is_dir() {
                let ((dir, fd, name), asked) = (entry, OtherServers::Asked);
                let inode = self.tree.lookup(dir, fd, name, FileType::Directory, asked)?;
                let checked =
                    self.check_found(&requester, caller, &inode.inode, &inode.stat, WRITE);
                self.undo_lookup(inode.inode.node());
                checked?;
            }
        }
        Ok(())
    }

    /// Checks link(2).
    pub(super) fn may_link(&self, caller: &Caller, inode: &Inode, dir: &Inode) -> Result<()> {
        if !self.checks() {
            return Ok(());
        }
        let (requester, stat) = (self.requester(caller), self.tree.stat(inode)?);
        let file = self.shown(caller, &stat);
        if file.uid.is_none() || file.gid.is_none() {
            return Err(Errno::OVERFLOW);
        }
        // Linux `may_linkat`, with fs.protected_hardlinks of proc_sys_fs(5).
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

    /// Checks that the caller may act as the owner of an inode: EPERM if not.
    pub(super) fn may_act_as_owner(&self, caller: &Caller, inode: &Inode) -> Result<()> {
        if !self.checks() {
            return Ok(());
        }
        let file = self.shown(caller, &self.tree.stat(inode)?);
        match self.requester(caller).acts_as_owner(&file) {
            true => Ok(()),
            false => Err(Errno::PERM),
        }
    }

    /// Checks the use of an extended attribute.
    ///
    /// The kernel itself checks `security.*` and `trusted.*`.
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
        let (requester, stat) = (self.requester(caller), self.tree.stat(inode)?);
        let is_acl = name.starts_with(b"system.");
        // ACLs can be read by all and set by the owner. In a sticky directory, only its owner may set attributes.
        let of_owner = is_acl || (inode.kind().is_dir() && u32::from(stat.stx_mode) & STICKY != 0);
        if wanted.contains(WRITE)
            && of_owner
            && !requester.acts_as_owner(&self.shown(caller, &stat))
        {
            return Err(Errno::PERM);
        }
        if is_acl { Ok(()) } else { self.check_found(&requester, caller, inode, &stat, wanted) }
    }

    /// Reduces a setattr to what the caller may change, after the view's policies.
    ///
    /// See Linux `setattr_prepare`, chown(2), chmod(2), utimensat(2) and truncate(2). `handle_writes`: it came through
    /// a file that is open for writing.
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
        let (requester, stat) = (self.requester(caller), self.tree.stat(inode)?);
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
                // The mirror shows the caller as the owner already. The source keeps its owner, unless the caller may
                // change owners there.
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
                // An ignored chmod succeeds for every caller. The part of it that is applied is for the owner.
                set.mode = None;
            } else if mode & SETGID != 0 && !requester.keeps_setgid(&file) {
                // A caller that is not in the file's group cannot set the setgid bit.
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
