//! TARGET is resolved in the container, whatever the container does to it.

use std::process::Stdio;

use super::container::Container;
use super::{machine, namespace};

pub(crate) use super::namespace::machine::skipped;

#[test]
fn what_mkdir_makes_belongs_to_root_of_the_container() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    let pid = container.pid();
    n.ok(&format!("$S a /mnt/x/y -N {pid} --mkdir --engine=fuse && $S a/f /mnt/z/file -N {pid} --mkdir --engine=fuse"));
    assert_eq!(container.ok("stat -c '%u:%g %a' /mnt/x /mnt/z"), "0:0 755\n0:0 755\n");
    assert_eq!(
        container.ok("cat /mnt/z/file && umount /mnt/z/file && stat -c '%u %F' /mnt/z/file"),
        "hello\n0 regular empty file\n"
    );
    let missing = n.sh(&format!("$S a /mnt/none -N {pid}"));
    assert_eq!(missing.status.code(), Some(32));
    // A directory that the container's root may not write in.
    let refused = n.sh(&format!("$S a {}/made -N {pid} --mkdir", n.path("").display()));
    let error = namespace::text(&refused.stderr);
    assert!(
        error.contains("Permission denied")
            || error.contains("EOVERFLOW")
            || error.contains("too large"),
        "{error}"
    );
    n.ok("test ! -e made");
    n.ok("$S a new/dir --mkdir --engine=fuse && ls new/dir/f && umount new/dir");
}

#[test]
fn links_and_dots_stay_in_the_container() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    let pid = container.pid();
    container.ok(
        "mkdir /mnt/real && ln -s ../../../../mnt/real /mnt/up && ln -s /mnt/real /mnt/absolute && \
                  ln -s /proc/1/root /mnt/magic && ln -s /proc/self/cwd /mnt/cwd",
    );
    for target in ["/mnt/up", "/mnt/absolute", "/mnt/../../mnt/real", "../../mnt/real", "mnt/real"]
    {
        n.ok(&format!("$S a {target} -N {pid} --engine=fuse"));
        assert_eq!(container.ok("cat /mnt/real/f; umount /mnt/real"), "hello\n", "{target}");
    }
    for target in ["/mnt/magic/mnt", "/mnt/cwd", "/proc/self/root/mnt"] {
        let refused = n.sh(&format!("$S a {target} -N {pid}"));
        assert_eq!(refused.status.code(), Some(32), "{target}: {refused:?}");
    }
}

#[test]
fn a_container_that_hides_its_proc_and_dev_is_mounted_into_all_the_same() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    let pid = container.pid();
    container.ok("mkdir /mnt/t; mount -t tmpfs x /proc; mount -t tmpfs x /dev; mkdir /proc/self; echo lie > /proc/self/mountinfo");
    for engine in ["fuse", "kernel"] {
        n.ok(&format!("$S a /mnt/t -N {pid} --engine={engine}"));
        assert_eq!(container.ok("cat /mnt/t/f"), "hello\n");
        n.ok(&format!("$S umount -N {pid} /mnt/t"));
    }
    n.wait_until_gone();
}

/// `SHIFTBIND_TEST_SWAPS`: how many mounts are made.
#[test]
fn a_container_that_swaps_the_target_gets_the_mount_in_itself_or_none() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    let pid = container.pid();
    let victim = n.path("victim");
    n.ok("mkdir victim && touch victim/own");
    let mut swapper = namespace::program("nsenter")
        .args(["-t", &pid.to_string(), "-m", "-U", "-S0", "-G0", "sh", "-c"])
        .arg(format!(
            "cd /mnt; while :; do mkdir t 2> /dev/null; rmdir t 2> /dev/null; ln -s ../../../../..{} t; rm -f t; \
             ln -s /proc/1/root{} t; rm -f t; done",
            victim.display(),
            victim.display()
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let tries = std::env::var("SHIFTBIND_TEST_SWAPS").ok().and_then(|text| text.parse().ok());
    for at in 0..tries.unwrap_or(20) {
        let engine = if at % 2 == 0 { "kernel" } else { "fuse" };
        n.sh(&format!("$S a /mnt/t -N {pid} --engine={engine}"));
        assert_eq!(n.ok("ls victim"), "own\n", "mounted outside of the container");
        assert!(n.mounts_at(&victim).is_empty());
    }
    let _ = swapper.kill();
    let _ = swapper.wait();
    container.end();
    n.wait_until_gone();
}
