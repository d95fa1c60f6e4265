"""What a tokenizer does, and how a subject's differs from its baseline's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from invarlock.evaluation.tokenization import load_tokenizer, prefix_token_ids, text_token_ids
from invarlock.evaluation.windows import Draw
from invarlock.measuring.invariants import vocabulary_digest


@dataclass(frozen=True)
class TokenizerFacts:
    """A tokenizer's tokens with their ids, the token ids that begin every text, and its special tokens.

    ``added_special`` counts a subject's special tokens that its baseline does not have, where all other tokens and ids
    are the same and the scored text has the same ids; None where the two differ in another way, and for a baseline.
    """

    vocabulary: Mapping[str, int]
    prefix: tuple[int, ...]
    special: frozenset[str] = frozenset()
    added_special: int | None = None

    def extends(self, baseline: TokenizerFacts) -> bool:
        """Return whether the tokenizer has all tokens of the baseline's, and more that are special."""
        more = self.vocabulary.keys() - baseline.vocabulary.keys()
        return more <= self.special and all(
            self.vocabulary.get(token) == number for token, number in baseline.vocabulary.items()
        )


def tokenizer_facts(folder: Path) -> TokenizerFacts:
    """Return the facts of a checkpoint's tokenizer.

    Raises:
        EvaluationError: when it cannot be loaded.
    """
    tokenizer = load_tokenizer(folder)
    special = frozenset(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return TokenizerFacts(tokenizer.get_vocab(), prefix_token_ids(tokenizer), special)


def subject_tokenizer_facts(subject: Path, baseline: Path, vocabulary_sha256: str | None, draw: Draw) -> TokenizerFacts:
    """Return the facts of a subject's tokenizer.

    Args:
        subject: its folder.
        baseline: the folder of its baseline, whose tokenizer is loaded only where the subject has another vocabulary.
        vocabulary_sha256: of the baseline's vocabulary.
        draw: the windows that are scored; a special token that occurs in their text would change their ids.

    Raises:
        EvaluationError: when a tokenizer cannot be loaded.
    """
    own = tokenizer_facts(subject)
    if vocabulary_digest(own.vocabulary) == vocabulary_sha256:
        return own
    base = tokenizer_facts(baseline)
    if not own.extends(base):
        return own
    ours, theirs = load_tokenizer(baseline), load_tokenizer(subject)
    tokens = [*draw.preview.tokens.flatten().tolist(), *draw.final.tokens.flatten().tolist()]
    text = str(ours.decode(tokens, skip_special_tokens=True))
    if text_token_ids(theirs, text) != text_token_ids(ours, text):
        return own
    return replace(own, added_special=len(own.vocabulary) - len(base.vocabulary))
