"""What a guard is: one object that judges what was measured, and says what follows from it everywhere else.

Example::

    GUARD = Guard("rmt", judge=..., page_section=..., flags=("rmt_stable",), gates=...)

A guard is a module of this folder and a line of ``GUARDS``. Nothing outside its module asks which guard it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from invarlock.judgement.context import Context
from invarlock.judgement.detector import DetectorKind
from invarlock.judgement.gate import Gate
from invarlock.judgement.learning import FittedLimit, LearnedLimit, NullChange
from invarlock.judgement.shares import Shares
from invarlock.pages.markup import Markup
from invarlock.problems import Problem

Block = Mapping[str, Any]
Judge = Callable[[Block, Block, Context], dict[str, Any]]


@dataclass(frozen=True)
class Probe:
    """A guard's measurement over more windows, in a file next to the report of the scenarios that ask for it.

    Attributes:
        name: of its file without ``.json``, and of the detectors that read it.
        judge: as ``Guard.judge``.
        in_null_runs: whether null runs measure it.
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
    """How a guard's measurement stands in a null run.

    Attributes:
        raw: returns the raw part of a null change, as ``Guard.judge`` takes it.
        needs_modules: whether both sides must have the same modules, one at least.
    """

    raw: Callable[[NullChange], Block]
    needs_modules: bool = True


def no_gates(block: Block, limits: Block) -> list[Gate]:
    """Return no gate."""
    return []


def no_limits_used(block: Block, limits: Block) -> Shares:
    """Return no share of a limit."""
    return {}


def signals_when_not_passed(block: Block) -> bool | None:
    """Return whether a guard says anything but pass; None where it was not run."""
    return None if block["status"] == "not_evaluated" else bool(block["status"] != "pass")


def detects_by_status(block: Block) -> bool:
    """Return whether a guard warns or fails."""
    return block["status"] in ("warn", "fail")


def no_modules(block: Block) -> list[str] | None:
    """Return None: this guard names no modules."""
    return None


def no_facts(block: Block) -> dict[str, Any]:
    """Return no fact."""
    return {}


def no_problems(where: str, raw: Block, others: Mapping[str, Block]) -> Iterator[Problem]:
    """Yield nothing."""
    yield from ()


@dataclass(frozen=True)
class TensorMeasure:
    """A measurement that looks at the tensors of a checkpoint one by one; it needs no pass of its own.

    Attributes:
        contract: how it measures, which stands in every report.
        of_tensor: returns what is measured of a tensor, given its name, its family and the tensor; None of a tensor
            that the guard does not look at. The rows are ``modules`` of the raw part of each side.
    """

    contract: Mapping[str, Any]
    of_tensor: Callable[[str, str, Any], dict[str, Any] | None]


@dataclass(frozen=True)
class Guard:
    """A check on the checkpoint or its activations.

    Attributes:
        name: its key in reports, policies, settings and scenarios.
        judge: returns the derived part of its block, with ``status``, ``passed``, ``metrics`` and ``violations``,
            from its raw part, its limits and the rest of the report.
        page_section: yields the parts of its section of a report's page, given its block.
        flags: the flags of its gates under ``validation``. A guard without one only signals.
        gates: returns its gates, given its block and its limits.
        signals: returns whether it says that something is wrong, None where it was not run.
        detects: returns whether its block shows the defect of a scenario that is meant for it. A probe of the guard
            counts too.
        limits_used: returns how much of each of its limits is used, by dotted name.
        signalled_modules: returns the modules that it signals, None where it names none.
        facts: returns what the verdict's record of a report says of it.
        raw_problems: yields where its raw part contradicts itself or other guards' raw parts, which are given by name.
        detectors: the kinds of detector that read it.
        measure: its measurement, where that is of tensors one by one; None where ``invarlock.measuring`` has it.
        probe: its measurement over more windows, None where there is no such thing.
        null: how it stands in null runs, None where it does not.
        learned: its limits that presets learn.
        fitted: its limits that tiers may be fitted in.
        has_limits: whether tiers have limits for it.
        schema: its part of the schemas, as ``reports.schemas`` takes it; None where ``contracts/parts`` has it.
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
    facts: Callable[[Block], dict[str, Any]] = no_facts
    raw_problems: Callable[[str, Block, Mapping[str, Block]], Iterator[Problem]] = no_problems
    detectors: tuple[DetectorKind, ...] = ()
    measure: TensorMeasure | None = None
    probe: Probe | None = None
    null: NullPart | None = None
    learned: tuple[LearnedLimit, ...] = ()
    fitted: tuple[FittedLimit, ...] = ()
    has_limits: bool = True
    schema: Mapping[str, Any] | None = None
