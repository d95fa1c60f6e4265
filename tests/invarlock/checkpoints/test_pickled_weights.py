"""Weights that a repository has as pickles only: converted where they are tensors, refused where they are more."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_server import Hub, Repository
from huggingface_hub import constants, scan_cache_dir
from safetensors.torch import load_file

from invarlock.catalog.pins import Pin, Pins, parse_pins
from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.checkpoints.hub import RetryPolicy
from invarlock.checkpoints.pickled_weights import PICKLED_FILE, convert_weights
from invarlock.checkpoints.revisions import fetch, find_model, model_folder, resolve_model
from invarlock.errors import CheckpointError, HubError

EMBEDDED = Path(__file__).parents[3] / "suites" / "embedded"
MODEL = "org/mistral-tiny"
QUICK = RetryPolicy(attempts=3, first_wait_seconds=0.001)


def pickled(value: object, **more: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **more)
    return stream.getvalue()


def add_repository(hub: Hub, pickles: Mapping[str, bytes]) -> Repository:
    """Put a model on the hub that has these weights and no others."""
    made = Repository.of_folder(MODEL, EMBEDDED / "mistral-tiny", EMBEDDED / "tokenizer")
    others = {name: data for name, data in made.files.items() if not name.endswith(".safetensors")}
    return hub.add(replace(made, files={**others, **pickles}))


def obtain() -> Pin:
    return fetch(resolve_model(MODEL, None, QUICK, pickles=True), lambda _: None, QUICK)


def check_converted(hub: Hub, pin: Pin, weights: Mapping[str, torch.Tensor], pickles: Mapping[str, bytes]) -> None:
    folder = model_folder(pin)
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    assert {file.name: file.sha256 for file in pin.converted_from} == {
        name: hashlib.sha256(data).hexdigest() for name, data in pickles.items()
    }
    assert digest_checkpoint(folder) == pin.digest
    assert parse_pins(Pins({MODEL: pin}).document(), where="memory").models == {MODEL: pin}
    requests = len(hub.requests)
    assert find_model(pin) == pin
    assert model_folder(Pin(MODEL, pin.revision)) == folder
    assert {file.name for file in find_model(Pin(MODEL, pin.revision)).files} == {file.name for file in pin.files}
    assert len(hub.requests) == requests
    assert not scan_cache_dir(constants.HF_HUB_CACHE).warnings
    again = resolve_model(MODEL, None, QUICK, pickles=True)
    assert (again.missing_bytes, again.weight_bytes) == (
        0,
        sum(len(data) for name, data in pickles.items() if name.endswith(".bin")),
    )


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "before-1.6"])
def test_pickled_weights_that_are_allowed_are_converted(hub: Hub, archive: bool) -> None:
    weights = load_file(EMBEDDED / "mistral-tiny" / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    pickles = {"pytorch_model.bin": pickled(weights, _use_new_zipfile_serialization=archive)}
    add_repository(hub, pickles)

    pin = obtain()

    assert [file.name for file in pin.files] == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    check_converted(hub, pin, weights, pickles)


def test_pickled_shards_become_shards(hub: Hub) -> None:
    weights = load_file(EMBEDDED / "mistral-tiny" / "model.safetensors")
    names = sorted(weights)
    shards = {
        "pytorch_model-00001-of-00002.bin": names[: len(names) // 2],
        "pytorch_model-00002-of-00002.bin": names[len(names) // 2 :],
    }
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    pickles = {shard: pickled({name: weights[name] for name in held}) for shard, held in shards.items()}
    pickles["pytorch_model.bin.index.json"] = json.dumps(index).encode()
    add_repository(hub, pickles)

    pin = obtain()

    assert {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    } < {file.name for file in pin.files}
    check_converted(hub, pin, weights, pickles)


class Touch:
    """What runs code when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: pickle.dumps({"weight": Touch(path)}, protocol=2), "(Unsupported global: GLOBAL getattr"),
        (lambda path: pickled({"weight": Touch(path)}), "(Unsupported global: GLOBAL getattr"),
        (lambda path: b"no pickle at all", "cannot be read as tensors alone (Unsupported operand 110)"),
        (lambda path: b"", "cannot be read as tensors alone (it ends too early)"),
        (lambda path: pickled([torch.zeros(2)]), "holds a list, not tensors by name"),
        (lambda path: pickled({"state_dict": {"weight": torch.zeros(2)}}), "'state_dict' is not a dense tensor"),
    ],
    ids=["code", "code-in-archive", "garbage", "empty", "list", "nested"],
)
def test_a_pickle_of_more_than_tensors_is_refused_and_runs_nothing(
    hub: Hub, tmp_path: Path, make: Callable[[Path], bytes], said: str
) -> None:
    ran = tmp_path / "ran"
    data = make(ran)
    commit = add_repository(hub, {"pytorch_model.bin": data}).commit

    with pytest.raises(HubError) as caught:
        obtain()

    line = str(caught.value)
    assert line.startswith(f"{MODEL} at {commit}: pytorch_model.bin: ")
    assert said in line
    assert line.endswith("convert it to safetensors where you trust it, and use the folder (MODEL_1=FOLDER)")
    assert "\n" not in line
    assert not ran.exists()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


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
