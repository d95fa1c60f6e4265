"""Runs a model without its output head, so that logits are computed for a part of the positions at a time.

The logits of a forward pass take more memory than anything else in it: 0.6 GB for eight windows of 128 tokens and a
vocabulary of 150,000.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

# The most logits that the head computes at a time, 64 MB as float32. Smaller parts would read its weights too often.
HEAD_LOGITS = 1 << 24

_SEPARATE: WeakKeyDictionary[nn.Module, OutputHead] = WeakKeyDictionary()


@dataclass(frozen=True)
class OutputHead:
    """Names the module that alone turns the last hidden states of a model into its logits."""

    name: str

    def logits(self, model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of hidden states, shape (windows, positions, width)."""
        logits: torch.Tensor = model.get_submodule(self.name)(hidden)
        return logits

    @contextmanager
    def removed(self, model: PreTrainedModel) -> Iterator[None]:
        """Let a model return its last hidden states as logits while the context is open."""
        parent, _, attribute = self.name.rpartition(".")
        owner, head = model.get_submodule(parent), model.get_submodule(self.name)
        setattr(owner, attribute, nn.Identity())
        try:
            yield
        finally:
            setattr(owner, attribute, head)


def separate_head(model: PreTrainedModel) -> OutputHead | None:
    """Return the head of a model that ``note_head`` has found to be separate, or None."""
    return _SEPARATE.get(model)


def note_head(model: PreTrainedModel) -> None:
    """Find out whether a model on a CPU can run without its head, with a pass over two tokens.

    Some models scale or cap the logits of the head. Such a model has other logits than its head computes from the
    hidden states, so it is always run as a whole.
    """
    any_model: Any = model
    found = any_model.get_output_embeddings() if model.device.type == "cpu" else None
    name = next((name for name, module in model.named_modules() if found is not None and module is found), None)
    if not name:
        return
    head = OutputHead(name)
    # whatever a model raises here, it raises again when its windows are scored
    with suppress(Exception), torch.inference_mode():
        tokens = torch.tensor([[1, 2]])
        whole = model(input_ids=tokens, use_cache=False).logits
        with head.removed(model):
            hidden = model(input_ids=tokens, use_cache=False).logits
        if torch.equal(head.logits(model, hidden), whole):
            _SEPARATE[model] = head
