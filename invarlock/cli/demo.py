"""``invarlock demo``: two small checkpoints to try InvarLock with, made from a model that ships with it."""

from __future__ import annotations

import argparse
import lzma
import shlex
import sys
from pathlib import Path

from invarlock.boundary import Commands
from invarlock.catalog.shipped import shipped_suites
from invarlock.cli.parsing import MEASURING, NO_REPORTS, check_installed
from invarlock.errors import UsageError
from invarlock.loading_pytorch import loading_pytorch
from invarlock.output import say
from invarlock.problems import Code
from invarlock.stage_line import StageLine
from invarlock.stages import listening, stage
from invarlock.staging import check_can_be_made, staging_folder

SPEC = "packed_rtn:4:32"
FAULT = "stale_scale"
MODEL = "qwen2-tiny"


def add_demo(subparsers: Commands) -> None:
    """Add the command ``demo``."""
    parser = subparsers.add_parser(
        "demo",
        help="write a small model, a 4-bit copy of it, and a text, to try out evaluate",
        epilog=NO_REPORTS,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="new folder for base, w4a16 and heldout.txt")
    parser.add_argument("--fault", action="store_true", help="break the 4-bit model: its scales do not match its codes")
    parser.set_defaults(command=_demo)


def _demo(options: argparse.Namespace) -> int:
    check_installed(*MEASURING)
    folder: Path = options.folder
    if folder.exists() or folder.is_symlink():
        raise UsageError("already exists; choose another folder", code=Code.OUTPUT_EXISTS, where=str(folder))
    check_can_be_made(folder, "FOLDER")
    with StageLine(sys.stderr) as line, listening(line):
        _make(folder, fault=options.fault)
    base, subject, text = (shlex.quote(str(folder / name)) for name in ("base", "w4a16", "heldout.txt"))
    say(
        f"{folder / 'base'}: a model with about one million parameters",
        f"{folder / 'w4a16'}: the same model, its weights packed in 4 bits{', and broken' if options.fault else ''}",
        f"{folder / 'heldout.txt'}: a text that the model was not trained on",
        f"compare them with: invarlock evaluate --baseline {base} --subject {subject} --text {text} --seq-len 128 "
        f"--output-dir {shlex.quote(str(folder / 'out'))}",
    )
    return 0


def _make(folder: Path, *, fault: bool) -> None:
    with loading_pytorch():
        # imported here to keep --help fast
        from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
        from invarlock.checkpoints.editing import apply_edits
        from invarlock.checkpoints.snapshots import make_snapshot
        from invarlock.faults.injection import inject_fault
    embedded = shipped_suites() / "embedded"
    with staging_folder(folder) as staging, stage("writing checkpoints"):
        base, subject = staging / "base", staging / "w4a16"
        make_snapshot(embedded / MODEL, embedded / "tokenizer", base, None)
        if fault:
            inject_fault(FAULT, base, subject, {})
        else:
            spec = parse_edit_spec(SPEC)
            assert isinstance(spec, EditSpec)
            apply_edits(base, {subject: spec})
        text = lzma.decompress((embedded / "text" / "austen_heldout.txt.xz").read_bytes())
        (staging / "heldout.txt").write_bytes(text)
        staging.rename(folder)
