//! Stand-in until the daemon room lands: mounts in front.
use crate::config::Config;
use crate::error::{Error, Result};
use crate::source::SourceRoot;
use rustix::fd::AsRawFd;
use rustix::fs::{Mode, OFlags};
use rustix::mount::*;

/// Mounts and serves.
pub fn run(config: Config) -> Result<()> {
    let root = SourceRoot::open(&config)?;
    let f = |e: rustix::io::Errno| Error::mount("mount", e);
    let dev = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(f)?;
    let fs = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).map_err(f)?;
    fsconfig_set_string(&fs, "source", &config.source).map_err(f)?;
    fsconfig_set_string(&fs, "subtype", "shiftbind").map_err(f)?;
    fsconfig_set_string(&fs, "fd", dev.as_raw_fd().to_string()).map_err(f)?;
    fsconfig_set_string(&fs, "rootmode", format!("{:o}", root.mode() & 0o170000)).map_err(f)?;
    fsconfig_set_string(&fs, "user_id", "0").map_err(f)?;
    fsconfig_set_string(&fs, "group_id", "0").map_err(f)?;
    fsconfig_set_flag(&fs, "allow_other").map_err(f)?;
    fsconfig_set_flag(&fs, "default_permissions").map_err(f)?;
    fsconfig_create(&fs).map_err(f)?;
    let m = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(f)?;
    drop(fs);
    rustix::process::umask(Mode::empty());
    let server = crate::fuse::Server::start(root, &config, dev)?;
    move_mount(&m, "", rustix::fs::CWD, &config.mountpoint, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(f)?;
    drop(m);
    server.wait()
}
