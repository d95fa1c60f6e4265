"""The script that makes a GPU host ready, on a machine without a GPU: what it looks at, and what it would run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts/setup-gpu-host.sh"
COMMIT = subprocess.run(
    ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.strip()
NEEDED = ("bash", "awk", "cat", "df", "dirname", "git", "wc")
GPU = "NVIDIA H100 80GB HBM3, 81559 MiB, 580.95.05"


class Host:
    """A folder that is all of the PATH: the programs that a host has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in NEEDED:
            found = shutil.which(name)
            assert found is not None
            (folder / name).symlink_to(found)
        (folder / "python3").symlink_to(sys.executable)

    def add(self, name: str, script: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
        (self.folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (self.folder / name).chmod(0o755)

    def set_up(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PACK_", "INVARLOCK_"))}
        environment = {**clean, "PATH": str(self.folder), "MIN_FREE_DISK_GB": "0", "PACK_SKIP_DISK_PREFLIGHT": "1"}
        return subprocess.run(
            [str(SCRIPT), *arguments],
            cwd=self.folder,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "bin").mkdir()
    return Host(tmp_path / "bin")


@pytest.fixture
def gpu_host(host: Host) -> Host:
    """A host with driver and engine: stand-ins that answer as theirs do."""
    host.add("nvidia-smi", f"echo '{GPU}'")
    host.add("docker", '[ "$*" = info ]')
    return host


def test_everything_missing_is_listed_at_once_one_per_line(host: Host) -> None:
    done = host.set_up("--check", PACK_SKIP_DISK_PREFLIGHT="0", MIN_FREE_DISK_GB="1000000")

    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["driver", "disk", "container engine"]
    assert lines[0].endswith("no nvidia-smi on the PATH; install the NVIDIA driver, restart, then run this again")
    assert "1000000 must stay free; use a larger disk" in lines[1]
    assert lines[2].endswith("or run on the host: --execution host")


@pytest.mark.parametrize(
    ("name", "script", "said"),
    [
        (
            "nvidia-smi",
            "echo 'Failed to initialize NVML: version mismatch'; exit 18",
            "version mismatch)",
        ),
        ("nvidia-smi", "exit 0", "driver: nvidia-smi lists no GPU"),
        ("docker", "exit 1", "container engine: '{docker} info' fails; start it"),
        ("podman", "exit 0", "container engine: podman knows of no GPU; as root: nvidia-ctk cdi generate"),
        ("python3", "exit 1", "Python: none of 3.11 to 3.13 on the PATH; install python3 and python3-venv"),
    ],
)
def test_each_failed_check_is_listed_with_its_remedy(name: str, script: str, said: str, gpu_host: Host) -> None:
    gpu_host.add(name, script)

    done = gpu_host.set_up("--check")

    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert said.format(docker=gpu_host.folder / "docker") in done.stderr


def test_a_dry_run_lists_its_commands_and_changes_nothing(gpu_host: Host) -> None:
    done = gpu_host.set_up("--check", "--venv", "place")

    venv = gpu_host.folder / "place"
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if line.startswith("+")][:3] == [
        f"+ 'python3' '-m' 'venv' '{venv}'",
        f"+ '{venv}/bin/pip' 'install' '--quiet' '-c' 'constraints.txt' '-e' '.[suite,parquet,yaml]'",
        f"+ '{gpu_host.folder}/docker' 'build' '-t' 'invarlock-runtime:local' '--build-arg' 'REVISION={COMMIT}' '.'",
    ]
    assert f"GPU: {GPU}" in done.stdout
    assert done.stdout.endswith("pytest suites -m subset -n 1 --net 1 --signing-key maker.pem\n")
    assert not venv.exists()


def test_on_the_host_itself_no_container_engine_is_needed(host: Host) -> None:
    host.add("nvidia-smi", f"echo '{GPU}'")

    done = host.set_up("--check", "--execution", "host")

    assert (done.returncode, done.stderr) == (0, "")
    assert "'build'" not in done.stdout
    assert "\n  INVARLOCK_ALLOW_HOST_EXECUTION=1 INVARLOCK_ALLOW_REMOTE_CODE=1 pytest suites" in done.stdout


def test_an_existing_installation_is_kept_and_a_pytorch_without_a_gpu_is_reported(gpu_host: Host) -> None:
    venv = gpu_host.folder / "place" / "bin"
    venv.mkdir(parents=True)
    gpu_host.add("place/bin/pip", f'echo "$*" >> {gpu_host.folder}/installed')
    gpu_host.add("place/bin/python", f'exec {sys.executable} "$@"')
    gpu_host.add("docker", f'echo "$*" >> {gpu_host.folder}/calls')

    done = gpu_host.set_up("--venv", str(venv.parent), CUDA_VISIBLE_DEVICES="")

    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert done.stderr.startswith("PyTorch sees no GPU; it is built ")
    assert (
        gpu_host.folder / "installed"
    ).read_text() == "install --quiet -c constraints.txt -e .[suite,parquet,yaml]\n"
    assert (gpu_host.folder / "calls").read_text() == (
        f"info\nbuild -t invarlock-runtime:local --build-arg REVISION={COMMIT} .\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--chk",), "unknown option '--chk'"),
        (("--venv",), "the last option has no value"),
        (("--execution", "vm"), "'vm' is neither container nor host"),
        (("--venv", ""), "the folder's name is empty"),
    ],
)
def test_invalid_options_are_refused(arguments: tuple[str, ...], said: str, host: Host) -> None:
    done = host.set_up("--check", *arguments)

    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert said in done.stderr
