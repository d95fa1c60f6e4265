"""Measures fidelity: how far a subject's next-token distribution is from its baseline's.

An engine provides ``TokenScores`` for some positions: the log-probabilities of given tokens, and the most probable
tokens. Both sides use this interface: ``keep`` reads a baseline once and stores the tokens for the comparison, and
``diverge`` reads a subject's log-probabilities of the stored tokens.

All logarithms are natural. Let p be the baseline's distribution and q the subject's, each over the K kept tokens plus
one outcome for all other tokens. The divergence is sum(p ln(p / q) - p + q); in this form, float32 masses that do not
add up to one cancel. It equals the Kullback-Leibler divergence if K is the size of the vocabulary, and is a lower bound
of it otherwise (data processing inequality: Cover and Thomas 2006, "Elements of Information Theory", section 2.8).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch

# The mass of all other tokens is one minus the sum of the kept ones, which float32 logits give to about 1e-7. Smaller
# masses are raised to this value on both sides, so they contribute nothing and the divergence stays a lower bound.
REST_FLOOR = 1e-6
# The log-probability of a token that the subject's vocabulary lacks.
ABSENT = -100.0
# A token that a model rules out has a logit of minus infinity, and the difference of two infinities is NaN. This finite
# log-probability replaces it.
LEAST = -1e5
# A token of a smaller log-probability may have a probability that float32 rounds to zero; float64 is used then.
LEAST_OF_FLOAT32 = -80.0
# For this many of the most probable tokens, exp(r) - 1 is computed by expm1. For the others, 2^(r log2 e) - 1 takes a
# third of the time; its rounding errors, each 6e-8 of the token's probability, add up to less than 1e-8.
EXACT_TOKENS = 32
LOG2_E = 1.0 / math.log(2.0)


class TokenScores(Protocol):
    """The scores that an engine gives for some windows; all shapes are (windows, positions), all values float32."""

    @property
    def vocabulary(self) -> int:
        """Return the number of tokens in the distribution."""

    def of_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of tokens, given ids of shape (windows, positions, n) below ``vocabulary``.

        For a token whose log-probability is not known, any value that is not above its possible probability is valid.
        The caller may overwrite the result.
        """

    def known(self, ids: torch.Tensor) -> torch.Tensor | None:
        """Return whether the engine gives the log-probability of each token of ids; None if it gives all."""

    def most_probable(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return falling log-probabilities and ids of the most probable tokens, (windows, positions, count) each."""

    def largest(self) -> torch.Tensor:
        """Return the log-probability of the most probable token, (windows, positions)."""


@dataclass(frozen=True)
class LogitScores:
    """The scores from logits; ``logprobs`` has shape (windows, positions, vocabulary), float32."""

    logprobs: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor) -> LogitScores:
        """Return the scores from logits of any float dtype."""
        return cls(torch.log_softmax(logits.float(), dim=-1))

    @property
    def vocabulary(self) -> int:
        """Return the number of tokens in the distribution."""
        return self.logprobs.shape[-1]

    def of_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of tokens."""
        return self.logprobs.gather(-1, ids)

    def known(self, ids: torch.Tensor) -> torch.Tensor | None:
        """Return None, because logits cover every token."""
        return None

    def most_probable(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-probabilities and ids of the most probable tokens."""
        found = self.logprobs.topk(count, dim=-1)
        return found.values, found.indices

    def largest(self) -> torch.Tensor:
        """Return the log-probability of the most probable token."""
        return self.logprobs.amax(dim=-1)


@dataclass(frozen=True)
class BaselineTokens:
    """A baseline's K most probable tokens at each position, and the token that follows in the text.

    ``ids`` and ``logprobs`` have shape (windows, positions, K), the most probable first. ``target`` has shape (windows,
    positions). ``vocabulary`` is the size of the baseline's vocabulary, so every id is smaller.
    """

    ids: torch.Tensor
    logprobs: torch.Tensor
    target: torch.Tensor
    vocabulary: int


@dataclass(frozen=True)
class Divergence:
    """The differences of both sides at each position; all shapes are (windows, positions).

    Attributes:
        kl: the divergence in nats, float64; not finite if the scores of a side are not.
        same_top: whether a token that is most probable for the baseline is also most probable for the subject.
        delta_p: the subject's probability of the token that follows in the text minus the baseline's, float64.
        uncompared: the baseline's probability of all tokens that were not compared individually, float64; None if it
            equals ``rest_mass``, as for every engine that gives all tokens.
    """

    kl: torch.Tensor
    same_top: torch.Tensor
    delta_p: torch.Tensor
    uncompared: torch.Tensor | None = None


def keep(scores: TokenScores, following: torch.Tensor, top_k: int) -> BaselineTokens:
    """Return the baseline's tokens to keep.

    Args:
        scores: the baseline's scores.
        following: its log-probability of the token that follows in the text, shape (windows, positions).
        top_k: how many tokens are kept at each position, at most the size of the vocabulary.
    """
    logprobs, ids = scores.most_probable(top_k)
    return BaselineTokens(ids, logprobs.clamp_min(LEAST), following, scores.vocabulary)


def rest_mass(kept: BaselineTokens) -> torch.Tensor:
    """Return the baseline's total probability of the tokens that were not kept, (windows, positions), float64, >= 0."""
    return (1.0 - kept.logprobs.double().exp().sum(dim=-1)).clamp_min(0.0)


def diverge(scores: TokenScores, following: torch.Tensor, kept: BaselineTokens) -> Divergence:
    """Return how a subject differs from its baseline.

    If several tokens share the largest probability, each counts as the top token, so equal logits count as the same.
    Tokens that the subject's engine does not give count as other tokens, so the divergence stays a lower bound.

    Args:
        scores: the subject's scores.
        following: its log-probability of the token that follows in the text, shape (windows, positions).
        kept: the baseline's tokens at the same positions.
    """
    own, largest = _of_kept(scores, kept), scores.largest()
    if bool((kept.logprobs[..., 1:2] == kept.logprobs[..., :1]).any()):
        tied = kept.logprobs == kept.logprobs[..., :1]
        same = (tied & (own == largest[..., None])).any(dim=-1)
    else:
        same = own[..., 0] == largest
    before, uncompared, known = kept.logprobs, None, scores.known(kept.ids)
    if known is not None:
        before, own = before.masked_fill(~known, LEAST), own.masked_fill(~known, LEAST)
        uncompared = rest_mass(replace(kept, logprobs=before))
    kl = _kl_in_place(before, own)
    if kl is None:
        own = _of_kept(scores, kept)
        kl = _kl_of_extremes(before, own if known is None else own.masked_fill(~known, LEAST))
    return Divergence(kl, same, following.double().exp() - kept.target.double().exp(), uncompared)


def _of_kept(scores: TokenScores, kept: BaselineTokens) -> torch.Tensor:
    ids = kept.ids.long()
    if kept.vocabulary <= scores.vocabulary:
        return scores.of_tokens(ids)
    known = ids < scores.vocabulary
    return scores.of_tokens(torch.where(known, ids, 0)).clamp_min(LEAST).masked_fill(~known, ABSENT)


def _kl_in_place(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor | None:
    """Return the divergence of each position from log-probabilities; None if float32 cannot give it.

    With r = ln(q / p), a token's term is p (exp(r) - 1 - r). No term is negative, so the sum of terms does not cancel,
    and float32 is precise to about 1e-8.

    Args:
        before: the baseline's log-probabilities, (windows, positions, K), float32, the most probable first.
        after: the subject's, with the same shape and dtype; they are overwritten.

    Returns:
        The divergences in nats, (windows, positions), float64.
    """
    r = after.sub_(before)
    exact = torch.expm1(r[..., :EXACT_TOKENS])
    log2_r = r.mul_(LOG2_E)
    rise = torch.exp2(log2_r).sub_(1.0)
    rise[..., :EXACT_TOKENS] = exact
    p = (before * LOG2_E).exp2_()
    terms = torch.sub(rise, log2_r, alpha=1.0 / LOG2_E, out=log2_r).mul_(p).sum(dim=-1).double()
    mass_p, grown = p.sum(dim=-1).double(), rise.mul_(p).sum(dim=-1).double()
    rest_p, rest_q = (1.0 - mass_p).clamp_min(REST_FLOOR), (1.0 - mass_p - grown).clamp_min(REST_FLOOR)
    found = (terms + rest_p * (rest_p / rest_q).log() + rest_q - rest_p).clamp_min_(0.0)
    is_precise = bool(found.amax() < math.inf) and bool(before[..., -1].amin() >= LEAST_OF_FLOAT32)
    return found if is_precise else None


def _kl_of_extremes(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return the same from any log-probabilities, where the exponential of r may overflow; slower."""
    before, after = before.double(), after.clamp_min(LEAST).double()
    p, q = before.exp(), after.exp()
    mass_p, mass_q = p.sum(dim=-1), q.sum(dim=-1)
    rest_p, rest_q = (1.0 - mass_p).clamp_min(REST_FLOOR), (1.0 - mass_q).clamp_min(REST_FLOOR)
    terms = (p * (before - after)).sum(dim=-1) + rest_p * (rest_p / rest_q).log()
    return (terms + (mass_q + rest_q) - (mass_p + rest_p)).clamp_min(0.0)
