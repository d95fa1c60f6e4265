"""The files of presets: their names, reading them with their null runs, and writing YAML for people.

A folder of presets has ``calibrated_preset_<model>.json``, the same document as ``.yaml``, and a subfolder with the
model's name that contains the null runs from which the preset was derived.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from invarlock.catalog.models import folder_name
from invarlock.digests import digest_bytes
from invarlock.errors import DocumentError, MissingFileError, UsageError
from invarlock.jsonio import check_schema, dump_json, parse_json, read_file, write_bytes
from invarlock.problems import Code
from invarlock.reports.documents import PresetDocument
from invarlock.reports.presets import NullRun, Preset, preset_problems

_PAIR = re.compile(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}")
_NULL_RUN = re.compile(r"null_run_([1-9][0-9]{0,3})\.json")


def preset_name(model_folder: str, suffix: str = "json") -> str:
    """Return the name of a model's preset: ``calibrated_preset_<model>.json``."""
    return f"calibrated_preset_{model_folder}.{suffix}"


def null_run_name(model_folder: str, run: int) -> str:
    """Return the path of a null run below a folder of presets."""
    return f"{model_folder}/null_run_{run}.json"


def parse_null_run(data: bytes, *, where: str) -> NullRun:
    """Parse the bytes of a null run's file.

    Raises:
        DocumentError: when the null run does not match its schema.
    """
    document = parse_json(data, where=where)
    check_schema(document, "null_run", where=where)
    return NullRun(document, digest_bytes(data))


def read_null_runs(folder: Path, model_folder: str) -> list[NullRun]:
    """Read a model's null runs from a folder of presets, and return them ordered by number.

    Raises:
        DocumentError: when one does not match its schema.
    """
    numbers = []
    for path in (folder / model_folder).glob("null_run_*.json"):
        match = _NULL_RUN.fullmatch(path.name)
        if match is not None:
            numbers.append(int(match[1]))
    paths = [folder / null_run_name(model_folder, run) for run in sorted(numbers)]
    return [parse_null_run(read_file(path), where=str(path)) for path in paths]


def read_preset(path: Path) -> Preset:
    """Read a preset, and derive it again from the null runs in its folder to check it.

    Raises:
        MissingFileError: when the file does not exist.
        UsageError: when the path is not the preset's JSON file.
        DocumentError: when the preset is malformed, or does not follow from its null runs.
    """
    if path.suffix != ".json":
        raise UsageError(
            "give the preset's .json file, in a folder with its null runs", code=Code.PRESET_UNUSABLE, where=str(path)
        )
    try:
        data = read_file(path)
    except MissingFileError as error:
        raise MissingFileError(
            f"{error}; make presets with --suite-mode calibrate-only", code=Code.FILE_MISSING
        ) from None
    document = parse_json(data, where=str(path))
    check_schema(document, "calibrated_preset", where=str(path))
    runs = read_null_runs(path.parent, folder_name(document["model_id"]))
    wrong = preset_problems(document, runs)
    if wrong:
        raise DocumentError(f"{wrong[0]}; calibrate the model again", code=Code.PRESET_UNUSABLE, where=str(path))
    return Preset(document, digest_bytes(data))


def write_preset(folder: Path, document: PresetDocument) -> Preset:
    """Write a preset as YAML and then as JSON, each atomically.

    Raises:
        DocumentError: when the document would not match its schema.
    """
    model_folder = folder_name(document["model_id"])
    path = folder / preset_name(model_folder)
    check_schema(document, "calibrated_preset", where=path.name)
    data = dump_json(document)
    write_bytes(folder / preset_name(model_folder, "yaml"), render_yaml(document))
    write_bytes(path, data)
    return Preset(document, digest_bytes(data))


def render_yaml(document: Mapping[str, Any]) -> bytes:
    """Return a document as YAML with the same meaning in 1.1 and 1.2: block style, sorted keys, quoted strings."""
    return ("\n".join(_lines(document, "")) + "\n").encode("utf-8")


def _lines(value: Any, indent: str) -> Iterator[str]:
    pairs = [(f"{json.dumps(key)}:", value[key]) for key in sorted(value)] if isinstance(value, Mapping) else []
    if not isinstance(value, Mapping):
        pairs = [("-", item) for item in value]
    for head, inner in pairs:
        if isinstance(inner, Mapping | list) and inner:
            yield f"{indent}{head}"
            yield from _lines(inner, f"{indent}  ")
        else:
            yield f"{indent}{head} {_scalar(inner)}"


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        text = repr(value)
        # YAML 1.1 reads 1e-05 as a string
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    """Return a quoted string. YAML escapes as one character what JSON escapes as a surrogate pair, and escapes DEL."""
    return _PAIR.sub(lambda pair: _long_escape(pair[0]), json.dumps(text)).replace("\x7f", "\\u007f")


def _long_escape(pair: str) -> str:
    character = json.loads(f'"{pair}"')
    return f"\\U{ord(character):08X}"
