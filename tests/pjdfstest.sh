#!/bin/bash
# Runs the POSIX suite pjdfstest on a plain directory, on an identity mount (ident) and on a mount that shifts every id but
# root's (shift). Fails if a case that passes on the plain directory fails on a mount.
#
# Usage: tests/pjdfstest.sh [PATTERN...]       as root; SHIFTBIND and PJDFSTEST name the two programs
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${IN_NAMESPACE:-}" != 1 ]; then
    IN_NAMESPACE=1 exec unshare --mount --propagation private bash "$0" "$@"
fi

shiftbind=$(realpath "${SHIFTBIND:-target/debug/shiftbind}")
pjdfstest=${PJDFSTEST:-target/pjdfstest/bin/pjdfstest}
[ -x "$pjdfstest" ] || pjdfstest=$(command -v pjdfstest) || {
    echo "pjdfstest is missing: cargo install pjdfstest --version 0.2.2 --locked --root target/pjdfstest" >&2
    exit 2
}
pjdfstest=$(realpath "$pjdfstest")

mkdir -p target/tmp
work=$(mktemp -d "$PWD/target/tmp/pjdfstest.XXXXXXXX")
daemons=()
clean() {
    cd /
    umount /mnt/ident/mnt /mnt/shift/mnt 2>/dev/null || true
    for pid in "${daemons[@]}"; do wait "$pid" || true; done
    # What is still mounted ends with the namespace.
    umount -l /mnt 2>/dev/null || true
    rm -rf --one-file-system "$work"
}
trap clean EXIT

# All users of the suite must be able to search the path, and it must be short.
mount --bind "$work" /mnt
cd /mnt
chmod 755 .
# Directory names of equal length: the suite fills paths up to PATH_MAX.
mkdir -p second plain/mnt ident/source ident/mnt shift/source shift/mnt
mount -t tmpfs pjdfstest second
cat > config.toml <<'TOML'
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
TOML

start() { # DIRECTORY OPTIONS...: mounts DIRECTORY/source at DIRECTORY/mnt
    local dir=$1
    shift
    "$shiftbind" -f "/mnt/$dir/source" "/mnt/$dir/mnt" "$@" &
    daemons+=($!)
    for _ in $(seq 500); do
        mountpoint -q "/mnt/$dir/mnt" && return
        kill -0 "${daemons[-1]}" 2>/dev/null || break
        sleep 0.02
    done
    echo "the mount of $dir did not come up" >&2
    exit 2
}

run() { # NAME DIRECTORY PATTERN...
    local name=$1 dir=$2
    shift 2
    NO_COLOR=1 "$pjdfstest" -c config.toml -s /mnt/second -p "$dir" -- "$@" > "$name.log" 2>&1 || true
    awk '$NF == "ok" { print $1 }' "$name.log" | sort > "$name.passed"
    printf 'pjdfstest %-5s %s\n' "$name" "$(grep '^Summary' "$name.log" || echo "did not finish: $(tail -1 "$name.log")")"
}

start ident
start shift -o idmap=b:0:0:1 -o idmap=b:100001:1:65535

run plain /mnt/plain/mnt "$@"
[ -s plain.passed ] || { cat plain.log; exit 1; }
status=0
for name in ident shift; do
    run "$name" "/mnt/$name/mnt" "$@"
    # The suite skips link_count_max on FUSE: glibc knows LINK_MAX by filesystem type, and not for FUSE.
    comm -23 plain.passed "$name.passed" | grep -vx link::link_count_max > "$name.lost" || true
    while read -r case; do
        status=1
        echo "passes on the plain directory and fails on the $name mount: $case"
        grep -A1 -F "$case " "$name.log" | sed 's/^/    /' || true
    done < "$name.lost"
done
[ $status = 0 ] && echo "pjdfstest: every case that passes on the plain directory passes on both mounts"
exit $status
