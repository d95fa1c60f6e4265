"""The tuner: ladders from mild to strong, bisection, and entries with their evidence."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invarlock.catalog.edit_specs import parse_edit_spec, parse_scope
from invarlock.catalog.tuned_params import read_tuned_params
from invarlock.cli import main
from invarlock.errors import EditError
from invarlock.evaluation.tuning import Selection, Trial, ladder, strongest

SUITES = Path(__file__).parents[3] / "suites"
FFN = parse_scope("ffn", where="test")


@given(st.integers(1, 60), st.integers(0, 60), st.integers(-1, 60))
def test_the_last_rung_that_holds_is_found_by_bisection_from_the_first(count: int, first: int, last: int) -> None:
    asked: list[int] = []

    def holds(index: int) -> bool:
        asked.append(index)
        return first <= index <= last

    assert strongest(count, holds) == (None if first > min(last, count - 1) else min(last, count - 1))
    assert len(asked) <= max(count, first + 2 + count.bit_length())


def test_ladders_go_from_mild_to_strong_and_stay_within_the_matrices(tmp_path: Path) -> None:
    model = SUITES / "embedded/mistral-tiny"

    prune = [spec.parameters["sparsity"] for spec in ladder(model, "magnitude_prune", FFN)]
    ranks = [int(spec.parameters["rank"]) for spec in ladder(model, "lowrank_svd", FFN)]
    bits = [int(spec.parameters["bits"]) for spec in ladder(model, "quant_rtn", FFN)]

    assert prune[0] == 0.02
    assert prune == sorted(prune)
    assert ranks == sorted(ranks, reverse=True)
    # the smaller side of an FFN matrix
    assert ranks[0] < 128
    assert ranks[-1] >= 1
    assert bits == sorted(bits, reverse=True)
    with pytest.raises(EditError, match="takes none"):
        ladder(model, "quant_rtn", parse_scope("ffn@layer=9", where="test"))


def test_an_edit_that_never_holds_is_an_error_that_says_why() -> None:
    spec = parse_edit_spec("quant_rtn:8:128:ffn")
    trial = Trial(spec, 1.3, 1.4, (), ("draw 1: ratio 1.3, limit 1.1",))  # type: ignore[arg-type]

    with pytest.raises(
        EditError, match=r"quant_rtn: no candidate holds, not even quant_rtn:8:128:ffn: draw 1: ratio 1\.3"
    ):
        Selection("quant_rtn", FFN, None, (trial,), 0.5, 1).entry()


@pytest.mark.slow
def test_the_model_of_a_folder_is_tuned_and_other_entries_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "tuned.json"
    output.write_text((SUITES / "tuned_edit_params.json").read_text())
    folder = tmp_path / "mine"
    shutil.copytree(SUITES / "embedded/mixtral-tiny", folder)
    shutil.copytree(SUITES / "embedded/tokenizer", folder, dirs_exist_ok=True)
    arguments = ["tune", str(folder), "--model-id", "embedded/mixtral-tiny", "--suites", str(SUITES)]

    assert main([*arguments, "--edit", "fp8_quant", "--draws", "1", "--output", str(output)]) == 0

    told = capsys.readouterr().out
    assert "fp8_quant:e4m3:ffn: ratio 1" in told
    assert "selected: fp8_quant:e5m2:ffn" in told
    tuned = read_tuned_params(output)
    entry = tuned.models["embedded/mixtral-tiny"]["fp8_quant"]
    assert (entry["format"], entry["status"], entry["scope"]) == ("e5m2", "selected", "ffn")
    assert [row["holds"] for row in entry["evidence"]] == [True, True]
    used = entry["evidence"][-1]["limits_used"]
    assert {"primary_metric.ratio_limit", "primary_metric.drift_band", "primary_metric_tail.limit"} < used.keys()
    assert {"spectral.max_caps", "spectral.change.coherent_share", "rmt.epsilon", "rmt.max_fall"} < used.keys()
    assert all(share <= 0.5 for name, share in used.items() if not name.startswith("variance."))
    assert all(len(row["reports"]) == 1 for row in entry["evidence"])
    before = json.loads((SUITES / "tuned_edit_params.json").read_bytes())["models"]
    assert tuned.models["embedded/mistral-tiny"] == before["embedded/mistral-tiny"]


@pytest.mark.slow
def test_a_guards_limit_used_beyond_the_margin_speaks_against_a_candidate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tune", "embedded/mistral-tiny", "--suites", str(SUITES), "--edit", "fp8_quant", "--draws", "1"]

    # a tenth of what the ratio allows is not used, of what the spectral guard allows a change more is
    assert main([*arguments, "--margin", "0.1", "--output", str(tmp_path / "tuned.json")]) in (0, 1)

    told = capsys.readouterr().out
    assert "fp8_quant:e4m3:ffn" in told
    assert "spectral.change.coherent_share: " in told
    assert "of it is used, the margin ends at 10%" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody/nothing"], "'nobody/nothing' is no folder, and no model of"),
        (["mistralai/Mistral-7B-v0.1"], "at 27d67f1b5f57dc0953326b2601d68371d40ea8da: not in the cache at"),
        (["Qwen/Qwen3-8B"], "pins no revision of it; name the folder that it is in"),
        (["embedded/mistral-tiny", "--scope", "head"], "scope 'head' is none of"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *arguments, "--suites", str(SUITES), "--output", str(tmp_path / "out.json")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
