"""Presets: limits of a model derived from null runs.

Example::

    preset = derive_preset(runs, "balanced")
    preset["limits"]["rmt.epsilon_by_family"]      # {"attn": 0.01, "ffn": 0.0123}

A preset is a pure function of its null runs and the tier. A verifier with both derives the preset again and trusts no
number in it. Scales and bands are never wider than the tier's. The limit of edge-risk growth is the larger of the
tier's and the value derived from null runs. The variance guard requires an effect beyond the noise of the null runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from invarlock.errors import DocumentError, EvaluationError, InvarLockError, UsageError
from invarlock.jsonio import check_schema
from invarlock.judgement.learning import NullChange
from invarlock.problems import Code, Problem
from invarlock.reports.documents import NullRunDocument, NullRunHeader, NullRunReference, PresetDocument
from invarlock.reports.null_runs import CHANGES, guard_signals, null_changes, null_run_problems
from invarlock.reports.policy import LEARNED_LIMITS, resolve_policy
from invarlock.reports.verification import differences, shorten

SCHEMA: Literal["invarlock/calibrated-preset-v1"] = "invarlock/calibrated-preset-v1"
# The choice has no effect: profiles differ only in bootstrap replicates, on which no limit of a preset depends.
PROFILE = "dev"
OTHER_RUNS = "differ from the existing null runs in number or digest"
# The fields that must be equal in all null runs of a model.
Alike = Literal["meta", "baseline", "dataset", "measurement_contracts"]
ALIKE: tuple[Alike, ...] = get_args(Alike)


@dataclass(frozen=True)
class NullRun:
    """A null run that matches its schema, and ``sha256:<hex>`` of its file."""

    document: NullRunDocument
    sha256: str

    @property
    def run(self) -> int:
        """Return the number of the null run, from 1."""
        return self.document["run"]


@dataclass(frozen=True)
class Preset:
    """A preset that matches its schema, and ``sha256:<hex>`` of its JSON file."""

    document: PresetDocument
    sha256: str

    @property
    def limits(self) -> Mapping[str, Any]:
        """Return the derived limits of each guard, by name."""
        return self.document["limits"]


def derive_preset(runs: Iterable[NullRun], tier: str) -> PresetDocument:
    """Derive a preset from null runs: it is fitted to all but the last, and the last is held out and judged by it.

    Args:
        runs: at least two null runs of one model, ordered by number; only two are in memory at a time.
        tier: the tier whose limits the preset complements.

    Raises:
        EvaluationError: when the runs have different models or measurements, a run is incomplete, a change is not
            harmless, or harmless changes leave the tier's drift band.
        UsageError: when the tier is unknown.
    """
    tier_policy = resolve_policy(tier, PROFILE, {})
    changes: list[dict[str, Any]] = []
    learned: list[NullRunReference] = []
    first: NullRunHeader | None = None
    held_out: NullRun | None = None
    for number, run in enumerate(runs, start=1):
        _check_run(run, number, first)
        first = first or _header(run.document)
        if held_out is not None:
            changes += [_statistics(change, tier_policy) for change in null_changes(held_out.document)]
            learned.append({"run": held_out.run, "sha256": held_out.sha256})
        held_out = run
    if first is None or held_out is None or not learned:
        count = 0 if held_out is None else 1
        raise EvaluationError(
            f"null runs: only {count}, but two are needed: one to fit and one held out", code=Code.NULL_RUNS_UNUSABLE
        )
    # those of a case: a null run may score fewer
    windows = first["dataset"]["windows"]["final"]
    blocks = {
        learnt.block: learnt.derive([kept[learnt.block] for kept in changes], tier_policy, windows)
        for learnt in LEARNED_LIMITS
    }
    limits = {learnt.limit: learnt.value(blocks[learnt.block]) for learnt in LEARNED_LIMITS}
    return {
        "schema": SCHEMA,
        "model_id": first["meta"]["model_id"],
        "tier": tier,
        "baseline": first["baseline"],
        "measured": {
            "device": first["meta"]["device"],
            "dtype": first["meta"]["dtype"],
            "attention": first["meta"]["attention"],
        },
        "dataset": first["dataset"],
        "changes": list(CHANGES),
        "null_runs": learned,
        "limits": limits,
        "derivation": blocks,
        "held_out": {
            "run": held_out.run,
            "sha256": held_out.sha256,
            "signals": guard_signals(held_out.document, resolve_policy(tier, PROFILE, {}, limits)),
        },
    }


def preset_problems(preset: Any, runs: Iterable[NullRun]) -> list[Problem]:
    """Return the parts of a preset that do not follow from its null runs.

    Args:
        preset: the document.
        runs: the existing null runs, which match their schema.
    """
    own = Code.PRESET_DOES_NOT_FOLLOW
    try:
        check_schema(preset, "calibrated_preset", where="preset")
    except DocumentError as error:
        return [problem.coded(own).of("") for problem in error.problems]
    named = [(row["run"], row["sha256"]) for row in (*preset["null_runs"], preset["held_out"])]
    seen: list[tuple[int, str]] = []

    def noted() -> Iterator[NullRun]:
        for run in runs:
            seen.append((run.run, run.sha256))
            if seen != named[: len(seen)]:
                # values derived from other runs cannot be compared with this preset
                raise EvaluationError(OTHER_RUNS, field="null_runs", code=Code.NULL_RUNS_UNUSABLE)
            yield run
        if len(seen) < len(named):
            raise EvaluationError(OTHER_RUNS, field="null_runs", code=Code.NULL_RUNS_UNUSABLE)

    try:
        expected = derive_preset(noted(), preset["tier"])
    except InvarLockError as error:
        return [problem.coded(own) for problem in error.problems]
    except (KeyError, TypeError, ValueError, AssertionError, ArithmeticError, IndexError) as error:
        return [Problem(own, "", "null_runs", f"contradict each other: {type(error).__name__}: {str(error)[:200]}")]
    return list(differences(preset, expected, code=own))


def check_fit(preset: PresetDocument, baseline: Mapping[str, Any], tier: str, *, attention: str, where: str) -> None:
    """Refuse a preset for another baseline, tier or attention.

    Args:
        preset: the document.
        baseline: ``digest`` and ``tokenizer_sha256`` of the current baseline.
        tier: the requested tier.
        attention: the current attention implementation.
        where: the name of the preset in the message.

    Raises:
        UsageError: when something differs; the message has the first difference.
    """
    pairs = {
        "its baseline": (preset["baseline"]["digest"], baseline["digest"]),
        "its tokenizer": (preset["baseline"]["tokenizer_sha256"], baseline["tokenizer_sha256"]),
        "its tier": (preset["tier"], tier),
        "its attention": (preset["measured"]["attention"], attention),
    }
    for what, (found, wanted) in pairs.items():
        if found != wanted:
            raise UsageError(
                f"{what} is {found}, not {wanted}; calibrate this model, or omit the preset",
                code=Code.PRESET_UNUSABLE,
                where=where,
            )


def report_preset_problems(
    report: Mapping[str, Any], preset: Preset, baseline: Mapping[str, Any], where: str
) -> Iterator[Problem]:
    """Yield a problem if a report was not judged with its model's preset.

    Args:
        report: the document, which matches its schema.
        preset: a preset that follows from its null runs.
        baseline: ``digest`` and ``tokenizer_sha256`` of the baseline that the report was measured against.
        where: the name of the preset in the messages.
    """
    provenance, named = report["policy_provenance"], "policy_provenance.preset_sha256"
    if provenance["preset_sha256"] != preset.sha256:
        yield Problem(Code.PRESET_DIFFERS, "", named, f"differs from the digest of {where}")
        return
    yield from differences(
        provenance["preset_limits"],
        dict(preset.limits),
        "policy_provenance.preset_limits",
        code=Code.PRESET_DIFFERS,
    )
    if preset.document["model_id"] != report["meta"]["model_id"]:
        yield Problem(Code.PRESET_DIFFERS, "", named, f"{where} is for {shorten(preset.document['model_id'])}")
    try:
        check_fit(preset.document, baseline, provenance["tier"], attention=report["meta"]["attention"], where=where)
    except UsageError as error:
        yield Problem(Code.PRESET_DIFFERS, "", named, str(error))


def loosened(preset: Mapping[str, Any]) -> list[str]:
    """Return one line for each limit of a preset that allows more than the tier's limit."""
    tier = resolve_policy(preset["tier"], PROFILE, {})
    return [
        line
        for learnt in LEARNED_LIMITS
        for line in learnt.loosened(preset["limits"][learnt.limit], tier[learnt.owner])
    ]


def _statistics(change: NullChange, policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return the statistics to keep of a null change; limits need only a few of a run's thousands of numbers."""
    return {learnt.block: learnt.statistics(change, policy) for learnt in LEARNED_LIMITS}


def _header(document: NullRunDocument) -> NullRunHeader:
    return {
        "run": document["run"],
        "seeds": document["seeds"],
        "meta": document["meta"],
        "baseline": document["baseline"],
        "dataset": document["dataset"],
        "measurement_contracts": document["measurement_contracts"],
    }


def _check_run(run: NullRun, number: int, first: NullRunHeader | None) -> None:
    """Refuse a run that cannot be used for limits.

    Raises:
        EvaluationError: when the run cannot be used; the message has the first problem.
    """
    if run.run != number:
        raise EvaluationError(
            f"found null run {run.run} instead of {number}: null runs are numbered from 1 without gaps",
            code=Code.NULL_RUNS_UNUSABLE,
        )
    if first is not None:
        for key in ALIKE:
            for line in differences(run.document[key], first[key], key):
                raise EvaluationError(
                    f"null run {number}: measured differently from the first: {line}", code=Code.NULL_RUNS_UNUSABLE
                )
        if run.document["seeds"]["windows"] != first["seeds"]["windows"] + number - 1:
            raise EvaluationError(
                f"null run {number}: seeds: each run must have the next seed, so that it has another draw",
                code=Code.NULL_RUNS_UNUSABLE,
            )
    for problem in null_run_problems(run.document):
        raise EvaluationError(
            f"null run {number}: {problem}; it cannot be used for limits", code=Code.NULL_RUNS_UNUSABLE
        )
