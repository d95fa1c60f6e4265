"""What a user gives and nothing reads is said, once, with what the user may have meant."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from invarlock.packer.cli import main as packer

from invarlock.cli import main
from invarlock.nearest import nearest
from invarlock.settings import SETTINGS, Mode, resolve_settings, unknown_variables, unread_settings
from invarlock.settings.ignored import UNREAD

SMOKE = Mode(sentinels=False, user_subjects=False, device="cpu", dataset="embedded")
GPU = Mode(sentinels=False, user_subjects=False, device="gpu", dataset="wikitext2")
VARIABLES = [name for setting in SETTINGS for name in setting.variables if name.startswith(("PACK_", "INVARLOCK_"))]


def unread(options: dict[str, Any], variables: dict[str, str], mode: Mode, execution: str = "host") -> list[str]:
    settings = resolve_settings(options, variables).with_defaults({"execution_mode": execution})
    return [line.partition(":")[0] for line in unread_settings(settings, mode, variables)]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PACK_SUITE_MOD", "PACK_SUITE_MODE"),
        ("PACK_OUTPUTDIR", "PACK_OUTPUT_DIR"),
        ("PACK_SIGNIN_KEY", "PACK_SIGNING_KEY"),
        ("INVARLOCK_SEQLEN", "INVARLOCK_SEQ_LEN"),
        ("INVARLOCK_WINDOWS_SEED", "INVARLOCK_WINDOW_SEED"),
        ("INVARLOCK_XYZZY", None),
    ],
)
def test_a_variable_that_no_setting_has_is_named_with_the_nearest_that_one_has(name: str, meant: str | None) -> None:
    (line,) = unknown_variables({name: "1", "PATH": "/bin", "PACK_NET": "0"})

    assert line.startswith(f"{name}: ")
    assert (f"did you mean {meant}?" in line) == (meant is not None)
    assert ("did you mean" in line) == (meant is not None)


def test_variables_of_settings_of_others_and_of_the_user_are_no_slips() -> None:
    environment = dict.fromkeys([*VARIABLES, "PACKAGE", "HF_HOME", "MY_PACK_NAME", "PACK_PASSPHRASE"], "1")

    assert list(unknown_variables(environment, own={"PACK_PASSPHRASE"})) == []


@given(st.sampled_from(VARIABLES), st.data())
def test_a_variable_with_one_character_left_out_is_known_again(name: str, data: st.DataObject) -> None:
    left_out = data.draw(st.integers(min_value=name.index("_") + 1, max_value=len(name) - 1))
    slip = name[:left_out] + name[left_out + 1 :]

    assert nearest(slip, VARIABLES) is not None
    assert slip in VARIABLES or len(list(unknown_variables({slip: ""}))) == 1


@pytest.mark.parametrize(
    ("options", "variables", "mode", "execution", "names"),
    [
        ({"run_dir": "run", "sentinel_model": "m"}, {}, SMOKE, "host", ["--run-dir", "--model"]),
        ({"run_dir": "run"}, {}, Mode(True, False, "cpu", "embedded"), "host", []),
        ({"edit_label": "custom"}, {}, SMOKE, "host", ["--edit-label"]),
        ({"edit_label": "custom"}, {}, Mode(False, True, "cpu", "embedded"), "host", []),
        ({}, {"INVARLOCK_HF_DATASET": "a/b"}, SMOKE, "host", ["INVARLOCK_HF_DATASET"]),
        ({}, {"INVARLOCK_HF_DATASET": "a/b"}, Mode(False, False, "gpu", "hf_text"), "host", []),
        ({}, {"INVARLOCK_LOCAL_JSONL_FILE": "a"}, GPU, "host", ["INVARLOCK_LOCAL_JSONL_FILE"]),
        ({}, {"NUM_GPUS": "2"}, SMOKE, "host", ["NUM_GPUS"]),
        ({}, {"NUM_GPUS": "2"}, GPU, "host", []),
        ({}, {"INVARLOCK_CONTAINER_ENGINE": "podman"}, GPU, "host", ["INVARLOCK_CONTAINER_ENGINE"]),
        ({}, {"INVARLOCK_CONTAINER_ENGINE": "podman"}, GPU, "container", []),
        ({"no_pack": True, "signing_key": "k.pem"}, {}, SMOKE, "host", ["--signing-key"]),
        ({}, {"PACK_SIGNING_KEY": "k.pem", "PACK_SHARD": "1/2"}, SMOKE, "host", ["PACK_SIGNING_KEY"]),
        ({"shard": "1/2", "pack_dir": "p", "signing_key": "k.pem"}, {}, SMOKE, "host", []),
        ({"suite_mode": "calibrate-only", "repeats": "2"}, {}, SMOKE, "host", ["--repeats"]),
        ({"suite_mode": "run-only"}, {"DRIFT_CALIBRATION_RUNS": "3"}, SMOKE, "host", ["DRIFT_CALIBRATION_RUNS"]),
        ({}, {"INVARLOCK_ALLOW_PICKLED_WEIGHTS": "1"}, GPU, "host", ["INVARLOCK_ALLOW_PICKLED_WEIGHTS"]),
        ({"repeat_scenarios": "noop_control"}, {}, SMOKE, "host", ["--repeat-scenario"]),
        ({"net": "1"}, {"INVARLOCK_ALLOW_PICKLED_WEIGHTS": "1"}, GPU, "host", []),
        ({}, {"CUDA_VISIBLE_DEVICES": "", "HF_HOME": "/x", "OUTPUT_DIR": "run"}, SMOKE, "host", []),
        ({}, {}, SMOKE, "host", []),
    ],
)
def test_settings_that_a_mode_does_not_read_are_named_as_they_were_given(
    options: dict[str, Any], variables: dict[str, str], mode: Mode, execution: str, names: list[str]
) -> None:
    assert unread(options, variables, mode, execution) == names


def test_names_that_may_be_unread_are_settings() -> None:
    assert {name for row in UNREAD for name in row.names} <= {setting.name for setting in SETTINGS}


@pytest.mark.parametrize("command", [main, packer])
def test_commands_warn_of_a_variable_that_nothing_reads(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith(("PACK_", "INVARLOCK_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PACK_SIGNIN_KEY", "k.pem")

    code = command(["verify", str(tmp_path / "absent")])

    assert code != 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 1
    assert "PACK_SIGNIN_KEY" in lines[0]
    assert "PACK_SIGNING_KEY" in lines[0]
