"""Runs of a few cases on a cluster, and the comparison of their packs with the pack of a single-machine run."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pack_documents import comparable_documents
from processes import ROOT, SMALL, Done, packer, start_pytest, succeed

# five subjects on two models
SELECT = "(mistral and (noop or prune_50 or ve_mlp)) or (qwen2 and (nan_injection or noop))"


def start_run(directory: Path, *arguments: object, **variables: str) -> Any:
    given = ("suites", "-k", SELECT, "--determinism", "strict", "--output-dir", directory, *arguments)
    return start_pytest(*given, env={**SMALL, "DRIFT_CALIBRATION_RUNS": "2", **variables}, own_group=True)


def check_same(done: Done, directory: Path, undivided: Path) -> None:
    succeed(done)
    check_pack(directory / "evidence_pack", undivided)


def check_pack(pack: Path, undivided: Path) -> None:
    assert comparable_documents(pack) == comparable_documents(undivided)
    assert {str(path.relative_to(pack)) for path in pack.rglob("*")} == {
        str(path.relative_to(undivided)) for path in undivided.rglob("*")
    }
    succeed(packer("verify", pack, "--strict", "--require-pass", "--quiet"))


def outcomes_of(directory: Path) -> dict[str, bytes]:
    """Return the stored outcomes of a run's finished cases, by file name."""
    return {path.name: path.read_bytes() for path in (directory / "state/outcomes").glob("*.json")}


def piece_sessions() -> list[int]:
    """Return the ids of the processes in which nodes run pieces."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if b"/invarlock-piece-" in line and os.fsencode(ROOT) in line:
                found.append(int(path.parent.name))
    return found


def piece_of(session: int) -> Any:
    """Return the content of the piece file of a process that runs a piece."""
    variables = Path(f"/proc/{session}/environ").read_bytes().split(b"\0")
    piece = next(value for value in variables if value.startswith(b"PACK_PIECE="))
    return json.loads(Path(os.fsdecode(piece.removeprefix(b"PACK_PIECE="))).read_bytes())


def case_sessions() -> list[int]:
    """Return the ids of the processes in which nodes run cases, without those that only measure a baseline."""
    found = []
    for session in piece_sessions():
        with contextlib.suppress(OSError, ValueError, StopIteration):
            if not piece_of(session)["baseline_only"]:
                found.append(session)
    return found


def wait_for(happened: Callable[[], object], process: Any, seconds: float = 600.0) -> None:
    def is_over() -> bool:
        if happened():
            return True
        assert process.poll() is None, process.communicate()[0]
        return False

    wait_until(is_over, seconds)


def wait_until(happened: Callable[[], object], seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.2)
