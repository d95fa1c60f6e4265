"""Results go where a user wants them, and nothing but a regular file is ever replaced."""

import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from invarlock.cli import main
from invarlock.errors import UsageError
from invarlock.named_files import check_result_file, is_taken, write_result

DATA = b'{"a": 1}\n' * 20_000


def written(path: Path) -> None:
    check_result_file(path, "--json-out")
    write_result(path, DATA, "--json-out")


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    written(path)
    path.chmod(0o600)
    written(path)

    assert path.read_bytes() == DATA
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link(tmp_path: Path, there: bool) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    if there:
        real.write_text("old")
    link.symlink_to(real)

    written(link)

    assert (link.is_symlink(), real.read_bytes()) == (True, DATA)


def test_a_pipe_is_written_into_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()

    written(pipe)

    reader.join(20)
    assert read == [DATA]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_pipe_that_nobody_reads_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invarlock.named_files.READER_SECONDS", 0.1)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    with pytest.raises(UsageError, match="no process reads from this pipe"):
        written(pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """Return a device that is always full: one of our own, so that a fault would not replace that of the machine."""
    own = tmp_path / "full"
    try:
        os.mknod(own, stat.S_IFCHR | 0o666, os.makedev(1, 7))
        own.open("wb").close()
    except PermissionError:
        # only root may make one, and nobody else can replace the machine's
        own.unlink(missing_ok=True)
        return Path("/dev/full")
    return own


def test_a_full_device_is_an_error_and_stays_a_device(full: Path) -> None:
    before = full.stat()

    with pytest.raises(UsageError, match="No space left"):
        written(full)
    after = full.stat()
    assert (after.st_ino, after.st_rdev, stat.S_ISCHR(after.st_mode)) == (before.st_ino, before.st_rdev, True)


def test_an_impossible_target_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(tmp_path / "socket"))
    (tmp_path / "file").write_text("")

    for path in (
        tmp_path,
        tmp_path / "socket",
        tmp_path / "loop",
        tmp_path / "file" / "x",
        Path("x" * 300),
        Path("\0"),
    ):
        with pytest.raises(UsageError, match="--json-out: "):
            check_result_file(path, "--json-out")
    bound.close()


PRINTING = """
import sys
from pathlib import Path
from invarlock.named_files import check_result_file, is_taken, write_result
path = Path(sys.argv[1])
assert not is_taken(path)
check_result_file(path, "--json-out")
print("before")
write_result(path, b"result\\n", "--json-out")
print("after")
"""


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1"])
def test_standard_output_gets_the_result_in_its_place(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-c", PRINTING, name]
    redirected = tmp_path / "out.txt"
    with redirected.open("w") as stream:
        subprocess.run(command, stdout=stream, check=True)

    piped = subprocess.run(command, capture_output=True, text=True, check=True)

    assert piped.stdout == redirected.read_text() == "before\nresult\nafter\n"
    assert not redirected.is_symlink()


def test_a_regular_file_is_taken_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert is_taken(tmp_path / "file")
    assert not any(map(is_taken, (tmp_path, tmp_path / "none", Path("/dev/zero"))))


@pytest.mark.parametrize("command", [("verify", "absent.json", "--json-out"), ("tune", "embedded", "--output")])
def test_commands_rename_over_no_device_and_no_pipe(command: tuple[str, ...], tmp_path: Path, full: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    assert [main([*command, str(path)]) for path in (full, tmp_path)] == [2, 2]
    if command[0] == "tune":
        assert main([*command, str(pipe)]) == 2
    assert stat.S_ISCHR(full.stat().st_mode)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
