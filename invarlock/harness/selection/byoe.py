"""Bring your own edit: a baseline and subjects from the command line as the cases of a run.

Example::

    pytest suites -m byoe --baseline ./base --subject ./mine --subject ./other

runs ``test_scenario[base-mine-run1]`` and ``test_scenario[base-other-run1]``. Each subject must pass every gate. The
text is that of the suites folder. A pack contains only the names of the folders, not their paths.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from invarlock.catalog.edit_labels import SubjectEdit
from invarlock.catalog.models import Model, Models, Suite
from invarlock.catalog.scenarios import Scenario, UserSubjectGeneration
from invarlock.catalog.user_scenarios import user_scenario
from invarlock.checkpoints.layout import GGUF_SUFFIX, no_folder, tokenizer_files
from invarlock.checkpoints.model_signatures import check_sides, parse_signature, signatures_of
from invarlock.checkpoints.safetensors_files import CheckpointFiles
from invarlock.checkpoints.storage_format import check_dense, open_checkpoint
from invarlock.checkpoints.subject_edits import read_subject_edit
from invarlock.documents.json_object import JsonObject
from invarlock.errors import CheckpointError, InvarLockError, UsageError
from invarlock.harness.devices.inventory import read_gpus
from invarlock.harness.selection.selected_cases import BYOE_SUITE as SUITE
from invarlock.judgement.expectations import parse_expectations
from invarlock.problems import Code
from invarlock.settings import Settings
from invarlock.settings.table import MODEL_SLOTS
from invarlock.task_records.importing import find_task_records

# The longest allowed scenario id has a hundred characters; a number may be appended to the name.
MAX_NAME_CHARACTERS = 90
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def bring(
    models: Models, settings: Settings, here: Path, other_suites: Sequence[str], *, verified: bool = False
) -> tuple[Models, tuple[Scenario, ...]]:
    """Return the models and scenarios of a run: the baseline, and a scenario for each subject.

    Args:
        models: the models of the suites folder, whose text is used.
        settings: the settings, including ``--baseline`` and ``--subject``.
        here: the folder to which relative paths refer.
        other_suites: the suites of the folder that ``-m`` names.
        verified: whether the controller has already verified the model signatures.

    Raises:
        UsageError: if a folder is not a checkpoint (one line for each), or two declared changes contradict each other.
    """
    if settings.baseline is None or not settings.subjects:
        raise UsageError(
            "-m byoe: needs --baseline FOLDER and at least one --subject FOLDER", code=Code.OPTIONS_CONFLICT
        )
    if other_suites:
        raise UsageError(
            f"--baseline: -m selects the suite {other_suites[0]}, which has its own models; use -m byoe",
            code=Code.OPTIONS_CONFLICT,
        )
    slot = next((slot for slot in range(1, MODEL_SLOTS + 1) if settings.given(f"model_{slot}")), None)
    if slot is not None:
        raise UsageError(
            f"MODEL_{slot}: -m byoe only uses the model of --baseline; unset it", code=Code.OPTIONS_CONFLICT
        )
    expected = tuple(map(str, parse_expectations(settings.expect)))
    baseline = here / settings.baseline
    problems: list[str] = []
    found = _read(baseline, "--baseline", problems)
    if found is not None and not tokenizer_files(baseline):
        problems.append(
            f"--baseline: {baseline}: no tokenizer files; add them, the text needs the baseline's tokenizer"
        )
    folders = [here / subject for subject in settings.subjects]
    edits: list[SubjectEdit] = []
    for folder in folders:
        _read(folder, "--subject", problems, base=folder if found is None else baseline)
        try:
            edits.append(read_subject_edit(folder, settings.edit_label))
            find_task_records(folder)
        except InvarLockError as error:
            problems.append(f"--subject: {error}")
    if found is None or problems:
        raise UsageError.listing(problems, code=Code.SUBJECTS_UNUSABLE)
    signatures = _signatures(settings, baseline, folders, verified=verified)
    model = _model(baseline, found)
    texts = next((suite.texts for suite in models.suites.values() if suite.texts), ())
    suite = Suite(
        SUITE, (model.id,), _device(settings), "checkpoints of the user", clean_runs=1, stress_runs=1, texts=texts
    )
    scenarios = tuple(
        _scenario(name, UserSubjectGeneration(folder.resolve(), edit, expected, signed))
        for name, folder, edit, signed in zip(_names(folders), folders, edits, signatures, strict=True)
    )
    return Models({model.id: model}, {SUITE: suite}), scenarios


def _read(folder: Path, option: str, problems: list[str], base: Path | None = None) -> CheckpointFiles | None:
    """Read the headers of the checkpoint in a folder; if it is incomplete, return None and append to ``problems``.

    A subject (which has a ``base``) may be packed; a baseline must be dense.
    """
    if not folder.is_dir() and not (base is not None and folder.is_file() and folder.suffix == GGUF_SUFFIX):
        problems.append(f"{option}: {no_folder(folder)}")
        return None
    try:
        return check_dense(folder) if base is None else open_checkpoint(folder, base).files
    except InvarLockError as error:
        problems.append(f"{option}: {error}")
        return None


def _model(folder: Path, files: CheckpointFiles) -> Model:
    return Model(
        # models get a separate folder, since a run directory has other folders, such as "state"
        id=f"{SUITE}/{_name(folder)}",
        architecture=files.model_type,
        parameters=files.total_parameters,
        weight_bytes=sum((folder / shard).stat().st_size for shard in files.shards),
        licence="unknown",
        min_gpu_memory_gb=0,
        path=str(folder.resolve()),
    )


def _signatures(
    settings: Settings, baseline: Path, subjects: Sequence[Path], *, verified: bool
) -> list[dict[str, dict[str, str]]]:
    """Return the model signatures of the baseline and the subjects that the settings require.

    Raises:
        UsageError: when an option is malformed, or a signature is missing or invalid.
    """
    wanted = [parse_signature(text) for text in settings.model_signatures]
    if wanted and _device(settings) == "gpu" and settings.execution_mode != "host":
        raise UsageError(
            "--model-signature: the runtime image has no model-signing; add --execution-mode host",
            code=Code.OPTIONS_CONFLICT,
        )
    check_sides(wanted)
    own, ours = ([one for one in wanted if one.side == side] for side in ("baseline", "subject"))
    try:
        # the baseline is hashed once for all subjects
        common = signatures_of(baseline, baseline, own, verified=verified)
        return [{**common, **signatures_of(baseline, one, ours, verified=verified)} for one in subjects]
    except CheckpointError as error:
        raise UsageError(str(error), code=error.code) from None


def _scenario(name: str, subject: UserSubjectGeneration) -> Scenario:
    edit = subject.edit
    generation: JsonObject = {"kind": "brought", "edit_label": edit.label}
    if subject.expected:
        generation["expected"] = list(subject.expected)
    if subject.signatures:
        generation["model_signatures"] = {side: dict(signed) for side, signed in subject.signatures.items()}
    if edit.source is not None:
        generation["edit_label_source"] = edit.source
    document = user_scenario(name, SUITE, generation)
    return Scenario(name, "clean", "must_pass", "primary_metric", subject, (SUITE,), document)


def _names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: its own name, followed by a number if an earlier folder has that name."""
    names: list[str] = []
    for folder in folders:
        taken = {name.casefold() for name in names}
        own = name = _name(folder)
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{own}-{number}"
        names.append(name)
    return names


def _name(folder: Path) -> str:
    name = _NOT_IN_NAMES.sub("-", folder.resolve().name.removesuffix(GGUF_SUFFIX)).lstrip("._-")[:MAX_NAME_CHARACTERS]
    return name or "checkpoint"


def _device(settings: Settings) -> Literal["cpu", "gpu"]:
    """Return the kind of device to measure on: GPUs if NVML lists any and none are hidden, else CPUs."""
    if settings.cuda_visible_devices == "":
        return "cpu"
    try:
        return "gpu" if read_gpus() else "cpu"
    except UsageError:
        return "cpu"
