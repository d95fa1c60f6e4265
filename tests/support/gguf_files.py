"""GGUF files for tests: real ones, written again with other metadata or tensors, and the metadata of a converter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, tuple[np.ndarray[Any, Any], Any]]


def rewrite(
    path: Path, *, metadata: Mapping[str, Any] | None = None, tensors: Callable[[Arrays], None] = lambda arrays: None
) -> None:
    """Write a GGUF file again with other metadata (None removes a key) and other tensors."""
    # imported here because the package is optional
    import gguf

    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    changes = {"general.architecture": architecture, **(metadata or {})}
    writer = gguf.GGUFWriter(path.with_suffix(".new"), changes["general.architecture"])
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or changes.get(key, "") is None:
            continue
        value = changes.get(key, field.contents())
        writer.add_key_value(key, value, field.types[0], field.types[-1] if len(field.types) > 1 else None)
    add: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
        list: writer.add_array,
    }  # fmt: skip
    for key in changes.keys() - reader.fields.keys():
        if changes[key] is not None:
            add[type(changes[key])](key, changes[key])
    arrays: Arrays = {one.name: (np.array(one.data), one.tensor_type) for one in reader.tensors}
    tensors(arrays)
    for name, (data, kind) in arrays.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".new").replace(path)


def special_vocabulary(folder: Path) -> dict[str, Any]:
    """Return the metadata that llama.cpp's converter writes of a model's merges, special tokens and chat template."""
    # imported here because the package is optional
    import gguf

    vocabulary = gguf.SpecialVocab(folder, load_merges=True)
    found: dict[str, Any] = {
        "tokenizer.ggml.merges": vocabulary.merges,
        **{f"tokenizer.ggml.{role}_token_id": number for role, number in vocabulary.special_token_ids.items()},
        **{f"tokenizer.ggml.add_{role}_token": flag for role, flag in vocabulary.add_special_token.items()},
    }
    template = vocabulary.chat_template
    if isinstance(template, list):
        template = next((one["template"] for one in template if one["name"] == "default"), None)
    return found if template is None else {**found, "tokenizer.chat_template": template}
