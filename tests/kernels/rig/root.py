"""The guests' root: a small Debian with the programs that the tests run, made once by debootstrap.

`--sources` has a root of its own, with the servers and tools of the filesystems in tests/other_sources.
"""

import hashlib
import os
import re
from pathlib import Path

from .host import Trouble, run, say, scratch

# Packages of an ordinary system that Debian's minimal base lacks, and those that the guests' scripts need.
ORDINARY = ["iproute2", "kmod", "man-db", "procps", "python3", "quota", "uidmap"]
# The table of packages that the tests need.
NEEDED = Path(__file__).resolve().parents[2] / "support/machine.rs"
# Guests build nothing.
TOOLCHAIN = ["gcc"]
# debootstrap resolves bindfs's dependency to the old fuse, which conflicts with fuse3; apt does not.
AFTERWARDS = ["bindfs"]
# What tests/other_sources needs besides: servers, clients, and programs that make filesystems.
SOURCES = ["autofs", "cifs-utils", "dosfstools", "erofs-utils", "exfatprogs", "mergerfs", "nfs-kernel-server",
           "nfs4-acl-tools", "ntfs-3g", "openssh-client", "openssh-server", "rpcbind", "samba", "smbclient",
           "squashfs-tools", "sshfs", "udftools"]
# The size of the sparse image: about 300 MiB are used; the rest is for files of the tests.
SIZE = "6G"
# Increased when the recipe changes in another way, so that old images are made again.
RECIPE = "2"


def suite():
    """The host's own Debian release: the tests are linked with its C library."""
    release = Path("/etc/os-release").read_text()
    codename = re.search(r"^VERSION_CODENAME=(\w+)$", release, re.MULTILINE)
    is_debian = re.search(r"^ID=debian$", release, re.MULTILINE)
    return codename.group(1) if codename and is_debian else "bookworm"


def packages():
    """The packages that are installed in the root."""
    table = re.search(r"^const PACKAGES: .*?^\];$", NEEDED.read_text(), re.MULTILINE | re.DOTALL)
    names = re.findall(r'\(\s*"([a-z0-9.+-]+)",\s*&\[', table.group()) if table else []
    if not names:
        raise Trouble(f"{NEEDED} has no table of packages any more")
    return sorted({*names, *ORDINARY} - {*TOOLCHAIN})


class Root:
    """The root as an image, and as an archive for kernels without modules, which have no disk driver."""

    def __init__(self, cache, suite, with_sources=False):
        self._later = [*AFTERWARDS, *(SOURCES if with_sources else [])]
        words = [RECIPE, SIZE, *packages(), *(SOURCES if with_sources else [])]
        key = hashlib.sha256(" ".join(words).encode()).hexdigest()[:12]
        self._kind = f"{'sources' if with_sources else 'root'}-{suite}"
        self.image = cache / f"{self._kind}-{key}.img"
        self.archive = cache / f"{self._kind}-{key}.tar"
        self._suite = suite

    def make(self, mirror):
        """Makes both from a Debian mirror unless they exist."""
        if self.image.exists() and self.archive.exists():
            return
        say(f"making the guests' root with debootstrap ({self._kind})")
        self.image.parent.mkdir(parents=True, exist_ok=True)
        with scratch(self.image.parent, "root") as tree:
            self._install(tree, mirror)
            # The tree becomes the guests' "/"; temporary directories have mode 0700.
            os.chmod(tree, 0o755)
            new = self.image.with_suffix(".img.new")
            new.unlink(missing_ok=True)
            run("truncate", "-s", SIZE, new)
            run("mke2fs", "-q", "-t", "ext4", "-F", "-E", "lazy_itable_init=1", "-d", tree, new)
            skip = ["var/cache", "var/lib/apt", "usr/share/doc", "usr/share/locale", "usr/share/man"]
            run("tar", "-c", "-C", tree, *[f"--exclude=./{path}/*" for path in skip], "-f", self.archive, ".")
            # Renamed last: the image's existence means that both are complete.
            new.rename(self.image)
        for old in self.image.parent.glob(f"{self._kind}-*"):
            if old not in (self.image, self.archive):
                old.unlink()

    def _install(self, tree, mirror):
        include = ",".join(name for name in packages() if name not in AFTERWARDS)
        run("debootstrap", "--variant=minbase", f"--include={include}", self._suite, tree, mirror)
        apt = ["chroot", tree, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
        run(*apt, "update")
        # invoke-rc.d would start the packages' services on the host.
        policy = Path(tree) / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        run(*apt, "install", "--yes", "--no-install-recommends", *self._later)
        # fusermount3 refuses users without an account.
        run("chroot", tree, "useradd", "--uid", "1000", "--user-group", "--create-home", "user")
