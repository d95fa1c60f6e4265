"""``invarlock fleet manifest``: a run on a Kubernetes cluster, as a manifest."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from textwrap import fill

from invarlock.boundary import Commands
from invarlock.catalog.cases import Case, plan_cases
from invarlock.catalog.models import Suite, read_models
from invarlock.catalog.scenarios import read_scenarios
from invarlock.catalog.shards import divide_cases
from invarlock.catalog.shipped import shipped_suites
from invarlock.cli.parsing import NO_REPORTS
from invarlock.errors import UsageError
from invarlock.nearest import did_you_mean
from invarlock.output import say
from invarlock.problems import Code
from invarlock.runtime.kubernetes import LONGEST_NAME, Pods, indexed_job, manifest_text, ray_job

LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL_LENGTH = 63
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,499}")
MOST_PODS = 1000
MOST_GPUS = 64
MOST_CPUS = 1024
MOST_GB = 100_000
# Besides the weights: the process, tokens, and the page cache of what is written.
BASE_MEMORY_GB = 16
# A baseline of which a part is rewritten, and subjects made in one pass.
SUBJECTS = 4
# The category of scenarios that only run when they are named.
OPT_IN = "deployable"
EXAMPLE = """example:
  invarlock fleet manifest rayjob -m smoke --image IMAGE --pods 2 --claim work"""
KINDS = {"job": indexed_job, "rayjob": ray_job}


def add_fleet(commands: Commands) -> None:
    """Add the command ``fleet``."""
    parser = commands.add_parser("fleet", help="write a Kubernetes manifest for a run on many nodes")
    inner = parser.add_subparsers(required=True, metavar="COMMAND")
    manifest = inner.add_parser(
        "manifest",
        help="an Indexed Job of shards, or a RayJob of KubeRay",
        description=fill(
            "Write a YAML manifest that runs a shipped suite on a Kubernetes cluster: an Indexed Job, whose pods run "
            "shards that 'merge' joins, or a RayJob of KubeRay, whose workers run the pieces of a fleet. Nothing is "
            "sent to a cluster; apply the manifest with kubectl.",
            78,
        ),
        epilog=f"{fill(NO_REPORTS, 78)}\n\n{EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    manifest.add_argument("kind", choices=sorted(KINDS), help="job: Indexed Job of shards; rayjob: a fleet on KubeRay")
    manifest.add_argument("-m", dest="suite", required=True, metavar="SUITE", help="the suite, such as full")
    manifest.add_argument(
        "--image",
        required=True,
        metavar="IMAGE",
        help="container image with InvarLock and its extra suite (for rayjob also ray)",
    )
    manifest.add_argument("--pods", type=int, required=True, metavar="N", help="number of shards, or of Ray nodes")
    manifest.add_argument("--claim", required=True, metavar="NAME", help="PersistentVolumeClaim that all pods mount")
    manifest.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs per pod; needed by suites for GPUs")
    manifest.add_argument(
        "--gpu-memory", type=float, metavar="GB", help="memory of one GPU, to check that each model fits a pod"
    )
    manifest.add_argument("--cpus", type=int, metavar="N", help="cores per pod; default: 8, or 8 per GPU")
    manifest.add_argument("--memory", type=int, metavar="GIB", help="memory per pod; default: by the largest model")
    manifest.add_argument(
        "--scratch", type=int, metavar="GIB", help="disk space for temporary files; default: by the largest model"
    )
    manifest.add_argument("--name", metavar="NAME", help="name of the job and its folder; default: invarlock-SUITE")
    manifest.add_argument("--namespace", metavar="NAME", help="default: the namespace of kubectl's context")
    manifest.add_argument("--queue", metavar="NAME", help="LocalQueue of Kueue, which admits the job")
    manifest.add_argument(
        "--signing-secret", metavar="NAME", help="rayjob: Secret with key.pem; without it, no signature"
    )
    manifest.add_argument("--output", type=Path, metavar="FILE", help="new file to write; default: standard output")
    manifest.add_argument(
        "--run-options",
        default="",
        metavar="TEXT",
        help="more options for 'invarlock run', as one quoted text",
    )
    manifest.set_defaults(command=_manifest)


def _manifest(options: argparse.Namespace) -> int:
    # imported here to keep --help fast
    from invarlock.named_files import check_result_file, is_taken, write_result

    if options.output is not None:
        if is_taken(options.output):
            raise UsageError(
                "already exists; give another file with --output", code=Code.OUTPUT_EXISTS, where=str(options.output)
            )
        check_result_file(options.output, "--output")
    suite, cases = _planned(options.suite)
    pods = _pods(options, suite, cases)
    text = manifest_text(KINDS[options.kind](pods), _remarks(options.kind, pods, cases))
    if options.output is None:
        say(*text.removesuffix("\n").split("\n"))
    else:
        write_result(options.output, text.encode("utf-8"), "--output")
        say(f"manifest: {options.output}; apply it with: kubectl apply -f {options.output}")
    return 0


def _planned(name: str) -> tuple[Suite, list[Case]]:
    folder = shipped_suites()
    models = read_models(folder / "models.toml")
    if name not in models.suites:
        raise _refused("-m", f"no suite {name!r}{did_you_mean(name, models.suites)}; one of {', '.join(models.suites)}")
    cases = plan_cases(models, read_scenarios(folder / "scenarios.json"))
    # as in a run that names no category
    return models.suites[name], [case for case in cases if name in case.suites and case.scenario.category != OPT_IN]


def _pods(options: argparse.Namespace, suite: Suite, cases: list[Case]) -> Pods:
    largest = max(case.model.weight_bytes for case in cases) / 2**30
    cpus = options.cpus if options.cpus is not None else 8 * max(1, options.gpus)
    memory = options.memory if options.memory is not None else round(BASE_MEMORY_GB + 1.5 * largest)
    scratch = options.scratch if options.scratch is not None else round(BASE_MEMORY_GB + SUBJECTS * largest)
    name = options.name if options.name is not None else f"invarlock-{suite.name}"
    for option, value, least, most in (
        ("--pods", options.pods, 1, MOST_PODS),
        ("--gpus", options.gpus, 0, MOST_GPUS),
        ("--cpus", cpus, 1, MOST_CPUS),
        ("--memory", memory, 1, MOST_GB),
        ("--scratch", scratch, 1, MOST_GB),
    ):
        if not least <= value <= most:
            raise _refused(option, f"{value}: give a number from {least} to {most}")
    for option, label, length in (
        ("--name", name, LONGEST_NAME),
        ("--claim", options.claim, LABEL_LENGTH),
        ("--namespace", options.namespace, LABEL_LENGTH),
        ("--queue", options.queue, LABEL_LENGTH),
        ("--signing-secret", options.signing_secret, LABEL_LENGTH),
    ):
        if label is not None and (len(label) > length or LABEL.fullmatch(label) is None):
            raise _refused(option, f"{label!r}: at most {length} small letters, digits and hyphens, a letter first")
    if IMAGE.fullmatch(options.image) is None:
        raise _refused("--image", f"{options.image!r}: not a reference of an image")
    try:
        arguments = tuple(shlex.split(options.run_options))
    except ValueError as error:
        raise _refused("--run-options", f"{options.run_options!r}: {error}; close the quotation") from None
    _check_kind(options, suite, cases)
    return Pods(
        name, options.image, suite.name, options.claim, options.pods, options.gpus, cpus, memory, scratch,
        arguments, options.namespace, options.queue, options.signing_secret,
    )  # fmt: skip


def _check_kind(options: argparse.Namespace, suite: Suite, cases: list[Case]) -> None:
    """Check that the pods suit the suite and the kind of manifest."""
    if suite.requires == "gpu" and not options.gpus:
        raise _refused("--gpus", f"the suite {suite.name} needs GPUs; give how many a pod has, such as --gpus 8")
    if suite.requires == "cpu" and options.gpus:
        raise _refused("--gpus", f"the suite {suite.name} uses none; drop the option")
    if options.kind == "job" and options.signing_secret is not None:
        raise _refused("--signing-secret", "shards have no pack; sign with 'invarlock merge --signing-key'")
    subjects = len({(case.model.id, case.scenario.id) for case in cases})
    if options.kind == "job" and options.pods > subjects:
        raise _refused("--pods", f"{options.pods}: the suite has {subjects} subjects; use at most as many pods")
    if options.gpu_memory is not None:
        for model in {case.model for case in cases}:
            if model.min_gpu_memory_gb > options.gpus * options.gpu_memory:
                raise UsageError(
                    f"{model.id}: needs {model.min_gpu_memory_gb:g} GB, and the {options.gpus} GPUs of a pod have "
                    f"{options.gpus * options.gpu_memory:g} GB; give pods more or larger ones",
                    code=Code.DEVICE_UNAVAILABLE,
                )


def _remarks(kind: str, pods: Pods, cases: list[Case]) -> list[str]:
    models = len({case.model.id for case in cases})
    lines = [f"invarlock fleet manifest {kind}: suite {pods.suite}, {len(cases)} cases of {models} models"]
    if kind == "rayjob":
        return [*lines, f"the run directory and its pack: {pods.name}/run on the claim {pods.claim}"]
    shards = divide_cases(cases, pods.count)
    sizes = [sum(shards[case.model.id, case.scenario.id] == one for case in cases) for one in range(1, pods.count + 1)]
    runs = f"{pods.name}/shard-*"
    return [
        *lines,
        f"cases per shard, in shards of equal estimated length: {', '.join(map(str, sizes))}",
        f"then, where the claim {pods.claim} is mounted: invarlock merge {runs} --output merged --signing-key KEY.pem",
    ]


def _refused(option: str, why: str) -> UsageError:
    return UsageError(f"{option}: {why}", code=Code.SETTING_INVALID)
