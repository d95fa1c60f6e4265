"""The selection by ``-m``, evaluated with pytest's own grammar.

Example::

    >>> expression = MarkExpression.parse("smoke and not full")
    >>> expression.selects({"smoke", "clean"})
    True
    >>> expression.selects_by("full", [{"smoke", "full"}])    # it only leaves full out
    False
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Set
from dataclasses import dataclass

from _pytest.mark import expression as grammar

from invarlock.errors import UsageError
from invarlock.problems import Code

_NAME = re.compile(r"[\w:+\-.\[\]\\/]+")
_STRING = re.compile(r"'[^']*'|\"[^\"]*\"")
# the arguments of mark(key=value): the only place where the grammar has an equals sign
_ARGUMENTS = re.compile(r"\([^()]*=[^()]*\)")
_OPERATORS = ("and", "or", "not")
# pytest before version 9 has its own error class; since version 9 it raises SyntaxError
_PARSE_ERROR: type[Exception] = getattr(grammar, "ParseError", SyntaxError)


@dataclass(frozen=True)
class MarkExpression:
    """A mark expression that pytest can evaluate; an empty expression selects every case and names no mark.

    Attributes:
        text: the expression as given to ``-m``.
        names: the distinct marks in the expression, in order.
    """

    text: str
    names: tuple[str, ...]

    @staticmethod
    def parse(text: str) -> MarkExpression:
        """Parse a mark expression.

        Raises:
            UsageError: when pytest cannot parse it; the message has the column.
        """
        try:
            grammar.Expression.compile(text)
        except _PARSE_ERROR as error:
            column = getattr(error, "offset", None) or getattr(error, "column", None)
            reason = getattr(error, "msg", None) or getattr(error, "message", None) or str(error)
            reason = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in reason)
            where = f"column {column}: " if column else ""
            raise UsageError(
                f"-m {text!r}: {where}{reason}; correct the expression", code=Code.SELECTION_INVALID
            ) from None
        bare = _ARGUMENTS.sub("", _STRING.sub("''", text))
        return MarkExpression(text, tuple(dict.fromkeys(n for n in _NAME.findall(bare) if n not in _OPERATORS)))

    def selects(self, marks: Set[str]) -> bool:
        """Return whether a test with the given marks, all without arguments, is selected."""
        if not self.text.strip():
            return True

        def has(name: str, /, **arguments: object) -> bool:
            return name in marks and not arguments

        return bool(grammar.Expression.compile(self.text).evaluate(has))

    def selects_by(self, mark: str, rows: Iterable[Set[str]]) -> bool:
        """Return whether some test is selected only because of a mark: with the mark, but not without it.

        Args:
            mark: the mark.
            rows: the marks of each test.
        """
        if mark not in self.names:
            return False
        having = (row for row in rows if mark in row)
        return any(self.selects(row) and not self.selects(row - {mark}) for row in having)
