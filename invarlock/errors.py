"""The one hierarchy of errors: everything that can go wrong and that a user can act on.

A message says what was wrong, where (file and field) and what to do next, on one line. Each class carries
the exit code that a command ends with when the error reaches it.
"""

from __future__ import annotations

import re

# Controls, spaces that do not look like one, marks that turn the direction of writing or show nothing, halves of
# surrogate pairs. They stand here one by one: what Python calls printable differs from version to version, and the
# texts and pages of a pack must not.
_NOT_SHOWN = re.compile(
    "[\x00-\x1f\x7f-\xa0\xad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f"
    "\u2800\u3000\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


class InvarLockError(Exception):
    """Base of every error that a user can act on."""

    exit_code = 1


class UsageError(InvarLockError):
    """An option, a variable or a combination of them cannot work."""

    exit_code = 2


class OutputError(UsageError):
    """What a command has to say cannot be written."""


class MissingFileError(InvarLockError):
    """A pack or a file that the work needs is not there."""

    exit_code = 3


class ManifestError(InvarLockError):
    """A pack's manifest does not hold to its format."""

    exit_code = 4


class SignatureError(InvarLockError):
    """A signature is missing, wrong, or made by a signer who is not trusted."""

    exit_code = 5


class IntegrityError(InvarLockError):
    """Bytes are not those that a digest promised, or a path is unsafe."""

    exit_code = 6


class ReportError(InvarLockError):
    """A report does not follow from its raw measurements, or does not verify."""

    exit_code = 7


class DocumentError(InvarLockError):
    """A JSON, YAML or TOML document is malformed or does not hold to its schema."""


class CheckpointError(InvarLockError):
    """A checkpoint is incomplete, malformed, or not the one that was pinned."""


class HubError(InvarLockError):
    """A model or a data set cannot be had from the hub, or is not the one that was pinned."""


class EditError(InvarLockError):
    """An edit or a fault cannot be applied to this checkpoint."""


class EvaluationError(InvarLockError):
    """A measurement could not be made on this text or model."""


class OutOfMemoryError(EvaluationError):
    """A model, or one window of text, does not fit in the memory of its devices."""


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
