//! What is mounted below the source keeps what its mount forbids, and a pseudo-filesystem is not shown at all.

mod support;

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{self as unix, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, unmount};
use support::{Mount, SHIFT, Scratch, as_user, eventually, scratch, sh, sh_output};

const USER: u32 = 1234;

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

/// A source with what a test mounts below it; all of it goes with the test's mount namespace.
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

    /// Mounts a file system below the source. False where this kernel does not have it.
    fn mount(&self, name: &str, kind: &str, flags: MountFlags) -> bool {
        let at = self.join(name);
        fs::create_dir(&at).expect("mkdir");
        let data = CString::new(if kind == "tmpfs" { "mode=755" } else { "" }).expect("no NUL");
        mount("none", &at, kind, flags, Some(&*data)).is_ok()
    }

    /// A tmpfs on which something was done before it was mounted with these flags.
    fn tmpfs(&self, name: &str, flags: MountFlags, script: &str) -> PathBuf {
        assert!(self.mount(name, "tmpfs", MountFlags::empty()), "mount a tmpfs");
        let at = self.join(name);
        sh(&at, script);
        rustix::mount::mount_remount(&at, flags | MountFlags::BIND, c"").expect("remount");
        at
    }

    /// The kernel's own mount of the same.
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
        // What is busy still belongs to a failed test's daemon, and goes with it.
        let script = "for m in $(grep -o \"$PWD/[^ ]*\" /proc/self/mountinfo | sort -r); do umount -l $m || :; done";
        sh(self.scratch.path(), script);
    }
}

// --- pseudo-filesystems ---

/// Those that a test can mount here; the first ones every kernel has.
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
    // What is there already, so that a test that fails does no harm.
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
fn nobody_moves_a_process_into_a_cgroup_that_is_mounted_below() {
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
        // A mount namespace must not be bound within itself (a loop): another one's.
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
fn a_mount_whose_number_another_had_before_is_looked_at_again() {
    let source = Source::new();
    fs::create_dir(source.join("at")).expect("mkdir");
    // bindfs: of a FUSE file system the daemon holds nothing when nobody uses it.
    let below = source.scratch.dir("below");
    fs::write(below.join("version"), "ordinary").expect("write");
    let at = source.join("at");
    let bindfs = |at: &Path| sh(&below, &format!("bindfs . {}", at.display()));
    let mount = source.shown(&["--follow-source", "--cache=none"]);
    // The kernel gives the lowest number that is free, but other tests mount as well.
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
