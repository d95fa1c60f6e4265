"""The texts by which servers name tokens, and the tokens that each text may stand for.

Servers that give ids are unambiguous. Others decode each token alone: bytes that are not a whole character become a
replacement character or nothing, so that one text may stand for many tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from invarlock.evaluation.served.answers import TOKEN_ID

REPLACEMENT = "\ufffd"
# SentencePiece's mark for a space.
SPACE = "\u2581"


class VocabularyTexts:
    """The texts of a tokenizer's vocabulary."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: dict[str, list[int]] = defaultdict(list)
        for token in range(len(tokenizer)):
            for text in dict.fromkeys(self._texts(token)):
                self._ids[text].append(token)

    def is_text_of(self, text: str, token: int) -> bool:
        """Return whether a server may write this text for a token."""
        if text.startswith(TOKEN_ID):
            return text == f"{TOKEN_ID}{token}"
        if token in self._ids.get(text, ()):
            return True
        decoded = self._decoded(token)
        # the older OpenAI API writes bytes that are not a whole character as bytes:\\xe2
        return text == decoded or (text.startswith("bytes:") and REPLACEMENT in decoded)

    def ids_of(self, text: str) -> Sequence[int]:
        """Return the tokens that a server may write as this text; empty if there are none."""
        number = text.removeprefix(TOKEN_ID)
        if number != text:
            return [int(number)] if number.isascii() and number.isdigit() and len(number) < 10 else []
        return self._ids.get(text, ())

    def _texts(self, token: int) -> Iterator[str]:
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if isinstance(piece, str):
            yield piece
            if piece.startswith(SPACE):
                # a decoder drops a leading space
                yield piece.replace(SPACE, " ")
                return
        decoded = self._decoded(token)
        yield decoded
        # some servers leave out bytes that are not a whole character
        yield decoded.replace(REPLACEMENT, "")

    def _decoded(self, token: int) -> str:
        return str(self._tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
