"""``invarlock evaluate`` and ``invarlock verify`` on real checkpoints, as a user types them."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import INVARLOCK, invarlock, invarlock_process, light
from safetensors.torch import load_file, save_file

from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.checkpoints.editing import apply_edits
from invarlock.checkpoints.snapshots import make_snapshot
from invarlock.faults.injection import inject_fault
from invarlock.reports.sidecars import edit_metadata

SUITES = Path(__file__).parents[2] / "suites"
TEXT = SUITES / "embedded" / "text" / "austen_heldout.txt.xz"
REVISION = "sha256:573f2f128a1f3327943ef120a6f4e1512a363b07f1f32bb3f8e38563c311e4b0"
Run = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("--seq-len", "64", "--preview-windows", "8", "--final-windows", "16")


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "mistral-tiny"
    make_snapshot(SUITES / "embedded/mistral-tiny", SUITES / "embedded/tokenizer", folder, REVISION)
    return folder


@pytest.fixture(scope="module")
def quantised(baseline: Path) -> Path:
    target = baseline.parent / "quantised"
    spec = parse_edit_spec("quant_rtn:8:32:ffn")
    assert isinstance(spec, EditSpec)
    apply_edits(baseline, {target: spec})
    return target


def evaluate(
    baseline: Path, subject: Path, out: Path, *more: object, run: Run = invarlock
) -> subprocess.CompletedProcess[str]:
    text = () if "--text" in more else ("--text", TEXT)
    return run("evaluate", "--baseline", baseline, "--subject", subject, *text, "--output-dir", out, *SMALL, *more)


def load(path: Path) -> Any:
    return json.loads(path.read_bytes())


@pytest.mark.slow
def test_two_checkpoints_are_compared_and_the_report_verifies(baseline: Path, quantised: Path, tmp_path: Path) -> None:
    done = evaluate(baseline, quantised, tmp_path / "out", run=invarlock_process)
    verified = invarlock_process(
        "verify", tmp_path / "out/evaluation.report.json", "--baseline-report",
        tmp_path / "out/baseline/evaluation.report.json",
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed  primary_metric_acceptable: ratio " in done.stdout
    assert (verified.returncode, verified.stdout.count("verified")) == (0, 1)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "evaluation.report.json", "evaluation.html", "runtime.manifest.json", "edit_metadata.json",
        "evaluate_timing.json", "baseline", "evaluate.log",
    }  # fmt: skip
    page = tmp_path / "out/evaluation.html"
    page.write_text(page.read_text().replace("</body>", "<p>held</p></body>"))
    forged = invarlock("verify", tmp_path / "out/evaluation.report.json")
    assert (forged.returncode, "evaluation.html: not the page that is rendered from the report" in forged.stdout) == (
        7,
        True,
    )
    metadata = load(tmp_path / "out/edit_metadata.json")
    assert (metadata["edit_label"], metadata["subject_digest"]) == ("custom", digest_checkpoint(quantised))
    # the FFN of four blocks: gate, up and down
    assert metadata["coverage"]["edited_tensors"] == 12


def test_a_broken_subject_fails_its_gates(baseline: Path, tmp_path: Path) -> None:
    inject_fault("nan_injection", baseline, tmp_path / "broken", {})

    done = evaluate(baseline, tmp_path / "broken", tmp_path / "out")

    assert done.returncode == 1
    assert "FAILED  invariants_pass: fail" in done.stdout
    assert load(tmp_path / "out/evaluation.report.json")["assurance"]["verdict"] == "FAIL"


@pytest.mark.slow
def test_a_baselines_report_is_reused_and_one_of_another_setup_is_refused(
    baseline: Path, quantised: Path, tmp_path: Path
) -> None:
    evaluate(baseline, quantised, tmp_path / "first")
    given = tmp_path / "first/baseline/evaluation.report.json"

    again = evaluate(baseline, quantised, tmp_path / "second", "--baseline-report", given)
    other = evaluate(baseline, quantised, tmp_path / "third", "--baseline-report", given, "--seed", "5")
    fewer = evaluate(baseline, quantised, tmp_path / "fourth", "--baseline-report", given, "--final-windows", "9")

    assert again.returncode == 0, again.stderr
    first, second = (load(tmp_path / name / "evaluation.report.json") for name in ("first", "second"))
    assert (first["primary_metric"], first["spectral"]) == (second["primary_metric"], second["spectral"])
    # libraries that are installed may have words of their own on stderr before it
    last = other.stderr.splitlines()[-1]
    assert (other.returncode, last.startswith("error: "), "Traceback" in other.stderr) == (2, True, False)
    assert "of another setup, seeds differs" in other.stderr
    counts = first["dataset"]["windows"]
    said = f"measured with {counts['preview']} + {counts['final']} windows, here {counts['preview']} + 9; use the same"
    assert (fewer.returncode, said in fewer.stderr) == (2, True), fewer.stderr
    assert not (tmp_path / "third").exists()


def metadata_of(subject: Path, baseline: Path) -> Any:
    """Return the ``edit_metadata.json`` of a subject rounded to 8 bits."""
    return edit_metadata(
        scenario={"artifact_class": "validation_subject_checkpoint"},
        edit_type="quant_rtn",
        label="quant_rtn",
        scope="ffn",
        parameters={"bits": 8, "group_size": 32},
        edited_tensors=12,
        edited_params=1,
        total_params=2,
        subject_digest=digest_checkpoint(subject),
        baseline_digest=digest_checkpoint(baseline),
    )


def test_what_the_edit_was_is_read_from_the_subjects_metadata(baseline: Path, quantised: Path, tmp_path: Path) -> None:
    subject = shutil.copytree(quantised, tmp_path / "subject")
    document = metadata_of(quantised, baseline)
    (Path(subject) / "edit_metadata.json").write_text(json.dumps(document))

    evaluate(baseline, Path(subject), tmp_path / "out")

    assert load(tmp_path / "out/evaluation.report.json")["edit"] == {
        "label": "quant_rtn", "name": "quant_rtn", "parameters": {"bits": 8, "group_size": 32},
        "spec": "quant_rtn:8:32:ffn",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("key", ["baseline_digest", "subject_digest"])
def test_metadata_of_other_files_is_refused_unless_the_user_names_the_edit(
    baseline: Path, quantised: Path, tmp_path: Path, key: str
) -> None:
    subject = Path(shutil.copytree(quantised, tmp_path / "subject"))
    document: Any = metadata_of(quantised, baseline)
    document[key] = f"sha256:{'0' * 64}"
    (subject / "edit_metadata.json").write_text(json.dumps(document))

    refused = evaluate(baseline, subject, tmp_path / "refused")
    named = evaluate(baseline, subject, tmp_path / "named", "--edit-label", "merge")

    assert (refused.returncode, f"its {key} is not that of" in refused.stderr) == (2, True), refused.stderr
    assert not (tmp_path / "refused").exists()
    assert named.returncode == 0, named.stderr
    assert load(tmp_path / "named/evaluation.report.json")["edit"] == {
        "label": "merge", "label_source": "given", "name": "custom", "parameters": {}, "spec": "custom",
    }  # fmt: skip
    assert invarlock("verify", tmp_path / "named/evaluation.report.json").returncode == 0


@pytest.mark.slow
def test_an_edit_inferred_from_the_path_is_marked_as_such(baseline: Path, quantised: Path, tmp_path: Path) -> None:
    subject = Path(shutil.copytree(quantised, tmp_path / "mistral-gptq"))

    done = evaluate(baseline, subject, tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "out/evaluation.report.json")["edit"] == {
        "label": "gptq", "label_source": "inferred", "name": "custom", "parameters": {}, "spec": "custom",
    }  # fmt: skip
    metadata = load(tmp_path / "out/edit_metadata.json")
    assert [metadata[key] for key in ("edit_type", "edit_label", "edit_label_source")] == ["custom", "gptq", "inferred"]
    assert "gptq (inferred)" in (tmp_path / "out/evaluation.html").read_text()
    assert invarlock("verify", tmp_path / "out/evaluation.report.json").returncode == 0


@pytest.mark.slow
def test_a_subject_whose_tensors_are_the_baselines_is_no_edit(baseline: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(baseline, tmp_path / "copied")

    for name, options, label in (("described", (), "noop"), ("overridden", ("--edit-label", "custom"), "custom")):
        done = evaluate(baseline, Path(copied), tmp_path / name, *options)
        assert done.returncode == 0, done.stderr
        assert load(tmp_path / name / "evaluation.report.json")["edit"]["label"] == label
        assert load(tmp_path / name / "edit_metadata.json")["edit_label"] == label


@pytest.mark.slow
@pytest.mark.parametrize("change", ["saved again", "another config"])
def test_equal_tensors_in_other_files_are_an_unknown_edit(baseline: Path, tmp_path: Path, change: str) -> None:
    copied = Path(shutil.copytree(baseline, tmp_path / "copied"))
    if change == "saved again":
        weights = load_file(copied / "model.safetensors")
        save_file(weights, copied / "model.safetensors", metadata={"format": "pt", "saved": "again"})
    else:
        config = load(copied / "config.json")
        (copied / "config.json").write_text(json.dumps({**config, "transformers_version": "9.9"}))

    done = evaluate(baseline, copied, tmp_path / "out")

    assert done.returncode == 0, done.stderr
    report = tmp_path / "out/evaluation.report.json"
    assert load(report)["edit"]["label"] == "custom"
    assert invarlock("verify", report).returncode == 0


@pytest.mark.slow
def test_the_same_model_under_other_names_passes(baseline: Path, tmp_path: Path) -> None:
    renamed = Path(shutil.copytree(baseline, tmp_path / "renamed"))
    weights = load_file(renamed / "model.safetensors")
    plain = {name.removeprefix("model."): weight for name, weight in weights.items()}
    save_file(plain, renamed / "model.safetensors", metadata={"format": "pt"})

    for name, (one, other) in {"shorter": (baseline, renamed), "longer": (renamed, baseline)}.items():
        done = evaluate(one, other, tmp_path / name)
        assert done.returncode == 0, done.stderr
        report = load(tmp_path / name / "evaluation.report.json")
        assert [row["kind"] for row in report["equivalence"]] == ["names"]
        assert report["invariants"]["violations"] == []
        assert report["primary_metric"]["ratio_vs_baseline"] == 1
        assert invarlock("verify", tmp_path / name / "evaluation.report.json").returncode == 0


@pytest.mark.slow
def test_text_is_read_from_plain_and_json_lines_files(baseline: Path, quantised: Path, tmp_path: Path) -> None:
    import lzma

    words = lzma.decompress(TEXT.read_bytes()).decode()
    (tmp_path / "text.txt").write_text(words)
    lines = [json.dumps({"text": part}) for part in words.split("\n\n")]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))

    for name in ("text.txt", "text.jsonl"):
        out = tmp_path / f"out-{name}"
        done = evaluate(baseline, quantised, out, "--text", tmp_path / name)
        assert done.returncode == 0, done.stderr
    datasets = [load(tmp_path / f"out-{name}/evaluation.report.json")["dataset"] for name in ("text.txt", "text.jsonl")]
    assert [dataset["provider"] for dataset in datasets] == ["local_text", "local_jsonl"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--subject", "nowhere"), 2, "nowhere: no such folder"),
        (("--text", "nowhere.txt"), 3, "nowhere.txt: no such file"),
        (("--final-windows", "0"), 2, "not a positive whole number"),
        (("--final-windows", "100000"), 2, "distinct windows of 64 tokens"),
        (("--edit-label", "two words"), 2, "'two words' is not a label"),
        (("--edit-label", "noop"), 2, "labelled noop, but differs from its baseline"),
        (("--output-dir", "."), 2, "already exists; choose another folder"),
    ],
)
def test_impossible_input_is_one_line_and_leaves_no_files(
    baseline: Path, quantised: Path, tmp_path: Path, arguments: tuple[str, str], code: int, message: str
) -> None:
    done = evaluate(baseline, quantised, tmp_path / "out", *arguments)

    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr
    assert list(tmp_path.iterdir()) == []


def without_torch(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, which ends with 99 where PyTorch was imported."""
    (done,) = light("invarlock", [arguments])
    return done


def test_a_malformed_document_is_refused_before_torch_is_imported(baseline: Path, tmp_path: Path) -> None:
    (tmp_path / "of_nothing.json").write_text("{}")
    (tmp_path / "cut_off.json").write_text("{")
    codes = {"absent.json": 3, "of_nothing.json": 2, "cut_off.json": 2}
    given = [(option, tmp_path / name) for option in ("--preset", "--baseline-report") for name in codes]
    paths = ("--baseline", baseline, "--subject", baseline, "--text", TEXT, "--output-dir", tmp_path / "out")

    done = light("invarlock", [("evaluate", *paths, *SMALL, *pair) for pair in given])

    for (_, path), one in zip(given, done, strict=True):
        assert (one.returncode, one.stderr.count("\n")) == (codes[path.name], 1), one.stderr
        assert str(path) in one.stderr


@pytest.mark.slow
def test_a_baselines_report_of_another_setup_is_refused_before_torch_is_imported(
    baseline: Path, tmp_path: Path
) -> None:
    evaluate(baseline, baseline, tmp_path / "first")
    given = tmp_path / "first/baseline/evaluation.report.json"
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps({**load(given), "run_id": "0" * 16}))

    for path, more, words in (
        (given, ("--tier", "conservative"), "context.tier differs"),
        (given, ("--attention", "sdpa"), "meta.attention differs"),
        (given, ("--model-id", "other"), "meta.model_id differs"),
        (given, ("--seq-len", "32"), "dataset.seq_len differs"),
        (forged, (), "run_id"),
    ):
        done = evaluate(baseline, baseline, tmp_path / "out", "--baseline-report", path, *more, run=without_torch)
        assert (done.returncode, words in done.stderr, done.stderr.count("\n")) == (2, True, 1), done.stderr


def test_what_is_missing_is_listed_before_torch_is_imported(baseline: Path, tmp_path: Path) -> None:
    named = {
        "--baseline": baseline,
        "--subject": baseline,
        "--text": TEXT,
        "--output-dir": tmp_path / "out",
        "--seq-len": "64",
    }
    lines = [named | {missing: tmp_path / "nowhere"} for missing in ("--baseline", "--subject", "--text")]

    done = light("invarlock", [("evaluate", *(part for pair in line.items() for part in pair)) for line in lines])

    assert [one.returncode for one in done] == [2, 2, 3]
    assert ["nowhere: no such" in one.stderr for one in done] == [True] * 3


def test_a_changed_report_does_not_verify(baseline: Path, quantised: Path, tmp_path: Path) -> None:
    evaluate(baseline, quantised, tmp_path / "out")
    path = tmp_path / "out/evaluation.report.json"
    path.write_text(path.read_text().replace('"degraded": false', '"degraded": true', 1))

    done = invarlock("verify", path)

    assert done.returncode == 7
    assert "primary_metric.degraded: True, derived False" in done.stdout


def test_the_packers_commands_are_available_too() -> None:
    done = invarlock("advanced", "evidence-pack", "verify", "nowhere")

    assert (done.returncode, "NOT VERIFIED" in done.stdout) == (3, True)


@pytest.mark.slow
def test_a_preset_judges_a_pair_and_is_compared_with_the_report(
    baseline: Path, quantised: Path, real_run: Any, tmp_path: Path
) -> None:
    preset = real_run.directory / "presets/calibrated_preset_embedded__mistral-tiny.json"
    other = tmp_path / "other"
    shutil.copytree(preset.parent, other)
    for path in other.glob("embedded__mistral-tiny/null_run_2.json"):
        path.write_bytes(path.read_bytes() + b" ")

    done = evaluate(baseline, quantised, tmp_path / "out", "--preset", preset)
    refused = evaluate(quantised, baseline, tmp_path / "turned", "--preset", preset)
    weakened = evaluate(baseline, quantised, tmp_path / "weakened", "--preset", other / preset.name)
    report = tmp_path / "out/evaluation.report.json"
    alone, held = invarlock("verify", report), invarlock("verify", report, "--preset", preset)
    changed = invarlock("verify", tmp_path / "out/evaluation.report.json", "--preset", other / preset.name)

    assert done.returncode == 0, done.stderr
    found = load(report)
    limits = load(preset)["limits"]
    assert found["meta"]["model_id"] == "embedded/mistral-tiny"
    assert found["policy_provenance"]["preset_limits"] == limits
    assert found["resolved_policy"]["rmt"]["epsilon_by_module"] == limits["rmt.epsilon_by_module"]
    assert (alone.returncode, "--preset FILE to recompute them" in alone.stdout) == (0, True)
    assert (held.returncode, "--preset" in held.stdout) == (0, False)
    assert (refused.returncode, "its baseline is sha256:" in refused.stderr) == (2, True)
    assert (weakened.returncode, "null_runs: differ from the existing null runs" in weakened.stderr) == (2, True)
    assert (changed.returncode, "null_runs: differ from the existing null runs" in changed.stderr) == (2, True)
    document = json.loads(report.read_bytes())
    assert not (tmp_path / "turned").exists()
    assert document["assurance"]["verdict"] == "PASS"


def test_a_proposal_of_limits_is_fitted_to_a_run_and_no_tier_changes(real_run: Any, tmp_path: Path) -> None:
    tiers = (SUITES.parent / "contracts/tiers.json").read_bytes()
    out = tmp_path / "proposal.json"

    done = invarlock("advanced", "calibrate", real_run.directory, "--output", out)
    again = invarlock("advanced", "calibrate", real_run.directory, "--output", out)
    nothing = invarlock("advanced", "calibrate", tmp_path, "--output", tmp_path / "other.json")

    assert done.returncode == 0, done.stderr
    proposal = load(out)
    rows = {row["limit"]: row for row in proposal["limits"]}
    # two null runs of three changes and the one edit that passes; the stress edit and the fault teach nothing
    assert len(proposal["sources"]) == 3
    assert sorted(row["reason"].partition(" ")[0] for row in proposal["left_out"]) == ["a", "does"]
    # null runs measure no drift
    assert rows["primary_metric.drift_band"]["n"] == 1
    assert rows["primary_metric.ratio_limit"]["n"] == 1
    assert rows["spectral.null_scale"]["present"] == 0.01
    assert rows["spectral.null_scale"]["change"].startswith("tighter")
    assert (SUITES.parent / "contracts/tiers.json").read_bytes() == tiers
    assert (again.returncode, "already exists; give another file" in again.stderr) == (2, True)
    assert (nothing.returncode, "nothing to fit" in nothing.stderr) == (3, True)


@pytest.mark.slow
def test_the_example_of_the_help_runs_as_it_stands(tmp_path: Path) -> None:
    example = invarlock_process("evaluate", "--help").stdout.partition("InvarLock writes:\n")[2]
    assert example.count("invarlock ") == 2
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    done = subprocess.run(
        ["bash", "-ec", example], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS: demo/out/evaluation.report.json" in done.stdout
    assert (tmp_path / "demo/out/evaluate.log").read_text().count("subject w4a16") >= 1
    # what goes on stands on standard error, without words of libraries
    known = ("estimate: ", "loading", "writing", "baseline", "subject")
    assert all(line.startswith(known) for line in done.stderr.splitlines()), done.stderr
    assert done.stderr.count("estimate: ") == 1


@pytest.mark.slow
def test_an_interrupt_says_how_to_begin_again(baseline: Path, quantised: Path, tmp_path: Path) -> None:
    given = [
        "evaluate", "--baseline", baseline, "--subject", quantised, "--text", TEXT, "--output-dir", tmp_path / "out",
        *SMALL,
    ]  # fmt: skip
    command = [*INVARLOCK, *map(str, given)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        first = [running.stderr.readline() for _ in range(2)][1]
        running.send_signal(signal.SIGINT)
        output, errors = running.communicate(timeout=60)

    assert (first, running.returncode, output) == ("loading PyTorch\n", 130, "")
    said = errors.splitlines()[-1]
    assert said == f"interrupted, no report was written; begin again with: {shlex.join(['invarlock', *command[3:]])}"
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on_with_its_baseline(baseline: Path, quantised: Path, tmp_path: Path) -> None:
    given = (
        "evaluate",
        "--baseline",
        baseline,
        "--subject",
        quantised,
        "--text",
        TEXT,
        "--output-dir",
        tmp_path / "out",
    )
    command = [*INVARLOCK, *map(str, (*given, *SMALL))]
    log = tmp_path / "out.log"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        deadline = time.monotonic() + 120
        while "subject" not in (log.read_text() if log.is_file() else "") and time.monotonic() < deadline:
            time.sleep(0.005)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)

    assert (running.returncode, "the measurements of the baseline are kept" in errors, "Traceback" in errors) == (
        130,
        True,
        False,
    ), errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.unfinished"]
    left = (tmp_path / "out.unfinished/evaluation.report.json").read_bytes()

    # another setup measures the baseline again
    other = evaluate(baseline, quantised, tmp_path / "out", "--seed", "7")
    assert other.returncode == 0, other.stderr
    shutil.move(tmp_path / "out", tmp_path / "other")
    assert load(tmp_path / "other/baseline/evaluation.report.json")["draws"] != json.loads(left)["draws"]
    (tmp_path / "out.unfinished").mkdir()
    for name in ("evaluation.report.json", "kept_tokens_1.npy"):
        shutil.copy(tmp_path / "other/baseline" / name, tmp_path / "out.unfinished" / name)

    done = evaluate(baseline, quantised, tmp_path / "out", "--seed", "7")

    assert done.returncode == 0, done.stderr
    first, second = (load(tmp_path / name / "evaluation.report.json") for name in ("other", "out"))
    assert (first["primary_metric"], first["spectral"]) == (second["primary_metric"], second["spectral"])
    assert (tmp_path / "out/baseline/evaluation.report.json").read_bytes() == (
        tmp_path / "other/baseline/evaluation.report.json"
    ).read_bytes()
    assert not (tmp_path / "out.unfinished").exists()
