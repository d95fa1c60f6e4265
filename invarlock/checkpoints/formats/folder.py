"""The small files of a checkpoint's folder, and their statements about quantisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from invarlock.checkpoints.layout import CONFIG_FILE
from invarlock.checkpoints.safetensors_files import MAX_CONFIG_BYTES, CheckpointFiles, read_checkpoint
from invarlock.errors import CheckpointError, DocumentError
from invarlock.jsonio import read_json

MODELOPT_FILE = "hf_quant_config.json"
# How the weights and the KV cache are quantised.
MODELOPT_KEYS = ("quant_algo", "kv_cache_quant_algo")
# Quantisers' own files beside a config that does not say how the weights are packed, and the quantiser of each.
QUANTISER_FILES: Mapping[str, str] = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    MODELOPT_FILE: "modelopt",
}


@dataclass(frozen=True)
class CheckpointFolder:
    """A checkpoint folder, read once; ``base`` is the baseline's folder, for formats that store changes of it."""

    path: Path
    base: Path | None = None

    def document(self, name: str) -> Mapping[str, Any]:
        """Return a JSON object of the folder; empty if the file is missing.

        Raises:
            CheckpointError: when the file is malformed.
        """
        return read_document(self.path / name)

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of the folder's files."""
        return frozenset(path.name for path in self.path.iterdir()) if self.path.is_dir() else frozenset()

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The content of ``config.json``; empty if it is missing."""
        return self.document(CONFIG_FILE)

    @cached_property
    def quantisation(self) -> Mapping[str, Any]:
        """How the weights are packed, from the config or a quantiser's own file; empty if neither says anything."""
        return find_quantisation(self.path)[1]

    @cached_property
    def method(self) -> str | None:
        """``quant_method`` in lower case, under transformers' names; None if nothing is packed."""
        return find_quantisation(self.path)[0]

    @cached_property
    def files(self) -> CheckpointFiles:
        """The stored tensors, read from the headers.

        Raises:
            CheckpointError: if it is not a complete safetensors checkpoint.
        """
        return read_checkpoint(self.path)


def find_quantisation(folder: Path) -> tuple[str | None, Mapping[str, Any], str]:
    """Return the method by which a folder's weights are packed, its description, and the file that states it.

    The method is None if nothing is packed, and empty if it is not named.
    """
    config = read_document(folder / CONFIG_FILE)
    inner = config.get("text_config")
    stated = config.get("quantization_config") or (
        inner.get("quantization_config") if isinstance(inner, dict) else None
    )
    if stated:
        table = stated if isinstance(stated, dict) else {}
        method = table.get("quant_method") or ""
        if not method and (table.get("load_in_8bit") or table.get("load_in_4bit")):
            method = "bitsandbytes"
        return str(method).lower(), table, CONFIG_FILE
    for name, default in QUANTISER_FILES.items():
        document = read_document(folder / name)
        if document:
            table = document.get("quantization", document)
            table = table if isinstance(table, dict) else {}
            if name == MODELOPT_FILE and "quant_algo" in table and not any(table.get(key) for key in MODELOPT_KEYS):
                continue  # an export without quantisation
            return str(table.get("quant_method") or default).lower(), table, name
    return None, {}, ""


def read_document(path: Path) -> Mapping[str, Any]:
    """Return a JSON object; empty if the file does not exist.

    Raises:
        CheckpointError: when the file is malformed.
    """
    if not path.is_file():
        return {}
    try:
        document = read_json(path, limit_bytes=MAX_CONFIG_BYTES, non_finite=True)
    except DocumentError as error:
        raise CheckpointError(f"{error}; fetch the file again") from None
    return document if isinstance(document, dict) else {}
