"""The command line: ``invarlock evaluate|verify|tune|records|advanced``, a thin layer over the functions.

Suites run in pytest: ``pytest suites``. Packs are handled by ``python -m invarlock.packer``, also ``invarlock advanced
evidence-pack``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from invarlock.boundary import CommandParser, run_command
from invarlock.edits import EDITS
from invarlock.errors import InvarLockError, UsageError
from invarlock.output import say, say_error
from invarlock.problems import Code, ExitCode
from invarlock.problems.page import exit_codes_line
from invarlock.reports.tiers import profile_names, tier_names
from invarlock.settings import unknown_variables
from invarlock.settings.readers import host_word
from invarlock.staging import check_can_be_made
from invarlock.task_records.command import add_records_command

Subparsers: TypeAlias = "argparse._SubParsersAction[CommandParser]"

TUNED = tuple(edit.name for edit in EDITS if edit.ladder is not None)
EXIT_CODES = exit_codes_line(ExitCode.OK, ExitCode.GATE, ExitCode.USAGE, ExitCode.MISSING, ExitCode.REPORT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:2] == ["advanced", "evidence-pack"]:
        # imported here to keep --help fast
        from invarlock.packer.cli import main as packer

        return packer(given[2:])
    return run_command(lambda: _run(given))


def _run(given: list[str]) -> int:
    options = _parser().parse_args(given)
    options.given = given
    for line in unknown_variables(os.environ):
        say_error(f"warning: {line}")
    return int(options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="invarlock", description="Compare an edited checkpoint with its baseline.", epilog=EXIT_CODES
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_evaluate(subparsers)
    _add_verify(subparsers)
    _add_tune(subparsers)
    add_records_command(subparsers, EXIT_CODES)
    advanced = subparsers.add_parser("advanced", help="calibrate: fit limits to reports; evidence-pack: run the packer")
    inner = advanced.add_subparsers(required=True, metavar="COMMAND")
    inner.add_parser("evidence-pack", help="keygen, build, sign, attest, trust, inspect, verify, diff", add_help=False)
    _add_calibrate(inner)
    return parser


def _add_calibrate(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "calibrate",
        help="propose a tier's limits from reports and null runs",
        description="Fit the limits of a tier to harmless changes, from reports of passing edits in a folder and "
        "null runs, and write the proposed limits next to the current ones. The tier itself is not changed. "
        "To make presets of models, use: pytest suites --suite-mode calibrate-only",
        epilog=EXIT_CODES,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a run directory, a pack, or any folder of reports")
    parser.add_argument("--tier", choices=tier_names(), default="balanced", help="default: balanced")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="file for the proposal; must not exist"
    )
    parser.set_defaults(command=_calibrate)


def _calibrate(options: argparse.Namespace) -> int:
    # imported here to keep --help fast
    from invarlock.jsonio import check_schema, dump_json
    from invarlock.named_files import check_result_file, is_taken, write_result
    from invarlock.reports.tier_fitting import fit_tier, proposal_lines

    if is_taken(options.output):
        raise UsageError(f"{options.output}: already exists; give another file with --output")
    check_result_file(options.output, "--output")
    proposal = fit_tier(options.folder, options.tier)
    check_schema(proposal, "tier_proposal", where=str(options.output))
    write_result(options.output, dump_json(proposal), "--output")
    for line in proposal_lines(proposal):
        say(line)
    say(f"proposal: {options.output}")
    return 0


def _add_evaluate(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "evaluate", help="measure two checkpoints on disk and write a report", epilog=EXIT_CODES
    )
    parser.add_argument(
        "--baseline", type=Path, required=True, metavar="FOLDER", help="folder of the original checkpoint"
    )
    parser.add_argument("--subject", type=Path, required=True, metavar="FOLDER", help="folder of the edited checkpoint")
    parser.add_argument(
        "--text",
        type=Path,
        required=True,
        metavar="FILE",
        help="text on which both are scored: .txt, .xz, .jsonl or .parquet",
    )
    parser.add_argument(
        "--text-field", default="text", metavar="NAME", help="field with the text of a row; default: text"
    )
    parser.add_argument(
        "--intent",
        choices=("preserve", "change"),
        default="preserve",
        help="change: the subject is meant to answer differently (a fine-tune, a merge), so fidelity is reported "
        "without a gate; default: preserve",
    )
    parser.add_argument(
        "--output-dir", type=Path, required=True, metavar="DIR", help="folder for the report; must not exist"
    )
    parser.add_argument(
        "--model-id", metavar="NAME", help="name of the model in the report; default: the baseline's folder name"
    )
    parser.add_argument("--profile", choices=profile_names(), default="dev", help="amount of measurement; default: dev")
    parser.add_argument(
        "--tier", choices=tier_names(), default="balanced", help="limits of the gates; default: balanced"
    )
    parser.add_argument(
        "--baseline-report", type=Path, metavar="FILE", help="the baseline's report from an earlier run, to reuse"
    )
    parser.add_argument(
        "--preset", type=Path, metavar="FILE", help="calibrated_preset_<model>.json, in a folder with its null runs"
    )
    parser.add_argument(
        "--records",
        type=Path,
        metavar="FILE",
        help="results of both on tasks, by invarlock records import; default: the subject's task_records.json",
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
        help="a change of structure on purpose, vocabulary+8, layers=28 or layers-2; it is no violation where it is so",
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
        help="scoring of a packed subject: dequantised weights, or native kernels; default: dequantised",
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
        ("--preview-windows", None, "default: the profile's"),
        ("--final-windows", None, "default: the profile's"),
        ("--batch-size", 16, "windows per forward pass; default: 16"),
        ("--top-k", 512, "most probable tokens of the baseline that fidelity compares per position; default: 512"),
    ):
        parser.add_argument(name, type=_positive, default=default, metavar="N", help=text)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed for sampling windows; default: 0")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if available")
    parser.set_defaults(command=_evaluate)


def _add_verify(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("verify", help="derive reports again from their raw measurements", epilog=EXIT_CODES)
    parser.add_argument("reports", type=Path, nargs="+", metavar="REPORT")
    parser.add_argument(
        "--baseline-report",
        type=Path,
        metavar="FILE",
        help="also compare the baseline's side with this report of the baseline",
    )
    parser.add_argument("--json-out", type=Path, metavar="FILE", help="write a verify-v1 document about all reports")
    parser.add_argument(
        "--preset",
        type=Path,
        metavar="FILE",
        help="also derive the limits again from this preset, which the reports refer to",
    )
    parser.set_defaults(command=_verify)


def _add_tune(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "tune", help="find the strongest parameters of each edit that pass every gate with a margin", epilog=EXIT_CODES
    )
    parser.add_argument("model", metavar="MODEL", help="a model of the suites folder, or a model folder")
    parser.add_argument("--suites", type=Path, default=Path("suites"), metavar="FOLDER", help="default: suites")
    parser.add_argument(
        "--model-id", metavar="ID", help="model id for the entries of a folder; default: local/<folder name>"
    )
    parser.add_argument(
        "--edit", action="append", choices=TUNED, metavar="EDIT", help="edit to tune, may be repeated; default: all"
    )
    parser.add_argument("--scope", default="ffn", help="scope of all edits except lowrank_svd; default: ffn")
    parser.add_argument(
        "--lowrank-scope", metavar="SCOPE", help="scope of lowrank_svd; default: the FFN of the middle block"
    )
    parser.add_argument(
        "--margin", type=_share, default=0.5, help="largest share of each limit that may be used; default: 0.5"
    )
    parser.add_argument("--draws", type=_positive, default=3, metavar="N", help="number of window samples; default: 3")
    parser.add_argument("--tier", choices=tier_names(), default="balanced")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="file of tuned parameters; entries are added, a missing file is created",
    )
    parser.set_defaults(command=_tune)


def _tune(options: argparse.Namespace) -> int:
    check_can_be_made(options.output, "--output")
    if Path(options.model).is_dir():
        # imported here to keep --help fast
        from invarlock.checkpoints.storage_format import check_dense

        # reported before PyTorch is imported
        check_dense(Path(options.model))
    # imported here to keep --help fast
    from invarlock.evaluation.suite_tuning import tune_suite_model

    return tune_suite_model(
        options.suites,
        options.model,
        options.output,
        edits=options.edit or TUNED,
        scope=options.scope,
        lowrank_scope=options.lowrank_scope,
        margin=options.margin,
        draws=options.draws,
        tier=options.tier,
        model_id=options.model_id,
    )


def _evaluate(options: argparse.Namespace) -> int:
    # imported here to keep --help fast
    from invarlock.runtime.handover import check_code, read_handover

    handover = read_handover()
    if handover is None and options.execution_mode == "container":
        return _evaluate_in_container(options)
    if handover is not None:
        check_code(handover)
    # imported here to keep --help fast
    from invarlock.evaluation.pair_documents import check_documents
    from invarlock.evaluation.pair_request import PairRequest, check_request

    request = PairRequest(
        baseline=options.baseline,
        subject=options.subject,
        text=options.text,
        text_field=options.text_field,
        model_id=options.model_id,
        profile=options.profile,
        tier=options.tier,
        edit_label=options.edit_label,
        baseline_report=options.baseline_report,
        preset=options.preset,
        records=options.records,
        seq_len=options.seq_len,
        preview_windows=options.preview_windows,
        final_windows=options.final_windows,
        seed=options.seed,
        batch_size=options.batch_size,
        top_k=options.top_k,
        intent=options.intent,
        device=options.device,
        attention=options.attention,
        scoring=options.scoring,
        image=None if handover is None else handover.image,
        expect=tuple(options.expect),
    )
    check_request(request, options.output_dir)
    check_documents(request)
    # imported here because they import torch, which a container launch or missing input does not need
    from invarlock.evaluation.pair import evaluate_pair
    from invarlock.reports.gates import judge_gates

    report = evaluate_pair(request, options.output_dir)
    for gate in judge_gates(report, report["resolved_policy"]):
        say(f"{'passed' if gate.holds else 'FAILED'}  {gate.flag}: {gate.measured}, limit {gate.limit}")
    say(f"{report['assurance']['verdict']}: {options.output_dir / 'evaluation.report.json'}")
    return ExitCode.OK if report["assurance"]["verdict"] == "PASS" or options.assurance == "off" else ExitCode.GATE


def _evaluate_in_container(options: argparse.Namespace) -> int:
    # imported here to keep --help fast
    from invarlock.runtime.evaluating import Inputs, evaluate_in_container

    # what lies beside these files is read too
    preset, report = (None if path is None else path.parent for path in (options.preset, options.baseline_report))
    inputs = Inputs(
        (options.baseline, options.subject),
        tuple(path for path in (options.text, report, options.records, preset) if path is not None),
        options.output_dir,
        options.device,
    )
    return evaluate_in_container(options.given, inputs)


def _verify(options: argparse.Namespace) -> int:
    # imported here to keep --help fast
    from invarlock.jsonio import check_schema, dump_json, read_json
    from invarlock.named_files import check_result_file, write_result
    from invarlock.packer.format.in_pack import in_pack
    from invarlock.packer.verify.report import join_envelopes, verify_envelope
    from invarlock.reports.page_files import page_problems
    from invarlock.reports.preset_files import read_preset
    from invarlock.reports.presets import report_preset_problems
    from invarlock.reports.verification import verify_against_baseline, verify_baseline, verify_report

    if options.json_out is not None:
        check_result_file(options.json_out, "--json-out")
    for path in options.reports:
        if path.is_dir():
            raise UsageError(
                f"{path}: a folder; give an evaluation.report.json, or verify a pack with: python -m invarlock.packer "
                f"verify {path}"
            )
    preset = None if options.preset is None else read_preset(options.preset)
    baseline = None
    if options.baseline_report is not None:
        baseline = read_json(options.baseline_report)
        check_schema(baseline, "baseline_report", where=str(options.baseline_report))
    worst = ExitCode.OK
    envelopes = {}
    for path in options.reports:
        report: dict[str, Any] = {}
        try:
            report = read_json(path)
            problems = verify_report(report)
        except InvarLockError as error:
            problems = in_pack(error, Code.REPORT_MALFORMED)
        if baseline is not None and not problems:
            problems = [*verify_baseline(baseline), *verify_against_baseline(report, baseline)]
        if preset is not None and not problems:
            problems = list(report_preset_problems(report, preset, report["baseline_ref"], options.preset.name))
        if not problems:
            problems = list(page_problems(path))
        say(f"{path}: {'verified' if not problems else 'NOT VERIFIED'}")
        if preset is None and not problems and report["policy_provenance"]["preset_sha256"] is not None:
            say("  its limits come from a preset, as recorded in the report; pass --preset FILE to derive them again")
        for problem in problems:
            say(f"  {problem} [{problem.code}]")
        worst = max(worst, ExitCode.REPORT if problems else ExitCode.OK)
        envelopes[str(path)] = verify_envelope(path.name, report, "evaluate", problems)
    if options.json_out is not None:
        write_result(options.json_out, dump_json(join_envelopes(envelopes)), "--json-out")
    return worst


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share; use a number above 0 and up to 1")
    return value


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:12]) < 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)
