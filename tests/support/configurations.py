"""Configurations in the form of the invariants guard's facts, for tests that judge constructed facts."""

from __future__ import annotations

from typing import Any


def configuration(**changed: Any) -> dict[str, Any]:
    """Return a configuration that contains only the given fields."""
    nothing: dict[str, Any] = {
        "appended_token_ids": [],
        "chat_template": None,
        "config": {},
        "generation": {},
        "special_tokens": {},
        "text_as_baseline": True,
        "tokenizer": None,
    }
    return {**nothing, **changed}
