"""Token ids of a text, and the tokens that a tokenizer puts before every text.

Example::

    tokenizer = load_tokenizer(folder)
    prefix_token_ids(tokenizer)          # (2,) for Gemma, (128000,) for Llama 3, () for Qwen2
    text_token_ids(tokenizer, text)      # of the text alone
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from invarlock.errors import EvaluationError
from invarlock.evaluation.windows import added_before
from invarlock.problems import Code

# Texts that are encoded with and without special tokens; one alone may merge with a token of the template.
SAMPLES = ("The quick brown fox", "a", "1 2 3")
SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a checkpoint.

    A ``tokenizer.json`` is used as it stands. A library's class for the model type could add tokens to it, and
    different ones in its next version.

    Raises:
        EvaluationError: when it cannot be loaded.
    """
    loader: Any = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
    try:
        with _panics_are_errors():
            tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except ImportError as error:
        raise EvaluationError(
            f"the tokenizer of {folder.name} cannot be loaded ({_line(error, folder)})", code=Code.TOKENIZER_UNUSABLE
        ) from None
    except Exception as error:  # noqa: BLE001 - any error of the library means that the tokenizer is broken
        raise EvaluationError(
            f"the tokenizer of {folder.name} cannot be loaded ({_line(error, folder)}){_advice(folder)}",
            code=Code.TOKENIZER_UNUSABLE,
        ) from None
    return tokenizer


def text_token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a text, without any special token.

    Raises:
        EvaluationError: when the tokenizer fails on the text.
    """
    return _encode(tokenizer, text, special=False)


def prefix_token_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the ids that the tokenizer itself puts before every text: BOS for Gemma and Llama, nothing for Qwen2.

    They are found by encoding texts, since a template in ``tokenizer.json`` takes precedence over ``add_bos_token``.
    Tokens that the tokenizer appends (EOS, SEP) are not included, because no window has them.

    Raises:
        EvaluationError: when the tokenizer fails, or changes the text's own tokens if it adds special ones.
    """
    return _added_token_ids(tokenizer)[0]


def suffix_token_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the ids that the tokenizer itself puts after every text, such as EOS if a template adds it.

    Raises:
        EvaluationError: as ``prefix_token_ids``.
    """
    return _added_token_ids(tokenizer)[1]


def _added_token_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    for sample in SAMPLES:
        plain = _encode(tokenizer, sample, special=False)
        whole = _encode(tokenizer, sample, special=True)
        prefix = added_before(whole, plain)
        if prefix is not None:
            return prefix, tuple(whole[len(prefix) + len(plain) :])
    raise EvaluationError(
        "the tokenizer encodes a text in another way when it adds special tokens, so it is not known what a text "
        "begins with; check the post_processor of its tokenizer.json",
        code=Code.TOKENIZER_UNUSABLE,
    )


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    call: Any = tokenizer
    try:
        with _panics_are_errors():
            ids: list[int] = call(text, add_special_tokens=special, verbose=False)["input_ids"]
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - tokenizers raise plain Exception
        raise EvaluationError(
            f"the tokenizer fails on the text ({_line(error)}); check its tokenizer.json", code=Code.TOKENIZER_UNUSABLE
        ) from None
    return ids


@contextmanager
def _panics_are_errors() -> Iterator[None]:
    """Turn a panic of the tokenizers library into an error: it derives from BaseException, like Ctrl-C."""
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise EvaluationError(_line(error), code=Code.TOKENIZER_UNUSABLE) from None


def _line(error: BaseException, folder: Path | None = None) -> str:
    text = str(error) if folder is None else str(error).replace(str(folder), folder.name)
    return " ".join(text.split())[:200] or type(error).__name__


def _advice(folder: Path) -> str:
    if any((folder / name).is_file() for name in SENTENCEPIECE_FILES) and not (folder / "tokenizer.json").is_file():
        return (
            "; it has a SentencePiece model alone: pip install sentencepiece protobuf, "
            "or add the tokenizer.json of the base model"
        )
    return ""
