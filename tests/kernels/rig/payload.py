"""The guest's second disk: the project's files, its test programs, the checks, and the plan of what to run.

A guest has no toolchain. The tests are built here with paths of this machine compiled in, so the guest has the project
at the same path.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

from .host import Trouble, run, say

KERNELS = Path(__file__).resolve().parents[1]
PROJECT = KERNELS.parents[1]
# Space on the sparse disk for files of the tests below target/tmp, in MiB.
ROOM = 3072


class Program:
    """A test program that cargo has built."""

    def __init__(self, name, path):
        self.name = name
        self.path = Path(path)

    def needs_cargo(self):
        """Whether one of its tests runs cargo, which the guest lacks."""
        tests = PROJECT / "tests"
        sources = [tests / f"{self.name}.rs", *(tests / self.name).glob("**/*.rs")]
        return any('env!("CARGO")' in source.read_text() for source in sources if source.exists())


def build(wanted, no_tests):
    """Builds as `cargo test` does; returns the program and the test programs, the library's as `lib`.

    Builds those that `wanted` names (see `chosen`), or all if it is empty.
    """
    say("building the program" if no_tests else "building the tests")
    names = {word.partition(":")[0] for word in wanted}
    if no_tests:
        # A single test builds the program, too; `cargo build` would build all dependencies again with fewer features.
        names = {"ids"}
    command = ["cargo", "test", "--locked", "--no-run", "--message-format=json-render-diagnostics"]
    for name in sorted(names):
        command += ["--lib"] if name == "lib" else ["--test", name]
    done = subprocess.run(command, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Trouble("the build failed")
    programs, program = [], None
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if not message.get("executable"):
            continue
        kind, is_test = message["target"]["kind"][0], message["profile"]["test"]
        if is_test and kind in ("test", "lib"):
            programs.append(Program("lib" if kind == "lib" else message["target"]["name"], message["executable"]))
        elif not is_test and kind == "bin":
            program = Path(message["executable"])
    if program is None or not programs:
        raise Trouble("cargo built no program or no tests")
    return program, sorted(programs, key=lambda program: program.name)


def chosen(programs, wanted):
    """The programs to run, with libtest's arguments: FILTER selects tests by a part of their names, `!FILTER` skips them.

    `wanted` is a list of NAME or NAME:FILTER; an empty one selects everything.
    """
    known = {program.name for program in programs}
    filters = {}
    for word in wanted:
        name, _, filter = word.partition(":")
        if name not in known:
            raise Trouble(f"there is no test program {name}; there are {' '.join(sorted(known))}")
        arguments = filters.setdefault(name, [])
        if filter.startswith("!"):
            arguments += ["--skip", filter[1:]]
        elif filter:
            arguments.append(filter)
    plan = []
    for program in programs:
        if wanted and program.name not in filters:
            continue
        entry = {"name": program.name, "path": str(program.path), "arguments": filters.get(program.name, [])}
        if program.needs_cargo():
            entry["skipped"] = "runs cargo, which the guest lacks"
        plan.append(entry)
    return plan


class Payload:
    """The tree that becomes the guest's second disk."""

    def __init__(self, dir):
        self.tree = dir / "payload"
        self.image = dir / "payload.img"
        self.archive = dir / "payload.tar"
        self.tree.mkdir(parents=True)
        shutil.copytree(KERNELS / "guest", self.tree / "guest")
        shutil.copytree(KERNELS / "checks", self.tree / "checks")

    def add_project(self, program, plan):
        """Copies the committed files to the project's own path, and the programs without debug information."""
        project = self.tree / "files" / PROJECT.relative_to("/")
        project.mkdir(parents=True)
        files = run("git", "-C", PROJECT, "ls-files", "-z").split("\0")
        for name in files:
            if name and (PROJECT / name).is_file():
                (project / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(PROJECT / name, project / name)
        for path in [program, *[Path(entry["path"]) for entry in plan if "skipped" not in entry]]:
            stripped = self.tree / "files" / path.relative_to("/")
            stripped.parent.mkdir(parents=True, exist_ok=True)
            run("strip", "-S", "-o", stripped, path)
        (project / "target/tmp").mkdir(parents=True, exist_ok=True)
        (self.tree / "paths").write_text(f"{PROJECT}\n")

    def finish(self, plan):
        """Writes the plan and makes the images."""
        (self.tree / "plan.json").write_text(json.dumps(plan))
        self.tree.joinpath("paths").touch()
        used = int(run("du", "-sm", self.tree).split()[0])
        run("truncate", "-s", f"{used * 5 // 4 + ROOM}M", self.image)
        run("mke2fs", "-q", "-t", "ext4", "-F", "-E", "lazy_itable_init=1,root_owner=0:0", "-d", self.tree, self.image)
        run("tar", "-c", "-C", self.tree.parent, "--owner=0", "--group=0", "-f", self.archive, self.tree.name)
        shutil.rmtree(self.tree)


def subset(path):
    """Reads a file of lines NAME[:FILTER] and variables NAME=VALUE; `#` begins a comment."""
    lines = [re.sub(r"#.*", "", line).strip() for line in path.read_text().splitlines()]
    environment = dict(line.split("=", 1) for line in lines if "=" in line)
    return [line for line in lines if line and "=" not in line], environment
