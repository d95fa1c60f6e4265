"""Attacks on reports and the claims derived from them. The attacker has the maker's key and reseals the pack."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invarlock.packer.format.layout import GUARD_VALUE, sibling
from packs import (
    BASELINE,
    FAULT,
    MODEL,
    REPORT,
    SCENARIOS,
    STRESS,
    VERDICT,
    edit_json,
)

from attacks.catalogue import ZEROS, Act, Attack, catalogue
from invarlock.jsonio import dump_json
from invarlock.problems import Code
from invarlock.reports.derivation import compose, strip

ATTACKS: dict[str, Attack] = {}
attack = catalogue(ATTACKS)


def report(change: Callable[[Any], object], path: str = REPORT) -> Act:
    return lambda pack: edit_json(pack / path, change)


def as_the_baseline(report: Any) -> None:
    """Give a report the digest of its baseline."""
    report["subject"]["digest"] = report["baseline_ref"]["digest"]


def baselines_losses(report: Any) -> None:
    """Set a report's losses to exactly those of its baseline."""
    for part in report["evaluation_windows"].values():
        part["logloss"] = list(part["baseline_logloss"])


def slightly_other_losses(report: Any) -> None:
    """Make the losses of a copy of the baseline slightly lower than the baseline's."""
    report["evaluation_windows"]["final"]["logloss"] = [
        loss - 0.1 for loss in report["evaluation_windows"]["final"]["logloss"]
    ]


for case, path, edit, reason in (
    (
        "a_fault_with_the_baselines_digest",
        FAULT,
        as_the_baseline,
        (Code.RAW_MEASUREMENTS_CONTRADICT, FAULT, "subject.digest"),
    ),
    (
        "an_edit_with_the_baselines_digest",
        STRESS,
        as_the_baseline,
        (Code.RAW_MEASUREMENTS_CONTRADICT, STRESS, "invariants.raw.subject.tensors"),
    ),
    (
        "an_edit_with_the_baselines_losses",
        STRESS,
        baselines_losses,
        (Code.RAW_MEASUREMENTS_CONTRADICT, STRESS, "evaluation_windows"),
    ),
    (
        "a_copy_with_losses_of_its_own",
        REPORT,
        slightly_other_losses,
        (Code.RAW_MEASUREMENTS_CONTRADICT, REPORT, "evaluation_windows"),
    ),
):
    ATTACKS[case] = Attack(report(edit, path), *reason, "all")

for case, edit, reason in (
    ("ratio", lambda r: r["primary_metric"].update(ratio_vs_baseline=0.99),
     (Code.NUMBER_DOES_NOT_FOLLOW, REPORT, "primary_metric.ratio_vs_baseline")),
    ("interval", lambda r: r["primary_metric"].update(ci=[1.0, 1.01]),
     (Code.NUMBER_DOES_NOT_FOLLOW, REPORT, "primary_metric.ci[1]")),
    ("limit", lambda r: r["resolved_policy"]["primary_metric"].update(ratio_limit=9.0),
     (Code.NUMBER_DOES_NOT_FOLLOW, REPORT, "resolved_policy.primary_metric.ratio_limit")),
    ("flag", lambda r: r["validation"].update(spectral_stable=False),
     (Code.NUMBER_DOES_NOT_FOLLOW, REPORT, "validation.spectral_stable")),
    ("caps", lambda r: r["spectral"]["metrics"].update(caps_applied=3),
     (Code.NUMBER_DOES_NOT_FOLLOW, REPORT, "spectral.metrics.caps_applied")),
    ("invariants", lambda r: r["invariants"].update(status="warn"),
     (Code.NUMBER_DOES_NOT_FOLLOW, REPORT, "invariants.status")),
    ("tier", lambda r: r["policy_provenance"].update(tier="aggressive"),
     (Code.NUMBER_DOES_NOT_FOLLOW, REPORT, "resolved_policy.primary_metric.ratio_limit")),
    ("verdict", lambda r: r["assurance"].update(verdict="FAIL"),
     (Code.NUMBER_DOES_NOT_FOLLOW, REPORT, "assurance.verdict")),
    ("own_loss", lambda r: r["evaluation_windows"]["final"]["logloss"].__setitem__(0, 1.0),
     (Code.RAW_MEASUREMENTS_CONTRADICT, REPORT, "evaluation_windows")),
    ("baseline_loss", lambda r: r["evaluation_windows"]["final"]["baseline_logloss"].__setitem__(0, 1.0),
     (Code.RAW_MEASUREMENTS_CONTRADICT, REPORT, "evaluation_windows")),
    ("window", lambda r: r["evaluation_windows"]["final"]["window_ids"].__setitem__(0, "0" * 16),
     (Code.BASELINE_DIFFERS, REPORT, "evaluation_windows.final.window_ids")),
    ("window_twice", lambda r: r["evaluation_windows"]["final"]["window_ids"].__setitem__(
        0, r["evaluation_windows"]["final"]["window_ids"][1]),
     (Code.RAW_MEASUREMENTS_CONTRADICT, REPORT, "evaluation_windows.final.window_ids[1]")),
    ("tokens", lambda r: r["evaluation_windows"]["final"]["token_counts"].__setitem__(0, 10**15),
     (Code.RAW_MEASUREMENTS_CONTRADICT, REPORT, "evaluation_windows.final.token_counts")),
    ("shape_too_large", lambda r: r["invariants"]["raw"]["subject"]["tensors"]["lm_head.weight"].update(
        shape=[2**60, 2**60]),
     (Code.REPORT_MALFORMED, REPORT, "invariants.raw.subject.tensors.lm_head.weight.shape[0]")),
    ("nan", lambda r: r["primary_metric"].update(ratio_vs_baseline="NaN"),
     (Code.NUMBER_DOES_NOT_FOLLOW, REPORT, "primary_metric.ratio_vs_baseline")),
    ("change_of_its_own", lambda r: r["spectral"]["raw"]["changes"].update({"lm_head.weight": {
        "relative": 0.5, "coherent": 0.0, "flipped": 0.0, "edge_risk": 1.0, "unit_order": None}}),
     (Code.RAW_MEASUREMENTS_CONTRADICT, REPORT, "spectral.raw.changes.lm_head.weight")),
    ("guard_left_out", lambda r: r["guards"].remove("spectral"),
     (Code.NUMBER_DOES_NOT_FOLLOW, REPORT, "spectral.measurement_contract")),
    ("edit", lambda r: r["edit"].update(name="quant_rtn"), (Code.EDIT_CONTRADICTS_ITSELF, REPORT, "edit.label")),
    ("prefix", lambda r: r["dataset"].update(prefix_token_ids=[7]), (Code.BASELINE_DIFFERS, REPORT, "dataset")),
    ("type_of_number", lambda r: r["primary_metric"].update(ratio_vs_baseline=1),
     (Code.NUMBER_DOES_NOT_FOLLOW, REPORT, "primary_metric.ratio_vs_baseline")),
    ("sign_of_zero", lambda r: r["evaluation_windows"]["final"].update(
        baseline_logloss=[-0.0, *r["evaluation_windows"]["final"]["baseline_logloss"][1:]]),
     (Code.RAW_MEASUREMENTS_CONTRADICT, REPORT, "evaluation_windows")),
    ("loss_beyond_any", lambda r: r["evaluation_windows"]["final"]["logloss"].__setitem__(0, 1e308),
     (Code.REPORT_MALFORMED, REPORT, "evaluation_windows.final.logloss[0]")),
    ("second_beyond_any", lambda r: r["telemetry"].update(score_seconds=1e308),
     (Code.REPORT_MALFORMED, REPORT, "telemetry.score_seconds")),
    ("negative_second", lambda r: r["telemetry"].update(score_seconds=-1.0),
     (Code.REPORT_MALFORMED, REPORT, "telemetry.score_seconds")),
    ("duration", lambda r: r.update(telemetry=dict.fromkeys(r["telemetry"], 0.0)),
     (Code.RAW_MEASUREMENTS_CONTRADICT, REPORT, "telemetry")),
    ("version", lambda r: r["meta"].update(versions={}), (Code.REPORT_MALFORMED, REPORT, "meta.versions")),
    ("digest_of_a_copy", lambda r: r["subject"].update(digest=f"sha256:{ZEROS}"),
     (Code.RAW_MEASUREMENTS_CONTRADICT, REPORT, "subject.digest")),
    ("tie", lambda r: r["invariants"]["raw"]["subject"].update(tied_by_value=True),
     (Code.RAW_MEASUREMENTS_CONTRADICT, REPORT, "invariants.raw.subject.tied_by_value")),
    ("line_in_its_name", lambda r: r["meta"].update(model_id="a\n# b"),
     (Code.REPORT_MALFORMED, REPORT, "meta.model_id")),
    ("escape_in_a_tensors_name", lambda r: r["invariants"]["raw"]["subject"]["tensors"].update(
        {"\u001b[2J": r["invariants"]["raw"]["subject"]["tensors"]["lm_head.weight"]}),
     (Code.REPORT_MALFORMED, REPORT, "invariants.raw.subject.tensors")),
):  # fmt: skip
    ATTACKS[f"a_report_with_another_{case}"] = Attack(report(edit), *reason, "all")


def report_bytes(change: Callable[[bytes], bytes]) -> Act:
    return lambda pack: (pack / REPORT).write_bytes(change((pack / REPORT).read_bytes()))


for case, rewrite, reason in (
    ("with_a_key_twice", lambda d: d.replace(b'{\n  "assurance"', b'{\n  "guards": [],\n  "assurance"', 1),
     (Code.REPORT_MALFORMED, REPORT, "")),
    ("with_a_byte_order_mark", lambda d: b"\xef\xbb\xbf" + d, (Code.REPORT_MALFORMED, REPORT, "")),
    ("with_data_after_it", lambda d: d + b"{}", (Code.REPORT_MALFORMED, REPORT, "")),
    ("with_nan", lambda d: d.replace(b'"ratio_vs_baseline": ', b'"ratio_vs_baseline": NaN, "x": ', 1),
     (Code.REPORT_MALFORMED, REPORT, "")),
    ("nested_deeply", lambda d: b"[" * 5000 + b"]" * 5000, (Code.REPORT_MALFORMED, REPORT, "")),
    ("that_is_empty", lambda d: b"", (Code.REPORT_MALFORMED, REPORT, "")),
    ("that_is_no_object", lambda d: b"[]", (Code.REPORT_MALFORMED, REPORT, "")),
    ("of_an_old_version", lambda d: d.replace(b'"schema_version": "v1"', b'"schema_version": "v0"', 1),
     (Code.REPORT_MALFORMED, REPORT, "schema_version")),
    ("with_a_long_number", lambda d: d.replace(b'"batch_size": ', b'"batch_size": ' + b"9" * 400, 1),
     (Code.REPORT_MALFORMED, REPORT, "")),
):  # fmt: skip
    ATTACKS[f"a_report_{case}"] = Attack(report_bytes(rewrite), *reason, "all")


def composed(pack: Path, path: str, change: Callable[[Any], object]) -> None:
    """Change the raw fields of a report and derive all other fields again."""
    raw = strip(json.loads((pack / path).read_bytes()))
    raw = json.loads(dump_json(raw))
    change(raw)
    (pack / path).write_bytes(dump_json(compose(raw)))


@attack(
    Code.RAW_MEASUREMENTS_CONTRADICT,
    STRESS,
    "spectral.raw.changes.model.layers.3.self_attn.v_proj.weight",
    sealed="all",
)
def a_change_of_weights_left_out_of_a_report(pack: Path) -> None:
    composed(pack, STRESS, lambda raw: raw["spectral"]["raw"]["changes"].popitem())


@attack(Code.MODEL_DIFFERS, REPORT, "meta.model_id", sealed="all")
def the_report_of_another_model_under_a_right_name(pack: Path) -> None:
    composed(pack, REPORT, lambda raw: raw["meta"].update(model_id="embedded/qwen2-tiny"))


@attack(Code.EDIT_METADATA_DIFFERS, sibling(STRESS, "edit_metadata.json"), "edit_label", sealed="all")
def the_report_of_another_scenario_under_a_right_name(pack: Path) -> None:
    shutil.copy(pack / REPORT, pack / STRESS)


@attack(Code.BASELINE_DIFFERS, STRESS, "evaluation_windows.final.baseline_logloss", sealed="all")
def a_baseline_made_worse_in_one_report(pack: Path) -> None:
    composed(pack, STRESS, lambda raw: add(raw["evaluation_windows"]["final"]["baseline_logloss"], 0.5))


def add(losses: list[float], more: float) -> None:
    losses[:] = [loss + more for loss in losses]


@attack(Code.BASELINE_DIFFERS, FAULT, "baseline_ref.report_sha256", sealed="all")
def the_baseline_swapped(pack: Path) -> None:
    def louder(baseline: dict[str, Any]) -> None:
        for draw in baseline["draws"]:
            add(draw["final"]["logloss"], 0.5)

    edit_json(pack / BASELINE, louder)


@attack(Code.BASELINE_MISSING, BASELINE, sealed="all")
def the_baseline_removed(pack: Path) -> None:
    shutil.rmtree((pack / BASELINE).parent)
    edit_json(pack / "manifest.json", lambda m: m.update(verification_baselines=[]))


@attack(Code.EDIT_METADATA_DIFFERS, sibling(STRESS, "edit_metadata.json"), "baseline_digest", sealed="all")
def a_report_measured_against_another_checkpoint(pack: Path) -> None:
    composed(pack, STRESS, lambda raw: raw["baseline_ref"].update(digest=f"sha256:{ZEROS}"))


@attack(Code.BASELINE_DIFFERS, REPORT, "evaluation_windows.final.window_ids", sealed="all")
def only_the_easy_windows(pack: Path) -> None:
    def drop(raw: Any) -> None:
        for values in raw["evaluation_windows"]["final"].values():
            del values[0]
        for side in raw["fidelity"]["raw"].values():
            for values in side.values():
                if isinstance(values, list):
                    del values[0]
        first, subject = raw["dataset"]["slices"][0], raw["fidelity"]["raw"]["subject"]
        for block in (subject, subject["slices"][first["name"]]):
            # the subject is a copy of the baseline, so all positions of the window are in the first bin
            block["histogram"]["counts"][0] -= first["seq_len"] - 1
        for part in (raw["dataset"], first):
            part["windows"]["final"] -= 1

    composed(pack, REPORT, drop)


@attack(Code.RUNTIME_MANIFEST_DIFFERS, sibling(REPORT, "runtime.manifest.json"), "report.path", sealed="all")
def the_runtime_manifest_of_another_report(pack: Path) -> None:
    shutil.copy((pack / STRESS).with_name("runtime.manifest.json"), (pack / REPORT).with_name("runtime.manifest.json"))


@attack(
    Code.RUNTIME_MANIFEST_DIFFERS, sibling(REPORT, "runtime.manifest.json"), "runtime.container_execution", sealed="all"
)
def a_container_that_never_was(pack: Path) -> None:
    edit_json(
        (pack / REPORT).with_name("runtime.manifest.json"), lambda r: r["runtime"].update(container_execution=True)
    )


@attack(Code.RUNTIME_MANIFEST_DIFFERS, sibling(REPORT, "runtime.manifest.json"), "runtime", sealed="all")
def an_image_without_a_container(pack: Path) -> None:
    digest = f"sha256:{ZEROS}"
    edit_json((pack / REPORT).with_name("runtime.manifest.json"), lambda r: r["runtime"].update(image_digest=digest))


@attack(Code.FILE_ABSENT, sibling(REPORT, "runtime.manifest.json"), sealed="all")
def a_report_without_its_runtime_manifest(pack: Path) -> None:
    (pack / REPORT).with_name("runtime.manifest.json").unlink()


@attack(Code.TIMING_DIFFERS, sibling(REPORT, "evaluate_timing.json"), sealed="all")
def a_faster_evaluation(pack: Path) -> None:
    edit_json((pack / REPORT).with_name("evaluate_timing.json"), lambda t: t.update(score_seconds=0.0))


@attack(Code.EDIT_METADATA_DIFFERS, sibling(REPORT, "edit_metadata.json"), "edit_type", sealed="all")
def another_edit_than_the_report_says(pack: Path) -> None:
    edit_json((pack / REPORT).with_name("edit_metadata.json"), lambda m: m.update(edit_type="quant_rtn"))


@attack(Code.EDIT_METADATA_MALFORMED, sibling(REPORT, "edit_metadata.json"), "packed_quantized_storage", sealed="all")
def a_deployable_subject_that_is_none(pack: Path) -> None:
    edit_json((pack / REPORT).with_name("edit_metadata.json"), lambda m: m.update(packed_quantized_storage=True))


@attack(Code.EDIT_CONTRADICTS_ITSELF, STRESS, "edit.name", sealed="all")
def an_edit_of_ours_that_calls_itself_custom(pack: Path) -> None:
    composed(pack, STRESS, lambda raw: raw["edit"].update(label="custom"))
    edit_json((pack / STRESS).with_name("edit_metadata.json"), lambda m: m.update(edit_label="custom"))


@attack(Code.FILE_MALFORMED, sibling(REPORT, "evaluate_timing.json"), sealed="all")
def timings_of_null(pack: Path) -> None:
    (pack / REPORT).with_name("evaluate_timing.json").write_text("null")


@attack(Code.FILE_MALFORMED, SCENARIOS, sealed="all")
def edit_metadata_that_are_none_in_a_pack_without_a_plan(pack: Path) -> None:
    (pack / SCENARIOS).write_text("{}")
    (pack / REPORT).with_name("edit_metadata.json").write_text("[]")


@attack(Code.FILE_DOES_NOT_FOLLOW, f"reports/{MODEL}/noop_control/run_7/deeper/edit_metadata.json", sealed="all")
def a_report_in_a_folder_of_no_case(pack: Path) -> None:
    shutil.copytree((pack / REPORT).parent, pack / f"reports/{MODEL}/noop_control/run_7/deeper")


@attack(Code.WEIGHTS_NOT_DECLARED, "metadata/model.safetensors", sealed="all")
def weights_in_the_pack(pack: Path) -> None:
    (pack / "metadata/model.safetensors").write_bytes(bytes(64))


def result(path: str, change: Callable[[Any], object]) -> Act:
    return lambda pack: edit_json(pack / path, change)


for case, path, edit, reason in (
    ("verdict", VERDICT, lambda v: v.update(verdict="FAIL"), (Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "verdict")),
    ("count", VERDICT, lambda v: v["counts"].update(clean_total=7),
     (Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "counts.clean_total")),
    ("record", VERDICT, lambda v: v["records"][0].update(passed=False),
     (Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "records[0].passed")),
    ("record_left_out", VERDICT, lambda v: v["records"].pop(), (Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "records")),
    ("summary", "results/category_summary.json", lambda s: s["clean"].update(passed=9),
     (Code.RESULT_DOES_NOT_FOLLOW, "results/category_summary.json", "clean.passed")),
    ("guard_summary", "results/guard_signal_summary.json", lambda s: s.clear(),
     (Code.RESULT_DOES_NOT_FOLLOW, "results/guard_signal_summary.json", "invariants")),
    ("time_summary", "results/analysis/evaluation_optimization_summary.json", lambda s: s.update(timing_files=9),
     (Code.RESULT_DOES_NOT_FOLLOW, "results/analysis/evaluation_optimization_summary.json", "timing_files")),
    ("verification", REPORT.replace("evaluation.report", "verify"), lambda v: v["results"][0].update(ok=False),
     (Code.RESULT_DOES_NOT_FOLLOW, sibling(REPORT, "verify.json"), "results[0].ok")),
    ("pytest_summary", "metadata/pytest_report.json", lambda r: r["summary"].update(passed=4),
     (Code.PYTEST_REPORT_CONTRADICTS_ITSELF, "metadata/pytest_report.json", "summary.passed")),
    ("pytest_exit_code", "metadata/pytest_report.json", lambda r: r.update(exitcode=1),
     (Code.PYTEST_REPORT_CONTRADICTS_ITSELF, "metadata/pytest_report.json", "exitcode")),
    ("outcome", "metadata/pytest_report.json", lambda r: r["tests"][0].update(outcome="failed"),
     (Code.PYTEST_REPORT_CONTRADICTS_ITSELF, "metadata/pytest_report.json", "summary.failed")),
    ("environment", "metadata/environment.json", lambda e: e["libraries"].update(torch="9.9"),
     (Code.ENVIRONMENT_DIFFERS, BASELINE, "meta.versions.torch")),
    ("pin", "metadata/model_revisions.json", lambda r: r["models"][0].update(revision="main"),
     (Code.PINS_DIFFER, "metadata/model_revisions.json", "models[0].revision")),
    ("pin_by_digest", "metadata/model_revisions.json", lambda r: r["models"][0].update(revision=f"sha256:{ZEROS}"),
     (Code.PINS_DIFFER, "metadata/model_revisions.json", "models")),
    ("pinned_file", "metadata/model_revisions.json", lambda r: r["models"][0]["files"][0].update(sha256="0" * 64),
     (Code.PINS_DIFFER, BASELINE, "baseline.digest")),
    ("pin_without_files", "metadata/model_revisions.json", lambda r: r["models"][0].pop("files"),
     (Code.PINS_DIFFER, "metadata/model_revisions.json", "models")),
    ("weaker_scenario", SCENARIOS, lambda s: s["scenarios"][0].update(strictness="informational"),
     (Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "counts.informational_total")),
    ("weaker_requirement", SCENARIOS, lambda s: s["scenarios"][2].update(
        requirements={**s["scenarios"][2]["requirements"], "primary_guard_required": False}),
     (Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "counts.primary_guard_required_hits")),
    ("smaller_selection", SCENARIOS, lambda s: s["selection"]["cases"].pop(),
     (Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "counts.cases_total")),
    ("scenario_more", SCENARIOS, lambda s: s["scenarios"].append({**s["scenarios"][0], "id": "another"}),
     (Code.PLAN_CONTRADICTS_ITSELF, SCENARIOS, "scenarios")),
    ("gate_that_holds", VERDICT, lambda v: v["records"][1].update(gates_hold=False),
     (Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "records[1].gates_hold")),
    ("policy", VERDICT, lambda v: v["records"][0].update(policy_digest=f"sha256:{ZEROS}"),
     (Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "records[0].policy_digest")),
    ("preset", VERDICT, lambda v: v["records"][0].update(preset_sha256=None),
     (Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "records[0].preset_sha256")),
    ("count_of_what_decides_nothing", VERDICT, lambda v: v["counts"].update(informational_total=3),
     (Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "counts.informational_total")),
    ("number_type", VERDICT, lambda v: v["counts"].update(clean_total=True),
     (Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "counts.clean_total")),
    ("part", VERDICT, lambda v: v.update(not_bundled=[v["records"][0]["name"]], verdict="NOT_DERIVED"),
     (Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "not_bundled")),
    ("part_that_is_there", VERDICT, lambda v: v.update(not_bundled=["mistral-tiny-noop_control-run1"]),
     (Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "not_bundled")),
    ("part_of_no_names", VERDICT, lambda v: v.update(not_bundled=[{"case": 1}, None, 7]),
     (Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "not_bundled")),
    ("part_that_is_no_list", VERDICT, lambda v: v.update(not_bundled="all"),
     (Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "not_bundled")),
    ("fault_without_a_detector", SCENARIOS, lambda s: s["scenarios"][2]["requirements"].update(detectors_all_of=[]),
     (Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "records[0].detectors_all_of")),
    ("tuned_edit", SCENARIOS, lambda s: s["scenarios"][0]["generation"].update(edit_spec="quant_rtn:8:32:all"),
     (Code.TUNED_PARAMETERS_DIFFER, REPORT, "edit.spec")),
):  # fmt: skip
    ATTACKS[f"results_with_another_{case}"] = Attack(result(path, edit), *reason, "all")


@attack(Code.RESULT_DOES_NOT_FOLLOW, "results/final_verdict.txt", sealed="all")
def another_verdict_text(pack: Path) -> None:
    (pack / "results/final_verdict.txt").write_text("Verdict: PASS\n")


@attack(Code.README_DIFFERS, "README.md", sealed="all")
def another_readme(pack: Path) -> None:
    (pack / "README.md").write_text((pack / "README.md").read_text().replace("3 of 3", "4 of 4"))


@attack(Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "counts.error_injection_detected", sealed="all")
def a_pass_claimed_of_a_part(pack: Path) -> None:
    shutil.rmtree((pack / FAULT).parent)
    edit_json(pack / VERDICT, lambda v: v.update(not_bundled=["mistral-tiny-nan_injection-run1"]))


@attack(Code.EDIT_METADATA_DIFFERS, sibling(REPORT, "edit_metadata.json"), "artifact_class", sealed="all")
def another_class_of_artifact(pack: Path) -> None:
    edit_json(
        pack / REPORT.replace("evaluation.report", "edit_metadata"),
        lambda m: m.update(artifact_class="evidence_only_pack"),
    )


@attack(Code.FILE_MALFORMED, SCENARIOS, "scenarios[0].artifact_class", sealed="all")
def a_class_of_artifact_that_there_is_not(pack: Path) -> None:
    edit_json(pack / SCENARIOS, lambda s: s["scenarios"][0].update(artifact_class="approved"))


@attack(Code.SETTINGS_DIFFER, "metadata/settings.json", "tier.value", sealed="all")
def other_settings_than_the_manifest_has(pack: Path) -> None:
    edit_json(pack / "metadata/settings.json", lambda settings: settings["tier"].update(value="aggressive"))


@attack(Code.ATTRIBUTES_DIFFER, ".gitattributes")
def a_filter_that_git_would_run(pack: Path) -> None:
    (pack / ".gitattributes").write_text("* -text\n*.json filter=other\n")


@attack(Code.FILE_DOES_NOT_FOLLOW, "results/approval.json", sealed="all")
def a_result_that_nothing_gives(pack: Path) -> None:
    (pack / "results/approval.json").write_text("{}")


@attack(Code.FILE_DOES_NOT_FOLLOW, GUARD_VALUE, sealed="all")
def a_sweep_that_nothing_gives(pack: Path) -> None:
    (pack / GUARD_VALUE).write_text("{}")


@attack(Code.RESULT_DOES_NOT_FOLLOW, VERDICT, "counts.error_injection_detected", sealed="all")
def a_fault_that_was_not_caught_left_out_with_all_that_names_it(pack: Path) -> None:
    shutil.rmtree((pack / FAULT).parent)
