//! fanotify(7) groups that report file handles and names.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::creds::last_errno;
use super::handle::FileHandle;

/// One event of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// FAN_* bits.
    pub mask: u64,
    /// The process that caused it.
    pub pid: i32,
    /// The directory that it happened in or to.
    pub dir: Option<FileHandle>,
    /// The name in the directory; `.` for the directory itself.
    pub name: &'a [u8],
    /// The file that it happened to.
    pub child: Option<FileHandle>,
}

/// Makes a group that reports directory, name and target of each event, without limits on marks and queued events.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN, EINVAL before Linux 5.17.
pub fn init() -> Result<OwnedFd, Errno> {
    let flags = libc::FAN_CLASS_NOTIF
        | libc::FAN_REPORT_DIR_FID
        | libc::FAN_REPORT_NAME
        | libc::FAN_REPORT_FID
        | libc::FAN_REPORT_TARGET_FID
        | libc::FAN_UNLIMITED_QUEUE
        | libc::FAN_UNLIMITED_MARKS
        | libc::FAN_CLOEXEC;
    // SAFETY: takes integers only.
    let fd = unsafe { libc::fanotify_init(flags, libc::O_RDONLY as u32) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: the call has just returned this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds (`add`) or removes events of the mark on the inode that a path leads to.
pub fn mark(group: impl AsFd, add: bool, mask: u64, path: &CStr) -> Result<(), Errno> {
    let flags = if add { libc::FAN_MARK_ADD } else { libc::FAN_MARK_REMOVE };
    // SAFETY: the path is NUL-terminated.
    let result = unsafe {
        libc::fanotify_mark(group.as_fd().as_raw_fd(), flags, mask, libc::AT_FDCWD, path.as_ptr())
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Adds (`add`) or removes an ignore mark for write events of the inode that a path leads to.
pub fn ignore_modify(group: impl AsFd, add: bool, path: &CStr) -> Result<(), Errno> {
    let how = if add { libc::FAN_MARK_ADD } else { libc::FAN_MARK_REMOVE };
    // FAN_MARK_IGNORED_SURV_MODIFY: the ignore mark survives a write.
    let flags = how | libc::FAN_MARK_IGNORED_MASK | libc::FAN_MARK_IGNORED_SURV_MODIFY;
    let group = group.as_fd().as_raw_fd();
    // SAFETY: the path is NUL-terminated.
    let result = unsafe {
        libc::fanotify_mark(group, flags, libc::FAN_MODIFY, libc::AT_FDCWD, path.as_ptr())
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Parses the events read from a group, and stops at the first incomplete one.
pub fn events(mut bytes: &[u8]) -> impl Iterator<Item = Event<'_>> {
    std::iter::from_fn(move || {
        let (event, rest) = parse(bytes)?;
        bytes = rest;
        Some(event)
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?)))
}

/// Parses a `struct fanotify_event_metadata` and its information records (fanotify(7)).
fn parse(bytes: &[u8]) -> Option<(Event<'_>, &[u8])> {
    let len = u32_at(bytes, 0)? as usize;
    let head = u16_at(bytes, 6)?;
    if len < 24 || head > len || bytes.len() < len {
        return None;
    }
    let mask = u64::from_ne_bytes(bytes.get(8..16)?.try_into().ok()?);
    let pid = u32_at(bytes, 20)? as i32;
    let mut event = Event { mask, pid, dir: None, name: b".", child: None };
    let mut info = &bytes[head..len];
    while let Some(size) = u16_at(info, 2) {
        if size < 4 || size > info.len() {
            break;
        }
        let (record, rest) = info.split_at(size);
        info = rest;
        // The filesystem id (8 bytes) lies between the record's header and the handle.
        let Some((handle, after)) = handle_at(record, 12) else { continue };
        match record[0] {
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME => {
                event.dir = Some(handle);
                let name = &record[after.min(record.len())..];
                let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
                event.name = &name[..end];
            }
            libc::FAN_EVENT_INFO_TYPE_DFID => event.dir = Some(handle),
            libc::FAN_EVENT_INFO_TYPE_FID => event.child = Some(handle),
            _ => {}
        }
    }
    Some((event, &bytes[len..]))
}

/// Parses the `struct file_handle` in a record. Returns the offset of its end as well.
fn handle_at(record: &[u8], at: usize) -> Option<(FileHandle, usize)> {
    let len = u32_at(record, at)? as usize;
    let kind = u32_at(record, at + 4)? as i32;
    let start = at + 8;
    let bytes = record.get(start..start.checked_add(len)?)?;
    Some((FileHandle::from_parts(kind, bytes)?, start + len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(kind: u8, ino: u32, name: &[u8]) -> Vec<u8> {
        let mut record = vec![kind, 0, 0, 0];
        record.extend([7; 8]);
        record.extend(8u32.to_ne_bytes());
        record.extend(1u32.to_ne_bytes());
        record.extend(ino.to_ne_bytes());
        record.extend([0; 4]);
        record.extend(name);
        let len = record.len() as u16;
        record[2..4].copy_from_slice(&len.to_ne_bytes());
        record
    }

    fn event(mask: u64, pid: u32, records: &[Vec<u8>]) -> Vec<u8> {
        let infos: Vec<u8> = records.concat();
        let mut event = ((24 + infos.len()) as u32).to_ne_bytes().to_vec();
        event.extend([3, 0]);
        event.extend(24u16.to_ne_bytes());
        event.extend(mask.to_ne_bytes());
        event.extend((-1i32).to_ne_bytes());
        event.extend(pid.to_ne_bytes());
        event.extend(infos);
        event
    }

    #[test]
    fn directory_name_and_target_of_each_event_are_read() {
        let records = [
            record(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, 12, b"name\0\0\0\0"),
            record(libc::FAN_EVENT_INFO_TYPE_FID, 13, b""),
        ];
        let mut bytes = event(libc::FAN_CREATE, 99, &records);
        bytes.extend(event(libc::FAN_Q_OVERFLOW, 0, &[]));
        let read: Vec<_> = events(&bytes).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].mask, read[0].pid, read[0].name), (libc::FAN_CREATE, 99, &b"name"[..]));
        assert_eq!(read[0].dir.unwrap().bytes()[..4], 12u32.to_ne_bytes());
        assert_eq!(read[0].child.unwrap().bytes()[..4], 13u32.to_ne_bytes());
        assert_eq!((read[1].mask, read[1].dir), (libc::FAN_Q_OVERFLOW, None));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = events(&bytes).count();
        }

        #[test]
        fn no_cut_event_makes_it_panic(cut in 0usize..140, flip in 0usize..140, to: u8) {
            let records = [record(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, 12, b"name\0\0\0\0")];
            let mut bytes = event(libc::FAN_CREATE, 99, &records).repeat(2);
            if let Some(byte) = bytes.get_mut(flip) {
                *byte = to;
            }
            bytes.truncate(cut);
            let _ = events(&bytes).count();
        }
    }
}
