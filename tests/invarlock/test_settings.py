from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from invarlock.errors import UsageError
from invarlock.settings import (
    SETTINGS,
    Settings,
    public_settings,
    readers,
    resolve_settings,
    settings_page,
)
from invarlock.settings.page import option_help


def test_an_option_beats_its_variable_and_a_variable_the_default() -> None:
    settings = resolve_settings({"tier": "aggressive"}, {"INVARLOCK_TIER": "conservative", "PACK_VERIFY_PROFILE": "ci"})

    assert (settings.tier, settings.sources["tier"]) == ("aggressive", "option")
    assert (settings.profile, settings.sources["profile"]) == ("ci", "variable")
    assert (settings.eval_batch, settings.sources["eval_batch"]) == (16, "default")


def test_a_variable_that_is_empty_counts_as_not_set() -> None:
    assert resolve_settings({}, {"INVARLOCK_TIER": ""}).tier == "balanced"


def test_the_first_of_a_settings_variables_wins() -> None:
    assert resolve_settings({}, {"OUTPUT_DIR": "b", "PACK_OUTPUT_DIR": "a"}).output_dir == "a"


@pytest.mark.parametrize(
    ("variable", "name"), [("PACK_SIGN_MANIFEST", "unsigned"), ("PACK_CLEANUP_MODELS", "keep_models")]
)
def test_a_variable_that_negates_its_option_is_inverted(variable: str, name: str) -> None:
    assert resolve_settings({}, {variable: "0"}).value(name) is True
    assert resolve_settings({}, {variable: "1"}).value(name) is False
    assert resolve_settings({name: True}, {variable: "1"}).value(name) is True


@pytest.mark.parametrize(("given", "read"), [("1", True), ("true", True), ("0", False), ("false", False)])
def test_a_flags_variable_takes_what_shell_scripts_write(given: str, read: bool) -> None:
    assert resolve_settings({}, {"SKIP_FLASH_ATTN": given}).skip_flash_attention is read


@pytest.mark.parametrize("given", ["yes", "TRUE", "2", " 1"])
def test_a_flags_variable_takes_nothing_else(given: str) -> None:
    with pytest.raises(UsageError, match=r"SKIP_FLASH_ATTN: .* is not allowed \(use 0 or 1\)"):
        resolve_settings({}, {"SKIP_FLASH_ATTN": given})


def test_all_wrong_values_are_listed_at_once_with_the_allowed_ones() -> None:
    with pytest.raises(UsageError) as caught:
        resolve_settings({"tier": "strict"}, {"INVARLOCK_SEQ_LEN": "one", "PACK_SIGN_MANIFEST": "yes"})

    assert str(caught.value) == (
        "--tier: 'strict' is not allowed (use one of balanced, conservative, aggressive); "
        "INVARLOCK_SEQ_LEN: 'one' is not allowed (use a whole number from 2 to 1048576); "
        "PACK_SIGN_MANIFEST: 'yes' is not allowed (use 0 or 1)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unsigned": True, "signing_key": "k.pem"}, "--unsigned and --signing-key cannot be combined; drop one"),
        ({"no_pack": True, "pack_dir": "p"}, "--no-pack and --pack-dir cannot be combined; drop one"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_settings(options, {})

    assert str(caught.value) == message


def test_a_release_review_sets_its_needs_and_refuses_what_contradicts_them() -> None:
    taken = resolve_settings({"release_review": True, "signing_key": "maker.pem"}, {"PACK_SKIP_HTML": "1"})

    names = ("profile", "report_assurance", "defer_rendering")
    assert [(taken.value(name), taken.sources[name]) for name in names] == [
        ("ci", "default"),
        ("strict", "default"),
        (True, "default"),
    ]
    with pytest.raises(UsageError) as caught:
        resolve_settings(
            {"release_review": True, "unsigned": True},
            {"PACK_VERIFY_PROFILE": "dev", "PACK_REPORT_ASSURANCE": "off"},
        )
    assert str(caught.value) == (
        "--release-review and --unsigned cannot be combined; drop one; "
        "--release-review needs --profile ci or release, not dev; drop --profile to use ci; "
        "--release-review needs --report-assurance strict; drop --report-assurance to use it"
    )

    with pytest.raises(UsageError) as caught:
        resolve_settings({"release_review": True, "shard": "1/2", "suite_mode": "calibrate-only"}, {})
    assert [line.split(", ")[0].split(" needs the")[0] for line in str(caught.value).split("; ")] == [
        "--release-review needs --signing-key KEY.pem",
        "make a key: invarlock keygen NAME",
        "--release-review",
        "run the shards with --profile ci --report-assurance strict",
        "--release-review and --suite-mode calibrate-only cannot be combined",
        "drop one",
    ]


def test_each_row_of_the_table_is_an_attribute() -> None:
    attributes = {field.name for field in fields(Settings)} - {"sources", "config"}

    assert attributes == {row.name for row in SETTINGS}


def test_a_default_that_follows_from_the_suite_stays_a_default() -> None:
    settings = resolve_settings({}, {"INVARLOCK_SEQ_LEN": "64"}).with_defaults({"clean_runs": 1, "seq_len": 128})

    assert (settings.clean_runs, settings.sources["clean_runs"]) == (1, "default")
    assert (settings.seq_len, settings.sources["seq_len"]) == (64, "variable")


def test_a_manifest_names_no_folder_of_the_machine() -> None:
    settings = resolve_settings({"output_dir": "/data/jane/run"}, {"HF_HOME": "/home/jane", "PACK_DIR": "../pack"})

    public = public_settings(settings.document())

    assert settings.document()["output_dir"] == {"value": "/data/jane/run", "source": "option"}
    assert public["output_dir"] == {"value": "run", "source": "option"}
    assert public["pack_dir"] == {"value": "pack", "source": "variable"}
    assert "jane" not in str(public)


@pytest.mark.parametrize(
    ("reader", "given", "value"),
    [
        (readers.seconds, "90", 90),
        (readers.seconds, "15m", 900),
        (readers.seconds, "6h", 21600),
        (readers.shard, "2/3", (2, 3)),
        (readers.gigabytes, "0.5", 0.5),
        (readers.some_of("a", "b"), "b, a", ("b", "a")),
        (readers.host_execution, "1", "host"),
        (readers.host_execution, "0", None),
    ],
)
def test_text_is_read_as_its_kind(reader: Callable[[str], Any], given: str, value: object) -> None:
    assert reader(given) == value


@pytest.mark.parametrize(
    ("reader", "given"),
    [
        (readers.seconds, "0"),
        (readers.seconds, "6 h"),
        (readers.shard, "0/3"),
        (readers.shard, "4/3"),
        (readers.gigabytes, "-1"),
        (readers.gigabytes, "nan"),
        (readers.whole(0, 9), "٣"),
        (readers.some_of("a", "b"), "a,a"),
        (readers.some_of("a", "b"), "c"),
    ],
)
def test_text_of_another_kind_is_refused(reader: Callable[[str], Any], given: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        reader(given)


def test_scenario_ids_are_names_separated_by_commas() -> None:
    settings = resolve_settings({"scenario_ids": "nan_injection, prune_clean"}, {})

    assert settings.scenario_ids == ("nan_injection", "prune_clean")
    assert settings.document()["scenario_ids"] == {"value": ["nan_injection", "prune_clean"], "source": "option"}


# What the harness promises: option or variable, and its default.
PROMISED: dict[str, Any] = {
    "--output-dir": None,
    "PACK_OUTPUT_DIR": None,
    "OUTPUT_DIR": None,
    "--net": False,
    "PACK_NET": False,
    "--resume": False,
    "RESUME_MODE": False,
    "--suite-mode": "full",
    "PACK_SUITE_MODE": "full",
    "--scenario-ids": None,
    "PACK_SCENARIO_IDS": None,
    "--determinism": "throughput",
    "PACK_DETERMINISM": "throughput",
    "--repeats": 0,
    "PACK_REPEATS": 0,
    "--repeat-scenario": None,
    "PACK_REPEAT_SCENARIO": None,
    "--tier": "balanced",
    "INVARLOCK_TIER": "balanced",
    "--profile": "dev",
    "PACK_VERIFY_PROFILE": "dev",
    "--execution-mode": None,
    "INVARLOCK_ALLOW_HOST_EXECUTION": None,
    "--no-pack": False,
    "--pack-dir": None,
    "PACK_DIR": None,
    "--signing-key": None,
    "PACK_SIGNING_KEY": None,
    "--unsigned": False,
    "PACK_SIGN_MANIFEST": False,
    "--release-review": False,
    "PACK_RELEASE_REVIEW": False,
    "--report-assurance": "report",
    "PACK_REPORT_ASSURANCE": "report",
    "--defer-rendering": False,
    "PACK_DEFER_REPORT_RENDERING": False,
    "PACK_SKIP_HTML": False,
    "--keep-models": False,
    "PACK_CLEANUP_MODELS": False,
    "PACK_BASELINE_STORAGE_MODE": "snapshot_copy",
    "PACK_TUNED_EDIT_PARAMS_FILE": None,
    "PACK_MODEL_REVISIONS_FILE": None,
    "PACK_CALIBRATION_PRESET_DIR": None,
    "PACK_CALIBRATION_PRESET_FILE": None,
    "--preset-cache": None,
    "INVARLOCK_PRESET_CACHE": None,
    "PACK_GUARDS_ORDER": ("invariants", "spectral", "rmt", "variance"),
    "RUN_ERROR_INJECTION": True,
    "DRIFT_CALIBRATION_RUNS": None,
    "CLEAN_EDIT_RUNS": None,
    "STRESS_EDIT_RUNS": None,
    "INVARLOCK_DATASET": None,
    "INVARLOCK_SEQ_LEN": None,
    "INVARLOCK_PREVIEW_WINDOWS": None,
    "INVARLOCK_FINAL_WINDOWS": None,
    "INVARLOCK_EVAL_BATCH": 16,
    "INVARLOCK_STORE_EVAL_WINDOWS": False,
    "INVARLOCK_LOCAL_JSONL_FILE": None,
    "INVARLOCK_LOCAL_JSONL_FIELD": "text",
    "INVARLOCK_HF_DATASET": None,
    "INVARLOCK_HF_CONFIG": None,
    "INVARLOCK_HF_SPLIT": "validation",
    "INVARLOCK_HF_FIELD": "text",
    "INVARLOCK_HF_REVISION": None,
    "MIN_FREE_DISK_GB": None,
    "PACK_SKIP_DISK_PREFLIGHT": False,
    "CUDA_VISIBLE_DEVICES": None,
    "GPU_ID_LIST": None,
    "NUM_GPUS": None,
    "GPU_MEMORY_PER_DEVICE": None,
    "GPU_MIN_FREE_GB": 0.0,
    "GPU_REQUIRE_IDLE": False,
    "INVARLOCK_ALLOW_REMOTE_CODE": False,
    "INVARLOCK_ALLOW_CONFIG_INCLUDE_OUTSIDE": False,
    "INVARLOCK_CONTAINER_ENGINE": None,
    "INVARLOCK_RUNTIME_IMAGE": "invarlock-runtime:local",
    "INVARLOCK_CONFIG_ROOT": None,
    "--edit-config": None,
    "INVARLOCK_EDIT_CONFIG": None,
    "SKIP_FLASH_ATTN": True,
    "--baseline": None,
    "--subject": (),
    "--edit-label": None,
    "--shard": None,
    "--fleet": None,
    "--piece-seconds": 1200,
    "--slurm": (),
    "--case-timeout": 21600,
    **{f"MODEL_{slot}": None for slot in range(1, 9)},
    **dict.fromkeys(("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "TRANSFORMERS_CACHE", "TMPDIR", "TMP")),
}


# The documented text of defaults that follow from something else.
PROMISED_WORDS = {
    "--output-dir": "evidence_pack_runs/<suite>_<time>",
    "--scenario-ids": "all of the suite",
    "--execution-mode": "container, CPU suites host",
    "--pack-dir": "<run>/evidence_pack",
    "--defer-rendering": "off, on under release review",
    "PACK_TUNED_EDIT_PARAMS_FILE": "the suites folder's",
    "DRIFT_CALIBRATION_RUNS": "5, smoke 2",
    "CLEAN_EDIT_RUNS": "3, smoke 1",
    "STRESS_EDIT_RUNS": "2, smoke 1",
    "MIN_FREE_DISK_GB": "200, CPU suites 1",
    "INVARLOCK_CONTAINER_ENGINE": "podman, then docker",
}


def test_every_setting_that_the_harness_promises_is_in_the_table_with_its_default() -> None:
    defaults = {name: row.default for row in SETTINGS for name in (row.option, *row.variables) if name}

    assert {name: defaults.get(name, "missing") for name in PROMISED} == PROMISED
    words = {name: row.shown for row in SETTINGS for name in (row.option, *row.variables) if name in PROMISED_WORDS}
    assert words == PROMISED_WORDS


def test_no_two_settings_share_an_option_or_a_variable() -> None:
    names = [name for row in SETTINGS for name in (row.option, *row.variables) if name]

    assert len(names) == len(set(names))
    assert all(row.option or row.variables for row in SETTINGS)


def test_the_page_of_settings_is_the_table_in_the_code() -> None:
    page = Path(__file__).parents[2] / "docs" / "settings.md"

    assert page.read_text() == settings_page(), "write it anew: python -m invarlock.settings > docs/settings.md"


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("tier", "; default: balanced [INVARLOCK_TIER]"),
        ("pack_dir", "; default: <run>/evidence_pack [PACK_DIR]"),
        ("unsigned", "leave the pack unsigned [PACK_SIGN_MANIFEST=0]"),
        ("expect", "applies to all subjects"),
    ],
)
def test_the_help_of_an_option_ends_with_its_default_and_its_variables(name: str, end: str) -> None:
    (setting,) = (row for row in SETTINGS if row.name == name)

    assert option_help(setting).endswith(end)
