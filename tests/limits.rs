//! What the man page says under LIMITS, and that what it says to do instead works.

mod support;

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use support::Mount;

/// Mounts one name over another, for as long as it lives.
struct Bound<'a>(&'a Path);

impl<'a> Bound<'a> {
    fn new(from: &Path, to: &'a Path) -> Self {
        mount_bind(from, to).expect("bind-mount a name over another");
        Self(to)
    }
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_socket_of_the_source_is_reached_at_the_mount_when_it_is_bind_mounted_there() {
    let mount = Mount::identity();
    let (own, here) = (mount.in_source("sock"), mount.join("sock"));
    let listener = UnixListener::bind(&own).expect("listen on the source");
    support::eventually("the socket is shown", || fs::symlink_metadata(&here).is_ok());
    let refused = UnixStream::connect(&here).expect_err("the kernel knows another inode");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let bound = Bound::new(&own, &here);
    UnixStream::connect(&here).expect("connect").write_all(b"hello").expect("write");
    let mut text = String::new();
    listener.accept().expect("accept").0.read_to_string(&mut text).expect("read");
    assert_eq!(text, "hello");
    drop(bound);
}

#[test]
fn a_fifo_of_the_source_is_joined_with_the_mounts_when_it_is_bind_mounted_there() {
    let mount = Mount::identity();
    let (own, here) = (mount.in_source("fifo"), mount.join("fifo"));
    rustix::fs::mknodat(CWD, &own, FileType::Fifo, Mode::RWXU, 0).expect("make a FIFO");
    support::eventually("the FIFO is shown", || fs::symlink_metadata(&here).is_ok());
    let open = |path: &Path, flags| {
        rustix::fs::open(path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            .map(File::from)
    };
    let mut reader = open(&own, OFlags::RDONLY).expect("open to read");
    assert_eq!(
        open(&here, OFlags::WRONLY).err(),
        Some(rustix::io::Errno::NXIO),
        "without a reader"
    );
    let bound = Bound::new(&own, &here);
    let mut writer = open(&here, OFlags::WRONLY).expect("open to write");
    writer.write_all(b"x").expect("write");
    let mut byte = [0];
    reader.read_exact(&mut byte).expect("read");
    assert_eq!(&byte, b"x");
    drop((writer, bound));
}
