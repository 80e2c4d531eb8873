//! bindfs itself and this program under its name, side by side: the same options on twins of one source, the same
//! callers, the same questions. Where bindfs is right the answers are the same; where it is not, a test says what is
//! right, and `DIFFERENCES` names it, as the man page does.
//!
//! Compared is the bindfs on PATH (Debian's 1.14.7). What only later ones know is tested by itself.

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
