//! Everyday programs on a mount: their results equal those on a plain directory, and are stored with mapped ids.

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Mount, as_user, eventually, sh, shape};

/// The work of an unprivileged user in a directory that the user owns.
const WORK: &str = r#"
    umask 022
    mkdir tree && cd tree
    mkdir -p src/deep/er doc empty
    for i in $(seq 1 300); do echo "line $i" > src/file$i.txt; done
    printf 'int main(void) { return 0; }\n' > src/main.c
    printf 'all: prog\nprog: src/main.c\n\tcc -o prog src/main.c\nclean:\n\trm -f prog\n' > Makefile
    ln -s src/main.c link; ln src/main.c hard; mkfifo pipe; chmod 700 doc; chmod 4755 src/file1.txt
    setfattr -n user.note -v text src/file2.txt; setfacl -m u:$((BASE + 5)):r src/file3.txt
    truncate -s 10M sparse
    cd ..
    make -s -C tree && ./tree/prog && make -s -C tree clean
    tar cf tree.tar --xattrs --acls tree && mkdir untar && tar xpf tree.tar --xattrs --acls -C untar
    diff -r --no-dereference -x pipe tree untar/tree
    cp -a tree copied && diff -r --no-dereference -x pipe tree copied
    rsync -aHAX tree/ synced/ && test -z "$(rsync -aHAXni --delete tree/ synced/)"
    test "$(stat -c %h synced/hard)" = 2 && getfattr -d synced/src/file2.txt | grep -q text
    getfacl -n copied/src/file3.txt | grep -q "user:$((BASE + 5)):r--"
    export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
    export GIT_AUTHOR_DATE=2020-01-01T00:00:00Z GIT_COMMITTER_DATE=2020-01-01T00:00:00Z GIT_CONFIG_NOSYSTEM=1
    git init -q -b main repo && cp -a tree/src repo/ && cd repo && git add . && git commit -qm one
    for i in 2 3 4 5; do echo $i > src/file$i.txt; git commit -qam $i; done
    git checkout -q -b side HEAD~2 && echo side > side && git add side && git commit -qm side
    git checkout -q main && git merge -q -m merge side && git gc -q && git fsck --strict
    cd .. && git clone -q repo clone && git -C clone status --porcelain > status && test ! -s status
    test "$(git -C clone rev-parse HEAD)" = "$(git -C repo rev-parse HEAD)"
    git -C clone log --oneline | wc -l
    rm -rf copied synced untar && test ! -e copied
"#;

fn work(dir: &Path, base: u32) -> String {
    support::sh_output(dir, &format!("BASE={base}\n{WORK}"))
}

#[test]
fn tar_cp_rsync_git_and_make_work_for_a_mapped_user_and_all_is_stored_mapped() {
    let mount = Mount::shifted();
    let said = as_user(100_000, 100_000, &[], || work(mount.path(), 100_000));
    assert_eq!(said.trim(), "7", "commits in the clone");
    let stored = shape(mount.source());
    assert!(stored.len() > 600, "{} files", stored.len());
    for (path, (_, uid, gid, ..)) in &stored {
        assert_eq!((*uid, *gid), (0, 0), "{}", path.display());
    }
    let bare = support::scratch();
    work(bare.path(), 0);
    let modes = |shape: &std::collections::BTreeMap<_, (u32, u32, u32, u64, u64)>| -> Vec<_> {
        let outside_git = shape.iter().filter(|(path, _): &(&std::path::PathBuf, _)| {
            !path.to_string_lossy().contains(".git/")
        });
        outside_git
            .map(|(path, (mode, _, _, links, _))| (path.clone(), format!("{mode:o}"), *links))
            .collect()
    };
    assert_eq!(
        modes(&stored),
        modes(&shape(bare.path())),
        "left: the source, right: a plain directory"
    );
    as_user(100_000, 100_000, &[], || sh(mount.path(), "rm -rf ./* && test -z \"$(ls -A)\""));
    assert!(shape(mount.source()).is_empty());
}

#[test]
fn root_of_a_container_unpacks_any_owner_and_sees_its_own_ids() {
    let mount = Mount::shifted();
    let tar = mount.outside().join("image.tar");
    sh(
        mount.outside(),
        "mkdir image && cd image && for id in 0 1 33 1000 65534 65535; do
             mkdir d$id; echo $id > d$id/f; chown -R $id:$id d$id; chmod 6755 d$id/f; done
         mknod c c 1 3; rm c; setcap cap_net_raw=ep d0/f || true; tar cf ../image.tar --numeric-owner .",
    );
    in_container(
        mount.path(),
        &format!(
            "tar xpf {} --numeric-owner --same-owner && stat -c '%u:%g' . d33/f | tr '\\n' ' ' | grep -qx '0:0 33:33 '
             cp -a d1000 copy && test $(stat -c %u:%g copy/f) = 1000:1000 && chown 5:6 copy/f && rm -r d33",
            tar.display()
        ),
    );
    let stored = shape(mount.source());
    for (path, (mode, uid, gid, ..)) in &stored {
        let top = path.iter().next().expect("a name").to_string_lossy().into_owned();
        let expected = match (top.as_str(), path.ends_with("f")) {
            ("copy", true) => (5, 6),
            ("copy", false) => (1000, 1000),
            _ => (top[1..].parse().expect("an id"), top[1..].parse().expect("an id")),
        };
        assert_eq!((*uid, *gid), expected, "{} {mode:o}", path.display());
    }
    assert_eq!(stored.len(), 12, "{stored:?}");
}

/// Runs a script as root of a user namespace that has 100000..165535 as its 0..65535.
fn in_container(dir: &Path, script: &str) {
    let mut child = Command::new("unshare")
        .args(["--user", "--keep-caps", "sh", "-euc"])
        .arg("read go; exec setpriv --reuid 0 --regid 0 --clear-groups sh -euc \"$1\"")
        .args(["sh", script])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start a container");
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).ok();
    let (ours, pid) = (namespace("self"), child.id().to_string());
    eventually("the container has its user namespace", || {
        namespace(&pid).is_some_and(|theirs| Some(theirs) != ours)
    });
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{map}"), "0 100000 65536\n").expect("write the map");
    }
    child.stdin.take().expect("piped").write_all(b"go\n").expect("let it go");
    let output = child.wait_with_output().expect("wait for the container");
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
