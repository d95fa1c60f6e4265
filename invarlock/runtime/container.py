"""What an engine is told: from a job, and who starts it, to the arguments of ``podman run`` or ``docker run``.

Example::

    job = Job(("pytest", "suites"), Path("/repo"), (Mount(Path("/repo")),))
    engine_arguments(Engine("podman", "/usr/bin/podman"), image, "invarlock-1", job, caller())

A container has a root that nobody writes, a user who is not root and gains nothing, no capability, no network unless
the job asks for it, and of the machine's files only what is mounted, each at its own path.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from invarlock.reports.sidecars import RuntimeImage
from invarlock.runtime.engines import Engine

# The user of the image, in Containerfile too: whoever is root outside is this one inside.
IMAGE_USER = 10001
# Shards of a large model, and a socket a worker; the kernel's own default is 1,024, at most 4,096.
OPEN_FILES = 65536
# Threads count. Some hundred a worker, and what the same user runs outside counts too.
PROCESSES = 32768
TEMPORARY = "/tmp"


@dataclass(frozen=True)
class Mount:
    """A file or folder of the machine in the container, read-only unless ``writable``; ``source`` where it differs."""

    path: Path
    writable: bool = False
    source: Path | None = None


@dataclass(frozen=True)
class Job:
    """What runs in a container.

    Attributes:
        command: with its arguments.
        folder: where it starts.
        mounts: what it sees of the machine.
        passed: variables that it has as they are.
        variables: variables that are set for it.
        gpus: whether it has all GPUs.
        network: whether it may connect.
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
    """Who starts a container: the user inside, whether root asks, and the limits that this process may give."""

    user: int
    group: int
    is_root: bool
    open_files: int
    processes: int


def caller() -> Caller:
    """Return who this process is. Root is the image's user inside, anybody else is themselves."""
    is_root = os.geteuid() == 0
    return Caller(
        IMAGE_USER if is_root else os.geteuid(),
        IMAGE_USER if is_root else os.getegid(),
        is_root,
        _limit(resource.RLIMIT_NOFILE, OPEN_FILES),
        _limit(resource.RLIMIT_NPROC, PROCESSES),
    )


def _limit(kind: int, wanted: int) -> int:
    """Return a limit that needs no privilege to set."""
    _, hard = resource.getrlimit(kind)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def engine_arguments(engine: Engine, image: RuntimeImage, name: str, job: Job, by: Caller) -> list[str]:
    """Return the command that runs a job. The image is named by its digest, so that what was looked at is what runs."""
    arguments = [engine.program, "run", "--rm", "--init", f"--name={name}", "--pull=never"]
    arguments += ["--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", f"--user={by.user}:{by.group}"]
    if engine.name == "podman":
        # folders of the user are mounted as they are, not labelled anew for SELinux
        arguments.append("--security-opt=label=disable")
        if not by.is_root:
            # without it whoever starts podman is root inside
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
        # an empty folder to start in, so that relative paths lead to what is mounted below it
        arguments.append(f"--tmpfs={job.folder}:rw,nosuid,nodev,mode=755")
    arguments += [f"--mount={_mount(mount)}" for mount in mounts]
    # by name alone: a value, which may be a token, then stands in no list of processes
    arguments += [f"--env={variable}" for variable in sorted(job.passed)]
    arguments += [f"--env={variable}={value}" for variable, value in sorted(job.variables.items())]
    return [*arguments, image.digest.removeprefix("sha256:"), *job.command]


def joined(mounts: Iterable[Mount]) -> list[Mount]:
    """Return mounts from the outside in, without those that another already shows in the same way."""
    kept: dict[Path, Mount] = {}
    # of two at one path the writable one counts
    for mount in sorted(mounts, key=lambda one: (one.path, not one.writable)):
        above = next((kept[folder] for folder in mount.path.parents if folder in kept), None)
        shown = above is not None and above.writable == mount.writable and mount.source is None
        if mount.path not in kept and not shown:
            kept[mount.path] = mount
    return list(kept.values())


def _mount(mount: Mount) -> str:
    mode = "" if mount.writable else ",readonly"
    return f"type=bind,source={mount.source or mount.path},target={mount.path}{mode}"
