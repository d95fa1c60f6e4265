import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.trust.keys import make_signing_key, write_key_pair
from processes import packer, run_pytest, succeed

ROOT = Path(__file__).parents[3]
NOOP = "mistral-tiny-noop_control-run1"


def load(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def verify(pack: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return packer("verify", pack, *options)


# Collection must not import these. It does import jsonschema_rs, to validate models.toml and scenarios.json.
NOT_IMPORTED = (
    "accelerate", "cryptography", "filelock", "huggingface_hub", "jsonschema", "nacl", "numpy", "pynvml", "safetensors",
    "scipy", "tokenizers", "torch", "transformers", "xdist", "pytest_jsonreport",
)  # fmt: skip


def test_collecting_imports_pytest_alone_and_shows_every_smoke_case_and_the_plan(
    run_pytest: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "refused.py").write_text(
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {NOT_IMPORTED}:\n"
        "            raise AssertionError(f'{name} is imported at collection')\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )

    ran = run_pytest(
        "--collect-only", "-q", "-p", "refused", PYTHONPATH=str(tmp_path), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"
    )

    assert ran.status == 0, ran.output
    assert ran.output.count("test_scenario[") == 84
    assert f"suites/test_scenarios.py::test_scenario[{NOOP}]" in ran.output
    assert "invarlock: suite smoke: 84 cases on 3 models" in ran.output
    assert "invarlock:   embedded/mistral-tiny: 28 cases, 719 MB of memory, 21 MB of disk" in ran.output
    assert not ran.directory.exists()


def test_collecting_shows_what_is_applied_with_the_parameters_of_each_model(run_pytest: Callable[..., Any]) -> None:
    ran = run_pytest("--collect-only", "-q")

    assert "invarlock:   fp8_e5m2_clean: fp8_quant:e5m2:ffn\n" in ran.output
    shown = next(line for line in ran.output.splitlines() if line.startswith("invarlock:   quant_4bit_clean: "))
    assert "quant_rtn:4:32:ffn (mistral-tiny)" in shown
    assert "clean:ffn" not in shown


def test_deployable_subjects_are_made_only_when_selected(run_pytest: Callable[..., Any]) -> None:
    ran = run_pytest("--collect-only")

    assert "invarlock: suite smoke" in ran.output
    assert "quant_8bit_deployable" not in ran.output


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (("-m", "smoke and clean"), 24),
        (("-m", "clean"), 24),
        (("-m", "smoke and error_injection", "-k", "qwen2"), 15),
        (("--scenario-ids", "nan_injection,prune_clean"), 6),
        (("-m", "subset"), 37),
        (("-m", "deployable"), 3),
        (("-m", "subset and deployable"), 1),
        (("--scenario-ids", "quant_8bit_deployable"), 3),
    ],
)
def test_marks_keywords_and_scenario_ids_select_cases(
    run_pytest: Callable[..., Any], arguments: tuple[str, ...], count: int
) -> None:
    ran = run_pytest("--collect-only", "-q", *arguments)

    assert ran.output.count("::test_scenario[") == count, ran.output


def test_one_scenario_leaves_a_signed_pack_that_says_what_was_selected(
    run_pytest: Callable[..., Any], tmp_path: Path
) -> None:
    summary = tmp_path / "summary.md"

    ran = run_pytest("-k", "noop_control and mistral", GITHUB_STEP_SUMMARY=str(summary))

    assert ran.status == 0, ran.output
    assert "Verdict: PASS" in summary.read_text()
    assert "Verdict: PASS" in ran.output
    assert "temporary key, now discarded" in ran.output
    selection = load(ran.pack / "metadata" / "scenarios.json")["selection"]
    assert selection["cases"] == [{"model": "embedded/mistral-tiny", "run": 1, "scenario": "noop_control"}]
    assert selection["expression"]["-k"] == "noop_control and mistral"
    assert list(load(ran.pack / "metadata" / "tuned_edit_params.json")["models"]) == ["embedded/mistral-tiny"]
    command = next(line for line in ran.output.splitlines() if line.startswith("verify it with: "))
    printed = command.removeprefix("verify it with: ").split(" verify ")[1].split()
    succeed(packer("verify", *printed, cwd=ROOT))
    assert not list((ran.directory / "embedded__mistral-tiny" / "models").glob("*/model.safetensors"))


def test_strict_runs_give_the_same_bytes_with_one_worker_or_two_times_aside(
    run_pytest: Callable[..., Any], tmp_path: Path
) -> None:
    select = ("-k", "mistral and (noop or nan_injection or prune_clean or ve_mlp)", "--determinism", "strict")

    one = run_pytest(*select, directory=tmp_path / "one")
    again = ("--repeats", "1", "--repeat-scenario", "nan_injection,prune_clean")
    two = run_pytest(*select, "-n", "2", *again, directory=tmp_path / "two")

    assert (one.status, two.status) == (0, 0), one.output + two.output
    reports = sorted(path.relative_to(one.pack) for path in one.pack.glob("reports/**/evaluation.report.json"))
    assert len(reports) == 4
    for path in reports:
        first, second = load(one.pack / path), load(two.pack / path)
        for report in (first, second):
            report.pop("telemetry")
        assert first == second
    probe = "reports/embedded__mistral-tiny/errors/ve_mlp_scale_skew/ve_probe.json"
    assert (one.pack / probe).read_bytes() == (two.pack / probe).read_bytes()
    repeats = load(two.pack / "results/determinism_repeats.json")
    assert (repeats["repeats"], repeats["identical"]) == (1, True)
    assert [path.split("/")[-2] for path in repeats["cases"]] == ["nan_injection", "run_1"]
    assert "invarlock: --repeats 1: cases of nan_injection to measure again: 1" in two.output
    assert load(two.pack / "manifest.json")["repeats"] == 1
    assert not (one.pack / "results/determinism_repeats.json").exists()


def test_a_node_id_can_be_pasted_back(run_pytest: Callable[..., Any]) -> None:
    ran = run_pytest(f"{ROOT}/suites/test_scenarios.py::test_scenario[{NOOP}]", "--collect-only", "-q")

    assert (ran.status, ran.output.count("test_scenario[")) == (0, 1), ran.output


def test_an_empty_selection_is_an_error_that_leaves_nothing(run_pytest: Callable[..., Any]) -> None:
    ran = run_pytest("-k", "no_such_scenario")

    assert ran.status == 5
    assert "no case is selected" in ran.output
    assert not ran.directory.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--scenario-ids", "nan_injektion"),
            "--scenario-ids: 'nan_injektion' is unknown (did you mean nan_injection?); known:",
        ),
        (("-m", "smoke or subset"), "-m 'smoke or subset': selects cases of the suites smoke and subset"),
        (("-m", "smok", "-n", "1"), "-m 'smok': no case has the mark 'smok' (did you mean smoke?)"),
        (("-m", "smoke and"), "-m 'smoke and': column 10: expected"),
        (("--tier", "strict"), "--tier: 'strict' is not allowed"),
        (("-m", "subset"), "suite subset: GPU suites need the opt-in INVARLOCK_ALLOW_REMOTE_CODE=1; set it"),
        (("--signing-key", "absent.pem", "-k", "noop"), "--signing-key: absent.pem: no such file"),
    ],
)
def test_impossible_settings_are_refused_on_one_line_before_anything_starts(
    run_pytest: Callable[..., Any], arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    ran = run_pytest(*arguments, directory=tmp_path / "runs" / "run")

    assert ran.status == 4, ran.output
    assert message in ran.output
    assert "Traceback" not in ran.output
    assert not ran.directory.parent.exists()


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_unused_settings_are_named_once_before_the_run(
    run_pytest: Callable[..., Any], workers: tuple[str, ...], tmp_path: Path
) -> None:
    options = ("-q", "-k", "no_such_scenario", "--run-dir", str(tmp_path / "other"), "--signing-key", "absent.pem")

    ran = run_pytest(*options, *workers, PACK_SUITE_MOD="full")

    warnings = [line for line in ran.output.splitlines() if line.startswith("invarlock: warning: ")]
    assert [line.split(": ")[2] for line in warnings] == ["PACK_SUITE_MOD", "--run-dir"]
    assert "did you mean PACK_SUITE_MODE?" in warnings[0]


def test_a_run_directory_that_is_not_empty_is_not_written_to(run_pytest: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")

    ran = run_pytest("-k", "noop")

    assert ran.status == 4
    assert "exists and is not empty; choose another folder" in ran.output
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_a_clean_edit_that_destroys_the_model_fails_the_run(run_pytest: Callable[..., Any], own_suites: Path) -> None:
    catalog = own_suites / "scenarios.json"
    document = load(catalog)
    row = next(row for row in document["scenarios"] if row["id"] == "quant_4bit_clean")
    row["generation"]["edit_spec"] = "magnitude_prune:0.9:all"
    catalog.write_text(json.dumps(document))

    ran = run_pytest("-k", "mistral and quant_4bit_clean", suites=own_suites)

    assert ran.status == 1, ran.output
    assert "Verdict: FAIL" in ran.output
    assert "must pass, but primary_metric_acceptable: ratio" in ran.output
    assert verify(ran.pack, "--strict").returncode == 0
    assert verify(ran.pack, "--strict", "--require-pass").returncode == 7


@pytest.mark.slow
def test_informational_edits_that_do_no_harm_fail_no_run_and_say_that_they_do_not_signal(
    run_pytest: Callable[..., Any], own_suites: Path
) -> None:
    catalog = own_suites / "scenarios.json"
    document = load(catalog)
    for row in document["scenarios"]:
        # the settings for models of 7 billion parameters
        row["generation"].pop("edit_spec_by_model", None)
    catalog.write_text(json.dumps(document))

    ran = run_pytest("-k", "mistral and (8bit_stress or 4bit_stress or fp8_e5m2_stress)", suites=own_suites)

    assert ran.status == 0, ran.output
    verdict = load(ran.pack / "results/final_verdict.json")
    assert [row["edit_spec"] for row in verdict["records"]] == [
        "fp8_quant:e5m2:all", "quant_rtn:4:32:all", "quant_rtn:8:128:all",
    ]  # fmt: skip
    assert (verdict["verdict"], verdict["counts"]["informational_stress_total"]) == ("PASS", 3)
    said = [line for line in ran.output.splitlines() if line.endswith(("  signals", "  no signal"))]
    assert len(said) == 3
    assert verify(ran.pack, "--strict", "--require-pass").returncode == 0


def test_a_fault_that_does_nothing_fails_the_run(run_pytest: Callable[..., Any], own_suites: Path) -> None:
    with (own_suites / "conftest.py").open("a") as stream:
        stream.write(
            "\n\n@pytest.fixture(autouse=True)\n"
            "def faults_that_do_nothing(case_runner, monkeypatch):\n"
            "    from invarlock.catalog.edit_specs import EditSpec\n"
            "    from invarlock.checkpoints.editing import apply_edits\n"
            "    from invarlock.harness.cases import subjects as module\n"
            "    real = module.inject_fault\n"
            "    def nothing(name, baseline, subject, params):\n"
            "        import shutil\n"
            "        summary = real(name, baseline, subject, params)\n"
            "        shutil.rmtree(subject)\n"
            "        apply_edits(baseline, {subject: EditSpec('noop')})\n"
            "        return summary\n"
            "    monkeypatch.setattr(module, 'inject_fault', nothing)\n"
        )

    ran = run_pytest("-k", "mistral and nan_injection", suites=own_suites)

    assert ran.status == 1, ran.output
    assert "detector invariants_status (allowed ['fail']) did not hit: measured 'pass'" in ran.output
    assert "its primary guard invariants did not signal" in ran.output
    assert load(ran.directory / "reports" / "final_verdict.json")["verdict"] == "FAIL"


def test_a_report_that_is_gone_at_the_end_fails_the_run(run_pytest: Callable[..., Any], own_suites: Path) -> None:
    with (own_suites / "conftest.py").open("a") as stream:
        stream.write(
            "\n\n@pytest.hookimpl(tryfirst=True)\n"
            "def pytest_sessionfinish(session):\n"
            "    from invarlock.harness.session import SESSION\n"
            "    run = session.config.stash[SESSION].run\n"
            "    for path in run.directory.path.glob('*/reports/errors/inf_injection/evaluation.report.json'):\n"
            "        path.unlink()\n"
        )

    ran = run_pytest("-k", "mistral and (noop or inf_injection)", suites=own_suites)

    assert ran.status == 1, ran.output
    assert "mistral-tiny-inf_injection-run1: no report; pytest: passed" in ran.output
    verdict = load(ran.directory / "reports" / "final_verdict.json")
    assert verdict["missing"]["by_model"] == {"embedded/mistral-tiny": ["mistral-tiny-inf_injection-run1"]}


def test_a_case_that_kills_two_workers_fails_the_run_and_the_others_are_done(
    run_pytest: Callable[..., Any], own_suites: Path
) -> None:
    with (own_suites / "conftest.py").open("a") as stream:
        stream.write(
            "\n\n@pytest.fixture(autouse=True)\n"
            "def killed(case):\n"
            "    import os, signal\n"
            "    if case.scenario.id == 'inf_injection':\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
        )

    ran = run_pytest("-k", "mistral and (noop or inf_injection)", "-n", "1", suites=own_suites)

    assert ran.status == 1, ran.output
    assert "mistral-tiny-inf_injection-run1: no report; pytest: failed, worker 'gw1' crashed" in ran.output
    assert "last lines of logs/mistral-tiny-inf_injection-run1.log" in ran.output
    assert "last lines" not in (ran.pack / "metadata/pytest_report.json").read_text()
    assert len(load(ran.directory / "reports" / "final_verdict.json")["records"]) == 1


def test_a_model_that_is_not_the_one_pinned_is_refused_before_anything_starts(
    run_pytest: Callable[..., Any], own_suites: Path
) -> None:
    model = own_suites / "embedded" / "mistral-tiny" / "config.json"
    model.write_text(model.read_text().replace('"use_cache": true', '"use_cache": false'))

    ran = run_pytest("-k", "mistral and clean", suites=own_suites)

    assert ran.status == 4, ran.output
    assert "embedded/mistral-tiny: its digest is sha256:" in ran.output
    assert "sha256:573f2f12" in ran.output
    assert not ran.directory.exists()


def test_a_run_that_is_stopped_leaves_a_verdict_and_no_pack(run_pytest: Callable[..., Any], own_suites: Path) -> None:
    with (own_suites / "conftest.py").open("a") as stream:
        stream.write(
            "\n\n@pytest.fixture(autouse=True)\n"
            "def changed_after_preflight(request):\n"
            "    model = request.path.parent / 'embedded' / 'mistral-tiny' / 'config.json'\n"
            "    model.write_text(model.read_text().replace('\"use_cache\": true', '\"use_cache\": false'))\n"
        )

    ran = run_pytest("-x", "-k", "mistral and clean", suites=own_suites)

    assert ran.status != 0
    assert "its digest is sha256:" in ran.output
    assert "sha256:573f2f12" in ran.output
    assert "no pack was built" in ran.output
    assert load(ran.directory / "reports" / "final_verdict.json")["verdict"] == "FAIL"
    assert not ran.pack.exists()


def test_options_leave_out_the_pack_or_the_signature(run_pytest: Callable[..., Any], tmp_path: Path) -> None:
    bare = {"PACK_SKIP_HTML": "1", "PACK_REPORT_ASSURANCE": "off"}
    unsigned = run_pytest("-k", "mistral and noop", "--unsigned", directory=tmp_path / "unsigned", **bare)
    none = run_pytest("-k", "mistral and noop", "--no-pack", "--defer-rendering", directory=tmp_path / "none")

    assert (unsigned.status, none.status) == (0, 0), unsigned.output + none.output
    assert not (unsigned.pack / "manifest.signature.json").exists()
    assert verify(unsigned.pack, "--allow-unsigned").returncode == 0
    assert verify(unsigned.pack).returncode == verify(unsigned.pack, "--strict").returncode == 5
    assert "--allow-unsigned --report-assurance off" in unsigned.output
    assert load(unsigned.pack / "manifest.json")["verification"]["report_assurance"] == "off"
    assert "not verified in the pack, only checksums were checked (--report-assurance off)" in unsigned.output
    assert not list(unsigned.directory.rglob("*.html"))
    assert not none.pack.exists()
    assert load(none.directory / "reports" / "final_verdict.json")["verdict"] == "PASS"
    assert len(list(none.directory.glob("embedded__mistral-tiny/reports/noop_control/run_1/evaluation.html"))) == 1


def test_a_release_review_is_refused_before_it_starts_where_it_cannot_end_well(
    run_pytest: Callable[..., Any], tmp_path: Path
) -> None:
    write_key_pair(tmp_path / "maker", make_signing_key())

    ran = run_pytest(
        "-k", "mistral and nan_injection", "--release-review", "--signing-key", str(tmp_path / "maker.pem")
    )

    lines = ran.output.partition("ERROR: ")[2].strip().splitlines()
    assert (ran.status, ran.directory.exists()) == (4, False), ran.output
    assert [line.removesuffix(" [run_cannot_begin]") for line in lines] == [
        "--release-review: every clean report must come from a container, but this run is on the host; run it with "
        "--execution-mode container, or without this option",
        "--release-review: it needs a clean case, but none is selected; select one, or run without this option",
    ]


@pytest.mark.slow
def test_a_project_without_a_suites_folder_does_not_notice_the_plugin(tmp_path: Path) -> None:
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "test_mine.py").write_text("def test_mine(): assert 1 + 1 == 2\n")

    done = succeed(run_pytest(".", cwd=tmp_path))

    assert "invarlock" not in done.stdout
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"conftest.py", "test_mine.py"}
