"""Reading a baseline's own report from a pack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from invarlock.packer.format.contents import PackFiles
from invarlock.packer.format.in_pack import in_pack

from invarlock.errors import DocumentError, IntegrityError
from invarlock.jsonio import check_schema
from invarlock.problems import Code, Problem
from invarlock.reports.verification import verify_baseline


@dataclass(frozen=True)
class Baseline:
    """A baseline's own report, checked against its schema, and the SHA-256 (64 hex) of its bytes."""

    path: str
    document: Mapping[str, Any]
    digest: str


def read_baseline(files: PackFiles, path: str) -> tuple[Baseline | None, list[Problem]]:
    """Return a baseline's report (None if it is malformed), and a problem for each value that does not follow."""
    try:
        document = files.document(path)
        check_schema(document, "baseline_report", where=path)
    except IntegrityError:
        return None, []
    except DocumentError as error:
        return None, in_pack(error, Code.REPORT_MALFORMED)
    return Baseline(path, document, files.digests[path]), [problem.of(path) for problem in verify_baseline(document)]
