"""Checkpoints that real tools wrote from the embedded models, kept small under ``tests/data/shipped``.

Example::

    restore("bitsandbytes-nf4", tmp_path / "subject")   # the files as bitsandbytes wrote them, byte for byte
    dense_numbers("bitsandbytes-nf4")                   # digests of what bitsandbytes itself dequantises

Tensors that the tool left unchanged (embeddings, norms) are not stored but copied from the embedded model. The rest is
compressed. ``restore`` compares each file with the digest of the file that the tool wrote.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from small_baselines import CONFIGS, write_small_baseline

ROOT = Path(__file__).parents[2]
EMBEDDED = ROOT / "suites" / "embedded"
SHIPPED = ROOT / "tests" / "data" / "shipped"
CONTENTS, NUMBERS = "contents.json", "dense.json"
LARGE_BYTES = 8192
# The casts that a tool may have applied to a tensor that it did not quantise. Tools that load in half precision cast it
# to float16 first.
CASTS = {
    "BF16": (torch.bfloat16,), "F16": (torch.float16,), "F32": (torch.float32,),
    "F16 to F32": (torch.float16, torch.float32), "F16 to BF16": (torch.float16, torch.bfloat16),
}  # fmt: skip


def names() -> list[str]:
    """Return the names of the kept checkpoints."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONTENTS}"))


def baseline_of(name: str) -> str:
    """Return the name of the embedded or small random model that a checkpoint was made from."""
    return str(_contents(name)["baseline"])


def write_baseline(model: str, folder: Path) -> Path:
    """Write an embedded model, or a small random model, with its tokenizer and return the folder."""
    if model in CONFIGS:
        return write_small_baseline(model, folder)
    folder.mkdir(parents=True)
    for source in (*sorted((EMBEDDED / model).iterdir()), *sorted((EMBEDDED / "tokenizer").iterdir())):
        shutil.copyfile(source, folder / source.name)
    return folder


def restore(name: str, folder: Path) -> Path:
    """Write the files of a kept checkpoint as its tool wrote them and return the folder."""
    contents = _contents(name)
    folder.mkdir(parents=True)
    for file, kept in contents["files"].items():
        if "embedded" in kept:
            data = (EMBEDDED / kept["embedded"]).read_bytes()
        elif "copied" in kept:
            data = _insert(lzma.decompress((SHIPPED / name / f"{file}.xz").read_bytes()), kept["copied"], contents)
        elif kept.get("compressed"):
            data = lzma.decompress((SHIPPED / name / f"{file}.xz").read_bytes())
        else:
            data = (SHIPPED / name / file).read_bytes()
        if hashlib.sha256(data).hexdigest() != kept["sha256"]:
            raise AssertionError(f"{name}/{file}: not the file that the tool wrote")
        (folder / file).write_bytes(data)
    return folder


def restore_with_tokenizer(name: str, folder: Path) -> Path:
    """Write a kept checkpoint with the embedded tokenizer, and return the folder.

    Qwen2's tokenizer class adds an end token when it saves a tokenizer; the embedded tokenizer has none.
    """
    restore(name, folder)
    for path in folder.glob("*token*"):
        path.unlink()
    for path in (EMBEDDED / "tokenizer").iterdir():
        shutil.copy(path, folder)
    return folder


def dense_numbers(name: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the dtype, shape, digest and first values of each tensor, as dequantised by the tool itself."""
    return dict(json.loads((SHIPPED / name / NUMBERS).read_text()))


def digest(tensor: torch.Tensor) -> str:
    """Return the SHA-256 of the values as float32 in row order."""
    return hashlib.sha256(tensor.detach().to(torch.float32).contiguous().numpy().tobytes()).hexdigest()


def keep(name: str, folder: Path, baseline: str, tool: Mapping[str, str], dense: Mapping[str, torch.Tensor]) -> None:
    """Store the checkpoint that a tool wrote into ``folder``, and the values to which the tool dequantises it."""
    target = SHIPPED / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    files: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        file, data = str(path.relative_to(folder)), path.read_bytes()
        files[file] = {"sha256": hashlib.sha256(data).hexdigest()}
        same = next((one for one in _embedded_files(baseline) if one.read_bytes() == data), None)
        if same is not None:
            files[file]["embedded"] = str(same.relative_to(EMBEDDED))
        elif path.suffix in (".safetensors", ".gguf", ".bin"):
            rest, files[file]["copied"] = _leave_out(path, baseline)
            (target / f"{file}.xz").write_bytes(lzma.compress(rest, preset=9 | lzma.PRESET_EXTREME))
        elif len(data) > LARGE_BYTES:
            files[file]["compressed"] = True
            (target / f"{file}.xz").write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
        else:
            (target / file).write_bytes(data)
    _write_json(target / CONTENTS, {"baseline": baseline, "tool": dict(tool), "files": files})
    numbers = {
        key: {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "sha256": digest(value),
            "first": [float(one) for one in value.flatten()[:4]],
        }
        for key, value in sorted(dense.items())
    }
    _write_json(target / NUMBERS, numbers)


def _leave_out(path: Path, baseline: str) -> tuple[bytes, list[list[Any]]]:
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return data, []
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])
    spans = []
    with safe_open(EMBEDDED / baseline / "model.safetensors", "pt") as model:
        known = set(model.keys())
        for name, entry in entries.items():
            begin, end = (start + offset for offset in entry.get("data_offsets", (0, 0)))
            for cast in (one for one in CASTS if name in known and one.split(" to ")[-1] == entry["dtype"]):
                if _raw(model.get_tensor(name), cast) == data[begin:end]:
                    spans.append([begin, end, name, cast])
                    break
    rest, position = b"", 0
    for begin, end, _, _ in sorted(spans):
        rest, position = rest + data[position:begin], end
    return rest + data[position:], [[begin, name, cast] for begin, _, name, cast in sorted(spans)]


def _insert(rest: bytes, copied: list[list[Any]], contents: Mapping[str, Any]) -> bytes:
    if not copied:
        return rest
    data, position = b"", 0
    with safe_open(EMBEDDED / contents["baseline"] / "model.safetensors", "pt") as model:
        for begin, name, cast in copied:
            step = begin - len(data)
            data += rest[position : position + step] + _raw(model.get_tensor(name), cast)
            position += step
    return data + rest[position:]


def _raw(tensor: torch.Tensor, cast: str) -> bytes:
    for dtype in CASTS[cast]:
        tensor = tensor.to(dtype)
    return bytes(tensor.contiguous().view(torch.uint8).numpy().tobytes())


def _embedded_files(baseline: str) -> list[Path]:
    own = [] if baseline in CONFIGS else [*(EMBEDDED / baseline).iterdir()]
    return sorted([*own, *(EMBEDDED / "tokenizer").iterdir()])


def _contents(name: str) -> dict[str, Any]:
    return dict(json.loads((SHIPPED / name / CONTENTS).read_text()))


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
