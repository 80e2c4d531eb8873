//! Compares bindfs with shiftbind under the name bindfs: the same options on twins of one source, the same callers,
//! the same questions. Where bindfs is right the answers must be equal; where it is wrong a test says what is right,
//! and `DIFFERENCES` and the man page list it.
//!
//! The oracle is the bindfs on PATH (Debian's 1.14.7). Options of later versions are tested without it.

#[allow(dead_code)]
#[path = "../permissions/ask.rs"]
mod ask;
#[allow(dead_code)]
#[path = "../permissions/caller.rs"]
mod caller;
#[allow(dead_code)]
#[path = "../permissions/layout.rs"]
mod layout;
#[path = "../support/mod.rs"]
mod support;

mod differences;
mod observe;
mod sweep;
mod twins;

mod access;
mod attr_overrides;
mod changes;
mod creation;
mod data;
mod links;
mod owners;
mod perms;
mod policies;
mod program;
mod removal;
