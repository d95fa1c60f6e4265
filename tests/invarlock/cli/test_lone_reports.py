"""What ``evaluate`` and ``verify`` say about one report, and that a report of any subject can be sealed."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
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


def with_a_larger_vocabulary(folder: Path, *, in_config: bool = True) -> Path:
    """Write a model whose embedding and head have eight more rows, as a tool leaves it that pads them.

    It cannot be loaded unless its config says so too.
    """
    write_baseline("mistral-tiny", folder)
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_bytes())
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = torch.cat([tensors[name], tensors[name][:8]])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if in_config:
        (folder / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 8}))
    return folder


def test_a_change_of_structure_that_is_not_declared_says_how_to_declare_it(base: Path, tmp_path: Path) -> None:
    subject = with_a_larger_vocabulary(tmp_path / "padded")
    declared = "--expect vocabulary+8"

    failed, _, before = evaluate_small(base, subject, tmp_path / "before")
    _, report, after = evaluate_small(base, subject, tmp_path / "after", *declared.split())

    assert failed == 1
    assert f"note: if the change of structure is intended, declare it: {declared}" in before.splitlines()
    assert report["invariants"]["passed"]
    assert "declare it" not in after


def test_no_change_is_to_be_declared_of_a_subject_that_cannot_be_loaded(base: Path, tmp_path: Path) -> None:
    subject = with_a_larger_vocabulary(tmp_path / "padded", in_config=False)

    code, report, output = evaluate_small(base, subject, tmp_path / "out")

    assert code == 1
    assert "cannot be loaded" in report["scoring"]["not_scored"]
    assert "declare it" not in output


def test_a_subject_of_another_kind_of_model_is_named_as_one(base: Path, tmp_path: Path) -> None:
    write_baseline("qwen2-tiny", tmp_path / "foreign")

    _, report, output = evaluate_small(base, tmp_path / "foreign", tmp_path / "out")

    note = "note: the baseline is a mistral model, the subject a qwen2 model; was it made from this baseline?"
    assert note in output.splitlines()
    assert report["subject"]["name"] == "foreign"
    assert "foreign (custom" in (tmp_path / "out/evaluation.html").read_text()


def test_a_subject_without_a_tokenizer_is_scored_with_the_baselines_and_that_is_said(
    base: Path, tmp_path: Path
) -> None:
    write_baseline("mistral-tiny", tmp_path / "bare")
    for file in (tmp_path / "bare").glob("*token*"):
        file.unlink()

    code, _, bare = evaluate_small(base, tmp_path / "bare", tmp_path / "out")
    _, _, whole = evaluate_small(base, base, tmp_path / "whole")

    note = "note: the subject has no tokenizer files; the baseline's were used"
    assert code == 0, bare
    assert note in bare.splitlines()
    assert note not in whole


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
    if as_json:
        rows = [json.loads(found[name, False][1])["results"][0] for name in ("good", "bad")]
        assert [row["verdict"] for row in rows] == ["PASS", "FAIL"]
        assert json.loads(refused)["results"][0]["verdict"] is None
    else:
        assert "evaluation.report.json: verified, verdict PASS\n" in found["good", True][1]
        assert "evaluation.report.json: verified, verdict FAIL\n" in found["bad", False][1]
        assert "NOT VERIFIED" in refused


def test_a_report_of_a_larger_model_of_another_kind_can_be_sealed(base: Path, tmp_path: Path) -> None:
    write_baseline("mixtral-tiny", tmp_path / "foreign")
    tensors = load_file(tmp_path / "foreign" / "model.safetensors")
    tensors["model.more.weight"] = tensors["model.embed_tokens.weight"].repeat(8, 1).contiguous()
    save_file(tensors, tmp_path / "foreign" / "model.safetensors", metadata={"format": "pt"})

    code, _, output = evaluate_small(base, tmp_path / "foreign", tmp_path / "out")
    built = invarlock("build", tmp_path / "pack", "--report", tmp_path / "out")

    assert code == 1, output
    assert built[0] == 0, built[1]
    assert f"invarlock sign {tmp_path / 'pack'} --signing-key KEY.pem" in built[1]
    readme = (tmp_path / "pack/README.md").read_text()
    assert "one comparison by InvarLock" in readme
    assert "fault was detected" not in readme
    coverage: Any = json.loads((tmp_path / "out/edit_metadata.json").read_bytes())["coverage"]
    assert 0 < coverage["edited_params"] <= coverage["total_params"]


def test_the_baselines_report_may_be_given_as_its_folder(base: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    evaluate_small(base, base, first)
    code, _, _ = evaluate_small(base, base, second, "--baseline-report", str(first / "baseline"))
    assert code == 0

    for given in (first / "baseline", first / "baseline/evaluation.report.json"):
        assert invarlock("verify", second, "--baseline-report", given)[0] == 0
    # the comparison's own folder has another kind of report, and a folder without one says what is missing
    code, text = invarlock("verify", second, "--baseline-report", first)
    assert (code, "the report of a comparison" in text) == (2, True), text
    code, text = invarlock("verify", second, "--baseline-report", base)
    assert (code, f"{base / 'evaluation.report.json'}: no such file" in text) == (3, True), text


@pytest.mark.parametrize("several", [False, True])
def test_a_page_is_not_a_report_and_names_the_one_that_it_shows(base: Path, tmp_path: Path, *, several: bool) -> None:
    folder = tmp_path / "out"
    evaluate_small(base, base, folder)
    report = folder / "evaluation.report.json"

    code, text = invarlock("verify", folder / "evaluation.html", *([report] if several else []))

    assert (code, text.count("\n")) == (2, 1)
    assert f"the page of a report; verify {report}, which checks the page too" in text
    # without its report, the page is taken for one
    report.unlink()
    code, text = invarlock("verify", folder / "evaluation.html")
    assert code == 7
    assert "not JSON; it begins with '<!DOCTYPE html>'" in text
