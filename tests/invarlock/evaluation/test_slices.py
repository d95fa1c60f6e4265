"""``invarlock evaluate`` on several texts: each is a slice, whose numbers follow from its windows alone."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from shipped_checkpoints import EMBEDDED, write_baseline

from invarlock.cli import main
from invarlock.cli.text_options import slice_limits_of, texts_of
from invarlock.digests import sha256_hex
from invarlock.errors import UsageError
from invarlock.evaluation.text import read_embedded_text
from invarlock.jsonio import dump_json
from invarlock.judgement.slices import of_slice, text_mistakes
from invarlock.metrics.perplexity import derive_primary_metric
from invarlock.reports.derivation import bootstrap, compose, strip
from invarlock.reports.margins import deciding_slice
from invarlock.reports.rendering import render_report
from invarlock.reports.verification import verify_report

TEXT = EMBEDDED / "text" / "austen_heldout.txt.xz"
SMALL = ("--seq-len", "32", "--preview-windows", "2", "--final-windows", "16", "--device", "cpu")


def add_noise(path: Path) -> None:
    """Change every matrix of the blocks by 1 % of its standard deviation, which no guard should mind."""
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(0)
    for name, weight in tensors.items():
        if weight.dim() == 2 and ".layers." in name:
            noise = torch.randn(weight.shape, generator=generator)
            tensors[name] = (weight.float() + 0.01 * weight.float().std() * noise).to(weight.dtype)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slices")
    for side in ("baseline", "subject"):
        write_baseline("mistral-tiny", folder / side)
    add_noise(folder / "subject/model.safetensors")
    text = read_embedded_text(TEXT, sha256_hex(TEXT.read_bytes())).text
    (folder / "first.txt").write_text(text[:20_000])
    # the same words in another register: nothing but upper case
    (folder / "second.txt").write_text(text[20_000:40_000].upper())
    return folder


def evaluate(folder: Path, output: str, *more: str) -> tuple[int, dict[str, Any]]:
    sides = ["--baseline", str(folder / "baseline"), "--subject", str(folder / "subject")]
    code = main(["evaluate", *sides, *SMALL, *more, "--output-dir", str(folder / output)])
    report = folder / output / "evaluation.report.json"
    return code, json.loads(report.read_bytes()) if report.is_file() else {}


def both(folder: Path) -> tuple[str, ...]:
    return ("--text", f"prose={folder / 'first.txt'}", "--text", f"capitals={folder / 'second.txt'}")


@pytest.fixture(scope="module")
def sliced(folder: Path) -> dict[str, Any]:
    code, report = evaluate(folder, "sliced", *both(folder))
    assert code == 0
    return report


def test_every_window_names_its_slice_and_every_metric_has_each(folder: Path, sliced: dict[str, Any]) -> None:
    final = sliced["evaluation_windows"]["final"]

    assert final["slices"] == ["prose"] * 16 + ["capitals"] * 16
    assert [row["name"] for row in sliced["dataset"]["slices"]] == ["prose", "capitals"]
    assert sliced["dataset"]["windows"]["final"] == 32
    for metric in ("primary_metric", "fidelity"):
        assert sliced[metric]["slices"].keys() == {"prose", "capitals"}
    rows = sliced["primary_metric"]["slices"]
    assert rows["capitals"]["baseline_final"] > 2 * rows["prose"]["baseline_final"]
    page = render_report(sliced, "0" * 64).decode()
    assert "Perplexity by slice" in page
    assert "Fidelity by slice" in page
    # verify draws the page of the report as JSON has it
    assert (folder / "sliced/evaluation.html").read_text() == render_report(
        sliced, sha256_hex((folder / "sliced/evaluation.report.json").read_bytes())
    ).decode()
    assert verify_report(sliced) == []


def changed(report: dict[str, Any], shift: float, name: str) -> Any:
    """Return a report of a subject whose losses on one slice are larger."""
    raw = copy.deepcopy(strip(report))
    final = raw["evaluation_windows"]["final"]
    final["logloss"] = [
        loss + shift if own == name else loss for loss, own in zip(final["logloss"], final["slices"], strict=True)
    ]
    return compose(raw)


def test_a_slice_that_got_worse_fails_where_all_windows_together_would_pass(sliced: dict[str, Any]) -> None:
    report = changed(sliced, 0.12, "capitals")
    metric = report["primary_metric"]

    assert metric["ratio_vs_baseline"] < 1.1 < metric["slices"]["capitals"]["ratio_vs_baseline"]
    assert metric["slices"]["prose"]["ratio_vs_baseline"] == pytest.approx(1, abs=0.01)
    assert report["validation"]["primary_metric_acceptable"] is False
    assert any("in slice capitals: ratio 1.1" in line for line in report["assurance"]["blocking_reasons"])


def test_the_slice_that_uses_most_of_a_limit_decides_and_none_where_all_text_uses_as_much(
    sliced: dict[str, Any],
) -> None:
    loud, quiet = changed(sliced, 0.12, "capitals"), copy.deepcopy(sliced)
    fidelity = sliced["fidelity"]
    largest = max(fidelity["slices"], key=lambda name: fidelity["slices"][name]["kl_mean_ci"][1])
    for row in quiet["primary_metric"]["slices"].values():
        row["ci"] = quiet["primary_metric"]["ci"]

    assert deciding_slice(loud, "primary_metric.ratio_limit") == "capitals"
    assert deciding_slice(quiet, "primary_metric.ratio_limit") is None
    assert deciding_slice(sliced, "fidelity.kl_limit") == largest
    assert deciding_slice(sliced, "spectral.max_caps") is None


def test_a_limit_of_a_slice_is_its_own(sliced: dict[str, Any]) -> None:
    raw = copy.deepcopy(strip(changed(sliced, 0.12, "capitals")))
    raw["policy_provenance"]["overrides"] = {"primary_metric.slices": {"capitals": {"ratio_limit": 1.2}}}

    assert compose(raw)["validation"]["primary_metric_acceptable"] is True


def test_a_slice_of_too_few_windows_fails(folder: Path) -> None:
    code, report = evaluate(
        folder, "few", *both(folder), "--slice-limit", "prose.minimum_windows=17", "--assurance", "off"
    )

    assert code == 0
    assert report["assurance"]["verdict"] == "FAIL"
    (line,) = report["assurance"]["blocking_reasons"]
    assert "in slice prose: too few windows; 16 windows" in line
    assert report["policy_provenance"]["overrides"] == {"primary_metric.slices": {"prose": {"minimum_windows": 17}}}
    assert verify_report(report) == []


def test_the_numbers_of_a_slice_are_those_of_its_text_alone(folder: Path, sliced: dict[str, Any]) -> None:
    code, alone = evaluate(folder, "alone", "--text", str(folder / "first.txt"))

    assert code == 0
    assert "slices" not in alone["dataset"]
    assert "slices" not in alone["primary_metric"]
    windows = of_slice(sliced["evaluation_windows"], "prose")
    assert windows["final"]["window_ids"] == alone["evaluation_windows"]["final"]["window_ids"]
    policy = sliced["resolved_policy"]["primary_metric"]
    derived = derive_primary_metric(windows, policy, bootstrap(sliced)["seed"], None)
    assert derived["baseline_final"] == pytest.approx(alone["primary_metric"]["baseline_final"], rel=1e-6)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for index, inner in enumerate(value) for leaf in leaves(inner, (*path, index))]
    return [path]


def test_every_changed_leaf_of_a_slice_is_rejected(sliced: dict[str, Any]) -> None:
    # digests and kinds of texts are statements
    stated = ("provider", "source_sha256")
    found = [path for path in leaves(sliced) if "slices" in path and path[-1] not in stated]
    # one in eight of the windows' names: they are all alike
    found = [path for path in found if path[0] != "evaluation_windows" or path[-1] % 8 == 0]
    assert len(found) > 50

    for path in found:
        broken = json.loads(dump_json(sliced))
        *way, last = path
        place = broken
        for key in way:
            place = place[key]
        value = place[last]
        place[last] = {bool: lambda v: not v, str: lambda v: "other", type(None): lambda v: "other"}.get(
            type(value), lambda v: v + 1
        )(value)
        assert verify_report(broken), path


@pytest.mark.parametrize("name", ["prose", "capitals"])
def test_a_slice_that_is_missing_or_moved_is_rejected(sliced: dict[str, Any], name: str) -> None:
    without = json.loads(dump_json(sliced))
    del without["fidelity"]["raw"]["subject"]["slices"][name]
    moved = json.loads(dump_json(sliced))
    moved["evaluation_windows"]["final"]["slices"].reverse()

    assert verify_report(without)
    assert verify_report(moved)


@pytest.mark.parametrize(
    ("slices", "right"),
    [("pprrr", True), ("rrrpp", False), ("pprr", False), ("pprrrr", False), ("prprr", False), ("aarrr", False)],
)
def test_windows_are_of_the_slices_of_the_texts_in_their_order(slices: str, right: bool) -> None:
    rows = [{"name": name, "seq_len": 8, "windows": {"final": count}} for name, count in (("p", 2), ("r", 3))]
    dataset = {"seq_len": 8, "slices": rows, "windows": {"final": 5}}

    found = list(text_mistakes(dataset, {"final": {"slices": list(slices), "token_counts": [7] * len(slices)}}))

    assert found == ([] if right else [("windows.final.slices", "not the slices of the texts in their order")])


def test_texts_and_limits_of_the_command_line(tmp_path: Path) -> None:
    odd = tmp_path / "a=b.txt"
    odd.write_text("x")

    assert texts_of([str(odd)]) == odd
    assert texts_of(["plain.txt"]) == Path("plain.txt")
    assert texts_of(["code=c.py", "prose=p.txt"]) == {"code": Path("c.py"), "prose": Path("p.txt")}
    assert slice_limits_of(["a.b.ratio_limit=1.2"]) == {"a.b": {"ratio_limit": 1.2}}
    for wrong in (["a.txt", "b=c.txt"], ["a=1", "a=2"], ["=x", "b=c"]):
        with pytest.raises(UsageError):
            texts_of(wrong)
    for wrong in (["ratio_limit=1.2"], ["a.ratio_limit=x"], ["a.ratio_limit=nan"]):
        with pytest.raises(UsageError):
            slice_limits_of(wrong)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--slice-limit", "code.ratio_limit=1.2"), "no slice 'code'"),
        (("--slice-limit", "prose.alpha=0.2"), "'alpha'"),
        (("--slice-limit", "prose.colour=2"), "'colour' is not a limit of a slice"),
    ],
)
def test_limits_of_slices_that_are_not_there_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], words: str
) -> None:
    code, _ = evaluate(folder, "refused", *both(folder), *more)

    assert code == 2
    assert re.search(re.escape(words), capsys.readouterr().err)


def test_two_slices_of_one_text_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = folder / "first.txt"
    code, _ = evaluate(folder, "twice", "--text", f"a={one}", "--text", f"b={one}")

    assert code == 2
    assert "the slices 'a' and 'b' share windows" in capsys.readouterr().err
