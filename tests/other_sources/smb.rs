//! A source on SMB (cifs). Server and client run in the network namespace of the test.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::mount::{UnmountFlags, unmount};

use crate::probe;
use crate::support::{LoopFs, Scratch, eventually, loop_fs, scratch, sh, sys};
use crate::survey;

/// An SMB server with one share, and a mount of it.
struct Smb {
    share: PathBuf,
    mounted: PathBuf,
    scratch: Scratch,
    _disk: LoopFs,
}

impl Smb {
    fn start(options: &str) -> Option<Self> {
        if !probe::has(&["cifs"], &["smbd", "smbpasswd", "mount.cifs"]) {
            return None;
        }
        let disk = loop_fs("ext4", 64);
        sys::unshare_network();
        let scratch = scratch();
        let smb = Self {
            share: disk.dir("share"),
            mounted: scratch.dir("mounted"),
            scratch,
            _disk: disk,
        };
        fs::set_permissions(&smb.share, Permissions::from_mode(0o777)).expect("chmod");
        let (dir, share) = (smb.scratch.path().display(), smb.share.display());
        let config = format!(
            "[global]\n  interfaces = lo\n  bind interfaces only = yes\n  server role = standalone\n  \
             private dir = {dir}/private\n  lock directory = {dir}/lock\n  state directory = {dir}/state\n  \
             cache directory = {dir}/cache\n  pid directory = {dir}/pid\n  ncalrpc dir = {dir}/ncalrpc\n  \
             log file = {dir}/smbd.log\n  disable netbios = yes\n  smb ports = 445\n  load printers = no\n\
             [share]\n  path = {share}\n  read only = no\n  admin users = root\n  force create mode = 0\n"
        );
        fs::write(smb.scratch.join("smb.conf"), config).expect("write smb.conf");
        smb.run(
            "ip link set lo up
             mkdir private lock state cache pid ncalrpc
             printf 'secret\\nsecret\\n' | smbpasswd -c $PWD/smb.conf -L -s -a root
             smbd -D -s $PWD/smb.conf",
        );
        let port = "127.0.0.1";
        let command = format!(
            "mount -t cifs -o username=root,password=secret,vers=3.1.1,{options} //{port}/share mounted"
        );
        eventually("the SMB server answers", || std::net::TcpStream::connect((port, 445)).is_ok());
        smb.run(&command);
        Some(smb)
    }

    fn run(&self, script: &str) {
        sh(self.scratch.path(), script);
    }
}

impl Drop for Smb {
    fn drop(&mut self) {
        let _ = unmount(&self.mounted, UnmountFlags::DETACH);
        sh(self.scratch.path(), "kill $(cat pid/smbd.pid) || true");
    }
}

fn everything(name: &str, options: &str, known: &[&str]) {
    let Some(smb) = Smb::start(options) else { return };
    let files = smb.share.join("files");
    fs::create_dir(&files).expect("mkdir on the server");
    survey::fill(&files);
    survey::measure(name, &smb.mounted, &smb.mounted.join("files"));
    survey::compare(name, &smb.mounted, &smb.share, known);
}

#[test]
fn smb_with_one_owner_does_the_same_through_a_map() {
    everything("SMB uid=", "uid=1000,gid=1000,forceuid,forcegid", &[]);
}

#[test]
fn smb_with_windows_acls_does_the_same_through_a_map() {
    // The server makes every file as its own user and with a mode of its own, by which the client's kernel then refuses
    // to open what the caller has just made. At the mount the kernel has decided about that before.
    everything("SMB cifsacl", "cifsacl", &["create as a user"]);
}
