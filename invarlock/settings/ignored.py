"""Warnings about input that has no effect: misspelt variables, and settings that the mode does not use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from invarlock.nearest import did_you_mean
from invarlock.settings.rows import Setting
from invarlock.settings.table import SETTINGS
from invarlock.settings.values import Settings

# Variables with these prefixes belong to InvarLock, so an unknown one is a mistake.
PREFIXES = ("PACK_", "INVARLOCK_")


# Variables read by commands, not by runs: `invarlock.boundary` shows tracebacks, `evaluate` sends the key to a server.
OF_COMMANDS = ("INVARLOCK_TRACEBACK", "INVARLOCK_SUBJECT_API_KEY")


@dataclass(frozen=True)
class Mode:
    """The properties of a run that decide which settings it reads.

    Attributes:
        sentinels: whether the run evaluates kept subjects (``-m sentinel``).
        user_subjects: whether the run's checkpoints are the user's (``-m byoe``).
        device: the device of the run's suite, ``cpu`` or ``gpu``.
        dataset: the data set on which the run scores.
    """

    sentinels: bool
    user_subjects: bool
    device: str
    dataset: str


@dataclass(frozen=True)
class UnreadSettings:
    """Settings that a run does not read under a condition, and the reason to show."""

    names: tuple[str, ...]
    when: Callable[[Settings, Mode], bool]
    why: str


def _calibrates(settings: Settings, mode: Mode) -> bool:
    return bool(settings.suite_mode == "calibrate-only")


# The settings that each mode of a run does not read.
UNREAD = (
    UnreadSettings(("run_dir", "sentinel_model"), lambda _, mode: not mode.sentinels, "only -m sentinel reads it"),
    UnreadSettings(("repeat_scenarios",), lambda settings, _: not settings.repeats, "only --repeats N reads it"),
    UnreadSettings(
        ("config_root", "allow_config_include_outside"),
        lambda settings, _: settings.edit_config is None,
        "only --edit-config reads it",
    ),
    UnreadSettings(
        ("edit_label", "expect", "model_signatures"), lambda _, mode: not mode.user_subjects, "only -m byoe reads it"
    ),
    UnreadSettings(("tuned_params_file",), lambda _, mode: mode.user_subjects, "-m byoe makes no edit"),
    UnreadSettings(
        ("local_jsonl_file", "local_jsonl_field"),
        lambda _, mode: mode.dataset != "local_jsonl",
        "only INVARLOCK_DATASET=local_jsonl reads it",
    ),
    UnreadSettings(
        ("hf_dataset", "hf_config", "hf_split", "hf_field", "hf_revision"),
        lambda _, mode: mode.dataset != "hf_text",
        "only INVARLOCK_DATASET=hf_text reads it",
    ),
    UnreadSettings(
        ("gpu_ids", "num_gpus", "gpu_min_free_gb", "gpu_require_idle", "skip_flash_attention"),
        lambda _, mode: mode.device == "cpu",
        "this suite is measured on the CPU",
    ),
    UnreadSettings(
        ("container_engine", "runtime_image"),
        lambda settings, _: settings.execution_mode == "host",
        "only a run in a container reads it (--execution-mode container)",
    ),
    UnreadSettings(
        ("allow_pickled_weights",), lambda settings, _: not settings.net, "nothing is fetched without --net 1"
    ),
    UnreadSettings(
        ("signing_key", "unsigned", "report_assurance"),
        lambda settings, _: settings.no_pack,
        "--no-pack builds no pack",
    ),
    UnreadSettings(
        ("signing_key", "unsigned", "report_assurance"),
        # a shard builds a pack only with --pack-dir
        lambda settings, _: settings.shard is not None and settings.pack_dir is None,
        "a shard builds no pack; `invarlock merge` does",
    ),
    UnreadSettings(
        (
            "pack_dir", "no_pack", "signing_key", "unsigned", "report_assurance", "defer_rendering", "skip_html",
            "repeats", "keep_models", "scenario_ids", "clean_runs", "stress_runs", "error_injection",
            "tuned_params_file",
        ),
        _calibrates,
        "--suite-mode calibrate-only makes presets and runs no case",
    ),
    UnreadSettings(
        ("calibration_runs", "preset_cache"),
        lambda settings, _: bool(settings.calibration_preset_dir or settings.calibration_preset_file),
        "the presets are given",
    ),
    UnreadSettings(
        ("calibration_runs", "preset_cache"),
        lambda settings, _: settings.suite_mode == "run-only",
        "--suite-mode run-only makes no presets",
    ),
    UnreadSettings(
        ("preset_cache",),
        lambda settings, _: settings.calibration_runs == 0,
        "DRIFT_CALIBRATION_RUNS=0 makes no presets",
    ),
    UnreadSettings(
        ("min_free_disk_gb",),
        lambda settings, _: settings.skip_disk_preflight,
        "PACK_SKIP_DISK_PREFLIGHT=1 checks no disk",
    ),
)  # fmt: skip


def unknown_variables(environment: Mapping[str, str], own: Collection[str] = ()) -> Iterator[str]:
    """Yield each variable with the prefix of settings that is not a setting.

    Args:
        environment: the environment variables.
        own: variables that the user gave by name, such as the one with a passphrase.
    """
    known = [*OF_COMMANDS, *(variable for setting in SETTINGS for variable in setting.variables)]
    for name in sorted(environment):
        if name.startswith(PREFIXES) and name not in known and name not in own:
            yield f"{name}: unknown variable{did_you_mean(name, known)}; it has no effect"


def unread_settings(settings: Settings, mode: Mode, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield each given setting that a run of this mode does not read, with the reason."""
    for setting in SETTINGS:
        if not settings.given(setting.name):
            continue
        reasons = [row.why for row in UNREAD if setting.name in row.names and row.when(settings, mode)]
        if reasons:
            yield f"{_given_name(setting, settings, environment)}: it has no effect: {reasons[0]}"
    if settings.config is None or not settings.config.edits:
        return
    reasons = [row.why for row in UNREAD if "tuned_params_file" in row.names and row.when(settings, mode)]
    if settings.sources["tuned_params_file"] in ("option", "variable"):
        reasons.append("PACK_TUNED_EDIT_PARAMS_FILE gives all parameters")
    if reasons:
        yield f"{settings.config.path}: edits: it has no effect: {reasons[0]}"


def _given_name(setting: Setting, settings: Settings, environment: Mapping[str, str]) -> str:
    """Return the option, variable or config entry that gave a value."""
    if settings.sources[setting.name] == "config" and settings.config is not None:
        return f"{settings.config.path}: settings: {setting.name}"
    if settings.sources[setting.name] == "option" and setting.option is not None:
        return setting.option
    return next((name for name in setting.variables if environment.get(name)), setting.name)
