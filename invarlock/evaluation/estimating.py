"""The estimate of an evaluation, printed before PyTorch is imported."""

from __future__ import annotations

from pathlib import Path

from invarlock.catalog.estimates import FIXED_SECONDS, START_SECONDS, Workload, estimate_line, process_bytes
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.evaluation.early_checks import GPU_DEVICES, kept_bytes, window_count
from invarlock.evaluation.pair_request import PairRequest
from invarlock.machine_speed import measure_speed


def estimate_pair(request: PairRequest, target: Path) -> str:
    """Return the estimated time, memory and disk space of a request as one line; this measures the machine briefly."""
    files = read_checkpoint(request.baseline)
    windows = window_count(request)
    batch = request.batch_size * request.seq_len
    memory = process_bytes(files.total_parameters, batch, request.seq_len)
    if request.device == "cuda" or (request.device is None and any(path.exists() for path in GPU_DEVICES)):
        return estimate_line(None, memory, kept_bytes(request), None)
    speed = measure_speed(target)
    workload = Workload(files.total_parameters, windows, request.seq_len)
    seconds = START_SECONDS
    if request.baseline_report is None:
        seconds += FIXED_SECONDS + workload.baseline_seconds(speed)
    if request.subject is not None:
        seconds += FIXED_SECONDS + workload.subject_seconds(speed)
    return estimate_line(seconds, memory, kept_bytes(request), speed)
