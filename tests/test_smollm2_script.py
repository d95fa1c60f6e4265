"""The script that writes a package's checkpoint for the suite ``laptop``, run on a small GGUF file."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from shipped_checkpoints import baseline_of, restore, write_baseline
from tokenizers import Tokenizer

from invarlock.catalog.pins import read_pins
from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.checkpoints.storage_format import open_checkpoint

gguf = pytest.importorskip("gguf")

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts/smollm2_from_package.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("smollm2_from_package", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def of_smollm(path: Path) -> Path:
    """Write a GGUF file again as one with SmolLM2's kind of tokenizer."""
    reader, target = gguf.GGUFReader(path), path.with_name("smollm.gguf")
    writer = gguf.GGUFWriter(target, "llama")
    stated = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    for key in stated.keys() - {"general.architecture", "tokenizer.ggml.pre"}:
        field = stated[key]
        writer.add_key_value(key, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
    writer.add_tokenizer_pre("smollm")
    for name in ("bos", "eos", "unknown", "padding"):
        if f"tokenizer.ggml.{name}_token_id" not in stated:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", 0)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_the_checkpoint_has_the_files_numbers_and_the_same_bytes_each_time(script: ModuleType, tmp_path: Path) -> None:
    base = write_baseline(baseline_of("gguf-q4_0"), tmp_path / "base")
    file = of_smollm(restore("gguf-q4_0", tmp_path / "gguf") / "model.gguf")

    for name in ("one", "two"):
        script.write_checkpoint(file, tmp_path / name)

    own, stored = open_checkpoint(tmp_path / "one"), open_checkpoint(file, base)
    assert own.files.shapes == stored.files.shapes
    assert all(torch.equal(own.read(name), stored.read(name).to(torch.bfloat16)) for name in stored.files.entries)
    assert digest_checkpoint(tmp_path / "one") == digest_checkpoint(tmp_path / "two")
    config: dict[str, Any] = json.loads((tmp_path / "one/config.json").read_bytes())
    assert {key: own.files.config[key] for key in ("hidden_size", "num_key_value_heads")} == {
        key: stored.files.config[key] for key in ("hidden_size", "num_key_value_heads")
    }
    assert config["rms_norm_eps"] == stored.files.config["rms_norm_eps"]
    tokenizer: Any = Tokenizer.from_file(str(tmp_path / "one/tokenizer.json"))
    assert [tokenizer.decode([token]) for token in tokenizer.encode("1984").ids] == ["1", "9", "8", "4"]


def test_another_models_file_is_refused(script: ModuleType, tmp_path: Path) -> None:
    file = restore("gguf-q4_0", tmp_path / "gguf") / "model.gguf"

    with pytest.raises(ValueError, match="is no SmolLM2"):
        script.write_checkpoint(file, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 2
    assert "run: pip install" in done.stderr or "already exists" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_suite_pins_what_the_script_writes() -> None:
    pins = read_pins(ROOT / "suites/model_revisions.json")

    (pin,) = pins.models.values()

    assert (pin.id, pin.revision) == ("local/smollm2-135m-instruct-q4_1", pin.digest)
    assert pin.id.removeprefix("local/") in SCRIPT.read_text("utf-8")
