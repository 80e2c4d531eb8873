"""Checks whether shiftbind mounts as root and as a user on this kernel, and whether passthrough works."""

import json
import os
import subprocess
import sys

from common import SHIFT, Mount, say

MIB = 1 << 20


def read_by(pid):
    """The number of bytes that a process has read."""
    with open(f"/proc/{pid}/io", encoding="ascii") as file:
        return int(next(line for line in file if line.startswith("rchar:")).split()[1])


def passthrough():
    """`yes` if the daemon reads no file data while a client does."""
    size = 16 * MIB
    with Mount("passthrough", SHIFT) as mount:
        with open(f"{mount.source}/f", "wb") as file:
            file.write(os.urandom(size))
        before = read_by(mount.daemon.pid)
        with open(f"{mount.path}/f", "rb") as seen, open(f"{mount.source}/f", "rb") as stored:
            if seen.read() != stored.read():
                raise RuntimeError("the mount shows other data than the source")
        return "yes" if read_by(mount.daemon.pid) - before < MIB else "no"


def as_root():
    """`yes` if a file shows its shifted owner, and a chown at the mount is stored with the owner shifted back."""
    with Mount("root", SHIFT) as mount:
        os.close(os.open(f"{mount.source}/f", os.O_CREAT | os.O_WRONLY))
        os.chown(f"{mount.source}/f", 5, 6)
        shown = os.stat(f"{mount.path}/f")
        os.chown(f"{mount.path}/f", 100007, 100008)
        stored = os.stat(f"{mount.source}/f")
        owners = [(stat.st_uid, stat.st_gid) for stat in (shown, stored)]
        if owners != [(100005, 100006), (7, 8)]:
            raise RuntimeError(f"wrong owners, shown and stored: {owners}")
        return "yes"


def as_user():
    """`yes` if the user 1000 can mount a directory of its own and reads a file through it."""
    with Mount("user", user=1000) as mount:
        with open(f"{mount.source}/f", "w", encoding="ascii") as file:
            file.write("text")
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(1000)
            os.setuid(1000)
            try:
                os._exit(0 if open(f"{mount.path}/f", encoding="ascii").read() == "text" else 1)
            except OSError:
                os._exit(2)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != 0:
            raise RuntimeError(f"the user cannot read at the mount ({status})")
        return "yes"


def main():
    result, bad = {}, 0
    for name, check in [("mounts as root", as_root), ("mounts as a user", as_user), ("passthrough", passthrough)]:
        try:
            result[name] = check()
        except (OSError, RuntimeError) as error:
            say(f"{name}: {error}")
            result[name] = "no"
            bad += 1
    # What shiftbind itself reports about this kernel.
    explained = subprocess.run([sys.argv[1], "--explain", "--engine=fuse", "-o", SHIFT, "/var/tmp", "/mnt"], capture_output=True, text=True)
    result["explained"] = [line for line in explained.stdout.splitlines() if "kernel" in line]
    if explained.returncode != 0:
        say(f"--explain: {explained.stderr}")
        bad += 1
    print(json.dumps(result))
    return 1 if bad else 0


sys.exit(main())
