//! Thin wrappers of the system calls that rustix lacks. All `unsafe` of the project lives in this folder.

pub mod accounts;
pub mod creds;
pub mod descriptors;
pub mod fanotify;
pub mod file;
pub mod fuse;
pub mod handle;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod process;
pub mod sandboxed_ioctl;
pub mod signal;
pub mod xattr;
