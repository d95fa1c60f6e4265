"""A Slurm cluster of two nodes on this machine, with its own munge and configuration. slurmd needs root.

    python3 tests/support/slurm_here.py

starts and stops a cluster, or prints why none can be started here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "srun", "scontrol")
SECONDS = 60.0
STOP_SECONDS = 10.0
CONFIGURATION = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmctldPort={port}
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1 RealMemory={megabytes} State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1 RealMemory={megabytes} State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Return why no cluster can be started here, or an empty text if the requirements are met."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)}: not installed"
    return "" if os.geteuid() == 0 else "slurmd needs root"


class NotStartedError(Exception):
    """Slurm is installed but does not work here."""


@contextmanager
def slurm_cluster(folder: Path, hidden: Path | None = None) -> Iterator[dict[str, str]]:
    """Start a cluster, yield the environment variables with which Slurm's commands use it, and stop it at the end.

    Args:
        folder: the folder for the files of its daemons.
        hidden: a folder that the nodes cannot see.

    Raises:
        NotStartedError: the cluster does not start; the message has the output of the daemons and of Slurm's commands.
    """
    (folder / "state").mkdir(parents=True)
    key, configuration = folder / "munge.key", folder / "slurm.conf"
    key.write_bytes(secrets.token_bytes(64))
    key.chmod(0o600)
    megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // 2
    ports = dict(zip(("port", "first", "second"), _free_ports(3), strict=True))
    configuration.write_text(
        CONFIGURATION.format(folder=folder, host=socket.gethostname().split(".")[0], megabytes=megabytes, **ports)
    )
    variables = {"SLURM_CONF": str(configuration)}
    files = {"socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "munge.seed"}
    munge = [f"--{name}={folder / file}" for name, file in files.items()]
    node = ["slurmd", "-D", "-N"]
    if hidden is not None:
        node = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(hidden), *node]
    daemons = [
        ["munged", "--foreground", "--force", f"--key-file={key}", *munge],
        ["slurmctld", "-D", "-c"],
        [*node, "n1"],
        [*node, "n2"],
    ]
    running: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        log = stack.enter_context((folder / "daemons.log").open("wb"))
        for command in daemons:
            daemon = subprocess.Popen(
                command,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            stack.callback(_stop, daemon)
            running.append(daemon)
            if command[0] == "munged":
                _wait((folder / "munge.socket").exists, folder, running)
        sinfo = ("sinfo", "--noheader", "--Node", "--format=%T")
        _wait(lambda: slurm(variables, *sinfo).split() == ["idle", "idle"], folder, running)
        # jobs must end before the daemons
        stack.callback(_cancel_jobs, variables)
        yield variables


def slurm(variables: dict[str, str], *command: str) -> str:
    """Return the output of a Slurm command, or an empty text if it fails."""
    try:
        done = subprocess.run(
            command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait(happened: Callable[[], bool], folder: Path, daemons: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened():
        ended = [str(one.args[0]) for one in daemons if one.poll() is not None]  # type: ignore[index]  # a list
        if ended or time.monotonic() > deadline:
            lines = (folder / "daemons.log").read_text("utf-8", "replace").strip().splitlines()
            what = f"{ended[0]} ended" if ended else f"its nodes are not idle after {SECONDS:.0f} s"
            raise NotStartedError(f"Slurm does not start: {what}: {(lines or ['no message'])[-1]}")
        time.sleep(0.5)


def _cancel_jobs(variables: dict[str, str]) -> None:
    slurm(variables, "scancel", "--user=root", "--signal=KILL", "--full")
    slurm(variables, "scancel", "--user=root")
    deadline = time.monotonic() + STOP_SECONDS
    while slurm(variables, "squeue", "--noheader", "--format=%i").split() and time.monotonic() < deadline:
        time.sleep(0.5)


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        daemon.wait(STOP_SECONDS)
    daemon.kill()
    daemon.wait()


def _try() -> str:
    """Try to start a cluster; return why it does not start, or an empty text if it does."""
    why = missing()
    if not why:
        try:
            with tempfile.TemporaryDirectory() as folder, slurm_cluster(Path(folder) / "cluster"):
                pass
        except (OSError, NotStartedError) as error:
            why = str(error)
    return why


if __name__ == "__main__":
    sys.exit(_try() or 0)
