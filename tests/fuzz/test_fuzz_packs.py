"""Whatever stands in a pack or a trust store: an exit code of the contract, one-line errors, no traceback.

A short run is part of the tests. A longer one: ``INVARLOCK_FUZZ_EXAMPLES=100000 pytest tests/fuzz``.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from invarlock.packer.build.attesting import attest_pack
from invarlock.packer.format.checksums import ATTESTATIONS, BUNDLES, CONTROL_FILES, SIGNATURE_NAME
from invarlock.packer.inspection import inspect_pack
from invarlock.packer.trust.keys import SigningKey
from invarlock.packer.trust.signers import judge_signer, read_trust_store
from invarlock.packer.verify.verifying import VerifyOptions, VerifyResult, verify_pack
from packs import Path_, leaves, pack_files, seal, sign

from invarlock.errors import IntegrityError, InvarLockError, ManifestError, MissingFileError, UsageError
from invarlock.jsonio import dump_json

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("INVARLOCK_FUZZ_EXAMPLES", "150"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    derandomize="INVARLOCK_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)

SIGNATURES = (SIGNATURE_NAME, ATTESTATIONS["svr"], BUNDLES["svr"])
FUZZED = ("checksums.sha256", "manifest.json", ".gitattributes", *SIGNATURES)

TOKENS = [
    b"", b"\0", b"\xff", b"\xef\xbb\xbf", b"\r\n", b"\n", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"null",
    b"NaN", b"-Infinity", b"1e999", b"-0.0", b"9" * 400, b"\\ud800", b'"a":', b"../", b"/", b"true", b"0" * 64,
]  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=40),
    st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
    st.sampled_from([-1, 0, 2**53, 2**63, 2**70, 1e308, -1e308, 5e-324, "", "..", "sha256:", "\x00", [], {}]),
)  # fmt: skip


@pytest.fixture(scope="module")
def fuzzed(real_run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A copy of a real pack, and its files to put back."""
    pack = tmp_path_factory.mktemp("fuzz") / "pack"
    shutil.copytree(real_run.pack, pack)
    return pack, pack_files(pack)


@pytest.fixture(scope="module")
def attested(fuzzed: Any, real_run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """The same of a pack with an attestation."""
    pack = tmp_path_factory.mktemp("attested") / "pack"
    shutil.copytree(fuzzed[0], pack)
    attest_pack(pack, real_run.key, "svr")
    return pack, pack_files(pack)


@contextmanager
def changed(pack: Path, files: dict[str, bytes], name: str, data: bytes) -> Iterator[None]:
    """Change a file of a pack, and put all of it back at the end."""
    (pack / name).write_bytes(data)
    try:
        yield
    finally:
        for path, before in files.items():
            if (pack / path).read_bytes() != before:
                (pack / path).write_bytes(before)


def check(pack: Path) -> VerifyResult:
    """Verify and inspect a pack; both end as the contract says."""
    result = verify_pack(pack, VerifyOptions(strict=True))
    assert result.code in (0, 3, 4, 5, 6, 7)
    assert result.holds == (not result.problems)
    for problem in result.problems:
        assert "\n" not in str(problem)
        assert "Traceback" not in str(problem)
    json.loads(json.dumps(result.document(), allow_nan=False))
    with suppress(MissingFileError, ManifestError, IntegrityError):
        inspect_pack(pack)
    return result


def seal_what_can_be(pack: Path, key: SigningKey) -> None:
    """Seal a pack again; where a manifest no longer is one, it stays as it is, which is a case as well."""
    with suppress(ValueError, TypeError, KeyError, AttributeError, InvarLockError):
        seal(pack, key)


SHARE = st.floats(0, 1, exclude_max=True)


@st.composite
def edits(draw: st.DrawFn) -> list[tuple[float, int, bytes]]:
    """Draw a few places, how many bytes go there, and what comes instead."""
    token = st.one_of(st.sampled_from(TOKENS), st.binary(max_size=4))
    return draw(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), token), min_size=1, max_size=3))


def apply(data: bytes, places: list[tuple[float, int, bytes]]) -> bytes:
    for share, removed, token in places:
        start = int(share * len(data))
        data = data[:start] + token + data[start + removed :]
    return data


@SETTINGS
@given(name=st.sampled_from(FUZZED), places=edits())
def test_bytes_of_a_control_file(attested: Any, name: str, places: Any) -> None:
    pack, files = attested
    data = apply(files[name], places)

    with changed(pack, files, name, data):
        code = check(pack).code

    if code == 0:
        # nothing covers the spaces of signatures and attestations, which other tools may write in their own way
        assert data == files[name] or (name in SIGNATURES and json.loads(data) == json.loads(files[name]))


@SETTINGS
@given(name=st.sampled_from(["checksums.sha256", "manifest.json"]), places=edits())
def test_bytes_of_a_control_file_that_is_signed_again(fuzzed: Any, real_run: Any, name: str, places: Any) -> None:
    pack, files = fuzzed
    with changed(pack, files, name, apply(files[name], places)):
        with suppress(ValueError):
            manifest = json.loads((pack / "manifest.json").read_bytes())
            if isinstance(manifest, dict):
                sign(pack, manifest, real_run.key)

        check(pack)


@SETTINGS
@given(choice=SHARE, places=edits())
def test_bytes_of_any_file_that_is_sealed_again(fuzzed: Any, real_run: Any, choice: float, places: Any) -> None:
    pack, files = fuzzed
    names = sorted(set(files) - CONTROL_FILES)
    name = names[int(choice * len(names))]
    with changed(pack, files, name, apply(files[name], places)):
        seal_what_can_be(pack, real_run.key)

        check(pack)


@SETTINGS
@given(changes=st.lists(st.tuples(SHARE, SHARE, VALUES), min_size=1, max_size=3))
def test_some_values_of_some_documents_that_are_sealed_again(fuzzed: Any, real_run: Any, changes: Any) -> None:
    pack, files = fuzzed
    names = [name for name in sorted(files) if name.endswith(".json") and name != SIGNATURE_NAME]
    documents: dict[str, Any] = {}
    for choice, where, value in changes:
        name = names[int(choice * len(names))]
        documents.setdefault(name, json.loads(files[name]))
        # the first place is the document itself
        paths = [(), *nodes(documents[name])]
        documents[name] = put(documents[name], paths[int(where * len(paths))], value)
    with ExitStack() as stack:
        for name, document in documents.items():
            stack.enter_context(changed(pack, files, name, dump_json(document)))
        seal_what_can_be(pack, real_run.key)

        check(pack)


def nodes(document: Any) -> list[Path_]:
    """Return the paths of all values, the outer ones as well."""
    return sorted({path[:length] for path in leaves(document) for length in range(1, len(path) + 1)}, key=repr)


def put(document: Any, path: Path_, value: Any) -> Any:
    """Return the document with a value at a place; an earlier change may have taken the place away."""
    if not path:
        return value
    inner = document
    with suppress(KeyError, IndexError, TypeError):
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
    return document


SIGNER = "sha256:" + "a" * 64
ENTRY = st.one_of(
    st.just(SIGNER),
    st.text(max_size=80),
    st.fixed_dictionaries(
        {"fingerprint": st.one_of(st.just(SIGNER), VALUES)},
        optional=dict.fromkeys(("name", "not_before", "not_after", "revoked", "other"), VALUES),
    ),
)
STORE = st.one_of(
    st.lists(ENTRY, max_size=3),
    st.dictionaries(st.sampled_from(["trusted_signers", "fingerprints", "x"]), st.lists(ENTRY, max_size=3), max_size=2),
    VALUES,
)


@SETTINGS
@given(document=STORE, places=st.one_of(st.just([]), edits()))
def test_any_trust_store(tmp_path_factory: pytest.TempPathFactory, document: Any, places: Any) -> None:
    path = tmp_path_factory.mktemp("store") / "store.json"
    path.write_bytes(apply(json.dumps(document).encode(), places))
    try:
        signers = read_trust_store(path)
    except UsageError:
        return
    assert judge_signer(SIGNER, None, signers, datetime.now(UTC)).authenticity in ("pinned", "mismatch")
