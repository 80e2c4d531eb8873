//! The subcommands: what they list of both engines, which users they tell, and what they unmount.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;

use crate::namespace::{Namespace, Signal, signal, text};

const MAP: &str = "-o idmap=b:0:100000:65536";

/// A namespace with its own records of mounts and an ext4 source.
fn namespace() -> Namespace {
    let ns = Namespace::new();
    ns.ok("mkdir k && truncate -s 64M image && mkfs.ext4 -q image && \
           mount -o loop image a && chmod 777 a");
    ns
}

/// The mounts that `list --json` tells below the test's directory.
fn listed(ns: &Namespace) -> Vec<Value> {
    let told: Value = serde_json::from_str(&ns.ok("$S list --json")).unwrap();
    assert_eq!(told["schema"], 1);
    let dir = ns.path("").display().to_string();
    let is_here = |mount: &&Value| mount["mountpoint"].as_str().unwrap().starts_with(&dir);
    told["mounts"].as_array().unwrap().iter().filter(is_here).cloned().collect()
}

fn refused(ns: &Namespace, script: &str, status: i32) -> String {
    let output = ns.sh(script);
    assert_eq!(output.status.code(), Some(status), "{script}: {output:?}");
    text(&output.stderr)
}

#[test]
fn mounts_of_both_engines_are_listed_with_what_they_were_given() {
    let ns = namespace();
    assert!(listed(&ns).is_empty());
    ns.ok(&format!("$F {MAP} --ro a m && $S --engine=kernel --nosuid {MAP} a k"));
    let mounts = listed(&ns);
    assert_eq!(mounts.len(), 2, "{mounts:?}");
    let (fuse, kernel) = (&mounts[0], &mounts[1]);
    let map = serde_json::json!({"identity": false, "extents": [[0, 100_000, 65536]], "unmapped": "deny", "squash": null, "root_as": null});
    for (mount, point, engine, state) in
        [(fuse, "m", "fuse", "serving"), (kernel, "k", "kernel", "mounted")]
    {
        assert_eq!(mount["mountpoint"], ns.path(point).to_str().unwrap());
        assert_eq!(mount["source"], ns.path("a").to_str().unwrap());
        assert_eq!((&mount["engine"], &mount["state"]), (&engine.into(), &state.into()));
        assert_eq!((&mount["map"]["uids"], &mount["map"]["gids"]), (&map, &map));
        assert!(mount["uptime_seconds"].as_u64().unwrap() < 60, "{mount}");
        assert_eq!(mount["mounted_by"], 0);
    }
    assert_eq!(fuse["daemon"]["pid"], ns.daemon());
    assert_eq!(kernel["daemon"], Value::Null);
    assert_eq!(fuse["options"], serde_json::json!(["engine=fuse", "idmap=b:0:100000:65536", "ro"]));
    assert!(kernel["options"].as_array().unwrap().contains(&"engine=kernel".into()));
    assert!(kernel["mount_options"].as_array().unwrap().contains(&"nosuid".into()));
    let table = ns.ok("$S list");
    let point = ns.path("m").display().to_string();
    let line = table.lines().find(|line| line.starts_with(&format!("{point} "))).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!((words[2], words[3]), ("fuse", "0:100000:65536"));
    assert_eq!(words[5], ns.daemon().to_string());
    ns.ok("$S umount m && $S umount k");
    ns.wait_until_gone();
    assert!(listed(&ns).is_empty());
}

#[test]
fn the_map_in_force_is_told_after_a_reload_and_explained() {
    let ns = namespace();
    ns.ok("echo idmap=0:5:1 > conf && $F -o config=conf a m");
    ns.ok("echo idmap=0:6:2 > conf && $S reload m");
    assert_eq!(listed(&ns)[0]["map"]["uids"]["extents"], serde_json::json!([[0, 6, 2]]));
    let explained = ns.ok("$S explain m");
    assert!(explained.contains("\nuid: source 0..1 is shown as 6..7\n"), "{explained}");
    ns.ok("echo threads=7 >> conf");
    refused(&ns, "$S reload m", 1);
    let told: Value = serde_json::from_str(&ns.ok("$S stat --json m")).unwrap();
    assert_eq!((&told["reloads"]["begun"], &told["reloads"]["ended"]), (&2.into(), &2.into()));
    assert!(told["reloads"]["refused"].as_str().unwrap().contains("threads"), "{told}");
    ns.ok("umount m");
    ns.wait_until_gone();
}

#[test]
fn stat_counts_requests_and_errors_by_kind() {
    let ns = namespace();
    ns.ok("$F --cache=none a m && touch m/f && ! cat m/absent 2>&1");
    let told: Value = serde_json::from_str(&ns.ok("$S stat --json m")).unwrap();
    let count = |kind: &str, what: &str| told["requests"][kind][what].as_u64().unwrap_or(0);
    assert_eq!((count("CREATE", "count"), count("CREATE", "errors")), (1, 0), "{told}");
    assert!(count("LOOKUP", "errors") >= 1, "{told}");
    assert!(told["daemon"]["resident_kib"].as_u64().unwrap() > 100, "{told}");
    let facts = ns.ok("$S stat m");
    assert!(facts.contains("\nrequests CREATE: 1, errors 0\n"), "{facts}");
    assert!(facts.contains("\ncache: none\n"), "{facts}");
    ns.ok("umount m");
    ns.wait_until_gone();
}

#[test]
fn a_map_of_many_extents_is_told_whole() {
    let ns = namespace();
    let extents: Vec<String> = (0..100_000).map(|at| format!("{}:{at}:1", at * 2)).collect();
    fs::write(ns.path("conf"), format!("idmap={}\n", extents.join(":"))).unwrap();
    ns.ok("$F -o config=conf a m");
    let told: Value = serde_json::from_str(&ns.ok("$S stat --json m")).unwrap();
    let extents = told["map"]["gids"]["extents"].as_array().unwrap();
    assert_eq!((extents.len(), &extents[2999]), (100_000, &serde_json::json!([5998, 2999, 1])));
    ns.ok("umount m");
    ns.wait_until_gone();
}

#[test]
fn names_with_blanks_and_control_characters_stay_on_one_line() {
    let ns = namespace();
    ns.ok("mkdir \"$(printf 'x y\\n\\033')\" \"$(printf '\\377')\" && $F a x* && $F a \"$(printf '\\377')\"");
    let table = ns.ok("$S list");
    assert!(table.contains("/x\\040y\\012\\033 ") && table.contains("/\\377 "), "{table}");
    let mounts = listed(&ns);
    assert!(mounts[0]["mountpoint"].as_str().unwrap().ends_with("/x y\n\u{1b}"));
    assert_eq!(mounts[0]["mountpoint_escaped"], Value::Null);
    assert!(mounts[1]["mountpoint_escaped"].as_str().unwrap().ends_with("/\\377"));
    ns.ok("for m in x* \"$(printf '\\377')\"; do $S umount \"$m\"; done");
    ns.wait_until_gone();
}

#[test]
fn a_daemon_that_died_or_does_not_answer_is_listed_as_such() {
    let ns = namespace();
    ns.ok("mkdir dead && $F a dead && $F a m");
    let pid = |point: &str| {
        let point = ns.path(point).display().to_string();
        let mounts = listed(&ns);
        let mount = mounts.iter().find(|one| one["mountpoint"] == *point).unwrap();
        u32::try_from(mount["daemon"]["pid"].as_u64().unwrap()).unwrap()
    };
    let (dead, stopped) = (pid("dead"), pid("m"));
    signal(dead, Signal::KILL);
    signal(stopped, Signal::STOP);
    crate::namespace::wait_until("the connection is gone", || !ns.sh("stat dead").status.success());
    let states: Vec<String> =
        listed(&ns).iter().map(|one| one["state"].as_str().unwrap().to_owned()).collect();
    assert_eq!(states, ["dead", "silent"]);
    // A slash at the end asks the server of a mount for its attributes.
    assert!(ns.ok("$S stat dead/").contains("\nstate: dead\n"));
    ns.ok("$S umount dead/");
    // No daemon is asked for its own umount.
    ns.ok("$S umount m/");
    signal(stopped, Signal::CONT);
    ns.wait_until_gone();
}

#[test]
fn umount_takes_no_mount_of_another_program() {
    let ns = namespace();
    ns.ok("mount --bind a k");
    for path in ["k", "a", "m"] {
        assert!(refused(&ns, &format!("$S umount {path}"), 32).contains("no mount of shiftbind"));
        assert!(refused(&ns, &format!("$S stat {path}"), 32).contains("no mount of shiftbind"));
    }
    // One that lies on top of ours hides it.
    ns.ok("$F a m && mount -t tmpfs over m");
    assert!(refused(&ns, "$S umount m", 32).contains("no mount of shiftbind"));
    ns.ok("umount m && umount k && $S umount m");
    ns.wait_until_gone();
}

#[test]
fn umount_takes_no_other_mount_that_a_link_leads_to_during_the_call() {
    let ns = namespace();
    ns.ok("mkdir -p d/m v/m && ln -s v l && mount -t tmpfs victim v/m");
    let swap = || {
        let [d, l] = ["d", "l"].map(|name| ns.path(name));
        renameat_with(CWD, &d, CWD, &l, RenameFlags::EXCHANGE).expect("swap the names");
    };
    let mut unmounted = 0;
    for round in 0..25 {
        ns.ok("$S --engine=fuse a d/m");
        let has_ended = AtomicBool::new(false);
        let output = thread::scope(|scope| {
            scope.spawn(|| {
                while !has_ended.load(Ordering::Relaxed) {
                    swap();
                    swap();
                }
            });
            let output = ns.sh("$S umount d/m");
            has_ended.store(true, Ordering::Relaxed);
            output
        });
        assert_eq!(ns.mounts_at(&ns.path("v/m")).len(), 1, "round {round}: {output:?}");
        match output.status.code() {
            Some(0) => unmounted += 1,
            // Its path led to the other mount, or changed on the way.
            Some(32) => ns.ok("$S umount d/m").clear(),
            _ => panic!("round {round}: {output:?}"),
        }
        assert!(ns.mounts_at(&ns.path("d/m")).is_empty(), "round {round}: {output:?}");
    }
    eprintln!("the path led to the mount in {unmounted} of 25 rounds");
    ns.wait_until_gone();
}

#[test]
fn umount_refuses_a_mount_in_use_unless_lazy() {
    let ns = namespace();
    ns.ok("touch a/f && $F a m && $S --engine=kernel a k");
    for point in ["m", "k"] {
        let line = refused(&ns, &format!("exec 3< {point}/f; $S umount {point} 3<&-"), 32);
        assert!(line.contains("--lazy"), "{line}");
        ns.ok(&format!("exec 3< {point}/f; $S umount --lazy {point} 3<&-"));
    }
    ns.wait_until_gone();
}

#[test]
fn umount_takes_what_the_kernels_engine_brought_from_below_the_source() {
    let ns = namespace();
    ns.ok("mkdir a/below && truncate -s 16M two && mkfs.ext4 -q two && mount -o loop two a/below");
    ns.ok(&format!("$S --engine=kernel {MAP} a k && test -d k/below/lost+found && $S umount k"));
    assert_eq!(ns.mounts_at(&ns.path("k")).len() + ns.mounts_at(&ns.path("k/below")).len(), 0);
    assert_eq!(ns.mounts_at(&ns.path("a/below")).len(), 1);
    ns.ok("umount a/below");
}

#[test]
fn umount_takes_what_lies_on_top_whatever_the_order_of_ids() {
    let ns = namespace();
    ns.ok("mkdir t && mount -t tmpfs precious t && touch t/file && $F a m && mount --move t m");
    assert!(refused(&ns, "$S umount m", 32).contains("no mount of shiftbind"));
    ns.ok("test -e m/file && umount m && $S umount m");
    ns.wait_until_gone();
}

#[test]
fn umount_touches_no_mount_that_the_kernels_engine_did_not_bring() {
    let ns = namespace();
    ns.ok("mkdir a/below a/later && truncate -s 16M two && mkfs.ext4 -q two && mount -o loop two a/below");
    ns.ok("$S --engine=kernel a k && mount -t tmpfs later k/later && touch k/later/file");
    let line = refused(&ns, "$S umount k", 32);
    assert!(line.contains(&format!("below it: {};", ns.path("k/later").display())), "{line}");
    ns.ok("test -e k/later/file && test -d k/below/lost+found && umount k/later");
    // Neither do those below go where the mount itself is in use.
    for used in ["k", "k/below"] {
        let line = refused(&ns, &format!("exec 3< {used}; $S umount k 3<&-"), 32);
        assert!(line.contains("in use"), "{line}");
        ns.ok("test -d k/below/lost+found");
    }
    ns.ok("cp \"$(command -v sleep)\" a/below/ && { k/below/sleep 60 >/dev/null 2>&1 & echo $! > pid; }");
    assert!(refused(&ns, "$S umount k", 32).contains("in use"));
    ns.ok("kill $(cat pid); while [ -e /proc/$(cat pid)/exe ]; do sleep 0.01; done");
    ns.ok("$S umount k && ! mountpoint -q k/below && umount a/below");
}

#[test]
fn umount_names_the_mounts_below() {
    let ns = namespace();
    ns.let_users_mount();
    ns.ok(
        "mkdir -p a/below u own/below && chown -R 1000 u own && $F a m && mount -t tmpfs t m/below",
    );
    let line = refused(&ns, "$S umount m", 32);
    assert!(line.contains(&ns.path("m/below").display().to_string()), "{line}");
    ns.ok("umount m/below && $S umount m");
    assert!(ns.sh_as_user("$F own u").status.success());
    let output = ns.sh_as_user("exec 3< u/below; $S umount u 3<&-");
    assert!(text(&output.stderr).contains("--lazy"), "{output:?}");
    ns.ok("umount u");
    ns.wait_until_gone();
}

#[test]
fn a_mount_of_the_kernels_engine_on_a_fuse_source_is_listed() {
    let ns = namespace();
    ns.ok("$F a m && $S --engine=kernel m k");
    let mounts = listed(&ns);
    let engines: Vec<&Value> = mounts.iter().map(|one| &one["engine"]).collect();
    assert_eq!(engines, ["fuse", "kernel"], "{mounts:?}");
    ns.ok("$S umount k && $S umount m");
    ns.wait_until_gone();
}

/// Mounts on `m` with a FUSE server that answers FUSE_INIT, reads all other requests, and answers none.
fn mount_hung(ns: &Namespace) {
    let header: [u32; 4] = [80, 0, 2, 0];
    // Version 7.31, max_readahead, flags, max_background and congestion_threshold, max_write, time_gran.
    let init: [u32; 7] = [7, 31, 65536, 0, 9 << 16 | 12, 4096, 1];
    let words = header.iter().chain(&init).chain(&[0; 9]).flat_map(|word| word.to_ne_bytes());
    fs::write(ns.path("reply"), words.collect::<Vec<u8>>()).unwrap();
    ns.ok("exec 3<>/dev/fuse
        mount -i -t fuse.shiftbind -o fd=3,rootmode=40755,user_id=0,group_id=0 hung m
        dd bs=1M count=1 <&3 >init 2>/dev/null && dd bs=80 count=1 if=reply >&3 2>/dev/null
        cat <&3 >/dev/null 2>&1 &");
}

#[test]
fn a_server_that_has_read_a_request_and_does_not_answer_delays_no_command() {
    let ns = namespace();
    mount_hung(&ns);
    ns.ok("$S umount m");
    assert_eq!(ns.mounts(), [""; 0]);
    mount_hung(&ns);
    ns.ok("mkdir other && $F a other");
    let states: Vec<Value> = listed(&ns).iter().map(|one| one["state"].clone()).collect();
    assert_eq!(states, ["silent", "serving"]);
    assert!(ns.ok("$S stat m").contains("\nreason: no answer within 2 seconds\n"));
    assert!(refused(&ns, "$S explain m", 32).contains("no answer within 2 seconds"));
    // The abort of the connection ends the processes that asked.
    ns.ok("umount -f m; umount -l m; $S umount other");
    ns.wait_until_gone();
}

#[test]
fn a_user_is_told_of_own_mounts_only() {
    let ns = namespace();
    ns.let_users_mount();
    ns.ok("mkdir u own && chown 1000 u own && $F a m && $S --engine=kernel a k");
    assert!(ns.sh_as_user("$F own u").status.success());
    let output = ns.sh_as_user("$S list --json; $S stat m; $S umount m; $S umount k");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let points: Vec<&Value> =
        told["mounts"].as_array().unwrap().iter().map(|one| &one["mountpoint"]).collect();
    assert_eq!(points, [ns.path("u").to_str().unwrap()]);
    assert_eq!(told["mounts"][0]["state"], "serving");
    let errors = text(&output.stderr);
    assert_eq!(errors.matches("no mount of shiftbind that this user made").count(), 3, "{errors}");
    // Root sees it in the table, and may not ask a daemon that serves its user alone.
    let mounts = listed(&ns);
    let of_user = mounts.iter().find(|one| one["mounted_by"] == 1000).unwrap();
    assert_eq!(of_user["state"], "unknown");
    assert_eq!(of_user["reason"], "only the user who mounted may ask");
    assert!(ns.ok("$S stat u").contains("\nreason: only the user who mounted may ask\n"));
    ns.ok("$S umount u");
    assert!(ns.sh_as_user("$F own u && $S umount u").status.success());
    ns.ok("$S umount m && $S umount k");
    ns.wait_until_gone();
}

#[test]
fn a_mount_of_another_subtype_is_found_by_its_name() {
    let ns = namespace();
    ns.ok("$F -o subtype=mine,fsname=some a m");
    assert!(listed(&ns).is_empty(), "servers of other programs get no request");
    let told: Value = serde_json::from_str(&ns.ok("$S stat --json m")).unwrap();
    assert_eq!((&told["fstype"], &told["state"]), (&"fuse.mine".into(), &"serving".into()));
    assert_eq!(told["source"], ns.path("a").to_str().unwrap());
    ns.ok("$S umount m");
    ns.wait_until_gone();
}

#[test]
fn under_the_name_bindfs_the_words_are_paths() {
    let ns = namespace();
    ns.ok("mkdir list && touch list/inside");
    ns.ok("bash -c 'exec -a bindfs $S list m' && test -e m/inside && umount m");
    ns.wait_until_gone();
    assert!(refused(&ns, "$S list m", 1).contains("list: unexpected argument"));
    ns.ok("$F ./list m && test -e m/inside && umount m");
    ns.wait_until_gone();
}
