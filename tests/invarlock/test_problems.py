"""Problems: each code is documented, found and tested; a problem reads well, and gives its exit code to an error."""

import pickle
import re
from pathlib import Path

import pytest

from invarlock import errors
from invarlock.errors import IntegrityError, InvarLockError, ReportError, UsageError
from invarlock.problems import Code, ExitCode, Problem, first_class
from invarlock.problems.page import exit_codes_line, problems_page

ROOT = Path(__file__).parents[2]
# Codes that no test names, with the reason.
NOT_NAMED = {
    Code.SHARD_CONTRADICTS_ITSELF: "seen by its exit code in test_sharding.py, from a process of its own",
}


def test_the_page_of_problems_is_the_enumeration_in_the_code() -> None:
    page = ROOT / "docs" / "problems.md"

    assert page.read_text() == problems_page(), "write it anew: python -m invarlock.problems > docs/problems.md"


@pytest.mark.parametrize("code", Code)
def test_each_code_says_what_is_wrong_and_what_to_do(code: Code) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)+", code.value)
    assert code.name == code.value.upper()
    assert code.exit_code >= ExitCode.GATE
    assert code.meaning.endswith(".")
    assert code.remedy.endswith((".", "`"))
    assert "|" not in code.meaning + code.remedy
    assert f"| `{code.value}` | {code.meaning} | {code.remedy} |" in problems_page()


def test_exit_codes_are_one_table() -> None:
    assert [int(code) for code in ExitCode] == list(range(8))
    assert exit_codes_line(ExitCode.USAGE) == f"exit codes: 2 {ExitCode.USAGE.meaning}"
    for command in ("packer/cli.py", "invarlock/cli/parsing.py"):
        assert "exit_codes_line(" in (ROOT / command).read_text()


def test_each_code_is_found_by_some_check_and_seen_by_some_test() -> None:
    product = _codes_named_in(ROOT / "invarlock", ROOT / "packer")
    tests = _codes_named_in(ROOT / "tests") | {code.name for code in NOT_NAMED}

    assert {code.name for code in Code} - product == set()
    assert {code.name for code in Code} - tests == set()


def _codes_named_in(*folders: Path) -> set[str]:
    own = {Path(__file__), ROOT / "invarlock/problems/codes.py"}
    texts = [path.read_text() for folder in folders for path in folder.rglob("*.py") if path not in own]
    named = {name for text in texts for name in re.findall(r"\bC(?:ode)?\.([A-Z_]+)\b", text)}
    # an error that is raised without a code has that of its class
    raised = {name for text in texts for name in re.findall(r"\brais(?:e |es\()(\w+Error)\b", text)}
    return named | {vars(errors)[name].default_code.name for name in raised if name in vars(errors)}


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem(Code.CHECKSUM_DIFFERS, "a.json", "b[0]", "1, derived 2"), "a.json: b[0]: 1, derived 2"),
        (Problem(Code.CHECKSUM_DIFFERS, "a.json", "", "cut off"), "a.json: cut off"),
        (Problem(Code.CHECKSUM_DIFFERS, "", "b", "missing"), "b: missing"),
        (Problem(Code.CHECKSUM_DIFFERS, "", "", "too large"), "too large"),
    ],
)
def test_a_problem_reads_from_the_file_to_the_field(problem: Problem, text: str) -> None:
    assert str(problem) == text
    assert problem.document() == {
        "code": "checksum_differs",
        "where": problem.where,
        "field": problem.field,
        "message": problem.message,
    }


def test_a_problem_is_moved_to_its_file_and_folder() -> None:
    problem = Problem(Code.CHECKSUM_DIFFERS, "", "b", "missing")

    assert problem.of("c.json").below("reports/").coded(Code.FILE_ABSENT) == Problem(
        Code.FILE_ABSENT, "reports/c.json", "b", "missing"
    )


def test_the_first_class_that_failed_is_that_of_the_lowest_exit_code() -> None:
    report, one, other = (
        Problem(code, "x", "", "y") for code in (Code.PAGE_DIFFERS, Code.PATH_UNSAFE, Code.CHECKSUM_DIFFERS)
    )

    assert first_class([report, one, other]) == (one, other)
    assert first_class([]) == ()


def test_an_error_has_the_exit_code_of_its_problem() -> None:
    alone = IntegrityError("cut off", where="a.json", code=Code.FILE_CHANGED)
    about = ReportError("not packed", code=Code.NOT_PACKED, problems=alone.problems)

    assert (str(alone), alone.code, alone.exit_code) == ("a.json: cut off", Code.FILE_CHANGED, 6)
    assert (str(about), about.exit_code, about.problems) == ("not packed", 7, alone.problems)
    assert InvarLockError("x", problems=alone.problems).exit_code == 6
    assert UsageError("x").exit_code == 2


def test_an_error_survives_its_way_between_processes() -> None:
    error = ReportError("not packed", code=Code.NOT_PACKED, problems=[Problem(Code.PAGE_DIFFERS, "a", "b", "c")])

    found = pickle.loads(pickle.dumps(error))

    assert (type(found), str(found), found.code, found.problems) == (
        ReportError,
        "not packed",
        Code.NOT_PACKED,
        error.problems,
    )


def test_each_class_of_errors_has_a_code_of_its_own() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, InvarLockError)]

    # a combined error has the code of one of its errors
    codes = [kind.default_code for kind in kinds if kind not in (InvarLockError, errors.CombinedError)]
    assert len(kinds) > 10
    assert len(codes) == len(set(codes))
