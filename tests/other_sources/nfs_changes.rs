//! A source on NFS that changes: by the mount's clients, by other clients of the server, by a server that restarts or is
//! out of reach.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::nfs::Nfs;
use crate::support::{Mount, as_user, eventually, patience, sh, sh_output, sys};
use crate::survey::{self, tell};

const VERSIONS: [(&str, &str); 2] = [("NFSv3", "vers=3"), ("NFSv4.2", "vers=4.2")];

/// Runs the closure on each version's server, with a mount that has a map.
fn on_each(run: impl Fn(&str, &Nfs, &Mount)) {
    for (name, version) in VERSIONS {
        let Some(nfs) = Nfs::start(version, "no_root_squash") else { return };
        let mount = survey::mount(&nfs.mounted);
        run(name, &nfs, &mount);
    }
}

/// The names below a directory of the server that NFS gives to removed files that are still in use.
fn silly_names(dir: &Path) -> String {
    sh_output(dir, "find . -name '.nfs*'")
}

#[test]
fn trees_on_nfs_are_removed_and_leave_nothing() {
    on_each(|name, nfs, mount| {
        for round in 0..10 {
            sh(
                mount.path(),
                "mkdir -p a/b/c; for n in 1 2 3 4 5 6 7 8; do echo $n > a/f$n; echo $n > a/b/f$n; done; ls -lR a > /dev/null",
            );
            let removed =
                Command::new("rm").arg("-r").arg(mount.join("a")).output().expect("run rm");
            let said = String::from_utf8_lossy(&removed.stderr).into_owned();
            assert!(removed.status.success(), "{name}, round {round}: {said}");
        }
        eventually("no removed file is left on the server", || silly_names(&nfs.export).is_empty());
    });
}

#[test]
fn a_directory_on_nfs_is_removed_right_after_its_last_file_is_closed() {
    on_each(|name, nfs, mount| {
        for round in 0..30 {
            fs::create_dir(mount.join("d")).expect("mkdir");
            let file = File::create(mount.join("d/f")).expect("create");
            fs::remove_file(mount.join("d/f")).expect("unlink");
            drop(file);
            let removed = fs::remove_dir(mount.join("d"));
            assert!(removed.is_ok(), "{name}, round {round}: {removed:?}");
        }
        // A file with another name, which the kernel goes on knowing, leaves nothing behind either.
        fs::create_dir(mount.join("d")).expect("mkdir");
        fs::write(mount.join("d/f"), "text").expect("write");
        fs::hard_link(mount.join("d/f"), mount.join("l")).expect("link");
        fs::remove_file(mount.join("d/f")).expect("unlink");
        fs::remove_dir(mount.join("d")).expect("rmdir");
        assert_eq!(fs::read(mount.join("l")).expect("read"), b"text", "{name}");
        assert_eq!(fs::metadata(mount.join("l")).expect("stat").nlink(), 1, "{name}");
        // Nor does a removal that the server refuses lose the file.
        fs::set_permissions(nfs.mounted.join("."), Permissions::from_mode(0o755)).expect("chmod");
        chown(nfs.mounted.join("l"), Some(1000), None).expect("chown");
        let refused = as_user(101_000, 101_000, &[], || fs::remove_file(mount.join("l")));
        assert!(refused.is_err(), "{name}");
        assert_eq!(fs::read(mount.join("l")).expect("read"), b"text", "{name}");
    });
}

#[test]
fn a_full_server_is_told_by_write_or_close() {
    on_each(|name, nfs, mount| {
        let mut filler = File::create(nfs.export.join("filler")).expect("create");
        while filler.write_all(&[7; 4096]).is_ok() {}
        filler.sync_all().ok();
        let mut file = File::create(mount.join("f")).expect("create");
        let written = file.write_all(&vec![7; 2 << 20]);
        let closed = sys::close_raw(file.into_raw_fd());
        let errors = [written.err(), closed.err()];
        let full = errors.iter().flatten().any(|error| error.raw_os_error() == Some(libc::ENOSPC));
        assert!(full, "{name}: {errors:?}");
    });
}

#[test]
fn a_removed_file_on_nfs_stays_usable_while_it_is_open() {
    on_each(|name, nfs, mount| {
        fs::write(mount.join("f"), "text").expect("write");
        fs::write(mount.join("g"), "other").expect("write");
        let file = File::options().read(true).write(true).open(mount.join("f")).expect("open");
        fs::remove_file(mount.join("f")).expect("unlink");
        let replaced = File::open(mount.join("g")).expect("open");
        fs::write(mount.join("h"), "new").expect("write");
        fs::rename(mount.join("h"), mount.join("g")).expect("rename over an open file");
        file.write_all_at(b"more", 4).expect("write to the removed file");
        file.sync_all().expect("fsync");
        let mut data = vec![0; 8];
        file.read_exact_at(&mut data, 0).expect("read the removed file");
        assert_eq!(data, b"textmore", "{name}");
        let mut data = String::new();
        (&replaced).read_to_string(&mut data).expect("read the replaced file");
        assert_eq!(data, "other", "{name}");
        assert_eq!(fs::read(mount.join("g")).expect("read"), b"new", "{name}");
        drop((file, replaced));
        eventually("no removed file is left on the server", || silly_names(&nfs.export).is_empty());
    });
}

#[test]
fn changes_by_another_client_of_the_server_are_seen_a_second_after_the_source() {
    on_each(|name, nfs, mount| {
        let (server, seen, source) = (&nfs.export, mount.path(), &nfs.mounted);
        fs::write(server.join("f"), "one").expect("write");
        fs::write(server.join("gone"), "one").expect("write");
        fs::create_dir(server.join("d")).expect("mkdir");
        fs::set_permissions(server.join("d"), Permissions::from_mode(0o777)).expect("chmod");
        let read = |dir: &Path, file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
        eventually("the files are seen", || {
            read(seen, "f") == "one" && read(seen, "gone") == "one" && seen.join("d").exists()
        });
        let mut slowest = Duration::ZERO;
        let mut check = |what: &str, change: &dyn Fn(), holds: &dyn Fn(&Path) -> bool| {
            let what = format!("{name} | {what}");
            let late = survey::delay(&what, change, || holds(source), || holds(seen));
            assert!(late < patience(Duration::from_secs(3)), "{what}: {late:?}");
            slowest = slowest.max(late);
        };
        check("data", &|| fs::write(server.join("f"), "two and more").expect("write"), &|dir| {
            read(dir, "f") == "two and more"
        });
        check(
            "mode and owner",
            &|| {
                fs::set_permissions(server.join("f"), Permissions::from_mode(0o640))
                    .expect("chmod");
                chown(server.join("f"), Some(1003), Some(1004)).expect("chown");
            },
            &|dir| {
                let meta = fs::metadata(dir.join("f")).expect("stat");
                meta.mode() & 0o7777 == 0o640
                    && meta.uid() % 100_000 == 1003
                    && meta.gid() % 100_000 == 1004
            },
        );
        check("a new name", &|| fs::write(server.join("d/new"), "new").expect("write"), &|dir| {
            read(dir, "d/new") == "new"
        });
        check(
            "a removed name",
            &|| fs::remove_file(server.join("gone")).expect("unlink"),
            &|dir| !dir.join("gone").exists(),
        );
        check(
            "a replaced file",
            &|| {
                fs::write(server.join("tmp"), "three").expect("write");
                fs::rename(server.join("tmp"), server.join("f")).expect("rename");
            },
            &|dir| read(dir, "f") == "three",
        );
        check(
            "a directory made anew",
            &|| {
                fs::remove_dir_all(server.join("d")).expect("remove");
                fs::create_dir(server.join("d")).expect("mkdir");
                fs::write(server.join("d/again"), "again").expect("write");
            },
            &|dir| read(dir, "d/again") == "again",
        );
        check("a listing", &|| fs::write(server.join("d/listed"), "").expect("write"), &|dir| {
            fs::read_dir(dir.join("d")).is_ok_and(|mut names| {
                names.any(|entry| entry.is_ok_and(|entry| entry.file_name() == "listed"))
            })
        });
        tell(
            &format!("{name} no_root_squash"),
            "changes by others",
            &format!("{:.1} s after the source", slowest.as_secs_f64()),
        );
    });
}

#[test]
fn a_file_that_another_client_removed_is_stale_and_its_name_is_free() {
    on_each(|name, nfs, mount| {
        fs::write(nfs.export.join("f"), "text").expect("write");
        let mut open = File::open(mount.join("f")).expect("open");
        let mut on_source = File::open(nfs.mounted.join("f")).expect("open");
        fs::remove_file(nfs.export.join("f")).expect("unlink");
        eventually("the source says that the file is gone", || {
            fs::metadata(nfs.mounted.join("f")).is_err()
        });
        eventually("the mount says so", || fs::metadata(mount.join("f")).is_err());
        let read = |file: &mut File| {
            let mut data = Vec::new();
            file.read_to_end(&mut data).map_err(|error| survey::errno_name(&error))
        };
        assert_eq!(read(&mut open), read(&mut on_source), "{name}: reading the removed file");
        fs::write(mount.join("f"), "new").expect("write a new file of that name");
        assert_eq!(fs::read(nfs.export.join("f")).expect("read"), b"new", "{name}");
    });
}

#[test]
fn locks_on_nfs_exclude_at_the_source_and_at_the_server() {
    on_each(|name, nfs, mount| {
        fs::write(nfs.export.join("f"), "text").expect("write");
        fs::set_permissions(nfs.export.join("f"), Permissions::from_mode(0o666)).expect("chmod");
        let (seen, source, server) = (mount.join("f"), nfs.mounted.join("f"), nfs.export.join("f"));
        survey::excludes(name, &seen, &source);
        survey::excludes(name, &source, &seen);
        survey::excludes(name, &seen, &server);
        survey::excludes(name, &server, &seen);
    });
}

#[test]
fn a_restart_of_the_server_is_survived() {
    on_each(|name, nfs, mount| {
        fs::write(mount.join("f"), "text").expect("write");
        let mut file = File::options().append(true).open(mount.join("f")).expect("open");
        nfs.stop();
        let reader = Command::new("cat").arg(mount.join("f")).stdout(Stdio::piped()).spawn();
        std::thread::sleep(Duration::from_secs(1));
        nfs.restart();
        let output = reader.expect("run cat").wait_with_output().expect("wait for cat");
        assert_eq!(output.stdout, b"text", "{name}");
        file.write_all(b"more").expect("write after the restart");
        file.sync_all().expect("fsync");
        assert_eq!(fs::read(nfs.export.join("f")).expect("read"), b"textmore", "{name}");
    });
}

#[test]
fn a_client_that_waits_for_a_server_out_of_reach_can_be_killed() {
    on_each(|name, nfs, mount| {
        fs::write(nfs.export.join("f"), vec![7; 1 << 20]).expect("write");
        assert_eq!(fs::metadata(mount.join("f")).expect("stat").len(), 1 << 20);
        nfs.run("ip link set lo down");
        let mut command = Command::new("cat");
        command.arg(mount.join("f")).stdout(Stdio::null());
        sys::die_with_parent(&mut command);
        let mut reader = command.spawn().expect("run cat");
        std::thread::sleep(Duration::from_secs(2));
        assert!(reader.try_wait().expect("look for cat").is_none(), "{name}: it waits");
        reader.kill().expect("kill");
        let start = Instant::now();
        reader.wait().expect("wait for cat");
        let killed = start.elapsed();
        nfs.run("ip link set lo up");
        println!("survey: {name} | killed | after {killed:?}");
        assert!(killed < patience(Duration::from_secs(2)), "{name}: {killed:?}");
        eventually("the mount answers again", || {
            fs::read(mount.join("f")).is_ok_and(|data| data.len() == 1 << 20)
        });
    });
}
