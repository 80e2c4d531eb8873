"""Checks that data which a client stored through a shared mapping reaches the source if the client is killed."""

import json
import mmap
import os
import signal
import sys
import time

from common import Mount, say

SIZE = 65536
# In seconds: the rate below makes it one second; the kernel writes dirty pages back after 30 s (vm.dirty_expire_centisecs).
LIMIT = 75


def store(path):
    """Runs a client that stores through a mapping and calls msync(2), and kills it meanwhile."""
    child = os.fork()
    if child == 0:
        mapping = mmap.mmap(os.open(path, os.O_RDWR), SIZE)
        mapping[:] = b"\7" * SIZE
        mapping.flush()
        os._exit(0)
    time.sleep(0.3)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def stored(path):
    with open(path, "rb") as file:
        return file.read().count(b"\7")


def main():
    with Mount("killed", "write-rate=64k") as mount:
        with open(f"{mount.source}/f", "wb") as file:
            file.write(bytes(SIZE))
        store(f"{mount.path}/f")
        start = time.monotonic()
        while stored(f"{mount.source}/f") < SIZE and time.monotonic() - start < LIMIT:
            time.sleep(0.05)
        say(f"{stored(f'{mount.source}/f')} of {SIZE} bytes on the source after {time.monotonic() - start:.1f} s")
    found = stored(f"{mount.source}/f")
    print(json.dumps({"bytes stored": found, "of": SIZE}))
    return 0 if found == SIZE else 1


sys.exit(main())
