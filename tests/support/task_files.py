"""Results that lm-evaluation-harness and Inspect AI wrote, kept under ``tests/data/task_records``."""

from __future__ import annotations

import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEPT = Path(__file__).parents[1] / "data" / "task_records"


def restore_files(folder: Path) -> Path:
    """Write the kept files exactly as their tools wrote them and return the folder."""
    for path in sorted(path for path in KEPT.rglob("*") if path.is_file() and path.parent != KEPT):
        target = folder / path.relative_to(KEPT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".xz":
            target.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        else:
            shutil.copyfile(path, target)
    return folder


def samples_file(folder: Path, task: str) -> Path:
    """Return the path of a task's file of samples in an output folder of lm-evaluation-harness."""
    (found,) = folder.glob(f"samples_{task}_2*.jsonl")
    return found


def change_rows(path: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Change the rows of a file of samples, in place."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
