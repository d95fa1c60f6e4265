"""Suites that run in the runtime image: the container engine's command line, and the errors without an engine."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import QUICK, invarlock_process
from stand_in_engine import IMAGE, lay_down

from invarlock.harness.container.container_mounts import not_writable
from invarlock.problems import Code

ROOT = Path(__file__).parents[3]
RunPytest = Callable[..., Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder that is the whole PATH. It has git, and no container engine yet."""
    folder = tmp_path / "path"
    folder.mkdir()
    git = shutil.which("git")
    assert git is not None
    (folder / "git").symlink_to(git)
    return folder


def problems(output: str) -> list[str]:
    lines = output.partition("ERROR: ")[2].strip().splitlines()
    return [re.sub(r" \[[a-z_]+\]$", "", line) for line in lines]


def test_everything_that_a_bare_machine_lacks_is_listed_at_once(
    run_pytest: RunPytest, path: Path, tmp_path: Path
) -> None:
    ran = run_pytest("-m", "subset", PATH=str(path), HF_HOME=str(tmp_path / "empty"), SKIP_FLASH_ATTN="0")

    lines = problems(ran.output)
    assert ran.status == 4, ran.output
    for wanted in (
        "no container engine: install podman or docker",
        "suite subset: GPU suites need the opt-in",
        "mistralai/Mistral-7B-v0.1",
        "Salesforce/wikitext",
        "SKIP_FLASH_ATTN=0: flash-attn is not installed",
        "NVML",
    ):
        assert sum(wanted in line for line in lines) == 1, (wanted, ran.output)
    assert not ran.directory.exists()


def test_what_is_missing_is_listed_before_pytorch_is_imported(
    run_pytest: RunPytest, path: Path, tmp_path: Path
) -> None:
    ran = run_pytest("-m", "subset", PATH=str(path), HF_HOME=str(tmp_path / "empty"), PYTHONPROFILEIMPORTTIME="1")

    imported = re.findall(r"^import time: .*\| +([\w.]+)$", ran.output, re.MULTILINE)
    assert "pytest" in imported
    assert not {"torch", "transformers", "accelerate"} & set(imported)


def test_on_the_host_no_container_engine_is_needed(run_pytest: RunPytest, path: Path, tmp_path: Path) -> None:
    ran = run_pytest(
        "-m", "subset", PATH=str(path), HF_HOME=str(tmp_path / "empty"), INVARLOCK_ALLOW_HOST_EXECUTION="1"
    )

    assert not [line for line in problems(ran.output) if " container" in line], ran.output
    assert "suite subset: GPU suites need the opt-in" in ran.output


def test_the_engine_runs_the_same_command_line_with_its_files_and_returns_its_exit_code(
    run_pytest: RunPytest, path: Path, tmp_path: Path
) -> None:
    log = lay_down(path, "docker", run="sys.exit(5)")
    key, presets, base, cache, null_runs = (
        tmp_path / name for name in ("key.pem", "presets", "base", "hf", "null_runs")
    )
    for folder in (presets, base, cache):
        folder.mkdir()
    shutil.copytree(ROOT / "suites/embedded/mistral-tiny", base / "mine")
    key.write_text("not read outside")
    key.chmod(0o644)

    ran = run_pytest(
        *("-m", "subset", "-n", "2", "--net", "0", "--signing-key", str(key), "--junitxml", str(tmp_path / "j.xml")),
        PATH=str(path),
        HF_HOME=str(cache),
        HF_TOKEN="secret",
        SOMETHING="else",
        MODEL_1=str(base / "mine"),
        PACK_CALIBRATION_PRESET_DIR=str(presets),
        INVARLOCK_PRESET_CACHE=str(null_runs),
    )

    inspected, started, removed = (json.loads(line) for line in log.read_text().splitlines())
    assert ran.status == 5, ran.output
    assert f"invarlock: docker runs invarlock-runtime:local (sha256:{IMAGE})" in ran.output
    assert inspected["arguments"] == ["image", "inspect", "--format", "{{.Id}}", "invarlock-runtime:local"]
    arguments = started["arguments"]
    assert arguments[arguments.index(IMAGE) + 1 :] == [
        *("pytest", *QUICK, "-m", "subset", "-n", "2", "--net", "0", "--signing-key", str(key)),
        *("--junitxml", str(tmp_path / "j.xml"), str(ROOT / "suites"), "--output-dir", str(ran.directory)),
    ]
    assert removed["arguments"] == ["rm", "--force", started["arguments"][3].removeprefix("--name=")]
    mounts = [one.removeprefix("--mount=type=bind,") for one in arguments if one.startswith("--mount")]
    handed = [one for one in mounts if one.endswith("target=/run/invarlock/handover.json,readonly")]
    assert len(handed) == 1
    assert sorted(set(mounts) - set(handed)) == sorted(
        [f"source={one},target={one},readonly" for one in (ROOT, key, base / "mine", presets)]
        + [f"source={one},target={one}" for one in (ran.directory, tmp_path / "j.xml", cache, null_runs)]
    )
    variables = {one.removeprefix("--env=") for one in arguments if one.startswith("--env")}
    assert {"HF_HOME", "MODEL_1", "PACK_CALIBRATION_PRESET_DIR", "OMP_NUM_THREADS", "HOME=/tmp"} <= variables
    assert not {"HF_TOKEN", "SOMETHING", "PATH"} & variables
    assert {"--network=none", "--gpus=all", f"--workdir={ROOT}"} <= set(arguments)
    # the empty folders and the empty file are removed again
    assert not ran.directory.exists()
    assert not null_runs.exists()
    assert not (tmp_path / "j.xml").exists()


def test_a_pack_in_the_runs_own_folder_needs_no_other_to_be_writable(
    run_pytest: RunPytest, path: Path, tmp_path: Path
) -> None:
    log = lay_down(path, "docker")

    ran = run_pytest(
        "-m", "subset", "--pack-dir", str(tmp_path / "run/pack"), PATH=str(path), HF_HOME=str(tmp_path / "hf")
    )

    arguments = json.loads(log.read_text().splitlines()[1])["arguments"]
    assert ran.status == 3, ran.output
    writable = [one for one in arguments if one.startswith("--mount") and not one.endswith(",readonly")]
    assert writable == [f"--mount=type=bind,source={tmp_path}/run,target={tmp_path}/run"]


def test_the_hubs_variables_and_the_network_come_with_net_1(run_pytest: RunPytest, path: Path, tmp_path: Path) -> None:
    log = lay_down(path, "docker")

    run_pytest("-m", "subset", "--net", "1", PATH=str(path), HF_HOME=str(tmp_path / "new"), HF_TOKEN="secret")

    arguments = json.loads(log.read_text().splitlines()[1])["arguments"]
    assert "--env=HF_TOKEN" in arguments
    assert "--network=none" not in arguments
    assert "secret" not in log.read_text()
    assert f"--mount=type=bind,source={tmp_path / 'new'},target={tmp_path / 'new'}" in arguments


def test_files_that_a_container_cannot_get_are_refused_before_it_starts(
    run_pytest: RunPytest, path: Path, tmp_path: Path
) -> None:
    log = lay_down(path, "podman", known="another:image")

    ran = run_pytest(
        *("-m", "subset", "--pack-dir", str(ROOT / "new-pack")),
        PATH=str(path),
        HF_HOME=str(tmp_path / "a,b"),
        PACK_NET="1",
        HF_ENDPOINT="http://127.0.0.1:1",
    )

    lines = problems(ran.output)
    assert any(line.startswith(f"--pack-dir: a container writes to {ROOT}, ") for line in lines), ran.output
    assert f"{tmp_path}/a,b: a path with a comma or a quote cannot be mounted; rename it" in lines
    assert any(line.startswith("podman has no image invarlock-runtime:local; build it") for line in lines)
    if not any(list(Path(folder).glob("*")) for folder in ("/etc/cdi", "/var/run/cdi")):
        assert any(line.startswith("podman containers get no GPU") for line in lines)
    assert [json.loads(line)["arguments"][0] for line in log.read_text().splitlines()] == ["image"]


def test_a_container_is_given_the_files_of_a_config_and_starts_only_if_they_may_be_read(
    run_pytest: RunPytest, path: Path, tmp_path: Path
) -> None:
    log = lay_down(path, "docker")
    (tmp_path / "site/parts").mkdir(parents=True)
    files = [tmp_path / "site/site.yaml", tmp_path / "site/parts/b.yaml", tmp_path / "base.yaml"]
    files[0].write_text("settings: !include parts/b.yaml\n")
    files[1].write_text("profile: !include ../../base.yaml\n")
    files[2].write_text("ci\n")
    selected = ("-m", "subset", "--edit-config", str(files[0]))

    refused = run_pytest(*selected, PATH=str(path))

    assert refused.status == 4, refused.output
    assert (
        f"ERROR: {files[1]}: line 1: !include {files[2]} is outside {tmp_path}/site; move it there, or allow it: "
        "INVARLOCK_ALLOW_CONFIG_INCLUDE_OUTSIDE=1"
    ) in refused.output
    assert not log.exists()

    run_pytest(*selected, PATH=str(path), INVARLOCK_ALLOW_CONFIG_INCLUDE_OUTSIDE="1")

    arguments = json.loads(log.read_text().splitlines()[1])["arguments"]
    mounts = [one.removeprefix("--mount=type=bind,") for one in arguments if one.startswith("--mount")]
    assert sorted(one for one in mounts if ".yaml," in one) == sorted(
        f"source={file},target={file},readonly" for file in files
    )
    assert "--env=INVARLOCK_ALLOW_CONFIG_INCLUDE_OUTSIDE" in arguments


def test_an_evaluation_that_cannot_run_in_a_container_says_why(path: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "--execution-mode", "container", "--baseline", "absent", "--subject", "absent"]
    arguments += ["--text", "absent.txt", "--output-dir", "nowhere/out", "--device", "cpu"]

    done = invarlock_process(*arguments, cwd=tmp_path, env={"PATH": str(path)})

    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr == (
        f"error: {tmp_path}/absent: does not exist; give an existing file or folder; "
        f"{tmp_path}/absent.txt: does not exist; give an existing file or folder; "
        f"--output-dir: {tmp_path}/nowhere does not exist; create it; "
        "no container engine: install podman or docker, and build the runtime image in a checkout: "
        f"podman build -t invarlock-runtime:local ., or leave --execution-mode out [{Code.CONTAINER_UNAVAILABLE}]\n"
    )


def test_listing_cases_starts_no_container(run_pytest: RunPytest, path: Path) -> None:
    log = lay_down(path, "docker")

    ran = run_pytest("-m", "subset and deployable", "--collect-only", "-q", PATH=str(path))

    assert ran.status == 0, ran.output
    assert not log.exists()


def test_a_folder_that_the_containers_user_cannot_write_is_named_in_the_remedy() -> None:
    assert "run chown 1000 '/runs of mine', give another folder" in not_writable(Path("/runs of mine"), 1000)
