"""What a model's layers give on some windows, measured in passing: no activation outlives its chunk.

Example::

    facts = measure_activations(model, tokens)
    facts.rmt["modules"]["model.layers.0.mlp.up_proj"]          # {"family": "ffn", "tokens": …, "edge_risk": …}
    facts.variance["modules"]["model.layers.0.mlp.down_proj"]   # {"rms": …}

    with scaled_outputs(model, {"model.layers.0.mlp.down_proj": 1.1}):
        score_windows(model, …)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from invarlock.checkpoints.equivalence.steps import apply_to_outputs
from invarlock.checkpoints.families import Module, classify
from invarlock.documents import JsonObject
from invarlock.errors import OutOfMemoryError
from invarlock.evaluation.canonical_form import NO_TRANSFORM, OutputTransform
from invarlock.evaluation.expert_stacks import can_run_experts, is_expert_stack, run_experts
from invarlock.evaluation.memory import check_room, forward_bytes, one_out_of_memory
from invarlock.evaluation.models import run_layers
from invarlock.evaluation.windows import Tokens
from invarlock.measuring import rmt, variance
from invarlock.reports.derivation import contract_hash


@dataclass(frozen=True)
class ActivationFacts:
    """The raw measurements of the guards ``rmt`` and ``variance``, as a report holds them."""

    rmt: JsonObject
    variance: JsonObject

    def by_guard(self, scaled_logloss: Sequence[float | None] | None) -> dict[str, JsonObject]:
        """Return the subject's raw part of each guard on activations; the losses are those with scales applied."""
        return {"rmt": self.rmt, "variance": {**self.variance, "scaled_logloss": scaled_logloss}}


# How the guards on activations measure.
ACTIVATION_CONTRACTS: Mapping[str, Mapping[str, Any]] = {"rmt": rmt.CONTRACT, "variance": variance.CONTRACT}

# What is said of a model that could not be scored: no module, which fails closed.
NOT_MEASURED = ActivationFacts(
    {"measurement_contract_hash": contract_hash(rmt.CONTRACT), "modules": {}},
    {"measurement_contract_hash": contract_hash(variance.CONTRACT), "modules": {}},
)


@dataclass
class _Accumulated:
    """What is kept of the chunks seen so far."""

    families: dict[str, str] = field(default_factory=dict)
    risks: dict[str, list[rmt.EdgeRisk]] = field(default_factory=dict)
    squares: dict[str, tuple[float, int]] = field(default_factory=dict)

    def add_risk(self, name: str, family: str, rows: torch.Tensor) -> None:
        self.families[name] = family
        self.risks.setdefault(name, []).append(rmt.edge_risk(rows))

    def add_output(self, name: str, outputs: torch.Tensor) -> None:
        total, count = variance.sum_of_squares(outputs)
        before, counted = self.squares.get(name, (0.0, 0))
        self.squares[name] = (before + total, counted + count)


def evenly_spaced(tokens: Tokens, count: int) -> Tokens:
    """Return ``count`` evenly spaced windows, all of them where there are no more."""
    if len(tokens) <= count:
        return tokens
    chosen: Tokens = tokens[np.linspace(0, len(tokens) - 1, count).round().astype(int)]
    return chosen


@torch.inference_mode()
def measure_activations(
    model: PreTrainedModel, tokens: Tokens, room_bytes: int | None = None, transform: OutputTransform | None = None
) -> ActivationFacts:
    """Return the edge risk of every linear layer of attention and FFN, and the output of every FFN.

    Windows have no padding. A chunk of windows is one forward pass, halved while it does not fit in memory.

    Args:
        model: a causal language model, in evaluation mode.
        tokens: token ids, shape (windows, seq_len).
        room_bytes: what the model and a forward pass may take; None if the device's allocator bounds it.
        transform: brings outputs into the baseline's form, None to measure them as they are.

    Raises:
        EvaluationError: when the model's forward pass fails.
        OutOfMemoryError: when even one window does not fit in memory.
    """
    chunk = rmt.CHUNK_WINDOWS
    while True:
        try:
            with one_out_of_memory():
                check_room(forward_bytes(model, min(chunk, len(tokens)), tokens.shape[1]), room_bytes)
                return _measure(model, tokens, chunk, transform or NO_TRANSFORM)
        except torch.OutOfMemoryError:
            if chunk == 1:
                raise OutOfMemoryError(
                    f"the activations of one window of {tokens.shape[1]} tokens do not fit in the memory of "
                    f"{model.device}; use a shorter seq_len or a larger device"
                ) from None
            chunk //= 2
            torch.cuda.empty_cache()


@contextmanager
def scaled_outputs(model: PreTrainedModel, scales: Mapping[str, float]) -> Iterator[None]:
    """Multiply the outputs of modules while the context lasts; no weight is touched."""
    modules = dict(model.named_modules())
    with ExitStack() as stack:
        for name, scale in scales.items():

            def multiply(module: nn.Module, given: Any, output: torch.Tensor, scale: float = scale) -> torch.Tensor:
                return output * scale

            stack.callback(modules[name].register_forward_hook(multiply).remove)
        yield


def _measure(model: PreTrainedModel, tokens: Tokens, chunk: int, transform: OutputTransform) -> ActivationFacts:
    reduced = _Accumulated()
    with ExitStack() as stack:
        for handle in _hooks(model, reduced, transform):
            stack.callback(handle.remove)
        for start in range(0, len(tokens), chunk):
            batch = torch.from_numpy(tokens[start : start + chunk]).long().to(model.device)
            run_layers(model, batch)
    risks = {name: {"family": reduced.families[name], **rmt.join(rows)} for name, rows in sorted(reduced.risks.items())}
    outputs = {
        name: {"rms": variance.root_mean_square(total, count)}
        for name, (total, count) in sorted(reduced.squares.items())
    }
    return ActivationFacts(
        {**NOT_MEASURED.rmt, "modules": risks},
        {**NOT_MEASURED.variance, "modules": outputs},
    )


def _hooks(model: PreTrainedModel, reduced: _Accumulated, transform: OutputTransform) -> Iterator[Any]:
    """Put a hook on each linear layer in scope and on each stack of experts, and yield its handle."""
    model_type = model.config.model_type
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            found = classify(model_type, f"{name}.weight", tuple(module.weight.shape))
            if found.family in rmt.CONTRACT["scope"]:
                yield module.register_forward_hook(_linear_hook(name, found, reduced, transform))
        elif is_expert_stack(module):
            block = classify(model_type, f"{name}.down_proj", tuple(module.down_proj.shape)).layer
            yield module.register_forward_hook(_experts_hook(name, block, reduced, transform))


def _linear_hook(name: str, found: Module, reduced: _Accumulated, transform: OutputTransform) -> Any:
    steps = transform.of_linear(name, found.role)

    def hook(module: nn.Module, given: Any, output: torch.Tensor) -> None:
        reduced.add_risk(name, found.family, apply_to_outputs(steps, output.flatten(0, -2)))
        # an expert that is a module of its own adds to its block by its weight, which it does not know
        if found.role == "down" and found.expert is None:
            reduced.add_output(name, output)

    return hook


def _experts_hook(name: str, block: int | None, reduced: _Accumulated, transform: OutputTransform) -> Any:
    numbers, steps = transform.experts.get(block if block is not None else -1), transform.of_linear(name, "down")

    def hook(module: Any, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        reduced.add_output(name, output)
        if not can_run_experts(module, given):
            reduced.add_risk(name, "ffn", apply_to_outputs(steps, output.flatten(0, -2)))
            return
        first = "gate_up_proj" if hasattr(module, "gate_up_proj") else "up_proj"
        for expert, inner, outer in run_experts(module, given[0], given[1]):
            number = expert if numbers is None else numbers[expert]
            reduced.add_risk(f"{name}.{first}[{number}]", "ffn", inner)
            reduced.add_risk(f"{name}.down_proj[{number}]", "ffn", apply_to_outputs(steps, outer))

    return hook
