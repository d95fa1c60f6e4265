"""Kubernetes manifests for a run: an Indexed Job whose pods run shards, or a KubeRay RayJob that runs a fleet.

Example::

    pods = Pods("full-2026", "registry.example/invarlock@sha256:…", "full", count=4, gpus=8, claim="invarlock")
    manifest_text(ray_job(pods), ["234 cases"])        # YAML

All pods mount a claim for run directories and models at ``/work``. If a queue is given, the job starts when Kueue
admits it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]
WORK = "/work"
KEYS = "/keys"
SCRATCH = "/tmp"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
# KubeRay appends a suffix to the RayJob's name for its cluster, and cuts longer names.
LONGEST_NAME = 47
# How often the pod of a shard is restarted; evictions and preemptions by Kubernetes do not count.
RETRIES = 3
# pytest's exit codes for failed cases, invalid usage and no cases: a retry changes none of these.
FINAL_CODES = (1, 4, 5)


@dataclass(frozen=True)
class Pods:
    """The settings of the pods of a run.

    Attributes:
        name: the name of the job and of the run's folder on the claim.
        image: the InvarLock image, with the extras ``suite`` and, for a RayJob, ``ray``.
        suite: the name of the suite.
        count: the number of pods that measure at a time.
        gpus: GPUs per pod; 0 for a CPU suite.
        cpus: cores per pod.
        memory_gb: memory per pod.
        scratch_gb: size of each pod's folder for temporary files.
        claim: a PersistentVolumeClaim that all pods can mount at once.
        arguments: further arguments of ``invarlock run``.
        namespace: the namespace of the job; None uses kubectl's context.
        queue: a LocalQueue of Kueue; None without Kueue.
        signing_secret: a Secret whose ``key.pem`` signs the pack; None leaves it unsigned.
    """

    name: str
    image: str
    suite: str
    claim: str
    count: int
    gpus: int = 0
    cpus: int = 8
    memory_gb: int = 32
    scratch_gb: int = 32
    arguments: Sequence[str] = ()
    namespace: str | None = None
    queue: str | None = None
    signing_secret: str | None = None


def indexed_job(pods: Pods) -> Document:
    """Return an Indexed Job of ``batch/v1``: each pod runs one shard and continues it after a restart."""
    shard = "$((JOB_COMPLETION_INDEX + 1))"
    options = ["--shard", f"{shard}/{pods.count}", "-n", str(max(1, pods.gpus or pods.cpus))]
    container = {
        **_container(pods, _resources(pods)),
        "command": ["/bin/sh", "-c", _script(pods, f"shard-{shard}", options)],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(pods),
        "spec": {
            **_suspended(pods),
            "completionMode": "Indexed",
            "completions": pods.count,
            "parallelism": pods.count,
            "backoffLimitPerIndex": RETRIES,
            "maxFailedIndexes": pods.count,
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": list(FINAL_CODES)}},
                ]
            },
            "template": {
                "metadata": {"labels": _labels(pods)},
                "spec": {**_pod_spec(pods, container), "restartPolicy": "Never"},
            },
        },
    }


def ray_job(pods: Pods) -> Document:
    """Return a RayJob of ``ray.io/v1``: the fleet's controller runs on the head node, and pieces on the workers."""
    signing = ["--signing-key", f"{KEYS}/key.pem"] if pods.signing_secret else ["--unsigned"]
    head = _container(pods, {"cpu": "2", "memory": "8Gi"})
    head_spec = _pod_spec(pods, head)
    if pods.signing_secret:
        head["volumeMounts"].append({"name": "keys", "mountPath": KEYS, "readOnly": True})
        secret = {"secretName": pods.signing_secret, "defaultMode": 0o400}
        head_spec["volumes"].append({"name": "keys", "secret": secret})
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": _metadata(pods),
        "spec": {
            **_suspended(pods),
            "entrypoint": _script(pods, "run", ["--fleet", "ray", *signing]),
            "shutdownAfterJobFinishes": True,
            "backoffLimit": 1,
            "rayClusterSpec": {
                "headGroupSpec": {
                    # no pieces run on the controller's node
                    "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},
                    "template": {"metadata": {"labels": _labels(pods)}, "spec": head_spec},
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "nodes",
                        "replicas": pods.count,
                        "minReplicas": pods.count,
                        "maxReplicas": pods.count,
                        "rayStartParams": {},
                        "template": {
                            "metadata": {"labels": _labels(pods)},
                            "spec": _pod_spec(pods, _container(pods, _resources(pods))),
                        },
                    }
                ],
            },
        },
    }


def manifest_text(document: Document, remarks: Iterable[str]) -> str:
    """Return a manifest as YAML, preceded by remarks as comments."""
    # imported here because it comes with an optional extra
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes multi-line texts in block style."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    comments = "".join(f"# {remark}\n" for remark in remarks)
    return comments + str(yaml.dump(document, Dumper=Dumper, sort_keys=False, width=200))


def _script(pods: Pods, folder: str, options: Sequence[str]) -> str:
    """Return a shell script that begins a run, or continues one that was begun."""
    # our options contain shell expansions; the user's arguments are quoted and contain none
    given = " ".join([*(f'"{option}"' for option in options), *map(shlex.quote, pods.arguments)])
    return (
        f"set -eu\n"
        f"cd {WORK}\n"
        f'run="{WORK}/{pods.name}/{folder}"\n'
        f"resume=\n"
        f'if [ -e "$run/state/settings.json" ]; then resume=--resume; fi\n'
        f"exec invarlock run -m {shlex.quote(pods.suite)} --execution-mode host --determinism strict"
        f' --output-dir "$run" $resume {given}\n'
    )


def _container(pods: Pods, resources: Document) -> Document:
    return {
        "name": "invarlock",
        "image": pods.image,
        "workingDir": WORK,
        "env": [{"name": "HF_HUB_CACHE", "value": f"{WORK}/hub"}, {"name": "TMPDIR", "value": SCRATCH}],
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "work", "mountPath": WORK}, {"name": "scratch", "mountPath": SCRATCH}],
    }


def _pod_spec(pods: Pods, container: Document) -> Document:
    return {
        "automountServiceAccountToken": False,
        "containers": [container],
        "volumes": [
            {"name": "work", "persistentVolumeClaim": {"claimName": pods.claim}},
            {"name": "scratch", "emptyDir": {"sizeLimit": f"{pods.scratch_gb}Gi"}},
        ],
    }


def _resources(pods: Pods) -> Document:
    found: Document = {"cpu": str(pods.cpus), "memory": f"{pods.memory_gb}Gi"}
    found["ephemeral-storage"] = f"{pods.scratch_gb}Gi"
    return {**found, "nvidia.com/gpu": str(pods.gpus)} if pods.gpus else found


def _metadata(pods: Pods) -> Document:
    labels = {**_labels(pods), **({QUEUE_LABEL: pods.queue} if pods.queue else {})}
    namespace = {"namespace": pods.namespace} if pods.namespace else {}
    return {"name": pods.name, **namespace, "labels": labels}


def _labels(pods: Pods) -> Document:
    return {"app.kubernetes.io/name": "invarlock", "app.kubernetes.io/instance": pods.name}


def _suspended(pods: Pods) -> Document:
    """Return the field that makes a job wait for Kueue."""
    return {"suspend": True} if pods.queue else {}
