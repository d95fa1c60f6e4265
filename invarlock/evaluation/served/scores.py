"""Wraps a server's answers as the scores from which fidelity is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from invarlock.evaluation.served.answers import Answer

# Larger than every token id.
ANY_TOKEN = 1 << 31


@dataclass(frozen=True)
class ServedScores:
    """The answers about one or several windows, as ``invarlock.measuring.fidelity.TokenScores``."""

    answers: Sequence[Answer]

    @property
    def vocabulary(self) -> int:
        """Return an upper bound of the ids: a token that the server does not give is unknown, not absent."""
        return ANY_TOKEN

    def of_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of tokens; minus infinity for tokens that the server did not give."""
        return torch.stack([_of(answer, part)[0] for answer, part in zip(self.answers, ids, strict=True)])

    def known(self, ids: torch.Tensor) -> torch.Tensor:
        """Return whether the server gave the log-probability of each token, and certainly of that token."""
        return torch.stack([_of(answer, part)[1] for answer, part in zip(self.answers, ids, strict=True)])

    def most_probable(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-probabilities and ids of the most probable tokens that the server gave, padded with -1."""
        logprobs, ids = [], []
        for answer in self.answers:
            order = np.argsort(-answer.logprobs, axis=1, kind="stable")[:, :count]
            logprobs.append(torch.from_numpy(np.take_along_axis(answer.logprobs, order, axis=1)).float())
            ids.append(torch.from_numpy(np.take_along_axis(answer.ids, order, axis=1)))
        return torch.stack(logprobs), torch.stack(ids)

    def largest(self) -> torch.Tensor:
        """Return the log-probability of the most probable token."""
        return torch.stack([torch.from_numpy(answer.logprobs.max(axis=1)).float() for answer in self.answers])


def _of(answer: Answer, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probabilities of ids (positions, n) in one window, and whether each is known."""
    wanted = ids.cpu().numpy()
    positions = np.arange(len(wanted))[:, None] * np.int64(ANY_TOKEN)
    given = answer.ids >= 0
    keys = (answer.ids + positions)[given]
    logprobs, exact = answer.logprobs[given], answer.exact[given]
    # if several texts may stand for a token, prefer a certain one, then the most probable
    order = np.lexsort((-logprobs, ~exact, keys))
    keys, logprobs, exact = keys[order], logprobs[order], exact[order]
    places = np.searchsorted(keys, wanted + positions).clip(max=len(keys) - 1)
    found = keys[places] == wanted + positions
    values = np.where(found, logprobs[places], -np.inf)
    return torch.from_numpy(values).float(), torch.from_numpy(found & exact[places])
