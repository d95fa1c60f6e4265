"""The behaviour of a tokenizer, and how a subject's tokenizer differs from its baseline's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from invarlock.digests import short_digest
from invarlock.evaluation.tokenization import load_tokenizer, prefix_token_ids, suffix_token_ids, text_token_ids
from invarlock.evaluation.windows import Draw
from invarlock.measuring.invariants import vocabulary_digest

# Tokens that have a role in generated text.
ROLES = ("bos_token", "eos_token", "unk_token")


@dataclass(frozen=True)
class TokenizerFacts:
    """A tokenizer's tokens with their ids, the token ids that begin every text, and its special tokens.

    ``added_special`` is the number of a subject's special tokens that its baseline lacks, if all other tokens and ids
    and the ids of the scored text are the same. It is None for other differences, and for a baseline.

    Attributes:
        suffix: the token ids that end every text.
        parts: digests of the parts that split a text into tokens and join them again, by name; None if not known.
        special_names: the tokens that have a role in generation, by role; padding has no effect.
        chat_template: the digest of the chat template, or None without a template.
        text_as_baseline: whether the scored text has the same ids as with the baseline's tokenizer.
    """

    vocabulary: Mapping[str, int]
    prefix: tuple[int, ...]
    special: frozenset[str] = frozenset()
    added_special: int | None = None
    suffix: tuple[int, ...] = ()
    parts: Mapping[str, str] | None = None
    special_names: Mapping[str, str] = field(default_factory=dict)
    chat_template: str | None = None
    text_as_baseline: bool = True

    def extends(self, baseline: TokenizerFacts) -> bool:
        """Return whether the tokenizer has all tokens of the baseline's, plus additional special tokens."""
        more = self.vocabulary.keys() - baseline.vocabulary.keys()
        return more <= self.special and all(
            self.vocabulary.get(token) == number for token, number in baseline.vocabulary.items()
        )


def tokenizer_facts(folder: Path) -> TokenizerFacts:
    """Return the facts of a checkpoint's tokenizer.

    Raises:
        EvaluationError: if it cannot be loaded.
    """
    tokenizer = load_tokenizer(folder)
    special = frozenset(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return TokenizerFacts(
        tokenizer.get_vocab(),
        prefix_token_ids(tokenizer),
        special,
        suffix=suffix_token_ids(tokenizer),
        parts=_parts(tokenizer),
        special_names={role: str(getattr(tokenizer, role)) for role in ROLES if getattr(tokenizer, role) is not None},
        chat_template=template_digest(tokenizer.chat_template),
    )


def subject_tokenizer_facts(subject: Path, baseline: Path, known: Mapping[str, Any], draw: Draw) -> TokenizerFacts:
    """Return the facts of a subject's tokenizer.

    Args:
        subject: the subject's folder.
        baseline: the baseline's folder; its tokenizer is loaded only if the subject's differs.
        known: the facts of the baseline that the invariants guard reads.
        draw: the scored windows; a new special token that occurs in their text would change their ids.

    Raises:
        EvaluationError: when a tokenizer cannot be loaded.
    """
    own = tokenizer_facts(subject)
    same_vocabulary = vocabulary_digest(own.vocabulary) == known["vocabulary_sha256"]
    if same_vocabulary and own.parts is not None and own.parts == known["configuration"]["tokenizer"]:
        return own
    ours, theirs = load_tokenizer(baseline), load_tokenizer(subject)
    text = scored_text(ours, draw)
    if text_token_ids(theirs, text) != text_token_ids(ours, text):
        return replace(own, text_as_baseline=False)
    base = tokenizer_facts(baseline)
    if same_vocabulary or not own.extends(base):
        return own
    return replace(own, added_special=len(own.vocabulary) - len(base.vocabulary))


def scored_text(tokenizer: PreTrainedTokenizerBase, draw: Draw) -> str:
    """Return the text of the scored windows."""
    tokens = [token for windows in (draw.preview, draw.final) for row in windows.rows() for token in row]
    return str(tokenizer.decode(tokens, skip_special_tokens=True))


def _parts(tokenizer: PreTrainedTokenizerBase) -> dict[str, str] | None:
    """Return digests of the parts of a fast tokenizer, except the vocabulary, which has a digest of its own."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    document = json.loads(backend.to_str())
    # for some models (Unigram) ``vocab`` is a list of tokens with scores; it is kept
    model = {key: value for key, value in document["model"].items() if key != "vocab" or isinstance(value, list)}
    merges = model.pop("merges", None)
    rest = {key: value for key, value in model.items() if value not in (None, "")}
    added = sorted(document["added_tokens"] or [], key=lambda token: int(token["id"]))
    parts = {
        "added_tokens": added,
        "decoder": document["decoder"],
        "merges": merges,
        "model": rest,
        "normalizer": document["normalizer"],
        "pre_tokenizer": document["pre_tokenizer"],
    }
    return {name: part_digest(part) for name, part in parts.items()}


def template_digest(template: object) -> str | None:
    """Return the digest of a chat template, or of several by name; None without one."""
    return None if template is None else part_digest(template)


def part_digest(value: Any) -> str:
    """Return the digest of a part of a tokenizer."""
    return short_digest(json.dumps(value, sort_keys=True).encode())
