"""The interface of storage formats: dense tensors, how they are stored, and their defects."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from invarlock.checkpoints.formats.folder import CheckpointFolder
from invarlock.checkpoints.safetensors_files import CheckpointFiles
from invarlock.errors import CheckpointError

if TYPE_CHECKING:
    import torch

# Kinds of defects: the value or shape of a scale, a tensor that is packed but should not be (or the reverse), the size
# of files, the model's metadata in a file, metadata that may or may not change the computation, which only warn, and a
# scale of activations or of the KV cache.
SCALE, PACKING, SIZE, METADATA, DOUBT = "scale", "packing", "size", "metadata", "doubt"
ACTIVATIONS = "activations"
# Kinds that do not prevent reading the weights.
BESIDE_WEIGHTS = (METADATA, DOUBT, ACTIVATIONS)
DEQUANTISE = "save it dequantised (bfloat16 safetensors) and evaluate that"


@dataclass(frozen=True)
class Defect:
    """One defect in how a tensor is stored, reported as one line of the guard ``invariants``."""

    tensor: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Quantisation:
    """How weights were quantised, as far as the checkpoint states it; None if unknown or different between modules.

    Attributes:
        tool: the tool that wrote the checkpoint, with its version if known.
        method: the storage format and its variant.
        bits: bits per weight.
        activation_bits: bits of the inputs of a quantised matrix; None if they are not quantised.
        group_size: weights along a row that share a scale; 0 if a whole row or tensor does.
        symmetric: whether there are no zero points.
        ignored_modules: names or patterns of modules that were not quantised.
        calibration: the data that the quantiser used.
    """

    tool: str | None
    method: str
    bits: float | None = None
    activation_bits: float | None = None
    group_size: int | None = None
    symmetric: bool | None = None
    ignored_modules: tuple[str, ...] = ()
    calibration: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the description in the form of a report."""
        return {**asdict(self), "ignored_modules": list(self.ignored_modules)}


@dataclass(frozen=True)
class Storage:
    """The storage format and size of a checkpoint.

    Attributes:
        format: the format's common name.
        stored_bytes: the bytes of all tensors.
        weights: elements of the dense tensors.
        packed_weights: how many of these are stored packed.
        packed_bytes: the stored bytes of the packed weights, including scales.
        unpacked_modules: names of the matrices that are not packed; empty for a checkpoint that packs nothing.
        quantisation: how the weights were quantised; None if nothing is packed.
    """

    format: str
    stored_bytes: int
    weights: int
    packed_weights: int
    packed_bytes: int
    unpacked_modules: tuple[str, ...]
    quantisation: Quantisation | None

    @property
    def bits_per_weight(self) -> float:
        """Return the stored bits per weight, including scales and zero points."""
        return 8 * self.stored_bytes / max(self.weights, 1)

    def document(self) -> dict[str, Any]:
        """Return the description in the form of a report."""
        quantisation = None if self.quantisation is None else self.quantisation.document()
        return {
            **asdict(self),
            "unpacked_modules": list(self.unpacked_modules),
            "bits_per_weight": self.bits_per_weight,
            "quantisation": quantisation,
        }


class Checkpoint(Protocol):
    """A checkpoint that can be read, whatever its format."""

    @property
    def files(self) -> CheckpointFiles:
        """The dense checkpoint that this represents: its config, and names, dtypes and shapes of its tensors.

        A tensor that cannot be read (a part is missing or has another shape) is left out, and ``check`` reports it. An
        entry has the size of the dense tensor, and the shard that stores its codes.
        """

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor of ``files``, dense, on the CPU, with its dtype and shape.

        Raises:
            CheckpointError: when the data contradict the headers or the config.
        """

    def storage(self) -> Storage:
        """Return how the checkpoint is stored, from config and headers alone."""

    def check(self) -> tuple[Defect, ...]:
        """Return the defects within packed tensors, in order of their names; this reads their scales."""


class Format(Protocol):
    """A way to store weights: its common name, and the tools that usually write it."""

    @property
    def name(self) -> str:
        """Name of the format, as reports state it."""

    @property
    def tools(self) -> str:
        """Names of tools that write the format, for messages."""

    def matches(self, source: CheckpointFolder) -> bool:
        """Return whether a folder is stored in this format, by its small files and headers."""

    def open(self, source: CheckpointFolder) -> Checkpoint:
        """Return the reader of a matching folder.

        Raises:
            CheckpointError: when the variant is not supported, or the checkpoint is not complete.
        """


def unreadable(folder: Path, form: Format, why: str) -> CheckpointError:
    """Return the error for a checkpoint whose format, or variant of a format, cannot be read."""
    return CheckpointError(
        f"{folder}: stored as {form.name}, usually by {form.tools} ({why}), which cannot be read yet; {DEQUANTISE}"
    )
