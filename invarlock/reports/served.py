"""Describing a subject behind a server in words: what could not be seen, and what only the server states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The fields that a server states with their names in the text, in order.
STATED = {
    "version": "version",
    "quantisation": "quantisation",
    "owned_by": "owned by",
    "parameters": "parameters",
    "bytes": "bytes",
    "context_tokens": "tokens of context",
    "fingerprint": "fingerprint",
}
NOTHING_PROVES = "the server states this, and nothing proves it"


def is_served(report: Mapping[str, Any]) -> bool:
    """Return whether the subject of a report is behind a server, so that its files were not seen."""
    return "served" in report["subject"]


def stated_words(served: Mapping[str, Any]) -> str:
    """Return a server's statements about its model and itself as comma-separated text."""
    stated = served["stated"]
    return ", ".join(
        [f"model {served['model']}", *(f"{words} {stated[name]}" for name, words in STATED.items() if name in stated)]
    )
