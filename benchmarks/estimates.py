"""How far the estimated time of an evaluation is from its measured CPU time.

    python benchmarks/estimates.py [--shapes tiny,10M,50M] [--seq-len 128] [--preview 4] [--final 8] [--folder DISK]

Each shape is a model of ``benchmarks/memory.py`` with random weights, or the embedded ``tiny``. A separate process
measures the speed of matrix products, then the baseline and an edited subject. It uses one thread and CPU time, so that
other work on the machine matters little. Both times are printed with their estimates and the peak resident set size.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from memory import SECONDS, make_model

from invarlock.catalog.estimates import FIXED_SECONDS, Workload, process_bytes
from invarlock.catalog.shipped import shipped_suites
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.machine_speed import SIDE, MachineSpeed

TINY = "tiny"
SPEC = "quant_rtn:8:128:all"
BATCH = 16
T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return the result of a function and its CPU time in seconds."""
    started = time.process_time()
    return work(), time.process_time() - started


def products_a_second() -> float:
    """Return the floating-point operations per CPU second of matrix products."""
    import numpy as np

    matrix = np.full((SIDE, SIDE), 0.5, dtype=np.float32)
    matrix @ matrix
    count, (_, seconds) = 50, timed(lambda: [matrix @ matrix for _ in range(50)])
    return 2 * SIDE**3 * count / seconds


def measure(name: str, folder: Path, seq_len: int, preview: int, final: int) -> dict[str, Any]:
    """Return the CPU seconds of a baseline and a subject, and their estimates. Call it in a separate process."""
    import torch

    from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
    from invarlock.checkpoints.digests import digest_checkpoint
    from invarlock.checkpoints.editing import apply_edits
    from invarlock.checkpoints.snapshots import make_snapshot
    from invarlock.evaluation.comparison import compare, draw_runs, measure_baseline
    from invarlock.evaluation.documents import baseline_document
    from invarlock.evaluation.measurements import WindowPlan
    from invarlock.evaluation.models import Placement
    from invarlock.evaluation.request import EvaluationRequest, Setup, StoredBaseline
    from invarlock.evaluation.text_files import read_local_text
    from invarlock.jsonio import digest_document

    torch.set_num_threads(1)
    base, subject, text = folder / "base", folder / "subject", folder / "text.txt"
    if name == TINY:
        embedded = shipped_suites() / "embedded"
        make_snapshot(embedded / "qwen2-tiny", embedded / "tokenizer", base, None)
        text.write_bytes(lzma.decompress((embedded / "text/austen_heldout.txt.xz").read_bytes()))
    else:
        make_model(name, base)
    files = read_checkpoint(base)
    if name != TINY:
        count = files.shapes["model.embed_tokens.weight"][0]
        words = (f"w{number * 7919 % count}" for number in range((preview + final + 4) * seq_len))
        text.write_text(" ".join(words), "utf-8")
    spec = parse_edit_spec(SPEC)
    assert isinstance(spec, EditSpec)
    apply_edits(base, {subject: spec})
    source = read_local_text(text, "text")
    plan = WindowPlan(seq_len, preview, final, 0, BATCH, most_of_chance=math.inf)
    context = {"suite": "estimates", "profile": "dev", "tier": "balanced"}
    context |= {"determinism": "throughput", "execution_mode": "host-bypass"}
    setup = Setup("estimates", digest_checkpoint(base), context, Placement("cpu"), plan, source)
    draws = draw_runs(base, source, plan, [1])
    speed = MachineSpeed(products_a_second(), 1e9)
    measured, of_baseline = timed(lambda: measure_baseline(base, draws, plan, Placement("cpu"), probe=False))
    document = baseline_document(setup, measured)
    stored = StoredBaseline(base, document, digest_document(document))
    request = EvaluationRequest(setup, stored, "estimates", 1, draws[1], Placement("cpu"), probe=False)
    _, of_subject = timed(lambda: compare(subject, request.comparison()))
    workload = Workload(files.total_parameters, preview + final, seq_len)
    return {
        "parameters": files.total_parameters,
        "gflops": speed.flops / 1e9,
        "baseline": [of_baseline, FIXED_SECONDS + workload.baseline_seconds(speed)],
        "subject": [of_subject, FIXED_SECONDS + workload.subject_seconds(speed)],
        # ru_maxrss is in kilobytes on Linux
        "megabytes": [
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
            process_bytes(files.total_parameters, BATCH * seq_len, seq_len) / 1e6,
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="tiny,10M,50M")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--preview", type=int, default=4)
    parser.add_argument("--final", type=int, default=8)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.shapes, options.one, options.seq_len, options.preview, options.final)))
        return
    numbers = ("--seq-len", options.seq_len, "--preview", options.preview, "--final", options.final)
    for name in options.shapes.split(","):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            command = [sys.executable, __file__, "--one", folder, "--shapes", name, *map(str, numbers)]
            done = subprocess.run(command, check=True, timeout=SECONDS, capture_output=True, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {row['parameters']:,} parameters, {row['gflops']:.0f} GFLOP/s", flush=True)
        for what, unit in (("baseline", "s"), ("subject", "s"), ("megabytes", "MB")):
            found, estimated = row[what]
            print(f"  {what}: {found:.3g} {unit}, estimated {estimated:.3g}, ratio {estimated / found:.2f}", flush=True)


if __name__ == "__main__":
    main()
