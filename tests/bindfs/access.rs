//! Mounting and access: by root and by users, through mount(8) and fstab.

use std::fs;
use std::process::Command;

use rustix::mount::{UnmountFlags, mount_bind, unmount};

use super::observe::owner;
use super::support::{eventually, sh};
use super::sweep::{OTHER_USER, OWNER, ROOT};
use super::twins::{Implementation, Mounter, Side, Twins, World, errno};

/// The mount table's flags of the mount and of the superblock, without those that differ by nature.
fn table(side: &Side) -> String {
    let line = side.mount_line().expect("it is mounted");
    let (mount, device) = line.split_once(" - ").expect("a line has two halves");
    let mount: Vec<_> = mount.split(' ').collect();
    let device: Vec<_> = device.split(' ').collect();
    let allows = |word: &str| device[2].split(',').any(|one| one == word);
    let [allow_other, default_permissions] = ["allow_other", "default_permissions"].map(allows);
    format!(
        "{} {allow_other} {default_permissions}",
        mount[5].replace("relatime", "").replace(",,", ",")
    )
}

#[test]
fn a_direct_call_is_nosuid_and_nodev_and_open_to_all() {
    let mut twins = Twins::of(&[], "");
    assert_eq!(twins.same("root", table), "rw,nosuid,nodev, true true");
    let rows: [&[&str]; 8] = [
        &["-o", "suid,dev"],
        &["-o", "noexec"],
        &["-o", "noatime"],
        &["-r"],
        &["-o", "ro"],
        &["-o", "ro,rw"],
        &["--no-allow-other"],
        &["-o", "allow_other,default_permissions"],
    ];
    for options in rows {
        twins.again(options);
        twins.same(&format!("{options:?}"), table);
    }
}

#[test]
fn the_mount_table_shows_the_source_or_another_name_for_it() {
    let twins = Twins::of(&[], "");
    let shown = |side: &Side| {
        let line = side.mount_line().expect("it is mounted");
        let name = line.split(" - ").nth(1).and_then(|device| device.split(' ').nth(1));
        name == Some(side.src("").to_str().expect("text"))
    };
    assert!(twins.same("the source", shown));
    for (option, name) in [("fsname=a name", r"a\040name"), (r"fsname=a\,b", "a,b")] {
        let mount = World::new(Mounter::Root).ours(&["-o", option], "");
        let line = mount.ours.mount_line().expect("it is mounted");
        assert!(line.contains(&format!(" - fuse.bindfs {name} ")), "{line}");
    }
}

#[test]
fn without_allow_other_only_the_mounter_has_access() {
    let mut twins = Twins::of(&["--no-allow-other"], "touch f");
    let seen = |side: &Side| {
        [ROOT, OWNER, OTHER_USER].map(|caller| caller.run(|| errno(fs::metadata(side.at("f")))))
    };
    assert_eq!(twins.same("long", seen), ["ok", "EACCES", "EACCES"]);
    twins.again(&["-n"]);
    assert_eq!(twins.same("short", seen), ["ok", "EACCES", "EACCES"]);
    twins.again(&["-o", "no-allow-other"]);
    assert_eq!(twins.same("within -o", seen), ["ok", "EACCES", "EACCES"]);
    let twins = Twins::mounted_by(Mounter::User, &["--no-allow-other"], "touch f; chown 1000 f");
    assert_eq!(twins.same("a user's", seen), ["EACCES", "ok", "EACCES"]);
}

#[test]
fn allow_other_by_a_user_needs_the_administrators_consent() {
    let twins = Twins::mounted_by(Mounter::User, &[], "touch f");
    assert!(twins.same("with it", table).ends_with("true true"));
    let world = twins.world();
    fs::write(world.join("conf"), "").expect("write");
    for (implementation, name) in [(Implementation::Bindfs, "a"), (Implementation::Shiftbind, "b")]
    {
        let side = world.side_named(implementation, name, "");
        sh(&world.join(""), &format!("chown 1000:1000 {name}/source {name}/mnt"));
        let (output, has_mounted) = world.try_out(&side, &[]);
        assert!(!has_mounted && !output.status.success(), "{implementation:?}: {output:?}");
        let (output, has_mounted) = world.try_out(&side, &["--no-allow-other"]);
        assert!(has_mounted && output.status.success(), "{implementation:?}: {output:?}");
    }
}

#[test]
fn options_for_root_only_are_refused_to_a_user() {
    let twins = Twins::mounted_by(Mounter::User, &[], "");
    let world = twins.world();
    let sides = [(Implementation::Bindfs, "a"), (Implementation::Shiftbind, "b")].map(
        |(implementation, name)| {
            let side = world.side_named(implementation, name, "");
            sh(&world.join(""), &format!("chown 1000:1000 {name}/source {name}/mnt"));
            side
        },
    );
    fs::write(world.join("accounts"), "daemon:x:7:\n").expect("write");
    let file = world.join("accounts").display().to_string();
    for option in [
        "--map=1000/2000".to_owned(),
        "--uid-offset=5".to_owned(),
        "--gid-offset=5".to_owned(),
        format!("--map-passwd={file}"),
        format!("--map-group={file}"),
        "--create-as-user".to_owned(),
        "--create-for-user=5".to_owned(),
        "--create-for-group=5".to_owned(),
    ] {
        for side in &sides {
            let (output, has_mounted) = world.try_out(side, &[&option]);
            assert!(
                !has_mounted && !output.status.success(),
                "{:?} {option}: {output:?}",
                side.implementation
            );
        }
    }
}

/// Runs mount(8), which runs mount.fuse3, which runs the `bindfs` on PATH: for shiftbind's turn that is shiftbind.
fn by_mount8(world: &World, side: &Side, arguments: &str) -> String {
    let is_ours = side.is_ours();
    if is_ours {
        mount_bind(world.join("bin"), "/usr/local/bin").expect("put our name on PATH");
    }
    let script = arguments
        .replace("$SRC", &side.src("").display().to_string())
        .replace("$MNT", &side.at("").display().to_string());
    let output = Command::new("sh")
        .args(["-c", &script])
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .status();
    if is_ours {
        unmount("/usr/local/bin", UnmountFlags::DETACH).expect("take it off again");
    }
    let answer = format!("{} ", output.expect("run sh").success());
    if !side.is_mounted() {
        return answer + "not mounted";
    }
    let seen = ["", "f", "d"].map(|name| owner(&side.at(name))).join(" ");
    let told = format!("{answer}{seen} {}", table(side));
    sh(&world.join(""), &format!("umount {}", side.at("").display()));
    eventually("it is unmounted", || !side.is_mounted());
    told
}

#[test]
fn lines_of_fstab_and_mount8_mount_the_same() {
    let twins = Twins::of(&[], "");
    let world = twins.world();
    let tree = "touch f; mkdir d; chown 1000:1000 f; chmod 640 f; chmod 750 d";
    let theirs = world.side_named(Implementation::Bindfs, "a", tree);
    let ours = world.side_named(Implementation::Shiftbind, "b", tree);
    let rows = [
        ("mount -t fuse.bindfs $SRC $MNT", "true 0:0:755 1000:1000:640 0:0:750 rw, true true"),
        (
            "mount -t fuse.bindfs -o force-user=5,force-group=6,perms=0000:u+rD $SRC $MNT",
            "true 5:6:500 5:6:400 5:6:500 rw, true true",
        ),
        (
            "mount -t fuse.bindfs -o owner=5,group=6 $SRC $MNT",
            "true 5:6:755 5:6:640 5:6:750 rw, true true",
        ),
        (
            "mount -t fuse.bindfs -o map=1000/2000:@1000/@2000 $SRC $MNT",
            "true 0:0:755 2000:2000:640 0:0:750 rw, true true",
        ),
        (
            "mount -t fuse.bindfs -o nosuid,nodev,noexec $SRC $MNT",
            "true 0:0:755 1000:1000:640 0:0:750 rw,nosuid,nodev,noexec, true true",
        ),
        (
            "mount -t fuse.bindfs -o ro,hide-hard-links,xattr-none,delete-deny,chown-deny,chmod-ignore $SRC $MNT",
            "true 0:0:755 1000:1000:640 0:0:750 ro, true ",
        ),
        (
            "mount -t fuse 'bindfs#'$SRC $MNT -o perms=0644:a+X",
            "true 0:0:755 1000:1000:644 0:0:755 rw, true true",
        ),
        (
            "printf '%s %s fuse.bindfs mirror=1500,defaults,nofail,_netdev,x-systemd.automount,noatime,comment=x 0 0\\n' $SRC $MNT > fstab; mount -T fstab -a",
            "true 0:0:755 1000:1000:640 0:0:750 rw,",
        ),
        (
            "mount -t fuse.bindfs -o no-allow-other $SRC $MNT",
            "true 0:0:755 1000:1000:640 0:0:750 rw, false true",
        ),
        ("mount -t fuse.bindfs -o no-such-option $SRC $MNT 2> /dev/null", "false not mounted"),
    ];
    for (line, expected) in rows {
        let line = format!("cd {}; {line}", world.join("").display());
        let [seen_theirs, seen] = [&theirs, &ours].map(|side| by_mount8(world, side, &line));
        // mount(8) of util-linux 2.41 consumes owner= and group= itself, as it does owner and group.
        let is_kept = line.contains("owner=") && seen == seen_theirs;
        assert!(seen.starts_with(expected) || is_kept, "{line}: {seen}");
        if !line.contains("ignore") && !line.contains("mirror") {
            assert_eq!(seen, seen_theirs, "{line}: ours, and bindfs's");
        }
    }
}
