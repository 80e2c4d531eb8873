//! A filesystem for the benchmarks: on a loop device with a sparse image, or in memory. Dropping it unmounts.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use rustix::mount::{UnmountFlags, unmount};

use super::daemon::finish;
use super::scratch_dir::ScratchDir;

/// The filesystem's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// xfs on a loop device.
    Xfs,
    /// ext4 on a loop device.
    Ext4,
    /// btrfs on a loop device.
    Btrfs,
    /// tmpfs.
    Tmpfs,
}

impl Kind {
    /// The name for `mount -t`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xfs => "xfs",
            Self::Ext4 => "ext4",
            Self::Btrfs => "btrfs",
            Self::Tmpfs => "tmpfs",
        }
    }

    /// The name of the slab cache that holds the filesystem's inodes.
    pub fn inode_cache(self) -> &'static str {
        match self {
            Self::Xfs => "xfs_inode",
            Self::Ext4 => "ext4_inode_cache",
            Self::Btrfs => "btrfs_inode",
            Self::Tmpfs => "shmem_inode_cache",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Xfs, Self::Ext4, Self::Btrfs, Self::Tmpfs]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| format!("{name}: give one of xfs, ext4, btrfs, tmpfs"))
    }
}

/// A mounted filesystem.
pub struct Filesystem {
    root: PathBuf,
    /// Its type.
    pub kind: Kind,
}

impl Filesystem {
    /// Makes and mounts a filesystem with space for `names` files, most of them empty.
    pub fn new(scratch: &ScratchDir, kind: Kind, names: u64) -> io::Result<Self> {
        let root = scratch.dir("filesystem")?;
        let mount = match kind {
            Kind::Tmpfs => {
                let mut mount = Command::new("mount");
                mount.args(["-t", "tmpfs", "-o", "nr_inodes=0,size=90%", "tmpfs"]).arg(&root);
                mount
            }
            _ => {
                let image = scratch.path().join("image");
                File::create(&image)?.set_len((4 << 30) + names * 4096)?;
                let mut make = Command::new(format!("mkfs.{}", kind.name()));
                match kind {
                    // One inode per 4 KiB block: ext4 creates no inodes after mkfs.
                    Kind::Ext4 => make.args(["-q", "-F", "-i", "4096"]),
                    _ => make.arg("-q"),
                };
                finish(make.arg(&image))?;
                let mut mount = Command::new("mount");
                mount.args(["-o", "loop"]).arg(&image).arg(&root);
                mount
            }
        };
        let mut mount = mount;
        finish(&mut mount)?;
        Ok(Self { root, kind })
    }

    /// The mount point.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Writes all dirty data to disk, so that write-back does not run while something else is timed.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.root)?)?)
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.root, UnmountFlags::empty()) {
            eprintln!("cannot unmount {}: {error}", self.root.display());
            let _ = unmount(&self.root, UnmountFlags::DETACH);
        }
    }
}
