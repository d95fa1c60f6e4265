"""The label of the edit of a user's own subject: from its metadata, or from the path of its folder.

Example::

    >>> label_in_path(Path("/models/Mistral-7B-GPTQ"))
    'gptq'
    >>> label_in_path(Path("/models/quant_rtn/checkpoint-100"))
    'quant_rtn'
    >>> label_in_path(Path("/models/rtnl-mistral"))               # None: labels are whole words
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal, get_args

from invarlock.catalog.edit_specs import EDIT_NAMES, EditSpec

CUSTOM, NOOP = "custom", "noop"
LabelSource = Literal["edit_metadata", "quantization_config", "inferred", "given"]
LABEL_SOURCES: tuple[LabelSource, ...] = get_args(LabelSource)
# The folder, its parent, and the level above: a snapshot of the hub's cache is models--NAME/snapshots/REVISION.
PATH_COMPONENTS = 3
MAX_LABEL_CHARACTERS = 100
# Labels searched for in a path, and their common spellings.
PATH_LABELS: Mapping[str, tuple[str, ...]] = {
    **{name: () for name in EDIT_NAMES if name != NOOP},
    "fp8": (),
    "lowrank": ("low_rank",),
    "gptq": (),
    "awq": (),
    "auto-round": ("autoround",),
    "bitsandbytes": ("bnb",),
    "compressed-tensors": (),
    "modelopt": (),
    "torchao": (),
    "hqq": (),
    "quanto": (),
    "mxfp4": (),
    "smoothquant": (),
    "sparsegpt": (),
    "wanda": (),
}

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WORDS = {
    word.replace("-", "_"): label for label, others in PATH_LABELS.items() for word in (label, *others)
}  # fmt: skip
# Longest first: fp8_quant before fp8.
_IN_PATH = re.compile(rf"(?<![a-z0-9])(?:{'|'.join(sorted(_WORDS, key=len, reverse=True))})(?![a-z0-9])")


@dataclass(frozen=True)
class SubjectEdit:
    """The known facts about the edit of a user's subject.

    ``source`` is where the label comes from, None without one. ``spec`` is the edit that the subject's
    ``edit_metadata.json`` describes, None if it is not one of InvarLock's. The digests are those of that file.
    """

    label: str = CUSTOM
    source: LabelSource | None = None
    spec: EditSpec | None = None
    baseline_digest: str | None = None
    subject_digest: str | None = None


def is_label(text: object) -> bool:
    """Return whether a text is a valid edit label for a report."""
    return isinstance(text, str) and len(text) <= MAX_LABEL_CHARACTERS and _LABEL.fullmatch(text) is not None


def label_in_path(path: PurePath) -> str | None:
    """Return the label that a folder's name contains as whole words, else its parent's, or None.

    A name with two labels is ambiguous and gives None.
    """
    for component in reversed(path.parts[-PATH_COMPONENTS:]):
        found = {_WORDS[word] for word in _IN_PATH.findall(component.casefold().replace("-", "_"))}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def is_planned(edit: Mapping[str, Any], label: str, source: str | None) -> bool:
    """Return whether the ``edit`` of a report matches the plan of a user's subject.

    Only the measurement shows that a subject equals its baseline, so any label that the user did not give may become
    ``noop``.
    """
    if edit["name"] == NOOP and source != "given":
        return True
    return bool(edit["label"] == label and edit.get("label_source", source) == source)


def edit_text(edit: Mapping[str, Any]) -> str:
    """Return the ``edit`` of a report as text: its spec, or its label without a spec."""
    if edit["name"] != CUSTOM or edit["label"] == CUSTOM:
        return str(edit["spec"])
    return f"{edit['label']} (inferred)" if edit.get("label_source") == "inferred" else str(edit["label"])
