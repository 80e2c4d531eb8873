//! Command lines, fstab lines and units that users have published for bindfs, run unchanged with shiftbind in its
//! place. Names of users, hosts and directories are replaced by those of the world below; the options are as found.

#[allow(dead_code)]
#[path = "support/machine.rs"]
mod machine;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The environment of every line, in a private mount namespace: `bindfs` is shiftbind, `$S` the source, `$M` the
/// mount point. `f` has mode 644 and owner 501:20, `x` 755 and root, the directory `d` 750 and 501:20, `l` is a
/// symbolic link to `x`.
const WORLD: &str = r#"
cd "$DIR"
mount -t overlay -o "lowerdir=$DIR/bin:/usr/bin" bin /usr/bin
mount -t tmpfs -o mode=755 world "$DIR/w"
mknod -m 666 "$DIR/w/fuse" c 10 229
mount --bind "$DIR/w/fuse" /dev/fuse
S=$DIR/w/s M=$DIR/w/m
mkdir "$S" "$M" "$S/d"
echo data > "$S/f"
printf '#!/bin/sh\n' > "$S/x"
chmod 644 "$S/f"; chmod 755 "$S/x" "$S"; chmod 750 "$S/d"
chown 501:20 "$S/f" "$S/d"
ln -s x "$S/l"
for file in passwd group; do cp "$DIR/$file" "$DIR/w/$file"; mount --bind "$DIR/w/$file" "/etc/$file"; done
mounted() { grep -q " $M .* - fuse.bindfs " /proc/self/mountinfo; }
in_front() { "$@" & until mounted; do kill -0 $!; sleep 0.02; done; }
as() { user=$1; shift; setpriv --reuid="$user" --regid="$user" --init-groups "$@"; }
fstab() { printf '%s 0 0\n' "$1" > "$DIR/w/fstab"; mount -T "$DIR/w/fstab" -a; }
"#;

const PASSWD: &str = "\
vagrant:x:1000:1000::/:/bin/sh
joe:x:1001:1001::/:/bin/sh
bob:x:1002:1002::/:/bin/sh
www-data:x:33:33::/:/bin/sh
";

const GROUP: &str = "\
vagrant:x:1000:
joe:x:1001:
bob:x:1002:
www-data:x:33:
users:x:100:
plugdev:x:46:
wheel:x:998:bob
media:x:990:joe,bob
";

/// A published line, and what `$M` shows then.
struct Row {
    line: &'static str,
    /// The user that stats, the path, and what `stat -c %u:%g:%a` prints.
    sees: &'static [(&'static str, &'static str, &'static str)],
    /// Further conditions, as a shell script.
    then: &'static str,
}

const fn row(
    line: &'static str,
    sees: &'static [(&'static str, &'static str, &'static str)],
) -> Row {
    Row { line, sees, then: "" }
}

/// A directory with shiftbind as `bindfs`, and the databases of users and groups.
struct World {
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["bin", "w"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        machine::copy_program(&dir.path().join("bin/bindfs"));
        for (name, ours) in [("passwd", PASSWD), ("group", GROUP)] {
            let taken: Vec<&str> = ours.lines().filter_map(|line| line.split(':').next()).collect();
            let theirs = fs::read_to_string(Path::new("/etc").join(name)).unwrap();
            let kept = theirs.lines().filter(|line| {
                let mut fields = line.split(':');
                let (name, id) = (fields.next().unwrap_or_default(), fields.nth(1));
                !taken.contains(&name) && !ours.contains(&format!(":x:{}:", id.unwrap_or_default()))
            });
            let text = kept.fold(ours.to_owned(), |text, line| text + line + "\n");
            fs::write(dir.path().join(name), text).unwrap();
        }
        Self { dir }
    }

    /// Runs a script in the environment.
    fn run(&self, script: &str) -> Output {
        Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-euc"])
            .arg(format!("{WORLD}{script}"))
            .env("DIR", self.dir.path())
            .env("LC_ALL", "C")
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .output()
            .expect("run unshare")
    }

    /// Runs a line, checks the mount, and unmounts.
    fn mounts(&self, row: &Row) {
        let mut script = format!("{}\nmounted\n", row.line);
        for (user, path, expected) in row.sees {
            script += &format!(
                "seen=$(as {user} stat -c %u:%g:%a \"$M/{path}\")\n\
                 test \"$seen\" = {expected} || {{ echo \"{user} sees $seen of {path}, not {expected}\" >&2; exit 1; }}\n"
            );
        }
        script += &format!("{}\ncd /; umount \"$M\"\n", row.then);
        let output = self.run(&script);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {}: {said}", row.line, output.status);
        assert_eq!(said, "", "{}", row.line);
    }
}

fn all_mount(rows: &[Row]) {
    let world = World::new();
    for row in rows {
        world.mounts(row);
    }
}

#[test]
fn what_the_vagrant_plugin_runs() {
    all_mount(&[
        // bindfs's defaults, with the option names of recent and of old versions.
        row(
            "bindfs --force-user=vagrant --force-group=vagrant --perms=u=rwX:g=rD:o=rD $S $M",
            &[
                ("root", "f", "1000:1000:644"),
                ("root", "x", "1000:1000:744"),
                ("vagrant", "d", "1000:1000:755"),
            ],
        ),
        row(
            "bindfs --user=vagrant --group=vagrant --perms=u=rwX:g=rD:o=rD $S $M",
            &[("root", "x", "1000:1000:744")],
        ),
        row(
            "bindfs --owner=vagrant --group=vagrant --chown-deny -o allow_other -r $S $M",
            &[("root", "f", "1000:1000:644")],
        ),
        // Provisioning scripts.
        row(
            "bindfs -m vagrant $S $M",
            &[("vagrant", "f", "1000:20:644"), ("root", "f", "501:20:644")],
        ),
        row(
            "bindfs -o perms=0770,mirror-only=vagrant:www-data,create-for-user=www-data,create-for-group=www-data $S $M",
            &[("vagrant", "d", "1000:20:770")],
        ),
    ]);
}

#[test]
fn how_the_vagrant_plugin_asks_for_the_version() {
    let output = World::new().run("bindfs --help > /dev/null; bindfs --version | cut -d' ' -f2");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1.18.4\n");
}

/// home-manager's impermanence module runs bindfs as a user, in a systemd user unit.
#[test]
fn what_impermanence_runs_as_a_user() {
    let own = "chown joe $S $M; ";
    let line =
        |bindfs: &str| -> &'static str { Box::leak(format!("{own}{bindfs}").into_boxed_str()) };
    all_mount(&[
        Row {
            line: line("as joe bindfs -o no-allow-other,fsname=/persist/home/joe/.config $S $M"),
            sees: &[("joe", "x", "0:0:755")],
            then: "test \"$(findmnt -n -o SOURCE $M)\" = /persist/home/joe/.config\n! as bob ls $M 2> /dev/null",
        },
        row(
            line("in_front as joe bindfs -f --no-allow-other -o fsname=/persist/x $S $M"),
            &[("joe", "f", "501:20:644")],
        ),
        row(
            line(
                "as joe bindfs -o no-allow-other,x-gvfs-hide,x-gvfs-trash,fsname=/persist/x $S $M",
            ),
            &[],
        ),
        // Scripts by users without root.
        row(line("as joe bindfs -n $S $M"), &[]),
        row(line("as joe bindfs -o nonempty --no-allow-other \"$S\" \"$M\""), &[]),
        row(line("as joe bindfs -nr $S $M"), &[]),
        row(
            line(
                "echo user_allow_other > w/conf; mount --bind w/conf /etc/fuse.conf; as joe bindfs $S $M",
            ),
            &[("bob", "f", "501:20:644")],
        ),
    ]);
}

#[test]
fn lines_of_fstab() {
    all_mount(&[
        // Guides to shared folders of virtual machines on macOS.
        row(
            "fstab \"$S $M fuse.bindfs map=501/1000:@20/@1000,x-systemd.requires=/mnt/utm,_netdev,nofail,auto\"",
            &[("root", "f", "1000:1000:644"), ("root", "x", "0:0:755")],
        ),
        row(
            "fstab \"$S $M fuse.bindfs map=501/1000:@20/@1000,nonempty,x-systemd.requires=/mnt/macos,x-systemd.automount\"",
            &[("root", "f", "1000:1000:644")],
        ),
        row(
            "fstab \"$S $M fuse.bindfs map=501/1000:@20/@1000,allow_other,default_permissions,nosuid,nodev,nofail,_netdev\"",
            &[("root", "f", "1000:1000:644")],
        ),
        // The type `fuse` with the program in the source field, from wikis and forums.
        row(
            "fstab \"bindfs#$S $M fuse perms=0666:+X\"",
            &[("root", "f", "501:20:666"), ("root", "d", "501:20:777")],
        ),
        row(
            "fstab \"bindfs#$S $M fuse perms=0660:+X,force-group=plugdev\"",
            &[("root", "f", "501:46:660")],
        ),
        row(
            "fstab \"bindfs#$S $M fuse force-user=www-data,perms=0000:u+rx\"",
            &[("root", "f", "33:20:500")],
        ),
        row(
            "fstab \"bindfs#$S $M fuse force-user=joe,force-group=joe,perms=0700,create-for-user=bob,create-for-group=bob,chmod-normal,nonempty,x-systemd.requires-mounts-for=/home\"",
            &[("joe", "d", "1001:1001:700")],
        ),
        // Backups and web servers.
        row(
            "fstab \"$S $M fuse.bindfs perms=0000:u=rD,force-user=www-data,force-group=nogroup\"",
            &[("root", "f", "33:65534:400"), ("root", "d", "33:65534:500")],
        ),
        row(
            "fstab \"$S $M fuse.bindfs force-user=www-data,force-group=www-data,perms=0644:+X\"",
            &[("root", "x", "33:33:755"), ("root", "f", "33:33:644")],
        ),
        row("fstab \"$S $M fuse.bindfs perms=0644,mirror-only=joe\"", &[("joe", "", "1001:0:644")]),
        // NixOS's fileSystems option.
        row(
            "fstab \"$S $M fuse.bindfs nofail,map=root/joe:@root/@users,x-gvfs-hide\"",
            &[("root", "x", "1001:100:755"), ("root", "f", "501:20:644")],
        ),
        row(
            "fstab \"$S $M fuse.bindfs nofail,multithreaded,x-systemd.after=data.mount,x-systemd.requires=data.mount,force-user=joe,_netdev\"",
            &[("root", "f", "1001:20:644")],
        ),
        row(
            "fstab \"$S $M fuse.bindfs force-user=joe,force-group=users,create-for-user=501,create-for-group=20\"",
            &[("root", "f", "1001:100:644")],
        ),
        // NixOS installs this name where mount(8) finds it.
        row(
            "mount --bind w /mnt; ln -s $DIR/bin/bindfs w/mount.fuse.bindfs; w/mount.fuse.bindfs $S $M -o rw,ro,x-gvfs-hide",
            &[("root", "f", "501:20:644")],
        ),
        // Puppet and Ansible.
        row(
            "fstab \"bindfs#$S $M fuse rw,perms=774,create-with-perms=o-rwx,create-for-group=media,mirror=@media\"",
            &[("joe", "f", "1001:20:774"), ("bob", "f", "1002:20:774")],
        ),
        row(
            "fstab \"$S $M fuse.bindfs force-user=joe,force-group=joe,create-for-user=joe,create-for-group=joe,create-with-perms=0640:ud+x,perms=0640:ud+x\"",
            &[("root", "d", "1001:1001:740")],
        ),
    ]);
}

#[test]
fn units_of_systemd_and_maps_of_autofs() {
    // Both run mount(8) with the options of the unit or the map; a service unit runs the program.
    all_mount(&[
        row(
            "mount $S $M -t fuse.bindfs -o mirror=joe,create-for-user=501,create-for-group=20,chown-ignore,chgrp-ignore,chmod-ignore,_netdev",
            &[("joe", "f", "1001:20:644")],
        ),
        row(
            "mount $S $M -t fuse.bindfs -o force-user=root,force-group=root,perms=0775:ug+D",
            &[("root", "f", "0:0:775")],
        ),
        row(
            "mount $S $M -t fuse.bindfs -o mirror=root:vagrant,perms=0640:ugd+x",
            &[("vagrant", "d", "1000:20:750"), ("vagrant", "f", "1000:20:640")],
        ),
        row(
            "mount $S $M -t fuse.bindfs -o map=root/1000:@root/@1000,allow_other",
            &[("root", "x", "1000:1000:755")],
        ),
        row(
            "in_front bindfs -f -p u=rwX:g=rX:o=rX $S $M",
            &[("root", "d", "501:20:755"), ("root", "f", "501:20:644")],
        ),
        row(
            "in_front bindfs -u joe -g users -f --create-for-user=bob --create-for-group=bob $S $M",
            &[("root", "f", "1001:100:644")],
        ),
        row(
            "bindfs --force-user=1000 --force-group=1000 -o allow_other $S $M",
            &[("root", "f", "1000:1000:644")],
        ),
        // An entry `share -fstype=fuse,map=… :bindfs\#/srv/share`, as automount(8) passes it to mount(8).
        row(
            "mount -t fuse -o map=501/1000:@20/@1000 \"bindfs#$S\" $M",
            &[("root", "f", "1000:1000:644")],
        ),
    ]);
}

#[test]
fn scripts_and_manuals() {
    all_mount(&[
        // The bindfs project's own page; the first and third cover the source with a view of itself.
        Row {
            line: "M=$S; bindfs --perms=a-w $S $M",
            sees: &[("root", "f", "501:20:444")],
            then: "",
        },
        row(
            "bindfs --mirror-only=joe,bob,@wheel $S $M",
            &[("joe", "f", "1001:20:644"), ("root", "f", "501:20:644")],
        ),
        row("M=$S; bindfs --create-for-user=joe --create-with-perms=u+rw,a+rD $S $M", &[]),
        // The tldr page, and docker-volume-bindfs.
        row("bindfs --map=www-data/joe $S $M", &[("root", "f", "501:20:644")]),
        row("bindfs $S $M -o map=501/0:@20/@0", &[("root", "f", "0:0:644")]),
        // Waydroid's page, and one for the files of a container.
        row("bindfs --mirror=1001 $S $M", &[("joe", "f", "1001:20:644")]),
        row(
            "bindfs --map=root/joe --mirror-only=joe /proc/$$/root$S $M",
            &[("joe", "x", "1001:0:755")],
        ),
        // Root filesystems: containers, images, an offset for LXC.
        row("mkdir w/r; M=$DIR/w/r; bindfs -r / $M", &[]),
        row("bindfs -r -o nonempty $S $M", &[]),
        row(
            "bindfs --uid-offset=100000 --gid-offset=100900 $S $M",
            &[("root", "f", "100501:100920:644")],
        ),
        row(
            "bindfs --uid-offset=$(id -u joe) --gid-offset=$(id -g joe) --create-with-perms=0644,ud+X:gd-rwX:od-rwX $S $M",
            &[("root", "x", "1001:1001:755")],
        ),
        row("bindfs -r --resolve-symlinks \"$S\" $M", &[("root", "f", "501:20:644")]),
        row(
            "bindfs --multithreaded --map=0/1001:@0/@1001 --perms=\"og=\" -o allow_other \"$S\" $M",
            &[("root", "x", "1001:1001:700")],
        ),
        row(
            "bindfs --map=@600/@599 --create-for-group=600 --create-for-user=600 --chown-ignore --chmod-ignore --create-with-perms='u=rwD:g=rwD:o=' $S $M",
            &[("root", "f", "501:20:644")],
        ),
        row("bindfs --map=103/112:@105/@116 \"$S\" \"$M\"", &[]),
        row(
            "bindfs --force-user=joe --force-group=users --create-for-user=6565 --create-for-group=6565 --chown-ignore --chgrp-ignore $S $M",
            &[("root", "f", "1001:100:644")],
        ),
        // Short options, with and without a space.
        row("bindfs -p777 $S $M", &[("root", "f", "501:20:777")]),
        row("bindfs -p 550 -u joe -g users $S $M", &[("root", "f", "1001:100:550")]),
        row("bindfs -p a-w -u joe -g users $S $M", &[("root", "x", "1001:100:555")]),
        row("bindfs -M joe -p0700,u+X $S $M", &[("joe", "f", "1001:20:700")]),
        row(
            "bindfs -p a+rwx --multithreaded -u \"joe\" -g \"joe\" \"$S\" \"$M\"",
            &[("root", "d", "1001:1001:777")],
        ),
        row(
            "bindfs -u 1589 -g 1589 --delete-deny -o nonempty -p u=rwX:go= $S $M",
            &[("root", "d", "1589:1589:700")],
        ),
        row("bindfs -u root -g 1015 -p 0775 $S $M", &[("root", "f", "0:1015:775")]),
        row(
            "M=$S; bindfs --create-for-group=media -gmedia --create-with-perms=u+rw,g+rw,o+r -pu+rw,g+rw,o+r,o-w $S $M",
            &[("root", "f", "501:990:664")],
        ),
        row(
            "M=$S; bindfs -o perms=0777,mirror=bob,group=users $S $M",
            &[("bob", "f", "1002:100:777")],
        ),
        row("bindfs -r -u $(id -u joe) -g $(id -g joe) $S $M", &[("root", "f", "1001:1001:644")]),
        row(
            "bindfs --multithreaded --no-allow-other -o attr_timeout=0,entry_timeout=0,negative_timeout=0 -r $S $M",
            &[("root", "f", "501:20:644")],
        ),
        row(
            "bindfs --create-for-user=joe --chown-deny --chmod-normal --xattr-none \"$S\" \"$M\"",
            &[("root", "f", "501:20:644")],
        ),
        // A wiki that had escaped the first equals sign.
        row(
            "bindfs $S $M -o 'force-user=joe,force-group=users,create-for-user=www-data,create-for-group=www-data,create-with-perms\\=ud=rwx:god=rx:uf=rw:gof=r'",
            &[("root", "f", "1001:100:644")],
        ),
    ]);
}

/// A rule without a class has no effect, as in bindfs; shiftbind warns and mounts.
#[test]
fn a_rule_that_does_nothing_is_mounted_with_a_warning() {
    let output = World::new().run("bindfs -p d=rx:u=rw $S $M; stat -c %a $M/f; umount $M");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "644\n");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "bindfs: warning: option 'perms': 'd=rx' names none of u, g, o and a, and so does nothing\n"
    );
}

#[test]
fn an_accounts_file_maps_by_name_and_unknown_accounts_are_reported() {
    let script = "printf 'joe:x:501:20\\nmallory:x:5:5\\n' > w/p; printf 'users::20:\\n' > w/g
        bindfs --map-passwd=w/p --map-group=w/g $S $M; stat -c %u:%g $M/f; umount $M
        bindfs --map-passwd-rev=w/p -o map-group-rev=w/g $S $M; chown joe:users $S/x; stat -c %u:%g $M/x; umount $M";
    let output = World::new().run(script);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1001:100\n501:20\n");
    let said = String::from_utf8_lossy(&output.stderr);
    let expected =
        "bindfs: warning: option 'map-passwd': w/p:2: there is no user 'mallory' here; passed over";
    assert_eq!(said.lines().next(), Some(expected));
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn an_error_is_one_line_and_nothing_is_mounted() {
    let world = World::new();
    for (line, words) in [
        ("bindfs -m nosuchuser $S $M", "there is no user 'nosuchuser'"),
        ("bindfs $S/f $M", "$M"),
        ("bindfs $S $S/f", "f"),
        ("bindfs $S $M/none", "none"),
        ("bindfs $S/none $M", "none"),
        ("bindfs $S $M third", "third"),
        ("bindfs $S", "MOUNTPOINT"),
        ("bindfs -m joe -M bob $S $M", "mirror"),
        ("bindfs --map=1/2:1/3 $S $M", "stands twice"),
        ("bindfs -u '' $S $M", "empty"),
        ("bindfs --perms=0644junk $S $M", "0644junk"),
        ("bindfs --resolve-symlink-policy=x $S $M", "--resolve-symlink-policy"),
        ("mount $S $M -t fuse.bindfs -o frobnicate", "frobnicate"),
        // Options that need root.
        ("as joe bindfs --map=1/2 -n $S $M", "only root"),
        ("as joe bindfs --uid-offset=5 -n $S $M", "only root"),
        ("as joe bindfs --create-as-user -n $S $M", "only root"),
        ("as joe bindfs --create-for-user=joe -n $S $M", "only root"),
        ("chown joe $M; as joe bindfs $S $M", "user_allow_other"),
    ] {
        let output = world.run(&format!(
            "status=0; ({line}) || status=$?; ! mounted; test $status != 0 || exit 99; exit 0"
        ));
        assert!(output.status.success(), "{line}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        let named = words.starts_with('$') || said.contains(words);
        assert!(
            said.starts_with("bindfs: ") && said.lines().count() == 1 && named,
            "{line}: {said}"
        );
    }
}

#[test]
fn a_direct_call_gives_no_setuid_and_no_devices_and_mount8_does() {
    let world = World::new();
    let options = |line: &str| {
        let output = world.run(&format!("{line}; findmnt -n -o OPTIONS $M; umount $M"));
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8_lossy(&output.stdout)
            .trim()
            .split(',')
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let has = |list: &[String]| ["nosuid", "nodev"].map(|word| list.iter().any(|one| one == word));
    assert_eq!(has(&options("bindfs $S $M")), [true, true]);
    assert_eq!(has(&options("bindfs -o suid,dev $S $M")), [false, false]);
    assert_eq!(has(&options("mount -t fuse.bindfs $S $M")), [false, false]);
    assert_eq!(has(&options("mount -t fuse.bindfs -o nosuid $S $M")), [true, false]);
}
