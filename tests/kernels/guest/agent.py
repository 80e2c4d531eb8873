"""Runs the plan in a guest and reports events on the second serial line, one JSON object a line; the first is the console.

The plan has `command`, or `checks` and `programs` (see rig/payload.py), and how to run them.
"""

import json
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time

PAYLOAD = "/payload"
# The maximum length of a message, in characters: enough for a failed comparison of two trees.
LONGEST = 6000


def open_results():
    """Opens the second serial line in raw mode: no echo, no added carriage returns."""
    line = os.open("/dev/ttyS1", os.O_RDWR | os.O_NOCTTY)
    attributes = termios.tcgetattr(line)
    attributes[1] &= ~termios.OPOST
    attributes[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(line, termios.TCSANOW, attributes)
    return os.fdopen(line, "w", encoding="utf-8", errors="replace")


RESULTS = open_results()
BEGIN = time.monotonic()


def tell(event, **about):
    """Sends one event to the host."""
    RESULTS.write(json.dumps({"event": event, "at": round(time.monotonic() - BEGIN, 2), **about}) + "\n")
    RESULTS.flush()


def say(text):
    """Prints a line on the console."""
    print(text, flush=True)


def short(text):
    """Shortens a text that is too long to its beginning and end."""
    if len(text) <= LONGEST:
        return text
    return text[:LONGEST // 2] + "\n[…]\n" + text[-LONGEST // 2:]


def end(process):
    """Kills a process group and reaps its leader."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def result_of(message):
    """A test's outcome and the reason, from libtest's JSON."""
    output = message.get("stdout", "")
    if message["event"] == "ignored":
        return "skipped", message.get("message") or "marked #[ignore]"
    # `cannot_run` of tests/support/machine.rs panics with this text.
    cannot = re.search(r"^cannot be run here: (.+)$", output, re.MULTILINE)
    if message["event"] == "failed" and cannot:
        return "skipped", cannot.group(1)
    if message["event"] == "failed":
        return "failed", short(output or message.get("message", ""))
    # `skipped` of tests/support/machine.rs prints this text; the test returns.
    skipped = re.search(r"^skipped: (.+)$", output, re.MULTILINE)
    return ("skipped", skipped.group(1)) if skipped else ("passed", "")


class Alarm:
    """Calls `ring` once if `wind` was not called for that many seconds."""

    def __init__(self, seconds, ring):
        self.rang = False
        self._seconds = seconds
        self._ring = ring
        self._timer = None
        self.wind()

    def wind(self):
        self.cancel()
        self._timer = threading.Timer(self._seconds, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self):
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self):
        self.rang = True
        self._ring()


def passes_alone(program, test, plan, environment):
    """Runs one test that has failed once more, with no other test beside it, and returns whether it passes.

    An emulated processor is so slow, and shared by so many, that a test of what happens meanwhile may come too late.
    """
    command = [program["path"], "--exact", test, "--test-threads=1"]
    process = subprocess.Popen(command, cwd=plan["project"], env=environment, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        output, _ = process.communicate(timeout=plan["limit"])
    except subprocess.TimeoutExpired:
        return False
    finally:
        end(process)
    return process.returncode == 0 and b"1 passed" in output


def run_tests(program, plan):
    """Runs one test program and reports each of its tests."""
    name = program["name"]
    if "skipped" in program:
        tell("program", program=name, status="skipped", reason=program["skipped"], seconds=0)
        say(f"{name}: SKIPPED: {program['skipped']}")
        return
    # libtest's JSON is the only format that separates the tests' output. Stable toolchains need this variable for it.
    environment = dict(os.environ, RUSTC_BOOTSTRAP="1", RUST_BACKTRACE="0", CI="true",
                       CARGO_MANIFEST_DIR=plan["project"], **plan["environment"])
    command = [program["path"], "-Z", "unstable-options", "--format", "json", "--report-time", "--show-output",
               f"--test-threads={plan['threads']}", *program["arguments"]]
    start = time.monotonic()
    # stderr goes to a file: what children write there belongs to no single test.
    with open(f"/tmp/{name}.stderr", "w+b") as errors:
        process = subprocess.Popen(command, cwd=plan["project"], env=environment, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
        alarm = Alarm(plan["limit"], lambda: end(process))
        running, failures, counts, count = set(), [], {"passed": 0, "failed": 0, "skipped": 0}, 0
        for line in process.stdout:
            # Children of a test may have written text before it on the same line.
            at = line.find(b'{ "type"')
            try:
                message = json.loads(line[at:]) if at >= 0 else {}
            except ValueError:
                message = {}
            if message.get("type") == "suite":
                count = message.get("test_count", count)
            if message.get("type") != "test":
                continue
            if message["event"] == "started":
                running.add(message["name"])
            elif message["event"] in ("ok", "failed", "ignored"):
                running.discard(message["name"])
                alarm.wind()
                outcome, why = result_of(message)
                counts[outcome] += 1
                if outcome == "failed":
                    failures.append(message["name"])
                # What tests/other_sources has found out about a source.
                facts = re.findall(r"^((?:source|survey): .+)$", message.get("stdout", ""), re.MULTILINE)
                tell("test", program=name, name=message["name"], outcome=outcome, why=why, facts=facts,
                     seconds=round(message.get("exec_time", 0), 2))
                if outcome != "passed":
                    say(f"    {outcome.upper()} {name}::{message['name']}: {why.strip()[:600]}")
        status = process.wait()
        alarm.cancel()
        # Kills processes that a test has left running.
        end(process)
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    for test in failures:
        if f"{name}::{test}" not in plan["expected"] and passes_alone(program, test, plan, environment):
            counts["failed"] -= 1
            counts["passed"] += 1
            tell("again", program=name, name=test)
            say(f"    PASSED ALONE {name}::{test}")
    # Tests that were running when the program was killed or crashed.
    for test in sorted(running):
        why = f"hangs: no test ended for {plan['limit']} s" if alarm.rang else f"the program ended with status {status}"
        counts["failed"] += 1
        tell("test", program=name, name=test, outcome="failed", why=f"{why}: {short(said)}", seconds=0)
        say(f"    FAILED {name}::{test}: {why}")
    seconds = round(time.monotonic() - start, 1)
    # 101 is libtest's status for failed tests, some of which count as skipped here.
    only_skipped = status == 101 and (counts["skipped"] > 0 or len(failures) > 0)
    missed = count - sum(counts.values())
    if count == 0 and program["arguments"]:
        # A filter that matches nothing would always pass.
        counts["failed"] += 1
        why = f"no test fits {' '.join(program['arguments'])}"
        tell("test", program=name, name="(the program)", outcome="failed", why=why, seconds=0)
        say(f"    FAILED {name}: {why}")
    if missed or (status != 0 and counts["failed"] == 0 and not only_skipped):
        counts["failed"] += 1
        why = f"status {status}, {missed} of {count} tests were not run: {short(said)}"
        tell("test", program=name, name="(the program)", outcome="failed", why=why, seconds=0)
        say(f"    FAILED {name}: {why[:600]}")
    tell("program", program=name, status="hangs" if alarm.rang else status, seconds=seconds)
    say(f"{name}: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped, {seconds} s")


def run_check(name, plan):
    """Runs a check: its standard output is the result, a JSON object; its standard error is the log."""
    path = f"{PAYLOAD}/checks/{name}.py"
    process = subprocess.Popen([sys.executable, path, plan["program"]], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True,
                               errors="replace")
    try:
        output, errors = process.communicate(timeout=plan["limit"])
    except subprocess.TimeoutExpired:
        end(process)
        output, errors = "", f"not done within {plan['limit']} s"
    end(process)
    try:
        result = json.loads(output)
    except ValueError:
        result = {}
    tell("check", name=name, status=process.returncode, result=result, said=short(errors))
    say(f"check {name}: {json.dumps(result)}\n{errors}".rstrip())


def main():
    with open(f"{PAYLOAD}/plan.json", encoding="utf-8") as file:
        plan = json.load(file)
    with open("/proc/uptime", encoding="ascii") as file:
        booted = float(file.read().split()[0])
    tell("up", release=os.uname().release, seconds=booted)
    status = 0
    if plan.get("command"):
        status = subprocess.run(["sh", "-c", plan["command"]], stdin=subprocess.DEVNULL).returncode
    else:
        for check in plan["checks"]:
            run_check(check, plan)
        for program in plan["programs"]:
            run_tests(program, plan)
    log = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace").stdout
    for line in log.splitlines():
        if re.search(r"BUG|WARNING|Oops|blocked for more than", line):
            tell("kernel", line=line)
            say(f"kernel: {line}")
    tell("end", status=status)


main()
