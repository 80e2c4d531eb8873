//! TARGET is resolved in the container, whatever the container does to it.

use std::process::{Child, Stdio};

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

/// Root of the container puts links to the victim in the place of the target and of its parents, moves a directory that the
/// path leaves by `..`, and unmounts what it got, so that each try is a race. The argument is the number of umount2(2).
const SWAP: &str = r#"
my ($umount, $victim) = @ARGV; $umount += 0; my $up = "../" x 16;
chdir "/mnt" or die; mkdir "d"; mkdir "a"; mkdir "a/b"; $| = 1; print "ready\n";
while (1) {
    for my $link ("$up$victim", "/proc/1/root$victim", "/proc/self/root$victim", "d") {
        symlink $link, "t"; rename "a/b", "b"; unlink "t"; rename "d", "t"; rename "b", "a/b";
        for my $point ("t/x", "t", "t") { my $path = $point; syscall($umount, $path, 2 | 8); }
        rmdir "t/x"; rename "t", "d";
    }
}
"#;

#[cfg(target_arch = "x86_64")]
const UMOUNT2: &str = "166";
#[cfg(target_arch = "aarch64")]
const UMOUNT2: &str = "39";

/// The targets of the tries, and how each is mounted. A daemon takes more time, and its target is resolved by the same code.
const TRIES: [&str; 4] = [
    "/mnt/t --engine=kernel",
    "/mnt/t/x --mkdir --engine=kernel",
    "/mnt/a/b/../../t --engine=kernel",
    "/mnt/a/b/../../../mnt/t/x --mkdir --engine=kernel --ids=host",
];

/// Root of the container at work. Killed when dropped.
struct Swapper(Child);

impl Drop for Swapper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `SHIFTBIND_TEST_SWAPS`: how many mounts are tried.
#[test]
fn a_container_that_swaps_the_target_gets_the_mount_in_itself_or_none() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    let pid = container.pid();
    n.ok("mkdir -m 755 victim && touch victim/own");
    let victim = n.path("victim").display().to_string();
    let swapper = namespace::program("nsenter")
        .args(["-t", &pid.to_string(), "-m", "-U", "-S0", "-G0", "perl", "-e", SWAP])
        .args([UMOUNT2, &victim])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut swapper = Swapper(swapper);
    std::io::Read::read_exact(swapper.0.stdout.as_mut().unwrap(), &mut [0]).expect("it runs");
    let tries = std::env::var("SHIFTBIND_TEST_SWAPS").ok().and_then(|text| text.parse().ok());
    let rounds = tries.unwrap_or(100_u32).div_ceil(25);
    let calls = TRIES.map(|words| format!("try {words}")).join("; ");
    let round = format!(
        "try() {{ $S a \"$@\" -N {pid} 2> error && echo made; : > error; }}
         for i in 1 2 3 4 5 6; do {calls}; done; try /mnt/t --engine=fuse; $S list > list"
    );
    let before = n.ok("grep -v fuse.shiftbind /proc/self/mountinfo");
    let mut made = 0;
    for at in 0..rounds {
        made += n.ok(&round).lines().count();
        let now = n.ok("cat /proc/self/mountinfo");
        assert!(now == before, "mounted outside of the container in round {at}: {now}");
        assert_eq!(n.ok("ls victim"), "own\n", "made outside of the container in round {at}");
    }
    drop(swapper);
    println!("{} tries, {made} mounts, none outside of the container", rounds * 25);
    assert!(made > 0, "no try has won the race: it shows nothing");
    container.end();
    n.wait_until_gone();
}
