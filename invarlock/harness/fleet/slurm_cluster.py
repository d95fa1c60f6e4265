"""A Slurm cluster that runs pieces: submitit submits them as job arrays, and requeues preempted jobs.

Orders, archives and parts are files in a folder of the run directory, which must be on a file system that all nodes
share.
"""

from __future__ import annotations

import io
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from invarlock.errors import UsageError
from invarlock.harness.fleet.agreement import NodeFacts
from invarlock.harness.fleet.archives import Archive
from invarlock.harness.fleet.cluster import Need
from invarlock.harness.fleet.node import Part, WorkOrder, run_piece
from invarlock.jsonio import read_json, write_bytes, write_json
from invarlock.problems import Code

POLL_SECONDS = 1.0
# The time limit of a job. A piece is planned to take minutes; for a queue with a shorter limit, set
# --slurm timeout_min=30.
USUAL_MINUTES = 240
# How often a job that Slurm stopped at its time limit starts again.
TIMEOUTS = 3
JOBS = "jobs.json"
# Variables that locate a cluster and authenticate there; all other Slurm variables in a job are about the job.
OF_THE_CLUSTER = ("SLURM_CONF", "SLURM_JWT")
QUEUE_SECONDS = 15.0
COMMAND_SECONDS = 60.0
SHARED_FILE_SECONDS = 10.0
# Parameters that submitit supports for every kind of cluster.
COMMON = ("timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")


def check_submitit_installed() -> None:
    """Check that submitit and Slurm's commands are installed.

    Raises:
        UsageError: when one is missing; the message says how to install it.
    """
    if find_spec("submitit") is None:
        raise UsageError(
            "--fleet slurm: submitit is not installed; run: pip install 'invarlock[slurm]', on the nodes too",
            code=Code.EXTRA_NOT_INSTALLED,
        )
    if shutil.which("sbatch") is None:
        raise UsageError(
            "--fleet slurm: there is no sbatch on this machine; start the run on a login node of the cluster",
            code=Code.DEVICE_UNAVAILABLE,
        )


def check_options(options: Mapping[str, str]) -> None:
    """Check that submitit supports the parameters.

    Raises:
        UsageError: when a parameter is unknown; the message names it.
    """
    with tempfile.TemporaryDirectory() as folder:
        _make_executor(Path(folder), Need(), options)


def _forget_own_job() -> None:
    """Remove the Slurm variables of a controller that is itself a job; sbatch would pass them on to the new jobs."""
    if "SLURM_JOB_ID" in os.environ:
        for name in [one for one in os.environ if one.startswith("SLURM_") and one not in OF_THE_CLUSTER]:
            del os.environ[name]


class SlurmCluster:
    """A Slurm cluster that runs pieces as jobs."""

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        """Prepare to submit jobs, and cancel jobs that an earlier controller of the run left.

        Args:
            folder: the folder for orders, parts and logs, which all nodes share.
            options: submitit's parameters for Slurm, such as ``partition``.
        """
        # imported here: a run on one machine does not need it
        import submitit

        self._submitit = submitit
        self._all_folders = folder
        _forget_own_job()
        self._cancel_earlier()
        self._folder = _new_folder(folder)
        self._options = options
        self._is_shared = False
        self._files = 0
        self._waiting: list[tuple[WorkOrder, list[Path], Need]] = []
        self._running: dict[int, Any] = {}

    def names(self) -> dict[str, str]:
        """Return an empty mapping: the ids of Slurm's nodes are their host names."""
        return {}

    def facts(self, suites: Path, determinism: str, *, gpus: bool) -> dict[str, NodeFacts]:
        """Return an empty mapping: a job's node is known only when the job begins, and is compared then."""
        return {}

    def cores_per_gpu(self) -> int:
        """Return 1; ``--slurm cpus_per_task=N`` sets another number."""
        return 1

    def slots(self, need: Need) -> None:
        """Return None: Slurm's queue accepts all pieces at once."""

    def share(self, archive: Archive) -> Path:
        """Write an archive for the nodes, and return its path."""
        self._files += 1
        path = self._folder / f"archive_{self._files}.tar"
        write_bytes(path, archive.data)
        write_bytes(path.with_suffix(".sha256"), archive.sha256.encode("ascii"))
        return path

    def submit(self, order: WorkOrder, files: Sequence[Path], need: Need) -> None:
        """Add a piece; ``flush`` submits it."""
        self._waiting.append((order, list(files), need))

    def flush(self) -> None:
        """Submit the added pieces as one job array for each need."""
        for need in dict.fromkeys(one[2] for one in self._waiting):
            executor = _make_executor(self._folder, need, self._options)
            chosen = [(order, files) for order, files, own in self._waiting if own == need]
            try:
                # submitit prints sbatch's output and also raises it
                with redirect_stderr(io.StringIO()), executor.batch():
                    jobs = [executor.submit(SlurmPiece(), order, files) for order, files in chosen]
            except self._submitit.core.utils.FailedJobError as error:
                raise UsageError(
                    f"--fleet slurm: sbatch submits no job: {' '.join(str(error).split())[:300]}; correct the "
                    "parameters (--slurm), then continue with --resume",
                    code=Code.SETTING_INVALID,
                ) from None
            self._running |= {order.number: job for (order, _), job in zip(chosen, jobs, strict=True)}
        self._waiting = []
        write_json(self._all_folders / JOBS, [job.job_id for job in self._running.values()])

    def wait(self, *, block: bool) -> tuple[int, str, Part] | None:
        """Return the number, the node's name and the part of a piece that ended; see ``Cluster.wait``."""
        looked = time.monotonic()
        while True:
            for number, job in list(self._running.items()):
                if job.paths.result_pickle.exists():
                    del self._running[number]
                    self._is_shared = True
                    return number, *self._result(job)
            if not block:
                return None
            if time.monotonic() - looked > QUEUE_SECONDS:
                looked = time.monotonic()
                gone = self._gone()
                if gone is not None:
                    self._check_shared(self._running.pop(gone))
                    return gone, "", Part(ended="its job is no longer in Slurm's queue and left no result")
            time.sleep(POLL_SECONDS)

    @property
    def running(self) -> int:
        """Return the number of submitted pieces that have not ended."""
        return len(self._running) + len(self._waiting)

    def close(self) -> None:
        """Cancel running jobs, and remove the folder."""
        for job in self._running.values():
            job.cancel(check=False)
        self._running = {}
        shutil.rmtree(self._all_folders, ignore_errors=True)

    def _gone(self) -> int | None:
        """Return the number of a piece whose job left the queue without a result, or None if there is no such piece.

        submitit would query Slurm's accounting, which a cluster may not have.
        """
        try:
            done = subprocess.run(
                ["squeue", "--noheader", "--array", "--format=%i"],
                capture_output=True,
                text=True,
                timeout=COMMAND_SECONDS,
                check=True,
            )
        except subprocess.SubprocessError:
            # Slurm's controller does not answer at the moment
            return None
        queued = set(done.stdout.split())
        left = [number for number, job in self._running.items() if job.job_id not in queued]
        if not left:
            return None
        # a result may take a few seconds to appear on a shared file system
        time.sleep(SHARED_FILE_SECONDS)
        return next((number for number in left if not self._running[number].paths.result_pickle.exists()), None)

    def _check_shared(self, job: Any) -> None:
        """Check that a job without a result can write to the shared folder; needed only before the first result.

        Raises:
            UsageError: if the job failed and left nothing in the run directory, not even its log.
        """
        if self._is_shared or job.paths.stdout.exists() or job.paths.stderr.exists():
            return
        try:
            done = subprocess.run(
                ["scontrol", "show", "job", job.job_id],
                capture_output=True,
                text=True,
                timeout=COMMAND_SECONDS,
                check=True,
            )
        except subprocess.SubprocessError:
            # Slurm has forgotten the job
            return
        if "JobState=CANCELLED" not in done.stdout:
            raise UsageError(
                f"--fleet slurm: job {job.job_id} ended and wrote nothing into {self._folder}; use a run directory "
                "(--output-dir) on a file system that all nodes share, at the same path",
                code=Code.SETTING_INVALID,
            )

    def _result(self, job: Any) -> tuple[str, Part]:
        try:
            node, part = job.result()
        except (self._submitit.core.utils.UncompletedJobError, self._submitit.core.utils.FailedJobError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return "", Part(ended=f"job {job.job_id}: {(lines or [''])[-1][:300]}")
        return node, part

    def _cancel_earlier(self) -> None:
        jobs = self._all_folders / JOBS
        for job in read_json(jobs) if jobs.is_file() else ():
            self._submitit.SlurmJob(self._all_folders, job).cancel(check=False)


def _new_folder(parent: Path) -> Path:
    """Make a new folder for a controller, since cancelled jobs of an earlier one may still write to theirs."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        with suppress(FileExistsError):
            (parent / str(number)).mkdir()
            break
    return parent / str(number)


def _make_executor(folder: Path, need: Need, options: Mapping[str, str]) -> Any:
    # imported here: a run on one machine does not need it
    import submitit

    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=TIMEOUTS)
    parameters: dict[str, Any] = {"timeout_min": USUAL_MINUTES, "slurm_job_name": "invarlock"}
    parameters |= {"gpus_per_node": need.gpus} if need.gpus else {"mem_gb": max(1.0, need.memory_bytes / 2**30)}
    for name, value in options.items():
        parameters[name if name in COMMON else f"slurm_{name}"] = int(value) if value.isdigit() else value
    try:
        executor.update_parameters(**parameters)
    except (NameError, ValueError, TypeError) as error:
        raise UsageError(f"--slurm: {' '.join(str(error).split())[:600]}", code=Code.SETTING_INVALID) from None
    return executor


class SlurmPiece:
    """Runs a piece in a job; if Slurm stops the job, the job starts again."""

    def __call__(self, order: WorkOrder, files: Sequence[Path]) -> tuple[str, Part]:
        """Run the piece; return the node's name and its part."""
        archives = [Archive(path.read_bytes(), path.with_suffix(".sha256").read_text("ascii")) for path in files]
        return os.environ.get("SLURMD_NODENAME", socket.gethostname()), run_piece(order, *archives)

    def checkpoint(self, order: WorkOrder, files: Sequence[Path]) -> Any:
        """Return the work of a restarted job: the whole piece, since it has no state on the node."""
        # imported here: only a job that is stopped needs it
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, order, files)
