"""AWQ's format, which AutoAWQ and auto-round write: 4 bits, eight outputs per word in a special order.

``exllama`` is ``gemm`` on disk, and names other kernels: AutoAWQ reorders the words of ``gemm`` when it loads them
(``modules/linear/exllama.py``), and cannot write another order.
"""

from __future__ import annotations

from dataclasses import dataclass

from invarlock.checkpoints.formats.folder import CheckpointFolder
from invarlock.checkpoints.formats.interface import unreadable
from invarlock.checkpoints.formats.packed import PackedCheckpoint
from invarlock.checkpoints.formats.words import open_words, read_layout


@dataclass(frozen=True)
class AWQFormat:
    """``quant_method: awq`` or a ``quant_config.json``, version ``gemm`` or ``exllama``."""

    name: str = "AWQ"
    tools: str = "AutoAWQ"

    def matches(self, source: CheckpointFolder) -> bool:
        """Return whether the folder's configuration names this format."""
        return source.method == "awq"

    def open(self, source: CheckpointFolder) -> PackedCheckpoint:
        """Return the checkpoint with its packed weights mapped to names and shapes of dense ones.

        Raises:
            CheckpointError: when the configuration or the tensors have a variant that is not supported.
        """
        version = str(source.quantisation.get("version") or source.quantisation.get("format") or "gemm").lower()
        if version not in ("gemm", "exllama"):
            raise unreadable(source.path, self, f"its version is {version[:40]!r}")
        layout = read_layout(source, self, along_outputs=True, zero_offset=0)
        others = {bits for bits, _ in layout.settings} - {4}
        if others:
            raise unreadable(source.path, self, f"with {max(others)} bits")
        return open_words(source, self, layout, f"{self.name} ({version})")


FORMAT = AWQFormat()
