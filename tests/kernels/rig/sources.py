"""The table of doc/SOURCES.md, made of what tests/other_sources printed in the guests."""

from .results import row, tests

COLUMNS = ["owners", "handles", "watch", "changes by others", "ACLs", "xattrs", "locks", "passthrough", "inode numbers"]


def facts(result):
    """What each source does: {source: {column: value}}."""
    found = {}
    for program, test in tests(result):
        if program != "other_sources" or test["outcome"] not in ("passed", "expected"):
            continue
        for line in test.get("facts", []):
            kind, _, rest = line.partition(": ")
            fields = [field.strip() for field in rest.split("|")]
            if kind == "source" and len(fields) == 3:
                found.setdefault(fields[0], {})[fields[1]] = fields[2]
    return found


def table(results):
    """One table for each set of kernels on which all sources do the same."""
    groups = {}
    for result in results:
        found = facts(result)
        if found:
            lines = [row([f"`{value}`" if column == 0 else value for column, value in enumerate(
                [name, *[about.get(column, "–") for column in COLUMNS]])]) for name, about in sorted(found.items())]
            groups.setdefault("\n".join(lines), []).append(f"{result['kernel']} ({result['package']})")
    text = ""
    for lines, kernels in groups.items():
        text += f"On {', '.join(kernels)}:\n\n{row(['source', *COLUMNS])}\n{row(['---'] * (len(COLUMNS) + 1))}\n{lines}\n\n"
    return text
