"""Estimates the seconds, memory and disk space of an evaluation on a CPU before it starts.

Example::

    Workload(parameters=1_000_000, windows=64, seq_len=128).baseline_seconds(MachineSpeed(flops=8e10, write=9e8))

The constants were fitted to ``benchmarks/estimates.py``; a machine with other work to do takes longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from invarlock.machine_speed import MachineSpeed

# The time to import PyTorch and transformers.
START_SECONDS = 6.0
# Python's own work for each measured checkpoint, independent of its size: statistics, files, a page.
FIXED_SECONDS = 1.0
# The cost of scoring in multiples of its forward passes: it includes logits, log-probabilities and the kept tokens.
BASELINE_PASSES = 2.0
SUBJECT_PASSES = 1.4
# Measuring activations while eight windows are scored takes as long as the forward passes of four more.
ACTIVATION_WINDOWS = 4
# The time for the spectra of all weights, in tokens that take as long to score: for a baseline, and for a subject with
# its changes. Spectra are limited by memory bandwidth more than by computation.
BASELINE_SPECTRA = 3_500
SUBJECT_SPECTRA = 3_500
# Memory as measured by benchmarks/memory.py, with a margin. The fixed part is Python with PyTorch and the logits of a
# forward pass. The factor applies to the weights as float32: while the model is loaded, its mapped file may be float32
# too. Before that, matrices are measured one at a time, each with at most two float32 copies.
PROCESS_BYTES = 700_000_000
WEIGHTS = 2
FLOAT32_BYTES = 4
# A forward pass takes this many bytes per token times the square root of the parameters, which a block's width follows.
TOKEN_BYTES = 5
# Eager attention has float32 tables of every token of a window against every other, for each head. A model has about
# one head per this many units of the square root of its parameters, and few models have more than ``MOST_HEADS``.
ATTENTION_TABLES = 5
ROOT_OF_PARAMETERS_A_HEAD = 900
MOST_HEADS = 64


@dataclass(frozen=True)
class Workload:
    """The checkpoints of one model that are measured on windows of one text.

    Attributes:
        parameters: the number of parameters of the model.
        windows: the number of preview and final windows together.
        seq_len: tokens per window.
        stored_bytes: the bytes of the weights on disk.
    """

    parameters: int
    windows: int
    seq_len: int
    stored_bytes: int = 0

    def baseline_seconds(self, speed: MachineSpeed) -> float:
        """Return the seconds to measure the baseline, without ``FIXED_SECONDS``."""
        return self._seconds(speed, BASELINE_PASSES, BASELINE_SPECTRA)

    def subject_seconds(self, speed: MachineSpeed) -> float:
        """Return the seconds to measure a subject against its baseline, without ``FIXED_SECONDS``."""
        return self._seconds(speed, SUBJECT_PASSES, SUBJECT_SPECTRA)

    def edit_seconds(self, speed: MachineSpeed) -> float:
        """Return the seconds to write a subject."""
        return self.stored_bytes / speed.write

    def _seconds(self, speed: MachineSpeed, passes: float, spectra: int) -> float:
        tokens = (passes * self.windows + ACTIVATION_WINDOWS) * self.seq_len
        return 2 * self.parameters * (tokens + spectra) / speed.flops


def process_bytes(parameters: int, tokens: int, seq_len: int) -> int:
    """Return the memory in bytes of a process that measures a model on a CPU.

    Args:
        parameters: the number of parameters of the model.
        tokens: tokens per forward pass.
        seq_len: tokens per window.
    """
    weights = parameters * FLOAT32_BYTES
    activations = int(TOKEN_BYTES * tokens * math.sqrt(parameters))
    heads = min(MOST_HEADS, math.sqrt(parameters) / ROOT_OF_PARAMETERS_A_HEAD)
    attention = int(ATTENTION_TABLES * FLOAT32_BYTES * tokens * seq_len * heads)
    return PROCESS_BYTES + WEIGHTS * weights + max(activations, attention)


def estimate_line(seconds: float | None, memory_bytes: int, disk_bytes: int, speed: MachineSpeed | None) -> str:
    """Return an estimate for people.

    Args:
        seconds: None if the time cannot be estimated.
        memory_bytes: the memory of all processes.
        disk_bytes: the bytes written to disk.
        speed: the measured speed of the machine; None if the estimate does not depend on it.
    """
    time = "time unknown on a GPU that was not measured" if seconds is None else duration_text(seconds)
    source = "" if speed is None else f"; this machine computes {speed.flops / 1e9:.0f} GFLOP/s at the moment"
    return f"estimate: {time}, {size_text(memory_bytes)} of memory, {size_text(disk_bytes)} of disk{source}"


def duration_text(seconds: float) -> str:
    """Return a duration in words that are no more precise than an estimate: ``about 3 min``."""
    if seconds < 60:
        return f"about {max(5, math.ceil(seconds / 5) * 5)} s"
    if seconds < 3600:
        return f"about {math.ceil(seconds / 60)} min"
    return f"about {seconds / 3600:.2g} h"


def size_text(count: int) -> str:
    """Return a number of bytes with two significant digits: ``1.3 GB``."""
    if count < 10**6:
        return "less than 1 MB"
    return f"{count / 1e9:.2g} GB" if count >= 10**9 else f"{float(f'{count / 1e6:.2g}'):.0f} MB"
