//! Symbolic links shown as their targets.

mod support;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{self as unix, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::{Mount, Scratch, eventually, scratch, sh, sh_output};

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// A source with a directory `outside` beside it, mounted with --resolve-symlinks and `args`.
fn resolving(script: &str, args: &[&str]) -> (Mount, Scratch) {
    let scratch_dir = scratch();
    let source = scratch_dir.dir("source");
    sh(scratch_dir.path(), "mkdir outside");
    sh(&source, script);
    let mut builder = Mount::builder().source(&source).arg("--resolve-symlinks");
    for arg in args {
        builder = builder.arg(*arg);
    }
    (builder.start(), scratch_dir)
}

fn tree(dir: &Path) -> String {
    sh_output(dir, "find . -printf '%y %p\\n' | sort -k2")
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).expect("stat").is_symlink()
}

fn removed_with(policy: &str) -> (Mount, Scratch) {
    let option = format!("--resolved-symlink-deletion={policy}");
    resolving(
        "echo t > target; ln -s target l; mkdir d full; touch full/f; ln -s d dl; ln -s full fl; ln -s nowhere broken; \
         echo o > ../outside/f; ln -s ../outside/f ol",
        &[&option],
    )
}

#[test]
fn links_are_shown_as_what_they_lead_to_inside_and_outside_the_source() {
    for caching in ["--cache=coherent", "--cache=timeout=1s", "--cache=none", "--cache=forever"] {
        let (mount, scratch_dir) = resolving(
            "echo in > f; ln -s f l; ln -s l ll; mkdir -p d/sub; echo deep > d/sub/g; ln -s d/sub dl; ln -s ../../f d/sub/up; \
             echo out > ../outside/o; mkdir ../outside/od; echo far > ../outside/od/far; ln -s ../outside/o ol; \
             ln -s $(realpath ../outside) abs; ln -s ../../source/f ../outside/od/back",
            &[caching],
        );
        for _ in 0..2 {
            for (name, text) in [
                ("l", "in\n"),
                ("ll", "in\n"),
                ("dl/g", "deep\n"),
                ("dl/up", "in\n"),
                ("ol", "out\n"),
                ("abs/o", "out\n"),
                ("abs/od/far", "far\n"),
                ("abs/od/back", "in\n"),
            ] {
                assert_eq!(fs::read_to_string(mount.join(name)).expect(name), text, "{caching}");
                assert!(!is_link(&mount.join(name)), "{caching}: {name}");
            }
            assert_eq!(
                tree(mount.path()),
                "d .\nd ./abs\nf ./abs/o\nd ./abs/od\nf ./abs/od/back\nf ./abs/od/far\nd ./d\nd ./d/sub\nf ./d/sub/g\nf ./d/sub/up\n\
                 d ./dl\nf ./dl/g\nf ./dl/up\nf ./f\nf ./l\nf ./ll\nf ./ol\n",
                "{caching}"
            );
        }
        // The types and inode numbers of a listing are those of lookups.
        let listed = sh_output(mount.path(), "ls -1iU . abs dl");
        for line in listed
            .lines()
            .filter(|line| line.starts_with(' ') || line.starts_with(|c: char| c.is_ascii_digit()))
        {
            let (ino, name) = line.trim().split_once(' ').expect("number and name");
            let stat = ["", "abs", "dl"]
                .iter()
                .filter_map(|dir| fs::symlink_metadata(mount.join(dir).join(name)).ok())
                .any(|meta| meta.ino().to_string() == ino);
            assert!(stat, "{caching}: {line}");
        }
        drop(mount);
        drop(scratch_dir);
    }
}

#[test]
fn what_is_written_and_made_through_a_link_is_written_and_made_where_it_leads() {
    let (mount, scratch_dir) = resolving(
        "echo in > f; ln -s f l; mkdir d; ln -s d dl; ln -s ../outside out; echo o > ../outside/o; ln -s ../outside/o ol",
        &["--map=0/100000"],
    );
    let at = |name: &str| mount.join(name);
    let source = |name: &str| fs::read_to_string(mount.in_source(name)).expect(name);
    File::options().append(true).open(at("l")).expect("open").write_all(b"more\n").expect("append");
    assert_eq!(source("f"), "in\nmore\n");
    assert_eq!(fs::read_to_string(at("f")).expect("read"), "in\nmore\n", "the same file");
    assert_eq!(
        fs::metadata(at("l")).expect("stat").ino(),
        fs::metadata(at("f")).expect("stat").ino()
    );
    fs::write(at("dl/new"), "new").expect("create");
    fs::create_dir(at("dl/sub")).expect("mkdir");
    fs::write(at("dl/sub/deep"), "deep").expect("create");
    assert_eq!(source("d/sub/deep"), "deep");
    eventually("the other way to it shows it too", || {
        fs::read_to_string(at("d/sub/deep")).is_ok_and(|text| text == "deep")
    });
    fs::rename(at("dl/new"), at("out/moved")).expect("rename");
    assert_eq!(fs::read_to_string(scratch_dir.path().join("outside/moved")).expect("read"), "new");
    fs::hard_link(at("ol"), at("out/linked")).expect("link");
    assert_eq!(fs::metadata(scratch_dir.path().join("outside/o")).expect("stat").nlink(), 2);
    unix::chown(at("ol"), Some(5), None).expect("chown");
    assert_eq!(fs::metadata(scratch_dir.path().join("outside/o")).expect("stat").uid(), 5);
    assert_eq!(
        fs::metadata(at("out")).expect("stat").uid(),
        100_000,
        "ids are translated outside too"
    );
    fs::remove_file(at("dl/sub/deep")).expect("unlink");
    fs::remove_dir(at("dl/sub")).expect("rmdir");
    assert!(!mount.in_source("d/sub").exists());
    assert!(fs::symlink_metadata(mount.in_source("dl")).expect("stat").is_symlink());
}

#[test]
fn no_link_can_be_made() {
    let (mount, _scratch_dir) = resolving("touch f", &[]);
    assert_eq!(errno(unix::symlink("f", mount.join("l"))), Some(libc::EPERM));
    assert!(!mount.in_source("l").exists());
}

#[test]
fn broken_links_loops_and_chains_that_are_too_long_stay_links() {
    let (mount, _scratch_dir) = resolving(
        "ln -s nowhere broken; ln -s loop loop; ln -s b a; ln -s a b; touch f; ln -s f/x through; ln -s /proc/self/fd/no p; \
         ln -s f c1; for i in $(seq 2 41); do ln -s c$((i-1)) c$i; done",
        &[],
    );
    for name in ["broken", "loop", "a", "b", "through", "p", "c41"] {
        assert!(is_link(&mount.join(name)), "{name}");
        let target = fs::read_link(mount.join(name)).expect("readlink");
        assert_eq!(target, fs::read_link(mount.in_source(name)).expect("readlink"));
    }
    assert!(!is_link(&mount.join("c39")), "39 links are no more than the kernel follows");
    fs::write(mount.in_source("nowhere"), "now").expect("create");
    eventually("a link that is no longer broken is resolved", || !is_link(&mount.join("broken")));
    fs::remove_file(mount.in_source("nowhere")).expect("unlink");
    eventually("and a broken one is a link again", || is_link(&mount.join("broken")));
    fs::remove_file(mount.join("a")).expect("a link that stays one is removed as one");
    assert!(fs::symlink_metadata(mount.in_source("a")).is_err());
}

#[test]
fn a_link_to_a_directory_above_it_stays_a_link_so_that_a_walk_ends() {
    let (mount, _scratch_dir) = resolving(
        "mkdir -p d/e x y; ln -s . here; ln -s .. d/up; ln -s ../.. d/e/upup; ln -s / root; ln -s ../y x/toy; ln -s ../x y/tox; \
         ln -s e d/down; ln -s ../../outside d/out; ln -s ../source/d ../outside/in",
        &[],
    );
    for name in ["here", "d/up", "d/e/upup", "root", "x/toy/tox", "y/tox/toy", "d/out/in"] {
        assert!(is_link(&mount.join(name)), "{name}");
    }
    for name in ["x/toy", "y/tox", "d/down", "d/out"] {
        assert!(!is_link(&mount.join(name)), "{name}");
    }
    let walked = sh_output(mount.path(), "timeout 20 find . | wc -l");
    assert!(walked.trim().parse::<u32>().expect("a number") < 40, "{walked}");
    // Programs that detect loops report none.
    sh(
        mount.path(),
        "timeout 20 ls -lR . > /dev/null; timeout 20 du . > /dev/null; timeout 20 tar cf - . | tar tf - > /dev/null",
    );
}

#[test]
fn one_directory_has_an_inode_for_each_path_to_it_and_all_paths_can_be_walked_at_once() {
    let (mount, _scratch_dir) = resolving(
        "mkdir -p d/sub/deep; touch d/sub/deep/f; ln -s d l1; ln -s d l2; ln -s d/sub l3; mkdir m; ln -s ../d m/l4",
        &[],
    );
    let paths = ["d/sub", "l1/sub", "l2/sub", "l3", "m/l4/sub"];
    let inode = |path: PathBuf| fs::metadata(path).expect("stat").ino();
    let mut seen: Vec<_> = paths.iter().map(|path| inode(mount.join(path))).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), paths.len(), "a directory has an inode for each path");
    let files: Vec<_> = paths.iter().map(|path| inode(mount.join(path).join("deep/f"))).collect();
    assert!(files.iter().all(|file| *file == files[0]), "a file is the same one");
    thread::scope(|scope| {
        for path in paths {
            let dir = mount.join(path).join("deep");
            scope.spawn(move || {
                for _ in 0..200 {
                    let name = dir.join(format!("by-{}", path.replace('/', "-")));
                    File::create(&name).expect("create");
                    fs::remove_file(&name).expect("unlink");
                    assert!(fs::metadata(dir.join("f")).expect("stat").is_file());
                }
            });
        }
    });
    // A shell with its working directory in one of them stays there while the other paths are used.
    sh(
        &mount.join("l1/sub"),
        "ls ../../l2/sub/deep > /dev/null; ls ../../l1/sub/deep > /dev/null; cat deep/f; test -e ../../l1",
    );
}

/// A mount on `mnt` in its own source, served by one thread: a request to its own mount hangs.
fn below_itself(script: &str) -> (Mount, Scratch) {
    let scratch_dir = scratch();
    let source = scratch_dir.dir("source");
    sh(&source, script);
    let mount = Mount::builder()
        .source(&source)
        .mountpoint(&source.join("mnt"))
        .arg("--resolve-symlinks")
        .arg("--threads=1")
        .start();
    (mount, scratch_dir)
}

#[test]
fn a_link_into_our_own_mount_is_refused_and_the_daemon_never_waits_for_itself() {
    let (mount, _scratch_dir) = below_itself(
        "mkdir mnt d; touch d/f; ln -s mnt into; ln -s mnt/d deep; ln -s mnt/into/d twice; ln -s $(realpath mnt)/d abs",
    );
    let start = Instant::now();
    for name in ["into", "into/d", "deep", "twice", "abs", "abs/f", "mnt", "mnt/d"] {
        assert_eq!(errno(fs::symlink_metadata(mount.join(name))), Some(libc::EPERM), "{name}");
    }
    for _ in 0..2 {
        let listed = sh_output(
            mount.path(),
            "ls -1U | sort; ls -l > /dev/null 2>&1 || true; find . > /dev/null 2>&1 || true",
        );
        for name in ["abs", "d", "deep", "into", "twice"] {
            assert!(listed.lines().any(|line| line == name), "{name} in {listed}");
        }
    }
    assert_eq!(errno(fs::remove_file(mount.join("into"))), Some(libc::EPERM));
    assert_eq!(errno(fs::remove_dir(mount.join("mnt"))), Some(libc::EPERM));
    assert_eq!(errno(fs::rename(mount.join("d"), mount.join("mnt"))), Some(libc::EPERM));
    assert!(fs::metadata(mount.join("d/f")).expect("all else works").is_file());
    assert!(start.elapsed() < Duration::from_secs(10), "nothing waited");
    drop(mount);
}

#[test]
fn a_listing_sends_our_own_mount_no_request_for_a_file_that_is_bound_into_the_source() {
    // A file younger than a clock tick takes another code path in the listing.
    let (mount, _scratch_dir) = below_itself("mkdir mnt d; touch d/f x y; sleep 0.05");
    let source = mount.source();
    sh(source, "mount --bind mnt/d/f x; chmod 600 d/f");
    let mut ls = Command::new("ls").arg(mount.path()).stdout(Stdio::null()).spawn().expect("ls");
    let start = Instant::now();
    let mut hangs = false;
    while ls.try_wait().expect("wait").is_none() && !hangs {
        thread::sleep(Duration::from_millis(10));
        hangs = start.elapsed() > Duration::from_secs(10);
    }
    if hangs {
        sh(source, &format!("kill -KILL {}", mount.pid().expect("a daemon runs")));
        ls.wait().expect("wait");
    }
    sh(source, "umount x");
    assert!(!hangs, "it waits for itself");
    assert_eq!(fs::read(mount.join("y")).expect("read"), b"");
    drop(mount);
}

#[test]
fn a_link_that_is_changed_on_the_source_shows_its_new_target() {
    for caching in ["--cache=coherent", "--cache=timeout=1s"] {
        let (mount, _scratch_dir) = resolving(
            "mkdir 1 2; echo one > 1/f; echo two > 2/f; ln -s 1 l; ln -s 1/f fl; ln -s l chain",
            &[caching],
        );
        for name in ["l/f", "fl", "chain/f"] {
            assert_eq!(fs::read_to_string(mount.join(name)).expect(name), "one\n");
        }
        sh(mount.source(), "ln -sfn 2 l; ln -sfn 2/f fl");
        for name in ["l/f", "fl", "chain/f"] {
            eventually(name, || {
                fs::read_to_string(mount.join(name)).is_ok_and(|text| text == "two\n")
            });
        }
        sh(mount.source(), "rm l; mkdir l; echo real > l/f");
        for name in ["l/f", "chain/f"] {
            eventually(name, || {
                fs::read_to_string(mount.join(name)).is_ok_and(|text| text == "real\n")
            });
        }
        sh(mount.source(), "rm -r l");
        eventually("the link that led there is broken", || is_link(&mount.join("chain")));
    }
}

#[test]
fn a_change_on_the_source_below_a_link_is_seen_within_two_seconds() {
    let (mount, scratch_dir) =
        resolving("ln -s ../outside out; mkdir ../outside/d; echo 1 > ../outside/d/f", &[]);
    assert_eq!(fs::read_to_string(mount.join("out/d/f")).expect("read"), "1\n");
    assert_eq!(errno(fs::metadata(mount.join("out/d/g"))), Some(libc::ENOENT));
    sh(scratch_dir.path(), "echo 22 > outside/d/f; echo g > outside/d/g; chmod 751 outside/d");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(fs::read_to_string(mount.join("out/d/f")).expect("read"), "22\n");
    assert_eq!(fs::read_to_string(mount.join("out/d/g")).expect("read"), "g\n");
    assert_eq!(fs::metadata(mount.join("out/d")).expect("stat").mode() & 0o777, 0o751);
    assert_eq!(fs::read_dir(mount.join("out/d")).expect("list").count(), 2);
}

#[test]
fn removing_a_resolved_name_removes_the_link_by_default() {
    let (mount, scratch_dir) = removed_with("symlink-only");
    fs::remove_file(mount.join("l")).expect("unlink");
    fs::remove_dir(mount.join("dl")).expect("rmdir of a link to a directory");
    fs::remove_dir(mount.join("fl")).expect("rmdir of a link to one that is not empty");
    fs::remove_file(mount.join("ol")).expect("unlink");
    for name in ["l", "dl", "fl", "ol"] {
        assert!(fs::symlink_metadata(mount.in_source(name)).is_err(), "{name}");
        assert_eq!(errno(fs::symlink_metadata(mount.join(name))), Some(libc::ENOENT), "{name}");
    }
    for name in ["target", "d", "full/f"] {
        assert!(fs::metadata(mount.in_source(name)).is_ok(), "{name}");
        assert!(fs::metadata(mount.join(name)).is_ok(), "{name}");
    }
    assert!(scratch_dir.path().join("outside/f").exists());
    // The kernel has lowered the link count of its inode; the file still has its other name.
    fs::hard_link(mount.join("target"), mount.join("again")).expect("link");
    File::create(mount.join("d/alive")).expect("the directory lives");
}

#[test]
fn a_link_made_again_after_its_removal_shows_a_directory_that_works() {
    let (mount, _scratch_dir) = resolving("mkdir d; ln -s d l", &[]);
    let inside =
        Command::new("sleep").arg("60").current_dir(mount.join("l")).stdin(Stdio::null()).spawn();
    let mut inside = inside.expect("start a program that stands in it");
    for round in 0..3 {
        File::create(mount.join("l/f")).unwrap_or_else(|e| panic!("round {round}: {e}"));
        fs::remove_file(mount.join("l/f")).expect("unlink");
        fs::remove_dir(mount.join("l")).expect("rmdir");
        sh(mount.source(), "ln -s d l");
        eventually("it is there again", || mount.join("l").exists());
    }
    inside.kill().expect("end it");
    inside.wait().expect("reap it");
}

#[test]
fn deny_refuses_to_remove_resolved_names_and_no_other_names() {
    let (mount, _scratch_dir) = removed_with("deny");
    assert_eq!(errno(fs::remove_file(mount.join("l"))), Some(libc::EPERM));
    assert_eq!(errno(fs::remove_dir(mount.join("dl"))), Some(libc::EPERM));
    File::create(mount.join("new")).expect("create");
    assert_eq!(
        errno(fs::rename(mount.join("new"), mount.join("l"))),
        Some(libc::EPERM),
        "nor by a rename"
    );
    fs::remove_file(mount.join("broken")).expect("a link that stays one");
    fs::remove_file(mount.join("target")).expect("a file");
    assert!(fs::symlink_metadata(mount.in_source("l")).is_ok());
}

#[test]
fn symlink_first_removes_the_link_and_then_the_target_if_it_can() {
    let (mount, scratch_dir) = removed_with("symlink-first");
    fs::remove_file(mount.join("l")).expect("unlink");
    fs::remove_dir(mount.join("dl")).expect("rmdir");
    fs::remove_dir(mount.join("fl")).expect("the link goes, though its target is not empty");
    fs::remove_file(mount.join("ol")).expect("unlink");
    for name in ["l", "target", "dl", "d", "fl"] {
        assert!(fs::symlink_metadata(mount.in_source(name)).is_err(), "{name}");
    }
    assert!(mount.in_source("full/f").exists());
    assert!(!scratch_dir.path().join("outside/f").exists());
}

#[test]
fn target_first_removes_the_target_and_then_the_link_or_nothing() {
    let (mount, scratch_dir) = removed_with("target-first");
    fs::remove_file(mount.join("l")).expect("unlink");
    fs::remove_dir(mount.join("dl")).expect("rmdir");
    fs::remove_file(mount.join("ol")).expect("unlink");
    assert_eq!(errno(fs::remove_dir(mount.join("fl"))), Some(libc::ENOTEMPTY));
    for name in ["l", "target", "dl", "d"] {
        assert!(fs::symlink_metadata(mount.in_source(name)).is_err(), "{name}");
    }
    assert!(fs::symlink_metadata(mount.in_source("fl")).is_ok());
    assert!(!scratch_dir.path().join("outside/f").exists());
}

#[test]
fn an_open_file_stays_usable_after_target_first_removed_its_target() {
    let (mount, _scratch_dir) = removed_with("target-first");
    let file = File::options().read(true).write(true).open(mount.join("l")).expect("open");
    fs::remove_file(mount.join("l")).expect("unlink");
    file.write_all_at(b"still", 0).expect("write");
    let mut bytes = [0; 5];
    file.read_exact_at(&mut bytes, 0).expect("read");
    assert_eq!(&bytes, b"still");
    assert_eq!(file.metadata().expect("fstat").len(), 5);
}

#[test]
fn a_rename_moves_the_link_itself() {
    let (mount, _scratch_dir) =
        resolving("echo t > f; ln -s f l; mkdir d; touch d/in; ln -s d dl", &[]);
    fs::rename(mount.join("l"), mount.join("m")).expect("rename");
    assert_eq!(fs::read_link(mount.in_source("m")).expect("a link"), Path::new("f"));
    assert_eq!(fs::read_to_string(mount.join("m")).expect("read"), "t\n");
    assert_eq!(errno(fs::metadata(mount.join("l"))), Some(libc::ENOENT));
    fs::rename(mount.join("dl"), mount.join("dm")).expect("rename");
    assert_eq!(fs::read_link(mount.in_source("dm")).expect("a link"), Path::new("d"));
    assert!(mount.join("dm/in").exists() && mount.join("d/in").exists());
    File::create(mount.join("dm/new")).expect("create");
    assert!(mount.in_source("d/new").exists());
    fs::write(mount.join("g"), "g").expect("create");
    fs::rename(mount.join("g"), mount.join("m")).expect("rename over a link");
    assert!(!is_link(&mount.in_source("m")), "the link is replaced");
    assert_eq!(fs::read_to_string(mount.in_source("f")).expect("read"), "t\n", "its target is not");
    fs::hard_link(mount.join("f"), mount.join("f2")).expect("the kernel knows that it lives");
}

#[test]
fn a_link_to_an_excluded_name_stays_a_link() {
    let (mount, _scratch_dir) = resolving(
        "mkdir -p secret/d open; echo s > secret/f; ln -s secret s; ln -s secret/d sd; ln -s ../secret/f open/sf; ln -s open o; \
         mkdir hidden; ln -s hidden h",
        &["--exclude=secret", "--exclude=/hidden"],
    );
    for name in ["s", "sd", "open/sf", "o/sf", "h"] {
        assert!(is_link(&mount.join(name)), "{name}");
        assert_eq!(errno(fs::metadata(mount.join(name))), Some(libc::ENOENT), "{name}");
    }
    let walked = sh_output(mount.path(), "find . -type d | sort");
    assert_eq!(walked, ".\n./o\n./open\n");
}

#[test]
fn with_one_filesystem_links_to_other_filesystems_stay_links() {
    let scratch_dir = scratch();
    let source = scratch_dir.dir("source");
    sh(
        scratch_dir.path(),
        "mkdir other near; mount -t tmpfs tmpfs other; touch other/f near/f; ln -s ../other/f source/l; ln -s ../near/f source/n",
    );
    for (one, stays) in [(true, true), (false, false)] {
        let mut builder = Mount::builder().source(&source).arg("--resolve-symlinks");
        if one {
            builder = builder.arg("--one-file-system");
        }
        let mount = builder.start();
        assert_eq!(is_link(&mount.join("l")), stays);
        assert!(!is_link(&mount.join("n")));
    }
    sh(scratch_dir.path(), "umount other");
}

#[test]
fn links_swapped_all_the_time_never_show_anything_but_their_targets() {
    let (mount, scratch_dir) = resolving("mkdir a b; echo a > a/f; echo b > b/f; ln -s a l", &[]);
    let source = mount.source().to_owned();
    let end = Instant::now() + Duration::from_secs(3);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut targets = ["b", "a"].iter().cycle();
            while Instant::now() < end {
                let _ = fs::remove_file(source.join("t"));
                unix::symlink(targets.next().expect("a cycle"), source.join("t")).expect("symlink");
                fs::rename(source.join("t"), source.join("l")).expect("rename");
                thread::sleep(Duration::from_millis(1));
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while Instant::now() < end {
                    match fs::read_to_string(mount.join("l/f")) {
                        Ok(text) => assert!(text == "a\n" || text == "b\n", "{text}"),
                        Err(e) => assert!(
                            matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)),
                            "{e}"
                        ),
                    }
                }
            });
        }
    });
    drop(mount);
    drop(scratch_dir);
}
