"""Faults in the structure of a checkpoint: shapes, missing tensors, tied weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from invarlock.checkpoints.families import count_blocks
from invarlock.checkpoints.rewriting import Replacement, Rewrite
from invarlock.checkpoints.safetensors_files import CheckpointFiles
from invarlock.errors import EditError
from invarlock.faults.fault import Fault
from invarlock.faults.parameters import Parameters
from invarlock.faults.selection import BREAKABLE_DTYPES, FaultPlan, named_tensors, nothing_to_break

# Where the output head of an architecture goes when it is not tied.
HEADS: Mapping[str, str] = {"gpt_neox": "embed_out.weight", "bert": "cls.predictions.decoder.weight"}
DEFAULT_HEAD = "lm_head.weight"


def grow_vocabulary(files: CheckpointFiles, params: Mapping[str, Any]) -> FaultPlan:
    """Add rows, the mean of all rows, to the input embedding and to a stored head (its bias too); config follows.

    The tokenizer stays as it is. Params: ``rows`` (8).
    """
    reader = Parameters("shape_mismatch", params)
    rows = reader.count("rows", 8)
    used = reader.finish()
    embedding = _embedding(files, "shape_mismatch")
    names = named_tensors(files, "shape_mismatch", [embedding, *files.with_role("head")])

    def make(weight: torch.Tensor) -> torch.Tensor:
        mean = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
        return torch.cat([weight, mean.expand(rows, *weight.shape[1:])])

    replacements = {}
    for name in names:
        shape = files.entries[name].shape
        replacements[name] = Replacement(name, make, (shape[0] + rows, *shape[1:]))
    vocabulary = files.entries[embedding].shape[0] + rows
    rewrite = Rewrite(replacements, config={"vocab_size": vocabulary})
    return FaultPlan(rewrite, used, f"vocabulary grown to {vocabulary} rows in {', '.join(names)}")


def drop_last_block(files: CheckpointFiles, params: Mapping[str, Any]) -> FaultPlan:
    """Drop all tensors of the last block; the config keeps claiming it. No params."""
    used = Parameters("missing_tensors", params).finish()
    in_blocks = [module for module in files.modules.values() if module.family in ("attn", "ffn")]
    last = count_blocks(in_blocks) - 1
    dropped = frozenset(name for name, module in files.modules.items() if module.layer == last)
    if not dropped:
        raise nothing_to_break(files, "missing_tensors", "numbered block")
    return FaultPlan(Rewrite(drop=dropped), used, f"{len(dropped)} tensors of block {last} dropped")


def break_tying(files: CheckpointFiles, params: Mapping[str, Any]) -> FaultPlan:
    """Untie a tied head, or tie an untied one; the config says so in both cases.

    Untying stores a head that is the input embedding plus seeded Gaussian noise of ``noise`` times its standard
    deviation. Tying drops the stored head, so that the embedding takes its place. Params: ``noise`` (0.05), ``seed``.
    """
    reader = Parameters("weight_tying_break", params)
    noise = reader.number("noise", 0.05, low=0, high=1)
    seed = reader.count("seed", 0, low=0)
    used = reader.finish()
    embedding = _embedding(files, "weight_tying_break")
    heads = [name for name in files.with_role("head") if len(files.entries[name].shape) == 2]
    if not files.tied:
        if not heads:
            raise nothing_to_break(files, "weight_tying_break", "output head, tied or stored")
        if files.entries[heads[0]].shape != files.entries[embedding].shape:
            raise EditError(
                f"fault weight_tying_break: {heads[0]!r} of {files.folder} has another shape than {embedding!r}; "
                "take a model whose head can be tied"
            )
        rewrite = Rewrite(drop=frozenset(heads), config={"tie_word_embeddings": True})
        return FaultPlan(rewrite, used, f"{heads[0]} dropped and tied to {embedding}")

    def make(weight: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        values = weight.float()
        perturbation = torch.randn(values.shape, generator=generator).mul_(noise * float(values.std()))
        return perturbation.add_(values).to(weight.dtype)

    head = heads[0] if heads else HEADS.get(files.model_type, DEFAULT_HEAD)
    rewrite = Rewrite({head: Replacement(embedding, make)}, config={"tie_word_embeddings": False})
    return FaultPlan(rewrite, used, f"{head} stored apart from {embedding}, with noise of {noise:g} of its deviation")


def _embedding(files: CheckpointFiles, error_type: str) -> str:
    for name in files.with_role("tokens"):
        if files.entries[name].dtype in BREAKABLE_DTYPES and len(files.entries[name].shape) == 2:
            return name
    raise nothing_to_break(files, error_type, "input embedding")


SHAPE_MISMATCH = Fault("shape_mismatch", grow_vocabulary)
MISSING_TENSORS = Fault("missing_tensors", drop_last_block)
WEIGHT_TYING_BREAK = Fault("weight_tying_break", break_tying)
