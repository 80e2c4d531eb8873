//! Changes the options of a mount in use: a permitted change takes effect at once and everywhere, a forbidden one is
//! refused and nothing changes.

#[allow(dead_code)]
#[path = "lifecycle/namespace.rs"]
mod namespace;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use namespace::{Namespace, Signal, finished, signal, text, wait_until};

/// A mount with a line in an fstab of its own.
struct Mount {
    ns: Namespace,
}

impl Mount {
    /// Mounts with these options, and writes them to the line; the source has a file `f` of 5:6.
    fn new(options: &str) -> Self {
        let mount = Self::described(options);
        mount.ok(&format!("$F -o {options} a m"));
        mount
    }

    /// Writes the line without mounting.
    fn described(options: &str) -> Self {
        let mount = Self { ns: Namespace::new() };
        mount.describe(options);
        mount.ok("echo text > a/f && chown 5:6 a/f && chmod 644 a/f");
        mount
    }

    /// Writes the line.
    fn describe(&self, options: &str) {
        let (a, m) = (self.ns.path("a"), self.ns.path("m"));
        let line = format!("{} {} fuse.shiftbind {options} 0 0\n", a.display(), m.display());
        fs::write(self.ns.path("fstab"), line).unwrap();
    }

    fn ok(&self, script: &str) -> String {
        self.ns.ok(&with_fstab(script))
    }

    /// Reloads with another line, which must succeed silently.
    fn reload(&self, options: &str) {
        self.describe(options);
        assert_eq!(self.ok("$S --reload m 2>&1"), "");
    }

    /// Reloads, which must fail with this status and one line that contains these words.
    fn refused(&self, status: i32, words: &[&str]) {
        let output = self.ns.sh(&with_fstab("$S --reload m"));
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(words.iter().all(|word| stderr.contains(word)), "{words:?}: {stderr}");
    }

    /// A path at the mount, as the test reaches it.
    fn at(&self, name: &str) -> PathBuf {
        self.ns.inside(&self.ns.path("m").join(name).display().to_string())
    }

    fn owner(&self, name: &str) -> (u32, u32) {
        let meta = fs::symlink_metadata(self.at(name)).unwrap();
        (meta.uid(), meta.gid())
    }

    fn on_source(&self, name: &str) -> (u32, u32) {
        let meta = fs::symlink_metadata(self.ns.path("a").join(name)).unwrap();
        (meta.uid(), meta.gid())
    }

    fn flags(&self) -> String {
        self.ns.mounts()[0].split(' ').nth(5).unwrap().to_owned()
    }
}

fn with_fstab(script: &str) -> String {
    format!("export LIBMOUNT_FSTAB=\"$PWD/fstab\"; {script}")
}

const LOW: &str = "idmap=b:0:100000:65536";
const HIGH: &str = "idmap=b:0:200000:65536";

#[test]
fn a_new_map_is_seen_at_once_also_through_open_files_and_used_for_what_is_made() {
    let mount = Mount::new(LOW);
    fs::set_permissions(mount.ns.path("a"), fs::Permissions::from_mode(0o777)).unwrap();
    let mut open = File::options().read(true).append(true).open(mount.at("f")).unwrap();
    let dir = File::open(mount.at("")).unwrap();
    assert_eq!(open.metadata().unwrap().uid(), 100_005);
    mount.reload(HIGH);
    let meta = open.metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid()), (200_005, 200_006), "fstat");
    assert_eq!(dir.metadata().unwrap().uid(), 200_000, "fstat of the root");
    assert_eq!(mount.owner("f"), (200_005, 200_006));
    assert!(mount.ok("ls -ln m").contains(" 200005 200006 "));
    let mut said = String::new();
    open.read_to_string(&mut said).unwrap();
    assert_eq!(said, "text\n");
    open.write_all(b"more\n").unwrap();
    assert_eq!(fs::read_to_string(mount.ns.path("a/f")).unwrap(), "text\nmore\n");
    mount.ok(
        "setpriv --reuid=200007 --regid=200008 --clear-groups sh -c 'echo > m/new; mkdir m/dir'",
    );
    assert_eq!(mount.on_source("new"), (7, 8));
    assert_eq!(mount.on_source("dir"), (7, 8));
    let output = mount.ns.sh("setpriv --reuid=100007 --regid=100008 --clear-groups touch m/other");
    assert!(text(&output.stderr).contains("Value too large"), "{}", text(&output.stderr));
}

#[test]
fn an_acl_that_the_kernel_keeps_is_shown_through_the_new_map() {
    let mount = Mount::new(LOW);
    mount.ok("setfacl -m u:9:r-- a/f");
    assert!(mount.ok("getfacl -nc m/f").contains("user:100009:r--"));
    mount.reload(HIGH);
    assert!(mount.ok("getfacl -nc m/f").contains("user:200009:r--"));
    // The kernel's own permission checks use the new ids, too.
    mount.ok("chmod 640 a/f; setpriv --reuid=200009 --regid=1 --clear-groups cat m/f");
    assert!(
        !mount.ns.sh("setpriv --reuid=100009 --regid=1 --clear-groups cat m/f").status.success()
    );
}

#[test]
fn what_is_mounted_below_and_working_directories_stay() {
    let mount = Mount::new(LOW);
    mount.ok("mkdir a/sub a/cwd && mount -t tmpfs below m/sub && touch m/sub/x");
    mount.describe(HIGH);
    assert_eq!(
        mount.ok("S=$S; cd m/cwd && stat -c %u . && $S --reload ../ && pwd -P && stat -c %u . .."),
        format!("100000\n{}\n200000\n200000\n", mount.ns.path("m/cwd").display())
    );
    mount.ok("stat m/sub/x && umount m/sub");
}

#[test]
fn sighup_reloads_a_daemon_and_a_hang_up_ends_one_in_front() {
    let mount = Mount::new(LOW);
    mount.describe(HIGH);
    signal(mount.ns.daemon(), Signal::HUP);
    wait_until("the daemon has reloaded", || mount.owner("f") == (200_005, 200_006));
    mount.ok("umount m");
    mount.ns.wait_until_gone();
    mount.ok(&format!("$S -f -o {HIGH} a m >log 2>&1 & until mountpoint -q m; do :; done"));
    mount.reload(LOW);
    assert_eq!(mount.owner("f"), (100_005, 100_006), "--reload serves it in front, too");
    signal(mount.ns.daemon(), Signal::HUP);
    mount.ns.wait_until_gone();
}

#[test]
fn what_cannot_change_is_refused_by_name_and_nothing_changes() {
    let mount = Mount::new(&format!("{LOW},threads=2"));
    for (words, option) in [
        ("threads=3", "threads"),
        ("fsname=other", "fsname"),
        ("subtype=other", "subtype"),
        ("no_allow_other", "allow-other"),
        ("passthrough=off", "passthrough"),
        ("cache=none", "cache"),
        ("one_file_system", "one-file-system"),
    ] {
        mount.describe(&format!("{HIGH},threads=2,ro,nosuid,{words}"));
        mount.refused(
            1,
            &[
                "reload m: ",
                &format!(
                    "option '{option}' cannot change on a live mount: unmount and mount again"
                ),
            ],
        );
        assert_eq!(mount.owner("f"), (100_005, 100_006), "{words}");
        assert!(mount.flags().starts_with("rw,") && !mount.flags().contains("nosuid"), "{words}");
    }
    let b = mount.ns.path("b");
    fs::create_dir(&b).unwrap();
    let line =
        format!("{} {} shiftbind {HIGH},threads=2\n", b.display(), mount.ns.path("m").display());
    fs::write(mount.ns.path("fstab"), line).unwrap();
    mount.refused(1, &["option 'SOURCE' cannot change"]);
    assert_eq!(mount.owner("f"), (100_005, 100_006));
    mount.reload(&format!("{HIGH},threads=2"));
    assert_eq!(mount.owner("f"), (200_005, 200_006));
}

#[test]
fn options_that_cannot_be_read_keep_the_former_ones() {
    let mount = Mount::new(LOW);
    mount.describe("idmap=b:0:200000:oops");
    mount.refused(1, &["reload m: ", "idmap"]);
    mount.describe("frobnicate");
    mount.refused(1, &["reload m: ", "unknown option 'frobnicate'"]);
    fs::write(mount.ns.path("fstab"), "# nothing\n").unwrap();
    mount.refused(1, &["fstab has no line for", "config=FILE"]);
    fs::remove_file(mount.ns.path("fstab")).unwrap();
    mount.refused(1, &["fstab does not exist", "config=FILE"]);
    assert_eq!(mount.owner("f"), (100_005, 100_006));
    mount.reload(HIGH);
    assert_eq!(mount.owner("f"), (200_005, 200_006));
}

#[test]
fn a_reload_changes_mount_flags_and_keeps_flags_set_by_a_remount() {
    let mount = Mount::new(LOW);
    mount.reload(&format!("{LOW},ro,noexec"));
    assert!(mount.flags().starts_with("ro,noexec"), "{}", mount.flags());
    assert!(!mount.ns.sh("chmod 600 m/f").status.success());
    mount.reload(LOW);
    assert_eq!(mount.flags(), "rw,relatime");
    mount.ok("chmod 600 m/f && mount -i -o remount,bind,noexec m");
    mount.reload(HIGH);
    assert!(mount.flags().contains("noexec"), "{}", mount.flags());
}

#[test]
fn an_fstab_line_with_odd_characters_and_another_path_is_found() {
    let mount = Mount::described(LOW);
    mount.ok(&format!("mkdir 'm m' && ln -s . way && $F -o {LOW} a 'm m'"));
    let place = mount.ns.path("way/m m").display().to_string().replace(' ', "\\040");
    let a = mount.ns.path("a").display().to_string();
    let lines = format!(
        "# {a} {place} shiftbind {LOW}\nproc /proc proc\nshiftbind#{a}\t{place}/ fuse {HIGH}\n"
    );
    fs::write(mount.ns.path("fstab"), lines).unwrap();
    assert_eq!(mount.ok("$S --reload 'm m' && stat -c %u 'm m/f'; umount 'm m'"), "200005\n");
}

#[test]
fn options_that_lie_on_the_mount_itself_are_read_with_one_worker() {
    let mount = Mount::described("defaults");
    let run =
        |script: &str| mount.ns.ok(&format!("export LIBMOUNT_FSTAB=\"$PWD/m/fstab\"; {script}"));
    run(&format!("$F -o threads=1,{LOW} a m"));
    let (a, m) = (mount.ns.path("a"), mount.ns.path("m"));
    let line = format!("{} {} shiftbind threads=1,{HIGH}\n", a.display(), m.display());
    fs::write(mount.ns.path("a/fstab"), line).unwrap();
    assert_eq!(run("$S --reload m && stat -c %u m/f"), "200005\n");
}

#[test]
fn only_a_caller_that_may_signal_the_daemon_may_reload() {
    let mount = Mount::new(LOW);
    mount.describe(HIGH);
    let output = mount.ns.sh_as_user(&with_fstab("$S --reload m"));
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("shiftbind: reload m: not permitted"), "{stderr}");
    assert_eq!(mount.owner("f"), (100_005, 100_006));
}

#[test]
fn from_another_pid_namespace_no_wrong_process_is_named() {
    let mount = Mount::new(LOW);
    mount.describe(HIGH);
    let output = mount.ns.sh(&with_fstab("unshare -pf --kill-child $S --reload m"));
    let stderr = text(&output.stderr);
    // The process reads /proc of its former namespace: either way no process gets a signal.
    assert!(!output.status.success() && stderr.lines().count() == 1, "{stderr}");
    let output = mount.ns.sh(&with_fstab("unshare -pfm --kill-child --mount-proc $S --reload m"));
    assert_eq!(output.status.code(), Some(32));
    assert!(text(&output.stderr).contains("another pid namespace"), "{}", text(&output.stderr));
    assert_eq!(mount.owner("f"), (100_005, 100_006));
}

#[test]
fn what_is_no_mount_of_ours_gets_no_signal() {
    let mount = Mount::new(LOW);
    for place in ["a", "m/f", "/proc"] {
        let output = mount.ns.sh(&format!("$S --reload {place}"));
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(32), "{place}: {stderr}");
        assert!(stderr.contains("not the root of a shiftbind mount"), "{place}: {stderr}");
    }
    assert_eq!(mount.ns.sh("$S --reload nowhere").status.code(), Some(32));
}

#[test]
fn a_user_reloads_their_own_mount_within_their_rights() {
    let ns = Namespace::new();
    ns.let_users_mount();
    ns.ok("touch a/f && chown 1000:1000 . a m && chown 5:6 a/f");
    let describe = |options: &str| {
        let line =
            format!("{} {} shiftbind {options}\n", ns.path("a").display(), ns.path("m").display());
        fs::write(ns.path("fstab"), line).unwrap();
    };
    let user = |script: &str| {
        let output = ns.sh_as_user(&with_fstab(script));
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    describe("idmap=b:1000:1000:1:0:100000:1000");
    assert_eq!(user("$F a m && $S --reload m && stat -c %u m/f"), (Some(0), "100005\n".into()));
    describe("idmap=b:1000:1001:1");
    let (status, said) = user("$S --reload m");
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("only root") || said.contains("not mapped"), "{said}");
    describe("idmap=b:1000:1000:1:0:100000:1000,ro");
    let (status, said) = user("$S --reload m");
    assert!(status == Some(1) && said.contains("normal user"), "{said}");
    assert_eq!(user("stat -c %u m/f && fusermount3 -u m"), (Some(0), "100005\n".into()));
    ns.wait_until_gone();
}

#[test]
fn a_stat_while_maps_change_sees_the_old_or_the_new_map_and_afterwards_the_new_one() {
    let mount = Mount::new(LOW);
    let path = mount.at("f");
    // Even while a map is in force, 100000 at 0 mod 4 and 200000 at 2 mod 4; odd during a reload.
    let state = AtomicU64::new(0);
    let end = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut seen = 0_u64;
            while !end.load(Ordering::SeqCst) {
                let before = state.load(Ordering::SeqCst);
                let meta = fs::symlink_metadata(&path).unwrap();
                let after = state.load(Ordering::SeqCst);
                let owner = (meta.uid(), meta.gid());
                let base = owner.0 - 5;
                assert!(owner.1 == base + 6 && matches!(base, 100_000 | 200_000), "{owner:?}");
                if before == after && before.is_multiple_of(2) {
                    let settled = if before.is_multiple_of(4) { 100_000 } else { 200_000 };
                    assert_eq!(base, settled, "settled");
                }
                seen += 1;
            }
            seen
        });
        for round in 0..200 {
            state.fetch_add(1, Ordering::SeqCst);
            mount.reload(if round % 2 == 0 { HIGH } else { LOW });
            state.fetch_add(1, Ordering::SeqCst);
            if looks.is_finished() {
                break;
            }
        }
        end.store(true, Ordering::SeqCst);
        looks.join().unwrap()
    });
    assert!(seen > 1000, "{seen}");
}

#[test]
fn under_load_nothing_is_stored_or_kept_by_half_of_a_map() {
    // Cached for ever: a wrong entry would stay wrong.
    let mount = Mount::described(&format!("{LOW},cache=forever"));
    const FILES: usize = 4000;
    mount.ok(&format!(
        "chmod 777 a; mkdir a/many; cd a/many; seq {FILES} | xargs touch; chown -R 5:6 ."
    ));
    mount.ok(&format!("$F -o {LOW},cache=forever a m"));
    let end = AtomicBool::new(false);
    // Each file is new to the kernel when it is opened, and is stat'ed again under the other map.
    let opened = Mutex::new(Vec::new());
    let maker = |base: u32| {
        let script = format!(
            "i=0; while [ ! -e stop ] && [ $i -lt 2000 ]; do \
             if echo > m/made.{base}.$i && chmod 640 m/made.{base}.$i; then i=$((i+1)); else sleep 0.005; fi; \
             done 2>errors"
        );
        let mut command = mount.ns.command("setpriv");
        let (uid, gid) = (base + 7, base + 8);
        command.args([&format!("--reuid={uid}"), &format!("--regid={gid}")]);
        command.args(["--clear-groups", "sh", "-c", &script]);
        command
    };
    fs::set_permissions(mount.ns.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    thread::scope(|scope| {
        let makers = [100_000, 200_000].map(|base| scope.spawn(move || finished(maker(base))));
        let opens = scope.spawn(|| {
            for n in 1..=FILES {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                let file = File::open(mount.at(&format!("many/{n}"))).unwrap();
                opened.lock().unwrap().push(file);
            }
        });
        let made = || {
            let names = fs::read_dir(mount.ns.path("a")).unwrap();
            names
                .filter(|it| it.as_ref().unwrap().file_name().as_bytes().starts_with(b"made."))
                .count()
        };
        let mut seen = 0;
        for round in 0..1000 {
            // On a busy machine the makers start later.
            if round >= 8 && made() > 10 && (seen > 50 || opens.is_finished()) {
                break;
            }
            let (map, base) = if round % 2 == 0 { (HIGH, 200_000) } else { (LOW, 100_000) };
            mount.reload(&format!("{map},cache=forever"));
            for file in opened.lock().unwrap().drain(..) {
                let meta = file.metadata().unwrap();
                assert_eq!((meta.uid(), meta.gid()), (base + 5, base + 6), "{round}");
                seen += 1;
            }
        }
        end.store(true, Ordering::SeqCst);
        opens.join().unwrap();
        assert!(seen > 50, "{seen} were opened");
        mount.reload(&format!("{HIGH},cache=forever"));
        fs::write(mount.ns.path("stop"), "").unwrap();
        for maker in makers {
            maker.join().unwrap();
        }
    });
    let mut made = 0;
    for entry in fs::read_dir(mount.ns.path("a")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("made.") {
            assert_eq!(mount.on_source(&name), (7, 8), "{name}");
            assert_eq!(mount.owner(&name), (200_007, 200_008), "{name}");
            made += 1;
        }
    }
    assert!(made > 10, "{made}");
}

#[test]
fn a_mount_with_a_file_of_options_reads_it_again_from_where_it_was_named() {
    let mount = Mount::described("subtype=not-this-one");
    fs::create_dir(mount.ns.path("etc")).unwrap();
    let file = |text: &str| fs::write(mount.ns.path("etc/options"), text).unwrap();
    file("# owners\nidmap = b:0:100000:65536\n".replace(" = ", "=").as_str());
    mount.ok("cd etc && $F -o config=options,unmapped=squash=7 ../a ../m");
    assert_eq!(mount.owner("f"), (100_005, 100_006));
    file("idmap=b:0:200000:65536\nperms=o-r\n");
    mount.ok("$S --reload m");
    assert_eq!(mount.owner("f"), (200_005, 200_006));
    assert_eq!(fs::metadata(mount.at("f")).unwrap().mode() & 0o777, 0o640);
    file("idmap=b:0:300000:65536\nnonsense\n");
    mount.refused(1, &["reload m: ", "config", "nonsense"]);
    file("idmap=b:0:300000:65536\nmirror=1000\n");
    mount.refused(1, &["option 'mirror' cannot change on a live mount"]);
    fs::remove_file(mount.ns.path("etc/options")).unwrap();
    mount.refused(1, &["config", "options"]);
    assert_eq!(mount.owner("f"), (200_005, 200_006));
    // Without relative paths the daemon does not need the working directory of the mount.
    mount.ok("umount m && echo idmap=b:0:100000:65536 > conf && D=$PWD && cd etc && $F --config=$D/conf $D/a $D/m");
    fs::remove_dir(mount.ns.path("etc")).unwrap();
    fs::write(mount.ns.path("conf"), "idmap=b:0:200000:65536\n").unwrap();
    mount.ok("$S --reload m");
    assert_eq!(mount.owner("f"), (200_005, 200_006));
}

#[test]
fn a_file_of_options_is_no_fifo_and_a_pipe_is_read_once() {
    let mount = Mount::described("subtype=not-this-one");
    mount.ok("bash -c '$S --engine=fuse -o config=<(echo idmap=b:0:100000:65536) a m'");
    assert_eq!(mount.owner("f"), (100_005, 100_006));
    mount.refused(1, &["reload m: ", "option 'config': /dev/fd/"]);
    mount.ok("umount m; echo idmap=b:0:100000:65536 | $S --engine=fuse -o config=/dev/stdin a m");
    mount.refused(1, &["reload m: ", "option 'config': /dev/stdin: ", "cannot be read again"]);
    assert_eq!(mount.owner("f"), (100_005, 100_006));
    mount.ok(
        "umount m && echo idmap=b:0:100000:65536 > conf && $S --engine=fuse -o config=conf a m",
    );
    for (script, why) in [
        ("rm conf && mkfifo conf", "this is a FIFO; give a regular file"),
        ("rm conf && mknod conf c 1 5", "this is no regular file"),
        ("rm conf && truncate -s 65M conf", "larger than 64 MiB"),
    ] {
        mount.ok(script);
        mount.refused(1, &["reload m: ", "option 'config': ", why]);
    }
    assert_eq!(mount.owner("f"), (100_005, 100_006));
    let refused =
        mount.ns.sh("$S --map-passwd=/dev/zero a m; mkfifo fifo; $S --map-group=fifo a m");
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(errors.contains("/dev/zero: this is no regular file"), "{errors}");
    assert!(errors.contains("fifo: this is a FIFO"), "{errors}");
}

#[test]
fn with_a_file_of_options_a_hang_up_reloads_in_front_too() {
    let mount = Mount::described("subtype=not-this-one");
    let conf = mount.ns.path("conf");
    fs::write(&conf, "idmap=b:0:100000:65536\n").unwrap();
    mount.ok("$S -f --config conf a m >log 2>&1 & until mountpoint -q m; do :; done");
    fs::write(&conf, "idmap=b:0:200000:65536\n").unwrap();
    signal(mount.ns.daemon(), Signal::HUP);
    wait_until("the daemon has reloaded", || mount.owner("f") == (200_005, 200_006));
    signal(mount.ns.daemon(), Signal::TERM);
    mount.ns.wait_until_gone();
}

#[test]
fn under_the_name_bindfs_its_options_and_its_line_are_reloaded() {
    let mount = Mount::described("defaults");
    let describe = |options: &str| {
        let (a, m) = (mount.ns.path("a"), mount.ns.path("m"));
        let line = format!("{} {} fuse.bindfs {options} 0 0\n", a.display(), m.display());
        fs::write(mount.ns.path("fstab"), line).unwrap();
    };
    mount.ok("ln -s shiftbind bindfs && ./bindfs --map=5/1005:@6/@1006 a m");
    assert_eq!(mount.owner("f"), (1005, 1006));
    describe("map=5/2005:@6/@2006,chmod-deny,delete-deny");
    assert_eq!(mount.ok("./bindfs --reload m 2>&1"), "");
    assert_eq!(mount.owner("f"), (2005, 2006));
    assert!(!mount.ns.sh("chmod 600 m/f").status.success());
    assert!(!mount.ns.sh("rm -f m/f").status.success());
    describe("map=5/3005,chown-ignore");
    let output = mount.ns.sh(&with_fstab("./bindfs --reload m"));
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr.starts_with("bindfs: reload m: option 'chown-ignore' cannot change"),
        "{stderr}"
    );
    assert_eq!(mount.owner("f"), (2005, 2006));
}

#[test]
fn names_that_are_hidden_or_shown_from_now_on_are_so_at_once() {
    let mount = Mount::new(&format!("{LOW},exclude=*.old"));
    mount.ok("mkdir a/dir && touch a/dir/x.old a/dir/x.new a/dir/plain");
    let names = || {
        let listed = fs::read_dir(mount.at("dir")).unwrap();
        let mut names: Vec<_> =
            listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let is_there = |name: &str| fs::symlink_metadata(mount.at(&format!("dir/{name}"))).is_ok();
    for _ in 0..2 {
        assert_eq!(names(), ["plain", "x.new"]);
        assert!(!is_there("x.old") && is_there("x.new"), "known to be missing, and to be there");
        mount.reload(&format!("{LOW},exclude=*.new"));
        assert!(is_there("x.old") && !is_there("x.new"));
        assert_eq!(names(), ["plain", "x.old"]);
        mount.reload(&format!("{LOW},exclude=*.old"));
    }
    let mut open = File::open(mount.at("dir/plain")).unwrap();
    mount.reload(&format!("{LOW},exclude=plain"));
    assert!(!is_there("plain"));
    open.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_raised_rate_holds_for_requests_that_wait_already() {
    let mount = Mount::new(&format!("{LOW},read_rate=20000"));
    mount.ok("head -c 2000000 /dev/zero > a/large");
    thread::scope(|scope| {
        let reader = scope.spawn(|| mount.ok("cat m/large | wc -c"));
        thread::sleep(std::time::Duration::from_millis(300));
        assert!(!reader.is_finished(), "a hundred seconds at this rate");
        mount.reload(&format!("{LOW},read_rate=1G"));
        assert_eq!(reader.join().unwrap().trim(), "2000000");
    });
}

#[test]
fn sync_holds_for_files_that_are_opened_after_a_reload() {
    let mount = Mount::new(LOW);
    // With __O_SYNC (octal 4000000) in the daemon: what is written is on the disk before the answer.
    let opens_sync = || {
        let flags = mount.ok("exec 3<>m/f; for p in /proc/[0-9]*; do
               if test \"$(readlink $p/ns/mnt)\" = \"$(readlink /proc/$$/ns/mnt)\"; then
                 grep -hs ^flags $p/fdinfo/* || true
               fi
             done");
        assert!(flags.contains("flags:"), "the daemon is found");
        let number = |line: &str| u32::from_str_radix(line.split_whitespace().nth(1)?, 8).ok();
        flags.lines().filter_map(number).any(|flags| flags & 0o4_000_000 != 0)
    };
    assert!(!opens_sync());
    mount.reload(&format!("{LOW},sync"));
    assert!(opens_sync());
    assert!(mount.ok("grep fuse.shiftbind /proc/self/mountinfo").contains(",sync"));
    mount.reload(LOW);
    assert!(!opens_sync());
}
