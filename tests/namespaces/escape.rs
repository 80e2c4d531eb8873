//! Root of a container attacks the helper processes of a mount while they work.

use std::process::{Child, Stdio};

use super::container::Container;
use super::namespace::{self, Namespace, wait_until};
use super::{machine, target::skipped};

/// The numbers of system calls that perl has no functions for.
#[cfg(target_arch = "x86_64")]
const CALLS: [i64; 5] = [303, 304, 308, 272, 101];
#[cfg(target_arch = "aarch64")]
const CALLS: [i64; 5] = [264, 265, 268, 97, 117];

/// Opens all mount namespaces by file handles of nsfs, and looks for a file that is the machine's. A namespace of its own
/// says which numbers come next.
const SCAN: &str = r#"
use strict; use POSIX ();
my ($name_to, $open_by, $setns, $unshare) = map { 0 + $_ } @ARGV[0 .. 3]; my $marker = $ARGV[5];
open(my $out, '>>', '/mnt/found') or die; select((select($out), $| = 1)[0]);
my $is_ready = 0;
while (1) {
    syscall($unshare, 0x20000) == 0 or die "unshare: $!";
    open(my $own, '<', '/proc/thread-self/ns/mnt') or die "ns: $!";
    my ($h, $id_of_mount, $empty) = (pack('Ii', 64, 0) . "\0" x 64, pack('i', 0), '');
    if (syscall($name_to, fileno($own), $empty, $h, $id_of_mount, 0x1000) != 0) { print $out "none\n"; exit }
    my ($length, $type, $id, $kind, $inode) = unpack('IiQII', $h);
    print $out "ready\n" unless $is_ready++;
    for my $i ($id + 1 .. $id + 24) {
        for my $n ($inode - 24 .. $inode + 24) {
            my $g = pack('IiQII', $length, $type, $i, $kind, $n);
            my $fd = syscall($open_by, fileno($own), $g, 0);
            next if $fd < 0;
            my $pid = fork;
            if (!$pid) {
                print $out (-e $marker ? "OUTSIDE\n" : "own\n") if syscall($setns, $fd, 0x20000) == 0;
                POSIX::_exit(0);
            }
            waitpid($pid, 0); POSIX::close($fd);
        }
    }
}
"#;

/// Traces each new process that it may trace (PTRACE_SEIZE), and says which.
const TRACE: &str = r#"
use strict;
my $ptrace = 0 + $ARGV[4];
open(my $out, '>>', '/mnt/found') or die; select((select($out), $| = 1)[0]);
print $out "ready\n";
while (1) {
    open(my $load, '<', '/proc/loadavg') or die; my $last = 0 + (split ' ', scalar <$load>)[4];
    for my $pid ($last - 4 .. $last + 3) {
        next if $pid == $$ || syscall($ptrace, 0x4206, $pid, 0, 0) != 0;
        open(my $status, '<', "/proc/$pid/status"); my %of = map { /^(\w+):\s+(.*)/ ? ($1, $2) : () } <$status>;
        print $out "traced $pid $of{Name} uid $of{Uid}\n";
        next if $of{Name} eq 'shiftbind' || syscall($ptrace, 0x4207, $pid, 0, 0) != 0;
        waitpid($pid, 0x40000000); syscall($ptrace, 17, $pid, 0, 0);
    }
}
"#;

/// Runs a script as root of the container while mounts are made and unmounted. Returns what it found.
fn attacked(n: &Namespace, container: &Container, script: &str, words: &[&str]) -> String {
    let pid = container.pid().to_string();
    n.ok("mkdir outside && mount -t tmpfs none outside && touch outside/marker");
    let marker = n.path("outside/marker");
    container.fails(&format!("ls {}", marker.display()));
    let mut attacker = Attacker::start(&pid, script, &marker.display().to_string());
    // Read from outside: a process of the container could be traced.
    let found = format!("/proc/{pid}/root/mnt/found");
    let found = || std::fs::read_to_string(&found).unwrap_or_default();
    wait_until("the attack has begun", || !found().is_empty());
    for words in words {
        // Tries of enough mounts: the window is short.
        for _ in 0..tries() {
            n.ok(&format!("$S a /mnt/t -N {pid} --mkdir {words} && $S umount -N {pid} /mnt/t"));
        }
    }
    attacker.end();
    n.wait_until_gone();
    found()
}

/// `SHIFTBIND_TEST_ATTACKS`: how many mounts are attacked.
fn tries() -> u32 {
    std::env::var("SHIFTBIND_TEST_ATTACKS").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

struct Attacker(Child);

impl Attacker {
    fn start(pid: &str, script: &str, marker: &str) -> Self {
        let mut command = namespace::program("nsenter");
        command.args(["-t", pid, "-m", "-U", "-S0", "-G0", "perl", "-e", script]);
        command.args(CALLS.map(|number| number.to_string())).arg(marker);
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(quiet.spawn().expect("run nsenter"))
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn no_mount_namespace_of_the_container_ever_holds_the_machines_mounts() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    let modes = ["--engine=fuse", "--engine=fuse --ids=host --idmap=0:200000:9", "--engine=kernel"];
    let found = attacked(&n, &container, SCAN, &modes);
    if found.starts_with("none") {
        return skipped("this kernel opens no namespaces by file handles");
    }
    assert!(!found.contains("OUTSIDE"), "{found}");
}

/// It shows that no process was traced in these tries, not that none could be: `Child::start` and the others forbid it first.
#[test]
fn root_of_the_container_cannot_trace_a_helper_process() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    let modes = ["--engine=fuse", "--engine=fuse --ids=host --idmap=0:200000:9", "--engine=kernel"];
    let found = attacked(&n, &container, TRACE, &modes);
    assert!(!found.contains("shiftbind"), "{found}");
}

/// Runs a program in the container which prints a line when it is where it should be.
fn process_of(container: &Container, uid: &str, words: &[&str]) -> Child {
    let pid = container.pid().to_string();
    let mut command = namespace::program("nsenter");
    command.args(["-t", &pid, "-m", "-U", "-S", uid, "-G", uid]).args(words);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut byte = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).expect("it runs");
    child
}

#[test]
fn the_users_are_those_that_own_the_mount_namespace() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    container.ok("mkdir /mnt/t");
    n.ok("mkdir point");
    // Any user of the container can make this one, and is root in it.
    let inner = ["unshare", "-U", "-r", "sh", "-c", "echo; exec sleep 100"];
    let mut inner = process_of(&container, "1000", &inner);
    let mut command = n.command("unshare");
    command.args(["-U", "sh", "-c", "echo; exec sleep 100"]);
    let mut outer = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(outer.stdout.as_mut().unwrap(), &mut [0]).expect("it runs");
    for (pid, point) in [(inner.id(), "/mnt/t"), (outer.id(), "point")] {
        let refused = n.sh(&format!("$S a {point} -N {pid}"));
        let error = namespace::text(&refused.stderr);
        assert!(error.contains("name a process that is in both"), "{error}");
        assert_eq!((refused.status.code(), error.lines().count()), (Some(1), 1), "{error}");
    }
    let own = n.sh("$S a point -N $$");
    assert!(namespace::text(&own.stderr).contains("leave the option out"), "{own:?}");
    assert!(n.mounts().is_empty());
    assert_eq!(container.ok("grep -c shiftbind /proc/self/mountinfo || true"), "0\n");
    for child in [&mut inner, &mut outer] {
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[test]
fn a_process_in_a_chroot_and_the_root_as_target_are_refused() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    container.ok("mkdir /mnt/r /mnt/t");
    let script = r#"$| = 1; chroot "/mnt/r" or die; chdir "/"; print "\n"; sleep 100"#;
    let mut inner = process_of(&container, "0", &["perl", "-e", script]);
    let refused = n.sh(&format!("$S a /data -N {} --mkdir", inner.id()));
    let error = namespace::text(&refused.stderr);
    assert!(error.contains("in a chroot") && error.lines().count() == 1, "{error}");
    container.fails("ls -d /data /mnt/r/data");
    for root in ["/", "/mnt/..", "."] {
        let refused = n.sh(&format!("$S a {root} -N {}", container.pid()));
        let error = namespace::text(&refused.stderr);
        assert!(error.contains("this is the root of the namespace"), "{root}: {error}");
    }
    // The one in the chroot sees another path.
    n.ok(&format!("$S a /mnt/t -N {} --engine=fuse", container.pid()));
    container.ok("mount --move /mnt/t /mnt/r");
    n.ok(&format!("$S umount -N {} /mnt/r", container.pid()));
    n.wait_until_gone();
    let _ = inner.kill();
    let _ = inner.wait();
}
