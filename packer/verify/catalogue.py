"""Comparing a pack's scenarios with the catalogue of its InvarLock version, to detect weaker requirements."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from invarlock.packer.format.documents import Manifest

from invarlock import __version__
from invarlock.catalog.shipped import shipped_suites
from invarlock.catalog.sweeps import steps
from invarlock.documents import JsonObject

# The fields of a catalogue row that are requirements; the others are descriptive.
REQUIREMENTS = ("category", "strictness", "intent", "failure_class", "primary_guard", "requirements", "generation")
MAX_LINES = 10


def catalogue_warnings(manifest: Manifest, scenarios: Mapping[str, Any]) -> list[str]:
    """Return the differences between a pack's scenarios and the catalogue: at most ``MAX_LINES``, then a count.

    A pack of another version is not compared, since that version's catalogue is not available.

    Args:
        manifest: the manifest of the pack.
        scenarios: the effective manifest of the pack.
    """
    if manifest.get("invarlock_version") != __version__:
        return []
    lines = list(_differences(scenarios["scenarios"]))
    more = [f"and {len(lines) - MAX_LINES} more scenarios that differ"] if len(lines) > MAX_LINES else []
    return lines[:MAX_LINES] + more


def _differences(rows: list[JsonObject]) -> Iterator[str]:
    shipped = _catalogue()
    unknown = []
    for row in rows:
        name, generation = row["id"], row["generation"]
        known = shipped.get(name)
        if known is None:
            # scenarios for a user's own checkpoints are in no catalogue
            unknown += [] if generation["kind"] == "brought" else [name]
            continue
        changed = [
            f"{key} is {_short(row.get(key))}, not {_short(known.get(key))}"
            for key in REQUIREMENTS
            if _differs(row, known, key)
        ]
        if changed:
            yield f"scenario {name} differs from the catalogue of InvarLock {__version__}: {'; '.join(changed)}"
    if unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        yield f"scenarios that are not in the catalogue of InvarLock {__version__}: {shown}"


def catalogue_path() -> Path:
    """Return the path of this version's scenario catalogue, in the package or in the suites folder of a checkout."""
    return shipped_suites() / "scenarios.json"


@cache
def _catalogue() -> Mapping[str, Mapping[str, Any]]:
    """Return the rows of this version's catalogue by id; a sweep has one row per value."""
    document = json.loads(catalogue_path().read_bytes())
    return {row["id"]: row for catalogued in document["scenarios"] for row in steps(catalogued)}


def _differs(row: Mapping[str, Any], known: Mapping[str, Any], key: str) -> bool:
    return json.dumps(row.get(key), sort_keys=True) != json.dumps(known.get(key), sort_keys=True)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."
