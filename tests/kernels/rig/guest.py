"""The virtual machine: boots a kernel with the root and the payload, and collects its agent's events.

A guest's writes are discarded, and it has no network.
"""

import json
import lzma
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from .host import run, say, scratch

HERE = Path(__file__).resolve().parents[1]
# The modules that the root, the payload and the tests need, unless the kernel has them built in.
MODULES = ["virtio_pci", "virtio_blk", "ext4", "fuse", "overlay", "xfs", "btrfs", "loop", "quota_v2", "virtio_rng"]


def module_files(modules):
    """The files of those modules and their dependencies, in the order in which to load them."""
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        name = re.sub(r"\.ko.*$", "", os.path.basename(file)).replace("-", "_")
        # modules.dep names the deepest dependency last.
        needs[name] = [*reversed(others.split()), file]
    files = [file for name in MODULES for file in needs.get(name, [])]
    return list(dict.fromkeys(files))


def initramfs(kernel, root, payload, dir):
    """The guest's first root: busybox and modules, or everything for a kernel without modules."""
    tree, image = dir / "initramfs", dir / "initramfs.img"
    for name in ["bin", "dev", "proc", "sys", "root", "modules"]:
        (tree / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), tree / "bin/busybox")
    shutil.copy(HERE / "guest/init", tree / "init")
    (tree / "init").chmod(0o755)
    if kernel.modules is None:
        os.link(payload.archive, tree / "payload.tar")
        os.link(root.archive, tree / "root.tar")
    else:
        order = []
        for file in module_files(kernel.modules):
            packed = (kernel.modules / file).read_bytes()
            if file.endswith(".xz"):
                packed = lzma.decompress(packed)
            elif file.endswith(".zst"):
                packed = subprocess.run(["zstd", "-dc"], input=packed, stdout=subprocess.PIPE, check=True).stdout
            name = re.sub(r"\.ko.*$", ".ko", os.path.basename(file))
            (tree / "modules" / name).write_bytes(packed)
            order.append(name + "\n")
        (tree / "modules/order").write_text("".join(order))
    with open(image, "wb") as file:
        find = subprocess.Popen(["find", ".", "-print0"], cwd=tree, stdout=subprocess.PIPE)
        subprocess.run(["cpio", "--create", "--null", "--format=newc", "--quiet"], cwd=tree, stdin=find.stdout,
                       stdout=file, check=True)
        find.wait()
    shutil.rmtree(tree)
    return image


def modules_disk(kernel, dir):
    """A disk with all modules of the kernel, which the guest's kernel then loads by itself (modprobe(8))."""
    image = dir / "modules.img"
    used = int(run("du", "-sm", kernel.modules.resolve()).split()[0])
    run("truncate", "-s", f"{used * 5 // 4 + 32}M", image)
    run("mke2fs", "-q", "-t", "ext4", "-F", "-d", kernel.modules.resolve(), image)
    return image


def arguments(kernel, settings):
    """The kernel's command line; it disables features that cost time and are not tested here."""
    words = ["console=ttyS0", "quiet", "loglevel=4", "panic=-1", "mitigations=off", "nokaslr", "init_on_alloc=0",
             "apparmor=0", "audit=0", "nowatchdog", "rcupdate.rcu_cpu_stall_suppress=1"]
    if settings.accel == "tcg":
        # An emulated processor has the host's time stamp counter. The guest must not calibrate it: on a busy host the
        # result is wrong by a factor.
        rate = re.search(r"^cpu MHz\s*: ([0-9.]+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        words += [f"tsc_early_khz={int(float(rate.group(1)) * 1000)}", "tsc=reliable", "no_timer_check"]
    return " ".join(words)


def machine(kernel, disks, image, results, settings):
    """The command line of qemu."""
    # la57=off: page tables of four levels. tb-size: 1 GiB for translated code.
    kinds = {"tcg": ["-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max,la57=off"],
             "kvm": ["-accel", "kvm", "-cpu", "host"]}
    command = ["qemu-system-x86_64", *kinds[settings.accel], "-M", "q35,hpet=off", "-smp", str(settings.cpus),
               "-m", str(settings.memory), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
               "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
               "-chardev", f"file,id=results,path={results}", "-serial", "chardev:results",
               "-device", "virtio-rng-pci"]
    for disk in disks:
        command += ["-drive", f"file={disk},if=virtio,format=raw,snapshot=on,cache=unsafe"]
    return [*command, "-kernel", str(kernel.image), "-initrd", str(image), "-append", arguments(kernel, settings)]


class Outcome:
    """How a guest ended, and its agent's events."""

    def __init__(self, events, is_off, is_stopped, seconds, processor_seconds):
        self.events = events
        self.retries = 0
        self.seconds = round(seconds)
        self.processor_seconds = round(processor_seconds)
        if any(event["event"] == "end" for event in events):
            self.ended = "complete"
        elif not is_off:
            self.ended = "stopped" if is_stopped else "timeout"
        else:
            # The guest did not boot, or ended before the agent was done.
            self.ended = "crash" if events else "no boot"


# How often a guest is booted again after a fault of the emulator (see `died_of_emulation`).
RETRIES = 2


def run_kernel(kernel, root, payload, settings, stop):
    """Boots a kernel and returns the outcome; boots it again after a fault of the emulator."""
    for retries in range(RETRIES + 1):
        outcome = boot(kernel, root, payload, settings, stop)
        outcome.retries = retries
        if not died_of_emulation(outcome, kernel, settings):
            break
        say(f"{kernel.name}: the emulator ran code that the kernel had replaced (int3)")
    return outcome


def died_of_emulation(outcome, kernel, settings):
    """Whether a guest crashed by an unhandled INT3.

    The kernel patches its code (static keys, and so trace points) through a temporary INT3 (text_poke_bp()). An emulated
    processor may still run the translation with the INT3 when the kernel handles it no longer.
    """
    console = log_of(kernel, settings).read_text(encoding="utf-8", errors="replace")
    return settings.accel == "tcg" and outcome.ended == "crash" and re.search(r"\bint3: 0000 \[#1\]", console)


def log_of(kernel, settings):
    """The file for a guest's console."""
    return settings.results / f"{kernel.name}.log"


def boot(kernel, root, payload, settings, stop):
    """Boots a kernel and waits until it ends, the time limit is over or `stop` is set."""
    with scratch(settings.cache, "guest") as name:
        dir = Path(name)
        image = initramfs(kernel, root, payload, dir)
        disks = [root.image, payload.image] if kernel.modules else []
        if disks and settings.sources:
            disks.append(modules_disk(kernel, dir))
        results = dir / "results"
        results.touch()
        log = log_of(kernel, settings)
        begin = time.monotonic()
        say(f"{kernel.name}: booting Linux {kernel.package}" + ("" if kernel.modules else " (without modules)"))
        with open(log, "wb") as console:
            # The host's kernel kills the guest when this thread ends (PR_SET_PDEATHSIG).
            guest = subprocess.Popen(["setpriv", "--pdeathsig", "KILL",
                                      *machine(kernel, disks, image, results, settings)],
                                     stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
                                     env=dict(os.environ, TMPDIR=str(dir)))
            try:
                watch = Watch(guest, log, results, "" if settings.quiet else kernel.name)
                is_off = watch.wait(begin + settings.limit, stop)
            finally:
                guest.kill()
                guest.wait()
        outcome = Outcome(watch.events, is_off, stop.is_set(), time.monotonic() - begin, watch.used)
        say(f"{kernel.name}: {outcome.ended} after {outcome.seconds} s, {outcome.processor_seconds} s of processor time")
        return outcome


class Watch:
    """Follows a guest's console and its agent's events."""

    def __init__(self, guest, log, results, name):
        self.events = []
        # The guest's processor time so far, in seconds.
        self.used = 0.0
        self._guest = guest
        self._name = name
        self._console = open(log, encoding="utf-8", errors="replace")
        self._results = open(results, encoding="utf-8", errors="replace")
        self._rests = {self._console: "", self._results: ""}

    def wait(self, deadline, stop):
        """Waits until the guest is off, its time is over or `stop` is set; returns whether it is off."""
        while True:
            is_off = self._guest.poll() is not None
            self.used = max(self.used, processor_seconds(self._guest.pid))
            for line in self._lines(self._results):
                try:
                    # Elapsed time in a guest on a busy host means little.
                    self.events.append({**json.loads(line), "processor": round(self.used, 1)})
                except ValueError:
                    say(f"not from the agent: {line[:200]}")
            for line in self._lines(self._console):
                if self._name:
                    print(f"{self._name} | {line.rstrip()}", flush=True)
            if is_off or time.monotonic() > deadline or stop.is_set():
                self._console.close()
                self._results.close()
                return is_off
            time.sleep(0.2)

    def _lines(self, file):
        """The complete lines since the last call."""
        *lines, self._rests[file] = (self._rests[file] + file.read()).split("\n")
        return lines


def processor_seconds(pid):
    """The processor time of a process, user and system; 0 when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    # utime and stime (proc_pid_stat(5)); fields[0] is field 3 of the file.
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
