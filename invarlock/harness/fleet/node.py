"""A node of a fleet: it runs a piece with pytest in a separate folder, and returns its part of the run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from invarlock.documents import JsonObject
from invarlock.errors import InvarLockError, disk_refuses
from invarlock.harness.fleet.agreement import disagreement, node_facts
from invarlock.harness.fleet.archives import Archive, pack_files, unpack
from invarlock.harness.planning.piece_file import PieceFile
from invarlock.packer.runs.run_directory import RunDirectory
from invarlock.problems import Code
from invarlock.settings import SETTINGS

# pytest's exit code for a command line, or a run, that cannot begin
USAGE_ERROR = 4
OUTPUT_CHARACTERS = 200_000
PREFIX = "invarlock-piece-"
LOCK = "session.lock"
YOUNG_SECONDS = 60.0
OUTCOMES = "outcomes.jsonl"
# The problem code at the end of a line about a problem.
CODE = re.compile(r" \[([a-z_]+)\]$")
STATE_FILES = ("environment.json", "settings.json", "tuned_edit_params.json", OUTCOMES)


@dataclass(frozen=True)
class WorkOrder:
    """The instructions for a node that runs a piece; the files of the piece's model are sent separately.

    Attributes:
        number: the number of the piece.
        arguments: the arguments of pytest, without those about the run directory.
        folder: the working directory.
        variables: environment variables of settings; the node removes all other variables of settings.
        suites: the suites folder.
        determinism: the determinism mode of the run.
        cases: the ids of the cases to run, and of all cases of the run.
        agreed: the facts that must be equal on the node.
    """

    number: int
    arguments: tuple[str, ...]
    folder: str
    variables: Mapping[str, str]
    suites: str
    determinism: str
    cases: PieceFile
    agreed: JsonObject


@dataclass(frozen=True)
class Part:
    """The result of a piece that a node returns.

    Attributes:
        seconds: the duration of the node's session.
        refusal: why the node did not run the piece, None if it did.
        code: the problem code of the refusal.
        archive: the node's part of the run directory; the cases in it are finished.
        output: the output of pytest.
        ended: how the session ended if it did not run all cases, otherwise empty.
    """

    seconds: float = 0.0
    refusal: str | None = None
    code: Code = Code.NODE_DIFFERS
    archive: Archive | None = None
    output: str = ""
    ended: str = ""


def run_piece(order: WorkOrder, *files: Archive) -> Part:
    """Run a piece and return its part of the run.

    Args:
        order: the piece.
        files: archives of the run's state, and of the model's baseline if it exists.
    """
    began = time.monotonic()
    try:
        facts = node_facts(Path(order.suites), order.determinism, gpus=False)
        wrong = disagreement(order.agreed, facts.agreed())
        if wrong is not None:
            return Part(refusal=f"{wrong}; install the same on all nodes")
        with _piece_folder() as folder:
            directory = RunDirectory(folder / "run")
            known = {name for archive in files for name in unpack(archive, directory.path)}
            code, output = _run_pytest(order, folder)
            if code == USAGE_ERROR:
                return _refused(f"\n{output}")
            archive = pack_files(directory.path, sorted(_returned(directory, known)))
            ended = "" if code in (0, 1) else f"its session ended with exit code {code}"
            return Part(time.monotonic() - began, archive=archive, output=output, ended=ended)
    except InvarLockError as error:
        return Part(refusal=str(error), code=error.code)
    except OSError as error:
        return Part(ended=disk_refuses(error))


def _run_pytest(order: WorkOrder, folder: Path) -> tuple[int, str]:
    order.cases.write(folder / "piece.json")
    log = folder / "output.txt"
    with log.open("wb") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *order.arguments, "--resume", "--output-dir", str(folder / "run")],
            cwd=order.folder,
            env=_environment(order, folder),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    return done.returncode, log.read_bytes()[-OUTPUT_CHARACTERS:].decode("utf-8", "replace")


def _environment(order: WorkOrder, folder: Path) -> dict[str, str]:
    """Return the environment variables for pytest: those of this node, with the settings of the run."""
    names = {name for setting in SETTINGS if not setting.ambient for name in setting.variables}
    own = {name: value for name, value in os.environ.items() if name not in names}
    ours = {
        "PACK_PIECE": str(folder / "piece.json"),
        # the controller renders the pages once, from all reports
        "PACK_SKIP_HTML": "1",
        # each piece reads a baseline in place instead of copying it
        "PACK_BASELINE_STORAGE_MODE": "snapshot_symlink",
    }
    return {**own, **order.variables, **ours}


def _refused(output: str) -> Part:
    """Return a refusal with pytest's errors about a run that could not begin; the first one has ``ERROR:``."""
    _, found, errors = output.partition("\nERROR: ")
    lines = [line.removeprefix("ERROR: ").strip() for line in errors.splitlines() if line.strip()]
    named = {match[1] for line in lines if (match := CODE.search(line))}
    refusal = "; ".join(CODE.sub("", line) for line in lines) if found else " ".join(output.split())[-500:]
    code = next((one for one in Code if one.value in named), Code.NODE_DIFFERS)
    return Part(refusal=refusal, code=code, output=output)


def _returned(directory: RunDirectory, known: set[str]) -> Iterator[Path]:
    """Yield the files of a node's part: reports, files that the model's other pieces need, state and logs."""
    for path in directory.path.rglob("*"):
        place = path.relative_to(directory.path)
        if not path.is_file() or path.is_symlink() or path.name.startswith(".") or path.suffix in (".stale", ".lock"):
            continue
        if place.parts[0] == "state":
            yield from [path] if len(place.parts) == 2 and path.name in STATE_FILES else []
        elif "models" not in place.parts or place.parts[-2].endswith("_kept_tokens"):
            # a baseline that the node received is not sent back
            yield from [] if str(place) in known else [path]


@contextmanager
def _piece_folder() -> Iterator[Path]:
    """Make a folder for a piece and remove it afterwards, along with folders of killed sessions on this node."""
    # imported here: the controller does not need it
    import filelock

    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{PREFIX}*"):
        with suppress(filelock.Timeout, OSError):
            # a newer folder may not have its lock yet
            if time.time() - left.stat().st_mtime < YOUNG_SECONDS:
                continue
            with filelock.FileLock(left / LOCK, blocking=False):
                shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with filelock.FileLock(folder / LOCK):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
