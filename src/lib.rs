//! shiftbind: a bind mount that shifts ownership.
//!
//! ARCHITECTURE.md describes the modules and the life of a request.
//!
//! Public is what the program `shiftbind` needs: the command line ([`cli`]) becomes a [`Config`], which [`daemon::run`]
//! mounts and serves. [`idmap`] translates ids and needs nothing else. No other part is promised to stay as it is.
//!
//! ```
//! use shiftbind::idmap::{Extent, IdMap, MountUid, SourceUid, User};
//!
//! // The source's 0..65536 are the mount's 100000..165536.
//! let map = IdMap::<User>::new(vec![Extent::new(0, 100_000, 65_536)?])?;
//! assert_eq!(map.to_mount(SourceUid::new(1000).unwrap()), MountUid::new(101_000));
//! assert_eq!(map.to_source(MountUid::new(1000).unwrap()), None, "unmapped");
//! # Ok::<(), shiftbind::idmap::MapError>(())
//! ```

// A test or a benchmark may be one long script; the program may not (`clippy.toml` has the length).
#![warn(clippy::too_many_lines)]

mod accounts;
pub mod cli;
mod config;
pub mod daemon;
mod describe;
pub mod error;
// The modules that serve requests change the source through `source/changes.rs` alone; `clippy.toml` lists the calls
// that are disallowed elsewhere.
#[cfg_attr(not(test), deny(clippy::disallowed_methods))]
mod fs;
#[cfg_attr(not(test), deny(clippy::disallowed_methods))]
mod fuse;
mod hook;
pub mod idmap;
pub mod inspect;
mod map_from;
mod mount;
mod namespace;
#[cfg_attr(not(test), deny(clippy::disallowed_methods))]
mod source;
mod sync;
mod sys;
mod translate;
mod view;
#[cfg_attr(not(test), deny(clippy::disallowed_methods))]
mod watch;

pub use config::Config;
pub use fuse::{PROTOCOL_VERSION, cache_verdict, may_register_backing_files};
pub use hook::{HookMount, mounts as hook_mounts};
pub use mount::{mount8_command, own_uid_map, propagates, remount, verdict as engine_verdict};
pub use source::SourceMounts;
