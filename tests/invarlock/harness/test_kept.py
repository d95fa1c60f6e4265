"""The reports that a resumed run keeps: each input from which a report was made is compared."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from invarlock.packer.format.layout import REPEATS
from packs import edit_json

from invarlock.catalog.cases import Case
from invarlock.catalog.edit_labels import CUSTOM, SubjectEdit
from invarlock.catalog.models import read_models
from invarlock.catalog.scenarios import UserSubjectGeneration, read_scenarios
from invarlock.documents.reports import Report
from invarlock.evaluation.kept_tokens import kept_folder
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.models import Placement
from invarlock.evaluation.request import EvaluationRequest, Setup, StoredBaseline
from invarlock.evaluation.text import SourceText
from invarlock.evaluation.windows import draw_windows
from invarlock.harness.baselines.preset_cache import PresetCache
from invarlock.harness.baselines.resuming import kept_baseline, kept_null_run, kept_report
from invarlock.jsonio import dump_json
from invarlock.reports.derivation import baseline_run_id, compose, contract_hash, strip
from invarlock.reports.documents import PresetDocument
from invarlock.reports.presets import Preset
from invarlock.reports.repeats import repeats_document
from invarlock.reports.verification import verify_baseline
from invarlock.task_records.importing import RECORDS_NAME

SUITES = Path(__file__).parents[3] / "suites"
FOLDER = "embedded__mistral-tiny"
OTHER = f"sha256:{'0' * 64}"
SPECTRAL_FAULT = "guard_value_spectral_factor_1.07"
CONTROL = "guard_value_control_noop"
Kept = Callable[..., bool]


def make_setup(report: Mapping[str, Any]) -> Setup:
    """Return the setup of a run that is identical to the run which made a report."""
    meta, dataset, provenance = report["meta"], report["dataset"], report["policy_provenance"]
    preset = Preset(cast(PresetDocument, {"limits": provenance["preset_limits"]}), provenance["preset_sha256"])
    plan = WindowPlan(
        dataset["seq_len"],
        dataset["windows"]["preview"],
        dataset["windows"]["final"],
        meta["seeds"]["windows"] - meta["run"],
        8,
    )
    text = SourceText(dataset["provider"], "", dataset["source_sha256"])
    placement = Placement(meta["device"])
    return Setup(meta["model_id"], meta["revision"], report["context"], placement, plan, text, preset=preset)


@pytest.fixture
def left(swept_run: Any, tmp_path: Path) -> Path:
    """A copy of a finished run's files that a test may change."""
    target = tmp_path / "run"
    shutil.copytree(swept_run.directory / FOLDER, target / FOLDER, ignore=shutil.ignore_patterns("models"))
    return target / FOLDER


@pytest.fixture
def tokens(swept_run: Any) -> Path:
    """The folder with the baseline's most probable tokens."""
    folder: Path = kept_folder(swept_run.directory / "models" / FOLDER / "baseline")
    return folder


@pytest.fixture
def report_path(left: Path) -> Path:
    return left / "reports" / "errors" / SPECTRAL_FAULT / "evaluation.report.json"


@pytest.fixture
def kept(left: Path, report_path: Path) -> Kept:
    """Return a function that changes some inputs of the run that made a report, and returns whether it is kept."""
    report = json.loads(report_path.read_bytes())
    scenario = next(row for row in read_scenarios(SUITES / "scenarios.json") if row.id == SPECTRAL_FAULT)
    model = read_models(SUITES / "models.toml").models["embedded/mistral-tiny"]
    data = (left / "baseline" / "evaluation.report.json").read_bytes()
    usual = {
        "case": Case(model, scenario, report["meta"]["run"], ("smoke",)),
        "path": report_path,
        "setup": make_setup(report),
        "baseline": json.loads(data),
        "baseline_sha256": f"sha256:{hashlib.sha256(data).hexdigest()}",
        "spec": report["edit"]["spec"],
        "repeats": 0,
    }

    def ask(**changed: Any) -> bool:
        found = made_of(**changed)
        # a report that is not kept is renamed with the suffix .stale
        assert (found is not None) == report_path.is_file()
        assert (found is None) == report_path.with_name(f"{report_path.name}.stale").is_file()
        return found is not None

    def made_of(**changed: Any) -> Report | None:
        given = {**usual, **changed}
        setup, stored = given.pop("setup"), StoredBaseline(left, given.pop("baseline"), given.pop("baseline_sha256"))
        draw = draw_windows(range(8), 4, 1, 1, 0)
        request = EvaluationRequest(setup, stored, SPECTRAL_FAULT, report["meta"]["run"], draw, setup.placement)
        return kept_report(request=request, **given)

    ask.usual = usual  # type: ignore[attr-defined]
    ask.report = made_of  # type: ignore[attr-defined]
    return ask


def usual(kept: Kept) -> dict[str, Any]:
    values: dict[str, Any] = kept.usual  # type: ignore[attr-defined]
    return values


def test_a_report_made_from_the_same_inputs_is_kept(kept: Kept) -> None:
    report = json.loads(usual(kept)["path"].read_bytes())

    assert kept()
    assert kept(subject_sha256=report["subject"]["digest"])


@pytest.mark.parametrize(
    "change",
    [
        lambda setup: replace(setup, revision="1" * 40),
        lambda setup: replace(setup, model_id="another/model"),
        lambda setup: replace(setup, context={**setup.context, "tier": "conservative"}),
        lambda setup: replace(setup, context={**setup.context, "execution_mode": "container"}),
        lambda setup: replace(setup, placement=Placement("cuda")),
        lambda setup: replace(setup, plan=replace(setup.plan, seed=setup.plan.seed + 1)),
        lambda setup: replace(setup, plan=replace(setup.plan, seq_len=setup.plan.seq_len + 1)),
        lambda setup: replace(setup, plan=replace(setup.plan, preview=setup.plan.preview + 1)),
        lambda setup: replace(setup, plan=replace(setup.plan, final=setup.plan.final - 1)),
        lambda setup: replace(setup, text=replace(setup.text, provider="file")),
        lambda setup: replace(setup, text=replace(setup.text, sha256=OTHER)),
        lambda setup: replace(setup, overrides={"primary_metric.ratio_limit": 1.5}),
        lambda setup: replace(setup, preset=None),
        lambda setup: replace(setup, preset=replace(setup.preset, sha256=OTHER)),
        lambda setup: replace(setup, guards=setup.guards[:2]),
        lambda setup: replace(setup, store_tokens=True),
    ],
    ids=[
        "revision", "model", "tier", "host", "device", "seed", "seq_len", "preview", "final", "provider",
        "text", "overrides", "no preset", "another preset", "guards", "tokens",
    ],
)  # fmt: skip
def test_a_report_made_with_another_setup_is_made_again(change: Callable[[Setup], Setup], kept: Kept) -> None:
    assert not kept(setup=change(usual(kept)["setup"]))


@pytest.mark.parametrize(
    "changed",
    [{"spec": "noop"}, {"baseline_sha256": OTHER}, {"subject_sha256": OTHER}, {"repeats": 2}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_report_of_another_subject_or_baseline_or_without_repeats_is_made_again(
    changed: dict[str, Any], kept: Kept
) -> None:
    assert not kept(**changed)


@pytest.mark.parametrize(("repeats", "holds"), [(0, True), (2, True), (1, False), (3, False)])
def test_a_report_with_two_repeats_is_kept_where_two_or_none_are_wanted(repeats: int, holds: bool, kept: Kept) -> None:
    path = usual(kept)["path"]
    report = json.loads(path.read_bytes())
    path.with_name(REPEATS).write_bytes(dump_json(repeats_document(report, [report, report])))

    assert kept(repeats=repeats) is holds


@pytest.mark.parametrize(
    ("spec", "generation", "records", "holds"),
    [
        # whether it equals its baseline was measured: its spec was not known when the run was planned
        (CUSTOM, {}, b"", True),
        ("quant_rtn:8:32:ffn", {"edit": SubjectEdit("quant_rtn", "inferred")}, b"", True),
        (CUSTOM, {"edit": SubjectEdit("quant_rtn", "given")}, b"", False),
        (CUSTOM, {"expected": ("vocabulary",)}, b"", False),
        (CUSTOM, {"signatures": {"subject": {"method": "key"}}}, b"", False),
        (CUSTOM, {"signatures": {"baseline": {"method": "key"}}}, b"", False),
        (CUSTOM, {}, b"{}", False),
        (CUSTOM, None, b"", False),
    ],
    ids=["the same", "another spec", "label", "expected", "subject's signature", "baseline's signature", "records",
         "not a user's"],
)  # fmt: skip
def test_a_users_copy_of_the_baseline_is_kept_while_what_is_known_of_it_is_the_same(
    spec: str, generation: dict[str, Any] | None, records: bytes, holds: bool, left: Path, kept: Kept, tmp_path: Path
) -> None:
    path = left / "reports" / CONTROL / "run_1" / "evaluation.report.json"
    scenario = next(row for row in read_scenarios(SUITES / "scenarios.json") if row.id == CONTROL)
    (tmp_path / "subject").mkdir()
    if records:
        (tmp_path / "subject" / RECORDS_NAME).write_bytes(records)
    if generation is not None:
        own = UserSubjectGeneration(tmp_path / "subject", **{"edit": SubjectEdit(), **generation})
        scenario = replace(scenario, generation=own)

    found = kept.report(path=path, spec=spec, case=replace(usual(kept)["case"], scenario=scenario))  # type: ignore[attr-defined]

    assert (found is not None) is holds


@pytest.mark.parametrize("where", ["params", "params_by_model"])
def test_a_fault_with_other_parameters_is_made_again(where: str, kept: Kept) -> None:
    case = usual(kept)["case"]
    document = copy.deepcopy(dict(case.scenario.document))
    other = {"factor": 1.9}
    document["generation"][where] = (
        {**document["generation"].get("params", {}), **other} if where == "params" else {case.model.id: other}
    )

    assert not kept(case=replace(case, scenario=replace(case.scenario, document=document)))


def test_parameters_of_another_model_change_nothing(kept: Kept) -> None:
    case = usual(kept)["case"]
    document = copy.deepcopy(dict(case.scenario.document))
    document["generation"]["params_by_model"] = {"another/model": {"factor": 1.9}}

    assert kept(case=replace(case, scenario=replace(case.scenario, document=document)))


def test_another_run_of_the_same_case_is_made_again(kept: Kept) -> None:
    case = usual(kept)["case"]

    assert not kept(case=replace(case, run=case.run + 1))


def test_a_report_that_its_baseline_did_not_measure_is_made_again(kept: Kept) -> None:
    baseline = copy.deepcopy(usual(kept)["baseline"])
    baseline["draws"][0]["final"]["logloss"][0] += 0.5

    # the digest matches the report's baseline, so only a comparison of the content detects the change
    assert not kept(baseline=baseline)


@pytest.mark.parametrize("name", ["runtime.manifest.json", "edit_metadata.json", "evaluate_timing.json"])
def test_a_report_without_an_accompanying_file_is_made_again(name: str, kept: Kept) -> None:
    usual(kept)["path"].with_name(name).unlink()

    assert not kept()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("runtime.manifest.json", lambda d: d["report"].update(sha256="0" * 64)),
        ("runtime.manifest.json", lambda d: d.pop("report")),
        ("edit_metadata.json", lambda d: d.pop("edit_type")),
        ("evaluate_timing.json", lambda d: d.update(score_seconds=0.125)),
        ("evaluation.report.json", lambda d: d["primary_metric"].update(degraded=True)),
    ],
)
def test_a_report_whose_files_contradict_it_is_made_again(
    name: str, change: Callable[[Any], object], kept: Kept
) -> None:
    edit_json(usual(kept)["path"].with_name(name), change)

    assert not kept()


def test_a_report_composed_anew_needs_a_runtime_manifest_that_binds_it(kept: Kept) -> None:
    path = usual(kept)["path"]
    raw = strip(json.loads(path.read_bytes()))
    raw["scoring"]["batch_size"] = 1
    data = dump_json(compose(raw))
    path.write_bytes(data)

    sidecar = path.with_name("runtime.manifest.json")
    edit_json(sidecar, lambda document: document["report"].update(sha256=hashlib.sha256(data).hexdigest()))
    assert kept()
    path.write_bytes(data + b"\n")
    assert not kept()


def test_a_missing_report_or_baseline_is_not_kept(tmp_path: Path, kept: Kept) -> None:
    assert kept()
    usual(kept)["path"].unlink()
    assert kept.report() is None  # type: ignore[attr-defined]
    assert kept_baseline(tmp_path / "none", usual(kept)["setup"], tmp_path, probe=False) is None


def test_a_baseline_is_kept_by_a_run_like_its_own_and_by_no_other(left: Path, kept: Kept, tokens: Path) -> None:
    path = left / "baseline" / "evaluation.report.json"
    data, setup = path.read_bytes(), usual(kept)["setup"]
    others = (
        replace(setup, revision="1" * 40),
        replace(setup, context={**setup.context, "profile": "release"}),
        replace(setup, plan=replace(setup.plan, seed=setup.plan.seed + 1)),
        replace(setup, plan=replace(setup.plan, final=setup.plan.final + 1)),
        replace(setup, text=replace(setup.text, sha256=OTHER)),
    )

    assert kept_baseline(path, setup, tokens, probe=True) == json.loads(data)
    # without the file of its most probable tokens, no subject can be compared with the baseline
    assert kept_baseline(path, setup, left, probe=True) is None
    path.write_bytes(data)
    assert kept_baseline(path, replace(setup, plan=replace(setup.plan, top_k=7)), tokens, probe=True) is None
    for other in others:
        path.write_bytes(data)
        assert kept_baseline(path, other, tokens, probe=True) is None
        assert not path.exists()
        assert path.with_name(f"{path.name}.stale").read_bytes() == data


def test_a_baseline_that_does_not_follow_from_itself_or_lacks_a_probe_is_measured_again(
    left: Path, kept: Kept, tokens: Path
) -> None:
    path, setup = left / "baseline" / "evaluation.report.json", usual(kept)["setup"]
    data = path.read_bytes()
    document = json.loads(data)
    assert all("probe" in draw for draw in document["draws"])
    without = copy.deepcopy(document)
    for draw in without["draws"]:
        del draw["probe"]
    forged = {**document, "run_id": "0" * 16}
    malformed = {key: value for key, value in document.items() if key != "draws"}

    for other, probe, holds in (
        (without, False, True), (without, True, False), (forged, True, False), (malformed, True, False)
    ):  # fmt: skip
        path.write_bytes(dump_json(other))
        assert (kept_baseline(path, setup, tokens, probe=probe) is not None) is holds
    path.write_bytes(data[:-20])
    assert kept_baseline(path, setup, tokens, probe=False) is None


@pytest.mark.parametrize("guard", ["spectral", "rmt", "variance"])
def test_a_baseline_that_was_measured_in_another_way_is_measured_again(
    guard: str, left: Path, kept: Kept, tokens: Path
) -> None:
    path, setup = left / "baseline" / "evaluation.report.json", usual(kept)["setup"]
    document = json.loads(path.read_bytes())
    document[guard]["measurement_contract"]["seed"] = 1
    # self-consistent, like a report of an earlier version
    wanted = contract_hash(document[guard]["measurement_contract"])
    for block in (
        document[guard].get("raw"),
        *(part.get(guard) for draw in document["draws"] for part in (draw, draw["probe"])),
    ):
        if block is not None:
            block["measurement_contract_hash"] = wanted
    document["run_id"] = baseline_run_id(document)
    assert not verify_baseline(document)
    path.write_bytes(dump_json(document))

    assert kept_baseline(path, setup, tokens, probe=True) is None
    assert path.with_name(f"{path.name}.stale").is_file()


def test_a_null_run_is_kept_by_a_run_like_its_own_and_by_no_other(swept_run: Any, left: Path, tmp_path: Path) -> None:
    source = swept_run.directory / "presets" / FOLDER / "null_run_1.json"
    document, path = json.loads(source.read_bytes()), tmp_path / source.name
    report = json.loads((left / "reports" / "errors" / SPECTRAL_FAULT / "evaluation.report.json").read_bytes())
    setup, run = make_setup(report), document["run"]
    known: Any = SimpleNamespace(**document["baseline"], prefix_token_ids=document["dataset"]["prefix_token_ids"])
    other: Any = SimpleNamespace(**{**vars(known), "digest": OTHER})
    assert kept_null_run(path, setup, run, known) is None

    def is_kept(data: bytes, setup: Setup, run: int, baseline: Any) -> bool:
        path.write_bytes(data)
        found = kept_null_run(path, setup, run, baseline)
        assert (found is None) == (not path.is_file()) == path.with_name(f"{path.name}.stale").is_file()
        return found is not None

    data = source.read_bytes()
    assert is_kept(data, setup, run, known)
    for wrong in (b"{}", b"[", dump_json({**document, "run": run + 1})):
        assert not is_kept(wrong, setup, run, known)
        path.with_name(f"{path.name}.stale").unlink()
    assert not is_kept(data, setup, run + 1, known)
    path.with_name(f"{path.name}.stale").unlink()
    assert not is_kept(data, setup, run, other)
    path.with_name(f"{path.name}.stale").unlink()
    assert not is_kept(data, replace(setup, revision="1" * 40), run, known)


def test_a_preset_cache_gives_a_null_run_to_a_run_like_its_own_and_to_no_other(
    swept_run: Any, left: Path, tmp_path: Path
) -> None:
    source = swept_run.directory / "presets" / FOLDER / "null_run_1.json"
    document = json.loads(source.read_bytes())
    setup = make_setup(json.loads((left / "reports/errors" / SPECTRAL_FAULT / "evaluation.report.json").read_bytes()))
    known: Any = SimpleNamespace(**document["baseline"], prefix_token_ids=document["dataset"]["prefix_token_ids"])
    cache, path = PresetCache(tmp_path / "cache"), tmp_path / "null_run_1.json"
    assert not cache.fetch(path, setup, 1, known)
    cache.add(source, setup, 1, known)

    def others() -> Iterator[tuple[Setup, int, Any]]:
        yield setup, 2, known
        yield setup, 1, SimpleNamespace(**{**vars(known), "digest": OTHER})
        yield setup, 1, SimpleNamespace(**{**vars(known), "tokenizer_sha256": OTHER})
        yield replace(setup, text=replace(setup.text, sha256=OTHER)), 1, known
        yield replace(setup, placement=replace(setup.placement, attention="sdpa")), 1, known
        yield replace(setup, placement=replace(setup.placement, scoring="native")), 1, known
        other_plan: Any = replace
        for name in ("seq_len", "preview", "final", "seed", "top_k"):
            yield replace(setup, plan=other_plan(setup.plan, **{name: 9})), 1, known
        for name, value in (("tier", "conservative"), ("profile", "ci"), ("determinism", "strict")):
            assert setup.context[name] != value
            yield replace(setup, context={**setup.context, name: value}), 1, known

    for one in others():
        assert not cache.fetch(path, *one), one
        assert not path.exists()
    # not what changes no measurement
    same = replace(setup, context={**setup.context, "suite": "another"}, store_tokens=True)
    assert cache.fetch(path, same, 1, known)
    assert path.read_bytes() == source.read_bytes()


def test_a_null_run_that_the_cache_cannot_take_is_not_lost(swept_run: Any, left: Path, tmp_path: Path) -> None:
    source = swept_run.directory / "presets" / FOLDER / "null_run_1.json"
    document = json.loads(source.read_bytes())
    setup = make_setup(json.loads((left / "reports/errors" / SPECTRAL_FAULT / "evaluation.report.json").read_bytes()))
    known: Any = SimpleNamespace(**document["baseline"], prefix_token_ids=document["dataset"]["prefix_token_ids"])
    (tmp_path / "file").write_text("")

    PresetCache(tmp_path / "file").add(source, setup, 1, known)

    assert source.is_file()
    assert not PresetCache(tmp_path / "file").fetch(tmp_path / "null_run_1.json", setup, 1, known)
