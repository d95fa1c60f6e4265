"""The tuner: ladders from mild to strong, bisection, and entries with their evidence."""

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec, parse_scope
from invarlock.catalog.models import Text
from invarlock.catalog.tuned_params import read_tuned_params
from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.checkpoints.editing import apply_each_edit, apply_edits
from invarlock.cli import main
from invarlock.edits import magnitude_prune
from invarlock.edits.magnitude_prune import prune_magnitude
from invarlock.errors import EditError
from invarlock.evaluation import tuning
from invarlock.evaluation.ladders import climb, ladder
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.models import Placement
from invarlock.evaluation.text import SourceText
from invarlock.evaluation.tuned_model import GivenTexts, TunedTexts, find_tuned, read_tuned_texts
from invarlock.evaluation.tuning import Selection, Trial, TunedModel, tune

SUITES = Path(__file__).parents[3] / "suites"
AUSTEN, MELVILLE = (SUITES / "embedded" / "text" / f"{name}.txt.xz" for name in ("austen_heldout", "melville"))
FFN = parse_scope("ffn", where="test")


@given(st.integers(1, 60), st.integers(0, 60), st.integers(-1, 60))
def test_the_strongest_passing_rung_is_found_by_bisection(count: int, first: int, last: int) -> None:
    judged: list[int] = []
    search, found = climb(count), None
    rungs = next(search)
    try:
        while True:
            judged.append(rungs[0])
            holds = first <= rungs[0] <= last
            likely, rungs = rungs[1:], search.send(holds)
            assert not holds or not likely or likely == rungs
    except StopIteration as stop:
        found = stop.value

    assert found == (None if first > min(last, count - 1) else min(last, count - 1))
    assert len(judged) == len(set(judged)) <= max(count, first + 2 + count.bit_length())


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


class Passes:
    """A tuner whose judge knows which candidates hold; the passes that made them and the digests of what was judged."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holds: dict[str, set[str]]) -> None:
        self.folder = tmp_path / "models" / "baseline"
        shutil.copytree(SUITES / "embedded/mistral-tiny", self.folder)
        self.holds = holds
        self.passes: list[list[str]] = []
        self.judged: dict[str, str] = {}

        def counted(baseline: Path, subjects: Mapping[Path, EditSpec]) -> Mapping[Path, object]:
            self.passes.append(sorted(map(str, subjects.values())))
            return apply_each_edit(baseline, subjects)

        monkeypatch.setattr(tuning, "apply_each_edit", counted)

    def judge(self, spec: EditSpec, subject: Path) -> Trial:
        self.judged[str(spec)] = digest_checkpoint(subject)
        held = str(spec) in self.holds[spec.edit]
        return Trial(spec, 1.0, 1.0, ("sha256",), () if held else ("draw 1: too much",))

    def tune(self) -> dict[str, Selection]:
        text = SourceText("embedded", "", "")
        model = TunedModel("a/b", self.folder, text, WindowPlan(16, 1, 1, 0, 1), Placement("cpu"), "balanced", "dev")
        return {
            found.edit: found
            for found in tune(model, dict.fromkeys(self.holds, FFN), margin=0.5, draws=1, begin=lambda *_: self)
        }


HOLD: dict[str, set[str]] = {
    "quant_rtn": {f"quant_rtn:{bits}:{group}:ffn" for bits, group in ((8, 128), (7, 128), (6, 128), (5, 128), (4, 32))},
    "fp8_quant": {"fp8_quant:e4m3:ffn", "fp8_quant:e5m2:ffn"},
    "magnitude_prune": {f"magnitude_prune:{0.02 * step:.2g}:ffn" for step in range(1, 12)},
}


def test_the_candidates_of_all_edits_are_made_in_the_same_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Passes(tmp_path, monkeypatch, HOLD)

    found = setting.tune()

    chosen = {edit: str(selection.chosen.spec) for edit, selection in found.items() if selection.chosen}
    assert chosen == {
        "quant_rtn": "quant_rtn:4:32:ffn",
        "fp8_quant": "fp8_quant:e5m2:ffn",
        "magnitude_prune": "magnitude_prune:0.22:ffn",
    }
    # the mildest of each edit, and what is judged next when that holds
    mildest = ("quant_rtn:8:128:ffn", "fp8_quant:e4m3:ffn", "magnitude_prune:0.02:ffn")
    likely = ("quant_rtn:4:128:ffn", "fp8_quant:e5m2:ffn", "magnitude_prune:0.42:ffn")
    assert setting.passes[0] == sorted([*mildest, *likely])
    assert [len(one) for one in setting.passes[1:3]] == [2, 2]
    trials = [str(trial.spec) for selection in found.values() for trial in selection.trials]
    assert sorted(trials) == sorted(spec for one in setting.passes for spec in one)
    assert len(setting.passes) == max(len(selection.trials) for selection in found.values()) - 1
    for text, digest in setting.judged.items():
        spec = parse_edit_spec(text)
        assert isinstance(spec, EditSpec)
        apply_edits(setting.folder, {tmp_path / "alone" / text: spec})
        assert digest == digest_checkpoint(tmp_path / "alone" / text)
    assert [path.name for path in setting.folder.parent.iterdir()] == ["baseline"]


@pytest.mark.parametrize(("spare_subjects", "largest"), [(0, 1), (2, 2), (50, 6)])
def test_a_disk_with_room_for_few_subjects_finds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare_subjects: int, largest: int
) -> None:
    setting = Passes(tmp_path, monkeypatch, HOLD)
    size = sum(path.stat().st_size for path in setting.folder.iterdir())
    usage, kept = shutil.disk_usage(tmp_path), setting.folder.parent

    def free(_: Path) -> object:
        held = sum(path.stat().st_size for path in kept.rglob(".tune-*/*/*"))
        return usage._replace(free=int((spare_subjects + 1.5) * size) - held)

    monkeypatch.setattr(shutil, "disk_usage", free)

    found = setting.tune()

    assert str(found["magnitude_prune"].chosen.spec) == "magnitude_prune:0.22:ffn"  # type: ignore[union-attr]
    assert max(map(len, setting.passes)) == largest


def test_a_candidate_that_cannot_be_made_fails_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        magnitude_prune,
        "prune_magnitude",
        lambda weight, share: prune_magnitude(weight, share) * (math.inf if share > 0.1 else 1),
    )
    setting = Passes(tmp_path, monkeypatch, HOLD)

    found = setting.tune()

    assert str(found["magnitude_prune"].chosen.spec) == "magnitude_prune:0.1:ffn"  # type: ignore[union-attr]
    failed = next(trial for trial in found["magnitude_prune"].trials if trial.against)
    assert "non-finite" in failed.against[0]
    assert (failed.ratio, failed.reports, failed.used) == (None, (), {})
    assert found["fp8_quant"].chosen is not None
    assert found["quant_rtn"].chosen is not None


def test_an_edit_without_a_passing_candidate_is_an_error_that_says_why() -> None:
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

    shown = capsys.readouterr().out
    assert "fp8_quant:e4m3:ffn: ratio 1" in shown
    assert "selected: fp8_quant:e5m2:ffn" in shown
    assert re.search(r"^estimate: about \d+ s, .*; at most 2 trials$", shown, re.MULTILINE)
    assert shown.endswith(f"\nwritten: {output}\n")
    tuned = read_tuned_params(output)
    entry = tuned.models["embedded/mixtral-tiny"]["fp8_quant"]
    assert (entry["format"], entry["status"], entry["scope"]) == ("e5m2", "selected", "ffn")
    assert [row["holds"] for row in entry["evidence"]] == [True, True]
    used = entry["evidence"][-1]["limits_used"]
    assert {"primary_metric.ratio_limit", "primary_metric.drift_band", "primary_metric_tail.limit"} < used.keys()
    assert {"spectral.max_caps", "spectral.change.coherent_share", "rmt.epsilon", "rmt.layer_fall"} < used.keys()
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

    shown = capsys.readouterr().out
    assert "fp8_quant:e4m3:ffn" in shown
    assert "spectral.change.coherent_share: " in shown
    assert "of it is used, the margin ends at 10%" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embedded/mistral-tiny", "--slice-limit", "a.kl_limit=1"], "--slice-limit: there is no slice 'a'"),
        (["embedded/mistral-tiny", "--slice-limit", "a.b=1"], "'b' is not a limit of a slice"),
        (["embedded/mistral-tiny", "--text", str(AUSTEN), "--text", str(MELVILLE)], "has no name"),
        (["nobody/nothing"], "'nobody/nothing' is neither a folder nor a model of"),
        (["mistralai/Mistral-7B-v0.1"], "at 27d67f1b5f57dc0953326b2601d68371d40ea8da: not in the cache at"),
        (["Qwen/Qwen3-8B"], "pins no revision of it; name the folder that it is in"),
        (["embedded/mistral-tiny", "--scope", "head"], "unknown scope 'head'"),
    ],
)
def test_a_model_that_cannot_be_tuned_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *arguments, "--suites", str(SUITES), "--output", str(tmp_path / "out.json")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_a_text_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--suites", str(SUITES), "--output", str(tmp_path / "out.json"), "--text", "a=nowhere.txt"]

    assert main(["tune", "embedded/mistral-tiny", *arguments]) == 3

    assert capsys.readouterr().err == "error: nowhere.txt: no such file; name a text to score on [file_missing]\n"


def test_a_folder_that_stands_for_a_model_is_tuned_on_the_texts_of_its_suite() -> None:
    folder = str(SUITES / "embedded/mixtral-tiny")

    own, other = (find_tuned(SUITES, folder, model_id) for model_id in (None, "Qwen/Qwen3-0.6B-Base"))

    assert own[0].id == "local/mixtral-tiny"
    assert [(text.name, text.final_windows) for text in own[1]] == [("austen", 64), ("melville", 32)]
    assert other[0].id == "Qwen/Qwen3-0.6B-Base"
    assert [(text.name, text.final_windows) for text in other[1]] == [(None, 24)]


def slices_of(text: TunedTexts) -> dict[str, tuple[int, int, int]]:
    return {name: (counts.seq_len, counts.preview, counts.final) for name, counts in text.counts.items()}


def test_a_model_is_tuned_on_every_slice_of_its_suite_with_the_limits_of_each() -> None:
    texts = find_tuned(SUITES, "embedded/mistral-tiny", None)[1]
    limited = [replace(texts[0]), replace(texts[1], limits={"kl_limit": 0.01})]
    on_hub = Text(512, 32, 32, "hf_text", name="german")

    found = read_tuned_texts(SUITES, [*limited, on_hub], GivenTexts())

    assert list(found.source.slices) == ["austen", "melville"]
    assert slices_of(found) == {"austen": (128, 32, 64), "melville": (128, 32, 32)}
    assert found.limits == {"melville": {"kl_limit": 0.01}}
    assert found.left_out == ("german",)


def test_given_texts_replace_those_of_the_suite_and_take_the_windows_of_its_first() -> None:
    texts = find_tuned(SUITES, "embedded/mistral-tiny", None)[1]
    files = {"one": AUSTEN, "two": MELVILLE}

    own = read_tuned_texts(SUITES, texts, GivenTexts(files, limits={"two": {"kl_limit": 0.01}}, seq_len=64))
    alone = read_tuned_texts(SUITES, texts, GivenTexts(MELVILLE))

    assert slices_of(own) == {"one": (64, 32, 64), "two": (64, 32, 64)}
    assert own.limits == {"two": {"kl_limit": 0.01}}
    assert slices_of(alone) == {"": (128, 32, 64)}
    assert not alone.source.slices


SMALL = ("--draws", "1", "--seq-len", "64", "--preview-windows", "16", "--final-windows", "16")


def tuned_on(tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[str, dict[str, Any]]:
    """Return what tuning the pruning of a model prints, and its entry, an empty one if nothing holds."""
    output = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
    arguments = ["tune", "embedded/mistral-tiny", "--suites", str(SUITES), "--edit", "magnitude_prune", *SMALL, *more]
    assert main([*arguments, "--output", str(output)]) in (0, 1)
    printed = capsys.readouterr().out
    entries = read_tuned_params(output).models["embedded/mistral-tiny"] if output.exists() else {}
    return printed, dict(entries.get("magnitude_prune", {}))


@pytest.mark.slow
def test_the_slice_that_uses_most_of_a_limit_decides_how_strong_an_edit_may_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ("--text", f"austen={AUSTEN}", "--text", f"melville={MELVILLE}")

    _, alike = tuned_on(tmp_path, capsys, *both)
    printed, strict = tuned_on(tmp_path, capsys, *both, "--slice-limit", "melville.kl_limit=0.01")

    assert "judged on the slices austen, melville: every limit must hold with its margin in each" in printed
    assert 0 < strict["sparsity"] < alike["sparsity"]
    deciding = [row for row in strict["evidence"] if row.get("deciding_slice") == "melville"]
    assert any(not row["holds"] and "in slice melville" in row["against"][0] for row in deciding)
    assert any(row["holds"] for row in deciding)
    assert "of fidelity.kl_limit in slice melville: holds" in printed
    assert all(row["limits_used"]["fidelity.kl_limit"] <= 0.5 for row in strict["evidence"] if row["holds"])
