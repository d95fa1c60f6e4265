"""The rmt guard's judgement: edge risks of activations, compared with the baseline's on the same windows.

The gate fails if more than half of a family's layers moved by more than three epsilons, or if the edge risk of a layer
more than doubled or halved. The probe judges each layer with closer limits, over more windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypedDict

from invarlock.documents.blocks import Violation
from invarlock.guards.guard import Guard, NullPart, Probe
from invarlock.guards.rmt_families import (
    LAYER_FALL,
    LAYER_GROWTH,
    Families,
    derive_families,
    epsilon_needed,
    families_beyond,
    growth,
    layers_beyond,
)
from invarlock.judgement.context import Context
from invarlock.judgement.expectations import comparable
from invarlock.judgement.gate import Gate, worst_violation
from invarlock.judgement.learning import (
    MARGIN,
    FittedLimit,
    LearnedLimit,
    NullChange,
    largest_with_margin,
    upper_quantile,
)
from invarlock.judgement.null_level import SAME_ANSWERS
from invarlock.judgement.shares import Shares, largest_share, share_of
from invarlock.pages.markup import Markup, element
from invarlock.pages.parts import MAX_ROWS, counted, data_table, most_changed, number_cell
from invarlock.problems import Code, Problem
from invarlock.statistics.rounding import rounded

Block = Mapping[str, Any]
Modules = Mapping[str, Block]


class GrowthMetrics(TypedDict):
    """The extremes of the growth of edge risks, and what exceeds a limit."""

    modules: int
    largest_growth: float | None
    largest_fall: float | None
    violating_families: list[str]
    violating_layers: list[str]


class RmtBlock(TypedDict):
    """The guard's derived block in a report; ``modules`` has the growth of each module."""

    status: str
    passed: bool
    metrics: GrowthMetrics
    families: Families
    modules: dict[str, float | None]
    violations: list[Violation]


class RmtProbeBlock(TypedDict):
    """The result of a probe: the modules beyond their own limits."""

    detected: bool
    detected_modules: list[str]
    modules: dict[str, float | None]
    violations: list[Violation]


class LearnedEpsilon(TypedDict):
    """A limit of growth that is learned from null runs."""

    n: int
    quantile: float | None
    limit: float | None


def derive_rmt(raw: Mapping[str, Any], policy: Mapping[str, Any], *, unchanged: bool = False) -> RmtBlock:
    """Return status, metrics, families, per-module growth and violations of the guard.

    A module that could not be measured on one side is an error, so the guard fails. It also fails if activations are
    not finite. An expert that received too few tokens warns.

    Args:
        raw: ``baseline`` and ``subject``, each with ``modules`` (by name: family, tokens, features, nonfinite,
            edge_risk; null where not measured).
        policy: the ``rmt`` limits.
        unchanged: whether the subject answers like its baseline; then a family or layer beyond a limit only warns.
    """
    before, after = raw["baseline"]["modules"], raw["subject"]["modules"]
    growths = _growths(before, after)
    families = derive_families(raw, policy)
    beyond = [(f"family {family}", reason) for family, reason in families_beyond(families)]
    layers = list(layers_beyond(growths, LAYER_GROWTH, LAYER_FALL))
    severity, more = ("warn", f"; {SAME_ANSWERS}") if unchanged else ("fail", "")
    violations = [
        *_unmeasured(before, after),
        *(_violation(name, severity, f"{reason}{more}") for name, reason in (*beyond, *layers)),
    ]
    known = [moved for moved in growths.values() if moved is not None]
    severities = {violation["severity"] for violation in violations}
    status = next((severity for severity in ("error", "fail", "warn") if severity in severities), "pass")
    metrics: GrowthMetrics = {
        "modules": len(growths),
        "largest_growth": max(known, default=None),
        "largest_fall": min(known, default=None),
        "violating_families": [name for name, _ in beyond],
        "violating_layers": [name for name, _ in layers],
    }
    return {
        "status": status,
        "passed": status in ("pass", "warn"),
        "metrics": metrics,
        "families": families,
        "modules": growths,
        "violations": violations,
    }


def derive_rmt_probe(raw: Mapping[str, Any], policy: Mapping[str, Any]) -> RmtProbeBlock:
    """Return the probe's result: the modules that grew or fell beyond their own limits, and whether any did.

    Args:
        raw: as for ``derive_rmt``, over more windows.
        policy: the ``rmt`` limits.
    """
    before, after = raw["baseline"]["modules"], raw["subject"]["modules"]
    violations = list(_unmeasured(before, after))
    growths = _growths(before, after)
    own = policy.get("epsilon_by_module", {})
    for name, moved in growths.items():
        beyond = layers_beyond({name: moved}, own.get(name, policy["probe_epsilon"]), policy["max_fall"])
        violations += [_violation(layer, "fail", reason) for layer, reason in beyond]
    found = [row["module"] for row in violations if row["severity"] in ("error", "fail")]
    return {"detected": bool(found), "detected_modules": found, "modules": growths, "violations": violations}


def _violation(module: str, severity: str, reason: str) -> Violation:
    return {"module": module, "severity": severity, "reason": reason}


def _unmeasured(before: Modules, after: Modules) -> Iterator[Violation]:
    if before and not after:
        yield _violation("*", "error", "the subject's activations could not be measured")
        return
    for name in sorted({*before, *after}):
        if name not in before or name not in after:
            yield _violation(name, "error", f"only the {'baseline' if name in before else 'subject'} has it")
        elif before[name]["nonfinite"]:
            reason = f"{counted(before[name]['nonfinite'], 'non-finite activation')} of the baseline"
            yield _violation(name, "error", reason)
        elif after[name]["nonfinite"]:
            yield _violation(name, "fail", counted(after[name]["nonfinite"], "non-finite activation"))
        elif after[name]["edge_risk"] is None and before[name]["edge_risk"] is not None:
            yield _violation(name, "warn", f"saw {after[name]['tokens']} tokens, too few to say anything")


def _growths(before: Modules, after: Modules) -> dict[str, float | None]:
    """Return subject / baseline - 1 for each module of both sides; None if one side was not measured."""
    return {
        name: growth(before[name]["edge_risk"], after[name]["edge_risk"]) for name in sorted(before) if name in after
    }


def _judge(raw: Block, limits: Block, context: Context) -> RmtBlock:
    return derive_rmt(comparable(raw, context.edit, "features"), limits, unchanged=context.unchanged)


def _judge_probe(raw: Block, limits: Block, context: Context) -> RmtProbeBlock:
    return derive_rmt_probe(raw, limits)


def _gates(block: Block, limits: Block) -> list[Gate]:
    return [Gate("rmt_stable", worst_violation(block), "no violation", block["passed"])]


def _limits_used(block: Block, limits: Block) -> Shares:
    of_limits = {*block["metrics"]["violating_families"], *block["metrics"]["violating_layers"]}
    if any(row["severity"] in ("error", "fail") and row["module"] not in of_limits for row in block["violations"]):
        return {"rmt.epsilon": None}
    families = [row for row in block["families"].values() if row["change"] is not None]
    return {
        "rmt.epsilon": largest_share(share_of(row["change"], row["limit"]) for row in families),
        "rmt.layer_growth": largest_share(share_of(row["largest_growth"], LAYER_GROWTH) for row in families),
        "rmt.layer_fall": largest_share(share_of(-row["largest_fall"], LAYER_FALL) for row in families),
    }


def _signalled_modules(block: Block) -> list[str] | None:
    if "metrics" not in block:
        return None
    return [*block["metrics"]["violating_families"], *block["metrics"]["violating_layers"]]


def _page_section(block: Mapping[str, Any]) -> Iterator[Markup]:
    families = list(islice(sorted(block["families"].items()), MAX_ROWS))
    keys = ("change", "limit", "largest_growth", "largest_fall")
    yield data_table(
        ("family", "more than half of its layers moved by at least", "limit", "largest growth", "largest fall"),
        [(family, *map(number_cell, (row[key] for key in keys))) for family, row in families],
    )
    yield data_table(
        ("layer", "growth of its edge risk"),
        [(element("code", module), number_cell(block["modules"][module])) for module in most_changed(block["modules"])],
        "no edge risk changed",
    )


def _raw_problems(where: str, raw: Block, others: Mapping[str, Block]) -> Iterator[Problem]:
    """Yield the layers whose activations differ in shape between the sides; only experts may have other token counts.

    A layer whose stored weight has another shape may have other features.
    """
    before, after = raw["baseline"]["modules"], raw["subject"]["modules"]
    shapes = [
        {name: tensor["shape"] for name, tensor in others["invariants"][side]["tensors"].items()}
        for side in ("baseline", "subject")
        if "invariants" in others
    ]
    for name in sorted(before.keys() & after.keys()):
        keys: tuple[str, ...] = ("features",) if name.endswith("]") else ("features", "tokens")
        stored = name.partition("[")[0]
        if shapes and any(shapes[0].get(tensor) != shapes[1].get(tensor) for tensor in (stored, f"{stored}.weight")):
            keys = keys[1:]
        for key in keys:
            if before[name][key] != after[name][key]:
                field = f"{where}.subject.modules.{name}.{key}"
                yield Problem(Code.RAW_MEASUREMENTS_CONTRADICT, "", field, "not that of the baseline")


def _null_families(change: NullChange, policy: Block) -> dict[str, float]:
    families = derive_rmt(change.pair("rmt"), policy["rmt"])["families"]
    return {name: row["change"] for name, row in families.items() if row["change"] is not None}


def _null_modules(change: NullChange, policy: Block) -> dict[str, float]:
    modules = derive_rmt_probe(change.pair("rmt_probe"), policy["rmt"])["modules"]
    return {name: growth for name, growth in modules.items() if growth is not None}


def _epsilons(
    least: str, changes: Sequence[Mapping[str, float]], policy: Block, windows: int
) -> dict[str, LearnedEpsilon]:
    """Return epsilon by name: the tier's, or the 97.5 % quantile of the growths plus 10 % of it if that is larger."""
    rows: dict[str, LearnedEpsilon] = {}
    for name in sorted({name for change in changes for name in change}):
        values = [change[name] for change in changes if name in change]
        level = upper_quantile(values)
        rows[name] = {
            "n": len(values),
            "quantile": rounded(level),
            "limit": rounded(max(policy["rmt"][least], MARGIN * level)),
        }
    return rows


def _narrow(limit: str, least: str, epsilons: Mapping[str, float], tier: Block) -> Iterator[str]:
    for key, epsilon in epsilons.items():
        if epsilon < tier[least]:
            yield f"{limit}.{key} {epsilon:g} is below the tier's {tier[least]:g}"


def _wide(limit: str, least: str, epsilons: Mapping[str, float], tier: Block) -> Iterator[str]:
    for key, epsilon in epsilons.items():
        if epsilon > tier[least]:
            yield f"{limit}.{key} {epsilon:g} (tier: {tier[least]:g})"


def _learned(block: str, limit: str, least: str, statistics: Any) -> LearnedLimit:
    return LearnedLimit(
        block=block,
        limit=limit,
        statistics=statistics,
        derive=partial(_epsilons, least),
        value=lambda rows: {name: row["limit"] for name, row in rows.items()},
        refusals=partial(_narrow, limit, least),
        loosened=partial(_wide, limit, least),
    )


RMT = Guard(
    name="rmt",
    judge=_judge,
    page_section=_page_section,
    flags=("rmt_stable",),
    gates=_gates,
    limits_used=_limits_used,
    signalled_modules=_signalled_modules,
    raw_problems=_raw_problems,
    probe=Probe("rmt_probe", _judge_probe, in_null_runs=True),
    null=NullPart(lambda change: change.pair("rmt")),
    learned=(
        _learned("rmt", "rmt.epsilon_by_family", "epsilon", _null_families),
        _learned("rmt_probe", "rmt.epsilon_by_module", "probe_epsilon", _null_modules),
    ),
    fitted=(
        FittedLimit(
            "rmt.epsilon",
            largest_with_margin,
            of_change=lambda change, policy: list(_null_families(change, policy).values()),
            of_report=lambda block: [epsilon_needed(row) for row in block["families"].values()],
        ),
        FittedLimit(
            "rmt.probe_epsilon",
            largest_with_margin,
            of_change=lambda change, policy: list(_null_modules(change, policy).values()),
        ),
    ),
)
