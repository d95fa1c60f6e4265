"""Packed subjects through the whole product: measured as the dense checkpoints of the same numbers."""

from __future__ import annotations

import copy
import json
import lzma
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from shipped_checkpoints import restore_with_tokenizer, write_baseline

from invarlock.checkpoints.formats.interface import Checkpoint
from invarlock.checkpoints.storage_format import open_checkpoint
from invarlock.cli import main
from invarlock.evaluation.comparison import compare, draw_runs, measure_baseline
from invarlock.evaluation.documents import baseline_document, report_document
from invarlock.evaluation.measurements import SubjectMeasurement, WindowPlan
from invarlock.evaluation.models import Placement, load_dequantised
from invarlock.evaluation.request import EditDescription, EvaluationRequest, Setup, StoredBaseline
from invarlock.evaluation.text_files import read_local_text
from invarlock.reports.rendering import render_report
from invarlock.reports.verification import verify_report

TEXT = Path(__file__).parents[3] / "suites/embedded/text/austen_heldout.txt.xz"
SOURCE = read_local_text(TEXT)
PLAN, CPU = WindowPlan(seq_len=64, preview=4, final=16, seed=0, batch_size=4), Placement("cpu")
CONTEXT = {"suite": "t", "profile": "dev", "tier": "balanced", "determinism": "strict", "execution_mode": "host-bypass"}
LAYER = "model.layers.0.mlp.up_proj"
# Each is evaluated as it is stored, against the dense checkpoint of the tool's own numbers.
PACKED = (
    "compressed-tensors-w8a8",
    "compressed-tensors-w4a16",
    "compressed-tensors-w4a16-asym",
    "compressed-tensors-fp8",
    "compressed-tensors-fp8-block",
    "compressed-tensors-nvfp4",
    "compressed-tensors-mxfp4",
    "gptq",
    "gptq-2bit",
    "awq",
    "auto-round",
    "bitsandbytes-int8",
    "bitsandbytes-nf4",
    "torchao-int8",
    "torchao-int4",
    "gguf-q4_1",
)


class Bank:
    """A baseline measured once, and the comparison of subjects with it."""

    def __init__(self, folder: Path) -> None:
        self.base = write_baseline("qwen2-tiny", folder)
        self.draw = draw_runs(self.base, SOURCE, PLAN, [1])
        self.setup = Setup("qwen2-tiny", None, CONTEXT, CPU, PLAN, SOURCE)
        self.known: dict[str, SubjectMeasurement] = {}
        self.document = baseline_document(self.setup, measure_baseline(self.base, self.draw, PLAN, CPU, probe=False))

    def compare(self, subject: Path, placement: Placement = CPU) -> SubjectMeasurement:
        return compare(subject, self.request(placement).comparison())

    def request(self, placement: Placement = CPU) -> EvaluationRequest:
        stored = StoredBaseline(self.base, self.document, f"sha256:{'0' * 64}")
        return EvaluationRequest(self.setup, stored, "packed", 1, self.draw[1], placement)

    def healthy(self, name: str) -> SubjectMeasurement:
        """Return the measurements of a kept checkpoint, made once."""
        if name not in self.known:
            self.known[name] = self.compare(restore_with_tokenizer(name, self.base.parent / name))
        return self.known[name]

    def report(self, measured: SubjectMeasurement) -> Any:
        edited = EditDescription("custom", "custom", "custom", {})
        return report_document(self.request(), edited, measured)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return Bank(tmp_path_factory.mktemp("bank") / "base")


def write_dense(packed: Path, folder: Path, base: Path) -> Path:
    """Write the dense checkpoint of a packed one; ``test_reading`` holds its numbers to those of the tool."""
    checkpoint = open_checkpoint(packed, base)
    folder.mkdir()
    for path in packed.iterdir():
        if "token" in path.name:
            shutil.copy(path, folder)
    (folder / "config.json").write_text(json.dumps(checkpoint.files.config))
    tensors = {name: checkpoint.read(name).contiguous() for name in checkpoint.files.entries}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def break_scale(folder: Path, factor: float | None) -> Path:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    name = f"{LAYER}.weight_scale"
    if factor is None:
        del tensors[name]
    else:
        tensors[name] = tensors[name] * factor
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKED)
def test_a_packed_subject_is_measured_as_the_dense_one_of_the_same_numbers(
    bank: Bank, tmp_path: Path, name: str
) -> None:
    packed = restore_with_tokenizer(name, tmp_path / "packed")

    measured = bank.healthy(name)
    dense = bank.compare(write_dense(packed, tmp_path / "dense", bank.base))

    assert (measured.scored_as, dense.scored_as) == ("dequantised", "native")
    assert measured.final is not None
    assert dense.final is not None
    assert measured.final.losses == pytest.approx(dense.final.losses, rel=1e-5)
    before, after = dense.facts.spectral["modules"], measured.facts.spectral["modules"]
    assert before.keys() == after.keys()
    for module, row in before.items():
        assert after[module]["sigma"] == pytest.approx(row["sigma"], rel=1e-6)
    assert measured.facts.invariants["tensors"] == dense.facts.invariants["tensors"]


# int8 rounds its inputs too, on a CPU; 4 bits are computed in the bfloat16 of the model.
@pytest.mark.slow
@pytest.mark.parametrize(("name", "tolerance"), [("bitsandbytes-int8", 0.02), ("bitsandbytes-nf4", 0.01)])
def test_a_native_run_gives_the_losses_of_the_dequantised_one(bank: Bank, name: str, tolerance: float) -> None:
    dequantised = bank.healthy(name)
    native = bank.compare(bank.base.parent / name, replace(CPU, scoring="native"))

    assert (native.scored_as, dequantised.scored_as) == ("native", "dequantised")
    assert native.final is not None
    assert dequantised.final is not None
    assert native.final.losses == pytest.approx(dequantised.final.losses, rel=tolerance)
    assert native.final.losses != dequantised.final.losses
    assert native.facts == dequantised.facts


def test_a_healthy_packed_subject_passes_and_its_report_and_page_say_how_it_is_stored(
    bank: Bank, tmp_path: Path
) -> None:
    report = bank.report(bank.healthy("compressed-tensors-w4a16"))

    assert report["assurance"]["verdict"] == "PASS", report["assurance"]["blocking_reasons"]
    assert report["invariants"]["violations"] == []
    assert report["scoring"]["scored_as"] == {"baseline": "native", "subject": "dequantised"}
    storage = report["invariants"]["raw"]["subject"]["storage"]
    assert storage["quantisation"]["bits"] == 4
    assert storage["bits_per_weight"] < 7
    assert verify_report(report) == []
    page = render_report(report, "0" * 64).decode()
    for words in ("dequantised", "compressed-tensors 0.19.0", "group size", "bits per weight"):
        assert words in page


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (("scoring", "scored_as", "subject"), "native", None),
        (("invariants", "raw", "subject", "storage", "bits_per_weight"), 4.0, "bits_per_weight"),
        (("invariants", "raw", "subject", "storage", "weights"), 1, "weights"),
        (("invariants", "raw", "subject", "storage", "packed_bytes"), 1 << 40, "more is packed"),
        (("invariants", "raw", "subject", "storage", "quantisation"), None, "though weights are packed"),
        (("invariants", "raw", "subject", "storage", "format"), "dense", "weights are packed"),
        (("invariants", "raw", "baseline", "storage", "format"), "AWQ", "nothing is packed"),
        (("invariants", "raw", "baseline", "storage", "packed_bytes"), 1, "though weights are packed"),
        (("invariants", "raw", "baseline", "storage", "unpacked_modules"), ["lm_head"], "though weights are packed"),
        (("invariants", "raw", "baseline", "storage"), "subject's", "a baseline is dense"),
    ],
)
def test_a_report_whose_storage_contradicts_itself_does_not_verify(
    bank: Bank, where: tuple[str, ...], value: object, words: str | None
) -> None:
    report = copy.deepcopy(bank.report(bank.healthy("compressed-tensors-w8a8")))
    block = report
    for key in where[:-1]:
        block = block[key]
    block[where[-1]] = report["invariants"]["raw"]["subject"]["storage"] if value == "subject's" else value

    problems = verify_report(report)

    # a native run is possible, so a report alone cannot show that it was not one
    assert (problems == []) if words is None else any(words in str(problem) for problem in problems)


@pytest.mark.slow
def test_a_broken_packed_subject_fails_and_names_the_layer_in_one_line(bank: Bank, tmp_path: Path) -> None:
    missing = break_scale(restore_with_tokenizer("compressed-tensors-w8a8", tmp_path / "missing"), None)
    zero = break_scale(restore_with_tokenizer("compressed-tensors-w8a8", tmp_path / "zero"), 0.0)

    reports = [bank.report(bank.compare(folder)) for folder in (missing, zero)]

    for report in reports:
        assert report["assurance"]["verdict"] == "FAIL"
        (row,) = report["invariants"]["violations"]
        assert (row["tensor"], row["kind"]) == (f"{LAYER}.weight", "scale")
        assert verify_report(report) == []
    assert f"{LAYER}.weight cannot be read: weight_scale is missing" in reports[0]["scoring"]["not_scored"]
    assert reports[1]["scoring"]["not_scored"] is None


def test_a_broken_scale_of_activations_fails_a_subject_whose_weights_can_be_scored(bank: Bank, tmp_path: Path) -> None:
    folder = restore_with_tokenizer("compressed-tensors-w8a8", tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.v_scale"] = torch.tensor([float("nan")])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    report = bank.report(bank.compare(folder))

    assert report["assurance"]["verdict"] == "FAIL"
    (row,) = report["invariants"]["violations"]
    assert (row["tensor"], row["kind"]) == ("model.layers.0.self_attn.v_scale", "activations")
    assert report["scoring"]["not_scored"] is None
    assert verify_report(report) == []


@pytest.mark.slow
def test_a_stale_scale_changes_the_spectrum_of_the_layer_alone(bank: Bank, tmp_path: Path) -> None:
    healthy = bank.healthy("compressed-tensors-w8a8")
    stale = bank.compare(break_scale(restore_with_tokenizer("compressed-tensors-w8a8", tmp_path / "stale"), 2.0))

    changed = [
        module
        for module, row in stale.facts.spectral["modules"].items()
        if row["sigma"] != healthy.facts.spectral["modules"][module]["sigma"]
    ]

    assert changed == [f"{LAYER}.weight"]
    violations = bank.report(stale)["spectral"]["violations"]
    assert any(row.get("module") == f"{LAYER}.weight" for row in violations)


def evaluate(tmp_path: Path, base: Path, subject: Path, *options: str) -> int:
    text = tmp_path / "text.txt"
    text.write_bytes(lzma.decompress(TEXT.read_bytes()))
    arguments = ["evaluate", "--execution-mode", "host", "--baseline", str(base), "--subject", str(subject)]
    arguments += ["--text", str(text), "--output-dir", str(tmp_path / "out"), "--seq-len", "64"]
    return main([*arguments, "--preview-windows", "4", "--final-windows", "16", *options])


@pytest.mark.slow
def test_the_command_evaluates_a_restore_with_tokenizer(bank: Bank, tmp_path: Path) -> None:
    subject = restore_with_tokenizer("compressed-tensors-w4a16", tmp_path / "packed")

    assert evaluate(tmp_path, bank.base, subject) == 0

    metadata = json.loads((tmp_path / "out/edit_metadata.json").read_bytes())
    assert metadata["coverage"]["edited_tensors"] == 28
    assert not list(tmp_path.glob("packed/*dense*"))


@pytest.mark.slow
def test_a_native_run_without_its_library_is_a_usage_error_and_no_verdict(
    bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = restore_with_tokenizer("compressed-tensors-w4a16", tmp_path / "packed")

    assert evaluate(tmp_path, bank.base, subject, "--scoring", "native") == 2

    line = capsys.readouterr().err.strip()
    assert "--scoring native" in line
    assert "--scoring dequantised" in line
    assert "compressed" in line
    assert not (tmp_path / "out").exists()


def test_a_packed_baseline_is_refused_in_one_line(
    bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = restore_with_tokenizer("compressed-tensors-w4a16", tmp_path / "packed")

    assert evaluate(tmp_path, packed, bank.base) == 2

    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "the baseline must be dense" in line


class CountedReads:
    """A checkpoint, and the names of the tensors that were read from it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.names: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.checkpoint, name)

    def read(self, name: str) -> torch.Tensor:
        self.names.append(name)
        return self.checkpoint.read(name)


def test_tensors_are_read_one_at_a_time(tmp_path: Path) -> None:
    checkpoint: Any = CountedReads(
        open_checkpoint(restore_with_tokenizer("compressed-tensors-w4a16", tmp_path / "packed"))
    )

    model = load_dequantised(checkpoint, replace(CPU, scoring="dequantised"))

    assert sorted(checkpoint.names) == sorted(checkpoint.files.entries)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed"]
    assert not model.training
