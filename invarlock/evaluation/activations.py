"""Measures the outputs of a model's layers during its forward passes, and keeps the activations of one chunk at a time.

Example::

    with ActivationObserver(model) as activations:
        score_windows(model, tokens, CHUNK_WINDOWS)
    facts = activations.facts()
    facts.rmt["modules"]["model.layers.0.mlp.up_proj"]          # {"family": "ffn", "tokens": …, "edge_risk": …}
    facts.variance["modules"]["model.layers.0.mlp.down_proj"]   # {"rms": …}

    facts = measure_activations(model, tokens)                  # the same in forward passes of its own

    with scaled_outputs(model, {"model.layers.0.mlp.down_proj": 1.1}):
        score_windows(model, …)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

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
from invarlock.stages import stage


@dataclass(frozen=True)
class ActivationFacts:
    """The raw measurements of the guards ``rmt`` and ``variance``, in the form that a report stores."""

    rmt: JsonObject
    variance: JsonObject

    def by_guard(self, scaled_logloss: Sequence[float | None] | None) -> dict[str, JsonObject]:
        """Return the subject's raw part of each activation guard, with the losses after scales are applied."""
        return {"rmt": self.rmt, "variance": {**self.variance, "scaled_logloss": scaled_logloss}}


# How the guards on activations measure.
ACTIVATION_CONTRACTS: Mapping[str, Mapping[str, Any]] = {"rmt": rmt.CONTRACT, "variance": variance.CONTRACT}

# The facts of a model that could not be scored: no module was measured, so the guards fail closed.
NOT_MEASURED = ActivationFacts(
    {"measurement_contract_hash": contract_hash(rmt.CONTRACT), "modules": {}},
    {"measurement_contract_hash": contract_hash(variance.CONTRACT), "modules": {}},
)


@dataclass
class _Chunk:
    """The measurements of one chunk, by module; an expert that received no token is missing."""

    risks: dict[str, rmt.EdgeRisk] = field(default_factory=dict)
    squares: dict[str, tuple[float, int]] = field(default_factory=dict)


class ActivationObserver:
    """Measures a model's activations while the context is open; each forward pass is one chunk.

    ``seconds`` is the time spent on the measurements, without the forward passes.
    """

    def __init__(self, model: PreTrainedModel, transform: OutputTransform | None = None) -> None:
        """Prepare to measure.

        Args:
            model: a causal language model, in evaluation mode.
            transform: maps outputs to the baseline's form; None measures them as they are.
        """
        self.seconds = 0.0
        self._model, self._transform = model, transform or NO_TRANSFORM
        self._families: dict[str, str] = {}
        self._chunks: list[_Chunk] = []
        self._hooks = ExitStack()

    def __enter__(self) -> ActivationObserver:
        self._hooks.callback(self._model.register_forward_pre_hook(self._begin).remove)
        for handle in _hooks(self._model, self, self._transform):
            self._hooks.callback(handle.remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()

    def facts(self, chunks: int | None = None) -> ActivationFacts:
        """Return the measurements of the first ``chunks`` chunks, or of all of them."""
        seen = self._chunks[:chunks]
        risks = {
            name: {"family": family, **rmt.join(found)}
            for name, family in sorted(self._families.items())
            if (found := [chunk.risks[name] for chunk in seen if name in chunk.risks])
        }
        outputs: dict[str, JsonObject] = {}
        for name in sorted({name for chunk in seen for name in chunk.squares}):
            totals, counts = zip(*(chunk.squares[name] for chunk in seen if name in chunk.squares), strict=True)
            outputs[name] = {"rms": variance.root_mean_square(sum(totals), sum(counts))}
        return ActivationFacts({**NOT_MEASURED.rmt, "modules": risks}, {**NOT_MEASURED.variance, "modules": outputs})

    def add_risk(self, name: str, family: str, rows: torch.Tensor) -> None:
        """Measure the edge risk of a linear layer's outputs, shape (tokens, features)."""
        self._families[name] = family
        self._chunks[-1].risks[name] = rmt.edge_risk(rows)

    def add_output(self, name: str, outputs: torch.Tensor) -> None:
        """Measure the size of an FFN's outputs."""
        total, count = variance.sum_of_squares(outputs)
        before, counted = self._chunks[-1].squares.get(name, (0.0, 0))
        self._chunks[-1].squares[name] = (before + total, counted + count)

    def _begin(self, *given: Any) -> None:
        self._chunks.append(_Chunk())


@torch.inference_mode()
def measure_activations(
    model: PreTrainedModel, tokens: Tokens, room_bytes: int | None = None, transform: OutputTransform | None = None
) -> ActivationFacts:
    """Return the edge risk of every linear layer of attention and FFN, and the output of every FFN.

    Windows have no padding. Each chunk of windows is one forward pass, which skips the logits if the model allows it. A
    chunk that does not fit in memory is halved until it does.

    Args:
        model: a causal language model, in evaluation mode.
        tokens: token ids, shape (windows, seq_len).
        room_bytes: the memory limit for the model and a forward pass; None if the device's allocator enforces one.
        transform: maps outputs to the baseline's form; None measures them as they are.

    Raises:
        EvaluationError: when the model's forward pass fails.
        OutOfMemoryError: when even one window does not fit in memory.
    """
    chunk = rmt.CHUNK_WINDOWS
    while True:
        try:
            with one_out_of_memory():
                check_room(forward_bytes(model, min(chunk, len(tokens)), tokens.shape[1]), room_bytes)
                with ActivationObserver(model, transform) as activations:
                    for start in range(0, len(tokens), chunk):
                        run_layers(model, torch.from_numpy(tokens[start : start + chunk]).long().to(model.device))
                return activations.facts()
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
    """Multiply the outputs of modules while the context is open, as a stage; the weights do not change."""
    modules = dict(model.named_modules())
    with stage("with the proposed scales"), ExitStack() as stack:
        for name, scale in scales.items():

            def multiply(module: nn.Module, given: Any, output: torch.Tensor, scale: float = scale) -> torch.Tensor:
                return output * scale

            stack.callback(modules[name].register_forward_hook(multiply).remove)
        yield


def _hooks(model: PreTrainedModel, observer: ActivationObserver, transform: OutputTransform) -> Iterator[Any]:
    """Put a hook on each linear layer in scope and on each stack of experts, and yield the handles."""
    model_type = model.config.model_type
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            found = classify(model_type, f"{name}.weight", tuple(module.weight.shape))
            if found.family in rmt.CONTRACT["scope"]:
                yield module.register_forward_hook(_timed(observer, _linear_hook(name, found, observer, transform)))
        elif is_expert_stack(module):
            block = classify(model_type, f"{name}.down_proj", tuple(module.down_proj.shape)).layer
            yield module.register_forward_hook(_timed(observer, _experts_hook(name, block, observer, transform)))


def _timed(observer: ActivationObserver, hook: Callable[..., None]) -> Callable[..., None]:
    def timed(*given: Any) -> None:
        started = time.perf_counter()
        hook(*given)
        observer.seconds += time.perf_counter() - started

    return timed


def _linear_hook(name: str, found: Module, observer: ActivationObserver, transform: OutputTransform) -> Any:
    steps = transform.of_linear(name, found.role)

    def hook(module: nn.Module, given: Any, output: torch.Tensor) -> None:
        observer.add_risk(name, found.family, apply_to_outputs(steps, output.flatten(0, -2)))
        # an expert that is its own module is added to the block's output with a routing weight that it does not know
        if found.role == "down" and found.expert is None:
            observer.add_output(name, output)

    return hook


def _experts_hook(name: str, block: int | None, observer: ActivationObserver, transform: OutputTransform) -> Any:
    numbers, steps = transform.experts.get(block if block is not None else -1), transform.of_linear(name, "down")

    def hook(module: Any, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        observer.add_output(name, output)
        if not can_run_experts(module, given):
            observer.add_risk(name, "ffn", apply_to_outputs(steps, output.flatten(0, -2)))
            return
        first = "gate_up_proj" if hasattr(module, "gate_up_proj") else "up_proj"
        for expert, inner, outer in run_experts(module, given[0], given[1]):
            number = expert if numbers is None else numbers[expert]
            observer.add_risk(f"{name}.{first}[{number}]", "ffn", inner)
            observer.add_risk(f"{name}.down_proj[{number}]", "ffn", apply_to_outputs(steps, outer))

    return hook
