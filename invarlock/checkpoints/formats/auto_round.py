"""auto-round's format: the layout of GPTQ or AWQ, named in ``packing_format``.

``auto_round:auto_gptq`` is the first version of GPTQ, ``auto_round:gptqmodel`` and ``auto_round`` the second,
``auto_round:auto_awq`` is AWQ.
"""

from __future__ import annotations

from dataclasses import dataclass

from invarlock.checkpoints.formats.folder import CheckpointFolder
from invarlock.checkpoints.formats.interface import unreadable
from invarlock.checkpoints.formats.packed import PackedCheckpoint
from invarlock.checkpoints.formats.words import open_words, read_layout

# For each layout: whether a word has codes of several outputs, and the number that is added to a stored zero point.
LAYOUTS = {
    "auto_round:auto_gptq": (False, 1), "auto_round:gptq": (False, 1), "auto_round:auto_awq": (True, 0),
    "auto_round:awq": (True, 0), "auto_round:gptqmodel": (False, 0), "auto_round": (False, 0),
}  # fmt: skip


@dataclass(frozen=True)
class AutoRoundFormat:
    """``quant_method: auto-round``, with quantised weights only."""

    name: str = "auto-round"
    tools: str = "auto-round"

    def matches(self, source: CheckpointFolder) -> bool:
        """Return whether the folder's configuration names this format."""
        return source.method in ("auto-round", "intel/auto-round", "auto_round")

    def open(self, source: CheckpointFolder) -> PackedCheckpoint:
        """Return the checkpoint with its packed weights mapped to names and shapes of dense ones.

        Raises:
            CheckpointError: when the configuration or the tensors have a variant that is not supported.
        """
        packing = str(source.quantisation.get("packing_format") or "auto_round:auto_gptq").lower()
        kind = source.quantisation.get("data_type", "int")
        if packing not in LAYOUTS or kind != "int":
            raise unreadable(source.path, self, f"its packing_format is {packing[:60]!r}, its data_type {kind!r:.40}")
        along_outputs, offset = LAYOUTS[packing]
        layout = read_layout(source, self, along_outputs=along_outputs, zero_offset=offset)
        others = {bits for bits, _ in layout.settings} - {4}
        if along_outputs and others:
            raise unreadable(source.path, self, f"with {max(others)} bits as {packing}")
        return open_words(source, self, layout, f"{self.name} ({packing})")


FORMAT = AutoRoundFormat()
