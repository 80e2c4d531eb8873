//! Extended attributes. Values that contain ids are translated, all others pass unchanged.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Access, XattrFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::caller::may_be_admin;
use super::killpriv::KillprivRights;
use super::{Caller, Fs, Result};
use crate::source::{Inode, NodeId, proc_path};
use crate::sys;
use crate::sys::descriptors::DescriptorPath;
use crate::translate::{
    SourceAcl, UNMAPPED_CAPS, XattrKind, classify, value_to_mount, value_to_source,
};
use crate::view::{View, Xattrs};

/// XATTR_SIZE_MAX and XATTR_LIST_MAX of linux/limits.h.
const XATTR_MAX: usize = 65536;

/// An attribute to set (setxattr(2)).
#[derive(Debug, Clone, Copy)]
pub struct SetXattr<'a> {
    /// The name.
    pub name: &'a OsStr,
    /// The value, as shown at the mount.
    pub value: &'a [u8],
    /// XATTR_CREATE, XATTR_REPLACE or 0.
    pub flags: i32,
    /// The kernel asks to clear the setgid bit (FUSE_SETXATTR_ACL_KILL_SGID), which it does only with `idmappable`.
    pub kills_sgid: bool,
}

/// Prefix of attributes for administrators.
const TRUSTED: &[u8] = b"trusted.";

impl Fs {
    /// Returns the value of an attribute, as shown at the mount. ENODATA if there is none.
    pub fn getxattr(&self, caller: &Caller, node: NodeId, name: &OsStr) -> Result<Vec<u8>> {
        self.shows_xattrs()?;
        let inode = self.tree.inode(node)?;
        self.read_as(caller, &inode)?;
        self.may_use_xattr(caller, &inode, name.as_bytes(), Access::READ_OK)?;
        let kind = classify(name.as_bytes());
        if self.hides_xattr(&inode, kind) {
            return Err(Errno::NODATA);
        }
        let fd = self.tree.fd(&inode)?;
        let path = proc_path(&fd);
        let value = match name.as_bytes().starts_with(TRUSTED) {
            // The kernel has checked that the caller has CAP_SYS_ADMIN.
            true => self.read_as_admin(caller, || get(&path, name)),
            false => get(&path, name),
        };
        let value = match value {
            Err(Errno::OVERFLOW) if kind == XattrKind::Capability => UNMAPPED_CAPS.to_vec(),
            // The kernel reads ACLs for its permission checks, and with this error would refuse access to all but the
            // owner.
            Err(Errno::OPNOTSUPP) if kind.is_acl() => return Err(Errno::NODATA),
            value => value?,
        };
        let view = self.view();
        if kind == XattrKind::AclAccess && view.alters_permissions() {
            let acl = self.acl_as_shown(caller, &inode, &value)?;
            return Ok(acl.to_mount(&view.ids).print());
        }
        Ok(value_to_mount(kind, &value, &view.ids)?.into_owned())
    }

    /// Reads attributes with CAP_SYS_ADMIN, without which the source does not show `trusted.*` (xattr(7)).
    fn read_as_admin<T>(&self, caller: &Caller, read: impl FnOnce() -> Result<T>) -> Result<T> {
        let acting = self.act_for(caller)?;
        let _lent = acting.lend(CapabilitySet::SYS_ADMIN)?;
        read()
    }

    /// Returns an access ACL that grants no more than the permissions that are shown.
    fn acl_as_shown(&self, caller: &Caller, inode: &Inode, value: &[u8]) -> Result<SourceAcl> {
        let (mut acl, stat) = (SourceAcl::parse(value)?, self.tree.stat(inode)?);
        let denied = u32::from(self.denied_to_mounter(&self.view().attr_overrides, inode));
        let shown = self.shown(caller, &stat).mode & !denied;
        acl.apply_mode(u32::from(stat.stx_mode), shown);
        Ok(acl)
    }

    /// Sets an attribute. EINVAL if its value contains an unmapped id; nothing is changed then.
    pub fn setxattr(&self, caller: &Caller, node: NodeId, set: &SetXattr<'_>) -> Result<()> {
        let SetXattr { name, value, flags, kills_sgid } = *set;
        let view = self.view();
        self.changes_xattrs(&view)?;
        let inode = self.tree.inode(node)?;
        let kind = classify(name.as_bytes());
        if self.ignores(kind)? {
            return Ok(());
        }
        self.may_change_in_container(name)?;
        self.may_use_xattr(caller, &inode, name.as_bytes(), Access::WRITE_OK)?;
        let value = value_to_source(kind, value, &view.ids)?;
        let fd = self.tree.fd(&inode)?;
        let flags = XattrFlags::from_bits_retain(flags as u32);
        let rights = self.rights_to_change(caller, kind, &inode, Some(kills_sgid))?;
        let acting = self.write_as(caller, &inode, rights)?;
        acting.set_xattr(&fd, name, &value, flags)?;
        self.inode_changed(&inode)
    }

    /// Checks that extended attributes are enabled. ENOSYS if not: the kernel then answers EOPNOTSUPP itself from now
    /// on.
    fn shows_xattrs(&self) -> Result<()> {
        if self.needs.xattrs { Ok(()) } else { Err(Errno::NOSYS) }
    }

    /// Refuses attributes of administrators to a container: EPERM.
    ///
    /// The kernel asks for CAP_SYS_ADMIN in the user namespace of the filesystem for names of `security.*`
    /// (`cap_inode_setxattr`), which root of the container has. On the source they are the machine's.
    fn may_change_in_container(&self, name: &OsStr) -> Result<()> {
        let name = name.as_bytes();
        let is_admins = name.starts_with(TRUSTED)
            || name.starts_with(b"security.") && classify(name) != XattrKind::Capability;
        if self.container.is_some() && is_admins { Err(Errno::PERM) } else { Ok(()) }
    }

    fn changes_xattrs(&self, view: &View) -> Result<()> {
        self.shows_xattrs()?;
        match view.changes.xattrs {
            Xattrs::ReadOnly => Err(Errno::ACCESS),
            _ => Ok(()),
        }
    }

    /// Returns whether a change is ignored.
    ///
    /// Setting an access ACL changes permissions, so the policy for chmod applies. EPERM if that refuses it.
    fn ignores(&self, kind: XattrKind) -> Result<bool> {
        let is_chmod = kind == XattrKind::AclAccess;
        Ok(is_chmod && self.view().changes.chmod.pass(Some(()))?.is_none())
    }

    fn rights_to_change(
        &self,
        caller: &Caller,
        kind: XattrKind,
        inode: &Inode,
        kills_sgid: Option<bool>,
    ) -> Result<KillprivRights> {
        match kind {
            XattrKind::AclAccess => self.rights_to_set_acl(caller, inode, kills_sgid),
            _ => Ok(KillprivRights::ANY),
        }
    }

    /// Returns the names of all attributes, each ended by a NUL.
    ///
    /// `trusted.*` is only for a caller with CAP_SYS_ADMIN (xattr(7)).
    pub fn listxattr(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>> {
        self.shows_xattrs()?;
        let inode = self.tree.inode(node)?;
        let fd = self.tree.fd(&inode)?;
        let path = proc_path(&fd);
        // An overlay whose files any caller copies up asks as the user who mounted it, which /proc does not tell of.
        let is_root = caller.uid().is_some_and(|uid| uid.raw() == 0);
        let is_admin = (is_root || may_be_admin(caller.pid)) && self.creds_of(caller).is_admin();
        let names = if is_admin {
            self.read_as_admin(caller, || list(&path))?
        } else {
            self.read_as(caller, &inode)?;
            self.credentials.drop_lent();
            list(&path)?
        };
        let names = self.shown_names(&inode, names);
        // Some sources list `trusted.*` to every process.
        let is_trusted = |name: &[u8]| name.starts_with(TRUSTED);
        if !is_admin && names.split(|byte| *byte == 0).any(is_trusted) {
            let kept = names.split_inclusive(|byte| *byte == 0).filter(|name| !is_trusted(name));
            return Ok(kept.flatten().copied().collect());
        }
        Ok(names)
    }

    /// Removes an attribute. ENODATA if there is none.
    pub fn removexattr(&self, caller: &Caller, node: NodeId, name: &OsStr) -> Result<()> {
        self.changes_xattrs(&self.view())?;
        let inode = self.tree.inode(node)?;
        let kind = classify(name.as_bytes());
        if self.ignores(kind)? {
            return Ok(());
        }
        self.may_change_in_container(name)?;
        self.may_use_xattr(caller, &inode, name.as_bytes(), Access::WRITE_OK)?;
        if kind == XattrKind::Capability && caller.is_in_chown() {
            // The kernel removes the capability before it asks for the change of owner, which may fail
            // (`security_inode_killpriv` in `setattr_prepare`). If the change succeeds, the source removes it itself.
            return Ok(());
        }
        let fd = self.tree.fd(&inode)?;
        let rights = self.rights_to_change(caller, kind, &inode, None)?;
        let acting = self.write_as(caller, &inode, rights)?;
        acting.remove_xattr(&fd, name)?;
        self.inode_changed(&inode)
    }
}

fn list(path: &DescriptorPath<'_>) -> Result<Vec<u8>> {
    let mut names = vec![0; 256];
    let len = loop {
        match rustix::fs::listxattr(&**path, &mut names[..]) {
            Err(Errno::RANGE) if names.len() < XATTR_MAX => names.resize(XATTR_MAX, 0),
            len => break len?,
        }
    };
    names.truncate(len);
    Ok(names)
}

pub(super) fn get(path: &DescriptorPath<'_>, name: &OsStr) -> Result<Vec<u8>> {
    let name = CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?;
    // Most values are shorter, and most attributes do not exist.
    let mut short = [0; 256];
    match sys::xattr::get(path, &name, &mut short) {
        Ok(len) => return Ok(short[..len].to_vec()),
        Err(Errno::RANGE) => {}
        Err(e) => return Err(e),
    }
    let mut value = vec![0; 4096];
    loop {
        match sys::xattr::get(path, &name, &mut value) {
            Ok(len) => {
                value.truncate(len);
                return Ok(value);
            }
            Err(Errno::RANGE) if value.len() < XATTR_MAX => value.resize(XATTR_MAX, 0),
            Err(e) => return Err(e),
        }
    }
}
