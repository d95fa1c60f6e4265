"""Lines that say the same of many things."""

import io
import sys

import pytest

from invarlock.folding import fold, fold_problems, fold_warnings
from invarlock.output import say_results
from invarlock.problems import Code, Problem


def test_many_files_with_the_same_problem_are_one_line_and_others_stay() -> None:
    same = [Problem(Code.CHECKSUM_DIFFERS, f"reports/{n}.json", "a", f"1, derived {n}.5") for n in range(66)]
    other = Problem(Code.FILE_MISSING, "b.json", "", "no such file")

    lines = fold_problems([*same, other])

    assert lines == [
        "66 files, the first is reports/0.json: a: 1, derived 0.5 [checksum_differs]",
        "b.json: no such file [file_missing]",
    ]


def test_two_stay_two_and_their_order_is_kept() -> None:
    assert fold([("a", "x"), ("b", "y"), ("c", "x")], "files") == ["a: x", "c: x", "b: y"]
    assert fold([("", "x")], "files") == ["x"]


def test_exact_texts_with_other_numbers_stay_apart() -> None:
    rows = [(name, f"ratio {number}") for number, name in enumerate("abc")]

    assert fold(rows, "cases", exact=True) == ["a: ratio 0", "b: ratio 1", "c: ratio 2"]
    assert fold(rows, "cases") == ["3 cases, the first is a: ratio 0"]


def test_warnings_about_files_are_folded_and_sentences_stay() -> None:
    warnings = [*(f"extra/{n}: not sealed" for n in range(5)), "not signed: anybody could have made it"]

    assert fold_warnings(warnings) == [
        "5 files, the first is extra/0: not sealed", "not signed: anybody could have made it",
    ]  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("line", "painted"),
    [
        ("PASS: out", "\x1b[32mPASS\x1b[0m: out"),
        ("verdict: FAIL", "verdict: \x1b[31mFAIL\x1b[0m"),
        ("NOT VERIFIED (exit code 6): p", "\x1b[31mNOT VERIFIED\x1b[0m (exit code 6): p"),
        ("passed  gate", "\x1b[32mpassed\x1b[0m  gate"),
        ("PASSAGE", "PASSAGE"),
        ("signer: PASS \x1b[31m", "signer: PASS \\x1b[31m"),
    ],
)
def test_results_have_a_colour_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch, line: str, painted: str) -> None:
    printed = []
    environments: tuple[dict[str, str], ...] = ({}, {"NO_COLOR": "1"}, {"TERM": "dumb"})
    for environment in environments:
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        say_results(line)
        printed.append(terminal.getvalue())
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stdout", pipe)
    say_results(line)

    plain = line.replace("\x1b", "\\x1b") + "\n"
    assert printed == [painted + "\n", plain, plain]
    assert pipe.getvalue() == plain
