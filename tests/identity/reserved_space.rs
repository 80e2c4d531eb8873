//! Reserved space and quotas: a mount gives no user more space than the source's filesystem does.
//!
//! ext4 keeps its reserve for the host's uid 0 and for CAP_SYS_RESOURCE. A container's root has neither, although its
//! files are stored with uid 0.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::FallocateFlags;

use crate::support::{
    LoopFs, Mount, SHIFT, as_user, kernel_mount, loop_fs, scratch, sh_output, skipped,
};
use crate::{ROOT, USER, errno, open_to_all};

/// Appends to the file until the filesystem is full; returns the error, and whether anything was written.
fn fill_up(path: &Path) -> (Option<i32>, bool) {
    let block = vec![1; 64 << 10];
    let mut written = false;
    let result = OpenOptions::new().append(true).open(path).and_then(|mut file| {
        loop {
            match file.write(&block) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => written = true,
                Err(e) => return Err(e),
            }
        }
    });
    (errno::<()>(result), written)
}

fn allocate(path: &Path) -> Option<i32> {
    errno(
        OpenOptions::new().write(true).open(path).and_then(|file| {
            Ok(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 1 << 20)?)
        }),
    )
}

/// The results of a user, the container's root and the host's root on a filesystem that is full except for its
/// reserve.
fn results(dir: &Path) -> Vec<String> {
    let mut said = Vec::new();
    let users = [("user", USER), ("the container's root", ROOT), ("the host's root", 0)];
    for (_, id) in users {
        // The host's root is unmapped: it may write, but not create.
        let maker = if id == 0 { ROOT } else { id };
        for kind in ["written", "allocated", "truncated"] {
            as_user(maker, maker, &[], || File::create(dir.join(format!("{id} {kind}"))))
                .expect("create");
        }
    }
    for (name, id) in users {
        // First the user fills the filesystem, then the other two try to write.
        let path = dir.join(format!("{id} written"));
        let wrote = as_user(id, id, &[], || fill_up(&path));
        if id != USER {
            said.push(format!("{name} writes: {wrote:?}"));
            continue;
        }
        said.push(format!("{name} writes: {:?}", wrote.0));
        for (name, id) in users {
            let path = dir.join(format!("{id} allocated"));
            let result = as_user(id, id, &[], || allocate(&path));
            said.push(format!("{name} allocates: {result:?}"));
            let path = dir.join(format!("{id} truncated"));
            let result = as_user(id, id, &[], || OpenOptions::new().write(true).open(&path))
                .and_then(|file| file.set_len(1 << 20));
            said.push(format!("{name} extends without blocks: {:?}", errno(result)));
        }
    }
    said
}

fn full(filesystem: &LoopFs) -> (u64, u64) {
    let room = rustix::fs::statvfs(filesystem.path()).expect("statvfs");
    (room.f_bavail, room.f_bfree)
}

/// The number of reserved free blocks.
fn reserve(filesystem: &LoopFs) -> u64 {
    let (available, free) = full(filesystem);
    assert!(free - available > 100, "mkfs has made a reserve");
    free - available
}

#[test]
fn the_reserve_of_ext4_is_for_the_hosts_root_alone() {
    let expected = {
        let filesystem = loop_fs("ext4", 64);
        let source = filesystem.dir("source");
        open_to_all(&source);
        let scratch_dir = scratch();
        let mountpoint = scratch_dir.dir("kernel");
        kernel_mount(&source, &mountpoint, &[SHIFT.to_owned()]);
        let said = results(&mountpoint);
        rustix::mount::unmount(&mountpoint, rustix::mount::UnmountFlags::DETACH).expect("unmount");
        said
    };
    assert!(
        expected.contains(&"the container's root writes: (Some(28), false)".to_owned())
            && expected.contains(&"the host's root writes: (Some(28), true)".to_owned()),
        "an idmapped mount: {expected:#?}"
    );
    for passthrough in ["auto", "off"] {
        let filesystem = loop_fs("ext4", 64);
        let source = filesystem.dir("source");
        open_to_all(&source);
        let mount = Mount::builder()
            .source(&source)
            .map(SHIFT)
            .arg(format!("--passthrough={passthrough}"))
            .start();
        let mut said = results(mount.path());
        if passthrough == "auto" {
            // doc/SEMANTICS.md lists this difference: with passthrough the host's root gets no reserve.
            let last = said.last_mut().expect("something was said");
            assert_eq!(*last, "the host's root writes: (Some(28), false)");
            last.clone_from(expected.last().expect("something was said"));
        }
        assert_eq!(said, expected, "passthrough {passthrough}");
    }
}

#[test]
fn a_file_that_the_hosts_root_has_open_gives_no_user_the_reserve() {
    let filesystem = loop_fs("ext4", 64);
    let source = filesystem.dir("source");
    open_to_all(&source);
    let reserve = reserve(&filesystem);
    let mount = Mount::builder().source(&source).map("b:0:0:65536").start();
    let path = mount.join("f");
    let mut open = File::create(&path).expect("create as root");
    open.write_all(b"x").expect("write as root");
    std::os::unix::fs::chown(&path, Some(1000), Some(1000)).expect("chown");
    as_user(1000, 1000, &[], || {
        for _ in 0..5 {
            assert_eq!(fill_up(&path).0, Some(libc::ENOSPC));
            rustix::fs::sync();
        }
    });
    let (_, free) = full(&filesystem);
    assert!(free >= reserve, "{free} of {reserve} reserved blocks are left");
}

#[test]
fn without_a_known_caller_the_reserve_of_ext4_is_for_no_one() {
    let filesystem = loop_fs("ext4", 64);
    let source = filesystem.dir("source");
    open_to_all(&source);
    let reserve = reserve(&filesystem);
    let builder = Mount::builder().source(&source).arg("-oidmappable,passthrough=off");
    let mount = match builder.try_start() {
        Ok(mount) => mount,
        Err(why) => {
            assert!(why.contains("this kernel's FUSE has no idmapped mounts"), "{why}");
            return skipped("this kernel's FUSE has no idmapped mounts");
        }
    };
    for id in [USER, 0] {
        let path = mount.join(format!("{id}"));
        let wrote = as_user(id, id, &[], || {
            File::create(&path).expect("create");
            fill_up(&path).0
        });
        assert_eq!(wrote, Some(libc::ENOSPC), "user {id}");
        let (_, free) = full(&filesystem);
        assert!(free >= reserve, "{free} of {reserve} reserved blocks are left by {id}");
    }
}

#[test]
fn a_mount_user_stored_as_root_gets_nothing_from_the_reserve() {
    for passthrough in ["auto", "off"] {
        let filesystem = loop_fs("ext4", 64);
        let source = filesystem.dir("source");
        open_to_all(&source);
        let reserve = reserve(&filesystem);
        let mount = Mount::builder()
            .source(&source)
            .map(SHIFT)
            .arg(format!("--passthrough={passthrough}"))
            .start();
        let path = mount.join("f");
        let wrote = as_user(ROOT, ROOT, &[], || {
            File::create(&path).expect("create");
            fill_up(&path)
        });
        assert_eq!(wrote, (Some(libc::ENOSPC), true));
        let (_, free) = full(&filesystem);
        assert!(free >= reserve, "{free} of {reserve} reserved blocks are left");
        // Space that does not suffice for the next blocks of a file still suffices for a few directories.
        let make = |id: u32| {
            let make = |n| fs::create_dir(mount.join(format!("{id} {n}")));
            as_user(id, id, &[], || (0..5000).find_map(|n| errno(make(n))))
        };
        assert_eq!(make(USER), Some(libc::ENOSPC));
        let made = as_user(ROOT, ROOT, &[], || fs::create_dir(mount.join("d")));
        assert_eq!(errno(made), Some(libc::ENOSPC), "a directory takes a block");
        assert!(!mount.in_source("d").exists());
    }
}

#[test]
fn a_btrfs_quota_group_answers_with_edquot() {
    for (passthrough, id) in [("auto", USER), ("off", ROOT)] {
        let filesystem = loop_fs("btrfs", 300);
        sh_output(
            filesystem.path(),
            "btrfs quota enable . && btrfs subvolume create source && chmod 777 source \
             && btrfs qgroup limit 20M source",
        );
        let source = filesystem.path().join("source");
        let mount = Mount::builder()
            .source(&source)
            .map(SHIFT)
            .arg(format!("--passthrough={passthrough}"))
            .start();
        let path = mount.join("f");
        let wrote = as_user(id, id, &[], || {
            File::create(&path).expect("create");
            fill_up(&path)
        });
        assert_eq!(wrote, (Some(libc::EDQUOT), true), "passthrough {passthrough}, {id}");
    }
}

/// Needs a kernel with a quota format for ext4 (CONFIG_QFMT_V2); without one the test is skipped.
#[test]
fn quotas_are_charged_to_source_ids() {
    let scratch_dir = scratch();
    let made = sh_output(
        scratch_dir.path(),
        "truncate -s 64M image && mkfs.ext4 -q -F -O quota -E quotatype=usrquota image && mkdir fs \
         && (mount -o loop,usrquota image fs 2>&1 || echo no quotas here)",
    );
    if made.contains("no quotas here") {
        return skipped(&format!("this kernel has no quotas on ext4: {}", made.trim()));
    }
    let root = scratch_dir.join("fs");
    let source = root.join("source");
    fs::create_dir(&source).expect("mkdir");
    open_to_all(&source);
    sh_output(&root, "setquota -u 1000 0 4096 0 0 .");
    {
        let mount = Mount::builder().source(&source).map(SHIFT).start();
        let path = mount.join("f");
        let wrote = as_user(USER, USER, &[], || {
            File::create(&path).expect("create");
            fill_up(&path)
        });
        assert_eq!(wrote, (Some(libc::EDQUOT), true));
        assert!(fs::metadata(&path).expect("stat").len() <= 4 << 20);
    }
    rustix::mount::unmount(&root, rustix::mount::UnmountFlags::DETACH).expect("unmount");
}
