//! Names, and attribute overrides other than ids: excluded names, a source that is replaced, block devices as files,
//! the mounter's own rights, one filesystem, link counts, single files.

mod support;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{
    self as unix, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt,
};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, RenameFlags};
use support::{
    ACCOUNT, Mount, Process, as_user, eventually, loop_fs, program, scratch, sh, sh_output, sys,
};

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("list");
    let name = |entry: io::Result<fs::DirEntry>| {
        entry.expect("an entry").file_name().into_string().expect("test names are text")
    };
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
}

fn put(path: &Path, text: &str) {
    fs::write(path, text).expect("write a file");
}

fn swap(one: &Path, other: &Path) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

// --- excluded names ---

#[test]
fn an_excluded_name_is_not_found_not_listed_and_nothing_below_it_is_reached() {
    for caching in ["coherent", "timeout=1s", "none", "forever"] {
        let source = scratch();
        sh(
            source.path(),
            "mkdir -p d/.git/deep; echo x > d/.git/deep/f; echo y > d/f; echo z > d/a.o; touch .git",
        );
        let mount = Mount::builder()
            .source(source.path())
            .arg(format!("--cache={caching}"))
            .arg("--exclude=.git")
            .arg("--exclude=*.o")
            .start();
        for _ in 0..2 {
            assert_eq!(names(mount.path()), ["d"], "{caching}");
            assert_eq!(names(&mount.join("d")), ["f"], "{caching}");
            for name in [".git", "d/.git", "d/.git/deep/f", "d/a.o", "x.o"] {
                let found = fs::symlink_metadata(mount.join(name));
                assert_eq!(errno(found), Some(libc::ENOENT), "{caching}: {name}");
            }
        }
        assert_eq!(sh_output(mount.path(), "find . | sort"), ".\n./d\n./d/f\n");
    }
}

#[test]
fn an_excluded_name_can_neither_be_made_nor_be_the_target_of_a_link_or_rename() {
    let mount = Mount::builder().arg("--exclude=no*").start();
    put(&mount.in_source("nothing"), "old");
    put(&mount.in_source("f"), "f");
    let (no, f) = (mount.join("no"), mount.join("f"));
    assert_eq!(errno(File::create(&no)), Some(libc::EPERM));
    assert_eq!(errno(fs::create_dir(&no)), Some(libc::EPERM));
    assert_eq!(errno(unix::symlink("f", &no)), Some(libc::EPERM));
    let fifo = rustix::fs::mknodat(CWD, &no, rustix::fs::FileType::Fifo, 0o600.into(), 0);
    assert_eq!(fifo, Err(rustix::io::Errno::PERM));
    assert_eq!(errno(fs::hard_link(&f, &no)), Some(libc::EPERM));
    assert_eq!(errno(fs::rename(&f, &no)), Some(libc::EPERM));
    assert_eq!(errno(fs::rename(&f, mount.join("nothing"))), Some(libc::EPERM));
    // An excluded name that exists is not found either, whatever the operation.
    let nothing = mount.join("nothing");
    assert_eq!(errno(fs::remove_file(&nothing)), Some(libc::ENOENT));
    assert_eq!(errno(fs::remove_dir(&nothing)), Some(libc::ENOENT));
    assert_eq!(errno(fs::rename(&nothing, mount.join("g"))), Some(libc::ENOENT));
    assert_eq!(errno(swap(&f, &nothing)), Some(libc::ENOENT));
    assert_eq!(errno(File::open(&nothing)), Some(libc::ENOENT));
    assert_eq!(errno(File::create(&nothing)), Some(libc::EPERM));
    assert_eq!(fs::read_to_string(mount.in_source("nothing")).expect("still there"), "old");
    assert_eq!(names(mount.source()), ["f", "nothing"]);
    assert_eq!(names(mount.path()), ["f"]);
}

#[test]
fn a_pattern_with_a_slash_hides_a_path_from_the_root_and_no_other() {
    let mount = Mount::builder()
        .arg("--exclude=/a/b")
        .arg("--exclude=/deep/**/x?")
        .arg("--exclude=/inside/**")
        .start();
    sh(
        mount.source(),
        "mkdir -p a/b a/c/a/b b deep/1/2 inside/1; touch deep/x1 deep/1/2/x1 deep/1/2/y x1 inside/1/f",
    );
    assert_eq!(names(&mount.join("a")), ["c"]);
    assert_eq!(names(&mount.join("a/c/a")), ["b"]);
    assert_eq!(names(mount.path()), ["a", "b", "deep", "inside", "x1"]);
    assert_eq!(names(&mount.join("deep")), ["1"]);
    assert_eq!(names(&mount.join("deep/1/2")), ["y"]);
    assert!(names(&mount.join("inside")).is_empty());
    assert_eq!(errno(fs::metadata(mount.join("inside/1/f"))), Some(libc::ENOENT));
    assert_eq!(errno(fs::create_dir(mount.join("a/b"))), Some(libc::EPERM));
    assert_eq!(errno(File::create(mount.join("deep/1/x2"))), Some(libc::EPERM));
    File::create(mount.join("x2")).expect("elsewhere it may be made");
}

#[test]
fn a_directory_that_moves_hides_and_shows_by_its_new_path_at_once() {
    for caching in ["coherent", "forever"] {
        let mount =
            Mount::builder().arg(format!("--cache={caching}")).arg("--exclude=/a/secret").start();
        sh(mount.source(), "mkdir -p a b/secret; touch a/secret b/secret/f");
        eventually("the mount shows both", || names(mount.path()) == ["a", "b"]);
        assert_eq!(names(&mount.join("b")), ["secret"]);
        File::open(mount.join("b/secret/f")).expect("shown in b");
        assert_eq!(errno(fs::metadata(mount.join("a/secret"))), Some(libc::ENOENT));
        swap(&mount.join("a"), &mount.join("b")).expect("exchange them");
        assert_eq!(errno(fs::metadata(mount.join("a/secret/f"))), Some(libc::ENOENT), "{caching}");
        assert_eq!(errno(fs::metadata(mount.join("a/secret"))), Some(libc::ENOENT), "{caching}");
        assert!(fs::metadata(mount.join("b/secret")).expect("shown in b").is_file(), "{caching}");
        eventually("listings follow", || {
            names(&mount.join("a")).is_empty() && names(&mount.join("b")) == ["secret"]
        });
    }
}

#[test]
fn an_excluded_name_that_appears_on_the_source_stays_hidden() {
    let mount = Mount::builder().arg("--exclude=*.tmp").start();
    assert!(names(mount.path()).is_empty());
    put(&mount.in_source("x.tmp"), "");
    put(&mount.in_source("y"), "");
    eventually("the other name is seen", || names(mount.path()) == ["y"]);
    assert_eq!(errno(fs::metadata(mount.join("x.tmp"))), Some(libc::ENOENT));
    fs::rename(mount.in_source("x.tmp"), mount.in_source("x")).expect("rename on the source");
    eventually("under its new name it is seen", || names(mount.path()) == ["x", "y"]);
    fs::remove_dir(mount.path().join("x")).expect_err("it is a file");
}

#[test]
fn a_directory_that_holds_only_excluded_names_seems_empty_and_cannot_be_removed() {
    let mount = Mount::builder().arg("--exclude=kept").start();
    sh(mount.source(), "mkdir d; touch d/kept");
    assert!(names(&mount.join("d")).is_empty());
    assert_eq!(errno(fs::remove_dir(mount.join("d"))), Some(libc::ENOTEMPTY));
    assert_eq!(names(&mount.in_source("d")), ["kept"]);
}

#[test]
fn long_listings_leave_out_excluded_names_and_no_other_names() {
    let mount = Mount::builder().arg("--exclude=*[02468]").start();
    for i in 0..3000 {
        File::create(mount.in_source(format!("a-rather-long-name-{i}"))).expect("create");
    }
    let all = names(mount.path());
    assert_eq!(all.len(), 1500);
    assert!(all.iter().all(|name| name.ends_with(['1', '3', '5', '7', '9'])));
}

// --- a source that is replaced ---

#[test]
fn a_source_that_is_deleted_and_made_again_is_shown_within_seconds() {
    for caching in ["coherent", "timeout=1s", "forever"] {
        let scratch_dir = scratch();
        let source = scratch_dir.dir("source");
        put(&source.join("f"), "old");
        fs::create_dir(source.join("d")).expect("mkdir");
        let mount = Mount::builder()
            .source(&source)
            .arg("--follow-source")
            .arg(format!("--cache={caching}"))
            .start();
        assert_eq!(fs::read_to_string(mount.join("f")).expect("read"), "old");
        assert_eq!(names(mount.path()), ["d", "f"]);
        let open = File::open(mount.join("f")).expect("open");
        fs::remove_dir_all(&source).expect("delete the source");
        if caching != "forever" {
            eventually("the mount is empty", || names(mount.path()).is_empty());
            eventually("and its file gone", || !mount.join("f").exists());
        }
        let made = File::create(mount.join("g"));
        assert_eq!(errno(made), Some(libc::ENOENT), "{caching}: no source to make it in");
        fs::create_dir(&source).expect("make it again");
        fs::set_permissions(&source, Permissions::from_mode(0o751)).expect("chmod");
        put(&source.join("f"), "new");
        put(&source.join("n"), "new");
        eventually("the new one is shown", || names(mount.path()) == ["f", "n"]);
        assert_eq!(fs::read_to_string(mount.join("f")).expect("read"), "new", "{caching}");
        assert_eq!(errno(fs::metadata(mount.join("d"))), Some(libc::ENOENT));
        assert_eq!(fs::metadata(mount.path()).expect("stat").mode() & 0o777, 0o751);
        let mut text = String::new();
        (&open).read_to_string(&mut text).expect("what is open stays");
        assert_eq!(text, "old");
        File::create(mount.join("made")).expect("the new one can be written");
        assert_eq!(names(&source), ["f", "made", "n"]);
        if caching == "coherent" {
            put(&source.join("later"), "");
            eventually("and is watched", || names(mount.path()).contains(&"later".to_owned()));
        }
    }
}

#[test]
fn a_source_path_that_comes_to_mean_another_directory_is_followed() {
    let scratch_dir = scratch();
    sh(scratch_dir.path(), "mkdir 1 2; touch 1/one 2/two; ln -s 1 now");
    let mount =
        Mount::builder().source(&scratch_dir.path().join("now")).arg("--follow-source").start();
    assert_eq!(names(mount.path()), ["one"]);
    sh(scratch_dir.path(), "ln -sfn 2 now");
    eventually("the link's new target is shown", || names(mount.path()) == ["two"]);
    sh(scratch_dir.path(), "mount -t tmpfs tmpfs 2; touch 2/three");
    eventually("and what is mounted there", || names(mount.path()) == ["three"]);
    put(&mount.join("four"), "4");
    assert_eq!(fs::read_to_string(mount.join("four")).expect("read"), "4");
    sh(scratch_dir.path(), "umount -l 2");
    eventually("and what was below it", || names(mount.path()) == ["two"]);
}

#[test]
fn a_source_that_stays_is_left_in_peace() {
    let mount = Mount::builder().arg("--follow-source").start();
    fs::create_dir(mount.join("d")).expect("mkdir");
    let before = fs::metadata(mount.join("d")).expect("stat").ino();
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(fs::metadata(mount.join("d")).expect("stat").ino(), before);
    assert!(!mount.messages().contains("another directory"), "{}", mount.messages());
}

#[test]
fn follow_source_is_refused_where_the_path_would_come_to_mean_the_mount() {
    let scratch_dir = scratch();
    let (source, below) = (scratch_dir.dir("source"), scratch_dir.dir("source/below"));
    put(&scratch_dir.path().join("file"), "");
    put(&scratch_dir.path().join("point"), "");
    for (source, point) in [
        (source.clone(), source.clone()),
        (source.clone(), below.clone()),
        (below.clone(), source.clone()),
        (scratch_dir.path().join("file"), scratch_dir.path().join("point")),
    ] {
        let tried = Mount::builder().source(&source).mountpoint(&point).arg("--follow-source");
        let why = tried.try_start().err().expect("it is refused");
        assert!(why.contains("follow-source"), "{why}");
    }
}

// --- block devices as files ---

/// A loop device of `size` bytes, bound as `disk` in a source directory.
fn with_disk(size: u64) -> (support::Scratch, String) {
    let scratch_dir = scratch();
    File::create(scratch_dir.path().join("image")).expect("create").set_len(size).expect("size it");
    let device = sh_output(scratch_dir.path(), "losetup -f --show image").trim().to_owned();
    let number = fs::metadata(&device).expect("stat the device").rdev();
    let source = scratch_dir.dir("source");
    let kind = rustix::fs::FileType::BlockDevice;
    rustix::fs::mknodat(CWD, source.join("disk"), kind, 0o640.into(), number).expect("mknod");
    (scratch_dir, device)
}

struct Disk(String);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

#[test]
fn a_block_device_is_shown_as_a_file_of_its_size_and_can_be_read_and_written() {
    let (scratch_dir, device) = with_disk(1 << 20);
    let _disk = Disk(device.clone());
    let mount = Mount::builder()
        .source(&scratch_dir.path().join("source"))
        .arg("--block-devices-as-files")
        .start();
    let path = mount.join("disk");
    let kinds: Vec<_> = fs::read_dir(mount.path())
        .expect("list")
        .map(|entry| entry.expect("an entry").file_type().expect("its type"))
        .collect();
    assert!(kinds.len() == 1 && kinds[0].is_file(), "the listing agrees");
    for _ in 0..2 {
        let meta = fs::metadata(&path).expect("stat");
        assert!(meta.is_file() && !meta.file_type().is_block_device());
        assert_eq!((meta.len(), meta.rdev(), meta.mode() & 0o777), (1 << 20, 0, 0o640));
    }
    let mut file = OpenOptions::new().read(true).write(true).open(&path).expect("open");
    file.write_all_at(b"hello", 4096).expect("write");
    file.sync_all().expect("fsync");
    assert_eq!(file.seek(SeekFrom::End(0)).expect("seek"), 1 << 20);
    let mut bytes = [0; 5];
    File::open(&device).expect("open the device").read_exact_at(&mut bytes, 4096).expect("read");
    assert_eq!(&bytes, b"hello");
    sh(
        mount.path(),
        &format!(
            "dd if=/dev/zero of=disk bs=4k count=2; cmp -n 8192 disk /dev/zero; cmp disk {device}"
        ),
    );
    sh(mount.path(), "cp disk ../copy; cmp disk ../copy; rm ../copy");
    assert_eq!(errno(file.set_len(0)), Some(libc::EINVAL), "a device has its size");
    assert_eq!(fs::metadata(&path).expect("stat").len(), 1 << 20);
    assert!(fs::metadata(mount.in_source("disk")).expect("stat").file_type().is_block_device());
}

#[test]
fn a_block_device_that_cannot_be_opened_is_a_file_of_no_size() {
    let mount = Mount::builder().arg("--block-devices-as-files").start();
    let kind = rustix::fs::FileType::BlockDevice;
    // A device number without a driver.
    let number = rustix::fs::makedev(240, 77);
    rustix::fs::mknodat(CWD, mount.in_source("gone"), kind, 0o600.into(), number).expect("mknod");
    let meta = fs::metadata(mount.join("gone")).expect("stat works all the same");
    assert!(meta.is_file());
    assert_eq!(meta.len(), 0);
    assert_eq!(names(mount.path()), ["gone"]);
    assert_eq!(errno(File::open(mount.join("gone"))), Some(libc::ENXIO));
}

#[test]
fn a_block_device_stays_one_without_the_option() {
    let mount = Mount::identity();
    let kind = rustix::fs::FileType::BlockDevice;
    let number = rustix::fs::makedev(7, 0);
    rustix::fs::mknodat(CWD, mount.in_source("disk"), kind, 0o600.into(), number).expect("mknod");
    let meta = fs::metadata(mount.join("disk")).expect("stat");
    assert!(meta.file_type().is_block_device());
    assert_eq!(meta.rdev(), number);
}

// --- the mounter's own rights ---

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("stat").mode() & 0o7777
}

#[test]
fn realistic_permissions_of_a_root_mount_hide_nothing() {
    let mount = Mount::builder().arg("--realistic-permissions").start();
    sh(
        mount.source(),
        "touch plain run; chmod 640 plain; chmod 4711 run; mkdir d; chmod 700 d; ln -s nowhere l",
    );
    // Root may do everything except run a file without an execute bit.
    assert_eq!(mode(&mount.join("plain")), 0o640);
    assert_eq!(mode(&mount.join("run")), 0o4711);
    assert_eq!(mode(&mount.join("d")), 0o700);
    assert_eq!(mode(&mount.join("l")), 0o777);
}

#[test]
fn a_source_that_cannot_be_written_shows_no_permission_to_write() {
    let scratch_dir = scratch();
    let source = scratch_dir.dir("source");
    sh(
        scratch_dir.path(),
        "touch source/f; chmod 666 source/f; chmod 777 source; mount --bind source source; mount -o remount,bind,ro source",
    );
    let mount = Mount::builder().source(&source).arg("--realistic-permissions").start();
    assert_eq!(mode(&mount.join("f")), 0o444);
    assert_eq!(mode(mount.path()), 0o555);
    drop(mount);
    sh(scratch_dir.path(), "umount source");
}

#[test]
fn a_user_mount_shows_only_what_its_user_may_do() {
    let scratch_dir = scratch();
    let (source, point) = (scratch_dir.dir("source"), scratch_dir.dir("point"));
    sh(
        scratch_dir.path(),
        &format!(
            "mkdir dev; mount -t tmpfs dev dev; mknod -m 666 dev/fuse c 10 229; mount --bind dev/fuse /dev/fuse; \
             umount -l dev; {ACCOUNT}; chmod 711 .; touch source/own source/roots source/locked; \
             chmod 666 source/own; chmod 604 source/roots; chmod 600 source/locked; \
             chown 1000:1000 source/own point; chmod 755 source"
        ),
    );
    let ours = scratch_dir.path().join("shiftbind");
    support::copy_program(&ours);
    as_user(1000, 1000, &[], || {
        let mut command = Command::new(&ours);
        sys::die_with_parent(&mut command);
        let mut daemon = command
            .args(["-f", "--realistic-permissions"])
            .args([&source, &point])
            .spawn()
            .expect("start");
        eventually("it is mounted", || {
            fs::read_dir(&point).is_ok_and(|entries| entries.count() == 3)
        });
        assert_eq!(mode(&point.join("own")), 0o666);
        assert_eq!(mode(&point.join("roots")), 0o404, "the user may not write");
        assert_eq!(mode(&point.join("locked")), 0, "the user may do nothing");
        assert_eq!(mode(&point), 0o555);
        eventually("it is unmounted", || {
            let unmounted = program("fusermount3").arg("-u").arg(&point).output();
            unmounted.expect("run fusermount3").status.success()
        });
        assert!(daemon.wait().expect("reap").success());
    });
}

// --- one filesystem ---

#[test]
fn with_one_filesystem_a_mount_below_the_source_is_an_empty_directory_of_the_source() {
    for follows in [false, true] {
        let scratch_dir = scratch();
        let source = scratch_dir.dir("source");
        sh(
            &source,
            "mkdir sub d; touch file; mount -t tmpfs tmpfs sub; touch sub/hidden; echo m > ../m; mount --bind ../m file",
        );
        let mut builder = Mount::builder().source(&source).arg("--one-file-system");
        if follows {
            builder = builder.arg("--follow-source");
        }
        let mount = builder.start();
        if follows {
            // What the covering mount hides cannot be reached: neither a listing nor a lookup finds it.
            assert_eq!(names(mount.path()), ["d"]);
            assert_eq!(errno(fs::metadata(mount.join("sub"))), Some(libc::ENOENT));
            assert_eq!(errno(fs::metadata(mount.join("sub/hidden"))), Some(libc::ENOENT));
        } else {
            assert_eq!(names(mount.path()), ["d", "file", "sub"]);
            assert!(names(&mount.join("sub")).is_empty());
            assert_eq!(fs::read(mount.join("file")).expect("read"), b"");
            put(&mount.join("sub/under"), "u");
            fs::rename(mount.join("sub/under"), mount.join("d/under"))
                .expect("the same filesystem");
            assert_eq!(
                fs::metadata(mount.join("sub")).expect("stat").dev(),
                fs::metadata(mount.path()).expect("stat").dev()
            );
        }
        assert_eq!(names(&source.join("sub")), ["hidden"], "on the source all is as it was");
        drop(mount);
        sh(&source, "umount sub; umount file");
    }
}

// --- link counts and change times ---

#[test]
fn every_link_count_is_one_and_names_of_one_file_come_and_go_all_the_same() {
    for caching in ["coherent", "forever"] {
        let mount =
            Mount::builder().arg("--hide-hard-links").arg(format!("--cache={caching}")).start();
        let at = |name: &str| mount.join(name);
        put(&at("a"), "text");
        fs::create_dir(at("d")).expect("mkdir");
        fs::create_dir(at("d/sub")).expect("mkdir");
        assert_eq!(fs::metadata(at("d")).expect("stat").nlink(), 1);
        let open = File::open(at("a")).expect("open");
        for round in 0..5 {
            fs::hard_link(at("a"), at("b")).unwrap_or_else(|e| panic!("{caching}, {round}: {e}"));
            assert_eq!(fs::metadata(at("a")).expect("stat").nlink(), 1);
            assert_eq!(fs::metadata(mount.in_source("a")).expect("stat").nlink(), 2);
            assert_eq!(
                fs::metadata(at("b")).expect("stat").ino(),
                fs::metadata(at("a")).expect("stat").ino()
            );
            fs::remove_file(at("b")).expect("unlink");
            // No stat in between: the kernel has lowered the link count by itself.
        }
        fs::hard_link(at("a"), at("b")).expect("link");
        put(&at("x"), "x");
        fs::rename(at("x"), at("b")).expect("rename over one of two names");
        fs::hard_link(at("a"), at("c")).expect("the other name is as good as before");
        assert_eq!(fs::read_to_string(at("a")).expect("read"), "text");
        fs::remove_file(at("a")).expect("unlink");
        fs::hard_link(at("c"), at("a")).expect("link");
        let mut text = String::new();
        (&open).read_to_string(&mut text).expect("read");
        assert_eq!(text, "text");
        assert_eq!(open.metadata().expect("fstat").nlink(), 1);
        fs::remove_dir(at("d/sub")).expect("rmdir");
        fs::remove_dir(at("d")).expect("rmdir");
    }
}

#[test]
fn the_change_time_is_the_modification_time_after_every_operation() {
    let mount = Mount::builder().arg("--ctime-from-mtime").start();
    let path = mount.join("f");
    let times = |path: &Path| {
        let meta = fs::metadata(path).expect("stat");
        ((meta.ctime(), meta.ctime_nsec()), (meta.mtime(), meta.mtime_nsec()))
    };
    let same = |what: &str| {
        let (ctime, mtime) = times(&path);
        assert_eq!(ctime, mtime, "after {what}");
    };
    put(&path, "1");
    same("a write");
    let old = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
    File::options().write(true).open(&path).expect("open").set_modified(old).expect("utimens");
    same("utimens");
    assert_eq!(times(&path).0, (1_000_000, 0));
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
    same("chmod");
    unix::chown(&path, Some(5), Some(5)).expect("chown");
    same("chown");
    fs::hard_link(&path, mount.join("g")).expect("link");
    same("link");
    fs::rename(mount.join("g"), mount.join("h")).expect("rename");
    fs::remove_file(mount.join("h")).expect("unlink");
    same("unlink of another name");
    File::options().append(true).open(&path).expect("open").write_all(b"2").expect("append");
    same("an append");
}

// --- a single file ---

#[test]
fn a_single_file_is_shown_on_a_file_and_works_like_one() {
    for caching in ["timeout=1s", "forever"] {
        let scratch_dir = scratch();
        let (source, point) = (scratch_dir.path().join("source"), scratch_dir.path().join("point"));
        put(&source, "one\n");
        put(&point, "");
        let mount = Mount::builder()
            .source(&source)
            .mountpoint(&point)
            .arg(format!("--cache={caching}"))
            .map("b:0:100000:65536")
            .start();
        assert_eq!(fs::read_to_string(&point).expect("read"), "one\n");
        assert_eq!(fs::metadata(&point).expect("stat").uid(), 100_000);
        File::options()
            .append(true)
            .open(&point)
            .expect("open")
            .write_all(b"two\n")
            .expect("append");
        assert_eq!(fs::read_to_string(&source).expect("read"), "one\ntwo\n");
        put(&point, "three\n");
        assert_eq!(fs::read_to_string(&source).expect("read"), "three\n");
        put(&source, "four, on the source\n");
        eventually("a change on the source is seen", || {
            caching == "forever"
                || fs::read_to_string(&point).is_ok_and(|text| text == "four, on the source\n")
        });
        fs::set_permissions(&point, Permissions::from_mode(0o711)).expect("chmod");
        assert_eq!(mode(&source), 0o711);
        unix::chown(&point, Some(100_007), None).expect("chown");
        assert_eq!(fs::metadata(&source).expect("stat").uid(), 7);
        assert_eq!(errno(unix::chown(&point, Some(7), None)), Some(libc::EOVERFLOW));
        File::options().write(true).open(&point).expect("open").set_len(2).expect("truncate");
        assert_eq!(fs::read_to_string(&source).expect("read"), "fo");
        assert_eq!(errno(fs::remove_file(&point)), Some(libc::EBUSY), "a mount point");
        assert_eq!(errno(fs::read_dir(&point)), Some(libc::ENOTDIR));
        sh(
            scratch_dir.path(),
            "flock point true; setfattr -n user.k -v v point; test \"$(getfattr --only-values -n user.k source)\" = v",
        );
        let held = Process::on(&point, |file| {
            u8::from(
                rustix::fs::fcntl_lock(file, rustix::fs::FlockOperation::LockExclusive).is_err(),
            )
        });
        assert_eq!(held.wait(), Some(0));
        fs::copy("/bin/true", &source).expect("copy");
        fs::set_permissions(&source, Permissions::from_mode(0o755)).expect("chmod");
        eventually("a program runs there", || {
            Command::new(&point).status().is_ok_and(|status| status.success())
        });
        drop(mount);
    }
}

#[test]
fn a_file_whose_source_lost_its_name_is_still_shown() {
    let scratch_dir = scratch();
    let (source, point) = (scratch_dir.path().join("source"), scratch_dir.path().join("point"));
    put(&source, "one");
    put(&point, "");
    let mount = Mount::builder().source(&source).mountpoint(&point).start();
    fs::remove_file(&source).expect("unlink");
    put(&source, "another");
    assert_eq!(fs::read_to_string(&point).expect("read"), "one", "as a bind mount does");
    let file =
        OpenOptions::new().write(true).custom_flags(libc::O_SYNC).open(&point).expect("open");
    file.write_all_at(b"two", 0).expect("write");
    assert_eq!(fs::read_to_string(&point).expect("read"), "two");
    drop(file);
    drop(mount);
}

#[test]
fn names_are_hidden_on_a_filesystem_without_a_watch_too() {
    let fs = loop_fs("ext4", 16);
    let source = fs.dir("source");
    sh(&source, "mkdir -p a/b; touch a/b/f a/g");
    let mount = Mount::builder().source(&source).arg("--exclude=a/b").arg("--cache=none").start();
    assert_eq!(names(&mount.join("a")), ["g"]);
    assert_eq!(
        rustix::fs::statat(CWD, mount.join("a/b/f"), AtFlags::empty()).err(),
        Some(rustix::io::Errno::NOENT)
    );
}
