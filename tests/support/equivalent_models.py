"""Models with other weights and the same function, made in memory as quantisers and merging tools make them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_models import CONFIGS
from torch import nn

EMBEDDED = Path(__file__).parents[2] / "suites" / "embedded"
TRAINED = ("mistral-tiny", "mixtral-tiny", "qwen2-tiny")
# transformers has no type for it
AUTO_MODEL: Any = transformers.AutoModelForCausalLM


def load(name: str) -> Any:
    """Return an embedded model, or a model of another architecture with random weights of uneven scales."""
    if name in TRAINED:
        return AUTO_MODEL.from_pretrained(EMBEDDED / name, dtype=torch.float32).eval()
    torch.manual_seed(0)
    model = AUTO_MODEL.from_config(CONFIGS[name]()).eval()
    make_uneven(model)
    return model


@dataclass
class Linear:
    """A weight matrix (out, in) and its bias, as writable views."""

    weight: torch.Tensor
    bias: Any

    def scale_outputs(self, factors: torch.Tensor) -> None:
        self.weight.mul_(factors[:, None])
        if self.bias is not None:
            self.bias.mul_(factors)

    def order_outputs(self, order: torch.Tensor) -> None:
        self.weight.copy_(self.weight[order].clone())
        if self.bias is not None:
            self.bias.copy_(self.bias[order].clone())

    def turn_outputs(self, rotation: torch.Tensor) -> None:
        self.weight.copy_(rotation.mT @ self.weight)
        if self.bias is not None:
            self.bias.copy_(self.bias @ rotation)


@dataclass
class FeedForward:
    gate: Linear | None
    up: Linear
    down: Linear


@dataclass
class Block:
    """One block: its linear layers, and each norm with the layers that read it, including experts."""

    q: Linear
    k: Linear
    v: Linear
    o: Linear
    feedforwards: list[FeedForward]
    router: torch.Tensor | None
    norms: list[tuple[Any, list[Linear]]]


def _linear(module: Any, rows: slice = slice(None)) -> Linear:
    weight = module.weight.data
    weight = weight.mT if type(module).__name__ == "Conv1D" else weight
    bias = getattr(module, "bias", None)
    return Linear(weight[rows], None if bias is None else bias.data[rows])


def blocks(model: Any) -> Iterator[Block]:
    """Yield the blocks of a model like Llama, Mixtral, Gemma, Phi or GPT-2."""
    if model.config.model_type == "gpt2":
        width = model.config.n_embd
        for layer in model.transformer.h:
            q, k, v = (_linear(layer.attn.c_attn, slice(part * width, (part + 1) * width)) for part in range(3))
            ffn = FeedForward(None, _linear(layer.mlp.c_fc), _linear(layer.mlp.c_proj))
            norms = [(layer.ln_1, [q, k, v]), (layer.ln_2, [ffn.up])]
            yield Block(q, k, v, _linear(layer.attn.c_proj), [ffn], None, norms)
        return
    for layer in model.model.layers:
        attention = layer.self_attn
        q, k, v = (_linear(getattr(attention, f"{name}_proj")) for name in "qkv")
        o = _linear(attention.dense if hasattr(attention, "dense") else attention.o_proj)
        mlp, router = layer.mlp, None
        if hasattr(mlp, "experts"):
            router = mlp.gate.weight.data
            ffns = []
            for both, down in zip(mlp.experts.gate_up_proj.data, mlp.experts.down_proj.data, strict=True):
                half = len(both) // 2
                ffns.append(FeedForward(Linear(both[:half], None), Linear(both[half:], None), Linear(down, None)))
        elif hasattr(mlp, "fc1"):
            ffns = [FeedForward(None, _linear(mlp.fc1), _linear(mlp.fc2))]
        else:
            ffns = [FeedForward(_linear(mlp.gate_proj), _linear(mlp.up_proj), _linear(mlp.down_proj))]
        inner = [part for ffn in ffns for part in (ffn.gate, ffn.up) if part is not None]
        if router is not None:
            inner.append(Linear(router, None))
        if hasattr(layer, "post_attention_layernorm"):
            norms = [(layer.input_layernorm, [q, k, v]), (layer.post_attention_layernorm, inner)]
        else:
            norms = [(layer.input_layernorm, [q, k, v, *inner])]
        yield Block(q, k, v, o, ffns, router, norms)


def _base(model: Any) -> Any:
    return model.transformer if model.config.model_type == "gpt2" else model.model


def _last_norm(model: Any) -> Any:
    base = _base(model)
    return next(getattr(base, name) for name in ("norm", "ln_f", "final_layernorm") if hasattr(base, name))


def _offset(model: Any) -> float:
    return 1.0 if model.config.model_type.startswith("gemma") else 0.0


@torch.no_grad()
def make_uneven(model: Any, seed: int = 0) -> None:
    """Give a model random weights, norms and biases, so that norms and biases are not all equal."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            noise = torch.rand(parameter.shape, generator=generator)
            parameter.copy_(0.1 * (noise - 0.5) if name.endswith("bias") else 0.3 + 2 * noise - _offset(model))
        else:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


@torch.no_grad()
def fold_norms(model: Any, skip: int = 0) -> None:
    """Fold the weights of norms, except the first ``skip`` norms, into the matrices that read them."""
    offset = _offset(model)
    pairs = [pair for block in blocks(model) for pair in block.norms]
    if model.config.model_type != "gpt2":  # the head of GPT-2 has no bias
        untie(model)
        pairs.append((_last_norm(model), [_linear(model.lm_head)]))
    for number, (norm, readers) in enumerate(pairs):
        bias = getattr(norm, "bias", None)
        for reader in readers:
            if number < skip:
                continue
            if bias is not None:
                reader.bias.add_(reader.weight @ bias)
            reader.weight.mul_((norm.weight + offset)[None])
        norm.weight.fill_(1.0 - offset)
        if bias is not None:
            bias.fill_(0.0)


def untie(model: Any) -> None:
    """Give a model with a tied head its own head."""
    if model.config.tie_word_embeddings:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = False


@torch.no_grad()
def smooth(model: Any, seed: int = 1, spread: float = 0.6) -> None:
    """Move scales as AWQ and SmoothQuant do: from norms to the layers after them, and between paired matrices."""
    generator = torch.Generator().manual_seed(seed)

    def factors(count: int) -> torch.Tensor:
        return (spread * (torch.rand(count, generator=generator) - 0.5) * 2).exp()

    offset = _offset(model)
    for block in blocks(model):
        for norm, readers in block.norms:
            scales = factors(len(norm.weight))
            norm.weight.copy_((norm.weight + offset) / scales - offset)
            if getattr(norm, "bias", None) is not None:
                norm.bias.div_(scales)
            for reader in readers:
                reader.weight.mul_(scales[None])
        scale_values(model, block, factors(len(block.v.weight)))
        for ffn in block.feedforwards:
            if ffn.gate is not None:
                scale_units(ffn, factors(len(ffn.up.weight)))


def scale_values(model: Any, block: Block, scales: torch.Tensor) -> None:
    block.v.scale_outputs(scales)
    size = head_size(model)
    repeats = len(block.q.weight) // len(block.v.weight)
    block.o.weight.div_(scales.view(-1, size).repeat_interleave(repeats, 0).flatten()[None])


@torch.no_grad()
def scale_keys(model: Any, seed: int = 7, *, of_heads: bool = False) -> None:
    """Scale the keys, and scale the matching queries by the inverse, as QServe's SmoothAttention does.

    With a rotary embedding, the two features that it rotates together share a factor. Without one, each feature has
    its own factor. If only a part of a head is rotated, or with ``of_heads``, each head has one factor.
    """
    generator, size = torch.Generator().manual_seed(seed), head_size(model)
    kind = model.config.model_type
    shape = (1, size) if of_heads or kind == "phi" else (size, 1) if kind == "gpt2" else (size // 2, 2)
    for block in blocks(model):
        groups, heads = len(block.k.weight) // size, len(block.q.weight) // size
        factors = (1.2 * torch.rand(groups, shape[0], generator=generator) - 0.6).exp()
        # transformers rotates feature i of a head together with feature i + size / 2
        of_keys = factors.repeat(1, shape[1]) if shape[1] == 2 else factors.repeat_interleave(shape[1], 1)
        block.k.scale_outputs(of_keys.flatten())
        block.q.scale_outputs(1 / of_keys.repeat_interleave(heads // groups, 0).flatten())


def scale_units(ffn: FeedForward, scales: torch.Tensor) -> None:
    ffn.up.scale_outputs(scales)
    ffn.down.weight.div_(scales[None])


def head_size(model: Any) -> int:
    config = model.config
    size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return size


def orthogonal(size: int, seed: int, *, keeps_mean: bool = False) -> torch.Tensor:
    """Return a random orthogonal matrix; with ``keeps_mean``, it maps the vector of ones to itself."""
    generator = torch.Generator().manual_seed(seed)
    if not keeps_mean:
        free: torch.Tensor = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
        return free.float()
    start = torch.randn(size, size, generator=generator, dtype=torch.float64)
    start[:, 0] = 1.0
    basis = torch.linalg.qr(start).Q  # the first column is proportional to the vector of ones
    inner = torch.linalg.qr(torch.randn(size - 1, size - 1, generator=generator, dtype=torch.float64)).Q
    kept: torch.Tensor = basis @ block_diagonal([torch.ones(1, 1, dtype=torch.float64), inner]) @ basis.mT
    return kept.float()


def block_diagonal(matrices: list[torch.Tensor]) -> torch.Tensor:
    """Return a block-diagonal matrix of square matrices."""
    size = sum(len(matrix) for matrix in matrices)
    whole, first = matrices[0].new_zeros(size, size), 0
    for matrix in matrices:
        whole[first : first + len(matrix), first : first + len(matrix)] = matrix
        first += len(matrix)
    return whole


@torch.no_grad()
def rotate(model: Any, seed: int = 2) -> None:
    """Rotate the residual stream of a model whose norms are folded."""
    embedding = model.get_input_embeddings().weight.data
    layer_norm = isinstance(_last_norm(model), nn.LayerNorm)
    rotation = orthogonal(embedding.shape[1], seed, keeps_mean=layer_norm)
    embedding.copy_(embedding @ rotation)
    model.lm_head.weight.data.copy_(model.lm_head.weight @ rotation)
    for block in blocks(model):
        for _, readers in block.norms:
            for reader in readers:
                reader.weight.copy_(reader.weight @ rotation)
        for writer in (block.o, *(ffn.down for ffn in block.feedforwards)):
            writer.turn_outputs(rotation)


@torch.no_grad()
def rotate_values(model: Any, seed: int = 3) -> None:
    """Rotate the values of each head, and apply the inverse rotation in the output projection."""
    size = head_size(model)
    for number, block in enumerate(blocks(model)):
        groups, heads = len(block.v.weight) // size, len(block.q.weight) // size
        turns = [orthogonal(size, seed + 31 * number + group) for group in range(groups)]
        block.v.turn_outputs(block_diagonal(turns))
        inputs = block_diagonal([turns[head * groups // heads] for head in range(heads)])
        block.o.weight.copy_(block.o.weight @ inputs)


@torch.no_grad()
def shuffle_units(model: Any, seed: int = 4) -> None:
    generator = torch.Generator().manual_seed(seed)
    for block in blocks(model):
        for ffn in block.feedforwards:
            order = torch.randperm(len(ffn.up.weight), generator=generator)
            for part in (ffn.gate, ffn.up):
                if part is not None:
                    part.order_outputs(order)
            ffn.down.weight.copy_(ffn.down.weight[:, order].clone())


@torch.no_grad()
def shuffle_heads(model: Any, seed: int = 5) -> None:
    """Permute the groups of heads, and the heads within each group."""
    generator = torch.Generator().manual_seed(seed)
    size = head_size(model)
    for block in blocks(model):
        groups, heads = len(block.k.weight) // size, len(block.q.weight) // size
        members = torch.arange(heads).view(groups, -1)
        order = torch.randperm(groups, generator=generator)
        queries = torch.cat(
            [members[group][torch.randperm(members.shape[1], generator=generator)] for group in order.tolist()]
        )
        rows, group_rows = torch.arange(heads * size).view(heads, size), torch.arange(groups * size).view(groups, size)
        block.q.order_outputs(rows[queries].flatten())
        block.k.order_outputs(group_rows[order].flatten())
        block.v.order_outputs(group_rows[order].flatten())
        block.o.weight.copy_(block.o.weight[:, rows[queries].flatten()].clone())


@torch.no_grad()
def shuffle_experts(model: Any, seed: int = 6) -> None:
    generator = torch.Generator().manual_seed(seed)
    for block in blocks(model):
        if block.router is None:
            continue
        order = torch.randperm(len(block.router), generator=generator)
        block.router.copy_(block.router[order].clone())
        for name in ("gate", "up", "down"):
            stored = [getattr(ffn, name).weight for ffn in block.feedforwards]
            values = [matrix.clone() for matrix in stored]
            for place, number in enumerate(order.tolist()):
                stored[place].copy_(values[number])


@torch.no_grad()
def round_weights(model: Any, bits: int = 4, group: int = 32) -> None:
    """Round the matrices of the blocks as quantisers do, with a separate grid for each group of weights."""
    for block in blocks(model):
        ffns = [part for ffn in block.feedforwards for part in (ffn.gate, ffn.up, ffn.down) if part is not None]
        for part in (block.q, block.k, block.v, block.o, *ffns):
            part.weight.copy_(rounded(part.weight, bits, group))


def rounded(weight: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    rows, columns = weight.shape
    parts = torch.nn.functional.pad(weight, (0, -columns % group)).reshape(rows, -1, group)
    low, high = parts.amin(dim=2, keepdim=True), parts.amax(dim=2, keepdim=True)
    step = ((high - low) / (2**bits - 1)).clamp_min(1e-12)
    grid: torch.Tensor = ((parts - low) / step).round() * step + low
    return grid.reshape(rows, -1)[:, :columns]
