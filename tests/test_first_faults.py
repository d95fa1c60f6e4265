"""The faults that operators meet first: each command ends with one line that says what is wrong and what to do."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from invarlock.packer.build.building import build_pack
from invarlock.packer.cli import main as packer
from packs import TIME, content
from several_pytests import run_several

from invarlock.cli import main

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Fault:
    """A run that is refused before its first case.

    Attributes:
        arguments: of pytest.
        variables: of the environment.
        says: how one line of the output names the fault.
        remedies: what that line says to do, as one types it.
    """

    arguments: tuple[str, ...]
    variables: dict[str, str]
    says: str
    remedies: tuple[str, ...]


FAULTS = {
    "no file of tuned parameters": Fault(
        ("-m", "smoke and clean"),
        {"PACK_TUNED_EDIT_PARAMS_FILE": "absent.json"},
        "absent.json: no such file",
        ("create the file", "PACK_TUNED_EDIT_PARAMS_FILE", "invarlock tune MODEL --output FILE"),
    ),
    "no tuned parameters of this model": Fault(
        ("-m", "smoke and clean and mistral-tiny"),
        {"PACK_TUNED_EDIT_PARAMS_FILE": "empty.json"},
        "empty.json: no tuned parameters of ",
        ("PACK_TUNED_EDIT_PARAMS_FILE", "invarlock tune embedded/mistral-tiny --output FILE"),
    ),
    "no container engine": Fault(
        ("-k", "noop", "--execution-mode", "container"),
        {"PATH": "."},
        "no container engine",
        ("install podman or docker", "podman build -t invarlock-runtime:local .", "INVARLOCK_ALLOW_HOST_EXECUTION=1"),
    ),
    "not the container engine that is named": Fault(
        ("-k", "noop", "--execution-mode", "container"),
        {"PATH": ".", "INVARLOCK_CONTAINER_ENGINE": "podman"},
        "no container engine",
        ("install podman", "INVARLOCK_CONTAINER_ENGINE=docker", "podman build -t invarlock-runtime:local ."),
    ),
    "too little disk": Fault(
        ("-k", "noop"),
        {"MIN_FREE_DISK_GB": "900000"},
        "900000 GB must stay free",
        ("free some space", "--output-dir", "lower MIN_FREE_DISK_GB", "PACK_SKIP_DISK_PREFLIGHT=1"),
    ),
    "no opt-in to remote code": Fault(
        ("-m", "subset", "--execution-mode", "host"),
        {},
        "suite subset: GPU suites need the opt-in",
        ("INVARLOCK_ALLOW_REMOTE_CODE=1; set it",),
    ),
    "no file of pins": Fault(
        ("-k", "noop"),
        {"PACK_MODEL_REVISIONS_FILE": "absent.json"},
        "absent.json: no such file",
        ("state/model_revisions.json of a run with --net 1", "unset the variable"),
    ),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Return exit status and output of each run, started in a folder with a file without parameters."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "empty.json").write_text('{"_meta": {"schema": "tuned_edit_params_v1"}, "models": {}}')
    runs = [((str(ROOT / "suites"), "--output-dir", "run", *f.arguments), f.variables) for f in FAULTS.values()]
    found = dict(zip(FAULTS, run_several(runs, folder), strict=True))
    assert [path.name for path in folder.iterdir()] == ["empty.json"]
    return found


def line_with(text: str, output: str) -> str:
    """Return the only line of the output that has the text."""
    lines = [line for line in output.splitlines() if text in line]
    assert len(lines) == 1, output
    return lines[0]


@pytest.mark.parametrize("name", FAULTS)
def test_the_line_of_a_refused_run_says_what_to_do(name: str, refused: dict[str, tuple[int, str]]) -> None:
    fault, (status, output) = FAULTS[name], refused[name]

    line = line_with(fault.says, output)
    assert [remedy for remedy in fault.remedies if remedy not in line] == []
    assert status == 4, output
    assert "Traceback" not in output


def test_the_remedy_for_an_unsigned_pack_makes_it_verify(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack, key = tmp_path / "unsigned", tmp_path / "key.pem"
    build_pack(pack, content(run), None, TIME)

    assert packer(["verify", str(pack)]) == 5

    line = line_with("the pack is not signed", "".join(capsys.readouterr()))
    assert "--allow-unsigned" in line
    assert "invarlock keygen KEY.pem" in line
    assert "invarlock sign PACK --signing-key KEY.pem" in line
    assert packer(["verify", str(pack), "--allow-unsigned"]) == 0
    assert packer(["keygen", str(key)]) == 0
    assert packer(["sign", str(pack), "--signing-key", str(key)]) == 0
    assert packer(["verify", str(pack)]) == 0


def test_the_refusal_of_a_text_that_is_missing_names_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--baseline", str(tmp_path), "--subject", str(tmp_path), "--output-dir", str(tmp_path / "out")]

    assert main(["evaluate", *folders, "--text", "absent.txt"]) == 2

    line = line_with("absent.txt: no such file", capsys.readouterr().err)
    assert "name a text to score on with --text" in line
