"""Raw measurements that contradict each other: one value of an honest report is changed, or two that must agree."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from packs import REPORT, STRESS

from invarlock.problems import Code
from invarlock.reports.consistency import SAME_MODEL_NATS, consistency_problems

Change = Callable[[Any], object]
OTHER = f"sha256:{'0' * 64}"
SUBJECT, BASELINE = "invariants.raw.subject", "invariants.raw.baseline"


def load(real_run: Any, path: str) -> Any:
    return json.loads((real_run.pack / path).read_bytes())


def fields(report: Any) -> list[str]:
    problems = list(consistency_problems(report))
    assert {problem.code for problem in problems} <= {Code.RAW_MEASUREMENTS_CONTRADICT}
    return [problem.field for problem in problems]


@pytest.mark.parametrize("path", [REPORT, STRESS])
def test_an_honest_report_does_not_contradict_itself(path: str, real_run: Any) -> None:
    assert fields(load(real_run, path)) == []


def set_losses(losses: Callable[[list[float]], list[float]]) -> Change:
    def change(report: Any) -> None:
        for part in report["evaluation_windows"].values():
            part["logloss"] = losses(part["baseline_logloss"])

    return change


def storage(side: str, **values: Any) -> Change:
    return lambda report: report["invariants"]["raw"][side]["storage"].update(values)


def no_time(report: Any) -> None:
    report["telemetry"].update({name: 0.0 for name in report["telemetry"] if name.endswith("_seconds")})


def another_tensor(report: Any) -> None:
    next(iter(report["invariants"]["raw"]["subject"]["tensors"].values())).update(digest=OTHER[-16:])


def one_slower(losses: list[float]) -> list[float]:
    return [losses[0] + 2 * SAME_MODEL_NATS, *losses[1:]]


@pytest.mark.parametrize(
    ("path", "change", "field"),
    [
        (REPORT, lambda report: report["subject"].update(digest=OTHER), "subject.digest"),
        (REPORT, lambda report: report["edit"].update(name="nan_injection"), "subject.digest"),
        (REPORT, another_tensor, "invariants.raw.subject.tensors"),
        (REPORT, set_losses(one_slower), "evaluation_windows"),
        (REPORT, no_time, "telemetry"),
        (STRESS, set_losses(list), "evaluation_windows"),
        (REPORT, storage("subject", weights=1), f"{SUBJECT}.storage.weights"),
        (REPORT, storage("baseline", weights=1), f"{BASELINE}.storage.weights"),
        (REPORT, storage("subject", bits_per_weight=4.0), f"{SUBJECT}.storage.bits_per_weight"),
        (REPORT, storage("subject", packed_weights=1), f"{SUBJECT}.storage.quantisation"),
        (REPORT, storage("subject", packed_bytes=1), f"{SUBJECT}.storage.quantisation"),
        (REPORT, storage("subject", packed_weights=10**12), f"{SUBJECT}.storage"),
        (REPORT, storage("subject", packed_bytes=10**12), f"{SUBJECT}.storage"),
        (REPORT, storage("subject", format="awq"), f"{SUBJECT}.storage.format"),
        (REPORT, storage("subject", quantisation={}), f"{SUBJECT}.storage.format"),
        (REPORT, storage("baseline", quantisation={}), f"{BASELINE}.storage"),
        (REPORT, lambda report: report["scoring"]["scored_as"].update(subject="unpacked"), "scoring.scored_as.subject"),
    ],
)
def test_a_contradiction_is_named(path: str, change: Change, field: str, real_run: Any) -> None:
    report = load(real_run, path)

    change(report)

    assert field in fields(report)


@pytest.mark.parametrize(("bits", "contradicts"), [(8.0 * 640, False), (4.0 * 640, True)])
def test_the_bits_of_a_weight_of_a_checkpoint_without_weights_are_those_of_all_it_stores(
    bits: float, contradicts: bool, real_run: Any
) -> None:
    report = load(real_run, STRESS)
    facts = report["invariants"]["raw"]["subject"]
    for tensor in facts["tensors"].values():
        tensor["dtype"] = "I8"

    facts["storage"] |= {"weights": 0, "stored_bytes": 640, "bits_per_weight": bits}

    assert (f"{SUBJECT}.storage.weights" in fields(report)) is False
    assert (f"{SUBJECT}.storage.bits_per_weight" in fields(report)) is contradicts


def test_the_same_model_may_round_otherwise_unless_the_run_is_strictly_deterministic(real_run: Any) -> None:
    report = load(real_run, REPORT)
    set_losses(lambda losses: [loss + SAME_MODEL_NATS / 2 for loss in losses])(report)
    # the divergences of the report are still those of equal losses
    assert fields(report) == ["fidelity.raw.subject.kl_max"]

    report["context"]["determinism"] = "strict"

    assert "evaluation_windows" in fields(report)


def test_one_window_that_did_not_change_is_no_contradiction(real_run: Any) -> None:
    report = load(real_run, STRESS)
    part = report["evaluation_windows"]["final"]
    part["logloss"][0] = part["baseline_logloss"][0]
    assert fields(report) == []


def test_a_change_too_small_to_measure_may_leave_the_losses_as_they_were(real_run: Any) -> None:
    report = load(real_run, STRESS)
    set_losses(list)(report)
    for change in report["spectral"]["raw"]["changes"].values():
        change["relative"] = 1e-6
    assert fields(report) == []

    next(iter(report["spectral"]["raw"]["changes"].values()))["relative"] = None

    assert fields(report) == []


@pytest.mark.parametrize("side", ["subject", "baseline"])
def test_head_and_embedding_are_tied_by_value_where_their_digests_are_the_same(side: str, real_run: Any) -> None:
    report = load(real_run, STRESS)
    facts = report["invariants"]["raw"][side]
    field = f"invariants.raw.{side}.tied_by_value"
    embedding, head = (facts["tensors"].get(facts[role]) for role in ("embedding", "head"))
    assert embedding is not None

    if head is None:
        facts["tensors"]["a.head"] = head = dict(embedding)
        facts["head"] = "a.head"
    facts["tied_by_value"] = True
    head.update(embedding)
    assert field not in fields(report)
    for change in ({"digest": OTHER}, {"shape": [*reversed(embedding["shape"])]}):
        head.update(embedding)
        head.update(change)
        assert field in fields(report)
        # bytes of another type may be the same values
        head["dtype"] = "F64"
        assert field not in fields(report)
