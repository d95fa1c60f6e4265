"""The one hierarchy of errors: everything that can go wrong and that a user can act on.

A message says what was wrong, where (file and field) and what to do next, on one line. Each error holds the problems
that it is about; its code gives the exit code of the command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from invarlock.problems import Code, ExitCode, Problem

# Controls, spaces that do not look like one, marks that turn the direction of writing or show nothing, halves of
# surrogate pairs. They stand here one by one: what Python calls printable differs from version to version, and the
# texts and pages of a pack must not.
_NOT_SHOWN = re.compile(
    "[\x00-\x1f\x7f-\xa0\xad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f"
    "\u2800\u3000\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


class InvarLockError(Exception):
    """Base of every error that a user can act on.

    Args:
        message: what was wrong and what to do; all of the text when ``problems`` are given.
        where: the file, which the text of the error begins with.
        field: the place in that file.
        code: of the problem, by default that of the first problem given, else that of the class.
        problems: what a check found, when the error is about that; at least one.
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

    def __reduce__(self) -> tuple[Callable[..., InvarLockError], tuple[object, ...]]:
        return _rebuilt, (type(self), str(self), self.code, self.problems)

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a command that ends with this error."""
        return self.code.exit_code

    def document(self) -> dict[str, Any]:
        """Return what a command prints with ``--json`` when it ends with this error."""
        return {
            "ok": False,
            "exit_code": self.exit_code.value,
            "code": self.code.value,
            "message": str(self),
            "errors": [problem.document() for problem in self.problems],
        }


def _rebuilt(kind: type[InvarLockError], message: str, code: Code, problems: tuple[Problem, ...]) -> InvarLockError:
    return kind(message, code=code, problems=problems)


class UsageError(InvarLockError):
    """An option, a variable or a combination of them cannot work."""


class OutputError(UsageError):
    """The output of a command cannot be written."""

    default_code = Code.OUTPUT_UNWRITABLE


class MissingFileError(InvarLockError):
    """A pack or a file that the work needs is not there."""

    default_code = Code.FILE_MISSING


class ManifestError(InvarLockError):
    """A pack's manifest does not match its format."""

    default_code = Code.MANIFEST_MALFORMED


class SignatureError(InvarLockError):
    """A signature is missing, wrong, or made by a signer who is not trusted."""

    default_code = Code.SIGNATURE_MALFORMED


class IntegrityError(InvarLockError):
    """Bytes are not those that a digest promised, or a path is unsafe."""

    default_code = Code.CHECKSUM_DIFFERS


class ReportError(InvarLockError):
    """A report does not follow from its raw measurements, or does not verify."""

    default_code = Code.REPORT_MALFORMED


class DocumentError(InvarLockError):
    """A JSON, YAML or TOML document is malformed or does not match its schema."""

    default_code = Code.DOCUMENT_MALFORMED


class CheckpointError(InvarLockError):
    """A checkpoint is incomplete, malformed, or not the one that was pinned."""

    default_code = Code.CHECKPOINT_UNUSABLE


class HubError(InvarLockError):
    """A model or a data set cannot be downloaded from the hub, or is not the one that was pinned."""

    default_code = Code.HUB_UNAVAILABLE


class EditError(InvarLockError):
    """An edit or a fault cannot be applied to this checkpoint."""

    default_code = Code.EDIT_NOT_APPLICABLE


class EvaluationError(InvarLockError):
    """A measurement could not be made on this text or model."""

    default_code = Code.MEASUREMENT_IMPOSSIBLE


class OutOfMemoryError(EvaluationError):
    """A model, or one window of text, does not fit in the memory of its devices."""

    default_code = Code.MEMORY_EXHAUSTED


def disk_refuses(error: OSError) -> str:
    """Return what a user is told when a file cannot be read or written."""
    return f"{error.filename or 'a file'}: {error.strerror or error}; check disk space and permissions"


def printable(text: str) -> str:
    """Return text on one line, with each character spelled out that a terminal obeys or that shows nothing.

    It is the one way out for names and values, which may be an attacker's.
    """
    return _NOT_SHOWN.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_lines(text: str) -> str:
    """Return text of several lines, such as a list of problems, with each line as ``printable`` gives it."""
    return "\n".join(map(printable, text.split("\n")))
