//! Reloads of mounts that the kernel's engine made: the map changes by a clone that takes the mount's place.

use std::fs;

use crate::engine::{MAP, errors, namespace};
use crate::namespace::{Namespace, finished, text};
use crate::without_call::{OPEN_TREE_ATTR, without_call};

/// A namespace with a mount whose options are in the file `conf`, with the file `f`, and a filesystem below at `below`.
fn mounted() -> Namespace {
    let ns = namespace();
    ns.ok("touch a/f && mkdir a/below && truncate -s 16M two && mkfs.ext4 -q two && mount -o loop,noexec two a/below && \
           touch a/below/g");
    write(&ns, "idmap=0:1000:10");
    ns.ok("$S a m -o config=conf");
    assert_eq!(owners(&ns), "1000 1000");
    ns
}

fn write(ns: &Namespace, options: &str) {
    fs::write(ns.path("conf"), options.replace(',', "\n")).unwrap();
}

/// The owners of a file of the mount and of one on the filesystem below it.
fn owners(ns: &Namespace) -> String {
    ns.ok("echo $(stat -c %u m/f m/below/g)").trim().to_owned()
}

fn options(ns: &Namespace) -> [Vec<String>; 2] {
    ["m", "m/below"].map(|point| {
        let words = ns.ok(&format!("findmnt -n -o VFS-OPTIONS {point}"));
        words.trim().split(',').map(str::to_owned).collect()
    })
}

/// One mount, one below it, and one record.
fn is_alone(ns: &Namespace) {
    assert_eq!(ns.mounts().len(), 1, "{:?}", ns.mounts());
    assert_eq!(ns.mounts_at(&ns.path("m/below")).len(), 1);
    assert_eq!(ns.ok("ls /run/shiftbind | wc -l").trim(), "1");
    assert!(ns.ok("$S list").contains("  kernel  "));
}

fn end(ns: &Namespace) {
    ns.ok("$S umount m && umount a/below");
    assert_eq!(ns.mounts(), [""; 0]);
    assert_eq!(ns.ok("ls /run/shiftbind"), "");
}

#[test]
fn the_map_changes_for_the_mounts_below_as_well_and_open_files_keep_theirs() {
    let ns = mounted();
    write(&ns, "idmap=0:2000:10");
    let open = ns.ok("exec 3< m/f; $S reload m && stat -L -c %u /proc/self/fd/3");
    assert_eq!(open, "1000\n", "an open file keeps its view");
    assert_eq!(owners(&ns), "2000 2000");
    is_alone(&ns);
    assert!(ns.ok("$S explain m").contains("source 0..9 is shown as 2000..2009"));
    // Without a map, and back to one.
    for (conf, shown) in [("ro", "0 0"), ("idmap=0:3000:10", "3000 3000")] {
        write(&ns, conf);
        ns.ok("ln -sfn m link && $S --reload link");
        assert_eq!(owners(&ns), shown);
        is_alone(&ns);
    }
    end(&ns);
}

#[test]
fn what_a_remount_changed_stays_until_the_options_change() {
    let ns = mounted();
    ns.ok("mount -o remount,bind,ro m");
    write(&ns, "idmap=0:2000:10");
    ns.ok("$S reload m");
    let [own, below] = options(&ns);
    assert!(own.contains(&"ro".into()) && below.contains(&"rw".into()), "{own:?} {below:?}");
    for map in ["idmap=0:2000:10", "idmap=0:3000:10"] {
        write(&ns, &format!("{map},nosuid,ro"));
        ns.ok("$S reload m");
        for one in options(&ns) {
            assert!(one.contains(&"ro".into()) && one.contains(&"nosuid".into()), "{one:?}");
        }
        write(&ns, map);
        ns.ok("$S reload m");
        let [own, below] = options(&ns);
        assert!(own.contains(&"rw".into()) && !own.contains(&"nosuid".into()), "{own:?}");
        assert!(below.contains(&"rw".into()) && below.contains(&"noexec".into()), "{below:?}");
        is_alone(&ns);
    }
    end(&ns);
}

#[test]
fn what_the_kernel_cannot_is_refused_and_the_mount_stays() {
    let ns = mounted();
    ns.ok("mkdir b");
    for (conf, words) in [
        ("idmap=0:2000:10,unmapped=pass", "unmapped uids are not denied"),
        ("idmap=0:2000:10,cache=none", "option 'cache' needs the daemon"),
        ("idmap=0:2000:10,engine=fuse", "option 'engine' cannot change"),
        ("idmap=0:2000:10,namespace=/proc/self/ns/mnt", "leave the option out"),
        ("idmap=0:2000:10,nonsense", "unknown option"),
    ] {
        write(&ns, conf);
        let refused = errors(&ns, "$S reload m");
        assert!(
            refused.starts_with("shiftbind: reload m: ") && refused.contains(words),
            "{refused}"
        );
        assert_eq!(refused.lines().count(), 1, "{refused}");
        assert_eq!(owners(&ns), "1000 1000", "{conf}");
    }
    // What another program has mounted below would be lost, or get the map.
    ns.ok("mkdir a/other && mount -t tmpfs other m/other");
    write(&ns, "idmap=0:2000:10");
    assert!(errors(&ns, "$S reload m").contains("m/other: umount that first"));
    ns.ok("umount m/other");
    // A name below the mount is no mount point.
    assert!(errors(&ns, "$S reload m/other").contains("name the mount point itself"));
    ns.ok("$S reload m");
    is_alone(&ns);
    end(&ns);
}

#[test]
fn where_the_kernel_mounts_nothing_beneath_the_old_mount_goes_first() {
    let ns = mounted();
    write(&ns, "idmap=0:2000:10");
    ns.ok("strace -f -qq -o strace -e trace=move_mount -e inject=move_mount:error=EINVAL:when=1 $S reload m");
    assert!(fs::read_to_string(ns.path("strace")).unwrap().contains("INJECTED"));
    assert_eq!(owners(&ns), "2000 2000");
    is_alone(&ns);
    // If the new one cannot be attached, the old one comes back.
    write(&ns, "idmap=0:3000:10");
    let refused = errors(
        &ns,
        "strace -f -qq -o strace -e trace=move_mount -e inject=move_mount:error=EINVAL:when=1..2 $S reload m",
    );
    assert!(refused.contains("cannot mount on"), "{refused}");
    assert_eq!(owners(&ns), "2000 2000");
    ns.ok("umount -R m && umount a/below");
}

#[test]
fn a_kernel_that_changes_no_map_gets_a_new_clone_of_the_source() {
    let ns = mounted();
    write(&ns, "idmap=0:2000:10");
    let reload = || {
        let mut command = ns.command(ns.path("shiftbind"));
        without_call(command.args(["reload", "m"]), OPEN_TREE_ATTR);
        finished(command)
    };
    let done = reload();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(owners(&ns), "2000 2000");
    is_alone(&ns);
    // The source's name may lead to another directory by then.
    ns.ok("mkdir b && umount a/below && mount --move a b");
    write(&ns, "idmap=0:3000:10");
    let refused = reload();
    assert!(text(&refused.stderr).contains("another directory is at"), "{refused:?}");
    assert_eq!(owners(&ns), "2000 2000");
    ns.ok("umount -R m");
}

#[test]
fn a_line_in_fstab_is_read_again_and_another_source_is_refused() {
    let ns = namespace();
    ns.ok("touch a/f && mkdir b");
    let fstab = |source: &str, map: &str| {
        let line = format!(
            "{} {} fuse.shiftbind {map} 0 0\n",
            ns.path(source).display(),
            ns.path("m").display()
        );
        fs::write(ns.path("fstab"), line).unwrap();
    };
    ns.ok(&format!("$S {MAP} a m"));
    fstab("a", "idmap=0:7:1");
    ns.ok("LIBMOUNT_FSTAB=$PWD/fstab $S reload m");
    assert_eq!(ns.ok("stat -c %u m/f"), "7\n");
    fstab("b", "idmap=0:8:1");
    let refused = errors(&ns, "LIBMOUNT_FSTAB=$PWD/fstab $S reload m");
    assert!(refused.contains("option 'SOURCE' cannot change"), "{refused}");
    let refused = errors(&ns, "LIBMOUNT_FSTAB=/dev/null $S reload m");
    assert!(refused.contains("cannot find the options of this mount"), "{refused}");
    ns.ok("umount m");
}

#[test]
fn a_reload_of_a_kernels_mount_of_a_daemons_mount_reaches_no_daemon() {
    let ns = namespace();
    ns.ok("mkdir k && $F a m && echo nosuid > conf && $S -o config=conf m k");
    ns.ok("echo nodev > conf && $S reload k");
    let shown = ns.ok("findmnt -n -o VFS-OPTIONS k; $S stat m");
    assert!(shown.contains("nodev") && !shown.contains("nosuid"), "{shown}");
    assert!(shown.contains("\nreloads: 0 begun"), "{shown}");
    ns.ok("umount k && umount m");
    ns.wait_until_gone();
}
