"""All GPU checks in one run: agreement with the CPU, every edit, fault and guard at full size, and minimum times.

python benchmarks/gpu.py --folder /big/disk [--shape mistral-7b] [--json FILE]
python benchmarks/gpu.py --folder /big/disk --cases nan_injection quant_rtn:4:32:ffn     # where time is short
python benchmarks/gpu.py --shape tiny                      # the same on a CPU, in seconds

It needs no network: the large model has Mistral-7B's exact shapes and random weights, and is written to disk shard by
shard. Its perplexity is meaningless; the result is whether each guard could measure it. At full size it needs some
45 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import MistralConfig

from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.catalog.models import Model, Text, read_models
from invarlock.checkpoints.editing import apply_edits
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.checkpoints.snapshots import make_snapshot
from invarlock.errors import EditError
from invarlock.evaluation.comparison import compare, draw_runs, measure_baseline
from invarlock.evaluation.documents import baseline_document, report_document
from invarlock.evaluation.measurements import Baseline, WindowPlan
from invarlock.evaluation.models import Placement, load_model
from invarlock.evaluation.request import EditDescription, EvaluationRequest, Setup, StoredBaseline
from invarlock.evaluation.text import SourceText, read_embedded_text
from invarlock.faults import BY_NAME as FAULTS
from invarlock.faults.injection import inject_fault
from invarlock.guards import GUARD_NAMES
from invarlock.measuring.spectral import measure_spectra

SUITES = Path(__file__).parents[1] / "suites"
EMBEDDED = ("embedded/mistral-tiny", "embedded/qwen2-tiny", "embedded/mixtral-tiny")
SHAPES: dict[str, dict[str, int]] = {
    "mistral-7b": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768,
    },
    "tiny": {
        "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    },
}  # fmt: skip
EDITS = ("noop", "quant_rtn:4:32:ffn", "fp8_quant:e4m3:all", "magnitude_prune:0.1:ffn", "lowrank_svd:32:ffn@layer=1")
# A GPU computes in the stored bfloat16 (8 bits of precision) and the CPU in float32. Sigma is float32 on both.
LOSS_TOLERANCE, EDGE_TOLERANCE, RMS_TOLERANCE, SIGMA_TOLERANCE = 0.01, 0.05, 0.01, 1e-4


@dataclass
class Results:
    """The measurements: the rows of each table, and the checks that failed."""

    device: str
    agreement: list[dict[str, Any]] = field(default_factory=list)
    cases: list[dict[str, Any]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    file: Path | None = None

    def stage(self, name: str, seconds: float, floor: float | None, what: str) -> None:
        self.stages.append({"stage": name, "seconds": seconds, "floor_seconds": floor, "floor": what})
        self.save()

    def save(self) -> None:
        """Write the measurements so far, because a time limit may end the script at any moment."""
        if self.file is not None:
            kept = {name: value for name, value in vars(self).items() if name != "file"}
            self.file.write_text(json.dumps(kept, indent=1))


def settled(device: str) -> float:
    """Wait until the device has finished all its work, and return the time."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(device: str, work: Callable[[], object]) -> float:
    started = settled(device)
    work()
    return settled(device) - started


def embedded_text(model: Model) -> tuple[Text, SourceText]:
    suites = read_models(SUITES / "models.toml").suites.values()
    text = next(suite.text for suite in suites if suite.text is not None and model.id in suite.models)
    assert text.source is not None
    assert text.sha256 is not None
    return text, read_embedded_text(SUITES / text.source, text.sha256)


def agreement(device: str, folder: Path, models: Sequence[str], results: Results) -> None:
    """Compare the embedded models' measurements on CPU and device, and sigma with the exact decomposition."""
    catalog = read_models(SUITES / "models.toml")
    for model_id in models:
        model = catalog.models[model_id]
        text, source = embedded_text(model)
        snapshot = folder / model.folder
        assert model.path is not None
        assert model.tokenizer_path is not None
        make_snapshot(SUITES / model.path, SUITES / model.tokenizer_path, snapshot, model.revision)
        plan = WindowPlan(text.seq_len, 8, 32, 0, 16)
        draws = draw_runs(snapshot, source, plan, [1])
        one, other = (measure_baseline(snapshot, draws, plan, Placement(at), probe=False) for at in ("cpu", device))
        weights = load_file(snapshot / "model.safetensors")
        modules = other.facts.spectral["modules"]
        exact = {name: float(torch.linalg.svdvals(weights[name].double())[0]) for name in modules}
        row: dict[str, Any] = {
            "model": model.short_name,
            "loss": largest(zip(losses(one), losses(other), strict=True)),
            "edge risk": largest(pairs(one, other, "rmt", "edge_risk")),
            "rms": largest(pairs(one, other, "variance", "rms")),
            "sigma": largest((exact[name], modules[name]["sigma"]) for name in modules),
        }
        results.agreement.append(row)
        limits: dict[str, float] = {
            "loss": LOSS_TOLERANCE,
            "edge risk": EDGE_TOLERANCE,
            "rms": RMS_TOLERANCE,
            "sigma": SIGMA_TOLERANCE,
        }
        results.problems += [
            f"{row['model']}: {what} differs by {row[what]:.2g}, tolerance {limit:g}"
            for what, limit in limits.items()
            if not row[what] <= limit
        ]
        results.save()


def losses(baseline: Baseline) -> list[float | None]:
    return list(baseline.draws[1].final.losses)


def pairs(one: Baseline, other: Baseline, guard: str, key: str) -> Iterator[tuple[Any, Any]]:
    first, second = (getattr(side.draws[1].activations, guard)["modules"] for side in (one, other))
    for name in first:
        if first[name][key] is not None and second[name][key] is not None:
            yield first[name][key], second[name][key]


def largest(compared: Any) -> float:
    """Return the largest relative difference between the values."""
    worst: float = max(abs(one - other) / max(abs(one), abs(other), 1e-12) for one, other in compared)
    return worst


def make_model(folder: Path, shape: Mapping[str, Any]) -> None:
    """Write a checkpoint of random bfloat16 weights, one shard per block, with one block in memory at a time."""
    config = MistralConfig(**shape, sliding_window=None, tie_word_embeddings=False, dtype="bfloat16")
    config.architectures = ["MistralForCausalLM"]
    hidden, inner, vocabulary = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    narrow = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    block = {f"self_attn.{name}_proj": (hidden, hidden) for name in "qo"}
    block |= {f"self_attn.{name}_proj": (narrow, hidden) for name in "kv"}
    block |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    norms = ("input_layernorm", "post_attention_layernorm")
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)

    def matrix(*size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)

    def blocks() -> Iterator[dict[str, torch.Tensor]]:
        yield {"model.embed_tokens.weight": matrix(vocabulary, hidden)}
        for layer in range(shape["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            tensors = {f"{prefix}{name}.weight": matrix(*size) for name, size in block.items()}
            yield tensors | {f"{prefix}{name}.weight": torch.ones(hidden, dtype=torch.bfloat16) for name in norms}
        yield {
            "model.norm.weight": torch.ones(hidden, dtype=torch.bfloat16),
            "lm_head.weight": matrix(vocabulary, hidden),
        }

    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(blocks()):
        shard = f"model-{number:05d}.safetensors"
        save_file(tensors, folder / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for path in (SUITES / "embedded" / "tokenizer").iterdir():
        shutil.copy(path, folder)


def every_case(
    device: str, baseline: Path, folder: Path, source: SourceText, cases: Sequence[str], results: Results
) -> None:
    """Measure each edit and fault with every guard, and record how long each stage took."""
    placement = Placement(device)
    # the weights are random, so the perplexity is at chance level
    plan = WindowPlan(128, 8, 16, 0, 8, most_of_chance=math.inf)
    draws = draw_runs(baseline, source, plan, [1])
    context = {"suite": "gpu", "profile": "dev", "tier": "balanced", "determinism": "throughput"}
    setup = Setup("random", None, {**context, "execution_mode": "host-bypass"}, placement, plan, source)
    measured = measure_baseline(baseline, draws, plan, placement, probe=True)
    document = baseline_document(setup, measured)
    size = read_checkpoint(baseline).total_parameters * 2
    read_floor = timed(device, lambda: read_all(baseline))
    compute_floor = forward_floor(device, size // 2, 24 * 128)
    results.stage("baseline: weights measured", measured.seconds["measure_weights"], read_floor, "weights read")
    results.stage("baseline: loaded", measured.seconds["load"], read_floor, "weights read")
    results.stage("baseline: scored, activations of 8 + 64 windows", measured.seconds["score"], compute_floor,
                  "FLOPs of the scored windows at the rate of one large product")  # fmt: skip
    for name in cases:
        subject = folder / "subject"
        spec = None if name in FAULTS else parse_edit_spec(name)
        started = settled(device)
        try:
            if isinstance(spec, EditSpec):
                apply_edits(baseline, {subject: spec})
            else:
                inject_fault(name, baseline, subject, {})
            made = settled(device) - started
            probe = name in ("rmt_norm_noise", "ve_mlp_scale_skew")
            stored = StoredBaseline(baseline, document, f"sha256:{'0' * 64}")
            request = EvaluationRequest(setup, stored, "gpu", 1, draws[1], placement, probe=probe)
            found = compare(subject, request.comparison())
        except EditError as error:
            results.problems.append(f"{name}: {error}")
            continue
        finally:
            shutil.rmtree(subject, ignore_errors=True)
        parameters = spec.parameters if isinstance(spec, EditSpec) else {}
        edited = EditDescription(name.partition(":")[0], name.partition(":")[0], name, parameters)
        report: Any = report_document(request, edited, found, made)
        statuses = {guard: report[guard]["status"] for guard in GUARD_NAMES}
        loaded = report["primary_metric"]["ratio_vs_baseline"] is not None
        print(f"{name}: made in {made:.1f} s, measured in {sum(found.seconds.values()):.1f} s", file=sys.stderr)
        results.cases.append({"case": name, "made": made, **found.seconds, **statuses, "scored": loaded})
        results.save()
        if name in EDITS and (statuses["invariants"] != "pass" or "error" in statuses.values()):
            results.problems.append(f"{name}: its guards say {statuses}")
    if any(row["case"] == "noop" and row["spectral"] != "pass" for row in results.cases):
        results.problems.append("noop: a guard signals on a copy")


def read_all(folder: Path) -> None:
    files = read_checkpoint(folder)
    for shard in files.shards:
        with safe_open(folder / shard, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118 - an open file is no mapping
                stream.get_tensor(name).clone()


def forward_floor(device: str, parameters: int, tokens: int) -> float:
    """Return the seconds of a forward pass's matrix products at the FLOP rate of one large product."""
    side = 4096 if device == "cuda" else 512
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    one = torch.randn(side, side, device=device, dtype=dtype)
    timed(device, lambda: one @ one)
    seconds = min(timed(device, lambda: one @ one) for _ in range(5))
    return 2 * parameters * tokens / (2 * side**3 / seconds)


def sigma(device: str, folder: Path, results: Results) -> None:
    """Time the spectra of all matrices, and compare with one copy of the matrices on the device."""
    model = load_model(folder, Placement(device))
    weights = [weight.detach() for weight in model.parameters() if weight.ndim == 2]
    first = max(weights, key=torch.Tensor.numel)
    measure_spectra(first[None].float())
    target = torch.empty_like(first).flatten()

    def copy() -> None:
        for weight in weights:
            target[: weight.numel()].copy_(weight.flatten())

    # the first copy is a warm-up
    copied = min(timed(device, copy) for _ in range(3))
    measured = timed(device, lambda: [measure_spectra(weight[None].float()) for weight in weights])
    results.stage("sigma of all matrices", measured, copied, "each copied once; reach 20 x")


def show(results: Results) -> None:
    columns = ("loss", "edge risk", "rms", "sigma")
    print(f"device: {results.device}\n\n| model | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}")
    for row in results.agreement:
        print(f"| {row['model']} | {' | '.join(f'{row[column]:.1e}' for column in columns)} |")
    stages = ("made", "measure_weights", "load", "score", "measure_activations")
    heads = ("case", *stages, *GUARD_NAMES)
    print(f"\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for row in results.cases:
        times = " | ".join(f"{row[stage]:.2f}" if stage in row else "-" for stage in stages)
        print(f"| {row['case']} | {times} | {' | '.join(row[guard] for guard in GUARD_NAMES)} |")
    print("\n| stage | seconds | floor | ratio | |\n| --- | --- | --- | --- | --- |")
    for row in results.stages:
        ratio = row["seconds"] / row["floor_seconds"]
        print(f"| {row['stage']} | {row['seconds']:.2f} | {row['floor_seconds']:.2f} | {ratio:.1f} | {row['floor']} |")
    print(f"\npeak host memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB", end="")
    print(f", device {torch.cuda.max_memory_allocated() / 1e9:.2f} GB" if results.device == "cuda" else "")
    for line in results.problems:
        print(f"does not hold: {line}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="mistral-7b")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", type=int, default=len(EMBEDDED), help="compare so many of the embedded models")
    parser.add_argument("--cases", nargs="+", default=[*EDITS, *FAULTS], metavar="CASE", help="default: all")
    parser.add_argument("--folder", type=Path, help="where checkpoints are written; default: a temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    options = parser.parse_args()
    results = Results(options.device, file=options.json)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="invarlock-gpu-") as name:
        folder = Path(name)
        agreement(options.device, folder, EMBEDDED[: options.models], results)
        baseline = folder / "baseline"
        results.stage("model written", timed("cpu", lambda: make_model(baseline, SHAPES[options.shape])), 1e-9, "-")
        results.stages[-1]["floor_seconds"] = timed("cpu", lambda: shutil.copytree(baseline, folder / "copy"))
        results.stages[-1]["floor"] = "files copied"
        shutil.rmtree(folder / "copy")
        source = embedded_text(read_models(SUITES / "models.toml").models[EMBEDDED[0]])[1]
        every_case(options.device, baseline, folder, source, options.cases, results)
        sigma(options.device, baseline, results)
    show(results)
    results.save()
    return 1 if results.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
