"""Finding the models of a run before the first case: on disk, in the cache of the hub's client, or on the hub.

Example::

    sources = find_sources(run, models)             # contacts the hub only with --net 1; downloads nothing
    pins = obtain_pins(sources, ids, print)           # downloads what is missing, verified

The first of these that has a pin for a model is used: the run that is resumed, ``PACK_MODEL_REVISIONS_FILE``,
``model_revisions.json`` in the suites folder, ``models.toml``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from invarlock.catalog.models import Model
from invarlock.catalog.pins import Pin, Pins, read_pins
from invarlock.checkpoints.hub import fetch_file
from invarlock.checkpoints.layout import CONFIG_FILE, code_files
from invarlock.checkpoints.revisions import fetch, find_model, model_folder, pin_folder, resolve_model
from invarlock.checkpoints.safetensors_files import read_config, stored_item_bytes
from invarlock.checkpoints.snapshots import snapshot_sources
from invarlock.errors import CheckpointError, HubError, InvarLockError, MissingFileError, UsageError
from invarlock.harness.sources.texts import find_texts
from invarlock.harness.state.found_sources import Source, Sources, sized_by_files
from invarlock.harness.state.run import Run
from invarlock.output import ShowLine
from invarlock.problems import Code, Problem

# The number of repositories queried at a time; each takes one request and, for a model in no catalog, a small file.
REQUESTS_AT_ONCE = 8
# The name of a file of pins, in a suites folder and in a run.
PINS_NAME = "model_revisions.json"


def find_sources(run: Run, models: Sequence[Model], others: Sequence[Model] = ()) -> Sources:
    """Return the sources of models. The hub is contacted only with ``--net 1``, and nothing large is downloaded.

    Args:
        run: the run.
        models: the models that this run measures.
        others: the models of other shards; only their revisions are needed, not their files.
    """
    try:
        wanted = {model.id: _wanted(run, model) for model in (*models, *others)}
        texts = find_texts(run, _earlier_pins(run), _given_pins(run))
    except InvarLockError as error:
        return Sources(problems=error.listed)
    found: dict[str, Source] = {}
    problems: list[Problem] = []
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        waiting = {model: pool.submit(_find, run, model, wanted[model.id]) for model in (*models, *others)}
        for model, future in waiting.items():
            pin = wanted[model.id]
            try:
                found[model.id] = future.result()
            except InvarLockError as error:
                if model in others and pin is not None:
                    found[model.id] = Source(model, pin)
                else:
                    problems += _named(model.id, error)
    missing = sum(found[model.id].missing_bytes for model in models if model.id in found)
    missing += sum(text.missing_bytes for text in texts)
    return Sources(found, tuple(problems), missing, texts)


def obtain_pins(sources: Sources, model_ids: Sequence[str], show: ShowLine) -> Pins:
    """Download and verify the missing files of a run's models, and return the models' pins.

    Raises:
        UsageError: when models cannot be obtained; the message has a line for each.
    """
    pins: dict[str, Pin] = {}
    problems: list[Problem] = []
    for model_id in model_ids:
        source = sources.models[model_id]
        try:
            pin = source.pin or _fetched(source, show)
        except InvarLockError as error:
            problems += _named(model_id, error)
            continue
        pins[model_id] = replace(pin, licence=source.pinned_model.licence)
    datasets: dict[str, Pin] = {}
    for text in sources.texts:
        try:
            datasets |= text.obtain(show)
        except InvarLockError as error:
            problems += error.listed
    if problems:
        raise UsageError("\n".join(map(str, problems)), code=Code.PIN_UNUSABLE, problems=problems)
    return Pins(pins, datasets)


def run_pins(run: Run) -> Pins:
    """Return the pins recorded in a run's state.

    Raises:
        MissingFileError, DocumentError: when the run's state was changed.
    """
    return read_pins(run.directory.state / PINS_NAME)


def _wanted(run: Run, model: Model) -> Pin | None:
    """Return the pin that a model must have, or None if no pin is specified.

    Raises:
        UsageError: if a resumed run would get another pin.
    """
    given = _given_pins(run).models.get(model.id)
    if given is None and model.revision is not None:
        given = Pin(model.id, model.revision)
    earlier = _earlier_pins(run).models.get(model.id)
    if earlier is not None and given is not None and given.revision != earlier.revision:
        raise UsageError(
            f"--resume: {model.id}: this run is pinned to {earlier.revision}, but {given.revision} was requested; "
            "a run keeps its pins: start a new one",
            code=Code.RUN_DIFFERS,
        )
    return earlier or given


def _earlier_pins(run: Run) -> Pins:
    """Return the pins of the run that is resumed."""
    path = run.directory.state / PINS_NAME
    return read_pins(path) if run.settings.resume and path.is_file() else Pins()


def _given_pins(run: Run) -> Pins:
    named = run.settings.model_revisions_file
    if named is not None:
        try:
            return read_pins(Path(named))
        except MissingFileError as error:
            raise MissingFileError(
                f"{error}; set PACK_MODEL_REVISIONS_FILE to the state/model_revisions.json of a run with --net 1, or "
                "unset the variable"
            ) from None
    shipped = run.suites_folder / PINS_NAME
    return read_pins(shipped) if shipped.is_file() else Pins()


def _find(run: Run, model: Model, wanted: Pin | None) -> Source:
    if model.path is not None:
        return _on_disk(run.suites_folder, model, wanted)
    if not run.settings.net:
        return _in_cache(model, wanted)
    if wanted is not None and wanted.files:
        try:
            return _in_cache(model, wanted)
        except (HubError, CheckpointError):
            # some of the model's files must be downloaded
            pass
    return _on_hub(model, wanted, pickles=run.settings.allow_pickled_weights)


def _on_disk(suites_folder: Path, model: Model, wanted: Pin | None) -> Source:
    assert model.path is not None
    folder = suites_folder / model.path
    tokenizer = None if model.tokenizer_path is None else suites_folder / model.tokenizer_path
    files = snapshot_sources(folder, tokenizer)
    if model.trust_remote_code:
        files |= {name: folder / name for name in code_files(folder)}
    pin = pin_folder(model.id, model.licence, files)
    if wanted is not None and wanted.revision != pin.revision:
        raise CheckpointError(
            f"{model.id}: its digest is {pin.revision}, but {wanted.revision} was expected; restore its files, "
            "or correct the pin",
            code=Code.PIN_UNUSABLE,
        )
    return Source(sized_by_files(model, folder), pin, wanted=wanted)


def _in_cache(model: Model, wanted: Pin | None) -> Source:
    if wanted is None:
        raise HubError(
            f"{model.id}: no pinned revision; resolve and download it with --net 1, or give a file of pins with "
            "PACK_MODEL_REVISIONS_FILE",
            code=Code.PIN_UNUSABLE,
        )
    pin = find_model(wanted, code=model.trust_remote_code)
    return Source(sized_by_files(model, model_folder(pin)), pin, wanted=wanted)


def _on_hub(model: Model, wanted: Pin | None, *, pickles: bool) -> Source:
    revision = None if wanted is None else wanted.revision
    resolved = resolve_model(model.id, revision, code=model.trust_remote_code, pickles=pickles)
    weights = resolved.weight_bytes
    config = read_config(fetch_file(resolved.listing, CONFIG_FILE)[0].parent)
    sized = replace(
        model,
        weight_bytes=weights,
        # for a model in no catalog, nearly all weights are assumed to have one type
        parameters=model.parameters or weights // stored_item_bytes(config),
        architecture=config["model_type"],
    )
    return Source(sized, resolved=resolved, wanted=wanted)


def _fetched(source: Source, show: ShowLine) -> Pin:
    assert source.resolved is not None
    pin = fetch(source.resolved, show)
    wanted = () if source.wanted is None else source.wanted.files
    for file in wanted:
        if file not in pin.files:
            raise HubError(
                f"{pin.id} at {pin.revision}: {file.name} differs from the pinned file; correct the pin",
                code=Code.PIN_UNUSABLE,
            )
    # a resumed run keeps the pin that it recorded
    return source.wanted if source.wanted is not None and wanted else pin


def _named(model_id: str, error: InvarLockError) -> Iterator[Problem]:
    """Yield the problems of an error, each with the name of its model."""
    for problem in error.listed:
        text = str(problem)
        yield Problem(problem.code, "", "", text if text.startswith(model_id) else f"{model_id}: {text}")


def used_models(models: Iterable[Model]) -> list[Model]:
    """Return the distinct models in their order."""
    return list({model.id: model for model in models}.values())
