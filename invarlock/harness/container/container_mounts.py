"""The mounts and environment variables of a run in a container, taken from the options and variables outside.

The checkout and inputs are mounted read-only. The folders of the run and its pack, caches and temporary folders are
writable.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from invarlock.errors import UsageError
from invarlock.problems import Code
from invarlock.runtime.container import Mount, caller
from invarlock.runtime.engines import ON_THE_HOST
from invarlock.runtime.writable_paths import WritablePaths, writable_by
from invarlock.settings import SETTINGS, Settings

RUNS = "evidence_pack_runs"
# Variables that are not in the table of settings: those of libraries, of pytest, and of CI services.
LIBRARY_VARIABLES = ("OMP_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "PYTORCH_CUDA_ALLOC_CONF")
SESSION_VARIABLES = ("PYTEST_ADDOPTS", "COLUMNS", "CI", "GITHUB_STEP_SUMMARY")
# Passed on with --net 1: the connection settings of the hub's client, and the files that it needs.
HUB_VARIABLES = (
    "HF_ENDPOINT", "HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
HUB_FILES = ("HF_TOKEN_PATH", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# Names of the pytest options that set an output file.
PYTEST_FILES = ("xmlpath", "log_file")
# Settings whose paths a run writes to; every other path is an input, except for caches.
OUTPUTS = ("output_dir", "run_dir", "pack_dir", "preset_cache")
# Inputs that need the other files in their folder: a preset needs its null runs.
WITH_NEIGHBOURS = ("calibration_preset_file",)


def writable_paths(config: pytest.Config, settings: Settings) -> WritablePaths:
    """Return the paths that a run writes to; without ``--net 1``, caches are only read."""
    folders = [absolute(settings.output_dir or RUNS)]
    if settings.run_dir is not None:
        folders.append(absolute(settings.run_dir))
    if config.pluginmanager.hasplugin("cacheprovider"):
        folders.append(Path(os.path.normpath(config.rootpath / config.getini("cache_dir"))))
    files = [absolute(given) for name in PYTEST_FILES if (given := getattr(config.option, name, None))]
    if getattr(config.option, "json_report", False) and config.option.json_report_file:
        files.append(absolute(config.option.json_report_file))
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        files.append(absolute(os.environ["GITHUB_STEP_SUMMARY"]))
    caches = tuple(dict.fromkeys((*_ambient(settings), _hub_home())))
    there = [path for path in caches if settings.net or path.is_dir()]
    presets = _preset_cache(settings)
    return WritablePaths(tuple(folders), tuple(files), (*there, *(() if presets is None else (presets,))))


def _preset_cache(settings: Settings) -> Path | None:
    return None if settings.preset_cache is None else absolute(settings.preset_cache)


def job_mounts(config: pytest.Config, folder: Path, settings: Settings, writable: WritablePaths) -> Iterator[Mount]:
    """Yield the mounts of a run; each has the same path inside the container as outside."""
    yield from (Mount(path) for path in _checkout(config, folder))
    yield from (Mount(path, writable=True) for path in (*writable.folders, *writable.files, *writable.caches))
    if settings.pack_dir is not None:
        # a pack is made in the parent folder and then renamed
        yield Mount(absolute(settings.pack_dir).parent, writable=True)
    yield from (Mount(path) for path in _inputs(settings) if path.exists())
    if settings.config is not None:
        yield from (Mount(path) for path in settings.config.files)
    if settings.net:
        paths = (absolute(os.environ[name]) for name in HUB_FILES if os.environ.get(name))
        yield from (Mount(path) for path in paths if path.exists())


def job_variables(settings: Settings) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the variables that are passed on unchanged, and those that are set for the container."""
    known = [variable for setting in SETTINGS for variable in setting.variables]
    known += [*LIBRARY_VARIABLES, *SESSION_VARIABLES]
    if settings.net:
        known += [*HUB_VARIABLES, *HUB_FILES]
    passed = tuple(name for name in dict.fromkeys(known) if name in os.environ)
    # some libraries write to the user's home folder
    variables = {"HOME": "/tmp"}
    if "HF_HOME" not in passed:
        variables["HF_HOME"] = str(_hub_home())
    return passed, variables


def mount_problems(config: pytest.Config, folder: Path, settings: Settings, writable: WritablePaths) -> Iterator[str]:
    """Yield a line for each path that cannot or must not be mounted."""
    yield from _pack_problems(settings, _checkout(config, folder), writable)
    for mount in job_mounts(config, folder, settings, writable):
        if "," in str(mount.path) or '"' in str(mount.path):
            yield f"{mount.path}: a path with a comma or a quote cannot be mounted; rename it"
    by, temporary = caller(), _temporary(settings)
    for path in writable.caches:
        # an offline run only reads the cache of the hub's client
        needed = settings.net or path in temporary or path == _preset_cache(settings)
        if needed and path.is_dir() and not writable_by(path, by):
            yield f"{path}: {not_writable(path, by.user)}"


def _pack_problems(settings: Settings, checkout: list[Path], writable: WritablePaths) -> Iterator[str]:
    if settings.pack_dir is None:
        return
    parent = absolute(settings.pack_dir).parent
    if any(parent.is_relative_to(path) for path in writable.folders):
        # the run's own folder is created
        return
    if not parent.is_dir():
        yield f"--pack-dir: {parent} does not exist; create it"
    elif any(path.is_relative_to(parent) for path in checkout):
        yield (
            f"--pack-dir: a container writes to {parent}, but {checkout[0]} is mounted read-only; give a folder "
            "elsewhere, or leave it out"
        )
    elif not writable_by(parent, caller()):
        yield f"--pack-dir: {parent}: {not_writable(parent, caller().user)}"


def not_writable(path: Path, user: int) -> str:
    """Describe the problem, with its remedy, of a folder that the container's user cannot write to."""
    chown = shlex.join(["chown", str(user), str(path)])
    return f"the container's user ({user}) cannot write it; run {chown}, give another folder, {ON_THE_HOST}"


def _checkout(config: pytest.Config, folder: Path) -> list[Path]:
    """Return pytest's root folder, and the suites folder if it is elsewhere."""
    return [config.rootpath] if folder.is_relative_to(config.rootpath) else [config.rootpath, folder.parent]


def _inputs(settings: Settings) -> Iterator[Path]:
    for setting in SETTINGS:
        value = settings.value(setting.name)
        if setting.name.startswith("model_") and setting.name.removeprefix("model_").isdigit():
            # the value is an id on the hub or a folder
            if value and Path(value).is_dir():
                yield absolute(value)
        elif setting.path and not setting.ambient and setting.name not in OUTPUTS and value:
            for one in value if setting.many else (value,):
                path = absolute(one)
                yield path.parent if setting.name in WITH_NEIGHBOURS else path


def _ambient(settings: Settings) -> list[Path]:
    paths = (settings.value(row.name) for row in SETTINGS if row.ambient and row.path)
    return [absolute(path) for path in paths if path]


def _temporary(settings: Settings) -> list[Path]:
    return [absolute(settings.value(name)) for name in ("tmpdir", "tmp") if settings.value(name)]


def _hub_home() -> Path:
    """Return the folder in which the hub's client keeps its files, without importing the client, which is slow."""
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise UsageError(
            "this user has no home folder; set HF_HOME to a folder for downloads", code=Code.CONTAINER_UNAVAILABLE
        ) from None
    return absolute(os.environ.get("HF_HOME") or Path(home) / "huggingface")


def absolute(path: str | Path) -> Path:
    """Return the absolute path of a path from an option or a variable."""
    # links are not resolved: inside the container, a path has the name that the user gave
    return Path(os.path.normpath(Path.cwd() / path))
