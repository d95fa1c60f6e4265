"""A process that examines reports of a pack for another one, which started it; ``report_pool`` has the other end.

It reads the files itself, through the descriptor of the pack's folder that it was given: the bytes that are hashed are
the bytes that are parsed, and each file is read by one process only.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from invarlock.packer.contents import SealedFiles
from invarlock.packer.pack_folder import FileState, PackFolder
from invarlock.packer.report_claims import Baseline, Examined, Plan, examine_report

from invarlock.catalog.tuned_params import TunedParams
from invarlock.verdict.compiling import Planned


@dataclass(frozen=True)
class Setting:
    """What all reports of a model are held against; the cases planned come with the reports."""

    scenarios: Mapping[str, Mapping[str, Any]]
    tuned: TunedParams | None
    baseline: Baseline | None


@dataclass(frozen=True)
class Batch:
    """Reports to examine: their paths, their cases, and the digests of them and of the files beside them."""

    paths: tuple[str, ...]
    cases: Mapping[str, Planned]
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What was found of a batch, in its order, and which files were read in which state, with their problems."""

    examined: tuple[Examined, ...]
    read: Mapping[str, FileState]
    problems: tuple[str, ...]


def main(folder_descriptor: int, connection_descriptor: int) -> None:
    """Answer batches until the other end is closed."""
    # Ctrl-C at a terminal reaches every process; the one that was asked ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Connection(connection_descriptor) as connection:
        setting = Setting({}, None, None)
        while True:
            try:
                message: Setting | Batch = connection.recv()
                if isinstance(message, Setting):
                    setting = message
                else:
                    connection.send(_answer(folder_descriptor, setting, message))
            except (EOFError, BrokenPipeError, ConnectionResetError):
                return


def _answer(folder_descriptor: int, setting: Setting, batch: Batch) -> Answer | Exception:
    folder = PackFolder(Path(), folder_descriptor)
    files = SealedFiles(folder, batch.digests)
    plan = Plan(batch.cases, setting.scenarios, setting.tuned)
    try:
        examined = tuple(examine_report(files, path, setting.baseline, plan) for path in batch.paths)
    except Exception as error:  # noqa: BLE001  raised again by who asked
        error.add_note(traceback.format_exc())
        return error
    finally:
        files.close()
        folder.close()
    return Answer(examined, folder.read_states, tuple(files.problems))
