"""Debian's mirror that apt on this machine uses, and the kernels on it.

Kernels are downloaded and unpacked, never installed, and the machine's own package lists stay unchanged. The guests run
the "cloud" flavour: it is small and has all drivers that they need.
"""

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass

from .host import Trouble, run, say

SUITES = ["bookworm", "bookworm-backports", "trixie", "trixie-backports", "forky", "forky-backports", "sid",
          "experimental"]
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# The maximum age of package lists in seconds. Chosen: new kernels appear every few days.
LISTS_LAST = 24 * 3600
FLAVOUR = "cloud-amd64"


@dataclass
class Package:
    """A kernel on the mirror."""

    # The version in the packages' names: 6.1.0-50, 7.3.4+deb13.
    version: str
    # The packages' own version, which begins with the upstream version.
    package: str
    # The packages that contain it.
    parts: list

    def numbers(self):
        """The sort key: the upstream version; a release is newer than its candidates."""
        upstream = re.match(r"[0-9.]+", self.package).group().rstrip(".")
        return [int(number) for number in upstream.split(".")], self.is_release()

    def is_release(self):
        return "~rc" not in self.package

    def fits(self, name):
        """Whether the version equals or begins with that name."""
        begins = re.compile(re.escape(name) + r"(?![0-9])")
        return bool(begins.match(self.version) or begins.match(self.package))

    def series(self):
        """The first two numbers of the upstream version: 7.3."""
        return ".".join(self.package.split("~")[0].split("-")[0].split(".")[:2])


class Kernel:
    """An unpacked kernel."""

    def __init__(self, name, dir):
        self.name = name
        self.image = dir / "vmlinuz"
        # None if the mirror no longer has the kernel's modules.
        self.modules = dir / "modules" if (dir / "modules").exists() else None
        self.package = (dir / "package").read_text().strip()


def mirror_of_this_machine():
    """The address of the Debian mirror that apt uses on this machine."""
    targets = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(ORIGIN)", "Created-By: Packages")
    for line in targets.splitlines():
        uri, codename, origin = (line.split(" ", 2) + ["", ""])[:3]
        if origin == "Debian" and not re.search("-(security|updates|backports)", codename):
            return uri
    # Before the first `apt-get update` apt knows only the address.
    for line in targets.splitlines():
        uri = line.split(" ")[0]
        if uri.rstrip("/").endswith("/debian"):
            return uri
    raise Trouble("apt is set up with no mirror of Debian on this machine; give one with --mirror")


class Archive:
    """The package lists of all suites of a mirror, separate from the machine's own."""

    def __init__(self, cache, uri=None):
        self.dir = cache / "apt"
        self.unpacked = cache / "linux"
        self._uri = uri
        self._kernels = None

    def mirror(self):
        """The mirror's address: the given one, or that of this machine's apt."""
        if self._uri is None:
            self._uri = mirror_of_this_machine()
        return self._uri

    def _apt(self):
        return ["-o", f"Dir::Etc::SourceList={self.dir}/sources.list", "-o", "Dir::Etc::SourceParts=/dev/null",
                "-o", f"Dir::State::Lists={self.dir}/lists", "-o", f"Dir::Cache={self.dir}/cache",
                "-o", "APT::Sandbox::User=root", "-o", "APT::Architecture=amd64", "-o", "APT::Architectures=amd64",
                "-o", "Acquire::Languages=none", "-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
                "-o", "Acquire::Retries=3"]

    def _update(self):
        kernels = self.dir / "kernels.json"
        if kernels.exists() and time.time() - kernels.stat().st_mtime < LISTS_LAST:
            return
        say("fetching the mirror's package lists")
        for part in ["lists/partial", "cache/archives/partial"]:
            (self.dir / part).mkdir(parents=True, exist_ok=True)
        lines = [f"deb [signed-by={KEYRING}] {self.mirror()} {suite} main\n" for suite in SUITES]
        (self.dir / "sources.list").write_text("".join(lines))
        # apt fails if the mirror lacks a suite, but fetches the lists of the rest.
        update = subprocess.run(["apt-get", *self._apt(), "-qq", "update"], stdin=subprocess.DEVNULL,
                                capture_output=True, text=True)
        if not list((self.dir / "lists").glob("*_Packages*")):
            raise Trouble(f"the mirror's package lists cannot be fetched: {update.stderr.strip()}")
        kernels.write_text(json.dumps(list(self._found()), indent=1) + "\n")

    def kernels(self):
        """Every kernel on the mirror, the oldest first."""
        if self._kernels is None:
            self._update()
            found = json.loads((self.dir / "kernels.json").read_text())
            self._kernels = sorted((Package(**about) for about in found), key=Package.numbers)
        return self._kernels

    def _found(self):
        """Finds the kernels in the package lists."""
        names = run("apt-cache", *self._apt(), "pkgnames", "linux-").split()
        names = [name for name in names if re.fullmatch(rf"linux-(image|binary|modules)-[0-9].*-{FLAVOUR}", name)]
        shown = run("apt-cache", *self._apt(), "show", "--no-all-versions", *names)
        there = dict(re.findall(r"^Package: (\S+)\n(?:[^\n]+\n)*?Version: (\S+)$", shown, re.MULTILINE))
        for name, package in there.items():
            if name.startswith("linux-image-"):
                version = name.removeprefix("linux-image-").removesuffix("-" + FLAVOUR)
                # Up to 6.18 linux-image contains everything; later it is empty and depends on the other two. Modules
                # disappear from the mirror with their source; signed images stay longer.
                parts = [f"linux-{part}-{version}-{FLAVOUR}" for part in ["image", "binary", "modules"]]
                yield {"version": version, "package": package, "parts": [part for part in parts if part in there]}

    def find(self, name):
        """The newest kernel whose version equals or begins with `name` (7.1, 7.1.7); `newest`: the newest release."""
        if name == "newest":
            fitting = [kernel for kernel in self.kernels() if kernel.is_release()]
        else:
            fitting = [kernel for kernel in self.kernels() if kernel.fits(name)]
        if not fitting:
            raise Trouble(f"the mirror has no kernel {name}; tests/kernels/run --list shows those that it has")
        return fitting[-1]

    def get(self, name, package):
        """Downloads and unpacks a kernel unless that was done before; returns it under the requested name."""
        dir = self.unpacked / package.version
        if not (dir / "package").exists():
            say(f"downloading Linux {package.package}")
            self._unpack(dir, package.package, package.parts)
        return Kernel(package.series() if name == "newest" else name, dir)

    def _unpack(self, dir, package, parts):
        debs = self.dir / "debs"
        debs.mkdir(exist_ok=True)
        run("apt-get", *self._apt(), "-qq", "download", *parts, cwd=debs)
        run("rm", "-rf", dir)
        dir.mkdir(parents=True)
        for part in parts:
            for deb in debs.glob(f"{part}_*.deb"):
                run("dpkg-deb", "--extract", deb, dir)
                deb.unlink()
        images = [path for path in dir.rglob("vmlinuz*") if path.is_file()]
        if len(images) != 1:
            raise Trouble(f"{len(images)} kernel images in {' '.join(parts)}")
        os.symlink(os.path.relpath(images[0], dir), dir / "vmlinuz")
        # The tree with the module files; other trees have only lists of modules.
        trees = [path.parent for path in dir.rglob("lib/modules/*/kernel") if any(path.rglob("*.ko*"))]
        if trees:
            # depmod -b takes the directory above lib/modules.
            run("depmod", "-b", trees[0].parents[2], trees[0].name)
            os.symlink(os.path.relpath(trees[0], dir), dir / "modules")
        # Written last: without this file the kernel is unpacked again.
        (dir / "package").write_text(package + "\n")
