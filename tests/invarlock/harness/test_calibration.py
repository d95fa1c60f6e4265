"""Presets in runs: null runs are shared among workers; presets are made once for all cases, kept, given or refused."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.verify.verifying import VerifyOptions, verify_pack
from killed_workers import Stage, kill_workers_in, killed

RunPytest = Callable[..., Any]

MODEL = "embedded__mistral-tiny"
PRESET = f"calibrated_preset_{MODEL}"
SELECT = ("-k", "mistral and (noop or prune_clean)", "-n", "2")
TWO = {"DRIFT_CALIBRATION_RUNS": "2", "INVARLOCK_FINAL_WINDOWS": "20"}


def load(path: Path) -> Any:
    return json.loads(path.read_bytes())


def sha256(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def test_presets_are_made_alone_and_then_cases_run_with_them(run_pytest: RunPytest, tmp_path: Path) -> None:
    made = run_pytest("-k", "mistral", "-n", "2", "--suite-mode", "calibrate-only", **TWO)

    presets = made.directory / "presets"
    assert made.status == 0, made.output
    assert "2 passed" in made.output
    assert f"embedded/mistral-tiny: {presets / PRESET}.json (1 null run and one held out, tier balanced)" in made.output
    assert "Verdict" not in made.output
    assert not made.pack.exists()
    assert not (made.directory / "reports").exists()
    before = files(presets)
    assert set(before) == {
        f"{PRESET}.json", f"{PRESET}.yaml", f"{MODEL}/null_run_1.json", f"{MODEL}/null_run_2.json",
    }  # fmt: skip

    null_run = load(presets / MODEL / "null_run_1.json")
    # 16 of the 20 windows of each of the two texts
    scored = {part: len(block["window_ids"]) for part, block in null_run["windows"].items()}
    assert scored == {"preview": 0, "final": 32}
    assert null_run["dataset"]["windows"]["final"] == 40

    ran = run_pytest(*SELECT, "--suite-mode", "run-only", "--resume", directory=made.directory, **TWO)

    assert ran.status == 0, ran.output
    assert files(presets) == before
    reports = [load(path) for path in ran.pack.glob("reports/**/evaluation.report.json")]
    limits = load(presets / f"{PRESET}.json")["limits"]
    assert len(reports) == 2
    for report in reports:
        assert report["policy_provenance"]["preset_sha256"] == sha256(presets / f"{PRESET}.json")
        assert report["resolved_policy"]["variance"]["min_effect"] == limits["variance.min_effect"]
        assert report["resolved_policy"]["rmt"]["epsilon_by_family"] == limits["rmt.epsilon_by_family"]
    assert files(ran.pack / "metadata/presets") == before
    assert verify_pack(ran.pack, VerifyOptions(strict=True)).code == 0

    given = run_pytest(
        "-k", "mistral and noop", directory=tmp_path / "given", PACK_CALIBRATION_PRESET_DIR=str(presets), **TWO
    )

    assert given.status == 0, given.output
    assert files(given.pack / "metadata/presets") == before
    assert str(tmp_path) not in (given.pack / "manifest.json").read_text()


def test_a_null_run_whose_worker_died_or_that_does_not_fit_is_measured_again(
    run_pytest: RunPytest, own_suites: Path
) -> None:
    kill_workers_in(own_suites, [Stage("null run", "os.rename", "null_run_1.json")])
    first = run_pytest(*SELECT, suites=own_suites, **TWO)
    assert first.status == 0, first.output
    assert killed(own_suites) == {"null run"}
    assert not [path for path in first.directory.rglob("*") if path.suffix == ".tmp"]
    presets = first.directory / "presets"
    before = files(presets)
    path = presets / MODEL / "null_run_2.json"
    document = load(path)
    document["meta"]["model_id"] = "embedded/another"
    path.write_text(json.dumps(document))
    (presets / MODEL / "null_run_3.json").write_bytes((presets / MODEL / "null_run_1.json").read_bytes())
    kept = (presets / MODEL / "null_run_1.json").stat().st_mtime_ns
    shutil.rmtree(first.pack)

    again = run_pytest(*SELECT, "--resume", suites=own_suites, directory=first.directory, **TWO)

    assert again.status == 0, again.output
    stale = {f"{MODEL}/null_run_2.json.stale", f"{MODEL}/null_run_3.json.stale"}
    now = files(presets)
    assert stale <= set(now)
    assert {name: data for name, data in now.items() if not name.endswith(".stale")} == before
    assert (presets / MODEL / "null_run_1.json").stat().st_mtime_ns == kept


def test_runs_share_null_runs_in_a_cache(run_pytest: RunPytest, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shared = ("--preset-cache", str(cache))
    first = run_pytest("-k", "mistral", "--suite-mode", "calibrate-only", *shared, directory=tmp_path / "first", **TWO)
    assert first.status == 0, first.output
    before = files(first.directory / "presets")
    kept = {path.name: path.read_bytes() for path in cache.iterdir()}
    assert sorted(kept.values()) == sorted(before[f"{MODEL}/null_run_{number}.json"] for number in (1, 2))
    damaged = next(path for path in cache.iterdir() if load(path)["run"] == 2)
    damaged.write_bytes(damaged.read_bytes()[:-20])

    second = run_pytest("-k", "mistral and noop", *shared, directory=tmp_path / "second", **TWO)

    assert second.status == 0, second.output
    log = (second.directory / "logs/mistral-tiny-noop_control-run1.log").read_text()
    assert re.findall("null run (.) of embedded/mistral-tiny: from the preset cache", log) == ["1"]
    line = f"invarlock: 1 null run reused from the preset cache {cache}"
    assert (line in first.output, second.output.count(line)) == (False, 1)
    now = files(second.directory / "presets")
    assert now.pop(f"{MODEL}/null_run_2.json.stale") not in kept.values()
    assert now == before
    assert files(second.pack / "metadata/presets") == before
    assert verify_pack(second.pack, VerifyOptions(strict=True)).code == 0
    # the damaged file was measured again and replaced
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == kept

    third = run_pytest("-k", "mistral", "--suite-mode", "calibrate-only", *shared, directory=tmp_path / "third", **TWO)

    assert third.status == 0, third.output
    assert third.output.count(f"invarlock: 2 null runs reused from the preset cache {cache}") == 1


def test_a_cache_that_cannot_be_written_is_refused_and_one_that_no_null_run_needs_is_not_read(
    run_pytest: RunPytest, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    refused = run_pytest("-k", "mistral and noop", "--preset-cache", str(tmp_path / "file/cache"), **TWO)
    unread = run_pytest("--collect-only", "--preset-cache", str(tmp_path / "file"), DRIFT_CALIBRATION_RUNS="0")

    assert refused.status == 4, refused.output
    assert f"--preset-cache: {tmp_path / 'file'} is not a writable folder; give another" in refused.output
    assert unread.status == 0, unread.output
    assert "--preset-cache: it has no effect: DRIFT_CALIBRATION_RUNS=0 makes no presets" in unread.output


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (("--suite-mode", "run-only"), {}, "--suite-mode run-only: there are no presets; give them with"),
        ((), {"PACK_CALIBRATION_PRESET_DIR": "nowhere"}, "no such file; make presets with --suite-mode calibrate-only"),
        ((), {"DRIFT_CALIBRATION_RUNS": "1"}, "DRIFT_CALIBRATION_RUNS: 1 is too few"),
        (("--suite-mode", "calibrate-only"), {"DRIFT_CALIBRATION_RUNS": "0"}, "cannot be combined; drop one"),
        (("--suite-mode", "calibrate-only"), {"PACK_CALIBRATION_PRESET_DIR": "nowhere"}, "gives them; drop one"),
    ],
)
def test_impossible_combinations_are_refused_before_the_run(
    run_pytest: RunPytest, arguments: tuple[str, ...], variables: dict[str, str], message: str
) -> None:
    ran = run_pytest("-k", "mistral and noop", *arguments, **{**TWO, **variables})

    assert ran.status == 4, ran.output
    assert message in ran.output
    assert "Traceback" not in ran.output
    assert not ran.directory.exists()


def test_a_preset_of_another_model_or_tier_or_of_other_windows_is_refused_up_front(
    real_run: Any, run_pytest: RunPytest, tmp_path: Path
) -> None:
    given = str(real_run.directory / "presets" / f"{PRESET}.json")

    other = run_pytest("-k", "noop", PACK_CALIBRATION_PRESET_FILE=given)
    strict = run_pytest(
        "-k", "mistral and noop", "--tier", "conservative",
        PACK_CALIBRATION_PRESET_FILE=given, INVARLOCK_FINAL_WINDOWS="32",
    )  # fmt: skip
    yaml = run_pytest("-k", "mistral and noop", PACK_CALIBRATION_PRESET_FILE=given.replace(".json", ".yaml"))

    assert "a preset for embedded/mistral-tiny, but the run has embedded/qwen2-tiny; drop it with -k" in other.output
    assert "its tier is balanced, not conservative; calibrate this model, or omit the preset" in strict.output
    learned, scored = (
        f"austen (8 + {final} windows of 128 tokens), melville (8 + {final} windows of 128 tokens)"
        for final in (16, 32)
    )
    assert f"learned from {learned}, but the run scores {scored}; calibrate on the texts of this run" in strict.output
    assert "give the preset's .json" in yaml.output
    assert [ran.status for ran in (other, strict, yaml)] == [4, 4, 4]
