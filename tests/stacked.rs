//! A mount can be a layer of an overlay, also where its source is an overlay itself.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{UnmountFlags, unmount};
use support::{Mount, Scratch, scratch, sh};

/// An overlay that is unmounted at the end. Its upper directory is on a tmpfs: it cannot be on another overlay.
struct Overlay(PathBuf);

impl Overlay {
    /// Mounts one over a lower directory. An error says what the kernel has against it.
    fn over(lower: &Path, room: &Scratch) -> Result<Self, String> {
        let at = room.path().join("merged");
        sh(room.path(), "mkdir t merged; mount -t tmpfs test t; mkdir t/upper t/work");
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            room.path().join("t/upper").display(),
            room.path().join("t/work").display()
        );
        let mut mount = Command::new("mount");
        let output = mount.args(["-t", "overlay", "test", "-o", &options]).arg(&at).output();
        let output = output.expect("run mount");
        match output.status.success() {
            true => Ok(Self(at)),
            false => {
                let _ = unmount(at.with_file_name("t"), UnmountFlags::DETACH);
                Err(String::from_utf8_lossy(&output.stderr).into_owned())
            }
        }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
        let _ = unmount(self.0.with_file_name("t"), UnmountFlags::DETACH);
    }
}

#[test]
fn a_mount_of_an_overlay_is_a_layer_of_another_where_no_data_is_passed() {
    for option in ["passthrough=off", "direct-io", "read-rate=1G", "write-rate=1G"] {
        let (below, above) = (scratch(), scratch());
        let lower = below.dir("lower");
        fs::write(lower.join("f"), "text").expect("write");
        let source = Overlay::over(&lower, &below).expect("an overlay");
        let mount = Mount::builder().source(&source.0).arg(format!("-o{option}")).start();
        let top = Overlay::over(mount.path(), &above).unwrap_or_else(|e| panic!("{option}: {e}"));
        assert_eq!(fs::read_to_string(top.0.join("f")).expect("read"), "text");
        fs::write(top.0.join("f"), "other").expect("copy up and write");
        assert_eq!(fs::read_to_string(mount.join("f")).expect("read"), "text");
        drop(top);
        drop(mount);
    }
}

#[test]
fn a_mount_of_a_plain_directory_is_a_layer_of_an_overlay_and_passes_data() {
    let above = scratch();
    let mount = Mount::identity();
    fs::write(mount.in_source("f"), "text").expect("write");
    let top = Overlay::over(mount.path(), &above).expect("an overlay over a mount");
    assert_eq!(fs::read_to_string(top.0.join("f")).expect("read"), "text");
    drop(top);
}

#[test]
fn a_mount_of_a_fuse_filesystem_is_a_layer_of_an_overlay() {
    let above = scratch();
    let inner = Mount::identity();
    fs::write(inner.in_source("f"), "text").expect("write");
    let outer = Mount::builder().source(inner.path()).start();
    let top = Overlay::over(outer.path(), &above).expect("an overlay over two mounts");
    assert_eq!(fs::read_to_string(top.0.join("f")).expect("read"), "text");
    drop(top);
    drop(outer);
}
