"""``invarlock evaluate``: two checkpoints on disk are measured, and a report is written."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import fill
from typing import TYPE_CHECKING, Any

from invarlock.boundary import Commands
from invarlock.cli.parsing import MEASURING, check_installed, positive
from invarlock.cli.text_options import slice_limits_of, texts_of
from invarlock.errors import EvaluationError, Interrupted, InvarLockError, UsageError
from invarlock.library_notices import notices_in
from invarlock.loading_pytorch import loading_pytorch
from invarlock.output import say, say_error, say_results
from invarlock.problems import Code, ExitCode
from invarlock.problems.page import exit_codes_line
from invarlock.reports.sidecars import PAGE_NAME, REPORT_NAME, report_file
from invarlock.reports.tiers import profile_names, tier_names
from invarlock.settings.readers import host_word
from invarlock.stage_line import StageLine, StageLog
from invarlock.stages import listening

if TYPE_CHECKING:
    from invarlock.documents.reports import Report
    from invarlock.evaluation.pair_request import PairRequest

# Preview and final windows of --quick.
QUICK_WINDOWS = (16, 32)
LOG_NAME = "evaluate.log"
EXIT_CODES = exit_codes_line(ExitCode.OK, ExitCode.GATE, ExitCode.USAGE, ExitCode.MISSING, ExitCode.REPORT)
EXAMPLE = """example, with a small model that InvarLock writes:
  invarlock demo demo
  invarlock evaluate --baseline demo/base --subject demo/w4a16 --text demo/heldout.txt \\
    --seq-len 128 --output-dir demo/out"""


def add_evaluate(subparsers: Commands) -> None:
    """Add the command ``evaluate``."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure two checkpoints on disk and write a report",
        epilog=f"{fill(EXIT_CODES, 78)}\n\n{EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--baseline", type=Path, required=True, metavar="FOLDER", help="folder of the original checkpoint"
    )
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--subject", type=Path, metavar="FOLDER", help="folder of the edited checkpoint")
    subject.add_argument(
        "--subject-url",
        metavar="URL",
        help="URL of an OpenAI-compatible server that runs the edited model, instead of a folder; it must return the "
        "log-probabilities of a prompt; guards are not evaluated; its API key is read from INVARLOCK_SUBJECT_API_KEY",
    )
    parser.add_argument(
        "--subject-model", metavar="NAME", help="name of the model on that server; default: the only one it lists"
    )
    parser.add_argument(
        "--text",
        action="append",
        required=True,
        metavar="[NAME=]FILE",
        help="text on which both checkpoints are scored: plain text, .jsonl, .json or .parquet; all but .parquet may "
        "be compressed (.xz, .gz, .bz2); may be repeated with names: each text is then a slice, and every limit must "
        "hold in each slice",
    )
    parser.add_argument(
        "--slice-limit",
        action="append",
        default=[],
        metavar="NAME.LIMIT=VALUE",
        help="a limit for one slice instead of the tier's, such as code.ratio_limit=1.2",
    )
    parser.add_argument(
        "--text-field", default="text", metavar="NAME", help="field of a row that contains its text; default: text"
    )
    parser.add_argument(
        "--intent",
        choices=("preserve", "change"),
        default="preserve",
        help="change: the subject is meant to behave differently (a fine-tune, a merge), so fidelity is reported "
        "without a gate; default: preserve",
    )
    parser.add_argument(
        "--output-dir", type=Path, required=True, metavar="DIR", help="folder for the report; must not exist"
    )
    parser.add_argument(
        "--model-id", metavar="NAME", help="name of the model in the report; default: the baseline's folder name"
    )
    parser.add_argument("--profile", choices=profile_names(), default="dev", help="how much is measured; default: dev")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_WINDOWS[0]} preview and {QUICK_WINDOWS[1]} final windows: a first look in a fraction of the "
        "time, with a wide interval; --preview-windows and --final-windows override it",
    )
    parser.add_argument(
        "--tier", choices=tier_names(), default="balanced", help="limits of the gates; default: balanced"
    )
    parser.add_argument(
        "--baseline-report",
        type=Path,
        metavar="PATH",
        help="reuse the measurements in this report of the baseline, or the report in this folder",
    )
    parser.add_argument(
        "--preset",
        type=Path,
        metavar="FILE",
        help="calibrated_preset_<model>.json with the limits of this model; the folder of its null runs must be next "
        "to it",
    )
    parser.add_argument(
        "--records",
        type=Path,
        metavar="FILE",
        help="task results of both checkpoints, written by invarlock records import; default: task_records.json in "
        "the subject's folder",
    )
    parser.add_argument(
        "--tasks",
        metavar="NAME[,NAME]",
        help="run these lm-evaluation-harness tasks on both checkpoints, instead of --records (pip install "
        "'invarlock[tasks]')",
    )
    parser.add_argument("--tasks-limit", type=positive, metavar="N", help="number of samples per task; default: all")
    parser.add_argument(
        "--tasks-fewshot", type=positive, metavar="N", help="number of few-shot examples; default: the task's own"
    )
    parser.add_argument(
        "--tasks-include", type=Path, metavar="DIR", help="folder with the YAML files of your own tasks"
    )
    parser.add_argument(
        "--tasks-python",
        metavar="FILE",
        help="Python interpreter of an environment with lm-evaluation-harness; default: the current one",
    )
    parser.add_argument(
        "--edit-label",
        metavar="LABEL",
        help="label of the edit in the report; default: from the subject's metadata, quantisation config or path",
    )
    parser.add_argument(
        "--expect",
        action="append",
        default=[],
        metavar="CHANGE",
        help="an intended change of structure, such as vocabulary+8, layers=28, ffn=1024, width=512, heads=12, "
        "kv-heads-2 or experts=48, which then does not count as a violation; may be repeated",
    )
    parser.add_argument(
        "--model-signature",
        action="append",
        default=[],
        metavar="SIDE=HOW",
        help="first verify the OpenSSF model signature (model.sig) of the baseline or the subject, offline, and record "
        "its signer and digest: subject=key:PUBLIC_KEY, subject=certificate:ROOT or "
        "subject=sigstore:IDENTITY,ISSUER,TRUST_CONFIG; at most once for baseline and once for subject (pip install "
        "'invarlock[model-signatures]')",
    )
    parser.add_argument(
        "--execution-mode",
        type=host_word,
        choices=("host", "container"),
        default="host",
        help="run on this host, or in the runtime image; default: host",
    )
    parser.add_argument(
        "--scoring",
        choices=("dequantised", "native"),
        default="dequantised",
        help="how a packed subject is scored: with dequantised weights, or with the native kernels of its library; "
        "default: dequantised",
    )
    parser.add_argument(
        "--attention",
        choices=("eager", "sdpa", "flash_attention_2"),
        default="eager",
        help="attention implementation, recorded in the report; default: eager, the same on every device",
    )
    parser.add_argument(
        "--assurance",
        choices=("report", "off"),
        default="report",
        help="off: exit with 0 once the report is written, even if a gate fails",
    )
    for name, default, text in (
        ("--seq-len", 512, "tokens per window; default: 512"),
        ("--preview-windows", None, "number of preview windows, which show drift; default: the profile's"),
        ("--final-windows", None, "number of final windows, which the gates judge; default: the profile's"),
        ("--batch-size", 16, "windows per forward pass; default: 16"),
        (
            "--top-k",
            512,
            "number of the baseline's most probable tokens that fidelity compares per position; default: 512",
        ),
    ):
        parser.add_argument(name, type=positive, default=default, metavar="N", help=text)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed for sampling windows; default: 0")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="device to measure on; default: cuda if available")
    parser.set_defaults(command=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    # imported here to keep --help fast
    from invarlock.runtime.handover import check_code, read_handover

    handover = read_handover()
    if handover is None and options.execution_mode == "container":
        return _evaluate_in_container(options)
    if handover is not None:
        check_code(handover)
    check_installed(*MEASURING)
    _check_options_of_tasks(options)
    # imported here to keep --help fast
    from invarlock.checkpoints.model_signatures import parse_signature
    from invarlock.evaluation.early_checks import check_pair
    from invarlock.evaluation.estimating import estimate_pair
    from invarlock.evaluation.pair_request import PairRequest

    request = PairRequest(
        baseline=options.baseline,
        subject=options.subject,
        text=texts_of(options.text),
        text_field=options.text_field,
        model_id=options.model_id,
        profile=options.profile,
        tier=options.tier,
        edit_label=options.edit_label,
        baseline_report=None if options.baseline_report is None else report_file(options.baseline_report),
        preset=options.preset,
        records=options.records,
        seq_len=options.seq_len,
        preview_windows=options.preview_windows or (QUICK_WINDOWS[0] if options.quick else None),
        final_windows=options.final_windows or (QUICK_WINDOWS[1] if options.quick else None),
        seed=options.seed,
        batch_size=options.batch_size,
        top_k=options.top_k,
        intent=options.intent,
        device=options.device,
        attention=options.attention,
        scoring=options.scoring,
        image=None if handover is None else handover.image,
        expect=tuple(options.expect),
        subject_url=options.subject_url,
        subject_model=options.subject_model,
        slice_limits=slice_limits_of(options.slice_limit),
        model_signatures=tuple(map(parse_signature, options.model_signature)),
    )
    check_pair(request, options.output_dir)
    say_error(estimate_pair(request, options.output_dir))
    with TemporaryDirectory(prefix="invarlock-") as scratch:
        report: Mapping[str, Any] = _measured(_with_tasks(request, options, Path(scratch)), options)
    # imported here to keep --help fast
    from invarlock.cli.evaluation_notes import evaluation_notes
    from invarlock.guards import GUARD_NAMES
    from invarlock.pages.parts import counted
    from invarlock.reports.gates import judge_gates
    from invarlock.reports.page_facts import few_windows, report_warnings
    from invarlock.reports.served import NOTHING_PROVES, is_served, stated_words

    gates, few = list(judge_gates(report, report["resolved_policy"])), list(few_windows(report))
    for gate in gates:
        word = "passed" if gate.holds else "FAILED" if gate.blocks else "warns"
        say_results(f"{word:6}  {gate.line}")
    enough = report["resolved_policy"]["primary_metric_tail"]["min_windows"]
    warnings = list(report_warnings(report))
    shown = {gate.line for gate in gates}.union(few)
    say(*(f"warning: {line}" for line in warnings if line not in shown))
    say(*(f"warning: {line}; use --final-windows {enough} or more" for line in few))
    say(*(f"note: {line}" for line in evaluation_notes(report, options.subject)))
    missing = [name for name in GUARD_NAMES if report[name]["status"] == "not_evaluated"]
    if missing:
        say(f"not evaluated: {', '.join(missing)} ({report[missing[0]]['reason']})")
    if is_served(report):
        say(f"served: {stated_words(report['subject']['served'])} ({NOTHING_PROVES})")
    verdict = report["assurance"]["verdict"]
    found = f", with {counted(len(warnings), 'warning')}" if warnings and verdict == "PASS" else ""
    say_results(
        f"{verdict}{found}: {options.output_dir / REPORT_NAME}",
        f"page: {options.output_dir / PAGE_NAME}",
        f"verify it with: {shlex.join(['invarlock', 'verify', str(options.output_dir / REPORT_NAME)])}",
    )
    return ExitCode.OK if verdict == "PASS" or options.assurance == "off" else ExitCode.GATE


def _check_options_of_tasks(options: argparse.Namespace) -> None:
    """Refuse options that have no effect without ``--tasks`` or conflict with it, and tasks that cannot be run.

    Raises:
        UsageError: for such options, or when lm-evaluation-harness is not installed.
    """
    for name in ("tasks_limit", "tasks_fewshot", "tasks_include", "tasks_python"):
        if options.tasks is None and getattr(options, name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')}: has no effect without --tasks; name the tasks, or leave it out",
                code=Code.OPTIONS_CONFLICT,
            )
    if options.tasks is None:
        return
    if options.records is not None:
        raise UsageError(
            "--tasks runs tasks, and --records reads their results; give only one of the two",
            code=Code.OPTIONS_CONFLICT,
        )
    if options.subject is None:
        raise UsageError(
            "--tasks: runs lm-evaluation-harness on folders only; for a server, run it yourself and give --records",
            code=Code.OPTIONS_CONFLICT,
        )
    if options.tasks_python is None:
        # imported here to keep --help fast
        from invarlock.evaluation.needed_packages import check_tasks

        check_tasks()


def _with_tasks(request: PairRequest, options: argparse.Namespace, scratch: Path) -> PairRequest:
    """Return the request with the records of the tasks that ``--tasks`` names, which are run on both sides first."""
    if options.tasks is None:
        return request
    # imported here to keep --help fast
    from invarlock.jsonio import dump_json
    from invarlock.task_records.running import TaskRun, run_tasks

    # checked before
    assert request.subject is not None
    run = TaskRun(
        tuple(options.tasks.split(",")),
        options.tasks_limit,
        options.tasks_fewshot,
        options.seed,
        device=options.device,
        include=options.tasks_include,
        python=options.tasks_python or sys.executable,
    )
    path = scratch / "records.json"
    path.write_bytes(dump_json(run_tasks(run, request.baseline, request.subject)))
    return replace(request, records=path)


def _measured(request: PairRequest, options: argparse.Namespace) -> Report:
    """Return the report of a request, with a line that says what goes on.

    Raises:
        Interrupted: when the user stops it, with the command that begins anew.
    """
    # imported here to keep --help fast
    from invarlock.evaluation.unfinished import unfinished_folder

    log = options.output_dir.with_name(f"{options.output_dir.name}.log")
    try:
        with notices_in(log) as terminal, StageLine(terminal) as line, listening(line, StageLog(log)):
            with loading_pytorch():
                # imported here because it imports PyTorch, which missing input does not need
                from invarlock.evaluation.pair import evaluate_pair
            report = _going_on(evaluate_pair, request, options.output_dir)
    except InvarLockError:
        # says itself what is wrong
        log.unlink(missing_ok=True)
        raise
    except KeyboardInterrupt:
        log.unlink(missing_ok=True)
        again = shlex.join(["invarlock", *options.given])
        if unfinished_folder(options.output_dir).is_dir():
            raise Interrupted(
                f"interrupted; the measurements of the baseline are kept; continue with: {again}"
            ) from None
        raise Interrupted(f"interrupted, no report was written; begin again with: {again}") from None
    with suppress(OSError):
        log.rename(options.output_dir / LOG_NAME)
    return report


def _going_on(evaluate: Callable[[PairRequest, Path], Report], request: PairRequest, target: Path) -> Report:
    """Return the report of a request, with the baseline that an interrupted evaluation left if it is of its setup."""
    # imported here to keep --help fast
    from invarlock.evaluation.unfinished import go_on, unfinished_folder

    folder = unfinished_folder(target)
    resumed = go_on(request, folder)
    try:
        report = evaluate(resumed, target)
    except EvaluationError as error:
        if resumed is request or not str(error).startswith(str(folder)):
            raise
        report = evaluate(request, target)
    shutil.rmtree(folder, ignore_errors=True)
    return report


def _evaluate_in_container(options: argparse.Namespace) -> int:
    # imported here to keep --help fast
    from invarlock.runtime.evaluating import Inputs, evaluate_in_container

    if options.subject_url is not None:
        raise UsageError(
            "--subject-url: a container has no network; leave --execution-mode container out",
            code=Code.OPTIONS_CONFLICT,
        )
    if options.tasks is not None:
        raise UsageError(
            "--tasks: the runtime image has no lm-evaluation-harness; leave --execution-mode container out",
            code=Code.OPTIONS_CONFLICT,
        )
    if options.model_signature:
        raise UsageError(
            "--model-signature: the runtime image has no model-signing; leave --execution-mode container out",
            code=Code.OPTIONS_CONFLICT,
        )
    # other files in the folders of these files are read too
    preset, report = (None if path is None else path.parent for path in (options.preset, options.baseline_report))
    texts = texts_of(options.text)
    paths = (texts,) if isinstance(texts, Path) else tuple(texts.values())
    inputs = Inputs(
        tuple(path for path in (options.baseline, options.subject) if path is not None),
        tuple(path for path in (*paths, report, options.records, preset) if path is not None),
        options.output_dir,
        options.device,
    )
    return evaluate_in_container(options.given, inputs)
