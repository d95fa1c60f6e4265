"""Running lm-evaluation-harness on both sides in a separate process, and importing its samples.

Example::

    records = run_tasks(TaskRun(("arc_easy", "gsm8k"), limit=200), Path("base"), Path("quantised"))

The harness pins many packages, so it may be installed in a separate environment; ``python`` is its interpreter.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from invarlock.documents.reports import TaskRecordsDocument
from invarlock.errors import EvaluationError, UsageError, printable
from invarlock.problems import Code
from invarlock.task_records.importing import import_records

MODULE = "lm_eval"
ANSWER_SECONDS = 120
MAX_WORDS = 300
_TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]*")


@dataclass(frozen=True)
class TaskRun:
    """The tasks to run, with options that are the same on both sides.

    Attributes:
        tasks: the names of the harness's tasks or groups.
        limit: the number of samples of each task, counted from the first; None for all.
        fewshot: the number of examples before each question; None for the task's default.
        seed: the harness's seed, which determines what a task samples.
        batch_size: the batch size of the harness's model.
        device: ``cpu`` or ``cuda``; None for the harness's choice.
        include: a folder with the user's own tasks.
        python: the interpreter with which the harness is installed.
    """

    tasks: tuple[str, ...]
    limit: int | None = None
    fewshot: int | None = None
    seed: int = 0
    batch_size: int = 8
    device: str | None = None
    include: Path | None = None
    python: str = sys.executable


def check_task_run(run: TaskRun, baseline: Path, subject: Path) -> None:
    """Check that the harness is installed and can read both checkpoints.

    Raises:
        UsageError: if the harness is not installed, or the name of a task or a path cannot be passed to it.
    """
    wrong = [task for task in run.tasks if not _TASK.fullmatch(task)]
    if wrong or not run.tasks:
        raise UsageError(
            f"--tasks: {wrong[0] if wrong else ''!r} is not the name of a task; give names separated by commas",
            code=Code.USAGE_INVALID,
        )
    for folder in (baseline, subject):
        if not (folder / "config.json").is_file():
            raise UsageError(
                f"--tasks: {folder} is not a folder that transformers can load by itself; leave --tasks out",
                code=Code.USAGE_INVALID,
            )
        if set(",=") & set(str(folder.resolve())):
            raise UsageError(
                f"--tasks: {folder} has a comma or '=' in its path, which lm_eval splits at; rename it",
                code=Code.USAGE_INVALID,
            )
    if run.include is not None and not run.include.is_dir():
        raise UsageError(
            f"--tasks-include: {run.include} is not a folder; give one with the YAML files of tasks",
            code=Code.USAGE_INVALID,
        )
    command = [run.python, "-c", f"import {MODULE}"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWER_SECONDS, check=False
        )
        found = done.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        found = False
    if not found:
        raise UsageError(
            f"--tasks: {run.python} has no lm-evaluation-harness; install it (pip install 'invarlock[tasks]'), or name "
            "the interpreter of another environment with --tasks-python",
            code=Code.EXTRA_NOT_INSTALLED,
        )


def run_tasks(run: TaskRun, baseline: Path, subject: Path) -> TaskRecordsDocument:
    """Run the harness on both sides and return the paired records, in the form of ``import_records``.

    Raises:
        UsageError: as ``check_task_run``.
        EvaluationError: if the harness fails.
        DocumentError: if the harness's results do not pair.
    """
    check_task_run(run, baseline, subject)
    with TemporaryDirectory(prefix="invarlock-tasks-") as scratch:
        own, other = Path(scratch) / "baseline", Path(scratch) / "subject"
        _run(run, baseline, own)
        _run(run, subject, other)
        return import_records([own], [other])


def task_command(run: TaskRun, folder: Path, output: Path) -> list[str]:
    """Return the command line that runs the harness on one side and keeps its samples."""
    options: dict[str, object] = {
        "--limit": run.limit,
        "--num_fewshot": run.fewshot,
        "--device": run.device,
        "--include_path": None if run.include is None else run.include.resolve(),
    }
    given = [str(word) for name, value in options.items() if value is not None for word in (name, value)]
    return [
        *(run.python, "-m", MODULE, "run", "--model", "hf"),
        *("--model_args", f"pretrained={folder.resolve()},dtype=auto", "--tasks", ",".join(run.tasks)),
        *("--seed", str(run.seed), "--batch_size", str(run.batch_size), *given),
        *("--output_path", str(output), "--log_samples"),
    ]


def _run(run: TaskRun, folder: Path, output: Path) -> None:
    log = output.with_suffix(".log")
    with log.open("wb") as file:
        # there is no time limit, since the duration of a task is unknown; Ctrl-C reaches the harness too
        done = subprocess.run(
            task_command(run, folder, output), stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False
        )
    if done.returncode != 0:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        last = printable(lines[-1][:MAX_WORDS]) if lines else "no output"
        raise EvaluationError(
            f"lm_eval on {folder} ended with {done.returncode} ({last}); run it by hand to see more",
            code=Code.USAGE_INVALID,
        )
