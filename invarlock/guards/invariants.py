"""The invariants guard's measurement: facts about each tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

CONTRACT: Mapping[str, Any] = {
    "guard": "invariants",
    "reads": "checkpoint",
    "finiteness": "every element of every tensor",
    "tie": "by storage (config, stored head) and by value (equal bytes)",
}


def count_nonfinite(tensor: torch.Tensor) -> int:
    """Return how many elements are NaN or infinite; integers have none."""
    if not tensor.is_floating_point():
        return 0
    if tensor.element_size() == 1:
        tensor = tensor.float()
    return int(tensor.numel() - int(tensor.isfinite().sum()))
