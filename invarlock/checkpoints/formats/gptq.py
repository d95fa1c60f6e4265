"""GPTQ's format, which GPTQModel, AutoGPTQ, auto-round and optimum write, with 2 to 8 bits.

The first version stores ``zero point − 1``, and ``checkpoint_format: gptq_v2`` the zero point itself. With
``desc_act`` the columns were quantised in another order, and ``g_idx`` says which group each belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass

from invarlock.checkpoints.formats.folder import CheckpointFolder
from invarlock.checkpoints.formats.interface import unreadable
from invarlock.checkpoints.formats.packed import PackedCheckpoint
from invarlock.checkpoints.formats.words import open_words, read_layout


@dataclass(frozen=True)
class GPTQFormat:
    """``quant_method: gptq``, or a ``quantize_config.json``."""

    name: str = "GPTQ"
    tools: str = "GPTQModel and AutoGPTQ"

    def matches(self, source: CheckpointFolder) -> bool:
        """Return whether the folder's configuration names this format."""
        return source.method == "gptq"

    def open(self, source: CheckpointFolder) -> PackedCheckpoint:
        """Return the checkpoint with its packed weights mapped to names and shapes of dense ones.

        Raises:
            CheckpointError: when the configuration or the tensors have a variant that is not supported.
        """
        stated = source.quantisation
        version = stated.get("checkpoint_format") or stated.get("format") or "gptq"
        if stated.get("is_marlin_format") is True:  # AutoGPTQ's name before checkpoint_format
            version = "marlin"
        if version not in ("gptq", "gptq_v2"):
            raise unreadable(source.path, self, f"its checkpoint_format is {str(version)[:40]!r}")
        layout = read_layout(source, self, along_outputs=False, zero_offset=0 if version == "gptq_v2" else 1)
        order = ", desc_act" if stated.get("desc_act") is True else ""
        return open_words(source, self, layout, f"{self.name} ({version}{order})")


FORMAT = GPTQFormat()
