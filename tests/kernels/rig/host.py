"""The programs that the host must have, and how to run them."""

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

# Directories of administration programs, which a user's PATH may lack.
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
    """An error that ends the command with one line and status 2."""


def check():
    """Fails, naming every missing package in one line, if the host lacks programs."""
    if os.geteuid() != 0:
        raise Trouble("needs root, for debootstrap and for the owners of the guests' files")
    if os.uname().machine != "x86_64":
        raise Trouble("the guests are amd64, and so must the tests be that are built here")
    missing = sorted({NEEDED[name] for name in NEEDED if shutil.which(name) is None})
    if missing:
        raise Trouble(f"missing; install with: apt-get install --no-install-recommends {' '.join(missing)}")
    # A dynamically linked busybox would not find its libraries in the initramfs.
    linkage = subprocess.run(["ldd", shutil.which("busybox")], capture_output=True, text=True)
    if "=>" in linkage.stdout:
        raise Trouble("busybox is linked dynamically; install with: apt-get install busybox-static")


def say(text):
    """Prints a line of progress with the seconds since the start."""
    print(f"[{time.monotonic() - BEGIN:4.0f} s] {text}", file=sys.stderr, flush=True)


def run(*command, **options):
    """Runs a program and returns its output; raises Trouble with the output if it fails."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if done.returncode != 0:
        raise Trouble(f"{command[0]} failed ({done.returncode}): {done.stdout.strip()[-2000:]}")
    return done.stdout


def scratch(cache, name):
    """A temporary directory in the cache's filesystem, so that large files are renamed and not copied."""
    return tempfile.TemporaryDirectory(dir=cache, prefix=f"scratch-{os.getpid()}-{name}-")


@contextmanager
def alone(cache):
    """Locks the directory against concurrent runs, and removes what killed runs have left in it."""
    with open(cache / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in cache.glob("scratch-*"):
            pid = re.match(r"scratch-([0-9]+)-", path.name).group(1)
            if not Path(f"/proc/{pid}").exists():
                shutil.rmtree(path, ignore_errors=True)
        yield
