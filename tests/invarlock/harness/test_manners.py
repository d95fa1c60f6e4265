"""The usual features of pytest work on a suites folder as elsewhere, and pytest in other folders is unaffected.

The cases measure nothing, so each run takes a second. The tests are about how cases are selected, run and reported.
"""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from processes import clean, python

ROOT = Path(__file__).parents[3]
CLEAN = (
    *("noop_control", "quant_4bit_clean", "fp8_e5m2_clean", "prune_clean", "svd_rank32_clean"),
    *("smoothed_clean", "rotated_clean", "packed_w4_clean"),
)
SELECT = ("-m", "smoke and clean and mistral-tiny")
TEST = """from pathlib import Path

def test_quick(case):
    assert case.scenario.id not in Path(__file__).parents[1].joinpath("failing.txt").read_text().split()
"""
Pytest = Callable[..., subprocess.CompletedProcess[str]]


def node_id(scenario: str) -> str:
    return f"suites/test_quick.py::test_quick[mistral-tiny-{scenario}-run1]"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with our suites, whose cases fail if their scenario is in ``failing.txt``, and an unrelated test."""
    folder = tmp_path / "project"
    (folder / "suites").mkdir(parents=True)
    for path in (ROOT / "suites").iterdir():
        if path.suffix != ".py" and path.name != "__pycache__":
            (folder / "suites" / path.name).symlink_to(path)
    (folder / "suites/test_quick.py").write_text(TEST)
    (folder / "other").mkdir()
    for name in ("models.toml", "scenarios.json"):
        (folder / "other" / name).symlink_to(ROOT / "suites" / name)
    (folder / "other/test_other.py").write_text("def test_other(case): pass\n")
    (folder / "mine").mkdir()
    (folder / "mine/test_mine.py").write_text("def test_mine(): pass\n")
    (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (folder / "pytest.ini").touch()
    (folder / "failing.txt").touch()
    return folder


@pytest.fixture
def run(project: Path) -> Pytest:
    """Return a function that runs pytest in the project; ``output`` is the run directory's name."""

    def run_pytest(
        *arguments: str, output: str | None = None, cwd: Path = project, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        places = () if output is None else ("--no-pack", "--output-dir", project / output)
        given = {"COLUMNS": "200", "DRIFT_CALIBRATION_RUNS": "0", **variables}
        # pytest's cache is one of the features under test
        environment = clean(given, without=("CI", "BUILD_NUMBER"))
        return python("-m", "pytest", "-p", "no:hypothesispytest", *arguments, *places, cwd=cwd, env=environment)

    return run_pytest


def load(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def planned(run_directory: Path) -> list[str]:
    """Return the scenarios that a run planned, in order."""
    cases = load(run_directory / "state/plan.json")["cases"]
    return [case.removeprefix("mistral-tiny-").removesuffix("-run1") for case in cases]


def shown(output: str) -> list[str]:
    """Return the scenarios for which a run printed lines, in order."""
    lines = [line.lstrip(".F").split() for line in output.splitlines()]
    return [
        words[2] for words in lines if len(words) > 4 and words[1] == "mistral-tiny" and words[3:5] == ["no", "report"]
    ]


@pytest.mark.slow
def test_a_failed_case_is_reported_in_every_format_and_run_again_by_each(run: Pytest, project: Path) -> None:
    (project / "failing.txt").write_text("fp8_e5m2_clean")
    forms = ("--junitxml=junit.xml", "--json-report-file=report.json", "--durations=2", "--durations-min=0", "-n", "0")

    first = run("suites", *SELECT, *forms, output="first")

    assert first.returncode == 1, first.stdout + first.stderr
    assert shown(first.stdout) == planned(project / "first") == list(CLEAN)
    suite = ElementTree.parse(project / "junit.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == (str(len(CLEAN)), "1")
    assert [row.get("name") for row in suite] == [node_id(name).partition("::")[2] for name in CLEAN]
    outcomes = {test["nodeid"]: test["outcome"] for test in load(project / "report.json")["tests"]}
    assert outcomes == {node_id(name): "failed" if name == "fp8_e5m2_clean" else "passed" for name in CLEAN}
    assert "slowest 2 durations" in first.stdout
    failed = next(line for line in first.stdout.splitlines() if line.startswith("FAILED suites")).split()[1]
    assert failed == node_id("fp8_e5m2_clean")

    last_failed = run("suites", "--lf", "-p", "no:xdist", output="last_failed")
    pasted = run(failed, "-n", "1", "-v", output="pasted")
    failed_first = run("suites", *SELECT, "--ff", output="failed_first")

    assert planned(project / "last_failed") == planned(project / "pasted") == ["fp8_e5m2_clean"]
    assert "1 failed" in last_failed.stdout.splitlines()[-1]
    assert "1 failed" in pasted.stdout.splitlines()[-1]
    assert "scheduling tests via WorkStealingScheduling" in pasted.stdout
    assert shown(failed_first.stdout)[0] == "fp8_e5m2_clean"
    assert sorted(shown(failed_first.stdout)) == sorted(CLEAN)

    stopped = run("suites", *SELECT, "--sw", output="stopped")
    (project / "failing.txt").write_text("")
    gone_on = run("suites", *SELECT, "--sw", output="gone_on")

    assert shown(stopped.stdout) == list(CLEAN[:3])
    assert shown(gone_on.stdout) == planned(project / "gone_on") == list(CLEAN[2:])
    assert f"{len(CLEAN) - 2} passed" in gone_on.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "ran"), [("-x", 1), ("--maxfail=2", 3)])
def test_a_run_that_stops_early_says_which_cases_are_missing(run: Pytest, project: Path, stop: str, ran: int) -> None:
    (project / "failing.txt").write_text("noop_control fp8_e5m2_clean")

    stopped = run("suites", *SELECT, stop, output="stopped")

    assert stopped.returncode == 1, stopped.stdout + stopped.stderr
    progress = load(project / "stopped/state/progress.json")
    assert (progress["state"], progress["cases"]["done"], progress["verdict"]) == ("ended", ran, "FAIL")
    verdict = load(project / "stopped/reports/final_verdict.json")
    assert len(verdict["missing"]["by_model"]["embedded/mistral-tiny"]) == len(CLEAN)


@pytest.mark.slow
def test_a_run_with_workers_respects_maxfail(run: Pytest, project: Path) -> None:
    (project / "failing.txt").write_text(" ".join(CLEAN))

    stopped = run("suites", *SELECT, "-n", "2", "--maxfail=2", output="stopped")

    assert "stopping after 2 failures" in stopped.stdout, stopped.stdout + stopped.stderr
    # a worker may be running a case when the second failure is reported
    failures = int(re.findall(r"([0-9]+) failed", stopped.stdout)[-1])
    assert 2 <= failures < len(CLEAN)
    verdict = load(project / "stopped/reports/final_verdict.json")
    assert verdict["verdict"] == "FAIL"
    assert len(verdict["missing"]["by_model"]["embedded/mistral-tiny"]) == len(CLEAN)
    assert load(project / "stopped/state/progress.json")["state"] == "ended"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "variables"), [(("--dist", "load"), {}), ((), {"PYTEST_ADDOPTS": "--dist=load"})]
)
def test_workers_share_cases_by_the_given_scheduler(
    run: Pytest, arguments: tuple[str, ...], variables: dict[str, str]
) -> None:
    ran = run("suites", *SELECT, "-n", "1", "-v", *arguments, output="run", **variables)

    assert "scheduling tests via LoadScheduling" in ran.stdout, ran.stdout + ran.stderr
    assert f"{len(CLEAN)} passed" in ran.stdout.splitlines()[-1]


@pytest.mark.slow
def test_tests_of_another_folder_run_with_the_cases_and_a_named_suites_folder_runs(run: Pytest, project: Path) -> None:
    both = run("mine", "suites", "-k", "mine or (mistral and noop)", output="run")
    everything = run()

    assert "2 passed" in both.stdout.splitlines()[-1], both.stdout + both.stderr
    assert planned(project / "run") == ["noop_control"]
    assert everything.returncode == 0, everything.stdout + everything.stderr
    assert "1 passed" in everything.stdout.splitlines()[-1]
    assert not (project / "evidence_pack_runs").exists()


@pytest.mark.slow
def test_a_suites_folder_runs_from_another_folder_and_with_another_rootdir(run: Pytest, project: Path) -> None:
    elsewhere = project.parent / "elsewhere"
    elsewhere.mkdir()

    ran = run("../project/suites", *SELECT, "--rootdir", str(elsewhere), output="run", cwd=elsewhere)

    assert f"{len(CLEAN)} passed" in ran.stdout.splitlines()[-1], ran.stdout + ran.stderr
    assert planned(project / "run") == list(CLEAN)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--help",), "--signing-key=SIGNING_KEY"),
        (("--markers",), "@pytest.mark.subset: cases of InvarLock"),
        (("--fixtures",), "fixtures defined from invarlock.harness.fixtures"),
        (("--setup-plan", *SELECT), f"{node_id('noop_control')} (fixtures used: case)"),
        (("--collect-only", "-q", "-m", "smoke and not clean and not (mistral-tiny or mixtral-tiny)"), "20/84 tests"),
    ],
)
def test_options_that_only_show_something_start_no_run(
    run: Pytest, project: Path, arguments: tuple[str, ...], wanted: str
) -> None:
    ran = run("suites", *arguments)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert wanted in ran.stdout
    assert not (project / "evidence_pack_runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("suites", "mine", "other"), "other are suites folders, but a run has one"),
        (("suites", "-p", "no:jsonreport"), "pytest-json-report is not installed, but the verdict needs its report"),
        (("suites", "--json-report-summary"), "--json-report-summary omits the cases, which the verdict needs"),
        (("suites", "-p", "no:terminal"), "-p no:terminal removes options that pytest-json-report needs; use -qq"),
        (
            (node_id("prune_clean"), node_id("prune_clean").replace("mistral-tiny", "mistral-7b-v0.1")),
            "the given cases belong to the suites smoke, subset",
        ),
    ],
)
def test_options_that_allow_no_verdict_are_refused_on_one_line(
    run: Pytest, project: Path, arguments: tuple[str, ...], message: str
) -> None:
    ran = run(*arguments)

    assert ran.returncode == 4, ran.stdout + ran.stderr
    assert message in ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
    assert not (project / "evidence_pack_runs").exists()


def test_pytest_in_another_project_is_as_if_invarlock_were_not_installed(run: Pytest, tmp_path: Path) -> None:
    author = tmp_path / "author"
    author.mkdir()
    (author / "conftest.py").write_text(
        "import pytest\n"
        "def pytest_addoption(parser): parser.addoption('--tier', default='mine')\n"
        "@pytest.fixture\n"
        "def case(request): return request.config.getoption('--tier')\n"
    )
    (author / "test_author.py").write_text(
        "import importlib.util, sys\n"
        "def test_author(case):\n"
        "    assert case == 'mine'\n"
        "    assert not [name for name in sys.modules if name.partition('.')[0] == 'invarlock']\n"
        "    assert importlib.util.find_spec('invarlock')\n"
    )

    ran = run("--trace-config", cwd=author)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 passed" in ran.stdout.splitlines()[-1]
    assert "invarlock.harness" not in ran.stdout


@pytest.mark.slow
def test_our_own_tests_are_collected_without_a_session_of_the_suites(run: Pytest) -> None:
    ran = run("tests/test_gpu_script.py", "--collect-only", "--trace-config", "-p", "no:cacheprovider", cwd=ROOT)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "invarlock-session" not in ran.stdout
    assert "invarlock: suite" not in ran.stdout
