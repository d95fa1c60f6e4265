"""Workers that die or run out of memory: the case is retried once, on another worker or with more memory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from killed_workers import Stage, kill_workers_in, killed

# Kill a worker in the middle of each stage: just before its output gets its final name, or, in the evaluation, when the
# subject is loaded. Each case kills one worker, because a case that kills two fails.
STAGES = {
    "mistral-tiny-noop_control-run1": ("os.rename", "models/embedded__mistral-tiny/baseline"),
    "mistral-tiny-nan_injection-run1": ("os.rename", "embedded__mistral-tiny/models/error_nan_injection"),
    "mixtral-tiny-noop_control-run1": ("os.rename", "embedded__mixtral-tiny/baseline/evaluation.report.json"),
    "mixtral-tiny-nan_injection-run1": ("open", "embedded__mixtral-tiny/models/error_nan_injection/config.json"),
    "qwen2-tiny-noop_control-run1": ("os.rename", "reports/noop_control/run_1/runtime.manifest.json"),
    "qwen2-tiny-nan_injection-run1": ("os.rename", "reports/errors/nan_injection/evaluation.report.json"),
}


def test_workers_killed_in_the_middle_of_each_stage_change_nothing(
    run_pytest: Callable[..., Any], own_suites: Path
) -> None:
    kill_workers_in(own_suites, (Stage(case, event, place, case) for case, (event, place) in STAGES.items()))

    ran = run_pytest("-k", "noop or nan_injection", "-n", "1", "--max-worker-restart", "9", suites=own_suites)

    assert ran.status == 0, ran.output
    assert killed(own_suites) == STAGES.keys()
    report = json.loads((ran.pack / "metadata/pytest_report.json").read_bytes())
    assert {test["outcome"] for test in report["tests"]} == {"passed"}
    assert len(list(ran.pack.glob("reports/**/evaluation.report.json"))) == len(STAGES)
    left = [path for path in ran.directory.rglob("*") if "staging" in path.name or path.suffix == ".tmp"]
    assert left == []
    # this report's worker died before it wrote the runtime manifest
    assert [path.name for path in ran.directory.rglob("*.stale")] == ["evaluation.report.json.stale"]
    assert not list(ran.directory.glob("*/models/*"))


def test_a_case_that_runs_out_of_memory_is_run_once_more_with_twice_as_much(
    run_pytest: Callable[..., Any], own_suites: Path
) -> None:
    with (own_suites / "conftest.py").open("a") as stream:
        # plan too little memory for this model
        stream.write(
            "\n\nfrom invarlock.harness.planning import sizing\n\nsizing.needed_bytes = lambda *_: 5_000_000\n"
        )
    ran = run_pytest("-k", "mistral and noop", "-n", "2", suites=own_suites, GPU_MEMORY_PER_DEVICE="0.005")

    log = (ran.directory / "logs/mistral-tiny-noop_control-run1.log").read_text()
    assert ran.status == 0, ran.output
    assert log.count("out of memory with 5 MB; retrying with 10 MB") == 1
