//! shiftbind: a bind mount that shifts ownership.
//!
//! ARCHITECTURE.md describes the modules and the life of a request.

pub mod accounts;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod describe;
pub mod error;
// The modules that serve requests change the source through `source/changes.rs` alone; `clippy.toml` lists the calls
// that are disallowed elsewhere.
#[cfg_attr(not(test), deny(clippy::disallowed_methods))]
pub mod fs;
#[cfg_attr(not(test), deny(clippy::disallowed_methods))]
pub mod fuse;
pub mod idmap;
pub mod inspect;
mod map_from;
pub mod mount;
#[cfg_attr(not(test), deny(clippy::disallowed_methods))]
pub mod source;
mod sys;
pub mod translate;
pub mod view;
#[cfg_attr(not(test), deny(clippy::disallowed_methods))]
pub mod watch;
