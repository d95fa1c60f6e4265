"""What ``invarlock tune`` needs before it measures: the model, a text, the file of entries; PyTorch is not imported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from invarlock.catalog.edit_specs import parse_scope
from invarlock.catalog.models import Model, Text, read_models
from invarlock.catalog.pins import Pin
from invarlock.catalog.slots import local_model
from invarlock.catalog.tuned_params import read_tuned_params
from invarlock.checkpoints.layout import tokenizer_files
from invarlock.checkpoints.revisions import find_model, model_folder
from invarlock.checkpoints.scorable import check_scorable
from invarlock.checkpoints.storage_format import check_dense
from invarlock.errors import CheckpointError, UsageError
from invarlock.evaluation.early_checks import Checks, check_text_length
from invarlock.evaluation.text import read_embedded_text
from invarlock.problems import Code
from invarlock.staging import check_can_be_made


def check_tuning(suites: Path, name: str, output: Path, scopes: Sequence[str], model_id: str | None) -> None:
    """Check all that is known about tuning a model without PyTorch.

    Args:
        suites: the suites folder.
        name: a model of it, or a folder.
        output: the file of entries.
        scopes: the scopes that are given.
        model_id: the id for the entries of a folder.

    Raises:
        InvarLockError: the problem that was found.
        CombinedError: with all problems, if there are several.
    """
    checks = Checks()
    checks.run(lambda: check_can_be_made(output, "--output"))
    checks.run(lambda: read_entries(output))
    for scope in scopes:
        checks.run(partial(parse_scope, scope, where="--scope"))
    folder = Path(name)
    if folder.is_dir():
        checks.run(lambda: check_dense(folder))
    checks.run(lambda: _check_model(suites, name, model_id))
    checks.raise_problems()


def _check_model(suites: Path, name: str, model_id: str | None) -> None:
    model, text = find_tuned(suites, name, model_id)
    folder = hub_folder(model) if model.path is None else suites / model.path
    tokenizer = folder if model.tokenizer_path is None else suites / model.tokenizer_path
    if not tokenizer_files(tokenizer):
        raise CheckpointError(
            f"{tokenizer}: no tokenizer files; add those of the model, the text needs them", code=Code.INPUT_UNREADABLE
        )
    if folder.is_dir():
        check_scorable(folder, text.seq_len)
    assert text.source is not None
    assert text.sha256 is not None
    source = read_embedded_text(suites / text.source, text.sha256)
    windows = text.preview_windows + text.final_windows
    check_text_length(tokenizer, source.text, suites / text.source, text.seq_len, windows)


def find_tuned(suites: Path, name: str, model_id: str | None) -> tuple[Model, Text]:
    """Return a model of a suites folder, or a folder as one, and the text that it is tuned on.

    Raises:
        UsageError: when it is neither, or no suite has a text that ships with it.
    """
    models = read_models(suites / "models.toml")
    shipped = ((suite.models, suite.text) for suite in models.suites.values() if suite.text is not None)
    texts = [(names, text) for names, text in shipped if text.dataset == "embedded"]
    model = models.models.get(name)
    if model is None and not Path(name).is_dir():
        raise UsageError(
            f"{name!r} is no folder, and no model of {suites / 'models.toml'}; known: {', '.join(models.models)}",
            code=Code.INPUT_UNREADABLE,
        )
    if not texts:
        raise UsageError(
            f"{suites / 'models.toml'}: no suite has a text that ships with it; add one", code=Code.TEXT_UNUSABLE
        )
    text = next((text for names, text in texts if (model_id or name) in names), texts[0][1])
    return model or local_model(Path(name), model_id), text


def hub_folder(model: Model) -> Path:
    """Return the folder of a model in the cache of the hub's client.

    Raises:
        UsageError: when no revision of it is pinned.
        HubError: when it is not in the cache.
    """
    if model.revision is None:
        raise UsageError(
            f"{model.id}: models.toml pins no revision of it; name the folder that it is in", code=Code.PIN_UNUSABLE
        )
    pin = Pin(model.id, model.revision)
    find_model(pin)
    return model_folder(pin)


def read_entries(output: Path) -> dict[str, Any]:
    """Return the document of tuned parameters that entries are added to, an empty one where there is no file.

    Raises:
        UsageError: when it is no file.
        DocumentError: when it is malformed.
    """
    if os.path.lexists(output):
        if not output.is_file():
            raise UsageError(
                f"--output: {output} is no file that entries can be added to; name another", code=Code.OUTPUT_UNWRITABLE
            )
        document: dict[str, Any] = dict(read_tuned_params(output).document)
        return document
    return {"_meta": {"schema": "tuned_edit_params_v1"}, "models": {}}
