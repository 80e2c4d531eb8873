//! Reloads and placements of the kernel's engine that would show too much, or take away a mount: refused, and nothing changes.

use std::fs;

use crate::engine::{MAP, errors, namespace};
use crate::mount8::{MOUNT, install};
use crate::namespace::{Namespace, finished, text};
use crate::without_call::{OPEN_TREE_ATTR, without_call};

fn write(ns: &Namespace, options: &str) {
    fs::write(ns.path("conf"), options.replace(',', "\n")).unwrap();
}

fn owner(ns: &Namespace, path: &str) -> String {
    ns.ok(&format!("stat -c %u {path}")).trim().to_owned()
}

fn options(ns: &Namespace, point: &str) -> Vec<String> {
    let words = ns.ok(&format!("findmnt -n -o VFS-OPTIONS {point}"));
    words.trim().split(',').map(str::to_owned).collect()
}

fn has(ns: &Namespace, point: &str, option: &str) -> bool {
    options(ns, point).iter().any(|one| one == option)
}

/// A small ext4 filesystem at a new directory: tmpfs has no idmapped mounts before Linux 6.3.
fn ext4_at(ns: &Namespace, at: &str) {
    let image = at.replace('/', "_");
    ns.ok(&format!(
        "mkdir -p {at} && truncate -s 16M {image}.img && mkfs.ext4 -q {image}.img && mount -o loop {image}.img {at}"
    ));
}

#[test]
fn a_reload_takes_no_map_away_that_the_source_had() {
    for map in ["idmap=0:0:4294967295", "rw"] {
        let ns = namespace();
        ns.ok(&format!("mkdir shown && touch a/f && $S --engine=kernel {MAP} a shown"));
        write(&ns, map);
        ns.ok("$S --engine=kernel -o config=conf shown m");
        // Nothing has changed.
        ns.ok("$S reload m");
        assert_eq!(owner(&ns, "m/f"), "100000", "{map}");
        write(&ns, "idmap=100000:200000:65536");
        let refused = errors(&ns, "$S reload m");
        assert!(refused.contains("was idmapped already"), "{refused}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
        assert_eq!(owner(&ns, "m/f"), "100000", "{map}");
        ns.ok("umount m && umount shown");
    }
}

#[test]
fn a_reload_takes_no_map_away_that_a_mount_below_the_source_had() {
    let ns = namespace();
    ns.ok(&format!(
        "mkdir a/sub b && mount --bind a/sub b && touch b/f && $S --engine=kernel {MAP} b a/sub"
    ));
    write(&ns, "idmap=0:0:4294967295");
    ns.ok("$S --engine=kernel -o config=conf a m && $S reload m");
    assert_eq!(owner(&ns, "m/sub/f"), "100000");
    write(&ns, "idmap=100000:200000:65536");
    let refused = errors(&ns, "$S reload m");
    assert!(refused.contains("was idmapped already") && refused.contains("m/sub"), "{refused}");
    assert_eq!(owner(&ns, "m/sub/f"), "100000");
    ns.ok("umount -R m && umount a/sub b");
}

#[test]
fn a_source_that_was_removed_or_replaced_keeps_its_mount() {
    let ns = namespace();
    ns.ok("mkdir a/gone && echo old > a/file && touch point");
    write(&ns, "idmap=0:1000:10");
    ns.ok("$S -o config=conf a/gone m && $S -o config=conf a/file point");
    // As editors save.
    ns.ok("rmdir a/gone && echo new > a/new && mv a/new a/file");
    write(&ns, "idmap=0:2000:10");
    let no_beneath =
        "strace -f -qq -o strace -e trace=move_mount -e inject=move_mount:error=EINVAL:when=1";
    for how in ["", no_beneath] {
        for point in ["m", "point"] {
            let refused = errors(&ns, &format!("{how} $S reload {point}"));
            assert!(refused.contains("was removed or replaced"), "{how} {point}: {refused}");
            assert_eq!(owner(&ns, point), "1000", "{how} {point}");
        }
    }
    assert_eq!(ns.ok("cat point"), "old\n");
    // Options without another map change as before.
    write(&ns, "idmap=0:1000:10,noexec");
    ns.ok("$S reload m && $S reload point");
    assert!(has(&ns, "m", "noexec") && has(&ns, "point", "noexec"));
    ns.ok("umount m point");
}

#[test]
fn what_the_source_forbade_stays_forbidden_when_it_is_unmounted() {
    let ns = namespace();
    ext4_at(&ns, "two");
    ns.ok("mount -o remount,bind,nosuid,nodev,noexec two");
    write(&ns, "idmap=0:1000:10");
    ns.ok("$S -o config=conf two m && umount two");
    for map in ["idmap=0:1000:10,noatime", "idmap=0:1000:10,nodiratime"] {
        write(&ns, map);
        ns.ok("$S reload m");
        for word in ["nosuid", "nodev", "noexec"] {
            assert!(has(&ns, "m", word), "{map}: {:?}", options(&ns, "m"));
        }
    }
    write(&ns, "idmap=0:1000:10,exec");
    ns.ok("$S reload m");
    assert!(!has(&ns, "m", "noexec") && has(&ns, "m", "nodev"), "what is given wins");
    ns.ok("umount m");
}

#[test]
fn a_directory_of_a_mount_is_no_mount_of_the_same_source() {
    let ns = namespace();
    install(&ns);
    ns.ok("mkdir a/sub && touch a/f");
    let line = |point: &str, to: u32| {
        let (a, point) = (ns.path("a"), ns.path(point));
        format!("{} {} shiftbind idmap=b:0:{to}:65536 0 0\n", a.display(), point.display())
    };
    fs::write(ns.path("fstab"), line("m", 100_000) + &line("m/sub", 500_000)).unwrap();
    for _ in 0..2 {
        ns.ok(&format!("{MOUNT} -T fstab -a"));
        assert_eq!(ns.ok("stat -c %u m/f m/sub/f"), "100000\n500000\n");
        assert_eq!(ns.mounts_at(&ns.path("m/sub")).len(), 1);
    }
    ns.ok("umount m/sub && umount m");
}

#[test]
fn a_mount_on_top_of_one_that_was_brought_stays_the_other_programs() {
    let ns = namespace();
    ext4_at(&ns, "a/sub");
    write(&ns, "idmap=0:1000:10");
    ns.ok("$S -o config=conf a m && mount -t tmpfs other m/sub && touch m/sub/theirs");
    write(&ns, "idmap=0:2000:10");
    let refused = errors(&ns, "$S reload m");
    assert!(refused.contains("another program has mounted something on"), "{refused}");
    assert_eq!(owner(&ns, "m/sub/theirs"), "0");
    assert!(!ns.sh("$S umount m").status.success());
    ns.ok("umount m/sub && $S reload m && $S umount m && umount a/sub");
}

#[test]
fn the_options_of_all_mounts_change_or_none() {
    let ns = namespace();
    ext4_at(&ns, "a/first");
    ext4_at(&ns, "a/second");
    write(&ns, "idmap=0:1000:10");
    ns.ok("$S -o config=conf a m && mount -t tmpfs other m/second");
    write(&ns, "idmap=0:1000:10,ro");
    for command in ["$S reload m", "$S -o remount,ro m"] {
        let refused = errors(&ns, command);
        assert!(refused.contains("covers the one on second"), "{refused}");
        for point in ["m", "m/first", "m/second"] {
            assert!(has(&ns, point, "rw"), "{command}: {point}: {:?}", options(&ns, point));
        }
    }
    ns.ok("umount m/second && $S reload m");
    for point in ["m", "m/first", "m/second"] {
        assert!(has(&ns, point, "ro"), "{point}: {:?}", options(&ns, point));
    }
    ns.ok("$S umount m && umount a/first a/second");
}

#[test]
fn mounts_on_top_of_each_other_below_the_source_are_reloaded() {
    let ns = namespace();
    ext4_at(&ns, "a/sub");
    ns.ok("mkdir top && truncate -s 16M top.img && mkfs.ext4 -q top.img && mount -o loop,noexec top.img a/sub && touch a/sub/f");
    write(&ns, "idmap=0:1000:10");
    ns.ok("$S -o config=conf a m");
    for (map, shown) in
        [("idmap=0:1000:10", "1000"), ("idmap=0:2000:10", "2000"), ("idmap=0:3000:10", "3000")]
    {
        write(&ns, map);
        ns.ok("$S reload m");
        assert_eq!(owner(&ns, "m/sub/f"), shown);
        assert!(has(&ns, "m/sub | tail -n 1", "noexec"), "{:?}", options(&ns, "m/sub"));
    }
    ns.ok("umount m/sub && umount -R m && umount a/sub && umount a/sub");
}

#[test]
fn a_new_clone_of_the_source_shows_no_pseudo_filesystem() {
    let ns = namespace();
    ns.ok("touch a/f && mkdir a/proc");
    for (before, after) in [("idmap=0:1000:10", "idmap=0:2000:10"), ("idmap=0:1000:10", "rw")] {
        write(&ns, before);
        ns.ok("$S -o config=conf a m && mount -t proc proc a/proc");
        write(&ns, after);
        let mut command = ns.command(ns.path("shiftbind"));
        without_call(command.args(["reload", "m"]), OPEN_TREE_ATTR);
        let refused = finished(command);
        let words = text(&refused.stderr);
        assert!(
            !refused.status.success() && words.contains("/a/proc is a pseudo-filesystem"),
            "{words}"
        );
        assert_eq!(owner(&ns, "m/f"), "1000");
        ns.ok("umount m && umount a/proc");
    }
}

#[test]
fn records_that_other_users_could_write_are_not_believed() {
    let ns = namespace();
    ns.ok(&format!("$S --engine=kernel {MAP} a m"));
    assert!(ns.ok("$S list").contains("  kernel  "));
    ns.ok("chmod 777 /run/shiftbind");
    assert!(!ns.ok("$S list").contains("  kernel  "));
    assert!(!ns.sh("$S umount m").status.success());
    ns.ok("chmod 700 /run/shiftbind && $S umount m");
}

#[test]
fn both_engines_share_a_mount_with_the_copies_of_a_shared_directory() {
    let ns = namespace();
    ns.ok(
        "mkdir shared && mount -t tmpfs t shared && mount --make-shared shared && mkdir shared/m",
    );
    for engine in ["fuse", "kernel"] {
        ns.ok(&format!("$S --engine={engine} {MAP} a shared/m"));
        assert_eq!(ns.ok("findmnt -n -o PROPAGATION shared/m"), "shared\n", "{engine}");
        ns.ok("umount shared/m");
        ns.wait_until_gone();
    }
    ns.ok("umount shared");
}

#[test]
fn a_reload_that_does_not_end_keeps_others_waiting_for_seconds_only() {
    let ns = namespace();
    write(&ns, "idmap=0:1000:10");
    ns.ok("touch a/f && $S -o config=conf a m && $S reload m");
    write(&ns, "idmap=0:2000:10");
    let refused = errors(&ns, "flock /run/shiftbind/.lock $S reload m");
    assert!(refused.contains("another reload has not ended within 10 seconds"), "{refused}");
    ns.ok("$S reload m");
    assert_eq!(owner(&ns, "m/f"), "2000");
    ns.ok("umount m");
}

#[test]
fn where_neither_engine_can_mount_the_error_has_both_reasons() {
    let ns = namespace();
    ns.ok("mkdir dev && cp -a /dev/null dev/fuse && mount --bind dev/fuse /dev/fuse");
    let refused = errors(&ns, &format!("$S {MAP} --unmapped=pass a m"));
    assert!(
        refused.contains("because the kernel cannot make this mount: unmapped uids"),
        "{refused}"
    );
    assert_eq!(refused.lines().count(), 1, "{refused}");
    let refused = errors(&ns, &format!("$S {MAP} --engine=fuse a m"));
    assert!(!refused.contains("because the kernel"), "{refused}");
    ns.ok("umount /dev/fuse");
}
