"""The guests' root: a small Debian with the programs that the tests call, made once by debootstrap."""

import hashlib
import os
import re
from pathlib import Path

from .host import Trouble, run, say, scratch

# What Debian's minimal base lacks of an ordinary system, and what guests' own scripts use.
ORDINARY = ["iproute2", "kmod", "man-db", "procps", "python3", "quota", "uidmap"]
# Where the tests say which packages they need.
NEEDED = Path(__file__).resolve().parents[2] / "support/machine.rs"
# It builds, which guests do not.
TOOLCHAIN = ["gcc"]
# debootstrap would install the old fuse as bindfs's dependency, with which fuse3 conflicts; apt knows better.
AFTERWARDS = ["bindfs"]
# Room for what tests write, without which the image is about 300 MiB; sparse.
SIZE = "6G"
# Raised when something else about the root changes: old ones are made again.
RECIPE = "2"


def suite():
    """The host's own release of Debian: its C library fits the tests that are built here."""
    release = Path("/etc/os-release").read_text()
    codename = re.search(r"^VERSION_CODENAME=(\w+)$", release, re.MULTILINE)
    is_debian = re.search(r"^ID=debian$", release, re.MULTILINE)
    return codename.group(1) if codename and is_debian else "bookworm"


def packages():
    """What the guests get installed."""
    table = re.search(r"^const PACKAGES: .*?^\];$", NEEDED.read_text(), re.MULTILINE | re.DOTALL)
    names = re.findall(r'\(\s*"([a-z0-9.+-]+)",\s*&\[', table.group()) if table else []
    if not names:
        raise Trouble(f"{NEEDED} has no table of packages any more")
    return sorted({*names, *ORDINARY} - {*TOOLCHAIN})


class Root:
    """The root as an image, and as an archive for kernels without modules, which know no disk."""

    def __init__(self, cache, suite):
        key = hashlib.sha256(" ".join([RECIPE, SIZE, *packages()]).encode()).hexdigest()[:12]
        self.image = cache / f"root-{suite}-{key}.img"
        self.archive = cache / f"root-{suite}-{key}.tar"
        self._suite = suite

    def make(self, mirror):
        """Makes both from a mirror of Debian unless they are there."""
        if self.image.exists() and self.archive.exists():
            return
        say(f"making the guests' root with debootstrap ({self._suite})")
        self.image.parent.mkdir(parents=True, exist_ok=True)
        with scratch(self.image.parent, "root") as tree:
            self._install(tree, mirror)
            # It becomes the guests' "/", and temporary directories are closed to all others.
            os.chmod(tree, 0o755)
            new = self.image.with_suffix(".img.new")
            new.unlink(missing_ok=True)
            run("truncate", "-s", SIZE, new)
            run("mke2fs", "-q", "-t", "ext4", "-F", "-E", "lazy_itable_init=1", "-d", tree, new)
            skip = ["var/cache", "var/lib/apt", "usr/share/doc", "usr/share/locale", "usr/share/man"]
            run("tar", "-c", "-C", tree, *[f"--exclude=./{path}/*" for path in skip], "-f", self.archive, ".")
            # Last, since this says that both are whole.
            new.rename(self.image)
        for old in self.image.parent.glob(f"root-{self._suite}-*"):
            if old not in (self.image, self.archive):
                old.unlink()

    def _install(self, tree, mirror):
        include = ",".join(name for name in packages() if name not in AFTERWARDS)
        run("debootstrap", "--variant=minbase", f"--include={include}", self._suite, tree, mirror)
        apt = ["chroot", tree, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
        run(*apt, "update")
        run(*apt, "install", "--yes", "--no-install-recommends", *AFTERWARDS)
        # fusermount3 serves no user without a name.
        run("chroot", tree, "useradd", "--uid", "1000", "--user-group", "--create-home", "user")
