"""Whether all that a client stored through a shared mapping reaches the source when the client is killed."""

import json
import mmap
import os
import signal
import sys
import time

from common import Mount, say

SIZE = 65536
# The rate below lets it take a second; a kernel writes back within 30 s by itself (vm.dirty_expire_centisecs).
LIMIT = 75


def store(path):
    """A client that stores through a mapping, asks for write-back and is killed meanwhile."""
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
