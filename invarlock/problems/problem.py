"""The value of one problem.

Example::

    problem = Problem(Code.NUMBER_DOES_NOT_FOLLOW, "reports/…/evaluation.report.json", "primary_metric.ci[0]", "1, derived 2")
    str(problem)              # "reports/…/evaluation.report.json: primary_metric.ci[0]: 1, derived 2"
    problem.code.exit_code    # ExitCode.REPORT
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from invarlock.problems.codes import Code


@dataclass(frozen=True)
class Problem:
    """One thing that a check found wrong.

    Attributes:
        code: what is wrong; programs compare this.
        where: the file, relative to the pack or as the user named it; empty where no file is meant.
        field: the place in that file, such as ``primary_metric.ci[0]``; empty for all of it.
        message: what was found, for people.
    """

    code: Code
    where: str
    field: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.field, self.message) if part)

    def document(self) -> dict[str, str]:
        """Return the object that JSON outputs hold."""
        return {"code": self.code.value, "where": self.where, "field": self.field, "message": self.message}

    def of(self, where: str) -> Problem:
        """Return the problem with a file, for a check that did not know which file it had."""
        return replace(self, where=where)

    def below(self, folder: str) -> Problem:
        """Return the problem with its file in a folder, whose name ends with a slash."""
        return replace(self, where=f"{folder}{self.where}")

    def coded(self, code: Code) -> Problem:
        """Return the problem under another code, for a check that knows what the file is for."""
        return replace(self, code=code)


def first_class(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return the problems of the lowest exit code among them, in their order."""
    found = tuple(problems)
    lowest = min((problem.code.exit_code for problem in found), default=0)
    return tuple(problem for problem in found if problem.code.exit_code == lowest)
