//! The source tree: its root, its inodes, their descriptors, and the credentials with which workers change it.

mod changes;
mod creds;
mod domains;
mod fd_cache;
mod follow;
mod fs_class;
mod heap_trim;
mod identity;
mod inode;
mod lookup;
mod mounts;
mod placeholder;
mod resolve;
mod restrictions;
mod root;
mod same_inode;
mod submounts;
mod table;
mod tree;
mod unlink_pin;

pub use changes::NewNode;
pub use creds::{ActingAs, Credentials, Lent, drop_admin, raise_for_backing_close};
pub use fd_cache::FdCache;
pub use fs_class::FsClass;
pub use identity::MAX_TICK;
pub use inode::{Domain, Inode, NodeId};
pub use lookup::{FoundInode, OtherServers, PeekedInode};
pub use mounts::{InoField, MountFacts, MountIndex, Mounts, ReopenMethod, SourceMount};
pub use resolve::LinkTarget;
pub use restrictions::Restrictions;
pub use root::SourceRoot;
pub use submounts::{SourceMounts, Submount};
pub use table::InodeTable;
pub(crate) use tree::component;
pub use tree::{Scope, SourceTree, proc_path, reopen};
pub use unlink_pin::UnlinkPin;
