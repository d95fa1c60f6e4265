"""Measures facts about each tensor for the invariants guard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from invarlock.digests import sha256_hex, short_digest

# The number of elements processed together, so that they stay in the cache.
PART_ELEMENTS = 1 << 18

CONTRACT: Mapping[str, Any] = {
    "guard": "invariants",
    "reads": "checkpoint",
    "finiteness": "every element of every tensor",
    "digest": "first 16 hex digits of the sha256 of each tensor's bytes",
    "tie": "by storage (config, stored head) and by value (equal bytes)",
    "vocabulary": "sha256 over a line 'id token' for each token, the token as JSON, by id",
    "configuration": "fields as transformers resolves them, without storage and training; tokenizer by digests",
    "prefix": "token ids that the tokenizer begins every text with, found by encoding",
}


def tensor_digest(tensor: torch.Tensor) -> str:
    """Return the first 16 hex digits of the sha256 of a tensor's bytes as stored."""
    data = tensor.contiguous().flatten().view(torch.uint8).numpy()
    return short_digest(data.data)


def vocabulary_digest(vocabulary: Mapping[str, int]) -> str:
    """Return the sha256 of a tokenizer's tokens with their ids, 64 hex digits."""
    lines = sorted((number, json.dumps(token)) for token, number in vocabulary.items())
    return sha256_hex("".join(f"{number} {token}\n" for number, token in lines).encode())


def count_nonfinite(tensor: torch.Tensor) -> int:
    """Return how many elements are NaN or infinite; integers have none."""
    if not tensor.is_floating_point():
        return 0
    finite = 0
    for part in torch.split(tensor.flatten(), PART_ELEMENTS):
        finite += int((part.float() if part.element_size() == 1 else part).isfinite().sum())
    return tensor.numel() - finite


def has_negative_zeros_alone(tensor: torch.Tensor) -> bool:
    """Return whether a vector has no other values than zeros and some are −0.0, so that its bytes are not all zero."""
    if tensor.ndim != 1 or not tensor.is_floating_point():
        return False
    values = tensor.float()
    return not bool(values.any()) and bool(values.signbit().any())
