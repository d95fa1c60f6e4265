import json
from pathlib import Path
from typing import Any

import pytest

from invarlock.catalog.cases import effective_manifest, plan_cases
from invarlock.catalog.edit_specs import EditSpec, Scope, parse_edit_spec
from invarlock.catalog.models import read_models
from invarlock.catalog.scenarios import EditGeneration, FaultGeneration, read_scenarios
from invarlock.catalog.tuned_params import read_tuned_params
from invarlock.errors import DocumentError, MissingFileError, UsageError

SUITES = Path(__file__).parents[3] / "suites"
SHIPPED = {
    "noop_control", "quant_4bit_clean", "fp8_e5m2_clean", "prune_clean", "svd_rank32_clean", "prune_50pct_stress",
    "svd_rank32_stress", "quant_8bit_stress", "quant_4bit_stress", "fp8_e5m2_stress", "nan_injection", "inf_injection",
    "shape_mismatch", "missing_tensors", "weight_tying_break", "extreme_quant", "scale_explosion", "rank_collapse",
    "norm_collapse", "rmt_norm_noise", "spectral_moderate_scale", "ve_mlp_scale_skew", "rmt_norm_noise_strong",
    "spectral_moderate_scale_mlp", "quant_8bit_deployable", "smoothed_clean", "rotated_clean", "packed_w4_clean",
    "stale_scale", "zero_point_shift", "nibble_swap",
}  # fmt: skip


def scenarios_document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((SUITES / "scenarios.json").read_text())
    return document


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_the_catalog_ships_every_scenario() -> None:
    scenarios = read_scenarios(SUITES / "scenarios.json")

    assert {row.id for row in scenarios if row.suites != ("guard_value",)} == SHIPPED


def test_the_smoke_suite_runs_twenty_eight_scenarios_on_three_models() -> None:
    cases = plan_cases(read_models(SUITES / "models.toml"), read_scenarios(SUITES / "scenarios.json"))

    smoke = [case for case in cases if "smoke" in case.suites and case.scenario.category != "deployable"]

    assert len({case.scenario.id for case in smoke}) == 28
    assert len(smoke) == 84
    assert len({case.id for case in cases}) == len(cases)


def test_every_scenario_declares_the_class_of_what_it_makes(tmp_path: Path) -> None:
    document = scenarios_document()
    classes = {row["generation"]["kind"]: row["artifact_class"] for row in document["scenarios"]}

    assert classes == {
        "edit": "validation_subject_checkpoint",
        "error": "fault_injection_fixture",
        "deployable_edit": "deployable_optimized_subject",
    }
    for kind, wrong in (("error", "validation_subject_checkpoint"), ("edit", "fault_injection_fixture")):
        row = next(dict(row) for row in document["scenarios"] if row["generation"]["kind"] == kind)
        changed = {**document, "scenarios": [row | {"artifact_class": wrong}]}
        with pytest.raises(DocumentError, match="its artifact_class is"):
            read_scenarios(write(tmp_path / "s.json", changed))


def test_the_page_of_the_suites_shows_every_spec_that_differs_on_the_embedded_models() -> None:
    page = (SUITES / "README.md").read_text("utf-8")
    models = ("embedded/mistral-tiny", "embedded/qwen2-tiny", "embedded/mixtral-tiny")
    tuned = read_tuned_params(SUITES / "tuned_edit_params.json")

    for scenario in read_scenarios(SUITES / "scenarios.json"):
        generation = scenario.generation
        if not isinstance(generation, EditGeneration) or scenario.suites:
            continue
        specs = [str(tuned.resolve(generation.for_model(model), model)) for model in models]
        cells = " | ".join(f"`{spec}`" for spec in specs)
        differs = len(set(specs)) > 1 or bool(generation.by_model)
        assert (f"| `{scenario.id}` |" in page) == differs, scenario.id
        assert not differs or cells in page, scenario.id


def test_the_page_of_the_suites_shows_the_clean_edits_of_the_laptop_suite() -> None:
    page = (SUITES / "README.md").read_text("utf-8")
    tuned = read_tuned_params(SUITES / "tuned_edit_params.json")
    edits = ("quant_rtn", "fp8_quant", "magnitude_prune", "lowrank_svd")

    for model in read_models(SUITES / "models.toml").suites["laptop"].models:
        specs = [str(tuned.resolve(parse_edit_spec(f"{edit}:clean:ffn"), model)) for edit in edits]
        cells = " | ".join(f"`{spec}`" for spec in specs)
        assert f"| `{model.rpartition('/')[2]}` | {cells} |" in page
    # the same model from a package has the same edits
    assert tuned.models["local/smollm2-135m-instruct-q4_1"].keys() == set(edits)


def test_a_negative_control_has_the_same_harmless_spec_on_every_model() -> None:
    scenarios = read_scenarios(SUITES / "scenarios.json")
    (control,) = (row for row in scenarios if row.document["intent"] == "negative_control" and not row.suites)

    assert isinstance(control.generation, EditGeneration)
    assert (str(control.generation.spec), control.generation.by_model) == ("quant_rtn:8:128:all", {})


def test_the_guard_value_suite_has_its_own_scenarios_and_no_other_suite_has_them() -> None:
    cases = plan_cases(read_models(SUITES / "models.toml"), read_scenarios(SUITES / "scenarios.json"))

    sweep = [case for case in cases if "guard_value" in case.suites]

    assert {case.suites for case in sweep} == {("guard_value",)}
    assert all(case.scenario.id.startswith("guard_value_") for case in sweep)
    steps = [case.scenario.document["guard_value"] for case in sweep if case.model.id == "embedded/qwen2-tiny"]
    assert {step.get("guard") for step in steps} == {"spectral", "rmt", "variance", None}
    assert {step["role"] for step in steps if "guard" not in step} == {"control"}


def test_a_row_with_a_sweep_is_a_scenario_for_each_of_its_values(tmp_path: Path) -> None:
    document = scenarios_document()
    row = next(row for row in document["scenarios"] if row["id"] == "guard_value_spectral")
    row["sweep"]["values"] = [1.02, 2]

    found = read_scenarios(write(tmp_path / "s.json", {**document, "scenarios": [row]}))

    assert [scenario.id for scenario in found] == ["guard_value_spectral_factor_1.02", "guard_value_spectral_factor_2"]
    assert [scenario.generation.params["factor"] for scenario in found] == [1.02, 2]  # type: ignore[union-attr]
    assert found[0].document["guard_value"] == {
        "role": "fault",
        "guard": "spectral",
        "parameter": "factor",
        "value": 1.02,
    }
    assert "sweep" not in found[0].document


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row["sweep"].update(parameter="edit_spec"), "needs one of its parameters, one of an edit"),
        (lambda row: row["sweep"].update(guard="rmt"), "guard_value.guard is 'rmt', but its subject has 'spectral'"),
        (lambda row: row["generation"]["params_by_model"].update(m={"factor": 3}), "a model overrides factor"),
        (lambda row: row["sweep"].update(values=[]), "sweep.values"),
        (lambda row: row["sweep"].pop("guard"), "'guard' is a required property"),
    ],
)
def test_an_inconsistent_sweep_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    document = scenarios_document()
    row = next(row for row in document["scenarios"] if row["id"] == "guard_value_spectral")
    change(row)

    with pytest.raises(DocumentError, match=message):
        read_scenarios(write(tmp_path / "s.json", document))


def test_a_clean_scenario_of_a_gpu_suite_runs_three_times_and_a_fault_once() -> None:
    cases = plan_cases(read_models(SUITES / "models.toml"), read_scenarios(SUITES / "scenarios.json"))
    of_mistral = [case for case in cases if case.model.id == "mistralai/Mistral-7B-v0.1"]

    def runs(scenario: str) -> list[int]:
        return [case.run for case in of_mistral if case.scenario.id == scenario]

    assert runs("prune_clean") == [1, 2, 3]
    assert runs("svd_rank32_stress") == [1, 2]
    assert runs("nan_injection") == [1]
    assert of_mistral[0].suites == ("subset", "showcase", "workshop3", "full")


def test_a_models_own_parameters_replace_the_scenarios() -> None:
    scenarios = {scenario.id: scenario for scenario in read_scenarios(SUITES / "scenarios.json")}
    prune, explosion = scenarios["prune_50pct_stress"].generation, scenarios["scale_explosion"].generation
    assert isinstance(prune, EditGeneration)
    assert isinstance(explosion, FaultGeneration)

    assert str(prune.for_model("embedded/mistral-tiny")) == "magnitude_prune:0.8:all"
    assert str(prune.for_model("mistralai/Mistral-7B-v0.1")) == "magnitude_prune:0.5:all"
    assert explosion.for_model("embedded/mistral-tiny") == {
        "factor": 100,
        "tensor": "model.layers.0.mlp.gate_proj.weight",
    }


def test_a_clean_spec_takes_parameters_and_scope_of_the_models_selection() -> None:
    tuned = read_tuned_params(SUITES / "tuned_edit_params.json")

    edit = tuned.resolve(parse_edit_spec("magnitude_prune:clean:ffn"), "Qwen/Qwen2.5-14B")

    assert edit == EditSpec("magnitude_prune", {"sparsity": 0.12}, Scope("attn"))


def test_a_clean_spec_without_a_selection_names_model_and_edit() -> None:
    tuned = read_tuned_params(SUITES / "tuned_edit_params.json")

    with pytest.raises(UsageError, match=r"no tuned parameters of lowrank_svd for Qwen/Qwen3-8B"):
        tuned.resolve(parse_edit_spec("lowrank_svd:clean:ffn"), "Qwen/Qwen3-8B")


def test_the_embedded_models_use_the_strongest_parameters_that_passed_tuning() -> None:
    tuned = read_tuned_params(SUITES / "tuned_edit_params.json")

    for model in ("embedded/mistral-tiny", "embedded/qwen2-tiny", "embedded/mixtral-tiny"):
        for edit, row in tuned.models[model].items():
            selected = tuned.resolve(parse_edit_spec(f"{edit}:clean:ffn"), model)
            held = [trial["ratio"] for trial in row["evidence"] if trial["holds"]]
            (own,) = [trial["ratio"] for trial in row["evidence"] if trial["spec"] == str(selected)]
            assert own == max(held)


@pytest.mark.parametrize(
    ("entry", "evidence"),
    [({"sparsity": 0.9}, None), ({}, []), ({}, "none"), ({}, [{"spec": "magnitude_prune:0.12:ffn", "holds": False}])],
)
def test_a_selection_that_its_evidence_does_not_support_is_refused(tmp_path: Path, entry: Any, evidence: Any) -> None:
    document = json.loads((SUITES / "tuned_edit_params.json").read_bytes())
    row = document["models"]["embedded/mistral-tiny"]["magnitude_prune"]
    row.update(entry)
    if evidence is not None:
        row["evidence"] = evidence
    tuned = read_tuned_params(write(tmp_path / "tuned_edit_params.json", document))

    with pytest.raises(
        UsageError, match=r"embedded/mistral-tiny, magnitude_prune: .* did not pass according to its evidence"
    ):
        tuned.resolve(parse_edit_spec("magnitude_prune:clean:ffn"), "embedded/mistral-tiny")


def test_a_scenario_that_appears_twice_is_refused(tmp_path: Path) -> None:
    document = scenarios_document()
    document["scenarios"].append(document["scenarios"][0])

    with pytest.raises(DocumentError, match="scenario 'noop_control' appears twice"):
        read_scenarios(write(tmp_path / "scenarios.json", document))


def test_a_scenario_that_must_be_detected_and_has_no_detector_is_refused(tmp_path: Path) -> None:
    document = scenarios_document()
    (row,) = (row for row in document["scenarios"] if row["id"] == "nan_injection")
    detectors = row["requirements"]["detectors_all_of"]

    row["requirements"].update(detectors_all_of=[], detectors_any_of=detectors)
    assert read_scenarios(write(tmp_path / "any.json", document))
    row["requirements"]["detectors_any_of"] = []
    with pytest.raises(DocumentError, match="'nan_injection': it must be detected, but has no detector; add one"):
        read_scenarios(write(tmp_path / "none.json", document))


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("strictness", "should_pass", "/scenarios/0/strictness"),
        ("colour", "red", "/scenarios/0"),
        ("id", "../noop", "/scenarios/0/id"),
    ],
)
def test_an_unknown_field_is_refused_with_its_place(tmp_path: Path, field: str, value: str, where: str) -> None:
    document = scenarios_document()
    document["scenarios"][0][field] = value

    with pytest.raises(DocumentError, match=f"at {where}"):
        read_scenarios(write(tmp_path / "scenarios.json", document))


def test_a_wrong_edit_spec_names_its_scenario(tmp_path: Path) -> None:
    document = scenarios_document()
    document["scenarios"][1]["generation"]["edit_spec"] = "quant_rtn:1:32:ffn"

    with pytest.raises(DocumentError, match=r"scenario 'quant_4bit_clean': .* bits must be"):
        read_scenarios(write(tmp_path / "scenarios.json", document))


def test_a_suite_that_names_an_unknown_model_is_refused(tmp_path: Path) -> None:
    text = (SUITES / "models.toml").read_text().replace('models = ["mistralai/Mistral-7B-v0.1"]', 'models = ["a/b"]')
    (tmp_path / "models.toml").write_text(text)

    with pytest.raises(DocumentError, match="suite 'subset' lists 'a/b'"):
        read_models(tmp_path / "models.toml")


def test_models_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    text = (SUITES / "models.toml").read_text().replace('id = "Qwen/Qwen3-8B"', 'id = "01-AI/yi-34b"')
    (tmp_path / "models.toml").write_text(text.replace('"Qwen/Qwen3-8B"', '"01-AI/yi-34b"'))

    with pytest.raises(DocumentError, match="would share the folder '01-ai__yi-34b'"):
        read_models(tmp_path / "models.toml")


def test_a_missing_catalog_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"models\.toml: no such file"):
        read_models(tmp_path / "models.toml")


def test_the_effective_manifest_has_exactly_the_selected_scenarios() -> None:
    scenarios = read_scenarios(SUITES / "scenarios.json")
    cases = plan_cases(read_models(SUITES / "models.toml"), scenarios)
    chosen = [case for case in cases if case.id == "qwen2-tiny-prune_clean-run1"]

    manifest = effective_manifest("smoke", chosen, scenarios, {"-k": "prune_clean"})

    assert [row["id"] for row in manifest["scenarios"]] == ["prune_clean"]
    assert manifest["selection"]["cases"] == [{"model": "embedded/qwen2-tiny", "run": 1, "scenario": "prune_clean"}]
    assert manifest["selection"]["expression"] == {"-k": "prune_clean"}


def test_an_empty_selection_is_an_error() -> None:
    with pytest.raises(UsageError, match="no case is selected"):
        effective_manifest("smoke", [], [], {})
