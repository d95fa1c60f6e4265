"""``invarlock demo`` writes two checkpoints and a text, and prints the command that compares them."""

from pathlib import Path

import pytest

from invarlock.checkpoints.storage_format import open_checkpoint
from invarlock.cli import main, program
from invarlock.errors import InvarLockError
from invarlock.problems import Code


@pytest.mark.parametrize("options", [(), ("--fault",)])
def test_the_checkpoints_are_a_dense_one_and_a_packed_one(
    tmp_path: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    demo = tmp_path / "demo"

    assert main(["demo", str(demo), *options]) == 0

    base, subject = (open_checkpoint(demo / name) for name in ("base", "w4a16"))
    assert base.storage().quantisation is None
    packed = subject.storage().quantisation
    assert packed is not None
    assert packed.method.startswith("compressed-tensors")
    assert len((demo / "heldout.txt").read_text("utf-8").split()) > 10_000
    lines = capsys.readouterr().out.splitlines()
    assert ("broken" in lines[1]) == bool(options)
    assert f"--subject {demo / 'w4a16'} --text {demo / 'heldout.txt'}" in lines[-1]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(InvarLockError) as refused:
        program.run(["demo", str(tmp_path)])

    assert refused.value.code is Code.OUTPUT_EXISTS
