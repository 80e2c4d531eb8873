//! The questions: each is one operation in the directory of a layout, which the kernel permits or refuses.

use std::fs;
use std::os::unix::fs as unix;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, XattrFlags, accessat, chown, mknodat, open, renameat_with, utimensat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, chdir};

use super::layout::acl_value;
use super::support::sys;

/// What the operation changes, as far as an option may ignore it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changes {
    Other,
    Owner,
    Group,
    Mode,
}

/// One question.
pub(crate) struct Question {
    pub(crate) name: &'static str,
    pub(crate) changes: Changes,
    pub(crate) ask: fn(&Path) -> Result<(), Errno>,
}

fn io<T>(result: std::io::Result<T>) -> Result<(), Errno> {
    result.map(drop).map_err(|e| Errno::from_io_error(&e).expect("an error of the kernel's"))
}

fn opened(path: &Path, flags: OFlags) -> Result<(), Errno> {
    open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o666)).map(drop)
}

fn renamed(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
    renameat_with(CWD, from, CWD, to, flags)
}

fn timed(path: &Path, access: i64, change: i64) -> Result<(), Errno> {
    let spec = |nsec| match nsec {
        0 => Timespec { tv_sec: 1_000_000, tv_nsec: 0 },
        nsec => Timespec { tv_sec: 0, tv_nsec: nsec },
    };
    let times = Timestamps { last_access: spec(access), last_modification: spec(change) };
    utimensat(CWD, path, &times, AtFlags::empty())
}

fn may(path: &Path, access: Access, flags: AtFlags) -> Result<(), Errno> {
    accessat(CWD, path, access, flags)
}

fn moded(path: &Path, mode: u32) -> Result<(), Errno> {
    rustix::fs::chmod(path, Mode::from_raw_mode(mode))
}

fn owned(path: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    chown(path, uid.map(Uid::from_raw), gid.map(Gid::from_raw))
}

fn grouped(path: &Path, gid: u32) -> Result<(), Errno> {
    owned(path, None, Some(gid))
}

fn attribute(path: &Path, name: &str, value: &[u8]) -> Result<(), Errno> {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty())
}

const ACL: &str = "system.posix_acl_access";

/// The questions of one kind.
macro_rules! questions {
    ($changes:ident: $($name:literal => |$at:ident| $ask:expr;)*) => {
        [$(Question { name: $name, changes: Changes::$changes, ask: |$at| $ask }),*]
    };
}

/// All questions.
pub(crate) fn questions() -> Vec<Question> {
    let looks = questions! { Other:
        "stat" => |at| io(fs::metadata(at.join("d/f")));
        "stat of a link" => |at| io(fs::symlink_metadata(at.join("d/l")));
        "stat through a link" => |at| io(fs::metadata(at.join("d/l")));
        "stat of the directory" => |at| io(fs::metadata(at.join("d")));
        "stat of what is not there" => |at| io(fs::metadata(at.join("d/none")));
        "stat by way of the directory" => |at| io(fs::metadata(at.join("d/s/x")));
        "readlink" => |at| io(fs::read_link(at.join("d/l")));
        "list" => |at| io(fs::read_dir(at.join("d")));
        "list a subdirectory" => |at| io(fs::read_dir(at.join("d/s")));
        "chdir" => |at| { let gone = chdir(at.join("d")); chdir("/")?; gone };
        "list from within" => |at| { chdir(at.join("d"))?; let r = io(fs::read_dir(".")); chdir("/")?; r };
        "access F" => |at| may(&at.join("d/f"), Access::EXISTS, AtFlags::empty());
        "access R" => |at| may(&at.join("d/f"), Access::READ_OK, AtFlags::empty());
        "access W" => |at| may(&at.join("d/f"), Access::WRITE_OK, AtFlags::empty());
        "access X" => |at| may(&at.join("d/f"), Access::EXEC_OK, AtFlags::empty());
        "access RW" => |at| may(&at.join("d/f"), Access::READ_OK | Access::WRITE_OK, AtFlags::empty());
        "eaccess R" => |at| may(&at.join("d/f"), Access::READ_OK, AtFlags::EACCESS);
        "access WX of the directory" => |at| may(&at.join("d"), Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty());
        "getxattr" => |at| rustix::fs::getxattr(at.join("d/f"), "user.a", &mut [0u8; 9][..]).map(drop);
        "listxattr" => |at| rustix::fs::listxattr(at.join("d/f"), &mut [0u8; 99][..]).map(drop);
        "get the ACL" => |at| rustix::fs::getxattr(at.join("d/f"), ACL, &mut [0u8; 99][..]).map(drop);
    };
    let files = questions! { Other:
        "open r" => |at| opened(&at.join("d/f"), OFlags::RDONLY);
        "open w" => |at| opened(&at.join("d/f"), OFlags::WRONLY);
        "open rw" => |at| opened(&at.join("d/f"), OFlags::RDWR);
        "open a" => |at| opened(&at.join("d/f"), OFlags::WRONLY | OFlags::APPEND);
        "open w, truncate" => |at| opened(&at.join("d/f"), OFlags::WRONLY | OFlags::TRUNC);
        "open r, truncate" => |at| opened(&at.join("d/f"), OFlags::RDONLY | OFlags::TRUNC);
        "open with neither" => |at| opened(&at.join("d/f"), OFlags::ACCMODE);
        "open r, create" => |at| opened(&at.join("d/f"), OFlags::RDONLY | OFlags::CREATE);
        "open r, noatime" => |at| opened(&at.join("d/f"), OFlags::RDONLY | OFlags::NOATIME);
        "open the other's rw" => |at| opened(&at.join("d/o"), OFlags::RDWR);
        "open again by a path descriptor" => |at| {
            use std::os::fd::AsRawFd;
            let fd = open(at.join("d/f"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            opened(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_ref(), OFlags::RDWR)
        };
        "truncate" => |at| io(sys::empty(&at.join("d/f")));
        "run" => |at| {
            let mut program = Command::new(at.join("d/f"));
            let child = program.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
            io(child.and_then(|mut child| child.wait()))
        };
    };
    let names = questions! { Other:
        "create" => |at| opened(&at.join("d/new"), OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL);
        "create, read only" => |at| open(at.join("d/new"), OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC, Mode::from_raw_mode(0o400)).map(drop);
        "create what is there" => |at| opened(&at.join("d/f"), OFlags::RDWR | OFlags::CREATE | OFlags::EXCL);
        "mkdir" => |at| io(fs::create_dir(at.join("d/new")));
        "mkdir where one is" => |at| io(fs::create_dir(at.join("d/s")));
        "mkfifo" => |at| mknodat(CWD, at.join("d/new"), FileType::Fifo, Mode::from_raw_mode(0o644), 0);
        "symlink" => |at| io(unix::symlink("x", at.join("d/new")));
        "link" => |at| io(fs::hard_link(at.join("d/f"), at.join("d/new")));
        "link to elsewhere" => |at| io(fs::hard_link(at.join("d/f"), at.join("to/new")));
        "link the other's" => |at| io(fs::hard_link(at.join("d/o"), at.join("to/new")));
        "link a link" => |at| rustix::fs::linkat(CWD, at.join("d/l"), CWD, at.join("to/new"), AtFlags::empty());
        "unlink" => |at| io(fs::remove_file(at.join("d/f")));
        "unlink the other's" => |at| io(fs::remove_file(at.join("d/o")));
        "unlink what is not there" => |at| io(fs::remove_file(at.join("d/none")));
        "unlink a link" => |at| io(fs::remove_file(at.join("d/l")));
        "rmdir" => |at| io(fs::remove_dir(at.join("d/e")));
        "rmdir what is not empty" => |at| io(fs::remove_dir(at.join("d/s")));
        "rename" => |at| renamed(&at.join("d/f"), &at.join("d/new"), RenameFlags::empty());
        "rename away" => |at| renamed(&at.join("d/f"), &at.join("to/new"), RenameFlags::empty());
        "rename the other's away" => |at| renamed(&at.join("d/o"), &at.join("to/new"), RenameFlags::empty());
        "rename over the other's" => |at| renamed(&at.join("d/f"), &at.join("d/o"), RenameFlags::empty());
        "rename to here" => |at| renamed(&at.join("to/t"), &at.join("d/f"), RenameFlags::empty());
        "rename, replacing nothing" => |at| renamed(&at.join("d/f"), &at.join("d/o"), RenameFlags::NOREPLACE);
        "exchange" => |at| renamed(&at.join("d/f"), &at.join("d/o"), RenameFlags::EXCHANGE);
        "exchange with a directory" => |at| renamed(&at.join("to/t"), &at.join("d/s"), RenameFlags::EXCHANGE);
        "move a directory" => |at| renamed(&at.join("d/s"), &at.join("to/new"), RenameFlags::empty());
        "move the directory" => |at| renamed(&at.join("d"), &at.join("to/new"), RenameFlags::empty());
        "rename a directory" => |at| renamed(&at.join("d/s"), &at.join("d/new"), RenameFlags::empty());
        "make a file below" => |at| opened(&at.join("d/s/new"), OFlags::WRONLY | OFlags::CREATE);
    };
    let attributes = questions! { Other:
        "touch" => |at| timed(&at.join("d/f"), UTIME_NOW, UTIME_NOW);
        "set times" => |at| timed(&at.join("d/f"), 0, 0);
        "set one time" => |at| timed(&at.join("d/f"), UTIME_OMIT, 0);
        "set one time to now" => |at| timed(&at.join("d/f"), UTIME_OMIT, UTIME_NOW);
        "set no time" => |at| timed(&at.join("d/f"), UTIME_OMIT, UTIME_OMIT);
        "touch the directory" => |at| timed(&at.join("d"), UTIME_NOW, UTIME_NOW);
        "touch the other's" => |at| timed(&at.join("d/o"), UTIME_NOW, UTIME_NOW);
        "setxattr" => |at| attribute(&at.join("d/f"), "user.b", b"2");
        "setxattr of the directory" => |at| attribute(&at.join("d"), "user.b", b"2");
        "setxattr of the other's" => |at| attribute(&at.join("d/o"), "user.b", b"2");
        "setxattr trusted" => |at| attribute(&at.join("d/f"), "trusted.b", b"2");
        "removexattr" => |at| rustix::fs::removexattr(at.join("d/f"), "user.a");
        "chown(-1, -1)" => |at| owned(&at.join("d/f"), None, None);
    };
    let owners = questions! { Owner:
        "chown to the owner" => |at| owned(&at.join("d/f"), Some(1000), None);
        "chown to another user" => |at| owned(&at.join("d/f"), Some(4000), None);
        "chown the directory" => |at| owned(&at.join("d"), Some(0), None);
        "chown the other's" => |at| owned(&at.join("d/o"), Some(7000), None);
    };
    let groups = questions! { Group:
        "chgrp to the same" => |at| grouped(&at.join("d/f"), 1000);
        "chgrp to 60" => |at| grouped(&at.join("d/f"), 60);
        "chgrp to 4000" => |at| grouped(&at.join("d/f"), 4000);
        "chgrp of the directory" => |at| grouped(&at.join("d"), 60);
    };
    let modes = questions! { Mode:
        "chmod" => |at| moded(&at.join("d/f"), 0o640);
        "chmod with setgid" => |at| moded(&at.join("d/f"), 0o2751);
        "chmod with setuid" => |at| moded(&at.join("d/f"), 0o4711);
        "chmod of the directory" => |at| moded(&at.join("d"), 0o2755);
        "chmod of the other's" => |at| moded(&at.join("d/o"), 0o600);
    };
    // The kernel checks the owner before the daemon may ignore the change.
    let acls = questions! { Other:
        "set the ACL" => |at| attribute(&at.join("d/f"), ACL, &acl_value([6, 5, 4, 3, 7, 1]));
        "remove the ACL" => |at| match rustix::fs::removexattr(at.join("d/f"), ACL) {
            // The layout may have no ACL.
            Err(Errno::NODATA) => Ok(()),
            result => result,
        };
    };
    let all = looks.into_iter().chain(files).chain(names).chain(attributes);
    all.chain(owners).chain(groups).chain(modes).chain(acls).collect()
}
