"""``invarlock evaluate`` in the runtime image, with the same arguments and their files mounted."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from invarlock.errors import UsageError
from invarlock.problems import Code
from invarlock.runtime.container import TEMPORARY, Job, Mount, caller
from invarlock.runtime.engines import ON_THE_HOST, find_engine, find_image, gpu_problems
from invarlock.runtime.handover import Handover, code_digest
from invarlock.runtime.starting import Launch, start
from invarlock.runtime.writable_paths import WritablePaths, writable_by
from invarlock.settings import resolve_settings

# Exists if the NVIDIA driver is loaded.
DRIVER = Path("/dev/nvidiactl")
PASSED = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF")


@dataclass(frozen=True)
class Inputs:
    """The files that an evaluation reads, the folder it writes, and the requested device."""

    checkpoints: tuple[Path, ...]
    files: tuple[Path, ...]
    output: Path
    device: str | None


def evaluate_in_container(arguments: Sequence[str], inputs: Inputs) -> int:
    """Run ``invarlock`` with the given arguments in the runtime image and return its exit code.

    Raises:
        UsageError: with one line for everything that is missing.
    """
    settings, here = resolve_settings({}, os.environ), Path.cwd()
    parent = (here / inputs.output).parent
    reads = [Path(os.path.normpath(here / path)) for path in (*inputs.checkpoints, *inputs.files)]
    problems = [
        f"{path}: does not exist; give an existing file or folder" for path in dict.fromkeys(reads) if not path.exists()
    ]
    if not parent.is_dir():
        problems.append(f"--output-dir: {parent} does not exist; create it")
    elif not writable_by(parent, caller()):
        user = caller().user
        chown = shlex.join(["chown", str(user), str(parent)])
        problems.append(f"--output-dir: {parent}: not writable for the container's user ({user}); run: {chown}")
    on_gpus = inputs.device == "cuda" or (inputs.device is None and DRIVER.exists())
    engine = image = None
    try:
        engine = find_engine(settings.container_engine, settings.runtime_image)
        problems += gpu_problems(engine) if on_gpus else ()
        image = find_image(engine, settings.runtime_image)
    except UsageError as error:
        problems.append(str(error).replace(ON_THE_HOST, "or leave --execution-mode out"))
    if problems or engine is None or image is None:
        raise UsageError.listing(problems, code=Code.CONTAINER_UNAVAILABLE, separator="; ")
    job = Job(
        ("invarlock", *arguments),
        here,
        # a report is written in a sibling folder and renamed into place
        (*(Mount(path) for path in reads), Mount(Path(os.path.normpath(parent)), writable=True)),
        tuple(name for name in PASSED if name in os.environ),
        {"HOME": TEMPORARY},
        gpus=on_gpus,
    )
    return start(Launch(engine, job, WritablePaths(), Handover(image, code_digest(), None)))
