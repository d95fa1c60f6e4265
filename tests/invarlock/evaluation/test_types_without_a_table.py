"""A checkpoint of a type without a table of module names is judged like one whose names a table knows."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import pytest

from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.checkpoints.editing import apply_edits
from invarlock.digests import sha256_hex
from invarlock.evaluation.pair import evaluate_pair
from invarlock.evaluation.pair_request import PairRequest
from invarlock.jsonio import dump_json
from invarlock.reports.rendering import render_report
from invarlock.reports.verification import verify_report

EMBEDDED = Path(__file__).parents[3] / "suites" / "embedded"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "austen.txt"
    path.write_bytes(lzma.decompress((EMBEDDED / "text" / "austen_heldout.txt.xz").read_bytes())[:60_000])
    return path


def as_type(model_type: str, folder: Path) -> Path:
    """Return mistral-tiny under another type that computes the same."""
    shutil.copytree(EMBEDDED / "mistral-tiny", folder)
    for file in (EMBEDDED / "tokenizer").iterdir():
        shutil.copy(file, folder)
    config = json.loads((folder / "config.json").read_text())
    names = {"mistral": "MistralForCausalLM", "ministral": "MinistralForCausalLM"}
    config |= {"model_type": model_type, "architectures": [names[model_type]], "sliding_window": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def judged(model_type: str, spec: str, text: Path, folder: Path) -> Any:
    base = as_type(model_type, folder / "base")
    edit = parse_edit_spec(spec)
    assert isinstance(edit, EditSpec)
    apply_edits(base, {folder / "subject": edit})
    request = PairRequest(
        base, folder / "subject", text, seq_len=64, preview_windows=4, final_windows=16, device="cpu", edit_label="rtn"
    )
    return evaluate_pair(request, folder / "out")


@pytest.mark.parametrize(("spec", "verdict"), [("quant_rtn:8:32:all", "PASS"), ("magnitude_prune:0.9:ffn", "FAIL")])
def test_it_is_judged_by_the_same_numbers(spec: str, verdict: str, text: Path, tmp_path: Path) -> None:
    known, found = (judged(kind, spec, text, tmp_path / kind) for kind in ("mistral", "ministral"))

    assert found["assurance"]["verdict"] == known["assurance"]["verdict"] == verdict
    assert found["evaluation_windows"] == known["evaluation_windows"]
    assert found["primary_metric"] == known["primary_metric"]
    for guard in ("spectral", "rmt", "variance"):
        assert found[guard] == known[guard]
    assert [known["invariants"]["raw"][side]["modules_known_by"] for side in ("baseline", "subject")] == ["table"] * 2
    assert [found["invariants"]["raw"][side]["modules_known_by"] for side in ("baseline", "subject")] == ["names"] * 2
    assert verify_report(found) == []
    page = render_report(found, sha256_hex(dump_json(found))).decode()
    assert "no table has model_type ministral" in page
    assert "modules known by" not in render_report(known, sha256_hex(dump_json(known))).decode()
