"""The configuration of a side, as the invariants guard's facts hold it, for judgements on made-up facts."""

from __future__ import annotations

from typing import Any


def configuration(**changed: Any) -> dict[str, Any]:
    """Return a configuration with nothing in it but what is named."""
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
