"""``invarlock tune``: the strongest parameters of each edit that pass every gate."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from invarlock.boundary import Commands
from invarlock.catalog.shipped import shipped_suites
from invarlock.cli.parsing import EXIT_CODES, MEASURING, check_installed, positive, share
from invarlock.cli.text_options import slice_limits_of, texts_of
from invarlock.edits import EDITS
from invarlock.errors import Interrupted, InvarLockError
from invarlock.library_notices import notices_in
from invarlock.loading_pytorch import loading_pytorch
from invarlock.output import flush_output, say
from invarlock.reports.tiers import tier_names
from invarlock.stage_line import StageLine, StageLog
from invarlock.stages import listening

if TYPE_CHECKING:
    from invarlock.evaluation.tuned_model import GivenTexts

TUNED = tuple(edit.name for edit in EDITS if edit.ladder is not None)


def add_tune(subparsers: Commands) -> None:
    """Add the command ``tune``."""
    parser = subparsers.add_parser(
        "tune", help="find the strongest parameters of each edit that pass every gate with a margin", epilog=EXIT_CODES
    )
    parser.add_argument("model", metavar="MODEL", help="id of a model in the suites folder, or a model folder")
    parser.add_argument(
        "--suites",
        type=Path,
        default=shipped_suites(),
        metavar="FOLDER",
        help="suites folder; default: the shipped one",
    )
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
        "--margin", type=share, default=0.5, help="largest share of each limit that may be used; default: 0.5"
    )
    parser.add_argument("--draws", type=positive, default=3, metavar="N", help="number of window samples; default: 3")
    parser.add_argument(
        "--text",
        action="append",
        metavar="[NAME=]FILE",
        help="text to judge on instead of the suite's: plain text, .jsonl, .json or .parquet; all but .parquet may be "
        "compressed (.xz, .gz, .bz2); may be repeated with names: each text is then a slice, and every limit must hold "
        "with its margin in each slice",
    )
    parser.add_argument(
        "--text-field", default="text", metavar="NAME", help="field of a row that contains its text; default: text"
    )
    parser.add_argument(
        "--slice-limit",
        action="append",
        default=[],
        metavar="NAME.LIMIT=VALUE",
        help="a limit for one slice of --text instead of the tier's, such as code.ratio_limit=1.2",
    )
    for name, text in (
        ("--seq-len", "tokens per window"),
        ("--preview-windows", "preview windows of each text"),
        ("--final-windows", "final windows of each text"),
    ):
        parser.add_argument(name, type=positive, metavar="N", help=f"{text}; default: the suite's")
    parser.add_argument("--tier", choices=tier_names(), default="balanced", help="default: balanced")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="file of tuned parameters; created if missing, otherwise entries are added",
    )
    parser.set_defaults(command=_tune)


def _tune(options: argparse.Namespace) -> int:
    check_installed(*MEASURING)
    # imported here to keep --help fast
    from invarlock.evaluation.tuned_model import GivenTexts, check_tuning

    given = GivenTexts(
        None if options.text is None else texts_of(options.text),
        options.text_field,
        slice_limits_of(options.slice_limit),
        options.seq_len,
        options.preview_windows,
        options.final_windows,
    )
    scopes = [options.scope] if options.lowrank_scope is None else [options.scope, options.lowrank_scope]
    check_tuning(options.suites, options.model, options.output, scopes, options.model_id, given, options.tier)
    log = options.output.with_name(f"{options.output.name}.log")
    try:
        with notices_in(log) as terminal, StageLine(terminal) as line, listening(line, StageLog(log)):
            return _measured(options, given, line)
    except InvarLockError:
        # says itself what is wrong
        log.unlink(missing_ok=True)
        raise
    except KeyboardInterrupt:
        log.unlink(missing_ok=True)
        kept = f"the entries found so far are in {options.output}; " if options.output.exists() else ""
        again = shlex.join(["invarlock", *options.given])
        raise Interrupted(f"interrupted; {kept}begin again with: {again}") from None


def _measured(options: argparse.Namespace, given: GivenTexts, line: StageLine) -> int:
    def show(text: str) -> None:
        line.clear()
        say(text)
        # standard error, which also has lines, is not buffered
        flush_output()

    with loading_pytorch():
        # imported here because it imports PyTorch
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
        given=given,
        show=show,
    )
