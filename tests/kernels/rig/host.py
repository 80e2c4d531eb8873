"""What the host must have, and how its programs are called."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

# Where programs of root's are that a user's PATH may lack.
os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"

BEGIN = time.monotonic()

# Each program and the Debian package that holds it.
NEEDED = {
    "apt-get": "apt",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "debootstrap": "debootstrap",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "git": "git",
    "mke2fs": "e2fsprogs",
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
    "strip": "binutils",
    "zstd": "zstd",
}


class Trouble(Exception):
    """What makes the command end with one line and status 2."""


def check():
    """Names, in one line, every package that is missing."""
    if os.geteuid() != 0:
        raise Trouble("needs root, for debootstrap and for the owners of the guests' files")
    if os.uname().machine != "x86_64":
        raise Trouble("the guests are amd64, and so must the tests be that are built here")
    missing = sorted({NEEDED[name] for name in NEEDED if shutil.which(name) is None})
    if missing:
        raise Trouble(f"missing; install with: apt-get install --no-install-recommends {' '.join(missing)}")
    # A busybox with shared libraries would find none of them in the guest's first root.
    linkage = subprocess.run(["ldd", shutil.which("busybox")], capture_output=True, text=True)
    if "=>" in linkage.stdout:
        raise Trouble("busybox is linked dynamically; install with: apt-get install busybox-static")


def say(text):
    """One line of progress, with the seconds since the start."""
    print(f"[{time.monotonic() - BEGIN:4.0f} s] {text}", file=sys.stderr, flush=True)


def run(*command, **options):
    """Runs a program; its failure is ours, with what it said."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if done.returncode != 0:
        raise Trouble(f"{command[0]} failed ({done.returncode}): {done.stdout.strip()[-2000:]}")
    return done.stdout


def scratch(cache, name):
    """A temporary directory beside what is kept, so that large files need not be copied over."""
    return tempfile.TemporaryDirectory(dir=cache, prefix=f"scratch-{os.getpid()}-{name}-")


@contextmanager
def alone(cache):
    """Keeps other runs from the directory meanwhile, and removes what runs that were killed have left in it."""
    with open(cache / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in cache.glob("scratch-*"):
            pid = re.match(r"scratch-([0-9]+)-", path.name).group(1)
            if not Path(f"/proc/{pid}").exists():
                shutil.rmtree(path, ignore_errors=True)
        yield
