//! `idmappable`: container managers put maps of their own on a mount.

mod support;

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use support::{Mount, Scratch, as_user, kernel_mount, program, scratch, skipped};

/// A user namespace with a range of ids of the host's, as a container has.
struct Container {
    holder: std::process::Child,
    first: u32,
}

impl Container {
    fn new(first: u32) -> Self {
        let mut holder = program("unshare")
            .args(["--user", "sh", "-c", "echo; read end"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("make a user namespace");
        let ready = holder.stdout.as_mut().expect("piped");
        ready.read_exact(&mut [0]).expect("wait for the user namespace");
        for file in ["uid_map", "gid_map"] {
            let map = format!("0 {first} 65536\n");
            fs::write(format!("/proc/{}/{file}", holder.id()), map).expect("write the map");
        }
        Self { holder, first }
    }

    /// Mounts a clone of a mount with this container's map.
    fn mount(&self, mount: &Mount, at: &Path) -> Clone {
        kernel_mount(mount.path(), at, &[format!("b:0:{}:65536", self.first)]);
        Clone(at.to_owned())
    }

    /// Runs a shell command as a user of the container, in this mount namespace.
    fn run(&self, uid: u32, dir: &Path, script: &str) -> Output {
        program("nsenter")
            .arg(format!("--user=/proc/{}/ns/user", self.holder.id()))
            .args(["--setuid", &uid.to_string(), "--setgid", &uid.to_string()])
            .args(["sh", "-c", script])
            .current_dir(dir)
            .output()
            .expect("enter the user namespace")
    }

    /// As [`Self::run`]: a command that succeeds. Returns what it prints.
    #[track_caller]
    fn says(&self, uid: u32, dir: &Path, script: &str) -> String {
        let output = self.run(uid, dir, script);
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// An idmapped mount that is unmounted at the end.
struct Clone(std::path::PathBuf);

impl Drop for Clone {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// A mount with `idmappable` and these options. `None`, and the reason is told, on a kernel whose FUSE has no idmapped
/// mounts: the mount must say so then.
fn idmappable(options: &[&str]) -> Option<Mount> {
    let builder = Mount::builder().arg("-oidmappable");
    match options.iter().fold(builder, |builder, option| builder.arg(option)).try_start() {
        Ok(mount) => Some(mount),
        Err(why) => {
            assert!(why.contains("this kernel's FUSE has no idmapped mounts"), "{why}");
            skipped("this kernel's FUSE has no idmapped mounts");
            None
        }
    }
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).expect("stat");
    (meta.uid(), meta.gid())
}

fn shiftbind(args: &[&str], mount: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shiftbind"));
    command.args(args).arg(mount).output().expect("run shiftbind")
}

/// A mount and two containers with maps of their own on it.
fn with_two_containers(options: &[&str], test: impl Fn(&Mount, &[(Container, Clone); 2])) {
    let Some(mount) = idmappable(options) else { return };
    let room: Scratch = scratch();
    let containers = [100_000, 200_000].map(|first| {
        let container = Container::new(first);
        let clone = container.mount(&mount, &room.dir(&first.to_string()));
        (container, clone)
    });
    test(&mount, &containers);
    drop(containers);
}

#[test]
fn two_containers_with_maps_of_their_own_share_a_mount() {
    with_two_containers(&[], |mount, [(one, at_one), (two, at_two)]| {
        let (dir, other_dir) = (&at_one.0, &at_two.0);
        one.says(0, dir, "mkdir d && echo text > d/f && chown 33:34 d/f && chmod 640 d/f");
        assert_eq!(owner(&mount.in_source("d")), (0, 0));
        assert_eq!(owner(&mount.in_source("d/f")), (33, 34));
        assert_eq!(owner(&mount.join("d/f")), (33, 34));
        assert_eq!(owner(&dir.join("d/f")), (100_033, 100_034));
        assert_eq!(owner(&other_dir.join("d/f")), (200_033, 200_034));
        assert_eq!(two.says(33, other_dir, "stat -c %u:%g:%a d/f; cat d/f"), "33:34:640\ntext");
        let refused = two.run(1000, other_dir, "cat d/f");
        assert!(!refused.status.success(), "{refused:?}");
        two.says(33, other_dir, "echo more >> d/f && chmod 600 d/f && truncate -s 6 d/f");
        assert_eq!(fs::read_to_string(mount.in_source("d/f")).expect("read"), "text\nm");
        one.says(0, dir, "mv d/f d/g && ln d/g d/h && ln -s g d/s && rm d/g && mkfifo d/p");
        assert_eq!(owner(&mount.in_source("d/h")), (33, 34));
        assert_eq!(owner(&mount.in_source("d/s")), (0, 0));
        one.says(0, dir, "rm -r d");
        assert!(!other_dir.join("d").exists() && !mount.in_source("d").exists());
    });
}

#[test]
fn the_map_of_a_container_comes_on_top_of_the_mounts_own() {
    // 1000 on the source is shown as 0, which the containers have as their root.
    with_two_containers(&["-oidmap=1000:0:65536"], |mount, [(one, at_one), (two, at_two)]| {
        chown(mount.source(), Some(1000), Some(1000)).expect("chown");
        support::eventually("the mount shows the new owner", || owner(mount.path()) == (0, 0));
        one.says(0, &at_one.0, "echo > f && chown 5:6 f");
        assert_eq!(owner(&mount.in_source("f")), (1005, 1006));
        assert_eq!(two.says(5, &at_two.0, "stat -c %u:%g f && chmod 751 f"), "5:6");
        assert_eq!(fs::metadata(mount.in_source("f")).expect("stat").mode() & 0o777, 0o751);
        // What the mount does not map is no id of any container's.
        fs::write(mount.in_source("foreign"), "").expect("write");
        assert_eq!(one.says(0, &at_one.0, "stat -c %u:%g foreign"), "65534:65534");
        let refused = one.run(0, &at_one.0, "chmod 600 foreign");
        assert!(!refused.status.success(), "{refused:?}");
    });
}

#[test]
fn acls_capabilities_and_locks_work_through_the_map_of_a_container() {
    with_two_containers(&["-osuid"], |mount, [(one, at_one), (two, at_two)]| {
        one.says(
            0,
            &at_one.0,
            "echo > f && setfacl -m u:5:rw f && chmod 711 f && setfattr -n user.k -v v f",
        );
        assert!(two.says(7, &at_two.0, "getfacl -n f").contains("user:5:rw-"));
        let on_source = support::sh_output(mount.source(), "getfacl -n f");
        assert!(on_source.contains("user:5:rw-"), "{on_source}");
        // Of version 3: valid for the root of the container, whose id is stored as the mount shows it.
        one.says(
            0,
            &at_one.0,
            "cp /bin/true prog && setcap cap_net_bind_service+ep prog && getcap prog",
        );
        assert!(
            support::sh_output(mount.source(), "getcap -n prog").contains("cap_net_bind_service")
        );
        one.says(0, &at_one.0, "chmod 4755 prog");
        let held =
            two.says(0, &at_two.0, "flock f sh -c 'flock -n f true && echo free || echo held'");
        assert_eq!(held, "held");
    });
}

#[test]
fn a_host_user_that_a_map_shows_as_root_gets_none_of_roots_rights() {
    with_two_containers(&[], |mount, [(_, at_one), _]| {
        fs::write(mount.in_source("f"), "text").expect("write");
        rustix::fs::setxattr(mount.in_source("f"), "trusted.t", b"v", XattrFlags::empty())
            .expect("setxattr");
        fs::set_permissions(mount.source(), Permissions::from_mode(0o777)).expect("chmod");
        let listed = |path: &Path| {
            let mut names = [0; 256];
            let len = rustix::fs::listxattr(path, &mut names[..]).expect("list");
            String::from_utf8_lossy(&names[..len]).contains("trusted.t")
        };
        assert!(listed(&mount.join("f")), "root sees trusted.* names");
        as_user(100_000, 100_000, &[], || {
            assert!(!listed(&at_one.0.join("f")));
            let report = shiftbind(&["stat"], &at_one.0);
            assert!(!report.status.success(), "{report:?}");
            // Creation comes with the id 0, which owns the file and gives no more.
            let made = at_one.0.join("made");
            fs::write(&made, "").expect("create");
            let set = rustix::fs::setxattr(&made, "trusted.t", b"v", XattrFlags::empty());
            assert_eq!(set, Err(Errno::PERM));
        });
        assert_eq!(owner(&mount.in_source("made")), (0, 0));
    });
}

#[test]
fn commands_that_ask_the_daemon_work_for_root_alone() {
    let Some(mount) = idmappable(&[]) else { return };
    let stat = shiftbind(&["stat"], mount.path());
    assert!(stat.status.success(), "{stat:?}");
    assert!(String::from_utf8_lossy(&stat.stdout).contains("idmappable"), "{stat:?}");
    let list = Command::new(env!("CARGO_BIN_EXE_shiftbind")).arg("list").output().expect("list");
    let at = mount.path().to_str().expect("text").to_owned();
    assert!(String::from_utf8_lossy(&list.stdout).contains(&at), "{list:?}");
    as_user(4000, 4000, &[], || {
        assert!(!shiftbind(&["stat"], mount.path()).status.success());
    });
}

#[test]
fn flags_and_the_setgid_bit_are_set_by_those_who_may() {
    let Some(mount) = idmappable(&[]) else { return };
    if !Command::new("sh")
        .args(["-c", "touch probe && chattr +i probe && chattr -i probe"])
        .current_dir(mount.source())
        .output()
        .is_ok_and(|probe| probe.status.success())
    {
        return skipped("the source's filesystem has no immutable flag");
    }
    support::sh(mount.path(), "touch f; chattr +i f; lsattr f | grep -q -- '-i-'; chattr -i f");
    fs::write(mount.in_source("g"), "").expect("write");
    chown(mount.in_source("g"), Some(5000), Some(6000)).expect("chown");
    // The ACL of an owner that is not in the group takes the setgid bit, that of a member keeps it.
    for (groups, mode) in [(&[][..], 0o754), (&[6000], 0o2754)] {
        fs::set_permissions(mount.in_source("g"), Permissions::from_mode(0o2754)).expect("chmod");
        as_user(5000, 5000, groups, || {
            support::sh(mount.path(), "setfacl -m u:7:r g");
        });
        let now = fs::metadata(mount.in_source("g")).expect("stat").mode() & 0o7777;
        assert_eq!(now, mode | 0o040 & 0o070, "groups {groups:?}: {now:o}");
    }
}

#[test]
fn it_is_refused_where_the_server_of_the_source_checks_callers() {
    let inner = Mount::identity();
    let outer = Mount::builder().source(inner.path()).arg("-oidmappable").try_start();
    let why = outer.err().expect("refused");
    assert!(why.contains("option 'idmappable': source "), "{why}");
    assert!(why.contains("is on a FUSE or network filesystem"), "{why}");
}

#[test]
fn a_hard_link_to_a_file_with_hidden_set_bits_is_for_the_hosts_root_alone() {
    let room = scratch();
    let fill = "mkdir -p source/sub; mount -t tmpfs -o nosuid,mode=777 test source/sub; echo > source/sub/f
        chown 5000:5000 source/sub/f; chmod 4755 source/sub/f";
    support::sh(room.path(), fill);
    let source = room.join("source");
    if let Ok(mount) = Mount::builder().source(&source).arg("-oidmappable").try_start() {
        let at = |name: &str| mount.join("sub").join(name);
        let linked = as_user(5000, 5000, &[], || fs::hard_link(at("f"), at("by-owner")));
        assert_eq!(linked.err().and_then(|e| e.raw_os_error()), Some(libc::EPERM));
        fs::hard_link(at("f"), at("by-root")).expect("root links");
    } else {
        skipped("this kernel's FUSE has no idmapped mounts");
    }
    unmount(source.join("sub"), UnmountFlags::DETACH).expect("unmount");
}

#[test]
fn a_fuse_filesystem_below_the_source_takes_changes_that_the_kernel_has_checked() {
    let room = scratch();
    let (source, files) = (room.dir("source"), room.dir("files"));
    let below = source.join("sub");
    fs::create_dir(&below).expect("mkdir");
    fs::set_permissions(&files, Permissions::from_mode(0o777)).expect("chmod");
    let inner = Mount::builder().source(&files).mountpoint(&below).start();
    if let Ok(mount) = Mount::builder().source(&source).arg("-oidmappable").try_start() {
        let at = mount.join("sub/f");
        as_user(5000, 5000, &[], || {
            fs::write(&at, "text").expect("create");
            fs::set_permissions(&at, Permissions::from_mode(0o600)).expect("chmod");
            assert_eq!(fs::read_to_string(&at).expect("read"), "text");
        });
        assert_eq!(owner(&files.join("f")), (5000, 5000));
        let refused = as_user(5001, 5001, &[], || fs::read(&at));
        assert_eq!(refused.err().and_then(|e| e.raw_os_error()), Some(libc::EACCES));
    } else {
        skipped("this kernel's FUSE has no idmapped mounts");
    }
    drop(inner);
}
