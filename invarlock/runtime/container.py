"""The arguments of ``podman run`` or ``docker run`` for a job and the user who starts it.

Example::

    job = Job(("pytest", "suites"), Path("/repo"), (Mount(Path("/repo")),))
    engine_arguments(Engine("podman", "/usr/bin/podman"), image, "invarlock-1", job, caller())

A container has a read-only root, a non-root user who cannot gain privileges, no capabilities, no network unless
the job requires it, and only the mounted files of the machine, each at its own path.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from invarlock.reports.sidecars import RuntimeImage
from invarlock.runtime.engines import Engine

# The user of the image, also in Containerfile: root outside is mapped to this user inside.
IMAGE_USER = 10001
# Enough for the shards of a large model and one socket per worker; the kernel's default is 1,024, at most 4,096.
OPEN_FILES = 65536
# Threads count: about a hundred per worker, plus the processes of the same user outside.
PROCESSES = 32768
TEMPORARY = "/tmp"


@dataclass(frozen=True)
class Mount:
    """A file or folder in the container, read-only unless ``writable``; ``source`` is its path outside, if another."""

    path: Path
    writable: bool = False
    source: Path | None = None


@dataclass(frozen=True)
class Job:
    """A job that runs in a container.

    Attributes:
        command: the command with its arguments.
        folder: the working directory.
        mounts: the files and folders of the machine that it can access.
        passed: environment variables that are passed through unchanged.
        variables: environment variables that are set for it.
        gpus: whether it can use all GPUs.
        network: whether it has network access.
    """

    command: tuple[str, ...]
    folder: Path
    mounts: tuple[Mount, ...]
    passed: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    gpus: bool = False
    network: bool = False


@dataclass(frozen=True)
class Caller:
    """The starter of a container: the user inside, whether the starter is root, and the available resource limits."""

    user: int
    group: int
    is_root: bool
    open_files: int
    processes: int


def caller() -> Caller:
    """Return the identity of this process. Root becomes the image's user inside, other users keep their id."""
    is_root = os.geteuid() == 0
    return Caller(
        IMAGE_USER if is_root else os.geteuid(),
        IMAGE_USER if is_root else os.getegid(),
        is_root,
        _limit(resource.RLIMIT_NOFILE, OPEN_FILES),
        _limit(resource.RLIMIT_NPROC, PROCESSES),
    )


def _limit(kind: int, wanted: int) -> int:
    """Return a limit that can be set without privileges."""
    _, hard = resource.getrlimit(kind)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def engine_arguments(engine: Engine, image: RuntimeImage, name: str, job: Job, by: Caller) -> list[str]:
    """Return the command that runs a job. The image is given by digest, so the inspected image is the one that runs."""
    arguments = [engine.program, "run", "--rm", "--init", f"--name={name}", "--pull=never"]
    arguments += ["--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", f"--user={by.user}:{by.group}"]
    if engine.name == "podman":
        # the user's folders are mounted without relabelling for SELinux
        arguments.append("--security-opt=label=disable")
        if not by.is_root:
            # without it the user who starts podman is root inside
            arguments.append("--userns=keep-id")
    if not job.network:
        arguments.append("--network=none")
    if job.gpus:
        arguments.append("--device=nvidia.com/gpu=all" if engine.name == "podman" else "--gpus=all")
    arguments += [f"--ulimit=nofile={by.open_files}:{by.open_files}", f"--ulimit=nproc={by.processes}:{by.processes}"]
    arguments += ["--ulimit=core=0:0", f"--workdir={job.folder}"]
    mounts = joined(job.mounts)
    if not any(mount.path == Path(TEMPORARY) for mount in mounts):
        arguments.append(f"--tmpfs={TEMPORARY}:rw,nosuid,nodev,mode=1777")
    if not any(job.folder.is_relative_to(mount.path) for mount in mounts):
        # the working directory is empty, so that relative paths resolve to the mounts below it
        arguments.append(f"--tmpfs={job.folder}:rw,nosuid,nodev,mode=755")
    arguments += [f"--mount={_mount(mount)}" for mount in mounts]
    # passed by name only: a value may be a token, and must not appear in process lists
    arguments += [f"--env={variable}" for variable in sorted(job.passed)]
    arguments += [f"--env={variable}={value}" for variable, value in sorted(job.variables.items())]
    return [*arguments, image.digest.removeprefix("sha256:"), *job.command]


def joined(mounts: Iterable[Mount]) -> list[Mount]:
    """Return mounts from the outermost inwards, without those that another mount already includes in the same mode."""
    kept: dict[Path, Mount] = {}
    # of two mounts at one path the writable one is kept
    for mount in sorted(mounts, key=lambda one: (one.path, not one.writable)):
        above = next((kept[folder] for folder in mount.path.parents if folder in kept), None)
        shown = above is not None and above.writable == mount.writable and mount.source is None
        if mount.path not in kept and not shown:
            kept[mount.path] = mount
    return list(kept.values())


def _mount(mount: Mount) -> str:
    mode = "" if mount.writable else ",readonly"
    return f"type=bind,source={mount.source or mount.path},target={mount.path}{mode}"
