"""``docs/problems.md``, generated from the enumeration of codes."""

from __future__ import annotations

from invarlock.problems.codes import Code, ExitCode

HEAD = """# Problems

Each thing that a check finds wrong has a code. JSON outputs hold it with its place:

```json
{"code": "number_does_not_follow", "where": "reports/m/s/run_1/evaluation.report.json",
 "field": "primary_metric.ci[0]", "message": "0.5, derived 1.0"}
```

Compare codes, never messages: a code keeps its meaning, and a message may be worded differently in the next version.
`where` is the file, `field` the place in it; either may be empty.

This page is written by `python -m invarlock.problems`.

## Exit codes

A command ends with the exit code of the problem that it met. `verify` goes through the classes from 3 to 7, stops at
the first one that has a problem, and lists all problems of that class.

"""


def problems_page() -> str:
    """Return the page: the exit codes, and below each the codes that end with it."""
    lines = ["| exit code | meaning |", "| --- | --- |"]
    lines += [f"| {code.value} | {code.meaning} |" for code in ExitCode]
    for exit_code in ExitCode:
        rows = [code for code in Code if code.exit_code is exit_code]
        if rows:
            lines += ["", f"## Exit code {exit_code.value}", "", "| code | what is wrong | what to do |"]
            lines += ["| --- | --- | --- |"]
            lines += [f"| `{code.value}` | {code.meaning} | {code.remedy} |" for code in rows]
    return HEAD + "\n".join(lines) + "\n"


def exit_codes_line(*codes: ExitCode) -> str:
    """Return the line that ends the help of a command, for all exit codes or some."""
    return "exit codes: " + "; ".join(f"{code.value} {code.meaning}" for code in codes or ExitCode)
