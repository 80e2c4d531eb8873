//! Thin wrappers of system calls that rustix lacks. All `unsafe` code of the project is in this directory.

pub mod accounts;
pub mod creds;
pub mod descriptors;
pub mod fanotify;
pub mod file;
pub mod fuse;
pub mod handle;
pub mod idmapped;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod mountinfo;
pub mod namespace;
pub mod open_tree_attr;
pub mod proc_status;
pub mod process;
pub mod sandboxed_ioctl;
mod seccomp;
pub mod signal;
pub mod terminal;
pub mod user_namespace;
pub mod xattr;
