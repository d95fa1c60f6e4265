"""The page about the earlier shell harness: its commands run, its variables are settings, its files exist."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.cli import main as packer
from invarlock.packer.trust.signers import DEFAULT_STORE
from processes import python, succeed
from several_pytests import run_several

from invarlock.cli import main
from invarlock.errors import UsageError
from invarlock.settings import resolve_settings, unknown_variables

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/coming-from-shell-harness.md"
SOME_PACKS = "Files that only some packs have"


def read_tables() -> dict[str, list[list[str]]]:
    """Return the rows of the page's tables by section; a row is three cells."""
    tables: dict[str, list[list[str]]] = {}
    section = ""
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith(("| earlier", "| ---")):
            tables.setdefault(section, []).append(line.strip("| ").split(" | "))
    return tables


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


TABLES = read_tables()
COMMANDS = [spans(row[1])[0] for row in TABLES["Commands"]]
PYTEST = [command for command in COMMANDS if command.startswith("pytest ")]
SLOW = [command for command in COMMANDS if command.startswith("invarlock evaluate")]
MAKE = [command for command in COMMANDS if command.startswith("make ")]
QUICK = [command for command in COMMANDS if command not in (*PYTEST, *SLOW, *MAKE)]


@pytest.fixture(scope="module", autouse=True)
def without_settings() -> Iterator[None]:
    """Take settings out of the environment, and stay out of the store of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("PACK_", "INVARLOCK_", "OUTPUT_DIR"))]:
            patch.delenv(name)
        patch.chdir(ROOT)
        yield


@pytest.fixture(scope="module")
def words(real_run: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what the words in capitals stand for."""
    run, folder = real_run.directory, tmp_path_factory.mktemp("words")
    signer = json.loads((real_run.pack / "manifest.json").read_bytes())["signing_key_fingerprint"]
    (folder / "store.json").write_text(json.dumps([signer]))
    model = run / "embedded__mistral-tiny"
    return {
        "RUN": str(run),
        "PACK": str(real_run.pack),
        "REPORT": str(model / "reports/noop_control/run_1/evaluation.report.json"),
        "BASELINE_REPORT": str(model / "baseline/evaluation.report.json"),
        "KEY": str(real_run.key_path.with_suffix("")),
        "SIGNER": signer,
        "STORE": str(folder / "store.json"),
        "MODEL": "embedded/mistral-tiny",
        "BASE": str(run / "models/embedded__mistral-tiny/baseline"),
        "SUBJECT": str(run / "models/embedded__mistral-tiny/baseline"),
        "TEXT": str(ROOT / "suites/embedded/text/austen_heldout.txt.xz"),
    }


def fill_in(command: str, words: dict[str, str]) -> str:
    return re.sub(r"\b[A-Z]+(?:_[A-Z]+)*\b", lambda match: words.get(match[0], match[0]), command)


def run_in_process(command: str) -> int:
    """Run a command of ours, and return its exit code."""
    arguments = shlex.split(command)
    if arguments[:3] == ["python", "-m", "invarlock.packer"]:
        return packer(arguments[3:])
    assert arguments[0] == "invarlock"
    return main(arguments[1:])


@pytest.fixture(scope="module")
def collected(words: dict[str, str]) -> dict[str, tuple[int, str]]:
    """Return what each pytest command of the page selects, with the exit status."""
    given = [[*shlex.split(fill_in(command, words))[1:], "--collect-only", "-q"] for command in PYTEST]
    return dict(zip(PYTEST, run_several([(arguments, {}) for arguments in given], ROOT), strict=True))


def test_the_page_has_every_kind_of_command() -> None:
    assert min(len(PYTEST), len(MAKE), len(QUICK)) >= 3
    assert len(SLOW) == 1


@pytest.mark.parametrize("command", PYTEST)
def test_a_pytest_command_selects_cases(command: str, collected: dict[str, tuple[int, str]]) -> None:
    status, output = collected[command]

    assert status == 0, output
    assert re.search(r"^\d+(/\d+)? tests collected", output, re.MULTILINE), output


@pytest.mark.parametrize("command", MAKE)
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_a_make_command_has_a_target(command: str) -> None:
    done = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("pip install ", "podman build ", "docker build ", "pytest suites "))


@pytest.mark.parametrize("command", QUICK)
def test_a_command_runs_and_ends_as_the_page_says(
    command: str, words: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = fill_in(command, {**words, "OUT": str(tmp_path / "out"), "NEW_KEY": str(tmp_path / "new")})

    if filled.startswith("cd "):
        assert subprocess.run(filled, shell=True, capture_output=True, check=False).returncode == 0
        return
    code = run_in_process(filled)

    printed = capsys.readouterr()
    # the page says so: the run was made on the host
    assert code == (7 if "--report-assurance strict" in command else 0), printed.err
    assert printed.out
    if " verify " in command:
        assert ("in a container" in printed.out) == (code == 7)
    if " keygen " in command:
        assert (tmp_path / "new.pem").is_file()
        assert (tmp_path / "new.pub.pem").is_file()
    if "OUT" in command:
        assert (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", SLOW)
def test_checkpoints_are_compared_by_the_command_of_the_page(
    command: str, words: dict[str, str], tmp_path: Path
) -> None:
    filled = fill_in(command, {**words, "OUT": str(tmp_path / "out")})
    few = "--seq-len 64 --preview-windows 4 --final-windows 16"

    succeed(python("-m", *shlex.split(f"{filled} {few}")))

    assert (tmp_path / "out/runtime.manifest.json").is_file()


VARIABLE_ROWS = [(spans(earlier)[0], spans(now)) for earlier, now, _ in TABLES["Environment variables"]]
SETTINGS_ROWS = [line for line in (ROOT / "docs/settings.md").read_text("utf-8").splitlines() if line.startswith("| ")]
SETTINGS_NAMES = {name.partition("=")[0] for line in SETTINGS_ROWS for name in spans(line)}


@pytest.mark.parametrize(("earlier", "now"), VARIABLE_ROWS, ids=[earlier for earlier, _ in VARIABLE_ROWS])
def test_a_variable_is_a_setting_that_takes_the_value(
    earlier: str, now: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = earlier.partition("=")[0]
    with pytest.raises(SystemExit):
        packer(["verify", "--help"])
    verify_options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))

    assert (name in SETTINGS_NAMES) == (earlier in now)
    for counterpart in now:
        named, _, value = counterpart.partition("=")
        assert named in SETTINGS_NAMES | verify_options
        if value:
            sources = resolve_settings({}, {named: value}).sources
            assert "variable" in sources.values()
    warned = list(unknown_variables({name: "1"}))
    assert bool(warned) == (name not in SETTINGS_NAMES and name.startswith(("PACK_", "INVARLOCK_")))


def test_a_value_that_a_setting_does_not_take_is_noticed() -> None:
    with pytest.raises(UsageError, match="PACK_BASELINE_STORAGE_MODE"):
        resolve_settings({}, {"PACK_BASELINE_STORAGE_MODE": "snapshot"})


def files_of(section: str) -> list[tuple[str, str]]:
    return [(spans(row[0])[0], spans(row[1])[0]) for row in TABLES[section]]


@pytest.mark.parametrize(("earlier", "now"), files_of("Files of a checkout"))
def test_a_file_of_the_checkout_is_where_the_page_says(earlier: str, now: str) -> None:
    assert (ROOT / now).is_file()
    assert (ROOT / earlier).exists() == (earlier == now)


def test_trusted_signers_are_where_the_page_says() -> None:
    assert f"`{DEFAULT_STORE}`" in PAGE.read_text("utf-8")


@pytest.mark.parametrize("now", [now for _, now in files_of("Files of a run directory")])
def test_a_file_of_a_run_is_where_the_page_says(now: str, real_run: Any) -> None:
    assert list(real_run.directory.glob(now))


@pytest.mark.parametrize("now", [now for _, now in files_of("Files of a pack")])
def test_a_file_of_a_pack_is_where_the_page_says(now: str, real_run: Any) -> None:
    assert list(real_run.pack.glob(now))


@pytest.mark.slow
@pytest.mark.parametrize(("now", "condition"), [(spans(row[1])[0], spans(row[2])[0]) for row in TABLES[SOME_PACKS]])
def test_a_file_that_only_some_packs_have_is_where_the_page_says(
    now: str, condition: str, real_run: Any, made_once: Any, request: pytest.FixtureRequest
) -> None:
    if condition == "--repeats":
        made = made_once("repeated", "noop", "--repeats", "1")
        assert (made.directory / "analysis/determinism_repeats.json").is_file()
    else:
        fixtures = {"-m deployable": "deployed_run", "-m guard_value": "swept_run"}
        made = request.getfixturevalue(fixtures.get(condition, "probed_run"))

    found = list(made.pack.glob(now))
    assert found
    assert not list(real_run.pack.glob(now))
    if condition in ("rmt_norm_noise", "ve_mlp_scale_skew"):
        assert [path.parent.name for path in found] == [condition]


def test_the_readme_leads_to_the_page() -> None:
    assert "](docs/coming-from-shell-harness.md)" in (ROOT / "README.md").read_text("utf-8")
