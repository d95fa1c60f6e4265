"""The results derived from the reports of a pack: the verdict, summaries, and every ``verify.json``.

Building and verifying use the same functions, so a verifier expects exactly what a builder writes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from invarlock.packer.format import layout
from invarlock.packer.format.contents import PackFiles
from invarlock.packer.format.in_pack import in_pack
from invarlock.packer.format.layout import is_baseline, is_report, sibling
from invarlock.packer.format.limits import MAX_JSON_BYTES, MAX_JSON_VALUES
from invarlock.packer.verify.reports import Findings

from invarlock.digests import sha256_hex
from invarlock.documents import JsonObject
from invarlock.errors import DocumentError, IntegrityError, InvarLockError
from invarlock.jsonio import is_dump_of, parse_json
from invarlock.problems import Code, Problem
from invarlock.reports.repeats import summarise_repeats
from invarlock.reports.verification import differences
from invarlock.verdict.compiling import compile_records
from invarlock.verdict.documents import Verdict
from invarlock.verdict.guard_value import sweep_document
from invarlock.verdict.job_summary import badge
from invarlock.verdict.rendering import render_verdict_text
from invarlock.verdict.summaries import summarise, summarise_artifacts, summarise_seconds

MAX_DIFFERENCES = 5
_TIMESTAMP = re.compile(rb'\n  "timestamp": "([0-9TZ:-]{1,32})"')


@dataclass(frozen=True)
class Results:
    """The verdict that follows from a pack's reports (or None), and the results in the pack that do not follow."""

    verdict: Verdict | None = None
    warnings: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def derive_verdict(found: Findings, timestamp: str, not_bundled: Collection[str] = ()) -> Verdict:
    """Return the verdict that follows from reports; ``not_bundled`` are the ids of omitted cases.

    Raises:
        DocumentError: when the pack has no effective manifest.
    """
    if found.planned.scenarios is None:
        words = "missing or malformed, but the verdict is derived from it"
        raise DocumentError(words, where=layout.SCENARIOS, code=Code.PLAN_MISSING)
    records = {path: facts.record for path, facts in found.facts.items()}
    return compile_records(
        found.planned.scenarios,
        found.planned.plan.cases,
        records,
        found.planned.outcomes,
        timestamp=timestamp,
        not_bundled=not_bundled,
    )


def derive_results(found: Findings, verdict: Mapping[str, Any]) -> JsonObject:
    """Return the derived files by path: ``results/`` without the verdict, sweeps, and every ``verify.json``."""
    results: JsonObject = {f"results/{name}": document for name, document in summarise(verdict).items()}
    results[layout.ARTIFACT_SUMMARY] = summarise_artifacts(
        {
            sibling(path, layout.EDIT_METADATA): facts.artifact
            for path, facts in found.facts.items()
            if facts.artifact is not None
        },
        sum(facts.artifact is None for facts in found.facts.values()),
    )
    results[layout.SECONDS_SUMMARY] = summarise_seconds(
        (facts.model_id, facts.kind, facts.telemetry) for facts in found.facts.values() if facts.is_timed
    )
    results[layout.BADGE] = badge(verdict)
    repeated = {path: facts.repeats for path, facts in found.facts.items() if facts.repeats is not None}
    if repeated:
        results[layout.REPEATS_SUMMARY] = summarise_repeats(repeated)
    sweep = {path: facts.sweep for path, facts in found.facts.items() if facts.sweep is not None}
    if sweep:
        results[layout.GUARD_VALUE] = sweep_document(sweep)
    for path, envelope in found.envelopes.items():
        results[sibling(path, layout.REPORT_VERIFICATION)] = envelope
    return results


def check_results(files: PackFiles, found: Findings) -> Results:
    """Return the derived verdict of a pack, and the results in it that do not follow from its reports."""
    if not any(path.startswith(layout.DERIVED_FOLDERS) or path == layout.SCENARIOS for path in files.digests):
        return Results(warnings=("the pack has no report and no verdict: only checksums and signature were checked",))
    try:
        claimed = files.data(layout.VERDICT_JSON, MAX_JSON_BYTES)
        match = _TIMESTAMP.search(claimed)
        timestamp = "" if match is None else match[1].decode("ascii")
        verdict = derive_verdict(found, timestamp, _left_out(claimed))
    except InvarLockError as error:
        return Results(problems=tuple(in_pack(error)))
    problems = _differences(layout.VERDICT_JSON, claimed, verdict)
    expected = derive_results(found, verdict)
    for path, document in expected.items():
        if path != layout.BADGE or path in files.digests:
            problems += _compare(files, path, document)
    if files.digests.get(layout.VERDICT_TEXT) != sha256_hex(render_verdict_text(verdict).encode("utf-8")):
        words = "not the text of the derived verdict"
        problems.append(Problem(Code.RESULT_DOES_NOT_FOLLOW, layout.VERDICT_TEXT, "", words))
    needed = {path for facts in found.facts.values() for path in facts.companions}
    needed |= {sibling(path, layout.REPEATS) for path, facts in found.facts.items() if facts.repeats is not None}
    problems += _strays(files.digests, expected, needed)
    return Results(verdict, problems=tuple(problems))


def _left_out(claimed: bytes) -> frozenset[str]:
    """Return the cases that a verdict lists as not bundled; a later check derives whether they were planned.

    Raises:
        DocumentError: when the verdict is not strict JSON.
    """
    if b'"not_bundled"' not in claimed:
        return frozenset()
    document = parse_json(claimed, where=layout.VERDICT_JSON, limit_bytes=MAX_JSON_BYTES, limit_values=MAX_JSON_VALUES)
    names = document.get("not_bundled") if isinstance(document, dict) else None
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()


def _compare(files: PackFiles, path: str, derived: Any) -> list[Problem]:
    """Return the differences between a document and the derived one."""
    if path not in files.digests:
        return [Problem(Code.FILE_ABSENT, path, "", "missing")]
    try:
        claimed = files.data(path, MAX_JSON_BYTES)
    except IntegrityError:
        return []
    return _differences(path, claimed, derived)


def _differences(path: str, claimed: bytes, derived: Any) -> list[Problem]:
    # equal bytes need no parsing, whose result takes several times their memory
    if is_dump_of(claimed, derived):
        return []
    try:
        document = parse_json(claimed, where=path, limit_bytes=MAX_JSON_BYTES, limit_values=MAX_JSON_VALUES)
    except DocumentError as error:
        return in_pack(error)
    code = Code.RESULT_DOES_NOT_FOLLOW
    found = list(islice(differences(document, derived, where=path, code=code), MAX_DIFFERENCES + 1))
    more = [Problem(code, path, "", "and more differences")] if len(found) > MAX_DIFFERENCES else []
    return found[:MAX_DIFFERENCES] + more


def _strays(paths: Iterable[str], derived: Iterable[str], needed: Iterable[str]) -> list[Problem]:
    """Return the files in the folders of reports and results that belong to no report."""
    known = {layout.VERDICT_JSON, layout.VERDICT_TEXT, *derived}
    found = [path for path in paths if path.startswith(layout.DERIVED_FOLDERS)]
    reports = {path for path in found if is_report(path)}
    known |= reports | {sibling(path, name) for path in reports for name in (*layout.SIDECARS, layout.PAGE)}
    known |= set(needed)
    return [
        Problem(Code.FILE_DOES_NOT_FOLLOW, path, "", "does not follow from the reports")
        for path in sorted(found)
        if path not in known and not is_baseline(path)
    ]
