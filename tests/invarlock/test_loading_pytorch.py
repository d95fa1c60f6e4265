"""PyTorch is imported without the garbage collector, which is on again afterwards and ignores what was made."""

from __future__ import annotations

import pytest
from processes import python, succeed

from invarlock.stages import StageEvent, listening

LOADING = """
import gc
from invarlock.loading_pytorch import loading_pytorch

def state():
    return gc.isenabled(), gc.get_freeze_count() > 0

{before}
with loading_pytorch():
    print(gc.isenabled())
    import torch
print(*state())
"""


def loaded(before: str = "") -> list[str]:
    return succeed(python("-c", LOADING.format(before=before))).stdout.split()


def test_the_collector_rests_during_the_import_and_ignores_what_it_made() -> None:
    assert loaded() == ["False", "True", "True"]


@pytest.mark.parametrize(
    ("before", "left"),
    [("import torch", ["True", "True", "False"]), ("gc.disable()", ["False", "False", "False"])],
    ids=["PyTorch is there", "the caller's collector is off"],
)
def test_the_collector_is_left_as_it_is_if(before: str, left: list[str]) -> None:
    assert loaded(before) == left


def test_the_collector_runs_again_after_an_import_that_fails() -> None:
    failing = """
try:
    with loading_pytorch():
        raise ImportError
except ImportError:
    print(*state())
raise SystemExit
"""
    assert loaded(before=failing) == ["True", "False"]


def test_the_import_is_a_stage() -> None:
    from invarlock.loading_pytorch import loading_pytorch

    seen: list[StageEvent] = []
    with listening(seen.append), loading_pytorch():
        pass
    assert [str(event) for event in seen] == ["loading PyTorch"]
