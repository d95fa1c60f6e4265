"""Loading a checkpoint as a model and its tokenizer, from disk only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from invarlock.errors import EvaluationError

# transformers leaves these untyped, or typed without output_loading_info
_LOGGING: Any = logging
_AUTO_MODEL: Any = AutoModelForCausalLM

_LOGGING.set_verbosity_error()
_LOGGING.disable_progress_bar()


@dataclass(frozen=True)
class Placement:
    """Where and how models are loaded: float32 on a CPU, the stored dtype on a GPU."""

    device: str

    @property
    def dtype(self) -> torch.dtype | str:
        return torch.float32 if self.device == "cpu" else "auto"

    @property
    def dtype_name(self) -> str:
        return "float32" if self.device == "cpu" else "stored"


def load_model(folder: Path, placement: Placement, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Return the causal language model of a checkpoint, in evaluation mode.

    Raises:
        EvaluationError: when it cannot be loaded, or a tensor is missing, unexpected or of another shape; such a
            model would be measured with random weights.
    """
    try:
        model, info = _AUTO_MODEL.from_pretrained(
            folder,
            dtype=placement.dtype,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        line = " ".join(str(error).replace(str(folder), folder.name).split())
        raise EvaluationError(f"the model cannot be loaded ({line[:200]})") from None
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            names = sorted(str(key) for key in info[kind])
            raise EvaluationError(
                f"the model cannot be loaded: {len(names)} {kind.replace('_', ' ')}, such as {names[0]}"
            )
    placed: PreTrainedModel = model.to(placement.device).eval()
    return placed


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a checkpoint.

    A ``tokenizer.json`` is read as it stands. The class that a library has for the model type could add tokens to it,
    and others with its next version.

    Raises:
        EvaluationError: when it cannot be loaded.
    """
    loader: Any = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
    try:
        tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        line = " ".join(str(error).replace(str(folder), folder.name).split())
        raise EvaluationError(f"the tokenizer of {folder.name} cannot be loaded ({line[:200]})") from None
    return tokenizer
