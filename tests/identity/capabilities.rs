//! File capabilities through setcap(8) and getcap(8), inside and outside a container's user namespace.

use std::path::Path;

use crate::support::sh_output;
use crate::{ROOT, same_as_idmapped};

/// Runs a script as root of a user namespace that has the container's ids.
fn in_container(dir: &Path, script: &str) -> String {
    let enter = format!(
        r#"unshare --user sleep 60 & holder=$!
        while test "$(readlink /proc/$holder/ns/user)" = "$(readlink /proc/self/ns/user)"; do sleep 0.01; done
        echo 0 {ROOT} 65536 > /proc/$holder/uid_map
        echo 0 {ROOT} 65536 > /proc/$holder/gid_map
        nsenter --target $holder --user --setuid 0 --setgid 0 sh -c '{script}' 2>&1 || true
        kill $holder"#
    );
    sh_output(dir, &enter)
}

fn outside(dir: &Path, script: &str) -> String {
    sh_output(dir, &format!("({script}) 2>&1 || true"))
}

fn fill(dir: &Path) {
    crate::open_to_all(dir);
    sh_output(dir, "for f in in out both plain; do cp /bin/cat $f; done; chown 1000:1000 both");
    sh_output(dir, "cp /bin/cat set && setcap -n 1000 cap_net_bind_service=ep set");
    sh_output(dir, "cp /bin/cat lost && setcap -n 70000 cap_net_bind_service=ep lost");
    sh_output(dir, "cp /bin/cat plainly && setcap cap_net_bind_service=ep plainly");
}

#[test]
fn setcap_getcap_and_exec_say_what_they_say_on_an_idmapped_mount() {
    const EFFECTIVE: &str = "/proc/self/status | grep CapEff";
    same_as_idmapped("auto", fill, |dir| {
        let names = "in out both set lost plainly plain";
        let mut said = vec![
            in_container(dir, "setcap cap_net_bind_service=ep in && getcap -n in"),
            outside(dir, "getcap -n in; setcap cap_net_bind_service=ep out; getcap -n out"),
            outside(dir, "setcap -n 101000 cap_net_bind_service=ep both; getcap -n both"),
            outside(dir, "setcap -n 5 cap_net_bind_service=ep plain; getcap -n plain"),
            in_container(dir, &format!("getcap -n {names}")),
            outside(dir, &format!("getcap -n {names}")),
        ];
        for name in names.split(' ') {
            let user = format!("setpriv --reuid 101000 --regid 101000 --clear-groups ./{name}");
            said.push(outside(dir, &format!("{user} {EFFECTIVE}")));
            let user = format!("setpriv --reuid 1000 --regid 1000 --clear-groups ./{name}");
            said.push(in_container(dir, &format!("{user} {EFFECTIVE}")));
        }
        said.push(outside(dir, "setcap -r in; getcap -n in"));
        said
    });
}

#[test]
fn a_capability_set_in_the_container_works_in_the_container_only() {
    let mount = crate::support::Mount::shifted().open_to_all();
    let dir = mount.path();
    in_container(dir, "cp /bin/cat f && setcap cap_net_bind_service=ep f");
    let stored = sh_output(mount.source(), "getcap -n f");
    assert_eq!(stored.trim(), "f cap_net_bind_service=ep", "root id 0 on the source");
    assert_eq!(outside(dir, "getcap -n f").trim(), "f cap_net_bind_service=ep [rootid=100000]");
    let run = "setpriv --reuid 1000 --regid 1000 --clear-groups ./f /proc/self/status";
    let effective = |text: String| {
        let line = text.lines().find(|line| line.starts_with("CapEff:")).map(str::to_owned);
        line.unwrap_or(text)
    };
    assert_eq!(effective(in_container(dir, run)), "CapEff:\t0000000000000400");
    let run = "setpriv --reuid 101000 --regid 101000 --clear-groups ./f /proc/self/status";
    assert_eq!(effective(outside(dir, run)), "CapEff:\t0000000000000000");
}
