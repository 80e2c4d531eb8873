//! A source on NFS. Server and client run in the network namespace of the test and speak over its loopback device.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::mount::{UnmountFlags, unmount};

use crate::probe;
use crate::support::{LoopFs, Scratch, loop_fs, scratch, sh, sys};
use crate::survey;

/// An NFS server with one export, and a mount of it.
pub(crate) struct Nfs {
    /// The exported directory, as the server sees it.
    pub(crate) export: PathBuf,
    /// Where the client has mounted it.
    pub(crate) mounted: PathBuf,
    scratch: Scratch,
    _disk: LoopFs,
}

impl Nfs {
    /// Starts a server and mounts its export. `None`, and the test is skipped, if something for that is missing.
    pub(crate) fn start(version: &str, options: &str) -> Option<Self> {
        if !probe::has(
            &["nfs", "nfs4", "nfsd"],
            &["rpc.nfsd", "rpc.mountd", "rpcbind", "mount.nfs"],
        ) {
            return None;
        }
        let disk = loop_fs("ext4", 64);
        sys::unshare_network();
        let scratch = scratch();
        let nfs = Self {
            export: disk.dir("export"),
            mounted: scratch.dir("mounted"),
            scratch,
            _disk: disk,
        };
        fs::set_permissions(&nfs.export, Permissions::from_mode(0o777)).expect("chmod");
        let exported = nfs.export.display();
        // The daemons find their state in the test's mount namespace, and the kernel's parts are of its network
        // namespace. A server that starts waits for its clients to reclaim locks, 90 s unless told otherwise.
        nfs.run(&format!(
            "ip link set lo up
             mount -t tmpfs run /run
             mount -t tmpfs nfs /var/lib/nfs
             mkdir -p /run/rpcbind /run/rpc_pipefs /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/v4recovery /var/lib/nfs/nfsdcld
             touch /var/lib/nfs/etab /var/lib/nfs/rmtab /var/lib/nfs/state
             mount -t rpc_pipefs rpc /run/rpc_pipefs
             mount -t nfsd nfsd /proc/fs/nfsd
             echo 3 > /proc/sys/fs/nfs/nlm_timeout
             rpcbind -w
             rpc.statd --no-notify
             nfsdcld
             rpc.nfsd -G 10 -L 10 4
             rpc.mountd
             exportfs -o rw,no_subtree_check,{options} '127.0.0.1:{exported}'"
        ));
        nfs.mount(version);
        Some(nfs)
    }

    fn mount(&self, version: &str) {
        let (exported, mounted) = (self.export.display(), self.mounted.display());
        self.run(&format!(
            "mount -t nfs -o {version},sec=sys,timeo=20,retrans=2,actimeo=3 127.0.0.1:{exported} {mounted}"
        ));
    }

    pub(crate) fn run(&self, script: &str) {
        sh(self.scratch.path(), script);
    }

    pub(crate) fn stop(&self) {
        self.run("rpc.nfsd 0");
    }

    pub(crate) fn restart(&self) {
        self.run("rpc.nfsd -G 10 -L 10 4");
    }
}

impl Drop for Nfs {
    fn drop(&mut self) {
        let _ = unmount(&self.mounted, UnmountFlags::DETACH);
        sh(
            self.scratch.path(),
            "exportfs -ua || true; rpc.nfsd 0 || true
             for net in /proc/[0-9]*/ns/net; do
                 [ \"$(readlink $net)\" = \"$(readlink /proc/self/ns/net)\" ] || continue
                 pid=${net#/proc/}; pid=${pid%%/*}
                 case $(cat /proc/$pid/comm 2> /dev/null) in rpc* | nfsdcld) kill $pid || true;; esac
             done
             umount -l /proc/fs/nfsd || true",
        );
    }
}

const VERSIONS: [(&str, &str); 3] =
    [("NFSv3", "vers=3"), ("NFSv4.0", "vers=4.0"), ("NFSv4.2", "vers=4.2")];

fn everything(at: usize, options: &str) {
    let (name, version) = VERSIONS[at];
    let name = format!("{name} {options}");
    let Some(nfs) = Nfs::start(version, options) else { return };
    let files = nfs.export.join("files");
    fs::create_dir(&files).expect("mkdir on the server");
    survey::fill(&files);
    survey::measure(&name, &nfs.mounted, &nfs.mounted.join("files"));
    survey::compare(&name, &nfs.mounted, &nfs.export, &[]);
}

#[test]
fn nfs_3_does_the_same_through_a_map() {
    everything(0, "no_root_squash");
}

#[test]
fn nfs_3_with_root_squash_does_the_same_through_a_map() {
    everything(0, "root_squash");
}

#[test]
fn nfs_4_0_does_the_same_through_a_map() {
    everything(1, "no_root_squash");
}

#[test]
fn nfs_4_2_does_the_same_through_a_map() {
    everything(2, "no_root_squash");
}

#[test]
fn nfs_4_2_with_root_squash_does_the_same_through_a_map() {
    everything(2, "root_squash");
}
