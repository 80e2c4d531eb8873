//! Node ids on the wire, and the name under which the kernel finds the source's root.
//!
//! The kernel creates the root inode of a FUSE filesystem before FUSE_INIT has told it what the server supports, and
//! never caches that inode's ACL (ACL_DONT_CACHE in Linux `fuse_init_inode`). Each path that begins there would cost a
//! request for every caller that does not own the root. So the mount point gets not that root but a directory in it,
//! which is the source's root under another node id: an inode like any other.

use std::ffi::OsStr;

use crate::source::NodeId;

/// The name of that directory. The mount table shows it as the mount's root.
const ROOT_NAME: &str = "shifted";

/// Translates between [`NodeId`] and the ids on the wire. See the module's head.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeIds {
    /// The wire id of the source's root where it is not the filesystem's own root (1).
    root: Option<u64>,
}

impl NodeIds {
    /// `root`: the inode number of the source's root. `None`: the filesystem's own root is attached.
    pub(super) fn new(root: Option<u64>) -> Self {
        Self { root }
    }

    /// The name to attach in place of the filesystem's own root.
    pub(super) fn attached_name(self) -> Option<&'static OsStr> {
        self.root.map(|_| OsStr::new(ROOT_NAME))
    }

    /// The wire id of the source's root, if `name` in `dir` is where the kernel finds it.
    pub(super) fn lookup_root(self, dir: u64, name: &OsStr) -> Option<u64> {
        let root = self.root.filter(|_| dir == NodeId::ROOT.0 && name == ROOT_NAME)?;
        Some(root)
    }

    /// The node that the kernel means by an id on the wire.
    pub(super) fn node_id(self, nodeid: u64) -> NodeId {
        if self.root == Some(nodeid) { NodeId::ROOT } else { NodeId(nodeid) }
    }

    /// The id on the wire by which the kernel knows a node.
    pub(super) fn wire_id(self, node: NodeId) -> u64 {
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
        assert_eq!((node_ids.node_id(42), node_ids.node_id(1)), (NodeId::ROOT, NodeId::ROOT));
        assert_eq!((node_ids.wire_id(NodeId::ROOT), node_ids.wire_id(NodeId(7))), (42, 7));
    }

    #[test]
    fn elsewhere_both_ids_are_the_same() {
        let node_ids = NodeIds::new(None);
        assert_eq!(node_ids.attached_name(), None);
        assert_eq!(node_ids.lookup_root(1, ROOT_NAME.as_ref()), None);
        assert_eq!((node_ids.node_id(42), node_ids.wire_id(NodeId::ROOT)), (NodeId(42), 1));
    }
}
