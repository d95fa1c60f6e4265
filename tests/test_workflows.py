"""The workflows' own scripts, run as a runner runs them: two shards of a real run, merged, signed and verified."""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from invarlock.packer.trust.keys import fingerprint, make_signing_key, write_key_pair
from invarlock.packer.trust.predicates import PREDICATES
from packaging.requirements import Requirement

from invarlock.jsonio import check_schema

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
# What a job needs that attests with the identity of its workflow.
IDENTITY = {"id-token": "write", "attestations": "write"}
# Stands before Python on the PATH: notes the mode of the signing key's file, and who still has the key in a variable.
WITNESS = f"""#!/bin/bash
for argument; do
  [ "$before" != --signing-key ] || stat -c '%a %n' "$argument" >> "$WITNESSED"
  before=$argument
done
env | grep -c 'PRIVATE KEY' >> "$WITNESSED"
exec {sys.executable} "$@"
"""


def jobs(workflow: str) -> dict[str, dict[str, Any]]:
    document: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows" / workflow).read_text())
    return dict(document["jobs"])


@dataclass(frozen=True)
class Runner:
    """A runner's folders: what steps leave for each other is here."""

    folder: Path

    def start(self, job: str, step: str, cwd: Path, /, **variables: str) -> subprocess.Popen[str]:
        """Start a step's script in the shell that a runner gives it, with a value for each of the step's variables."""
        (found,) = (row for row in (jobs("ci.yml") | jobs("evidence.yml"))[job]["steps"] if row.get("name") == step)
        assert variables.keys() >= found.get("env", {}).keys()
        script = self.folder / f"{step.replace(' ', '_')}.sh"
        script.write_text(found["run"])
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PACK_", "INVARLOCK_"))}
        runner = {"RUNNER_TEMP": str(self.folder), "GITHUB_OUTPUT": str(self.folder / "output")}
        runner["GITHUB_STEP_SUMMARY"] = str(self.folder / "summary.md")
        runner["PATH"] = f"{self.folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=cwd,
            env={**clean, **runner, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, job: str, step: str, cwd: Path, /, **variables: str) -> tuple[int, str]:
        process = self.start(job, step, cwd, **variables)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output


def make_runner(folder: Path) -> Runner:
    # the environment of the tests is the one that the step activates
    (folder / "venv/bin").mkdir(parents=True)
    (folder / "venv/bin/activate").touch()
    return Runner(folder)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return make_runner(tmp_path)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards as a merging job downloads them: ``shard-1`` and ``shard-2``, each with an archive."""
    folder = tmp_path_factory.mktemp("shards")
    runners = {}
    for number in (1, 2):
        runner = make_runner(tmp_path_factory.mktemp("runner"))
        runners[number] = runner, runner.start("shard", "run", ROOT, **of_shard(number))
    for number, (runner, process) in runners.items():
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        assert runner.run("shard", "keep what merging needs", ROOT)[0] == 0
        (folder / f"shard-{number}").mkdir()
        (runner.folder / "shard.tar.gz").rename(folder / f"shard-{number}/shard.tar.gz")
    return folder


def of_shard(number: int) -> dict[str, str]:
    small = {"INVARLOCK_PREVIEW_WINDOWS": "8", "INVARLOCK_FINAL_WINDOWS": "16", "DRIFT_CALIBRATION_RUNS": "0"}
    one_model = {"MODEL_2": "", "MODEL_3": "", "OMP_NUM_THREADS": "1"}
    inputs = {"SUITE": "smoke", "SHARD": f"{number}/2", "WORKERS": "0", "HF_TOKEN": "", "INVARLOCK_TIER": "balanced"}
    inputs |= {"PACK_SCENARIO_IDS": "noop_control,nan_injection", "PACK_NET": "0", "PACK_DETERMINISM": "strict"}
    inputs |= {"PACK_VERIFY_PROFILE": "dev", "INVARLOCK_ALLOW_REMOTE_CODE": "1", "INVARLOCK_ALLOW_HOST_EXECUTION": ""}
    return {**small, **one_model, **inputs}


@pytest.fixture
def workspace(shards: Path, runner: Runner) -> Path:
    """A merging job's workspace, in which the shards are unpacked."""
    workspace = runner.folder / "workspace"
    for archive in shards.glob("shard-*/shard.tar.gz"):
        (workspace / "shards" / archive.parent.name).mkdir(parents=True)
        (workspace / "shards" / archive.parent.name / archive.name).hardlink_to(archive)
    assert runner.run("merge", "unpack", workspace) == (0, "")
    return workspace


@pytest.mark.slow
def test_two_shards_become_one_signed_pack_and_a_summary(runner: Runner, workspace: Path) -> None:
    key = make_signing_key()
    private, _ = write_key_pair(runner.folder / "maker", key)
    text, temporary = private.read_text(), runner.folder / "temporary"
    temporary.mkdir()
    (runner.folder / "python").write_text(WITNESS)
    (runner.folder / "python").chmod(0o755)
    witnessed = runner.folder / "witnessed"

    code, output = runner.run(
        "merge", "merge and sign", workspace, SIGNING_KEY=text, TMPDIR=str(temporary), WITNESSED=str(witnessed)
    )

    assert code == 0, output
    assert re.fullmatch(rf"600 {temporary}/tmp\.\w+\n0\n", witnessed.read_text())
    assert list(temporary.iterdir()) == []
    assert not any(line in output for line in text.splitlines())
    pack = workspace / "merged/evidence_pack"
    assert stat.S_IMODE((pack / "manifest.json").stat().st_mode) & 0o044 == 0o044
    signer = {"SIGNER": fingerprint(key.public), "ASSURANCE": "report", "WITNESSED": str(witnessed)}
    assert runner.run("merge", "verify", workspace, **{**signer, "SIGNER": f"sha256:{'0' * 64}"})[0] == 5
    assert runner.run("merge", "verify", workspace, **{**signer, "SIGNER": "", "ASSURANCE": "strict"})[0] == 7
    assert runner.run("merge", "verify", workspace, **signer)[0] == 0
    assert runner.run("merge", "summary", workspace) == (0, "")
    summary = (runner.folder / "summary.md").read_text()
    assert "2 of 2 cases as expected" in summary
    assert f"signer: {fingerprint(key.public)} (pinned)" in summary
    assert runner.run("merge", "the verdict is PASS", workspace, WITNESSED=str(witnessed)) == (0, "")


@pytest.mark.slow
def test_a_receiver_compares_the_pack_with_what_its_run_printed(runner: Runner, real_run: Any) -> None:
    (runner.folder / "smoke.log").write_text((real_run.directory.parent / "output.txt").read_text())
    shutil.copytree(real_run.pack, runner.folder / "evidence_pack")

    assert runner.run("smoke", "signer", runner.folder) == (0, "")

    signer = fingerprint(real_run.key.public)
    assert (runner.folder / "output").read_text() == f"fingerprint={signer}\n"
    code, output = runner.run("receiver", "verify", runner.folder, SIGNER=signer)
    assert (code, f"signer: {signer} (pinned)" in output) == (0, True), output
    # a job that printed none hands on an empty one
    assert runner.run("receiver", "verify", runner.folder, SIGNER="")[0] == 2


@pytest.mark.slow
def test_without_the_secret_nothing_is_merged(runner: Runner, workspace: Path) -> None:
    code, output = runner.run("merge", "merge and sign", workspace, SIGNING_KEY="")

    assert code == 1
    assert re.fullmatch(r"::error::.*no secret EVIDENCE_SIGNING_KEY; put the private key .*\n", output)
    assert [path.name for path in workspace.iterdir()] == ["shards"]


@pytest.mark.parametrize(("shards", "numbers"), [("1", "[1]"), ("3", "[1,2,3]"), ("32", None)])
def test_the_matrix_has_a_number_for_each_shard(shards: str, numbers: str | None, runner: Runner) -> None:
    assert runner.run("plan", "numbers", runner.folder, SHARDS=shards) == (0, "")

    written = (runner.folder / "output").read_text()
    assert written == f"numbers={numbers or str(list(range(1, 33))).replace(' ', '')}\n"


@pytest.mark.parametrize("shards", ["", "0", "33", "-1", "2 3", "1; touch harmed", "$(touch harmed)"])
def test_an_invalid_number_of_shards_is_refused_and_not_run(shards: str, runner: Runner) -> None:
    assert runner.run("plan", "numbers", runner.folder, SHARDS=shards) == (
        1,
        "::error::shards is a number from 1 to 32\n",
    )

    assert not (runner.folder / "output").exists()
    assert not (runner.folder / "harmed").exists()


@pytest.mark.slow
def test_a_shard_archive_has_no_weights(workspace: Path) -> None:
    found = {path.name for path in workspace.rglob("*") if path.is_file()}

    assert "evaluation.report.json" in found
    assert not any(name.endswith((".safetensors", "tokenizer.json")) for name in found)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_pins_limits_and_grants_what_it_must(path: Path) -> None:
    document = yaml.safe_load(path.read_text())

    used = re.findall(r"uses: (.*)", path.read_text())
    assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in used), used
    assert document["permissions"] == {}
    assert "group" in document["concurrency"]
    for name, job in document["jobs"].items():
        wanted = IDENTITY if (path.name, name) == ("evidence.yml", "attest") else {}
        assert job["permissions"] in ({}, {"contents": "read", **wanted}), name
        assert 0 < job["timeout-minutes"] <= 4320, name
        for step in job["steps"]:
            # an input in a script is code; in a variable it is text
            assert "${{" not in step.get("run", ""), step
            if "actions/checkout" in step.get("uses", ""):
                assert step["with"] == {"persist-credentials": False}, step


def test_only_the_merging_job_has_the_key_and_only_in_one_step() -> None:
    with_key = [
        (job, step.get("name"))
        for job, document in jobs("evidence.yml").items()
        for step in document["steps"]
        if "SIGNING_KEY" in str(step.get("env", {}))
    ]

    assert with_key == [("merge", "merge and sign")]
    assert jobs("evidence.yml")["merge"]["environment"] == "evidence"


def test_the_workflow_attests_with_its_identity_what_a_verified_pack_states(runner: Runner, real_run: Any) -> None:
    job = jobs("evidence.yml")["attest"]
    shutil.copytree(real_run.pack, runner.folder / "evidence/merged/evidence_pack")
    (action,) = (row["with"] for row in job["steps"] if row.get("uses", "").startswith("actions/attest@"))

    code, output = runner.run("attest", "predicate", runner.folder)

    assert code == 0, output
    predicate = json.loads((runner.folder / action["predicate-path"]).read_bytes())
    assert predicate["verdict"] == "PASS"
    assert action["predicate-type"] == PREDICATES["invarlock"].type
    check_schema(predicate, PREDICATES["invarlock"].schema, where="predicate")
    lines = (runner.folder / action["subject-checksums"]).read_text().splitlines()
    manifest = (runner.folder / "evidence/merged/evidence_pack/manifest.json").read_bytes()
    assert lines[0] == f"{hashlib.sha256(manifest).hexdigest()}  manifest.json"
    assert all(re.fullmatch(r"[0-9a-f]{64}  \S+", line) for line in lines)
    # who attests has no secret, and no environment that has one
    assert "secrets." not in str(job)
    assert "environment" not in job

    (runner.folder / "evidence/merged/evidence_pack/README.md").write_text("other")
    for name in ("predicate.json", "subjects.sha256"):
        (runner.folder / name).unlink()
    assert runner.run("attest", "predicate", runner.folder)[0] == 6
    assert not (runner.folder / "predicate.json").exists()


@pytest.mark.parametrize("job", ["merge", "attest"])
def test_where_the_key_or_the_identity_is_nothing_is_installed_that_is_not_named_by_its_hash(job: str) -> None:
    steps = jobs("evidence.yml")[job]["steps"]
    installs = [line.strip() for step in steps for line in step.get("run", "").splitlines() if "pip install" in line]
    with_the_key = [step["name"] for step in steps if "secrets." in str(step.get("env", {}))]

    assert with_the_key == (["merge and sign"] if job == "merge" else [])
    assert len(installs) == 2
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)
    pinned = (ROOT / ".github/signing-requirements.txt").read_text()
    with (ROOT / "pyproject.toml").open("rb") as stream:
        project = tomllib.load(stream)
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    versions = dict(re.findall(r"^([a-z0-9-]+)==([0-9.]+) \\$", pinned, re.MULTILINE))
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(versions[requirement.name]), requirement
    blocks = re.split(r"^(?=[a-z0-9-]+==)", pinned, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks)


def test_every_secret_is_one_of_a_protected_environment() -> None:
    for workflow in WORKFLOWS:
        for name, job in jobs(workflow.name).items():
            assert "secrets." not in str(job) or "environment" in job, f"{workflow.name}: {name}"
