"""Decides which files of a folder make up the checkpoint: weights, config and tokenizer.

Example::

    weight_files(Path("mistral-7b"))     # ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    checkpoint_files(Path("mistral-7b")) # those, the index, config.json, generation_config.json, tokenizer.json, …

All other files in the folder (READMEs, weights in other formats) are not part of the checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invarlock.catalog.pins import CODE_SUFFIX
from invarlock.errors import CheckpointError, DocumentError
from invarlock.jsonio import read_json
from invarlock.problems import Code

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, "adapter_model.bin")
CONFIG_FILES = (CONFIG_FILE, "generation_config.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "tiktoken.model",
    "tokenizer.model",
)
CHAT_TEMPLATES = "chat_template*"

# A mixture of 1,000 experts in 100 blocks has some 300,000 tensors; its index is 30 MB.
MAX_INDEX_BYTES = 64 * 1024 * 1024

# Weights in PyTorch's format, which other tools write.
PICKLES = ("pytorch_model*.bin", "consolidated*.pth", "*.pt")
# The start of the text that replaces a file that Git LFS has not fetched.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
GGUF_SUFFIX = ".gguf"
_GGUF_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,213}")


@dataclass(frozen=True)
class ShardIndex:
    """``model.safetensors.index.json``: the shard of each tensor, and the document itself.

    As in transformers, the index decides which shards exist, and the shards decide which tensors exist.
    """

    weight_map: Mapping[str, str]
    document: Mapping[str, Any]


def check_fetched(path: Path) -> None:
    """Check that a file is not a pointer of Git LFS.

    Raises:
        CheckpointError: when it is one.
    """
    with path.open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise CheckpointError(f"{path}: a pointer of Git LFS in the place of the file; fetch it: git lfs pull")


def read_index(folder: Path) -> ShardIndex | None:
    """Return the index of a sharded checkpoint; None if the weights are one file.

    As in transformers, ``model.safetensors`` takes precedence over an index in the same folder. If the shards of the
    index are there too, the folder holds two models: vLLM, for example, serves the other one.

    Raises:
        CheckpointError: when the folder has neither or two models, or the index is malformed or names a file outside
            the folder.
    """
    path = folder / INDEX_FILE
    if (folder / SINGLE_FILE).is_file():
        _check_one_model(folder, path)
        return None
    if not path.is_file():
        pickle = next((found.name for pattern in PICKLES for found in sorted(folder.glob(pattern))), None)
        if pickle is not None:
            raise CheckpointError(
                f"{folder}: weights as pickles alone ({pickle}), which can run code; save the model as safetensors: "
                "model.save_pretrained(FOLDER) in transformers"
            )
        raise CheckpointError(
            f"{folder}: neither {SINGLE_FILE} nor {INDEX_FILE}; point at a folder with safetensors weights"
        )
    return parse_index(path, ".safetensors")


def _check_one_model(folder: Path, path: Path) -> None:
    """Check that an index beside ``model.safetensors`` is a leftover: that not all its shards are in the folder."""
    if not path.is_file():
        return
    try:
        shards = set(parse_index(path, ".safetensors").weight_map.values()) - {SINGLE_FILE}
    except CheckpointError:
        return
    if not shards or not all((folder / shard).is_file() for shard in shards):
        return
    raise CheckpointError(
        f"{folder}: two sets of weights, {SINGLE_FILE} and the shards of {INDEX_FILE}, of which programs read one or "
        "the other; move one of the two away"
    )


def parse_index(path: Path, suffix: str) -> ShardIndex:
    """Return the index in a file; its shards end with ``suffix``.

    Raises:
        CheckpointError: if it is malformed or names a file outside the folder.
    """
    try:
        document = read_json(path, limit_bytes=MAX_INDEX_BYTES)
    except DocumentError as error:
        raise CheckpointError(f"{error}; fetch the file again") from None
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: 'weight_map' is not a table of tensors; fetch the file again")
    if not isinstance(document.get("metadata"), dict | None):
        raise CheckpointError(f"{path}: 'metadata' is not a table; fetch the file again")
    weight_map = {name: _plain_name(shard) for name, shard in weight_map.items()}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or _SHARD_NAME.fullmatch(shard) is None or not shard.endswith(suffix):
            raise CheckpointError(
                f"{path}: 'weight_map' puts {name!r} in {str(shard)[:80]!r}, which is no {suffix[1:]} file of the "
                "folder; put all shards next to the index and name them in it, or save the model again"
            )
    return ShardIndex(weight_map, document)


def _plain_name(shard: Any) -> Any:
    """Return the name of a shard without path parts that stay in the folder: ``././a`` becomes ``a``."""
    if not isinstance(shard, str) or shard.startswith("/") or shard.endswith("/"):
        return shard
    return "/".join(part for part in shard.split("/") if part not in ("", "."))


def weight_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the weight files, sorted.

    Raises:
        CheckpointError: if there are none, or a file named in the index is missing.
    """
    return shard_names(folder, read_index(folder))


def shard_names(folder: Path, index: ShardIndex | None) -> tuple[str, ...]:
    """Return the names of the weight files, sorted, given the index that was read before.

    Raises:
        CheckpointError: when a file named in the index is missing.
    """
    if index is None:
        return (SINGLE_FILE,)
    names = tuple(sorted(set(index.weight_map.values())))
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: no such file, but {INDEX_FILE} names it; fetch the model again")
    return names


def no_folder(folder: Path) -> CheckpointError:
    """Return the error for a path that is not a folder."""
    words = "is a file; give the folder of the" if folder.exists() else "no such folder; give a"
    hub = ""
    if _HUB_ID.fullmatch(str(folder)) and not folder.parent.exists():
        download = f"hf download {folder} --local-dir {folder.name}"
        hub = f"; to use a model of the hub, download it first: {download}, and give {folder.name}"
    return CheckpointError(
        f"{folder}: {words} checkpoint with config.json and safetensors{hub}", code=Code.CHECKPOINT_UNUSABLE
    )


def tokenizer_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the existing tokenizer files, sorted; it is no error if there are none."""
    fixed = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    templates = [path.name for path in folder.glob(CHAT_TEMPLATES) if path.is_file()]
    return tuple(sorted([*fixed, *templates]))


def code_files(folder: Path) -> tuple[str, ...]:
    """Return the sorted names of code files in a checkpoint's folder; they are not part of the checkpoint."""
    return tuple(sorted(path.name for path in folder.glob(f"*{CODE_SUFFIX}") if path.is_file()))


def is_adapter(folder: Path) -> bool:
    """Return whether a folder has files of an adapter, even if not all of them, and no model."""
    adapter = any((folder / name).is_file() for name in ADAPTER_FILES)
    return adapter and not any((folder / name).exists() for name in (SINGLE_FILE, INDEX_FILE))


def find_gguf(path: Path) -> tuple[Path, ...]:
    """Return a model's GGUF files: the given file with its other parts, or those of a folder without safetensors.

    The tuple is empty if the path has no such file.

    Raises:
        CheckpointError: when a folder has several models, or a part of one is missing.
    """
    if path.suffix == GGUF_SUFFIX and path.is_file():
        return _gguf_parts(path)
    if any((path / name).exists() for name in (SINGLE_FILE, INDEX_FILE)):
        return ()
    found = sorted(path.glob(f"*{GGUF_SUFFIX}"))
    models = dict.fromkeys(_gguf_parts(one) for one in found)
    if len(models) > 1:
        names = ", ".join(one.name[:80] for one in found[:3])
        raise CheckpointError(f"{path}: it holds {len(models)} models in GGUF ({names}); name the file of one")
    return next(iter(models), ())


def _gguf_parts(path: Path) -> tuple[Path, ...]:
    """Return a GGUF file with the other parts that it names, in order.

    Raises:
        CheckpointError: when a part is missing.
    """
    numbered = _GGUF_PART.fullmatch(path.name)
    if numbered is None:
        return (path,)
    count = int(numbered[3])
    parts = []
    for number in range(1, count + 1):
        part = path.with_name(f"{numbered[1]}-{number:05}-of-{numbered[3]}{GGUF_SUFFIX}")
        if not part.is_file():
            raise CheckpointError(f"{part}: no such file, and {path.name} is one of {count}; fetch the model again")
        parts.append(part)
    return tuple(parts)


def checkpoint_folder(path: Path) -> Path:
    """Return the folder in which ``checkpoint_files`` are: the checkpoint's, or the folder of its GGUF file."""
    return path.parent if path.suffix == GGUF_SUFFIX and path.is_file() else path


def checkpoint_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the weight, config and tokenizer files, sorted; for an adapter or GGUF, of its own files.

    Raises:
        CheckpointError: when weights or the config are missing.
    """
    if is_adapter(folder):
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            if not (folder / name).is_file():
                raise CheckpointError(f"{folder}: no {name}; save the adapter in safetensors")
        return tuple(sorted([ADAPTER_CONFIG, ADAPTER_WEIGHTS, *tokenizer_files(folder)]))
    gguf = find_gguf(folder)
    if gguf:
        return tuple(sorted([*(path.name for path in gguf), *tokenizer_files(folder)]))
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"{folder / CONFIG_FILE}: no such file; point at the folder of a checkpoint")
    index = read_index(folder)
    names = [*shard_names(folder, index), *([INDEX_FILE] if index else [])]
    names += [name for name in CONFIG_FILES if (folder / name).is_file()]
    return tuple(sorted([*names, *tokenizer_files(folder)]))
