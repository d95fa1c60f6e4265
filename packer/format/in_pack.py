"""What an error means when it is about a file of a pack that is verified."""

from __future__ import annotations

from invarlock.errors import InvarLockError
from invarlock.problems import Code, ExitCode, Problem


def in_pack(error: InvarLockError, code: Code = Code.FILE_MALFORMED) -> list[Problem]:
    """Return the problems of an error, which get a code of a pack's checks where they have none.

    A document that is malformed is a usage error where a user gave it, and a problem of the pack where the pack has it.
    """
    return [problem if problem.code.exit_code > ExitCode.USAGE else problem.coded(code) for problem in error.problems]
