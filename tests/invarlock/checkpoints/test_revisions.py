"""Models and data sets from a hub: the real client against a local server that behaves, and that does not."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import TOKEN, Answer, Hub, Repository, with_other_file
from huggingface_hub import constants

from invarlock.catalog.pins import Pin, Pins, read_pins
from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.checkpoints.hub import RetryPolicy, list_repository
from invarlock.checkpoints.revisions import (
    RequiredFiles,
    dataset_files,
    fetch,
    find_dataset,
    find_model,
    model_folder,
    resolve_model,
)
from invarlock.errors import HubError
from invarlock.jsonio import write_json

EMBEDDED = Path(__file__).parents[3] / "suites" / "embedded"
MODEL = "org/mistral-tiny"
QUICK = RetryPolicy(attempts=3, first_wait_seconds=0.001)


@pytest.fixture
def repository(hub: Hub) -> Repository:
    made = Repository.of_folder(MODEL, EMBEDDED / "mistral-tiny", EMBEDDED / "tokenizer")
    extra = {"README.md": b"# A model\n", "pytorch_model.bin": b"\x80\x04.", "modeling_own.py": b"raise SystemExit\n"}
    return hub.add(replace(made, files={**made.files, **extra}))


def obtain(revision: str | None = None, shown: list[str] | None = None) -> Pin:
    return fetch(resolve_model(MODEL, revision, QUICK), (shown if shown is not None else []).append, QUICK)


def test_a_model_is_resolved_to_its_commit_and_fetched(hub: Hub, repository: Repository) -> None:
    shown: list[str] = []

    pin = obtain(shown=shown)

    assert pin.revision == repository.commit
    assert pin.licence == "apache-2.0"
    assert pin.resolved_at is not None
    wanted = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert [file.name for file in pin.files] == wanted
    assert {file.name: file.sha256 for file in pin.files} == {
        name: hashlib.sha256(repository.files[name]).hexdigest() for name in wanted
    }
    assert sorted(path.name for path in model_folder(pin).iterdir()) == wanted
    assert digest_checkpoint(model_folder(pin)) == pin.digest
    assert len(shown) == len(wanted)
    assert shown[-1].endswith("(0.002 of 0.002 GB)")


def test_a_sharded_model_is_fetched_as_its_index_says(hub: Hub) -> None:
    index = b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    files = {
        "config.json": b"{}",
        "tokenizer.json": b"{}",
        "model.safetensors.index.json": index,
        "model-00001-of-00002.safetensors": b"one",
        "model-00002-of-00002.safetensors": b"two",
        "consolidated.safetensors": b"the same again",
    }
    hub.add(Repository(MODEL, files))

    resolved = resolve_model(MODEL, None, QUICK)

    assert set(resolved.names) == files.keys() - {"consolidated.safetensors"}
    assert resolved.size_bytes == sum(len(files[name]) for name in resolved.names)
    assert resolved.missing_bytes == resolved.size_bytes - len(index)


def test_the_pinned_revision_is_fetched_although_the_repository_has_newer_commits(
    hub: Hub, repository: Repository
) -> None:
    pin = obtain(repository.commit)

    assert pin.revision == repository.commit
    assert f"GET /api/models/{MODEL}/revision/{repository.commit}" in hub.requests


def test_no_token_is_sent_to_the_storage(hub: Hub, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(replace(repository, private=True))
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    pin = obtain()

    assert pin.revision == repository.commit
    assert hub.tokens_at_storage == []


def refusal(revision: str | None = None) -> str:
    with pytest.raises(HubError) as caught:
        obtain(revision)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_gated_repository_is_refused_with_its_remedy(hub: Hub, repository: Repository) -> None:
    hub.add(replace(repository, gated=True))

    assert refusal() == (
        f"{MODEL}: gated; accept its terms at the hub and set HF_TOKEN, or use a folder on disk (MODEL_1=FOLDER)"
    )


@pytest.mark.parametrize("private", [True, False])
def test_a_private_and_a_missing_repository_look_alike(hub: Hub, repository: Repository, private: bool) -> None:
    if private:
        hub.add(replace(repository, private=True))
    else:
        hub.repositories.clear()

    assert refusal() == (
        f"{MODEL}: no such repository, or a private one; correct the id, or set HF_TOKEN to one that may read it"
    )


def test_a_renamed_repository_is_named(hub: Hub, repository: Repository) -> None:
    hub.add(replace(repository, id="org/mistral-mini"))
    hub.renamed[MODEL] = "org/mistral-mini"

    assert refusal() == f"{MODEL}: the hub calls it 'org/mistral-mini' now; use that name"


def test_a_missing_revision_is_named(hub: Hub, repository: Repository) -> None:
    assert refusal("0" * 40) == f"{MODEL} at {'0' * 40}: no such revision; correct the pin"


def test_weights_that_run_code_are_never_fetched(hub: Hub, repository: Repository) -> None:
    files = {name: data for name, data in repository.files.items() if name != "model.safetensors"}
    commit = hub.add(replace(repository, files=files)).commit

    assert refusal() == (
        f"{MODEL} at {commit}: weights as pytorch_model.bin only, which can run code when they are read; allow them to "
        "be read as tensors alone (INVARLOCK_ALLOW_PICKLED_WEIGHTS=1), or convert them to safetensors, and use the "
        "folder (MODEL_1=FOLDER)"
    )
    assert not any("pytorch_model.bin" in request for request in hub.requests)


def test_weights_that_run_code_are_not_fetched_along_with_others(hub: Hub, repository: Repository) -> None:
    fetch(resolve_model(MODEL, None, QUICK, pickles=True), lambda _: None, QUICK)

    assert not any("pytorch_model.bin" in request for request in hub.requests)


@pytest.mark.parametrize(
    ("name", "said"),
    [("config.json", "no config.json"), ("tokenizer.json", "no tokenizer files")],
)
def test_an_incomplete_repository_is_refused(hub: Hub, repository: Repository, name: str, said: str) -> None:
    gone = {name, "tokenizer_config.json"}
    hub.add(replace(repository, files={key: data for key, data in repository.files.items() if key not in gone}))

    assert said in refusal()


def test_a_failing_hub_is_retried(hub: Hub, repository: Repository) -> None:
    hub.misbehave(MODEL, Answer(503), Answer(502))
    hub.misbehave("model.safetensors", Answer(500))
    hub.misbehave("tokenizer.json", Answer(429))

    pin = obtain()

    assert digest_checkpoint(model_folder(pin)) == pin.digest
    assert hub.requests.count(f"GET /api/models/{MODEL}") == 3


def test_a_hub_that_keeps_failing_is_given_up(hub: Hub, repository: Repository) -> None:
    hub.misbehave("config.json", *[Answer(503)] * 3)

    line = refusal()

    assert line.startswith(f"{MODEL} at {repository.commit}: config.json: cannot be fetched (")
    assert "503" in line
    assert line.endswith("tried 3 times; check the connection, then run again")


def test_a_broken_download_continues_where_it_stopped(hub: Hub, repository: Repository) -> None:
    hub.misbehave("model.safetensors", Answer(drop_after=1_000_000))

    pin = obtain()

    assert digest_checkpoint(model_folder(pin)) == pin.digest


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_truncated_file_is_never_used(hub: Hub, repository: Repository, name: str) -> None:
    data = repository.files[name]
    hub.misbehave(name, *[Answer(data=data[:1000])] * 3)

    line = refusal()

    assert line.startswith(f"{MODEL} at {repository.commit}: {name}: cannot be fetched (")
    assert str(len(data)) in line
    assert not list((Path(constants.HF_HUB_CACHE)).rglob(name))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_of_another_hash_is_never_used(hub: Hub, repository: Repository, name: str) -> None:
    data = bytes([repository.files[name][0] ^ 1]) + repository.files[name][1:]
    hub.misbehave(name, *[Answer(data=data)] * 3)

    line = refusal()

    assert line.startswith(f"{MODEL} at {repository.commit}: {name}: cannot be fetched (its ")
    assert "the hub lists" in line
    cache = Path(constants.HF_HUB_CACHE)
    assert not list(cache.rglob(name))
    assert all(path.read_bytes() != data for path in cache.rglob("blobs/*"))


def test_a_file_of_another_hash_is_fetched_anew(hub: Hub, repository: Repository) -> None:
    data = repository.files["model.safetensors"]
    hub.misbehave("model.safetensors", Answer(data=bytes(len(data))))

    pin = obtain()

    assert digest_checkpoint(model_folder(pin)) == pin.digest


def test_a_cached_file_that_rotted_is_fetched_anew(hub: Hub, repository: Repository) -> None:
    path = model_folder(obtain()) / "model.safetensors"
    path.resolve().write_bytes(bytes(len(repository.files["model.safetensors"])))

    pin = obtain()

    assert (model_folder(pin) / "model.safetensors").read_bytes() == repository.files["model.safetensors"]


def test_a_slow_hub_is_waited_for_and_an_unresponsive_one_is_given_up(
    hub: Hub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.misbehave("config.json", Answer(wait_seconds=0.1))
    assert obtain().revision == repository.commit

    monkeypatch.setattr("invarlock.checkpoints.hub.LISTING_TIMEOUT_SECONDS", 0.05)
    hub.misbehave(MODEL, *[Answer(wait_seconds=0.2)] * 3)
    assert "cannot be fetched (" in refusal()


def test_offline_mode_and_a_network_exclude_each_other(
    hub: Hub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert refusal() == f"{MODEL}: HF_HUB_OFFLINE is set; unset it, or leave --net 1 out"
    assert hub.requests == []


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def pin(hub: Hub, repository: Repository) -> Pin:
    return obtain()


def test_a_cached_model_is_found_without_a_connection(pin: Pin, no_network: None) -> None:
    bare = Pin(pin.id, pin.revision, pin.licence)

    assert find_model(bare) == replace(pin, resolved_at=None)
    assert find_model(pin) == pin


def test_a_model_that_is_not_cached_is_named(pin: Pin, no_network: None) -> None:
    other = Pin(pin.id, "1" * 40)

    with pytest.raises(HubError, match=f"^{MODEL} at {'1' * 40}: not in the cache at .*; fetch it: --net 1$"):
        find_model(other)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_an_incomplete_cache_is_named(pin: Pin, no_network: None, name: str) -> None:
    (model_folder(pin) / name).unlink()

    with pytest.raises(HubError, match=rf"{name}.* is not in the cache at .*; fetch it: --net 1$"):
        find_model(pin)


def test_a_cache_without_weights_is_incomplete(pin: Pin, no_network: None) -> None:
    (model_folder(pin) / "model.safetensors").unlink()

    with pytest.raises(
        HubError, match=r"incomplete in the cache \(.*neither model.safetensors.*\); fetch it: --net 1$"
    ):
        find_model(Pin(pin.id, pin.revision))


def test_a_cached_file_that_is_not_the_one_pinned_is_refused(pin: Pin, no_network: None) -> None:
    files = tuple(replace(file, sha256="0" * 64) if file.name == "config.json" else file for file in pin.files)

    with pytest.raises(HubError, match=r"config\.json differs from the pinned file"):
        find_model(replace(pin, files=files))


def test_a_data_set_is_pinned_like_a_model(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    made = hub.add(Repository("org/text", {"raw/test.parquet": b"rows", "other.txt": b""}, kind="dataset"))
    names = ["raw/test.parquet"]

    pin = fetch(
        RequiredFiles(list_repository("org/text", "dataset", None, QUICK), tuple(names)), lambda line: None, QUICK
    )

    assert pin.revision == made.commit
    assert [(file.name, file.sha256) for file in pin.files] == [(names[0], hashlib.sha256(b"rows").hexdigest())]
    assert find_dataset(pin, names) == pin
    assert [path.read_bytes() for path in dataset_files(pin, names)] == [b"rows"]
    dataset_files(pin, names)[0].resolve().write_bytes(b"rots")
    with pytest.raises(HubError, match="differs from the pinned file"):
        dataset_files(pin, names)


def test_pins_are_read_as_they_were_written(pin: Pin, tmp_path: Path) -> None:
    dataset = Pin("org/text", "2" * 40)
    pins = Pins({pin.id: pin}, {dataset.id: dataset})

    write_json(tmp_path / "model_revisions.json", pins.document())

    assert read_pins(tmp_path / "model_revisions.json") == pins


def test_another_commit_has_another_digest(hub: Hub, repository: Repository) -> None:
    first = obtain()
    hub.add(with_other_file(repository, "tokenizer_config.json", b"{}\n"))

    second = obtain()

    assert first.revision != second.revision
    assert first.digest != second.digest
