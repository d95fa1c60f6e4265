"""All cheap checks of an evaluation, run before PyTorch is imported; their errors are reported together.

Example::

    check_pair(request, Path("out"))    # CombinedError: no such folder …, the text has at most 3 windows …
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from invarlock.checkpoints.layout import check_fetched, find_gguf, is_adapter, no_folder, tokenizer_files
from invarlock.checkpoints.model_signatures import signature_file
from invarlock.checkpoints.safetensors_files import CheckpointFiles
from invarlock.checkpoints.scorable import check_scorable
from invarlock.checkpoints.storage_format import TOKENIZER_FILE, check_dense, open_checkpoint
from invarlock.checkpoints.subject_edits import read_subject_edit
from invarlock.errors import (
    CheckpointError,
    CombinedError,
    EvaluationError,
    InvarLockError,
    MissingFileError,
    OutOfMemoryError,
    OutputError,
    UsageError,
)
from invarlock.evaluation.needed_packages import check_runner, check_signing
from invarlock.evaluation.pair_documents import check_documents
from invarlock.evaluation.pair_request import PairRequest, check_request
from invarlock.evaluation.text_files import has_rows, read_local_text
from invarlock.judgement.expectations import parse_expectations
from invarlock.pages.parts import counted
from invarlock.problems import Code

# Each kept token has an id and a log-probability.
KEPT_BYTES = 8
# Dense weights are loaded with at least two bytes each.
LOADED_BYTES = 2
# A text with more bytes per needed token is long enough in any language; tokenising it here would do the work twice.
ENOUGH_BYTES_PER_TOKEN = 16
# The value of --scoring for a subject that is run as it is stored.
NATIVE = "native"
# Each token but the first of a window is predicted.
MIN_SEQ_LEN = 2
# Device files of NVIDIA's driver, WSL and ROCm.
GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))


def check_pair(request: PairRequest, target: Path) -> None:
    """Check all that is known about a request without PyTorch.

    Raises:
        InvarLockError: the problem that was found.
        CombinedError: with all problems, if there are several.
    """
    checks = Checks()
    checks.run(lambda: check_request(request, target))
    checks.run(lambda: parse_expectations(request.expect))
    checks.run(lambda: _check_seq_len(request.seq_len))
    checks.run(lambda: _check_attention(request.attention))
    baseline = request.baseline
    files = checks.run(lambda: _is_there(baseline) and check_dense(baseline))
    if isinstance(files, CheckpointFiles):
        checks.run(lambda: check_scorable(baseline, request.seq_len))
        checks.run(lambda: _check_tokenizer(baseline))
        checks.run(lambda: _check_memory(files, request.device))
        checks.run(lambda: check_documents(request))
    if request.subject is not None:
        _check_subject(request.subject, request, checks, has_baseline=files is not None)
    if request.model_signatures:
        checks.run(check_signing)
    for wanted in request.model_signatures:
        folder = request.baseline if wanted.side == "baseline" else request.subject
        if folder is not None and folder.exists():
            checks.run(partial(signature_file, folder))
    for text in request.texts:
        checks.run(partial(_check_text, request, text))
    checks.run(lambda: _check_text_field(request))
    checks.run(lambda: _check_disk(request, target))
    checks.run(lambda: _check_device(request.device))
    checks.raise_problems()


def window_count(request: PairRequest) -> int:
    """Return the number of windows that are scored, over all texts."""
    return len(request.texts) * sum(request.window_counts)


def kept_bytes(request: PairRequest) -> int:
    """Return an upper bound of the bytes that a baseline's most probable tokens take."""
    return window_count(request) * request.seq_len * request.top_k * KEPT_BYTES


class Checks:
    """Runs checks and keeps the errors of those that fail."""

    def __init__(self) -> None:
        self._errors: list[InvarLockError] = []

    def run(self, check: Callable[[], object]) -> object:
        """Return the result of a check, or None if it fails."""
        try:
            return check()
        except InvarLockError as error:
            if str(error) not in map(str, self._errors):
                self._errors.append(error)
            return None

    def raise_problems(self) -> None:
        """Raise the error that was found; several errors are raised as one.

        Raises:
            InvarLockError: when a check failed.
        """
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise CombinedError(self._errors)


def check_text_length(folder: Path, text: str, where: Path, seq_len: int, windows: int) -> None:
    """Check that a text is long enough, with the tokenizer of a folder; skip the check if the tokenizer is unreadable.

    Raises:
        EvaluationError: when the text has fewer windows than needed.
    """
    length = len(text.encode("utf-8"))
    if length > ENOUGH_BYTES_PER_TOKEN * seq_len * windows or not (folder / TOKENIZER_FILE).is_file():
        return
    # imported here because other checks do not need it
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        tokens = len(tokenizer.encode(text, add_special_tokens=False).ids)
        prefix = len(tokenizer.encode("").ids)
    except Exception:  # noqa: BLE001 - measuring reports later what a tokenizer refuses, and why
        return
    width = max(1, seq_len - prefix)
    if tokens // width < windows:
        raise EvaluationError(
            f"the text has at most {counted(tokens // width, 'distinct window')} of {width} tokens, {windows} are "
            "needed; use a longer text, fewer windows or a shorter seq_len",
            code=Code.TEXT_UNUSABLE,
            where=str(where),
        )


def _check_subject(subject: Path, request: PairRequest, checks: Checks, *, has_baseline: bool) -> None:
    if checks.run(lambda: _is_there(subject)) is None:
        return
    if has_baseline:
        checks.run(lambda: open_checkpoint(subject, request.baseline))
    if not is_adapter(subject) and not find_gguf(subject):
        checks.run(lambda: check_scorable(subject, request.seq_len))
    checks.run(lambda: read_subject_edit(subject, request.edit_label))
    if request.scoring == NATIVE:
        checks.run(lambda: check_runner(subject))


def _is_there(folder: Path) -> bool:
    """Return True if a checkpoint exists, and raise an error with the message of ``check_request`` if it does not."""
    if not folder.is_dir() and not find_gguf(folder):
        raise no_folder(folder)
    return True


def _check_tokenizer(folder: Path) -> None:
    if not tokenizer_files(folder):
        raise CheckpointError(
            f"{folder}: no tokenizer files; add those of the model, the text needs them", code=Code.CHECKPOINT_UNUSABLE
        )
    for name in tokenizer_files(folder):
        check_fetched(folder / name)


def _check_text_field(request: PairRequest) -> None:
    if request.text_field != PairRequest.text_field and not any(map(has_rows, request.texts)):
        raise UsageError(
            "--text-field: plain text has no fields; leave it out, or give .jsonl, .json or .parquet with --text",
            code=Code.OPTIONS_CONFLICT,
        )


def _check_text(request: PairRequest, text: Path) -> None:
    if not text.exists():
        raise MissingFileError(f"{text}: no such file; name a text to score on with --text", code=Code.FILE_MISSING)
    source = read_local_text(text, request.text_field)
    check_text_length(request.baseline, source.text, text, request.seq_len, sum(request.window_counts))


def _check_memory(files: CheckpointFiles, device: str | None) -> None:
    needed, total = files.total_parameters * LOADED_BYTES, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if device == "cpu" and needed > total:
        raise OutOfMemoryError(
            f"--device cpu: the baseline has weights of {needed / 1e9:.0f} GB, and this machine has {total / 1e9:.0f} "
            "GB of memory; use a machine with more memory, or a GPU",
            code=Code.MEMORY_EXHAUSTED,
        )


def _check_disk(request: PairRequest, target: Path) -> None:
    needed = kept_bytes(request)
    above = next((folder for folder in target.absolute().parents if folder.is_dir()), None)
    if above is None:
        return
    disk = shutil.disk_usage(above)
    if disk.total == 0:
        raise OutputError(
            f"--output-dir: {target} cannot be written, {above} is not on a disk; give another path",
            code=Code.OUTPUT_UNWRITABLE,
        )
    free = disk.free
    if free < needed:
        raise OutputError(
            f"--output-dir: {target} needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; free some space, "
            "or use fewer windows or a smaller --top-k",
            code=Code.OUTPUT_UNWRITABLE,
        )


def _check_seq_len(seq_len: int) -> None:
    if seq_len < MIN_SEQ_LEN:
        raise UsageError(f"--seq-len must be at least {MIN_SEQ_LEN}", code=Code.USAGE_INVALID)


def _check_attention(attention: str) -> None:
    if attention == "flash_attention_2" and find_spec("flash_attn") is None:
        raise UsageError(
            f"--attention {attention}: flash-attn is not installed; install flash-attn, or leave --attention out",
            code=Code.EXTRA_NOT_INSTALLED,
        )


def _check_device(device: str | None) -> None:
    if device == "cuda" and not any(path.exists() for path in GPU_DEVICES):
        raise UsageError(
            "--device cuda: this machine has no GPU; use --device cpu, or leave the option out",
            code=Code.DEVICE_UNAVAILABLE,
        )
