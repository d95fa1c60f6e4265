"""The code that a pack names: that with which its run began, also when the checkout changes in the meantime."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from invarlock.jsonio import write_json

pytestmark = pytest.mark.slow

RunPytest = Callable[..., Any]
SELECT = ("-k", "mistral and noop")
CHANGED = "the code changed while the run was in progress"
# a suites folder whose commit changes when the first case has run
NEW_COMMIT = """

@pytest.hookimpl
def pytest_runtest_teardown(item):
    marker = Path(__file__).parents[1] / "source_repo.json"
    marker.write_text(marker.read_text().replace("%s", "%s"))
"""


def provenance(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the source and the product that the pack of a run states."""
    metadata = directory / "evidence_pack" / "metadata"
    environment = json.loads((metadata / "environment.json").read_bytes())
    return json.loads((metadata / "source_repo.json").read_bytes()), environment["product"]


def test_a_commit_during_a_run_is_not_that_of_its_pack(run_pytest: RunPytest, own_suites: Path, tmp_path: Path) -> None:
    first = json.loads((own_suites.parent / "source_repo.json").read_bytes())["commit"]
    other = first[::-1]
    assert other != first
    with (own_suites / "conftest.py").open("a") as stream:
        stream.write("\nfrom pathlib import Path\n" + NEW_COMMIT % (first, other))
    directory = tmp_path / "run"

    ran = run_pytest(*SELECT, suites=own_suites, directory=directory)

    assert ran.status == 0, ran.output
    assert f"{CHANGED}: commit {first[:12]}" in ran.output
    assert f"commit {other[:12]}" in ran.output
    source, product = provenance(directory)
    assert (source["commit"], source["dirty"], product["dirty"]) == (first, True, True)


def test_a_run_resumed_with_other_code_says_so_and_one_with_the_same_does_not(
    run_pytest: RunPytest, own_suites: Path, tmp_path: Path
) -> None:
    directory, origin = tmp_path / "run", tmp_path / "run" / "state" / "origin.json"
    begun = run_pytest(*SELECT, suites=own_suites, directory=directory)
    assert begun.status == 0, begun.output
    first = provenance(directory)

    shutil.rmtree(directory / "evidence_pack")
    same = run_pytest(*SELECT, "--resume", suites=own_suites, directory=directory)

    assert same.status == 0, same.output
    assert CHANGED not in begun.output + same.output
    assert provenance(directory) == first
    # as if the first session had run other code
    document = json.loads(origin.read_bytes())
    document["product"]["code"] = f"sha256:{'0' * 64}"
    write_json(origin, document)
    shutil.rmtree(directory / "evidence_pack")
    changed = run_pytest(*SELECT, "--resume", suites=own_suites, directory=directory)

    assert changed.status == 0, changed.output
    assert CHANGED in changed.output
    source, product = provenance(directory)
    assert (product["code"], product["dirty"], source["dirty"]) == (f"sha256:{'0' * 64}", True, True)
    # and as something else wrote the file
    write_json(origin, {"product": []})
    shutil.rmtree(directory / "evidence_pack")
    malformed = run_pytest(*SELECT, "--resume", suites=own_suites, directory=directory)

    assert malformed.status == 1, malformed.output
    assert f"no pack was built: {origin}: not as a run writes it; start a new run" in malformed.output
    assert "Traceback" not in malformed.output


def test_a_run_without_a_pack_needs_no_valid_marker_of_its_source(
    run_pytest: RunPytest, own_suites: Path, tmp_path: Path
) -> None:
    (own_suites.parent / "source_repo.json").write_text("{}")

    ran = run_pytest(*SELECT, "--no-pack", suites=own_suites, directory=tmp_path / "run")

    assert ran.status == 0, ran.output
    assert json.loads((tmp_path / "run" / "state" / "origin.json").read_bytes())["source"] is None
