"""Finding the strongest parameters of an edit that still pass every gate with margin.

Example::

    subject = TunedModel("my/model", folder, text, plan, Placement("cpu"), "balanced", "dev")
    found = tune(subject, "quant_rtn", parse_scope("ffn", where="--scope"), margin=0.5, draws=3)
    found.entry()       # an entry of tuned_edit_params.json, with its evidence

Candidates stand on a ladder from mild to strong, which is climbed to the first that holds and then by bisection: a
rung that holds is taken to be weaker than any that does not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invarlock.catalog.edit_specs import EditSpec, Scope, make_edit_spec
from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.checkpoints.editing import apply_edits
from invarlock.checkpoints.families import tensors_in_scope
from invarlock.checkpoints.storage_format import check_dense
from invarlock.edits import BY_NAME as EDITS_BY_NAME
from invarlock.errors import EditError
from invarlock.evaluation.comparison import WindowPlan, compare, draw_runs, measure_baseline
from invarlock.evaluation.documents import Edited, Setup, baseline_document, reference, report_document
from invarlock.evaluation.models import Placement
from invarlock.evaluation.text import SourceText
from invarlock.evaluation.windows import Draw
from invarlock.guards import BY_NAME
from invarlock.jsonio import digest_document
from invarlock.reports.margins import limits_used, tightest
from invarlock.reports.policy import resolve_policy
from invarlock.reports.repeats import content_digest

SCENARIO = "tune"


@dataclass(frozen=True)
class TunedModel:
    """The model that parameters are sought for, and what it is judged on."""

    model_id: str
    folder: Path
    text: SourceText
    plan: WindowPlan
    placement: Placement
    tier: str
    profile: str


@dataclass(frozen=True)
class Trial:
    """A candidate: the largest ratio, upper end and share of each limit over the draws, and why it does not hold."""

    spec: EditSpec
    ratio: float | None
    upper: float | None
    reports: tuple[str, ...]
    against: tuple[str, ...]
    used: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """What was found for an edit: the strongest trial that holds, None where none does, and all trials."""

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
                f"the strongest of {len(self.trials)} candidates tried that passes every gate on {self.draws} draws "
                f"and uses at most {self.margin:.0%} of what each limit allows"
            ),
            "evidence": [_evidence(trial) for trial in self.trials],
        }


@dataclass
class _Judge:
    """Measures candidates, each once, against a baseline that is measured once."""

    model: TunedModel
    margin: float
    draws: Mapping[int, Draw]
    setup: Setup
    baseline: Mapping[str, Any]
    trials: dict[str, Trial] = field(default_factory=dict)

    def judge(self, spec: EditSpec) -> Trial:
        if str(spec) not in self.trials:
            self.trials[str(spec)] = self._measure(spec)
        return self.trials[str(spec)]

    def _measure(self, spec: EditSpec) -> Trial:
        policy = resolve_policy(self.model.tier, self.model.profile, {})
        reports = []
        with tempfile.TemporaryDirectory(dir=self.model.folder.parent, prefix=".tune-") as folder:
            subject = Path(folder) / "subject"
            apply_edits(self.model.folder, {subject: spec})
            for run, draw in self.draws.items():
                measured = compare(
                    subject,
                    reference(self.baseline, self.model.folder, run, probe=False),
                    draw,
                    self.model.plan,
                    self.model.placement,
                    policy["variance"],
                )
                edited = Edited(spec.edit, spec.edit, str(spec), spec.parameters)
                digest = digest_document(self.baseline)
                reports.append(
                    report_document(self.setup, self.baseline, digest, SCENARIO, run, edited, draw, measured)
                )
        against = [line for report in reports for line in _against(report, self.margin)]
        used = [limits_used(report) for report in reports]
        ratios = [report["primary_metric"]["ratio_vs_baseline"] for report in reports]
        uppers = [(report["primary_metric"]["ci"] or (None, None))[1] for report in reports]
        return Trial(
            spec,
            _largest(ratios),
            _largest(uppers),
            tuple(content_digest(report) for report in reports),
            tuple(against),
            {name: _largest([row.get(name) for row in used]) for name in used[0]},
        )


def tune(
    model: TunedModel,
    edit: str,
    scope: Scope,
    *,
    margin: float,
    draws: int,
    tell: Callable[[Trial], object] | None = None,
) -> Selection:
    """Return the strongest parameters of an edit that hold on every draw.

    Args:
        model: the model.
        edit: which edit.
        scope: the weights that it takes.
        margin: share of what each limit of a gate allows that may be used, 0 to 1.
        draws: how many draws of windows each candidate is measured on.
        tell: called with each trial as it is done.

    Raises:
        EditError: when the scope takes nothing.
        CheckpointError, EvaluationError: when the model cannot be read or scored.
    """
    rungs = ladder(model.folder, edit, scope)
    judge = _begin(model, margin, draws)

    def holds(index: int) -> bool:
        known = str(rungs[index]) in judge.trials
        trial = judge.judge(rungs[index])
        if tell is not None and not known:
            tell(trial)
        return not trial.against

    best = strongest(len(rungs), holds)
    chosen = None if best is None else judge.judge(rungs[best])
    return Selection(edit, scope, chosen, tuple(judge.trials.values()), margin, draws)


def strongest(count: int, holds: Callable[[int], bool]) -> int | None:
    """Return the last rung of a ladder that holds, None when none does.

    The ladder is climbed to the first rung that holds, from there on by bisection. It need not be the lowest: what a
    mild low-rank edit takes away lies along few directions, as a defect does.
    """
    low = next((rung for rung in range(count) if holds(rung)), None)
    if low is None:
        return None
    high = count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def ladder(folder: Path, edit: str, scope: Scope) -> list[EditSpec]:
    """Return the candidates of an edit, from mild to strong.

    Raises:
        EditError: when the scope takes nothing.
    """
    files = check_dense(folder)
    taken = tensors_in_scope(files.model_type, files.shapes, scope, where=folder.name)
    rungs = EDITS_BY_NAME[edit].ladder
    if rungs is None:
        raise EditError(f"{edit}: it has no parameters to tune")
    smallest_side = min(min(files.shapes[name][-2:]) for name in taken)
    return [make_edit_spec(edit, row, scope, "tuner") for row in rungs(smallest_side)]


def _begin(model: TunedModel, margin: float, draws: int) -> _Judge:
    runs = draw_runs(model.folder, model.text, model.plan, range(1, draws + 1))
    context = {
        "suite": SCENARIO,
        "profile": model.profile,
        "tier": model.tier,
        "determinism": "throughput",
        "execution_mode": "host-bypass",
    }
    revision = digest_checkpoint(model.folder)
    setup = Setup(model.model_id, revision, context, model.placement, model.plan, model.text)
    baseline = measure_baseline(model.folder, runs, model.plan, model.placement, probe=False)
    return _Judge(model, margin, runs, setup, baseline_document(setup, baseline))


def _against(report: Mapping[str, Any], margin: float) -> list[str]:
    """Return what speaks against a candidate: a gate, a guard's signal, or a limit used beyond the margin."""
    run = report["meta"]["run"]
    lines = [f"draw {run}: {line}" for line in report["assurance"]["blocking_reasons"]]
    lines += [
        f"draw {run}: {guard} says {report[guard]['status']}"
        for guard in report["guards"]
        if BY_NAME[guard].flags and report[guard]["status"] != "pass"
    ]
    name, share = tightest(limits_used(report))
    if not lines and (share is None or share > margin):
        told = "not measured" if share is None else f"{share:.0%} of it is used, the margin ends at {margin:.0%}"
        lines.append(f"draw {run}: {name}: {told}")
    return lines


def _evidence(trial: Trial) -> dict[str, Any]:
    return {
        "spec": str(trial.spec),
        "holds": not trial.against,
        "ratio": trial.ratio,
        "upper": trial.upper,
        "against": list(trial.against[:1]),
        "limits_used": dict(trial.used),
        "reports": list(trial.reports),
    }


def _largest(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None
