"""A Slurm cluster of two nodes on this machine, with munge and a configuration of its own. slurmd needs root."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "srun", "scontrol")
SECONDS = 60.0
PORT = 27817
CONFIGURATION = """
ClusterName=here
SlurmctldHost={host}
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
NodeName=n1 NodeHostname={host} Port={first} CPUs=1 RealMemory={megabytes} State=UNKNOWN
NodeName=n2 NodeHostname={host} Port={second} CPUs=1 RealMemory={megabytes} State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Return why no cluster can be started here, empty if one can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)}: not installed"
    return "" if os.geteuid() == 0 else "slurmd needs root"


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start a cluster; yield the variables with which Slurm's commands use it."""
    (folder / "state").mkdir(parents=True)
    key, configuration = folder / "munge.key", folder / "slurm.conf"
    key.write_bytes(secrets.token_bytes(64))
    key.chmod(0o600)
    megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // 2
    ports = {"port": PORT, "first": PORT + 1, "second": PORT + 2}
    configuration.write_text(
        CONFIGURATION.format(folder=folder, host=socket.gethostname().split(".")[0], megabytes=megabytes, **ports)
    )
    variables = {"SLURM_CONF": str(configuration)}
    files = {"socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "munge.seed"}
    munge = [f"--{name}={folder / file}" for name, file in files.items()]
    try:
        _start(["munged", "--force", f"--key-file={key}", *munge], {})
        for command in (["slurmctld", "-c"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]):
            _start(command, variables)
        _wait_for_nodes(variables)
        yield variables
    finally:
        for name in ("n1", "n2", "slurmctld", "munged"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)


def _start(command: list[str], variables: dict[str, str]) -> None:
    subprocess.run(command, env={**os.environ, **variables}, check=True, capture_output=True, timeout=SECONDS)


def _wait_for_nodes(variables: dict[str, str]) -> None:
    deadline = time.monotonic() + SECONDS
    command = ["sinfo", "--noheader", "--Node", "--format=%T"]
    while True:
        done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
        if done.stdout.split() == ["idle", "idle"]:
            return
        assert time.monotonic() < deadline, done.stdout + done.stderr
        time.sleep(0.5)
