//! shiftbind: a bind mount that shifts ownership.
//!
//! ARCHITECTURE.md describes the modules and the life of a request.

// A test or a benchmark may be one long script; the program may not (`clippy.toml` has the length).
#![warn(clippy::too_many_lines)]

pub mod accounts;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod error;
// The modules that serve requests change the source through `source/changes.rs` alone; `clippy.toml` lists the calls
// that are disallowed elsewhere.
#[cfg_attr(not(test), deny(clippy::disallowed_methods))]
pub mod fs;
#[cfg_attr(not(test), deny(clippy::disallowed_methods))]
pub mod fuse;
pub mod idmap;
pub mod mount;
#[cfg_attr(not(test), deny(clippy::disallowed_methods))]
pub mod source;
mod sync;
mod sys;
pub mod translate;
pub mod view;
#[cfg_attr(not(test), deny(clippy::disallowed_methods))]
pub mod watch;
