//! The mount options that apply per mount: their flags for mount_setattr(2), their names for fusermount3, and
//! remounting.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::mount::{FsPickFlags, MountAttrFlags, fsconfig_reconfigure, fsconfig_set_flag, fspick};

use super::attributes::{RESTRICTIONS, attr_masks};
use super::brought::set_options;
use super::point::MountPoint;
use super::record::Record;
use super::table::MountIdentity;
use crate::config::{Atime, MountFlags};
use crate::error::{Error, Result};
use crate::source::Restrictions;
use crate::sys::mount::{make_private, mount_setattr};

/// Gives a mount that the kernel's engine made its options: restrictions also to all mounts below, and everything else to
/// the topmost alone, since what a mount below forbids stays forbidden. The tree gets, or keeps, private propagation.
pub(super) fn set_on_clone(tree: impl AsFd, flags: &MountFlags) -> std::io::Result<()> {
    let (set, clear) = attr_masks(flags);
    let none = MountAttrFlags::empty();
    make_private(tree.as_fd(), set & RESTRICTIONS, none)?;
    mount_setattr(tree.as_fd(), set.difference(RESTRICTIONS), clear)
}

/// Fills in options that were not given from the source's own mount.
#[must_use]
pub fn with_inherited(flags: &MountFlags, source: Restrictions) -> MountFlags {
    MountFlags {
        read_only: flags.read_only.or(Some(source.read_only)),
        nosuid: flags.nosuid.or(Some(source.nosuid)),
        nodev: flags.nodev.or(Some(source.nodev)),
        noexec: flags.noexec.or(Some(source.noexec)),
        nosymfollow: flags.nosymfollow.or(Some(source.nosymfollow)),
        ..flags.clone()
    }
}

/// Replaces the options of an existing mount (`mount -o remount`).
///
/// mount(8) passes the complete list, with options that stay, and drops an option by leaving it out. So options that
/// are not given get mount(8)'s default.
///
/// Refused if `sync` or `dirsync` would change: the daemon implements them, and the kernel does not tell it of a
/// remount.
pub fn remount(mountpoint: &Path, flags: &MountFlags) -> Result<()> {
    let point = MountPoint::open(mountpoint)?;
    let state = MountIdentity::of_descriptor(&point)
        .and_then(|identity| Ok((identity.is_fuse()?, identity.write_through()?)));
    let (is_fuse, now) =
        state.map_err(|e| Error::mount(format!("remount {}", mountpoint.display()), e))?;
    let changed = if now.0 != flags.sync { "sync" } else { "dirsync" };
    if is_fuse && now != (flags.sync, flags.dirsync) {
        return Err(Error::usage(format!(
            "remount {}: option '{changed}' cannot change by a remount: use --reload, or unmount and mount again",
            mountpoint.display()
        )));
    }
    change(mountpoint, flags)
}

/// Replaces the options like [`remount`], but `sync` and `dirsync` as well: for the daemon of the mount.
pub(super) fn change(mountpoint: &Path, flags: &MountFlags) -> Result<()> {
    let failed = |e: std::io::Error| match e.raw_os_error() {
        Some(libc::EPERM) => Error::usage(format!(
            "remount {}: not permitted; mount options can be changed by root only",
            mountpoint.display()
        )),
        Some(libc::EINVAL) => {
            Error::refused(format!("remount {}: this is not a mount point", mountpoint.display()))
        }
        _ => Error::mount(format!("remount {}", mountpoint.display()), e),
    };
    let point = MountPoint::open(mountpoint)?;
    let identity = MountIdentity::of_descriptor(&point).map_err(failed)?;
    let mut flags = with_mount8_defaults(flags);
    if let Some(record) = Record::read(identity).map_err(failed)? {
        // Made by the kernel's engine: the options belong to the mount, the filesystem is the source's.
        if flags.sync || flags.dirsync {
            return Err(Error::usage(format!(
                "remount {}: the kernel made this mount, and sync and dirsync belong to the source's filesystem",
                mountpoint.display()
            )));
        }
        let forbids = attr_masks(&flags).0 & RESTRICTIONS;
        let below = record.below(identity, point.path(), forbids).map_err(failed)?;
        return set_options(&point, &flags, &below).map_err(failed);
    }
    if !identity.is_fuse().map_err(failed)? {
        return Err(Error::refused(format!(
            "remount {}: this is not a mount of ours; use mount(8)",
            mountpoint.display()
        )));
    }
    if !identity.kernel_checks().map_err(failed)? {
        // The kernel opens devices without a request to the server, which could not check permissions.
        flags.nodev = Some(true);
    }
    let flags = &flags;
    let (set, clear) = attr_masks(flags);
    mount_setattr(&point, set, clear).map_err(failed)?;
    match change_filesystem(&point, flags) {
        // In a container the mount may belong to its user namespace while the superblock belongs to the host's.
        Err(e) if e.raw_os_error() == Some(libc::EPERM) && !flags.sync && !flags.dirsync => Ok(()),
        result => result.map_err(failed),
    }
}

/// Fills in options that were not given with mount(8)'s defaults.
fn with_mount8_defaults(flags: &MountFlags) -> MountFlags {
    MountFlags {
        read_only: flags.read_only.or(Some(false)),
        nosuid: flags.nosuid.or(Some(false)),
        nodev: flags.nodev.or(Some(false)),
        noexec: flags.noexec.or(Some(false)),
        nosymfollow: flags.nosymfollow.or(Some(false)),
        nodiratime: flags.nodiratime.or(Some(false)),
        atime: flags.atime.or(Some(Atime::Relative)),
        ..flags.clone()
    }
}

/// Reconfigures the superblock. It is never read-only itself, so that a bind mount of it can be writable; `mount -i -o
/// remount,ro` makes it read-only, and `rw` undoes that.
fn change_filesystem(point: &MountPoint, flags: &MountFlags) -> std::io::Result<()> {
    let context = fspick(point, "", FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH)?;
    fsconfig_set_flag(&context, "rw")?;
    fsconfig_set_flag(&context, if flags.sync { "sync" } else { "async" })?;
    if flags.dirsync {
        fsconfig_set_flag(&context, "dirsync")?;
    }
    Ok(fsconfig_reconfigure(&context)?)
}

/// The options for fusermount3, which accepts no others. It sets `nosuid` and `nodev` itself.
#[must_use]
pub(super) fn fusermount_options(flags: &MountFlags) -> Vec<&'static str> {
    [
        (flags.read_only == Some(true), "ro"),
        (flags.noexec == Some(true), "noexec"),
        (flags.atime == Some(Atime::Never), "noatime"),
        (flags.sync, "sync"),
        (flags.dirsync, "dirsync"),
    ]
    .into_iter()
    .filter_map(|(given, word)| given.then_some(word))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_comes_from_the_source_and_what_is_given_wins() {
        let source = Restrictions { read_only: true, nosuid: true, ..Restrictions::NONE };
        let given = MountFlags { nosuid: Some(false), noexec: Some(true), ..MountFlags::default() };
        let flags = with_inherited(&given, source);
        assert_eq!(
            (flags.read_only, flags.nosuid, flags.nodev, flags.noexec),
            (Some(true), Some(false), Some(false), Some(true))
        );
    }
}
