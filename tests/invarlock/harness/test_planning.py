"""What a run plans, what it refuses before it starts, and the settings that select what is run."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.runs.run_directory import RunDirectory
from processes import packer, succeed

from invarlock.catalog.cases import Case
from invarlock.catalog.edit_specs import parse_edit_spec
from invarlock.catalog.models import read_models
from invarlock.catalog.scenarios import read_scenarios
from invarlock.errors import MissingFileError, UsageError
from invarlock.harness.planning.plan import repeated_scenarios
from invarlock.harness.selection.mark_expressions import MarkExpression
from invarlock.harness.selection.selected_cases import make_catalog
from invarlock.harness.state.run import Run
from invarlock.problems import Code
from invarlock.reports.verification import verify_report
from invarlock.settings import resolve_settings

ROOT = Path(__file__).parents[3]


def load(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def test_everything_missing_is_listed_at_once_with_its_remedy(run_pytest: Callable[..., Any]) -> None:
    ran = run_pytest(
        *("-m", "subset", "--execution-mode", "host"),
        *("--signing-key", "absent.pem", "--report-assurance", "strict"),
        MIN_FREE_DISK_GB="900000",
    )

    lines = ran.output.partition("ERROR: ")[2].strip().splitlines()
    assert ran.status == 4, ran.output
    assert lines[0] == (
        "--signing-key: absent.pem: no such file; make a key with keygen: invarlock keygen NAME.pem "
        f"[{Code.KEY_MISSING}]"
    )
    assert all(line.endswith("]") for line in lines)
    assert any("GPU suites need the opt-in INVARLOCK_ALLOW_REMOTE_CODE=1; set it" in line for line in lines)
    assert any(line.startswith("--report-assurance strict: every clean report must come") for line in lines)
    assert any("900000 GB must stay free; free some space" in line for line in lines)
    assert not ran.directory.exists()


def test_workers_do_not_start_an_impossible_run(run_pytest: Callable[..., Any], tmp_path: Path) -> None:
    ran = run_pytest("-k", "noop", "-n", "1", MIN_FREE_DISK_GB="900000")

    assert ran.status == 4, ran.output
    assert "Traceback" not in ran.output
    assert not ran.directory.exists()


@pytest.mark.parametrize(
    ("variables", "arguments", "count"),
    [
        ({"CLEAN_EDIT_RUNS": "2", "STRESS_EDIT_RUNS": "3"}, ("-m", "smoke and mistral-tiny"), 2 * 8 + 3 * 5 + 15),
        ({"RUN_ERROR_INJECTION": "0"}, ("-m", "mistral-tiny"), 13),
        ({"CLEAN_EDIT_RUNS": "0"}, ("-m", "clean"), 0),
        ({}, ("-m", "mistral-tiny or (qwen2-tiny and stress)"), 33),
    ],
)
def test_settings_and_marks_of_models_determine_the_cases(
    run_pytest: Callable[..., Any], variables: dict[str, str], arguments: tuple[str, ...], count: int
) -> None:
    ran = run_pytest("--collect-only", "-q", *arguments, **variables)

    assert ran.output.count("::test_scenario[") == count, ran.output


def test_the_plan_names_the_need_of_each_model(run_pytest: Callable[..., Any]) -> None:
    ran = run_pytest("--collect-only", "-q", "-m", "subset and clean", CLEAN_EDIT_RUNS="1")

    assert "invarlock: suite subset: 5 cases on 1 model" in ran.output, ran.output
    assert "invarlock:   mistralai/Mistral-7B-v0.1: 5 cases, 24 GB of memory" in ran.output


def test_runs_guards_and_token_ids_are_those_of_the_settings_and_verify(run_pytest: Callable[..., Any]) -> None:
    ran = run_pytest(
        "-k",
        "mistral and noop",
        "-n",
        "2",
        CLEAN_EDIT_RUNS="2",
        PACK_GUARDS_ORDER="spectral,invariants",
        INVARLOCK_STORE_EVAL_WINDOWS="1",
    )

    assert ran.status == 0, ran.output
    folder = ran.pack / "reports/embedded__mistral-tiny/noop_control"
    first, second = (load(folder / f"run_{run}" / "evaluation.report.json") for run in (1, 2))
    assert first["guards"] == ["spectral", "invariants"]
    assert first["rmt"]["status"] == "not_evaluated"
    assert {"invariants_pass", "primary_metric_acceptable", "spectral_stable"} <= first["validation"].keys()
    assert "rmt_stable" not in first["validation"]
    assert first["evaluation_windows"]["final"]["window_ids"] != second["evaluation_windows"]["final"]["window_ids"]
    assert len(first["evaluation_windows"]["final"]["token_ids"][0].split(" ")) == 128
    succeed(packer("verify", ran.pack, "--strict"))
    plan = load(ran.directory / "state" / "plan.json")
    assert plan["cases"] == ["mistral-tiny-noop_control-run1", "mistral-tiny-noop_control-run2"]
    assert [(row["model"], row["cases"]) for row in plan["models"]] == [("embedded/mistral-tiny", 2)]
    settings = load(ran.directory / "state" / "settings.json")
    assert settings["clean_runs"] == {"value": 2, "source": "variable"}
    assert settings["stress_runs"] == {"value": 1, "source": "default"}
    first["evaluation_windows"]["final"]["token_ids"][3] = second["evaluation_windows"]["final"]["token_ids"][3]
    assert [problem.field for problem in verify_report(first)] == ["evaluation_windows.final.token_ids[3]"]


def test_a_run_from_an_unknown_source_does_not_start(run_pytest: Callable[..., Any], own_suites: Path) -> None:
    (own_suites.parent / "source_repo.json").unlink()

    ran = run_pytest("-k", "mistral and noop", suites=own_suites)

    assert ran.status == 4
    assert "no git repository and no source marker file" in ran.output
    assert "python -m invarlock.runtime.provenance source_repo.json" in ran.output
    assert not ran.directory.exists()


def test_a_folder_in_a_slot_is_planned_by_its_files(run_pytest: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(ROOT / "suites/embedded/mistral-tiny", folder)
    shutil.copytree(ROOT / "suites/embedded/tokenizer", folder, dirs_exist_ok=True)
    others = {"MODEL_2": "", "MODEL_3": ""}
    clean = ("--collect-only", "-q", "-m", "smoke and clean")

    own = run_pytest(*clean, "-k", "mistral")
    ran = run_pytest(*clean, MODEL_1=str(folder), **others)
    unknown = run_pytest(*clean, MODEL_1="someone/model", **others)
    (folder / "model.safetensors").write_bytes(b"no header")
    broken = run_pytest(*clean, MODEL_1=str(folder), **others)

    (planned,) = (line for line in own.output.splitlines() if "embedded/mistral-tiny" in line and "disk" in line)
    assert planned.replace("embedded/mistral-tiny", "local/mine") in ran.output
    assert "invarlock: 21 MB of disk for checkpoints at the same time\n" in ran.output
    for one in (unknown, broken):
        assert (one.status, "of unknown size" in one.output) == (0, True), one.output
        assert "without models of unknown size" in one.output


def test_a_run_by_a_config_seals_what_it_gave(run_pytest: Callable[..., Any], tmp_path: Path) -> None:
    config = tmp_path / "site.yaml"
    config.write_text(
        "settings: {scenario_ids: [prune_clean], window_seed: 7, final_windows: 20, tier: conservative}\n"
        "edits:\n  embedded/mistral-tiny: !include mistral.yaml\n  embedded/mistral-tny: !include mistral.yaml\n"
    )
    (tmp_path / "mistral.yaml").write_text(
        "magnitude_prune: {sparsity: 0.05, scope: ffn, status: selected, edit_dir_name: prune, reason: agreed}\n"
    )

    ran = run_pytest("-k", "mistral", "-n", "1", "--edit-config", str(config), "--tier", "balanced")

    assert ran.status == 0, ran.output
    assert "edits: embedded/mistral-tny: no model has this id (did you mean embedded/mistral-tiny?)" in ran.output
    settings = load(ran.pack / "manifest.json")["invocation"]["parameters"]
    assert settings["edit_config"] == {"value": "site.yaml", "source": "option"}
    assert settings["scenario_ids"] == {"value": ["prune_clean"], "source": "config"}
    assert settings["window_seed"] == {"value": 7, "source": "config"}
    assert settings["final_windows"]["source"] == "variable"
    assert settings["tier"] == {"value": "balanced", "source": "option"}
    (entries,) = load(ran.pack / "metadata/tuned_edit_params.json")["models"].values()
    assert (entries["magnitude_prune"]["sparsity"], entries["magnitude_prune"]["given_by"]) == (0.05, "site.yaml")
    assert "given_by" not in entries["quant_rtn"]
    report = load(next(ran.pack.glob("reports/embedded__mistral-tiny/prune_clean/*/evaluation.report.json")))
    assert "magnitude_prune:0.05:ffn" in json.dumps(report["edit"])
    succeed(packer("verify", ran.pack, "--strict"))


PRUNE = {"sparsity": 0.05, "scope": "ffn", "status": "selected", "edit_dir_name": "prune", "reason": "agreed"}


@pytest.mark.parametrize(
    ("settings", "variables", "folder", "sparsity"),
    [
        ({}, {}, "suites", 0.05),
        ({}, {}, "empty", 0.05),
        ({"tuned_params_file": "{given}"}, {}, "suites", 0.05),
        ({"tuned_params_file": "{absent}"}, {}, "suites", None),
        ({}, {"PACK_TUNED_EDIT_PARAMS_FILE": "{given}"}, "suites", 0.26),
        ({}, {"PACK_TUNED_EDIT_PARAMS_FILE": "{absent}"}, "suites", None),
        (None, {}, "suites", 0.26),
        (None, {}, "empty", None),
    ],
)
def test_edits_of_a_config_win_over_the_file_unless_an_option_or_a_variable_names_it(
    tmp_path: Path, settings: dict[str, str] | None, variables: dict[str, str], folder: str, sparsity: float | None
) -> None:
    places = {"given": ROOT / "suites/tuned_edit_params.json", "absent": tmp_path / "absent.json"}
    config = tmp_path / "site.yaml"
    given = {name: value.format(**places) for name, value in (settings or {}).items()}
    config.write_text(json.dumps({"settings": given, "edits": {"embedded/mistral-tiny": {"magnitude_prune": PRUNE}}}))
    environment = {name: value.format(**places) for name, value in variables.items()}
    resolved = resolve_settings({} if settings is None else {"edit_config": str(config)}, environment)
    run = replace(run_of()[0], settings=resolved, suites_folder={"suites": ROOT / "suites", "empty": tmp_path}[folder])

    if sparsity is None:
        with pytest.raises(MissingFileError):
            run.tuned_params()
    else:
        edit = run.tuned_params().resolve(parse_edit_spec("magnitude_prune:clean:ffn"), "embedded/mistral-tiny")
        assert edit.parameters == {"sparsity": sparsity}


def run_of(*scenarios: str, **options: Any) -> tuple[Run, list[Case]]:
    """Return a run of some scenarios of one model, with pytest options."""
    models, rows = read_models(ROOT / "suites/models.toml"), read_scenarios(ROOT / "suites/scenarios.json")
    settings = resolve_settings(options, {})
    catalog = make_catalog(models, rows, MarkExpression.parse("smoke"), [], settings)
    run = Run(ROOT / "suites", settings, catalog, RunDirectory(Path("run")), 1, datetime.now(UTC), {})
    mistral = [case for case in catalog.cases if case.model.short_name == "mistral-tiny" and "smoke" in case.suites]
    return run, [case for case in mistral if case.scenario.id in scenarios]


@pytest.mark.parametrize(
    ("scenarios", "options", "repeated"),
    [
        (("nan_injection", "prune_clean", "quant_4bit_clean"), {"repeats": "2"}, ["quant_4bit_clean"]),
        (("nan_injection", "fp8_e5m2_stress"), {"repeats": "2"}, ["fp8_e5m2_stress"]),
        (("nan_injection", "prune_clean"), {"repeats": "1", "repeat_scenarios": "nan_injection"}, ["nan_injection"]),
        (("nan_injection", "prune_clean"), {"repeat_scenarios": "nan_injection"}, []),
        (("nan_injection", "prune_clean"), {}, []),
    ],
)
def test_what_is_measured_again_is_the_first_clean_scenario_else_the_first(
    scenarios: tuple[str, ...], options: dict[str, str], repeated: list[str]
) -> None:
    assert repeated_scenarios(*run_of(*scenarios, **options)) == repeated


def test_a_scenario_that_is_not_selected_cannot_be_measured_again() -> None:
    with pytest.raises(UsageError) as refused:
        repeated_scenarios(*run_of("prune_clean", "nan_injection", repeats="1", repeat_scenarios="prune_claen"))

    assert "--repeat-scenario: 'prune_claen'" in str(refused.value)
    assert "did you mean prune_clean?" in str(refused.value)
