"""Running lm-evaluation-harness on both sides: what is checked first, and the harness itself where it is installed."""

from __future__ import annotations

import json
import runpy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from shipped_checkpoints import EMBEDDED

from invarlock.cli import main
from invarlock.errors import EvaluationError, UsageError
from invarlock.task_records.running import TaskRun, check_task_run, run_tasks, task_command

MAKE: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "data" / "task_records" / "make.py"))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for side in ("baseline", "subject"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "config.json").write_text("{}")
    return tmp_path / "baseline", tmp_path / "subject"


def interpreter(folder: Path, script: str) -> str:
    """Write a program that stands where an interpreter does and return its path."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_without_the_harness_the_message_names_the_extra(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for python in (interpreter(tmp_path, "exit 1"), str(tmp_path / "nothing")):
        with pytest.raises(UsageError, match=r"pip install 'invarlock\[tasks\]'"):
            check_task_run(TaskRun(("arc_easy",), python=python), *folders)


@pytest.mark.parametrize("tasks", [(), ("",), ("a b",), ("--help",), ("arc_easy", "a=b")])
def test_invalid_names_of_tasks_are_refused(tasks: tuple[str, ...], folders: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="not the name of a task"):
        check_task_run(TaskRun(tasks), *folders)


def test_paths_that_the_harness_would_split_and_folders_that_it_cannot_load_are_refused(tmp_path: Path) -> None:
    odd = tmp_path / "a,b"
    odd.mkdir()
    with pytest.raises(UsageError, match="not a folder that transformers can load"):
        check_task_run(TaskRun(("arc_easy",)), odd, odd)
    (odd / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="a comma"):
        check_task_run(TaskRun(("arc_easy",)), odd, odd)


def test_a_missing_folder_of_tasks_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--tasks-include"):
        check_task_run(TaskRun(("arc_easy",), include=tmp_path / "nothing"), *folders)


def test_both_sides_get_the_same_seed_examples_and_limit(folders: tuple[Path, Path], tmp_path: Path) -> None:
    run = TaskRun(("arc_easy", "gsm8k"), limit=5, fewshot=2, seed=7, device="cpu", python="py")

    commands = [task_command(run, folder, tmp_path / "out") for folder in folders]

    assert commands[0] == [
        "py", "-m", "lm_eval", "run", "--model", "hf",
        "--model_args", f"pretrained={folders[0].resolve()},dtype=auto", "--tasks", "arc_easy,gsm8k",
        "--seed", "7", "--batch_size", "8", "--limit", "5", "--num_fewshot", "2", "--device", "cpu",
        "--output_path", str(tmp_path / "out"), "--log_samples",
    ]  # fmt: skip
    assert [(a, b) for a, b in zip(*commands, strict=True) if a != b] == [(commands[0][7], commands[1][7])]


def test_a_harness_that_fails_ends_in_one_line_with_its_last_words(folders: tuple[Path, Path], tmp_path: Path) -> None:
    python = interpreter(tmp_path, 'test "$1" = -c && exit 0\necho first; echo "KeyError: no task" >&2; exit 3')

    with pytest.raises(EvaluationError, match=r"ended with 3 \(KeyError: no task\)"):
        run_tasks(TaskRun(("arc_easy",), python=python), *folders)


def test_records_and_tasks_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from made_records import made_records
    from shipped_checkpoints import write_baseline

    from invarlock.jsonio import dump_json

    (tmp_path / "records.json").write_bytes(dump_json(made_records(lost=0)))
    base = write_baseline("mistral-tiny", tmp_path / "base")
    text = EMBEDDED / "text" / "austen_heldout.txt.xz"
    arguments = ["--baseline", str(base), "--subject", str(base), "--text", str(text), "--seq-len", "64"]
    both = ["--tasks", "arc_easy", "--records", str(tmp_path / "records.json")]

    assert main(["evaluate", *arguments, *both, "--output-dir", str(tmp_path / "out")]) == 2
    assert "give only one of the two" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(find_spec("lm_eval") is None, reason="tox -e tasks installs lm-evaluation-harness")
def test_the_harness_runs_on_both_sides_and_its_results_are_judged(tmp_path: Path) -> None:
    MAKE["write_models"](tmp_path)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in MAKE["documents"]()))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "choice.yaml").write_text(MAKE["CHOICE"].format(data=data))
    text = EMBEDDED / "text" / "austen_heldout.txt.xz"

    sides = ["--baseline", str(tmp_path / "baseline"), "--subject", str(tmp_path / "subject"), "--text", str(text)]
    small = ["--seq-len", "64", "--preview-windows", "8", "--final-windows", "16", "--device", "cpu"]
    tasks = ["--tasks", "next_words", "--tasks-limit", "12", "--tasks-include", str(tmp_path / "tasks")]
    main(["evaluate", *sides, *small, *tasks, "--output-dir", str(tmp_path / "out")])

    report = json.loads((tmp_path / "out" / "evaluation.report.json").read_bytes())
    (task,) = report["task_records"]["tasks"]
    assert (task["task"], task["metric"], len(task["samples"])) == ("next_words", "acc", 12)
    assert report["tasks"]["status"] != "not_evaluated"
    assert main(["verify", str(tmp_path / "out" / "evaluation.report.json")]) == 0
