"""Symmetric round-to-nearest quantisation, packed in the W4A16 and W8A16 layout of llm-compressor.

Source: compressed-tensors 0.20, ``pack-quantized``: codes plus half their range in 32-bit words, the first code in the
lowest bits; one scale per group in the dtype of the weights; the shape of the matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from invarlock.edits.edit import Edit, Packing, Parameter, Parameters, at_least, whole_number
from invarlock.edits.quant_rtn import GRID, round_matrix
from invarlock.errors import UsageError
from invarlock.problems import Code

if TYPE_CHECKING:
    import torch

WORD_BITS = 32
WIDTHS = (4, 8)
CODES, SCALE, SHAPE = "weight_packed", "weight_scale", "weight_shape"


def _parts(shape: tuple[int, int], dtype: str, parameters: Parameters) -> dict[str, tuple[str, tuple[int, ...]]]:
    rows, columns = shape
    words = -(-columns * int(parameters["bits"]) // WORD_BITS)
    groups = -(-columns // int(parameters["group_size"]))
    return {CODES: ("I32", (rows, words)), SCALE: (dtype, (rows, groups)), SHAPE: ("I64", (2,))}


def pack_matrix(weight: torch.Tensor, parameters: Parameters) -> dict[str, torch.Tensor]:
    """Return the codes, scales and shape of a matrix (out, in); the scales have the matrix's dtype.

    With s = max|w| / (2^(bits-1) - 1) over a group, rounded to the stored dtype, a code is round(w / s), half to even.
    """
    # imported here because specs are also read where PyTorch is not installed
    import torch

    bits, group = int(parameters["bits"]), int(parameters["group_size"])
    rows, columns = weight.shape
    largest = 2 ** (bits - 1) - 1
    grouped = torch.nn.functional.pad(weight.float(), (0, -columns % group)).view(rows, -1, group)
    scale = (grouped.abs().amax(dim=2) / largest).to(weight.dtype)
    # a group of zeros may have any scale except 0, which would be a defect
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    codes = (grouped / scale.float()[:, :, None]).round().clamp(-largest - 1, largest).flatten(1)[:, :columns]
    return {CODES: pack_codes(codes.long() + largest + 1, bits), SCALE: scale, SHAPE: torch.tensor([rows, columns])}


def pack_codes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Return codes from 0 to 2^bits - 1, shape (out, in), packed into 32-bit words, int32."""
    import torch  # here, as above

    each = WORD_BITS // bits
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % each)).view(len(codes), -1, each)
    words = (padded << (bits * torch.arange(each))).sum(dim=2)
    return (words - ((words >> (WORD_BITS - 1)) << WORD_BITS)).to(torch.int32)


def _config(ignored: Sequence[str], parameters: Parameters) -> Mapping[str, Any]:
    weights = {
        "num_bits": int(parameters["bits"]),
        "group_size": int(parameters["group_size"]),
        "strategy": "group",
        "symmetric": True,
        "type": "int",
    }
    group = {"format": "pack-quantized", "input_activations": None, "targets": ["Linear"], "weights": weights}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": list(ignored),
    }


def _read_width(text: str, where: str) -> int:
    bits = whole_number("bits", min(WIDTHS), max(WIDTHS))(text, where)
    if bits not in WIDTHS:
        raise UsageError(
            f"bits must be one of {', '.join(map(str, WIDTHS))}, not {bits}", code=Code.EDIT_SPEC_INVALID, where=where
        )
    return bits


PACKING = Packing(_parts, pack_matrix, _config)
PACKED_RTN = Edit(
    name="packed_rtn",
    parameters=(Parameter("bits", _read_width, at_least(min(WIDTHS))), GRID[1]),
    syntax="packed_rtn:<bits 4 or 8>:<group size>",
    apply=round_matrix,
    storage_format="pack_quantized",
    semantics="weights rounded to a grid and stored as packed codes with scales",
    family_scope=(),
    packing=PACKING,
    touches=("attn", "ffn"),
)
