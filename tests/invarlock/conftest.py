"""Small random models of every architecture, saved by transformers. Tests read them and never change them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

TinyModels = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Return a function that makes a model of an architecture (shard size, dtype, tying) and returns its folder."""

    # imported here: most tests need no model, and the import takes seconds
    import torch
    import transformers
    from tiny_models import CONFIGS

    @cache
    def make(architecture: str, shard_bytes: int = 1 << 30, dtype: str = "float32", tied: bool | None = None) -> Path:
        config = CONFIGS[architecture](**({} if tied is None else {"tie_word_embeddings": tied}))
        torch.manual_seed(0)
        if architecture == "bert":
            model = transformers.BertForMaskedLM(config)
        else:
            model = transformers.AutoModelForCausalLM.from_config(config)
        folder = tmp_path_factory.mktemp(architecture)
        model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard_bytes)
        (folder / "tokenizer.json").write_text("{}\n")
        return folder

    return make
