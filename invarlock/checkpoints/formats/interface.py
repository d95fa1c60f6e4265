"""What a storage format gives: tensors as a dense checkpoint has them, how they are stored, and what is wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from invarlock.checkpoints.formats.folder import CheckpointFolder
from invarlock.checkpoints.safetensors_files import CheckpointFiles
from invarlock.errors import CheckpointError

if TYPE_CHECKING:
    import torch

# Kinds of defects: a scale's value or shape, something packed that should not be or the other way, the size of files,
# and the metadata of the model in a file.
SCALE, PACKING, SIZE, METADATA = "scale", "packing", "size", "metadata"
DEQUANTISE = "save it dequantised (bfloat16 safetensors) and evaluate that"


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong with how a tensor is stored, as one line of the guard ``invariants``."""

    tensor: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Quantisation:
    """How weights were quantised, as far as the checkpoint says; None is unknown, or differs between modules.

    Attributes:
        tool: what wrote the checkpoint, with its version where that is known.
        method: the storage format and its variant.
        bits: of a weight.
        activation_bits: of the inputs of a quantised matrix, None if they are not quantised.
        group_size: weights along a row that share a scale; 0 where a whole row or tensor does.
        symmetric: whether there are no zero points.
        ignored_modules: names or patterns that were left as they were.
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
        """Return it as a report has it."""
        return {**asdict(self), "ignored_modules": list(self.ignored_modules)}


@dataclass(frozen=True)
class Storage:
    """How much room a checkpoint takes.

    Attributes:
        format: what people call the format.
        stored_bytes: of the data of all tensors.
        weights: elements of the dense tensors.
        packed_weights: those of them that are stored packed.
        packed_bytes: of the stored data of these, scales included.
        unpacked_modules: the matrices that are not packed, by name; none of a checkpoint that packs nothing.
        quantisation: None if nothing is packed.
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
        """Return the stored bits for each weight, scales and zero points included."""
        return 8 * self.stored_bytes / max(self.weights, 1)

    def document(self) -> dict[str, Any]:
        """Return it as a report has it."""
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
        """The dense checkpoint that this stands for: its config, and names, types and shapes of its tensors.

        A tensor that cannot be read (a part is missing or has another shape) is not among them; ``check`` names it.
        The bytes and shard of an entry are those of a dense tensor and of the file that holds its codes.
        """

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor of ``files``, dense, on the CPU, of its type and shape.

        Raises:
            CheckpointError: when the data cannot be what the headers and the config promise.
        """

    def storage(self) -> Storage:
        """Return how the checkpoint is stored, from config and headers alone."""

    def check(self) -> tuple[Defect, ...]:
        """Return what is wrong with the packed tensors by themselves, in order of their names; reads their scales."""


class Format(Protocol):
    """A way to store weights: what people call it, and the tools that usually write it."""

    @property
    def name(self) -> str:
        """Name of the format, as reports state it."""

    @property
    def tools(self) -> str:
        """Names of tools that write the format, for messages."""

    def matches(self, source: CheckpointFolder) -> bool:
        """Return whether a folder is stored in this format, by its small files and headers."""

    def open(self, source: CheckpointFolder) -> Checkpoint:
        """Return the reader of a folder that matches.

        Raises:
            CheckpointError: when it is a variant that cannot be read, or no whole checkpoint.
        """


def unreadable(folder: Path, form: Format, why: str) -> CheckpointError:
    """Return the refusal of a checkpoint in a format, or a variant of it, that cannot be read."""
    return CheckpointError(
        f"{folder}: stored as {form.name}, usually by {form.tools} ({why}), which cannot be read yet; {DEQUANTISE}"
    )
