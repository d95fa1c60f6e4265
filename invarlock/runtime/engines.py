"""The container engine of this machine, podman or docker, with its runtime image and GPUs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from invarlock.errors import UsageError
from invarlock.problems import Code
from invarlock.reports.sidecars import RuntimeImage

EngineName = Literal["podman", "docker"]
# An engine answers in a tenth of a second, or a few seconds on a busy disk; after this time it counts as hung.
ANSWER_SECONDS = 30
ON_THE_HOST = "or run on the host: INVARLOCK_ALLOW_HOST_EXECUTION=1"
# Folders with device descriptions (Container Device Interface, section "How to configure").
CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
_IDENTIFIER = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


@dataclass(frozen=True)
class Engine:
    """An engine and its program."""

    name: EngineName
    program: str


def find_engine(wanted: EngineName | None, image: str) -> Engine:
    """Return the requested engine, or else podman, or else docker.

    Args:
        wanted: the engine in ``INVARLOCK_CONTAINER_ENGINE``.
        image: the image to build after installing an engine, for the message.

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
        f"{names[0]} build -t {image} ., {ON_THE_HOST}",
        code=Code.CONTAINER_UNAVAILABLE,
    )


def find_image(engine: Engine, reference: str) -> RuntimeImage:
    """Return an image with the digest of its configuration, which contains the digest of every layer.

    Raises:
        UsageError: when the engine has no such image, or does not answer.
    """
    command = [engine.program, "image", "inspect", "--format", "{{.Id}}", reference]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(
            f"{engine.name} does not answer ({type(error).__name__}); restart it, {ON_THE_HOST}",
            code=Code.CONTAINER_UNAVAILABLE,
        ) from None
    found = _IDENTIFIER.fullmatch(done.stdout.strip())
    if done.returncode == 0 and found is not None:
        return RuntimeImage(reference, f"sha256:{found[1]}")
    said = " ".join(done.stderr.split())
    if re.search(r"no such|not known|not found", said, re.IGNORECASE):
        raise UsageError(
            f"{engine.name} has no image {reference}; build it in a checkout: {engine.name} build -t {reference} ., "
            f"{ON_THE_HOST}",
            code=Code.CONTAINER_UNAVAILABLE,
        )
    raise UsageError(
        f"{engine.name} cannot inspect {reference} ({said[-200:]}); repair it, {ON_THE_HOST}",
        code=Code.CONTAINER_UNAVAILABLE,
    )


def gpu_problems(engine: Engine) -> Iterator[str]:
    """Yield why containers of an engine get no GPU, as far as files show; docker reports it only at container start."""
    described = any(path.suffix in (".yaml", ".json") for folder in CDI_FOLDERS for path in folder.glob("*"))
    if engine.name == "podman" and not described:
        yield (
            "podman containers get no GPU: /etc/cdi describes none; install the NVIDIA container toolkit, then: "
            f"nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml, {ON_THE_HOST}"
        )
