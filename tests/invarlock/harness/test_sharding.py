"""Three shards of a run, each made by a separate process, and the result of merging them."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.trust.keys import make_signing_key, write_key_pair
from pack_documents import comparable_documents
from processes import SMALL, packer, python, run_pytest, succeed

ROOT = Path(__file__).parents[3]
# four subjects on two models, with a probe and repeats
SELECT = "(mistral and (noop or prune_50 or ve_mlp)) or (qwen2 and nan_injection)"


def run(directory: Path, *arguments: str) -> str:
    """Run the suite or a shard of it, and return its output."""
    given = ("suites", "-q", "-k", SELECT, "--determinism", "strict", "--repeats", "1", "--output-dir", directory)
    return succeed(run_pytest(*given, *arguments, env={**SMALL, "DRIFT_CALIBRATION_RUNS": "2"})).stdout


@pytest.fixture(scope="module")
def runs(folder_made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A folder with the undivided run, its three shards, and a key."""
    return folder_made_once("shards", make_runs)


def make_runs(folder: Path) -> None:
    write_key_pair(folder / "maker", make_signing_key())
    key = ("--signing-key", str(folder / "maker.pem"))
    outputs = {
        "undivided": run(folder / "undivided", *key),
        "one": run(folder / "one", "--shard", "1/3"),
        "two": run(folder / "two", "--shard", "2/3", "-n", "2"),
        "three": run(folder / "three", "--shard", "3/3"),
    }
    for name, output in outputs.items():
        assert ("a shard has no pack" not in output and "is as expected" not in output) == (name == "undivided"), output


@pytest.fixture
def shards(runs: Path, tmp_path: Path) -> list[Path]:
    """Copies of the three shards that a test may change."""
    for name in ("one", "two", "three"):
        shutil.copytree(runs / name, tmp_path / name, ignore=shutil.ignore_patterns("models"))
    return [tmp_path / name for name in ("three", "one", "two")]


def merge(shards: list[Path], output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return packer("merge", *shards, "--output", output, *arguments, cwd=output.parent)


def change(path: Path, edit: Callable[[Any], None]) -> None:
    document = json.loads(path.read_bytes())
    edit(document)
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


def test_three_shards_merged_equal_one_run(runs: Path, shards: list[Path], tmp_path: Path) -> None:
    key = runs / "maker.pem"

    done = merge(shards, tmp_path / "merged", "--signing-key", str(key), "--require-pass")

    assert done.returncode == 0, done.stderr
    pack, undivided = tmp_path / "merged/evidence_pack", runs / "undivided/evidence_pack"
    assert comparable_documents(pack) == comparable_documents(undivided)
    assert {str(path.relative_to(pack)) for path in pack.rglob("*")} == {
        str(path.relative_to(undivided)) for path in undivided.rglob("*")
    }
    baselines = "baselines/embedded__mistral-tiny/evaluation.report.json"
    assert (pack / baselines).read_bytes() == (undivided / baselines).read_bytes()
    succeed(packer("verify", pack, "--strict", "--require-pass", "--quiet"))
    parameters = json.loads((pack / "manifest.json").read_bytes())["invocation"]["parameters"]
    assert parameters["shard"] == {"source": "default", "value": None}
    assert parameters["repeats"] == {"source": "option", "value": 1}
    assert "output_dir" not in parameters
    assert [path.name for path in tmp_path.glob(".*")] == []


def leave_one_out(shards: list[Path]) -> list[Path]:
    return shards[:2]


def name_one_twice(shards: list[Path]) -> list[Path]:
    return [*shards, shards[0]]


def name_a_run_that_is_no_shard(shards: list[Path]) -> list[Path]:
    (shards[0] / "state/shard.json").unlink()
    return shards


def stop_before_the_end(shards: list[Path]) -> list[Path]:
    (shards[0] / "state/pytest_report.json").unlink()
    return shards


def stop_in_the_middle(shards: list[Path]) -> list[Path]:
    change(shards[2] / "state/pytest_report.json", lambda document: document["tests"].pop())
    return shards


def use_other_settings(shards: list[Path]) -> list[Path]:
    change(shards[0] / "state/settings.json", lambda document: document["tier"].update(value="conservative"))
    return shards


def use_another_pin(shards: list[Path]) -> list[Path]:
    def edit(document: Any) -> None:
        document["models"][0]["revision"] = "sha256:" + "0" * 64

    change(shards[1] / "state/model_revisions.json", edit)
    return shards


def use_another_manifest(shards: list[Path]) -> list[Path]:
    def edit(document: Any) -> None:
        document["whole"]["scenarios"][0]["intent"] = "negative_control"

    change(shards[0] / "state/shard.json", edit)
    return shards


def run_other_cases(shards: list[Path]) -> list[Path]:
    change(shards[0] / "state/scenarios.json", lambda document: document["scenarios"][0].update(strictness="must_pass"))
    return shards


def use_another_library(shards: list[Path]) -> list[Path]:
    change(shards[2] / "state/environment.json", lambda document: document["libraries"].update(torch="0.1"))
    return shards


def measure_another_baseline(shards: list[Path]) -> list[Path]:
    def edit(document: Any) -> None:
        document["draws"][0]["final"]["logloss"][0] += 1e-6

    change(shards[1] / "embedded__mistral-tiny/baseline/evaluation.report.json", edit)
    return shards


def forge_a_report(shards: list[Path]) -> list[Path]:
    path = next(shards[0].glob("embedded__qwen2-tiny/reports/errors/nan_injection/evaluation.report.json"))
    change(path, lambda document: document["primary_metric"].update(ratio_vs_baseline=1.0))
    return shards


def swap_a_report_for_another_that_verifies(shards: list[Path]) -> list[Path]:
    report = next(shards[1].rglob("reports/**/evaluation.report.json"))
    change(report, lambda document: document["telemetry"].update(total_seconds=1.0))
    return shards


def lose_a_baseline(shards: list[Path]) -> list[Path]:
    for shard in shards:
        shutil.rmtree(shard / "embedded__qwen2-tiny/baseline", ignore_errors=True)
    return shards


def report_folder(shard: Path) -> Path:
    return next(shard.rglob("reports/**/evaluation.report.json")).parent


def put_a_link_for_a_report_folder(shards: list[Path]) -> list[Path]:
    folder = report_folder(shards[1])
    folder.rename(shards[1] / "elsewhere")
    folder.symlink_to(shards[1] / "elsewhere")
    return shards


def put_a_link_for_a_report(shards: list[Path]) -> list[Path]:
    report = report_folder(shards[1]) / "evaluation.report.json"
    report.rename(shards[1] / "elsewhere.json")
    report.symlink_to(shards[1] / "elsewhere.json")
    return shards


def put_a_link_for_the_state(shards: list[Path]) -> list[Path]:
    (shards[1] / "state").rename(shards[1] / "elsewhere")
    (shards[1] / "state").symlink_to("elsewhere")
    return shards


def put_a_link_for_a_preset(shards: list[Path]) -> list[Path]:
    preset = next(shards[1].glob("presets/*.json"))
    preset.rename(shards[1] / "elsewhere.json")
    preset.symlink_to(shards[1] / "elsewhere.json")
    return shards


def grow(name: str) -> Callable[[list[Path]], list[Path]]:
    def harm(shards: list[Path]) -> list[Path]:
        # a sparse file, which takes no disk space
        os.truncate(report_folder(shards[1]) / name, 60 * 10**9)
        return shards

    return harm


def lose_a_report(shards: list[Path]) -> list[Path]:
    (report_folder(shards[1]) / "evaluation.report.json").unlink()
    return shards


@pytest.mark.parametrize(
    ("harm", "code", "message"),
    [
        (leave_one_out, 3, "shards 2/3 are missing; give the run directories of all 3"),
        (name_one_twice, 2, "are the same shard"),
        (name_a_run_that_is_no_shard, 3, "no state/shard.json"),
        (stop_before_the_end, 3, "not finished, continue it with: pytest suites --shard 3/3 --resume"),
        (stop_in_the_middle, 3, "it is not finished, continue it with: pytest suites --shard 2/3 --resume"),
        (use_other_settings, 2, "belong to different runs: settings: tier 'conservative', not 'balanced'"),
        (use_another_pin, 2, "belong to different runs: pins: models.embedded/mistral-tiny.revision"),
        (use_another_manifest, 2, "belong to different runs: plan: scenarios.0.intent 'negative_control'"),
        (run_other_cases, 6, "does not match its shard.json: scenarios.0.strictness"),
        (use_another_library, 2, "belong to different runs: environment: libraries.torch '0.1'"),
        (measure_another_baseline, 2, "differently: draws.0.final.logloss.0"),
        (forge_a_report, 7, "(shard 3/3): qwen2-tiny-nan_injection-run1: its report does not verify"),
        (
            swap_a_report_for_another_that_verifies,
            7,
            "runtime.manifest.json: report.sha256: of another report",
        ),
        (lose_a_baseline, 7, "baseline"),
        (put_a_link_for_a_report_folder, 6, "run_1: a symbolic link, which is not followed in a run directory"),
        (put_a_link_for_a_report, 6, "evaluation.report.json: a symbolic link"),
        (put_a_link_for_the_state, 6, "state: a symbolic link"),
        (put_a_link_for_a_preset, 6, ".json: a symbolic link"),
        (grow("evaluation.report.json"), 7, "60000000000 bytes, more than the limit of"),
        (grow("runtime.manifest.json"), 7, "60000000000 bytes, more than the limit of"),
        (lose_a_report, 3, "missing, although its case passed"),
    ],
)
def test_parts_of_different_runs_are_refused_by_name_and_leave_nothing(
    harm: Callable[[list[Path]], list[Path]], code: int, message: str, shards: list[Path], tmp_path: Path
) -> None:
    before = set(tmp_path.iterdir())

    done = merge(harm(shards), tmp_path / "merged")

    assert message in done.stderr, done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert set(tmp_path.iterdir()) == before


def test_a_folder_that_exists_is_not_written_to(shards: list[Path], tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()

    done = merge(shards, tmp_path / "merged")

    assert (done.returncode, "merged already exists" in done.stderr) == (2, True), done.stderr


def test_merging_imports_neither_pytest_nor_torch(runs: Path, shards: list[Path], tmp_path: Path) -> None:
    program = (
        "import sys; from invarlock.packer.cli import main; code = main(sys.argv[1:]);"
        "print(sorted({'torch', 'pytest', 'transformers', 'safetensors'} & set(sys.modules))); sys.exit(code)"
    )
    arguments = ["merge", *map(str, shards), "--output", str(tmp_path / "merged"), "--unsigned"]

    done = python("-c", program, *arguments)

    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("[]")
    assert "none, the pack is not signed" in done.stdout
