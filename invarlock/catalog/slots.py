"""Models of a user's choice in the slots of a suite: ``MODEL_1`` to ``MODEL_8``.

Example::

    fill_slots(models, "subset", ("./mine", None, …))    # the suite has the folder's model in place of its first
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from invarlock.catalog.models import Model, Models
from invarlock.errors import UsageError

# What an id on the hub is made of; it has one slash, or none.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def fill_slots(models: Models, suite: str, slots: Sequence[str | None]) -> Models:
    """Return the suite alone, with the models of its slots; None keeps the suite's, empty leaves the slot out.

    What is not known of a model (its sizes, its architecture) is empty here, and read from its files before a run.

    Raises:
        UsageError: when a slot holds neither a folder nor an id, none is left, or two hold the same.
    """
    own = models.suites[suite].models
    chosen: dict[str, Model] = {}
    problems = []
    for number, given in enumerate(slots, start=1):
        known = own[number - 1] if number <= len(own) else ""
        value = known if given is None else given
        if not value:
            continue
        try:
            model = _model(models, value)
        except ValueError as error:
            problems.append(f"MODEL_{number}: {error}")
            continue
        if model.short_name in {other.short_name for other in chosen.values()}:
            problems.append(f"MODEL_{number}: a second model of the name {model.short_name!r}; name each once")
        chosen[model.id] = model
    for name in own[len(slots) :]:
        chosen[name] = models.models[name]
    if not chosen and not problems:
        problems.append(f"MODEL_1: every slot of suite {suite} is empty; name a model")
    if problems:
        raise UsageError("; ".join(problems))
    return Models(chosen, {suite: replace(models.suites[suite], models=tuple(chosen))})


def local_model(folder: Path, model_id: str | None = None) -> Model:
    """Return the model of a folder: its id holds the folder's name, and none of the folders above it."""
    folder = _expanded(folder).resolve()
    name = _NOT_IN_NAMES.sub("-", folder.name).strip("-.") or "model"
    return _unknown(model_id or f"local/{name}", str(folder))


def _model(models: Models, value: str) -> Model:
    if value in models.models:
        return models.models[value]
    folder = _expanded(Path(value))
    if folder.is_dir():
        return local_model(folder)
    if _HUB_ID.fullmatch(value) is None or value.startswith((".", "~")):
        raise ValueError(f"{value!r} is no folder, and no id on the hub; correct it, or empty leaves the slot out")
    return _unknown(value, None)


def _expanded(path: Path) -> Path:
    """Return a path with ``~`` replaced; as it is where nobody knows the home folder that is meant."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _unknown(model_id: str, path: str | None) -> Model:
    return Model(model_id, "", 0, 0, "unknown", 0, path=path)
