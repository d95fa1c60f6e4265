"""Suites in a real container: built by build-image.sh, run by podman as a user runs them."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.trust.keys import fingerprint, make_signing_key, write_key_pair
from processes import clean, invarlock_process, packer, run_pytest, start_pytest, succeed

from invarlock.runtime.container import Job, Mount, caller, engine_arguments
from invarlock.runtime.engines import find_engine, find_image
from invarlock.runtime.provenance import source_repository

ROOT = Path(__file__).parents[2]
IMAGE = os.environ.get("INVARLOCK_TEST_IMAGE", "")
SMALL = {
    "INVARLOCK_PREVIEW_WINDOWS": "8",
    "INVARLOCK_FINAL_WINDOWS": "16",
    "OMP_NUM_THREADS": "1",
    "DRIFT_CALIBRATION_RUNS": "0",
    "INVARLOCK_RUNTIME_IMAGE": IMAGE,
    "INVARLOCK_CONTAINER_ENGINE": "podman",
}
pytestmark = pytest.mark.skipif(not IMAGE, reason="no image; tox -e container builds one and runs these tests")


@dataclass(frozen=True)
class Contained:
    """A run in the container: its pack, whose key signed it, and the source when it was started."""

    pack: Path
    fingerprint: str
    source: Mapping[str, Any] | None


def arguments(run: Path, *more: str) -> list[str]:
    return [str(ROOT / "suites"), "--execution-mode", "container", "--output-dir", str(run), *more]


@pytest.fixture(scope="module")
def contained(tmp_path_factory: pytest.TempPathFactory) -> Contained:
    """A clean case, a destructive one and a fault on two models, by two workers."""
    folder = tmp_path_factory.mktemp("contained")
    key, source = make_signing_key(), source_repository(ROOT)
    write_key_pair(folder / "maker", key)
    chosen = "(mistral or qwen2) and (noop_control or prune_50 or nan_injection)"
    given = arguments(folder / "run", "-n", "2", "-k", chosen, "--signing-key", str(folder / "maker.pem"))
    succeed(run_pytest(*given, env=SMALL))
    return Contained(folder / "run" / "evidence_pack", fingerprint(key.public), source)


def verify(pack: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return packer("verify", pack, "--strict", *more)


def test_a_pack_made_in_the_container_is_strong_evidence(contained: Contained) -> None:
    done = verify(contained.pack, "--report-assurance", "strict", "--expected-fingerprint", contained.fingerprint)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "strong evidence: yes" in done.stdout


def test_a_pack_made_on_the_host_is_not_enough_for_strict_assurance(real_run: Any) -> None:
    assert verify(real_run.pack, "--report-assurance", "report").returncode == 0
    assert verify(real_run.pack, "--report-assurance", "strict").returncode == 7


def test_every_report_names_the_image_by_the_digest_that_podman_has(contained: Contained) -> None:
    digest = find_image(find_engine("podman", IMAGE), IMAGE).digest
    manifests = [json.loads(path.read_text()) for path in contained.pack.glob("reports/**/runtime.manifest.json")]

    assert len(manifests) == 6
    assert {one["execution_mode"] for one in manifests} == {"container"}
    for one in manifests:
        assert one["runtime"] == {
            "allow_network": False,
            "allow_remote_code": False,
            "allow_third_party_plugins": False,
            "container_execution": True,
            "image_digest": digest,
            "image_ref": IMAGE,
        }


def test_the_source_is_that_of_the_checkout_although_the_image_has_no_git(contained: Contained) -> None:
    assert json.loads((contained.pack / "metadata" / "source_repo.json").read_text()) == contained.source


def test_two_checkpoints_are_evaluated_in_the_container_too(tmp_path: Path) -> None:
    for name in ("base", "mine"):
        shutil.copytree(ROOT / "suites/embedded/mistral-tiny", tmp_path / name)
        shutil.copytree(ROOT / "suites/embedded/tokenizer", tmp_path / name, dirs_exist_ok=True)
    # the process inside writes the report next to its final place
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports").chmod(0o777)
    tmp_path.chmod(0o755)
    text = ROOT / "suites/embedded/text/austen_heldout.txt.xz"
    given = ["evaluate", "--execution-mode", "container", "--baseline", "base", "--subject", "./mine"]
    given += ["--text", str(text), "--output-dir", "reports/out", "--seq-len", "64", "--preview-windows", "4"]

    succeed(invarlock_process(*given, "--final-windows", "16", cwd=tmp_path, env=clean(SMALL)))

    manifest = json.loads((tmp_path / "reports/out/runtime.manifest.json").read_text())
    report = json.loads((tmp_path / "reports/out/evaluation.report.json").read_text())
    assert (manifest["execution_mode"], manifest["runtime"]["image_ref"]) == ("container", IMAGE)
    assert (report["context"]["execution_mode"], report["primary_metric"]["ratio_vs_baseline"]) == ("container", 1.0)


LOOK_AROUND = """
import json, os, socket, sys
def attempt(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__, error.strerror
    return None
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(json.dumps({
    "user": os.getuid(),
    "capabilities": [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")],
    "no_new_privileges": status["NoNewPrivs"],
    "root": attempt(lambda: open("/opt/new", "w")),
    "checkout": attempt(lambda: open(sys.argv[1] + "/new", "w")),
    "input": attempt(lambda: open(sys.argv[2] + "/new", "w")),
    "output": attempt(lambda: open(sys.argv[3] + "/new", "w")),
    "temporary": attempt(lambda: open("/tmp/new", "w")),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "connects": attempt(lambda: socket.create_connection(("192.0.2.1", 80), 3)),
    "variables": sorted(name for name in os.environ if name.startswith(("PACK_", "HF_"))),
}))
"""


def test_a_container_is_offline_read_only_and_without_privileges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACK_SCENARIO_IDS", "noop_control")
    monkeypatch.setenv("HF_TOKEN", "secret")
    given, output = tmp_path / "given", tmp_path / "output"
    given.mkdir()
    output.mkdir(mode=0o777)
    output.chmod(0o777)
    engine, by = find_engine("podman", IMAGE), caller()
    mounts = (Mount(ROOT), Mount(given), Mount(output, writable=True))
    words = ("python", "-c", LOOK_AROUND, str(ROOT), str(given), str(output))
    job = Job(words, ROOT, mounts, ("PACK_SCENARIO_IDS",))

    arguments = engine_arguments(engine, find_image(engine, IMAGE), "invarlock-looks-around", job, by)
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    found: Mapping[str, Any] = json.loads(done.stdout)
    assert found == {
        "user": by.user,
        "capabilities": [0, 0, 0],
        "no_new_privileges": "1",
        "root": ["OSError", "Read-only file system"],
        "checkout": ["OSError", "Read-only file system"],
        "input": ["OSError", "Read-only file system"],
        "output": None,
        "temporary": None,
        "interfaces": ["lo"],
        "connects": ["OSError", "Network is unreachable"],
        "variables": ["PACK_SCENARIO_IDS"],
    }
    assert by.user != 0
    assert (output / "new").stat().st_uid == by.user


def test_ctrl_c_ends_the_run_inside_with_a_verdict_and_leaves_no_container(tmp_path: Path) -> None:
    given = arguments(tmp_path / "run", "-k", "mistral and (noop_control or nan_injection or missing)")
    process = start_pytest(*given, env=SMALL)
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while lines[-1] and not lines[-1].startswith("passed"):
        lines.append(process.stdout.readline())

    process.send_signal(signal.SIGINT)

    rest, _ = process.communicate(timeout=120)
    output = "".join(lines) + rest
    assert process.returncode == 2, output
    assert "the run was interrupted" in output
    assert json.loads((tmp_path / "run/reports/final_verdict.json").read_text())["verdict"] == "FAIL"
    listed = ["podman", "ps", "--all", "--format", "{{.Names}}"]
    deadline = time.monotonic() + 10
    while (left := subprocess.run(listed, capture_output=True, text=True, check=True).stdout) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.2)
    assert left == ""
