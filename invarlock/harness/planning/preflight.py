"""The checks before the first case. Each check yields its problems with their remedies.

To check something else that can be known up front, add a function to ``CHECKS``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from invarlock.catalog.cases import Case
from invarlock.catalog.deployables import missing_packages
from invarlock.catalog.scenarios import DeployableGeneration, EditGeneration
from invarlock.errors import InvarLockError, UsageError
from invarlock.harness.devices.inventory import Pool, make_pool
from invarlock.harness.devices.memory_plan import memory_problems
from invarlock.harness.planning.presets import calibrates, preset_check
from invarlock.harness.planning.sizing import disk_need, model_needs
from invarlock.harness.state.run import Run
from invarlock.packer.runs.run_directory import RunDirectory
from invarlock.packer.trust.keys import load_signing_key
from invarlock.problems import Code, Problem
from invarlock.runtime.provenance import NO_SOURCE, source_of

Check = Callable[[Run, Sequence[Case]], Iterator[Problem]]


def _cannot_begin(message: str) -> Problem:
    return Problem(Code.RUN_CANNOT_BEGIN, "", "", message)


def check_run_directory(run: Run, cases: Sequence[Case]) -> Iterator[Problem]:
    """Yield the reasons why the run directory cannot be begun or resumed."""
    directory = run.directory.path
    if run.settings.resume:
        if not run.settings.output_dir and not (directory.exists() and _holds_something(run.directory)):
            yield _cannot_begin(
                f"--resume: no earlier run of suite {run.catalog.suite} in {directory.parent}; leave --resume out, or "
                "name the run with --output-dir"
            )
        elif not (run.directory.state / "settings.json").is_file():
            yield _cannot_begin(
                f"--resume: {directory} is not a run directory; drop --resume, or give one with --output-dir"
            )
        link = next(run.directory.links(), None)
        if link is not None:
            yield _cannot_begin(
                f"--resume: {link} is a symbolic link, which is not followed; replace it with its target"
            )
    elif directory.exists() and not directory.is_dir():
        yield _cannot_begin(f"--output-dir: {directory} is not a folder; give another")
    elif directory.exists() and _holds_something(run.directory):
        yield _cannot_begin(
            f"--output-dir: {directory} exists and is not empty; choose another folder, or continue with --resume"
        )


def _holds_something(directory: RunDirectory) -> bool:
    """Return whether a folder has files besides this session's lock and the first file of a killed run."""
    ours = {directory.state, directory.session_lock, directory.session_holder}
    return any(path not in ours for path in (*directory.path.iterdir(), *directory.state.glob("[!.]*")))


def check_pack(run: Run, cases: Sequence[Case]) -> Iterator[Problem]:
    """Yield the reasons why no pack could be written or signed at the end."""
    if not run.settings.no_pack and run.pack_path.exists():
        if run.settings.pack_dir:
            yield _cannot_begin(f"--pack-dir: {run.pack_path} already exists; choose another folder")
        elif run.settings.resume:
            another = " and give another --output-dir" if run.settings.output_dir else ""
            yield _cannot_begin(
                f"--resume: the run {run.directory.path} is finished, and its pack is {run.pack_path}; to run the "
                f"suite again, leave --resume out{another}"
            )
    if run.settings.signing_key is not None:
        try:
            load_signing_key(Path(run.settings.signing_key))
        except InvarLockError as error:
            yield Problem(error.code, "", "", f"--signing-key: {error}")


def check_assurance(run: Run, cases: Sequence[Case]) -> Iterator[Problem]:
    """Yield the requirements of strict assurance that this run does not meet."""
    if run.settings.report_assurance != "strict" or run.settings.no_pack:
        return
    option = "--release-review" if run.settings.release_review else "--report-assurance strict"
    if run.settings.execution_mode != "container":
        yield _cannot_begin(
            f"{option}: every clean report must come from a container, but this run is on the host; run it with "
            "--execution-mode container, or without this option"
        )
    # the clean case may be in another shard: the requirement applies to the pack of all shards
    if run.settings.shard is None and not any(case.scenario.category == "clean" for case in cases):
        yield _cannot_begin(
            f"{option}: it needs a clean case, but none is selected; select one, or run without this option"
        )


def check_source(run: Run, cases: Sequence[Case]) -> Iterator[Problem]:
    """Yield the reasons why the pack cannot state the product's source."""
    if run.settings.no_pack:
        return
    try:
        found = source_of(run.suites_folder)
    except InvarLockError as error:
        yield from error.listed
        return
    if found is None:
        yield _cannot_begin(f"{run.suites_folder}: {NO_SOURCE}, or build no pack: --no-pack")


def check_container(run: Run, cases: Sequence[Case]) -> Iterator[Problem]:
    """Yield the reasons why the run is not in a container although its execution mode requires one."""
    yield from run.launch_problems
    if run.settings.execution_mode == "container" and run.image is None and not run.launch_problems:
        yield _cannot_begin(
            "--execution-mode container: pytest was not called to start a run; call it as `pytest SUITES`"
        )


def check_fleet(run: Run, cases: Sequence[Case]) -> Iterator[Problem]:
    """Yield the reasons why a fleet cannot run the cases."""
    if run.settings.fleet is not None and run.settings.execution_mode == "container":
        yield _cannot_begin(
            "--fleet: nodes start no containers; start the cluster in the runtime image, and run with "
            "--execution-mode host"
        )


def check_opt_ins(run: Run, cases: Sequence[Case]) -> Iterator[Problem]:
    """Yield the opt-in variables that the suite needs but that are not set."""
    suite = run.catalog.models.suites[run.catalog.suite]
    if suite.requires == "gpu" and not run.settings.allow_remote_code:
        yield _cannot_begin(f"suite {suite.name}: GPU suites need the opt-in INVARLOCK_ALLOW_REMOTE_CODE=1; set it")


def check_remote_code(run: Run, cases: Sequence[Case]) -> Iterator[Problem]:
    """Yield the models that come with Python code, unless running such code is allowed."""
    if run.settings.allow_remote_code:
        return
    for model in {case.model.id: case.model for case in cases}.values():
        if model.trust_remote_code:
            yield _cannot_begin(
                f"{model.id}: it has custom code according to models.toml (trust_remote_code); review it, then "
                "allow it: INVARLOCK_ALLOW_REMOTE_CODE=1"
            )


def check_sources(run: Run, cases: Sequence[Case]) -> Iterator[Problem]:
    """Yield the models whose files are not found or do not match their pins."""
    yield from run.sources.problems


def check_text(run: Run, cases: Sequence[Case]) -> Iterator[Problem]:
    """Yield the reasons why the text of the run cannot be read."""
    for text in run.sources.texts:
        yield from text.problems


def check_tuned_params(run: Run, cases: Sequence[Case]) -> Iterator[Problem]:
    """Yield clean edits for which no tuned parameters are known."""
    try:
        tuned = run.tuned_params()
    except InvarLockError as error:
        yield from error.listed
        return
    missing: dict[str, dict[str, str]] = {}
    for case in cases:
        # runs of a scenario differ only in their windows, so the first one is enough
        if case.run == 1 and isinstance(case.scenario.generation, EditGeneration):
            spec = case.scenario.generation.for_model(case.model.id)
            try:
                tuned.resolve(spec, case.model.id)
            except UsageError:
                missing.setdefault(case.model.id, {})[case.scenario.id] = spec.edit
    for model, edits in missing.items():
        yield _cannot_begin(
            f"{tuned.source}: no tuned parameters of {', '.join(dict.fromkeys(edits.values()))} for {model} "
            f"({', '.join(edits)}); find them: invarlock tune {run.named(model)} --output FILE, and give "
            "that file with PACK_TUNED_EDIT_PARAMS_FILE, or deselect the scenarios"
        )


def check_flash_attention(run: Run, cases: Sequence[Case]) -> Iterator[Problem]:
    """Yield a problem if flash-attention is selected but not installed."""
    on_gpus = run.catalog.models.suites[run.catalog.suite].requires == "gpu"
    if on_gpus and not run.settings.skip_flash_attention and find_spec("flash_attn") is None:
        yield _cannot_begin(
            "SKIP_FLASH_ATTN=0: flash-attn is not installed; pip install flash-attn, or unset the variable"
        )


def check_backends(run: Run, cases: Sequence[Case]) -> Iterator[Problem]:
    """Yield the quantisation backends that scenarios need but that are not usable here."""
    backends = {
        case.scenario.generation.spec.backend: case.scenario.id
        for case in cases
        if isinstance(case.scenario.generation, DeployableGeneration)
    }
    for backend, scenario in backends.items():
        for package in missing_packages(backend):
            yield _cannot_begin(
                f"{scenario}: its backend {backend} needs {package}, which is not installed; pip install {package}"
            )


def check_presets(run: Run, cases: Sequence[Case]) -> Iterator[Problem]:
    """Yield the presets that are missing or were measured with other settings."""
    yield from preset_check(run, list({case.model.id: case.model for case in cases}.values()))


def check_preset_cache(run: Run, cases: Sequence[Case]) -> Iterator[Problem]:
    """Yield a problem if the preset cache cannot be written."""
    if run.settings.preset_cache is None or not calibrates(run):
        return
    folder = _existing(Path(run.settings.preset_cache).absolute())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        yield _cannot_begin(f"--preset-cache: {folder} is not a writable folder; give another")


def check_devices(run: Run, cases: Sequence[Case]) -> Iterator[Problem]:
    """Yield the models that do not fit on the devices; nodes of a fleet are checked once they are known."""
    if run.settings.fleet is not None:
        return
    try:
        needs = {need.model.id: need.memory_bytes for need in model_needs(run, cases)}
        yield from map(_cannot_begin, memory_problems(pool_of(run), needs))
    except UsageError as error:
        yield from error.listed


def check_disk(run: Run, cases: Sequence[Case]) -> Iterator[Problem]:
    """Yield the file systems with less free space than the run needs."""
    # the controller of a fleet has no checkpoints; each node checks its own disk
    resumed = run.settings.resume and run.settings.piece is None
    if run.settings.skip_disk_preflight or resumed or run.settings.fleet is not None:
        return
    need = disk_need(
        model_needs(run, cases),
        missing_bytes=run.sources.missing_bytes,
        storage=run.settings.baseline_storage_mode,
        keep_models=run.settings.keep_models,
    )
    folder, cache = _existing(run.directory.path), _existing(_cache()) if need.cache_bytes else None
    shares_cache = cache is not None and cache.stat().st_dev == folder.stat().st_dev
    spare = run.settings.min_free_disk_gb
    if (free := shutil.disk_usage(folder).free) < (needed := need.on_run_disk(shares_cache=shares_cache)) + spare * 1e9:
        what = "the run and its downloads need" if shares_cache else "the run needs"
        another = "use another disk with --output-dir" + (" or HF_HUB_CACHE" if shares_cache else "")
        yield _cannot_begin(
            f"{folder}: {free / 1e9:.1f} GB free, {what} {needed / 1e9:.1f} GB and {spare:g} GB must stay free; "
            f"free some space, {another}, lower MIN_FREE_DISK_GB, or start anyway: "
            "PACK_SKIP_DISK_PREFLIGHT=1"
        )
    if cache is not None and not shares_cache and (free := shutil.disk_usage(cache).free) < need.cache_bytes:
        yield _cannot_begin(
            f"{cache}: {free / 1e9:.1f} GB free, {need.cache_bytes / 1e9:.1f} GB will be downloaded into it; "
            "free some space, use another folder with HF_HUB_CACHE, or start anyway: PACK_SKIP_DISK_PREFLIGHT=1"
        )


def _cache() -> Path:
    # imported here: only a run that downloads files needs the hub's client
    from invarlock.checkpoints.hub import cache_folder

    return cache_folder()


def _existing(path: Path) -> Path:
    """Return the path itself if it exists, otherwise its nearest existing parent folder."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


CHECKS: tuple[Check, ...] = (
    check_run_directory,
    check_pack,
    check_assurance,
    check_source,
    check_container,
    check_fleet,
    check_opt_ins,
    check_remote_code,
    check_sources,
    check_text,
    check_tuned_params,
    check_backends,
    check_flash_attention,
    check_presets,
    check_preset_cache,
    check_devices,
    check_disk,
)

# The checks for a run that makes presets but runs no cases.
CALIBRATION_CHECKS = tuple(check for check in CHECKS if check not in (check_pack, check_assurance, check_tuned_params))


def problems(run: Run, cases: Sequence[Case], checks: Sequence[Check] = CHECKS) -> list[Problem]:
    """Run the checks and return all problems, in the order of the checks."""
    return [problem for check in checks for problem in check(run, cases)]


def pool_of(run: Run) -> Pool:
    """Return the devices of a run.

    Raises:
        UsageError: when the run has no usable device.
    """
    # the controller of a fleet measures nothing
    requires = "cpu" if run.settings.fleet is not None else run.catalog.models.suites[run.catalog.suite].requires
    return make_pool(run.settings, requires, run.workers)
