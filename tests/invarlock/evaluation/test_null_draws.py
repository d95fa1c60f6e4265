"""The windows of null runs: few of each text, other ones for each run, and none that only show drift."""

from __future__ import annotations

from pathlib import Path

import pytest
from shipped_checkpoints import EMBEDDED, write_baseline

from invarlock.digests import sha256_hex
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.models import Placement
from invarlock.evaluation.null_runs import null_draws
from invarlock.evaluation.request import Setup
from invarlock.evaluation.text import read_embedded_text

TEXT = EMBEDDED / "text" / "austen_heldout.txt.xz"


@pytest.mark.parametrize(("of_a_case", "scored"), [(40, 16), (16, 16), (9, 9)])
def test_a_null_run_scores_at_most_sixteen_windows_of_a_text(of_a_case: int, scored: int, tmp_path: Path) -> None:
    folder = tmp_path / "baseline"
    write_baseline("mistral-tiny", folder)
    plan = WindowPlan(seq_len=32, preview=4, final=of_a_case, seed=0, batch_size=4)
    text = read_embedded_text(TEXT, sha256_hex(TEXT.read_bytes()))
    setup = Setup("m", None, {}, Placement("cpu"), plan, text)

    draws = null_draws(folder, setup, [1, 2])

    assert [len(draw.final.ids) for draw in draws.values()] == [scored, scored]
    assert [draw.preview.ids for draw in draws.values()] == [(), ()]
    assert draws[1].final.ids != draws[2].final.ids
    assert setup.dataset("", [])["windows"] == {"preview": 4, "final": of_a_case}
