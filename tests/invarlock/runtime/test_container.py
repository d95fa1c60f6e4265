"""The arguments of a container engine, and the state of files when a container starts and when it ends."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stand_in_engine import IMAGE, lay_down

from invarlock.errors import UsageError
from invarlock.reports.sidecars import RuntimeImage
from invarlock.runtime.container import IMAGE_USER, Caller, Job, Mount, engine_arguments, joined
from invarlock.runtime.engines import Engine, find_engine, find_image
from invarlock.runtime.supervision import run_to_the_end
from invarlock.runtime.writable_paths import WritablePaths, grant_write_access, readable_by, writable_by

ROOT = Path(__file__).parents[3]
RUNTIME = RuntimeImage("invarlock-runtime:local", f"sha256:{IMAGE}")
ROOT_USER = Caller(10001, 10001, is_root=True, open_files=1024, processes=2048)
JANE = Caller(1000, 100, is_root=False, open_files=65536, processes=32768)
PODMAN, DOCKER = Engine("podman", "/usr/bin/podman"), Engine("docker", "/usr/bin/docker")


def test_podman_run_by_root_without_gpus_and_network() -> None:
    mounts = (Mount(Path("/repo")), Mount(Path("/repo/runs"), writable=True), Mount(Path("/key"), source=Path("/t/k")))
    job = Job(("pytest", "suites", "-k", "a b"), Path("/repo"), mounts, ("PACK_NET", "CI"), {"HOME": "/tmp"})

    arguments = engine_arguments(PODMAN, RUNTIME, "invarlock-1", job, ROOT_USER)

    assert arguments == [
        "/usr/bin/podman",
        "run",
        "--rm",
        "--init",
        "--name=invarlock-1",
        "--pull=never",
        "--read-only",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--user=10001:10001",
        "--security-opt=label=disable",
        "--network=none",
        "--ulimit=nofile=1024:1024",
        "--ulimit=nproc=2048:2048",
        "--ulimit=core=0:0",
        "--workdir=/repo",
        "--tmpfs=/tmp:rw,nosuid,nodev,mode=1777",
        "--mount=type=bind,source=/t/k,target=/key,readonly",
        "--mount=type=bind,source=/repo,target=/repo,readonly",
        "--mount=type=bind,source=/repo/runs,target=/repo/runs",
        "--env=CI",
        "--env=PACK_NET",
        "--env=HOME=/tmp",
        IMAGE,
        "pytest",
        "suites",
        "-k",
        "a b",
    ]


def test_docker_run_by_a_user_with_gpus_network_and_a_folder_for_temporary_files() -> None:
    job = Job(("pytest",), Path("/tmp/repo"), (Mount(Path("/tmp"), writable=True),), gpus=True, network=True)

    arguments = engine_arguments(DOCKER, RUNTIME, "invarlock-2", job, JANE)

    assert arguments == [
        "/usr/bin/docker",
        "run",
        "--rm",
        "--init",
        "--name=invarlock-2",
        "--pull=never",
        "--read-only",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--user=1000:100",
        "--gpus=all",
        "--ulimit=nofile=65536:65536",
        "--ulimit=nproc=32768:32768",
        "--ulimit=core=0:0",
        "--workdir=/tmp/repo",
        "--mount=type=bind,source=/tmp,target=/tmp",
        IMAGE,
        "pytest",
    ]


def test_rootless_podman_keeps_the_user_and_takes_gpus_by_cdi() -> None:
    arguments = engine_arguments(PODMAN, RUNTIME, "one", Job(("pytest",), Path("/here"), (), gpus=True), JANE)

    assert [one for one in arguments if "user" in one or "gpu" in one] == [
        "--user=1000:100",
        "--userns=keep-id",
        "--device=nvidia.com/gpu=all",
    ]
    # nothing is mounted there, and relative paths start there
    assert "--tmpfs=/here:rw,nosuid,nodev,mode=755" in arguments


def test_a_mount_is_left_out_where_another_shows_the_same_and_kept_where_it_differs() -> None:
    given = [
        Mount(Path("/repo/suites")),
        Mount(Path("/repo")),
        Mount(Path("/repo/runs")),
        Mount(Path("/repo/runs"), writable=True),
        Mount(Path("/repo/runs/one"), writable=True),
        Mount(Path("/repo/runs/presets")),
        Mount(Path("/repository")),
    ]

    assert joined(given) == [
        Mount(Path("/repo")),
        Mount(Path("/repo/runs"), writable=True),
        Mount(Path("/repo/runs/presets")),
        Mount(Path("/repository")),
    ]


def test_the_user_of_the_image_is_the_one_that_root_is_inside() -> None:
    users = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)

    assert users == [(str(IMAGE_USER), str(IMAGE_USER))]


def test_podman_comes_before_docker_unless_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lay_down(tmp_path, "docker")
    only = find_engine(None, "image")
    lay_down(tmp_path, "podman")

    assert only == Engine("docker", str(tmp_path / "docker"))
    assert find_engine(None, "image") == Engine("podman", str(tmp_path / "podman"))
    assert find_engine("docker", "image") == only


def test_a_missing_engine_is_reported_with_the_one_that_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lay_down(tmp_path, "docker")

    with pytest.raises(UsageError) as missing:
        find_engine("podman", "invarlock-runtime:local")

    assert "install podman, or choose another with INVARLOCK_CONTAINER_ENGINE=docker, and" in str(missing.value)


def test_a_missing_engine_or_image_is_reported_with_what_to_install_or_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(UsageError) as no_engine:
        find_engine(None, "invarlock-runtime:local")
    lay_down(tmp_path, "podman")
    engine = find_engine("podman", "other:1")
    with pytest.raises(UsageError) as no_image:
        find_image(engine, "other:1")

    assert find_image(engine, "invarlock-runtime:local") == RUNTIME
    assert str(no_engine.value) == (
        "no container engine: install podman or docker, and build the runtime image in a checkout: podman build -t "
        "invarlock-runtime:local ., or run on the host: INVARLOCK_ALLOW_HOST_EXECUTION=1"
    )
    assert str(no_image.value) == (
        "podman has no image other:1; build it in a checkout: podman build -t other:1 ., or run on the host: "
        "INVARLOCK_ALLOW_HOST_EXECUTION=1"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_gives_a_run_to_the_containers_user_and_shared_files_to_nobody(tmp_path: Path) -> None:
    run, cache, new_cache = tmp_path / "runs" / "one", tmp_path / "cache", tmp_path / "new_cache"
    (run / "models").mkdir(parents=True)
    cache.mkdir()
    (cache / "blob").write_text("weights")
    (run / "models" / "weights").hardlink_to(cache / "blob")
    (run / "models" / "link").symlink_to(cache / "blob")
    (run / "report").write_text("{}")
    junit, empty = tmp_path / "junit.xml", tmp_path / "a" / "b"

    with grant_write_access(WritablePaths((run, empty), (junit,), (cache, new_cache)), ROOT_USER):
        owners = {path.name: path.lstat().st_uid for path in (run, run / "models", run / "report", junit, new_cache)}
        kept = {path.name: path.stat().st_uid for path in (cache, cache / "blob")}
        junit.write_text("<xml/>")

    assert set(owners.values()) == {10001}, owners
    assert set(kept.values()) == {0}, kept
    assert junit.exists()
    assert not (tmp_path / "a").exists()


def test_what_the_containers_user_may_do_follows_from_the_files_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "key").touch(mode=0o600)
    others = Caller(os.geteuid() + 1, 1, is_root=True, open_files=1, processes=1)

    closed = (writable_by(tmp_path, others), readable_by(tmp_path / "key", others))
    tmp_path.chmod(0o777 | stat.S_ISVTX)
    (tmp_path / "key").chmod(0o644)

    assert closed == (False, False)
    assert (writable_by(tmp_path, others), readable_by(tmp_path / "key", others)) == (True, True)


WAITS = """
    import signal, time
    got = []
    def note(*_):
        got.append(1)
        Path({ready!r} + str(len(got))).touch()
    signal.signal(signal.SIGINT, note)
    Path({ready!r}).touch()
    deadline = time.monotonic() + 20
    while len(got) < {ends_after} and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    sys.exit(40 + len(got))
"""
STARTER = """
import sys
from invarlock.runtime.engines import Engine
from invarlock.runtime.supervision import run_to_the_end
program = sys.argv[1]
sys.exit(run_to_the_end(Engine("podman", program), "one", [program, "run", "one"]))
"""


def started(folder: Path, ends_after: int) -> tuple[subprocess.Popen[bytes], Path]:
    run = WAITS.format(ready=str(folder / "ready"), ends_after=ends_after).strip()
    log = lay_down(folder, "podman", run=run)
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(folder / "podman")])
    wait_for(folder / "ready")
    return starter, log


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def calls(log: Path) -> list[list[str]]:
    return [json.loads(line)["arguments"] for line in log.read_text().splitlines()]


def test_ctrl_c_reaches_the_engine_once_and_no_container_of_that_name_is_left(tmp_path: Path) -> None:
    starter, log = started(tmp_path, ends_after=1)

    starter.send_signal(signal.SIGINT)

    assert starter.wait(20) == 41
    assert calls(log) == [["run", "one"], ["rm", "--force", "one"]]


def test_a_third_signal_ends_the_container_at_once(tmp_path: Path) -> None:
    starter, log = started(tmp_path, ends_after=2)

    for number in (1, 2):
        starter.send_signal(signal.SIGINT)
        # signals that wait together become one
        wait_for(tmp_path / f"ready{number}")
    starter.send_signal(signal.SIGINT)

    assert starter.wait(20) == 42
    assert calls(log) == [["run", "one"], ["kill", "one"], ["rm", "--force", "one"]]


def test_an_engine_that_no_longer_answers_does_not_hide_how_the_run_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "podman"
    program.write_text('#!/bin/sh\n[ "$1" = rm ] && exec sleep 30\nexit 7\n')
    program.chmod(0o755)
    monkeypatch.setattr("invarlock.runtime.supervision.ANSWER_SECONDS", 0.2)

    code = run_to_the_end(Engine("podman", str(program)), "one", [str(program), "run", "one"])

    assert code == 7
    assert f"run: {program} rm --force one" in capsys.readouterr().err
