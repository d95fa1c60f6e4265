"""Kubernetes manifests: against the schemas of Kubernetes and KubeRay, and their scripts in a shell."""

import copy
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from invarlock.cli import main
from invarlock.runtime.kubernetes import Pods, indexed_job, manifest_text, ray_job

PODS = Pods("full-1", "registry.example/invarlock:1", "full", "work", 3, gpus=2, queue="gpus", namespace="evaluation")
KUBERNETES = ("1.33", kubernetes_validate.latest_version())
# ray.io_rayjobs.yaml of KubeRay, which no package of PyPI or npm has.
CRD = os.environ.get("INVARLOCK_TEST_RAYJOB_CRD")
GIVEN = ["--image", "registry.example/invarlock:1", "--claim", "work", "--pods", "2"]


def pods_of(document: Any) -> list[Any]:
    """Return the pod templates of a RayJob as pods."""
    cluster = document["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    meta = {"apiVersion": "v1", "kind": "Pod"}
    return [{**meta, "metadata": {"name": "pod"}, "spec": group["template"]["spec"]} for group in groups]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("pods", [PODS, Pods("smoke", "image", "smoke", "work", 2)])
def test_a_job_and_the_pods_of_a_ray_job_match_the_schemas_of_kubernetes(pods: Pods, version: str) -> None:
    secret = Pods(**{**pods.__dict__, "signing_secret": "key"})

    for document in (indexed_job(pods), *pods_of(ray_job(pods)), *pods_of(ray_job(secret))):
        kubernetes_validate.validate(document, version, strict=True)


def misname_a_field(job: Any) -> None:
    job["spec"]["parallellism"] = 2


def give_a_number_as_text(job: Any) -> None:
    job["spec"]["completions"] = "three"


def forget_the_containers(job: Any) -> None:
    del job["spec"]["template"]["spec"]["containers"]


@pytest.mark.parametrize("harm", [misname_a_field, give_a_number_as_text, forget_the_containers])
def test_the_schemas_of_kubernetes_notice_what_is_wrong(harm: Any) -> None:
    job = copy.deepcopy(indexed_job(PODS))
    harm(job)

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, KUBERNETES[-1], strict=True)


def closed(schema: Any) -> Any:
    """Return a schema in which fields that it does not name are errors; a cluster would drop them."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(one) for name, one in schema.items()}
    if isinstance(found.get("properties"), dict) and "x-kubernetes-preserve-unknown-fields" not in found:
        found.setdefault("additionalProperties", False)
    return found


@pytest.mark.skipif(CRD is None, reason="INVARLOCK_TEST_RAYJOB_CRD names no ray.io_rayjobs.yaml")
def test_a_ray_job_matches_the_definition_of_kuberay() -> None:
    definition = yaml.safe_load(Path(CRD or "").read_text("utf-8"))
    versions = {version["name"]: version["schema"]["openAPIV3Schema"] for version in definition["spec"]["versions"]}
    schema = versions["v1"]
    checker = jsonschema.Draft202012Validator(
        {**schema, "properties": {**schema["properties"], "spec": closed(schema["properties"]["spec"])}}
    )

    for pods in (PODS, Pods(**{**PODS.__dict__, "signing_secret": "key", "queue": None})):
        checker.validate(ray_job(pods))
    wrong = ray_job(PODS)
    wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicaz"] = 1
    assert not checker.is_valid(wrong)


def test_a_ray_job_has_what_the_operator_of_kuberay_demands() -> None:
    # as its ValidateRayJobSpec does
    for pods in (PODS, Pods("smoke", "image", "smoke", "work", 2)):
        document = ray_job(pods)
        spec, worker = document["spec"], document["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
        assert spec.get("suspend", False) == (pods.queue is not None)
        assert spec["shutdownAfterJobFinishes"]
        assert worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]
        assert len(document["metadata"]["name"]) <= 47
        assert "enableInTreeAutoscaling" not in spec["rayClusterSpec"]


def containers(document: Any) -> Iterator[Any]:
    if document["kind"] == "Job":
        yield document["spec"]["template"]["spec"]["containers"][0]
    else:
        yield from (pod["spec"]["containers"][0] for pod in pods_of(document))


@pytest.mark.parametrize("make", [indexed_job, ray_job])
def test_a_job_waits_in_its_queue_and_its_pods_request_gpus(make: Any) -> None:
    document = make(PODS)

    assert document["metadata"]["namespace"] == "evaluation"
    assert document["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert document["spec"]["suspend"] is True
    *_, measuring = containers(document)
    assert measuring["resources"]["limits"] == measuring["resources"]["requests"]
    assert measuring["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert yaml.safe_load(manifest_text(document, ["a remark"])) == document
    without = make(Pods("smoke", "image", "smoke", "work", 2))
    assert "suspend" not in without["spec"]
    assert all("nvidia.com/gpu" not in one["resources"]["limits"] for one in containers(without))


def test_the_key_is_on_the_head_of_a_ray_job_alone() -> None:
    document = ray_job(Pods(**{**PODS.__dict__, "signing_secret": "maker"}))

    head, worker = pods_of(document)
    assert {"secretName": "maker", "defaultMode": 0o400} in [one.get("secret") for one in head["spec"]["volumes"]]
    assert "maker" not in str(worker)
    assert '"--signing-key" "/keys/key.pem"' in document["spec"]["entrypoint"]
    assert '"--unsigned"' in ray_job(PODS)["spec"]["entrypoint"]


def in_shell(script: str, folder: Path, **variables: str) -> list[str]:
    """Return the arguments with which a script starts invarlock, with a folder for the claim."""
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin/invarlock"
    program.write_text('#!/bin/sh\nfor one in "$@"; do printf "%s\\n" "$one"; done\n')
    program.chmod(0o755)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    moved = script.replace("/work", str(folder))
    done = subprocess.run(
        ["sh", "-c", moved], env={"PATH": path, **variables}, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("index", ["0", "2"])
def test_a_pod_runs_its_shard_and_continues_it_when_it_starts_again(index: str, tmp_path: Path) -> None:
    pods = Pods(**{**PODS.__dict__, "arguments": ("-k", "noop or prune's $HOME")})
    _, _, script = next(containers(indexed_job(pods)))["command"]
    run = tmp_path / f"full-1/shard-{int(index) + 1}"
    expected = [
        "run", "-m", "full", "--execution-mode", "host", "--determinism", "strict", "--output-dir", str(run),
        "--shard", f"{int(index) + 1}/3", "-n", "2", "-k", "noop or prune's $HOME",
    ]  # fmt: skip

    assert in_shell(script, tmp_path, JOB_COMPLETION_INDEX=index) == expected
    (run / "state").mkdir(parents=True)
    (run / "state/settings.json").write_text("{}")
    assert in_shell(script, tmp_path, JOB_COMPLETION_INDEX=index) == [*expected[:9], "--resume", *expected[9:]]


def test_the_controller_of_a_ray_job_starts_a_fleet(tmp_path: Path) -> None:
    started = in_shell(ray_job(PODS)["spec"]["entrypoint"], tmp_path)

    assert started[-3:] == ["--fleet", "ray", "--unsigned"]
    assert started[7:9] == ["--output-dir", str(tmp_path / "full-1/run")]


@pytest.mark.parametrize("kind", ["job", "rayjob"])
def test_the_command_writes_a_manifest_of_the_plan(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "manifest.yaml"
    given = ["fleet", "manifest", kind, "-m", "smoke", *GIVEN, "--run-options", "--tier 'conservative'"]

    assert main([*given, "--output", str(file)]) == 0
    assert f"kubectl apply -f {file}" in capsys.readouterr().out
    assert main(given) == 0

    assert capsys.readouterr().out == file.read_text("utf-8")
    document = yaml.safe_load(file.read_text("utf-8"))
    assert document["kind"] == {"job": "Job", "rayjob": "RayJob"}[kind]
    assert document["metadata"]["name"] == "invarlock-smoke"
    assert "suite smoke, 84 cases of 3 models" in file.read_text("utf-8")
    assert "--tier conservative" in file.read_text("utf-8")
    if kind == "job":
        kubernetes_validate.validate(document, KUBERNETES[-1], strict=True)
        assert "cases per shard, in shards of equal estimated length: 42, 42" in file.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["job", "-m", "smok"], "-m: no suite 'smok'"),
        (["job", "-m", "full"], "--gpus: the suite full needs GPUs"),
        (["job", "-m", "smoke", "--gpus", "1"], "--gpus: the suite smoke uses none"),
        (["job", "-m", "smoke", "--pods", "0"], "--pods: 0: give a number from 1 to 1000"),
        (["job", "-m", "smoke", "--pods", "900"], "--pods: 900: the suite has"),
        (["job", "-m", "smoke", "--signing-secret", "key"], "--signing-secret: shards have no pack"),
        (["rayjob", "-m", "smoke", "--name", "x" * 48], "--name: "),
        (["rayjob", "-m", "smoke", "--name", "1st"], "--name: '1st'"),
        (["rayjob", "-m", "smoke", "--queue", "a_b"], "--queue: 'a_b'"),
        (["rayjob", "-m", "smoke", "--image", "an image"], "--image: 'an image'"),
        (["rayjob", "-m", "smoke", "--run-options", "-k 'noop"], "--run-options: "),
        (["rayjob", "-m", "full", "--gpus", "1", "--gpu-memory", "80"], "mistralai/Mixtral-8x7B-v0.1: needs 140 GB"),
    ],
)
def test_runs_that_no_cluster_can_do_are_refused_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [part for part in GIVEN if "--image" not in arguments or part not in GIVEN[:2]]

    code = main(["fleet", "manifest", *given, *arguments, "--output", str(tmp_path / "manifest.yaml")])

    error = capsys.readouterr().err
    assert words in error
    assert (error.count("\n"), error.rstrip().endswith("]")) == (1, True), error
    assert code
    assert not (tmp_path / "manifest.yaml").exists()


def test_the_page_of_fleets_names_what_its_manifests_make(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs/fleet.md").read_text("utf-8")
    made = {}
    for line in page.splitlines():
        if line.startswith("invarlock fleet manifest "):
            written = line.replace("REGISTRY", "registry.example").replace("DIGEST", "0" * 64)
            assert main(shlex.split(written.replace(" --output run.yaml", ""))[1:]) == 0
            document = yaml.safe_load(capsys.readouterr().out)
            made[document["kind"]] = document
    name = made["RayJob"]["metadata"]["name"]
    head = made["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    secret = next(volume["secret"] for volume in head["volumes"] if "secret" in volume)

    assert made["Job"]["metadata"]["name"] == name
    assert f"job-name={name}\n" in page.replace(" ", "\n")
    assert f"job/{name}\n" in page
    assert f"invarlock verify {name}/run/evidence_pack" in page
    assert f"invarlock merge {name}/shard-*" in page
    assert f"kubectl create secret generic {secret['secretName']} --from-file=key.pem=maker.pem\n" in page


def test_a_file_that_exists_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.yaml").write_text("mine")

    code = main(["fleet", "manifest", "job", "-m", "smoke", *GIVEN, "--output", str(tmp_path / "manifest.yaml")])

    assert (code, "[output_exists]" in capsys.readouterr().err) == (2, True)
    assert (tmp_path / "manifest.yaml").read_text() == "mine"
