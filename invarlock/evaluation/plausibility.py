"""Whether a baseline's own losses can be a basis for a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence

from invarlock.errors import EvaluationError

# A model that knows nothing has a perplexity of its vocabulary; trained ones have 0.1 % to 10 % of it, and models of
# single characters up to a quarter.
MOST_OF_CHANCE = 0.5


def check_plausible(losses: Sequence[float | None], rows: int, most: float) -> None:
    """Refuse a baseline whose losses cannot be a basis for a verdict.

    Raises:
        EvaluationError: when one is not finite, or the perplexity is near that of chance.
    """
    finite = [loss for loss in losses if loss is not None]
    if len(finite) < len(losses):
        raise EvaluationError("the baseline's own loss is not finite; it cannot be compared with")
    mean = sum(finite) / len(finite)
    if mean > math.log(most * rows):
        perplexity = f"{math.exp(mean):.0f}" if mean < 50 else f"exp({mean:.0f})"
        raise EvaluationError(
            f"the baseline's perplexity is {perplexity}, and a guess among the {rows} tokens of its vocabulary has "
            f"{rows}; is it trained, its tokenizer its own, and the text in a language that it knows?"
        )
