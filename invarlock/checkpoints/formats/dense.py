"""Checkpoints whose stored tensors are the weights themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from invarlock.checkpoints.formats.folder import CheckpointFolder
from invarlock.checkpoints.formats.interface import Defect, Storage
from invarlock.checkpoints.safetensors_files import CheckpointFiles

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DenseCheckpoint:
    """A checkpoint whose tensors need no unpacking."""

    files: CheckpointFiles

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor as it is stored, on the CPU."""
        # imported here so that recognising the format does not need PyTorch
        from invarlock.checkpoints.formats.unpacking import read_stored

        return read_stored(self.files, name)

    def storage(self) -> Storage:
        """Return format ``dense`` and the bytes of all tensors."""
        entries = self.files.entries.values()
        stored = sum(entry.size_bytes for entry in entries)
        return Storage("dense", stored, self.files.total_parameters, 0, 0, (), None)

    def check(self) -> tuple[Defect, ...]:
        """Return no defects: a dense tensor has no parts that could contradict each other."""
        return ()


@dataclass(frozen=True)
class DenseFormat:
    """A folder without ``quantization_config``: bfloat16, float16, float32, and float8 without scales."""

    name: str = "dense"
    tools: str = "transformers"

    def matches(self, source: CheckpointFolder) -> bool:
        """Return True: weights that no other format matches are dense."""
        return True

    def open(self, source: CheckpointFolder) -> DenseCheckpoint:
        """Return the checkpoint as its files store it."""
        return DenseCheckpoint(source.files)


FORMAT = DenseFormat()
