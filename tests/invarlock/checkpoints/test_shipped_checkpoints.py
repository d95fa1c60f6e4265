"""The kept checkpoints are the files that their tools wrote, byte for byte."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from safetensors import safe_open
from shipped_checkpoints import SHIPPED, dense_numbers, names, restore


@pytest.mark.parametrize("name", names())
def test_a_kept_checkpoint_is_restored_as_its_tool_wrote_it(name: str, tmp_path: Path) -> None:
    folder = restore(name, tmp_path / "subject")

    assert (folder / "tokenizer.json").is_file() or list(folder.glob("*.gguf")) or list(folder.glob("adapter_*"))
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert len(file.keys()) > 0
    assert all(len(one["sha256"]) == 64 for one in dense_numbers(name).values())


def test_the_page_of_provenance_lists_every_kept_file() -> None:
    spec = importlib.util.spec_from_file_location("provenance", SHIPPED / "provenance.py")
    assert spec is not None
    assert spec.loader is not None
    provenance = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(provenance)

    assert (SHIPPED / "PROVENANCE.md").read_text() == provenance.page()
