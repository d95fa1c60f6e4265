"""A killed builder or signer leaves a complete result, or only files that the next one removes."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.build.building import build_pack
from invarlock.packer.build.signing import sign_pack
from packs import TIME, content, pack_files, strict

pytestmark = pytest.mark.slow

KILLS = 100
SEED = 3


def run_in_child(work: Callable[[], object], kill_after: float | None) -> float:
    """Run a function in a child process, kill it after some seconds, and return the seconds that it lived."""
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return time.monotonic() - start


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_killed_build_leaves_a_whole_pack_or_none(run: Path, real_run: Any, tmp_path: Path) -> None:
    whole = content(run)
    out = tmp_path / "out"
    out.mkdir()
    needed = run_in_child(lambda: build_pack(out / "whole", whole, real_run.key, TIME), None)
    expected = pack_files(out / "whole")
    rng = random.Random(SEED)
    built = staged = 0
    for number in range(KILLS // 2):
        target = out / f"pack{number}"
        run_in_child(partial(build_pack, target, whole, real_run.key, TIME), rng.uniform(0, needed * 1.2))
        staged += bool(hidden(out))
        if target.exists():
            built += 1
            assert pack_files(target) == expected
            shutil.rmtree(target)
        assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == ["whole"]

    build_pack(out / "last", whole, real_run.key, TIME)

    assert hidden(out) == []
    # the kills came at the relevant moments: some before the pack existed, some while it was staged
    assert built < KILLS // 2
    assert staged > 0


def test_a_killed_signer_leaves_a_signed_pack_or_an_unsigned_one(run: Path, real_run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    unsigned = build_pack(out / "pack", content(run), None, TIME).path
    before = pack_files(unsigned)
    signature = unsigned / "manifest.signature.json"
    needed = run_in_child(lambda: sign_pack(unsigned, real_run.key), None)
    signed = pack_files(unsigned)
    rng = random.Random(SEED)
    for _ in range(KILLS // 2):
        signature.unlink(missing_ok=True)
        run_in_child(lambda: sign_pack(unsigned, real_run.key), rng.uniform(0, needed * 1.2))
        assert pack_files(unsigned) in (before, signed)
        assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == ["pack"]

    signature.unlink(missing_ok=True)
    sign_pack(unsigned, real_run.key)

    assert strict(unsigned).code == 0
    assert hidden(out) == []
