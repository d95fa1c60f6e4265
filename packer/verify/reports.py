"""Examining the reports of a pack one at a time; only the facts that a verdict needs are kept.

Building and verifying use the same functions, so a verifier expects exactly what a builder writes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from invarlock.packer.format import layout
from invarlock.packer.format.contents import PackFiles
from invarlock.packer.format.layout import is_baseline, is_report
from invarlock.packer.format.limits import MAX_REPORTS
from invarlock.packer.format.pack_page import PackFacts, render_pack_page
from invarlock.packer.format.places import neighbours
from invarlock.packer.verify.baselines import Baseline, read_baseline
from invarlock.packer.verify.evidence import Scope, absent, pack_statement, scope_of
from invarlock.packer.verify.plan import PlanResult, read_plan
from invarlock.packer.verify.presets import read_presets
from invarlock.packer.verify.report import ReportFacts, examine_report
from invarlock.packer.verify.shared_values import SharedValues
from invarlock.packer.verify.workers import examine_in_processes

from invarlock.documents.verification import VerifyEnvelope
from invarlock.problems import Code, Problem
from invarlock.reports.preset_files import preset_name
from invarlock.reports.presets import Preset


@dataclass(frozen=True)
class BaselineFacts:
    """The facts kept from a baseline's own report."""

    model_id: str
    digest: str
    text_providers: frozenset[str]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Findings:
    """The findings about a pack's reports by path, the plan, the presets by model folder, and the problems."""

    planned: PlanResult = field(default_factory=PlanResult)
    facts: Mapping[str, ReportFacts] = field(default_factory=dict)
    envelopes: Mapping[str, VerifyEnvelope] = field(default_factory=dict)
    baselines: Mapping[str, BaselineFacts] = field(default_factory=dict)
    presets: Mapping[str, Preset] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def of_kind(self, kind: str) -> list[ReportFacts]:
        """Return the facts of all reports of one kind."""
        return [facts for facts in self.facts.values() if facts.kind == kind]

    @property
    def clean(self) -> list[str]:
        """The reports of clean edits, by path."""
        return [facts.path for facts in self.of_kind("clean")]

    @property
    def scope(self) -> Scope:
        """Return the scope of the run: the cases planned, those with a report, and those made in a container."""
        contained = [path for path, facts in self.facts.items() if facts.in_container]
        served = {path: facts.served for path, facts in self.facts.items() if facts.served is not None}
        return scope_of(self.planned.plan.cases, self.facts, contained, served)

    @property
    def serves_clean(self) -> bool:
        """Whether a clean report measured a subject behind a server."""
        return any(facts.served is not None for facts in self.of_kind("clean"))

    def pack_statement(
        self, manifest: Mapping[str, Any], digests: Collection[str], verdict: Mapping[str, Any] | None
    ) -> list[str]:
        """Return the evidence statement of a pack with these reports, before a receiver has verified it."""
        parts = list(absent(manifest, digests, self.planned.plan.cases))
        return pack_statement(self.scope, self.clean, verdict, parts)

    def page(self, manifest: Mapping[str, Any], digests: Collection[str], verdict: Mapping[str, Any]) -> bytes:
        """Return the page of a pack with these reports."""
        return render_pack_page(
            PackFacts(
                manifest,
                verdict,
                self.pack_statement(manifest, digests, verdict),
                {path: facts.page for path, facts in self.facts.items()},
                {folder: preset.document for folder, preset in self.presets.items()},
                digests,
            )
        )


def examine_reports(files: PackFiles) -> Findings:
    """Return the findings of all reports of a pack, with their plan."""
    planned = read_plan(files)
    presets, wrong = read_presets(files)
    problems = [*planned.problems, *wrong]
    paths = [path for path in files.digests if is_report(path) or is_baseline(path)]
    if len(paths) > MAX_REPORTS:
        words = f"the pack has {len(paths)} reports, more than the limit of {MAX_REPORTS}"
        return Findings(planned, problems=(*problems, Problem(Code.TOO_MANY_REPORTS, "", "", words)))
    facts: dict[str, ReportFacts] = {}
    envelopes: dict[str, VerifyEnvelope] = {}
    baselines: dict[str, BaselineFacts] = {}
    around, shared = neighbours(files.digests), SharedValues()
    groups = _by_baseline(paths)
    elsewhere = examine_in_processes(files, groups, shared)
    for baseline_path, group in groups:
        baseline = None
        if baseline_path is not None:
            baseline, wrong = read_baseline(files, baseline_path)
            problems += wrong
            if baseline is not None:
                baselines[baseline_path] = _facts_of(baseline)
        for path in group:
            preset = presets.get(layout.model_folder(path))
            examined = elsewhere.pop(path, None)
            if examined is None:
                own = examine_report(files, path, baseline, planned.plan, preset, around[path])
                examined = shared.examined(own)
            envelopes[path] = examined.envelope
            if examined.facts is not None:
                facts[path] = examined.facts
            problems += examined.problems
    models = {layout.model_folder(path) for path in paths if is_report(path)}
    unused = sorted(presets.keys() - models)
    problems += [
        Problem(
            Code.FILE_DOES_NOT_FOLLOW,
            f"{layout.PRESETS}{preset_name(name)}",
            "",
            "a preset for a model without a report",
        )
        for name in unused
    ]
    return Findings(planned, dict(sorted(facts.items())), envelopes, baselines, presets, tuple(problems))


def _facts_of(baseline: Baseline) -> BaselineFacts:
    document = baseline.document
    return BaselineFacts(
        model_id=document["meta"]["model_id"],
        digest=document["baseline"]["digest"],
        text_providers=frozenset(row["provider"] for row in document["dataset"].get("slices", [document["dataset"]])),
        versions=document["meta"]["versions"],
    )


def _by_baseline(paths: Collection[str]) -> list[tuple[str | None, list[str]]]:
    """Group the reports by model, each group with the path of the baseline's own report (None if it has none)."""
    groups: list[tuple[str | None, list[str]]] = []
    for _, group in groupby(sorted(paths, key=lambda path: (layout.model_folder(path), path)), layout.model_folder):
        own = list(group)
        baseline = next(filter(is_baseline, own), None)
        groups.append((baseline, [path for path in own if not is_baseline(path)]))
    return groups
