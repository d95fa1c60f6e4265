"""A baseline that needs a first token (BOS) which its tokenizer leaves out is refused, and the message names it."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from shipped_checkpoints import EMBEDDED
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from invarlock.errors import EvaluationError
from invarlock.evaluation.comparison import measure_baseline
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.models import Placement
from invarlock.evaluation.text_files import read_local_text
from invarlock.evaluation.windows import draw_windows

TEXT = read_local_text(EMBEDDED / "text" / "austen_heldout.txt.xz").text[:60_000]
VOCABULARY, WIDTH, CPU = 1024, 64, Placement("cpu")
PLAN = WindowPlan(seq_len=64, preview=4, final=8, seed=0, batch_size=4)


@dataclass(frozen=True)
class Trained:
    """A folder with a model, the text in its tokens, and its BOS token."""

    folder: Path
    tokens: list[int]
    bos: int


def trained(folder: Path, noise: float) -> Trained:
    """Return a model that knows how frequent tokens are, with attention that looks at BOS alone where there is one.

    Without BOS it looks at all tokens alike, and what it then adds is noise of that size.
    """
    torch.manual_seed(0)
    tokenizer: Any = AutoTokenizer.from_pretrained(EMBEDDED / "tokenizer")
    tokens = list(tokenizer(TEXT)["input_ids"])
    counts = torch.bincount(torch.tensor(tokens), minlength=VOCABULARY).float()
    bos = int(counts.argmin())
    assert counts[bos] == 0
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=bos, eos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1e8}, tie_word_embeddings=False,
    )  # fmt: skip
    of_config: Any = AutoModelForCausalLM.from_config  # transformers gives it no type
    model = of_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
        embedding, attention = model.model.embed_tokens.weight, model.model.layers[0].self_attn
        embedding[:, 0] = 1.0
        embedding[:, 2:] = torch.randn(VOCABULARY, WIDTH - 2) / 4
        embedding[bos] = 0.0
        embedding[bos, 1] = 1.0
        # the slowest pair of rotary dimensions stands still over a window
        attention.q_proj.weight[WIDTH // 2 - 1, 0] = 20.0
        attention.q_proj.weight[WIDTH // 2 - 1, 1] = 20.0
        attention.k_proj.weight[WIDTH // 2 - 1, 1] = 20.0
        attention.v_proj.weight[2:, 2:] = torch.eye(WIDTH - 2)
        attention.o_proj.weight[2:, 2:] = noise * torch.eye(WIDTH - 2)
        model.lm_head.weight[:, 0] = ((counts + 0.5) / (counts + 0.5).sum()).log() / 3
        model.lm_head.weight[:, 2:] = torch.randn(VOCABULARY, WIDTH - 2) / 20
    model.save_pretrained(folder)
    for path in (EMBEDDED / "tokenizer").iterdir():
        shutil.copy(path, folder)
    return Trained(folder, tokens, bos)


def measured_loss(model: Trained, prefix: list[int]) -> float:
    draw = draw_windows(model.tokens, PLAN.seq_len, PLAN.preview, PLAN.final, PLAN.window_seed(1), prefix)
    losses = measure_baseline(model.folder, {1: draw}, PLAN, CPU, probe=False).draws[1].final.losses
    return sum(loss for loss in losses if loss is not None) / len(losses)


def test_a_model_that_needs_bos_is_refused_without_it_and_measured_with_it(tmp_path: Path) -> None:
    model = trained(tmp_path / "model", noise=40.0)

    with pytest.raises(
        EvaluationError, match=rf"begins with its BOS token {model.bos}, .*; set add_bos_token"
    ) as raised:
        measured_loss(model, [])

    assert "\n" not in str(raised.value)
    assert measured_loss(model, [model.bos]) < math.log(VOCABULARY / 2)


def test_a_model_that_does_not_need_bos_is_measured_without_it(tmp_path: Path) -> None:
    model = trained(tmp_path / "model", noise=0.0)

    assert measured_loss(model, []) < math.log(VOCABULARY / 2)
