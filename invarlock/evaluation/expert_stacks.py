"""Runs the experts that a model stores as stacks of matrices again, one by one, on the tokens routed to each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def is_expert_stack(module: nn.Module) -> bool:
    """Return whether a module stores the matrices of all experts of a block as three-dimensional parameters."""
    first = getattr(module, "gate_up_proj", None)
    if first is None:
        first = getattr(module, "up_proj", None)
    last = getattr(module, "down_proj", None)
    return all(isinstance(weight, nn.Parameter) and weight.ndim == 3 for weight in (first, last))


def can_run_experts(module: Any, given: tuple[Any, ...]) -> bool:
    """Return whether ``run_experts`` can run a module: its call must look like that of transformers' expert stacks.

    Some models sort the tokens by expert first (Llama 4), or keep gate and up projections in two stacks.
    """
    if len(given) < 2 or not all(isinstance(one, torch.Tensor) for one in given[:2]):
        return False
    if given[1].is_floating_point() or given[1].shape[:-1].numel() != given[0].shape[:-1].numel():
        return False
    gated = hasattr(module, "gate_up_proj")
    has_function = hasattr(module, "_apply_gate") if gated else not hasattr(module, "gate_proj")
    return has_function or hasattr(module, "act_fn")


def run_experts(
    module: Any, hidden: torch.Tensor, chosen: torch.Tensor
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yield the number of each expert and the outputs of its first and last matrix, each of shape (tokens, features).

    Args:
        module: a stack of experts with matrices of shape (expert, out, in) or (expert, in, out).
        hidden: the input of the stack, shape (..., hidden).
        chosen: the experts of each token, shape (..., experts per token).
    """
    hidden, chosen = hidden.flatten(0, -2), chosen.flatten(0, -2)
    first = "gate_up_proj" if hasattr(module, "gate_up_proj") else "up_proj"
    for expert in range(module.down_proj.shape[0]):
        rows = hidden[(chosen == expert).any(dim=1)]
        inner = _apply(module, first, expert, rows)
        yield expert, inner, _apply(module, "down_proj", expert, _activated(module, inner, first == "gate_up_proj"))


def _apply(module: Any, name: str, expert: int, rows: torch.Tensor) -> torch.Tensor:
    weight, bias = getattr(module, name)[expert], getattr(module, f"{name}_bias", None)
    if getattr(module, "is_transposed", weight.shape[-1] != rows.shape[-1]):
        weight = weight.mT
    return nn.functional.linear(rows, weight, None if bias is None else bias[expert])


def _activated(module: Any, inner: torch.Tensor, gated: bool) -> torch.Tensor:
    if gated and hasattr(module, "_apply_gate"):
        found: torch.Tensor = module._apply_gate(inner)
        return found
    if gated:
        gate, up = inner.chunk(2, dim=-1)
        return torch.as_tensor(module.act_fn(gate) * up)
    return torch.as_tensor(module.act_fn(inner))
