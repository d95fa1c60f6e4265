"""Which modules a config of compressed-tensors means: by name, by regular expression, or by their class."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from shipped_checkpoints import restore

from invarlock.checkpoints.formats.interface import Defect
from invarlock.checkpoints.formats.module_patterns import UnusablePatternError, begins, matches
from invarlock.checkpoints.storage_format import open_checkpoint
from invarlock.errors import CheckpointError

LEFT = tuple(f"model.layers.{layer}.mlp.down_proj" for layer in range(4))
ATTENTION = "re:.*self_attn.*"


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_bytes())
    change(config["quantization_config"])
    path.write_text(json.dumps(config))


@pytest.fixture
def partly_dense(tmp_path: Path) -> Path:
    """Return a 4-bit checkpoint whose down projections were left dense."""
    folder = restore("compressed-tensors-w4a16", tmp_path / "subject")
    checkpoint = open_checkpoint(folder)
    dense = {f"{module}.weight": checkpoint.read(f"{module}.weight") for module in LEFT}
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(LEFT)}
    save_file({**kept, **dense}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "pattern",
    [
        r"re:.*layers\.[0-3]\.mlp\.down_proj$",
        r"re:.*layers\.\d+\.mlp\.down_proj$",
        r"re:model\.\w+\.\d{1,3}\.mlp\.down_proj",
        r"re:(?!.*(self_attn|up_proj|gate_proj)).*layers.*",
        r"re:.*.*.*.*down_proj",
        r"re:[a-z]*.*mlp[.]down_proj",
    ],
)
def test_every_form_of_a_pattern_leaves_its_modules_dense(partly_dense: Path, pattern: str) -> None:
    change_config(partly_dense, lambda stated: stated.update(ignore=["lm_head", pattern]))

    assert open_checkpoint(partly_dense).check() == ()


def test_a_dense_layer_that_no_pattern_excludes_is_a_defect(partly_dense: Path) -> None:
    ignored = ["lm_head", r"re:.*layers\.[0-2]\.mlp\.down_proj$"]
    change_config(partly_dense, lambda stated: stated.update(ignore=ignored))

    reason = "stored as BF16, and config.json says it is packed"
    assert open_checkpoint(partly_dense).check() == (Defect(f"{LEFT[3]}.weight", "packing", reason),)


@pytest.mark.parametrize("pattern", ["re:[", "re:" + "a" * 600])
def test_a_pattern_that_cannot_be_evaluated_is_refused(partly_dense: Path, pattern: str) -> None:
    change_config(partly_dense, lambda stated: stated.update(ignore=["lm_head", pattern]))

    with pytest.raises(CheckpointError, match="the pattern '") as raised:
        open_checkpoint(partly_dense)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(a|a)*b", r"(.*)*x", r".*.*.*.*.*.*x"])
def test_a_hostile_pattern_ends_in_time(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invarlock.checkpoints.formats.module_patterns.MATCH_SECONDS", 0.2)
    started = time.monotonic()

    # some of them are matched fast by clever engines
    with suppress(UnusablePatternError):
        assert not matches(pattern, "a" * 200 + "!")

    assert time.monotonic() - started < 5


def groups(stated: dict[str, Any], *named: tuple[str, int, list[str]]) -> None:
    """Replace the groups of a config by copies of its first with other bits and targets, in this order."""
    first = next(iter(stated["config_groups"].values()))
    stated["config_groups"] = {
        name: {**first, "targets": targets, "weights": {**first["weights"], "num_bits": bits}}
        for name, bits, targets in named
    }


def test_a_match_that_takes_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invarlock.checkpoints.formats.module_patterns.MATCH_SECONDS", 1e-4)

    with pytest.raises(UnusablePatternError, match="takes too long to match"):
        matches(r"(?:(?:a|aa)+)+(?=b)c", "a" * 5000)


@pytest.mark.parametrize("linear_first", [False, True])
def test_a_group_for_all_linear_layers_yields_to_one_with_a_name_in_any_order(
    tmp_path: Path, *, linear_first: bool
) -> None:
    folder = restore("compressed-tensors-w4a16", tmp_path / "subject")
    attention = [name for name in load_file(folder / "model.safetensors") if "self_attn" in name]
    wanted = open_checkpoint(folder).read("model.layers.0.mlp.up_proj.weight")
    tensors = load_file(folder / "model.safetensors")
    for name in attention:
        # eight bits take twice the words; the codes of 128 stand for zero
        if name.endswith("weight_packed"):
            rows, columns = tensors[name].shape
            tensors[name] = torch.full((rows, 2 * columns), -0x7F7F7F80, dtype=torch.int32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    both = [("group_0", 8, [ATTENTION]), ("group_1", 4, ["Linear"])]
    change_config(folder, lambda stated: groups(stated, *(reversed(both) if linear_first else both)))

    checkpoint = open_checkpoint(folder)

    assert checkpoint.check() == ()
    assert torch.equal(checkpoint.read("model.layers.0.mlp.up_proj.weight"), wanted)
    assert not checkpoint.read("model.layers.0.self_attn.q_proj.weight").any()


def test_a_name_yields_to_no_pattern_and_patterns_are_tried_in_alphabetical_order(tmp_path: Path) -> None:
    folder = restore("compressed-tensors-w4a16", tmp_path / "subject")
    module = "model.layers.0.mlp.up_proj"
    named = [("a", 8, ["re:.*proj"]), ("b", 8, ["re:.*up_proj"]), ("c", 4, [module]), ("d", 4, ["re:(.*)proj"])]
    change_config(folder, lambda stated: groups(stated, *named))

    checkpoint = open_checkpoint(folder)

    assert checkpoint.check() == ()


def test_a_group_without_weights_concerns_activations_alone(tmp_path: Path) -> None:
    folder = restore("compressed-tensors-w4a16", tmp_path / "subject")
    more = {"targets": ["re:.*self_attn$"], "weights": None, "input_activations": {"num_bits": 8}}
    change_config(folder, lambda stated: stated["config_groups"].update(group_1=more))
    alone = restore("compressed-tensors-w4a16", tmp_path / "alone")
    change_config(alone, lambda stated: stated.update(config_groups={"group_1": more}))

    assert open_checkpoint(folder).check() == ()
    with pytest.raises(CheckpointError, match="its config has no group with weights"):
        open_checkpoint(alone)


@pytest.mark.parametrize("pattern", ["[", "a" * 600, "*"])
def test_a_pattern_that_cannot_be_evaluated_gives_no_answer(pattern: str) -> None:
    assert begins(pattern, "a" * 60) is None


def test_an_end_follows_every_alternative() -> None:
    assert begins("a|ab", "abc", "$") is False
    assert begins("a|abc", "abc", "$") is True
