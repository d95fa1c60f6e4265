"""The metric object: it judges how the outputs of a subject differ from the baseline's.

A metric is one module of this folder and one line of ``METRICS``. No other code refers to it by name.
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


def no_limits_used(block: Block, limits: Block) -> Shares:
    """Return no shares of limits."""
    return {}


def no_null_signals(change: NullChange, limits: Block) -> dict[str, bool]:
    """Return no signals."""
    return {}


def no_problems(report: Block) -> Iterator[Problem]:
    """Yield no problems."""
    yield from ()


def no_facts(block: Block) -> Block:
    """Return no facts."""
    return {}


def no_summary(report: Block) -> Iterator[str]:
    """Yield nothing."""
    yield from ()


def no_null_problems(change: NullChange) -> Iterator[Problem]:
    """Yield no problems."""
    yield from ()


@dataclass(frozen=True)
class Metric:
    """A comparison of the outputs of subject and baseline, with its gates.

    Attributes:
        name: its key in reports, policies and scenarios.
        judge: returns its block, given ``evaluation_windows`` of the report, its limits and the rest of the report.
        summary: yields its numbers and limits in a few words for the top of a report's page, given the report.
        page_section: yields the parts of its section of a report's page, given the report.
        flags: the flags of its gates under ``validation``.
        gates: returns its gates, given its block and its limits; none if it was not evaluated.
        detects: returns whether the flags under ``validation`` show the defect of a scenario that is meant for it.
        limits_used: returns the used share of each of its limits, by dotted name.
        null_signals: returns its signals for a null change, by name; a true value is a false alarm.
        raw_problems: yields contradictions within the parts of a report that it reads, given the report.
        detectors: the kinds of detector that read it.
        learned: its limits that presets learn.
        fitted: its limits that can be fitted for a tier.
        is_guarded: whether a verdict lists it among the guards and counts its signals.
        facts: returns its facts for the verdict's record of a report.
        schema: its part of the schemas, as for ``reports.schemas``; None if it is in ``contracts/parts``.
        has_raw: whether it has its own measurements in addition to the losses: ``raw`` of its block, with
            ``baseline`` and ``subject``. ``judge`` finds them in the context.
        consistency_problems: yields contradictions between its measurements and others of a report.
        null_problems: yields contradictions within its measurements of a change of a null run.
    """

    name: str
    judge: Callable[[Block, Block, Context], Block]
    page_section: Callable[[Block], Iterator[Markup]]
    flags: tuple[str, ...]
    gates: Callable[[Block, Block], list[Gate]]
    detects: Callable[[Block], bool]
    summary: Callable[[Block], Iterator[str]] = no_summary
    limits_used: Callable[[Block, Block], Shares] = no_limits_used
    null_signals: Callable[[NullChange, Block], dict[str, bool]] = no_null_signals
    raw_problems: Callable[[Block], Iterator[Problem]] = no_problems
    detectors: tuple[DetectorKind, ...] = ()
    learned: tuple[LearnedLimit, ...] = ()
    fitted: tuple[FittedLimit, ...] = ()
    is_guarded: bool = True
    facts: Callable[[Block], Block] = no_facts
    schema: Mapping[str, Any] | None = None
    has_raw: bool = False
    consistency_problems: Callable[[Block], Iterator[Problem]] = no_problems
    null_problems: Callable[[NullChange], Iterator[Problem]] = no_null_problems
