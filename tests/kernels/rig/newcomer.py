"""README.md's first command as a newcomer types it: on a fresh Debian, and then on that Debian's own kernel.

`.ci/fresh` makes the Debian with the packages that README.md installs, and builds and installs a clone of the project in
it. The rest of the command runs in a guest whose root is that Debian. Only rustup's download is left out: the root gets
the toolchain of this machine.
"""

import json
import os
import re
import shutil
from pathlib import Path

from .host import Trouble, run, say
from .payload import KERNELS, PROJECT

# Debian's releases, each with its own kernel.
MACHINES = {"6.1": "bookworm", "6.12": "trixie"}
SIZE = "8G"

# After README.md's command: owners are shifted both ways, and the mount ends without a trace.
SHIFTS = """
test "$(findmnt -n -o TARGET /mnt/data)" = /mnt/data
touch /srv/data/file && test "$(stat -c %u:%g /mnt/data/file)" = 100000:100000
touch /mnt/data/new 2> /dev/null && exit 1
setpriv --reuid=101000 --regid=101000 --clear-groups true
chown 1000:1000 /srv/data
setpriv --reuid=101000 --regid=101000 --clear-groups touch /mnt/data/new
test "$(stat -c %u:%g /srv/data/new)" = 1000:1000
umount /mnt/data
test -z "$(findmnt -n -o TARGET /mnt/data)"
"""


def command():
    """README.md's command that builds, installs and mounts: (what builds and installs, what follows)."""
    readme = (PROJECT / "README.md").read_text().replace("\\\n", "")
    found = re.search(r"^apt-get update && .*?\bmake install && (.*)$", readme, re.MULTILINE)
    if found is None:
        raise Trouble("README.md has no command with `make install && …` any more")
    return "make install", " ".join(found.group(1).split())


class Machine:
    """A fresh Debian with the program installed; its image is the root of a guest."""

    # Such a root is no archive: a kernel without modules cannot be used.
    archive = None

    def __init__(self, suite, dir):
        self.suite = suite
        self.image = dir / f"{suite}.img"

    def make(self, dir):
        """Installs the program as README.md says, in a clone of what is committed."""
        clone = dir / self.suite
        run("git", "clone", "--quiet", PROJECT, clone)
        fresh, environment = clone / ".ci/fresh", dict(os.environ, FRESH_SUITE=self.suite)
        say(f"making a fresh {self.suite}")
        run(fresh, "--make", env=environment)
        say(f"building and installing in it: {command()[0]}")
        run(fresh, "sh", "-ec", command()[0], env=environment)
        run("truncate", "-s", SIZE, self.image)
        run("mke2fs", "-q", "-t", "ext4", "-F", "-E", "lazy_itable_init=1", "-d", clone / "target/fresh", self.image)
        shutil.rmtree(clone)


class Script:
    """The guest's second disk: what to type. Such a root has no Python, so that `start` runs it in the agent's place."""

    archive = None

    def __init__(self, dir):
        self.image = dir / "script.img"

    def make(self, dir):
        tree = dir / "script"
        shutil.copytree(KERNELS / "guest", tree / "guest")
        typed = f"{command()[1]}\n{SHIFTS}"
        (tree / "typed").write_text(typed)
        (tree / "paths").touch()
        run("truncate", "-s", "64M", self.image)
        run("mke2fs", "-q", "-t", "ext4", "-F", "-d", tree, self.image)


def kernels(names):
    """The kernels to boot: those that were asked for, or every machine's own."""
    for name in names:
        if name not in MACHINES:
            raise Trouble(f"--newcomer is for {' and '.join(MACHINES)}, the kernels of Debian's releases, not for {name}")
    return names or list(MACHINES)


def verdict(kernel, outcome):
    """Whether everything that was typed has worked, and a line that says so."""
    status = next((event["status"] for event in outcome.events if event["event"] == "end"), None)
    good = outcome.ended == "complete" and status == 0
    how = "works" if good else f"FAILS ({outcome.ended}, status {status}; see the console's log)"
    release = next((event["release"] for event in outcome.events if event["event"] == "up"), "?")
    return good, json.dumps({"kernel": kernel.name, "release": release, "suite": MACHINES[kernel.name]}) + f" {how}"
