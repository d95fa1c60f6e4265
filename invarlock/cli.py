"""The command line: ``invarlock evaluate|verify|tune|records|advanced``, a thin layer over the functions.

Suites are pytest's: ``pytest suites``. Packs have ``python -m invarlock.packer``, which is ``invarlock advanced
evidence-pack`` too.
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
        # imported here: --help must not wait for it
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
    advanced = subparsers.add_parser("advanced", help="calibrate: limits from reports; evidence-pack: the packer")
    inner = advanced.add_subparsers(required=True, metavar="COMMAND")
    inner.add_parser("evidence-pack", help="keygen, build, sign, attest, trust, inspect, verify, diff", add_help=False)
    _add_calibrate(inner)
    return parser


def _add_calibrate(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "calibrate",
        help="propose a tier's limits from reports and null runs",
        description="Learn what harmless changes measure, from the reports below a folder of edits that pass and from "
        "null runs, and write a proposal of the tier's limits beside the present ones. The tier is not changed. "
        "The presets of models are made by: pytest suites --suite-mode calibrate-only",
        epilog=EXIT_CODES,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a run directory, a pack, or any folder of reports")
    parser.add_argument("--tier", choices=tier_names(), default="balanced", help="default: balanced")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the proposal; must not exist")
    parser.set_defaults(command=_calibrate)


def _calibrate(options: argparse.Namespace) -> int:
    # imported here: --help must not wait for it
    from invarlock.jsonio import check_schema, dump_json
    from invarlock.named_files import check_result_file, is_taken, write_result
    from invarlock.reports.tier_fitting import fit_tier, proposal_lines

    if is_taken(options.output):
        raise UsageError(f"{options.output}: exists; name another file with --output")
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
    parser.add_argument("--baseline", type=Path, required=True, metavar="FOLDER", help="the checkpoint that is trusted")
    parser.add_argument("--subject", type=Path, required=True, metavar="FOLDER", help="the checkpoint that was edited")
    parser.add_argument(
        "--text",
        type=Path,
        required=True,
        metavar="FILE",
        help="what both are scored on: .txt, .xz, .jsonl or .parquet",
    )
    parser.add_argument(
        "--text-field", default="text", metavar="NAME", help="what holds the text of a row; default: text"
    )
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="must not exist")
    parser.add_argument("--model-id", metavar="NAME", help="what the model is called; default: the baseline's folder")
    parser.add_argument("--profile", choices=profile_names(), default="dev", help="how much is measured")
    parser.add_argument("--tier", choices=tier_names(), default="balanced", help="the limits")
    parser.add_argument("--baseline-report", type=Path, metavar="FILE", help="the baseline's report of an earlier run")
    parser.add_argument(
        "--preset", type=Path, metavar="FILE", help="calibrated_preset_<model>.json, with its null runs beside it"
    )
    parser.add_argument(
        "--records", type=Path, metavar="FILE", help="results of both on tasks, as invarlock records import writes them"
    )
    parser.add_argument(
        "--edit-label",
        metavar="LABEL",
        help="what reports call the edit; default: by the subject's edit_metadata.json, quantisation config, or path",
    )
    parser.add_argument(
        "--execution-mode",
        type=host_word,
        choices=("host", "container"),
        default="host",
        help="where it runs: on this host, or in the runtime image; default: host",
    )
    parser.add_argument(
        "--scoring",
        choices=("dequantised", "native"),
        default="dequantised",
        help="how a packed subject is scored: by its dequantised weights, or as it is stored; default: dequantised",
    )
    parser.add_argument(
        "--attention",
        choices=("eager", "sdpa", "flash_attention_2"),
        default="eager",
        help="how attention is computed; reports say which; default: eager, the same on every device",
    )
    parser.add_argument(
        "--assurance",
        choices=("report", "off"),
        default="report",
        help="off: exit with 0 when the report is written, whatever its gates say",
    )
    for name, default, text in (
        ("--seq-len", 512, "tokens a window"),
        ("--preview-windows", None, "default: the profile's"),
        ("--final-windows", None, "default: the profile's"),
        ("--batch-size", 16, "windows a forward pass"),
    ):
        parser.add_argument(name, type=_positive, default=default, metavar="N", help=text)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the window draw")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    parser.set_defaults(command=_evaluate)


def _add_verify(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("verify", help="derive reports again from their raw measurements", epilog=EXIT_CODES)
    parser.add_argument("reports", type=Path, nargs="+", metavar="REPORT")
    parser.add_argument(
        "--baseline-report", type=Path, metavar="FILE", help="hold the baseline's side against its own report as well"
    )
    parser.add_argument("--json-out", type=Path, metavar="FILE", help="write a verify-v1 document about all of them")
    parser.add_argument(
        "--preset", type=Path, metavar="FILE", help="hold the limits against the preset that the reports name as well"
    )
    parser.set_defaults(command=_verify)


def _add_tune(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "tune", help="find the strongest parameters of each edit that pass every gate with margin", epilog=EXIT_CODES
    )
    parser.add_argument("model", metavar="MODEL", help="a model of the suites folder, or the folder of one")
    parser.add_argument("--suites", type=Path, default=Path("suites"), metavar="FOLDER", help="default: suites")
    parser.add_argument("--model-id", metavar="ID", help="of a folder's entries; default: local/<its name>")
    parser.add_argument("--edit", action="append", choices=TUNED, metavar="EDIT", help="one of them; default: all")
    parser.add_argument("--scope", default="ffn", help="of all edits but lowrank_svd; default: ffn")
    parser.add_argument(
        "--lowrank-scope", metavar="SCOPE", help="of lowrank_svd; default: the FFN of the block in the middle"
    )
    parser.add_argument("--margin", type=_share, default=0.5, help="share of each limit to use; default: 0.5")
    parser.add_argument("--draws", type=_positive, default=3, metavar="N", help="draws of windows; default: 3")
    parser.add_argument("--tier", choices=tier_names(), default="balanced")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="entries are added to it, or it is made"
    )
    parser.set_defaults(command=_tune)


def _tune(options: argparse.Namespace) -> int:
    check_can_be_made(options.output, "--output")
    if Path(options.model).is_dir():
        # imported here: --help must not wait for it
        from invarlock.checkpoints.storage_format import check_dense

        # said before PyTorch is imported
        check_dense(Path(options.model))
    # imported here: --help must not wait for it
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
    # imported here: --help must not wait for it
    from invarlock.runtime.handover import check_code, read_handover

    handover = read_handover()
    if handover is None and options.execution_mode == "container":
        return _evaluate_in_container(options)
    if handover is not None:
        check_code(handover)
    # imported here: --help must not wait for it
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
        device=options.device,
        attention=options.attention,
        scoring=options.scoring,
        image=None if handover is None else handover.image,
    )
    check_request(request, options.output_dir)
    check_documents(request)
    # imported here: they import torch, which is not needed outside of the container, nor to say what is missing
    from invarlock.evaluation.pair import evaluate_pair
    from invarlock.reports.gates import judge_gates

    report = evaluate_pair(request, options.output_dir)
    for gate in judge_gates(report, report["resolved_policy"]):
        say(f"{'holds ' if gate.holds else 'BROKEN'}  {gate.flag}: {gate.measured}, limit {gate.limit}")
    say(f"{report['assurance']['verdict']}: {options.output_dir / 'evaluation.report.json'}")
    return ExitCode.OK if report["assurance"]["verdict"] == "PASS" or options.assurance == "off" else ExitCode.GATE


def _evaluate_in_container(options: argparse.Namespace) -> int:
    # imported here: --help must not wait for it
    from invarlock.runtime.evaluating import Inputs, evaluate_in_container

    preset = None if options.preset is None else options.preset.parent
    inputs = Inputs(
        (options.baseline, options.subject),
        tuple(path for path in (options.text, options.baseline_report, options.records, preset) if path is not None),
        options.output_dir,
        options.device,
    )
    return evaluate_in_container(options.given, inputs)


def _verify(options: argparse.Namespace) -> int:
    # imported here: --help must not wait for it
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
                f"{path}: a folder; name an evaluation.report.json; packs are verified by python -m invarlock.packer "
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
            say("  its limits are those of a preset, as the report says them; --preset FILE derives them again")
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
        raise argparse.ArgumentTypeError(f"{text!r} is no share, a number above 0 and up to 1")
    return value


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:12]) < 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)
