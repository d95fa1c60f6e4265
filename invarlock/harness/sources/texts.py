"""The text of a run: the suite's own, a file of the user's, or a data set of the hub, pinned and fetched like a model.

A file of a data set belongs to a split when its name is the split's, or begins with it: ``test.jsonl``,
``test-00000-of-00001.parquet``. It lies in the folder of its configuration; without one at the top, or in ``data``.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from invarlock.catalog.models import Model, Text
from invarlock.catalog.pins import Pin, Pins
from invarlock.errors import EvaluationError, HubError, InvarLockError, MissingFileError, UsageError
from invarlock.evaluation.parquet_text import PARQUET_ADVICE, has_parquet
from invarlock.evaluation.text import SourceText, read_embedded_text
from invarlock.evaluation.text_files import read_text_files
from invarlock.harness.state.found_sources import TextSource
from invarlock.harness.state.run import Run
from invarlock.problems import Code, Problem
from invarlock.reports.tiers import profile_windows

TOKENIZER_FILE = "tokenizer.json"
SUFFIXES = (".parquet", ".jsonl", ".txt")


@dataclass(frozen=True)
class DataSet:
    """A data set of the hub: which split of it, and which field of its rows."""

    id: str
    config: str | None
    split: str
    field: str
    revision: str | None


# The 245,000 words on which perplexities are usually reported.
WIKITEXT2 = DataSet(
    "Salesforce/wikitext", "wikitext-2-raw-v1", "test", "text", "b08601e04326c79dfdd32d625aee71d232d685c3"
)


def suite_text(run: Run) -> Text:
    """Return the text that a run's suite is scored on, and how much of it; the settings may name another text.

    Raises:
        UsageError: if there is no text.
    """
    suites = run.catalog.models.suites
    text = suites[run.catalog.suite].text
    if text is None:
        raise UsageError(
            f"suite {run.catalog.suite!r} has no text; add a [suite.text] table to models.toml", code=Code.TEXT_UNUSABLE
        )
    wanted = run.settings.dataset or text.dataset
    if wanted == text.dataset:
        return text
    if wanted != "embedded":
        return replace(text, dataset=wanted, source=None, sha256=None)
    shipped = run.catalog.embedded_text
    if shipped is None:
        raise UsageError(
            "INVARLOCK_DATASET=embedded: models.toml has no embedded text; choose another data set",
            code=Code.TEXT_UNUSABLE,
        )
    return replace(text, dataset=wanted, source=shipped.source, sha256=shipped.sha256)


@dataclass(frozen=True)
class WindowCounts:
    """How many tokens a window has, and how many windows a draw."""

    seq_len: int
    preview: int
    final: int


def window_counts(run: Run) -> WindowCounts:
    """Return how much text is scored. Settings override the suite's numbers, which override the profile's.

    Raises:
        UsageError: when there is no text.
    """
    text, settings = suite_text(run), run.settings
    preview, final = text.preview_windows, text.final_windows
    if settings.given("profile") or settings.profile != "dev":
        preview, final = profile_windows(settings.profile)
    return WindowCounts(
        seq_len=settings.seq_len or text.seq_len,
        preview=settings.preview_windows or preview,
        final=settings.final_windows or final,
    )


def length_problems(run: Run, pins: Pins, models: Sequence[Model]) -> Iterator[Problem]:
    """Yield each model for which a text that did not ship with the suite is too short, naming both counts.

    A tokenizer without a ``tokenizer.json`` is checked by the case that loads it.
    """
    if suite_text(run).dataset == "embedded":
        return
    # imported here: it imports NumPy, and collecting must not
    from invarlock.evaluation.windows import added_before, draw_windows

    text, counts = read_suite_text(run, pins), window_counts(run)
    for model in models:
        path = _tokenizer(run, pins, model)
        if not path.is_file():
            continue
        tokenizers: Any = importlib.import_module("tokenizers")
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        tokens = tokenizer.encode(text.text, add_special_tokens=False).ids
        prefix = added_before(tokenizer.encode("a").ids, tokenizer.encode("a", add_special_tokens=False).ids) or ()
        try:
            draw_windows(tokens, counts.seq_len, counts.preview, counts.final, 0, prefix)
        except EvaluationError as error:
            yield Problem(error.code, model.id, "", str(error))


def _tokenizer(run: Run, pins: Pins, model: Model) -> Path:
    # imported here: collecting reads no checkpoint
    from invarlock.checkpoints.revisions import model_folder

    if model.path is None:
        return model_folder(pins.models[model.id]) / TOKENIZER_FILE
    return run.suites_folder / (model.tokenizer_path or model.path) / TOKENIZER_FILE


def find_text(run: Run, earlier: Pins, given: Pins) -> TextSource:
    """Return the source of a run's data set; empty for a text on disk.

    Args:
        run: the run.
        earlier: pins of the run that is resumed.
        given: pins that the user names.
    """
    try:
        requested = data_set(run)
        if requested is None:
            return TextSource(problems=tuple(_disk_problems(run)))
        found = earlier.datasets.get(requested.id)
        pin = found or given.datasets.get(requested.id)
        if pin is None and requested.revision is not None:
            pin = Pin(requested.id, requested.revision)
        source = _on_hub(requested, pin) if run.settings.net else _in_cache(requested, pin)
    except InvarLockError as error:
        return TextSource(problems=error.listed)
    names = [file.name for file in source.pin.files] if source.pin is not None else []
    names += source.resolved.names if source.resolved is not None else ()
    if any(name.endswith(".parquet") for name in names) and not has_parquet():
        return replace(source, problems=(Problem(Code.TEXT_UNUSABLE, requested.id, "", PARQUET_ADVICE),))
    return source


def read_suite_text(run: Run, pins: Pins) -> SourceText:
    """Return the text of a run, from its own pins.

    Raises:
        InvarLockError: if it is missing, or does not match its pin.
    """
    # imported here: collecting reads no checkpoint
    from invarlock.checkpoints.revisions import dataset_files

    text = suite_text(run)
    if text.dataset == "embedded":
        assert text.source is not None
        assert text.sha256 is not None
        return read_embedded_text(run.suites_folder / text.source, text.sha256)
    if text.dataset == "local_jsonl":
        return read_text_files("local_jsonl", [_local_file(run)], run.settings.local_jsonl_field)
    requested = data_set(run)
    assert requested is not None
    pin = pins.datasets[requested.id]
    return read_text_files(text.dataset, dataset_files(pin, [file.name for file in pin.files]), requested.field)


def data_set(run: Run) -> DataSet | None:
    """Return the data set that a run is scored on, None if its text is on disk.

    Raises:
        UsageError: when none is named.
    """
    kind, settings = suite_text(run).dataset, run.settings
    if kind == "wikitext2":
        return WIKITEXT2
    if kind != "hf_text":
        return None
    if settings.hf_dataset is None:
        raise UsageError(
            "INVARLOCK_DATASET=hf_text: no data set is given; set INVARLOCK_HF_DATASET", code=Code.SETTING_INVALID
        )
    return DataSet(
        settings.hf_dataset,
        settings.hf_config,
        settings.hf_split,
        settings.hf_field,
        settings.hf_revision,
    )


def files_of(requested: DataSet, names: Iterable[str]) -> tuple[str, ...]:
    """Return the files of a data set's split, in the preferred one of the formats available.

    Raises:
        HubError: when it has none.
    """
    every = sorted(names)
    folders = ("", "data") if requested.config is None else (requested.config,)
    found = [name for name in every if _is_of(PurePosixPath(name), folders, requested.split)]
    for suffix in SUFFIXES:
        chosen = tuple(name for name in found if name.endswith(suffix))
        if chosen:
            return chosen
    where = requested.id if requested.config is None else f"{requested.id}, configuration {requested.config}"
    readable = [name for name in every if name.endswith(SUFFIXES)][:8]
    raise HubError(
        f"no file of the split {requested.split!r}; it has {', '.join(readable) or 'no readable text'}; "
        "correct INVARLOCK_HF_CONFIG or INVARLOCK_HF_SPLIT",
        code=Code.SETTING_INVALID,
        where=where,
    )


def _is_of(path: PurePosixPath, folders: tuple[str, ...], split: str) -> bool:
    folder = "" if path.parent == PurePosixPath() else str(path.parent)
    return folder in folders and (path.stem == split or path.name.startswith((f"{split}-", f"{split}.")))


def _on_hub(requested: DataSet, pin: Pin | None) -> TextSource:
    # imported here: collecting reads no checkpoint
    from invarlock.checkpoints.hub import list_repository
    from invarlock.checkpoints.revisions import RequiredFiles, find_dataset

    if pin is not None and pin.files:
        try:
            return TextSource(find_dataset(pin, [file.name for file in pin.files]))
        except HubError:
            # some of it is to be fetched
            pass
    listing = list_repository(requested.id, "dataset", None if pin is None else pin.revision)
    return TextSource(resolved=RequiredFiles(listing, files_of(requested, listing.files)))


def _in_cache(requested: DataSet, pin: Pin | None) -> TextSource:
    # imported here: collecting reads no checkpoint
    from invarlock.checkpoints.hub import cached_names
    from invarlock.checkpoints.revisions import find_dataset

    if pin is None:
        raise HubError(
            f"{requested.id}: no pinned revision; download it with --net 1, or set INVARLOCK_HF_REVISION",
            code=Code.PIN_UNUSABLE,
        )
    if pin.files:
        return TextSource(find_dataset(pin, [file.name for file in pin.files]))
    cached = cached_names(requested.id, "dataset", pin.revision)
    if not cached:
        raise HubError(f"{requested.id} at {pin.revision}: not in the cache; download it with --net 1")
    return TextSource(find_dataset(pin, files_of(requested, cached)))


def _disk_problems(run: Run) -> Iterator[Problem]:
    """Yield the problems of a user's own file, after reading it."""
    if suite_text(run).dataset == "local_jsonl":
        try:
            read_text_files("local_jsonl", [_local_file(run)], run.settings.local_jsonl_field)
        except InvarLockError as error:
            yield from error.listed


def _local_file(run: Run) -> Path:
    if run.settings.local_jsonl_file is None:
        raise MissingFileError("INVARLOCK_DATASET=local_jsonl: no file is given; set INVARLOCK_LOCAL_JSONL_FILE")
    return Path(run.settings.local_jsonl_file)
