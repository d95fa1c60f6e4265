"""The tiers and profiles of ``tiers.json``; ``reports.policy`` resolves them to the limits of a report."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from invarlock.jsonio import check_schema, parse_json


@cache
def read_tiers() -> Mapping[str, Any]:
    """Return the document ``tiers.json``: limits by tier, windows and replicates by profile."""
    data = resources.files("invarlock.contracts").joinpath("tiers.json").read_bytes()
    document: dict[str, Any] = parse_json(data, where="tiers.json")
    check_schema(document, "tiers", where="tiers.json")
    return document


def tier_names() -> tuple[str, ...]:
    """Return the names of the tiers."""
    return tuple(read_tiers()["tiers"])


def profile_names() -> tuple[str, ...]:
    """Return the names of the profiles."""
    return tuple(read_tiers()["profiles"])


def profile_windows(profile: str) -> tuple[int, int]:
    """Return the numbers of preview and final windows of a profile."""
    row = read_tiers()["profiles"][profile]
    return row["preview_windows"], row["final_windows"]
