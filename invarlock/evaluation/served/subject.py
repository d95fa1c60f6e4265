"""Measures the losses and the fidelity of a served subject from its server's answers; its files are not available."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from invarlock.evaluation.kept_tokens import SubjectObserver, most_probable_tokens
from invarlock.evaluation.measurements import Comparison
from invarlock.evaluation.scoring import Observer, Scores, stored_loss
from invarlock.evaluation.served.answers import Answer
from invarlock.evaluation.served.client import unusable
from invarlock.evaluation.served.scores import ServedScores
from invarlock.evaluation.served.server import Served
from invarlock.evaluation.windows import Tokens
from invarlock.stages import counted, part

# If at this share of positions the server's most probable token is the baseline's of the next position, its answers are
# one position late. For correct answers the share is a few percent.
LATE_SHARE = 0.5
# Kernels sum in another order if the server's batch has another size; in bfloat16 this changes log-probabilities by
# hundredths of a nat.
ANOTHER_ANSWER_NATS = 0.1


@dataclass(frozen=True)
class ServedMeasurement:
    """The measurements of a served subject: its losses, its fidelity, and the description of its server."""

    served: dict[str, Any]
    preview: Scores
    final: Scores
    fidelity: dict[str, Any]
    seconds: dict[str, float]


def compare_served(served: Served, comparison: Comparison) -> ServedMeasurement:
    """Return the measurements of a served subject on the windows of its baseline.

    Raises:
        EvaluationError: if the server cannot be reached, or its answers cannot be used.
    """
    started = time.perf_counter()
    baseline, draw, final = comparison.baseline, comparison.draw, comparison.draw.final
    observer = SubjectObserver(baseline.kept, baseline.vocabulary, final.positions, final.slices)
    with part("preview windows", len(draw.preview.tokens)):
        preview, _ = _score(served, draw.preview.tokens, None)
    with part("final windows", len(final.tokens)):
        scores, answers = _score(served, final.tokens, observer)
    _check_in_time(served, answers, most_probable_tokens(baseline.kept))
    repeated = _ask_again(served, final.tokens, answers)
    fewest = min(answer.fewest for answer in answers)
    fidelity = observer.finish()
    document = {**served.document(fewest), "asked_again": repeated}
    fidelity["compared"]["top_k"] = document["top_k"]
    seconds = {"load": 0.0, "score": time.perf_counter() - started}
    return ServedMeasurement(document, preview, scores, fidelity, seconds)


@dataclass(frozen=True)
class _Kept:
    """The kept part of an answer: at each position the log-probability of the text's token and the most probable token.

    ``fewest`` is the smallest number of tokens given at a position.
    """

    target: np.ndarray[Any, np.dtype[np.float64]]
    ids: np.ndarray[Any, np.dtype[np.int64]]
    fewest: int


def _score(served: Served, tokens: Tokens, observer: Observer | None) -> tuple[Scores, list[_Kept]]:
    losses, kept = [], []
    for index, answer in enumerate(counted(served.ask(tokens), "windows", len(tokens))):
        losses.append(stored_loss(-float(answer.target.mean())))
        kept.append(_kept(answer))
        if observer is not None:
            targets = torch.from_numpy(tokens[index : index + 1, 1:]).long()
            scores = ServedScores([answer])
            following = scores.of_tokens(targets[..., None])[..., 0]
            observer.observe((index, index + 1), (0, targets.shape[1]), scores, following)
    return Scores(tuple(losses), 1), kept


def _kept(answer: Answer) -> _Kept:
    first = answer.logprobs.argmax(axis=1)
    return _Kept(answer.target, np.take_along_axis(answer.ids, first[:, None], axis=1)[:, 0], answer.fewest)


def _ask_again(served: Served, tokens: Tokens, answers: list[_Kept]) -> dict[str, Any]:
    """Return how far a second answer about a few windows is from the first: the largest of a window, nats per token.

    Raises:
        EvaluationError: if the answers differ, because the server invents them or replaced its model meanwhile.
    """
    chosen = sorted({0, len(answers) // 2, len(answers) - 1})
    again = served.ask(tokens[chosen])
    differences = [
        float(np.abs(answer.target - answers[index].target).mean()) for index, answer in zip(chosen, again, strict=True)
    ]
    largest = max(differences)
    if largest > ANOTHER_ANSWER_NATS:
        raise unusable(
            served.client.base,
            f"it answers differently when a window is sent again, by {largest:.3g} nats a token (at most "
            f"{ANOTHER_ANSWER_NATS:g}); the served model must not change, and its answers must not be random",
        )
    return {"windows": len(chosen), "largest_difference": stored_loss(largest)}


def _check_in_time(served: Served, answers: list[_Kept], baseline: np.ndarray[Any, Any]) -> None:
    """Refuse answers that are one position late.

    For models without BOS, llama-cpp-python's server gives the probability of each token after itself (its issue 1983).
    The losses would look like those of a broken model.
    """
    own = np.stack([answer.ids for answer in answers])
    first = baseline.reshape(own.shape)
    in_time, late = (own == first).mean(), (own[:, :-1] == first[:, 1:]).mean()
    if late > LATE_SHARE and late > 2 * in_time:
        raise unusable(
            served.client.base,
            f"its log-probabilities are one position late: {late:.0%} of its most probable tokens are the baseline's "
            "of the next position; llama-cpp-python's server does that for models without BOS",
        )
