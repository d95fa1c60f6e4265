"""Run directories of shards, and the check that they are the parts of one run.

Shards belong together if they cover the plan of the run exactly once, each is finished, and everything that affects a
measurement (settings, pins, tuned parameters, presets, baselines, libraries) is equal in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from invarlock.packer.format import layout
from invarlock.packer.runs.run_directory import RunDirectory

from invarlock.catalog.costs import ModelSize
from invarlock.catalog.shards import shard_manifest
from invarlock.documents import JsonObject
from invarlock.documents.catalog import EffectiveManifest
from invarlock.errors import DocumentError, IntegrityError, MissingFileError, UsageError
from invarlock.jsonio import check_schema, parse_json, read_file, read_json
from invarlock.problems import Code
from invarlock.reports.leaf_differences import leaf_differences
from invarlock.reports.verification import shorten
from invarlock.settings import SETTINGS
from invarlock.verdict.compiling import planned_cases, read_outcomes

# The files that a finished shard must have.
STATE_FILES = (
    "scenarios.json",
    "settings.json",
    "tuned_edit_params.json",
    "model_revisions.json",
    "pytest_report.json",
    "environment.json",
    "source_repo.json",
)
# Fields of the environment that may differ between machines; libraries and versions may not.
OF_A_MACHINE = ("platform", "graphics", "nodes")
PINNED = {"models": "model_id", "datasets": "dataset_id"}
MAY_DIFFER = frozenset(setting.name for setting in SETTINGS if setting.may_differ)


@dataclass(frozen=True)
class Shard:
    """A shard's run directory, and the documents in its ``state/`` by name."""

    directory: RunDirectory
    index: int
    of: int
    models: Mapping[str, ModelSize]
    whole: EffectiveManifest
    state: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Return the shard's name in messages: its folder, number and count."""
        return f"{self.directory.path} (shard {self.index}/{self.of})"


def read_shard(path: Path) -> Shard:
    """Read the shard in a run directory.

    Raises:
        MissingFileError: when the folder does not belong to a shard, or the shard is not finished.
        DocumentError: when one of its documents is malformed.
        IntegrityError: when its cases do not match its part of the run.
    """
    directory = RunDirectory(path)
    if not directory.shard.is_file():
        raise MissingFileError(
            "not the run directory of a shard (no state/shard.json); create one with --shard",
            code=Code.SHARD_INCOMPLETE,
            where=str(path),
        )
    check_no_links(directory)
    document = read_json(directory.shard)
    check_schema(document, "shard", where=str(directory.shard))
    check_schema(document["whole"], "scenarios", where=f"{directory.shard}: whole")
    state: JsonObject = {}
    for name in STATE_FILES:
        file = directory.state / name
        if not file.is_file():
            raise MissingFileError(
                f"missing; this shard is not finished, continue it with: {_resuming(document)}",
                code=Code.SHARD_INCOMPLETE,
                where=str(file),
            )
        state[name] = read_json(file)
    for name in ("environment", "source_repo"):
        check_schema(state[f"{name}.json"], name, where=str(directory.state / f"{name}.json"))
    _check_shapes(directory.state, state)
    sizes = {model: ModelSize(**row) for model, row in document["models"].items()}
    shard = Shard(directory, document["index"], document["of"], sizes, document["whole"], state)
    _check_cases(shard)
    return shard


def check_no_links(directory: RunDirectory) -> None:
    """Check that no file read from a run is a symbolic link.

    Raises:
        IntegrityError: naming the first link.
    """
    link = next(directory.links(), None)
    if link is not None:
        words = "a symbolic link, which is not followed in a run directory; replace it with its target"
        raise IntegrityError(words, where=str(link), code=Code.NOT_A_REGULAR_FILE)


def check_belonging(shards: Sequence[Shard]) -> None:
    """Check that the shards are all the parts of one run.

    Raises:
        MissingFileError: naming the shards that are missing.
        UsageError: when two overlap, or differ where they must be equal; the first difference is named.
    """
    first = shards[0]
    seen: dict[int, Shard] = {}
    for shard in shards:
        if shard.of != first.of:
            raise UsageError(
                f"{shard.name} and {first.name} belong to different divisions; merge the shards of one run",
                code=Code.SHARDS_DIFFER,
            )
        other = seen.setdefault(shard.index, shard)
        if other is not shard:
            raise UsageError(
                f"{shard.directory.path} and {other.name} are the same shard; give only one of them",
                code=Code.SHARDS_DIFFER,
            )
    for shard in shards[1:]:
        wrong = next(_disagreements(shard, first), None)
        if wrong is not None:
            raise UsageError(
                f"{shard.name} and {first.name} belong to different runs: {wrong}; run one of them again",
                code=Code.SHARDS_DIFFER,
            )
    missing = [f"{index}/{first.of}" for index in range(1, first.of + 1) if index not in seen]
    if missing:
        raise MissingFileError(
            f"shards {', '.join(missing)} are missing; give the run directories of all {first.of}",
            code=Code.SHARD_INCOMPLETE,
        )


def shared_files(shards: Sequence[Shard]) -> dict[str, Path]:
    """Return the files that shards have in common (baseline reports and presets), by path in a run directory.

    Raises:
        UsageError: when two shards have different content.
        MissingFileError: when a shard lacks the baseline of one of its models.
    """
    found: dict[str, tuple[Shard, Path]] = {}
    for shard in shards:
        for path, where in _made_alike(shard):
            data = read_file(path)
            other, known = found.setdefault(where, (shard, path))
            if read_file(known) != data:
                what = first_difference(_parsed(data), _parsed(read_file(known))) or "the bytes differ"
                raise UsageError(
                    f"{shard.name} and {other.name} measured {where} differently: {what}; all reports depend on it, "
                    "so run all shards on identical machines or with --determinism strict",
                    code=Code.SHARDS_DIFFER,
                )
    return {where: path for where, (_, path) in found.items()}


def _made_alike(shard: Shard) -> Iterator[tuple[Path, str]]:
    directory = shard.directory
    for model in sorted({layout.model_folder(place) for place in planned_cases(shard.state["scenarios.json"])}):
        report = directory.source_of(layout.baseline_path(model))
        if not report.is_file():
            continue
        for path in sorted(report.parent.rglob("*")):
            # durations always differ, and no digest covers them
            if _is_kept(path) and path.name != layout.TIMING:
                yield path, str(path.relative_to(directory.path))
        if directory.presets.is_dir():
            null_runs = (directory.presets / model).glob("*.json")
            for path in sorted([*directory.presets.glob(f"calibrated_preset_{model}.*"), *null_runs]):
                if _is_kept(path):
                    yield path, str(path.relative_to(directory.path))


def _is_kept(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.suffix != ".stale" and not path.name.startswith(".")


def _check_cases(shard: Shard) -> None:
    """Check that a shard's cases are its part of the run, and that pytest finished all of them."""
    planned_cases(shard.whole)
    unknown = next(
        (row["model"] for row in shard.whole["selection"]["cases"] if row["model"] not in shard.models), None
    )
    if unknown is not None:
        raise _contradiction(shard, shard.directory.shard.name, f"models: the size of {unknown} is missing")
    derived = shard_manifest(shard.whole, shard.models, shard.index, shard.of)
    wrong = first_difference(shard.state["scenarios.json"], derived)
    if wrong is not None:
        raise _contradiction(shard, "scenarios.json", f"does not match its shard.json: {wrong}")
    said = {outcome["case"] for outcome in read_outcomes(shard.state["pytest_report.json"])}
    planned = [case.case_id for case in planned_cases(derived).values()]
    waiting = [case for case in planned if case not in said]
    if waiting:
        raise MissingFileError(
            f"{shard.name}: {len(waiting)} of {len(planned)} cases were not run, for example {waiting[0]}; it is "
            f"not finished, continue it with: {_resuming({'index': shard.index, 'of': shard.of})}",
            code=Code.SHARD_INCOMPLETE,
        )
    strange = sorted(said & {case.case_id for case in planned_cases(shard.whole).values()} - set(planned))
    if strange:
        raise _contradiction(shard, "pytest_report.json", f"{strange[0]} is not a case of this shard")


def _contradiction(shard: Shard, name: str, message: str) -> IntegrityError:
    return IntegrityError(message, where=str(shard.directory.state / name), code=Code.SHARD_CONTRADICTS_ITSELF)


def _resuming(shard: Mapping[str, Any]) -> str:
    return f"pytest suites --shard {shard['index']}/{shard['of']} --resume"


def _disagreements(shard: Shard, first: Shard) -> Iterator[str]:
    """Yield the differences that show that two shards belong to different runs."""
    pins, known = ({key: _pins(one.state["model_revisions.json"], key) for key in PINNED} for one in (shard, first))
    both = {key: pins[key].keys() & known[key].keys() for key in PINNED}
    compared = {
        "plan": (shard.whole, first.whole),
        "sizes of models": tuple({name: asdict(size) for name, size in one.models.items()} for one in (shard, first)),
        "settings": (binding_settings(shard.state["settings.json"]), binding_settings(first.state["settings.json"])),
        "tuned parameters": tuple(one.state["tuned_edit_params.json"] for one in (shard, first)),
        "pins": tuple({key: {name: rows[key][name] for name in both[key]} for key in PINNED} for rows in (pins, known)),
        "environment": tuple(versions(one.state["environment.json"]) for one in (shard, first)),
        "source repository": tuple(one.state["source_repo.json"] for one in (shard, first)),
    }
    for name, (one, other) in compared.items():
        found = first_difference(one, other)
        if found is not None:
            yield f"{name}: {found}"


def binding_settings(document: Mapping[str, Any]) -> JsonObject:
    """Return the values of ``settings.json`` that must be equal in all parts of a run."""
    return {name: row["value"] for name, row in document.items() if name not in MAY_DIFFER}


def versions(environment: Mapping[str, Any]) -> JsonObject:
    """Return the fields of ``environment.json`` that must be equal on all machines that take part in a run."""
    return {key: value for key, value in environment.items() if key not in OF_A_MACHINE}


def _pins(revisions: Mapping[str, Any], key: str) -> dict[str, JsonObject]:
    """Return the pins of models or data sets by id, without the time of the hub request."""
    return {row[PINNED[key]]: {**row, "resolved_at": None} for row in revisions.get(key, [])}


def first_difference(one: Any, other: Any) -> str | None:
    """Describe the first difference between two documents, with both values; None if they are equal."""
    found = next(leaf_differences(one, other), None)
    if found is None:
        return None
    path, ours, theirs = found
    return f"{'.'.join(map(str, path)) or 'content'} {shorten(ours)}, not {shorten(theirs)}"


def _parsed(data: bytes) -> Any:
    try:
        return parse_json(data, where="")
    except DocumentError:
        return None


def _check_shapes(where: Path, state: Mapping[str, Any]) -> None:
    """Check the types of the fields that are read from documents without a schema.

    Raises:
        DocumentError: naming the file.
    """
    for name in ("settings.json", "model_revisions.json"):
        if not isinstance(state[name], dict):
            raise DocumentError(f"{where / name}: not an object", code=Code.DOCUMENT_MALFORMED)
    if not all(isinstance(row, dict) and "value" in row for row in state["settings.json"].values()):
        raise DocumentError(f"{where / 'settings.json'}: a setting without a value", code=Code.DOCUMENT_MALFORMED)
    for key, name in PINNED.items():
        rows = state["model_revisions.json"].get(key, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) and name in row for row in rows):
            raise DocumentError(
                f"{where / 'model_revisions.json'}: {key}: not a list of pins", code=Code.DOCUMENT_MALFORMED
            )
