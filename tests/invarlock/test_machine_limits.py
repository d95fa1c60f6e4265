"""The cores and the memory of this process are the machine's, within the limits of its control groups."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from shipped_checkpoints import write_baseline
from small_evaluations import evaluate_small

from invarlock.errors import UsageError
from invarlock.evaluation import threads
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.models import Placement
from invarlock.evaluation.text import SourceText
from invarlock.evaluation.threads import limit_threads
from invarlock.evaluation.tuning import TunedModel, tune
from invarlock.machine_limits import available_memory_bytes, usable_cores

GB = 10**9
MEMINFO = "MemTotal:       64000000 kB\nMemAvailable:   50000000 kB\nHugePages_Total:       0\n"
FREE = 50_000_000 * 1024
UNLIMITED_V1 = "9223372036854771712"


@pytest.fixture(autouse=True)
def sixty_four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


def machine(
    folder: Path, files: Mapping[str, str], own: str, *, root: str = "/", version: int = 2, meminfo: str = MEMINFO
) -> Path:
    """Write what the kernel shows of a machine, and return its folder ``proc``.

    ``files`` are those of the control groups, and ``own`` is the path of this process's group in ``self/cgroup``.
    """
    groups = folder / "groups"
    for name, text in files.items():
        path = groups / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    groups.mkdir(exist_ok=True)
    process = folder / "proc" / "self"
    process.mkdir(parents=True)
    (process.parent / "meminfo").write_text(meminfo)
    kinds = ["cgroup2 cgroup2 rw"] if version == 2 else ["cgroup cgroup rw,cpu,cpuacct", "cgroup cgroup rw,memory"]
    rows = [f"{number} 30 0:28 {root} {groups} rw,relatime - {kind}" for number, kind in enumerate(kinds)]
    mounts = ["23 28 0:22 / /proc rw,relatime shared:13 - proc proc rw", *rows]
    (process / "mountinfo").write_text("".join(f"{row}\n" for row in mounts))
    (process / "cgroup").write_text(
        f"0::{own}\n" if version == 2 else f"4:memory:{own}\n2:cpu,cpuacct:{own}\n1:pids:/\n"
    )
    return process.parent


@pytest.mark.parametrize(
    ("version", "files", "cores"),
    [
        (2, {"pod/cpu.max": "400000 100000"}, 4),
        (2, {"pod/cpu.max": "250000 100000"}, 2),
        (2, {"pod/cpu.max": "50000 100000"}, 1),
        (2, {"pod/cpu.max": "max 100000"}, 64),
        (2, {"pod/cpu.max": "99900000 100000"}, 64),
        # a group around it has the limit
        (2, {"pod/cpu.max": "max 100000", "cpu.max": "800000 100000"}, 8),
        (2, {"pod/cpu.max": "200000 100000", "cpu.max": "800000 100000"}, 2),
        (2, {"pod/cpu.max": "not a number"}, 64),
        (2, {}, 64),
        (1, {"pod/cpu.cfs_quota_us": "300000", "pod/cpu.cfs_period_us": "100000"}, 3),
        (1, {"pod/cpu.cfs_quota_us": "-1", "pod/cpu.cfs_period_us": "100000"}, 64),
    ],
)
def test_cores_are_those_of_the_processor_time(
    tmp_path: Path, version: int, files: Mapping[str, str], cores: int
) -> None:
    assert usable_cores(machine(tmp_path, files, "/pod", version=version)) == cores


@pytest.mark.parametrize(
    ("version", "files", "free"),
    [
        (2, {"pod/memory.max": f"{8 * GB}", "pod/memory.current": f"{GB}"}, 7 * GB),
        # files in memory make room
        (
            2,
            {
                "pod/memory.max": f"{8 * GB}",
                "pod/memory.current": f"{7 * GB}",
                "pod/memory.stat": f"anon {GB}\nactive_file {2 * GB}\ninactive_file {4 * GB}",
            },
            7 * GB,
        ),
        (2, {"pod/memory.max": "max", "pod/memory.current": f"{GB}"}, FREE),
        (2, {"pod/memory.max": "max", "memory.max": f"{4 * GB}", "memory.current": f"{3 * GB}"}, GB),
        (2, {"pod/memory.max": f"{4 * GB}", "pod/memory.current": f"{5 * GB}"}, 0),
        (2, {"pod/memory.max": "max", "pod/memory.high": f"{3 * GB}", "pod/memory.current": f"{GB}"}, 2 * GB),
        (2, {"pod/memory.max": f"{500 * GB}", "pod/memory.current": f"{GB}"}, FREE),
        (2, {}, FREE),
        (
            1,
            {
                "pod/memory.limit_in_bytes": f"{8 * GB}",
                "pod/memory.usage_in_bytes": f"{6 * GB}",
                "pod/memory.stat": f"active_file 1\ninactive_file 1\ntotal_active_file {GB}\ntotal_inactive_file {GB}",
            },
            4 * GB,
        ),
        (1, {"pod/memory.limit_in_bytes": UNLIMITED_V1, "pod/memory.usage_in_bytes": f"{6 * GB}"}, FREE),
    ],
)
def test_memory_is_what_the_limit_leaves(tmp_path: Path, version: int, files: Mapping[str, str], free: int) -> None:
    assert available_memory_bytes(machine(tmp_path, files, "/pod", version=version)) == free


def test_a_container_may_see_the_path_that_its_group_has_outside(tmp_path: Path) -> None:
    files = {"cpu.max": "300000 100000", "memory.max": f"{2 * GB}", "memory.current": "0"}

    proc = machine(tmp_path, files, "/kubepods/pod1/box", root="/kubepods/pod1/box")

    assert (usable_cores(proc), available_memory_bytes(proc)) == (3, 2 * GB)


def test_a_group_below_the_mounted_one_has_its_own_limit(tmp_path: Path) -> None:
    files = {"box/cpu.max": "200000 100000", "cpu.max": "900000 100000"}

    proc = machine(tmp_path, files, "/kubepods/pod1/box", root="/kubepods/pod1")

    assert usable_cores(proc) == 2


def test_a_path_that_is_not_mounted_is_looked_up_at_the_mount(tmp_path: Path) -> None:
    proc = machine(tmp_path, {"cpu.max": "300000 100000"}, "/docker/box", root="/elsewhere")

    assert usable_cores(proc) == 3


def test_another_group_that_is_mounted_somewhere_is_not_ours(tmp_path: Path) -> None:
    proc = machine(tmp_path, {"pod/cpu.max": "500000 100000"}, "/pod")
    other = tmp_path / "bound"
    other.mkdir()
    (other / "cpu.max").write_text("100000 100000\n")
    with (proc / "self" / "mountinfo").open("a") as stream:
        stream.write(f"77 30 0:28 /other {other} rw,relatime - cgroup2 cgroup2 rw\n")

    assert usable_cores(proc) == 5


def test_other_lines_and_names_of_any_bytes_do_not_matter(tmp_path: Path) -> None:
    proc = machine(tmp_path, {"pod/cpu.max": "500000 100000"}, "/pod")
    mounts, own = proc / "self" / "mountinfo", proc / "self" / "cgroup"
    odd = b"40 28 0:45 / /media/M\xfcller rw - tmpfs tmpfs rw\n\n41 28 - cgroup2\n42 28 0:1 / /x rw -\n"
    mounts.write_bytes(odd + mounts.read_bytes())
    own.write_bytes(b"\n9\n8:name=\xff:/\xff\n" + own.read_bytes())

    assert usable_cores(proc) == 5


def test_a_machine_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)

    assert (usable_cores(tmp_path), available_memory_bytes(tmp_path)) == (64, FREE)


def test_a_kernel_that_does_not_say_how_much_memory_is_free_is_an_error(tmp_path: Path) -> None:
    proc = machine(tmp_path, {}, "/pod", meminfo="MemTotal:       64000000 kB\n")

    with pytest.raises(UsageError, match="GPU_MEMORY_PER_DEVICE"):
        available_memory_bytes(proc)


def test_this_machine_has_cores_and_memory() -> None:
    assert 1 <= usable_cores() <= 64
    assert 10**8 < available_memory_bytes() < 10**14


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("cores", "found"), [(1, 1), (2, 2), (64, 3)])
def test_pytorch_uses_no_more_threads_than_cores(
    three_threads: None, monkeypatch: pytest.MonkeyPatch, cores: int, found: int
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)

    limit_threads()

    assert torch.get_num_threads() == found


def test_a_comparison_uses_no_more_threads_than_cores(
    three_threads: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 1)
    write_baseline("mistral-tiny", tmp_path / "base")

    code, _, output = evaluate_small(tmp_path / "base", tmp_path / "base", tmp_path / "out")

    assert code == 0, output
    assert torch.get_num_threads() == 1


def test_tuning_uses_no_more_threads_than_cores(
    three_threads: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 1)
    text, plan = SourceText("local_file", "text", "0" * 64), WindowPlan(64, 0, 8, 0, 8)
    model = TunedModel("m", tmp_path / "m", text, plan, Placement("cpu"), "balanced", "ci")

    def begin(*_: Any) -> Any:
        """Return no judge, since no edit is tuned."""

    assert list(tune(model, {}, margin=0.0, draws=1, begin=begin)) == []

    assert torch.get_num_threads() == 1
