"""The subjects of ``study.py``: changes that people make to a model without breaking it, and faults that break it.

Each subject is derived from a baseline and written to a folder in the form that a real tool would write.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import equivalent_models as equal
import shipped_checkpoints as shipped
from study_rounding import ROUNDINGS, TO_4_BITS, Rounding, broken, unscaled_fp8

from invarlock.checkpoints.rewriting import Rewrite, rewrite_checkpoint
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.faults import FAULTS
from invarlock.faults.injection import inject_fault

WEIGHTS = "model.safetensors"
# Two and three bits are at the limit of what a model tolerates, so these are not counted as harmless.
COARSE = ("gptq-2bit", "gptq-3bit")
ADAPTERS = ("peft-lora", "peft-rslora")
# Each factor scales an FFN so that its largest weight is this many times the largest FP8 value.
BEYOND_FP8 = (1.1, 1.5, 4.0)
Change = Callable[[Any], None]
# Writes a subject into a folder that does not exist yet.
Make = Callable[["Source", Path], None]


@dataclass(frozen=True)
class Source:
    """The inputs from which subjects are made.

    Attributes:
        folder: the baseline's folder.
        tokens: token ids of a text that no metric uses, of shape (windows, tokens).
    """

    folder: Path
    tokens: torch.Tensor


@dataclass(frozen=True)
class Subject:
    """One subject: its kind (a row of the tables), its name, whether it is harmless, and its intent."""

    kind: str
    name: str
    harmless: bool
    intent: str = "preserve"

    def is_one_of(self, labels: Sequence[str]) -> bool:
        """Return whether a label matches the kind, or the kind and name: ``NF4``, ``NF4: alone``."""
        return self.kind in labels or f"{self.kind}: {self.name}" in labels


def load(folder: Path) -> Any:
    """Return a model in float32."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def save(model: Any, source: Source, target: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a model with the tokenizer of its baseline."""
    model.to(dtype).save_pretrained(target)
    for path in source.folder.iterdir():
        if path.name.startswith(("tokenizer", "chat_template")):
            shutil.copy(path, target)


def linear_layers(model: Any) -> Iterator[equal.Linear]:
    """Yield the attention and FFN matrices, block by block."""
    for block in equal.blocks(model):
        yield from (block.q, block.k, block.v, block.o)
        for ffn in block.feedforwards:
            yield from (part for part in (ffn.gate, ffn.up, ffn.down) if part is not None)


# Rounding


@torch.no_grad()
def round_all(model: Any, rounding: Rounding, tokens: torch.Tensor) -> None:
    """Round every attention and FFN matrix; the method receives the matrix's inputs on the source's tokens."""
    read = _inputs(model, tokens)
    for block, (into_attention, into_output, into_ffn) in zip(equal.blocks(model), read, strict=True):
        for part in (block.q, block.k, block.v):
            part.weight.copy_(rounding(part.weight, into_attention))
        block.o.weight.copy_(rounding(block.o.weight, into_output))
        for ffn in block.feedforwards:
            assert ffn.gate is not None
            hidden = nn.functional.silu(into_ffn @ ffn.gate.weight.T) * (into_ffn @ ffn.up.weight.T)
            for part, inputs in ((ffn.gate, into_ffn), (ffn.up, into_ffn), (ffn.down, hidden)):
                part.weight.copy_(rounding(part.weight, inputs))


def _inputs(model: Any, tokens: torch.Tensor) -> list[list[torch.Tensor]]:
    """Return the inputs, (tokens, features), of the query, the output projection and the FFN of each block."""
    found: list[list[torch.Tensor]] = []
    hooks = []
    for layer in model.model.layers:
        rows: list[torch.Tensor] = []
        found.append(rows)
        for part in (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp):
            hooks.append(
                part.register_forward_pre_hook(lambda _, given, rows=rows: rows.append(given[0].flatten(0, -2)))
            )
    model(input_ids=tokens)
    for hook in hooks:
        hook.remove()
    return found


# The same function with other weights


def fold(model: Any) -> None:
    equal.fold_norms(model)


def rotate(model: Any, seed: int) -> None:
    equal.fold_norms(model)
    equal.rotate(model, seed)


@torch.no_grad()
def scale_units(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for block in equal.blocks(model):
        for ffn in block.feedforwards:
            equal.scale_units(ffn, (torch.rand(len(ffn.up.weight), generator=generator) - 0.5).exp())


@torch.no_grad()
def scale_values(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for block in equal.blocks(model):
        equal.scale_values(model, block, (torch.rand(len(block.v.weight), generator=generator) - 0.5).exp())


def everything(model: Any, seed: int) -> None:
    """Reorder a model as a merging tool does, then rotate and smooth it as a quantiser does."""
    equal.shuffle_units(model, seed)
    equal.shuffle_heads(model, seed)
    equal.shuffle_experts(model, seed)
    rotate(model, seed)
    equal.rotate_values(model, seed)
    scale_units(model, seed)


def equivalents(model: Any) -> dict[str, tuple[Change, ...]]:
    """Return the weight changes that keep the function, by kind, with several seeds of each."""
    kinds: dict[str, tuple[Change, ...]] = {
        "norms folded": (fold,),
        "AWQ-like scales": tuple(partial(equal.smooth, seed=seed) for seed in (1, 2)),
        "unit scales": (partial(scale_units, seed=3),),
        "value scales": (partial(scale_values, seed=4),),
        "rotated": tuple(partial(rotate, seed=seed) for seed in (5, 6)),
        "values rotated": (partial(equal.rotate_values, seed=7),),
        "keys scaled against queries": tuple(partial(equal.scale_keys, seed=seed) for seed in (15, 16)),
        "units reordered": (partial(equal.shuffle_units, seed=8),),
        "heads reordered": (partial(equal.shuffle_heads, seed=9),),
        "all of these": tuple(partial(everything, seed=seed) for seed in (10, 11)),
    }
    if any(block.router is not None for block in equal.blocks(model)):
        kinds["experts reordered"] = tuple(partial(equal.shuffle_experts, seed=seed) for seed in (12, 13))
    if model.config.tie_word_embeddings:
        kinds["head untied"] = (equal.untie,)
    return kinds


def write_changed(
    changes: Sequence[Change], source: Source, target: Path, *, rounding: str | None = None, dtype: Any = torch.bfloat16
) -> None:
    """Apply changes to the model, round it if a method is named, and write it."""
    model = load(source.folder)
    with torch.no_grad():
        for change in changes:
            change(model)
    if rounding is not None:
        round_all(model, ROUNDINGS[rounding], source.tokens)
    save(model, source, target, dtype)


def write_renamed(source: Source, target: Path) -> None:
    """Write the tensors of the model without its head's prefix, as a base model is saved."""
    shutil.copytree(source.folder, target)
    tensors = load_file(target / WEIGHTS)
    (target / WEIGHTS).unlink()
    renamed = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(renamed, target / WEIGHTS, metadata={"format": "pt"})


# Trained


@cache
@torch.enable_grad()
def tuned(source: Source, steps: int, rate: float, rank: int, parts: str) -> dict[str, torch.Tensor]:
    """Return the weight updates of a short fine-tune: full (rank 0), or LoRA on ``qv`` or on all of attention."""
    torch.manual_seed(0)
    model = load(source.folder)
    low: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    if rank:
        model.requires_grad_(False)
        for name, module in model.named_modules():
            if name.rpartition(".")[2] in tuple(f"{part}_proj" for part in parts):
                size = module.weight.shape
                pair = (torch.randn(rank, size[1]) / size[1] ** 0.5).requires_grad_(), torch.zeros(size[0], rank)
                low[f"{name}.weight"] = pair[0], pair[1].requires_grad_()
                nn.utils.parametrize.register_parametrization(module, "weight", _Added(*low[f"{name}.weight"]))
    trained = [part for pair in low.values() for part in pair] or list(model.parameters())
    optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.train()
    for step in range(steps):
        batch = source.tokens[torch.arange(step * 8, step * 8 + 8) % len(source.tokens)]
        optimiser.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimiser.step()
    if rank:
        return {name: (high @ down).detach() for name, (down, high) in low.items()}
    return {name: (after - before[name]).detach() for name, after in model.named_parameters()}


class _Added(nn.Module):
    """A matrix plus a low-rank update, which is the product of two small matrices."""

    def __init__(self, down: torch.Tensor, high: torch.Tensor) -> None:
        super().__init__()
        self.pair = down, high

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.pair[1] @ self.pair[0]


def merged(source: Source, share: float, steps: int, rate: float, rank: int, parts: str) -> Change:
    """Return the change that adds a share of a fine-tune's update to the weights."""

    def change(model: Any) -> None:
        own = dict(model.named_parameters())
        for name, added in tuned(source, steps, rate, rank, parts).items():
            own[name].add_(added, alpha=share)

    return change


def write_merged(
    fine_tune: tuple[float, int, float, int, str], source: Source, target: Path, rounding: str | None = None
) -> None:
    write_changed((merged(source, *fine_tune),), source, target, rounding=rounding)


# Share of the update that is added, steps, learning rate, rank, matrices.
LORAS: dict[str, tuple[float, int, float, int, str]] = {
    "rank 4 of q and v, 20 steps": (1.0, 20, 2e-3, 4, "qv"),
    "rank 8 of attention, 40 steps": (1.0, 40, 1e-3, 8, "qkvo"),
    "rank 16 of q and v, 40 steps": (1.0, 40, 5e-4, 16, "qv"),
    "rank 8 of attention, 20 steps": (1.0, 20, 2e-3, 8, "qkvo"),
}
SIBLINGS: dict[str, tuple[float, int, float, int, str]] = {
    "half of 20 steps": (0.5, 20, 5e-4, 0, ""),
    "half of 40 steps": (0.5, 40, 3e-4, 0, ""),
    "a third of 20 steps": (0.3, 20, 5e-4, 0, ""),
    "all of 20 steps": (1.0, 20, 2e-4, 0, ""),
}


def write_shipped(name: str, source: Source, target: Path) -> None:
    """Write a checkpoint that a real tool made from this model."""
    shipped.restore_with_tokenizer(name, target)


def harmless(model_name: str, source: Source) -> Iterator[tuple[Subject, Make]]:
    """Yield the subjects that must pass."""
    for rounding in ROUNDINGS:
        yield Subject(rounding, "alone", harmless=True), partial(write_changed, (), rounding=rounding)
    for kind, changes in equivalents(load(source.folder)).items():
        for number, change in enumerate(changes):
            yield Subject(kind, f"alone, {number}", harmless=True), partial(write_changed, (change,))
        for method in TO_4_BITS:
            yield (
                Subject(f"{kind}, rounded", method, harmless=True),
                partial(write_changed, changes[:1], rounding=method),
            )
    yield Subject("names without a prefix", "alone", harmless=True), write_renamed
    for dtype, word in ((torch.float16, "float16"), (torch.float32, "float32")):
        for kind, steps in (("alone", ()), ("norms folded", (fold,)), ("rotated", (partial(rotate, seed=14),))):
            yield Subject(f"stored as {word}", kind, harmless=True), partial(write_changed, steps, dtype=dtype)
        yield (
            Subject(f"stored as {word}", "RTN 4 bit", harmless=True),
            partial(write_changed, (), rounding="RTN 4 bit", dtype=dtype),
        )
    for what, trained in (("LoRA merged", LORAS), ("merged with a sibling", SIBLINGS)):
        for name, fine_tune in trained.items():
            for then in (None, "NF4", "RTN 8 bit"):
                label = name if then is None else f"{name}, {then}"
                yield Subject(what, label, harmless=True, intent="change"), partial(_merged, fine_tune, then)
    for name in shipped.names():
        if shipped.baseline_of(name) == model_name and name not in COARSE:
            intent = "change" if name in ADAPTERS else "preserve"
            yield Subject("as a real tool wrote it", name, harmless=True, intent=intent), partial(write_shipped, name)


def _merged(fine_tune: tuple[float, int, float, int, str], rounding: str | None, source: Source, target: Path) -> None:
    write_merged(fine_tune, source, target, rounding)


# Faults


def broken_rounding(mistake: str, where: str, bits: int, model: Any) -> None:
    """Round every matrix, with a mistake in those that ``where`` selects: ``all``, ``block N`` or ``matrix N``."""
    layers = list(linear_layers(model))
    of_block = [number for number, block in enumerate(equal.blocks(model)) for _ in _of(block)]
    for number, part in enumerate(layers):
        chosen = where == "all" or where in (f"block {of_block[number]}", f"matrix {number}")
        good = "asymmetric RTN 4 bit" if mistake == "zero point" else "RTN 4 bit"
        fine = ROUNDINGS[good if bits == 4 else "RTN 8 bit"](part.weight, None)
        part.weight.copy_(broken(mistake, part.weight, bits) if chosen else fine)


def _of(block: equal.Block) -> list[equal.Linear]:
    ffns = [part for ffn in block.feedforwards for part in (ffn.gate, ffn.up, ffn.down) if part is not None]
    return [block.q, block.k, block.v, block.o, *ffns]


def cast_large(beyond: float, blocks: slice, model: Any) -> None:
    """Move scale from the down to the up projections, then cast the up projections to FP8 without a scale."""
    for block in list(equal.blocks(model))[blocks]:
        for ffn in block.feedforwards:
            factor = beyond * 448 / float(ffn.up.weight.abs().max())
            equal.scale_units(ffn, torch.full((len(ffn.up.weight),), factor))
            ffn.up.weight.copy_(unscaled_fp8(ffn.up.weight))


def scale_one_side(spread: float, block: int, model: Any) -> None:
    """Scale a block's up projection as SmoothQuant does, but leave its down projection unchanged."""
    ffn = list(equal.blocks(model))[block].feedforwards[0]
    generator = torch.Generator().manual_seed(block)
    ffn.up.scale_outputs((spread * (2 * torch.rand(len(ffn.up.weight), generator=generator) - 1)).exp())


def fold_into_all_but_one(block: int, model: Any) -> None:
    """Fold the norms into the matrices that follow them, except for the keys of one block."""
    part = list(equal.blocks(model))[block].k
    kept = part.weight.clone()
    fold(model)
    part.weight.copy_(kept)


def rotate_one_side(part: str, model: Any) -> None:
    """Rotate the residual stream or the values, but leave one matrix unrotated."""
    if part == "values":
        kept = [block.o.weight.clone() for block in equal.blocks(model)]
        equal.rotate_values(model, 3)
        next(iter(equal.blocks(model))).o.weight.copy_(kept[0])
        return
    fold(model)
    chosen = model.lm_head.weight.data if part == "head" else getattr(list(equal.blocks(model))[-1], part).weight
    before = chosen.clone()
    equal.rotate(model, 2)
    chosen.copy_(before)


def skip_expert(how: str, block: int, expert: int, model: Any) -> None:
    """Break one expert of a block: give it zeros or another expert's weights, or swap the router rows of the two."""
    found = list(equal.blocks(model))[block]
    own, other = found.feedforwards[expert], found.feedforwards[expert - 1]
    if how == "router":
        assert found.router is not None
        found.router[[expert, expert - 1]] = found.router[[expert - 1, expert]].clone()
        return
    for name in ("down",) if how == "zeros" else ("gate", "up", "down"):
        part, another = getattr(own, name), getattr(other, name)
        part.weight.copy_(torch.zeros_like(part.weight) if how == "zeros" else another.weight.clone())


def write_other_config(field: str, value: Any, source: Source, target: Path) -> None:
    """Write the model with one config field changed."""
    config: dict[str, Any] = {field: value}
    if field == "rope_theta":
        rope = json.loads((source.folder / "config.json").read_text())["rope_parameters"]
        config = {"rope_parameters": {**rope, field: rope[field] * value}}
    rewrite_checkpoint(read_checkpoint(source.folder), {target: Rewrite(config=config)})


def write_swapped_merges(first: int, source: Source, target: Path) -> None:
    """Write the model with two of its tokenizer's merges swapped."""
    shutil.copytree(source.folder, target)
    path = target / "tokenizer.json"
    document = json.loads(path.read_text())
    merges = document["model"]["merges"]
    merges[first], merges[first + 1] = merges[first + 1], merges[first]
    path.write_text(json.dumps(document))


def write_other_template(text: str, source: Source, target: Path) -> None:
    shutil.copytree(source.folder, target)
    (target / "chat_template.jinja").write_text(text)


def write_fault(name: str, source: Source, target: Path) -> None:
    inject_fault(name, source.folder, target, {})


def faults(source: Source) -> Iterator[tuple[Subject, Make]]:
    """Yield the faults, which must be detected if they change the function measurably."""
    model = load(source.folder)
    blocks = list(equal.blocks(model))
    matrices = len(list(linear_layers(model)))
    # a query, an output, an up and a down projection, each in a different block
    chosen = [0, 3, 5, matrices - 1, matrices // 2, matrices // 3]
    places = ["all", *(f"block {number}" for number in (0, len(blocks) - 1)), *(f"matrix {one}" for one in chosen)]

    def fault(kind: str, name: str, *changes: Change) -> tuple[Subject, Make]:
        return Subject(kind, name, harmless=False), partial(write_changed, changes)

    kinds = {
        "floor": "rounded down",
        "scales": "scales off by one group",
        "zero point": "zero point off by one",
        "nibbles": "nibbles swapped",
    }
    for mistake, kind in kinds.items():
        for where in dict.fromkeys(places):
            yield fault(kind, f"4 bit, {where}", partial(broken_rounding, mistake, where, 4))
            if mistake in ("floor", "zero point"):
                yield fault(kind, f"8 bit, {where}", partial(broken_rounding, mistake, where, 8))
    for beyond in BEYOND_FP8:
        for name, some in (("all blocks", slice(None)), ("one block", slice(1))):
            yield fault("unscaled FP8 of large weights", f"{beyond:g}, {name}", partial(cast_large, beyond, some))
    for number in (0, len(blocks) - 1):
        for spread in (0.05, 0.2, 0.6):
            name = f"scale of block {number} not undone, spread {spread:g}"
            yield fault("stale scale", name, partial(scale_one_side, spread, number))
        name = f"key of block {number} not folded"
        yield fault("stale scale", name, partial(fold_into_all_but_one, number))
    for skip in (1, 2):
        yield fault("stale scale", f"{skip} norms set to one", partial(equal.fold_norms, skip=skip))
    for part in ("q", "o", "head", "values"):
        yield fault("rotation on one side", part, partial(rotate_one_side, part))
    if blocks[0].router is not None:
        for how in ("zeros", "another's", "router"):
            for place in ((0, 1), (len(blocks) - 1, 3)):
                yield fault("expert skipped", f"{how}, {place}", partial(skip_expert, how, *place))
        yield (
            Subject("config changed", "one expert a token", harmless=False),
            partial(write_other_config, "num_experts_per_tok", 1),
        )
    for factor in (0.5, 1.01, 2.0, 100.0):
        name = f"rope_theta times {factor:g}"
        yield Subject("config changed", name, harmless=False), partial(write_other_config, "rope_theta", factor)
    for epsilon in (1e-8, 1e-3, 1e-1):
        yield (
            Subject("config changed", f"rms_norm_eps {epsilon:g}", harmless=False),
            partial(write_other_config, "rms_norm_eps", epsilon),
        )
    for first in (0, 2, 100, 700):
        yield (
            Subject("two merges swapped", f"{first} and {first + 1}", harmless=False),
            partial(write_swapped_merges, first),
        )
    yield (
        Subject("chat template changed", "another", harmless=False),
        partial(write_other_template, "{% for m in messages %}{{ m['content'] }}{% endfor %}"),
    )
    for one in FAULTS:
        yield Subject("fault of the suites", one.name, harmless=False), partial(write_fault, one.name)
