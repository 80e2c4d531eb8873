//! Shared by the integration tests: a real mount in a private mount namespace, callers of any uid, filesystems on
//! loop devices, and runs of one closure on a plain directory and on a mount, whose results are compared.

// Every test file compiles this module for itself and uses a part of it.
#![allow(dead_code, unused_imports)]

mod acl;
mod compare;
mod descriptors;
mod fd_table;
mod fuse;
mod locks;
mod machine;
mod mount;
mod patience;
mod process;
mod scratch;
mod small_filesystem;
mod stalled;
mod standin;
pub(crate) mod sys;
mod users;

pub(crate) use acl::posix_acl;
pub(crate) use compare::{same_as_bare, shape};
pub(crate) use descriptors::inheritable;
pub(crate) use fd_table::FdTable;
pub(crate) use fuse::{FuseFs, READ, READDIR, STATFS, Served, serve, serve_owners};
pub(crate) use locks::{Lock, LockKind, Scope};
pub(crate) use machine::{ACCOUNT, cannot_run, copy_program, program, skipped};
pub(crate) use mount::Mount;
pub(crate) use patience::patience;
pub(crate) use process::{Process, eventually, sh, sh_output};
pub(crate) use scratch::{LoopFs, Scratch, loop_fs, needs_loop_devices, scratch};
pub(crate) use small_filesystem::mount_small_filesystem;
pub(crate) use stalled::{StalledListing, Stopped, become_user, lists_into, state_of};
pub(crate) use standin::{mount as kernel_mount, mount_by_engine, user_namespace};
pub(crate) use users::{as_root_with_umask, as_user};

/// The map of the README's example: source id 0 is shown as 100000.
pub(crate) const SHIFT: &str = "b:0:100000:65536";
