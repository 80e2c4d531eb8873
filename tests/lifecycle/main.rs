//! The life of a mount, for real: every test mounts in a mount namespace of its own. Needs root, /dev/fuse, util-linux
//! and fuse3.

mod background;
mod ending;
mod mount8;
mod namespace;
mod options;
mod service;
mod user;
