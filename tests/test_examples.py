"""The examples: each does what its first lines say. The own suite is tested with the harness."""

import csv
import importlib.util
import io
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from invarlock.packer.trust.keys import fingerprint, make_signing_key

from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.cli import main as invarlock

ROOT = Path(__file__).parents[1]


def example(name: str) -> ModuleType:
    """Import an example from its file."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_gate_allows_the_files_that_a_pack_is_about_and_no_others(real_run: Any, tmp_path: Path) -> None:
    gate = example("deployment_gate").gate
    signer = fingerprint(real_run.key.public)
    # the no-op case's subject has the bytes of the baseline
    measured = real_run.directory / "models/embedded__mistral-tiny/baseline"
    assert gate(real_run.pack, measured, signer) == (0, f"allowed: {measured} ({digest_checkpoint(measured)})")

    other = tmp_path / "other"
    other.mkdir()
    for file in measured.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "config.json").write_bytes((other / "config.json").read_bytes() + b"\n")
    code, reason = gate(real_run.pack, other, signer)
    assert code == 1
    assert reason.startswith("refused: no report")

    code, reason = gate(real_run.pack, measured, fingerprint(make_signing_key().public))
    assert code == 5
    assert reason.startswith("refused: ")


def test_a_pack_becomes_a_table_with_a_line_for_each_case(
    real_run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pack_table.py", str(real_run.pack)])

    example("pack_table").main()

    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    cases = {(row["model"], row["scenario"]) for row in rows}
    assert ("embedded/mistral-tiny", "noop_control") in cases
    (noop,) = [row for row in rows if row["scenario"] == "noop_control"]
    assert (float(noop["ratio"]), noop["failed_gates"]) == (1.0, "")


def test_the_workflow_has_few_rights_and_pinned_actions() -> None:
    workflow = yaml.safe_load((ROOT / "examples/github-workflow.yml").read_text("utf-8"))

    assert workflow["permissions"] == {}
    (job,) = workflow["jobs"].values()
    assert job["permissions"] == {"contents": "read"}
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert used
    assert all(len(action.partition("@")[2]) == 40 for action in used)


def test_the_page_about_ci_shows_the_job_for_gitlab_as_it_is() -> None:
    file, page = ((ROOT / name).read_text("utf-8") for name in ("examples/gitlab-ci.yml", "docs/ci.md"))

    job = "".join(line for line in file.splitlines(keepends=True) if not line.startswith("#"))

    assert f"```yaml\n{job}```" in page
    commands = yaml.safe_load(file)["compare"]["script"]
    steps = yaml.safe_load((ROOT / "examples/github-workflow.yml").read_text("utf-8"))["jobs"]["compare"]["steps"]
    assert commands == [step["run"] for step in steps if "run" in step]


@pytest.mark.slow
def test_the_tutorial_runs_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs/tutorial.md").read_text("utf-8")
    wanted = ("invarlock demo ", "invarlock evaluate ", "invarlock verify demo/out")
    lines = [line for line in page.splitlines() if line.startswith(wanted)]
    monkeypatch.chdir(tmp_path)
    codes, printed = [], []

    for line in lines:
        codes.append(invarlock(shlex.split(line)[1:]))
        printed.append(capsys.readouterr().out)

    assert codes == [0, 0, 0, 0, 1]
    outcomes = re.findall(r"^(passed|FAILED|PASS|FAIL)\W+(\w+)", printed[1], re.MULTILINE)
    assert outcomes
    for where in (page, (ROOT / "README.md").read_text("utf-8")):
        (shown,) = re.findall(r"```\n(passed .*?)```", where, re.DOTALL)
        assert re.findall(r"^(passed|FAILED|PASS|FAIL)\W+(\w+)", shown, re.MULTILINE) == outcomes
    assert "FAILED  fidelity_kl_acceptable" in printed[4]
