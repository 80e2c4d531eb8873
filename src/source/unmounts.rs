//! Lets go of mounts below the source that the host has unmounted.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clone_namespace::{CloneNamespace, Place};
use super::inode::Inode;
use super::node_id::NodeId;
use super::tree::SourceTree;
use crate::error::{errno_field, one_line};
use crate::sys::handle::name_to_handle;

/// How long after an unmount the inodes are looked through again, for those that a lookup under way has added. Chosen.
const LATE: Duration = Duration::from_secs(1);

/// The directories that have a mount point, as the kernel knows them, and the name of the mount point.
type KnownPlace = (Vec<NodeId>, OsString);

/// A mount below the source that is gone.
#[derive(Debug)]
pub struct GoneMount {
    /// The inodes in it that the kernel knows. Only their open files can be used.
    pub inodes: Vec<Arc<Inode>>,
    /// The mount point that the kernel has to look up again. `None`: it was told before, or the mount point is gone as well.
    pub place: Option<KnownPlace>,
}

impl SourceTree {
    /// Returns whether the tree is a clone with mounts below the root.
    #[must_use]
    pub fn follows_unmounts(&self) -> bool {
        self.on_host.is_some()
    }

    /// Detaches from the tree what is unmounted on the host, and reports it. Returns only if this cannot be done.
    ///
    /// The calling thread gets a mount namespace of its own and must do nothing else.
    pub fn follow_unmounts(&self, report: impl Fn(GoneMount)) {
        let Some(on_host) = &self.on_host else { return };
        let Some(top) = self.root().held() else { return };
        let mut namespace = match CloneNamespace::enter(&top, on_host) {
            Ok(namespace) => namespace,
            Err(e) => {
                log::info!(
                    "what is unmounted below the source stays in use, because the daemon cannot follow it: {}",
                    errno_field(e)
                );
                return;
            }
        };
        let mut late: Vec<(u64, Instant)> = Vec::new();
        loop {
            let gone = self.detach_gone(&mut namespace, &top).unwrap_or_else(|e| {
                log::error!("cannot read the mount table: {}", errno_field(e));
                Vec::new()
            });
            for (id, place) in gone {
                report(GoneMount { inodes: self.close(id), place });
                late.push((id, Instant::now()));
            }
            if let Err(e) = namespace.wait((!late.is_empty()).then_some(LATE)) {
                log::error!("cannot wait for unmounts below the source: {}", errno_field(e));
                std::thread::sleep(LATE);
            }
            late.retain(|(id, closed)| {
                let is_young = closed.elapsed() < LATE;
                if !is_young {
                    report(GoneMount { inodes: self.close(*id), place: None });
                }
                is_young
            });
        }
    }

    /// Detaches what is gone on the host. Returns the ids of all mounts that the tree has lost, each with its mount
    /// point, if that is still there.
    fn detach_gone(
        &self,
        namespace: &mut CloneNamespace,
        top: &OwnedFd,
    ) -> io::Result<Vec<(u64, Option<KnownPlace>)>> {
        let mut places = HashMap::new();
        for mount in namespace.gone()? {
            let path = one_line(&String::from_utf8_lossy(&mount.mountpoint));
            match namespace.detach(top, &mount) {
                Ok(Place { dir, name }) => {
                    log::info!("a filesystem below the source was unmounted: path={path}");
                    let handle = name_to_handle(&dir, c"");
                    let dirs = handle.map(|(handle, _)| self.inodes_by_handle(&handle));
                    let nodes = dirs.unwrap_or_default().iter().map(|dir| dir.node()).collect();
                    places.insert(mount.id, (nodes, OsString::from_vec(name)));
                }
                Err(e) => {
                    let errno = errno_field(e);
                    log::info!("cannot let go of a mount below the source: path={path} {errno}");
                }
            }
        }
        let detached = namespace.take_detached()?.into_iter();
        Ok(detached.map(|id| (id, places.remove(&id))).collect())
    }

    /// Closes a mount that the tree has lost: its descriptor and those of all inodes in it, but those of open files.
    /// Returns the inodes.
    ///
    /// To be called after it was detached: a lookup before finds the mount as it was, and one after it what is below.
    fn close(&self, id: u64) -> Vec<Arc<Inode>> {
        let Some(mount) = self.mounts.close(id) else { return Vec::new() };
        let nodes = self.table.nodes();
        let mut inodes: Vec<_> =
            nodes.into_iter().filter_map(|node| self.table.get(node)).collect();
        inodes.retain(|inode| inode.mount() == mount);
        for inode in &inodes {
            self.fd_cache.remove(inode);
            inode.unpin();
        }
        inodes
    }
}
