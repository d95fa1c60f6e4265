"""Limits learned from null runs: exact on numbers made by hand, and refused where nothing can be learned."""

import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from nulls import null_run, with_few_windows, without_previews

from invarlock.errors import DocumentError, EvaluationError, MissingFileError, UsageError
from invarlock.jsonio import check_schema, dump_json
from invarlock.judgement.learning import NullChange, largest_ratio_with_margin, largest_with_margin, robust_deviation
from invarlock.problems import Code
from invarlock.reports.documents import NullRunDocument, PresetDocument
from invarlock.reports.policy import PRESET_LIMITS, resolve_policy
from invarlock.reports.preset_files import (
    null_run_name,
    preset_name,
    read_null_runs,
    read_preset,
    render_yaml,
    write_preset,
)
from invarlock.reports.presets import NullRun, check_fit, derive_preset, loosened, preset_problems

HELD_OUT = null_run(3)


def preset(*learned: NullRun, tier: str = "balanced") -> PresetDocument:
    runs = [*learned, null_run(len(learned) + 1)]
    document = derive_preset(runs, tier)
    check_schema(document, "calibrated_preset", where="preset")
    assert preset_problems(document, runs) == []
    return document


def test_limits_learned_from_values_have_a_margin_and_are_not_negative() -> None:
    assert largest_with_margin([0.0, 2.0, 2.0]) == (2.0, 2.2)
    assert largest_with_margin([-3.0, -2.0, -2.0]) == (-2.0, 0.0)
    assert largest_ratio_with_margin([-1.0, 1.0, 1.0]) == (1.0, pytest.approx(math.exp(1.1)))
    assert robust_deviation([1.0, 2.0, 9.0, 3.0, 4.0]) == pytest.approx(1.4826)


def test_the_loss_differences_of_a_null_change_pair_its_windows_with_the_baselines() -> None:
    def deltas(own: list[float], base: list[float]) -> list[float]:
        return NullChange({}, {}, {"final": {"logloss": own, "baseline_logloss": base}}).deltas

    assert deltas([2.1, 2.0, 1.5], [2.0, 2.0, 2.0]) == [0.1, 0.0, -0.5]
    assert str(deltas([-0.0], [0.0])) == "[0.0]"
    with pytest.raises(ValueError, match=r"zip\(\)"):
        deltas([2.0], [2.0, 2.0])


def test_the_scale_of_a_family_is_its_robust_deviation() -> None:
    # the median of all six is 0.0015, the deviations from it are 0.0005 and 0.0015 and 0.0035, three on each side
    document = preset(null_run(1, (-0.002, 0.001, 0.002)), null_run(2, (0.0, 0.003, 0.005)))

    assert document["derivation"]["spectral"]["ffn"] == {
        "n": 6, "scale": pytest.approx(1.4826 * 0.0015), "largest": pytest.approx(0.005),
        "limit": pytest.approx(1.4826 * 0.0015),
    }  # fmt: skip
    assert document["limits"]["spectral.null_scale_by_family"].keys() == {"attn", "ffn"}


@pytest.mark.parametrize(
    ("log_ratios", "limit"), [((0.0, 0.0, 0.0), 1e-4), ((-0.5, 0.0, 0.5), 0.01), ((-1e-5, 0.0, 1e-5), 1e-4)]
)
def test_a_scale_has_a_floor_and_is_never_above_the_tiers(log_ratios: Any, limit: float) -> None:
    assert preset(null_run(1, log_ratios))["limits"]["spectral.null_scale_by_family"]["attn"] == limit


def test_epsilon_is_the_larger_of_the_tiers_and_the_nulls_with_a_tenth_more() -> None:
    # of three numbers the 97.5 % quantile lies at position 1.95: 0.02 + 0.95 * (0.04 - 0.02)
    wide = preset(null_run(1, growths=(0.0, 0.02, 0.04)))
    narrow = preset(null_run(1, growths=(0.0, 0.001, 0.002)))

    assert wide["derivation"]["rmt"]["ffn"] == {
        "n": 3, "quantile": pytest.approx(0.039), "limit": pytest.approx(0.0429),
    }  # fmt: skip
    assert wide["limits"]["rmt.epsilon_by_module"]["up"] == pytest.approx(2 * 0.0429)
    assert narrow["limits"]["rmt.epsilon_by_family"] == {"attn": 0.01, "ffn": 0.01}
    assert narrow["limits"]["rmt.epsilon_by_module"] == {"q": 0.05, "up": 0.05}
    assert [line.partition(" ")[0] for line in loosened(wide)] == [
        "rmt.epsilon_by_family.attn", "rmt.epsilon_by_family.ffn",
        "rmt.epsilon_by_module.q", "rmt.epsilon_by_module.up",
    ]  # fmt: skip
    assert loosened(narrow) == []


@pytest.mark.parametrize(("tier", "z"), [("balanced", 1.6448536269514722), ("conservative", 1.959963984540054)])
def test_the_smallest_effect_is_beyond_the_noise_of_as_many_windows(tier: str, z: float) -> None:
    # variance of (0.001, -0.001, 0.001, -0.001) is 4e-6 / 3
    document = preset(null_run(1, deltas=(0.001, -0.001, 0.001, -0.001)), tier=tier)

    sigma = math.sqrt(4e-6 / 3)
    assert document["derivation"]["variance"] == {
        "n": 12, "sigma": pytest.approx(sigma), "windows": 4, "z": pytest.approx(z),
        "limit": pytest.approx(z * sigma / 2),
    }  # fmt: skip


def test_the_drift_band_is_the_tiers_and_contains_the_nulls() -> None:
    document = preset(null_run(1, preview_delta=-0.009))

    assert document["derivation"]["drift"] == {
        "n": 3, "limit": [0.95, 1.05],
        "null_band": [pytest.approx(math.exp(-0.0099)), pytest.approx(math.exp(0.0099))],
    }  # fmt: skip


def test_null_runs_without_preview_windows_give_the_same_limits_and_no_drift() -> None:
    runs = [null_run(1, (0.0, 0.002, 0.004), (0.0, 0.02, 0.04)), null_run(2)]
    document = derive_preset(map(without_previews, runs), "balanced")

    check_schema(document, "calibrated_preset", where="preset")
    assert document["derivation"]["drift"] == {"n": 0, "null_band": [None, None], "limit": [0.95, 1.05]}
    assert document["limits"] == derive_preset(runs, "balanced")["limits"]
    assert list(document["held_out"]["signals"].values()) == [[], [], []]
    # the runs of one version may follow those of another
    both = derive_preset([null_run(1, preview_delta=-0.009), without_previews(null_run(2)), null_run(3)], "balanced")
    assert both["derivation"]["drift"]["n"] == 3


def test_null_runs_of_sixteen_windows_give_the_limits_of_a_case() -> None:
    deltas = (0.001, -0.001, 0.001, -0.001)
    few, all_of_them = (with_few_windows(null_run(run, deltas=deltas), windows) for run, windows in ((1, 400), (1, 16)))
    held_out = (with_few_windows(null_run(2), windows) for windows in (400, 16))
    own, small = (derive_preset(pair, "balanced") for pair in zip((few, all_of_them), held_out, strict=True))

    check_schema(own, "calibrated_preset", where="preset")
    # an effect is the mean of the windows that are scored with scales: 16 of the 400 as well
    assert own["derivation"]["variance"]["windows"] == 16
    assert own["derivation"]["variance"]["n"] == 3 * 16
    assert own["limits"] == small["limits"]


def test_null_runs_of_sixteen_windows_of_each_slice_are_accepted() -> None:
    def with_slices(document: Any, first: int, second: int) -> None:
        dataset, final = document["dataset"], document["windows"]["final"]
        row = {key: dataset[key] for key in ("provider", "source_sha256", "seq_len")}
        dataset["slices"] = [
            {"name": name, **row, "windows": {"preview": 4, "final": count}}
            for name, count in (("a", first), ("b", second))
        ]
        dataset["windows"] = {"preview": 8, "final": first + second}
        final["slices"] = ["a"] * 16 + ["b"] * 16
        for block in document["changes"]:
            block["fidelity"]["slices"] = {
                name: {"kl_max": 0.001, "histogram": {"first": 201, "counts": [160]}} for name in ("a", "b")
            }

    def runs(first: int, second: int) -> list[NullRun]:
        return [
            change(with_few_windows(null_run(run), 32, 32), lambda document: with_slices(document, first, second))
            for run in (1, 2)
        ]

    assert derive_preset(runs(16, 16), "balanced")["dataset"]["windows"]["final"] == 32
    assert derive_preset(runs(400, 17), "balanced")["dataset"]["windows"]["final"] == 417
    # 15 windows of the second text are 15 in a null run
    with pytest.raises(EvaluationError, match=r"windows\.final: differs from the number of windows"):
        derive_preset(runs(400, 15), "balanced")


@pytest.mark.parametrize("windows", [15, 17])
def test_a_null_run_of_fewer_windows_than_sixteen_and_of_a_case_is_refused(windows: int) -> None:
    def cut(document: Any) -> None:
        final = document["windows"]["final"]
        changes = document["changes"]
        for block in (final, document["fidelity"], *(own["fidelity"] for own in changes)):
            block |= {key: (values * 2)[:windows] for key, values in block.items() if isinstance(values, list)}
        final["window_ids"] = [f"{index:016x}" for index in range(windows)]
        for own in changes:
            own["logloss"]["final"] = (own["logloss"]["final"] * 2)[:windows]
            own["fidelity"]["histogram"] = {"first": 201, "counts": [10 * windows]}

    with pytest.raises(EvaluationError, match=r"windows\.final: differs from the number of windows"):
        derive_preset([change(with_few_windows(null_run(1), 400), cut), HELD_OUT], "balanced")


def test_nulls_outside_the_tiers_drift_band_set_no_limit() -> None:
    with pytest.raises(EvaluationError, match=r"the tier allows 0\.95 to 1\.05; score more windows"):
        preset(null_run(1, preview_delta=-0.06))


def test_the_held_out_run_sets_no_limit_and_is_judged() -> None:
    quiet = derive_preset([null_run(1), null_run(2)], "balanced")
    loud = derive_preset([null_run(1), null_run(2, (0.0, 0.1, 0.0), (0.0, 0.0, 0.2))], "balanced")

    assert loud["limits"] == quiet["limits"]
    assert list(quiet["held_out"]["signals"].values()) == [[], [], []]
    # two capped modules are within the tier's limit, and warn
    assert list(loud["held_out"]["signals"].values()) == [[], ["spectral"], ["rmt", "rmt_probe"]]


def change(run: NullRun, edit: Callable[[Any], object]) -> NullRun:
    document = copy.deepcopy(dict(run.document))
    edit(document)
    return NullRun(cast(NullRunDocument, document), run.sha256)


def test_null_runs_of_slices_need_no_preview_windows_either() -> None:
    def with_a_slice(document: Any) -> None:
        row = {key: document["dataset"][key] for key in ("provider", "source_sha256", "seq_len", "windows")}
        document["dataset"]["slices"] = [{"name": "a", **row}]
        document["windows"]["final"]["slices"] = ["a"] * 4
        for block in document["changes"]:
            own = block["fidelity"]
            own["slices"] = {"a": {key: own[key] for key in ("kl_max", "histogram")}}

    runs = [change(without_previews(null_run(run)), with_a_slice) for run in (1, 2)]

    assert derive_preset(runs, "balanced")["dataset"]["slices"][0]["name"] == "a"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["changes"][1]["logloss"].update(final=[2.5] * 4), "moves the loss by 0.5, but a harmless change"),
        (lambda d: d["changes"][1]["logloss"].update(final=[None] * 4), "a loss is not finite"),
        (lambda d: d["windows"]["final"]["logloss"].__setitem__(0, None), "a loss is not finite"),
        (lambda d: d["changes"].pop(), "a null run has"),
        (lambda d: d["changes"][0]["rmt"].update(measurement_contract_hash="0" * 16), "under the measurement contract"),
        (lambda d: d["changes"][0]["rmt"]["modules"].pop("q"), "has other modules than the baseline"),
        (lambda d: d["changes"][0]["logloss"].update(preview=[2.0]), "differs from the number of windows"),
        (lambda d: d["changes"][0]["logloss"].update(preview=[]), "differs from the number of windows"),
        (
            lambda d: (
                [block["logloss"].update(final=[]) for block in d["changes"]],
                d["windows"].update(final={"window_ids": [], "token_counts": [], "logloss": []}),
            ),
            "windows.final: differs from the number of windows",
        ),
        (lambda d: d["windows"]["final"]["token_counts"].__setitem__(0, 9), "every window has 10 predicted tokens"),
        (lambda d: d["windows"]["final"].update(window_ids=d["windows"]["preview"]["window_ids"]), "scored twice"),
        (lambda d: d["meta"].update(device="cuda"), "measured differently from the first: meta.device"),
        (lambda d: d["baseline"].update(digest=f"sha256:{'9' * 64}"), "baseline.digest"),
        (lambda d: d["seeds"].update(windows=7), "each run must have the next seed"),
        (lambda d: d["seeds"].update(changes=7), "windows and changes must have the same seed"),
    ],
)  # fmt: skip
def test_an_incomplete_or_harmful_run_is_refused(edit: Callable[[Any], object], message: str) -> None:
    with pytest.raises(EvaluationError, match=message) as caught:
        derive_preset([null_run(1), change(null_run(2), edit), HELD_OUT], "balanced")
    assert caught.value.code is Code.NULL_RUNS_UNUSABLE


def test_a_change_may_move_the_loss_by_a_fiftieth_of_a_nat() -> None:
    assert preset(null_run(1, deltas=(0.019,) * 4))["derivation"]["variance"]["n"] == 12
    assert preset(null_run(1, deltas=(-0.019,) * 4))["derivation"]["variance"]["n"] == 12
    for delta in (0.021, -0.021):
        with pytest.raises(
            EvaluationError, match=f"moves the loss by {delta:g}, but a harmless change by at most 0.02"
        ):
            preset(null_run(1, deltas=(delta,) * 4))


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "only 0, but two are needed"),
        ([null_run(1)], "only 1, but two are needed"),
        ([null_run(1), HELD_OUT], "without gaps"),
    ],
)
def test_missing_runs_are_reported(runs: list[NullRun], message: str) -> None:
    with pytest.raises(EvaluationError, match=message) as caught:
        derive_preset(runs, "balanced")
    assert caught.value.code is Code.NULL_RUNS_UNUSABLE


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (lambda p: p["limits"]["rmt.epsilon_by_family"].update(ffn=0.5), "limits.rmt.epsilon_by_family.ffn"),
        (
            lambda p: p["limits"]["spectral.null_scale_by_family"].update(attn=0.009),
            "limits.spectral.null_scale_by_family.attn",
        ),
        (lambda p: p["limits"].update({"variance.min_effect": 1.0}), "limits.variance.min_effect"),
        (
            lambda p: p["limits"].update({"primary_metric.drift_band": [0.5, 2.0]}),
            "limits.primary_metric.drift_band[0]",
        ),
        (lambda p: p.update(tier="conservative"), "limits.variance.min_effect"),
        (lambda p: p.update(model_id="another"), "model_id"),
        (lambda p: p["held_out"].update(signals={}), "held_out.signals"),
        (lambda p: p["null_runs"].pop(), "null_runs"),
        (lambda p: p["null_runs"][0].update(sha256=f"sha256:{'0' * 64}"), "null_runs"),
        (lambda p: p.pop("limits"), ""),
    ],
)
def test_a_preset_that_does_not_follow_is_refused(edit: Callable[[Any], object], field: str) -> None:
    runs = [null_run(1, (0.0, 0.001, 0.002), deltas=(0.001, 0.0, 0.0, 0.0)), null_run(2), HELD_OUT]
    document = derive_preset(runs, "balanced")
    edit(document)

    found = preset_problems(document, runs)

    assert {problem.code for problem in found} == {Code.PRESET_DOES_NOT_FOLLOW}
    assert any(problem.field.startswith(field) for problem in found), found


@pytest.mark.parametrize(("sigma", "error"), [(1e308, "OverflowError"), (5e-324, "ZeroDivisionError")])
def test_a_preset_of_null_runs_with_absurd_numbers_does_not_follow(sigma: float, error: str) -> None:
    document = derive_preset([null_run(1), null_run(2)], "balanced")
    absurd = change(null_run(1), lambda run: run["changes"][0]["spectral"]["modules"]["up"].update(sigma=sigma))

    (found,) = preset_problems(document, [absurd, null_run(2)])

    assert (found.code, found.where, found.field) == (Code.PRESET_DOES_NOT_FOLLOW, "", "null_runs")
    assert found.message.startswith(f"contradict each other: {error}: ")


def test_every_limit_reaches_the_policy_and_no_tier_changes() -> None:
    limits = {
        "fidelity.null_level": {"jitter:0.01:all": {"kl_mean": 1e-4, "same_top_share": 0.99, "kl_p999": 1e-3}},
        "primary_metric.drift_band": [0.96, 1.04],
        "rmt.epsilon_by_family": {"ffn": 0.02},
        "rmt.epsilon_by_module": {"up": 0.06},
        "spectral.null_scale_by_family": {"ffn": 0.002},
        "variance.min_effect": 0.003,
    }
    before = resolve_policy("balanced", "dev", {})

    policy = resolve_policy("balanced", "dev", {"variance.min_effect": 0.004}, limits)

    assert set(limits) == set(PRESET_LIMITS)
    for name, value in {**limits, "variance.min_effect": 0.004}.items():
        guard, _, limit = name.partition(".")
        assert policy[guard][limit] == value
    assert resolve_policy("balanced", "dev", {}) == before


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"primary_metric.ratio_limit": 9.0}, "is not a limit that a preset may set"),
        ({"spectral.null_scale_by_family": {"ffn": 0.011}}, "is above the tier's 0.01"),
        ({"rmt.epsilon_by_family": {"ffn": 0.001}}, "is below the tier's 0.01"),
        ({"rmt.epsilon_by_module": {"up": 0.04}}, "is below the tier's 0.05"),
        ({"primary_metric.drift_band": [0.95, 1.06]}, "is wider than the tier's"),
        # of several, in the order of metrics and guards
        ({"rmt.epsilon_by_family": {"ffn": 0.001}, "primary_metric.drift_band": [0.95, 1.06]}, "drift_band.* is wider"),
    ],
)
def test_a_preset_may_set_only_its_own_limits(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        resolve_policy("balanced", "dev", {}, limits)
    assert caught.value.code in (Code.POLICY_UNKNOWN, Code.PRESET_UNUSABLE)


def test_the_yaml_says_what_the_json_says() -> None:
    document = {**preset(null_run(1, (0.0, 0.001, 0.002))), "tiny": 1e-05, "tall": 1.5e300, "none": None, "empty": []}

    assert yaml.safe_load(render_yaml(document)) == document


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of presets with their null runs."""
    for number in (1, 2, 3):
        path = tmp_path / null_run_name("a__model", number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(dump_json(null_run(number).document))
    write_preset(tmp_path, derive_preset(read_null_runs(tmp_path, "a__model"), "balanced"))
    return tmp_path


def test_a_preset_is_read_with_its_evidence(folder: Path) -> None:
    found = read_preset(folder / preset_name("a__model"))

    assert found.document["model_id"] == "a/model"
    assert {path.name for path in folder.iterdir()} == {
        "a__model", "calibrated_preset_a__model.json", "calibrated_preset_a__model.yaml",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("harm", "error", "message"),
    [
        (lambda f: shutil.rmtree(f / "a__model"), DocumentError, "differ from the existing null runs"),
        (lambda f: (f / "a__model/null_run_2.json").write_text("{}"), DocumentError, "null_run format"),
        (lambda f: (f / preset_name("a__model")).unlink(), MissingFileError, "calibrate-only"),
        (lambda f: (f / preset_name("a__model")).write_text("{"), DocumentError, "preset_a__model.json"),
    ],
)
def test_a_preset_without_its_evidence_is_refused(
    folder: Path, harm: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    harm(folder)

    with pytest.raises(error, match=message):
        read_preset(folder / preset_name("a__model"))


def test_a_weakened_preset_is_refused(folder: Path) -> None:
    path = folder / preset_name("a__model")
    document = json.loads(path.read_bytes())
    document["limits"]["rmt.epsilon_by_family"]["ffn"] = 0.5
    path.write_bytes(dump_json(document))

    with pytest.raises(DocumentError, match=r"epsilon_by_family\.ffn: 0\.5, derived 0\.01; calibrate the model again"):
        read_preset(path)


@pytest.mark.parametrize(
    ("baseline", "tier", "attention", "message"),
    [
        ({"digest": "other"}, "balanced", "eager", "its baseline is sha256:1"),
        ({"tokenizer_sha256": "other"}, "balanced", "eager", "its tokenizer is sha256:2"),
        ({}, "conservative", "eager", "its tier is balanced, not conservative"),
        ({}, "balanced", "sdpa", "its attention is eager, not sdpa"),
    ],
)
def test_a_preset_of_something_else_is_refused(
    baseline: dict[str, str], tier: str, attention: str, message: str
) -> None:
    document = preset(null_run(1))

    check_fit(document, document["baseline"], "balanced", attention="eager", where="preset.json")
    with pytest.raises(UsageError, match=message) as caught:
        check_fit(document, {**document["baseline"], **baseline}, tier, attention=attention, where="preset.json")
    assert caught.value.code is Code.PRESET_UNUSABLE
