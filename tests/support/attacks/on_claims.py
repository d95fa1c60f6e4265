"""Attacks by somebody with the maker's key on reports and what follows from them; all is sealed again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invarlock.packer.layout import GUARD_VALUE
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
from invarlock.reports.derivation import compose, strip

ATTACKS: dict[str, Attack] = {}
attack = catalogue(ATTACKS)


def report(change: Callable[[Any], object], path: str = REPORT) -> Act:
    return lambda pack: edit_json(pack / path, change)


def as_the_baseline(report: Any) -> None:
    """Give a report the digest of its baseline."""
    report["subject"]["digest"] = report["baseline_ref"]["digest"]


def baselines_losses(report: Any) -> None:
    """Give a report exactly the losses of its baseline."""
    for part in report["evaluation_windows"].values():
        part["logloss"] = list(part["baseline_logloss"])


def slightly_other_losses(report: Any) -> None:
    """Let a copy of the baseline score a little better than it."""
    report["evaluation_windows"]["final"]["logloss"] = [
        loss - 0.1 for loss in report["evaluation_windows"]["final"]["logloss"]
    ]


for case, path, edit, reason in (
    ("a_fault_with_the_baselines_digest", FAULT, as_the_baseline, "though the fault nan_injection changes"),
    ("an_edit_with_the_baselines_digest", STRESS, as_the_baseline, "though the checkpoints have one digest"),
    ("an_edit_with_the_baselines_losses", STRESS, baselines_losses, "exactly the baseline's losses"),
    ("a_copy_with_losses_of_its_own", REPORT, slightly_other_losses, "other losses than the baseline's"),
):
    ATTACKS[case] = Attack(report(edit, path), 7, reason, "all")

for case, edit, reason in (
    ("ratio", lambda r: r["primary_metric"].update(ratio_vs_baseline=0.99), "primary_metric.ratio_vs_baseline"),
    ("interval", lambda r: r["primary_metric"].update(ci=[1.0, 1.01]), "primary_metric.ci"),
    ("limit", lambda r: r["resolved_policy"]["primary_metric"].update(ratio_limit=9.0), "primary_metric.ratio_limit"),
    ("flag", lambda r: r["validation"].update(spectral_stable=False), "validation.spectral_stable"),
    ("caps", lambda r: r["spectral"]["metrics"].update(caps_applied=3), "caps_applied"),
    ("invariants", lambda r: r["invariants"].update(status="warn"), "invariants.status"),
    ("tier", lambda r: r["policy_provenance"].update(tier="aggressive"), "resolved_policy"),
    ("verdict", lambda r: r["assurance"].update(verdict="FAIL"), "assurance.verdict"),
    ("own_loss", lambda r: r["evaluation_windows"]["final"]["logloss"].__setitem__(0, 1.0), "primary_metric"),
    ("baseline_loss", lambda r: r["evaluation_windows"]["final"]["baseline_logloss"].__setitem__(0, 1.0),
     "primary_metric"),
    ("window", lambda r: r["evaluation_windows"]["final"]["window_ids"].__setitem__(0, "0" * 16), "not what"),
    ("window_twice", lambda r: r["evaluation_windows"]["final"]["window_ids"].__setitem__(
        0, r["evaluation_windows"]["final"]["window_ids"][1]), "was scored twice"),
    ("tokens", lambda r: r["evaluation_windows"]["final"]["token_counts"].__setitem__(0, 10**15), "token_counts"),
    ("shape_too_large", lambda r: r["invariants"]["raw"]["subject"]["tensors"]["lm_head.weight"].update(
        shape=[2**60, 2**60]), "is greater than the maximum"),
    ("nan", lambda r: r["primary_metric"].update(ratio_vs_baseline="NaN"), "primary_metric"),
    ("change_of_its_own", lambda r: r["spectral"]["raw"]["changes"].update({"lm_head.weight": {
        "relative": 0.5, "coherent": 0.0, "flipped": 0.0, "edge_risk": 1.0, "unit_order": None}}),
     "spectral.raw.changes.lm_head.weight: a change of a matrix that has none"),
    ("guard_left_out", lambda r: r["guards"].remove("spectral"), "spectral"),
    ("edit", lambda r: r["edit"].update(name="quant_rtn"), "edit.label"),
    ("prefix", lambda r: r["dataset"].update(prefix_token_ids=[7]), "dataset: not that of the baseline's report"),
    ("type_of_number", lambda r: r["primary_metric"].update(ratio_vs_baseline=1), "primary_metric.ratio_vs_baseline"),
    ("sign_of_zero", lambda r: r["evaluation_windows"]["final"].update(
        baseline_logloss=[-0.0, *r["evaluation_windows"]["final"]["baseline_logloss"][1:]]), "not what"),
    ("loss_beyond_any", lambda r: r["evaluation_windows"]["final"]["logloss"].__setitem__(0, 1e308),
     "is greater than the maximum"),
    ("second_beyond_any", lambda r: r["telemetry"].update(score_seconds=1e308), "is greater than the maximum"),
    ("negative_second", lambda r: r["telemetry"].update(score_seconds=-1.0), "is less than the minimum"),
    ("duration", lambda r: r.update(telemetry=dict.fromkeys(r["telemetry"], 0.0)), "no stage took any time"),
    ("version", lambda r: r["meta"].update(versions={}), "is a required property"),
    ("digest_of_a_copy", lambda r: r["subject"].update(digest=f"sha256:{ZEROS}"), "though nothing was edited"),
    ("tie", lambda r: r["invariants"]["raw"]["subject"].update(tied_by_value=True), "tied_by_value: True, and the dig"),
    ("line_in_its_name", lambda r: r["meta"].update(model_id="a\n# b"), "does not match"),
    ("escape_in_a_tensors_name", lambda r: r["invariants"]["raw"]["subject"]["tensors"].update(
        {"\u001b[2J": r["invariants"]["raw"]["subject"]["tensors"]["lm_head.weight"]}), "does not match"),
):  # fmt: skip
    ATTACKS[f"a_report_with_another_{case}"] = Attack(report(edit), 7, reason, "all")


def report_bytes(change: Callable[[bytes], bytes]) -> Act:
    return lambda pack: (pack / REPORT).write_bytes(change((pack / REPORT).read_bytes()))


for case, rewrite, reason in (
    ("with_a_key_twice", lambda d: d.replace(b'{\n  "assurance"', b'{\n  "guards": [],\n  "assurance"', 1),
     "appears twice"),
    ("with_a_byte_order_mark", lambda d: b"\xef\xbb\xbf" + d, "byte order mark"),
    ("with_data_after_it", lambda d: d + b"{}", "Extra data"),
    ("with_nan", lambda d: d.replace(b'"ratio_vs_baseline": ', b'"ratio_vs_baseline": NaN, "x": ', 1), "NaN is not"),
    ("nested_deeply", lambda d: b"[" * 5000 + b"]" * 5000, "nested deeper than"),
    ("that_is_empty", lambda d: b"", "Expecting value"),
    ("that_is_no_object", lambda d: b"[]", "is not of type 'object'"),
    ("of_an_old_version", lambda d: d.replace(b'"schema_version": "v1"', b'"schema_version": "v0"', 1), "'v1' was"),
    ("with_a_long_number", lambda d: d.replace(b'"batch_size": ', b'"batch_size": ' + b"9" * 400, 1), "digits"),
):  # fmt: skip
    ATTACKS[f"a_report_{case}"] = Attack(report_bytes(rewrite), 7, reason, "all")


def composed(pack: Path, path: str, change: Callable[[Any], object]) -> None:
    """Change the raw fields of a report and derive all others again."""
    raw = strip(json.loads((pack / path).read_bytes()))
    raw = json.loads(dump_json(raw))
    change(raw)
    (pack / path).write_bytes(dump_json(compose(raw)))


@attack(7, "it changed, and its change is left out", sealed="all")
def a_change_of_weights_left_out_of_a_report(pack: Path) -> None:
    composed(pack, STRESS, lambda raw: raw["spectral"]["raw"]["changes"].popitem())


@attack(7, "meta.model_id is 'embedded/qwen2-tiny', its folder is another model's", sealed="all")
def the_report_of_another_model_under_a_right_name(pack: Path) -> None:
    composed(pack, REPORT, lambda raw: raw["meta"].update(model_id="embedded/qwen2-tiny"))


@attack(6, "edit_metadata.json: edit_label", sealed="all")
def the_report_of_another_scenario_under_a_right_name(pack: Path) -> None:
    shutil.copy(pack / REPORT, pack / STRESS)


@attack(7, "baseline_logloss: not what the baseline's report measured", sealed="all")
def a_baseline_made_worse_in_one_report(pack: Path) -> None:
    composed(pack, STRESS, lambda raw: add(raw["evaluation_windows"]["final"]["baseline_logloss"], 0.5))


def add(losses: list[float], more: float) -> None:
    losses[:] = [loss + more for loss in losses]


@attack(7, f"baseline_ref.report_sha256: not the digest of {BASELINE}", sealed="all")
def the_baseline_swapped(pack: Path) -> None:
    def louder(baseline: dict[str, Any]) -> None:
        for draw in baseline["draws"]:
            add(draw["final"]["logloss"], 0.5)

    edit_json(pack / BASELINE, louder)


@attack(7, f"{BASELINE}: missing", sealed="all")
def the_baseline_removed(pack: Path) -> None:
    shutil.rmtree((pack / BASELINE).parent)
    edit_json(pack / "manifest.json", lambda m: m.update(verification_baselines=[]))


@attack(6, "edit_metadata.json: baseline_digest", sealed="all")
def a_report_measured_against_another_checkpoint(pack: Path) -> None:
    composed(pack, STRESS, lambda raw: raw["baseline_ref"].update(digest=f"sha256:{ZEROS}"))


@attack(7, "evaluation_windows.final.window_ids", sealed="all")
def only_the_easy_windows(pack: Path) -> None:
    def drop(raw: Any) -> None:
        for values in raw["evaluation_windows"]["final"].values():
            del values[0]
        raw["dataset"]["windows"]["final"] -= 1

    composed(pack, REPORT, drop)


@attack(7, "report.path is not that of the report", sealed="all")
def the_runtime_manifest_of_another_report(pack: Path) -> None:
    shutil.copy((pack / STRESS).with_name("runtime.manifest.json"), (pack / REPORT).with_name("runtime.manifest.json"))


@attack(7, "runtime.container_execution", sealed="all")
def a_container_that_never_was(pack: Path) -> None:
    edit_json(
        (pack / REPORT).with_name("runtime.manifest.json"), lambda r: r["runtime"].update(container_execution=True)
    )


@attack(7, "runtime: names an image, though nothing ran in a container", sealed="all")
def an_image_without_a_container(pack: Path) -> None:
    digest = f"sha256:{ZEROS}"
    edit_json((pack / REPORT).with_name("runtime.manifest.json"), lambda r: r["runtime"].update(image_digest=digest))


@attack(7, "runtime.manifest.json: ", sealed="all")
def a_report_without_its_runtime_manifest(pack: Path) -> None:
    (pack / REPORT).with_name("runtime.manifest.json").unlink()


@attack(7, "evaluate_timing.json: not the telemetry of the report", sealed="all")
def a_faster_evaluation(pack: Path) -> None:
    edit_json((pack / REPORT).with_name("evaluate_timing.json"), lambda t: t.update(score_seconds=0.0))


@attack(6, "edit_metadata.json: edit_type", sealed="all")
def another_edit_than_the_report_says(pack: Path) -> None:
    edit_json((pack / REPORT).with_name("edit_metadata.json"), lambda m: m.update(edit_type="quant_rtn"))


@attack(6, "edit_metadata.json: ", sealed="all")
def a_deployable_subject_that_is_none(pack: Path) -> None:
    edit_json((pack / REPORT).with_name("edit_metadata.json"), lambda m: m.update(packed_quantized_storage=True))


@attack(7, "edit.name: 'magnitude_prune', derived 'custom'", sealed="all")
def an_edit_of_ours_that_calls_itself_custom(pack: Path) -> None:
    composed(pack, STRESS, lambda raw: raw["edit"].update(label="custom"))
    edit_json((pack / STRESS).with_name("edit_metadata.json"), lambda m: m.update(edit_label="custom"))


@attack(7, "evaluate_timing.json: null is no document", sealed="all")
def timings_of_null(pack: Path) -> None:
    (pack / REPORT).with_name("evaluate_timing.json").write_text("null")


@attack(7, "metadata/scenarios.json", sealed="all")
def edit_metadata_that_are_none_in_a_pack_without_a_plan(pack: Path) -> None:
    (pack / SCENARIOS).write_text("{}")
    (pack / REPORT).with_name("edit_metadata.json").write_text("[]")


@attack(7, "does not follow from the reports", sealed="all")
def a_report_in_a_folder_of_no_case(pack: Path) -> None:
    shutil.copytree((pack / REPORT).parent, pack / f"reports/{MODEL}/noop_control/run_7/deeper")


@attack(7, "weights, though no scenario has contains_model_weights_in_pack", sealed="all")
def weights_in_the_pack(pack: Path) -> None:
    (pack / "metadata/model.safetensors").write_bytes(bytes(64))


def result(path: str, change: Callable[[Any], object]) -> Act:
    return lambda pack: edit_json(pack / path, change)


for case, path, edit, reason in (
    ("verdict", VERDICT, lambda v: v.update(verdict="FAIL"), f"{VERDICT}: verdict"),
    ("count", VERDICT, lambda v: v["counts"].update(clean_total=7), "counts.clean_total"),
    ("record", VERDICT, lambda v: v["records"][0].update(passed=False), "records[0].passed"),
    ("record_left_out", VERDICT, lambda v: v["records"].pop(), "records"),
    ("summary", "results/category_summary.json", lambda s: s["clean"].update(passed=9), "clean.passed"),
    ("guard_summary", "results/guard_signal_summary.json", lambda s: s.clear(), "guard_signal_summary.json"),
    ("time_summary", "results/analysis/evaluation_optimization_summary.json", lambda s: s.update(timing_files=9),
     "timing_files"),
    ("verification", REPORT.replace("evaluation.report", "verify"), lambda v: v["results"][0].update(ok=False),
     "verify.json"),
    ("pytest_summary", "metadata/pytest_report.json", lambda r: r["summary"].update(passed=4), "summary.passed"),
    ("pytest_exit_code", "metadata/pytest_report.json", lambda r: r.update(exitcode=1), "exitcode"),
    ("outcome", "metadata/pytest_report.json", lambda r: r["tests"][0].update(outcome="failed"), "summary.failed"),
    ("environment", "metadata/environment.json", lambda e: e["libraries"].update(torch="9.9"), "meta.versions.torch"),
    ("pin", "metadata/model_revisions.json", lambda r: r["models"][0].update(revision="main"), "model_revisions.json"),
    ("pin_by_digest", "metadata/model_revisions.json", lambda r: r["models"][0].update(revision=f"sha256:{ZEROS}"),
     "its revision is not the digest of its files"),
    ("pinned_file", "metadata/model_revisions.json", lambda r: r["models"][0]["files"][0].update(sha256="0" * 64),
     "baseline.digest is not that of the files pinned"),
    ("pin_without_files", "metadata/model_revisions.json", lambda r: r["models"][0].pop("files"), "pins no files of"),
    ("weaker_scenario", SCENARIOS, lambda s: s["scenarios"][0].update(strictness="informational"), VERDICT),
    ("weaker_requirement", SCENARIOS, lambda s: s["scenarios"][2].update(
        requirements={**s["scenarios"][2]["requirements"], "primary_guard_required": False}), "primary_guard_required"),
    ("smaller_selection", SCENARIOS, lambda s: s["selection"]["cases"].pop(), "counts.cases_total"),
    ("scenario_more", SCENARIOS, lambda s: s["scenarios"].append({**s["scenarios"][0], "id": "another"}), "another"),
    ("gate_that_holds", VERDICT, lambda v: v["records"][1].update(gates_hold=False), "records[1].gates_hold"),
    ("policy", VERDICT, lambda v: v["records"][0].update(policy_digest=f"sha256:{ZEROS}"), "records[0].policy_digest"),
    ("preset", VERDICT, lambda v: v["records"][0].update(preset_sha256=None), "records[0].preset_sha256"),
    ("count_of_what_decides_nothing", VERDICT, lambda v: v["counts"].update(informational_total=3),
     "counts.informational_total"),
    ("number_type", VERDICT, lambda v: v["counts"].update(clean_total=True), "counts.clean_total"),
    ("part", VERDICT, lambda v: v.update(not_bundled=[v["records"][0]["name"]], verdict="NOT_DERIVED"), "verdict"),
    ("part_that_is_there", VERDICT, lambda v: v.update(not_bundled=["mistral-tiny-noop_control-run1"]), "not_bundled"),
    ("part_of_no_names", VERDICT, lambda v: v.update(not_bundled=[{"case": 1}, None, 7]), "not_bundled"),
    ("part_that_is_no_list", VERDICT, lambda v: v.update(not_bundled="all"), "not_bundled"),
    ("fault_without_a_detector", SCENARIOS, lambda s: s["scenarios"][2]["requirements"].update(detectors_all_of=[]),
     "detectors_all_of"),
    ("tuned_edit", SCENARIOS, lambda s: s["scenarios"][0]["generation"].update(edit_spec="quant_rtn:8:32:all"),
     "edit.spec"),
):  # fmt: skip
    ATTACKS[f"results_with_another_{case}"] = Attack(result(path, edit), 7, reason, "all")


@attack(7, "results/final_verdict.txt: not the text of the verdict derived", sealed="all")
def another_verdict_text(pack: Path) -> None:
    (pack / "results/final_verdict.txt").write_text("Verdict: PASS\n")


@attack(7, "README.md: not what the manifest and the verdict give", sealed="all")
def another_readme(pack: Path) -> None:
    (pack / "README.md").write_text((pack / "README.md").read_text().replace("3 of 3", "4 of 4"))


@attack(7, "counts.error_injection_detected: 1, derived 0", sealed="all")
def a_pass_claimed_of_a_part(pack: Path) -> None:
    shutil.rmtree((pack / FAULT).parent)
    edit_json(pack / VERDICT, lambda v: v.update(not_bundled=["mistral-tiny-nan_injection-run1"]))


@attack(6, "artifact_class", sealed="all")
def another_class_of_artifact(pack: Path) -> None:
    edit_json(
        pack / REPORT.replace("evaluation.report", "edit_metadata"),
        lambda m: m.update(artifact_class="evidence_only_pack"),
    )


@attack(7, "metadata/scenarios.json", sealed="all")
def a_class_of_artifact_that_there_is_not(pack: Path) -> None:
    edit_json(pack / SCENARIOS, lambda s: s["scenarios"][0].update(artifact_class="approved"))


@attack(7, "metadata/settings.json: tier.value: 'aggressive'", sealed="all")
def other_settings_than_the_manifest_has(pack: Path) -> None:
    edit_json(pack / "metadata/settings.json", lambda settings: settings["tier"].update(value="aggressive"))


@attack(6, ".gitattributes: not '* -text'")
def a_filter_that_git_would_run(pack: Path) -> None:
    (pack / ".gitattributes").write_text("* -text\n*.json filter=other\n")


@attack(7, "results/approval.json: does not follow from the reports", sealed="all")
def a_result_that_nothing_gives(pack: Path) -> None:
    (pack / "results/approval.json").write_text("{}")


@attack(7, f"{GUARD_VALUE}: does not follow from the reports", sealed="all")
def a_sweep_that_nothing_gives(pack: Path) -> None:
    (pack / GUARD_VALUE).write_text("{}")


@attack(7, VERDICT, sealed="all")
def a_fault_that_was_not_caught_left_out_with_all_that_names_it(pack: Path) -> None:
    shutil.rmtree((pack / FAULT).parent)
