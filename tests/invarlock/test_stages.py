"""What goes on, as the code announces it, as a terminal shows it, and as a log of CI has it."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from invarlock.library_notices import notices_in
from invarlock.stage_line import StageLine, StageLog, left_text
from invarlock.stages import StageEvent, announce, counted, listening, part, stage


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_stages_are_nested_and_counted() -> None:
    seen: list[StageEvent] = []

    with listening(seen.append), stage("baseline m"), stage("null run 2/2"):
        assert list(counted(iter("ab"), "weights", 2)) == ["a", "b"]
    announce("nobody listens", 1, 2)

    assert [str(event) for event in seen] == [
        "baseline m",
        "baseline m · null run 2/2",
        "baseline m · null run 2/2 · weights 0/2",
        "baseline m · null run 2/2 · weights 1/2",
        "baseline m · null run 2/2 · weights 2/2",
    ]


def test_a_part_is_counted_as_a_whole_whatever_its_functions_count() -> None:
    seen: list[StageEvent] = []

    with listening(seen.append), stage("baseline m"):
        with part("final windows", 64):
            announce("windows", 8, 8)
            with part("windows", 56):
                announce("windows", 64, 56)
            with stage("loading"):
                announce("weights", 1, 2)
        announce("windows", 1, 2)

    assert [str(event).removeprefix("baseline m · ") for event in seen[1:]] == [
        "final windows 8/64",
        "final windows 64/64",
        "loading",
        "loading · weights 1/2",
        "windows 1/2",
    ]


def test_a_stage_ends_when_its_work_fails() -> None:
    seen: list[StageEvent] = []

    with listening(seen.append):
        with pytest.raises(ValueError, match="x"), stage("a"):
            raise ValueError("x")
        announce("b", 1, 1)

    assert seen[-1] == StageEvent((), "b", 1, 1)


def test_a_terminal_has_one_line_which_is_redrawn_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    terminal, clock = Terminal(), Clock()

    with StageLine(terminal, clock) as line:
        line(StageEvent(("a",), "weights", 0, 272))
        clock.now += 41
        line(StageEvent(("a",), "weights", 41, 272))
        # too soon after the one before
        line(StageEvent(("a",), "weights", 42, 272))
        line(StageEvent(("b" * 100,)))

    drawn = terminal.getvalue().split("\r")
    assert drawn[0] == ""
    assert [text.removesuffix("\x1b[K") for text in drawn[1:]] == [
        "a · weights 0/272", "a · weights 41/272 · about 4 min left", "b" * 58 + "…", "",
    ]  # fmt: skip
    assert "\n" not in terminal.getvalue()


def test_a_log_has_a_plain_line_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, clock = io.StringIO(), Clock()

    with StageLine(stream, clock) as line:
        for done in range(100):
            line(StageEvent(("a",), "windows", done, 100))
            clock.now += 1

    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["a · windows 0/100", "a · windows 15/100 · about 85 s left"]
    assert len(lines) == 7
    assert "\r" not in stream.getvalue()


def test_ci_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    terminal = Terminal()

    with StageLine(terminal) as line:
        line(StageEvent(("a",)))

    assert terminal.getvalue() == "a\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "about 1 s left"), (89, "about 89 s left"), (120, "about 2 min left"), (9000, "about 2.5 h left")],
)
def test_times_are_rounded_for_people(seconds: float, text: str) -> None:
    assert left_text(seconds) == text


def test_a_log_file_has_each_stage_once(tmp_path: Path) -> None:
    log = tmp_path / "log"

    with listening(StageLog(log)), stage("a"):
        announce("x", 1, 2)
        with stage("b"):
            announce("x", 2, 2)

    assert [line.partition(" ")[2] for line in log.read_text().splitlines()] == ["a", "a · b"]


def test_what_libraries_write_goes_to_the_log_and_ours_to_the_terminal(tmp_path: Path) -> None:
    code = (
        "import os, sys, warnings\nfrom pathlib import Path\nfrom invarlock.library_notices import notices_in\n"
        "with notices_in(Path('log')) as terminal:\n"
        "    os.write(2, b'[W] from C\\n'); warnings.warn('from Python')\n"
        "    print('ours', file=terminal)\n"
        "print('after', file=sys.stderr)\n"
        "with notices_in(Path('empty')): pass\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, env=environment
    )

    assert done.stderr.splitlines() == ["ours", "after"]
    log = (tmp_path / "log").read_text()
    assert "[W] from C" in log
    assert "from Python" in log
    # nothing was written
    assert not (tmp_path / "empty").exists()


def test_notices_stay_where_no_log_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with notices_in(tmp_path / "file" / "log") as terminal:
        assert terminal is sys.stderr
