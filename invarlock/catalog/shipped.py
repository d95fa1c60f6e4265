"""The suites that ship with InvarLock: the folder ``suites`` in a checkout, a part of the package in a wheel."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path


def shipped_suites() -> Path:
    """Return the folder of the shipped suites."""
    return Path(next(iter(import_module("invarlock.suite").__path__)))
