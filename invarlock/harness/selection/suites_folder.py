"""Finding the suites folder that pytest runs: the one that contains pytest's arguments.

A suites folder is a folder with ``models.toml`` and ``scenarios.json``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from invarlock.catalog.node_ids import file_part
from invarlock.errors import printable


def find_suites_folder(config: pytest.Config) -> Path | None:
    """Return the suites folder that contains pytest's arguments, or None.

    Raises:
        pytest.UsageError: when the arguments are in several suites folders.
    """
    found: dict[Path, None] = {}
    for argument in config.args:
        path = (config.invocation_params.dir / file_part(argument)).resolve()
        nearest = next((folder for folder in (path, *path.parents) if is_suites_folder(folder)), None)
        found |= {} if nearest is None else {nearest: None}
    if len(found) > 1:
        raise pytest.UsageError(printable(f"{' and '.join(map(str, found))} are suites folders, but a run has one"))
    return next(iter(found), None)


def is_suites_folder(path: Path) -> bool:
    """Return whether a folder has models and scenarios; False if it cannot be read."""
    try:
        return (path / "models.toml").is_file() and (path / "scenarios.json").is_file()
    except PermissionError:
        return False
