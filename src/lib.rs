//! shiftbind: a bind mount that shifts ownership.
//!
//! The rooms and the way data flows through them are drawn in ARCHITECTURE.md.

pub mod accounts;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod error;
// What serves the source changes it in `source/changes.rs` alone: `clippy.toml` names the calls.
#[cfg_attr(not(test), deny(clippy::disallowed_methods))]
pub mod fs;
#[cfg_attr(not(test), deny(clippy::disallowed_methods))]
pub mod fuse;
pub mod idmap;
pub mod mount;
#[cfg_attr(not(test), deny(clippy::disallowed_methods))]
pub mod source;
mod sys;
pub mod translate;
pub mod view;
#[cfg_attr(not(test), deny(clippy::disallowed_methods))]
pub mod watch;
