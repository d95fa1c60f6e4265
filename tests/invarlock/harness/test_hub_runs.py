"""Runs of hub models, with the real client and a local server: with a network, without one, and refused."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_client import client_environment
from hub_server import Answer, Hub, Repository, serve_hub, with_other_file
from invarlock.packer.format.layout import MODEL_REVISIONS
from processes import packer
from safetensors.torch import load_file

from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.jsonio import write_json
from invarlock.problems import Code
from invarlock.runtime.provenance import MARKER_NAME, source_repository

SUITES = Path(__file__).parents[3] / "suites"
MODEL = "org/made-up"
TWO_CASES = "noop or nan_injection"

# Imported by every Python process that is started. It logs and refuses connections and name look-ups.
NO_SOCKETS = """
import os, socket
def refuse(*arguments, **more):
    with open(os.environ["CONNECTIONS"], "a") as stream:
        stream.write(repr(arguments[-1]) + "\\n")
    raise OSError("sockets are blocked")
for name in ("connect", "connect_ex", "sendto", "bind"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = refuse
"""


def load(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def verify(pack: Path) -> subprocess.CompletedProcess[str]:
    return packer("verify", pack, "--strict")


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serve_hub() as served:
        yield served


@pytest.fixture(scope="module")
def repository(hub: Hub) -> Repository:
    made = Repository.of_folder(MODEL, SUITES / "embedded/mistral-tiny", SUITES / "embedded/tokenizer")
    return hub.add(replace(made, files={**made.files, "pytorch_model.bin": b"\x80\x04.", "README.md": b"# A model\n"}))


def write_suites(folder: Path, *model_ids: str) -> Path:
    """Copy our suites to a folder, and give the suite smoke models of the hub without pinned revisions."""
    shutil.copytree(SUITES, folder, ignore=shutil.ignore_patterns("__pycache__", "*-tiny"))
    rows = [
        f'[[model]]\nid = "{model_id}"\narchitecture = "mistral"\nparameters = 1_049_728\nweight_bytes = 2_099_456\n'
        'licence = "unknown"\nmin_gpu_memory_gb = 0\n'
        for model_id in model_ids
    ]
    text = (SUITES / "models.toml").read_text("utf-8")
    suite = text[text.index('[[suite]]\nname = "smoke"') : text.index('[[suite]]\nname = "laptop"')]
    kept = suite.replace(suite[suite.index("models = [") : suite.index("requires")], f"models = {list(model_ids)!r}\n")
    (folder / "models.toml").write_text("\n".join([*rows, kept.replace("'", '"')]), "utf-8")
    source = source_repository(SUITES)
    assert source is not None
    write_json(folder.parent / MARKER_NAME, source)
    return folder


class Fetched:
    """A run with --net 1 that is made once: its suites folder, its run directory, and the client's cache."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.suites = write_suites(folder / "project" / "suites", MODEL)
        self.cache = folder / "cache"
        self.variables = client_environment(hub, self.cache)


@pytest.fixture(scope="module")
def fetched(hub: Hub, repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    return Fetched(tmp_path_factory.mktemp("fetched"), hub)


def test_a_run_fetches_its_model_through_a_bad_hub_and_then_runs_with_sockets_blocked(
    run_pytest: Callable[..., Any], fetched: Fetched, hub: Hub, repository: Repository, tmp_path: Path
) -> None:
    data = repository.files["model.safetensors"]
    hub.misbehave(MODEL, Answer(status=503))
    hub.misbehave("model.safetensors", Answer(drop_after=1000), Answer(data=bytes(len(data))))
    hub.misbehave("tokenizer.json", Answer(wait_seconds=0.3))

    online = run_pytest("-k", TWO_CASES, "--net", "1", suites=fetched.suites, **fetched.variables)

    assert online.status == 0, online.output
    assert f"invarlock: {MODEL}: model.safetensors (0.002 of 0.002 GB)" in online.output
    pins = load(online.directory / "state" / "model_revisions.json")
    [pin] = pins["models"]
    assert (pin["model_id"], pin["revision"], pin["licence"]) == (MODEL, repository.commit, "apache-2.0")
    assert "pytorch_model.bin" not in {file["name"] for file in pin["files"]}
    assert pin["resolved_at"] is not None
    assert load(online.pack / MODEL_REVISIONS) == pins

    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(NO_SOCKETS)
    requests = len(hub.requests)
    offline = run_pytest(
        "-k",
        TWO_CASES,
        suites=fetched.suites,
        directory=tmp_path / "offline",
        PACK_MODEL_REVISIONS_FILE=str(online.directory / "state" / "model_revisions.json"),
        PACK_BASELINE_STORAGE_MODE="snapshot_symlink",
        PYTHONPATH=str(tmp_path / "python"),
        CONNECTIONS=str(tmp_path / "connections"),
        **fetched.variables,
    )

    assert offline.status == 0, offline.output
    assert len(hub.requests) == requests
    assert not (tmp_path / "connections").exists(), (tmp_path / "connections").read_text()
    snapshot = offline.directory / "models" / "org__made-up" / "baseline" / "model.safetensors"
    assert snapshot.readlink().is_relative_to(fetched.cache)
    assert load(offline.directory / "state" / "model_revisions.json") == pins
    for pack in (online.pack, offline.pack):
        done = verify(pack)
        assert done.returncode == 0, done.stdout + done.stderr
    report = load(offline.pack / "reports/org__made-up/noop_control/run_1/evaluation.report.json")
    assert report["meta"]["revision"] == repository.commit
    assert report["primary_metric"]["ratio_vs_baseline"] == 1


def test_unavailable_models_are_listed_at_once_and_nothing_is_started(
    run_pytest: Callable[..., Any], hub: Hub, repository: Repository, tmp_path: Path
) -> None:
    hub.add(replace(repository, id="org/gated", gated=True))
    hub.add(replace(repository, id="org/private", private=True))
    hub.add(replace(repository, id="org/new-name"))
    hub.add(Repository("org/pickled", {"config.json": b"{}", "tokenizer.json": b"{}", "pytorch_model.bin": b"\x80"}))
    hub.renamed["org/old-name"] = "org/new-name"
    names = ["org/gated", "org/private", "org/missing", "org/old-name", "org/pickled"]
    suites = write_suites(tmp_path / "project" / "suites", *names)

    ran = run_pytest("-k", "noop", "--net", "1", suites=suites, **client_environment(hub, tmp_path / "cache"))

    lines = ran.output.partition("ERROR: ")[2].strip().splitlines()
    assert ran.status == 4, ran.output
    assert [line.partition(":")[0].partition(" at ")[0] for line in lines] == names
    assert "accept its terms at the hub and set HF_TOKEN, or use a folder on disk (MODEL_1=FOLDER) [" in lines[0]
    assert "no such repository, or a private one" in lines[1]
    assert lines[3] == f"org/old-name: the hub calls it 'org/new-name' now; use that name [{Code.HUB_UNAVAILABLE}]"
    assert "can run code when they are read" in lines[4]
    assert not ran.directory.exists()


def test_a_model_with_pickled_weights_only_is_measured_as_the_safetensors_they_become(
    run_pytest: Callable[..., Any], hub: Hub, repository: Repository, tmp_path: Path
) -> None:
    stream = io.BytesIO()
    torch.save(load_file(SUITES / "embedded/mistral-tiny/model.safetensors"), stream)
    others = {name: data for name, data in repository.files.items() if not name.endswith((".bin", ".safetensors"))}
    hub.add(replace(repository, id="org/pickles", files={**others, "pytorch_model.bin": stream.getvalue()}))
    suites = write_suites(tmp_path / "project" / "suites", "org/pickles")
    variables = client_environment(hub, tmp_path / "cache") | {"INVARLOCK_ALLOW_PICKLED_WEIGHTS": "1"}

    ran = run_pytest("-k", "noop", "--net", "1", suites=suites, **variables)

    assert ran.status == 0, ran.output
    assert "converting pytorch_model.bin to safetensors" in ran.output
    [pin] = load(ran.pack / MODEL_REVISIONS)["models"]
    assert [file["name"] for file in pin["converted_from"]] == ["pytorch_model.bin"]
    assert "model.safetensors" in {file["name"] for file in pin["files"]}
    done = verify(ran.pack)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_a_network_a_model_needs_a_pin_and_a_complete_cache(
    run_pytest: Callable[..., Any], hub: Hub, tmp_path: Path
) -> None:
    suites = write_suites(tmp_path / "project" / "suites", "org/one", "org/two")
    pins = {"schema": "model_revisions_v1", "models": [{"model_id": "org/two", "revision": "1" * 40}]}
    (suites / "model_revisions.json").write_text(json.dumps(pins))
    requests = len(hub.requests)

    ran = run_pytest("-k", "noop", suites=suites, **client_environment(hub, tmp_path / "cache"))

    lines = ran.output.partition("ERROR: ")[2].strip().splitlines()
    assert ran.status == 4, ran.output
    assert lines == [
        "org/one: no pinned revision; resolve and download it with --net 1, or give a file of pins with "
        f"PACK_MODEL_REVISIONS_FILE [{Code.PIN_UNUSABLE}]",
        f"org/two at {'1' * 40}: not in the cache at {tmp_path / 'cache'}; fetch it: --net 1 [{Code.HUB_UNAVAILABLE}]",
    ]
    assert len(hub.requests) == requests


def test_a_run_that_is_resumed_keeps_its_pins(
    run_pytest: Callable[..., Any], hub: Hub, repository: Repository, tmp_path: Path
) -> None:
    suites = write_suites(tmp_path / "project" / "suites", MODEL)
    variables = client_environment(hub, tmp_path / "cache")
    first = run_pytest("-k", "noop", "--net", "1", "--no-pack", suites=suites, **variables)
    assert first.status == 0, first.output
    before = (first.directory / "state" / "model_revisions.json").read_bytes()
    moved = hub.add(with_other_file(repository, "tokenizer_config.json", b'{"model_max_length": 77}'))
    pins = {"schema": "model_revisions_v1", "models": [{"model_id": MODEL, "revision": moved.commit}]}
    (tmp_path / "pins.json").write_text(json.dumps(pins))

    again = run_pytest("-k", "noop", "--net", "1", "--resume", "--no-pack", suites=suites, **variables)
    other = run_pytest(
        *("-k", "noop", "--net", "1", "--resume", "--no-pack"),
        suites=suites,
        PACK_MODEL_REVISIONS_FILE=str(tmp_path / "pins.json"),
        **variables,
    )

    assert again.status == 0, again.output
    assert (again.directory / "state" / "model_revisions.json").read_bytes() == before
    assert other.status == 4, other.output
    assert f"{MODEL}: this run is pinned to {repository.commit}, but {moved.commit} was requested" in other.output
    hub.add(repository)


def test_an_unreachable_model_is_reported_within_seconds(run_pytest: Callable[..., Any], tmp_path: Path) -> None:
    suites = write_suites(tmp_path / "project" / "suites", MODEL)
    started = time.monotonic()
    nowhere = Hub("http://127.0.0.1:9")

    ran = run_pytest("-k", "noop", "--net", "1", suites=suites, **client_environment(nowhere, tmp_path / "cache"))

    assert ran.status == 4, ran.output
    assert f"{MODEL}: cannot be fetched (" in ran.output
    assert "check the connection, then run again" in ran.output
    assert not ran.directory.exists()
    assert time.monotonic() - started < 30


def test_a_folder_in_a_slot_is_pinned_by_its_digest_and_needs_parameters(
    run_pytest: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "my-model"
    shutil.copytree(SUITES / "embedded/mistral-tiny", folder)
    shutil.copytree(SUITES / "embedded/tokenizer", folder, dirs_exist_ok=True)
    slots = {"MODEL_1": str(folder), "MODEL_2": "", "MODEL_3": ""}

    refused = run_pytest("-k", "clean", **slots)
    ran = run_pytest("-k", TWO_CASES, **slots)

    assert refused.status == 4, refused.output
    [line] = refused.output.partition("ERROR: ")[2].strip().splitlines()
    assert line.startswith(
        "tuned_edit_params.json: no tuned parameters of quant_rtn, fp8_quant, magnitude_prune, lowrank_svd for "
        "local/my-model (quant_4bit_clean, "
    )
    assert (
        f"find them: invarlock tune {folder} --output FILE, and give that file with PACK_TUNED_EDIT_PARAMS_FILE" in line
    )
    assert ran.status == 0, ran.output
    [pin] = load(ran.pack / MODEL_REVISIONS)["models"]
    assert pin["model_id"] == "local/my-model"
    assert pin["revision"] == digest_checkpoint(folder)
    [need] = load(ran.directory / "state" / "plan.json")["models"]
    assert need["baseline_bytes"] == 2_099_456
    assert str(tmp_path) not in (ran.pack / "manifest.json").read_text("utf-8")
    assert load(ran.directory / "state" / "disk_pressure.json")["held"]["subjects_bytes"] == 0
    assert verify(ran.pack).returncode == 0


OWN_CODE = """
import os
from pathlib import Path
from transformers import MistralForCausalLM

class OwnForCausalLM(MistralForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        Path(os.environ["CODE_RAN"]).touch()
"""


def test_code_of_a_model_runs_only_where_its_row_and_the_user_both_say_so(
    run_pytest: Callable[..., Any], hub: Hub, repository: Repository, tmp_path: Path
) -> None:
    config = json.loads(repository.files["config.json"])
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    own = {"config.json": json.dumps(config).encode(), "modeling_own.py": OWN_CODE.encode()}
    hub.add(replace(repository, id="org/own-code", files={**repository.files, **own}))
    trusting, silent = (write_suites(tmp_path / name / "suites", "org/own-code") for name in ("trusting", "silent"))
    models = trusting / "models.toml"
    models.write_text(models.read_text("utf-8").replace("\n[[suite]]", "trust_remote_code = true\n\n[[suite]]", 1))
    marker = tmp_path / "code-ran"
    variables = {**client_environment(hub, tmp_path / "cache"), "CODE_RAN": str(marker)}
    variables["HF_MODULES_CACHE"] = str(tmp_path / "modules")
    options = ("-k", "noop", "--net", "1")

    refused = run_pytest(*options, suites=trusting, **variables)
    without = run_pytest(
        *options, suites=silent, directory=tmp_path / "without", INVARLOCK_ALLOW_REMOTE_CODE="1", **variables
    )
    ran_before = marker.exists()
    with_code = run_pytest(
        *options, suites=trusting, directory=tmp_path / "with", INVARLOCK_ALLOW_REMOTE_CODE="1", **variables
    )

    assert refused.status == 4, refused.output
    assert "org/own-code: it has custom code according to models.toml (trust_remote_code)" in refused.output
    assert without.status == 0, without.output
    assert not ran_before
    assert with_code.status == 0, with_code.output
    assert marker.exists()
    report = Path("reports/org__own-code/noop_control/run_1/runtime.manifest.json")
    flags = [load(ran.pack / report)["runtime"] for ran in (without, with_code)]
    assert [flag["allow_remote_code"] for flag in flags] == [False, True]
    assert [flag["allow_network"] for flag in flags] == [True, True]
    names = [
        {file["name"] for file in load(ran.pack / MODEL_REVISIONS)["models"][0]["files"]}
        for ran in (without, with_code)
    ]
    assert names[1] - names[0] == {"modeling_own.py"}
    assert verify(with_code.pack).returncode == 0
