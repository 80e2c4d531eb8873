//! Reloads of mounts that the kernel's engine made in a container.

use std::fs;

use super::container::Container;
use super::machine;
use super::namespace::{Namespace, finished, text};
use super::without_call::{OPEN_TREE_ATTR, without_call};

/// A mount in a container whose options are in the file `conf`.
fn mounted(n: &Namespace, options: &str) -> Container {
    let container = Container::new(n, 200_000);
    write(n, options);
    let pid = container.pid();
    n.ok(&format!("$S a /mnt/t -N {pid} --mkdir --engine=kernel -o config=conf"));
    container
}

fn write(n: &Namespace, options: &str) {
    fs::write(n.path("conf"), options.replace(',', "\n")).unwrap();
}

fn reload(n: &Namespace, container: &Container, options: &str) {
    write(n, options);
    n.ok(&format!("$S reload -N {} /mnt/t", container.pid()));
}

fn refused(n: &Namespace, container: &Container, options: &str) -> String {
    write(n, options);
    let output = n.sh(&format!("$S reload -N {} /mnt/t", container.pid()));
    let error = text(&output.stderr);
    assert!(!output.status.success() && error.lines().count() == 1, "{options}: {output:?}");
    error
}

fn owner(container: &Container) -> String {
    container.ok("stat -c %u /mnt/t/f").trim().to_owned()
}

/// One mount there, and one entry.
fn is_alone(n: &Namespace, container: &Container) {
    assert_eq!(container.ok("grep -c ' /mnt/t ' /proc/self/mountinfo"), "1\n");
    assert_eq!(n.ok("ls /run/shiftbind/elsewhere | wc -l"), "1\n");
    assert!(n.ok("$S list").contains("kernel"));
}

#[test]
fn the_map_of_a_mount_in_a_container_changes() {
    let n = machine();
    let container = mounted(&n, "idmap=1000:5:1");
    assert_eq!(owner(&container), "5");
    write(&n, "idmap=1000:6:1");
    let open = container.ok("exec 3< /mnt/t/f; stat -L -c %u /proc/self/fd/3");
    assert_eq!(open, "5\n");
    reload(&n, &container, "idmap=1000:6:1");
    assert_eq!(owner(&container), "6");
    is_alone(&n, &container);
    assert!(n.ok("$S list").contains("1000:6:1"));
    // Without a map the container's own ids, and back.
    reload(&n, &container, "");
    assert_eq!(container.ok("stat -c %u /mnt/t/f /mnt/t/r"), "1000\n0\n");
    reload(&n, &container, "idmap=1000:7:1");
    assert_eq!(owner(&container), "7");
    // Moved within the container: by its new path.
    container.ok("mkdir /mnt/new && mount --move /mnt/t /mnt/new");
    write(&n, "idmap=1000:8:1");
    let pid = container.pid();
    let gone = n.sh(&format!("$S reload -N {pid} /mnt/t"));
    assert!(text(&gone.stderr).contains("no mount of shiftbind is there"), "{gone:?}");
    n.ok(&format!("$S reload -N {pid} /mnt/new"));
    assert_eq!(container.ok("stat -c %u /mnt/new/f"), "8\n");
    assert!(n.ok("$S list").contains(&format!("{pid}:/mnt/new")));
    n.ok(&format!("$S umount -N {pid} /mnt/new"));
    assert_eq!(n.ok("$S list; ls /run/shiftbind/elsewhere"), "");
}

#[test]
fn options_change_and_stay_locked_against_root_of_the_container() {
    let n = machine();
    let container = mounted(&n, "idmap=1000:5:1");
    let options = || container.ok("grep ' /mnt/t ' /proc/self/mountinfo | cut -d' ' -f6");
    let has = |word: &str| options().trim().split(',').any(|one| one == word);
    for conf in ["idmap=1000:5:1,ro,noexec", "idmap=1000:6:1,ro,noexec"] {
        reload(&n, &container, conf);
        assert!(has("ro") && has("noexec") && has("nodev"), "{}", options());
        for words in ["rw", "ro,exec", "ro,noexec,dev"] {
            container.fails(&format!("mount -o remount,bind,{words} /mnt/t"));
        }
        is_alone(&n, &container);
    }
    assert_eq!(owner(&container), "6");
    reload(&n, &container, "idmap=1000:6:1");
    assert!(has("rw") && !has("noexec") && has("nodev"), "{}", options());
    container.fails("mount -o remount,bind,dev /mnt/t");
    // What root of the container forbids itself stays until the options change.
    container.ok("mount -o remount,bind,ro,nodev /mnt/t");
    reload(&n, &container, "idmap=1000:7:1");
    assert!(has("ro"), "{}", options());
    is_alone(&n, &container);
}

#[test]
fn what_is_on_or_below_the_mount_or_cannot_change_is_refused() {
    let n = machine();
    let container = mounted(&n, "idmap=1000:5:1");
    for (conf, words) in [
        ("idmap=1000:6:1,unmapped=pass", "unmapped uids are not denied"),
        ("idmap=1000:6:1,engine=fuse", "option 'engine' cannot change"),
        ("idmap=1000:206000:1,ids=host", "option 'ids' cannot change"),
        ("idmap=1000:70000:1", "the container has no uid 70000"),
        ("nonsense", "unknown option"),
    ] {
        let error = refused(&n, &container, conf);
        assert!(error.contains("reload /mnt/t: ") && error.contains(words), "{error}");
        assert_eq!(owner(&container), "5");
    }
    container.ok("mount -t tmpfs x /mnt/t/sub");
    let error = refused(&n, &container, "idmap=1000:6:1");
    assert!(error.contains("/mnt/t/sub is mounted below it in the namespace"), "{error}");
    container.ok("umount /mnt/t/sub && mount -t tmpfs x /mnt/t");
    let error = refused(&n, &container, "idmap=1000:6:1");
    assert!(error.contains("no mount of shiftbind is there"), "{error}");
    container.ok("umount /mnt/t");
    n.ok("mv a b && mkdir a");
    write(&n, "idmap=1000:6:1");
    reload(&n, &container, "idmap=1000:6:1");
    assert_eq!(owner(&container), "6", "the mount's own directory is cloned");
    let error = refused(&n, &container, "idmap=1000:6:1,ro");
    assert!(error.contains("another directory is at"), "{error}");
    is_alone(&n, &container);
}

#[test]
fn a_kernel_without_the_new_calls_reloads_it_all_the_same() {
    let n = machine();
    let container = mounted(&n, "idmap=1000:5:1");
    let reload_old = || {
        let mut command = n.command(n.path("shiftbind"));
        let pid = container.pid().to_string();
        without_call(command.args(["reload", "-N", &pid, "/mnt/t"]), OPEN_TREE_ATTR);
        finished(command)
    };
    write(&n, "idmap=1000:6:1");
    let done = reload_old();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(owner(&container), "6");
    container.fails("mount -o remount,bind,dev /mnt/t");
    is_alone(&n, &container);
    // The move beneath is the first in the namespace: that into the place where attributes are locked has been made before.
    write(&n, "idmap=1000:7:1");
    let inject = |calls: &str| {
        n.sh(&format!(
            "strace -f -qq -o strace -e trace=move_mount -e inject=move_mount:error=EINVAL:when={calls} \
             $S reload -N {} /mnt/t",
            container.pid()
        ))
    };
    let done = inject("1");
    assert!(done.status.success(), "{done:?}");
    assert!(fs::read_to_string(n.path("strace")).unwrap().contains("INJECTED"));
    assert_eq!(owner(&container), "7");
    is_alone(&n, &container);
    // If the new one cannot be attached, the old one comes back.
    write(&n, "idmap=1000:8:1");
    let failed = inject("1..2");
    assert!(text(&failed.stderr).contains("cannot attach the new mount"), "{failed:?}");
    assert_eq!(owner(&container), "7");
}

#[test]
fn a_file_and_a_source_with_mounts_below_are_reloaded() {
    let n = machine();
    n.ok("mount -t tmpfs below a/sub && touch a/sub/g && chown 1000 a/sub/g");
    let container = mounted(&n, "idmap=1000:5:1");
    assert_eq!(container.ok("stat -c %u /mnt/t/sub/g"), "5\n");
    reload(&n, &container, "idmap=1000:6:1");
    assert_eq!(container.ok("stat -c %u /mnt/t/f /mnt/t/sub/g"), "6\n6\n");
    reload(&n, &container, "idmap=1000:6:1,ro");
    container.fails("touch /mnt/t/sub/new");
    n.ok("umount a/sub");
    write(&n, "idmap=1000:5:1");
    let pid = container.pid();
    n.ok(&format!("$S a/f /mnt/file -N {pid} --mkdir --engine=kernel -o config=conf"));
    assert_eq!(container.ok("stat -c %u /mnt/file"), "5\n");
    write(&n, "idmap=1000:6:1");
    n.ok(&format!("$S reload -N {pid} /mnt/file"));
    assert_eq!(
        container.ok("stat -c %u /mnt/file; grep -c ' /mnt/file ' /proc/self/mountinfo"),
        "6\n1\n"
    );
}

#[test]
fn a_container_that_covers_the_mount_meanwhile_keeps_no_second_one() {
    let n = machine();
    let container = mounted(&n, "idmap=1000:5:1");
    let pid = container.pid();
    for at in 0..10 {
        write(&n, &format!("idmap=1000:{}:1", at + 6));
        // Root of the container covers the mount again and again.
        let mut attacker = super::namespace::program("nsenter")
            .args(["-t", &pid.to_string(), "-m", "-U", "-S0", "-G0", "sh", "-c"])
            .arg("mkdir -p /mnt/o; for i in $(seq 60); do mount -t tmpfs cover /mnt/t; umount -l /mnt/t; done")
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let output = n.sh(&format!("$S reload -N {pid} /mnt/t"));
        let _ = attacker.wait();
        // It may have unmounted the mount itself.
        let left = container.ok("grep -c ' /mnt/t .*/a ' /proc/self/mountinfo || true");
        let error = text(&output.stderr);
        assert!(["0\n", "1\n"].contains(&left.as_str()), "{left}: {error}");
        assert!(output.status.success() || error.lines().count() == 1, "{error}");
        if left == "0\n" {
            container.ok("while umount -l /mnt/t; do :; done 2>/dev/null");
            n.ok(&format!("$S a /mnt/t -N {pid} --engine=kernel -o config=conf"));
        }
    }
}
