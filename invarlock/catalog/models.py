"""The models that can be validated and the suites that contain them, read from ``models.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from invarlock.errors import DocumentError, MissingFileError
from invarlock.jsonio import check_schema
from invarlock.problems import Code

# The default number of runs of a scenario, each with its own windows; a suite may set another number.
CLEAN_RUNS = 3
STRESS_RUNS = 2
# The number of null runs from which a model's preset is derived.
CALIBRATION_RUNS = 5


@dataclass(frozen=True)
class Model:
    """A model and its pin. A path is relative to the suites folder; a model without a path comes from the hub."""

    id: str
    architecture: str
    parameters: int
    weight_bytes: int
    licence: str
    min_gpu_memory_gb: float
    revision: str | None = None
    path: str | None = None
    tokenizer_path: str | None = None
    trust_remote_code: bool = False

    @property
    def short_name(self) -> str:
        """The last part of the id, as in node ids: ``mistral-7b-v0.1``."""
        return self.id.rsplit("/", 1)[-1].lower()

    @property
    def folder(self) -> str:
        """The name of the model's folders: ``mistralai__mistral-7b-v0.1``."""
        return folder_name(self.id)


@dataclass(frozen=True)
class WindowCounts:
    """The number of tokens per window, and the numbers of windows per draw."""

    seq_len: int
    preview: int
    final: int


@dataclass(frozen=True)
class Text:
    """A text that a suite is scored on, and how much of it.

    Attributes:
        seq_len: tokens per window.
        preview_windows: the number of preview windows.
        final_windows: the number of final windows.
        dataset: ``embedded`` for a text that ships with the suites, else the kind of data set.
        source: the file of an embedded text, relative to the suites folder.
        sha256: the sha256 of that file.
        name: the name of the slice, if a suite has several texts.
        limits: the slice's own limits, by name.
        hf_dataset: the id of a data set on the hub, for the kind ``hf_text``.
        hf_config: the configuration of that data set.
        hf_split: the split of that data set.
        hf_field: the field of its rows that has the text.
        hf_revision: the commit of that data set.
    """

    seq_len: int
    preview_windows: int
    final_windows: int
    dataset: str = "embedded"
    source: str | None = None
    sha256: str | None = None
    name: str | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    hf_dataset: str | None = None
    hf_config: str | None = None
    hf_split: str = "test"
    hf_field: str = "text"
    hf_revision: str | None = None

    @property
    def counts(self) -> WindowCounts:
        """The window counts of the text."""
        return WindowCounts(self.seq_len, self.preview_windows, self.final_windows)


@dataclass(frozen=True)
class Suite:
    """A named set of models.

    Attributes:
        texts: the texts that its models are scored on; several texts are slices, each with a name.
        named_scenarios_only: whether scenarios that list no suite are excluded.
        informational_stress_min_signal_fraction: the required share of signalling informational stress reports, among
            those whose scenario expects a signal; None if they never affect the verdict.
    """

    name: str
    models: tuple[str, ...]
    requires: Literal["cpu", "gpu"]
    notes: str
    clean_runs: int = CLEAN_RUNS
    stress_runs: int = STRESS_RUNS
    calibration_runs: int = CALIBRATION_RUNS
    texts: tuple[Text, ...] = ()
    named_scenarios_only: bool = False
    informational_stress_min_signal_fraction: float | None = None

    @property
    def text(self) -> Text | None:
        """The first text, or None if the suite has no text."""
        return self.texts[0] if self.texts else None


@dataclass(frozen=True)
class Models:
    """All models and suites of a suites folder, by id and by name."""

    models: Mapping[str, Model]
    suites: Mapping[str, Suite]


def folder_name(model_id: str) -> str:
    """Return the folder of a model id: lower case, ``/`` as ``__``."""
    return model_id.lower().replace("/", "__")


def read_models(path: Path) -> Models:
    """Return the models and suites of ``models.toml``.

    Raises:
        MissingFileError: when the file does not exist.
        DocumentError: when it is malformed, or a suite lists a model without a table.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise MissingFileError(
            "no such file; a suites folder must have one", code=Code.FILE_MISSING, where=str(path)
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DocumentError(f"{error}", code=Code.SUITE_MALFORMED, where=str(path)) from None
    except OSError as error:
        raise DocumentError(f"cannot be read ({error.strerror})", code=Code.SUITE_MALFORMED, where=str(path)) from None
    check_schema(document, "models", where=str(path))
    models = {row["id"]: Model(**row) for row in _unique(document["model"], "id", path)}
    suites = {row["name"]: _suite(row, path) for row in _unique(document["suite"], "name", path)}
    folders: dict[str, str] = {}
    for model in models:
        other = folders.setdefault(folder_name(model), model)
        if other != model:
            raise DocumentError(
                f"models {other!r} and {model!r} would share the folder {folder_name(model)!r}",
                code=Code.SUITE_MALFORMED,
                where=str(path),
            )
    for suite in suites.values():
        for model in suite.models:
            if model not in models:
                raise DocumentError(
                    f"suite {suite.name!r} lists {model!r}, which has no [[model]] table; add one",
                    code=Code.SUITE_MALFORMED,
                    where=str(path),
                )
    return Models(models, suites)


def _unique(rows: list[dict[str, Any]], key: str, path: Path) -> list[dict[str, Any]]:
    seen: set[str] = set()
    for row in rows:
        if row[key] in seen:
            raise DocumentError(f"{key} {row[key]!r} appears twice", code=Code.SUITE_MALFORMED, where=str(path))
        seen.add(row[key])
    return rows


def _suite(row: dict[str, Any], path: Path) -> Suite:
    given = row.get("text", [])
    texts = _unique(given, "name", path) if isinstance(given, list) else [given]
    fields = {key: value for key, value in row.items() if key != "text"}
    return Suite(**{**fields, "models": tuple(row["models"]), "texts": tuple(Text(**text) for text in texts)})
