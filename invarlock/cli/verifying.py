"""``invarlock verify``: packs or reports are verified, offline."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from invarlock.boundary import Commands
from invarlock.cli.parsing import EXIT_CODES
from invarlock.errors import InvarLockError, UsageError
from invarlock.folding import fold_problems
from invarlock.output import say, say_json
from invarlock.packer.cli import add_verify_options
from invarlock.packer.format.checksums import MANIFEST_NAME
from invarlock.packer.format.pack_folder import TAR_SUFFIXES
from invarlock.problems import Code, ExitCode

REPORT = "evaluation.report.json"
# Options of one kind: their names on the command line and in the namespace.
OF_PACKS = {
    "strict": "--strict",
    "report_assurance": "--report-assurance",
    "expected_fingerprint": "--expected-fingerprint",
    "trust_store": "--trust-store",
    "allow_unsigned": "--allow-unsigned",
    "at": "--at",
    "require_pass": "--require-pass",
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
        help="verify packs, or derive reports again from their raw measurements; offline",
        epilog=EXIT_CODES,
    )
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="pack folders, or evaluation.report.json files and folders of evaluate; the exit code is the worst",
    )
    add_verify_options(parser)
    of_reports = parser.add_argument_group("options of reports")
    of_reports.add_argument(
        "--baseline-report",
        type=Path,
        metavar="FILE",
        help="also compare the baseline's side with this report of the baseline",
    )
    of_reports.add_argument(
        "--preset",
        type=Path,
        metavar="FILE",
        help="also derive the limits again from this preset, which the reports refer to",
    )
    parser.set_defaults(command=_verify, defaults={name: parser.get_default(name) for name in OF_PACKS | OF_REPORTS})


def _verify(options: argparse.Namespace) -> int:
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
    # imported here to keep --help fast
    from invarlock.packer import commands

    options.packs = packs
    return commands.verify(options)


def report_at(path: Path) -> Path | None:
    """Return the report that a path names: a file that is no archive, or the report in a folder that is no pack."""
    if path.is_dir():
        found = path / REPORT
        return found if found.is_file() and not (path / MANIFEST_NAME).exists() else None
    named_report = path.suffix == ".json" or (path.exists() and not path.name.endswith((".zip", *TAR_SUFFIXES)))
    return path if named_report else None


def _verify_reports(reports: list[Path], options: argparse.Namespace) -> int:
    # imported here to keep --help fast
    from invarlock.jsonio import check_schema, dump_json, read_json
    from invarlock.named_files import check_result_file, write_result
    from invarlock.packer.format.in_pack import in_pack
    from invarlock.packer.runs.lone_pages import lone_page_problems
    from invarlock.packer.verify.report import join_envelopes, verify_envelope
    from invarlock.reports.preset_files import read_preset
    from invarlock.reports.presets import report_preset_problems
    from invarlock.reports.verification import verify_against_baseline, verify_baseline, verify_report

    if options.json_out is not None:
        check_result_file(options.json_out, "--json-out")
    preset = None if options.preset is None else read_preset(options.preset)
    baseline = None
    if options.baseline_report is not None:
        baseline = read_json(options.baseline_report)
        check_schema(baseline, "baseline_report", where=str(options.baseline_report))
    worst, lines, envelopes = ExitCode.OK, [], {}
    for path in reports:
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
            problems = list(lone_page_problems(path))
        lines.append(f"{path}: {'verified' if not problems else 'NOT VERIFIED'}")
        if preset is None and not problems and report["policy_provenance"]["preset_sha256"] is not None:
            lines.append(
                "  its limits come from a preset, as recorded in the report; pass --preset FILE to derive them again"
            )
        lines += [f"  {line}" for line in fold_problems(problems)]
        worst = max(worst, ExitCode.REPORT if problems else ExitCode.OK)
        envelopes[str(path)] = verify_envelope(path.name, report, "evaluate", problems)
    document = join_envelopes(envelopes)
    if options.json_out is not None:
        write_result(options.json_out, dump_json(document), "--json-out")
    if options.json:
        say_json(document)
    elif not options.quiet:
        say(*lines)
    return worst
