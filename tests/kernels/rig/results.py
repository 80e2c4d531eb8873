"""The results: one JSON file per kernel, and the Markdown table made of them."""

import json
import re
from collections import Counter
from pathlib import Path

OPERATIONS = ["create", "unlink", "rename", "readdirplus", "missing name again"]


def result(kernel, outcome, expected):
    """Merges a guest's events into one object.

    A test that is expected to fail and does becomes `expected`, with the reason in place of its message. A test that has
    failed and then passed alone becomes `alone`, and keeps its message.
    """
    checks, programs, messages = {}, {}, []
    about = {"kernel": kernel.name, "package": kernel.package, "release": None, "modules": kernel.modules is not None,
             "ended": outcome.ended, "seconds": outcome.seconds, "processor_seconds": outcome.processor_seconds,
             "retries": outcome.retries, "boot_seconds": None, "status": None}
    before = 0
    for event in outcome.events:
        kind = event["event"]
        if kind in ("up", "check", "program"):
            # The host's processor time for it.
            spent, before = round(event["processor"] - before, 1), event["processor"]
        if kind == "up":
            about.update(release=event["release"], boot_seconds=event["seconds"], boot_processor_seconds=spent)
        elif kind == "check":
            checks[event["name"]] = {key: event[key] for key in ["status", "result", "said"]}
            checks[event["name"]]["processor_seconds"] = spent
        elif kind == "test":
            program = programs.setdefault(event["program"], {"tests": []})
            test = {key: event[key] for key in ["name", "outcome", "why", "seconds"]}
            if event.get("facts"):
                test["facts"] = event["facts"]
            reason = expected.reason(kernel, event["program"], test["name"])
            if reason and test["outcome"] == "failed":
                test.update(outcome="expected", why=reason, message=test["why"])
            elif reason and test["outcome"] == "passed":
                test.update(why=f"expected to fail: {reason}")
            program["tests"].append(test)
        elif kind == "again":
            for test in programs[event["program"]]["tests"]:
                if test["name"] == event["name"]:
                    test["outcome"] = "alone"
        elif kind == "program":
            program = programs.setdefault(event["program"], {"tests": []})
            program.update(status=event["status"], seconds=event["seconds"], processor_seconds=spent,
                           reason=event.get("reason"))
        elif kind == "kernel":
            messages.append(event["line"])
        elif kind == "end":
            about["status"] = event["status"]
    return {**about, "checks": checks, "programs": programs, "kernel_messages": messages}


class Expected:
    """Known failures, from a file of lines `KERNEL PROGRAM::TEST REASON`; `#` begins a comment.

    KERNEL is a version or its beginning, or `*`.
    """

    def __init__(self, path):
        self._entries = []
        for line in path.read_text().splitlines() if path.exists() else []:
            if line.strip() and not line.startswith("#"):
                kernel, test, reason = line.split(None, 2)
                self._entries.append((kernel, test, reason))

    def names(self):
        """Every `PROGRAM::TEST` that is known to fail on some kernel."""
        return sorted({name for _, name, _ in self._entries})

    def reason(self, kernel, program, test):
        """Why that test is known to fail on that kernel; None if it is not."""
        for version, name, reason in self._entries:
            fits = version == "*" or re.match(re.escape(version) + r"(?![0-9])", kernel.package)
            if fits and name == f"{program}::{test}":
                return reason
        return None


def tests(result):
    """Every test of a result, as (program, test)."""
    for name, program in result["programs"].items():
        for test in program["tests"]:
            yield name, test


def counts(result):
    """The number of tests with each outcome."""
    return Counter(test["outcome"] for _, test in tests(result))


def is_good(result):
    """Whether everything ran and nothing failed."""
    checks = all(check["status"] == 0 for check in result["checks"].values())
    return result["ended"] == "complete" and result["status"] == 0 and checks and counts(result)["failed"] == 0


def number(text):
    """A version's numbers, for sorting."""
    return [int(part) for part in re.findall(r"[0-9]+", text)]


def read(dir):
    """Every result in a directory, by version."""
    results = [json.loads(path.read_text()) for path in dir.glob("*.json")]
    return sorted(results, key=lambda result: number(result["package"]))


def table(results):
    """The table, followed by the failures and the reasons of skipped tests."""
    head = ["kernel", "tests passed / failed / skipped", "mounts as root", "mounts as a user", "passthrough",
            "changes on the source seen", *[f"requests per {name}" for name in OPERATIONS]]
    lines = [row(head), row(["---"] * len(head))]
    for result in results:
        lines.append(row(cells(result)))
    for result in results:
        lines += failures(result) + passed_alone(result)
    lines += reasons(results, "expected", "Known to fail (tests/kernels/expected-failures)")
    lines += reasons(results, "skipped", "Skipped")
    lines += left_out(results)
    return "\n".join(lines) + "\n"


def row(cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def cells(result):
    def checked(check, key):
        return result["checks"].get(check, {}).get("result", {}).get(key, "–")
    count = counts(result)
    known = f" + {count['expected']} known" if count["expected"] else ""
    alone = f" + {count['alone']} alone" if count["alone"] else ""
    outcome = f"{count['passed']}{alone} / {count['failed']}{known} / {count['skipped']}" if result["programs"] else "–"
    if result["ended"] != "complete":
        outcome += f" ({result['ended']})"
    name = result["kernel"] + ("" if result["modules"] else "*")
    return [f"{name} ({result['package']})", outcome, checked("abilities", "mounts as root"),
            checked("abilities", "mounts as a user"), checked("abilities", "passthrough"),
            checked("changes", "seen"), *[checked("requests", name) for name in OPERATIONS]]


def failures(result):
    failed = [(program, test) for program, test in tests(result) if test["outcome"] == "failed"]
    bad = {name: check for name, check in result["checks"].items() if check["status"] != 0}
    if not failed and not bad:
        return []
    lines = ["", f"Failed on {result['kernel']}:", ""]
    lines += [f"- check {name}: {first_line(check['said'])}" for name, check in bad.items()]
    lines += [f"- `{program}::{test['name']}`: {first_line(test['why'])}" for program, test in failed]
    return lines


def passed_alone(result):
    found = [(program, test) for program, test in tests(result) if test["outcome"] == "alone"]
    lines = ["", f"Failed beside other tests and passed alone on {result['kernel']}:", ""] if found else []
    return lines + [f"- `{program}::{test['name']}`: {first_line(test['why'])}" for program, test in found]


def first_line(text):
    """The first line of a message that is not libtest's own."""
    lines = [line.strip() for line in text.splitlines()]
    noise = re.compile(r"thread '.*panicked at|note: |stack backtrace")
    said = [line for line in lines if line and not noise.match(line)]
    return said[0][:200].replace("|", r"\|") if said else "no message"


def reasons(results, outcome, title):
    """The reasons for that outcome, with the counts per kernel."""
    found = {}
    for result in results:
        for program, test in tests(result):
            if test["outcome"] == outcome:
                found.setdefault(test["why"], Counter())[result["kernel"]] += 1
    lines = ["", f"{title}:", ""] if found else []
    for reason, per_kernel in sorted(found.items()):
        lines.append(f"- {reason}: " + ", ".join(f"{count} on {kernel}" for kernel, count in per_kernel.items()))
    return lines


def left_out(results):
    """The test programs that were not run at all."""
    whole = {}
    for result in results:
        for name, program in result["programs"].items():
            if program.get("reason"):
                whole[name] = program["reason"]
    lines = ["", "Not run:", ""] if whole else []
    return lines + [f"- all of `{name}`: {reason}" for name, reason in sorted(whole.items())]


# The first line may name more options.
BEGIN, END = re.compile(r"<!-- made by tests/kernels/run .*-->\n"), "<!-- end -->\n"


def document(path, text):
    """Replaces the text between the marks in a document."""
    whole = Path(path).read_text()
    begin = BEGIN.search(whole)
    _, _, after = whole[begin.end():].partition(END)
    Path(path).write_text(f"{whole[:begin.end()]}{text}{END}{after}")
