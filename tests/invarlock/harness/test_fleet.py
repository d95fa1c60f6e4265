"""A fleet without a cluster: pieces and their order, archives, what nodes must share, and what a node receives."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from fleet_simulation import MIXED, PIECE_SECONDS, OtherTimes, simulate_fleet, static_makespan
from hypothesis import given, settings
from hypothesis import strategies as st
from invarlock.packer.runs.run_directory import RunDirectory

from invarlock.catalog.cases import Case, plan_cases
from invarlock.catalog.costs import Costs
from invarlock.catalog.models import read_models
from invarlock.catalog.scenarios import read_scenarios
from invarlock.digests import sha256_hex
from invarlock.errors import IntegrityError, InvarLockError, UsageError
from invarlock.evaluation.kept_tokens import kept_folder
from invarlock.harness.fleet.agreement import disagreement, node_facts
from invarlock.harness.fleet.archives import Archive, pack_files, unpack
from invarlock.harness.fleet.command_line import node_variables
from invarlock.harness.fleet.joining import join_part
from invarlock.harness.fleet.node import WorkOrder, run_piece
from invarlock.harness.fleet.pieces import Piece, PieceQueue
from invarlock.harness.planning.piece_file import PieceFile
from invarlock.harness.state.nodes import FleetState, fleet_environment
from invarlock.problems import Code
from invarlock.runtime.determinism import determinism_switches
from invarlock.runtime.graphics import graphics
from invarlock.runtime.provenance import environment
from invarlock.settings import public_settings, resolve_settings

SUITES = Path(__file__).parents[3] / "suites"
CASES = plan_cases(read_models(SUITES / "models.toml"), read_scenarios(SUITES / "scenarios.json"))
SMOKE = [case for case in CASES if "smoke" in case.suites]
FULL = [case for case in CASES if "full" in case.suites]


def drain(queue: PieceQueue, seconds: float) -> list[Piece]:
    """Take and finish the pieces of a queue one at a time, and return them in that order."""
    taken = []
    while queue.left:
        piece = queue.take(seconds)
        assert piece is not None
        taken.append(piece)
        queue.finished(piece, piece.seconds, baseline=True)
    return taken


@given(st.floats(1.0, 1e6), st.integers(1, len(FULL)))
@settings(max_examples=30)
def test_pieces_have_every_case_once_and_are_as_long_as_wanted(seconds: float, count: int) -> None:
    cases = FULL[:count]

    pieces = drain(PieceQueue(cases, Costs()), seconds)

    assert sorted(case.id for piece in pieces for case in piece.cases) == sorted(case.id for case in cases)
    assert len({piece.number for piece in pieces}) == len(pieces)
    for piece in pieces:
        assert {case.model for case in piece.cases} <= {piece.model}
        assert len(piece.cases) <= 1 or piece.seconds <= seconds
        assert (piece.opens is None) == bool(piece.cases)


def test_a_model_has_one_piece_until_its_baseline_is_measured() -> None:
    queue = PieceQueue(FULL, Costs())
    models = {case.model.id for case in FULL}

    opening = [piece for _ in models if (piece := queue.take(600.0)) is not None]

    assert {piece.model.id for piece in opening} == models
    assert queue.take(600.0) is None
    assert queue.waits_for_baselines
    assert [piece.cases for piece in opening] == [()] * len(models)
    assert {piece.opens.model for piece in opening if piece.opens} == {piece.model for piece in opening}
    queue.finished(opening[0], 10.0, baseline=True)
    assert queue.take(600.0, models - {opening[0].model.id}) is None
    following = queue.take(600.0)
    assert following is not None
    assert following.model == opening[0].model


def test_a_model_whose_cases_are_short_is_one_piece() -> None:
    cases = [case for case in FULL if case.model == FULL[0].model]

    (piece,) = drain(PieceQueue(cases, Costs()), 1e6)

    assert {case.id for case in piece.cases} == {case.id for case in cases}


def test_without_a_baseline_the_next_pieces_of_the_model_try_alone_with_a_case() -> None:
    cases = [case for case in FULL if case.model == FULL[0].model]
    queue = PieceQueue(cases, Costs())
    first = queue.take(1.0)
    assert first is not None

    queue.finished(first, 10.0, baseline=False)

    second = queue.take(1.0)
    assert second is not None
    shortest = min(Costs().case_seconds(case) for case in cases)
    assert [Costs().case_seconds(case) for case in second.cases] == [shortest]
    assert queue.take(1.0) is None
    queue.finished(second, 10.0, baseline=False)
    third = queue.take(1.0)
    assert third is not None
    assert len(third.cases) == 1


def test_the_longest_case_comes_first_and_measured_times_correct_the_estimates() -> None:
    small, large = (sorted({case.model for case in FULL}, key=lambda one: one.weight_bytes)[at] for at in (0, -1))
    cases = [case for case in FULL if case.model in (small, large)]
    measured = {small.id, large.id}

    estimated = drain(PieceQueue(cases, Costs(), measured), 1.0)
    assert estimated[0].model == large
    seconds = [piece.seconds for piece in estimated]
    assert seconds == sorted(seconds, reverse=True)
    # estimates are updated for each model: after these measured times, the small model is the slow one
    queue = PieceQueue(cases, Costs(), measured)
    for model, seconds_taken in ((large, 1e-3), (small, 1e6)):
        queue.finished(Piece(0, model, (), 1.0), seconds_taken, baseline=True)
    following = queue.take(1.0)
    assert following is not None
    assert following.model == small


def test_the_time_of_a_baseline_is_not_taken_for_that_of_cases() -> None:
    queue = PieceQueue(FULL, Costs())
    before = queue.work()
    first = queue.take(600.0)
    assert first is not None

    queue.finished(first, 1e9, baseline=True)

    assert queue.work() == before


def test_lost_cases_come_back_each_as_a_piece_of_its_own() -> None:
    queue = PieceQueue(SMOKE, Costs(), {SMOKE[0].model.id})
    piece = queue.take(100.0, [SMOKE[0].model.id])
    assert piece is not None

    queue.finished(piece, 1.0, baseline=True)
    queue.again(piece.cases)

    again = [one for one in drain(queue, 1e6) if {case.id for case in one.cases} & {case.id for case in piece.cases}]
    assert len(piece.cases) > 1
    assert [len(one.cases) for one in again] == [1] * len(piece.cases)


def test_a_model_gets_the_nodes_that_suit_it_best_and_then_what_is_left_of_the_others() -> None:
    found = simulate_fleet([(4, 141), (6, 80)])

    placed = {(piece.model.id, gigabytes) for piece, gigabytes in found.placed}
    opened = {piece.model.id: gigabytes for piece, gigabytes in found.placed if not piece.cases}
    large = max((case.model for case in FULL), key=lambda model: model.weight_bytes)
    assert opened.pop(large.id) == 141
    assert set(opened.values()) == {80}
    assert {(large.id, 141), (large.id, 80)} <= placed


@pytest.mark.parametrize("gpus", [4, 8, 16, 64])
def test_the_full_suite_on_mixed_gpus_takes_at_most_15_percent_longer_than_its_work_allows(gpus: int) -> None:
    found = simulate_fleet(MIXED[gpus])

    assert found.bound <= found.makespan <= 1.15 * found.bound
    assert found.makespan < 0.9 * static_makespan(MIXED[gpus])


@pytest.mark.parametrize("gpus", [8, 16])
def test_cases_that_take_another_time_than_estimated_cost_little(gpus: int) -> None:
    found = simulate_fleet(MIXED[gpus], costs=OtherTimes(seed=1))

    assert found.bound <= found.makespan <= 1.2 * found.bound


def test_a_queue_that_takes_all_pieces_at_once_gets_all_of_full_length() -> None:
    found = simulate_fleet([(4, 80)], queue=True)

    cut = [piece for piece, _ in found.placed if len(piece.cases) > 1]
    lengths = sorted(piece.seconds for piece in cut)
    assert lengths[len(lengths) // 2] > 0.6 * PIECE_SECONDS


def test_an_archive_brings_files_to_another_folder(tmp_path: Path) -> None:
    (tmp_path / "from/a").mkdir(parents=True)
    (tmp_path / "from/a/b.json").write_text("{}")

    names = unpack(pack_files(tmp_path / "from", [tmp_path / "from/a/b.json"]), tmp_path / "to")

    assert names == ["a/b.json"]
    assert (tmp_path / "to/a/b.json").read_text() == "{}"


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    archive = pack_files(tmp_path, [tmp_path / "a.json"])

    with pytest.raises(IntegrityError) as found:
        unpack(Archive(archive.data.replace(b"{}", b"[]"), archive.sha256), tmp_path / "to")

    assert found.value.code == Code.ARCHIVE_DAMAGED
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("name", ["../outside.json", "/tmp/outside.json", "a/../../outside.json"])
def test_an_archive_writes_only_below_its_folder(name: str, tmp_path: Path) -> None:
    check_refused(tarfile.TarInfo(name), tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_an_archive_has_only_regular_files(kind: bytes, tmp_path: Path) -> None:
    member = tarfile.TarInfo("a.json")
    member.type, member.linkname = kind, "b.json"
    check_refused(member, tmp_path)


def check_refused(member: tarfile.TarInfo, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as files:
        files.addfile(member, io.BytesIO())
    with pytest.raises(IntegrityError) as found:
        unpack(Archive(buffer.getvalue(), sha256_hex(buffer.getvalue())), tmp_path / "to")

    assert found.value.code == Code.NOT_A_REGULAR_FILE
    assert not list(tmp_path.rglob("outside.json"))


def test_nodes_with_equal_versions_agree_and_another_library_is_named() -> None:
    ours, theirs = (node_facts(SUITES, "strict", gpus=False).agreed() for _ in range(2))

    assert disagreement(ours, theirs) is None
    theirs["versions"]["libraries"]["torch"] = "0.1"
    assert "versions: libraries.torch '0.1', not" in (disagreement(ours, theirs) or "")


def test_a_node_that_differs_refuses_a_piece_before_it_runs_anything(tmp_path: Path) -> None:
    agreed = node_facts(SUITES, "strict", gpus=False).agreed()
    agreed["versions"]["libraries"]["torch"] = "0.1"
    order = WorkOrder(1, ("--no-such-option",), str(tmp_path), {}, str(SUITES), "strict", PieceFile((), ()), agreed)

    part = run_piece(order)

    assert part.archive is None
    assert "libraries.torch" in (part.refusal or "")


@pytest.mark.slow
def test_a_node_on_which_a_run_cannot_begin_says_all_that_is_wrong(tmp_path: Path) -> None:
    agreed = node_facts(SUITES, "strict", gpus=False).agreed()
    given = ("-p", "invarlock.harness.plugin", "-p", "no:cacheprovider", str(SUITES), "--tier", "low", "--intent", "no")
    order = WorkOrder(1, given, str(tmp_path), {}, str(SUITES), "strict", PieceFile((), ()), agreed)

    part = run_piece(order)

    assert part.code == Code.SETTING_INVALID
    assert part.refusal is not None
    assert "--intent" in part.refusal
    assert "--tier" in part.refusal
    assert "[setting_invalid]" not in part.refusal


def test_a_node_gets_the_settings_and_not_the_secrets_of_the_controller() -> None:
    variables = {
        "PACK_SIGNING_KEY": "key.pem",
        "PACK_DIR": "pack",
        "PACK_FLEET": "ray",
        "CUDA_VISIBLE_DEVICES": "7",
        "HF_HUB_CACHE": "/cache",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "INVARLOCK_TIER": "conservative",
        "INVARLOCK_FINAL_WINDOWS": "16",
    }

    assert node_variables(variables) == {"INVARLOCK_TIER": "conservative", "INVARLOCK_FINAL_WINDOWS": "16"}


def test_a_manifest_has_no_address_of_a_cluster() -> None:
    settings = resolve_settings({"fleet": "ray://head.example:10001"}, {})

    assert public_settings(settings.document())["fleet"]["value"] == "ray"
    assert public_settings(resolve_settings({}, {}).document())["fleet"]["value"] is None


@pytest.mark.parametrize("given", ["SLURM", "ray://", "ray://head", "ray://user:pass@head:1", "http://head:1", "RAY"])
def test_an_unknown_fleet_is_refused(given: str) -> None:
    with pytest.raises(UsageError) as found:
        resolve_settings({"fleet": given}, {})

    assert found.value.code == Code.SETTING_INVALID


def test_parameters_of_slurm_are_names_with_values() -> None:
    settings = resolve_settings({"slurm": ["partition=gpu", "timeout_min=30"]}, {})

    assert settings.slurm == (("partition", "gpu"), ("timeout_min", "30"))
    for wrong in ("partition", "partition=", "=gpu", "Partition=gpu", "par tition=gpu"):
        with pytest.raises(UsageError):
            resolve_settings({"slurm": [wrong]}, {})


@pytest.mark.parametrize(
    "other",
    [
        {"shard": "1/2"},
        {"keep_models": True},
        {"suite_mode": "calibrate-only"},
        {"release_review": True},
        {"execution_mode": "container"},
    ],
)
def test_options_that_a_fleet_does_not_support_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--fleet and"):
        resolve_settings({"fleet": "ray", **other}, {})


def test_nodes_are_numbered_in_the_order_of_their_first_part_and_have_no_names(tmp_path: Path) -> None:
    found = environment(determinism_switches("strict"), graphics(()))
    gpu = {"name": "H200", "memory_bytes": 150_000_000_000}
    directory, graphics_card = RunDirectory(tmp_path), {"driver": "1", "driver_cuda": "12.4", "gpus": [gpu]}

    state = FleetState({}).with_part("b" * 56, found, ["one", "two"])
    state = state.with_part("a" * 56, {**found, "graphics": graphics_card}, ["three"])
    state = state.with_part("b" * 56, found, ["two", "four"])
    state.write(directory)

    assert [state.number(node * 56) for node in "ba"] == [1, 2]
    whole = fleet_environment(directory)
    assert whole is not None
    assert [(node["number"], node["cases"], len(node["graphics"]["gpus"])) for node in whole["nodes"]] == [
        (1, 3, 0),
        (2, 1, 1),
    ]
    assert whole["graphics"]["gpus"] == [gpu]
    assert "a" * 56 not in json.dumps(whole)
    assert FleetState.read(directory) == state


def part_of(folder: Path, files: dict[str, str]) -> Archive:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return pack_files(folder, [folder / name for name in files])


def begin(directory: Path) -> RunDirectory:
    part_of(directory, {"state/settings.json": '{"tier": {"value": "balanced"}}', "state/tuned_edit_params.json": "{}"})
    return RunDirectory(directory)


def outcome(case: Case, when: str) -> str:
    return json.dumps({"nodeid": f"suites/test_scenarios.py::test_scenario[{case.id}]", "when": when}) + "\n"


def test_a_case_that_failed_without_a_report_is_finished_and_one_that_did_not_end_is_not(tmp_path: Path) -> None:
    directory, (one, two, *_) = begin(tmp_path / "run"), SMOKE
    lines = outcome(one, "call") + outcome(one, "teardown") + outcome(two, "setup") + '{"nodeid": "su'

    finished, _ = join_part(
        directory, part_of(tmp_path / "part", {"state/outcomes.jsonl": lines}), one.model, [one, two]
    )

    assert list(finished) == [one.id]
    assert [path.name for path in directory.outcomes.iterdir()] == [f"{one.id}.json"]
    assert not (directory.state / "part").exists()


def test_a_report_that_does_not_verify_is_not_joined(tmp_path: Path) -> None:
    directory, case = begin(tmp_path / "run"), SMOKE[0]
    report = str(RunDirectory(Path()).report(case))
    files = {"state/outcomes.jsonl": outcome(case, "teardown"), report: "{}"}
    baseline = str(RunDirectory(Path()).baseline_report(case.model))

    finished, _ = join_part(directory, part_of(tmp_path / "part", {**files, baseline: "{}"}), case.model, [case])

    assert finished == {}
    assert not directory.report(case).exists()


def other_settings(directory: RunDirectory, case: Case) -> dict[str, str]:
    return {"state/settings.json": '{"tier": {"value": "conservative"}}'}


def another_baseline(directory: RunDirectory, case: Case) -> dict[str, str]:
    baseline = str(RunDirectory(Path()).baseline_report(case.model))
    part_of(directory.path, {baseline: "{}"})
    return {baseline: "[]"}


@pytest.mark.parametrize("make", [other_settings, another_baseline])
def test_a_part_with_other_settings_or_another_baseline_is_refused(make: Any, tmp_path: Path) -> None:
    directory, case = begin(tmp_path / "run"), SMOKE[0]
    archive = part_of(tmp_path / "part", make(directory, case))

    with pytest.raises(UsageError) as found:
        join_part(directory, archive, case.model, [case])

    assert found.value.code == Code.NODE_DIFFERS


def test_the_kept_tokens_of_a_baseline_are_where_evaluation_looks_for_them() -> None:
    model, directory = SMOKE[0].model, RunDirectory(Path("run"))

    assert directory.kept_tokens(model) == kept_folder(directory.baseline_snapshot(model))


def test_the_file_of_a_piece_is_read_as_written_and_nothing_else_is(tmp_path: Path) -> None:
    piece = PieceFile(("a",), ("a", "b"), baseline_only=True)
    piece.write(tmp_path / "piece.json")

    assert PieceFile.read(tmp_path / "piece.json") == piece
    (tmp_path / "other.json").write_text('{"cases": ["a"]}')
    with pytest.raises(InvarLockError):
        PieceFile.read(tmp_path / "other.json")
