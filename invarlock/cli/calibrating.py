"""``invarlock calibrate``: limits of a tier are fitted to reports and null runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from invarlock.boundary import Commands
from invarlock.cli.parsing import EXIT_CODES
from invarlock.errors import UsageError
from invarlock.output import say
from invarlock.problems import Code
from invarlock.reports.tiers import tier_names


def add_calibrate(subparsers: Commands) -> None:
    """Add the command ``calibrate``."""
    parser = subparsers.add_parser(
        "calibrate",
        help="propose a tier's limits from reports and null runs",
        description="Fit the limits of a tier to the null runs and the reports of passing edits in a folder, and write "
        "the proposed limits next to the current ones. The tier itself is not changed. "
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
        raise UsageError(
            "already exists; give another file with --output", code=Code.OUTPUT_EXISTS, where=str(options.output)
        )
    check_result_file(options.output, "--output")
    proposal = fit_tier(options.folder, options.tier)
    check_schema(proposal, "tier_proposal", where=str(options.output))
    write_result(options.output, dump_json(proposal), "--output")
    for line in proposal_lines(proposal):
        say(line)
    say(f"proposal: {options.output}")
    return 0
