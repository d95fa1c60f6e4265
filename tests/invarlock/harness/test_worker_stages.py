"""The stages of xdist workers, as their controller sees them."""

import queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from invarlock.harness.terminal.worker_stages import StagesOfWorkers, WorkerStage, chosen, read_events
from invarlock.jsonio import write_json
from invarlock.stages import StageEvent, announce, stage

BASELINE = StageEvent(("baseline a",), "", 0, 0)
NULL_RUN = StageEvent(("baseline a", "null run 2/2"), "weights", 41, 272)
CASE = StageEvent(("a noop_control",), "windows", 1, 64)


def test_the_worker_that_measures_is_shown_and_not_one_that_waits_for_it() -> None:
    assert chosen([]) is None
    assert chosen([(BASELINE, 1.0), (NULL_RUN, 2.0), (CASE, 3.0)]) == NULL_RUN
    assert chosen([(BASELINE, 3.0), (CASE, 2.0)]) == CASE


def test_a_workers_file_has_its_stage_while_its_test_runs(tmp_path: Path) -> None:
    now = [0.0]
    path = tmp_path / "stages" / "worker_1.json"
    worker = WorkerStage(path, lambda: now[0])

    seen: list[dict[str, StageEvent]] = []
    running = worker.pytest_runtest_protocol()
    next(running)
    with stage("baseline a"):
        announce("weights", 1, 3)  # ignored, because it follows too soon after the last stage that was written
        seen.append(dict(read_events(path.parent)))
        now[0] = 1.0
        announce("weights", 2, 3)
        seen.append(dict(read_events(path.parent)))
    running.close()

    first, second = StageEvent(("baseline a",)), StageEvent(("baseline a",), "weights", 2, 3)
    assert seen == [{"worker_1": first}, {"worker_1": second}]
    assert list(path.parent.iterdir()) == []


def test_the_controller_reads_all_files_when_its_queue_has_the_event(tmp_path: Path) -> None:
    shown: list[StageEvent] = []
    scheduler: Any = SimpleNamespace(queue=queue.Queue())
    stages = StagesOfWorkers(scheduler, tmp_path / "stages", shown.append)
    for name, event in (("worker_0", BASELINE), ("worker_1", NULL_RUN)):
        write_json(tmp_path / "stages" / f"{name}.json", vars(event))
    (tmp_path / "stages" / "worker_2.json").write_text('{"stages": 1')

    stages.start()
    name, arguments = scheduler.queue.get(timeout=20)
    getattr(scheduler, f"worker_{name}")(**arguments)
    stages.forget("worker_1")
    getattr(scheduler, f"worker_{name}")(**arguments)
    stages.stop()

    assert shown == [NULL_RUN, BASELINE]
    assert not (tmp_path / "stages").exists()
