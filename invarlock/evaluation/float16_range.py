"""Finds the outputs of a model that do not fit in float16, in which its weights are stored.

A program that loads such a checkpoint computes in float16 by default and gets infinities there. On a CPU, models are
scored in float32, where nothing overflows.

Example::

    with LargestOutput(model) as largest:
        score_windows(model, tokens, 8)
    largest.overflow()          # ("model.layers.1.mlp.up_proj", 81920.0), or None
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from invarlock.evaluation.checkpoint_facts import CheckpointFacts
from invarlock.evaluation.expert_stacks import is_expert_stack

LARGEST_FLOAT16 = 65504.0


def is_narrowed(baseline: CheckpointFacts, subject: CheckpointFacts) -> bool:
    """Return whether a matrix of the subject is stored in float16, and that of the baseline is not."""
    before = baseline.invariants["tensors"]
    return any(
        own["dtype"] == "F16" and len(own["shape"]) == 2 and before.get(name, own)["dtype"] != "F16"
        for name, own in subject.invariants["tensors"].items()
    )


class LargestOutput:
    """Finds the largest output of a model's linear layers and experts while the context is open."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._largest: tuple[str, float] = ("", 0.0)
        self._hooks = ExitStack()

    def __enter__(self) -> LargestOutput:
        for name, module in self._model.named_modules():
            if isinstance(module, nn.Linear | Conv1D) or is_expert_stack(module):
                self._hooks.callback(module.register_forward_hook(self._hook(name)).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()

    def overflow(self) -> tuple[str, float] | None:
        """Return the module with the largest output, and its size; None if float16 has it, or it is not finite."""
        name, size = self._largest
        return (name, size) if LARGEST_FLOAT16 < size < math.inf else None

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: torch.Tensor) -> None:
            low, high = output.aminmax()
            size = max(-float(low), float(high))
            if size > self._largest[1]:
                self._largest = (name, size)

        return hook
