//! Which sources work: other filesystems, single files, the root, read-only mounts, trees with mounts in them.

mod support;

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Child;

use rustix::mount::{UnmountFlags, unmount};
use support::{Mount, SHIFT, as_user, eventually, loop_fs, program, scratch, sh, sh_output};

/// Checks what every writable source must do through a map.
fn everyday(source: &Path) {
    let mount = Mount::builder().source(source).map(SHIFT).start();
    let at = mount.join("work");
    fs::create_dir(source.join("work")).expect("mkdir on the source");
    as_user(100_000, 100_000, &[], || {
        fs::create_dir(at.join("d")).expect("mkdir");
        fs::write(at.join("d/f"), vec![7; 300_000]).expect("write");
        assert_eq!(fs::read(at.join("d/f")).expect("read"), vec![7; 300_000]);
        let file = File::options().read(true).write(true).open(at.join("d/f")).expect("open");
        file.write_all_at(b"middle", 100_000).expect("pwrite");
        file.set_len(200_000).expect("truncate");
        file.sync_all().expect("fsync");
        fs::hard_link(at.join("d/f"), at.join("l")).expect("link");
        std::os::unix::fs::symlink("l", at.join("s")).expect("symlink");
        fs::rename(at.join("d/f"), at.join("g")).expect("rename");
        fs::remove_file(at.join("l")).expect("unlink");
        assert_eq!(file.metadata().expect("fstat").nlink(), 1);
        fs::remove_file(at.join("g")).expect("unlink");
        let mut six = [0; 6];
        file.read_exact_at(&mut six, 100_000).expect("read the unlinked file");
        assert_eq!(&six, b"middle");
        for n in 0..200 {
            fs::write(at.join(format!("n{n}")), n.to_string()).expect("write");
        }
        let names = fs::read_dir(&at).expect("list").map(|entry| entry.expect("list").file_name());
        // On libfuse filesystems an open file that was unlinked keeps a name of its own.
        let kept = names.filter(|name| !name.to_string_lossy().starts_with(".fuse_hidden"));
        assert_eq!(kept.count(), 202);
    });
    for entry in fs::read_dir(source.join("work")).expect("list") {
        let meta = fs::symlink_metadata(entry.expect("list").path()).expect("stat");
        assert_eq!((meta.uid(), meta.gid()), (0, 0));
    }
    fs::remove_dir_all(mount.join("work")).expect("remove");
    assert!(!source.join("work").exists());
}

#[test]
fn ext4_xfs_and_btrfs_work() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let filesystem = loop_fs(kind, 400);
        everyday(filesystem.path());
    }
}

/// A mount that the test makes by a command; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(dir: &Path, at: &str, command: &str) -> Self {
        sh(dir, command);
        Self(dir.join(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn tmpfs_works() {
    let scratch = scratch();
    let mounted = Mounted::new(scratch.path(), "t", "mkdir t && mount -t tmpfs test t");
    everyday(&mounted.0);
}

#[test]
fn where_the_source_has_no_acls_the_mode_bits_decide() {
    let scratch = scratch();
    let mounted = Mounted::new(
        scratch.path(),
        "r",
        "mkdir r && mount -t ramfs test r && mkdir -m 755 r/s r/s/d && echo text > r/s/d/f && chmod 755 r",
    );
    let mount = Mount::builder().source(&mounted.0.join("s")).start();
    let user = |path: &str| as_user(1000, 1000, &[], || fs::read(mount.join(path)).ok());
    assert_eq!(user("d/f").as_deref(), Some(&b"text\n"[..]));
    assert_eq!(as_user(1000, 1000, &[], || fs::read_dir(mount.join("d")).unwrap().count()), 1);
    fs::set_permissions(mounted.0.join("s/d/f"), Permissions::from_mode(0o600)).expect("chmod");
    eventually("the user may no longer read it", || user("d/f").is_none());
}

#[test]
fn overlay_works() {
    let scratch = scratch();
    let mounted = Mounted::new(
        scratch.path(),
        "merged",
        "mkdir t && mount -t tmpfs test t && mkdir t/upper t/work t/lower merged && echo below > t/lower/old
         mount -t overlay test -o lowerdir=t/lower,upperdir=t/upper,workdir=t/work merged",
    );
    let _tmpfs = Mounted(scratch.join("t"));
    everyday(&mounted.0);
    let mount = Mount::builder().source(&mounted.0).start();
    assert_eq!(fs::read(mount.join("old")).expect("read"), b"below\n");
    fs::write(mount.join("old"), "above").expect("copy up");
    assert_eq!(fs::read(mounted.0.join("old")).expect("read"), b"above");
}

/// bindfs in the foreground; unmounted and reaped when dropped.
struct Bindfs(Child, PathBuf);

impl Drop for Bindfs {
    fn drop(&mut self) {
        let _ = unmount(&self.1, UnmountFlags::DETACH);
        let _ = self.0.wait();
    }
}

#[test]
fn another_fuse_filesystem_works() {
    let scratch = scratch();
    let (below, above) = (scratch.dir("below"), scratch.dir("above"));
    let child = program("bindfs").arg("-f").arg(&below).arg(&above).spawn().expect("start bindfs");
    let bindfs = Bindfs(child, above);
    eventually("bindfs answers", || {
        sh_output(scratch.path(), "cat /proc/self/mountinfo").contains("/above ")
    });
    everyday(&bindfs.1);
}

#[test]
fn a_close_is_passed_to_the_sources_server_before_it_returns() {
    for locks in ["--enable-lock-forwarding", "--disable-lock-forwarding"] {
        let below = Mount::builder().arg("-d").start();
        let above = Mount::builder().source(below.path()).arg(locks).start();
        let flushes = || below.messages().matches("FLUSH").count();
        let mut file = File::create(above.join("f")).expect("create");
        for round in 1..4 {
            file.write_all(b"text").expect("write");
            let before = flushes();
            // A second descriptor of the same open file: no RELEASE follows.
            drop(file.try_clone().expect("dup"));
            assert!(flushes() > before, "{locks}, close {round}");
        }
    }
}

#[test]
fn a_mount_of_a_mount_works_and_maps_add_up() {
    let below = Mount::builder().map("b:0:100000:65536").start();
    let above = Mount::builder().source(below.path()).map("b:100000:300000:65536").start();
    let at = above.path().to_owned();
    as_user(300_000, 300_000, &[], || {
        fs::write(at.join("f"), "text").expect("write");
        assert_eq!(fs::read(at.join("f")).expect("read"), b"text");
        fs::create_dir(at.join("d")).expect("mkdir");
        // All workers answer, whichever callers they served before.
        for round in 0..50 {
            let (from, to) = (at.join("f"), at.join("d/f"));
            fs::rename(&from, &to).unwrap_or_else(|e| panic!("rename {round}: {e}"));
            fs::rename(&to, &from).unwrap_or_else(|e| panic!("rename back {round}: {e}"));
            fs::write(at.join("g"), "text").expect("write another");
            fs::hard_link(at.join("g"), at.join("h")).expect("link");
            fs::remove_file(at.join("h")).expect("remove");
        }
        fs::rename(at.join("f"), at.join("d/f")).expect("rename");
    });
    let owner =
        |path: PathBuf| fs::metadata(path).map(|meta| (meta.uid(), meta.gid())).expect("stat");
    assert_eq!(owner(above.join("d/f")), (300_000, 300_000));
    assert_eq!(owner(below.join("d/f")), (100_000, 100_000));
    assert_eq!(owner(below.in_source("d/f")), (0, 0));
}

#[test]
fn a_read_only_source_reads_and_refuses_writes_with_erofs() {
    let scratch = scratch();
    let mounted = Mounted::new(
        scratch.path(),
        "ro",
        "mkdir ro && mount -t tmpfs test ro && echo text > ro/f && mount -o remount,ro ro",
    );
    let mount = Mount::builder().source(&mounted.0).start();
    assert_eq!(fs::read(mount.join("f")).expect("read"), b"text\n");
    let errors = [
        fs::write(mount.join("new"), "x").err(),
        fs::write(mount.join("f"), "x").err(),
        fs::create_dir(mount.join("d")).err(),
        fs::remove_file(mount.join("f")).err(),
        fs::rename(mount.join("f"), mount.join("g")).err(),
        std::os::unix::fs::chown(mount.join("f"), Some(1), None).err(),
    ];
    for (at, error) in errors.iter().enumerate() {
        let code = error.as_ref().and_then(std::io::Error::raw_os_error);
        assert_eq!(code, Some(libc::EROFS), "attempt {at}");
    }
}

#[test]
fn a_single_file_is_shown_at_a_file() {
    let scratch = scratch();
    let (source, mountpoint) = (scratch.join("source"), scratch.join("mountpoint"));
    fs::write(&source, "text").expect("write");
    fs::write(&mountpoint, "").expect("write");
    match Mount::builder().source(&source).mountpoint(&mountpoint).map(SHIFT).try_start() {
        Ok(mount) => {
            assert_eq!(fs::read(mount.path()).expect("read"), b"text");
            assert_eq!(fs::metadata(mount.path()).expect("stat").uid(), 100_000);
            fs::write(mount.path(), "more").expect("write");
            assert_eq!(fs::read(&source).expect("read"), b"more");
            drop(mount);
            assert_eq!(fs::read(&mountpoint).expect("read"), b"", "what was there before is back");
        }
        Err(why) => panic!("{why}"),
    }
}

#[test]
fn the_root_directory_can_be_shown() {
    let mount = Mount::builder().source(Path::new("/")).start();
    assert_eq!(
        fs::read(mount.join("etc/passwd")).expect("read"),
        fs::read("/etc/passwd").expect("read")
    );
    assert!(fs::read_dir(mount.join("usr/bin")).expect("list").count() > 50);
    let submount = fs::metadata(mount.join("dev/null")).expect("a submount is shown");
    assert_eq!(submount.uid(), fs::metadata("/dev/null").expect("stat").uid());
    assert!(fs::metadata(mount.join("proc/1")).is_err(), "but no pseudo-filesystem");
}

#[test]
fn a_source_that_contains_the_mount_point_works_and_does_not_hang() {
    let scratch = scratch();
    let source = scratch.dir("source");
    fs::create_dir_all(source.join("a/mnt")).expect("mkdir");
    fs::write(source.join("f"), "text").expect("write");
    let started = Mount::builder().source(&source).mountpoint(&source.join("a/mnt")).try_start();
    let mount = started.unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(fs::read(mount.join("f")).expect("read"), b"text");
    // The walk enters the mount within itself: it must end, and the daemon must not wait for itself.
    let below =
        sh_output(scratch.path(), "timeout 20 find source -maxdepth 12 2>&1 | wc -l || true");
    assert!(below.trim().parse::<usize>().is_ok_and(|lines| lines < 200), "{below}");
    fs::write(mount.join("g"), "text").expect("write");
    assert_eq!(fs::read(source.join("g")).expect("read"), b"text");
}

#[test]
fn submounts_are_shown_with_inode_numbers_of_their_own_unless_hidden() {
    let scratch = scratch();
    let source = scratch.dir("source");
    let _one = Mounted::new(
        &source,
        "one",
        "mkdir one && mount -t tmpfs test one && touch one/a one/b && mkdir one/d",
    );
    let _two = Mounted::new(
        &source,
        "two",
        "mkdir two && mount -t tmpfs test two && touch two/a two/b && mkdir two/d",
    );
    fs::write(source.join("plain"), "").expect("write");
    let shown = Mount::builder().source(&source).start();
    let mut numbers: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let paths = sh_output(shown.path(), "find .");
    assert_eq!(paths.lines().count(), 10, "{paths}");
    for path in paths.lines() {
        let meta = fs::symlink_metadata(shown.join(path)).expect("stat");
        if let Some(other) = numbers.insert((meta.dev(), meta.ino()), path.into()) {
            panic!("{path} and {} have one inode number", other.display());
        }
    }
    fs::write(shown.join("one/new"), "text").expect("write into a submount");
    assert_eq!(fs::read(source.join("one/new")).expect("read"), b"text");
    let across = fs::rename(shown.join("one/new"), shown.join("two/new"));
    assert_eq!(across.err().and_then(|error| error.raw_os_error()), Some(libc::EXDEV));
    drop(shown);
    let hidden = Mount::builder().source(&source).arg("--one-file-system").start();
    assert!(fs::metadata(hidden.join("one/a")).is_err(), "what is mounted there is hidden");
    assert!(fs::metadata(hidden.join("plain")).is_ok());
    fs::read_dir(hidden.path()).expect("list").for_each(|entry| drop(entry.expect("list")));
}

#[test]
fn a_fuse_device_that_is_missing_or_something_else_is_named_with_the_remedy() {
    let scratch = scratch();
    scratch.dir("source");
    scratch.dir("mountpoint");
    let bin = env!("CARGO_BIN_EXE_shiftbind");
    // The test's own mount namespace is shared with the tests beside it.
    let attempt = |device: &str| {
        let script = format!(
            "mount -t tmpfs none /dev; {device}
             {bin} --engine=fuse source mountpoint; echo status $?"
        );
        sh_output(scratch.path(), &format!("unshare -m sh -c '{script}' 2>&1"))
    };
    assert_eq!(
        attempt(":"),
        "shiftbind: /dev/fuse (is the fuse module loaded? try: modprobe fuse): No such file or directory\nstatus 2\n"
    );
    for device in ["touch /dev/fuse", "mknod /dev/fuse c 1 3", "mknod /dev/fuse b 10 229"] {
        let why = attempt(device);
        assert!(why.starts_with("shiftbind: /dev/fuse"), "{device}: {why}");
        assert!(why.ends_with("status 2\n") && why.lines().count() == 2, "{device}: {why}");
    }
    assert!(attempt("mknod /dev/fuse c 1 3").contains("is not the FUSE device"));
}

#[test]
fn a_missing_source_or_mount_point_is_one_line_and_status_32_or_1() {
    let scratch = scratch();
    let here = scratch.dir("here");
    for (source, mountpoint) in
        [(scratch.join("missing"), here.clone()), (here, scratch.join("missing"))]
    {
        let why = Mount::builder()
            .source(&source)
            .mountpoint(&mountpoint)
            .try_start()
            .err()
            .expect("it fails");
        assert!(why.contains("exit status: 32") || why.contains("exit status: 1"), "{why}");
        assert!(why.contains("missing"), "it names the path: {why}");
        assert_eq!(why.trim_end().lines().count(), 1, "{why}");
    }
}
