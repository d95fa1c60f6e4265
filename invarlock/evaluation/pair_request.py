"""The request of ``invarlock evaluate`` and the checks of its inputs, without importing torch, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from invarlock.catalog.edit_labels import NOOP, is_label
from invarlock.checkpoints.layout import find_gguf, is_adapter, no_folder
from invarlock.checkpoints.model_signatures import RequiredSignature, check_sides
from invarlock.checkpoints.scorable import check_scorable
from invarlock.checkpoints.storage_format import check_dense, open_checkpoint
from invarlock.checkpoints.subject_edits import read_subject_edit
from invarlock.errors import MissingFileError, UsageError
from invarlock.evaluation.served.client import server_url
from invarlock.problems import Code
from invarlock.reports.policy import resolve_policy, slice_overrides
from invarlock.reports.sidecars import RuntimeImage
from invarlock.reports.tiers import profile_windows
from invarlock.staging import check_can_be_made


@dataclass(frozen=True)
class PairRequest:
    """Both models, the text and the limits of a comparison; a number that is None is taken from the profile.

    The subject is a checkpoint, or a model served at ``subject_url``; ``subject_model`` is its name there, or None if
    the server has only one. ``image`` is the image of the container that this process runs in. Several texts are
    slices, by name.
    """

    baseline: Path
    subject: Path | None
    text: Path | Mapping[str, Path]
    text_field: str = "text"
    model_id: str | None = None
    profile: str = "dev"
    tier: str = "balanced"
    edit_label: str | None = None
    baseline_report: Path | None = None
    preset: Path | None = None
    records: Path | None = None
    seq_len: int = 512
    preview_windows: int | None = None
    final_windows: int | None = None
    seed: int = 0
    batch_size: int = 16
    top_k: int = 512
    intent: str = "preserve"
    device: str | None = None
    attention: str = "eager"
    scoring: str = "dequantised"
    image: RuntimeImage | None = None
    expect: tuple[str, ...] = ()
    subject_url: str | None = None
    subject_model: str | None = None
    slice_limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    model_signatures: tuple[RequiredSignature, ...] = ()

    @property
    def texts(self) -> tuple[Path, ...]:
        """Return the file of the text, or the files of all slices."""
        return (self.text,) if isinstance(self.text, Path) else tuple(self.text.values())

    @property
    def window_counts(self) -> tuple[int, int]:
        """Return the numbers of preview and final windows of each text."""
        preview, final = profile_windows(self.profile)
        return self.preview_windows or preview, self.final_windows or final

    @property
    def folders(self) -> tuple[Path, ...]:
        """Return the checkpoint folders: the baseline's, and the subject's unless it is served."""
        return (self.baseline,) if self.subject is None else (self.baseline, self.subject)


def check_request(request: PairRequest, target: Path) -> None:
    """Check that everything a request names exists, and that its target does not.

    Raises:
        UsageError: when the target exists, windows are longer than a model's context, the edit's label is not a valid
            name, or an expectation declares nothing.
        CheckpointError: when a checkpoint is not a folder or not a causal language model.
        DocumentError: when the subject's ``edit_metadata.json`` is malformed.
        MissingFileError: when a text does not exist.
    """
    if target.exists() or target.is_symlink():
        raise UsageError(
            "already exists; choose another folder with --output-dir", code=Code.OUTPUT_EXISTS, where=str(target)
        )
    check_can_be_made(target, "--output-dir")
    if request.edit_label is not None and not is_label(request.edit_label):
        raise UsageError(
            f"--edit-label: {request.edit_label[:40]!r} is not a label; use letters, digits, dots, dashes, underscores",
            code=Code.USAGE_INVALID,
        )
    _check_subject(request)
    check_sides(request.model_signatures)
    if request.subject is None and any(wanted.side == "subject" for wanted in request.model_signatures):
        raise UsageError(
            "--model-signature: the files of a served subject cannot be seen; give one for the baseline alone",
            code=Code.OPTIONS_CONFLICT,
        )
    for folder in request.folders:
        if not folder.is_dir() and not find_gguf(folder):
            raise no_folder(folder)
    policy = slice_overrides(request.slice_limits, request.tier)
    resolve_policy(request.tier, request.profile, policy)
    for name in request.slice_limits:
        if isinstance(request.text, Path) or name not in request.text:
            raise UsageError(
                f"--slice-limit: there is no slice {name!r}; name a text with --text {name}=FILE",
                code=Code.OPTIONS_CONFLICT,
            )
    for text in request.texts:
        if not text.exists():
            raise MissingFileError(f"{text}: no such file; name a text to score on with --text", code=Code.FILE_MISSING)
    check_dense(request.baseline)
    if request.subject is not None:
        open_checkpoint(request.subject, request.baseline)
    for folder in request.folders:
        if not is_adapter(folder) and not find_gguf(folder):
            check_scorable(folder, request.seq_len)
    if request.subject is not None:
        read_subject_edit(request.subject, request.edit_label)


def _check_subject(request: PairRequest) -> None:
    """Refuse a subject that is neither a checkpoint nor served, or is both, and options that do not fit its kind."""
    if (request.subject is None) == (request.subject_url is None):
        raise UsageError(
            "a subject is a checkpoint or a served model: give --subject or --subject-url", code=Code.OPTIONS_CONFLICT
        )
    if request.subject_url is None:
        if request.subject_model is not None:
            raise UsageError(
                "--subject-model: the name of a served model; give --subject-url too", code=Code.OPTIONS_CONFLICT
            )
        return
    server_url(request.subject_url)
    if request.edit_label == NOOP:
        raise UsageError(
            f"--edit-label: {NOOP} cannot be checked for a served model; use another label",
            code=Code.USAGE_INVALID,
        )
    if request.expect:
        raise UsageError(
            "--expect: the structure of a served model cannot be seen; leave it out", code=Code.OPTIONS_CONFLICT
        )
    if request.scoring != "dequantised":
        raise UsageError("--scoring: the server decides how its model is run; leave it out", code=Code.OPTIONS_CONFLICT)
