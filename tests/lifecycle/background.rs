//! Starting in the background, and what is left if that fails.

use std::fs;

use crate::namespace::{Namespace, text};

#[test]
fn the_background_returns_when_the_mount_answers() {
    let ns = Namespace::new();
    let source = ns.path("a").display().to_string();
    ns.ok("$F a m && stat m");
    let mounts = ns.mounts();
    assert_eq!(mounts.len(), 1);
    assert!(mounts[0].contains(&format!(" - fuse.shiftbind {source} ")), "{mounts:?}");
    ns.daemon();
}

#[test]
fn the_daemon_keeps_no_inherited_pipe_open() {
    let ns = Namespace::new();
    // All scripts here rely on standard output and error being closed; this one adds one more descriptor.
    ns.ok("$F a m 7>&1 2>&1 | cat; stat m");
    assert_eq!(ns.ok("umount m; x=$($F a m 8>&1 2>&1); echo \"$?<$x>\""), "0<>\n");
}

#[test]
fn the_daemon_holds_nothing_of_the_terminal_and_of_the_working_directory() {
    let ns = Namespace::new();
    ns.ok("$F a m");
    let daemon = ns.daemon();
    for fd in 0..=2 {
        assert_eq!(
            fs::read_link(format!("/proc/{daemon}/fd/{fd}")).unwrap().to_str(),
            Some("/dev/null")
        );
    }
    assert_eq!(fs::read_link(format!("/proc/{daemon}/cwd")).unwrap().to_str(), Some("/"));
    let stat = fs::read_to_string(format!("/proc/{daemon}/stat")).unwrap();
    let session: u32 =
        stat.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap().parse().unwrap();
    assert_eq!(session, daemon, "a session of its own");
}

#[test]
fn limits_of_the_shell_are_no_limits_of_the_mount() {
    let ns = Namespace::new();
    ns.ok("ulimit -S -n 64; ulimit -S -f 1; $F a m");
    let limits = fs::read_to_string(format!("/proc/{}/limits", ns.daemon())).unwrap();
    let line = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let files = line("Max open files");
    assert_eq!(files[0], files[1], "raised to the hard limit");
    assert_ne!(files[0], "64");
    assert_eq!(line("Max file size")[0], "unlimited");
}

#[test]
fn the_daemon_may_not_exceed_quotas() {
    const CAP_SYS_ADMIN: u32 = 21;
    const CAP_SYS_RESOURCE: u32 = 24;
    let ns = Namespace::new();
    // A container's root may lack the capability; root of a user namespace of its own has it.
    let statuses = ns.ok("unshare -Urm --propagation private sh -c \
         '$F --pidfile pid a m && cat /proc/$(cat pid)/task/*/status && umount m'");
    let mut sets = 0;
    for line in statuses.lines() {
        let Some(set) = line.strip_prefix("CapPrm:").or_else(|| line.strip_prefix("CapEff:"))
        else {
            continue;
        };
        let capabilities = u64::from_str_radix(set.trim(), 16).unwrap();
        assert_eq!(capabilities >> CAP_SYS_ADMIN & 1, 1, "{line}");
        assert_eq!(capabilities >> CAP_SYS_RESOURCE & 1, 0, "{line}");
        sets += 1;
    }
    assert!(sets >= 4, "of several threads: {statuses}");
}

#[test]
fn a_failure_is_one_line_and_leaves_nothing_mounted() {
    let ns = Namespace::new();
    fs::write(ns.path("file"), "").unwrap();
    for (arguments, status, words) in [
        ("nope m", 32, &["nope", "No such file"][..]),
        ("a nope", 32, &["nope", "No such file"]),
        ("file m", 32, &["is a directory", "source"]),
        ("a file", 32, &["not a directory", "source"]),
        ("--pidfile nowhere/pid a m", 16, &["--pidfile", "nowhere/pid"]),
        ("--pidfile a a m", 16, &["--pidfile"]),
        ("-f --pidfile nowhere/pid a m", 16, &["--pidfile", "nowhere/pid"]),
    ] {
        let output = ns.sh(&format!("$F {arguments}"));
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments}: {stderr}");
        assert!(words.iter().all(|word| stderr.contains(word)), "{arguments}: {stderr}");
        assert!(output.stdout.is_empty());
        ns.wait_until_gone();
    }
}

#[test]
fn without_the_device_the_message_says_so() {
    let ns = Namespace::new();
    let output = ns.sh("mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && $F a m");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("/dev/fuse"), "{}", text(&output.stderr));
    ns.wait_until_gone();
}

#[test]
fn a_kernel_without_a_call_that_is_needed_is_told_from_other_failures_in_one_line() {
    let ns = Namespace::new();
    let needed = ["statx", "fsopen", "fsconfig", "fsmount", "move_mount"];
    for call in needed {
        let output = ns.sh(&format!(
            "timeout 10 strace -f -qq -o strace -e trace={call} -e inject={call}:error=ENOSYS $F a m"
        ));
        let stderr = text(&output.stderr);
        assert_eq!(stderr.lines().count(), 1, "{call}: {stderr}");
        assert!(stderr.contains("older than Linux 6.1"), "{call}: {stderr}");
        assert_ne!(output.status.code(), Some(0), "{call}: {stderr}");
        assert!(fs::read_to_string(ns.path("strace")).unwrap().contains("ENOSYS"), "{call}");
        ns.wait_until_gone();
    }
}

#[test]
fn a_source_given_as_a_descriptor_works() {
    let ns = Namespace::new();
    ns.ok("exec 5<a; $F /proc/self/fd/5 m; exec 5<&-; stat m");
    let source = ns.path("a").display().to_string();
    assert!(ns.mounts()[0].contains(&format!(" {source} ")), "{:?}", ns.mounts());
}

#[test]
fn a_file_is_mounted_on_a_file() {
    let ns = Namespace::new();
    fs::write(ns.path("f"), "").unwrap();
    fs::write(ns.path("g"), "").unwrap();
    assert_eq!(ns.ok("$F f g && stat -c %F g && umount g").trim_end(), "regular empty file");
}

#[test]
fn a_mount_point_behind_a_symbolic_link_is_found() {
    let ns = Namespace::new();
    ns.ok("ln -s m link && $F a ./link && stat m");
    assert_eq!(ns.mounts().len(), 1);
}

#[test]
fn a_daemon_in_front_keeps_nothing_open_that_it_inherited() {
    let ns = Namespace::new();
    let open = ns.ok("touch f; exec 7< f; $F -f a m & until mountpoint -q m; do :; done; \
         readlink /proc/$!/fd/* | grep -c \"$PWD/f\" || true; umount m; wait");
    assert_eq!(open.trim(), "0");
}
