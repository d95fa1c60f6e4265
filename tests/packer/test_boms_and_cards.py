"""The documents about a subject for other tools: a CycloneDX BOM and a section of a model card."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import ComponentType
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from invarlock.packer.build.assembly import gather_files
from invarlock.packer.build.building import build_pack
from invarlock.packer.receivers.bom import make_bom
from invarlock.packer.receivers.card import make_card
from invarlock.packer.receivers.measures import measures
from invarlock.packer.receivers.presentation import Presentation
from invarlock.packer.receivers.subjects import PackSubject, SubjectOptions, SubjectRun, choose_reports, read_subject
from invarlock.packer.trust.attested import AttestedPack, AttestedReport
from invarlock.packer.trust.keys import fingerprint
from made_records import made_records
from packs import TIME, content, edit_json, sha256
from processes import light, packer

from invarlock.catalog.pins import combine_digests
from invarlock.checkpoints.digests import digest_file
from invarlock.checkpoints.layout import checkpoint_files
from invarlock.errors import InvarLockError
from invarlock.jsonio import dump_json
from invarlock.pages.numbers import change_text
from invarlock.problems import Code
from invarlock.reports.derivation import compose, strip

PRUNED, NOOP = "mistral-tiny-prune_50pct_stress", "mistral-tiny-noop_control"
NOTHING = Presentation()
STRANGER = f"sha256:{'0' * 64}"
URL = "https://example.com/packs/one"
# A name as an attacker would choose it, with the syntax of tables, HTML, links, code, metadata and shell commands.
HOSTILE = "x|y` <img src=x onerror=alert(1)> [z](https://evil.example) www.evil.example $(reboot) '\";--- é😀"


def schema_errors(document: dict[str, Any]) -> object:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))


def card_of(subject: PackSubject, given: Presentation = NOTHING) -> ModelCard:
    return ModelCard(make_card(subject, given, with_metadata=True))


def metadata(card: ModelCard) -> ModelCardData:
    assert isinstance(card.data, ModelCardData)
    return card.data


def results(card: ModelCard) -> list[EvalResult]:
    return metadata(card).eval_results or []


def properties(component: dict[str, Any]) -> dict[str, str]:
    return {row["name"].removeprefix("invarlock:"): row["value"] for row in component["properties"]}


def metrics(bom: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = bom["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    return rows


@pytest.fixture
def pruned(pack: Path) -> PackSubject:
    return read_subject(pack, SubjectOptions(case=PRUNED))


@pytest.fixture
def quantised(deployed_run: Any) -> PackSubject:
    return read_subject(deployed_run.pack, SubjectOptions())


def changed(subject: PackSubject, **blocks: Any) -> PackSubject:
    """Return a subject with some blocks of its report replaced and the derived fields computed again."""
    raw = {**json.loads(dump_json(strip(subject.report))), **blocks}
    report = json.loads(dump_json(compose(raw)))
    return replace(subject, runs=(SubjectRun(subject.runs[0].record, report),))


def renamed(subject: PackSubject, name: str) -> PackSubject:
    """Return a subject with a name in every place of its report, pack and case where a maker can choose one."""
    report = json.loads(dump_json(subject.report))
    report["meta"]["model_id"] = report["dataset"]["provider"] = report["edit"]["spec"] = name
    report["assurance"]["blocking_reasons"] = [name]
    storage = report["invariants"]["raw"]["subject"]["storage"]
    storage["quantisation"] = {**(storage["quantisation"] or dict.fromkeys(FACTS)), "method": name, "tool": name}
    manifest = {**subject.pack.manifest, "suite": name, "model_licenses": {name: name}}
    return replace(
        subject,
        name=name,
        runs=(SubjectRun(subject.runs[0].record, report),),
        pack=replace(subject.pack, manifest=manifest),
        files={name.replace("/", "_"): "0" * 64},
    )


FACTS = ("method", "bits", "group_size", "symmetric", "activation_bits", "calibration", "tool", "ignored_modules")


def test_a_bom_has_the_model_its_ancestor_and_its_numbers(pack: Path, pruned: PackSubject) -> None:
    bom = make_bom(pruned, Presentation("acme/pruned", URL))

    assert schema_errors(bom) is None
    model, report = bom["metadata"]["component"], pruned.report
    assert (model["type"], model["name"]) == ("machine-learning-model", "acme/pruned")
    assert model["hashes"] == [{"alg": "SHA-256", "content": report["subject"]["digest"][7:]}]
    (baseline,) = model["pedigree"]["ancestors"]
    assert (baseline["name"], baseline["licenses"]) == ("embedded/mistral-tiny", [{"license": {"id": "Apache-2.0"}}])
    assert baseline["hashes"][0]["content"] == report["baseline_ref"]["digest"][7:]
    files = {row["name"]: row["hashes"][0]["content"] for row in baseline["components"]}
    assert combine_digests(files) == report["baseline_ref"]["digest"]
    (evidence,) = model["externalReferences"]
    assert (evidence["type"], evidence["url"]) == ("evidence", URL)
    assert evidence["hashes"] == [{"alg": "SHA-256", "content": sha256((pack / "manifest.json").read_bytes())}]
    ratio, (low, high) = report["primary_metric"]["ratio_vs_baseline"], report["primary_metric"]["ci"]
    assert metrics(bom)[0] == {
        "type": "perplexity_ratio",
        "value": repr(ratio),
        "confidenceInterval": {"lowerBound": repr(low), "upperBound": repr(high)},
    }
    assert {row["type"] for row in metrics(bom)} >= {"kl_divergence", "same_top_token", "perplexity"}
    assert properties(model)["case:verdict"] == "FAIL"
    assert properties(bom)["pack:signer"] == pruned.signer
    assert (properties(bom)["pack:verdict"], properties(bom)["pack:signed"]) == ("PASS", "true")


def test_the_library_of_the_standard_reads_a_bom(pruned: PackSubject) -> None:
    # the library's model of CycloneDX 1.6 has no model cards; the schema validator supports them
    bom = Bom.from_json(data=make_bom(pruned, NOTHING))  # type: ignore[attr-defined] # a decorator adds it

    model = bom.metadata.component
    assert model is not None
    assert model.type is ComponentType.MACHINE_LEARNING_MODEL
    assert [one.content for one in model.hashes] == [pruned.report["subject"]["digest"][7:]]
    assert model.pedigree is not None
    assert [one.name for one in model.pedigree.ancestors] == ["embedded/mistral-tiny"]


def test_the_validator_refuses_a_malformed_bom(pruned: PackSubject) -> None:
    bom = make_bom(pruned, NOTHING)
    bom["metadata"]["component"]["modelCard"]["performanceMetrics"] = []

    assert schema_errors(bom) is not None


def test_a_bom_of_the_same_pack_has_the_same_bytes(
    pack: Path, pruned: PackSubject, run: Path, real_run: Any, tmp_path: Path
) -> None:
    again = read_subject(pack, SubjectOptions(case=PRUNED))
    other = build_pack(tmp_path / "other", content(run), real_run.key, TIME).path

    first, second = make_bom(pruned, NOTHING), make_bom(again, NOTHING)
    third = make_bom(read_subject(other, SubjectOptions(case=PRUNED)), NOTHING)

    assert dump_json(first) == dump_json(second)
    assert (first["serialNumber"] == third["serialNumber"], third["metadata"]["timestamp"]) == (False, TIME)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", first["serialNumber"])


def test_a_quantised_subject_says_how_in_both(quantised: PackSubject) -> None:
    bom, card = make_bom(quantised, NOTHING), card_of(quantised)

    assert schema_errors(bom) is None
    facts = properties(bom["metadata"]["component"])
    assert (facts["storage:format"], facts["quantisation:bits"], facts["case:verdict"]) == ("torchao", "8", "PASS")
    assert "8 bits" in card.text
    stored = [
        quantised.report["invariants"]["raw"][side]["storage"]["stored_bytes"] for side in ("subject", "baseline")
    ]
    assert f"({100 * stored[0] / stored[1]:.0f} %)" in card.text
    assert "**PASS**: every gate" in card.text


def test_a_card_has_the_numbers_the_limits_and_how_to_verify(pruned: PackSubject) -> None:
    card = card_of(pruned, Presentation("acme/pruned", URL))

    metric, fidelity = pruned.report["primary_metric"], pruned.report["fidelity"]
    (row,) = [line for line in card.text.splitlines() if line.startswith("| perplexity |")]
    assert row.startswith(f"| perplexity | {change_text(metric['ratio_vs_baseline'])} (")
    assert row.endswith("| +10 % |")
    assert f"{100 * fidelity['same_top_share']:.2f}".rstrip("0") in card.text
    assert "**FAIL**: these gates of the tier `balanced` do not hold:" in card.text
    assert f"invarlock verify PACK --strict --expected-fingerprint {pruned.signer}" in card.text
    assert f"invarlock card PACK --case {PRUNED}" in card.text
    assert f"the evidence is the pack, at <{URL}>." in card.text
    assert "this is a destructive edit that must fail; seen: fails. Verdict of the run: PASS, 3 of 3" in card.text


def test_the_hub_reads_the_metadata_of_a_card(pruned: PackSubject) -> None:
    card = card_of(pruned, Presentation("acme/pruned", URL))

    metric, fidelity = pruned.report["primary_metric"], pruned.report["fidelity"]
    found = {result.metric_type: result for result in results(card) if ": " not in result.dataset_name}
    assert metadata(card).model_name == "acme/pruned"
    assert {name: result.metric_value for name, result in found.items()} == {
        "perplexity": metric["final"],
        "perplexity_ratio": metric["ratio_vs_baseline"],
        "kl_divergence": fidelity["kl_mean"],
        "same_top_token": fidelity["same_top_share"],
    }
    low, high = metric["ci"]
    assert found["perplexity_ratio"].metric_args == {"confidence": 0.95, "low": low, "high": high}
    assert found["perplexity"].dataset_revision == pruned.report["dataset"]["source_sha256"]
    assert found["perplexity"].source_url == URL
    # a baseline that ships with the suites is not a model of the hub
    assert metadata(card).base_model is None


def test_a_baseline_of_the_hub_is_named_as_one(quantised: PackSubject) -> None:
    report = json.loads(dump_json(quantised.report))
    report["meta"].update(model_id="acme/Seven-7B", revision="0" * 39 + "a")
    subject = replace(quantised, runs=(SubjectRun(quantised.runs[0].record, report),))

    card, bom = card_of(subject), make_bom(subject, NOTHING)

    stated = metadata(card).to_dict()
    assert (stated["base_model"], stated["base_model_relation"]) == ("acme/Seven-7B", "quantized")
    (baseline,) = bom["metadata"]["component"]["pedigree"]["ancestors"]
    assert baseline["purl"] == f"pkg:huggingface/acme/Seven-7B@{'0' * 39}a"


def test_all_runs_of_a_subject_are_shown(pruned: PackSubject) -> None:
    first = pruned.runs[0]
    second = SubjectRun({**first.record, "run_num": 2}, changed(pruned).report)
    subject = replace(pruned, runs=(first, second))

    bom, card = make_bom(subject, NOTHING), card_of(subject)

    assert schema_errors(bom) is None
    parts = [f"run {run}{part}" for run in (1, 2) for part in ("", ", austen", ", melville")]
    assert [row["slice"] for row in metrics(bom) if row["type"] == "kl_divergence"] == parts
    assert card.text.count("| perplexity, run ") == 2
    assert card.text.count("| perplexity, text `melville`, run ") == 2
    numbers = [(one.dataset_args or {})["run"] for one in results(card) if one.metric_type == "perplexity"]
    assert numbers == [1, 1, 1, 2, 2, 2]


def test_slices_and_tasks_are_shown(pruned: PackSubject) -> None:
    raw = json.loads(dump_json(strip(pruned.report)))
    windows, fidelity = raw["evaluation_windows"], raw["fidelity"]
    for part in windows.values():
        half = len(part["window_ids"]) // 2
        part["slices"] = ["prose"] * half + ["code"] * (len(part["window_ids"]) - half)
    own = {key: fidelity["raw"]["subject"][key] for key in ("histogram", "kl_max")}
    fidelity["raw"]["subject"]["slices"] = {"prose": own, "code": own}
    text = {"provider": "file", "source_sha256": f"sha256:{'1' * 64}", "seq_len": raw["dataset"]["seq_len"]}
    counts = {part: len(windows[part]["window_ids"]) // 2 for part in windows}
    dataset = {**raw["dataset"], "slices": [{"name": name, **text, "windows": counts} for name in ("prose", "code")]}
    subject = changed(
        pruned, evaluation_windows=windows, fidelity=fidelity, dataset=dataset, task_records=made_records(lost=10)
    )

    bom, card = make_bom(subject, NOTHING), card_of(subject)

    assert schema_errors(bom) is None
    slices = subject.report["primary_metric"]["slices"]
    ratios = {row.get("slice"): row["value"] for row in metrics(bom) if row["type"] == "perplexity_ratio"}
    assert ratios.pop(None) == repr(subject.report["primary_metric"]["ratio_vs_baseline"])
    assert ratios == {name: repr(slices[name]["ratio_vs_baseline"]) for name in ("prose", "code")}
    assert [row["bom-ref"] for row in bom["components"]] == ["text:prose", "text:code"]
    assert {row["type"]: row["value"] for row in metrics(bom)}["sevens:includes:difference"] == "-0.01"
    assert "| perplexity, text `code` |" in card.text
    assert "| `sevens`, `includes` | 0.8 → 0.79 | difference -0.01" in card.text
    (task,) = [one for one in results(card) if one.dataset_type == "sevens"]
    assert (task.metric_type, task.metric_value) == ("includes", 0.79)


def test_what_was_not_measured_has_no_number(pack: Path) -> None:
    subject = read_subject(pack, SubjectOptions(case="mistral-tiny-nan_injection"))

    bom, card = make_bom(subject, NOTHING), card_of(subject)

    assert schema_errors(bom) is None
    assert {row["type"] for row in metrics(bom)} == {"perplexity_of_baseline"}
    assert "| perplexity | not measured: `the subject's loss is not finite on" in card.text
    assert "this is a fault that must be detected; seen: detected" in card.text
    assert metadata(card).to_dict() == {}


def test_a_name_can_break_neither_document(pruned: PackSubject) -> None:
    subject = renamed(pruned, HOSTILE)

    bom = make_bom(subject, Presentation(HOSTILE))
    card = card_of(subject, Presentation(HOSTILE))

    assert schema_errors(bom) is None
    assert bom["metadata"]["component"]["name"] == HOSTILE
    assert metadata(card).model_name == HOSTILE
    assert set(metadata(card).to_dict()) == {"model-index"}
    outside = re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", card.text, flags=re.DOTALL | re.MULTILINE))
    for piece in ("<", "evil", "$(", "[z]"):
        assert piece not in outside, outside
    tables = [line for line in card.text.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in tables if "measure" in line or "perplexity" in line} == {5}
    assert {line.count("|") for line in tables if "quantisation" in line or "weights" in line} == {4}
    commands = re.findall(r"^```\n(.*?)^```", card.text, re.DOTALL | re.MULTILINE)
    assert any("--case 'x|y` <img" in block for block in commands)


@pytest.mark.parametrize("text", ["é", "😀", "\\😀", "\x7f", "a: b # c", "---", "on", "\ud7ff", "\U0010ffff"])
def test_metadata_keeps_any_text(pruned: PackSubject, text: str) -> None:
    report = json.loads(dump_json(pruned.report))
    report["dataset"]["provider"] = text
    card = card_of(replace(pruned, runs=(SubjectRun(pruned.runs[0].record, report),)))

    assert {one.dataset_name for one in results(card)} == {text, "austen: embedded", "melville: embedded"}


def test_files_of_a_subject_are_named_if_they_are_its(pack: Path, real_run: Any, tmp_path: Path) -> None:
    # the subject of the no-op case has the same bytes as the baseline
    folder = real_run.directory / "models/embedded__mistral-tiny/baseline"
    digests = {name: digest_file(folder / name) for name in checkpoint_files(folder)}
    listing = tmp_path / "files.sha256"
    listing.write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))

    subject = read_subject(pack, SubjectOptions(case=NOOP, checkpoint_files=listing))

    bom = make_bom(subject, NOTHING)
    files = {row["name"]: row["hashes"][0]["content"] for row in bom["metadata"]["component"]["components"]}
    assert files == digests
    (command,) = re.findall(r"^sha256sum config.json .*$", card_of(subject).text, re.MULTILINE)
    printed = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert f"sha256:{printed.split()[0]}" == subject.report["subject"]["digest"]
    with pytest.raises(InvarLockError) as refused:
        read_subject(pack, SubjectOptions(case=PRUNED, checkpoint_files=listing))
    assert refused.value.code is Code.USAGE_INVALID


def test_the_only_subject_of_a_part_is_taken_and_its_verdict_said(run: Path, real_run: Any, tmp_path: Path) -> None:
    state = run / "state"
    part = gather_files(
        reports=sorted(run.glob("embedded__*/reports/prune*/**/evaluation.report.json")),
        baselines=list(run.glob("embedded__*/baseline/evaluation.report.json")),
        scenarios=state / "scenarios.json",
        final_verdict=run / "reports" / "final_verdict.json",
        presets=run / "presets",
    )
    pack = build_pack(tmp_path / "part", part, real_run.key, TIME).path

    subject = read_subject(pack, SubjectOptions())

    assert subject.name == PRUNED
    assert properties(make_bom(subject, NOTHING))["pack:verdict"] == "NOT_DERIVED"
    assert "Verdict of the run: NOT_DERIVED" in card_of(subject).text


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({}, Code.SELECTION_INVALID, "3 subjects; choose one with --case: mistral-tiny-nan_injection"),
        ({"case": "mistral-tiny-prune_50pct_stres"}, Code.SELECTION_INVALID, f"(did you mean {PRUNED}?)"),
        ({"case": "x"}, Code.SELECTION_INVALID, f"choose from mistral-tiny-nan_injection, {NOOP}, {PRUNED}"),
        ({"case": PRUNED, "expected_fingerprint": STRANGER}, Code.SIGNER_NOT_EXPECTED, "does not verify"),
    ],
)
def test_a_subject_that_is_not_clear_is_refused(pack: Path, options: dict[str, Any], code: Code, words: str) -> None:
    with pytest.raises(InvarLockError) as refused:
        read_subject(pack, SubjectOptions(**options))

    assert refused.value.code is code
    assert words in str(refused.value)


def test_a_named_run_is_shown_with_the_others(pruned: PackSubject, pack: Path) -> None:
    assert read_subject(pack, SubjectOptions(case=f"{PRUNED}-run1")).runs == pruned.runs


def made_pack(*rows: tuple[str, int, str, str]) -> AttestedPack:
    """Return a pack with one report for each row of scenario, run, subject digest and strictness."""
    reports = [AttestedReport("acme/seven", name, run, digest, {}, 1.0, True, "") for name, run, digest, _ in rows]
    records = [{"model": "acme/seven", "name": name, "strictness": strictness} for name, _, _, strictness in rows]
    return AttestedPack(b"", {}, {"records": records}, tuple(reports), {"acme/seven": "base"})


def test_all_runs_of_a_checkpoint_are_one_subject() -> None:
    pack = made_pack(
        ("noop", 1, "base", "must_pass"),
        ("mine", 1, "subject", "must_pass"),
        ("mine", 2, "subject", "must_pass"),
        ("prune", 1, "pruned", "must_fail"),
    )

    for case in (None, "seven-mine", "seven-mine-run1", "seven-mine-run2"):
        assert [(one.scenario, one.run) for one in choose_reports(pack, case)] == [("mine", 1), ("mine", 2)]


def test_runs_of_different_checkpoints_are_chosen_by_run() -> None:
    pack = made_pack(("jitter", 1, "one", "informational"), ("jitter", 2, "two", "informational"))

    with pytest.raises(InvarLockError, match="different subjects; choose one run from seven-jitter-run1, seven-jitter"):
        choose_reports(pack, "seven-jitter")
    assert [one.run for one in choose_reports(pack, "seven-jitter-run2")] == [2]


def test_of_several_that_must_pass_one_is_named() -> None:
    pack = made_pack(*((f"edit{number}", 1, f"digest{number}", "must_pass") for number in range(10)))

    with pytest.raises(InvarLockError, match=r"10 subjects; choose one with --case: seven-edit0, .* and 2 more"):
        choose_reports(pack, None)


def test_a_changed_pack_gives_no_document(pack: Path, tmp_path: Path) -> None:
    edit_json(next(pack.glob("reports/**/evaluation.report.json")), lambda report: report.update(run_id="x"))

    for command in ("bom", "card"):
        done = packer(command, pack, "--case", PRUNED, "--out", tmp_path / "out")

        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (6, "", 1)
        assert "does not verify" in done.stderr
        assert done.stderr.endswith("[checksum_differs]\n")
    assert not (tmp_path / "out").exists()


def test_an_unsigned_pack_is_refused_or_named_as_one(run: Path, tmp_path: Path) -> None:
    pack = build_pack(tmp_path / "unsigned", content(run), None, TIME).path

    with pytest.raises(InvarLockError) as refused:
        read_subject(pack, SubjectOptions(case=PRUNED))
    subject = read_subject(pack, SubjectOptions(case=PRUNED, allow_unsigned=True))

    assert refused.value.code is Code.SIGNATURE_MISSING
    assert "**not signed: anybody could have made it**" in card_of(subject).text
    assert "invarlock verify PACK --allow-unsigned" in card_of(subject).text
    assert properties(make_bom(subject, NOTHING))["pack:signed"] == "false"
    assert "pack:signer" not in properties(make_bom(subject, NOTHING))


def test_the_commands_need_the_core_alone(pack: Path, real_run: Any, pruned: PackSubject, tmp_path: Path) -> None:
    signer = fingerprint(real_run.key.public)
    given = (pack, "--case", PRUNED, "--name", "acme/pruned", "--pack-url", URL, "--expected-fingerprint", signer)

    bom, printed, card, section = light(
        "invarlock",
        [
            ("bom", *given, "--out", tmp_path / "bom.json"),
            ("bom", *given),
            ("card", *given, "--out", tmp_path / "README.md"),
            ("card", *given, "--without-metadata"),
        ],
    )

    assert [done.returncode for done in (bom, printed, card, section)] == [0, 0, 0, 0], card.stderr
    presented = Presentation("acme/pruned", URL)
    assert (tmp_path / "bom.json").read_bytes() == dump_json(make_bom(pruned, presented))
    assert json.loads(printed.stdout) == make_bom(pruned, presented)
    assert (tmp_path / "README.md").read_text() == make_card(pruned, presented, with_metadata=True)
    assert section.stdout == make_card(pruned, presented, with_metadata=False)
    assert (bom.stdout, card.stdout) == ("", "")


@pytest.mark.parametrize(
    ("given", "exit_code", "code"),
    [
        (("--pack-url", "javascript:alert(1)"), 2, "usage_invalid"),
        (("--pack-url", "https://example.com/x>y"), 2, "usage_invalid"),
        (("--name", ""), 2, "usage_invalid"),
        (("--name", "a\nb"), 2, "usage_invalid"),
        (("--case", "none"), 2, "selection_invalid"),
        (("--case", PRUNED, "--expected-fingerprint", "sha256:x"), 2, "fingerprint_malformed"),
        (("--case", PRUNED, "--out", "PACK/bom.json"), 2, "options_conflict"),
        (("--case", PRUNED, "--out", "/dev/null/bom.json"), 2, "output_unwritable"),
        (("--case", PRUNED, "--checkpoint-files", "NOWHERE"), 3, "file_missing"),
    ],
)
def test_bad_options_end_in_one_line_with_a_code(
    pack: Path, tmp_path: Path, given: tuple[str, ...], exit_code: int, code: str
) -> None:
    words = [word.replace("PACK", str(pack)).replace("NOWHERE", str(tmp_path / "nowhere")) for word in given]

    done = packer("bom", pack, *words)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (exit_code, "", 1), done.stderr
    assert done.stderr.endswith(f"[{code}]\n")


def test_measures_are_those_of_the_report(pruned: PackSubject) -> None:
    found = {measure.name: measure for measure in measures(pruned) if measure.part is None}

    low, high = pruned.report["fidelity"]["kl_mean_ci"]
    assert (found["kl_divergence"].interval, found["kl_divergence"].part) == ((low, high), None)
    assert found["kl_divergence_p999"].interval is None
