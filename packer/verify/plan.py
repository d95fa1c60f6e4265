"""The plan in a pack: its scenarios, its cases, and pytest's report of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from invarlock.packer.format import layout
from invarlock.packer.format.contents import PackFiles
from invarlock.packer.format.in_pack import in_pack

from invarlock.catalog.tuned_params import TunedParams
from invarlock.documents.catalog import EffectiveManifest
from invarlock.errors import IntegrityError, InvarLockError, MissingFileError
from invarlock.jsonio import check_schema
from invarlock.problems import Code, Problem
from invarlock.reports.verification import differences
from invarlock.verdict.compiling import Outcome, Planned, planned_cases, read_outcomes


@dataclass(frozen=True)
class Plan:
    """The plan of a run: cases by report path, scenarios by id, and tuned parameters."""

    cases: Mapping[str, Planned]
    scenarios: Mapping[str, Mapping[str, Any]]
    tuned: TunedParams | None


@dataclass(frozen=True)
class PlanResult:
    """The plan in a pack.

    ``scenarios`` is the effective manifest, None if it is missing or unreadable; ``outcomes`` are pytest's outcomes.
    """

    scenarios: EffectiveManifest | None = None
    plan: Plan = field(default_factory=lambda: Plan({}, {}, None))
    outcomes: Sequence[Outcome] | None = None
    problems: tuple[Problem, ...] = ()


def read_plan(files: PackFiles) -> PlanResult:
    """Return the plan in a pack; without an effective manifest it is empty, and reports are examined individually."""
    try:
        scenarios = files.document(layout.SCENARIOS)
        check_schema(scenarios, "scenarios", where=layout.SCENARIOS)
        rows = {row["id"]: row for row in scenarios["scenarios"]}
        found = PlanResult(scenarios, Plan(planned_cases(scenarios), rows, _read_tuned(files)))
    except (MissingFileError, IntegrityError):
        # the problem is reported with the files, or when the verdict is derived
        return PlanResult()
    except InvarLockError as error:
        # a problem about a missing selection has no place, so it gets the effective manifest's
        wrong = (problem if problem.where else problem.of(layout.SCENARIOS) for problem in in_pack(error))
        return PlanResult(problems=tuple(wrong))
    if layout.PYTEST_REPORT not in files.digests:
        return found
    try:
        document = files.document(layout.PYTEST_REPORT)
        return replace(found, outcomes=read_outcomes(document), problems=tuple(_pytest_problems(document)))
    except IntegrityError:
        return found
    except InvarLockError as error:
        return replace(found, problems=tuple(in_pack(error)))


def _pytest_problems(document: Any) -> Iterator[Problem]:
    """Yield the differences between pytest's summary and its tests."""
    code, where = Code.PYTEST_REPORT_CONTRADICTS_ITSELF, layout.PYTEST_REPORT
    outcomes = [test["outcome"] for test in document["tests"]]
    summary = document.get("summary", {})
    derived = {name: outcomes.count(name) for name in sorted(set(outcomes))} | {"total": len(outcomes)}
    derived |= {key: summary[key] for key in ("collected", "deselected") if key in summary}
    yield from differences(summary, derived, "summary", where=where, code=code)
    if {"collected", "deselected"} <= set(summary) and summary["collected"] - summary["deselected"] != len(outcomes):
        words = f"{len(outcomes)} tests, but collected minus deselected gives another number"
        yield Problem(code, where, "summary", words)
    failed = len(outcomes) - outcomes.count("passed") - outcomes.count("skipped")
    if document.get("exitcode") in (0, 1) and document["exitcode"] != min(failed, 1):
        yield Problem(code, where, "exitcode", f"{document['exitcode']}, but {failed} tests failed")


def _read_tuned(files: PackFiles) -> TunedParams | None:
    if layout.TUNED_PARAMS not in files.digests:
        return None
    document = files.document(layout.TUNED_PARAMS)
    check_schema(document, "tuned_edit_params", where=layout.TUNED_PARAMS)
    return TunedParams(layout.TUNED_PARAMS, document["models"], document)
