"""Do presets raise no alarm on null edits that they were not derived from?

    python benchmarks/preset_holdout.py [--runs 34] [--learned 2 5] [--minutes M] [--json FILE]

Derives the presets of the embedded models as the smoke suite does (from 2 null runs) and as other suites do (5), then
measures fresh null runs with other draws of windows and other seeds of the jitter. Each change of each run is one null
edit, and any guard or gate that reports a problem with it raises a false alarm. With ``--bank``, the same presets judge
the harmless changes of the power study, which are of kinds that no preset was derived from. Results are printed every
five runs and the models alternate, so that an interrupted run still has a result.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import power

from invarlock.evaluation.null_runs import measure_null_run, null_draws
from invarlock.jsonio import dump_json
from invarlock.reports.null_runs import guard_signals
from invarlock.reports.policy import resolve_policy
from invarlock.reports.preset_files import parse_null_run
from invarlock.reports.presets import PROFILE, NullRun, derive_preset

TIER = "balanced"
TARGET = 0.05
TOLD_EVERY = 5
# The signals that each null edit raised, by the judging preset and the kind of the edit.
Found = dict[tuple[str, str], list[list[str]]]


def null_run(model_id: str, run: int) -> NullRun:
    """Return a null run of a model, measured as in a suite."""
    snapshot, _, setup, _, _ = power.bench(model_id)
    draw = null_draws(snapshot, setup, [run])[run]
    document = measure_null_run(snapshot, setup, run, draw, snapshot.parent / f"null_run_{run}")
    return parse_null_run(dump_json(document), where=f"null run {run}")


def raised_by(run: NullRun, limits: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield, for each change of a null run, the signals that a preset's limits raise."""
    yield from guard_signals(run.document, resolve_policy(TIER, PROFILE, {}, limits)).values()


def raised_by_harmless(subject: power.Subject, limits: Mapping[str, Any]) -> list[str]:
    """Return the guards that a harmless change of the power study raises."""
    return [guard for guard, is_raised in power.measure(subject, limits)["flags"].items() if is_raised]


def show(found: Found) -> None:
    """Print a row for each preset: the share of null edits that raise any signal, and which signals they raise."""
    print("\n| preset | null edits | any signal | which |\n| --- | --- | --- | --- |")
    totals: Found = defaultdict(list)
    for (judge, kind), edits in found.items():
        totals[f"all models, {judge.partition(', ')[2]}", kind] += edits
    for (judge, kind), edits in (*found.items(), *totals.items()):
        raised = Counter(signal for signals in edits for signal in signals)
        which = ", ".join(f"{signal} {raised[signal]}" for signal in sorted(raised)) or "–"
        print(f"| {judge} | {kind} | {power.interval(sum(map(bool, edits)), len(edits))} | {which} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=34, help="fresh null runs of each model, three null edits each")
    parser.add_argument("--learned", type=int, nargs="+", default=[2, 5], help="null runs that presets are made from")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no further null run after so long")
    parser.add_argument("--bank", action="store_true", help="judge the harmless changes of the power study too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what every null edit raised there")
    options = parser.parse_args()
    end = time.monotonic() + options.minutes * 60
    presets: dict[tuple[str, int], Mapping[str, Any]] = {}
    for model in power.MODELS:
        seen = [null_run(model, run) for run in range(1, max(options.learned) + 1)]
        presets |= {(model, count): derive_preset(seen[:count], TIER)["limits"] for count in options.learned}
    found: Found = defaultdict(list)

    def judge(model: str, kind: str, edits: Sequence[list[str]], count: int) -> None:
        found[f"{model.rpartition('/')[2]}, {count} null runs", kind] += edits

    print(f"target: at most {TARGET:.0%}")
    first = max(options.learned) + 1
    for run in range(first, first + options.runs):
        if time.monotonic() > end:
            break
        for model in power.MODELS:
            fresh = null_run(model, run)
            for count in options.learned:
                judge(model, "fresh runs", list(raised_by(fresh, presets[model, count])), count)
        if (run - first) % TOLD_EVERY == TOLD_EVERY - 1:
            show(found)
    for model in power.MODELS if options.bank else ():
        for subject in power.rewrites_cached(model):
            for count in options.learned if subject.harmless else ():
                judge(model, "other kinds", [raised_by_harmless(subject, presets[model, count])], count)
    show(found)
    if options.json is not None:
        options.json.write_text(json.dumps([[*key, edits] for key, edits in found.items()], indent=1))


if __name__ == "__main__":
    main()
