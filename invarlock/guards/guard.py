"""The guard object: it judges measurements, and provides everything that other modules need from a guard.

Example::

    GUARD = Guard("rmt", judge=..., page_section=..., flags=("rmt_stable",), gates=...)

A guard is one module of this folder and one line of ``GUARDS``. No other code refers to it by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from invarlock.documents import JsonObject
from invarlock.judgement.context import Context
from invarlock.judgement.detector import DetectorKind
from invarlock.judgement.gate import Gate
from invarlock.judgement.learning import FittedLimit, LearnedLimit, NullChange
from invarlock.judgement.shares import Shares
from invarlock.pages.markup import Markup
from invarlock.problems import Problem

Block = Mapping[str, Any]
Judge = Callable[[Block, Block, Context], Block]


@dataclass(frozen=True)
class Probe:
    """A guard's measurement over more windows, in a file next to the report of the scenarios that require it.

    Attributes:
        name: the name of its file without ``.json``, and of the detectors that read it.
        judge: like ``Guard.judge``.
        in_null_runs: whether it is measured in null runs.
    """

    name: str
    judge: Judge
    in_null_runs: bool = False

    @property
    def detector(self) -> DetectorKind:
        """Return the kind of detector that reads a field of the probe."""
        return DetectorKind(self.name, lambda detector, report: report.get(self.name, {}).get(detector["field"]))


@dataclass(frozen=True)
class NullPart:
    """The form of a guard's measurement in a null run.

    Attributes:
        raw: returns the raw part of a null change, in the form that ``Guard.judge`` expects.
        needs_modules: whether both sides must have the same modules, at least one.
    """

    raw: Callable[[NullChange], Block]
    needs_modules: bool = True


def no_gates(block: Block, limits: Block) -> list[Gate]:
    """Return no gates."""
    return []


def no_limits_used(block: Block, limits: Block) -> Shares:
    """Return no shares of limits."""
    return {}


def signals_when_not_passed(block: Block) -> bool | None:
    """Return whether a guard's status is not pass; None if it was not run."""
    return None if block["status"] == "not_evaluated" else bool(block["status"] != "pass")


def detects_by_status(block: Block) -> bool:
    """Return whether a guard warns or fails."""
    return block["status"] in ("warn", "fail")


def no_modules(block: Block) -> list[str] | None:
    """Return None: this guard lists no modules."""
    return None


def no_facts(block: Block) -> Block:
    """Return no facts."""
    return {}


def no_problems(where: str, raw: Block, others: Mapping[str, Block]) -> Iterator[Problem]:
    """Yield nothing."""
    yield from ()


@dataclass(frozen=True)
class TensorMeasure:
    """A measurement of the individual tensors of a checkpoint, without a separate pass.

    Attributes:
        contract: the measurement contract, recorded in every report.
        of_tensor: returns the measurements of a tensor, given its name, its family and the tensor; None for a tensor
            that the guard ignores. The rows are ``modules`` of the raw part of each side.
    """

    contract: Mapping[str, Any]
    of_tensor: Callable[[str, str, Any], JsonObject | None]


@dataclass(frozen=True)
class Guard:
    """A check on the checkpoint or its activations.

    Attributes:
        name: its key in reports, policies, settings and scenarios.
        judge: returns the derived part of its block, with ``status``, ``passed``, ``metrics`` and ``violations``,
            from its raw part, its limits and the rest of the report.
        page_section: yields the parts of its section of a report's page, given its block.
        flags: the flags of its gates under ``validation``. A guard without flags only signals.
        gates: returns its gates, given its block and its limits.
        signals: returns whether it signals; None if it was not run.
        detects: returns whether its block shows the defect of a scenario with this primary guard. A probe of the guard
            counts too.
        limits_used: returns the used share of each of its limits, by dotted name.
        signalled_modules: returns the modules that it signals; None if it lists none.
        facts: returns its facts for the verdict's record of a report.
        raw_problems: yields contradictions in its raw part, or with the raw parts of other guards, given by name.
        detectors: the kinds of detector that read it.
        measure: its measurement of individual tensors; None if ``invarlock.measuring`` has the measurement.
        probe: its measurement over more windows, or None.
        null: its form in null runs, None if it is not in null runs.
        learned: its limits that presets learn.
        fitted: its limits that can be fitted for a tier.
        has_limits: whether tiers have limits for it.
        schema: its part of the schemas, as for ``reports.schemas``; None if it is in ``contracts/parts``.
    """

    name: str
    judge: Judge
    page_section: Callable[[Block], Iterator[Markup]]
    flags: tuple[str, ...] = ()
    gates: Callable[[Block, Block], list[Gate]] = no_gates
    signals: Callable[[Block], bool | None] = signals_when_not_passed
    detects: Callable[[Block], bool] = detects_by_status
    limits_used: Callable[[Block, Block], Shares] = no_limits_used
    signalled_modules: Callable[[Block], list[str] | None] = no_modules
    facts: Callable[[Block], Block] = no_facts
    raw_problems: Callable[[str, Block, Mapping[str, Block]], Iterator[Problem]] = no_problems
    detectors: tuple[DetectorKind, ...] = ()
    measure: TensorMeasure | None = None
    probe: Probe | None = None
    null: NullPart | None = None
    learned: tuple[LearnedLimit, ...] = ()
    fitted: tuple[FittedLimit, ...] = ()
    has_limits: bool = True
    schema: Mapping[str, Any] | None = None
