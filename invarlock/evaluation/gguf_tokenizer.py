"""The tokenizer of a GGUF subject: its facts are those of the baseline's tokenizer, changed by the file's metadata.

llama.cpp splits text, begins and ends it, and formats chats by the metadata alone. Source: llama.cpp
``src/llama-vocab.cpp`` (``load``) and ``gguf/vocab.py`` (``SpecialVocab``). A list of tokens that is not the baseline's
is a defect of the file, which its reader reports.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from invarlock.checkpoints.formats.folder import read_document
from invarlock.checkpoints.formats.gguf import read_metadata
from invarlock.checkpoints.formats.gguf_metadata import BYTE_PAIRS, MODEL, PIECES, SPLITTER, TOKENS
from invarlock.checkpoints.formats.gguf_splitters import Outcome, compare_splitting, with_rules
from invarlock.checkpoints.layout import CONFIG_FILES
from invarlock.evaluation.tokenization import SENTENCEPIECE_FILES, load_tokenizer, text_token_ids
from invarlock.evaluation.tokenizer_facts import TokenizerFacts, part_digest, scored_text, template_digest
from invarlock.evaluation.windows import Draw

MERGES, TEMPLATE = "tokenizer.ggml.merges", "tokenizer.chat_template"
TOKENIZER_CONFIG = "tokenizer_config.json"
ID_KEYS: Mapping[str, str] = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
}
# The ids that llama.cpp uses if a file states none, by tokenizer model.
DEFAULT_IDS: Mapping[str, Mapping[str, int]] = {
    PIECES: {"bos_token": 1, "eos_token": 2},
    BYTE_PAIRS: {"bos_token": 11, "eos_token": 11},
}
MAX_TOKEN = 100


def facts_with_metadata(own: TokenizerFacts, subject: Path, baseline: Path, draw: Draw) -> TokenizerFacts:
    """Return the facts of a subject's tokenizer; for a GGUF file, as its metadata change them.

    Args:
        own: the facts of the tokenizer files in the subject's folder, which may be the baseline's.
        subject: the subject's folder or GGUF file.
        baseline: the baseline's folder.
        draw: the scored windows.

    Raises:
        CheckpointError: when the header of the GGUF file cannot be read.
        EvaluationError: when the baseline's tokenizer cannot be loaded.
    """
    metadata = read_metadata(subject)
    if metadata is None:
        return own
    tokenizer = load_tokenizer(baseline)
    return facts_of_metadata(own, metadata, tokenizer, baseline, scored_text(tokenizer, draw))


def facts_of_metadata(
    own: TokenizerFacts, metadata: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, baseline: Path, text: str
) -> TokenizerFacts:
    """Return the facts of the tokenizer that llama.cpp makes from the metadata of a GGUF file.

    Args:
        own: the facts of the baseline's tokenizer, or of tokenizer files next to the GGUF file.
        metadata: the metadata of the file.
        tokenizer: the baseline's tokenizer.
        baseline: the baseline's folder.
        text: the scored text.
    """
    if not isinstance(metadata.get(TOKENS), list):
        return own  # the file has no tokenizer, which is a defect
    ids = {role: _known_ids(role, tokenizer, baseline) for role in ID_KEYS}
    same_text = own.text_as_baseline and _splits_bytes(metadata, tokenizer, baseline)
    changed: dict[str, str] = {}
    document = _byte_pairs(metadata, tokenizer)
    if document is not None:
        stated = _stated_merges(metadata)
        splitting = compare_splitting(metadata.get(SPLITTER), json.dumps(document), text)
        made = document
        if stated != [_merge(one) for one in document["model"]["merges"]]:
            changed["merges"], made = part_digest(stated), _with_merges(made, stated)
        if splitting.outcome is Outcome.OTHER:
            changed["pre_tokenizer"], made = part_digest(splitting.rules), with_rules(made, splitting.rules)
        if changed:
            # rules of llama.cpp add no space before a text, as some tokenizers do
            text = f" {text.lstrip(' ')}"
            found = Tokenizer.from_str(json.dumps(made)).encode(text, add_special_tokens=False).ids
            same_text = same_text and found == text_token_ids(tokenizer, text)
    return replace(
        own,
        prefix=_added(own.prefix, "bos_token", metadata, ids, baseline),
        suffix=_added(own.suffix, "eos_token", metadata, ids, baseline),
        parts=None if own.parts is None else {**own.parts, **changed},
        special_names=dict(_special_names(own.special_names, metadata, ids)),
        chat_template=_template(metadata, tokenizer),
        text_as_baseline=same_text,
    )


def _known_ids(role: str, tokenizer: PreTrainedTokenizerBase, baseline: Path) -> set[int]:
    """Return the ids that the baseline's tokenizer, config or generation config give a role."""
    found = [getattr(tokenizer, f"{role}_id")]
    for document in (read_document(baseline / name) for name in CONFIG_FILES):
        inner = document.get("text_config")
        for table in (document, inner if isinstance(inner, dict) else {}):
            stated = table.get(f"{role}_id")
            found += stated if isinstance(stated, list) else [stated]
    return {one for one in found if type(one) is int}


def _added(
    own: tuple[int, ...], role: str, metadata: Mapping[str, Any], known: Mapping[str, set[int]], baseline: Path
) -> tuple[int, ...]:
    """Return the tokens that begin or end every text: BOS or EOS, or nothing; the baseline's if the file says nothing.

    GGUF can state one token at most. A converter copies ``add_bos_token`` even if the baseline's template contradicts
    it, so the copy is not a difference.
    """
    stated, number = metadata.get(f"tokenizer.ggml.add_{role}"), _id(role, metadata)
    if type(stated) is not bool or len(own) > 1:
        return own
    if read_document(baseline / TOKENIZER_CONFIG).get(f"add_{role}") is stated and (
        not stated or number in known[role]
    ):
        return own
    return (number,) if stated and number is not None else ()


def _id(role: str, metadata: Mapping[str, Any]) -> int | None:
    """Return the id that llama.cpp gives a role: the stated one if it is a token, else the default of the model."""
    stated, tokens = metadata.get(ID_KEYS[role]), metadata[TOKENS]
    if type(stated) is int and 0 <= stated < len(tokens):
        return stated
    default = DEFAULT_IDS.get(str(metadata.get(MODEL)), {}).get(role)
    return default if default is not None and default < len(tokens) else None


def _special_names(
    own: Mapping[str, str], metadata: Mapping[str, Any], known: Mapping[str, set[int]]
) -> Iterator[tuple[str, str]]:
    """Yield the special tokens by role, with the file's token where the baseline gives the role other ids."""
    for role in {*own, *ID_KEYS}:
        number = _id(role, metadata) if role in ID_KEYS else None
        unstated = ID_KEYS.get(role) not in metadata
        # without an end token, llama.cpp does not stop where the baseline does
        if number is None or number in known[role] or (unstated and not (known[role] and role == "eos_token")):
            if role in own:
                yield role, own[role]
        else:
            yield role, ascii(metadata[TOKENS][number])[1:-1][:MAX_TOKEN] or f"token {number}"


def _template(metadata: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the digest of the chat template; of several, llama.cpp uses the one named ``default``."""
    stated, base = metadata.get(TEMPLATE), tokenizer.chat_template
    used = base.get("default") if isinstance(base, dict) else base
    return template_digest(base if stated == used else stated)


def _splits_bytes(metadata: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, baseline: Path) -> bool:
    """Return whether the file splits text into bytes if the baseline's tokenizer does; true for other tokenizers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    pieces = any((baseline / name).is_file() for name in SENTENCEPIECE_FILES)
    if backend is None or pieces or metadata.get(MODEL) == BYTE_PAIRS:
        return True
    decoder = json.loads(backend.to_str())["decoder"] or {}
    return metadata.get(MODEL) not in DEFAULT_IDS or decoder.get("type") != "ByteLevel"


def _byte_pairs(metadata: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """Return the document of the baseline's tokenizer if it and the file merge byte pairs."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or metadata.get(MODEL) != BYTE_PAIRS:
        return None
    document: dict[str, Any] = json.loads(backend.to_str())
    return document if document["model"].get("type") == "BPE" else None


def _stated_merges(metadata: Mapping[str, Any]) -> list[str]:
    stated = metadata.get(MERGES)
    return [str(one) for one in stated] if isinstance(stated, list) else []


def _merge(pair: str | list[str]) -> str:
    """Return a merge of a ``tokenizer.json`` as the converter writes it, with spaces within tokens encoded."""
    return pair if isinstance(pair, str) else " ".join(part.replace(" ", chr(ord(" ") + 256)) for part in pair)


def _with_merges(document: Mapping[str, Any], merges: list[str]) -> dict[str, Any]:
    """Return a tokenizer's document with other merges, without those that the vocabulary has no tokens for."""
    model = document["model"]
    known = {_merge(pair): list(pair) if isinstance(pair, list) else pair.split(" ", 1) for pair in model["merges"]}
    pairs = [known.get(one, one.split(" ", 1)) for one in merges]
    usable = [pair for pair in pairs if len(pair) == 2 and {*pair, "".join(pair)} <= model["vocab"].keys()]
    return {**document, "model": {**model, "merges": usable}}
