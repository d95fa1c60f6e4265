"""The evidence statement of a pack: what it covers, what it does not cover, and whether it is strong evidence.

Example::

    covered: 4 edits that must pass, 1 that must fail, 4 faults that must be detected, on 1 model
    not covered: a second model; a container (9 of 9 reports were made on the host)
    strong evidence: no, missing: strict checks (--strict); container provenance of 4 of 4 clean reports
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from invarlock.packer.format import layout

from invarlock.catalog.edit_specs import CleanSpec, parse_edit_spec
from invarlock.errors import UsageError
from invarlock.guards import GUARD_NAMES
from invarlock.reports.served import NOTHING_PROVES
from invarlock.verdict.compiling import Planned

# For each strictness of a scenario: the text for one case, for several cases, and for the gap if there is no case.
KINDS = {
    "must_pass": ("1 edit that must pass", "{} edits that must pass", "whether a harmless edit passes"),
    "must_fail": ("1 that must fail", "{} that must fail", "whether a destructive edit fails"),
    "must_detect": (
        "1 fault that must be detected",
        "{} faults that must be detected",
        "whether a fault is detected",
    ),
    "informational": ("1 informational case", "{} informational cases", ""),
}
# The maximum number of server statements that a line lists.
MAX_STATEMENTS = 5
# The files that record the origin of the evidence.
ORIGINS = {
    layout.MODEL_REVISIONS: "pins of the models",
    layout.ENVIRONMENT: "the environment",
    layout.SOURCE_REPO: "the source",
    layout.PYTEST_REPORT: "pytest's account of the cases",
}
# The blocks and fields that a manifest must state.
STATED: Mapping[str, tuple[str, ...]] = {
    "generated_at": (),
    "invarlock_version": (),
    "suite": (),
    "models": (),
    "subject": ("path", "digest"),
    "environment": ("path", "digest"),
    "invocation.config_source": ("path", "digest", "commit"),
    "verification": ("clean_reports", "error_injection_reports", "failed_reports", "report_assurance"),
    "verification_baselines": (),
}


@dataclass(frozen=True)
class Scope:
    """The planned cases, and which of them have a report.

    Attributes:
        strictness: the strictness of each planned case, by report path.
        models: number of models with a report.
        reports: paths of the existing reports.
        contained: paths of the reports that were made in a container.
        served: the server's statement about each served subject, by report path.
    """

    strictness: Mapping[str, str]
    models: int
    reports: frozenset[str]
    contained: frozenset[str]
    served: Mapping[str, str] = field(default_factory=dict)


def scope_of(
    plan: Mapping[str, Planned],
    reports: Collection[str],
    contained: Collection[str],
    served: Mapping[str, str] | None = None,
) -> Scope:
    """Return the scope of a run, given its planned cases and the paths of its reports."""
    return Scope(
        {path: str(planned.scenario["strictness"]) for path, planned in plan.items()},
        len({planned.case["model"] for path, planned in plan.items() if path in reports}),
        frozenset(reports),
        frozenset(contained),
        {} if served is None else dict(served),
    )


def covered(scope: Scope) -> str:
    """Describe the planned cases that have a report, and the number of their models."""
    counts = {kind: list(_reported(scope)).count(kind) for kind in KINDS}
    parts = [KINDS[kind][0] if count == 1 else KINDS[kind][1].format(count) for kind, count in counts.items() if count]
    models = "1 model" if scope.models == 1 else f"{scope.models} models"
    return f"{', '.join(parts)}, on {models}" if parts else "nothing"


def not_covered(scope: Scope, *, signed: bool = True) -> list[str]:
    """Return the gaps in the pack's coverage, which another run could close."""
    kinds = set(_reported(scope))
    lacking = [missing for kind, (_, _, missing) in KINDS.items() if missing and kind not in kinds]
    if scope.models == 1:
        lacking.append("a second model")
    without = [path for path in scope.strictness if path not in scope.reports]
    if without:
        lacking.append(f"{len(without)} of {len(scope.strictness)} planned cases, which have no report")
    if scope.served:
        lacking.append(
            f"weights, activations and configuration of {_counted(scope.served, scope.reports, 'subject')} behind a "
            f"server ({', '.join(GUARD_NAMES)} were not evaluated)"
        )
    outside = scope.reports - scope.contained
    if outside:
        lacking.append(f"a container ({len(outside)} of {len(scope.reports)} reports were made on the host)")
    if not signed:
        lacking.append("who made it: the pack is not signed")
    return lacking


def server_statements(scope: Scope) -> list[str]:
    """Return the distinct statements that servers make about their models."""
    lines = list(dict.fromkeys(scope.served.values()))
    more = [f"{len(lines) - MAX_STATEMENTS} more statements"] if len(lines) > MAX_STATEMENTS else []
    return [*lines[:MAX_STATEMENTS], *more]


def _counted(some: Collection[str], everything: Collection[str], noun: str) -> str:
    if len(some) < len(everything):
        return f"{len(some)} of {len(everything)} {noun}s"
    return f"1 {noun}" if len(some) == 1 else f"all {len(some)} {noun}s"


def _reported(scope: Scope) -> Iterator[str]:
    """Yield the strictness of each planned case that has a report."""
    return (kind for path, kind in scope.strictness.items() if path in scope.reports)


def absent(manifest: Mapping[str, Any], digests: Collection[str], plan: Mapping[str, Planned]) -> Iterator[str]:
    """Yield the provenance that a pack lacks: files, and fields of its manifest."""
    yield from (f"{name} ({path})" for path, name in ORIGINS.items() if path not in digests)
    if layout.TUNED_PARAMS not in digests and any(map(_is_tuned, plan.values())):
        yield f"the tuned parameters that clean edits used ({layout.TUNED_PARAMS})"
    unstated = []
    for name, fields in STATED.items():
        block: Any = manifest
        for step in name.split("."):
            block = block.get(step) if isinstance(block, dict) else None
        if not block:
            unstated.append(name)
        else:
            unstated += [f"{name}.{field}" for field in fields if block.get(field) is None]
    if unstated:
        yield f"in the manifest: {', '.join(unstated)}"


def missing_in_pack(
    scope: Scope, clean: Collection[str], verdict: Mapping[str, Any] | None, absent_parts: Sequence[str]
) -> list[str]:
    """Return the reasons why a pack is not strong evidence, independent of the receiver's options.

    Args:
        scope: the planned cases and the reports.
        clean: the paths of the reports of clean edits.
        verdict: the derived verdict, or None.
        absent_parts: the result of ``absent``.
    """
    outside, unseen = len(set(clean) - scope.contained), len(scope.served.keys() & set(clean))
    caught = {"must_fail", "must_detect"}
    conditions = {
        "a clean report": bool(clean),
        "a clean edit that must pass": any(scope.strictness.get(path) == "must_pass" for path in clean),
        "a fault or a destructive edit that the gates must catch": not caught.isdisjoint(_reported(scope)),
        f"container provenance of {outside} of {len(clean)} clean reports": not outside,
        f"the weights of {unseen} of {len(clean)} clean subjects, which a server computes with": not unseen,
        "verdict PASS": verdict is not None and verdict["verdict"] == "PASS",
    }
    return [name for name, holds in conditions.items() if not holds] + list(absent_parts)


def statement(
    included: str, gaps: Sequence[str], missing: Sequence[str], strong: str = "yes", stated: Sequence[str] = ()
) -> list[str]:
    """Return the evidence statement as lines of text.

    Args:
        included: what the pack covers.
        gaps: what it does not cover.
        missing: why it is not strong evidence.
        strong: the text to use if nothing is missing.
        stated: the servers' statements about served subjects; if empty, the line for them is omitted.
    """
    return [
        f"covered: {included}",
        f"not covered: {'; '.join(gaps) or 'nothing'}",
        f"strong evidence: {'no, missing: ' + '; '.join(missing) if missing else strong}",
        *([f"served subjects: {'; '.join(stated)} ({NOTHING_PROVES})"] if stated else []),
    ]


def pack_statement(
    scope: Scope, clean: Collection[str], verdict: Mapping[str, Any] | None, absent_parts: Sequence[str]
) -> list[str]:
    """Return the statement shown in a pack's README and to its maker, before any receiver has verified the pack."""
    missing = missing_in_pack(scope, clean, verdict, absent_parts)
    strong = "yes, for a receiver who pins the signer and verifies with --strict --report-assurance strict"
    return statement(covered(scope), not_covered(scope), missing, strong, server_statements(scope))


def evidence_level(
    manifest: Mapping[str, Any], clean_reports: int, verdict: Mapping[str, Any] | None, *, is_served: bool = False
) -> Literal["high", "medium", "low"]:
    """Return the evidence level that a pack's manifest and reports support.

    ``high`` requires a subject, at least one clean report, source repository and environment, the files of every clean
    subject, and a PASS verdict with no planned case missing. ``medium`` requires a subject and at least one clean
    report, whatever else is missing or failed. Every other pack is ``low``.

    Args:
        manifest: the manifest; blocks of it may be missing or partial.
        clean_reports: the number of clean reports that verify.
        verdict: the derived verdict, or None.
        is_served: whether a clean report measured a subject behind a server.
    """
    if not _refers(manifest.get("subject")) or clean_reports == 0:
        return "low"
    sourced = _refers(manifest.get("environment")) and _refers(manifest.get("invocation", {}).get("config_source"))
    complete = verdict is not None and verdict["verdict"] == "PASS" and not verdict["missing"]["by_model"]
    return "high" if sourced and complete and not is_served else "medium"


def _refers(block: Mapping[str, Any] | None) -> bool:
    """Return whether a block of a manifest has a file and its digest."""
    return block is not None and bool(block.get("path")) and bool(block.get("digest"))


def _is_tuned(planned: Planned) -> bool:
    """Return whether a case's edit uses the tuned parameters of its model."""
    generation = planned.scenario["generation"]
    if generation["kind"] != "edit":
        return False
    text = generation.get("edit_spec_by_model", {}).get(planned.case["model"], generation["edit_spec"])
    try:
        return isinstance(parse_edit_spec(text), CleanSpec)
    except UsageError:
        # a malformed spec is reported when the case is derived
        return False
