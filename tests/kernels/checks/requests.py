"""Counts the requests of each operation, by opcode, from the daemon's reads of /dev/fuse in an strace(1)."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter

from common import Mount, say

FILES = 100
# Maps root, which creates the files.
MAP = "idmap=b:0:0:1000,idmap=b:1000:2000:1,idmap=b:2000:1000:1,idmap=b:3000:3000:60000"
# The opcodes that these operations use (enum fuse_opcode in linux/fuse.h).
OPCODES = {1: "LOOKUP", 2: "FORGET", 3: "GETATTR", 4: "SETATTR", 10: "UNLINK", 12: "RENAME", 14: "OPEN", 15: "READ",
           16: "WRITE", 18: "RELEASE", 22: "GETXATTR", 25: "FLUSH", 27: "OPENDIR", 28: "READDIR", 29: "RELEASEDIR",
           35: "CREATE", 36: "INTERRUPT", 39: "IOCTL", 42: "BATCH_FORGET", 44: "READDIRPLUS", 45: "RENAME2", 52: "STATX"}


def create(path):
    # Not open(), which calls isatty(3): an ioctl(2), and so a request.
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    os.write(file, bytes(4096))
    os.close(file)


def counted(daemon, log, operation):
    """The number of requests that an operation causes, by opcode."""
    # Only /dev/fuse: the daemon also reads fanotify events, among others.
    strace = subprocess.Popen(["strace", "-f", "-qq", "-xx", "-s", "8", "-P", "/dev/fuse", "-e", "trace=read", "-o", log,
                               "-p", str(daemon)])
    # Waits until strace has attached to every thread.
    threads = len(os.listdir(f"/proc/{daemon}/task"))
    while sum(tracer(daemon, thread) != 0 for thread in os.listdir(f"/proc/{daemon}/task")) < threads:
        time.sleep(0.05)
    operation()
    # The kernel sends RELEASE and FORGET after the call that causes them.
    time.sleep(1)
    strace.terminate()
    strace.wait()
    found = Counter()
    with open(log, encoding="ascii", errors="replace") as file:
        for line in file:
            head = re.search(r'"((?:\\x[0-9a-f]{2}){8})"', line)
            if head:
                opcode = int.from_bytes(bytes.fromhex(head.group(1).replace(r"\x", ""))[4:8], "little")
                found[OPCODES.get(opcode, str(opcode))] += 1
    return found


def tracer(pid, thread):
    with open(f"/proc/{pid}/task/{thread}/status", encoding="ascii", errors="replace") as file:
        return int(re.search(r"^TracerPid:\s*(\d+)", file.read(), re.MULTILINE).group(1))


def main():
    result = {}
    with Mount("requests", MAP) as mount:
        os.mkdir(f"{mount.source}/f")
        for n in range(FILES):
            create(f"{mount.source}/f/{n}")
        while not os.path.exists(f"{mount.path}/f"):
            time.sleep(0.02)
        dir = f"{mount.path}/f"

        def each(run):
            return lambda: [run(n) for n in range(FILES)]

        def walk():
            for entry in os.scandir(dir):
                os.lstat(entry.path)

        def miss(n):
            if os.path.lexists(f"{dir}/missing{n}"):
                raise RuntimeError("a missing name is there")

        operations = [
            ("readdirplus", walk),
            ("walk again", walk),
            ("open and close", each(lambda n: os.close(os.open(f"{dir}/{n}", os.O_RDONLY)))),
            ("create", each(lambda n: create(f"{dir}/n{n}"))),
            ("rename", each(lambda n: os.rename(f"{dir}/n{n}", f"{dir}/r{n}"))),
            ("unlink", each(lambda n: os.unlink(f"{dir}/r{n}"))),
            ("missing name", each(miss)),
            # 0 where the kernel keeps negative dentries, which must then be invalidated when the name appears on the source.
            ("missing name again", each(miss)),
        ]
        for name, operation in operations:
            found = counted(mount.daemon.pid, f"{mount.dir}/strace", operation)
            say(f"{name}: {' '.join(f'{opcode} {count / FILES:.2f}' for opcode, count in sorted(found.items()))}")
            # The kernel sends these at any time, and without a reply.
            answered = sum(count for opcode, count in found.items() if opcode not in ("FORGET", "BATCH_FORGET"))
            result[name] = round(answered / FILES, 2)
    print(json.dumps(result))
    return 0


try:
    sys.exit(main())
except RuntimeError as error:
    say(str(error))
    print("{}")
    sys.exit(1)
