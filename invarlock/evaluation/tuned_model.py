"""Prepares ``invarlock tune``: finds the model, the texts and the file of entries, without importing PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from invarlock.catalog.edit_specs import parse_scope
from invarlock.catalog.models import Model, Text, WindowCounts, read_models
from invarlock.catalog.pins import Pin
from invarlock.catalog.slots import local_model
from invarlock.catalog.tuned_params import read_tuned_params
from invarlock.checkpoints.layout import tokenizer_files
from invarlock.checkpoints.revisions import find_model, model_folder
from invarlock.checkpoints.scorable import check_scorable
from invarlock.checkpoints.storage_format import check_dense
from invarlock.errors import CheckpointError, UsageError
from invarlock.evaluation.early_checks import Checks, check_text_length
from invarlock.evaluation.text import SourceText, read_embedded_text, sliced_text
from invarlock.evaluation.text_files import read_local_text
from invarlock.problems import Code
from invarlock.reports.policy import slice_overrides
from invarlock.staging import check_can_be_made

# The provider of a text that ships with a suites folder.
EMBEDDED = "embedded"


@dataclass(frozen=True)
class GivenTexts:
    """The texts that a user tunes on instead of the suite's, and how much of each; None uses the suite's numbers.

    Attributes:
        text: a file, or the file of each slice by name; None uses the suite's texts.
        text_field: the field of a row that has its text.
        limits: the limits of slices, by slice and limit name.
        seq_len: tokens per window.
        preview_windows: the number of preview windows of each text.
        final_windows: the number of final windows of each text.
    """

    text: Path | Mapping[str, Path] | None = None
    text_field: str = "text"
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seq_len: int | None = None
    preview_windows: int | None = None
    final_windows: int | None = None


@dataclass(frozen=True)
class TunedTexts:
    """The texts that a model is tuned on.

    Attributes:
        source: the text, or the texts of slices.
        counts: the window counts of each slice by name; a single text has the empty name.
        limits: the limits of slices, by slice and limit name.
        left_out: slices of the suite whose text does not ship with it.
    """

    source: SourceText
    counts: Mapping[str, WindowCounts]
    limits: Mapping[str, Mapping[str, float]]
    left_out: tuple[str, ...] = ()


def check_tuning(  # noqa: PLR0913  # the options of one command
    suites: Path,
    name: str,
    output: Path,
    scopes: Sequence[str],
    model_id: str | None,
    given: GivenTexts,
    tier: str,
) -> None:
    """Check everything about tuning a model that can be checked without PyTorch.

    Args:
        suites: the suites folder.
        name: the name of one of its models, or a folder.
        output: the file of entries.
        scopes: the requested scopes.
        model_id: the model id for the entries of a folder.
        given: the user's texts.
        tier: the tier, which defines the names of limits.

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
    checks.run(lambda: _check_limits(given, tier))
    checks.run(lambda: _check_model(suites, name, model_id, given))
    checks.raise_problems()


def _check_limits(given: GivenTexts, tier: str) -> None:
    slice_overrides(given.limits, tier)
    names = given.text if isinstance(given.text, Mapping) else {}
    for name in given.limits:
        if name not in names:
            raise UsageError(
                f"--slice-limit: there is no slice {name!r}; name a text with --text {name}=FILE",
                code=Code.OPTIONS_CONFLICT,
            )


def _check_model(suites: Path, name: str, model_id: str | None, given: GivenTexts) -> None:
    model, suite_texts = find_tuned(suites, name, model_id)
    folder = hub_folder(model) if model.path is None else suites / model.path
    tokenizer = folder if model.tokenizer_path is None else suites / model.tokenizer_path
    if not tokenizer_files(tokenizer):
        raise CheckpointError(
            f"{tokenizer}: no tokenizer files; add those of the model, the text needs them", code=Code.INPUT_UNREADABLE
        )
    texts = read_tuned_texts(suites, suite_texts, given)
    if folder.is_dir():
        check_scorable(folder, max(counts.seq_len for counts in texts.counts.values()))
    for slice_name, counts in texts.counts.items():
        source = texts.source.slices.get(slice_name, texts.source)
        where = Path(slice_name or "the text")
        check_text_length(tokenizer, source.text, where, counts.seq_len, counts.preview + counts.final)


def read_tuned_texts(suites: Path, texts: Sequence[Text], given: GivenTexts) -> TunedTexts:
    """Return the texts that a model is tuned on: the user's, or those that ship with its suite.

    Args:
        suites: the suites folder.
        texts: the texts of the model's suite.
        given: the user's texts.

    Raises:
        MissingFileError: when a file does not exist.
        EvaluationError: when a file is not a text, or not the suite's.
    """
    own = {
        name: WindowCounts(
            given.seq_len or counts.seq_len,
            given.preview_windows or counts.preview,
            given.final_windows or counts.final,
        )
        for name, counts in ((text.name or "", text.counts) for text in texts)
    }
    if given.text is None:
        shipped = [text for text in texts if text.dataset == EMBEDDED]
        sources = {text.name or "": _embedded(suites, text) for text in shipped}
        limits = {text.name: text.limits for text in shipped if text.name is not None and text.limits}
        left_out = tuple(text.name or text.dataset for text in texts if text.dataset != EMBEDDED)
        return TunedTexts(_joined(sources), {name: own[name] for name in sources}, limits, left_out)
    files = given.text if isinstance(given.text, Mapping) else {"": given.text}
    first = next(iter(own.values()))
    sources = {name: read_local_text(path, given.text_field) for name, path in files.items()}
    return TunedTexts(_joined(sources), dict.fromkeys(sources, first), given.limits)


def _embedded(suites: Path, text: Text) -> SourceText:
    assert text.source is not None
    assert text.sha256 is not None
    return read_embedded_text(suites / text.source, text.sha256)


def _joined(sources: Mapping[str, SourceText]) -> SourceText:
    return sources[""] if "" in sources else sliced_text(sources)


def find_tuned(suites: Path, name: str, model_id: str | None) -> tuple[Model, tuple[Text, ...]]:
    """Return a model of the suites folder, or a folder as a model, and the texts of its suite.

    The suite is the first that has the model and a text that ships with it, else the first with such a text.

    Raises:
        UsageError: when the name is neither, or no suite has a text that ships with it.
    """
    models = read_models(suites / "models.toml")
    texts = [
        (suite.models, suite.texts)
        for suite in models.suites.values()
        if any(text.dataset == EMBEDDED for text in suite.texts)
    ]
    model = models.models.get(name)
    if model is None and not Path(name).is_dir():
        raise UsageError(
            f"{name!r} is neither a folder nor a model of {suites / 'models.toml'}; known: {', '.join(models.models)}",
            code=Code.INPUT_UNREADABLE,
        )
    if not texts:
        raise UsageError(
            f"{suites / 'models.toml'}: no suite has a text that ships with it; add one", code=Code.TEXT_UNUSABLE
        )
    own = next((found for names, found in texts if (model_id or name) in names), texts[0][1])
    return model or local_model(Path(name), model_id), own


def hub_folder(model: Model) -> Path:
    """Return the folder of a model in the cache of the hub's client.

    Raises:
        UsageError: when the model has no pinned revision.
        HubError: when the model is not in the cache.
    """
    if model.revision is None:
        raise UsageError(
            f"{model.id}: models.toml pins no revision of it; name the folder that it is in", code=Code.PIN_UNUSABLE
        )
    pin = Pin(model.id, model.revision)
    find_model(pin)
    return model_folder(pin)


def read_entries(output: Path) -> dict[str, Any]:
    """Return the document of tuned parameters to which entries are added; empty if the file does not exist.

    Raises:
        UsageError: when the path is not a file.
        DocumentError: when it is malformed.
    """
    if os.path.lexists(output):
        if not output.is_file():
            raise UsageError(
                f"--output: {output} is not a file that entries can be added to; name another",
                code=Code.OUTPUT_UNWRITABLE,
            )
        document: dict[str, Any] = dict(read_tuned_params(output).document)
        return document
    return {"_meta": {"schema": "tuned_edit_params_v1"}, "models": {}}
