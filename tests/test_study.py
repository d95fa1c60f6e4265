"""A slice of ``benchmarks/study.py``, so that the study can be made again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from processes import python, succeed

ROOT = Path(__file__).parents[1]
SLICE = ("NF4", "values rotated", "LoRA merged: rank 4 of q and v, 20 steps", "nibbles swapped: 4 bit, all")


@pytest.mark.slow
def test_a_slice_of_the_study_is_measured_once_and_judged_again_from_its_reports(tmp_path: Path) -> None:
    given = (ROOT / "benchmarks/study.py", "--model", "qwen2-tiny", "--workers", "1", "--final", "16")
    only = [word for label in SLICE for word in ("--only", label)]

    def rows(file: str) -> list[dict[str, Any]]:
        places = ("--reports", tmp_path / "reports", "--json", tmp_path / file)
        done = succeed(python(*given, *only, *places, env={**os.environ, "OMP_NUM_THREADS": "1"}))
        assert "3 harmless subjects, 1 faults" in done.stdout
        return list(json.loads((tmp_path / file).read_bytes()))

    first, second = rows("first.json"), rows("second.json")

    assert len(list((tmp_path / "reports/qwen2-tiny").iterdir())) == len(SLICE)
    assert first == second
    found = {row["kind"]: row for row in first}
    assert [kind for kind, row in found.items() if row["seen"] == "gate"] == ["nibbles swapped"]
    assert found["nibbles swapped"]["measurable"]
    assert found["NF4"]["kl"] > found["NF4"]["null_kl"] > found["values rotated"]["kl"] > 0
    assert found["values rotated"]["equivalence"] == ["value_rotations"]
