//! The source tree, reached safely: its root, its inodes, their descriptors, and whom we act as on it.

mod changes;
mod creds;
mod domains;
mod empty;
mod fds;
mod follow;
mod identity;
mod inode;
mod kinds;
mod last;
mod lookup;
mod mounts;
mod one;
mod resolve;
mod restrictions;
mod root;
mod submounts;
mod table;
mod thrift;
mod tree;

pub use changes::Node;
pub use creds::{ActingAs, Credentials, Lent, raise_to_let_go};
pub use fds::FdCache;
pub use identity::LONGEST_TICK;
pub use inode::{Domain, Inode, NodeId};
pub use kinds::Kind;
pub use last::LastName;
pub use lookup::{Found, Seen};
pub use mounts::{InoField, MountFacts, MountIndex, Mounts, Reach, SourceMount};
pub use resolve::Target;
pub use restrictions::Restrictions;
pub use root::SourceRoot;
pub use submounts::{SourceMounts, Submount};
pub use table::InodeTable;
pub(crate) use tree::component;
pub use tree::{Scope, SourceTree, proc_path, reopen};
