"""Reading an untrusted folder: which files belong to a pack, and which are refused with which code."""

import os
from pathlib import Path

import pytest
from invarlock.packer.format import pack_folder
from invarlock.packer.format.pack_folder import open_pack

from invarlock.digests import sha256_hex
from invarlock.errors import IntegrityError, InvarLockError, MissingFileError
from invarlock.problems import Code, Problem


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "pack"
    (path / "reports").mkdir(parents=True)
    (path / "manifest.json").write_bytes(b"{}")
    (path / "reports" / "one.json").write_bytes(b"[1, 2]")
    return path


def refused(folder: Path, name: str, limit_bytes: int = 100) -> Code:
    with open_pack(folder) as pack, pytest.raises(InvarLockError) as caught:
        pack.read(name, limit_bytes)
    return caught.value.code


@pytest.mark.parametrize("year", [1935, 2400])
def test_a_file_may_be_as_old_or_as_new_as_it_likes(folder: Path, year: int) -> None:
    seconds = (year - 1970) * 365 * 24 * 3600
    os.utime(folder / "manifest.json", (seconds, seconds))
    written = (folder / "manifest.json").stat().st_mtime_ns

    with open_pack(folder) as pack:
        before = pack.listing()
        data = pack.read("manifest.json", 6)
        unchanged = list(pack.changes(before))
        os.utime(folder / "manifest.json", ns=(written, written + 1))
        changed = [problem.where for problem in pack.changes(before)]

    assert (data, unchanged, changed) == (b"{}", [], ["manifest.json"])


def test_a_file_is_read_digested_and_listed_by_its_path(folder: Path) -> None:
    counted: list[int] = []

    with open_pack(folder) as pack:
        listing = pack.listing()
        data = pack.read("reports/one.json", 6)
        digest = pack.digest("reports/one.json", counted.append)

    assert (sorted(listing.files), listing.total_bytes, listing.problems) == (
        ["manifest.json", "reports/one.json"],
        8,
        [],
    )
    assert (data, digest, sum(counted)) == (b"[1, 2]", sha256_hex(b"[1, 2]"), 6)


def test_a_file_is_read_whole_where_a_read_returns_less_than_was_wanted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, count: read(descriptor, min(count, 2)))

    with open_pack(folder) as pack:
        assert pack.read("reports/one.json", 6) == b"[1, 2]"


@pytest.mark.parametrize(("links", "cut_off"), [(1, False), (2, True)])
def test_a_listing_that_does_not_reach_the_files_of_a_folder_says_so(
    links: int, cut_off: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_folder, "MAX_FILES", 2)
    monkeypatch.setattr(pack_folder, "MAX_FOLDERS", 2)
    for number in range(links):
        (folder / f"link_{number}").symlink_to("manifest.json")

    with open_pack(folder) as pack:
        listing = pack.listing()

    # the manifest, the folder, its file and the links count as entries, and the limit is four
    assert listing.cut_off is cut_off
    assert ("reports/one.json" in listing.files) is not cut_off


def test_added_files_are_read_as_if_they_were_there_and_stay_bounded(folder: Path) -> None:
    with open_pack(folder, {"manifest.signature.json": b"signed"}) as pack:
        assert pack.read("manifest.signature.json", 6) == b"signed"
        with pytest.raises(IntegrityError):
            pack.read("manifest.signature.json", 5)


def test_a_file_over_its_limit_is_not_read(folder: Path) -> None:
    with open_pack(folder) as pack:
        assert pack.read("reports/one.json", 6) == b"[1, 2]"
        with pytest.raises(IntegrityError) as caught:
            pack.read("reports/one.json", 5)
    assert caught.value.problems[0].where == "reports/one.json"


def test_an_absent_file_is_missing(folder: Path) -> None:
    assert refused(folder, "reports/two.json") is Code.CONTROL_FILE_MISSING


def test_links_devices_and_folders_are_never_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "link.json").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe.json")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "one.json").write_bytes(b"secret")
    (folder / "linked").symlink_to(tmp_path / "outside")

    for name in ("link.json", "pipe.json", "reports", "linked/one.json"):
        with open_pack(folder) as pack, pytest.raises(IntegrityError):
            pack.read(name, 100)
    with open_pack(folder) as pack:
        listing = pack.listing()
    assert {problem.where for problem in listing.problems} == {"link.json", "linked", "pipe.json"}
    assert {problem.code for problem in listing.problems} == {Code.NOT_A_REGULAR_FILE}
    assert sorted(listing.files) == ["manifest.json", "reports/one.json"]


def test_a_change_after_the_listing_is_found(folder: Path) -> None:
    with open_pack(folder) as pack:
        before = pack.listing()
        assert list(pack.changes(before)) == []
        (folder / "reports" / "one.json").write_bytes(b"[1, 3]")
        (folder / "reports" / "new.json").write_bytes(b"1")
        (folder / "manifest.json").unlink()

        changed = list(pack.changes(before))

    assert {problem.where for problem in changed} == {"manifest.json", "reports/new.json", "reports/one.json"}
    assert {problem.code for problem in changed} == {Code.FILE_CHANGED}


@pytest.mark.parametrize("change", [b"[1, 2, 3]", b"[", b""])
def test_a_file_that_changes_while_it_is_read_is_named(folder: Path, change: bytes) -> None:
    path = "reports/one.json"

    with open_pack(folder) as pack, pytest.raises(IntegrityError) as caught:
        pack.digest(path, lambda count: (folder / path).write_bytes(change))

    assert caught.value.problems == (Problem(Code.FILE_CHANGED, path, "", "it changed while it was read"),)


@pytest.mark.parametrize("name", ["pack.tar.gz", "absent", "manifest.json"])
def test_a_path_that_is_not_a_folder_is_no_pack(folder: Path, name: str) -> None:
    if name == "pack.tar.gz":
        (folder / name).write_bytes(b"")

    with pytest.raises(MissingFileError) as caught, open_pack(folder / name):
        pass

    assert caught.value.code is Code.PACK_MISSING
