//! `--engine`: which mounts the kernel makes, which the daemon, and how each is seen, changed and refused.

use crate::namespace::Namespace;

pub(crate) const MAP: &str = "-o idmap=b:0:100000:65536";

/// A namespace whose records of mounts, and whose source, are its own. The source is ext4 or the like: tmpfs has no idmapped
/// mounts before Linux 6.3.
pub(crate) fn namespace() -> Namespace {
    let ns = Namespace::new();
    ns.ok("chmod 777 a && truncate -s 64M image && mkfs.ext4 -q image && \
           mount -o loop image a && rmdir a/lost+found && chmod 777 a");
    ns
}

pub(crate) fn errors(ns: &Namespace, script: &str) -> String {
    let output = ns.sh(script);
    assert!(!output.status.success(), "{script} succeeds");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_kernel_shows_and_stores_ids_through_the_map_and_no_process_is_left() {
    let ns = namespace();
    ns.ok("touch a/root a/other && chown 70000:70000 a/other");
    // Of any name: an orphan would have become a child of the subreaper, or of process 1 and stayed in the namespace.
    let count = "n=0; for p in /proc/[0-9]*/ns/mnt; do test $p -ef /proc/self/ns/mnt && n=$((n+1)); done; echo $n";
    let before = ns.ok(count);
    ns.ok(&format!("$S --engine=kernel {MAP} a m"));
    assert_eq!(ns.ok(count), before, "no process is left");
    assert_eq!(ns.processes(), [0; 0]);
    assert!(ns.mounts()[0].contains(" - ext4 "), "{:?}", ns.mounts());
    assert_eq!(ns.ok("stat -c %u:%g m/root m/other"), "100000:100000\n65534:65534\n");
    ns.ok("setpriv --reuid=101000 --regid=102000 --clear-groups touch m/new");
    assert_eq!(ns.ok("stat -c %u:%g a/new"), "1000:2000\n");
    // An unmapped caller creates nothing (EOVERFLOW).
    let refused = errors(&ns, "setpriv --reuid=5 --regid=5 --clear-groups touch m/unmapped");
    assert!(refused.contains("Value too large"), "{refused}");
    ns.ok("umount m");
    assert_eq!(ns.mounts(), [""; 0]);
}

#[test]
fn explain_ends_as_the_mount_would_and_names_the_obstacle() {
    let ns = namespace();
    ns.ok("touch file && mkfifo pipe && mkdir sealed && mount -t tmpfs -o ro sealed sealed");
    for (arguments, status) in [
        ("a m", 0),
        ("--engine=fuse a m", 0),
        ("--engine=kernel a m", 0),
        ("--cache=coherent a m", 0),
        ("absent m", 32),
        ("a absent", 32),
        ("file m", 32),
        ("a file", 32),
        ("--engine=kernel a file", 32),
        ("pipe file", 32),
        ("/proc m", 32),
        ("--engine=kernel --perms=a=r a m", 32),
        ("--mkdir a new/one", 0),
        ("--mkdir --engine=fuse a new/two", 0),
        ("--mkdir a file/new", 32),
        ("--mkdir a sealed/new", 32),
        ("--mkdir --engine=fuse a sealed/new", 32),
        ("--mkdir --engine=fuse --pidfile=absent/pid a newer", 16),
        ("--pidfile=absent/pid a m", 16),
        ("--map-from=oci:absent a m", 1),
    ] {
        let explained = ns.sh(&format!("$S --explain {arguments}"));
        let mounted = ns.sh(&format!("$S {arguments}"));
        assert_eq!(explained.status.code(), Some(status), "{arguments}: {explained:?}");
        assert_eq!(mounted.status.code(), Some(status), "{arguments}: {mounted:?}");
        assert_eq!(explained.stderr, mounted.stderr, "{arguments}");
        ns.ok("for at in m new/*; do ! mountpoint -q $at || umount $at; done");
        ns.wait_until_gone();
    }
    ns.ok("umount sealed");
    assert_eq!(ns.mounts(), [""; 0]);
}

#[test]
fn explain_prints_the_command_of_mount8_where_the_kernel_can() {
    let ns = namespace();
    let command = |arguments: &str| {
        let text = ns.ok(&format!("$S --explain {arguments}"));
        text.lines().find_map(|line| line.strip_prefix("the same by mount(8): ")).map(str::to_owned)
    };
    assert_eq!(
        command("--ro --idmap=0:100000:65536 a m").as_deref(),
        Some("mount --bind -o ro,X-mount.idmap=b:0:100000:65536 a m")
    );
    ns.ok("mkdir 'it'\\''s' a/below && mount --bind a/below a/below");
    assert_eq!(
        command("--idmap=u:0:5:1:7:8:1:g:0:6:1 a \"it's\"").as_deref(),
        Some(r"mount --rbind -o 'X-mount.idmap=u:0:5:1 u:7:8:1 g:0:6:1' a 'it'\''s'")
    );
    assert_eq!(command("a m").as_deref(), Some("mount --rbind a m"));
    assert_eq!(command("--idmap=0:5:1 --unmapped=pass a m"), None);
    assert_eq!(command("--cache=none a m"), None);
    // A name that looks like an option, and names that a line of text does not hold.
    ns.ok("mkdir -- -a $(printf 'a\\342') 'a\nb'");
    assert_eq!(command("-- -a m").as_deref(), Some("mount --bind -- -a m"));
    assert_eq!(command("$(printf 'a\\342') m"), None);
    assert_eq!(command("'a\nb' m"), None);
    ns.ok("umount a/below");
}

#[test]
fn the_options_hold_for_the_mount_and_restrictions_for_the_mounts_below() {
    let ns = namespace();
    ns.ok("mkdir a/below && mount -t ext4 -o loop,noexec image2 a/below 2>/dev/null || \
           { truncate -s 16M image2 && mkfs.ext4 -q image2 && mount -o loop,noexec image2 a/below; }");
    ns.ok("touch a/below/f && chown 5:5 a/below/f");
    ns.ok(&format!("$S --engine=kernel {MAP} --ro --nosuid a m"));
    assert_eq!(ns.ok("stat -c %u m/below/f"), "100005\n");
    let options = ns.ok("findmnt -n -o VFS-OPTIONS m; findmnt -n -o VFS-OPTIONS m/below");
    let (own, below) = options.split_once('\n').unwrap();
    for (options, word) in [(own, "ro"), (own, "nosuid"), (below, "ro"), (below, "noexec")] {
        assert!(options.trim().split(',').any(|one| one == word), "{word}: {options}");
    }
    assert!(errors(&ns, "touch m/below/g").contains("Read-only"), "of all mounts");
    ns.ok("umount -R m");
    let explained = ns.ok(&format!("$S --explain {MAP} a m"));
    assert!(explained.contains("/a/below is noexec\n"), "{explained}");
    // What the daemon would do is not told.
    assert!(!explained.contains("programs: ") && !explained.contains("cache: "), "{explained}");
}

#[test]
fn what_is_mounted_on_the_source_later_does_not_arrive_without_the_map() {
    let ns = namespace();
    ns.ok("mount --make-shared a && mkdir a/later");
    ns.ok(&format!("$S --engine=kernel {MAP} a m"));
    ns.ok("mount -t tmpfs later a/later && touch a/later/f");
    assert!(!ns.path("m").join("later/f").exists());
    assert_eq!(ns.ok("ls m/later"), "");
    ns.ok("umount m a/later");
}

#[test]
fn an_option_that_needs_the_daemon_is_named_and_auto_takes_fuse() {
    let ns = namespace();
    for (options, obstacle) in [
        (format!("{MAP} -o perms=a=rX"), "option 'perms' needs the daemon"),
        (format!("{MAP} -o cache=none"), "option 'cache' needs the daemon"),
        ("-o idmap=0:5:1:7:5:1".to_owned(), "several uids are shown as one"),
        (format!("{MAP} --unmapped=pass"), "unmapped uids are not denied"),
    ] {
        let refused = errors(&ns, &format!("$S --engine=kernel {options} a m"));
        let begin = "shiftbind: option 'engine=kernel': ";
        assert!(refused.starts_with(begin) && refused.contains(obstacle), "{refused}");
        assert_eq!(ns.mounts(), [""; 0]);
        ns.ok(&format!("$S --engine=auto {options} a m"));
        assert!(ns.mounts()[0].contains(" - fuse.shiftbind "), "{options}: {:?}", ns.mounts());
        ns.ok("umount m");
        ns.wait_until_gone();
    }
}

#[test]
fn a_source_without_idmapped_mounts_is_refused_by_the_kernel_engine_and_served_by_auto() {
    let ns = namespace();
    ns.ok("mkdir fuse && $F a fuse");
    let refused = errors(&ns, &format!("$S --engine=kernel {MAP} fuse m"));
    assert!(refused.contains("has no idmapped mounts"), "{refused}");
    ns.ok(&format!("$S --engine=auto {MAP} fuse m"));
    assert!(ns.mounts()[0].contains(" - fuse.shiftbind "), "{:?}", ns.mounts());
    ns.ok("umount m && umount fuse");
    ns.wait_until_gone();
}

#[test]
fn a_pseudo_filesystem_below_the_source_is_hidden_by_the_daemon() {
    let ns = namespace();
    ns.ok("mkdir a/proc && mount -t proc proc a/proc");
    ns.ok(&format!("$S --engine=auto {MAP} a m"));
    assert!(ns.mounts()[0].contains(" - fuse.shiftbind "), "{:?}", ns.mounts());
    assert_eq!(ns.ok("ls m/proc"), "");
    ns.ok("umount m && umount a/proc");
    ns.wait_until_gone();
}

#[test]
fn without_a_map_auto_makes_a_bind_mount() {
    let ns = namespace();
    ns.ok("touch a/f && chown 5:6 a/f && $S --engine=auto a m");
    assert!(ns.mounts()[0].contains(" - ext4 "), "{:?}", ns.mounts());
    assert_eq!(ns.ok("stat -c %u:%g m/f"), "5:6\n");
    ns.ok("umount m");
}

#[test]
fn mount8_asks_twice_and_gets_one_mount() {
    let ns = namespace();
    let mount = "bash -c 'exec -a mount.shiftbind $S a m -o engine=kernel,idmap=b:0:100000:65536'"
        .to_owned();
    ns.ok(&mount);
    ns.ok(&mount);
    assert_eq!(ns.mounts().len(), 1, "{:?}", ns.mounts());
    // A bind mount by another program is not taken for it.
    ns.ok("umount m && mount --bind a m");
    ns.ok(&mount);
    assert_eq!(ns.mounts().len(), 2, "{:?}", ns.mounts());
    ns.ok("umount m && umount m");
}

#[test]
fn a_mount_of_the_kernels_is_remounted_and_another_programs_is_not() {
    let ns = namespace();
    ns.ok(&format!("$S --engine=kernel {MAP} a m"));
    ns.ok("$S a m -o remount,ro,nodev");
    let options = ns.ok("findmnt -n -o VFS-OPTIONS m");
    assert!(options.starts_with("ro,") && options.contains("nodev"), "{options}");
    assert!(errors(&ns, "touch m/f").contains("Read-only"));
    // Another program's bind mount stays as it is.
    ns.ok("umount m && mount --bind a m");
    assert!(errors(&ns, "$S a m -o remount,ro").contains("not a mount of ours"));
    ns.ok("umount m");
}

#[test]
fn a_remount_restricts_the_mounts_below_as_well() {
    let ns = namespace();
    ns.ok("mkdir a/below && mount -t tmpfs -o mode=1777,noexec below a/below");
    let made = ns.sh(&format!("$S --engine=kernel {MAP} a m"));
    if !made.status.success() {
        // tmpfs has no idmapped mounts before Linux 6.3.
        return ns.ok("umount a/below").clear();
    }
    ns.ok("$S a m -o remount,ro");
    assert!(errors(&ns, "touch m/below/g").contains("Read-only"));
    // Back again, but for what the mount below forbids by itself.
    ns.ok("$S a m -o remount,rw && setpriv --reuid=100000 --regid=100000 --clear-groups touch m/below/g && findmnt -n -o VFS-OPTIONS m/below | grep -q noexec");
    ns.ok("umount -R m && umount a/below");
}

#[test]
fn each_of_many_mounts_made_at_once_is_recorded() {
    let ns = namespace();
    let script = "for n in $(seq 20); do mkdir s$n && $S --engine=kernel a s$n && umount s$n; done
        for n in $(seq 12); do mkdir p$n; $S --engine=kernel a p$n & done; wait
        ls /run/shiftbind | wc -l; umount p*";
    // A mount may have got the number of one that is gone, whose record then stays.
    let records: usize = ns.ok(script).trim().parse().unwrap();
    assert!(records >= 12, "{records}");
}

#[test]
fn a_record_stays_while_its_mount_exists_and_goes_when_that_is_gone_in_any_namespace() {
    let ns = namespace();
    // Every test has a /run of its own; the mounts of the inner mount namespace end with it.
    let script = "$S --engine=kernel a m; first=$(ls /run/shiftbind)
        mkdir other; unshare -m --propagation private $S --engine=kernel a other
        ls /run/shiftbind | wc -l
        mkdir -p jail; mount --rbind / jail
        chroot jail sh -c \"cd $PWD && mkdir third && $S --engine=kernel a third\"
        test -e /run/shiftbind/$first && echo kept
        ls /run/shiftbind | wc -l; umount -l jail; umount m";
    let text = ns.ok(script);
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words.first().zip(words.get(1)), Some((&"2", &"kept")), "{text}");
    // The kernel tells whether a mount of another namespace exists since Linux 6.11.
    let tells = ns.ok("uname -r | awk -F. '{print ($1 > 6 || $1 == 6 && $2 >= 11)}'");
    assert_eq!(words.get(2) == Some(&"2"), tells.trim() == "1", "{text}");
}

#[test]
fn a_remount_leaves_sync_to_the_sources_filesystem() {
    let ns = namespace();
    ns.ok("mount -o remount,sync a");
    ns.ok(&format!("$S --engine=kernel {MAP} a m"));
    ns.ok("$S a m -o remount,ro");
    assert!(ns.ok("findmnt -n -o VFS-OPTIONS m").starts_with("ro,"));
    let refused = errors(&ns, "$S a m -o remount,sync");
    assert!(refused.contains("belong to the source's filesystem"), "{refused}");
    ns.ok("umount m");
}

#[test]
fn explain_tells_the_engine_and_its_reason() {
    let ns = namespace();
    let engine = |options: &str| {
        let text = ns.ok(&format!("$S --explain {options} a m"));
        text.lines().find_map(|line| line.strip_prefix("engine: ")).unwrap().to_owned()
    };
    assert!(engine(&format!("--engine=auto {MAP}")).starts_with("kernel: "));
    assert!(engine(MAP).starts_with("kernel: "));
    let fuse = engine(&format!("--engine=fuse {MAP}"));
    assert!(fuse.starts_with("fuse, because engine=fuse was given"), "{fuse}");
    let why = engine(&format!("--engine=auto {MAP} -o pidfile=/run/p"));
    assert_eq!(
        why,
        "fuse, because the kernel cannot make this mount: option 'pidfile' needs the daemon"
    );
    assert_eq!(ns.mounts(), [""; 0]);
}
