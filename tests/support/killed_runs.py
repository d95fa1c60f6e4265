"""Functions to compare a resumed run with an undisturbed one, and to find what a killed run leaves behind."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import filelock


def contents(run: Path) -> dict[str, Any]:
    """Return the reports of a run's pack and the documents derived from them, without times."""
    pack = run / "evidence_pack"
    found = {}
    for path in sorted(pack.glob("reports/**/*.json")):
        document = json.loads(path.read_bytes())
        if path.name == "evaluation.report.json":
            document.pop("telemetry")
            document["baseline_ref"].pop("report_sha256")
        if path.name in ("evaluation.report.json", "edit_metadata.json", "ve_probe.json"):
            found[str(path.relative_to(pack))] = document
    verdict = json.loads((pack / "results/final_verdict.json").read_bytes())
    for record in verdict["records"]:
        record.pop("report_sha256")
    verdict.pop("timestamp")
    return {**found, "verdict": verdict}


def group(leader: int) -> list[int]:
    """Wait up to 10 seconds for a process group to end, and return the ids of the processes that are still alive."""
    deadline = time.monotonic() + 10
    while found := [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if in_group(entry, leader)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return found


def in_group(entry: Path, leader: int) -> bool:
    try:
        state, _, pgrp = (entry / "stat").read_text().rsplit(") ", 1)[1].split()[:3]
    except OSError:
        return False
    return int(pgrp) == leader and state != "Z"


def leftovers(directory: Path) -> list[Path]:
    """Return the subjects, staging folders, half-written files, tickets and held locks in a run's directory."""
    found = [
        path
        for path in directory.rglob("*")
        if (path.name.startswith(".") and path.name != ".gitattributes") or path.suffix == ".ticket"
    ]
    found += directory.glob("*/models/*")
    for path in directory.rglob("*.lock"):
        lock = filelock.FileLock(path)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            found.append(path)
        else:
            lock.release()
    return found
