"""Measures how soon the mount shows each kind of change on its source.

Names that were looked up before they appeared matter most: the kernel has a negative dentry for them, and on some
kernels FUSE_NOTIFY_INVAL_ENTRY does not drop it.
"""

import json
import os
import sys
import time

from common import SHIFT, Mount, say

# In seconds: longer than any promised bound, even on an emulated processor, and shorter than the cache timeout (10 min).
LIMIT = 30


def is_there(path):
    try:
        os.lstat(path)
        return True
    except FileNotFoundError:
        return False


def touch(path):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def append(path, data):
    with open(path, "ab") as file:
        file.write(data)


class Changes:
    """Changes in one directory, given by its paths on the source and at the mount."""

    def __init__(self, source, mount, label):
        self.source, self.mount, self.label = source, mount, label
        self.slowest = 0
        self.unseen = []

    def see(self, kind, change, is_seen):
        """Makes a change and waits until the mount shows it."""
        change()
        start = time.monotonic()
        while not is_seen():
            if time.monotonic() - start > LIMIT:
                say(f"{self.label}{kind}: not seen within {LIMIT} s")
                self.unseen.append(kind)
                return
            time.sleep(0.002)
        seconds = time.monotonic() - start
        self.slowest = max(self.slowest, seconds)
        say(f"{self.label}{kind}: {seconds * 1000:.0f} ms")

    def appears(self, kind, name, make):
        """Looks up a missing name at the mount, and then creates it on the source."""
        at_mount = f"{self.mount}/{name}"
        if is_there(at_mount):
            raise RuntimeError(f"{name} is there already")
        self.see(kind, lambda: make(f"{self.source}/{name}"), lambda: is_there(at_mount))

    def all(self):
        source, mount = self.source, self.mount
        os.listdir(mount)
        self.appears("a file is made", "a", touch)
        self.appears("a directory is made", "b", os.mkdir)
        self.appears("a symbolic link is made", "c", lambda path: os.symlink("a", path))
        self.appears("a file is renamed", "d", lambda path: os.rename(f"{source}/a", path))
        self.see("the old name goes", lambda: None, lambda: not is_there(f"{mount}/a"))
        self.appears("a link is made", "e", lambda path: os.link(f"{source}/d", path))
        self.see("a file is removed", lambda: os.unlink(f"{source}/d"), lambda: not is_there(f"{mount}/d"))
        self.appears("a removed name is made again", "d", touch)
        self.see("a mode changes", lambda: os.chmod(f"{source}/d", 0o600),
                 lambda: os.stat(f"{mount}/d").st_mode & 0o777 == 0o600)
        self.see("an owner changes", lambda: os.chown(f"{source}/d", 3, 4),
                 lambda: os.stat(f"{mount}/d").st_uid == 100003)
        self.see("a file grows", lambda: append(f"{source}/d", b"abc"), lambda: os.stat(f"{mount}/d").st_size == 3)
        self.see("data changes", lambda: append(f"{source}/d", b"def"),
                 lambda: open(f"{mount}/d", "rb").read() == b"abcdef")
        self.see("the listing changes", lambda: touch(f"{source}/z"), lambda: "z" in os.listdir(mount))
        # O_EXCL must fail although the kernel has a negative dentry for the name.
        is_there(f"{mount}/x")
        touch(f"{source}/x")
        try:
            touch(f"{mount}/x")
            say(f"{self.label}O_EXCL made what was there")
            self.unseen.append("O_EXCL")
        except FileExistsError:
            pass
        except OSError as error:
            say(f"{self.label}O_EXCL: {error}")
            self.unseen.append("O_EXCL")


def main():
    changes = []
    with Mount("changes", SHIFT) as mount:
        os.mkdir(f"{mount.source}/sub")
        changes = [Changes(mount.source, mount.path, ""), Changes(f"{mount.source}/sub", f"{mount.path}/sub", "sub/")]
        while not is_there(f"{mount.path}/sub"):
            time.sleep(0.02)
        for each in changes:
            each.all()
    unseen = list(dict.fromkeys(kind for each in changes for kind in each.unseen))
    slowest = max(each.slowest for each in changes)
    seen = f"not: {', '.join(unseen)}" if unseen else f"all within {max(slowest, 0.01):.2g} s"
    print(json.dumps({"seen": seen, "slowest": round(slowest, 3), "unseen": unseen}))
    return 1 if unseen else 0


try:
    sys.exit(main())
except RuntimeError as error:
    say(str(error))
    print("{}")
    sys.exit(1)
