"""Steps that transform a matrix of one checkpoint into another's form: scales, orders and rotations of features.

Example::

    down = apply((Permute("inputs", order), Scale("inputs", scales)), down)   # hidden units back in their places

A matrix has shape (out, in). A step acts on its outputs (rows) or inputs (columns), whatever the layout of its tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

Side = Literal["inputs", "outputs"]


@dataclass(frozen=True)
class Scale:
    """Multiply each feature by its own factor, shape (features,)."""

    side: Side
    factors: torch.Tensor

    def on_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows of a matrix, each multiplied by its factor: shape [rows, columns]."""
        return rows * self.factors.to(rows)[:, None]


@dataclass(frozen=True)
class Permute:
    """Take the features in another order: the new feature ``i`` is the old feature ``order[i]``."""

    side: Side
    order: torch.Tensor

    def on_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows of a matrix in the new order: shape [rows, columns]."""
        return rows[self.order.to(rows.device)]


@dataclass(frozen=True)
class Rotate:
    """Rotate the features: x becomes x Q; ``rotation`` is Q, shape (features, features)."""

    side: Side
    rotation: torch.Tensor

    def on_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rotated rows of a matrix, the transposed rotation times the matrix: shape [rows, columns]."""
        return self.rotation.to(rows).mT @ rows


@dataclass(frozen=True)
class RotateHeads:
    """Rotate the features of each head by its own Q; other features do not change.

    Attributes:
        features: the features of each head, shape (heads, head size).
        rotations: the rotation of each head, shape (heads, head size, head size).
    """

    side: Side
    features: torch.Tensor
    rotations: torch.Tensor

    def on_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows of a matrix with the features of each head rotated: shape [rows, columns]."""
        rotated = rows.clone()
        features = self.features.to(rows.device)
        rotated[features.flatten()] = (self.rotations.to(rows).mT @ rows[features]).flatten(0, 1)
        return rotated


Step = Scale | Permute | Rotate | RotateHeads


def apply(steps: Iterable[Step], matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix, shape (out, in), after some steps."""
    for step in steps:
        matrix = step.on_rows(matrix.mT).mT if step.side == "inputs" else step.on_rows(matrix)
    return matrix


def apply_to_outputs(steps: Iterable[Step], outputs: torch.Tensor) -> torch.Tensor:
    """Return a layer's outputs, shape (tokens, features), as they would be after some steps on its matrix."""
    for step in steps:
        if step.side == "outputs":
            outputs = step.on_rows(outputs.mT).mT
    return outputs
