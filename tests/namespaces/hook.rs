//! `shiftbind oci-hook`: with a state made by hand, and with crun where it is installed.

use super::container::Container;
use super::namespace::{Namespace, text};
use super::{machine, target::skipped};

/// Writes the bundle of a container and the policy, and returns the shell command that calls the hook.
fn hook(n: &Namespace, container: &Container, value: &str, policy: &str) -> String {
    n.ok("mkdir -p bundle");
    std::fs::write(n.path("bundle/config.json"), r#"{"root": {"path": "/mnt"}}"#).unwrap();
    std::fs::write(n.path("hook.conf"), policy).unwrap();
    let state = serde_json::json!({
        "ociVersion": "1.0.2", "id": "c", "status": "created", "pid": container.pid(),
        "bundle": n.path("bundle"), "annotations": { "org.shiftbind.mount": value },
    });
    std::fs::write(n.path("state.json"), state.to_string()).unwrap();
    "$S oci-hook --hook-config=hook.conf < state.json".to_owned()
}

#[test]
fn an_annotation_that_root_permits_is_mounted_below_the_containers_root() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    let source = n.path("a");
    let policy = format!("allow {} ro,engine with nosuid\n", source.display());
    let value = format!("{}:/data/x:ro,engine=fuse", source.display());
    n.ok(&hook(&n, &container, &value, &policy));
    assert_eq!(container.ok("stat -c %u /mnt/data/x/f; cat /mnt/data/x/f"), "1000\nhello\n");
    let table = container.ok("grep ' /mnt/data/x ' /proc/self/mountinfo");
    assert!(table.contains("nosuid") && table.contains(&source.display().to_string()), "{table}");
    container.fails("touch /mnt/data/x/new");
    container.end();
    n.wait_until_gone();
}

#[test]
fn what_root_does_not_permit_is_refused_in_one_line() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    n.ok("ln -s /etc a/link");
    let source = n.path("a").display().to_string();
    let policy = format!("allow {source} ro\nallow {source}/* ro\n");
    for (value, why) in [
        ("/etc:/data".to_owned(), "source /etc is not permitted"),
        (format!("{source}:/data:suid"), "option 'suid' is not permitted"),
        (format!("{source}:/data:ro,namespace=1"), "option 'namespace' is not permitted"),
        (format!("{source}/../../etc:/data"), "a component .."),
        (format!("{source}/link:/data"), "a symbolic link is on the path"),
        (format!("{source}/none:/data"), "No such file"),
        ("nonsense".to_owned(), "give SOURCE:TARGET"),
    ] {
        let output = n.sh(&hook(&n, &container, &value, &policy));
        let error = text(&output.stderr);
        assert!(error.contains(why) && error.lines().count() == 1, "{value}: {error}");
        assert!(
            error.starts_with("shiftbind: oci-hook: annotation 'org.shiftbind.mount': "),
            "{error}"
        );
        assert_eq!(output.status.code(), Some(32), "{value}");
    }
    assert_eq!(container.ok("ls /mnt"), "");
    let call = hook(&n, &container, &format!("{source}:/data"), &policy);
    let output = n.sh(&format!("chmod 666 hook.conf; {call}"));
    assert!(text(&output.stderr).contains("root alone may write"), "{output:?}");
    let output = n.sh("$S oci-hook < state.json");
    assert!(text(&output.stderr).contains("/etc/shiftbind/oci-hook.conf"), "{output:?}");
    assert_eq!(n.sh("echo '{' | $S oci-hook").status.code(), Some(32));
}

#[test]
fn crun_calls_the_hook_before_the_containers_first_process() {
    let n = machine();
    if !n.sh("command -v crun && command -v busybox").status.success() {
        return skipped("crun or busybox-static is not installed");
    }
    let root = n.path("");
    let source = n.path("a").display().to_string();
    n.ok("mkdir -p bundle/rootfs/bin bundle/rootfs/proc bundle/rootfs/dev && cp $(command -v busybox) bundle/rootfs/bin/sh && \
          chown -R 200000:200000 bundle/rootfs && chmod 755 bundle");
    std::fs::write(n.path("hook.conf"), format!("allow {source} engine\n")).unwrap();
    let map = serde_json::json!([{ "containerID": 0, "hostID": 200_000, "size": 65536 }]);
    let config = serde_json::json!({
        "ociVersion": "1.0.0",
        "process": {
            "user": { "uid": 0, "gid": 0 }, "cwd": "/", "env": ["PATH=/bin"],
            "args": ["/bin/sh", "-c", "while read line; do echo \"$line\"; done < /data/f; echo new > /data/sub/new"],
        },
        "root": { "path": "rootfs" },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "annotations": { "org.shiftbind.mount": format!("{source}:/data:engine=fuse") },
        "hooks": { "createRuntime": [{
            "path": n.path("shiftbind"),
            "args": ["shiftbind", "oci-hook", format!("--hook-config={}", n.path("hook.conf").display())],
        }] },
        "linux": {
            "namespaces": [{ "type": "mount" }, { "type": "user" }, { "type": "pid" }],
            "uidMappings": map, "gidMappings": map, "resources": {},
        },
    });
    std::fs::write(n.path("bundle/config.json"), config.to_string()).unwrap();
    let state = root.join("crun");
    // crun gives its standard files to the container's root (fchown(2)): the machine's /dev/null must not be one of them.
    let run = n.sh(&format!(
        "mount -t cgroup2 none /sys/fs/cgroup; cd bundle && : | crun --root {} --cgroup-manager=disabled run c$$",
        state.display()
    ));
    let errors = text(&run.stderr);
    assert!(run.status.success(), "{errors}");
    assert_eq!(text(&run.stdout), "hello\n", "{errors}");
    assert_eq!(n.ok("stat -c %u a/sub/new"), "0\n");
    n.wait_until_gone();
}
