"""Reads the log-probabilities of a prompt from a server's answer into arrays, in two dialects, and checks them.

``prompt_logprobs`` is vLLM's: each position has a table from token ids to ``{"logprob": ...}``, which always includes
the prompt's own token. ``echo`` is from the older OpenAI API: lists of tokens and log-probabilities, and at each
position a table of the most probable tokens by their text. The text's first token has no prediction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from invarlock.measuring.fidelity import LEAST

Numbers = npt.NDArray[np.float64]

# Tolerance for servers that round, or that add up probabilities in float16 or bfloat16.
ROUNDING = 0.02
TOKEN_ID = "token_id:"


class DialectError(Exception):
    """An answer has no prompt log-probabilities in this dialect; the message says what is missing."""


class AnswerError(Exception):
    """The log-probabilities in an answer have an impossible shape or value; the message says which."""


class TokensDifferError(Exception):
    """The server splits the prompt into other tokens; the message says where."""


@dataclass(frozen=True)
class Answer:
    """The answer about the n predicted positions of a window.

    Attributes:
        target: the log-probability of the window's own token, shape (n,).
        ids: the tokens given at each position, shape (n, m), padded with -1.
        logprobs: their log-probabilities, shape (n, m), padded with minus infinity.
        exact: whether the token is certain, that is, no other token has the same text; shape (n, m).
        fewest: the smallest number of tokens given at a position.
        fingerprint: the answer's ``system_fingerprint``, unchanged, or None if it has no such field.
    """

    target: Numbers
    ids: npt.NDArray[np.int64]
    logprobs: Numbers
    exact: npt.NDArray[np.bool_]
    fewest: int
    fingerprint: object = None


class TokenTexts(Protocol):
    """The texts that servers may write for the tokens of a vocabulary."""

    def is_text_of(self, text: str, token: int) -> bool:
        """Return whether a server may write this text for a token."""

    def ids_of(self, text: str) -> Sequence[int]:
        """Return the tokens that a server may write as this text."""


def read_prompt_logprobs(document: Any, tokens: Sequence[int], vocabulary: int) -> Answer:
    """Return the content of an answer with ``prompt_logprobs`` about a window of tokens.

    Args:
        document: the answer.
        tokens: the tokens of the window.
        vocabulary: the size of the vocabulary.

    Raises:
        DialectError: if it has no prompt log-probabilities in this dialect.
        AnswerError: if it has the wrong shape, or a value is not a log-probability.
        TokensDifferError: if the server's tokens differ from the window's.
    """
    rows = _choice(document).get("prompt_logprobs")
    if not isinstance(rows, list):
        raise DialectError("the answer has no prompt_logprobs")
    if len(rows) != len(tokens):
        raise TokensDifferError(f"the server reads {len(rows)} tokens, and the window has {len(tokens)}")
    found: list[dict[int, float]] = []
    targets = []
    for index, (row, token) in enumerate(zip(rows[1:], tokens[1:], strict=True), 1):
        if not isinstance(row, dict):
            raise AnswerError(f"position {index} has no log-probabilities")
        values = {_token(key, index): _number(_inner(value), index) for key, value in row.items()}
        if token not in values:
            raise TokensDifferError(f"position {index} has no log-probability of token {token}")
        _check_mass(values, token, vocabulary, index)
        found.append(values)
        targets.append(values[token])
    exact = [[(token, value, True) for token, value in row.items()] for row in found]
    return _packed(targets, exact, document.get("system_fingerprint"))


def read_echo(document: Any, tokens: Sequence[int], prefix: int, texts: TokenTexts) -> Answer:
    """Return the content of an answer with ``echo`` about a window of tokens, without the generated tokens.

    Args:
        document: the answer.
        tokens: the tokens of the window.
        prefix: how many of them the tokenizer puts before the text; a server may leave these out of its lists.
        texts: the texts of the vocabulary.

    Raises:
        DialectError: if it has no prompt log-probabilities in this dialect.
        AnswerError: if it has the wrong shape, or a value is not a log-probability.
        TokensDifferError: if the server's tokens differ from the window's.
    """
    block = _choice(document).get("logprobs")
    if not isinstance(block, dict):
        raise DialectError("the answer has no logprobs")
    listed, values, tables = (block.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not (isinstance(listed, list) and isinstance(values, list) and isinstance(tables, list)):
        raise DialectError("the answer's logprobs have no tokens, token_logprobs and top_logprobs")
    if not len(listed) == len(values) == len(tables):
        raise AnswerError("the answer's lists of log-probabilities differ in length")
    _check_prompt_tokens(document, len(tokens))
    for begin in sorted({0, prefix}):
        own = tokens[begin:]
        if len(listed) in (len(own), len(own) + 1) and all(map(texts.is_text_of, map(str, listed), own)):
            break
    else:
        raise TokensDifferError(_difference(listed, tokens, texts))
    targets, rows = [], []
    for index in range(1, len(tokens)):
        place = index - begin
        value, table = (values[place], tables[place]) if place >= 0 else (None, None)
        if value is None or not isinstance(table, dict):
            raise AnswerError(f"position {index} has no log-probabilities")
        target = _number(value, index)
        row = [(tokens[index], target, True)]
        for text, one in table.items():
            if texts.is_text_of(text, tokens[index]):
                continue
            ids = texts.ids_of(text)
            row += [(token, _number(one, index), len(ids) == 1) for token in ids]
        targets.append(target)
        rows.append(row)
    return _packed(targets, rows, document.get("system_fingerprint"))


def _choice(document: Any) -> Mapping[str, Any]:
    try:
        choice = document["choices"][0]
    except (KeyError, IndexError, TypeError):
        choice = None
    if not isinstance(choice, dict):
        raise DialectError("the answer has no choices")
    return choice


def _check_prompt_tokens(document: Mapping[str, Any], count: int) -> None:
    """Refuse an answer if the server put tokens such as BOS before the prompt, or cut it."""
    usage = document.get("usage")
    stated = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    if isinstance(stated, int) and stated != count:
        raise TokensDifferError(f"the server reads {stated} tokens, and the window has {count}")


def _difference(listed: Sequence[Any], tokens: Sequence[int], texts: TokenTexts) -> str:
    if len(listed) not in (len(tokens), len(tokens) + 1):
        return f"the server reads {len(listed)} tokens, and the window has {len(tokens)}"
    place = next(index for index, token in enumerate(tokens) if not texts.is_text_of(str(listed[index]), token))
    return f"position {place} is {str(listed[place])[:40]!r} there and token {tokens[place]} here"


def _token(key: Any, index: int) -> int:
    text = str(key).removeprefix(TOKEN_ID)
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise AnswerError(f"position {index} names a token {text[:40]!r}, which is not an id")
    return int(text)


def _inner(value: Any) -> Any:
    return value.get("logprob") if isinstance(value, dict) else value


def _number(value: Any, index: int) -> float:
    """Return a log-probability; minus infinity, used for impossible tokens, becomes the smallest finite value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise AnswerError(f"a log-probability at position {index} is not a number")
    try:
        number = float(value)
    except OverflowError:
        raise AnswerError(f"a log-probability at position {index} has hundreds of digits") from None
    if math.isnan(number) or number > ROUNDING:
        raise AnswerError(f"a log-probability at position {index} is {number:g}; is the served model broken?")
    return min(max(number, LEAST), 0.0)


def _check_mass(values: Mapping[int, float], target: int, vocabulary: int, index: int) -> None:
    """Refuse log-probabilities of a position that are too small to be part of any distribution.

    The server gives the text's token and the most probable tokens, so no other token is more probable than the least
    probable of the latter. The total probability is therefore at most the sum of the given tokens plus that bound for
    each other token; it must reach 1.
    """
    given = math.fsum(map(math.exp, values.values()))
    least = math.exp(min((value for token, value in values.items() if token != target), default=values[target]))
    most = given + max(vocabulary - len(values), 0) * least
    if most < 1 - ROUNDING:
        raise AnswerError(
            f"the probabilities at position {index} add up to {most:.4g} at most; they are not those of a distribution"
        )


def _packed(
    targets: Sequence[float], rows: Sequence[Sequence[tuple[int, float, bool]]], fingerprint: object = None
) -> Answer:
    width = max((len(row) for row in rows), default=0)
    ids = np.full((len(rows), width), -1, dtype=np.int64)
    logprobs = np.full(ids.shape, -math.inf)
    exact = np.zeros(ids.shape, dtype=bool)
    for index, row in enumerate(rows, 1):
        if len({token for token, _, known in row if known}) < sum(known for *_, known in row):
            raise AnswerError(f"position {index} names a token twice")
        mass = math.fsum(math.exp(value) for _, value, known in row if known)
        if mass > 1 + ROUNDING:
            raise AnswerError(f"the probabilities at position {index} add up to {mass:.4g}")
        for column, (token, value, known) in enumerate(row):
            ids[index - 1, column], logprobs[index - 1, column], exact[index - 1, column] = token, value, known
    fewest = min((len(row) for row in rows), default=0)
    return Answer(np.asarray(targets), ids, logprobs, exact, fewest, fingerprint)
