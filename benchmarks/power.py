"""What the guards detect and perplexity does not: subtle faults and harmless changes of the embedded models.

python benchmarks/power.py [--workers 2] [--limit N] [--json FILE]

Each subject is measured like a case of the suite. A fault counts as a measurable change of the function when the
absolute paired t statistic of its loss differences is above 3.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch

from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.catalog.models import Models, read_models
from invarlock.checkpoints.editing import apply_edits
from invarlock.checkpoints.families import Module, matrices
from invarlock.checkpoints.rewriting import Replacement, Rewrite, rewrite_checkpoint
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.checkpoints.snapshots import make_snapshot
from invarlock.evaluation.comparison import compare, draw_runs, measure_baseline
from invarlock.evaluation.documents import baseline_document, report_document
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.models import Placement
from invarlock.evaluation.request import EditDescription, EvaluationRequest, Setup, StoredBaseline
from invarlock.evaluation.text import read_embedded_text
from invarlock.guards import GUARD_NAMES
from invarlock.reports.documents import PresetDocument
from invarlock.reports.presets import Preset

SUITES = Path(__file__).parents[1] / "suites"
MODELS = ("embedded/mistral-tiny", "embedded/qwen2-tiny", "embedded/mixtral-tiny")
GUARDS = ("primary_metric", *GUARD_NAMES)
MEASURABLE_T = 3.0
LOCAL_EDITS = ("quant_rtn:8:128", "fp8_quant:e4m3", "magnitude_prune:0.05", "magnitude_prune:0.12")
HEAD_ROWS = 32
GROUP = 32
Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Subject:
    """One subject of the bank: the kind of change, the tensors that it changes, and how."""

    model: str
    kind: str
    name: str
    harmless: bool
    seed: int


def scaled(factor: float) -> Change:
    return lambda w: w * factor


def blended(share: float, blend: float, seed: int) -> Change:
    def change(w: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(w), generator=generator)[: max(1, round(share * len(w)))]
        direction = torch.nn.functional.normalize(torch.randn(w.shape[1], generator=generator), dim=0)
        norms = w[rows].norm(dim=1, keepdim=True)
        out = w.clone()
        mixed = blend * direction + (1 - blend) * w[rows] / norms
        out[rows] = torch.nn.functional.normalize(mixed, dim=1) * norms
        return out

    return change


def flipped(share: float, seed: int) -> Change:
    def change(w: torch.Tensor) -> torch.Tensor:
        chosen = torch.rand(w.shape, generator=torch.Generator().manual_seed(seed)) < share
        return torch.where(chosen, -w, w)

    return change


def swapped_heads(w: torch.Tensor) -> torch.Tensor:
    out = w.clone()
    out[:HEAD_ROWS], out[HEAD_ROWS : 2 * HEAD_ROWS] = w[HEAD_ROWS : 2 * HEAD_ROWS], w[:HEAD_ROWS]
    return out


def off_by_one_scales(w: torch.Tensor) -> torch.Tensor:
    groups = w.reshape(len(w), -1, GROUP)
    scale = groups.abs().amax(dim=2, keepdim=True) / 7
    codes = (groups / scale.clamp_min(1e-12)).round().clamp(-8, 7)
    return (codes * scale.roll(1, dims=1)).reshape(w.shape)


def fp8_without_scale(w: torch.Tensor) -> torch.Tensor:
    return w.to(torch.float8_e4m3fn).float()


def transposed(w: torch.Tensor) -> torch.Tensor:
    return w.T.contiguous()


def jittered(share: float, seed: int) -> Change:
    return lambda w: w + share * w.std() * torch.randn(w.shape, generator=torch.Generator().manual_seed(seed))


def one_matrix_faults(names: list[str], shapes: Mapping[str, Any]) -> Iterator[tuple[str, str, Change]]:
    for name in names:
        for factor in (1.01, 1.02, 1.05, 1.1, 1.2, 1.5):
            yield f"scale {factor:g}", name, scaled(factor)
        for share, blend in ((0.05, 0.3), (0.2, 0.3)):
            yield f"rows {share:g} blended {blend:g}", name, blended(share, blend, 1)
        for share in (0.001, 0.01):
            yield f"signs {share:g} flipped", name, flipped(share, 2)
        if shapes[name][1] % GROUP == 0:
            yield "group scales off by one", name, off_by_one_scales
        yield "fp8 without scale", name, fp8_without_scale
        if shapes[name][0] == shapes[name][1]:
            yield "transposed", name, transposed


@cache
def catalog() -> Models:
    return read_models(SUITES / "models.toml")


@cache
def snapshot(model_id: str) -> Path:
    """Return the folder of a model with its tokenizer, which is made once per process."""
    model = catalog().models[model_id]
    assert model.path is not None
    assert model.tokenizer_path is not None
    folder = Path(tempfile.mkdtemp(prefix="invarlock-power-")) / "baseline"
    make_snapshot(SUITES / model.path, SUITES / model.tokenizer_path, folder, model.revision)
    return folder


@cache
def bench(model_id: str) -> Any:
    """Return the snapshot, files, setup, baseline and draw against which a model's subjects are measured."""
    torch.set_num_threads(1)
    model, text, folder = catalog().models[model_id], catalog().suites["smoke"].text, snapshot(model_id)
    assert text is not None
    plan = WindowPlan(text.seq_len, text.preview_windows, text.final_windows, 0, 16)
    assert text.source is not None
    assert text.sha256 is not None
    source = read_embedded_text(SUITES / text.source, text.sha256)
    context = {"suite": "power", "profile": "dev", "tier": "balanced"}
    context |= {"determinism": "strict", "execution_mode": "host-bypass"}
    setup = Setup(model_id, model.revision, context, Placement("cpu"), plan, source)
    draws = draw_runs(folder, source, plan, [1])
    baseline = baseline_document(setup, measure_baseline(folder, draws, plan, Placement("cpu"), probe=False))
    return folder, read_checkpoint(folder), setup, baseline, draws[1]


def rewrites(model_id: str) -> dict[Subject, Rewrite | EditSpec]:
    """Return every subject of a model."""
    files = read_checkpoint(snapshot(model_id))
    known = matrices(files.model_type, files.shapes)
    names = random.Random(7).sample(sorted(known), 11)
    bank: dict[Subject, Rewrite | EditSpec] = {}

    def add(kind: str, name: str, change: Rewrite | EditSpec, *, harmless: bool = False, seed: int = 0) -> None:
        bank[Subject(model_id, kind, name, harmless, seed)] = change

    for kind, name, change in one_matrix_faults(names, files.shapes):
        add(kind, name, matrix_rewrite(name, change))
    for name, module in known.items():
        if module.role == "q":
            add("heads swapped", name, matrix_rewrite(name, swapped_heads))
        if module.expert == 0 and module.role in ("up", "down"):
            other = name.replace("experts.0", "experts.1")
            add("experts swapped", name, Rewrite({name: Replacement(other, keep), other: Replacement(name, keep)}))
    for layer in {module.layer for module in known.values() if module.layer}:
        add("block duplicated", f"block {layer}", duplicate(known, layer))
    for seed in range(16):
        for share in (0.002, 0.005, 0.01):
            jitter = {name: Replacement(name, float_change(jittered(share, seed))) for name in known}
            add(f"jitter {share:g}", "all", Rewrite(jitter), harmless=True, seed=seed)
    add("float16 round trip", "all", everywhere(known, lambda w: w.half().float()), harmless=True)
    for seed in range(8):
        add("FFN units permuted", "all", permuted(known, files.shapes, seed), harmless=True, seed=seed)
    for spec in ("quant_rtn:8:32:all", "quant_rtn:8:128:all", "quant_rtn:8:128:ffn", "quant_rtn:8:128:attn",
                 "quant_rtn:7:32:all", "quant_rtn:7:128:ffn", "fp8_quant:e4m3:ffn", "fp8_quant:e4m3:attn",
                 "fp8_quant:e4m3:all", "magnitude_prune:0.02:ffn", "magnitude_prune:0.05:ffn"):  # fmt: skip
        parsed = parse_edit_spec(spec)
        assert isinstance(parsed, EditSpec)
        add(spec, "all", parsed, harmless=True)
    last = max(module.layer for module in known.values() if module.layer is not None)
    for scope in (f"{family}@layer={layer}" for family in ("attn", "ffn") for layer in (0, last)):
        for edit in LOCAL_EDITS:
            parsed = parse_edit_spec(f"{edit}:{scope}")
            assert isinstance(parsed, EditSpec)
            add(f"{edit} of one block", scope, parsed, harmless=True)
    for name in names:
        add("jitter 0.01 of one matrix", name, matrix_rewrite(name, jittered(0.01, 5)), harmless=True)
    return bank


def keep(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone()


def float_change(change: Change) -> Change:
    return lambda tensor: change(tensor.float()).to(tensor.dtype)


def matrix_rewrite(name: str, change: Change) -> Rewrite:
    return Rewrite({name: Replacement(name, float_change(change))})


def everywhere(known: Mapping[str, Module], change: Change) -> Rewrite:
    return Rewrite({name: Replacement(name, float_change(change)) for name in known})


def duplicate(known: Mapping[str, Module], layer: int) -> Rewrite:
    names = [name for name, module in known.items() if module.layer == layer]
    return Rewrite({name: Replacement(name.replace(f".{layer}.", f".{layer - 1}.", 1), keep) for name in names})


def permuted(known: Mapping[str, Module], shapes: Mapping[str, Any], seed: int) -> Rewrite:
    """Reorder the hidden units of every FFN (rows of gate and up, columns of down), which keeps the function."""
    tensors = {}
    for name, module in known.items():
        if module.family != "ffn":
            continue
        units = shapes[name][1] if module.role == "down" else shapes[name][0]
        order = torch.randperm(units, generator=torch.Generator().manual_seed(seed * 1000 + (module.layer or 0)))

        def change(w: torch.Tensor, order: torch.Tensor = order, down: bool = module.role == "down") -> torch.Tensor:
            return w[:, order].contiguous() if down else w[order].contiguous()

        tensors[name] = Replacement(name, change)
    return Rewrite(tensors)


def measure(subject: Subject, preset_limits: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Make and measure one subject, and return what was detected with the tier's limits or those of a preset."""
    folder, files, setup, baseline, draw = bench(subject.model)
    change = rewrites_cached(subject.model)[subject]
    target = folder.parent / "subject"
    if isinstance(change, EditSpec):
        apply_edits(folder, {target: change})
    else:
        rewrite_checkpoint(files, {target: change})
    if preset_limits:
        setup = replace(setup, preset=Preset(cast(PresetDocument, {"limits": preset_limits}), f"sha256:{'0' * 64}"))
    stored = StoredBaseline(folder, baseline, f"sha256:{'0' * 64}")
    request = EvaluationRequest(setup, stored, "power", 1, draw, setup.placement)
    try:
        measured = compare(target, request.comparison())
    finally:
        shutil.rmtree(target)
    edited = EditDescription("custom", "custom", "custom", {})
    report: Any = report_document(request, edited, measured)
    final = report["evaluation_windows"]["final"]
    deltas = [own - base for own, base in zip(final["logloss"], final["baseline_logloss"], strict=True)]
    mean = sum(deltas) / len(deltas)
    spread = math.sqrt(sum((delta - mean) ** 2 for delta in deltas) / (len(deltas) - 1))
    t = mean / (spread / math.sqrt(len(deltas))) if spread else 0.0
    flags = {guard: report[guard]["status"] != "pass" for guard in GUARDS if guard != "primary_metric"}
    flags["primary_metric"] = not report["validation"]["primary_metric_acceptable"]
    return {
        "model": subject.model,
        "kind": subject.kind,
        "name": subject.name,
        "harmless": subject.harmless,
        "ratio": report["primary_metric"]["ratio_vs_baseline"],
        "t": t,
        "flags": flags,
    }


@cache
def rewrites_cached(model_id: str) -> dict[Subject, Rewrite | EditSpec]:
    return rewrites(model_id)


def interval(hits: int, count: int) -> str:
    """Return a share with its 95 % Wilson interval, in percent."""
    if not count:
        return "–"
    z, share = 1.96, hits / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return f"{100 * share:.1f} % ({100 * max(0.0, centre - half):.1f}–{100 * (centre + half):.1f}), {hits} of {count}"


def show(rows: list[dict[str, Any]]) -> None:
    harmless = [row for row in rows if row["harmless"]]
    faults = [row for row in rows if not row["harmless"]]
    missed = [row for row in faults if not row["flags"]["primary_metric"]]
    measurable = [row for row in missed if abs(row["t"]) > MEASURABLE_T]
    guards = [guard for guard in GUARDS if guard != "primary_metric"]

    def caught(some: list[dict[str, Any]], *names: str) -> str:
        return interval(sum(any(row["flags"][name] for name in names) for row in some), len(some))

    print(f"{len(harmless)} harmless changes, {len(faults)} faults on {len(MODELS)} models\n")
    print(
        "| by | false alarms | faults | missed by perplexity | of those, measurable |\n| --- | --- | --- | --- | --- |"
    )
    for label, names in (*((guard, (guard,)) for guard in GUARDS), ("all guards", tuple(guards))):
        cells = (caught(some, *names) for some in (harmless, faults, missed, measurable))
        print(f"| {label} | {' | '.join(cells)} |")
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in faults:
        kinds[row["kind"]].append(row)
    print("\n| fault | subjects | ratios | perplexity | guards | nobody |\n| --- | --- | --- | --- | --- | --- |")
    for kind, some in kinds.items():
        ratios = [row["ratio"] for row in some if row["ratio"] is not None]
        seen = [any(row["flags"].values()) for row in some]
        print(
            f"| {kind} | {len(some)} | {min(ratios):.3f}–{max(ratios):.3g} | "
            f"{sum(row['flags']['primary_metric'] for row in some)} | "
            f"{sum(any(row['flags'][guard] for guard in guards) for row in some)} | {len(some) - sum(seen)} |"
        )
    alarms = [row for row in harmless if any(row["flags"].values())]
    for row in alarms:
        raised = [guard for guard, flag in row["flags"].items() if flag]
        print(f"\nfalse alarm: {row['kind']} on {row['model']}, ratio {row['ratio']:.4f}: {', '.join(raised)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=int, help="measure only so many subjects of each model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every row there")
    options = parser.parse_args()
    subjects = [subject for model in MODELS for subject in list(rewrites_cached(model))[: options.limit]]
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as processes:
        rows = list(processes.map(measure, subjects, chunksize=8))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))
    show(rows)


if __name__ == "__main__":
    main()
