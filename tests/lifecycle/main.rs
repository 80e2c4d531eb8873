//! The life of a mount: every test mounts in a private mount namespace. Needs root, /dev/fuse, util-linux and fuse3.

mod background;
mod commands;
mod ending;
mod engine;
mod exposition;
mod intent;
mod kernel_mount8;
mod kernel_reload;
mod kernel_source;
mod map_from;
mod mount8;
mod namespace;
mod options;
mod service;
mod statistics;
mod user;
