//! Performs an operation at a mount with the credentials of this process and reports the result.

use std::fmt::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, RawDir, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};

use crate::op::{Op, Seek, Time};
use crate::scenario::Scenario;
use crate::sys;
use crate::value::{Id, Value};

/// The text that an operation returned, and the descriptor that it opened.
pub(crate) type Told = (String, Option<OwnedFd>);

/// Performs `op` below `base`.
pub(crate) fn act(
    op: &Op,
    scenario: &Scenario,
    base: &Path,
    slots: &[Option<BorrowedFd<'_>>],
) -> Result<Told> {
    let at = |path: &str| base.join(path);
    let slot = |n: usize| slots[n].ok_or(Errno::BADF);
    let bytes = |value: Value| value.bytes(&|id, group| id.at_mount(scenario, group));
    let nothing = Ok(String::new());
    let told = match *op {
        Op::Open { path, flags, mode, .. } => {
            // O_NONBLOCK: opening a FIFO must not block the test.
            let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fd = rustix::fs::open(at(path), flags, Mode::from_raw_mode(mode))?;
            return Ok((String::new(), Some(fd)));
        }
        Op::Tmpfile { dir, mode, .. } => {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            let fd = rustix::fs::open(at(dir), flags, Mode::from_raw_mode(mode))?;
            return Ok((stat_text(&rustix::fs::fstat(&fd)?), Some(fd)));
        }
        Op::FdReopen { slot: n, flags } => {
            let path = format!("/proc/self/fd/{}", slot(n)?.as_raw_fd());
            let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fd = rustix::fs::open(path, flags, Mode::empty())?;
            return Ok((String::new(), Some(fd)));
        }
        Op::Stat(path) => stat_text(&rustix::fs::lstat(at(path))?),
        Op::ReadFile(path) => {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fd = rustix::fs::open(at(path), flags, Mode::empty())?;
            read_text(fd.as_fd(), 0, 4096)?
        }
        Op::ReadDir(path) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fd = rustix::fs::open(at(path), flags, Mode::empty())?;
            list(fd.as_fd())?
        }
        Op::Readlink(path) => {
            rustix::fs::readlink(at(path), Vec::new())?.to_string_lossy().into_owned()
        }
        Op::Access { path, mode, effective } => {
            let flags = if effective { AtFlags::EACCESS } else { AtFlags::empty() };
            rustix::fs::accessat(CWD, at(path), mode, flags)?;
            return Ok((String::new(), None));
        }
        Op::Exec(path) => exec(&at(path))?,
        Op::Statfs(path) => {
            let s = rustix::fs::statvfs(at(path))?;
            format!(
                "bsize {} frsize {} blocks {} namemax {}",
                s.f_bsize, s.f_frsize, s.f_blocks, s.f_namemax
            )
        }
        Op::WriteFile { path, flags, size } => {
            let flags = flags | OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fd = rustix::fs::open(at(path), flags, Mode::from_raw_mode(0o666))?;
            rustix::io::write(&fd, &vec![b'w'; size])?.to_string()
        }
        Op::Truncate { path, size } => sys::truncate(&at(path), size).and(nothing)?,
        Op::Mkdir { path, mode } => {
            rustix::fs::mkdir(at(path), Mode::from_raw_mode(mode)).and(nothing)?
        }
        Op::Mknod { path, kind, mode } => {
            let null = rustix::fs::makedev(1, 3);
            rustix::fs::mknodat(CWD, at(path), kind, Mode::from_raw_mode(mode), null)
                .and(nothing)?
        }
        Op::Symlink { path, target } => rustix::fs::symlink(target, at(path)).and(nothing)?,
        Op::Link { old, new } => rustix::fs::link(at(old), at(new)).and(nothing)?,
        Op::Unlink(path) => rustix::fs::unlink(at(path)).and(nothing)?,
        Op::Rmdir(path) => rustix::fs::rmdir(at(path)).and(nothing)?,
        Op::Rename { old, new, flags } => {
            rustix::fs::renameat_with(CWD, at(old), CWD, at(new), flags).and(nothing)?
        }
        Op::Chmod { path, mode } => {
            rustix::fs::chmod(at(path), Mode::from_raw_mode(mode)).and(nothing)?
        }
        Op::Chown { path, uid, gid, follow } => {
            let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
            let (uid, gid) = owner(scenario, uid, gid);
            rustix::fs::chownat(CWD, at(path), uid, gid, flags).and(nothing)?
        }
        Op::Utimens { path, atime, mtime, follow } => {
            let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
            rustix::fs::utimensat(CWD, at(path), &times(atime, mtime), flags).and(nothing)?
        }
        Op::SetXattr { path, name, value, flags } => {
            rustix::fs::setxattr(at(path), name, &bytes(value), flags).and(nothing)?
        }
        Op::GetXattr { path, name, size } => {
            let mut buffer = vec![0; size];
            let len = rustix::fs::lgetxattr(at(path), name, &mut buffer[..])?;
            format!("{len} {}", xattr_value(name, &buffer[..len.min(size)]))
        }
        Op::ListXattr { path, size } => {
            let mut buffer = vec![0; size];
            let len = rustix::fs::llistxattr(at(path), &mut buffer[..])?;
            format!("{len} {:?}", names(&buffer[..len.min(size)]))
        }
        Op::RemoveXattr { path, name } => rustix::fs::removexattr(at(path), name).and(nothing)?,
        Op::FdRead { slot: n, at, len } => read_text(slot(n)?, at, len)?,
        Op::FdWrite { slot: n, at: Some(at), len } => {
            rustix::io::pwrite(slot(n)?, &vec![b'p'; len], at)?.to_string()
        }
        Op::FdWrite { slot: n, at: None, len } => {
            rustix::io::write(slot(n)?, &vec![b'q'; len])?.to_string()
        }
        Op::FdMappedWrite { slot: n } => sys::write_mapped(slot(n)?, b'M').and(nothing)?,
        Op::FdTruncate { slot: n, size } => rustix::fs::ftruncate(slot(n)?, size).and(nothing)?,
        Op::FdAllocate { slot: n, mode, at, len } => {
            rustix::fs::fallocate(slot(n)?, mode, at, len).and(nothing)?
        }
        Op::FdCopyRange { from, to, len } => {
            let (mut off_in, mut off_out) = (0, 1);
            let (from, to) = (slot(from)?, slot(to)?);
            rustix::fs::copy_file_range(from, Some(&mut off_in), to, Some(&mut off_out), len)?
                .to_string()
        }
        Op::FdSeek { slot: n, to, at } => {
            let to = match to {
                Seek::Data => SeekFrom::Data(at),
                Seek::Hole => SeekFrom::Hole(at),
                Seek::End => SeekFrom::End(at.cast_signed()),
            };
            rustix::fs::seek(slot(n)?, to)?.to_string()
        }
        Op::FdStat { slot: n } => stat_text(&rustix::fs::fstat(slot(n)?)?),
        Op::FdChmod { slot: n, mode } => {
            rustix::fs::fchmod(slot(n)?, Mode::from_raw_mode(mode)).and(nothing)?
        }
        Op::FdChown { slot: n, uid, gid } => {
            let (uid, gid) = owner(scenario, uid, gid);
            rustix::fs::fchown(slot(n)?, uid, gid).and(nothing)?
        }
        Op::FdUtimens { slot: n, atime, mtime } => {
            rustix::fs::futimens(slot(n)?, &times(atime, mtime)).and(nothing)?
        }
        Op::FdSetXattr { slot: n, name, value } => {
            rustix::fs::fsetxattr(slot(n)?, name, &bytes(value), XattrFlags::empty())
                .and(nothing)?
        }
        Op::FdGetXattr { slot: n, name } => {
            let mut buffer = [0; 256];
            let len = rustix::fs::fgetxattr(slot(n)?, name, &mut buffer[..])?;
            xattr_value(name, &buffer[..len])
        }
        Op::FdReadDir { slot: n } => {
            let fd = slot(n)?;
            rustix::fs::seek(fd, SeekFrom::Start(0))?;
            list(fd)?
        }
        Op::FdLink { slot: n, new } => {
            let old = format!("/proc/self/fd/{}", slot(n)?.as_raw_fd());
            rustix::fs::linkat(CWD, old, CWD, at(new), AtFlags::SYMLINK_FOLLOW).and(nothing)?
        }
        Op::FdSync { slot: n } => rustix::fs::fsync(slot(n)?).and(nothing)?,
        Op::Close { .. } => String::new(), // the parent closes
    };
    Ok((told, None))
}

fn owner(scenario: &Scenario, uid: Id, gid: Id) -> (Option<Uid>, Option<Gid>) {
    let some = |id: u32| (id != u32::MAX).then_some(id);
    (
        some(uid.at_mount(scenario, false)).map(Uid::from_raw),
        some(gid.at_mount(scenario, true)).map(Gid::from_raw),
    )
}

fn times(atime: Time, mtime: Time) -> Timestamps {
    let spec = |time| match time {
        Time::Omit => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Time::Now => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Time::At(tv_sec, tv_nsec) => Timespec { tv_sec, tv_nsec },
    };
    Timestamps { last_access: spec(atime), last_modification: spec(mtime) }
}

/// The attributes of a stat that both mounts must agree on. Times count only where the test set them, to dates long
/// ago.
pub(crate) fn stat_text(stat: &Stat) -> String {
    let time = |seconds: i64, nanos: u64| {
        if seconds < 1_000_000_000 { format!("{seconds}.{nanos:09}") } else { "now".to_owned() }
    };
    format!(
        "{:o} {}:{} links {} size {} rdev {} blksize {} atime {} mtime {}",
        stat.st_mode,
        stat.st_uid,
        stat.st_gid,
        stat.st_nlink,
        stat.st_size,
        stat.st_rdev,
        stat.st_blksize,
        time(stat.st_atime, stat.st_atime_nsec),
        time(stat.st_mtime, stat.st_mtime_nsec),
    )
}

fn read_text(fd: BorrowedFd<'_>, at: u64, len: usize) -> Result<String> {
    let mut buffer = vec![0; len];
    let len = rustix::io::pread(fd, &mut buffer[..], at)?;
    let sum = buffer[..len].iter().fold(7u32, |sum, b| sum.wrapping_mul(31) + u32::from(*b));
    Ok(format!("{len} bytes, sum {sum}"))
}

fn list(fd: BorrowedFd<'_>) -> Result<String> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut dir = RawDir::new(fd, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = dir.next() {
        let entry = entry?;
        names.push(format!("{} {:?}", entry.file_name().to_string_lossy(), entry.file_type()));
    }
    names.sort();
    Ok(names.join(", "))
}

/// Runs the file, a copy of cat(1), on /proc/self/status and returns its ids and capabilities.
fn exec(path: &Path) -> Result<String> {
    let output = Command::new(path).arg("/proc/self/status").env_clear().output();
    let output = output.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    let mut text = format!("exit {:?} signal {:?}", output.status.code(), output.status.signal());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if ["Uid:", "Gid:", "CapPrm:", "CapEff:"].iter().any(|key| line.starts_with(key)) {
            let _ = write!(text, " {}", line.replace('\t', " "));
        }
    }
    Ok(text)
}

/// The names of a listxattr(2), sorted: their order depends on the filesystem.
pub(crate) fn names(list: &[u8]) -> Vec<String> {
    let mut names: Vec<String> = list
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    names.sort();
    names
}

/// The value of an extended attribute as text. An unmapped id of an ACL is 4294967295 on an idmapped mount and
/// 4294967294 at shiftbind (the kernel takes no invalid id from a FUSE server); both become `unmapped`.
pub(crate) fn xattr_value(name: &str, value: &[u8]) -> String {
    let Some((header, entries)) = value.split_first_chunk::<4>() else {
        return hex(value);
    };
    if !name.starts_with("system.posix_acl_") {
        return hex(value);
    }
    let mut text = format!("version {}", header[0]);
    for entry in entries.chunks(8) {
        let (kind, id) = entry.split_at(entry.len().min(4));
        match id {
            [0xfe | 0xff, 0xff, 0xff, 0xff] => text += &format!(" {}:unmapped", hex(kind)),
            [a, b, c, d] => {
                text += &format!(" {}:{}", hex(kind), u32::from_le_bytes([*a, *b, *c, *d]));
            }
            _ => text += &format!(" {}:{}", hex(kind), hex(id)),
        }
    }
    text
}

/// The name of an error number.
pub(crate) fn errno_name(errno: Errno) -> String {
    let known = [
        (Errno::PERM, "EPERM"),
        (Errno::NOENT, "ENOENT"),
        (Errno::IO, "EIO"),
        (Errno::BADF, "EBADF"),
        (Errno::ACCESS, "EACCES"),
        (Errno::EXIST, "EEXIST"),
        (Errno::XDEV, "EXDEV"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::ISDIR, "EISDIR"),
        (Errno::INVAL, "EINVAL"),
        (Errno::TXTBSY, "ETXTBSY"),
        (Errno::RANGE, "ERANGE"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::OVERFLOW, "EOVERFLOW"),
        (Errno::NODATA, "ENODATA"),
        (Errno::STALE, "ESTALE"),
        (Errno::NOTEMPTY, "ENOTEMPTY"),
        (Errno::LOOP, "ELOOP"),
        (Errno::NXIO, "ENXIO"),
        (Errno::NODEV, "ENODEV"),
    ];
    let name = known.iter().find(|(known, _)| *known == errno);
    name.map_or_else(|| errno.to_string(), |(_, name)| (*name).to_owned())
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}
