"""Do presets raise no alarm on null edits that they were not derived from, and do sixteen windows suffice for them?

    python benchmarks/preset_holdout.py [--runs 30] [--learned 2 5] [--json FILE]

Measures null runs of the embedded models on the 64 final windows of a case, and again on as many as null runs score.
Each two null runs in a row give a preset, as in the smoke suite, and each five, as in other suites. Every preset judges
the null edits of all other null runs on 64 windows; any guard or gate that reports a problem raises a false alarm.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import power

from invarlock.evaluation.comparison import draw_runs
from invarlock.evaluation.null_runs import measure_null_run, null_draws
from invarlock.evaluation.windows import Draw, Windows
from invarlock.jsonio import dump_json
from invarlock.reports.null_runs import NULL_SEED, guard_signals
from invarlock.reports.policy import resolve_policy
from invarlock.reports.preset_files import parse_null_run
from invarlock.reports.presets import PROFILE, NullRun, derive_preset

TIER = "balanced"
Runs = Mapping[int, NullRun]


def null_runs(model_id: str, numbers: Sequence[int], *, of_a_case: bool) -> dict[int, NullRun]:
    """Return null runs of a model by number, on the windows that null runs score or on all those of a case."""
    snapshot, _, setup, _, _ = power.bench(model_id)

    def draws() -> Mapping[int, Draw]:
        if not of_a_case:
            return null_draws(snapshot, setup, numbers)
        every = draw_runs(snapshot, setup.text, setup.plan, [NULL_SEED + run for run in numbers])
        return {run: replace(every[NULL_SEED + run], preview=Windows((), ())) for run in numbers}

    def measured(run: int, draw: Draw) -> NullRun:
        document = measure_null_run(snapshot, setup, run, draw, snapshot.parent / f"null_run_{run}")
        return parse_null_run(dump_json(document), where=f"null run {run}")

    return {run: measured(run, draw) for run, draw in draws().items()}


def renumbered(runs: Sequence[NullRun]) -> list[NullRun]:
    """Return null runs as the first ones of a run, so that a preset can be derived from them."""
    numbered = []
    for number, run in enumerate(runs, start=1):
        seed = NULL_SEED + number
        document: Any = {**run.document, "run": number, "seeds": {"windows": seed, "changes": seed}}
        numbered.append(NullRun(document, run.sha256))
    return numbered


def judged(learned_from: Runs, judged_runs: Runs, count: int) -> dict[str, Any]:
    """Return the limits of all presets of ``count`` null runs in a row, and the alarms that they raise."""
    numbers, limits, alarms = sorted(learned_from), [], []
    judgements = 0
    for first in range(0, len(numbers) - count + 1, count):
        own = numbers[first : first + count]
        preset = derive_preset(renumbered([learned_from[run] for run in own]), TIER)["limits"]
        limits.append(preset)
        policy = resolve_policy(TIER, PROFILE, {}, preset)
        for run in (other for other in numbers if other not in own):
            for edit, signals in guard_signals(judged_runs[run].document, policy).items():
                judgements += 1
                alarms += [{"run": run, "edit": edit, "signals": signals}] if signals else []
    return {"presets": limits, "judgements": judgements, "alarms": alarms}


def spread(values: Sequence[float]) -> str:
    """Return the least, the median and the largest of some values."""
    return " · ".join(f"{value:.3g}" for value in (min(values), median(values), max(values)))


def row(found: Mapping[str, Any], edits: int) -> str:
    """Return the cells of a table's row: limits, and the null edits of which any preset raised an alarm."""
    presets = found["presets"]
    effects = [limits["variance.min_effect"] for limits in presets]
    levels = [max(level["kl_mean"] for level in limits["fidelity.null_level"].values()) for limits in presets]
    epsilons = [value for limits in presets for value in limits["rmt.epsilon_by_module"].values()]
    raised = {(alarm["run"], alarm["edit"]) for alarm in found["alarms"]}
    cells = [str(len(presets)), spread(effects), spread(levels), f"{max(epsilons):.3g}", str(found["judgements"])]
    return " | ".join([*cells, power.interval(len(raised), edits)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30, help="null runs of each model, three null edits each")
    parser.add_argument("--learned", type=int, nargs="+", default=[2, 5], help="null runs that presets are made from")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write limits and alarms there")
    options = parser.parse_args()
    print(
        "| model | null runs | windows | presets | smallest effect | null level of the mean KL | largest epsilon "
        "of a layer | judgements | null edits that any preset signals |\n" + "| --- " * 9 + "|"
    )
    numbers, results = range(1, options.runs + 1), []
    for model in power.MODELS:
        of_a_case, few = (null_runs(model, numbers, of_a_case=whole) for whole in (True, False))
        for count in options.learned:
            for runs in (of_a_case, few):
                windows = len(runs[1].document["windows"]["final"]["window_ids"])
                found = judged(runs, of_a_case, count)
                results.append({"model": model, "null_runs": count, "windows": windows, **found})
                cells = row(found, 3 * options.runs)
                print(f"| {model.rpartition('/')[2]} | {count} | {windows} | {cells} |", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
