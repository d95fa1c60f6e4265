"""Packing with the real backends, and reading back what they stored."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from invarlock.catalog.deployables import parse_deployable_spec
from invarlock.checkpoints.snapshots import make_snapshot
from invarlock.checkpoints.storage_format import open_checkpoint
from invarlock.deployables.artifacts import examine_artifact, loaded_bytes, make_artifact
from invarlock.errors import EditError
from invarlock.evaluation.models import Placement, load_stored_model
from invarlock.evaluation.windows import Draw, draw_windows
from invarlock.reports.deployables import DOCUMENTS, INFERENCE, INVENTORY, LOAD, MEMORY

EMBEDDED = Path(__file__).parents[3] / "suites" / "embedded"
CPU = Placement("cpu")
SPECS = ("torchao_int8:8:128:all", "torchao_int8:8:row:ffn", "bitsandbytes_int8:8:row:attn")
LINEARS = {"all": 28, "ffn": 12, "attn": 16}


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("snapshot") / "baseline"
    make_snapshot(EMBEDDED / "mistral-tiny", EMBEDDED / "tokenizer", folder, None)
    return folder


@pytest.fixture(scope="module")
def draw() -> Draw:
    return draw_windows(list(range(3, 1000)) * 2, 32, 4, 8, 0)


def backends_weight(model: Any, name: str) -> torch.Tensor:
    """Return what a packed weight stands for by the backend's own word: the layer's outputs of unit vectors."""
    layer = model.get_submodule(name.removesuffix(".weight"))
    with torch.inference_mode():
        outputs: torch.Tensor = layer(torch.eye(layer.in_features, dtype=model.dtype))
    return outputs.T.float()


@pytest.mark.parametrize("text", SPECS)
def test_packed_weights_are_those_that_the_backend_computes_with(snapshot: Path, tmp_path: Path, text: str) -> None:
    spec = parse_deployable_spec(text)

    made = make_artifact(snapshot, tmp_path / "subject", spec, CPU)
    checkpoint = open_checkpoint(tmp_path / "subject")

    before = load_file(snapshot / "model.safetensors")
    after = {name: checkpoint.read(name) for name in checkpoint.files.entries}
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert made.matrices == LINEARS[spec.scope.family]
    assert {name: tensor.dtype for name, tensor in after.items()} == {name: t.dtype for name, t in before.items()}
    assert len(changed) == made.matrices
    assert made.parameters == sum(before[name].numel() for name in changed)
    model = load_stored_model(tmp_path / "subject", CPU)
    for name in sorted(changed)[:6]:
        # bitsandbytes rounds its inputs to 8 bits too
        torch.testing.assert_close(after[name].float(), backends_weight(model, name), rtol=0.02, atol=1e-4)


def test_a_group_of_weights_is_within_half_a_step_of_what_it_was(snapshot: Path, tmp_path: Path) -> None:
    spec = parse_deployable_spec("torchao_int8:8:128:all")
    make_artifact(snapshot, tmp_path / "subject", spec, CPU)
    name = "model.layers.1.mlp.down_proj.weight"

    before = load_file(snapshot / "model.safetensors")[name].float().reshape(128, 3, 128)
    after = open_checkpoint(tmp_path / "subject").read(name).float().reshape(128, 3, 128)

    step = before.abs().amax(dim=2, keepdim=True) / 127
    # and the rounding to bfloat16 when it is written
    assert bool(((after - before).abs() <= 0.51 * step + before.abs() / 256).all())


@pytest.mark.parametrize("text", ["torchao_int8:8:128:all", "bitsandbytes_int8:8:row:all"])
def test_a_packed_model_takes_less_and_generates(snapshot: Path, tmp_path: Path, draw: Draw, text: str) -> None:
    spec = parse_deployable_spec(text)
    make_artifact(snapshot, tmp_path / "subject", spec, CPU)

    seen = examine_artifact(snapshot, tmp_path / "subject", spec, CPU, draw)

    assert set(seen) == set(DOCUMENTS[:-1])
    assert seen[INVENTORY]["totals"]["matrices"] == seen[LOAD]["packed_modules"] == 28
    assert seen[INVENTORY]["not_packed"] == []
    assert seen[MEMORY]["baseline"]["loaded_bytes"] == 2_099_584
    assert 0.5 < seen[MEMORY]["ratio"]["loaded_bytes"] < 0.7
    assert 0.5 < seen[MEMORY]["ratio"]["weight_files_bytes"] < 0.7
    assert (seen[INFERENCE]["repeated"], seen[INFERENCE]["nonfinite_logits"]) == (True, 0)
    assert len(seen[INFERENCE]["token_ids"]) == seen[INFERENCE]["new_tokens"]


def test_loaded_bytes_are_those_of_every_tensor_once(snapshot: Path, tmp_path: Path) -> None:
    spec = parse_deployable_spec("torchao_int8:8:row:all")
    make_artifact(snapshot, tmp_path / "subject", spec, CPU)
    stored = load_file(tmp_path / "subject" / "model.safetensors")

    loaded = loaded_bytes(load_stored_model(tmp_path / "subject", CPU))

    # besides what is stored, the table of rotary frequencies: 16 float32 and its copy
    assert loaded == sum(tensor.numel() * tensor.element_size() for tensor in stored.values()) + 2 * 16 * 4


def test_experts_that_are_one_tensor_are_left_and_named(tmp_path: Path, draw: Draw) -> None:
    make_snapshot(EMBEDDED / "mixtral-tiny", EMBEDDED / "tokenizer", tmp_path / "baseline", None)
    spec = parse_deployable_spec("torchao_int8:8:row:all")

    made = make_artifact(tmp_path / "baseline", tmp_path / "subject", spec, CPU)
    seen = examine_artifact(tmp_path / "baseline", tmp_path / "subject", spec, CPU, draw)

    assert made.matrices == 8
    assert len(seen[INVENTORY]["not_packed"]) == 24
    assert all(".experts." in name for name in seen[INVENTORY]["not_packed"])


def test_a_scope_without_anything_to_pack_is_an_error_and_leaves_no_files(tmp_path: Path) -> None:
    make_snapshot(EMBEDDED / "mixtral-tiny", EMBEDDED / "tokenizer", tmp_path / "baseline", None)

    with pytest.raises(EditError, match="packed nothing"):
        make_artifact(tmp_path / "baseline", tmp_path / "subject", parse_deployable_spec("torchao_int8:8:row:ffn"), CPU)

    assert [path.name for path in tmp_path.iterdir()] == ["baseline"]
