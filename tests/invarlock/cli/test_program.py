"""The program ``invarlock``: its commands, its help, its completion, and what ``run`` passes to pytest."""

import os
from pathlib import Path

import pytest
from invarlock.packer.cli import add_verify_options
from invarlock.packer.cli import main as packer
from processes import invarlock_process, python, succeed

from invarlock import __version__
from invarlock.boundary import CommandParser
from invarlock.catalog.shipped import shipped_suites
from invarlock.cli import main
from invarlock.cli.program import GROUPS, make_parser
from invarlock.cli.running import pytest_arguments
from invarlock.cli.verifying import OF_PACKS
from invarlock.problems import Code, ExitCode

ROOT = Path(__file__).parents[3]
COMMANDS = (
    "demo", "evaluate", "run", "fleet", "tune", "calibrate", "records", "verify", "verify-receipt", "inspect", "diff",
    "trust", "bom", "card", "keygen", "build", "sign", "attest", "merge", "problems", "advanced",
)  # fmt: skip


def helped(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_lists_each_command_once_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    lines = helped(capsys).splitlines()

    listed = [line.split()[0] for line in lines if line[:2] == "  " and line[2] != " "]
    assert listed == list(COMMANDS)
    assert [line[:-1] for line in lines if line.endswith(":") and line[:-1] in GROUPS] == list(GROUPS)


@pytest.mark.parametrize("columns", ["60", "200"])
def test_help_keeps_to_the_width_of_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)

    assert max(map(len, helped(capsys).splitlines())) <= int(columns)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_of_its_own(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert helped(capsys, command).startswith(f"usage: invarlock {command}")


@pytest.mark.parametrize(
    "command",
    [(), ("verify",), ("inspect",), ("diff",), ("bom",), ("card",), ("build",), ("sign",), ("attest",), ("merge",)],
)
def test_help_lists_the_exit_codes_of_commands_of_packs(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    printed = " ".join(helped(capsys, *command).split())

    assert all(f"; {code.value} {code.meaning}" in printed for code in ExitCode if code > ExitCode.GATE), printed


def test_an_example_and_each_action_of_trust_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\nexample:\n  invarlock fleet manifest rayjob" in helped(capsys, "fleet", "manifest")
    assert "Add a signer to the trust store" in helped(capsys, "trust", "add")
    assert "List the signers in the trust store" in helped(capsys, "trust", "list")


def test_help_and_version_import_no_library_that_takes_long() -> None:
    code = (
        "import sys\nfrom invarlock.cli import main\n"
        "for given in (['--help'], ['run', '--help'], ['--version']):\n"
        "    try:\n        main(given)\n    except SystemExit:\n        pass\n"
        "print(sorted({'torch', 'transformers', 'pytest', 'safetensors', 'tqdm'} & set(sys.modules)))\n"
    )

    done = succeed(python("-c", code, cwd=ROOT))

    assert done.stdout.splitlines()[-2:] == [f"invarlock {__version__}", "[]"]


@pytest.mark.parametrize("given", [["inspect", "none"], ["verify", "none"], ["diff", "none", "none"]])
def test_commands_of_packs_are_the_packers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ends = [(run(given), capsys.readouterr()) for run in (main, packer)]

    assert ends[0] == ends[1]
    assert ends[0][0] == 3


def test_an_unknown_value_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for given, nearest in ((["verfy"], "verify"), (["calibrate", "x", "--tier", "balancd"], "balanced")):
        with pytest.raises(SystemExit) as stop:
            main(given)
        assert (stop.value.code, f"did you mean {nearest}?" in capsys.readouterr().err) == (2, True)


@pytest.mark.parametrize(
    ("given", "name", "paths"),
    [
        ("verify-receipt r.json --public-key me.pub.pem A", "packs", ["A"]),
        ("verify-receipt --public-key me.pub.pem r.json A --json B", "packs", ["A", "B"]),
        ("verify A --strict B -q C", "paths", ["A", "B", "C"]),
        ("merge A --output M B", "runs", ["A", "B"]),
        ("merge --output M A --unsigned -- B", "runs", ["A", "B"]),
    ],
)
def test_paths_may_follow_options(given: str, name: str, paths: list[str]) -> None:
    options = make_parser().parse_args(given.split())

    assert getattr(options, name) == [Path(path) for path in paths]


def test_an_unknown_option_between_paths_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["verify", "A", "--strct", "B"])

    assert stop.value.code == 2
    assert "unknown: --strct B (did you mean --strict?)" in capsys.readouterr().err


def test_problems_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    code = Code.CHECKSUM_DIFFERS

    assert main(["problems", code.value]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{code.value} (exit code {int(code.exit_code)})", f"  {code.meaning}", f"  {code.remedy}",
    ]  # fmt: skip
    assert main(["problems", "checksum_difers"]) == 2
    assert "did you mean checksum_differs?" in capsys.readouterr().err


def test_run_passes_options_to_pytest_over_the_shipped_suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()

    shipped = pytest_arguments(["-m", "mine", "-n", "2"])
    own = pytest_arguments(["mine/test_scenarios.py::test_scenario[x]", "-v"])
    folder = pytest_arguments(["mine", "-v"])

    assert shipped[-5:] == [str(shipped_suites().resolve()), "-m", "mine", "-n", "2"]
    # there is no such file: pytest looks for it in the shipped suites, and names it
    assert own[-2:] == ["mine/test_scenarios.py::test_scenario[x]", "-v"]
    assert folder == ["-p", "invarlock.harness.plugin", "mine", "-v"]


def test_run_selects_cases_of_the_shipped_suites_from_any_folder(tmp_path: Path) -> None:
    given = ("run", "-m", "smoke", "-k", "noop_control", "--collect-only", "-q")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    done = succeed(invarlock_process(*given, cwd=tmp_path, env=environment))

    assert "test_scenario[mistral-tiny-noop_control-run1]" in done.stdout
    assert not [path for path in tmp_path.iterdir() if path.name != ".pytest_cache"]


def test_verify_knows_which_options_are_of_packs_alone() -> None:
    parser = CommandParser()
    add_verify_options(parser)

    found = set(vars(parser.parse_args([]))) - {"json", "json_out", "quiet", "require_pass"}

    assert found == set(OF_PACKS)


def test_completion_offers_commands_and_options(tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    for line, offered in (("invarlock ver", "verify"), ("invarlock evaluate --base", "--baseline-report")):
        output = tmp_path / "offered"
        environment = {
            **os.environ, "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(output), "_ARGCOMPLETE_IFS": "\n",
        }  # fmt: skip
        succeed(invarlock_process(cwd=ROOT, env=environment))
        assert offered in [word.strip() for word in output.read_text().splitlines()]


def test_the_parser_knows_no_command_twice() -> None:
    names = [name for group in make_parser().groups.values() for name in group]

    assert sorted(names) == sorted(set(names))
