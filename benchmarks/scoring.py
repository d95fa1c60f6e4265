"""Time of scoring and of evaluating a case, each compared with a reference in the same process.

    python benchmarks/scoring.py [--model embedded/mistral-tiny] [--rounds 5]

Scoring is compared with a hand-written loop at its best batch size, over windows that leave a ragged last batch. The
time of a case beyond its forward passes is compared with those passes. The second case of a process is compared with
the first, which includes imports and the baseline's measurements. One thread. Times are CPU times: the shortest of
several alternating rounds, and for the first and second case the median.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import power
import torch

from invarlock.evaluation.models import Placement, load_model
from invarlock.evaluation.scoring import score_windows

SPEC = "quant_rtn:8:128:ffn"
BATCH_SIZES = (4, 8, 16, 32, 64)
BATCH_SIZE = 16
# not a multiple of 16, so that the last batch is ragged
WINDOWS = 120 - 7


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def in_turns(works: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Return the shortest time of each function; they run alternately, for several rounds."""
    times = [[seconds(work) for work in works] for _ in range(rounds)]
    return [min(column) for column in zip(*times, strict=True)]


def throughput(model_id: str, rounds: int) -> None:
    """Print the tokens per second of ``score_windows`` and of the hand-written loop."""
    folder, _, _, _, draw = power.bench(model_id)
    model = load_model(folder, Placement("cpu"))
    tokens = np.concatenate([draw.preview.tokens, draw.final.tokens])[:WINDOWS]

    @torch.inference_mode()
    def by_hand(size: int) -> list[float]:
        losses: list[float] = []
        for start in range(0, len(tokens), size):
            batch = torch.from_numpy(tokens[start : start + size]).long()
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
            each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none")
            losses += each.mean(dim=1).tolist()
        return losses

    ours = partial(score_windows, model, tokens, BATCH_SIZE)
    assert np.allclose([loss or 0.0 for loss in ours().losses], by_hand(BATCH_SIZE), rtol=1e-5)
    own, *others = in_turns([ours, *(partial(by_hand, size) for size in BATCH_SIZES)], rounds)
    best = min(others)
    scored = tokens.size
    print(f"{model_id}: {len(tokens)} windows of {tokens.shape[1]} tokens, batches of {BATCH_SIZE}")
    print(f"  {scored / own:.0f} tokens/s; by hand {scored / best:.0f}, batches of {BATCH_SIZES[others.index(best)]}")
    print(f"  ratio {best / own:.2f}, reach: at least 0.95")


def case(model_id: str, rounds: int) -> None:
    """Print a case's time beyond its forward passes, which are 64 + 64 windows, and 8 for activations."""
    subject = edited(model_id)
    folder, _, _, _, draw = power.bench(model_id)
    model = load_model(folder, Placement("cpu"))

    def forward() -> None:
        for tokens in (draw.preview.tokens, draw.final.tokens, draw.final.tokens[:8]):
            score_windows(model, tokens, BATCH_SIZE)

    power.measure(subject)
    whole, passes = in_turns([partial(power.measure, subject), forward], rounds)
    print(f"{model_id}: a case of {SPEC} {whole:.2f} s, its forward passes {passes:.2f} s")
    print(f"  beyond them {(whole - passes) / passes:.2f} times as long, reach: at most 1.3")


def first_and_second(model_id: str, rounds: int) -> None:
    """Print the times of the first and second case of a process; the first counts from the start of the process."""
    command = [sys.executable, __file__, "--model", model_id, "--two-cases"]
    found = []
    for _ in range(rounds):
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
        found.append([float(word) for word in done.stdout.split()])
    first, second = (median(column) for column in zip(*found, strict=True))
    print(f"{model_id}: the first case of a process {first:.2f} s, the second {second:.2f} s")
    print(f"  ratio {second / first:.2f}, reach: at most 0.25")


def two_cases(model_id: str) -> None:
    subject = edited(model_id)
    power.measure(subject)
    first = time.process_time()
    print(first, seconds(partial(power.measure, subject)))


def edited(model_id: str) -> power.Subject:
    return next(subject for subject in power.rewrites_cached(model_id) if subject.kind == SPEC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded/mistral-tiny")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--two-cases", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.two_cases:
        two_cases(options.model)
        return
    throughput(options.model, options.rounds)
    case(options.model, options.rounds)
    first_and_second(options.model, min(options.rounds, 3))


if __name__ == "__main__":
    main()
