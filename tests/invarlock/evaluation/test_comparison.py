import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.errors import EvaluationError
from invarlock.evaluation.checkpoint_facts import BaselineWeights, CheckpointFacts, measure_checkpoint
from invarlock.evaluation.comparison import compare, draw_runs, measure_baseline
from invarlock.evaluation.documents import baseline_document
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.models import Placement
from invarlock.evaluation.request import EvaluationRequest, Setup, StoredBaseline
from invarlock.evaluation.text_files import read_local_text
from invarlock.evaluation.tokenizer_facts import TokenizerFacts
from invarlock.jsonio import digest_document

EMBEDDED = Path(__file__).parents[3] / "suites/embedded"
TEXT = read_local_text(EMBEDDED / "text/austen_heldout.txt.xz")
PLAN, CPU = WindowPlan(seq_len=32, preview=2, final=4, seed=0, batch_size=4), Placement("cpu")
CONTEXT = {"suite": "t", "profile": "dev", "tier": "balanced", "determinism": "strict", "execution_mode": "host-bypass"}


def checkpoint(folder: Path) -> Path:
    """Copy an embedded model with its tokenizer."""
    shutil.copytree(EMBEDDED / "mistral-tiny", folder)
    for path in (EMBEDDED / "tokenizer").iterdir():
        shutil.copy(path, folder)
    return folder


def change_weights(folder: Path, change: dict[str, torch.Tensor]) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), **change}, path, metadata={"format": "pt"})


def test_a_baseline_that_predicts_no_better_than_chance_is_no_basis_for_a_verdict(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "untrained")
    generator = torch.Generator().manual_seed(0)
    weights = load_file(folder / "model.safetensors")
    change_weights(
        folder,
        {
            name: torch.randn(w.shape, generator=generator).mul(0.02).to(w.dtype)
            for name, w in weights.items()
            if w.ndim > 1
        },
    )
    draws = draw_runs(folder, TEXT, PLAN, [1])

    with pytest.raises(EvaluationError, match=r"perplexity is \d+, and a guess among the 1024 tokens"):
        measure_baseline(folder, draws, PLAN, CPU, probe=False)


def test_a_subject_that_cannot_run_is_not_scored_and_says_why(tmp_path: Path) -> None:
    base, subject = checkpoint(tmp_path / "base"), checkpoint(tmp_path / "subject")
    config = json.loads((subject / "config.json").read_bytes())
    (subject / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 3, "head_dim": 24}))
    draw = draw_runs(base, TEXT, PLAN, [1])
    setup = Setup("m", None, CONTEXT, CPU, PLAN, TEXT)
    document = baseline_document(setup, measure_baseline(base, draw, PLAN, CPU, probe=False))

    request = EvaluationRequest(
        setup, StoredBaseline(base, document, digest_document(document)), "case", 1, draw[1], CPU
    )
    measured = compare(subject, request.comparison())

    assert measured.final is None
    assert measured.not_scored is not None
    assert "\n" not in measured.not_scored


def test_a_subject_with_the_baselines_files_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, same = checkpoint(tmp_path / "base"), checkpoint(tmp_path / "same")
    other = checkpoint(tmp_path / "other")
    config = json.loads((other / "config.json").read_bytes())
    (other / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.5}))
    draw = draw_runs(base, TEXT, PLAN, [1])
    setup = Setup("m", None, CONTEXT, CPU, PLAN, TEXT)
    document = baseline_document(setup, measure_baseline(base, draw, PLAN, CPU, probe=False))
    stored = StoredBaseline(base, document, digest_document(document))
    comparison = EvaluationRequest(setup, stored, "case", 1, draw[1], CPU).comparison()
    read: list[str] = []

    def measure(
        folder: Path, tokenizer: TokenizerFacts | None, baseline: BaselineWeights | None = None
    ) -> CheckpointFacts:
        read.append(folder.name)
        return measure_checkpoint(folder, tokenizer, baseline)

    monkeypatch.setattr("invarlock.evaluation.comparison.measure_checkpoint", measure)
    measured = [compare(folder, comparison) for folder in (same, other)]

    assert read == ["other"]
    assert measured[0].facts == measured[1].facts == comparison.baseline.facts
    assert measured[0].digest == digest_checkpoint(base) != measured[1].digest
    assert measured[0].final is not None
    assert document["draws"][0]["final"]["logloss"] == list(measured[0].final.losses)
