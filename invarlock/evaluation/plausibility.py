"""Checks whether a baseline's losses are good enough to judge a subject by."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel

from invarlock.errors import EvaluationError
from invarlock.evaluation.scoring import score_windows
from invarlock.evaluation.windows import Tokens
from invarlock.problems import Code

# A model that has learned nothing has a perplexity equal to its vocabulary size. Trained models have 0.1 % to 10 % of
# that, and character-level models up to a quarter.
MOST_OF_CHANCE = 0.5
# A model trained with a first token (BOS) predicts much worse without it (Gemma 3 270M: perplexity 368 instead of 57,
# 1.9 nats per token). A model trained without BOS gains nothing from it.
MOST_GAIN_BY_BOS = 0.5
WINDOWS_WITH_BOS = 4


def check_plausible(losses: Sequence[float | None], rows: int, most: float) -> None:
    """Refuse a baseline whose losses cannot support a verdict.

    Raises:
        EvaluationError: when a loss is not finite, or the perplexity is close to chance.
    """
    finite = [loss for loss in losses if loss is not None]
    if len(finite) < len(losses):
        raise EvaluationError(
            "the baseline's own loss is not finite; it cannot be compared with", code=Code.BASELINE_IMPLAUSIBLE
        )
    mean = sum(finite) / len(finite)
    if mean > math.log(most * rows):
        perplexity = f"{math.exp(mean):.0f}" if mean < 50 else f"exp({mean:.0f})"
        raise EvaluationError(
            f"the baseline's perplexity is {perplexity}, and a guess among the {rows} tokens of its vocabulary has "
            f"{rows}; is it trained, its tokenizer its own, and the text in a language that it knows?",
            code=Code.BASELINE_IMPLAUSIBLE,
        )


def check_begins_with_bos(model: PreTrainedModel, tokens: Tokens, rows: int) -> None:
    """Refuse a baseline whose tokenizer omits the first token that the model was trained with.

    If no window begins with the config's BOS token, a few windows are scored again with it.

    Args:
        model: the baseline.
        tokens: the windows, shape (windows, seq_len).
        rows: the number of rows of the embedding.

    Raises:
        EvaluationError: when the model predicts the same tokens far better after BOS; names both perplexities.
    """
    bos = model.config.get_text_config().bos_token_id
    if type(bos) is not int or not 0 <= bos < rows or (tokens[:, 0] == bos).all():
        return
    # the last token is dropped to make room for BOS: the model may have no position left
    some = tokens[:WINDOWS_WITH_BOS, :-1]
    behind = np.insert(some, 0, bos, axis=1)
    without, with_bos = (_mean(score_windows(model, windows, len(some)).losses) for windows in (some, behind))
    if without is None or with_bos is None or without - with_bos < MOST_GAIN_BY_BOS:
        return
    raise EvaluationError(
        f"the baseline's perplexity is {math.exp(min(without, 50)):.0f}, and {math.exp(with_bos):.0f} where a text "
        f"begins with its BOS token {bos}, which its tokenizer leaves out; set add_bos_token in tokenizer_config.json",
        code=Code.BASELINE_IMPLAUSIBLE,
    )


def _mean(losses: Sequence[float | None]) -> float | None:
    finite = [loss for loss in losses if loss is not None]
    return sum(finite) / len(finite) if len(finite) == len(losses) else None
