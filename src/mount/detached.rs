//! Makes the mount with fsopen(2) and fsmount(2): it is detached at first, and attached once the server answers.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, major, minor, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};
use rustix::process::{getegid, geteuid};

use super::MountPlan;
use super::attributes::attr_masks;
use super::point::MountPoint;
use crate::config::Access;
use crate::error::{Error, Result};

/// Makes a detached tmpfs. Its root belongs to this process's user, and others may not write there.
pub(super) fn tmpfs() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "mode", "755")?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// The longest string value that fsconfig(2) accepts, in bytes.
const MAX_VALUE_LEN: usize = 255;

/// The numbers of the FUSE device: `MISC_MAJOR` and `FUSE_MINOR` of include/linux.
const FUSE_DEVICE: (u32, u32) = (10, 229);

/// Opens /dev/fuse. Status 2 if it is missing, refused, or something else: containers are given empty files in place
/// of devices, and the kernel's answer to one of these (EINVAL from fsconfig(2)) does not say which file it is about.
pub(super) fn open_device() -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = openat(CWD, "/dev/fuse", flags, Mode::empty()).map_err(|e| {
        let advice = match e {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => {
                "/dev/fuse (is the fuse module loaded? try: modprobe fuse)"
            }
            Errno::PERM | Errno::ACCESS => "/dev/fuse (a container must be given this device)",
            _ => "/dev/fuse",
        };
        Error::system(advice, e)
    })?;
    let stat = fstat(&device).map_err(|e| Error::system("/dev/fuse", e))?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !is_device || (major(stat.st_rdev), minor(stat.st_rdev)) != FUSE_DEVICE {
        let (major, minor) = FUSE_DEVICE;
        let what = format!(
            "/dev/fuse is not the FUSE device, which is the character device {major}:{minor} (a container must be given \
             this device)"
        );
        return Err(Error::system(what, Errno::NODEV));
    }
    Ok(device)
}

/// Makes a detached mount. From now on the kernel's FUSE_INIT is queued on the device.
pub(super) fn create(plan: &MountPlan, device: &OwnedFd) -> Result<OwnedFd> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| match e {
        Errno::NODEV => Error::system("this kernel has no FUSE (try: modprobe fuse)", e),
        _ => Error::mount("cannot make a FUSE filesystem", e),
    })?;
    configure(plan, device, &context).map_err(|(option, e)| {
        let reason = context_log(&context);
        let option = if option.is_empty() { String::new() } else { format!(": {option}") };
        Error::mount(format!("cannot make the mount{option}{reason}"), e)
    })?;
    // The context is dropped: it would keep the filesystem alive after the last unmount.
    let (attr, _) = attr_masks(&plan.flags);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attr)
        .map_err(|e| Error::mount("cannot make the mount", e))
}

fn configure(
    plan: &MountPlan,
    device: &OwnedFd,
    context: &OwnedFd,
) -> std::result::Result<(), (&'static str, Errno)> {
    let text = |key: &'static str, value: &[u8]| {
        fsconfig_set_string(context, key, value).map_err(|e| (key, e))
    };
    let flag = |given: bool, key: &'static str| match given {
        true => fsconfig_set_flag(context, key).map_err(|e| (key, e)),
        false => Ok(()),
    };
    text("source", truncated(&plan.fsname).as_bytes())?;
    text("subtype", plan.subtype.as_bytes())?;
    text("fd", device.as_raw_fd().to_string().as_bytes())?;
    text("rootmode", format!("{:o}", plan.root_mode).as_bytes())?;
    text("user_id", geteuid().as_raw().to_string().as_bytes())?;
    text("group_id", getegid().as_raw().to_string().as_bytes())?;
    if let Some(max_read) = plan.max_read {
        text("max_read", max_read.to_string().as_bytes())?;
    }
    flag(plan.kernel_checks, "default_permissions")?;
    flag(plan.access != Access::Owner, "allow_other")?;
    flag(plan.flags.sync, "sync")?;
    flag(plan.flags.dirsync, "dirsync")?;
    fsconfig_create(context).map_err(|e| ("", e))
}

/// Truncates the source column to what fsconfig(2) accepts. The column is informational.
pub(super) fn truncated(name: &OsStr) -> &OsStr {
    let bytes = name.as_bytes();
    if bytes.len() <= MAX_VALUE_LEN {
        return name;
    }
    log::warn!(
        "the source's name is longer than {MAX_VALUE_LEN} bytes: the mount table shows its first bytes: size={}",
        bytes.len()
    );
    let mut end = MAX_VALUE_LEN;
    // A multi-byte UTF-8 character is not split.
    while end > 0 && bytes[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    OsStr::from_bytes(&bytes[..end])
}

/// Reads the kernel's messages from a filesystem context: lines like `e fuse: Invalid uid '70000'`.
fn context_log(context: &OwnedFd) -> String {
    let mut text = String::new();
    let mut line = [0; 512];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut line) {
        let message = String::from_utf8_lossy(&line[..length]);
        let message = message.trim_end();
        text.push_str(&format!(" ({})", message.strip_prefix("e ").unwrap_or(message)));
    }
    text
}

/// Attaches a detached mount to the mount point.
pub(super) fn attach(mount: impl AsFd, point: &MountPoint) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", point, "", flags)
        .map_err(|e| Error::mount(format!("cannot mount on {}", point.path().display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_source_is_shortened_between_characters() {
        let long = "ä".repeat(200);
        let short = truncated(OsStr::new(&long));
        assert_eq!(short, OsStr::new(&"ä".repeat(127)));
        assert_eq!(truncated(OsStr::new("/a")), OsStr::new("/a"));
    }
}
