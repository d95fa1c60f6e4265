"""Whether llama.cpp splits text for a GGUF file as the baseline's tokenizer does, before both merge bytes into tokens.

A file names the rules, and nothing else in it shows a wrong name: the model reads other tokens than it was trained on,
for example single digits instead of numbers. The baseline's tokenizer is tried with the rules of a name, on a text that
every set of rules splits otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from invarlock.checkpoints.formats.gguf_splitter_names import (
    CHECKED_TEXT,
    DIGESTS,
    DIGITS,
    NOT_COMPARED,
    SPLITTERS,
)
from invarlock.digests import sha256_hex

DEFAULT = "default"
# English, code, and words of other languages, without combining marks: some rules for these are approximations that
# the converter accepts. It begins with a space, so that a tokenizer that adds one does not.
PROBE = (
    " In 2023 I'd sold 12345 books (about 1,234,567 pages) for $3.50 each -- isn't it?  He'll say: \"WE'RE HERE\", "
    "'you' know...\n\n  * well-known item:\t10% off!!!\n\n\n\tdef to_HTTP(x, y2): # comment\n        return x**2 + "
    "10e-6 <= [1, 22, 333, 4444]\r\nhttps://example.org/a-b?c=d&e=100#top\n \n camelCase XMLHttpRequest   "
    "I'VE DONE IT'S 42nd a'b "
    "\u201cO\u00f9 est-ce?\u201d \u2014 l\u2019\u00e9t\u00e9\u2026 Gr\u00f6\u00dfe, \u00bfQu\u00e9? "
    "\u043d\u0435\u0449\u043e \u043d\u0430 \u0411\u044a\u043b\u0433\u0430\u0440\u0441\u043a\u0438. "
    "\u6211\u60f3\u5728apple\u5de5\u4f5c\uff0c\u597d\u3002"
)


class Outcome(StrEnum):
    """How the rules of a name compare with a tokenizer."""

    SAME = "same"
    OTHER = "other"
    UNKNOWN = "unknown"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Splitting:
    """The rules that a file names, compared with the baseline's tokenizer.

    Attributes:
        name: the name in the file, ``default`` if it has none.
        outcome: ``other`` only if some other name gives the tokens of the tokenizer, or is the converter's for it.
        rules: the rules of the name; empty if they are not known.
        proper: the name that the file should have; None unless the outcome is ``other``.
    """

    name: str
    outcome: Outcome
    rules: tuple[str, ...] = ()
    proper: str | None = None


def compare_splitting(stated: object, document: str, text: str = "") -> Splitting:
    """Return how the rules that a file names compare with a tokenizer that merges bytes.

    If llama.cpp's converter knows the tokenizer, the rules of its name are right, even where they are approximations.

    Args:
        stated: the name in the file; None if it has none.
        document: the text of the tokenizer's ``tokenizer.json``.
        text: a text that is tried besides the probe.
    """
    name = str(stated or DEFAULT)
    known = {one: splitter for splitter in SPLITTERS for one in splitter.names}
    if name not in known and name not in NOT_COMPARED:
        return Splitting(name, Outcome.UNKNOWN)
    # imported here because other formats do not need it
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_str(document)
    rules = known[name].rules if name in known else ()
    digest = sha256_hex(str(tokenizer.encode(CHECKED_TEXT).ids).encode())[:DIGITS]
    # as in the converter, the last of two names that share a digest
    converted = next((one for one, digests in reversed([*DIGESTS.items()]) if digest in digests), None)
    if converted == name or (rules and converted in known and known[converted].rules == rules):
        return Splitting(name, Outcome.SAME, rules)
    if not rules or not _is_comparable(json.loads(document)):
        return Splitting(name, Outcome.UNDECIDED, rules)
    texts = (PROBE, f" {text.lstrip(' ')}")
    ids = _ids(tokenizer, texts)
    found = _ids_with(tokenizer, rules, texts)
    if found == ids:
        return Splitting(name, Outcome.SAME, rules)
    if converted in known:
        same = _ids_with(tokenizer, known[converted].rules, texts) == found
        return Splitting(name, Outcome.SAME if same else Outcome.OTHER, rules, None if same else converted)
    alike = next((one for one in SPLITTERS if _ids_with(tokenizer, one.rules, texts) == ids), None)
    if alike is None:
        return Splitting(name, Outcome.UNDECIDED, rules)
    return Splitting(name, Outcome.OTHER, rules, alike.names[0])


def _is_comparable(document: Mapping[str, Any]) -> bool:
    """Return whether a tokenizer merges bytes, and splits text before in a way that a list of rules can replace."""
    steps = _steps(document["pre_tokenizer"])
    of_bytes = [step for step in steps if step["type"] == "ByteLevel"]
    # in a sequence, a space would be added before each part
    return (
        document["model"].get("type") == "BPE"
        and len(of_bytes) == 1
        and (len(steps) == 1 or not of_bytes[0].get("add_prefix_space"))
    )


def with_rules(document: Mapping[str, Any], rules: Sequence[str]) -> dict[str, Any]:
    """Return the document of a tokenizer that splits text by rules of llama.cpp."""
    splits = [{"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": False} for rule in rules]
    of_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {**document, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, of_bytes]}}


def _steps(document: Any) -> list[Mapping[str, Any]]:
    """Return the steps by which a tokenizer splits text."""
    if document is None:
        return []
    if document["type"] != "Sequence":
        return [document]
    return [step for inner in document["pretokenizers"] for step in _steps(inner)]


def _ids_with(tokenizer: Any, rules: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts with other rules; setting them is faster than reading the tokenizer again."""
    # imported here because other formats do not need it
    from tokenizers import Regex, pre_tokenizers

    splits = [pre_tokenizers.Split(Regex(rule), "isolated") for rule in rules]
    of_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, of_bytes])
    return _ids(tokenizer, texts)


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
