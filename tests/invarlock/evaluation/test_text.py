import hashlib
import lzma
from pathlib import Path

import pytest

from invarlock.errors import EvaluationError, MissingFileError
from invarlock.evaluation.text import read_embedded_text


def test_a_text_comes_back_with_the_digest_of_its_bytes(tmp_path: Path) -> None:
    path, text = tmp_path / "text.xz", "It is a truth universally acknowledged — é"
    path.write_bytes(lzma.compress(text.encode()))

    source = read_embedded_text(path, hashlib.sha256(path.read_bytes()).hexdigest())

    assert (source.provider, source.text) == ("embedded", text)
    assert source.sha256 == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def test_a_text_of_another_digest_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "text.xz"
    path.write_bytes(lzma.compress(b"another text"))

    with pytest.raises(EvaluationError, match=r"models\.toml expects 0000"):
        read_embedded_text(path, "0" * 64)


@pytest.mark.parametrize("data", [b"plain text", lzma.compress(b"\xff\xfe")])
def test_text_that_is_not_compressed_utf8_is_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "text.xz"
    path.write_bytes(data)

    with pytest.raises(EvaluationError, match=r"not a \.xz file|not UTF-8 text"):
        read_embedded_text(path, hashlib.sha256(data).hexdigest())


def test_a_missing_text_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such file"):
        read_embedded_text(tmp_path / "text.xz", "0" * 64)
