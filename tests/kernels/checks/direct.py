"""Checks that data written with O_DIRECT is on the source and is read back, from buffers of every alignment."""

import ctypes
import json
import mmap
import os
import sys

from common import Mount, say

SIZE = 3 << 20
# Offsets of the buffer from the beginning of a page, in bytes.
SKIPS = [0, 1, 100, 512, 4096]
SECTOR = 512
LIBC = ctypes.CDLL(None, use_errno=True)
for call in [LIBC.pread, LIBC.pwrite]:
    call.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
    call.restype = ctypes.c_long


def whole(call, file, address, size):
    """Reads or writes all of a buffer; false after an error."""
    done = 0
    while done < size:
        count = call(file, address + done, size - done, done)
        if count <= 0:
            say(f"{call.__name__}: {os.strerror(ctypes.get_errno()) if count < 0 else 'nothing'} at {done}")
            return False
        done += count
    return True


def difference(found, wanted):
    """Describes the sectors that differ; empty for none."""
    bad = [at // SECTOR for at in range(0, SIZE, SECTOR) if found[at:at + SECTOR] != wanted[at:at + SECTOR]]
    return f"{len(bad)} sectors of {SIZE // SECTOR}, from {bad[0]} to {bad[-1]}" if bad else ""


def main():
    data = os.urandom(SIZE)
    bad = []
    with Mount("direct", "passthrough=off", "forward-odirect=512") as mount:
        file = os.open(f"{mount.path}/f", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o644)
        for skip in SKIPS:
            out, back = mmap.mmap(-1, SIZE + 8192), mmap.mmap(-1, SIZE + 8192)
            out[skip:skip + SIZE] = data
            addresses = [ctypes.addressof(ctypes.c_char.from_buffer(buffer)) + skip for buffer in [out, back]]
            is_whole = whole(LIBC.pwrite, file, addresses[0], SIZE) and whole(LIBC.pread, file, addresses[1], SIZE)
            with open(f"{mount.source}/f", "rb") as source:
                differences = [difference(source.read(), data), difference(back[skip:skip + SIZE], data)]
            for where, what in zip(["on the source", "read back"], differences):
                if what:
                    say(f"buffer at {skip}: {where} differ {what}")
            if any(differences) or not is_whole:
                bad.append(skip)
        os.close(file)
    print(json.dumps({"bad alignments": bad}))
    return 1 if bad else 0


sys.exit(main())
