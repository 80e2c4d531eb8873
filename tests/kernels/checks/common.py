"""Shared by the checks: a daemon that serves a mount of a new directory."""

import os
import shutil
import subprocess
import sys
import time

# In seconds: how long a mount may take to answer on a machine that is thirty times slower than a real one.
TIMEOUT = 60
SHIFT = "idmap=b:0:100000:65536"


def say(text):
    """Writes a line to the log (standard error); standard output is for the result."""
    print(text, file=sys.stderr, flush=True)


def is_mounted(path):
    """Whether the mount table has a mount at that path. Root may not stat a user's mount."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
        return any(line.split(" ")[4] == path for line in table)


class Mount:
    """A mount of /var/tmp/NAME/source at /var/tmp/NAME/mnt, with the daemon in the foreground. `with` unmounts it."""

    def __init__(self, name, *options, user=None):
        self.dir = f"/var/tmp/{name}"
        shutil.rmtree(self.dir, ignore_errors=True)
        self.source, self.path = f"{self.dir}/source", f"{self.dir}/mnt"
        for path in [self.source, self.path]:
            os.makedirs(path)
            if user is not None:
                os.chown(path, user, user)
        self._options = options
        self._user = user

    def __enter__(self):
        command = [sys.argv[1], "-f", self.source, self.path]
        for option in self._options:
            command += ["-o", option]
        if self._user is not None:
            # The user must be able to search the directory.
            os.chmod(self.dir, 0o755)
            command = ["setpriv", f"--reuid={self._user}", f"--regid={self._user}", "--clear-groups", *command]
        self._log = open(f"{self.dir}/log", "w+", encoding="utf-8", errors="replace")
        self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        start = time.monotonic()
        while not is_mounted(self.path):
            if self.daemon.poll() is not None:
                raise RuntimeError(f"no mount: {self.said()}")
            if time.monotonic() - start > TIMEOUT:
                self.daemon.kill()
                raise RuntimeError(f"no mount within {TIMEOUT} s: {self.said()}")
            time.sleep(0.02)
        return self

    def __exit__(self, *_):
        unmount = ["fusermount3", "-u"] if self._user is not None else ["umount"]
        subprocess.run([*unmount, self.path], check=False)
        try:
            self.daemon.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            say("the daemon still runs after the unmount")
            self.daemon.kill()

    def said(self):
        """The daemon's messages."""
        self._log.flush()
        self._log.seek(0)
        return self._log.read().strip()
