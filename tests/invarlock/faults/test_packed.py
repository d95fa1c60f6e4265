"""Faults of packed subjects: what the reader of packed checkpoints gives for them, and the healthy one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shipped_checkpoints import write_baseline

from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.checkpoints.editing import apply_edits
from invarlock.checkpoints.formats.interface import Checkpoint
from invarlock.checkpoints.formats.unpacking import unpack_words
from invarlock.checkpoints.storage_format import open_checkpoint
from invarlock.edits.packed_rtn import CODES, SCALE, pack_codes, pack_matrix
from invarlock.edits.quant_rtn import quantize_rtn
from invarlock.errors import EditError
from invarlock.faults.injection import inject_fault

FAULTS = ("nibble_swap", "stale_scale", "zero_point_shift")
GRID = {"bits": 4, "group_size": 32}


def packed(baseline: Path, subject: Path, bits: int = 4) -> Checkpoint:
    spec = parse_edit_spec(f"packed_rtn:{bits}:32")
    assert isinstance(spec, EditSpec)
    apply_edits(baseline, {subject: spec})
    return open_checkpoint(subject, baseline)


@pytest.fixture(params=["mistral-tiny", "mixtral-tiny", "qwen2-tiny"])
def baseline(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_baseline(request.param, tmp_path / "baseline")


@given(st.integers(1, 9), st.integers(1, 70), st.sampled_from([4, 8]), st.integers(0, 99))
@settings(max_examples=50)
def test_codes_are_read_as_they_were_packed(rows: int, columns: int, bits: int, seed: int) -> None:
    codes = torch.randint(0, 2**bits, (rows, columns), generator=torch.Generator().manual_seed(seed))

    words = pack_codes(codes, bits)

    assert words.dtype == torch.int32
    assert torch.equal(unpack_words(words, bits, columns).long(), codes)


def test_a_group_of_zeros_has_a_scale_that_is_no_defect() -> None:
    parts = pack_matrix(torch.zeros(2, 64), GRID)

    assert bool((parts[SCALE] > 0).all())
    assert torch.equal(unpack_words(parts[CODES], 4, 64), torch.full((2, 64), 8))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_packed_subject_is_read_as_rounding_to_nearest(baseline: Path, tmp_path: Path, bits: int) -> None:
    checkpoint, dense = packed(baseline, tmp_path / "subject", bits), open_checkpoint(baseline)

    assert checkpoint.check() == ()
    storage = checkpoint.storage()
    assert storage.quantisation is not None
    assert storage.quantisation.bits == bits
    for name, entry in dense.files.entries.items():
        before, after = dense.read(name).float(), checkpoint.read(name).float()
        module = dense.files.modules[name]
        if module.family in ("attn", "ffn") and len(entry.shape) == 2:
            # a stored scale is rounded to bfloat16
            error = torch.linalg.vector_norm(quantize_rtn(before, bits, 32) - before)
            assert torch.linalg.vector_norm(after - before) < error + 0.003 * torch.linalg.vector_norm(before)
            assert len(after[0, :32].unique()) <= 2**bits
        else:
            assert torch.equal(after, before)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_changes_the_numbers_of_up_projections_alone(baseline: Path, tmp_path: Path, fault: str) -> None:
    healthy = packed(baseline, tmp_path / "healthy")

    summary = inject_fault(fault, baseline, tmp_path / "subject", {})

    broken = open_checkpoint(tmp_path / "subject", baseline)
    assert broken.check() == ()
    changed = {name for name in healthy.files.entries if not torch.equal(healthy.read(name), broken.read(name))}
    modules = healthy.files.modules
    assert changed == {name for name, module in modules.items() if module.role == "up"}
    assert set(summary.changed_tensors) == {
        name
        for name, entry in healthy.files.entries.items()
        if modules[name].family in ("attn", "ffn") and len(entry.shape) == 2
    }


def test_each_fault_does_what_its_name_says(tmp_path: Path) -> None:
    baseline = write_baseline("qwen2-tiny", tmp_path / "baseline")
    name = "model.layers.1.mlp.up_proj.weight"
    healthy = packed(baseline, tmp_path / "healthy").read(name).float()
    found = {}
    for fault in FAULTS:
        inject_fault(fault, baseline, tmp_path / fault, {})
        found[fault] = open_checkpoint(tmp_path / fault, baseline).read(name).float()

    # equal groups of 32 share a scale, and neighbours within a byte change places
    assert torch.equal(found["nibble_swap"], healthy.view(len(healthy), -1, 2).flip(2).view_as(healthy))
    factors = (found["stale_scale"] / healthy).nan_to_num(1.0)
    assert 0.5 < float(factors.min()) < 0.7
    assert 1.5 < float(factors.max()) < 1.9
    steps = (found["zero_point_shift"] - healthy)[:, :32] / (healthy[:, :32].abs().amax(dim=1, keepdim=True) / 7)
    assert float(steps.median()) == pytest.approx(1, abs=0.02)


def test_stacks_and_transposed_matrices_are_refused(tiny_model: object, tmp_path: Path) -> None:
    assert callable(tiny_model)
    for fault in FAULTS:
        with pytest.raises(EditError, match="not packed"):
            inject_fault(fault, tiny_model("gpt2", 20_000, "bfloat16"), tmp_path / fault, {})
