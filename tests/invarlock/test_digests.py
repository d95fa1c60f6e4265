from __future__ import annotations

import ast
from pathlib import Path

import invarlock
from invarlock import packer
from invarlock.digests import digest_bytes, sha256_hex, short_digest

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
# These hash a file piece by piece, or need the raw digest.
IN_PIECES = {"digests.py", "staging.py", "pack_folder.py", "document.py"}


def test_the_three_forms_of_a_digest() -> None:
    assert sha256_hex(b"") == EMPTY
    assert digest_bytes(b"") == f"sha256:{EMPTY}"
    assert short_digest(b"") == EMPTY[:16]
    assert sha256_hex(memoryview(b"abc")) == sha256_hex(b"abc") != EMPTY


def test_no_other_module_spells_out_a_digest() -> None:
    folders = [Path(str(module.__file__)).parent for module in (invarlock, packer)]
    modules = [path for folder in folders for path in folder.rglob("*.py")]

    own = {path.name for path in modules if "sha256" in _called(path)}

    assert own == IN_PIECES


def _called(path: Path) -> set[str]:
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {call.attr for call in calls if isinstance(call, ast.Attribute)}
