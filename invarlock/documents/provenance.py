"""The documents about the origin of a run: ``source_repo.json`` and ``environment.json``."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class SourceRepository(TypedDict):
    """``source_repo.json``: the commit of a suites folder or of the product; ``uri`` has no credentials."""

    schema: Literal["invarlock/source-repo-v1"]
    commit: str
    branch: str | None
    describe: str | None
    dirty: bool
    uri: str | None


class Platform(TypedDict):
    """The operating system and the kind of processor."""

    system: str
    release: str
    machine: str


class PythonBuild(TypedDict):
    """The Python interpreter."""

    version: str
    implementation: str


class Product(TypedDict):
    """InvarLock's version, the ``sha256:<hex>`` of its code, and its commit if it runs from a checkout."""

    version: str | None
    code: str
    commit: str | None
    dirty: bool | None


class TorchBuild(TypedDict):
    """The CUDA version and the commit of PyTorch's build."""

    cuda: str | None
    commit: str | None


class Gpu(TypedDict):
    """A GPU by its model and its memory."""

    name: str
    memory_bytes: int


class Graphics(TypedDict):
    """The GPUs of a run, with their driver and its CUDA version."""

    driver: str | None
    driver_cuda: str | None
    gpus: list[Gpu]


class DeterminismSwitches(TypedDict):
    """The optimisations that a determinism mode disables; None means the library's default."""

    mode: str
    deterministic_algorithms: bool
    cudnn_benchmark: bool | None
    tf32: bool | None
    cublas_workspace: str | None
    one_thread: bool


class Node(TypedDict):
    """A node of a fleet: its number, its system and its GPUs, and how many cases it ran."""

    number: int
    platform: Platform
    graphics: Graphics
    cases: int


class Environment(TypedDict):
    """``environment.json``: the machine, libraries and switches of a run; only a fleet's run has ``nodes``."""

    schema: Literal["invarlock/environment-v1"]
    platform: Platform
    python: PythonBuild
    product: NotRequired[Product]
    libraries: dict[str, str]
    torch: TorchBuild
    graphics: Graphics
    determinism: DeterminismSwitches
    nodes: NotRequired[list[Node]]
