"""A user's own models in the slots of a suite: ``MODEL_1`` to ``MODEL_8``.

Example::

    fill_slots(models, "subset", ("./mine", None, …))    # the folder's model replaces the suite's first model
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from invarlock.catalog.models import Model, Models
from invarlock.errors import UsageError
from invarlock.problems import Code

# The parts of a hub id, which has at most one slash.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def fill_slots(models: Models, suite: str, slots: Sequence[str | None]) -> Models:
    """Return only the suite, with the given models in its slots; None keeps the suite's model, empty drops the slot.

    Unknown facts about a model (sizes, architecture) are empty here, and read from its files before a run.

    Raises:
        UsageError: when a slot has neither a folder nor an id, all are empty, or two have the same model.
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
            problems.append(f"MODEL_{number}: a second model named {model.short_name!r}; give each model once")
        chosen[model.id] = model
    for name in own[len(slots) :]:
        chosen[name] = models.models[name]
    if not chosen and not problems:
        problems.append(f"MODEL_1: every slot of suite {suite} is empty; give a model")
    if problems:
        raise UsageError.listing(problems, code=Code.SETTING_INVALID, separator="; ")
    return Models(chosen, {suite: replace(models.suites[suite], models=tuple(chosen))})


def local_model(folder: Path, model_id: str | None = None) -> Model:
    """Return the model of a folder: its id contains the folder's name, but no parent folder."""
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
        raise ValueError(f"{value!r} is neither a folder nor a hub id; correct it, or leave it empty to drop the slot")
    return _unknown(value, None)


def _expanded(path: Path) -> Path:
    """Return a path with ``~`` expanded, or unchanged if the home folder is unknown."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _unknown(model_id: str, path: str | None) -> Model:
    return Model(model_id, "", 0, 0, "unknown", 0, path=path)
