"""Fitting a tier's limits to measurements: the result is a proposal, which is never applied automatically.

The fit uses null runs and reports of passing edits; faults are not evidence of harmless changes. Each limit is fitted
to the measured values with a margin. A value tighter than the tier's shows how far the limit could be lowered; a looser
value shows that the limit is too strict for passing edits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invarlock.catalog.edit_specs import EDIT_NAMES
from invarlock.digests import digest_bytes
from invarlock.errors import InvarLockError, MissingFileError
from invarlock.guards import GUARD_NAMES
from invarlock.jsonio import check_schema, parse_json, read_file
from invarlock.judgement.learning import FittedLimit
from invarlock.reports.null_runs import SCHEMA as NULL_RUN_SCHEMA
from invarlock.reports.null_runs import null_changes, null_run_problems
from invarlock.reports.policy import PARTS, resolve_policy
from invarlock.reports.presets import PROFILE
from invarlock.reports.sidecars import REPORT_NAME
from invarlock.reports.verification import verify_report
from invarlock.statistics.rounding import rounded

SCHEMA = "invarlock/tier-proposal-v1"
# The limits that can be fitted, with their guard or metric, in the order of the proposal.
_FITTED = tuple((part.name, fitted) for part in PARTS for fitted in part.fitted)
# Fewer values than this say little about the 97.5 % quantile.
FEW = 40


@dataclass
class LimitMeasurements:
    """The values measured in a folder for each limit, the files used, and the unused files with the reasons."""

    values: dict[str, list[float]] = field(default_factory=dict)
    sources: list[dict[str, str]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)

    def add(self, name: str, values: Sequence[float | None]) -> None:
        """Add measured values of one quantity; None means not measured and is left out."""
        self.values.setdefault(name, []).extend(value for value in values if value is not None)


def fit_tier(folder: Path, tier: str) -> dict[str, Any]:
    """Return the proposal for a tier that follows from the reports and null runs in a folder and its subfolders.

    Raises:
        MissingFileError: when the folder does not exist, or has no usable files.
        UsageError: when the tier is unknown.
    """
    policy = resolve_policy(tier, PROFILE, {})
    measured = measure_folder(folder, policy)
    rows = [
        _row(fitted, measured.values.get(fitted.limit, []), policy[name][fitted.limit.partition(".")[2]])
        for name, fitted in _FITTED
    ]
    return {
        "schema": SCHEMA,
        "tier": tier,
        "limits": rows,
        "sources": measured.sources,
        "left_out": measured.left_out,
    }


def measure_folder(folder: Path, policy: Mapping[str, Any]) -> LimitMeasurements:
    """Return the measured values of the reports and null runs in a folder and its subfolders.

    Raises:
        MissingFileError: when the folder does not exist, or has no usable files.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder; give one with reports or null runs")
    measured = LimitMeasurements()
    seen: set[str] = set()
    for path in sorted([*folder.rglob(REPORT_NAME), *folder.rglob("null_run_*.json")]):
        place = str(path.relative_to(folder))
        try:
            data = read_file(path)
        except InvarLockError as error:
            measured.left_out.append({"path": place, "reason": str(error)})
            continue
        digest = digest_bytes(data)
        if digest in seen:
            # a run directory and its pack contain the same report
            continue
        seen.add(digest)
        try:
            document = parse_json(data, where=place)
            reason = _learn(document, policy, measured)
        except InvarLockError as error:
            reason = str(error)
        if reason is None:
            measured.sources.append({"path": place, "sha256": digest})
        elif reason:
            measured.left_out.append({"path": place, "reason": reason})
    if not measured.sources:
        why = f", such as {measured.left_out[0]['reason']}" if measured.left_out else ""
        raise MissingFileError(
            f"{folder}: nothing to fit: no null run, and no report of a passing edit{why}; "
            "give a run directory or a pack"
        )
    return measured


def proposal_lines(proposal: Mapping[str, Any]) -> Iterator[str]:
    """Yield a proposal as text: a table of limits, then its sources."""
    table = [("limit", "present", "proposed", "values", "")]
    table += [
        (row["limit"], _shown(row["present"]), _shown(row["proposed"]), str(row["n"]), row["change"])
        for row in proposal["limits"]
    ]
    widths = [max(len(line[column]) for line in table) for column in range(4)]
    for line in table:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        yield "  ".join([*cells, line[4]]).rstrip()
    yield f"fitted to {len(proposal['sources'])} files, {len(proposal['left_out'])} not used; the tier is unchanged"


def _learn(document: Any, policy: Mapping[str, Any], measured: LimitMeasurements) -> str | None:
    """Add a document's values, or return why it is not used; empty if it is neither a case report nor a null run."""
    if not isinstance(document, dict):
        return "not an object"
    if document.get("schema") == NULL_RUN_SCHEMA:
        check_schema(document, "null_run", where="null run")
        wrong = next(map(str, null_run_problems(document)), None)
        if wrong is not None:
            return wrong
        for change in null_changes(document):
            for _, fitted in _FITTED:
                measured.add(fitted.limit, fitted.of_change(change, policy))
        return None
    if "draws" in document:
        # a baseline's own report
        return ""
    problems = verify_report(document)
    if problems:
        return f"does not verify: {problems[0]}"
    if document["edit"]["name"] not in (*EDIT_NAMES, "custom"):
        return f"a fault ({document['edit']['name']})"
    if document["assurance"]["verdict"] != "PASS":
        return "does not pass"
    for name, fitted in _FITTED:
        if name not in GUARD_NAMES or name in document["guards"]:
            measured.add(fitted.limit, fitted.of_report(document[name]))
    return None


def _row(fitted: FittedLimit, values: Sequence[float], present: Any) -> dict[str, Any]:
    """Return the row of a limit in the proposal."""
    row: dict[str, Any] = {"limit": fitted.limit, "present": present, "n": len(values)}
    if not values:
        return {**row, "observed": None, "proposed": None, "change": "nothing measured"}
    level, proposed = fitted.propose(values)
    before, after = (value[1] if isinstance(value, list) else value for value in (present, proposed))
    change = "looser" if after > before else "tighter"
    few = f"{change}, few values" if len(values) < FEW else change
    return {**row, "observed": rounded(level), "proposed": proposed, "change": few}


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return " to ".join(f"{one:.4g}" for one in value) if isinstance(value, list) else f"{value:.4g}"
