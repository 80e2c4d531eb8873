//! The kernel's numbers of inodes, and the name under which it finds the source's root.
//!
//! The kernel makes the inode of a FUSE filesystem's own root before it has asked what the server can do, and so never keeps
//! what it is told of that inode's ACL (ACL_DONT_CACHE in Linux `fuse_init_inode`): each path that begins there would cost
//! a request of everyone who does not own the root. So what is attached to the mount point is not that root but a
//! directory in it, which is the source's root under another number: an inode like any other.

use std::ffi::OsStr;

use fuser::INodeNo;

use crate::source::NodeId;

/// The name of that directory, which the mount table shows as the mount's root.
const NAME: &str = "shifted";

/// See the module's head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wire {
    /// The number of the source's root where it is not the filesystem's own root.
    root: Option<u64>,
}

impl Wire {
    /// Numbers for a source whose root has this inode number. `None`: the filesystem's own root is attached.
    pub(super) fn new(root: Option<u64>) -> Self {
        Self { root }
    }

    /// What is to be attached in place of the filesystem's own root.
    pub(super) fn attached(self) -> Option<&'static OsStr> {
        self.root.map(|_| OsStr::new(NAME))
    }

    /// Whether a name in a directory is the one under which the source's root is found: its number.
    pub(super) fn root_at(self, dir: INodeNo, name: &OsStr) -> Option<INodeNo> {
        let root = self.root.filter(|_| dir.0 == NodeId::ROOT.0 && name == NAME)?;
        Some(INodeNo(root))
    }

    /// The node that the kernel means.
    pub(super) fn node(self, ino: INodeNo) -> NodeId {
        if self.root == Some(ino.0) { NodeId::ROOT } else { NodeId(ino.0) }
    }

    /// The kernel's number of a node.
    pub(super) fn number(self, node: NodeId) -> INodeNo {
        match self.root {
            Some(root) if node == NodeId::ROOT => INodeNo(root),
            _ => INodeNo(node.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_root_has_two_numbers_where_it_is_attached_by_name() {
        let wire = Wire::new(Some(42));
        assert_eq!(wire.attached().unwrap(), NAME);
        assert_eq!(wire.root_at(INodeNo(1), NAME.as_ref()), Some(INodeNo(42)));
        assert_eq!(wire.root_at(INodeNo(42), NAME.as_ref()), None);
        assert_eq!((wire.node(INodeNo(42)), wire.node(INodeNo(1))), (NodeId::ROOT, NodeId::ROOT));
        assert_eq!((wire.number(NodeId::ROOT), wire.number(NodeId(7))), (INodeNo(42), INodeNo(7)));
    }

    #[test]
    fn elsewhere_every_number_is_the_node() {
        let wire = Wire::new(None);
        assert_eq!(wire.attached(), None);
        assert_eq!(wire.root_at(INodeNo(1), NAME.as_ref()), None);
        assert_eq!((wire.node(INodeNo(42)), wire.number(NodeId::ROOT)), (NodeId(42), INodeNo(1)));
    }
}
