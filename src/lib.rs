//! shiftbind: a bind mount that shifts ownership.
//!
//! The rooms and the way data flows through them are drawn in ARCHITECTURE.md.

pub mod accounts;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod error;
pub mod fs;
pub mod fuse;
pub mod idmap;
pub mod mount;
pub mod source;
mod sys;
pub mod translate;
pub mod view;
pub mod watch;
