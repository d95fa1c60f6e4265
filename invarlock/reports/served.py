"""What a report says of a subject behind a server, in words: what was not seen, and what only the server states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The names of what a server states, in the order of the words.
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
    """Return whether the subject of a report is behind a server, so that nobody saw its files."""
    return "served" in report["subject"]


def stated_words(served: Mapping[str, Any]) -> str:
    """Return what a server states of its model and of itself, as a list of words."""
    stated = served["stated"]
    return ", ".join(
        [f"model {served['model']}", *(f"{words} {stated[name]}" for name, words in STATED.items() if name in stated)]
    )
