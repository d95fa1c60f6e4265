"""The container engine of this machine, podman or docker, and what it has: the runtime image, the GPUs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from invarlock.errors import UsageError
from invarlock.reports.sidecars import RuntimeImage

EngineName = Literal["podman", "docker"]
# An engine answers in a tenth of a second, on a busy disk in some; one that does not is hung.
ANSWER_SECONDS = 30
ON_THE_HOST = "or run on the host: INVARLOCK_ALLOW_HOST_EXECUTION=1"
# Where descriptions of devices lie (Container Device Interface, section "How to configure").
CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
_IDENTIFIER = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


@dataclass(frozen=True)
class Engine:
    """An engine and its program."""

    name: EngineName
    program: str


def find_engine(wanted: EngineName | None, image: str) -> Engine:
    """Return the engine that is wanted; podman, then docker, where none is.

    Args:
        wanted: by ``INVARLOCK_CONTAINER_ENGINE``.
        image: what is to be built once there is one.

    Raises:
        UsageError: when it is not installed.
    """
    names: tuple[EngineName, ...] = get_args(EngineName) if wanted is None else (wanted,)
    for name in names:
        program = shutil.which(name)
        if program is not None:
            return Engine(name, program)
    others = [name for name in get_args(EngineName) if name not in names]
    choice = "".join(f", or choose another with INVARLOCK_CONTAINER_ENGINE={name}" for name in others)
    raise UsageError(
        f"no container engine: install {' or '.join(names)}{choice}, and build the runtime image in a checkout: "
        f"{names[0]} build -t {image} ., {ON_THE_HOST}"
    )


def find_image(engine: Engine, reference: str) -> RuntimeImage:
    """Return an image as the engine has it, by the digest of its configuration, which names every layer by digest.

    Raises:
        UsageError: when it has none of that name, or does not answer.
    """
    command = [engine.program, "image", "inspect", "--format", "{{.Id}}", reference]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(
            f"{engine.name} does not answer ({type(error).__name__}); look after it, {ON_THE_HOST}"
        ) from None
    found = _IDENTIFIER.fullmatch(done.stdout.strip())
    if done.returncode == 0 and found is not None:
        return RuntimeImage(reference, f"sha256:{found[1]}")
    said = " ".join(done.stderr.split())
    if re.search(r"no such|not known|not found", said, re.IGNORECASE):
        raise UsageError(
            f"{engine.name} has no image {reference}; build it in a checkout: {engine.name} build -t {reference} ., "
            f"{ON_THE_HOST}"
        )
    raise UsageError(f"{engine.name} cannot be asked for {reference} ({said[-200:]}); look after it, {ON_THE_HOST}")


def gpu_problems(engine: Engine) -> Iterator[str]:
    """Yield why containers of an engine get no GPU, as far as files tell; docker tells only when it starts one."""
    described = any(path.suffix in (".yaml", ".json") for folder in CDI_FOLDERS for path in folder.glob("*"))
    if engine.name == "podman" and not described:
        yield (
            "podman gives containers no GPU: /etc/cdi describes none; install the NVIDIA container toolkit, then: "
            f"nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml, {ON_THE_HOST}"
        )
