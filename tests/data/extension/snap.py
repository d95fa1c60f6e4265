"""An edit that a test adds: weights rounded to multiples of a power of two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invarlock.edits.edit import Edit, Parameter, Parameters, at_least, whole_number

if TYPE_CHECKING:
    import torch


def _apply(weight: torch.Tensor, parameters: Parameters) -> torch.Tensor:
    step = 2.0 ** -int(parameters["digits"])
    return ((weight.float() / step).round() * step).to(weight.dtype)


def _ladder(smallest_side: int) -> list[Parameters]:
    return [{"digits": digits} for digits in (12, 10, 8)]


SNAP = Edit(
    name="snap",
    parameters=(Parameter("digits", whole_number("digits", 1, 24), at_least(1)),),
    syntax="snap:<binary digits>:<scope>",
    apply=_apply,
    storage_format="float_dequantized",
    semantics="weights rounded to multiples of a power of two and stored as floats again",
    ladder=_ladder,
)
