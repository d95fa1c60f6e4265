"""``invarlock records import``: converting results of evaluation tools to the records that reports contain."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from invarlock.errors import UsageError
from invarlock.output import say
from invarlock.problems import Code

if TYPE_CHECKING:
    from invarlock.boundary import Commands


def add_records_command(subparsers: Commands, exit_codes: str) -> None:
    """Add the command ``records`` with ``import``."""
    parser = subparsers.add_parser("records", help="import task results of lm-evaluation-harness or Inspect AI")
    inner = parser.add_subparsers(required=True, metavar="COMMAND")
    importing = inner.add_parser(
        "import",
        help="read and pair the results of baseline and subject",
        description="Read the samples of lm-evaluation-harness (lm_eval --log_samples) or the logs of Inspect AI for "
        "baseline and subject, check that both are results on the same samples, and write scores and digests, without "
        "prompts and answers, for invarlock evaluate --records.",
        epilog=exit_codes,
    )
    for side in ("baseline", "subject"):
        importing.add_argument(
            f"--{side}",
            type=Path,
            nargs="+",
            required=True,
            metavar="PATH",
            help=f"results of the {side}: samples_*.jsonl, .eval or .json files, or folders of them",
        )
    importing.add_argument(
        "--metric", metavar="NAME[,FILTER]", help="metric that scores a sample; default: the task's first"
    )
    importing.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="file for the records; must not exist"
    )
    importing.set_defaults(command=_import)


def _import(options: argparse.Namespace) -> int:
    # imported here to keep --help fast
    from invarlock.jsonio import dump_json
    from invarlock.named_files import check_result_file, is_taken, write_result
    from invarlock.task_records.importing import import_records
    from invarlock.task_records.record import ChosenMetric

    if is_taken(options.output):
        raise UsageError("exists; name another file with --output", code=Code.OUTPUT_EXISTS, where=str(options.output))
    check_result_file(options.output, "--output")
    document = import_records(options.baseline, options.subject, ChosenMetric.parse(options.metric))
    write_result(options.output, dump_json(document), "--output")
    for row in document["tasks"]:
        means = [sum(row[side]["scores"]) / len(row["samples"]) for side in ("baseline", "subject")]
        say(f"{row['task']}, {row['metric']}: {len(row['samples'])} samples, {means[0]:.4g} to {means[1]:.4g}")
    say(f"records: {options.output}")
    return 0
