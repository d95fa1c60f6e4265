"""Conversion of errors about a file of a pack into verification problems."""

from __future__ import annotations

from invarlock.errors import InvarLockError
from invarlock.problems import Code, ExitCode, Problem


def in_pack(error: InvarLockError, code: Code = Code.FILE_MALFORMED) -> list[Problem]:
    """Return the problems in an error; a problem without a pack code gets ``code``.

    A malformed document is a usage error if the user passed it, but a problem of the pack if the pack contains it.
    """
    return [problem if problem.code.exit_code > ExitCode.USAGE else problem.coded(code) for problem in error.problems]
