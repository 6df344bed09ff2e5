"""Compares the reports of the Autobahn test suite with the table of expected results.

Usage: check.py [--bless] TABLE REPORTS

TABLE is a JSON file. For each case and role it has two results, as in "NON-STRICT/OK": that of the
case, and that of its closing. REPORTS is a folder with the reports of each run, in ROLE-SCHEME/N.
Beside them, the file `cases` has the patterns of the run's cases, as in "1.*,2.*". Every case of the
table that matches one of them must be there. With --bless, the table is written, with the worse
result if runs differ.

Prints a line for each run, and one for each result that is not as it should be. The exit status is
1 if a case is missing, if it has failed, or if its result is worse than expected. A case that the
table lacks is expected to be "OK/OK".

Runs with the Python 2.7 of the suite, and with Python 3.
"""

from __future__ import print_function

import collections
import fnmatch
import glob
import io
import json
import os
import sys

# From the best to the worst that is accepted. All others are failures.
ACCEPTED = ["OK", "NON-STRICT", "INFORMATIONAL"]


def rank(result):
    """Returns 0 for the best result, and more for a worse one."""
    return ACCEPTED.index(result) if result in ACCEPTED else len(ACCEPTED)


def ranks(results):
    """Ranks results such as "NON-STRICT/OK"."""
    return [rank(result) for result in results.split("/", 1)]


def has_failed(results):
    return max(ranks(results)) == len(ACCEPTED)


def is_worse(results, expected):
    return any(a > b for a, b in zip(ranks(results), ranks(expected)))


def worse(one, other):
    """Combines the worse of both results."""
    parts = zip(one.split("/", 1), other.split("/", 1))
    return "/".join(max(part, key=rank) for part in parts)


def load(path):
    with io.open(path, encoding="utf-8") as file:
        return json.load(file)


def read_run(folder):
    """Returns the results of all cases of a run, and the files that describe them."""
    results = {}
    files = {}
    for index in glob.glob(os.path.join(folder, "*", "index.json")):
        for cases in load(index).values():
            for case, it in cases.items():
                results[case] = it["behavior"] + "/" + it["behaviorClose"]
                files[case] = os.path.join(os.path.dirname(index), it["reportfile"])
    return results, files


def read_patterns(path):
    with io.open(path, encoding="utf-8") as file:
        return file.read().strip().split(",")


def matches(case, patterns):
    return any(fnmatch.fnmatchcase(case, pattern) for pattern in patterns)


def explain(path):
    report = load(path)
    return "{} {}".format(report["result"], report["resultClose"])


def check(run, results, files, expected):
    """Prints what is wrong with a run, and what is better than expected. Returns the former."""
    wrong = []
    better = []
    for case in sorted(set(results) | set(expected), key=by_number):
        known = expected.get(case)
        if case not in results:
            wrong.append("{}: missing".format(case))
        elif has_failed(results[case]):
            wrong.append("{}: {} ({})".format(case, results[case], explain(files[case])))
        elif known is None and results[case] == "OK/OK":
            better.append("{}: {}, and the table lacks it".format(case, results[case]))
        elif known is None:
            wrong.append("{}: {}, and the table lacks it".format(case, results[case]))
        elif is_worse(results[case], known):
            wrong.append("{}: {}, worse than {}".format(case, results[case], known))
        elif results[case] != known:
            better.append("{}: {}, better than {}".format(case, results[case], known))
    counts = collections.Counter(max(it.split("/"), key=rank) for it in results.values())
    summary = ", ".join("{} {}".format(counts[it], it) for it in sorted(counts, key=rank))
    print("{}: {} cases: {}".format(run, len(results), summary or "none"))
    for line in wrong:
        print("  WRONG {}".format(line))
    for line in better:
        print("  {} (--bless updates the table)".format(line))
    return wrong


def by_number(case):
    return [int(part) for part in case.split(".")]


def write_table(path, table):
    lines = []
    for case in sorted(table, key=by_number):
        lines.append('  "{}": {}'.format(case, json.dumps(table[case], sort_keys=True)))
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    with io.open(path, "w", encoding="utf-8") as file:
        file.write(text if isinstance(text, type(u"")) else text.decode("utf-8"))


def main(arguments):
    bless = arguments[:1] == ["--bless"]
    path, reports = arguments[bless:bless + 2]
    runs = {run: read_run(os.path.join(reports, run)) for run in sorted(os.listdir(reports))}
    table = load(path) if os.path.exists(path) else {}
    if bless:
        table = {}
        for run, (results, _) in runs.items():
            role = run.split("-")[0]
            for case, result in results.items():
                row = table.setdefault(case, {})
                row[role] = worse(result, row.get(role, result))
    wrong = []
    for run in sorted(runs):
        results, files = runs[run]
        role = run.split("-")[0]
        patterns = read_patterns(os.path.join(reports, run, "cases"))
        expected = {case: row.get(role) for case, row in table.items() if matches(case, patterns)}
        wrong += check(run, results, files, expected)
        if not results:
            wrong.append("{}: no case was run".format(run))
    if bless and not wrong:
        write_table(path, table)
        print("{}: {} cases".format(path, len(table)))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
