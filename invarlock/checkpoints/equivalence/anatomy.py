"""How the matrices of a model are connected: which read a norm, read or write the residual stream, or share units.

Source: the modelling code of transformers for each ``model_type`` of ``checkpoints.architectures``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from invarlock.checkpoints.architectures import Role
from invarlock.checkpoints.families import Module
from invarlock.checkpoints.safetensors_files import CheckpointFiles

# Which scales of an up projection's rows its down projection can undo: any scale if a gate is the non-linear part, only
# a positive scale through a ReLU.
Freedom = Literal["any", "positive", "none"]

_QKV: tuple[Role, ...] = ("q", "k", "v", "qkv")
_FFN: tuple[Role, ...] = ("gate", "up", "gate_up")
# The roles that read the output of a block's norm, by the last part of the norm's name; a router reads with its
# experts.
_READERS: Mapping[str, tuple[Role, ...]] = {
    "input_layernorm": _QKV, "ln_1": _QKV, "self_attn_layer_norm": _QKV,
    "post_attention_layernorm": _FFN, "pre_feedforward_layernorm": _FFN, "ln_2": _FFN, "final_layer_norm": _FFN,
}  # fmt: skip
_PARALLEL: Mapping[str, tuple[Role, ...]] = {"input_layernorm": (*_QKV, *_FFN)}
_POST: Mapping[str, tuple[Role, ...]] = {"input_layernorm": _QKV, "pre_feedforward_layernorm": _FFN}
_READERS_OF: Mapping[str, Mapping[str, tuple[Role, ...]]] = {"phi": _PARALLEL, "gemma2": _POST, "gemma3_text": _POST}
_LAYER_NORM = frozenset({"gpt2", "gpt_neox", "opt", "phi", "bert"})
_ONE_PLUS = frozenset({"gemma", "gemma2", "gemma3_text"})
_NORMED_OUTPUTS = frozenset({"gemma2", "gemma3_text"})
# Models that rotate no features of queries and keys (positions are learned), and models that rotate a part of each
# head.
_NOT_ROTARY = frozenset({"gpt2", "opt"})
_PARTLY_ROTARY = frozenset({"gpt_neox", "phi"})
_SHARE = "partial_rotary_factor"
_HEAD_NORMS = frozenset({"q_norm", "k_norm", "q_layernorm", "k_layernorm"})


@dataclass(frozen=True)
class Site:
    """One matrix: a tensor of two dimensions, or one expert of a stack."""

    tensor: str
    expert: int | None = None

    @property
    def label(self) -> str:
        """Return the tensor's name, with the expert's index for one expert of a stacked tensor."""
        return self.tensor if self.expert is None else f"{self.tensor}[{self.expert}]"


@dataclass(frozen=True)
class Rows:
    """Some outputs of a matrix: ``index`` has shape (units,) or (heads, head size)."""

    site: Site
    index: torch.Tensor


@dataclass(frozen=True)
class FeedForward:
    """The matrices that share hidden units; ``gate`` is None if there is no gate."""

    gate: Rows | None
    up: Rows
    down: Site
    freedom: Freedom


@dataclass(frozen=True)
class Attention:
    """The matrices that share heads; with grouped heads, ``query`` has more heads than ``key`` and ``value``.

    ``key_features`` are groups of features in a head, shape (factors, features). The features of a group, which a
    rotary embedding rotates together, may have one common factor in the key if the queries are divided by it. None if a
    norm follows.
    """

    query: Rows
    key: Rows
    value: Rows
    output: Site
    key_features: torch.Tensor | None


@dataclass(frozen=True)
class Experts:
    """The experts of a block, and the router whose outputs select them."""

    router: Site
    members: tuple[FeedForward, ...]


@dataclass(frozen=True)
class Norm:
    """The weight of a norm, and the matrices that read its output; the norm's factor is weight + ``offset``."""

    weight: str
    offset: float
    readers: tuple[Site, ...]


@dataclass(frozen=True)
class Anatomy:
    """The parts of a checkpoint on which symmetries act.

    Attributes:
        tokens: the input embedding.
        embeddings: the embeddings that write to the residual stream: of tokens, and of positions if they are learned.
        head: the output head; None if neither side stores one.
        norms: the norms, before attention, FFN and head, whose output is read by matrices only.
        readers: the matrices that read the residual stream through a norm, except the head.
        writers: the matrices that add to the residual stream.
        fixed: why the residual stream cannot be rotated; None if it can.
        subtracts_mean: whether the norms subtract the mean; they commute only with rotations that keep the mean.
    """

    tokens: Site
    embeddings: tuple[Site, ...]
    head: Site | None
    norms: tuple[Norm, ...]
    readers: tuple[Site, ...]
    writers: tuple[Site, ...]
    attentions: tuple[Attention, ...]
    feedforwards: tuple[FeedForward, ...]
    experts: tuple[Experts, ...]
    fixed: str | None
    subtracts_mean: bool


def describe(files: CheckpointFiles, own_head: str | None = None) -> Anatomy | None:
    """Return the anatomy of a checkpoint; None if it has no embedding, or its norms come after attention and FFN.

    Args:
        files: the baseline.
        own_head: the subject's output head, if it stores one.
    """
    config, kind = files.config, files.model_type
    weights = {name: module for name, module in files.modules.items() if name.rpartition(".")[2] != "bias"}
    tokens = next((name for name, module in weights.items() if module.role == "tokens"), None)
    if tokens is None or kind == "bert" or config.get("do_layer_norm_before") is False:
        return None
    head = next((name for name, module in weights.items() if module.role == "head"), own_head)
    projected = [name for name, module in weights.items() if module.role == "projection"]
    by_block: dict[int, dict[str, list[tuple[Site, Module]]]] = defaultdict(lambda: defaultdict(list))
    for name, module in weights.items():
        if module.layer is not None and module.family in ("attn", "ffn", "router"):
            for site in _sites(name, module, files.shapes[name]):
                by_block[module.layer][module.role or "router"].append((site, module))
    found = _Blocks(files)
    for parts in by_block.values():
        found.add(parts)
    # a head that is the embedding reads a norm that cannot be folded
    ends = [name for name in projected if "out" in name] if projected else [name for name in (head,) if name]
    last = tuple(Site(name) for name in ends)
    embeddings = [Site(name) for name, module in weights.items() if module.role in ("tokens", "positions")]
    norms = _norms(weights, by_block, kind, last)
    return Anatomy(
        tokens=Site(tokens),
        embeddings=tuple(embeddings),
        head=None if head is None else Site(head),
        norms=norms,
        readers=tuple(dict.fromkeys(site for norm in norms for site in norm.readers if site not in last)),
        writers=tuple(site for parts in by_block.values() for role in ("o", "down") for site, _ in parts[role]),
        attentions=tuple(found.attentions),
        feedforwards=tuple(found.feedforwards),
        experts=tuple(found.experts),
        fixed=(
            "norms act on what its blocks add" if kind in _NORMED_OUTPUTS
            else "its embeddings are projected" if projected
            else "its head is its embedding, which cannot take up the last norm" if head is None
            else None
        ),
        subtracts_mean=kind in _LAYER_NORM,
    )  # fmt: skip


def _sites(name: str, module: Module, shape: Sequence[int]) -> list[Site]:
    if module.experts:
        return [Site(name, expert) for expert in range(shape[0])]
    return [Site(name)] if len(shape) == 2 else []


def _norms(
    weights: Mapping[str, Module],
    blocks: Mapping[int, Mapping[str, list[tuple[Site, Module]]]],
    kind: str,
    last: tuple[Site, ...],
) -> tuple[Norm, ...]:
    offset = 1.0 if kind in _ONE_PLUS else 0.0
    table = _READERS_OF.get(kind, _READERS)
    norms = []
    for name, module in weights.items():
        what = name.removesuffix(".weight").rpartition(".")[2]
        if module.family != "norm":
            continue
        if module.layer is None:
            norms.append(Norm(name, offset, last))
        elif what in table:
            parts = blocks[module.layer]
            roles = (*table[what], "router") if "up" in table[what] else table[what]
            readers = tuple(site for role in roles for site, _ in parts.get(role, []))
            norms.append(Norm(name, offset, readers))
    return tuple(norm for norm in norms if norm.readers)


class _Blocks:
    """Collects the attention and FFN of the blocks, one after the other."""

    def __init__(self, files: CheckpointFiles) -> None:
        config = files.config
        self._files = files
        width = _size(config, "hidden_size", "n_embd")
        self._heads = _size(config, "num_attention_heads", "n_head")
        self._groups = _size(config, "num_key_value_heads") or self._heads
        self._head_size = _size(config, "head_dim") or (width // self._heads if self._heads else 0)
        activation = str(config.get("hidden_act") or config.get("activation_function") or "")
        self._plain: Freedom = "positive" if activation == "relu" else "none"
        self._key_features = _key_features(files, self._head_size)
        self.attentions: list[Attention] = []
        self.feedforwards: list[FeedForward] = []
        self.experts: list[Experts] = []

    def add(self, parts: Mapping[str, list[tuple[Site, Module]]]) -> None:
        self._add_attention(parts)
        members = []
        routers = [site for site, _ in parts.get("router", []) if not site.tensor.endswith("shared_expert_gate.weight")]
        for down, module in parts.get("down", []):
            found = self._feedforward(parts, down, module)
            if found is None:
                continue
            self.feedforwards.append(found)
            if module.expert is not None or module.experts:
                members.append((module.expert if down.expert is None else down.expert, found))
        members.sort(key=lambda member: member[0] or 0)
        if members and len(routers) == 1:
            self.experts.append(Experts(routers[0], tuple(found for _, found in members)))

    def _add_attention(self, parts: Mapping[str, list[tuple[Site, Module]]]) -> None:
        outputs = [site for site, _ in parts.get("o", [])]
        heads, groups, size = self._heads, self._groups, self._head_size
        if len(outputs) != 1 or not size or heads % groups:
            return
        fused = [site for site, _ in parts.get("qkv", [])]
        if len(fused) == 1:
            each = torch.arange(heads * size).view(heads, size)
            if self._files.model_type == "gpt2":
                rows = [Rows(fused[0], each + part * heads * size) for part in range(3)]
            else:
                starts = 3 * size * torch.arange(heads)[:, None] + torch.arange(size)
                rows = [Rows(fused[0], starts + part * size) for part in range(3)]
        else:
            sites = [[site for site, _ in parts.get(role, [])] for role in ("q", "k", "v")]
            if any(len(found) != 1 for found in sites):
                return
            counts = (heads, groups, groups)
            rows = [
                Rows(found[0], torch.arange(count * size).view(count, size))
                for found, count in zip(sites, counts, strict=True)
            ]
        self.attentions.append(Attention(rows[0], rows[1], rows[2], outputs[0], self._key_features))

    def _feedforward(
        self, parts: Mapping[str, list[tuple[Site, Module]]], down: Site, module: Module
    ) -> FeedForward | None:
        folder = down.tensor.removesuffix(".weight").rpartition(".")[0]

        def partner(role: str) -> Site | None:
            return next(
                (
                    site
                    for site, _ in parts.get(role, [])
                    if site.expert == down.expert and site.tensor.removesuffix(".weight").rpartition(".")[0] == folder
                ),
                None,
            )

        shape = self._files.shapes[down.tensor]
        units = shape[-2] if module.transposed else shape[-1]
        index = torch.arange(units)
        both = partner("gate_up")
        if both is not None:
            return FeedForward(Rows(both, index), Rows(both, index + units), down, "any")
        gate, up = partner("gate"), partner("up")
        # OPT's fc1 and fc2 are direct parts of the block; GPT-NeoX's dense layers are in one module
        if up is None:
            return None
        return FeedForward(
            None if gate is None else Rows(gate, index), Rows(up, index), down, self._plain if gate is None else "any"
        )


def _key_features(files: CheckpointFiles, head_size: int) -> torch.Tensor | None:
    """Return which features of a head share a factor between keys and queries, as ``Attention.key_features``.

    All features of a head share one factor if it is not known which of them are rotated.
    """
    if any(name.removesuffix(".weight").rpartition(".")[2] in _HEAD_NORMS for name in files.shapes):
        return None
    features = torch.arange(head_size)
    if files.model_type in _NOT_ROTARY:
        return features[:, None]
    settings = [files.config, files.config.get("rope_parameters"), files.config.get("rope_scaling")]
    shares = [part[_SHARE] for part in settings if part and _SHARE in part]
    if files.model_type in _PARTLY_ROTARY or any(share != 1 for share in shares) or head_size % 2:
        return features[None]
    return features.view(2, -1).mT


def _size(config: Mapping[str, Any], *keys: str) -> int:
    return next((config[key] for key in keys if isinstance(config.get(key), int)), 0)
