"""False alarms and missed faults: subjects as people publish them, and faults as exporters make them.

    python benchmarks/study.py [--workers 2] [--model mistral-tiny] [--only KIND] [--every N] [--reports FOLDER]
    python benchmarks/study.py --baseline FOLDER --every 12      # any checkpoint in bfloat16, with fewer subjects

Each subject (``study_bank.py``) is measured and judged as by ``invarlock evaluate``, under the tier balanced. A fault
counts as measurable if the absolute paired t statistic of its loss differences is above 3, if one of its losses is not
finite, or if its mean KL is above the null level of the model (float16, RTN at 8 bits, jitter). With ``--reports``
every report is kept, and an existing report is judged again instead of measured.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import random
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import power
import torch
from study_bank import Make, Source, Subject, faults, harmless

from invarlock.catalog.edit_specs import EditSpec
from invarlock.catalog.models import read_models
from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.checkpoints.editing import apply_edits
from invarlock.checkpoints.rewriting import rewrite_checkpoint
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.errors import CheckpointError, EditError
from invarlock.evaluation.comparison import compare, draw_runs, measure_baseline
from invarlock.evaluation.documents import baseline_document, report_document
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.models import Placement
from invarlock.evaluation.null_runs import measure_null_run, null_draws
from invarlock.evaluation.request import EditDescription, EvaluationRequest, Setup, StoredBaseline
from invarlock.evaluation.text import SourceText, read_embedded_text
from invarlock.evaluation.windows import Draw
from invarlock.guards import GUARD_NAMES
from invarlock.jsonio import dump_json
from invarlock.reports.derivation import compose, strip
from invarlock.reports.gates import judge_gates
from invarlock.reports.page_facts import few_windows, report_warnings
from invarlock.reports.policy import overrides_of
from invarlock.reports.preset_files import parse_null_run
from invarlock.reports.presets import derive_preset

SUITES = Path(__file__).parents[1] / "suites"
MODELS = ("mistral-tiny", "qwen2-tiny", "mixtral-tiny")
TIER = "balanced"
MEASURABLE_T = 3.0
CPU = Placement("cpu")
SEQ_LEN, PREVIEW, FINAL = 128, 16, 32
# Number of windows for calibration and training, from a text that is not scored.
TRAINING = 48
# How many single-matrix faults of each kind to include; power.py studies all of them.
ONE_MATRIX = 3
GATE, WARNING, NOBODY = "gate", "warning", "nobody"


@dataclass(frozen=True)
class Bench:
    """The setup, baseline, window draw and null KL against which a model's subjects are measured."""

    setup: Setup
    baseline: StoredBaseline
    draw: Draw
    null_kl: float


_PREPARED: dict[str, tuple[Source, Bench]] = {}


def _text(name: str) -> SourceText:
    catalog = read_models(SUITES / "models.toml")
    text = next(one for one in catalog.suites["smoke"].texts if one.name == name)
    assert text.source is not None
    assert text.sha256 is not None
    return read_embedded_text(SUITES / text.source, text.sha256)


@cache
def source(model: str) -> Source:
    """Return the `Source` of subjects of an embedded model, or of the checkpoint in a folder."""
    if model in _PREPARED:
        return _PREPARED[model][0]
    torch.set_num_threads(1)
    if model in MODELS:
        folder = power.snapshot(f"embedded/{model}")
    else:
        folder = Path(tempfile.mkdtemp(prefix="invarlock-study-")) / "baseline"
        shutil.copytree(model, folder)
    plan = WindowPlan(SEQ_LEN, 1, TRAINING, 0, 16)
    return Source(folder, torch.from_numpy(draw_runs(folder, _text("melville"), plan, [1])[1].final.tokens).long())


@cache
def bench(model: str, windows: tuple[int, int] = (PREVIEW, FINAL)) -> Bench:
    """Return the `Bench` against which subjects of a model are measured."""
    if model in _PREPARED:
        return _PREPARED[model][1]
    folder, text = source(model).folder, _text("austen")
    plan = WindowPlan(SEQ_LEN, *windows, 0, 16)
    context = {"suite": "study", "profile": "dev", "tier": TIER, "determinism": "throughput"}
    context["execution_mode"] = "host-bypass"
    setup = Setup(Path(model).name, digest_checkpoint(folder), context, CPU, plan, text)
    draw = draw_runs(folder, text, plan, [1])[1]
    document = baseline_document(setup, measure_baseline(folder, {1: draw}, plan, CPU, probe=False))
    baseline = StoredBaseline(folder, document, f"sha256:{'0' * 64}")
    return Bench(setup, baseline, draw, null_level(folder, setup))


def use(prepared: Mapping[str, tuple[Source, Bench]]) -> None:
    """Use the sources and benches that the parent process prepared, so that this process need not prepare them."""
    torch.set_num_threads(1)
    _PREPARED.update(prepared)


def null_level(folder: Path, setup: Setup) -> float:
    """Return the largest mean KL of the harmless changes from which the model's preset is derived."""
    runs = [
        parse_null_run(
            dump_json(
                measure_null_run(folder, setup, run, null_draws(folder, setup, [run])[run], folder.parent / "null")
            ),
            where=f"null run {run}",
        )
        for run in (1, 2)
    ]
    levels: Any = derive_preset(runs, TIER)["limits"]["fidelity.null_level"]
    return max(float(level["kl_mean"]) for level in levels.values())


@cache
def bank(model: str) -> dict[Subject, Make]:
    """Return the subjects of a model, including those of ``power.py``."""
    found = {**dict(harmless(model, source(model))), **dict(faults(source(model)))}
    if model in MODELS:
        counts: Counter[str] = Counter()
        for known, change in power.rewrites(f"embedded/{model}").items():
            counts[known.kind] += 1
            if not known.harmless and counts[known.kind] <= ONE_MATRIX:
                found[Subject("one matrix", f"{known.kind}, {known.name}", harmless=False)] = _rewritten(change)
    return found


def _rewritten(change: Any) -> Make:
    def make(source: Source, target: Path) -> None:
        if isinstance(change, EditSpec):
            apply_edits(source.folder, {target: change})
        else:
            rewrite_checkpoint(read_checkpoint(source.folder), {target: change})

    return make


@dataclass(frozen=True)
class Task:
    """One subject to measure, and the folder in which to keep its report."""

    model: str
    windows: tuple[int, int]
    subject: Subject
    reports: Path | None

    @property
    def kept(self) -> Path | None:
        """Return the path at which the report is kept, or None if reports are not kept."""
        if self.reports is None:
            return None
        words = f"{self.subject.kind} {self.subject.name}".replace("/", "_").replace(" ", "_")
        return self.reports / Path(self.model).name / f"{words}.json.gz"


def run(task: Task, end: float) -> dict[str, Any] | None:
    """Return the result row of a subject, or None if it cannot be made or time ran out before it was measured."""
    subject, kept = task.subject, task.kept
    row: dict[str, Any] = {
        "model": Path(task.model).name,
        "kind": subject.kind,
        "name": subject.name,
        "harmless": subject.harmless,
    }
    if kept is not None and kept.exists():
        document = json.loads(gzip.decompress(kept.read_bytes()))
    elif time.monotonic() > end:
        return None
    else:
        try:
            document = {"report": measure(task), "null_kl": bench(task.model, task.windows).null_kl}
        except EditError:
            return None  # this fault does not apply to this model
        except CheckpointError as error:
            document = {"refused": str(error)}
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(gzip.compress(json.dumps(document).encode(), 1))
    if "refused" in document:
        return {**row, "seen": GATE, "by": ["refused"], "said": [document["refused"]], "measurable": True}
    return {**row, **judged(compose(strip(document["report"])), document["null_kl"])}


def measure(task: Task) -> Any:
    """Make a subject, and return its report."""
    made = bench(task.model, task.windows)
    target = source(task.model).folder.parent / f"subject-{os.getpid()}"
    setup = replace(made.setup, overrides=overrides_of(task.subject.intent))
    request = EvaluationRequest(setup, made.baseline, "evaluate", 1, made.draw, CPU)
    try:
        bank(task.model)[task.subject](source(task.model), target)
        measured = compare(target, request.comparison())
    finally:
        shutil.rmtree(target, ignore_errors=True)
    return report_document(request, EditDescription("custom", "custom", "custom", {}), measured)


def judged(report: Any, null_kl: float) -> dict[str, Any]:
    """Return the results of a report's gates, guards and findings, and whether the change is measurable."""
    failed = [gate for gate in judge_gates(report, report["resolved_policy"]) if not gate.holds and gate.blocks]
    # warnings about few windows concern the study, not the subject
    warnings = [line for line in report_warnings(report) if line not in set(few_windows(report))]
    final = report["evaluation_windows"]["final"]
    fidelity = report["fidelity"]
    t = paired_t(final["logloss"], final["baseline_logloss"])
    return {
        "seen": GATE if failed else WARNING if warnings else NOBODY,
        "by": [gate.flag for gate in failed] or [line.partition(":")[0].partition(" ")[0] for line in warnings],
        "said": [gate.line for gate in failed] + warnings,
        "weights": [name for name in GUARD_NAMES if report[name]["status"] in ("warn", "fail", "error")],
        "ratio": report["primary_metric"]["ratio_vs_baseline"],
        "kl": fidelity["kl_mean"],
        "same_top": fidelity["same_top_share"],
        "t": t,
        "measurable": t is None or abs(t) > MEASURABLE_T or fidelity["kl_mean"] > null_kl,
        "null_kl": null_kl,
        "equivalence": [row["kind"] for row in report.get("equivalence", ())],
    }


def paired_t(own: Sequence[float | None], base: Sequence[float | None]) -> float | None:
    """Return the paired t statistic of the loss differences, or None if a loss is not finite."""
    deltas = [mine - theirs for mine, theirs in zip(own, base, strict=True) if mine is not None and theirs is not None]
    if len(deltas) < len(own):
        return None
    mean = sum(deltas) / len(deltas)
    spread = math.sqrt(sum((delta - mean) ** 2 for delta in deltas) / (len(deltas) - 1))
    return mean / (spread / math.sqrt(len(deltas))) if spread else 0.0


Rows = Sequence[Mapping[str, Any]]


def _share(rows: Rows, of: Callable[[Mapping[str, Any]], bool]) -> str:
    return power.interval(sum(map(of, rows)), len(rows))


def show(rows: Rows) -> None:
    """Print the tables, then each subject with an unexpected result."""
    good, bad = [row for row in rows if row["harmless"]], [row for row in rows if not row["harmless"]]
    print(f"\n{len(good)} harmless subjects, {len(bad)} faults\n")
    print("| harmless | subjects | PASS | warned | FAIL | mean KL |\n| --- | --- | --- | --- | --- | --- |")
    for kind, some in _by_kind(good):
        counts = Counter(row["seen"] for row in some)
        print(f"| {kind} | {len(some)} | {counts[NOBODY]} | {counts[WARNING]} | {counts[GATE]} | {_range(some)} |")
    print(
        f"| all | {len(good)} | {_share(good, lambda row: row['seen'] == NOBODY)} | "
        f"{_share(good, lambda row: row['seen'] == WARNING)} | {_share(good, lambda row: row['seen'] == GATE)} | |"
    )
    measurable = [row for row in bad if row["measurable"]]
    print("\n| fault | subjects | measurable | by a gate | by a warning | by nobody | mean KL of those |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind, some in _by_kind(bad):
        seen = [row for row in some if row["measurable"]]
        counts = Counter(row["seen"] for row in seen)
        missed = [row for row in seen if row["seen"] == NOBODY]
        print(
            f"| {kind} | {len(some)} | {len(seen)} | {counts[GATE]} | {counts[WARNING]} | {counts[NOBODY]} "
            f"| {_range(missed)} |"
        )
    print(f"\nmeasurable faults seen: {_share(measurable, lambda row: row['seen'] != NOBODY)}")
    print(f"of these by a gate: {_share(measurable, lambda row: row['seen'] == GATE)}")
    for row in good:
        if row["seen"] != NOBODY:
            print(f"\n{row['seen']} of a harmless subject: {_line(row)}")
    for row in measurable:
        if row["seen"] == NOBODY:
            print(f"\nby nobody: {_line(row)}")
    for row in rows:
        if any(flag.startswith("fidelity") for flag in row["by"]) and not row["weights"]:
            print(f"\nonly fidelity or perplexity: {_line(row)}")


def _by_kind(rows: Rows) -> Iterator[tuple[str, Rows]]:
    kinds: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        kinds[row["kind"]].append(row)
    yield from kinds.items()


def _range(rows: Rows) -> str:
    found = [row["kl"] for row in rows if row.get("kl") is not None]
    return f"{min(found):.2g} to {max(found):.2g}" if found else "–"


def _line(row: Mapping[str, Any]) -> str:
    numbers = ", ".join(f"{key} {row[key]:.4g}" for key in ("ratio", "kl", "t") if row.get(key) is not None)
    said = "; ".join(row["said"][:3]) or "nothing"
    return f"{row['model']}, {row['kind']}, {row['name']} ({numbers}), {row['seen']}: {said}"


def tasks(options: argparse.Namespace) -> list[Task]:
    """Return the selected subjects of all models, in random order."""
    windows = (options.preview, options.final)
    found = []
    for model in [str(options.baseline)] if options.baseline else options.model or MODELS:
        subjects = [one for one in bank(model) if not options.only or one.is_one_of(options.only)]
        found += [Task(model, windows, one, options.reports) for one in subjects[:: options.every]]
    # in random order an interrupted study has measured some subjects of every kind
    random.Random(0).shuffle(found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", choices=MODELS, action="append", help="may be given several times")
    parser.add_argument("--baseline", type=Path, metavar="FOLDER", help="a checkpoint of your own in place of them")
    parser.add_argument(
        "--only", action="append", metavar="KIND[: NAME]", help="measure only this kind; may be given several times"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="measure only every Nth subject")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no further subject after so long")
    parser.add_argument("--preview", type=int, default=PREVIEW, help="windows")
    parser.add_argument("--final", type=int, default=FINAL, help="windows")
    parser.add_argument("--reports", type=Path, metavar="FOLDER", help="keep each report there, and use those kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every row there")
    options = parser.parse_args()
    wanted = tasks(options)
    end = time.monotonic() + 60 * options.minutes
    missing = [one for one in wanted if one.kept is None or not one.kept.exists()]
    prepared = {one.model: (source(one.model), bench(one.model, one.windows)) for one in missing}
    rows = []
    with ProcessPoolExecutor(options.workers, get_context("spawn"), use, (prepared,)) as processes:
        for row in processes.map(partial(run, end=end), wanted):
            if row is not None:
                rows.append(row)
                print(_line(row), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))
    show(rows)


if __name__ == "__main__":
    main()
