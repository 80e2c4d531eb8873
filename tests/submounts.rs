//! A mount below the source keeps its restrictions, and pseudo-filesystems are shown as empty.

mod support;

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{self as unix, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::fs::{Access, XattrFlags, getxattr, listxattr, setxattr};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, unmount};
use support::{Mount, SHIFT, Scratch, as_user, eventually, scratch, sh, sh_output};

const USER: u32 = 1234;
/// MS_NOSYMFOLLOW (linux/mount.h).
const NOSYMFOLLOW: MountFlags = MountFlags::from_bits_retain(256);
/// A capability set of version 2 (linux/capability.h): CAP_DAC_READ_SEARCH and CAP_DAC_OVERRIDE, effective.
const DAC_CAPABILITIES: [u8; 20] = [1, 0, 0, 2, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const CAPABILITY: &str = "security.capability";

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("list {}: {e}", dir.display()));
    entries.map(|entry| entry.expect("list").file_name().into_string().expect("text")).collect()
}

/// A source and the mounts that a test makes below it; all end with the test's mount namespace.
struct Source {
    scratch: Scratch,
}

impl Source {
    fn new() -> Self {
        let source = Self { scratch: scratch() };
        source.scratch.dir("source");
        source
    }

    fn path(&self) -> PathBuf {
        self.scratch.join("source")
    }

    fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Mounts a filesystem below the source; false if this kernel lacks it.
    fn mount(&self, name: &str, kind: &str, flags: MountFlags) -> bool {
        let at = self.join(name);
        fs::create_dir(&at).expect("mkdir");
        let data = CString::new(if kind == "tmpfs" { "mode=755" } else { "" }).expect("no NUL");
        mount("none", &at, kind, flags, Some(&*data)).is_ok()
    }

    /// A tmpfs that a script fills before it is remounted with these flags.
    fn tmpfs(&self, name: &str, flags: MountFlags, script: &str) -> PathBuf {
        assert!(self.mount(name, "tmpfs", MountFlags::empty()), "mount a tmpfs");
        let at = self.join(name);
        sh(&at, script);
        rustix::mount::mount_remount(&at, flags | MountFlags::BIND, c"").expect("remount");
        at
    }

    /// The kernel's recursive bind mount of the source.
    fn rbind(&self) -> PathBuf {
        let at = self.scratch.dir("rbind");
        mount_bind_recursive(self.path(), &at).expect("bind the source");
        at
    }

    fn shown(&self, args: &[&str]) -> Mount {
        args.iter().fold(Mount::builder().source(&self.path()), |b, arg| b.arg(*arg)).start()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // A busy mount belongs to the daemon of a failed test and ends with it.
        let script = "for m in $(grep -o \"$PWD/[^ ]*\" /proc/self/mountinfo | sort -r); do umount -l $m || :; done";
        sh(self.scratch.path(), script);
    }
}

// --- pseudo-filesystems ---

/// The pseudo-filesystems that a test can mount; every kernel has the first ones.
fn pseudo() -> Vec<&'static str> {
    let all = "proc sysfs devpts cgroup2 debugfs tracefs securityfs bpf configfs efivarfs fusectl mqueue binfmt_misc \
               pstore hugetlbfs selinuxfs resctrl binder";
    all.split_whitespace().collect()
}

#[test]
fn a_pseudo_filesystem_below_the_source_is_an_empty_directory() {
    let source = Source::new();
    let mounted: Vec<&str> =
        pseudo().into_iter().filter(|kind| source.mount(kind, kind, MountFlags::empty())).collect();
    assert!(mounted.len() >= 5 && mounted[..2] == ["proc", "sysfs"], "{mounted:?}");
    source.tmpfs("tmpfs", MountFlags::empty(), "echo text > f");
    let rbind = source.rbind();
    assert!(!names(&rbind.join("proc")).is_empty());
    for args in [&[][..], &["--mirror=1234"], &["--cache=none"], &["--follow-source"]] {
        let mount = source.shown(args);
        for kind in &mounted {
            let at = mount.join(kind);
            assert!(fs::symlink_metadata(&at).expect("stat").is_dir(), "{kind} {args:?}");
            assert_eq!(names(&at), [""; 0], "{kind} {args:?}");
            assert_eq!(errno(fs::metadata(at.join("1"))), Some(libc::ENOENT), "{kind} {args:?}");
            assert_eq!(errno(fs::write(at.join("x"), "x")), Some(libc::EROFS), "{kind} {args:?}");
            assert_eq!(errno(fs::create_dir(at.join("x"))), Some(libc::EROFS), "{kind} {args:?}");
            let mode = fs::Permissions::from_mode(0o777);
            assert_eq!(errno(fs::set_permissions(&at, mode)), Some(libc::EROFS), "{kind} {args:?}");
        }
        assert_eq!(fs::read(mount.join("tmpfs/f")).expect("an ordinary one is shown"), b"text\n");
        let mut listed = sh_output(mount.path(), "ls -la . > /dev/null; find . -mindepth 1");
        listed.retain(|c| c == '\n');
        assert_eq!(listed.len(), source_entries(&source) + 1, "{args:?}");
    }
}

fn source_entries(source: &Source) -> usize {
    names(&source.path()).len()
}

#[test]
fn each_hidden_directory_is_another_one() {
    let source = Source::new();
    for name in ["one", "two"] {
        fs::create_dir(source.join(name)).expect("mkdir");
        assert!(source.mount(&format!("{name}/p"), "proc", MountFlags::empty()));
    }
    let mount = source.shown(&[]);
    let (one, two) = (mount.join("one/p"), mount.join("two/p"));
    let file = File::open(&one).expect("open");
    assert_ne!(
        fs::metadata(&one).expect("stat").ino(),
        fs::metadata(&two).expect("stat").ino(),
        "programs take two names with one number for one directory"
    );
    for at in [&one, &two, &one] {
        let found = sh_output(at, "pwd -P");
        assert_eq!(Path::new(found.trim_end()), at);
    }
    drop(file);
}

#[test]
fn a_containers_root_changes_nothing_of_the_kernels_through_what_is_mounted_below() {
    let source = Source::new();
    assert!(source.mount("proc", "proc", MountFlags::empty()));
    assert!(source.mount("sys", "sysfs", MountFlags::empty()));
    // Writes the present values, so that a failing test does no harm.
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").expect("read");
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("read");
    let rbind = source.rbind();
    let mount = Mount::builder().source(&source.path()).map(SHIFT).start();
    as_user(100_000, 100_000, &[], || {
        for (file, text) in
            [("proc/sys/kernel/hostname", &hostname), ("proc/sys/kernel/core_pattern", &pattern)]
        {
            assert_eq!(errno(write(&rbind.join(file), text)), Some(libc::EACCES), "{file}");
            assert_eq!(errno(write(&mount.join(file), text)), Some(libc::ENOENT), "{file}");
        }
        assert_eq!(errno(File::open(mount.join("proc/1/environ"))), Some(libc::ENOENT));
        assert_eq!(names(&mount.join("sys")), [""; 0]);
    });
}

#[test]
fn no_client_moves_a_process_into_a_cgroup_that_is_mounted_below() {
    let source = Source::new();
    if !source.mount("cgroup", "cgroup2", MountFlags::empty()) {
        panic!("this kernel has no cgroup2");
    }
    for args in [&[][..], &["--mirror=1234"], &["--chown-ignore"], &["--force-user=1234"]] {
        let mount = source.shown(args);
        as_user(USER, USER, &[], || {
            let opened = OpenOptions::new().write(true).open(mount.join("cgroup/cgroup.procs"));
            assert_eq!(errno(opened), Some(libc::ENOENT), "{args:?}");
            assert!(fs::create_dir(mount.join("cgroup/mine")).is_err(), "{args:?}");
        });
    }
}

#[test]
fn a_file_of_a_pseudo_filesystem_that_is_mounted_on_a_file_is_an_empty_file() {
    let source = Source::new();
    let files = [("namespace", "/proc/self/ns/mnt"), ("hostname", "/proc/sys/kernel/hostname")];
    for (name, of) in files {
        fs::write(source.join(name), "covered").expect("write");
        // A mount namespace cannot be bound within itself (it would be a loop): a UTS namespace instead.
        let of = if name == "namespace" { "/proc/self/ns/uts" } else { of };
        mount_bind(of, source.join(name)).expect("bind");
    }
    assert!(!fs::read(source.rbind().join("hostname")).expect("read").is_empty());
    for args in [&[][..], &["--passthrough=off"], &["--mirror=1234"]] {
        let mount = source.shown(args);
        assert_eq!(names(mount.path()).len(), 2);
        sh(mount.path(), "ls -la");
        for (name, _) in files {
            let at = mount.join(name);
            let meta = fs::symlink_metadata(&at).expect("stat");
            assert!(meta.is_file() && meta.len() == 0, "{name} {args:?}");
            assert_eq!(fs::read(&at).expect("read"), b"", "{name} {args:?}");
            assert_eq!(errno(write(&at, "x")), Some(libc::EROFS), "{name} {args:?}");
        }
    }
}

#[test]
fn a_source_on_a_pseudo_filesystem_is_refused_with_the_reason() {
    let source = Source::new();
    assert!(source.mount("p", "proc", MountFlags::empty()));
    let file = source.scratch.join("file");
    fs::write(&file, "").expect("write");
    for (path, mountpoint) in [
        (source.join("p"), None),
        (source.join("p/sys/kernel"), None),
        (PathBuf::from("/sys"), None),
        (source.join("p/sys/kernel/hostname"), Some(&file)),
    ] {
        for args in [&[][..], &["--follow-source"], &["--resolve-symlinks"]] {
            if mountpoint.is_some() && !args.is_empty() {
                continue;
            }
            let mut builder = Mount::builder().source(&path);
            if let Some(mountpoint) = mountpoint {
                builder = builder.mountpoint(mountpoint);
            }
            let builder = args.iter().fold(builder, |builder, arg| builder.arg(*arg));
            let why = builder.try_start().err().expect("it is refused");
            assert!(why.contains("exit status: 32") && why.contains("pseudo-filesystem"), "{why}");
            assert!(why.contains(path.to_str().expect("text")), "{why}");
            assert_eq!(why.trim_end().lines().count(), 1, "{why}");
        }
    }
}

#[test]
fn a_link_into_a_pseudo_filesystem_stays_a_link() {
    let source = Source::new();
    assert!(source.mount("p", "proc", MountFlags::empty()));
    for (name, to) in [
        ("dir", "/proc/sys/kernel"),
        ("file", "/proc/sys/kernel/hostname"),
        ("below", "p/sys/kernel/hostname"),
        ("through", "/proc/self/cwd"),
        ("mount", "p"),
    ] {
        unix::symlink(to, source.join(name)).expect("symlink");
        let mount = source.shown(&["--resolve-symlinks"]);
        assert!(fs::symlink_metadata(mount.join(name)).expect("stat").is_symlink(), "{name}");
        assert_eq!(fs::read_link(mount.join(name)).expect("readlink"), Path::new(to));
        sh(mount.path(), "ls -la");
        assert_eq!(names(&mount.join("p")), [""; 0]);
    }
}

#[test]
fn what_is_mounted_later_is_hidden_as_well() {
    let source = Source::new();
    fs::create_dir(source.join("later")).expect("mkdir");
    fs::create_dir(source.join("aside")).expect("mkdir");
    let mount = source.shown(&["--follow-source", "--cache=none"]);
    mount_pseudo(&source.join("later"));
    assert_eq!(names(&mount.join("later")), [""; 0]);
    assert_eq!(errno(File::open(mount.join("later/version"))), Some(libc::ENOENT));
    // The source itself.
    fs::rename(source.path(), source.scratch.join("old")).expect("rename");
    unix::symlink("/proc", source.path()).expect("symlink");
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(errno(File::open(mount.join("version"))), Some(libc::ENOENT));
    fs::metadata(mount.join("aside")).expect("what was shown before still is");
    fs::remove_file(source.path()).expect("remove the link");
    fs::rename(source.scratch.join("old"), source.path()).expect("rename back");
}

fn mount_pseudo(at: &Path) {
    mount("none", at, "proc", MountFlags::empty(), None).expect("mount proc");
}

#[test]
fn a_mount_that_reuses_a_mount_id_is_examined_again() {
    let source = Source::new();
    fs::create_dir(source.join("at")).expect("mkdir");
    // bindfs: the daemon keeps no unused descriptors of a FUSE filesystem, so it can be unmounted.
    let below = source.scratch.dir("below");
    fs::write(below.join("version"), "ordinary").expect("write");
    let at = source.join("at");
    let bindfs = |at: &Path| sh(&below, &format!("bindfs . {}", at.display()));
    let mount = source.shown(&["--follow-source", "--cache=none"]);
    // The kernel assigns the lowest free id, but concurrent tests mount as well.
    let mut reused = false;
    for _ in 0..20 {
        bindfs(&at);
        assert_eq!(fs::read(mount.join("at/version")).expect("read"), b"ordinary");
        let number = mount_id(&at);
        mount.forget_all();
        eventually("the daemon lets go", || unmount(&at, UnmountFlags::empty()).is_ok());
        let mut layers = 0;
        while layers == 0 || (mount_id(&at) < number && layers < 50) {
            mount_pseudo(&at);
            layers += 1;
            assert_eq!(errno(File::open(mount.join("at/version"))), Some(libc::ENOENT));
        }
        reused = mount_id(&at) == number;
        for _ in 0..layers {
            mount.forget_all();
            unmount(&at, UnmountFlags::DETACH).expect("unmount");
        }
        if reused {
            break;
        }
    }
    assert!(reused, "no number was used again in 20 rounds");
}

fn mount_id(at: &Path) -> u64 {
    let line = "awk -v p=\"$PWD\" '$5 == p { id = $1 } END { print id }' /proc/self/mountinfo";
    sh_output(at, line).trim().parse().expect("a number")
}

// --- what a mount forbids ---

#[test]
fn a_nosuid_mount_below_grants_no_caller_its_owners_rights() {
    let source = Source::new();
    let script = "cp $(which id) id; chmod 6755 id; cp $(which cat) cat; mkdir d; chmod 2775 d; echo secret > secret; \
                  chmod 600 secret";
    let at = source.tmpfs("medium", MountFlags::NOSUID, script);
    setxattr(at.join("cat"), CAPABILITY, &DAC_CAPABILITIES, XattrFlags::empty()).expect("setcap");
    sh(&source.path(), script);
    setxattr(source.join("cat"), CAPABILITY, &DAC_CAPABILITIES, XattrFlags::empty())
        .expect("setcap");
    let rbind = source.rbind();
    for args in [&[][..], &["--passthrough=off"], &["--cache=none"], &["-o", "suid,dev,exec"]] {
        let mount = source.shown(args);
        for (at, root) in [(mount.path(), false), (&rbind, true)] {
            let run = |program: &str, argument: &str| {
                as_user(USER, USER, &[], || {
                    let out = Command::new(at.join(program)).arg(argument).output().expect("run");
                    String::from_utf8(out.stdout).expect("text")
                })
            };
            assert_eq!(run("medium/id", "-u"), "1234\n", "{args:?} rbind: {root}");
            assert_eq!(run("medium/id", "-g"), "1234\n", "{args:?} rbind: {root}");
            let secret = at.join("medium/secret");
            assert_eq!(run("medium/cat", secret.to_str().expect("text")), "", "{args:?}");
            // The source's own programs beside the mount are not restricted.
            assert_eq!(run("id", "-u"), "0\n", "{args:?} rbind: {root}");
            let secret = at.join("secret");
            assert_eq!(run("cat", secret.to_str().expect("text")), "secret\n", "{args:?}");
        }
        let mode = |name: &str| fs::metadata(mount.join(name)).expect("stat").mode() & 0o7777;
        assert_eq!((mode("medium/id"), mode("medium/d")), (0o755, 0o2775));
        assert_eq!(mode("id"), 0o6755);
        let mut value = [0; 64];
        let read = getxattr(mount.join("medium/cat"), CAPABILITY, &mut value);
        assert_eq!(read, Err(Errno::NODATA));
        assert_eq!(listxattr(mount.join("medium/cat"), &mut value[..]), Ok(0));
        let len = getxattr(mount.join("cat"), CAPABILITY, &mut value).expect("shown beside it");
        assert_eq!(len, 20);
    }
}

#[test]
fn set_bits_that_are_not_shown_are_cleared_and_guarded_all_the_same() {
    let source = Source::new();
    let at = source.tmpfs("medium", MountFlags::NOSUID, "echo x > f; chmod 6777 f; mkdir -m 777 d");
    let mount = source.shown(&[]);
    as_user(USER, USER, &[], || {
        let linked = fs::hard_link(mount.join("medium/f"), mount.join("medium/d/l"));
        assert_eq!(errno(linked), Some(libc::EPERM), "protected_hardlinks");
        write(&mount.join("medium/f"), "y").expect("write");
    });
    assert_eq!(fs::metadata(at.join("f")).expect("stat").mode() & 0o7777, 0o777);
    fs::set_permissions(mount.join("medium/f"), fs::Permissions::from_mode(0o4711)).expect("chmod");
    assert_eq!(fs::metadata(mount.join("medium/f")).expect("stat").mode() & 0o7777, 0o711);
    assert_eq!(fs::metadata(at.join("f")).expect("stat").mode() & 0o7777, 0o4711);
}

#[test]
fn a_device_on_a_nodev_mount_below_cannot_be_opened() {
    let source = Source::new();
    let script = "mknod null c 1 3; mknod loop b 7 0; mknod white c 0 0; chmod 666 null loop";
    source.tmpfs("medium", MountFlags::NODEV, script);
    sh(&source.path(), "mknod null c 1 3; chmod 666 null");
    let rbind = source.rbind();
    assert_eq!(errno(File::open(rbind.join("medium/null"))), Some(libc::EACCES));
    for args in [&[][..], &["-o", "dev"], &["--block-devices-as-files"]] {
        let mount = source.shown(args);
        let shows_files = args == ["--block-devices-as-files"];
        for user in [0, USER] {
            as_user(user, user, &[], || {
                // The kernel's own mount returns EACCES; at the FUSE mount the device number has no driver: ENXIO.
                let opened = File::open(mount.join("medium/null"));
                assert_eq!(errno(opened), Some(libc::ENXIO), "{args:?}");
                let opened = File::open(mount.join("medium/loop"));
                let expected = if shows_files { libc::EACCES } else { libc::ENXIO };
                assert_eq!(errno(opened), Some(expected), "{args:?}");
                let mut byte = [0];
                let mut own = File::open(mount.join("null")).expect("the source's own opens");
                assert_eq!(own.read(&mut byte).expect("read"), 0);
            });
        }
        let meta = |name: &str| fs::symlink_metadata(mount.join(name)).expect("stat");
        assert!(meta("medium/null").file_type().is_char_device());
        assert_eq!(meta("medium/white").rdev(), 0, "a whiteout stays one");
        assert_eq!(meta("null").rdev(), rustix::fs::makedev(1, 3));
        // A device that a client creates there cannot be opened either, but be removed.
        sh(mount.path(), "mknod -m 666 medium/zero c 1 5");
        assert_eq!(errno(File::open(mount.join("medium/zero"))), Some(libc::ENXIO));
        sh(mount.path(), "rm medium/zero");
    }
}

#[test]
fn nothing_runs_from_a_noexec_mount_below_nor_through_a_mapping() {
    let source = Source::new();
    let loader = "/lib64/ld-linux-x86-64.so.2";
    source.tmpfs(
        "medium",
        MountFlags::NOEXEC,
        "cp $(which true) true; echo '#!/bin/sh' > s; chmod 755 s",
    );
    sh(&source.path(), "cp $(which true) true");
    let rbind = source.rbind();
    let run = |at: &Path| Command::new(at).status().map(|status| assert!(status.success()));
    let is_mapped =
        |at: &Path| Command::new(loader).arg(at).output().expect("run the loader").status.success();
    assert_eq!(errno(run(&rbind.join("medium/true"))), Some(libc::EACCES));
    assert!(!is_mapped(&rbind.join("medium/true")));
    // The whole mount is noexec: the kernel sends a FUSE server no request for a mapping.
    let mount = source.shown(&[]);
    for program in ["medium/true", "medium/s", "true"] {
        assert_eq!(errno(run(&mount.join(program))), Some(libc::EACCES), "{program}");
    }
    assert!(!is_mapped(&mount.join("medium/true")) && !is_mapped(&mount.join("true")));
    let log = mount.messages();
    assert!(log.contains("noexec") && log.contains("/medium"), "{log}");
    drop(mount);
    let explained = Command::new(env!("CARGO_BIN_EXE_shiftbind"))
        .args([
            &source.path(),
            Path::new("/mnt"),
            Path::new("--explain"),
            Path::new("--engine=fuse"),
        ])
        .output()
        .expect("explain");
    let explained = String::from_utf8(explained.stdout).expect("text");
    assert!(explained.contains("programs: are not run from the whole mount"), "{explained}");
    // With the option `exec` programs are refused file by file.
    for args in [&["-o", "exec"][..], &["-o", "exec,cache=none"]] {
        let mount = source.shown(args);
        for program in ["medium/true", "medium/s"] {
            assert_eq!(errno(run(&mount.join(program))), Some(libc::EACCES), "{program}");
            fs::read(mount.join(program)).expect("it is read all the same");
            assert_eq!(errno(run(&mount.join(program))), Some(libc::EACCES), "{program}");
        }
        run(&mount.join("true")).expect("the source's own programs run");
        assert!(mount.messages().contains("other programs can map them"), "{}", mount.messages());
    }
}

#[test]
fn a_noexec_pseudo_filesystem_keeps_no_program_from_running() {
    let source = Source::new();
    assert!(source.mount("proc", "proc", MountFlags::NOEXEC | MountFlags::NOSUID));
    sh(&source.path(), "cp $(which true) true");
    let mount = source.shown(&[]);
    assert!(Command::new(mount.join("true")).status().expect("run").success());
}

#[test]
fn symbolic_links_of_a_nosymfollow_mount_below_are_not_followed() {
    let source = Source::new();
    source.tmpfs("medium", NOSYMFOLLOW, "echo text > f; ln -s f l; ln -s . d");
    sh(&source.path(), "echo text > f; ln -s f l; ln -s medium/l into");
    let rbind = source.rbind();
    for args in [&[][..], &["--cache=none"], &["--mirror=1234"], &["-o", "symfollow"]] {
        let mount = source.shown(args);
        for at in [mount.path(), &rbind] {
            for name in ["medium/l", "medium/d/f", "into"] {
                assert_eq!(errno(fs::read(at.join(name))), Some(libc::ELOOP), "{name} {args:?}");
            }
            assert_eq!(fs::read(at.join("l")).expect("follow"), b"text\n");
            assert!(fs::symlink_metadata(at.join("medium/l")).expect("stat").is_symlink());
        }
        // READLINK does not say whether the kernel follows the link, so readlink(2) fails as well.
        assert_eq!(errno(fs::read_link(mount.join("medium/l"))), Some(libc::ELOOP), "{args:?}");
        fs::read_link(rbind.join("medium/l")).expect("readlink");
    }
    let mount = source.shown(&["--resolve-symlinks"]);
    for name in ["medium/l", "into"] {
        let meta = fs::symlink_metadata(mount.join(name)).expect("stat");
        assert!(meta.is_symlink(), "{name} is not followed by the daemon either");
        assert_eq!(errno(fs::read(mount.join(name))), Some(libc::ELOOP), "{name}");
    }
}

#[test]
fn the_sources_own_nosymfollow_is_the_mounts() {
    let source = Source::new();
    let at = source.tmpfs("medium", NOSYMFOLLOW, "echo text > f; ln -s f l");
    let mount = Mount::builder().source(&at).start();
    assert_eq!(errno(fs::read(mount.join("l"))), Some(libc::ELOOP));
    assert_eq!(fs::read_link(mount.join("l")).expect("readlink"), Path::new("f"));
    drop(mount);
    let mount = Mount::builder().source(&at).arg("-o").arg("symfollow").start();
    assert_eq!(fs::read(mount.join("l")).expect("follow"), b"text\n");
}

#[test]
fn nothing_is_written_on_a_read_only_mount_below() {
    let source = Source::new();
    source.tmpfs(
        "medium",
        MountFlags::RDONLY,
        "echo text > f; mkdir d; chmod 666 f; chmod 777 . d",
    );
    fs::write(source.join("f"), "text\n").expect("write");
    let rbind = source.rbind();
    for args in [&[][..], &["--passthrough=off"], &["--chown-ignore"], &["-o", "rw"]] {
        let mount = source.shown(args);
        // A file with passthrough for reading cannot be written through the backing file either.
        let reader = File::open(mount.join("medium/f")).expect("open");
        for at in [mount.path(), &rbind] {
            let (f, d) = (at.join("medium/f"), at.join("medium/d"));
            let mode = fs::Permissions::from_mode(0o600);
            let results = [
                errno(write(&f, "x")),
                errno(OpenOptions::new().append(true).open(&f)),
                errno(OpenOptions::new().read(true).write(true).open(&f)),
                errno(File::create(&f)),
                errno(File::create(d.join("new"))),
                errno(fs::create_dir(d.join("new"))),
                errno(unix::symlink("f", d.join("new"))),
                errno(fs::hard_link(&f, d.join("new"))),
                errno(fs::remove_file(&f)),
                errno(fs::remove_dir(&d)),
                errno(fs::rename(&f, d.join("new"))),
                errno(fs::set_permissions(&f, mode)),
                errno(support::sys::empty(&f)),
                errno(setxattr(&f, "user.x", b"x", XattrFlags::empty()).map_err(io::Error::from)),
                errno(File::open(&f).and_then(|f| f.set_modified(std::time::SystemTime::now()))),
            ];
            for (n, result) in results.into_iter().enumerate() {
                assert_eq!(result, Some(libc::EROFS), "{n} {args:?} {}", at.display());
            }
        }
        drop(reader);
        // The kernel sends ACCESS only where the daemon checks permissions.
        let access = |at: &Path| rustix::fs::access(at.join("medium/f"), Access::WRITE_OK);
        assert_eq!(access(&rbind), Err(Errno::ROFS));
        let expected = if args == ["--chown-ignore"] { Err(Errno::ROFS) } else { Ok(()) };
        assert_eq!(access(mount.path()), expected, "{args:?}");
        write(&mount.join("f"), "text\n").expect("the source's own is written");
    }
    assert_eq!(fs::read(source.join("medium/f")).expect("read"), b"text\n");
}

#[test]
fn times_of_access_are_kept_as_the_mount_below_says() {
    let source = Source::new();
    let strict = MountFlags::STRICTATIME;
    let mounts = [
        ("strict", strict, true, true),
        ("noatime", MountFlags::NOATIME, false, false),
        ("nodiratime", strict | MountFlags::NODIRATIME, true, false),
    ];
    for (name, flags, ..) in mounts {
        source.tmpfs(name, flags, "echo text > f; mkdir d; touch d/x");
    }
    for args in [&[][..], &["--passthrough=off"], &["--cache=none"]] {
        let mount = source.shown(args);
        for (name, _, file, dir) in mounts {
            let times = || {
                ["f", "d"].map(|of| {
                    let meta = fs::metadata(source.join(name).join(of)).expect("stat");
                    (meta.atime(), meta.atime_nsec())
                })
            };
            let before = times();
            thread::sleep(Duration::from_millis(20));
            assert_eq!(fs::read(mount.join(name).join("f")).expect("read"), b"text\n");
            assert_eq!(names(&mount.join(name).join("d")), ["x"]);
            let after = times();
            let moved = [before[0] != after[0], before[1] != after[1]];
            assert_eq!(moved, [file, dir], "{name} {args:?}");
        }
    }
}

#[test]
fn what_a_link_leads_to_is_judged_by_its_own_mount() {
    let source = Source::new();
    let elsewhere = source.scratch.dir("elsewhere");
    mount("none", &elsewhere, "tmpfs", MountFlags::empty(), None).expect("mount");
    sh(&elsewhere, "chmod 755 .; cp $(which id) id; chmod 4755 id; mknod -m 666 null c 1 3");
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::BIND;
    rustix::mount::mount_remount(&elsewhere, flags, c"").expect("remount");
    unix::symlink(&elsewhere, source.join("dir")).expect("symlink");
    unix::symlink(elsewhere.join("id"), source.join("id")).expect("symlink");
    let mount = source.shown(&["--resolve-symlinks"]);
    for name in ["dir/id", "id"] {
        let meta = fs::symlink_metadata(mount.join(name)).expect("stat");
        assert_eq!((meta.is_file(), meta.mode() & 0o7777), (true, 0o755), "{name}");
        let ran = as_user(USER, USER, &[], || Command::new(mount.join(name)).output());
        assert_eq!(errno(ran), Some(libc::EACCES), "{name}");
    }
    assert_eq!(errno(File::open(mount.join("dir/null"))), Some(libc::ENXIO));
}

#[test]
fn what_is_mounted_later_is_judged_by_its_own_options() {
    let source = Source::new();
    fs::create_dir(source.join("later")).expect("mkdir");
    let mount = source.shown(&["--follow-source", "--cache=none"]);
    let at = source.join("later");
    rustix::mount::mount("none", &at, "tmpfs", MountFlags::empty(), Some(c"mode=755"))
        .expect("mount");
    sh(&at, "cp $(which id) id; chmod 4755 id; mknod -m 666 null c 1 3; ln -s id l");
    let id = mount.join("later/id");
    let mode = || fs::metadata(&id).expect("stat").mode() & 0o7777;
    assert_eq!(mode(), 0o4755);
    // Other flags for the same mount.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::BIND;
    rustix::mount::mount_remount(&at, flags | NOSYMFOLLOW, c"").expect("remount");
    assert_eq!(mode(), 0o755);
    let ran = as_user(USER, USER, &[], || Command::new(&id).output());
    assert_eq!(errno(ran), Some(libc::EACCES));
    assert_eq!(errno(File::open(mount.join("later/null"))), Some(libc::ENXIO));
    assert_eq!(errno(fs::read(mount.join("later/l"))), Some(libc::ELOOP));
}

#[test]
fn another_source_that_is_followed_is_judged_by_its_mount() {
    let source = Source::new();
    let other = source.scratch.dir("other");
    mount("none", &other, "tmpfs", MountFlags::empty(), Some(c"mode=755")).expect("mount");
    sh(&other, "mkdir d; cp $(which id) d/id; chmod 4755 d/id");
    let flags = MountFlags::NOSUID | MountFlags::BIND;
    rustix::mount::mount_remount(&other, flags, c"").expect("remount");
    let mount = source.shown(&["--follow-source", "--cache=none"]);
    fs::rename(source.path(), source.scratch.join("old")).expect("rename");
    unix::symlink(other.join("d"), source.path()).expect("symlink");
    let id = mount.join("id");
    eventually("the other source is shown", || id.exists());
    assert_eq!(fs::metadata(&id).expect("stat").mode() & 0o7777, 0o755);
    let ran = as_user(USER, USER, &[], || Command::new(&id).arg("-u").output().expect("run"));
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "1234\n");
}
