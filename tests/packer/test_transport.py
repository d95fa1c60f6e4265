"""Packs in transport: git that changes line ends, archives, links, and the wrong folder."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from packs import REPORT, codes, messages, places, sign, strict

from invarlock.cli import main as invarlock
from invarlock.problems import Code

LINE_ENDINGS = "its line endings were changed, perhaps by git"


def cloned(pack: Path, tmp_path: Path) -> Path:
    """Commit a pack, and clone it with git set to write CRLF."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    for command in (["init", "-q", str(pack)], ["-C", str(pack), "add", "-A"], ["-C", str(pack), "commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    there = tmp_path / "clone"
    config = ["-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    subprocess.run([*git, *config, "clone", "-q", str(pack), str(there)], check=True, capture_output=True)
    shutil.rmtree(there / ".git")
    return there


def test_git_leaves_a_pack_as_it_is(pack: Path, tmp_path: Path) -> None:
    assert (pack / ".gitattributes").read_bytes() == b"* -text\n"

    assert strict(cloned(pack, tmp_path)).code == 0


def test_changed_line_endings_have_a_code_of_their_own(pack: Path, tmp_path: Path) -> None:
    (pack / ".gitattributes").unlink()
    assert strict(pack).code == 0

    result = strict(cloned(pack, tmp_path))

    assert places(result) == [(Code.MANIFEST_LINE_ENDS_CHANGED, "manifest.json", "")]


def test_changed_line_endings_of_one_file_have_a_code_of_their_own(pack: Path, real_run: Any) -> None:
    report = pack / REPORT
    report.write_bytes(report.read_bytes().replace(b"\n", b"\r\n"))
    assert places(strict(pack)) == [(Code.LINE_ENDS_CHANGED, REPORT, "")]

    checksums = pack / "checksums.sha256"
    was = checksums.read_bytes()
    checksums.write_bytes(was.replace(b"\n", b"\r\n"))
    assert places(strict(pack)) == [(Code.LINE_ENDS_CHANGED, "checksums.sha256", "")]
    manifest = json.loads((pack / "manifest.json").read_bytes())
    assert manifest["checksums_sha256_digest"] == hashlib.sha256(was).hexdigest()
    sign(pack, manifest, real_run.key)
    assert codes(strict(pack)) == {Code.PATH_UNSAFE}


def test_attributes_may_say_nothing_else(pack: Path) -> None:
    (pack / ".gitattributes").write_text("* -text\n*.json filter=evil\n")

    assert places(strict(pack)) == [(Code.ATTRIBUTES_DIFFER, ".gitattributes", "")]


@pytest.mark.parametrize(("kind", "command"), [("zip", "unzip"), ("gztar", "tar -xf"), ("xztar", "tar -xf")])
def test_an_archive_is_refused_with_the_command_that_unpacks_it(
    pack: Path, tmp_path: Path, kind: str, command: str
) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), kind, pack))

    assert codes(strict(archive)) == {Code.PACK_MISSING}
    assert f"an archive; unpack it ({command})" in messages(strict(archive))


def test_a_link_is_refused_with_its_target(pack: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest"
    link.symlink_to(pack)

    assert codes(strict(link)) == {Code.PACK_MISSING}
    assert str(pack.resolve()) in messages(strict(link))


def test_a_run_directory_is_refused_with_the_path_of_its_pack(pack: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "state").mkdir(parents=True)
    pack.rename(run / "evidence_pack")

    assert codes(strict(run)) == {Code.PACK_MISSING}
    assert f"did you mean {run / 'evidence_pack'}?" in messages(strict(run))


def test_a_folder_without_a_manifest_and_another_file_are_no_packs(pack: Path, tmp_path: Path) -> None:
    (pack / "manifest.json").unlink()
    assert places(strict(pack)) == [(Code.CONTROL_FILE_MISSING, "manifest.json", "")]
    (tmp_path / "file").write_text("text")
    assert "an evidence pack is a folder" in messages(strict(tmp_path / "file"))


def test_a_folder_that_is_no_pack_is_described(pack: Path, tmp_path: Path) -> None:
    output, empty = tmp_path / "out", tmp_path / "empty"
    output.mkdir()
    empty.mkdir()
    (output / "evaluation.report.json").touch()

    seal = f"not a pack but an output folder of evaluate; seal it with: invarlock build PACK --report {output}"
    assert seal in messages(strict(output))
    assert "not a pack: no manifest.json in it" in messages(strict(empty))
    assert f"a folder of the pack {pack}; give that" in messages(strict(pack / "reports"))
    assert f"belongs to the pack {pack}; give that" in messages(strict(pack / "README.md"))
    for folder in (output, empty, pack / "reports"):
        assert codes(strict(folder)) == {Code.PACK_MISSING}


@pytest.mark.parametrize("name", ["manifest.json", "index.html", "results/final_verdict.txt"])
def test_a_file_of_a_pack_is_not_taken_for_a_report(pack: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert invarlock(["verify", str(pack / name)]) == 2
    assert f"{pack / name}: belongs to the pack {pack}; verify that" in capsys.readouterr().err
