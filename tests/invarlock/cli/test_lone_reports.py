"""What ``evaluate`` and ``verify`` say about one report, and that a report of any subject can be sealed."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from shipped_checkpoints import write_baseline
from small_evaluations import evaluate_small

from invarlock.cli import main

ROWS = 10
FLIPPED = "model.layers.1.mlp.up_proj.weight"


def invarlock(*arguments: object) -> tuple[int, str]:
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = main([str(argument) for argument in arguments])
    return code, printed.getvalue()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_baseline("mistral-tiny", tmp_path / "base")
    return tmp_path / "base"


def with_rows_turned(folder: Path) -> Path:
    """Write a model in which some rows of one matrix have the opposite sign, which few of its answers depend on."""
    write_baseline("mistral-tiny", folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[FLIPPED][:ROWS] *= -1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_each_warning_that_is_counted_is_a_line(base: Path, tmp_path: Path) -> None:
    subject = with_rows_turned(tmp_path / "turned")

    code, report, output = evaluate_small(base, subject, tmp_path / "out")

    assert code == 0, output
    assert report["spectral"]["status"] == "warn"
    lines = [line for line in output.splitlines() if line.startswith(("warning: ", "warns "))]
    assert any(line.startswith("warning: spectral warns: ") and FLIPPED in line for line in lines)
    assert f"PASS, with {len(lines)} warnings: " in output
    assert len(set(lines)) == len(lines)


def test_a_copy_of_the_baseline_is_named_as_one(base: Path, tmp_path: Path) -> None:
    _, _, same = evaluate_small(base, base, tmp_path / "same")
    _, _, other = evaluate_small(base, with_rows_turned(tmp_path / "turned"), tmp_path / "other")

    note = "note: subject and baseline are the same checkpoint"
    assert note in same.splitlines()
    assert note not in other


@pytest.mark.parametrize("as_json", [False, True])
def test_verify_says_what_the_verdict_is_and_can_require_pass(base: Path, tmp_path: Path, *, as_json: bool) -> None:
    write_baseline("qwen2-tiny", tmp_path / "foreign")
    evaluate_small(base, base, tmp_path / "good")
    evaluate_small(base, tmp_path / "foreign", tmp_path / "bad")
    options = ["--json"] if as_json else []

    found = {
        (name, required): invarlock("verify", tmp_path / name, *options, *(["--require-pass"] if required else []))
        for name in ("good", "bad")
        for required in (False, True)
    }

    assert {key: code for key, (code, _) in found.items()} == {
        ("good", False): 0,
        ("good", True): 0,
        ("bad", False): 0,
        ("bad", True): 7,
    }
    refused = found["bad", True][1]
    assert "the verdict is FAIL, but PASS is required" in refused
    assert "pass_required" in refused
    if not as_json:
        assert "evaluation.report.json: verified, verdict PASS\n" in found["good", True][1]
        assert "evaluation.report.json: verified, verdict FAIL\n" in found["bad", False][1]
        assert "NOT VERIFIED" in refused


def test_a_report_of_a_larger_model_of_another_kind_can_be_sealed(base: Path, tmp_path: Path) -> None:
    write_baseline("mixtral-tiny", tmp_path / "foreign")
    tensors = load_file(tmp_path / "foreign" / "model.safetensors")
    tensors["model.more.weight"] = tensors["model.embed_tokens.weight"].repeat(8, 1).contiguous()
    save_file(tensors, tmp_path / "foreign" / "model.safetensors", metadata={"format": "pt"})

    code, _, output = evaluate_small(base, tmp_path / "foreign", tmp_path / "out")
    built = invarlock("build", tmp_path / "pack", "--report", tmp_path / "out/evaluation.report.json")

    assert code == 1, output
    assert built[0] == 0, built[1]
    coverage: Any = json.loads((tmp_path / "out/edit_metadata.json").read_bytes())["coverage"]
    assert 0 < coverage["edited_params"] <= coverage["total_params"]
