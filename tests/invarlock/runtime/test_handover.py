import json
import shutil
import tomllib
from pathlib import Path

import pytest
from processes import python, succeed

from invarlock.errors import UsageError
from invarlock.reports.sidecars import RuntimeImage
from invarlock.runtime.handover import Handover, check_code, code_digest, read_handover
from invarlock.runtime.provenance import source_repository

ROOT = Path(__file__).parents[3]
IMAGE = RuntimeImage("invarlock-runtime:local", f"sha256:{'1' * 64}")


def test_a_handover_file_on_a_host_is_ignored(tmp_path: Path) -> None:
    place = tmp_path / "handover.json"
    Handover(IMAGE, code_digest(), source_repository(ROOT)).write(place)

    assert json.loads(place.read_text())["image_digest"] == IMAGE.digest
    assert read_handover(place) is None
    assert read_handover(tmp_path / "absent.json") is None


def test_an_image_with_other_code_is_refused() -> None:
    check_code(Handover(IMAGE, code_digest(), None))

    with pytest.raises(UsageError, match=r"invarlock-runtime:local: contains other code .* rebuild it"):
        check_code(Handover(IMAGE, f"sha256:{'2' * 64}", None))


def test_installed_code_has_the_digest_of_the_checkout_it_was_installed_from(tmp_path: Path) -> None:
    installed = tmp_path / "installed" / "invarlock"
    shutil.copytree(ROOT / "invarlock", installed, ignore=shutil.ignore_patterns("__pycache__"))
    with (ROOT / "pyproject.toml").open("rb") as stream:
        folders = tomllib.load(stream)["tool"]["setuptools"]["package-dir"]
    for name, folder in folders.items():
        if name != "invarlock":
            place = installed / name.removeprefix("invarlock.")
            shutil.copytree(ROOT / folder, place, ignore=shutil.ignore_patterns("__pycache__", "embedded"))
    code = "from invarlock.runtime.handover import code_digest; print(code_digest())"

    done = succeed(python("-c", f"import sys; sys.path.insert(0, {str(installed.parent)!r}); {code}", cwd=tmp_path))

    assert done.stdout.strip() == code_digest()
