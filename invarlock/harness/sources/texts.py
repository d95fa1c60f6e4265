"""The texts of a run: the suite's own, a user's file, or data sets on the hub, pinned and fetched like models.

If a suite has several texts, they are called slices, and each has a name. A text named in the settings replaces all of
them.

A file of a data set belongs to a split if its name is, or begins with, the name of the split: ``test.jsonl``,
``test-00000-of-00001.parquet``. The file is in the folder of its configuration, or without a configuration in the
top-level folder or in ``data``.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from invarlock.catalog.models import Model, Text, WindowCounts
from invarlock.catalog.pins import Pin, Pins
from invarlock.errors import EvaluationError, HubError, InvarLockError, MissingFileError, UsageError
from invarlock.evaluation.parquet_text import PARQUET_ADVICE, has_parquet
from invarlock.evaluation.text import SourceText, read_embedded_text, sliced_text
from invarlock.evaluation.text_files import read_text_files
from invarlock.harness.state.found_sources import TextSource
from invarlock.harness.state.run import Run
from invarlock.problems import Code, Problem
from invarlock.reports.tiers import profile_windows

TOKENIZER_FILE = "tokenizer.json"
SUFFIXES = (".parquet", ".jsonl", ".txt")


@dataclass(frozen=True)
class DataSet:
    """A data set on the hub, with the split and the field of its rows to use."""

    id: str
    config: str | None
    split: str
    field: str
    revision: str | None


# The text of 245,000 words on which perplexities are usually reported.
WIKITEXT2 = DataSet(
    "Salesforce/wikitext", "wikitext-2-raw-v1", "test", "text", "b08601e04326c79dfdd32d625aee71d232d685c3"
)


def suite_texts(run: Run) -> tuple[Text, ...]:
    """Return the texts on which a run's suite is scored, and how much of each; the settings may name another text.

    Raises:
        UsageError: if there is no text.
    """
    suites, wanted = run.catalog.models.suites, run.settings.dataset
    texts = suites[run.catalog.suite].texts
    if not texts:
        raise UsageError(
            f"suite {run.catalog.suite!r} has no text; add a [suite.text] table to models.toml", code=Code.TEXT_UNUSABLE
        )
    if wanted is None:
        return texts
    alone = Text(texts[0].seq_len, texts[0].preview_windows, texts[0].final_windows, wanted)
    if wanted != "embedded":
        return (alone,)
    shipped = texts[0] if texts[0].dataset == wanted else run.catalog.embedded_text
    if shipped is None:
        raise UsageError(
            "INVARLOCK_DATASET=embedded: models.toml has no embedded text; choose another data set",
            code=Code.TEXT_UNUSABLE,
        )
    return (replace(alone, source=shipped.source, sha256=shipped.sha256),)


def window_counts(run: Run) -> WindowCounts:
    """Return the window counts of the first text. Settings override the suite's numbers, which override the profile's.

    Raises:
        UsageError: when there is no text.
    """
    text, settings = suite_texts(run)[0], run.settings
    preview, final = text.preview_windows, text.final_windows
    if settings.given("profile") or settings.profile != "dev":
        preview, final = profile_windows(settings.profile)
    return WindowCounts(
        seq_len=settings.seq_len or text.seq_len,
        preview=settings.preview_windows or preview,
        final=settings.final_windows or final,
    )


def slice_counts(run: Run) -> dict[str, WindowCounts]:
    """Return the window counts of each slice by name; empty if there is only one text.

    Each slice after the first has its own numbers, limited by those in the settings.

    Raises:
        UsageError: when there is no text.
    """
    texts, settings = suite_texts(run), run.settings
    if len(texts) == 1:
        return {}
    found = {str(texts[0].name): window_counts(run)}
    for text in texts[1:]:
        found[str(text.name)] = WindowCounts(
            seq_len=min(text.seq_len, settings.seq_len or text.seq_len),
            preview=min(text.preview_windows, settings.preview_windows or text.preview_windows),
            final=min(text.final_windows, settings.final_windows or text.final_windows),
        )
    return found


def text_counts(run: Run) -> list[tuple[Text, WindowCounts]]:
    """Return each text of a run with its window counts.

    Raises:
        UsageError: when there is no text.
    """
    return list(zip(suite_texts(run), slice_counts(run).values() or [window_counts(run)], strict=True))


def length_problems(run: Run, pins: Pins, models: Sequence[Model]) -> Iterator[Problem]:
    """Yield a problem for each model for which a text from outside the suite is too short, with both counts.

    If a tokenizer has no ``tokenizer.json``, the case that loads it makes this check.
    """
    # imported here: it imports NumPy, which collecting must not load
    from invarlock.evaluation.windows import added_before, draw_windows

    for own, counts in text_counts(run):
        if own.dataset == "embedded":
            continue
        text = _read_text(run, own, pins)
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
                of_slice = "" if own.name is None else f"slice {own.name}: "
                yield Problem(error.code, model.id, "", f"{of_slice}{error}")


def _tokenizer(run: Run, pins: Pins, model: Model) -> Path:
    # imported here: collecting reads no checkpoint
    from invarlock.checkpoints.revisions import model_folder

    if model.path is None:
        return model_folder(pins.models[model.id]) / TOKENIZER_FILE
    return run.suites_folder / (model.tokenizer_path or model.path) / TOKENIZER_FILE


def find_texts(run: Run, earlier: Pins, given: Pins) -> tuple[TextSource, ...]:
    """Return the sources of a run's data sets; a text on disk has a source only if there is a problem with it.

    Args:
        run: the run.
        earlier: the pins of the run that is resumed.
        given: the pins that the user provides.
    """
    try:
        found = [data_set(run, text) for text in suite_texts(run)]
    except InvarLockError as error:
        return (TextSource(problems=error.listed),)
    sets = [one for one in found if one is not None]
    sources = [
        _find([one for one in sets if one.id == name], run, earlier.datasets.get(name) or given.datasets.get(name))
        for name in dict.fromkeys(one.id for one in sets)
    ]
    problems = tuple(_disk_problems(run))
    return (*sources, *([TextSource(problems=problems)] if problems else ()))


def _find(parts: Sequence[DataSet], run: Run, pin: Pin | None) -> TextSource:
    """Return the source of one data set, given the parts of it that the run uses."""
    first = parts[0]
    try:
        if len({one.revision for one in parts}) > 1:
            raise UsageError(
                f"{first.id}: two slices pin different revisions of it; pin one", code=Code.SUITE_MALFORMED
            )
        if pin is None and first.revision is not None:
            pin = Pin(first.id, first.revision)
        source = _on_hub(parts, pin) if run.settings.net else _in_cache(parts, pin)
    except InvarLockError as error:
        return TextSource(problems=error.listed)
    names = [file.name for file in source.pin.files] if source.pin is not None else []
    names += source.resolved.names if source.resolved is not None else ()
    if any(name.endswith(".parquet") for name in names) and not has_parquet():
        return replace(source, problems=(Problem(Code.TEXT_UNUSABLE, first.id, "", PARQUET_ADVICE),))
    return source


def read_suite_text(run: Run, pins: Pins) -> SourceText:
    """Read the text of a run, or the texts of its slices, using the run's pins.

    Raises:
        InvarLockError: if a text is missing or does not match its pin.
    """
    texts = suite_texts(run)
    if len(texts) == 1:
        return _read_text(run, texts[0], pins)
    return sliced_text({str(text.name): _read_text(run, text, pins) for text in texts})


def _read_text(run: Run, text: Text, pins: Pins) -> SourceText:
    # imported here: collecting reads no checkpoint
    from invarlock.checkpoints.revisions import dataset_files

    if text.dataset == "embedded":
        assert text.source is not None
        assert text.sha256 is not None
        return read_embedded_text(run.suites_folder / text.source, text.sha256)
    if text.dataset == "local_jsonl":
        return read_text_files("local_jsonl", [_local_file(run)], run.settings.local_jsonl_field)
    requested = data_set(run, text)
    assert requested is not None
    pin = pins.datasets[requested.id]
    names: Sequence[str] = [file.name for file in pin.files]
    others = [data_set(run, one) for one in suite_texts(run)]
    if sum(other is not None and other.id == requested.id for other in others) > 1:
        names = files_of(requested, names)
    return read_text_files(text.dataset, dataset_files(pin, names), requested.field)


def data_set(run: Run, text: Text) -> DataSet | None:
    """Return the data set of a text, or None if the text is a file on disk.

    Raises:
        UsageError: when no data set is named.
    """
    settings = run.settings
    if text.dataset == "wikitext2":
        return WIKITEXT2
    if text.dataset != "hf_text":
        return None
    if text.hf_dataset is not None:
        return DataSet(text.hf_dataset, text.hf_config, text.hf_split, text.hf_field, text.hf_revision)
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
    """Return the files of a data set's split, in the preferred format of those available.

    Raises:
        HubError: when the split has no files.
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
        "correct INVARLOCK_HF_CONFIG or INVARLOCK_HF_SPLIT, or hf_config or hf_split in models.toml",
        code=Code.SETTING_INVALID,
        where=where,
    )


def _is_of(path: PurePosixPath, folders: tuple[str, ...], split: str) -> bool:
    folder = "" if path.parent == PurePosixPath() else str(path.parent)
    return folder in folders and (path.stem == split or path.name.startswith((f"{split}-", f"{split}.")))


def _files_of_all(parts: Sequence[DataSet], names: Iterable[str]) -> tuple[str, ...]:
    every = tuple(names)
    return tuple(dict.fromkeys(name for one in parts for name in files_of(one, every)))


def _on_hub(parts: Sequence[DataSet], pin: Pin | None) -> TextSource:
    # imported here: collecting reads no checkpoint
    from invarlock.checkpoints.hub import list_repository
    from invarlock.checkpoints.revisions import RequiredFiles, find_dataset

    if pin is not None and pin.files:
        try:
            return TextSource(find_dataset(pin, [file.name for file in pin.files]))
        except HubError:
            # some of the files must be downloaded
            pass
    listing = list_repository(parts[0].id, "dataset", None if pin is None else pin.revision)
    return TextSource(resolved=RequiredFiles(listing, _files_of_all(parts, listing.files)))


def _in_cache(parts: Sequence[DataSet], pin: Pin | None) -> TextSource:
    # imported here: collecting reads no checkpoint
    from invarlock.checkpoints.hub import cached_names
    from invarlock.checkpoints.revisions import find_dataset

    name = parts[0].id
    if pin is None:
        raise HubError(
            f"{name}: no pinned revision; download it with --net 1, or set INVARLOCK_HF_REVISION",
            code=Code.PIN_UNUSABLE,
        )
    if pin.files:
        return TextSource(find_dataset(pin, [file.name for file in pin.files]))
    cached = cached_names(name, "dataset", pin.revision)
    if not cached:
        raise HubError(f"{name} at {pin.revision}: not in the cache; download it with --net 1")
    return TextSource(find_dataset(pin, _files_of_all(parts, cached)))


def _disk_problems(run: Run) -> Iterator[Problem]:
    """Read the user's own file and yield its problems."""
    if suite_texts(run)[0].dataset == "local_jsonl":
        try:
            read_text_files("local_jsonl", [_local_file(run)], run.settings.local_jsonl_field)
        except InvarLockError as error:
            yield from error.listed


def _local_file(run: Run) -> Path:
    if run.settings.local_jsonl_file is None:
        raise MissingFileError("INVARLOCK_DATASET=local_jsonl: no file is given; set INVARLOCK_LOCAL_JSONL_FILE")
    return Path(run.settings.local_jsonl_file)
