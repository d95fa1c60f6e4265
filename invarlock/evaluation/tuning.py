"""Finds the strongest parameters of edits that still pass every gate with margin.

Example::

    subject = TunedModel("my/model", folder, text, plan, Placement("cpu"), "balanced", "dev")
    for found in tune(subject, {"quant_rtn": parse_scope("ffn", where="--scope")}, margin=0.5, draws=3):
        found.entry()       # an entry of tuned_edit_params.json, with its evidence

Each edit has a ladder of candidates and its own search. All searches share the baseline's measurements. The candidates
that they judge next are made in one pass over the baseline's weights, as many as fit on the disk.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from invarlock.catalog.edit_specs import EditSpec, Scope
from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.checkpoints.editing import apply_each_edit
from invarlock.errors import EditError
from invarlock.evaluation.comparison import compare, draw_runs, measure_baseline
from invarlock.evaluation.documents import baseline_document, report_document
from invarlock.evaluation.ladders import climb, ladder
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.models import Placement
from invarlock.evaluation.request import EditDescription, EvaluationRequest, Setup, StoredBaseline
from invarlock.evaluation.text import SourceText
from invarlock.evaluation.threads import limit_threads
from invarlock.evaluation.windows import Draw
from invarlock.guards import BY_NAME
from invarlock.jsonio import digest_document
from invarlock.pages.parts import counted
from invarlock.reports.margins import deciding_slice, limits_used, tightest
from invarlock.reports.repeats import content_digest
from invarlock.stages import stage

SCENARIO = "tune"
# Candidates per pass: more would save little reading and take more disk space.
MAX_AT_ONCE = 8


@dataclass(frozen=True)
class TunedModel:
    """The model whose edits are tuned, and the text and limits that it is judged on."""

    model_id: str
    folder: Path
    text: SourceText
    plan: WindowPlan
    placement: Placement
    tier: str
    profile: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """A candidate: the largest ratio, upper end and share of each limit over the draws, and why it fails, if it does.

    ``deciding_slice`` is the slice that uses most of the tightest limit; None if the text as a whole uses as much.
    """

    spec: EditSpec
    ratio: float | None
    upper: float | None
    reports: tuple[str, ...]
    against: tuple[str, ...]
    used: Mapping[str, float | None] = field(default_factory=dict)
    deciding_slice: str | None = None


@dataclass(frozen=True)
class Selection:
    """The result for an edit: the strongest trial that holds, or None if none does, and all trials."""

    edit: str
    scope: Scope
    chosen: Trial | None
    trials: tuple[Trial, ...]
    margin: float
    draws: int

    def entry(self) -> dict[str, Any]:
        """Return the entry of ``tuned_edit_params.json``.

        Raises:
            EditError: when no candidate holds.
        """
        if self.chosen is None:
            mildest = self.trials[0]
            raise EditError(f"{self.edit}: no candidate holds, not even {mildest.spec}: {mildest.against[0]}")
        name = str(self.chosen.spec).replace(":", "_").replace("@", "_").replace("=", "")
        return {
            "status": "selected",
            "scope": str(self.scope),
            **self.chosen.spec.parameters,
            "edit_dir_name": name,
            "reason": (
                f"the strongest of {len(self.trials)} candidates tried that passes every gate on "
                f"{counted(self.draws, 'draw')} and uses at most {self.margin:.0%} of what each limit allows"
            ),
            "evidence": [_evidence(trial) for trial in self.trials],
        }


class Judge(Protocol):
    """Judges the candidates of one model."""

    def judge(self, spec: EditSpec, subject: Path) -> Trial:
        """Measure a candidate's checkpoint and return its trial."""


@dataclass
class _Search:
    """The search along one edit's ladder; ``wanted`` has the rungs to make, and the first of them is judged next."""

    edit: str
    scope: Scope
    rungs: Sequence[EditSpec]
    steps: Generator[tuple[int, ...], bool, int | None]
    wanted: tuple[EditSpec, ...] = ()
    trials: list[Trial] = field(default_factory=list)
    best: int | None = None

    def advance(self, holds: bool | None = None) -> None:
        """Find the next rungs, given whether the last one holds; ``wanted`` is empty when the search is over."""
        try:
            rungs = next(self.steps) if holds is None else self.steps.send(holds)
            self.wanted = tuple(self.rungs[rung] for rung in rungs)
        except StopIteration as stop:
            self.wanted, self.best = (), stop.value

    def chosen(self) -> Trial | None:
        if self.best is None:
            return None
        return next(trial for trial in self.trials if trial.spec == self.rungs[self.best])


@dataclass(frozen=True)
class _Judge:
    """Measures candidates against a baseline that was measured once."""

    model: TunedModel
    margin: float
    draws: Mapping[int, Draw]
    setup: Setup
    baseline: StoredBaseline

    def judge(self, spec: EditSpec, subject: Path) -> Trial:
        reports = []
        for run, draw in self.draws.items():
            request = EvaluationRequest(self.setup, self.baseline, SCENARIO, run, draw, self.model.placement)
            with stage(f"draw {run}/{len(self.draws)}"):
                measured = compare(subject, request.comparison())
            edited = EditDescription(spec.edit, spec.edit, str(spec), spec.parameters)
            reports.append(report_document(request, edited, measured))
        against = [line for report in reports for line in _against(report, self.margin)]
        used = [limits_used(report) for report in reports]
        largest = {name: _largest([row.get(name) for row in used]) for name in used[0]}
        limit, share = tightest(largest)
        decides = next(report for report, row in zip(reports, used, strict=True) if row.get(limit) == share)
        ratios = [report["primary_metric"]["ratio_vs_baseline"] for report in reports]
        uppers = [(report["primary_metric"]["ci"] or (None, None))[1] for report in reports]
        return Trial(
            spec,
            _largest(ratios),
            _largest(uppers),
            tuple(content_digest(report) for report in reports),
            tuple(against),
            largest,
            deciding_slice(decides, limit),
        )


class _Candidates:
    """The candidates' checkpoints by spec, made in passes over the baseline."""

    def __init__(self, baseline: Path, folder: Path) -> None:
        self._baseline = baseline
        self._folder = folder
        self._made: dict[str, Path | EditError] = {}

    def make(self, judged: Sequence[EditSpec], likely: Sequence[EditSpec]) -> Mapping[str, Path | EditError]:
        """Return the checkpoints that were made, and the errors of others; at least one of ``judged`` is included.

        Checkpoints of other candidates are removed. If a candidate of ``judged`` must be made, one pass makes as many
        as fit on the disk, those of ``likely`` last.
        """
        wanted = {str(spec): spec for spec in (*judged, *likely)}
        for name in self._made.keys() - wanted.keys():
            self.drop(name)
        if not any(str(spec) in self._made for spec in judged):
            missing = [name for name in wanted if name not in self._made]
            targets = {self._folder / name.replace(":", "_"): name for name in missing[: self._room()]}
            made = apply_each_edit(self._baseline, {target: wanted[name] for target, name in targets.items()})
            for target, outcome in made.items():
                self._made[targets[target]] = outcome if isinstance(outcome, EditError) else target
        return self._made

    def drop(self, name: str) -> None:
        """Remove the checkpoint of a candidate."""
        made = self._made.pop(name)
        if isinstance(made, Path):
            shutil.rmtree(made)

    def _room(self) -> int:
        """Return how many checkpoints a pass makes: at least one, and as many as leave disk space for one more."""
        size = sum(path.stat().st_size for path in self._baseline.iterdir() if path.is_file())
        return max(1, min(MAX_AT_ONCE, shutil.disk_usage(self._folder).free // size - 1))


def tune(
    model: TunedModel,
    edits: Mapping[str, Scope],
    *,
    margin: float,
    draws: int,
    show: Callable[[Trial], object] | None = None,
    begin: Callable[[TunedModel, float, int, Path], Judge] | None = None,
) -> Iterator[Selection]:
    """Yield for each edit the strongest parameters that hold on every draw, as soon as they are found.

    Args:
        model: the model.
        edits: the edits to tune, and the scope of each.
        margin: the share of each limit that may be used, 0 to 1.
        draws: how many draws of windows each candidate is measured on.
        show: called with each finished trial.
        begin: returns the judge of a model, margin, number of draws and folder; default: one that measures the
            baseline once, and each candidate on every draw.

    Raises:
        EditError: when a scope selects no tensors.
        CheckpointError, EvaluationError: when the model cannot be read or scored.
    """
    limit_threads()
    ladders = {edit: ladder(model.folder, edit, scope) for edit, scope in edits.items()}
    searches = [_Search(edit, edits[edit], rungs, climb(len(rungs))) for edit, rungs in ladders.items()]
    with tempfile.TemporaryDirectory(dir=model.folder.parent, prefix=".tune-") as folder:
        judge = (begin or _measuring_judge)(model, margin, draws, Path(folder) / "kept")
        candidates = _Candidates(model.folder, Path(folder))
        for search in searches:
            search.advance()
        while searches:
            made = candidates.make(
                [search.wanted[0] for search in searches],
                [spec for search in searches for spec in search.wanted[1:]],
            )
            for search in [search for search in searches if str(search.wanted[0]) in made]:
                spec = search.wanted[0]
                with stage(f"trial {spec}"):
                    trial = _judged(judge, spec, made[str(spec)])
                candidates.drop(str(spec))
                search.trials.append(trial)
                if show is not None:
                    show(trial)
                search.advance(not trial.against)
                if not search.wanted:
                    searches.remove(search)
                    yield Selection(search.edit, search.scope, search.chosen(), tuple(search.trials), margin, draws)


def _judged(judge: Judge, spec: EditSpec, subject: Path | EditError) -> Trial:
    """Return the trial of a candidate; a candidate that cannot be made does not hold."""
    if isinstance(subject, EditError):
        return Trial(spec, None, None, (), (str(subject),))
    return judge.judge(spec, subject)


def _measuring_judge(model: TunedModel, margin: float, draws: int, kept: Path) -> _Judge:
    runs = draw_runs(model.folder, model.text, model.plan, range(1, draws + 1))
    context = {
        "suite": SCENARIO,
        "profile": model.profile,
        "tier": model.tier,
        "determinism": "throughput",
        "execution_mode": "host-bypass",
    }
    revision = digest_checkpoint(model.folder)
    setup = Setup(model.model_id, revision, context, model.placement, model.plan, model.text, overrides=model.overrides)
    with stage(f"baseline {model.model_id}"):
        baseline = measure_baseline(model.folder, runs, model.plan, model.placement, probe=False, kept=kept)
    document = baseline_document(setup, baseline)
    stored = StoredBaseline(model.folder, document, digest_document(document), kept)
    return _Judge(model, margin, runs, setup, stored)


def _against(report: Mapping[str, Any], margin: float) -> list[str]:
    """Return the reasons against a candidate: a failed gate, a guard's signal, or a limit used beyond the margin."""
    run = report["meta"]["run"]
    lines = [f"draw {run}: {line}" for line in report["assurance"]["blocking_reasons"]]
    lines += [
        f"draw {run}: {guard} says {report[guard]['status']}"
        for guard in report["guards"]
        if BY_NAME[guard].flags and report[guard]["status"] != "pass"
    ]
    name, share = tightest(limits_used(report))
    if not lines and (share is None or share > margin):
        words = "not measured" if share is None else f"{share:.0%} of it is used, the margin ends at {margin:.0%}"
        part = deciding_slice(report, name)
        lines.append(f"draw {run}: {name}{'' if part is None else f' in slice {part}'}: {words}")
    return lines


def _evidence(trial: Trial) -> dict[str, Any]:
    return {
        "spec": str(trial.spec),
        "holds": not trial.against,
        "ratio": trial.ratio,
        "upper": trial.upper,
        "against": list(trial.against[:1]),
        "limits_used": dict(trial.used),
        **({} if trial.deciding_slice is None else {"deciding_slice": trial.deciding_slice}),
        "reports": list(trial.reports),
    }


def _largest(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None
