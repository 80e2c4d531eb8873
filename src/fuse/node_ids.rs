//! The kernel's numbers of inodes, and the name under which it finds the source's root.
//!
//! The kernel makes the inode of a FUSE filesystem's own root before it has asked what the server can do, and so never
//! keeps what it is told of that inode's ACL (ACL_DONT_CACHE in Linux `fuse_init_inode`): each path that begins there
//! would cost a request of everyone who does not own the root. So what is attached to the mount point is not that root
//! but a directory in it, which is the source's root under another number: an inode like any other.

use std::ffi::OsStr;

use crate::source::NodeId;

/// The name of that directory, which the mount table shows as the mount's root.
const ROOT_NAME: &str = "shifted";

/// See the module's head.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeIds {
    /// The number of the source's root where it is not the filesystem's own root.
    root: Option<u64>,
}

impl NodeIds {
    /// Numbers for a source whose root has this inode number. `None`: the filesystem's own root is attached.
    pub(super) fn new(root: Option<u64>) -> Self {
        Self { root }
    }

    /// What is to be attached in place of the filesystem's own root.
    pub(super) fn attached_name(self) -> Option<&'static OsStr> {
        self.root.map(|_| OsStr::new(ROOT_NAME))
    }

    /// Whether a name in a directory is the one under which the source's root is found: its number.
    pub(super) fn lookup_root(self, dir: u64, name: &OsStr) -> Option<u64> {
        let root = self.root.filter(|_| dir == NodeId::ROOT.0 && name == ROOT_NAME)?;
        Some(root)
    }

    /// The node that the kernel means.
    pub(super) fn from_wire(self, nodeid: u64) -> NodeId {
        if self.root == Some(nodeid) { NodeId::ROOT } else { NodeId(nodeid) }
    }

    /// The kernel's number of a node.
    pub(super) fn to_wire(self, node: NodeId) -> u64 {
        match self.root {
            Some(root) if node == NodeId::ROOT => root,
            _ => node.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_root_has_two_node_ids_where_it_is_attached_by_name() {
        let node_ids = NodeIds::new(Some(42));
        assert_eq!(node_ids.attached_name().unwrap(), ROOT_NAME);
        assert_eq!(node_ids.lookup_root(1, ROOT_NAME.as_ref()), Some(42));
        assert_eq!(node_ids.lookup_root(42, ROOT_NAME.as_ref()), None);
        assert_eq!((node_ids.from_wire(42), node_ids.from_wire(1)), (NodeId::ROOT, NodeId::ROOT));
        assert_eq!((node_ids.to_wire(NodeId::ROOT), node_ids.to_wire(NodeId(7))), (42, 7));
    }

    #[test]
    fn elsewhere_every_wire_id_is_the_node_id() {
        let node_ids = NodeIds::new(None);
        assert_eq!(node_ids.attached_name(), None);
        assert_eq!(node_ids.lookup_root(1, ROOT_NAME.as_ref()), None);
        assert_eq!((node_ids.from_wire(42), node_ids.to_wire(NodeId::ROOT)), (NodeId(42), 1));
    }
}
