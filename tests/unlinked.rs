//! Open files and directories without a name, or with a name that another file has taken.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{self as unix, FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, XattrFlags};
use support::{Mount, same_as_bare};

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("open")
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// All operations on an open file without a name; returns the results for comparison.
fn use_without_name(mut file: File) -> Vec<String> {
    let mut said = Vec::new();
    file.write_all(b"hello world").expect("write");
    file.seek(SeekFrom::Start(6)).expect("seek");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read");
    said.push(text);
    file.set_len(5).expect("ftruncate");
    file.set_permissions(fs::Permissions::from_mode(0o640)).expect("fchmod");
    unix::fchown(&file, Some(12), Some(13)).expect("fchown");
    rustix::fs::fsetxattr(&file, "user.note", b"value", XattrFlags::CREATE).expect("fsetxattr");
    let mut value = [0_u8; 16];
    let len = rustix::fs::fgetxattr(&file, "user.note", &mut value).expect("fgetxattr");
    said.push(String::from_utf8_lossy(&value[..len]).into_owned());
    file.sync_all().expect("fsync");
    let meta = file.metadata().expect("fstat");
    said.push(format!(
        "{:o} {}:{} size {} links {}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.size(),
        meta.nlink()
    ));
    let again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
    said.push(format!(
        "{:?}",
        again.map(|again| again.metadata().map(|meta| meta.size()).ok()).ok()
    ));
    said
}

#[test]
fn an_unlinked_open_file_works_as_on_a_plain_directory() {
    same_as_bare(|dir| {
        let path = dir.join("f");
        let file = open(&path);
        fs::remove_file(&path).expect("unlink");
        assert_eq!(
            fs::read_dir(dir).expect("list").count(),
            0,
            "nothing is left behind, no .fuse_hidden either"
        );
        use_without_name(file)
    });
}

#[test]
fn a_file_replaced_by_rename_works_on_and_the_new_one_is_untouched() {
    same_as_bare(|dir| {
        let (path, new) = (dir.join("f"), dir.join("new"));
        let file = open(&path);
        fs::write(&new, "new").expect("write");
        fs::rename(&new, &path).expect("rename");
        (
            use_without_name(file),
            fs::read(&path).expect("read"),
            fs::metadata(&path).expect("stat").mode(),
        )
    });
}

#[test]
fn a_file_deleted_on_the_source_side_works_on() {
    let mount = Mount::identity();
    let file = open(&mount.join("f"));
    fs::remove_file(mount.in_source("f")).expect("unlink on the source");
    let said = use_without_name(file);
    assert_eq!(said[2], "100640 12:13 size 5 links 0");
}

#[test]
fn operations_on_an_open_file_act_on_it_when_its_name_was_replaced_on_the_source_side() {
    let mount = Mount::identity();
    let file = open(&mount.join("f"));
    fs::write(mount.in_source("other"), "other").expect("write");
    fs::set_permissions(mount.in_source("other"), fs::Permissions::from_mode(0o604))
        .expect("chmod");
    fs::rename(mount.in_source("other"), mount.in_source("f")).expect("rename on the source");
    use_without_name(file);
    let meta = fs::metadata(mount.in_source("f")).expect("stat");
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o604, 0, 0));
    assert_eq!(fs::read(mount.in_source("f")).expect("read"), b"other");
}

#[test]
fn an_unlinked_file_with_another_link_keeps_its_contents() {
    same_as_bare(|dir| {
        let file = open(&dir.join("a"));
        fs::hard_link(dir.join("a"), dir.join("b")).expect("link");
        fs::remove_file(dir.join("a")).expect("unlink");
        file.write_all_at(b"text", 0).expect("write");
        (file.metadata().expect("stat").nlink(), fs::read(dir.join("b")).expect("read"))
    });
}

#[test]
fn linking_an_unlinked_file_back_is_refused_as_linux_refuses_it() {
    same_as_bare(|dir| {
        let path = dir.join("f");
        let file = open(&path);
        fs::remove_file(&path).expect("unlink");
        let by_proc = format!("/proc/self/fd/{}", file.as_raw_fd());
        (
            rustix::fs::linkat(
                CWD,
                by_proc.as_str(),
                CWD,
                dir.join("back"),
                AtFlags::SYMLINK_FOLLOW,
            ),
            rustix::fs::linkat(&file, "", CWD, dir.join("back"), AtFlags::EMPTY_PATH),
        )
    });
}

#[test]
fn linking_an_open_file_by_its_descriptor_works() {
    same_as_bare(|dir| {
        let file = open(&dir.join("f"));
        let by_proc = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::linkat(CWD, by_proc.as_str(), CWD, dir.join("one"), AtFlags::SYMLINK_FOLLOW)
            .expect("by /proc");
        rustix::fs::linkat(&file, "", CWD, dir.join("two"), AtFlags::EMPTY_PATH)
            .expect("by descriptor");
        file.metadata().expect("stat").nlink()
    });
}

#[test]
fn a_removed_directory_that_is_open_is_empty_and_takes_nothing() {
    same_as_bare(|dir| {
        let gone = dir.join("gone");
        fs::create_dir(&gone).expect("mkdir");
        let open = File::open(&gone).expect("open");
        fs::remove_dir(&gone).expect("rmdir");
        let here = format!("/proc/self/fd/{}", open.as_raw_fd());
        (
            open.metadata().expect("stat").nlink(),
            fs::read_dir(&here).map(Iterator::count).ok(),
            errno(File::create(format!("{here}/f"))),
            errno(fs::create_dir(format!("{here}/d"))),
        )
    });
}

#[test]
fn a_removed_working_directory_says_enoent() {
    same_as_bare(|dir| {
        let gone = dir.join("gone");
        fs::create_dir(&gone).expect("mkdir");
        support::as_root_with_umask(0o022, || {
            rustix::process::chdir(&gone).expect("chdir");
            fs::remove_dir(&gone).expect("rmdir");
            (
                errno(File::create("f")),
                errno(std::env::current_dir()),
                fs::metadata(".").map(|meta| meta.nlink()).ok(),
            )
        })
    });
}

#[test]
fn a_directory_moved_while_it_is_open_is_still_the_same_one() {
    let mount = Mount::identity();
    fs::create_dir(mount.join("a")).expect("mkdir");
    let open = File::open(mount.join("a")).expect("open");
    fs::rename(mount.in_source("a"), mount.in_source("b")).expect("rename on the source");
    fs::write(format!("/proc/self/fd/{}/f", open.as_raw_fd()), "text")
        .expect("write below the open directory");
    assert_eq!(fs::read(mount.in_source("b/f")).expect("read"), b"text");
}
