"""The tables, docs/interop.md, and the comparison with expected.json."""

import json
import pathlib

from scenarios import SCENARIOS

SUITE = pathlib.Path(__file__).resolve().parent
EXPECTED = SUITE / "expected.json"
PAGE = SUITE.parents[2] / "docs" / "interop.md"

WIDTH = max(len(scenario.name) for scenario in SCENARIOS)

INTRO = """\
# Interoperability

`tests/interop/run` connects this crate with other implementations of WebSocket, and writes this
page. The step `interop` of `.ci/run` does the same, and fails if a cell differs.

In a table, `ok` means that both sides saw what the scenario demands. A number in brackets leads to
the reason why there is nothing to see.
"""

TITLES = {
    "client": "Their clients, and this crate's server",
    "server": "This crate's client, and their servers",
}


def settle(results, complete, bless):
    """Compares with what is expected, or writes it. Returns the status of the program."""
    seen = {}
    for result in results:
        for (role, scenario), content in result.cells.items():
            seen[f"{result.peer.name} {role} {scenario}"] = content
    text = EXPECTED.read_text() if EXPECTED.is_file() else "{}"
    expected = json.loads(text)
    if bless:
        return write(results, seen, expected)

    wrong = []
    for key, content in seen.items():
        allowed = expected.get(key, {}).get("cell", "ok")
        if content != allowed:
            wrong.append(f"{key}: {content}\n    expected: {allowed}")
    if complete:
        wrong += [f"{key}: there is no such cell" for key in expected if key not in seen]
        if not PAGE.is_file() or tables(PAGE.read_text()) != tables(for_people(results)):
            wrong.append("docs/interop.md is not what this run has seen")
    if wrong:
        print("\nUnexpected:\n  " + "\n  ".join(wrong))
        print("\nIf that is intended, run tests/interop/run --bless and read the difference.")
        return 1
    print("all cells are as expected")
    return 0


def write(results, seen, old):
    """A failure is written only if someone has said why it is allowed."""
    expected = {}
    unexplained = []
    for key, content in seen.items():
        if content == "ok":
            continue
        expected[key] = {"cell": content}
        if content.startswith("FAILS"):
            why = old.get(key, {}).get("why")
            if why is None:
                unexplained.append(f"{key}: {content}")
            expected[key]["why"] = why
    if unexplained:
        print(f'\nNot blessed. Mend these, or add them to {EXPECTED.name}, each with a "why":')
        print("  " + "\n  ".join(unexplained))
        return 1
    EXPECTED.write_text(json.dumps(expected, indent=2, ensure_ascii=False) + "\n")
    PAGE.write_text(for_people(results, expected))
    print(f"wrote {EXPECTED.name} and {PAGE.name}")
    return 0


def tables(text):
    """The page without the versions, which may differ between systems."""
    return text.split("\n## Versions\n")[0]


def columns(results, role):
    return [each for each in results if any(key[0] == role for key in each.cells)]


def for_the_terminal(results):
    lines = []
    for role, title in TITLES.items():
        chosen = columns(results, role)
        if not chosen:
            continue
        widths = [max(5, len(each.peer.name)) for each in chosen]
        names = (each.peer.name.ljust(width) for each, width in zip(chosen, widths))
        lines += ["", f"{title}:", "  ".join([" " * WIDTH, *names]).rstrip()]
        for scenario in SCENARIOS:
            cells = (
                each.cells[role, scenario.name].split(":")[0].ljust(width)
                for each, width in zip(chosen, widths)
            )
            lines.append("  ".join([scenario.name.ljust(WIDTH), *cells]).rstrip())
    for each in columns(results, "own"):
        for own in each.peer.own:
            content = each.cells["own", own.name].split(":")[0]
            lines.append(f"{each.peer.name}, {own.name}: {content}")
    return "\n".join(lines)


class Reasons:
    """Numbers for what is not `ok`, in the order of their first use."""

    def __init__(self, names):
        self.numbers = {}
        # Names of libraries, which keep their lower case at the beginning of a sentence.
        self.names = names

    def cell(self, content):
        if content == "ok":
            return "ok"
        kind, reason = content.split(": ", 1)
        number = self.numbers.setdefault(reason, len(self.numbers) + 1)
        return f"[{number}]" if kind == "no" else f"**fails** [{number}]"

    def lines(self):
        return [f"{number}. {self.sentence(text)}." for text, number in self.numbers.items()]

    def sentence(self, text):
        if text.startswith(self.names):
            return text
        return text[:1].upper() + text[1:]


def for_people(results, expected=None):
    expected = expected or json.loads(EXPECTED.read_text() if EXPECTED.is_file() else "{}")
    reasons = Reasons(tuple(each.peer.name for each in results))

    def shown(result, role, scenario):
        content = result.cells[role, scenario]
        why = expected.get(f"{result.peer.name} {role} {scenario}", {}).get("why")
        return reasons.cell(f"FAILS: {why}" if why else content)

    lines = [INTRO]
    for role, title in TITLES.items():
        chosen = columns(results, role)
        lines += [f"## {title}", ""]
        lines.append(f"| | {' | '.join(each.peer.title for each in chosen)} |")
        lines.append("| --- |" + " --- |" * len(chosen))
        for scenario in SCENARIOS:
            cells = " | ".join(shown(each, role, scenario.name) for each in chosen)
            lines.append(f"| {scenario.name} | {cells} |")
        lines.append("")
    lines += ["## What only some peers are asked for", ""]
    lines += ["| peer | what happens | |", "| --- | --- | --- |"]
    for each in columns(results, "own"):
        for own in each.peer.own:
            lines.append(f"| {each.peer.title} | {own.about} | {shown(each, 'own', own.name)} |")
    lines += ["", "## Why not", "", *reasons.lines()]
    lines += ["", "## What the scenarios are", "", "| | |", "| --- | --- |"]
    lines += [f"| {scenario.name} | {scenario.about} |" for scenario in SCENARIOS]
    lines += ["", "## Versions", "", "| | |", "| --- | --- |"]
    versions = {each.peer.title: each.peer.version for each in results}
    lines += [f"| {title} | {version} |" for title, version in versions.items()]
    return "\n".join(lines) + "\n"
