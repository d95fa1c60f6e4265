"""Finds matrices that a quantiser packed in some blocks and not in others."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from invarlock.checkpoints.formats.interface import PACKING, Defect
from invarlock.checkpoints.safetensors_files import CheckpointFiles

_INDEX = re.compile(r"\.\d+(?=\.)")
_PATTERN = re.compile(r"[*+\\^$|(\[]|^-:")


def left_dense(files: CheckpointFiles, modules: Collection[str], exceptions: Collection[str]) -> Iterator[Defect]:
    """Yield the dense matrices, not excluded by any rule, whose role is packed in other blocks.

    Args:
        files: the stored tensors.
        modules: the names of the packed modules.
        exceptions: names, or parts of names, of modules that the config excludes from packing. If one of them is a
            pattern, nothing is yielded, because it is not known which modules it matches.
    """
    if any(_PATTERN.search(one) for one in exceptions):
        return
    roles = {_INDEX.sub("", module) for module in modules}
    for name, entry in files.entries.items():
        module, _, last = name.rpartition(".")
        known = module in modules or any(one in module for one in exceptions)
        if last == "weight" and len(entry.shape) == 2 and _INDEX.sub("", module) in roles and not known:
            yield Defect(name, PACKING, f"stored as {entry.dtype}, and config.json says it is packed")
