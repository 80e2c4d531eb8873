//! Mounts and unmounts as a normal user, through the setuid program fusermount3.

use std::ffi::OsString;
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};

use super::MountPlan;
use super::flags::fusermount_options;
use super::point::MountPoint;
use crate::config::Access;
use crate::error::{Error, Result};

const PROGRAM: &str = "fusermount3";

/// Mounts, and returns the FUSE device. The mount is attached when this returns.
///
/// fusermount3's own auto_unmount is not used: it looks into the mount, and so works with allow_other only.
pub(super) fn mount(plan: &MountPlan, point: &MountPoint) -> Result<OwnedFd> {
    let failed = |e: rustix::io::Errno| Error::system(format!("cannot talk to {PROGRAM}"), e);
    let (own_end, child_end) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
    fcntl_setfd(&child_end, FdFlags::empty()).map_err(failed)?;
    let mut child = Command::new(PROGRAM)
        .arg("-o")
        .arg(options(plan))
        .arg("--")
        .arg(point.path())
        .env("_FUSE_COMMFD", child_end.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| cannot_run(&e))?;
    drop(child_end);
    match receive(&own_end) {
        Some(device) => {
            finish(&mut child);
            Ok(device)
        }
        None => Err(Error::refused(format!(
            "cannot mount on {}: {}",
            point.path().display(),
            with_advice(&finish(&mut child))
        ))),
    }
}

/// Checks what fusermount3 checks before it mounts (fusermount3(1)): it is there, the mount point is the user's, and other
/// users are let in only with the administrator's consent.
pub(super) fn check(plan: &MountPlan, point: &MountPoint) -> Result<()> {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&dirs).any(|dir| dir.join(PROGRAM).exists()) {
        return Err(Error::refused(format!("{PROGRAM} is not in PATH: install fuse3")));
    }
    let path = point.path();
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).map_err(|e| {
        Error::mount(
            format!("{PROGRAM} mounts only where the user may write: {}", path.display()),
            e,
        )
    })?;
    let consents = || {
        let text = std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
        text.lines().any(|line| line.trim() == "user_allow_other")
    };
    if plan.access() != crate::config::Access::Owner && !consents() {
        return Err(Error::refused(
            "option 'allow_other': ask root to write user_allow_other into /etc/fuse.conf, or leave it out",
        ));
    }
    Ok(())
}

/// Unmounts the mount at a path by fusermount3. The caller has checked that it is this process's mount.
///
/// # Errors
/// EBUSY if fusermount3 says that it is in use; else an error with what it says.
pub(super) fn unmount(path: &Path, lazy: bool) -> std::io::Result<()> {
    let mut child = Command::new(PROGRAM)
        .arg(if lazy { "-uz" } else { "-u" })
        .arg("--")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let stderr_text = finish(&mut child);
    match child.wait()?.success() {
        true => Ok(()),
        false if stderr_text.ends_with("Device or resource busy") => {
            Err(std::io::Error::from_raw_os_error(libc::EBUSY))
        }
        false => Err(std::io::Error::other(stderr_text)),
    }
}

fn cannot_run(e: &std::io::Error) -> Error {
    if e.kind() == std::io::ErrorKind::NotFound {
        return Error::system(
            format!(
                "a normal user mounts through {PROGRAM}, which is missing: install fuse3, or mount as root"
            ),
            std::io::Error::from_raw_os_error(libc::ENOENT),
        );
    }
    Error::system(format!("cannot run {PROGRAM}"), std::io::Error::from(e.kind()))
}

fn options(plan: &MountPlan) -> OsString {
    // The list must not begin with a comma.
    let first: &[u8] = if plan.kernel_checks { b"default_permissions" } else { b"rw" };
    let mut text = first.to_vec();
    let mut add = |option: &[u8]| {
        text.push(b',');
        text.extend_from_slice(option);
    };
    for word in fusermount_options(&plan.flags) {
        add(word.as_bytes());
    }
    if plan.access != Access::Owner {
        add(b"allow_other");
    }
    if let Some(max_read) = plan.max_read {
        add(format!("max_read={max_read}").as_bytes());
    }
    add(&[b"subtype=", escaped(plan.subtype.as_bytes()).as_slice()].concat());
    add(&[b"fsname=", escaped(plan.fsname.as_bytes()).as_slice()].concat());
    OsString::from_vec(text)
}

/// Escapes commas and backslashes: a comma ends an option, a backslash escapes.
fn escaped(value: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(value.len());
    for byte in value {
        if matches!(byte, b',' | b'\\') {
            text.push(b'\\');
        }
        text.push(*byte);
    }
    text
}

/// Reads standard error to its end, waits for the process, and returns the text.
fn finish(child: &mut Child) -> String {
    let mut stderr_text = Vec::new();
    if let Some(stderr) = &mut child.stderr {
        // After a read error the text so far is still the best message.
        let _ = stderr.read_to_end(&mut stderr_text);
    }
    let _ = child.wait();
    String::from_utf8_lossy(&stderr_text).trim().replace('\n', "; ")
}

fn with_advice(stderr_text: &str) -> String {
    let advice = if stderr_text.contains("user_allow_other") {
        " (ask root to add that line, or mount without allow_other: --no-allow-other)"
    } else if stderr_text.contains("/dev/fuse") {
        " (the device must be accessible to normal users: mode 0666)"
    } else {
        ""
    };
    match stderr_text {
        "" => format!("{PROGRAM} gave no reason"),
        stderr_text => format!("{stderr_text}{advice}"),
    }
}

/// Receives the device (`SCM_RIGHTS`). `None`: fusermount3 closed the socket without sending it.
fn receive(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut data = [IoSliceMut::new(&mut byte)];
    loop {
        match recvmsg(socket, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MountFlags;

    #[test]
    fn commas_and_backslashes_in_the_source_do_not_end_the_option() {
        let plan = MountPlan {
            fsname: "/a,b\\c".into(),
            subtype: "shiftbind".into(),
            root_mode: 0o040_755,
            flags: MountFlags { read_only: Some(true), ..MountFlags::default() },
            access: Access::Owner,
            max_read: None,
            kernel_checks: true,
            is_container: false,
            namespace: None,
        };
        assert_eq!(
            options(&plan),
            OsString::from(r"default_permissions,ro,subtype=shiftbind,fsname=/a\,b\\c")
        );
    }

    #[test]
    fn a_refusal_for_allow_other_says_what_to_do() {
        let stderr_text = "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
        assert!(with_advice(stderr_text).contains("mount without allow_other"));
    }
}
