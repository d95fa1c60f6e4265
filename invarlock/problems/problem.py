"""One problem as a value.

Example::

    >>> problem = Problem(Code.NUMBER_DOES_NOT_FOLLOW, "evaluation.report.json", "primary_metric.ci[0]", "1, derived 2")
    >>> str(problem)
    'evaluation.report.json: primary_metric.ci[0]: 1, derived 2'
    >>> problem.code.exit_code.name
    'REPORT'
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from invarlock.problems.codes import Code


@dataclass(frozen=True)
class Problem:
    """A problem that a check found.

    Attributes:
        code: the kind of problem; programs compare this.
        where: the file, relative to the pack or as the user gave it; empty if the problem concerns no file.
        field: the location in that file, such as ``primary_metric.ci[0]``; empty for the whole file.
        message: the explanation for people.
    """

    code: Code
    where: str
    field: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.field, self.message) if part)

    def document(self) -> dict[str, str]:
        """Return the problem as a JSON object."""
        return {"code": self.code.value, "where": self.where, "field": self.field, "message": self.message}

    def of(self, where: str) -> Problem:
        """Return the problem with its file set, for checks that do not know the file."""
        return replace(self, where=where)

    def below(self, folder: str) -> Problem:
        """Return the problem with its file prefixed by a folder, whose name ends with a slash."""
        return replace(self, where=f"{folder}{self.where}")

    def coded(self, code: Code) -> Problem:
        """Return the problem with another code, for a check that knows the purpose of the file."""
        return replace(self, code=code)


def first_class(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return the problems with the lowest exit code, in their order."""
    found = tuple(problems)
    lowest = min((problem.code.exit_code for problem in found), default=0)
    return tuple(problem for problem in found if problem.code.exit_code == lowest)
