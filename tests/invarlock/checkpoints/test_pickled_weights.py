"""Pickled weights with bytes changed: they are read as tensors, or refused on one line."""

import contextlib
import io
import random
from pathlib import Path

import pytest
import torch

from invarlock.checkpoints.pickled_weights import PICKLED_FILE, convert_weights
from invarlock.errors import CheckpointError


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "before-1.6"])
def test_broken_pickles_are_read_or_refused(archive: bool, tmp_path: Path) -> None:
    stream = io.BytesIO()
    tensors = {"a.weight": torch.randn(4, 4), "b": torch.zeros(3)}
    torch.save(tensors, stream, _use_new_zipfile_serialization=archive)
    rng, path, refused = random.Random(1), tmp_path / PICKLED_FILE, 0
    for number in range(200):
        data = bytearray(stream.getvalue())
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        target = tmp_path / str(number)

        with contextlib.suppress(CheckpointError):
            convert_weights({PICKLED_FILE: path}, {}, target)

        refused += not target.exists()

    assert 100 < refused < 200
    assert not [left for left in tmp_path.iterdir() if "staging" in left.name]
