"""Promotion sentinels: subjects that a run kept are loaded and evaluated again before a model is promoted.

``pytest suites -m sentinel --run-dir RUN --model MODEL`` evaluates two kept subjects directly, and one through the
public commands ``invarlock evaluate`` and ``invarlock verify``. A sentinel passes if loading succeeds and the files
exist; the metric, which is in the report, does not affect the result.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from invarlock.catalog.models import folder_name
from invarlock.documents.catalog import EffectiveManifest
from invarlock.errors import EvaluationError, MissingFileError, UsageError
from invarlock.harness.state.run import Run
from invarlock.jsonio import check_schema, read_json, write_bytes
from invarlock.loading_pytorch import loading_pytorch
from invarlock.packer.runs.run_directory import RunDirectory
from invarlock.problems import Code
from invarlock.reports.sidecars import REPORT_NAME

# Each sentinel with the kept subject that it loads.
SENTINELS = {"quant_4bit_clean": "quant_4bit_clean", "prune_clean": "prune_clean", "public_quant": "quant_4bit_clean"}
PUBLIC = "public_quant"
VERIFICATION = "verify.json"
# Loading 70 GB of weights from a slow disk takes 15 minutes.
COMMAND_SECONDS = 2 * 3600
SHOWN_LINES = 5


@dataclass(frozen=True)
class KeptRun:
    """A run whose subjects were kept: its folder, the model to evaluate, and the text it was scored on."""

    directory: RunDirectory
    model_id: str
    suite: str

    @property
    def baseline(self) -> Path:
        """Return the folder of the model's baseline snapshot."""
        return self.directory.path / "models" / folder_name(self.model_id) / "baseline"

    def subject(self, scenario: str) -> Path:
        """Return the folder of a scenario's kept subject."""
        return self.directory.path / folder_name(self.model_id) / "models" / scenario

    def target(self, run: Run, sentinel: str) -> Path:
        """Return the output folder of a sentinel: a folder for this session in the run directory."""
        session = f"{run.started:%Y%m%d_%H%M%S}"
        return self.directory.path / "sentinels" / session / folder_name(self.model_id) / sentinel


def find_kept_run(run: Run) -> KeptRun:
    """Return the run given by ``--run-dir`` with the model given by ``--model``.

    Raises:
        UsageError: when an option is missing, or the run has no such model.
        MissingFileError: when the run does not exist.
    """
    given, wanted = run.settings.run_dir, run.settings.sentinel_model
    if given is None:
        raise UsageError(
            "-m sentinel: give a run made with --keep-models: --run-dir RUN", code=Code.RUN_DIRECTORY_UNUSABLE
        )
    path = Path(given)
    manifest_path = path / "state" / "scenarios.json"
    if not manifest_path.is_file():
        raise MissingFileError(f"--run-dir: {path} is not a run directory; give the --output-dir of a run")
    link = next(RunDirectory(path).links(), None)
    if link is not None:
        raise UsageError(
            f"--run-dir: {link} is a symbolic link, which is not followed; replace it with its target",
            code=Code.RUN_DIRECTORY_UNUSABLE,
        )
    manifest: EffectiveManifest = read_json(manifest_path)
    check_schema(manifest, "scenarios", where=str(manifest_path))
    models = sorted(row["model_id"] for row in manifest["selection"]["models"])
    found = [model for model in models if wanted in (None, model, folder_name(model))]
    if wanted is None and len(models) > 1:
        raise UsageError(
            f"-m sentinel: {path} has the models {', '.join(models)}; choose one with --model",
            code=Code.RUN_DIRECTORY_UNUSABLE,
        )
    if not found:
        raise UsageError(
            f"--model: {path} has no model {wanted!r}; it has {', '.join(models)}", code=Code.RUN_DIRECTORY_UNUSABLE
        )
    return KeptRun(RunDirectory(path.resolve()), found[0], manifest["selection"]["suite"])


def sentinel_problems(run: Run, sentinels: list[str]) -> list[str]:
    """Return the problems that prevent sentinels from running, one per line, each with its remedy."""
    try:
        kept = find_kept_run(run)
    except (UsageError, MissingFileError) as error:
        return [str(error)]
    needed = {SENTINELS[name] for name in sentinels}
    folders = [kept.baseline, *(kept.subject(scenario) for scenario in sorted(needed))]
    return [
        f"{folder}: missing: the run deleted its subjects or did not make this one; run it again with --keep-models "
        "(PACK_CLEANUP_MODELS=0)"
        for folder in folders
        if not folder.is_dir()
    ]


def run_sentinel(sentinel: str, run: Run) -> Path:
    """Evaluate a kept subject and return the folder of its report.

    Raises:
        InvarLockError: if loading or evaluating fails.
    """
    with loading_pytorch():
        # imported here: it imports torch, which reporting problems must not load
        from invarlock.evaluation.pair import evaluate_pair
        from invarlock.evaluation.pair_request import PairRequest

    kept = find_kept_run(run)
    target, subject = kept.target(run, sentinel), kept.subject(SENTINELS[sentinel])
    target.parent.mkdir(parents=True, exist_ok=True)
    text, seq_len = _text(kept, run)
    if sentinel == PUBLIC:
        _evaluate_publicly(kept, subject, text, seq_len, target, run.attention("cpu"))
        return target
    evaluate_pair(
        PairRequest(
            baseline=kept.baseline,
            subject=subject,
            text=text,
            model_id=kept.model_id,
            seq_len=seq_len,
            edit_label=_label(subject),
            attention=run.attention("cpu"),
            image=run.image,
        ),
        target,
    )
    return target


def _label(subject: Path) -> str | None:
    """Return the label for a subject's edit: None if the subject's metadata has it, or ``custom`` for older runs."""
    return None if (subject / "edit_metadata.json").is_file() else "custom"


def missing_files(sentinel: str, target: Path) -> list[str]:
    """Return the files that a sentinel should have written but did not."""
    names = [REPORT_NAME, *([VERIFICATION] if sentinel == PUBLIC else [])]
    return [name for name in names if not (target / name).is_file()]


def _evaluate_publicly(kept: KeptRun, subject: Path, text: Path, seq_len: int, target: Path, attention: str) -> None:
    evaluate = ["evaluate", "--baseline", kept.baseline, "--subject", subject, "--text", text, "--output-dir", target]
    evaluate += ["--seq-len", seq_len, "--profile", "dev", "--assurance", "off"]
    label = _label(subject)
    evaluate += [] if label is None else ["--edit-label", label]
    _command(*evaluate, "--model-id", kept.model_id, "--attention", attention)
    report = target / REPORT_NAME
    _command(
        "verify", report, "--baseline-report", target / "baseline" / REPORT_NAME, "--json-out", target / VERIFICATION
    )


def _command(*arguments: object) -> None:
    """Run a public command.

    Raises:
        EvaluationError: if the command fails; the message has the last lines of its output.
    """
    command = [sys.executable, "-m", "invarlock", *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        raise EvaluationError(f"invarlock {arguments[0]}: not done after {COMMAND_SECONDS} s") from None
    if done.returncode != 0:
        lines = " | ".join((done.stdout + done.stderr).strip().splitlines()[-SHOWN_LINES:])
        raise EvaluationError(f"invarlock {arguments[0]} ended with {done.returncode}: {lines}")


def _text(kept: KeptRun, run: Run) -> tuple[Path, int]:
    """Return a file with the first text that the run was scored on, and the number of tokens in its windows."""
    # imported here: it imports torch, which collecting must not load
    from invarlock.evaluation.models import Placement
    from invarlock.harness.baselines.baseline_reports import Baselines
    from invarlock.harness.state.locks import Locks

    path = kept.target(run, "text.txt")
    of_suite = replace(run, directory=kept.directory, catalog=replace(run.catalog, suite=kept.suite))
    baselines = Baselines(of_suite, Placement("cpu"), Locks(of_suite.directory, run.settings.case_timeout))
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        source = baselines.text
        first = next(iter(source.slices.values()), source)
        write_bytes(path, first.text.encode("utf-8"))
    return path, baselines.plan.seq_len
