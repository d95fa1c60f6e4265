"""A served model: the dialect of its server, how many tokens it gives, and its answers about windows.

Example::

    server = find_server(Client(url), None, tokenizer, sample, prefix=0, top_k=512)
    answers = server.ask(draw.final.tokens)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from invarlock.errors import EvaluationError, UsageError
from invarlock.evaluation.served.answers import (
    Answer,
    AnswerError,
    DialectError,
    TokensDifferError,
    TokenTexts,
    read_echo,
    read_prompt_logprobs,
)
from invarlock.evaluation.served.client import Client, RequestRefusedError, ServerFailedError, unusable
from invarlock.evaluation.served.stated import WITHHELD, public_text, stated_by
from invarlock.evaluation.served.token_texts import VocabularyTexts
from invarlock.evaluation.tokenization import text_token_ids
from invarlock.evaluation.windows import Tokens
from invarlock.problems import Code

PROMPT_LOGPROBS, ECHO = "prompt_logprobs", "echo"
TOKEN_IDS, TEXT = "token_ids", "text"
# vLLM gives 20 tokens per position unless it is started with a higher limit; the older OpenAI API gives 5.
FEWER = (100, 50, 20, 10, 5, 1)
# Requests sent at the same time, so that the server can batch them.
AT_ONCE = 4
MAX_NAME = 512


@dataclass(frozen=True)
class Dialect:
    """The form of a request: ``prompt_logprobs`` or ``echo``, with the prompt as ``token_ids`` or ``text``."""

    name: str
    prompt: str


DIALECTS = (Dialect(PROMPT_LOGPROBS, TOKEN_IDS), Dialect(ECHO, TOKEN_IDS), Dialect(ECHO, TEXT))


@dataclass(frozen=True)
class Served:
    """A served model and the form of its requests.

    Attributes:
        client: the client of its server.
        model: the server's name for the model.
        dialect: the dialect of the server.
        top_k: how many of the most probable tokens are requested at each position.
        tokenizer: the baseline's tokenizer.
        texts: the texts of its vocabulary.
        prefix: the number of tokens that the tokenizer puts before every text.
        stated: what the server says about itself and the model.
    """

    client: Client
    model: str
    dialect: Dialect
    top_k: int
    tokenizer: PreTrainedTokenizerBase
    texts: TokenTexts
    prefix: int
    stated: Mapping[str, str] = field(default_factory=dict)

    def ask(self, tokens: Tokens) -> Iterator[Answer]:
        """Yield the answer about each window of token ids, shape (windows, seq_len), in order.

        Raises:
            EvaluationError: if the server cannot be reached, or its answer cannot be used.
        """
        windows = tokens.tolist()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for start in range(0, len(windows), AT_ONCE):
                yield from pool.map(self._about, windows[start : start + AT_ONCE])

    def takes(self, window: Sequence[int]) -> bool:
        """Return whether the server can score a window; in text form, the text must give the same tokens."""
        return self.dialect.prompt == TOKEN_IDS or _reads_back(self.tokenizer, window[self.prefix :])

    def document(self, fewest: int) -> dict[str, Any]:
        """Return the report's facts on the served model; ``fewest`` is the smallest number of tokens at a position.

        The server's address is left out, because reports and packs are passed on.
        """
        return {
            "model": public_text(self.model, self.client) or WITHHELD,
            "stated": dict(self.stated),
            "dialect": self.dialect.name,
            "prompt": self.dialect.prompt,
            "top_k": min(fewest, self.top_k),
        }

    def _about(self, window: Sequence[int]) -> Answer:
        try:
            return self.attempt(window)
        except RequestRefusedError as error:
            raise unusable(self.client.base, f"the server refuses a window of {len(window)} tokens ({error})") from None
        except (AnswerError, DialectError, TokensDifferError) as error:
            raise unusable(self.client.base, str(error)) from None

    def attempt(self, window: Sequence[int]) -> Answer:
        """Return the answer about one window.

        Raises:
            RequestRefusedError: if the server does not accept the request in this form.
            DialectError, AnswerError: if its answer has the wrong shape, or values that are not log-probabilities.
            TokensDifferError: if it reads other tokens.
            EvaluationError: if it cannot be reached.
        """
        ids, text = list(window), self.dialect.prompt == TEXT
        prompt = _text_of(self.tokenizer, ids[self.prefix :]) if text else ids
        # the older OpenAI API always generates at least one token
        body: dict[str, Any] = {"model": self.model, "prompt": prompt, "max_tokens": 1, "temperature": 0}
        if self.dialect.name == PROMPT_LOGPROBS:
            answer = self.client.post("completions", body | {"prompt_logprobs": self.top_k})
            return read_prompt_logprobs(answer, ids, len(self.tokenizer))
        # with this, vLLM names tokens by their ids; other servers ignore it
        echo = {"echo": True, "logprobs": self.top_k, "return_tokens_as_token_ids": True}
        return read_echo(self.client.post("completions", body | echo), ids, self.prefix, self.texts)


def find_server(
    client: Client,
    model: str | None,
    tokenizer: PreTrainedTokenizerBase,
    windows: Sequence[Sequence[int]],
    prefix: int,
    top_k: int,
) -> Served:
    """Return the served model, after it has answered a test window.

    Args:
        client: the client of the server.
        model: the model's name; None for the only model of the server.
        tokenizer: the baseline's tokenizer.
        windows: token ids of a few windows, each beginning with the prefix.
        prefix: the number of tokens of the prefix.
        top_k: how many tokens are wanted at each position; a server may give fewer.

    Raises:
        UsageError: if the server has several models and none is named.
        EvaluationError: if it cannot be reached, gives no prompt log-probabilities, or reads other tokens.
    """
    name = model or _only_model(client)
    texts = VocabularyTexts(tokenizer)
    reasons = []
    failures = []
    for dialect in DIALECTS:
        for count in sorted({top_k, *(k for k in FEWER if k < top_k)}, reverse=True):
            served = Served(client, name, dialect, count, tokenizer, texts, prefix)
            window = next((window for window in windows if served.takes(window)), None)
            if window is None:
                reasons.append("no window of the text is read back as the same tokens")
                break
            try:
                answer = served.attempt(window)
            except RequestRefusedError as error:
                reasons.append(str(error))
                continue
            except ServerFailedError as error:
                failures.append(error)
                reasons.append(str(error))
                break
            except DialectError as error:
                reasons.append(str(error))
                break
            except AnswerError as error:
                raise unusable(client.base, str(error)) from None
            except TokensDifferError as error:
                raise unusable(client.base, f"its tokens are not the baseline's: {error}") from None
            return replace(served, stated=stated_by(client, name, answer.fingerprint))
    if len(failures) == len(DIALECTS):
        raise failures[-1]
    shown = "; ".join(dict.fromkeys(reasons[-3:]))
    raise unusable(client.base, f"it gives no log-probabilities of a prompt ({shown})")


def _only_model(client: Client) -> str:
    try:
        document = client.get("models")
        names = [row["id"] for row in document["data"] if isinstance(row["id"], str)]
    except (KeyError, TypeError, RequestRefusedError):
        raise UsageError(
            f"{client.base}: it does not list its models; name one with --subject-model", code=Code.USAGE_INVALID
        ) from None
    if len(names) != 1 or not 0 < len(names[0]) <= MAX_NAME:
        shown = ", ".join(name[:60] for name in names[:5]) or "none"
        raise UsageError(
            f"{client.base}: it has {len(names)} models ({shown}); name one with --subject-model",
            code=Code.USAGE_INVALID,
        )
    return str(names[0])


def _text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _reads_back(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> bool:
    try:
        return text_token_ids(tokenizer, _text_of(tokenizer, ids)) == list(ids)
    except EvaluationError:
        return False
