//! A user without privilege mounts in a user namespace of the user's own.

use super::machine;
use super::namespace::text;

/// Runs a script as user 1234 beside a container of that user: `$P` is its process, `$S` the program, and `enter` runs a command
/// in the container as its root. The user's source is `src`.
const CONTAINER: &str = "
    mkdir -m 777 u && mknod -m 666 fuse c 10 229 && mount --bind fuse /dev/fuse
    cat > u/script <<'END'
    set -e
    cd u && mkdir src && echo mine > src/f
    mkfifo up; unshare -U -r -m sh -c 'mount -t tmpfs tmpfs /mnt && mkdir /mnt/t && echo > up; exec sleep 1000' & P=$!
    read line < up
    trap 'kill $P' EXIT
    enter() { nsenter -t $P -U -m --preserve-credentials sh -c \"$1\"; }
";

fn as_user(script: &str) -> String {
    let n = machine();
    let all = format!(
        "{CONTAINER}{script}\nEND\nsetpriv --reuid=1234 --regid=1234 --clear-groups sh u/script; echo status $?"
    );
    let output = n.sh(&all);
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn with_nothing_typed_the_users_files_belong_to_root_of_the_users_container() {
    let said = as_user(
        "$S src /mnt/t -N $P
        enter 'stat -c %u:%g:%n /mnt/t/f; echo new > /mnt/t/new; chown 1:1 /mnt/t/f 2>&1 || true'
        stat -c %u:%g:%n src/new
        $S umount -N $P /mnt/t
        enter 'ls /mnt/t'",
    );
    assert!(said.contains("0:0:/mnt/t/f\n"), "{said}");
    assert!(said.contains("1234:1234:src/new\n"), "{said}");
    assert!(said.contains("Invalid argument"), "the container has no user 1: {said}");
    assert!(said.ends_with("status 0\n"), "{said}");
}

#[test]
fn a_map_that_stores_the_users_files_as_anothers_is_refused_with_one_that_works() {
    let said = as_user(
        "! $S src /mnt/t -N $P -o idmap=0:0:1 || exit 5
        $S src /mnt/t -N $P -o idmap=1234:0:1
        enter 'cat /mnt/t/f'",
    );
    assert!(
        said.contains("map 1234:0:1 in place of the extent that shows 0 as 0, or mount as root"),
        "{said}"
    );
    assert!(said.contains("mine\n") && said.contains("status 0\n"), "{said}");
}

#[test]
fn what_takes_privilege_is_refused_in_one_line_that_says_what_to_do() {
    for (words, advice) in [
        ("ids=host", "leave out ids=host"),
        ("engine=kernel", "use engine=auto or engine=fuse"),
        ("ro", "this takes CAP_SYS_ADMIN"),
        ("dev", "leave it out"),
    ] {
        let said = as_user(&format!("$S src /mnt/t -N $P -o {words}"));
        assert!(said.contains(advice) && !said.contains("status 0"), "{words}: {said}");
        let lines = said.lines().filter(|line| line.starts_with("shiftbind: ")).count();
        assert_eq!(lines, 1, "{words}: {said}");
    }
}

#[test]
fn another_users_container_is_refused() {
    let n = machine();
    let container = super::Container::new(&n, 200_000);
    let pid = container.pid();
    let output = n.sh(&format!(
        "mknod -m 666 fuse c 10 229 && mount --bind fuse /dev/fuse && mkdir -m 777 u &&
         setpriv --reuid=1234 --regid=1234 --clear-groups sh -c 'mkdir u/src && $S u/src /mnt/t -N {pid}'"
    ));
    let error = text(&output.stderr);
    assert!(!output.status.success() && error.lines().count() == 1, "{output:?}");
    assert!(error.contains("this takes root, or CAP_SYS_ADMIN in its user namespace"), "{error}");
}
