"""``invarlock verify``: packs or reports are verified, offline."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from invarlock.boundary import Commands
from invarlock.errors import UsageError
from invarlock.folding import fold_problems
from invarlock.output import say, say_json
from invarlock.packer.cli import EXIT_CODES, add_verify_options
from invarlock.problems import Code, ExitCode, Problem

# Options of one kind: their names on the command line and in the namespace.
OF_PACKS = {
    "strict": "--strict",
    "report_assurance": "--report-assurance",
    "expected_fingerprint": "--expected-fingerprint",
    "trust_store": "--trust-store",
    "allow_unsigned": "--allow-unsigned",
    "at": "--at",
    "policy": "--policy",
    "receipt": "--receipt",
    "receipt_key": "--receipt-key",
    "timestamp_certificate": "--timestamp-certificate",
    "passphrase_env": "--passphrase-env",
}
OF_REPORTS = {"baseline_report": "--baseline-report", "preset": "--preset"}


def add_verify(commands: Commands) -> None:
    """Add the command ``verify``."""
    parser = commands.add_parser(
        "verify",
        help="verify packs or reports offline: recompute every number from the raw measurements",
        epilog=EXIT_CODES,
    )
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="pack folders; or evaluation.report.json files, or output folders of evaluate; of several, the exit code "
        "is the worst",
    )
    add_verify_options(parser)
    of_reports = parser.add_argument_group("options of reports")
    of_reports.add_argument(
        "--baseline-report",
        type=Path,
        metavar="PATH",
        help="also compare the baseline's numbers with this report of the baseline, or the report in this folder",
    )
    of_reports.add_argument(
        "--preset",
        type=Path,
        metavar="FILE",
        help="the preset that the reports refer to: also recompute their limits from it",
    )
    parser.set_defaults(command=_verify, defaults={name: parser.get_default(name) for name in OF_PACKS | OF_REPORTS})


def _verify(options: argparse.Namespace) -> int:
    # imported here to keep --help fast
    from invarlock.packer import commands
    from invarlock.packer.runs.lone_reports import check_kind, report_at

    for path in options.paths:
        check_kind(path, several=len(options.paths) > 1)
    reports = [found for path in options.paths if (found := report_at(path)) is not None]
    packs = [path for path in options.paths if report_at(path) is None]
    if packs and reports:
        raise UsageError(
            f"{packs[0]} is a pack and {reports[0]} is a report; verify them one after the other",
            code=Code.OPTIONS_CONFLICT,
        )
    foreign, kind = (OF_REPORTS, "a report") if packs else (OF_PACKS, "a pack")
    for name, option in foreign.items():
        if getattr(options, name) != options.defaults[name]:
            raise UsageError(
                f"{option}: an option of {kind}, but {options.paths[0]} is not one; leave it out",
                code=Code.OPTIONS_CONFLICT,
            )
    if reports:
        return _verify_reports(reports, options)
    options.packs = packs
    return commands.verify(options)


def _verify_reports(reports: list[Path], options: argparse.Namespace) -> int:
    # imported here to keep --help fast
    from invarlock.jsonio import dump_json
    from invarlock.named_files import check_result_file, write_result
    from invarlock.packer.runs.lone_reports import ReportReferences, verify_report_file
    from invarlock.packer.verify.report import join_envelopes, verify_envelope

    if options.json_out is not None:
        check_result_file(options.json_out, "--json-out")
    references = ReportReferences.read(options.baseline_report, options.preset)
    worst, lines, envelopes = ExitCode.OK, [], {}
    for path in reports:
        result = verify_report_file(path, references)
        if options.require_pass and result.verdict not in (None, "PASS"):
            words = f"the verdict is {result.verdict}, but PASS is required"
            required = Problem(Code.PASS_REQUIRED, path.name, "assurance.verdict", words)
            result = replace(result, problems=(required,))
        lines.append(f"{path}: {f'verified, verdict {result.verdict}' if result.holds else 'NOT VERIFIED'}")
        if options.preset is None and result.holds and result.report["policy_provenance"]["preset_sha256"] is not None:
            lines.append(
                "  its limits come from a preset, as recorded in the report; pass --preset FILE to recompute them"
            )
        lines += [f"  {line}" for line in fold_problems(result.problems)]
        worst = max(worst, result.code)
        envelopes[str(path)] = verify_envelope(path.name, result.report, "evaluate", result.problems)
        envelopes[str(path)]["results"][0]["verdict"] = result.verdict
    document = join_envelopes(envelopes)
    if options.json_out is not None:
        write_result(options.json_out, dump_json(document), "--json-out")
    if options.json:
        say_json(document)
    elif not options.quiet:
        say(*lines)
    return worst
