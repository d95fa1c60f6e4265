"""The table of docs/metrics.md: fidelity and perplexity for edits of the embedded models, and the cost of fidelity.

    python benchmarks/fidelity.py [--model mistral-tiny] [--final 100] [--cost]
    python benchmarks/fidelity.py --cost-of FOLDER [--final 16]                     # what it costs, of a checkpoint

Fine-tuned subjects are trained for 20 steps on the preview windows; the table uses only the final windows.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.catalog.models import read_models
from invarlock.checkpoints.editing import apply_edits
from invarlock.checkpoints.snapshots import make_snapshot
from invarlock.evaluation.comparison import compare, draw_runs, measure_baseline
from invarlock.evaluation.documents import baseline_document, report_document
from invarlock.evaluation.kept_tokens import SubjectObserver, kept_file, kept_folder
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.models import Placement, load_model
from invarlock.evaluation.request import EditDescription, EvaluationRequest, Setup, StoredBaseline
from invarlock.evaluation.scoring import score_windows
from invarlock.evaluation.text import read_embedded_text
from invarlock.evaluation.windows import Draw

SUITES = Path(__file__).parents[1] / "suites"
MODELS = ("mistral-tiny", "qwen2-tiny", "mixtral-tiny")
EDITS = (
    "quant_rtn:8:128:all",
    "fp8_quant:e4m3:all",
    "fp8_quant:e5m2:all",
    "magnitude_prune:0.1:all",
    "magnitude_prune:0.25:all",
    "quant_rtn:4:32:all",
    "quant_rtn:4:128:all",
    "quant_rtn:3:128:all",
)
FINE_TUNED = "fine-tuned for 20 steps"
STEPS, LEARNING_RATE, BATCH = 20, 5e-4, 16
CPU = Placement("cpu")
TIMES = 7
COST = "a pass with fidelity takes {:.3f} times the processor time of one without"


def fine_tune(folder: Path, draw: Draw, target: Path) -> None:
    """Write a copy of a checkpoint, trained on the preview windows."""
    shutil.copytree(folder, target)
    model: Any = load_model(folder, CPU).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    tokens = torch.from_numpy(draw.preview.tokens).long()
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0)).repeat(STEPS)
    for step in range(STEPS):
        batch = tokens[order[step * BATCH : (step + 1) * BATCH]]
        optimiser.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimiser.step()
    # transformers writes fused weights, such as experts, in the checkpoint's own layout
    dtype = next(iter(load_file(folder / "model.safetensors").values())).dtype
    model.to(dtype).save_pretrained(target)


def subjects(folder: Path, draw: Draw) -> Iterator[tuple[str, Path]]:
    """Yield the name and folder of each subject, and remove the folder before the next subject is made."""
    target = folder.with_name("subject")
    for name in (*EDITS, FINE_TUNED):
        if name == FINE_TUNED:
            fine_tune(folder, draw, target)
        else:
            spec = parse_edit_spec(name)
            assert isinstance(spec, EditSpec)
            apply_edits(folder, {target: spec})
        yield name, target
        shutil.rmtree(target)


class TimedObserver(SubjectObserver):
    """A `SubjectObserver` that adds up its own CPU time."""

    seconds = 0.0

    def observe(self, *given: Any) -> None:
        started = time.process_time()
        super().observe(*given)
        self.seconds += time.process_time() - started

    def finish(self) -> dict[str, Any]:
        started = time.process_time()
        found = super().finish()
        self.seconds += time.process_time() - started
        return found


def cost(folder: Path, draw: Draw, plan: WindowPlan) -> float:
    """Return the median ratio of the CPU time of a scoring pass with fidelity to that of the same pass without it."""
    model, path = load_model(folder, CPU), kept_file(kept_folder(folder), 1)
    vocabulary = model.config.get_text_config().vocab_size

    def ratio() -> float:
        observer = TimedObserver(path, vocabulary, draw.final.positions)
        started = time.process_time()
        score_windows(model, draw.final.tokens, plan.batch_size, observer=observer)
        observer.finish()
        whole = time.process_time() - started
        return whole / (whole - observer.seconds)

    return statistics.median(ratio() for _ in range(TIMES))


def cost_of(folder: Path, final: int) -> float:
    """Return the `cost` of fidelity for a checkpoint with a tokenizer, on 128-token windows of the embedded text."""
    text = read_models(SUITES / "models.toml").suites["smoke"].text
    assert text is not None
    assert text.source is not None
    assert text.sha256 is not None
    with tempfile.TemporaryDirectory(prefix="invarlock-fidelity-") as scratch:
        baseline = Path(scratch) / "baseline"
        baseline.symlink_to(folder.resolve(), target_is_directory=True)
        plan = WindowPlan(128, 1, final, 0, BATCH)
        draws = draw_runs(baseline, read_embedded_text(SUITES / text.source, text.sha256), plan, [1])
        measure_baseline(baseline, draws, plan, CPU, probe=False)
        return cost(baseline, draws[1], plan)


def table(name: str, final: int, *, with_cost: bool) -> None:
    """Print the table rows of one model."""
    catalog = read_models(SUITES / "models.toml")
    model, text = catalog.models[f"embedded/{name}"], catalog.suites["smoke"].text
    assert text is not None
    assert text.source is not None
    assert text.sha256 is not None
    assert model.path is not None
    assert model.tokenizer_path is not None
    with tempfile.TemporaryDirectory(prefix="invarlock-fidelity-") as scratch:
        folder = Path(scratch) / "baseline"
        make_snapshot(SUITES / model.path, SUITES / model.tokenizer_path, folder, model.revision)
        source = read_embedded_text(SUITES / text.source, text.sha256)
        plan = WindowPlan(text.seq_len, final, final, 0, BATCH)
        draws = draw_runs(folder, source, plan, [1])
        context = {"suite": "fidelity", "profile": "dev", "tier": "balanced", "determinism": "throughput"}
        setup = Setup(model.id, model.revision, {**context, "execution_mode": "host-bypass"}, CPU, plan, source)
        document = baseline_document(setup, measure_baseline(folder, draws, plan, CPU, probe=False))
        stored = StoredBaseline(folder, document, f"sha256:{'0' * 64}")
        request = EvaluationRequest(setup, stored, "fidelity", 1, draws[1], CPU)
        print(f"\n{name}, {final} windows of {plan.seq_len} tokens\n")
        print("| subject | ratio | mean KL | p99 KL | p99.9 KL | same top token | confident flips |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for label, subject in subjects(folder, draws[1]):
            measured = compare(subject, request.comparison())
            report = report_document(request, EditDescription("custom", "custom", "custom", {}), measured)
            found, ratio = report["fidelity"], report["primary_metric"]["ratio_vs_baseline"]
            print(
                f"| {label} | {ratio:.4f} | {found['kl_mean']:.5f} | {found['kl_p99']:.3f} | {found['kl_p999']:.3f} "
                f"| {found['same_top_share']:.1%} | {found['confident_flip_share']:.2%} |",
                flush=True,
            )
        if with_cost:
            print(f"\n{COST.format(cost(folder, draws[1], plan))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--final", type=int, default=100)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--cost-of", type=Path)
    options = parser.parse_args()
    if options.cost_of is not None:
        print(COST.format(cost_of(options.cost_of, options.final)))
        return
    for name in options.model or MODELS:
        table(name, options.final, with_cost=options.cost)


if __name__ == "__main__":
    main()
