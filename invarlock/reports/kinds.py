"""The two kinds of report: of a comparison, and of its baseline. Files of both have the same name."""

from __future__ import annotations

from typing import Any, Literal

from invarlock.errors import DocumentError
from invarlock.jsonio import check_schema

Kind = Literal["evaluation_report", "baseline_report"]
# For each kind, a key that only it has, and what to do if it is given in place of the other.
_MARK: dict[Kind, tuple[str, str]] = {
    "evaluation_report": (
        "baseline_ref",
        "the report of a comparison; give its baseline's own report: evaluate writes it to the folder baseline next "
        "to this report",
    ),
    "baseline_report": (
        "draws",
        "a baseline's own report, which compares nothing; give the report of a comparison: evaluate writes it one "
        "folder above",
    ),
}


def check_report(document: Any, kind: Kind, *, where: str) -> None:
    """Check a report against the schema of its kind; a report of the other kind is named as such.

    Raises:
        DocumentError: when the document is not a report of this kind.
    """
    try:
        check_schema(document, kind, where=where)
    except DocumentError:
        for other, (key, words) in _MARK.items():
            if other != kind and isinstance(document, dict) and key in document and _MARK[kind][0] not in document:
                raise DocumentError(words, where=where) from None
        raise
