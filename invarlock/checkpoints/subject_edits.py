"""Finds out how a user's subject was made, from the files in its folder; PyTorch is not imported.

Example::

    read_subject_edit(Path("mine"), None)      # SubjectEdit(label="quant_rtn", source="edit_metadata", …)
    read_subject_edit(Path("mine"), "merged")  # SubjectEdit(label="merged", source="given")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invarlock.catalog.edit_labels import CUSTOM, SubjectEdit, is_label, label_in_path
from invarlock.catalog.edit_specs import EDIT_NAMES, EditSpec, make_edit_spec, parse_scope
from invarlock.checkpoints.formats.folder import find_quantisation
from invarlock.edits import BY_NAME
from invarlock.errors import InvarLockError
from invarlock.jsonio import check_schema, read_json

METADATA_NAME = "edit_metadata.json"


def read_subject_edit(folder: Path, given: str | None) -> SubjectEdit:
    """Return the label of a subject's edit, from the first source that has one.

    The sources are the user's label, the subject's ``edit_metadata.json``, its quantisation config, and its path.

    Args:
        folder: the subject's folder.
        given: the user's label for the edit, or None.

    Raises:
        DocumentError: when ``edit_metadata.json`` is malformed.
        CheckpointError: when a config is malformed.
    """
    if given is not None:
        return SubjectEdit(given, "given")
    described = _described(folder / METADATA_NAME)
    if described is not None:
        return described
    # a method may have a prefix, such as intel/auto-round
    method = (find_quantisation(folder)[0] or "").rpartition("/")[2]
    if is_label(method):
        return SubjectEdit(method, "quantization_config")
    # a symbolic link's own name counts; a path such as "gptq/.." must not be labelled gptq
    label = label_in_path(folder.resolve() if ".." in folder.parts else folder.absolute())
    return SubjectEdit() if label is None else SubjectEdit(label, "inferred")


def _described(path: Path) -> SubjectEdit | None:
    """Return the edit in an ``edit_metadata.json``; None if the file does not exist or names no edit."""
    if not path.is_file():
        return None
    document = read_json(path)
    check_schema(document, "edit_metadata", where=str(path))
    label = document["edit_label"]
    if label == CUSTOM or not is_label(label):
        return None
    spec = _spec(document)
    name = label if spec is None else spec.edit
    return SubjectEdit(name, "edit_metadata", spec, document["baseline_digest"], document["subject_digest"])


def _spec(document: Mapping[str, Any]) -> EditSpec | None:
    """Return the edit that a document describes; None if it is not one of InvarLock's."""
    name = next((known for known in EDIT_NAMES if known == document["edit_type"]), None)
    if name is None:
        return None
    if name == "noop":
        return EditSpec(name)
    try:
        scoped = BY_NAME[name].family_scope
        scope = parse_scope(str(document["scope"]), where=METADATA_NAME) if scoped else None
        return make_edit_spec(name, document["parameters"], scope, METADATA_NAME)
    except InvarLockError:
        return None
