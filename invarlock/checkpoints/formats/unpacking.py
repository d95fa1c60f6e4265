"""Arithmetic of packed weights in PyTorch: unpacks codes from words, and expands scales over groups and blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from safetensors import safe_open

from invarlock.checkpoints.safetensors_files import CheckpointFiles

# The magnitudes of 4-bit floats with two exponent bits and one mantissa bit, by code; bit 3 is the sign (OCP MX v1.0).
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
WORD_BITS = 32


def read_stored(files: CheckpointFiles, name: str) -> torch.Tensor:
    """Return a tensor as it is stored."""
    with safe_open(files.folder / files.entries[name].shard, framework="pt") as stream:
        tensor: torch.Tensor = stream.get_tensor(name)
    return tensor


def of_dtype(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    """Return a tensor converted to a dtype in safetensors' notation."""
    return tensor.to({"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype])


def broken_values(scale: torch.Tensor) -> str | None:
    """Return what is wrong with the values of a scale; None if all are finite and none is zero.

    A scale may be negative: auto-round uses both ends of a symmetric range.
    """
    return not_finite(scale) or _counted(scale.double() == 0, "zero")


def not_finite(values: torch.Tensor) -> str | None:
    """Return how many values are not finite; None if all are."""
    return _counted(~values.double().isfinite(), "not finite")


def not_positive(values: torch.Tensor) -> str | None:
    """Return how many values are zero or negative; None if all are positive."""
    return _counted(values.double() <= 0, "zero or negative")


def _counted(found: torch.Tensor, what: str) -> str | None:
    count = int(found.sum())
    return f"{count} of {found.numel()} values {'is' if count == 1 else 'are'} {what}" if count else None


def filled(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes that are all 0, and codes that are all the same other number, in the same storage."""
    return torch.zeros_like(codes), torch.ones_like(codes) if codes.is_floating_point() else ~torch.zeros_like(codes)


def unpack_words(words: torch.Tensor, bits: int, columns: int) -> torch.Tensor:
    """Return the unsigned codes in each row of int32 words, lowest bits first, as int32 (rows, columns).

    If the row has just enough words for it, codes follow each other without gaps, as compressed-tensors writes them
    since 0.10; otherwise each word has as many whole codes as fit. For 2, 4 and 8 bits both layouts are the same.
    """
    mask = (1 << bits) - 1
    per_word = WORD_BITS // bits
    if WORD_BITS % bits == 0 or words.shape[-1] == -(-columns // per_word) != -(-columns * bits // WORD_BITS):
        shifts = torch.arange(0, per_word * bits, bits, dtype=torch.int32)
        codes = (words[..., None] >> shifts) & mask
        return codes.flatten(-2)[..., :columns]
    starts = torch.arange(columns) * bits
    word, offset = starts // WORD_BITS, starts % WORD_BITS
    wide = words.long() & 0xFFFFFFFF
    low = wide[..., word] >> offset
    high = wide[..., (word + 1).clamp(max=words.shape[-1] - 1)] << (WORD_BITS - offset)
    return ((low | high) & mask).int()


def unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Return signed 4-bit codes, stored two per byte with the lower nibble first, as int8 (rows, 2 × bytes)."""
    signed = packed.view(torch.int8)
    return torch.stack((signed << 4 >> 4, signed >> 4), -1).flatten(-2)


def unpack_e2m1(packed: torch.Tensor) -> torch.Tensor:
    """Return 4-bit floats, stored two per byte with the lower nibble first, as float32 (rows, 2 × bytes)."""
    codes = torch.stack((packed & 0x0F, packed >> 4), -1).flatten(-2).long()
    table = torch.tensor([*E2M1, *(-value for value in E2M1)])
    return table[codes]


def exponents(scale: torch.Tensor) -> torch.Tensor:
    """Return the stored bytes of scales that are powers of two, uint8 or float8 without mantissa."""
    return scale.view(torch.uint8)


def powers_of_two(scale: torch.Tensor) -> torch.Tensor:
    """Return as float32 the scales that are stored as exponents; 127 represents 1."""
    powers = exponents(scale).int() - 127
    return torch.ldexp(torch.ones(powers.shape), powers)


def spread_groups(scale: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Expand scales (rows, groups), (rows,) or a single value to every weight of a matrix (rows, columns)."""
    scale = scale.reshape(-1, 1) if scale.ndim < 2 else scale
    groups = scale.shape[-1]
    if groups > 1:
        scale = scale.repeat_interleave(-(-shape[-1] // groups), -1)[:, : shape[-1]]
    return scale.expand(*shape)


def spread_blocks(scale: torch.Tensor, block: tuple[int, int], shape: Sequence[int]) -> torch.Tensor:
    """Expand scales of blocks to every weight of a matrix; the last blocks may be cut off."""
    rows = scale.repeat_interleave(block[0], 0)[: shape[0]]
    return rows.repeat_interleave(block[1], 1)[:, : shape[1]]
