//! Files with equal inode numbers stay two files, and the file handle of a deleted file never opens another one.

mod support;

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};
use support::sys::{handle_of, open_handle};
use support::{Mount, Served, as_user, loop_fs, scratch, serve, sh};

const ALICE: u32 = 1000;

fn served(name: &'static str, node: u64, mode: u32, content: &'static str) -> Served {
    Served { name, node, ino: 42, mode, owner: 0, content }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).expect("read")
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("stat").mode() & 0o7777
}

#[test]
fn a_user_gets_no_secret_by_another_name_with_its_inode_number() {
    let files = [served("open", 2, 0o644, "public"), served("secret", 3, 0o600, "secret")];
    for exports in [true, false] {
        for args in [&[][..], &["--passthrough=off"]] {
            let scratch_dir = scratch();
            let server = serve(&scratch_dir.dir("source"), exports, &files);
            let builder = Mount::builder().source(&scratch_dir.join("source"));
            let mount = args.iter().fold(builder, |builder, arg| builder.arg(*arg)).start();
            let (open, secret) = (mount.join("open"), mount.join("secret"));
            // Root has the file open, so that the daemon and the kernel know it.
            let mut file = File::open(&secret).expect("root opens it");
            as_user(ALICE, ALICE, &[], || {
                for _ in 0..3 {
                    assert_eq!(text(&open), "public", "handles: {exports}, {args:?}");
                    let refused = fs::read(&secret).expect_err("it is root's");
                    assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
                }
            });
            let mut content = String::new();
            file.read_to_string(&mut content).expect("read");
            assert_eq!(content, "secret");
            for path in [&open, &secret] {
                assert_eq!(fs::metadata(path).expect("stat").ino(), 42, "as on the source");
            }
            assert_eq!((mode(&open), mode(&secret)), (0o644, 0o600));
            drop(file);
            drop(mount);
            drop(server);
        }
    }
}

#[test]
fn a_file_stays_one_where_its_number_is_that_of_many() {
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let files: Vec<_> =
        NAMES.iter().zip(2..).map(|(name, node)| served(name, node, 0o644, name)).collect();
    for exports in [true, false] {
        let scratch_dir = scratch();
        let server = serve(&scratch_dir.dir("source"), exports, &files);
        let mount =
            Mount::builder().source(&scratch_dir.join("source")).arg("--cache=none").start();
        let device = File::open(mount.path()).expect("open the mount");
        // A file handle at the mount names an inode of the kernel's.
        let handles = NAMES.map(|name| handle_of(&mount.join(name)).expect("a handle"));
        let open = NAMES.map(|name| File::open(mount.join(name)).expect("open"));
        for _ in 0..3 {
            for (name, handle) in NAMES.iter().zip(&handles) {
                assert_eq!(text(&mount.join(name)), *name);
                assert_eq!(handle_of(&mount.join(name)).expect("a handle"), *handle, "{name}");
                let mut content = String::new();
                let mut file = open_handle(&device, handle).expect("open by handle");
                file.read_to_string(&mut content).expect("read");
                assert_eq!(content, *name);
            }
        }
        drop(open);
        drop(device);
        drop(mount);
        drop(server);
    }
}

/// Unmounts when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn hard_links_that_an_overlay_has_parted_are_two_files() {
    for option in ["index=off", "index=on"] {
        let scratch_dir = scratch();
        sh(
            scratch_dir.path(),
            &format!(
                "mkdir t && mount -t tmpfs test t && mkdir t/upper t/work t/lower merged
                 echo below > t/lower/a && ln t/lower/a t/lower/b
                 mount -t overlay test -o {option},lowerdir=t/lower,upperdir=t/upper,workdir=t/work merged"
            ),
        );
        let _tmpfs = Mounted(scratch_dir.join("t"));
        let _overlay = Mounted(scratch_dir.join("merged"));
        let mount = Mount::builder().source(&scratch_dir.join("merged")).start();
        assert_eq!((text(&mount.join("a")), text(&mount.join("b"))), both("below\n"));
        fs::write(mount.join("a"), "above\n").expect("write");
        fs::set_permissions(mount.join("a"), Permissions::from_mode(0o600)).expect("chmod");
        for name in ["a", "b"] {
            let (here, there) = (mount.join(name), scratch_dir.join("merged").join(name));
            assert_eq!((text(&here), mode(&here)), (text(&there), mode(&there)), "{option}");
        }
        let expected = if option == "index=on" { "above\n" } else { "below\n" };
        assert_eq!(text(&mount.join("b")), expected, "{option}");
    }
}

fn both(text: &str) -> (String, String) {
    (text.to_owned(), text.to_owned())
}

#[test]
fn a_handle_of_a_deleted_file_does_not_open_the_one_that_has_its_number_now() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let disk = loop_fs(kind, 400);
        let source = disk.dir("source");
        fs::write(source.join("kept"), "kept").expect("write");
        // On ext4 the handle of a file that was found younger than a clock tick is valid only while the kernel has
        // its inode.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mount = Mount::builder().source(&source).start();
        let device = File::open(mount.path()).expect("open the mount");
        let (f, kept) = (mount.join("f"), mount.join("kept"));
        let kept_handle = handle_of(&kept).expect("a handle");
        let mut reused = 0;
        for round in 0..100 {
            if round >= 10 && (reused > 1 || kind != "ext4") {
                break;
            }
            fs::write(&f, "old").expect("write");
            let (handle, ino) = (handle_of(&f).expect("a handle"), fs::metadata(&f).unwrap().ino());
            open_handle(&device, &handle).expect("it is there");
            fs::remove_file(&f).expect("unlink");
            mount.forget_all();
            // Within the same clock tick, or later.
            if round % 2 == 1 {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            let new = mount.join(format!("new-{round}"));
            fs::write(&new, "new").expect("write");
            reused += u32::from(fs::metadata(&new).unwrap().ino() == ino);
            let opened = open_handle(&device, &handle);
            let errno = opened.err().and_then(|e| e.raw_os_error());
            assert_eq!(errno, Some(libc::ESTALE), "{kind}, round {round}");
        }
        assert!(reused > 0 || kind != "ext4", "{kind} used no number again");
        assert_eq!(text(&kept), "kept");
        open_handle(&device, &kept_handle).expect("it is there still");
        drop(device);
    }
}
