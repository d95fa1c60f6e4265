"""Files of a pack are read once and compared with digests: small ones as documents, large ones hashed by threads."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from invarlock.packer.format.contents import PackFiles, SealedFiles
from invarlock.packer.format.limits import MAX_HASHING_THREADS, MAX_JSON_BYTES, MAX_JSON_VALUES, THREADED_BYTES
from invarlock.packer.format.pack_folder import Listing, PackFolder, open_pack
from memory_files import MemoryFiles
from packs import messages, places, sha256, strict

from invarlock.errors import DocumentError, IntegrityError, MissingFileError
from invarlock.problems import Code

Reseal = Callable[[Path], None]
NUMBER = 2 * MAX_HASHING_THREADS + 1
FILES = {
    **{f"data/{number:02}.bin": bytes([number]) * THREADED_BYTES for number in range(NUMBER)},
    "notes/a.json": b'{"a": 1}',
    "notes/b.txt": b"one\r\ntwo\r\n",
    "notes/empty": b"",
}
LENGTHS = {"most.json": MAX_JSON_VALUES - 2, "more.json": MAX_JSON_VALUES - 1}
DIGESTS = {path: sha256(data) for path, data in FILES.items()}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[PackFolder]:
    """An open pack with large and small files."""
    for path, data in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    with open_pack(tmp_path) as folder:
        yield folder


def large() -> list[str]:
    return [path for path in FILES if path.startswith("data/")]


def test_every_byte_is_read_and_counted_once(opened: PackFolder) -> None:
    counted: list[int] = []
    files = SealedFiles(opened, DIGESTS, counted.append)

    files.hash_ahead(large())
    assert files.document("notes/a.json") == {"a": 1}
    assert files.data("notes/b.txt") == FILES["notes/b.txt"]

    assert files.finish() == ()
    assert sum(counted) == sum(map(len, FILES.values()))
    assert set(opened.read_states) == set(FILES)


@pytest.mark.parametrize("path", [*FILES])
def test_one_changed_byte_of_any_file_is_noticed(path: str, opened: PackFolder) -> None:
    file = opened.path / path
    file.write_bytes(FILES[path][:-1] + b"\xff")
    files = SealedFiles(opened, DIGESTS)

    files.hash_ahead(large())

    assert [(problem.code, problem.where) for problem in files.finish()] == [(Code.CHECKSUM_DIFFERS, path)]


def test_all_that_is_wrong_is_listed_in_order(opened: PackFolder) -> None:
    for path in large():
        (opened.path / path).unlink()
    (opened.path / "notes/b.txt").write_bytes(FILES["notes/b.txt"].replace(b"\r\n", b"\n"))
    files = SealedFiles(opened, {**DIGESTS, "notes/b.txt": sha256(b"one\ntwo\n")})
    files.hash_ahead(large())
    found = files.finish()
    assert [(problem.code, problem.where) for problem in found] == [
        (Code.SEALED_FILE_MISSING, path) for path in large()
    ]

    other = SealedFiles(opened, DIGESTS)
    with pytest.raises(IntegrityError):
        other.data("notes/b.txt")

    assert [problem.where for problem in other.finish()] == [*large(), "notes/b.txt"]


def test_changed_line_endings_are_distinguished_from_other_changes(opened: PackFolder) -> None:
    for sealed, restored in ((b"one\ntwo\n", True), (b"one\nTWO\n", False)):
        files = SealedFiles(opened, {**DIGESTS, "notes/b.txt": sha256(sealed)})

        with pytest.raises(IntegrityError) as caught:
            files.data("notes/b.txt")
        files.close()

        assert (caught.value.problems[0].code == Code.CHECKSUM_DIFFERS) is not restored


def of_both_kinds(opened: PackFolder) -> tuple[PackFiles, PackFiles]:
    return MemoryFiles(FILES), SealedFiles(opened, DIGESTS)


def test_files_in_memory_and_in_a_folder_give_the_same_results(opened: PackFolder) -> None:
    for files in of_both_kinds(opened):
        assert dict(files.digests) == DIGESTS
        assert files.document("notes/a.json") == {"a": 1}
        for read in (files.data, files.document):
            with pytest.raises(MissingFileError) as missing:
                read("notes/none.json")
            (problem,) = missing.value.problems
            assert (problem.code, problem.where) == (Code.FILE_ABSENT, "notes/none.json")
        with pytest.raises(DocumentError, match=r"notes/b\.txt"):
            files.document("notes/b.txt")


def test_a_document_is_no_larger_than_the_limit(tmp_path: Path) -> None:
    whole = b'"' + b"x" * (MAX_JSON_BYTES - 2) + b'"'
    assert len(MemoryFiles({"a.json": whole}).document("a.json")) == MAX_JSON_BYTES - 2

    with pytest.raises(DocumentError):
        MemoryFiles({"a.json": whole + b" "}).document("a.json")

    with (tmp_path / "a.json").open("wb") as stream:
        stream.truncate(MAX_JSON_BYTES + 1)
    with open_pack(tmp_path) as folder, pytest.raises(IntegrityError):
        SealedFiles(folder, {"a.json": "0" * 64}).document("a.json")


def test_a_document_has_no_more_values_than_the_limit(tmp_path: Path) -> None:
    # the list itself counts as a value
    files = {name: b"[0" + b",0" * number + b"]" for name, number in LENGTHS.items()}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    with open_pack(tmp_path) as folder:
        sealed = SealedFiles(folder, {name: sha256(data) for name, data in files.items()})
        for documents in (MemoryFiles(files), sealed):
            assert len(documents.document("most.json")) == MAX_JSON_VALUES - 1
            with pytest.raises(DocumentError, match="values, more than the limit"):
                documents.document("more.json")


def test_a_listing_is_whole_until_it_is_cut_off(opened: PackFolder) -> None:
    listing = opened.listing()

    assert (listing.cut_off, listing.problems, set(listing.files)) == (False, [], set(FILES))
    assert (listing.folders, listing.entries) == (2, len(FILES) + 2)
    assert listing.total_bytes == sum(map(len, FILES.values()))
    assert not Listing().cut_off


def test_added_files_are_read_as_if_they_were_there_and_have_the_same_limit(tmp_path: Path) -> None:
    with open_pack(tmp_path, {"added.json": b"12345"}) as folder:
        assert folder.read("added.json", 5) == b"12345"
        with pytest.raises(IntegrityError):
            folder.read("added.json", 4)


def test_a_file_of_exactly_the_limit_is_read_and_a_larger_one_is_not(opened: PackFolder) -> None:
    size = len(FILES["notes/a.json"])

    assert opened.read("notes/a.json", size) == FILES["notes/a.json"]
    with pytest.raises(IntegrityError):
        opened.read("notes/a.json", size - 1)


@pytest.mark.parametrize("where", ["materials/data.dat", "data.dat"])
def test_a_large_file_of_a_pack_is_verified_to_its_last_byte(where: str, pack: Path, reseal: Reseal) -> None:
    material = pack / where
    material.parent.mkdir(exist_ok=True)
    material.write_bytes(os.urandom(THREADED_BYTES + 1))
    reseal(pack)
    assert strict(pack).code == 0, messages(strict(pack))
    data = material.read_bytes()

    for position in (0, THREADED_BYTES // 2, THREADED_BYTES):
        material.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        assert places(strict(pack)) == [(Code.CHECKSUM_DIFFERS, where, "")]
    material.write_bytes(data[:-1])
    assert places(strict(pack)) == [(Code.CHECKSUM_DIFFERS, where, "")]
