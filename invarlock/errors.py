"""The hierarchy of errors that a user can act on.

A message is one line: what is wrong, where (file and field), and what to do. Each error has the problems
that caused it; their code determines the exit code of the command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Self

from invarlock.problems import Code, ExitCode, Problem

# Control characters, unusual spaces, marks that change the direction of writing or are invisible, and unpaired
# surrogates. They are listed explicitly: the definition of printable differs between Python versions, and the
# texts and pages of a pack must not differ.
_NOT_SHOWN = re.compile(
    "[\x00-\x1f\x7f-\xa0\xad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f"
    "\u2800\u3000\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


class Interrupted(KeyboardInterrupt):
    """The user stopped a command; the message says what was left behind and how to continue."""


class InvarLockError(Exception):
    """Base of every error that a user can act on.

    Args:
        message: what is wrong and what to do; the complete text if ``problems`` are given.
        where: the file, at the start of the error's text.
        field: the location in that file.
        code: the problem code; by default that of the first given problem, otherwise that of the class.
        problems: the problems found by a check, if any.
    """

    default_code: ClassVar[Code] = Code.USAGE_INVALID

    def __init__(
        self,
        message: str,
        *,
        where: str = "",
        field: str = "",
        code: Code | None = None,
        problems: Sequence[Problem] = (),
    ) -> None:
        self.problems = tuple(problems) or (Problem(code or self.default_code, where, field, message),)
        self.code = code or self.problems[0].code
        super().__init__(message if problems else str(self.problems[0]))

    @classmethod
    def listing(cls, lines: Iterable[str], *, code: Code, separator: str = "\n") -> Self:
        """Return an error for several problems with the same code, with one line for each."""
        found = [Problem(code, "", "", line) for line in dict.fromkeys(lines)]
        return cls(separator.join(map(str, found)), problems=found)

    def __reduce__(self) -> tuple[Callable[..., InvarLockError], tuple[object, ...]]:
        return _rebuilt, (type(self), str(self), self.code, self.problems)

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a command that ends with this error."""
        return self.code.exit_code

    @property
    def listed(self) -> tuple[Problem, ...]:
        """The problems in the order of the error's lines; a single problem for an error with its own text."""
        if str(self) == "\n".join(map(str, self.problems)):
            return self.problems
        return (Problem(self.code, "", "", str(self)),)

    @property
    def coded_text(self) -> str:
        """The lines of the error, each followed by the code of its problem, as commands and pytest print them."""
        # a name in a problem may contain a line break, which must not look like the end of a line
        return "\n".join(f"{printable(str(problem))} [{problem.code}]" for problem in self.listed)

    def document(self) -> dict[str, Any]:
        """Return the document that a command prints with ``--json`` when it ends with this error."""
        return {
            "ok": False,
            "exit_code": self.exit_code.value,
            "code": self.code.value,
            "message": str(self),
            "errors": [problem.document() for problem in self.problems],
        }


def _rebuilt(kind: type[InvarLockError], message: str, code: Code, problems: tuple[Problem, ...]) -> InvarLockError:
    return kind(message, code=code, problems=problems)


class CombinedError(InvarLockError):
    """Several errors that were found together; its code is that of the lowest exit code.

    Args:
        errors: the errors, at least one.
    """

    def __init__(self, errors: Sequence[InvarLockError]) -> None:
        self.lines = tuple(error.coded_text for error in errors)
        problems = [problem for error in errors for problem in error.problems]
        code = min((error.code for error in errors), key=lambda code: code.exit_code)
        super().__init__("; ".join(map(str, errors)), code=code, problems=problems)

    @property
    def coded_text(self) -> str:
        """The lines of each error, one error after the other."""
        return "\n".join(self.lines)

    def __reduce__(self) -> tuple[Callable[..., InvarLockError], tuple[object, ...]]:
        return _rebuilt, (InvarLockError, str(self), self.code, self.problems)


class UsageError(InvarLockError):
    """An option, a variable or a combination of them is invalid."""


class OutputError(UsageError):
    """The output of a command cannot be written."""

    default_code = Code.OUTPUT_UNWRITABLE


class MissingFileError(InvarLockError):
    """A required pack or file does not exist."""

    default_code = Code.FILE_MISSING


class ManifestError(InvarLockError):
    """A pack's manifest does not match its format."""

    default_code = Code.MANIFEST_MALFORMED


class SignatureError(InvarLockError):
    """A signature is missing, invalid, or by an untrusted signer."""

    default_code = Code.SIGNATURE_MALFORMED


class IntegrityError(InvarLockError):
    """A file does not match its digest, or a path is unsafe."""

    default_code = Code.CHECKSUM_DIFFERS


class ReportError(InvarLockError):
    """A report does not follow from its raw measurements, or does not verify."""

    default_code = Code.REPORT_MALFORMED


class DocumentError(InvarLockError):
    """A JSON, YAML or TOML document is malformed or does not match its schema."""

    default_code = Code.DOCUMENT_MALFORMED


class CheckpointError(InvarLockError):
    """A checkpoint is incomplete, malformed, or not the pinned one."""

    default_code = Code.CHECKPOINT_UNUSABLE


class HubError(InvarLockError):
    """A model or a data set cannot be downloaded from the hub, or is not the pinned one."""

    default_code = Code.HUB_UNAVAILABLE


class EditError(InvarLockError):
    """An edit or a fault cannot be applied to this checkpoint."""

    default_code = Code.EDIT_NOT_APPLICABLE


class EvaluationError(InvarLockError):
    """A measurement is not possible on this text or model."""

    default_code = Code.MEASUREMENT_IMPOSSIBLE


class OutOfMemoryError(EvaluationError):
    """A model, or one window of text, does not fit in the memory of its devices."""

    default_code = Code.MEMORY_EXHAUSTED


def disk_refuses(error: OSError) -> str:
    """Return the message for a file that cannot be read or written."""
    return f"{error.filename or 'a file'}: {error.strerror or error}; check disk space and permissions"


def printable(text: str) -> str:
    """Return text on one line, with control characters and invisible characters escaped.

    All printed names and values pass through it, since they may come from an attacker.
    """
    return _NOT_SHOWN.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_lines(text: str) -> str:
    """Return text of several lines, such as a list of problems, with each line escaped by ``printable``."""
    return "\n".join(map(printable, text.split("\n")))
