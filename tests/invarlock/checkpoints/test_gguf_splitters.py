"""Which names of llama.cpp's rules give text the tokens of a tokenizer, for tokenizers of many families."""

from __future__ import annotations

import json
import lzma
from functools import cache
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shipped_checkpoints import EMBEDDED
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from invarlock.checkpoints.formats.gguf_splitter_names import CHECKED_TEXT, DIGESTS, NOT_COMPARED, SPLITTERS
from invarlock.checkpoints.formats.gguf_splitter_names import DIGITS as DIGITS_OF_DIGEST
from invarlock.checkpoints.formats.gguf_splitters import PROBE, Outcome, compare_splitting, with_rules
from invarlock.digests import sha256_hex

NAMES = [name for splitter in SPLITTERS for name in splitter.names]
ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
UPPER, LOWER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]", "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
LLAMA3 = f"{ENDINGS}|[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|\\p{{N}}{{1,3}}| ?[^\\s\\p{{L}}\\p{{N}}]+[\\r\\n]*{SPACES}"
CASES = f"[^\\r\\n\\p{{L}}\\p{{N}}]?{UPPER}*{LOWER}+END|[^\\r\\n\\p{{L}}\\p{{N}}]?{UPPER}+{LOWER}*END"
OTHERS = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" + SPACES
PUNCTUATION = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"


def split(*rules: str) -> list[dict[str, Any]]:
    return [{"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": False} for rule in rules]


def of_bytes(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


DIGITS = {"type": "Digits", "individual_digits": True}
# How the tokenizers of published models split text, as in their tokenizer.json, by the name that is proper for them.
FAMILIES: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [of_bytes(use_regex=True)],
    "smollm": [DIGITS, of_bytes(use_regex=True)],
    "llama-bpe": [*split(LLAMA3), of_bytes(use_regex=False)],
    "qwen2": [*split(LLAMA3.replace("{1,3}", "")), of_bytes(use_regex=False)],
    "qwen35": [
        *split(
            f"{ENDINGS}|[^\\r\\n\\p{{L}}\\p{{N}}]?[\\p{{L}}\\p{{M}}]+|\\p{{N}}"
            + "| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*"
            + SPACES
        ),
        of_bytes(use_regex=False),
    ],
    "tekken": [*split(CASES.replace("END", "") + "|\\p{N}" + OTHERS), of_bytes(use_regex=False)],
    "gpt-4o": [*split(CASES.replace("END", f"{ENDINGS}?") + "|\\p{N}{1,3}" + OTHERS), of_bytes(use_regex=False)],
    "falcon": [
        {"type": "Punctuation", "behavior": "Contiguous"},
        of_bytes(use_regex=True),
        {"type": "Digits", "individual_digits": False},
        *split("[0-9][0-9][0-9]"),
    ],
    "deepseek-coder": [
        *split("[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
        DIGITS,
        of_bytes(use_regex=False),
    ],
    "deepseek-v3": [
        *split(
            "\\p{N}{1,3}",
            "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            PUNCTUATION
            + "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
        ),
        of_bytes(use_regex=False),
    ],
    "seed-coder": [
        *split(f"{ENDINGS}|[^\r\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|\\p{{N}}{{1}}| ?[^\\s\\p{{L}}\\p{{N}}\r\n]+{SPACES}"),
        of_bytes(use_regex=False),
    ],
    "bailingmoe": [
        *split(
            "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]"
            "|\\s+(?!\\S)|\\s+"
        ),
        of_bytes(use_regex=False),
    ],
    "bloom": [*split(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"), of_bytes(use_regex=False)],
}  # fmt: skip


@cache
def tokenizer_of(family: str) -> str:
    """Return a tokenizer that splits text as a family does, trained on English, numbers and code."""
    text = lzma.decompress((EMBEDDED / "text" / "austen_heldout.txt.xz").read_bytes()).decode()[:40_000]
    numbers = " ".join(str(number) for number in range(0, 3000, 7))
    document = json.loads(Tokenizer(models.BPE()).to_str())
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": FAMILIES[family]}
    document["decoder"] = of_bytes(use_regex=True)
    tokenizer = Tokenizer.from_str(json.dumps(document))
    trainer = trainers.BpeTrainer(
        vocab_size=3000, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([text, numbers, *[PROBE] * 9], trainer)
    return str(tokenizer.to_str())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_name_of_a_family_gives_its_tokens(family: str) -> None:
    found = compare_splitting(family, tokenizer_of(family))

    assert (found.outcome, found.proper) == (Outcome.SAME, None)


@pytest.mark.parametrize(
    ("family", "stated"),
    [
        ("llama-bpe", "gpt-2"),
        ("llama-bpe", "qwen2"),
        ("llama-bpe", ""),
        ("llama-bpe", None),
        ("qwen2", "gpt-2"),
        ("qwen2", "default"),
        ("gpt-2", "llama-bpe"),
        ("gpt-2", "smollm"),
        ("smollm", "qwen2"),
        ("gpt-4o", "llama-bpe"),
        ("tekken", "gpt-2"),
        ("deepseek-v3", "gpt-2"),
        ("falcon", "gpt-2"),
    ],
)
def test_the_name_of_another_family_gives_other_tokens(family: str, stated: str | None) -> None:
    found = compare_splitting(stated, tokenizer_of(family))

    assert (found.name, found.outcome) == (stated or "default", Outcome.OTHER)
    assert found.proper is not None
    assert compare_splitting(found.proper, tokenizer_of(family)).outcome is Outcome.SAME


def test_a_name_whose_rules_differ_where_the_tokenizer_has_no_tokens_gives_the_same() -> None:
    # trained on single digits, it has no token for several
    assert compare_splitting("llama-bpe", tokenizer_of("qwen2")).outcome is Outcome.SAME


def test_names_of_the_same_rules_are_one() -> None:
    # converters wrote some of them before a model had a name of its own
    for name in ("llama3", "falcon3", "dbrx", "smaug-bpe", "glm4"):
        assert compare_splitting(name, tokenizer_of("llama-bpe")).outcome is Outcome.SAME


@given(st.text(max_size=20).filter(lambda name: name and name not in NAMES and name not in NOT_COMPARED))
def test_a_name_that_is_not_known_is_not_compared(name: str) -> None:
    assert compare_splitting(name, tokenizer_of("gpt-2")).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("name", sorted(NOT_COMPARED))
def test_rules_that_are_code_are_not_compared(name: str) -> None:
    assert compare_splitting(name, tokenizer_of("gpt-2")).outcome is Outcome.UNDECIDED


@pytest.mark.parametrize("name", ["kimi-k2", "bloom"])
def test_the_name_that_the_converter_gives_a_tokenizer_is_its_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tokenizer_of("llama-bpe")
    digest = sha256_hex(str(Tokenizer.from_str(document).encode(CHECKED_TEXT).ids).encode())
    assert compare_splitting(name, document).outcome is not Outcome.SAME

    monkeypatch.setitem(cast(dict[str, tuple[str, ...]], DIGESTS), name, (digest[:DIGITS_OF_DIGEST],))

    assert compare_splitting(name, document).outcome is Outcome.SAME
    other = compare_splitting("gpt-2", document)
    assert (other.outcome, other.proper) == (Outcome.OTHER, "llama-bpe" if name in NOT_COMPARED else name)


def with_splits(family: str, *steps: dict[str, Any]) -> str:
    document = json.loads(tokenizer_of(family))
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": list(steps)}
    return json.dumps(document)


@pytest.mark.parametrize(
    "document",
    [
        # no rules of llama.cpp split like these
        with_splits("gpt-2", *split("[a-e]+|[0-9]{2}"), of_bytes(use_regex=False)),
        with_splits("gpt-2", {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}),
        with_splits("gpt-2", DIGITS, {**of_bytes(use_regex=True), "add_prefix_space": True}),
        json.dumps({**json.loads(tokenizer_of("gpt-2")), "pre_tokenizer": None}),
    ],
)
def test_a_tokenizer_that_no_rules_imitate_is_not_judged(document: str) -> None:
    found = compare_splitting("gpt-2", document)

    assert (found.outcome, found.proper) == (Outcome.UNDECIDED, None)


def test_a_space_that_a_tokenizer_adds_before_a_text_is_no_other_rule() -> None:
    document = json.loads(tokenizer_of("gpt-2"))
    document["pre_tokenizer"] = {**of_bytes(use_regex=True), "add_prefix_space": True}

    assert compare_splitting("gpt-2", json.dumps(document)).outcome is Outcome.SAME
    assert compare_splitting("qwen2", json.dumps(document)).outcome is Outcome.OTHER


def test_the_rules_of_a_name_split_as_its_family_does() -> None:
    for family in FAMILIES:
        rules = next(splitter.rules for splitter in SPLITTERS if family in splitter.names)
        document = tokenizer_of(family)

        own, imitated = (
            Tokenizer.from_str(text) for text in (document, json.dumps(with_rules(json.loads(document), rules)))
        )

        assert imitated.encode(PROBE).ids == own.encode(PROBE).ids, family


def test_every_name_is_in_the_table_once() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert NOT_COMPARED.isdisjoint(NAMES)
    assert {*DIGESTS} <= {*NAMES, *NOT_COMPARED}
    assert len({splitter.rules for splitter in SPLITTERS}) == len(SPLITTERS)
