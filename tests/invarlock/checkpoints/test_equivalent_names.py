from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from invarlock.checkpoints.equivalence.names import BASE_PREFIXES, renamed, under_names_of
from invarlock.checkpoints.storage_format import open_checkpoint

TENSORS = st.sets(st.from_regex(r"(layers\.[0-9]\.)?[a-z]{1,8}\.weight", fullmatch=True), min_size=1, max_size=12)


@given(TENSORS, st.sampled_from(BASE_PREFIXES), st.booleans())
def test_a_prefix_on_one_side_is_seen(names: set[str], prefix: str, on_subject: bool) -> None:
    longer = {f"{prefix}{name}" for name in names}
    baseline, subject = (names, longer) if on_subject else (longer, names)

    found = renamed(baseline | {"lm_head.weight"}, subject | {"lm_head.weight"})

    assert set(found) == baseline - subject - {"lm_head.weight"}
    assert set(found.values()) == subject - baseline - {"lm_head.weight"}


@given(TENSORS)
def test_equal_names_and_missing_tensors_are_left(names: set[str]) -> None:
    assert renamed(names, names) == {}
    assert renamed(names | {"model.more.weight"}, names) == {}


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_checkpoint_is_read_under_the_names_of_another(
    architecture: str, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = tiny_model(architecture)
    stored = load_file(base / "model.safetensors")
    prefix = "transformer." if architecture == "gpt2" else "model."
    for file in base.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file({name.removeprefix(prefix): tensor for name, tensor in stored.items()}, tmp_path / "model.safetensors")

    checkpoint = under_names_of(open_checkpoint(base).files.entries, open_checkpoint(tmp_path))

    assert checkpoint.files.shapes == open_checkpoint(base).files.shapes
    assert all(torch.equal(checkpoint.read(name), stored[name]) for name in checkpoint.files.entries)
