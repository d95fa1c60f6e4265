"""The fifth symmetry: the same tensors with another name prefix, as models without a head are saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from invarlock.checkpoints.formats.interface import Checkpoint, Defect, Storage
from invarlock.checkpoints.safetensors_files import CheckpointFiles

if TYPE_CHECKING:
    import torch

# Prefixes that a model with a head adds to the names of the model without one, by family; libraries load both forms.
BASE_PREFIXES = ("model.", "transformer.", "gpt_neox.", "model.language_model.", "language_model.")


@dataclass(frozen=True)
class RenamedCheckpoint:
    """A checkpoint whose tensors were renamed; ``names`` has the stored name of each renamed tensor."""

    stored: Checkpoint
    names: Mapping[str, str]

    @cached_property
    def files(self) -> CheckpointFiles:
        """Return the entries under their new names."""
        new = {old: name for name, old in self.names.items()}
        files = self.stored.files
        entries = {
            new.get(name, name): replace(entry, name=new.get(name, name)) for name, entry in files.entries.items()
        }
        return replace(files, entries=entries)

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor by its new name."""
        return self.stored.read(self.names.get(name, name))

    def storage(self) -> Storage:
        """Return how the checkpoint stores its weights."""
        return self.stored.storage()

    def check(self) -> tuple[Defect, ...]:
        """Return the defects of the checkpoint, under the new names."""
        new = {old: name for name, old in self.names.items()}
        return tuple(replace(one, tensor=new.get(one.tensor, one.tensor)) for one in self.stored.check())


def under_names_of(baseline: Iterable[str], subject: Checkpoint) -> Checkpoint:
    """Return a subject with its baseline's names; the subject itself unless the names differ only by a common prefix.

    Args:
        baseline: names of the baseline's tensors.
        subject: the checkpoint.
    """
    names = renamed(set(baseline), set(subject.files.entries))
    return RenamedCheckpoint(subject, names) if names else subject


def renamed(baseline: set[str], subject: set[str]) -> dict[str, str]:
    """Return the subject's name for each tensor of the baseline that has another prefix, if one prefix fits all."""
    missing, more = baseline - subject, subject - baseline
    for prefix in BASE_PREFIXES:
        shorter = {name: name.removeprefix(prefix) for name in missing if name.startswith(prefix)}
        longer = {name: f"{prefix}{name}" for name in missing}
        for names in (shorter, longer):
            found = {name: old for name, old in names.items() if old in more}
            if found:
                return found
    return {}
