"""Resuming a run: valid results made from the same inputs are reused, and all others are made again.

A file that does not match is renamed to ``*.stale``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from invarlock.catalog.cases import Case
from invarlock.catalog.edit_labels import NOOP, is_planned
from invarlock.catalog.scenarios import UserSubjectGeneration
from invarlock.documents import JsonObject
from invarlock.documents.reports import BaselineReport, Report
from invarlock.errors import InvarLockError
from invarlock.evaluation.documents import contracts_of, measurement_contracts
from invarlock.evaluation.kept_tokens import check_kept, kept_file
from invarlock.evaluation.measurements import KnownBaseline
from invarlock.evaluation.null_runs import null_contracts
from invarlock.evaluation.request import EvaluationRequest, Setup
from invarlock.jsonio import check_schema, read_json
from invarlock.packer.runs.saved_reports import read_saved_report
from invarlock.reports.documents import NullRunDocument
from invarlock.reports.null_runs import NULL_SEED, null_run_problems
from invarlock.reports.verification import differences, verify_baseline
from invarlock.task_records.importing import find_task_records


def kept_baseline(path: Path, setup: Setup, kept: Path, *, probe: bool) -> BaselineReport | None:
    """Return the baseline report of an earlier run, or None if it is missing or does not match this run.

    Args:
        path: the path of the report.
        setup: the model's setup.
        kept: the folder of the model's most probable tokens, without which no subject can be compared.
        probe: whether some case needs a probe of the model.
    """
    if not path.is_file():
        return None
    try:
        document: JsonObject = read_json(path)
        check_schema(document, "baseline_report", where=path.name)
        wrong: list[object] = [*verify_baseline(document)]
        expected = {"meta": setup.meta(), "context": dict(setup.context)}
        prefix = document["invariants"]["raw"]["prefix_token_ids"]
        expected["dataset"] = setup.dataset(document["baseline"]["tokenizer_sha256"], prefix)
        wrong += differences({key: document[key] for key in expected}, expected)
        # an earlier version may have measured differently; its numbers must not be mixed with those of the subjects
        wrong += differences(contracts_of(cast("BaselineReport", document)), measurement_contracts())
        wrong += [
            f"draws of run {draw['run']}: different seeds, or no probe"
            for draw in document["draws"]
            if draw["seeds"] != setup.seeds(draw["run"]) or (probe and "probe" not in draw)
        ]
        for draw in document["draws"]:
            check_kept(kept_file(kept, draw["run"]), draw["fidelity"])
            wrong += differences(draw["fidelity"]["top_k"], min(setup.plan.top_k, draw["fidelity"]["vocabulary"]))
    except InvarLockError:
        wrong = ["malformed"]
    if wrong:
        set_aside(path)
        return None
    return cast("BaselineReport", document)


def kept_null_run(path: Path, setup: Setup, run: int, baseline: KnownBaseline) -> NullRunDocument | None:
    """Return a null run measured by an earlier run, or None if it is missing or does not match this run."""
    if not path.is_file():
        return None
    try:
        document: JsonObject = read_json(path)
        check_schema(document, "null_run", where=path.name)
        wrong: list[object] = [*null_run_problems(document)]
        expected = null_run_inputs(setup, run, baseline)
        wrong += differences({key: document[key] for key in expected}, expected)
    except (InvarLockError, KeyError, TypeError):
        wrong = ["malformed"]
    if wrong:
        set_aside(path)
        return None
    return cast("NullRunDocument", document)


def null_run_inputs(setup: Setup, run: int, baseline: KnownBaseline) -> dict[str, Any]:
    """Return the fields of a null run's document that say what it was measured from."""
    seed = setup.plan.window_seed(NULL_SEED + run)
    return {
        "run": run,
        "seeds": {"windows": seed, "changes": seed},
        "meta": setup.meta(),
        "baseline": {"digest": baseline.digest, "tokenizer_sha256": baseline.tokenizer_sha256},
        "dataset": setup.dataset(baseline.tokenizer_sha256, baseline.prefix_token_ids),
        "measurement_contracts": null_contracts(),
    }


def kept_report(
    case: Case,
    path: Path,
    request: EvaluationRequest,
    spec: str,
    repeats: int,
    subject_sha256: str | None = None,
) -> Report | None:
    """Return a case report made by an earlier run, or None if a file is missing or does not match this run.

    Args:
        case: the case.
        path: the path of the case's report.
        request: the evaluation that this run would perform for the case.
        spec: the edit or fault that makes the case's subject.
        repeats: the number of repeats requested.
        subject_sha256: the current digest of a user's subject.
    """
    if not path.is_file():
        return None
    saved = read_saved_report(path, case.scenario.document, request.baseline.document)
    report = saved.document
    try:
        wrong: list[object] = [*saved.problems] or [*_mismatches(case, report, request, spec)]
    except InvarLockError:
        # the task records next to the subject are unreadable; measuring again reports the reason
        wrong = ["of other records"]
    if not wrong and subject_sha256 not in (None, report["subject"]["digest"]):
        wrong.append("of another subject")
    if not wrong and repeats and (saved.repeats is None or len(saved.repeats["runs"]) != repeats):
        wrong.append("another number of repeats")
    if wrong:
        set_aside(path)
        return None
    return cast("Report", {**report, **saved.companions})


def set_aside(path: Path) -> None:
    """Rename a file that is not reused to ``*.stale``, replacing an older file with that name."""
    path.replace(path.with_name(f"{path.name}.stale"))


def _mismatches(case: Case, report: Mapping[str, Any], request: EvaluationRequest, spec: str) -> list[object]:
    """Return the fields in which a report's inputs differ from this run's."""
    setup = request.setup
    expected = {
        "meta": {**setup.meta(), "scenario": case.scenario.id, "run": case.run, "seeds": setup.seeds(case.run)},
        "context": dict(setup.context),
        "edit.spec": spec,
        "baseline_ref.report_sha256": request.baseline.report_sha256,
        "policy_provenance": setup.provenance(),
        "guards": list(setup.guards),
        "evaluation_windows.token_ids": setup.store_tokens,
    }
    # the prefix of windows comes from the baseline's report
    dataset = setup.dataset(report["baseline_ref"]["tokenizer_sha256"], report["dataset"]["prefix_token_ids"])
    windows = {key: value for key, value in report["dataset"]["windows"].items() if key != "stats"}
    found = {
        "meta": report["meta"],
        "context": report["context"],
        "edit.spec": report["edit"]["spec"],
        "baseline_ref.report_sha256": report["baseline_ref"]["report_sha256"],
        "policy_provenance": {
            key: value for key, value in report["policy_provenance"].items() if key != "policy_digest"
        },
        "guards": report["guards"],
        "evaluation_windows.token_ids": "token_ids" in report["evaluation_windows"]["final"],
    }
    generation = case.scenario.generation
    if isinstance(generation, UserSubjectGeneration):
        edit = generation.edit
        expected["task_records"], found["task_records"] = (
            find_task_records(generation.folder),
            report.get("task_records"),
        )
        expected["edit.label"] = True
        found["edit.label"] = is_planned(report["edit"], edit.label, edit.source)
        expected["edit.expected"], found["edit.expected"] = (
            list(generation.expected),
            report["edit"].get("expected", []),
        )
        for side, block in (("baseline", "baseline_ref"), ("subject", "subject")):
            name, signed = f"{block}.model_signature", generation.signatures.get(side)
            expected[name], found[name] = signed, report[block].get("model_signature")
        if report["edit"]["name"] == NOOP:
            del expected["edit.spec"], found["edit.spec"]
    return [
        *differences(found, expected),
        *differences({**report["dataset"], "windows": windows}, dataset, "dataset"),
        *_parameter_mismatches(case, report),
    ]


def _parameter_mismatches(case: Case, report: Mapping[str, Any]) -> list[str]:
    generation = case.scenario.document["generation"]
    if generation["kind"] != "error":
        return []
    wanted = {**generation.get("params", {}), **generation.get("params_by_model", {}).get(case.model.id, {})}
    used = report["edit"]["parameters"]
    return [f"edit.parameters.{key}: another" for key, value in wanted.items() if used.get(key) != value]
