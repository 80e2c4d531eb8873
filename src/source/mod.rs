//! The source tree: its root, its inodes, their descriptors, and the credentials with which workers change it.

mod candidate;
mod changes;
mod clone_namespace;
mod creds;
mod descriptor;
mod dir_path;
mod domains;
mod fd_cache;
mod follow;
mod fs_class;
mod heap_trim;
mod held;
mod held_limit;
mod identity;
mod ino;
mod ino_tag;
mod inode;
mod lookup;
mod mounts;
mod namespace_ids;
mod node_id;
mod path;
mod placeholder;
mod resolve;
mod restrictions;
mod root;
mod same_inode;
mod shard;
mod submounts;
mod sync;
mod table;
mod thread_creds;
mod tree;
mod unlink_pin;
mod unmounts;
mod via_link;

pub use changes::NewNode;
pub use creds::{ActingAs, Credentials};
pub use descriptor::{proc_path, reopen};
pub use fd_cache::HitCount;
pub use fs_class::FsClass;
pub use identity::MAX_TICK;
pub use inode::Inode;
pub use lookup::{FoundInode, OtherServers, PeekedInode};
pub use node_id::NodeId;
pub use resolve::LinkTarget;
pub use restrictions::Restrictions;
pub use root::SourceRoot;
pub use submounts::SourceMounts;
pub use thread_creds::{drop_admin, raise_for_backing_close};
pub(crate) use tree::component;
pub use tree::{Scope, SourceTree};
pub use unlink_pin::UnlinkPin;

#[cfg(test)]
pub(crate) use {mounts::MountFacts, submounts::Submount};
