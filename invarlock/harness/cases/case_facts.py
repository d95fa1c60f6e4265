"""The facts of a case that fit on one line: what was applied, the ratio and the guards.

They are attached to pytest's report of the case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invarlock.catalog.edit_labels import edit_text
from invarlock.guards import GUARD_NAMES


def case_facts(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the properties of a case; ``--junitxml`` and ``--json-report-file`` contain them too."""
    return {
        "spec": edit_text(report["edit"]),
        "ratio": ratio_text(report["primary_metric"]["ratio_vs_baseline"]),
        "guards": guards_text(report),
    }


def ratio_text(ratio: float | None) -> str:
    """Return a perplexity ratio in a few characters; None means that it is too large or could not be measured."""
    if ratio is None:
        return "none"
    return f"{ratio:.4f}" if ratio < 1000 else f"{ratio:.2e}"


def guards_text(report: Mapping[str, Any]) -> str:
    """Return ``pass``, or the guards that did not pass, such as ``spectral fail, rmt warn``."""
    states = [(guard, report[guard]["status"]) for guard in GUARD_NAMES if guard in report]
    return ", ".join(f"{guard} {status}" for guard, status in states if status != "pass") or "pass"
