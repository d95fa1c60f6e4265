"""Time of each stage of comparing a checkpoint with an edit of it, against forward passes and one read of its files.

    python benchmarks/stages.py FOLDER [--spec quant_rtn:6:128:ffn] [--preview 8] [--final 24]

The subject is scored on the embedded text in windows of 128 tokens, as the second case of a process: the baseline is
measured first. Times are CPU times, which other processes affect less than wall-clock time.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.catalog.models import read_models
from invarlock.checkpoints.editing import apply_edits
from invarlock.checkpoints.snapshots import make_snapshot
from invarlock.checkpoints.storage_format import open_checkpoint
from invarlock.evaluation import activations, comparison, final_windows
from invarlock.evaluation.kept_tokens import kept_file
from invarlock.evaluation.measurements import Comparison, Reference, SubjectMeasurement, WindowPlan
from invarlock.evaluation.models import Placement, forward, load_model
from invarlock.evaluation.text import read_embedded_text
from invarlock.evaluation.windows import Draw, Tokens
from invarlock.measuring import rmt, spectral, weight_changes
from invarlock.measuring.invariants import tensor_digest
from invarlock.reports.policy import resolve_policy

SUITES = Path(__file__).parents[1] / "suites"
SEQ_LEN, BATCH_SIZE, RUN = 128, 16, 1
# Parts of a stage: the module that calls the function, the function's name, and a label.
PARTS = (
    (comparison, "digest_checkpoint", "digest of the files"),
    (spectral, "measure_spectra", "spectra"),
    (weight_changes, "measure_changes", "changes, with their spectra"),
    (comparison, "measure_canonical_form", "canonical form"),
    (rmt, "edge_risk", "edge risks"),
)


class Clock:
    """Measures the CPU seconds of each part of a stage."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = defaultdict(float)
        for module, name, words in PARTS:
            setattr(module, name, self._timed(getattr(module, name), words))

    def _timed(self, function: Callable[..., Any], words: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                self.parts[words] += time.process_time() - started

        return timed


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def passes(folder: Path, draw: Draw) -> float:
    """Return the CPU seconds of the forward passes over a draw's windows."""
    model = load_model(folder, Placement("cpu"))

    @torch.inference_mode()
    def run(tokens: Tokens) -> None:
        for start in range(0, len(tokens), BATCH_SIZE):
            forward(model, torch.from_numpy(tokens[start : start + BATCH_SIZE]).long())

    return seconds(lambda: [run(tokens) for tokens in (draw.preview.tokens, draw.final.tokens)])


def read_and_hashed(folder: Path) -> float:
    """Return the CPU seconds of reading and hashing every tensor."""
    checkpoint = open_checkpoint(folder)

    def work() -> None:
        for name in checkpoint.files.entries:
            tensor_digest(checkpoint.read(name))

    return seconds(work)


def show(name: str, measured: SubjectMeasurement, parts: dict[str, float]) -> float:
    whole = sum(measured.seconds.values())
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in measured.seconds.items())
    within = ", ".join(f"{part} {value:.1f}" for part, value in parts.items())
    print(f"{name}: {whole:.1f} s: {stages}; of these {within}", flush=True)
    parts.clear()
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--spec", default="quant_rtn:6:128:ffn")
    parser.add_argument("--preview", type=int, default=8)
    parser.add_argument("--final", type=int, default=24)
    options = parser.parse_args()
    spec = parse_edit_spec(options.spec)
    assert isinstance(spec, EditSpec)
    text = read_models(SUITES / "models.toml").suites["laptop"].text
    assert text is not None
    assert text.source is not None
    assert text.sha256 is not None
    source = read_embedded_text(SUITES / text.source, text.sha256)
    # the CPU seconds of each stage of a comparison
    for module in (activations, comparison, final_windows):
        vars(module)["time"] = SimpleNamespace(perf_counter=time.process_time)
    clock = Clock()
    with tempfile.TemporaryDirectory(dir=options.folder.resolve().parent) as work:
        snapshot, kept = Path(work) / "baseline", Path(work) / "kept"
        make_snapshot(options.folder, None, snapshot, None)
        plan = WindowPlan(SEQ_LEN, options.preview, options.final, 0, BATCH_SIZE)
        draws = comparison.draw_runs(snapshot, source, plan, [RUN])
        baseline = comparison.measure_baseline(snapshot, draws, plan, Placement("cpu"), probe=False, kept=kept)
        print(
            f"baseline: {', '.join(f'{stage} {value:.1f}' for stage, value in baseline.seconds.items())} s", flush=True
        )
        clock.parts.clear()
        own = baseline.draws[RUN]
        reference = Reference(
            snapshot,
            kept_file(kept, RUN),
            own.fidelity["vocabulary"],
            baseline.facts,
            own.activations.variance,
            None,
            baseline.digest,
        )
        limits = resolve_policy("balanced", "dev", {})["variance"]
        measured_by = Comparison(reference, own.draw, plan, Placement("cpu"), limits)
        subject = Path(work) / "subject"
        print(f"making {spec}: {seconds(lambda: apply_edits(snapshot, {subject: spec})):.1f} s")
        whole = show(str(spec), comparison.compare(subject, measured_by), clock.parts)
        alone = passes(snapshot, own.draw)
        print(f"  the case / its forward passes, {alone:.1f} s: {whole / alone:.2f}, target: at most 1.3")
        read = read_and_hashed(snapshot)
        same = comparison.compare(snapshot, measured_by)
        show("no-op", same, clock.parts)
        print(f"  weights / reading and hashing the file, {read:.1f} s: {same.seconds['measure_weights'] / read:.2f}")
    print(f"peak: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


if __name__ == "__main__":
    main()
