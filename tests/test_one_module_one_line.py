"""A guard, a metric, an edit and a fault are each one module and one line of a tuple.

A copy of the checkout is given one of each from ``tests/data/extension``, and runs a suite with them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes
import pytest
from processes import SMALL, clean, succeed

from invarlock.jsonio import write_json
from invarlock.pages.parts import number_text
from invarlock.runtime.provenance import MARKER_NAME, source_repository

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
EXTENSION = Path(__file__).parent / "data/extension"
COPIED = ("invarlock", "packer", "contracts", "suites", "conftest.py", "pyproject.toml")
# The folder of the module, the module, the object in it, and the tuple that it is a line of.
ADDED = (
    ("guards", "peak", "PEAK", "GUARDS: tuple[Guard, ...] = ("),
    ("metrics", "worst_window", "WORST_WINDOW", "METRICS: tuple[Metric, ...] = ("),
    ("edits", "snap", "SNAP", "EDITS: tuple[Edit, ...] = ("),
    ("faults", "spike", "SPIKE", "FAULTS: tuple[Fault, ...] = ("),
)
VARIABLES = {**SMALL, "DRIFT_CALIBRATION_RUNS": "0"}
MODEL = "embedded__mistral-tiny"


@dataclass(frozen=True)
class Extended:
    """A copy of the checkout with one of each, and the run that it made."""

    root: Path
    output: str
    run: Path

    def command(self, *arguments: str) -> processes.Done:
        return python(self.root, arguments)

    def report(self, scenario: str) -> Path:
        folder = self.run / "evidence_pack/reports" / MODEL
        (found,) = [path for path in folder.rglob("evaluation.report.json") if scenario in path.parts]
        return found

    def record(self, scenario: str) -> Any:
        verdict = json.loads((self.run / "reports/final_verdict.json").read_bytes())
        return next(row for row in verdict["records"] if row["name"] == scenario)


def python(root: Path, arguments: Sequence[str], **variables: str) -> processes.Done:
    return processes.python(*arguments, cwd=root, env=clean({"PYTHONPATH": str(root), **VARIABLES, **variables}))


def scenario(name: str, category: str, strictness: str, guard: str, generation: Mapping[str, Any]) -> dict[str, Any]:
    catalog = json.loads((ROOT / "suites/scenarios.json").read_bytes())
    like = "quant_4bit_clean" if category == "clean" else "nan_injection"
    row: dict[str, Any] = next(row for row in catalog["scenarios"] if row["id"] == like)
    return {**row, "id": name, "strictness": strictness, "primary_guard": guard, "generation": dict(generation)}


def detected(row: dict[str, Any], *detectors: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "requirements": {**row["requirements"], "detectors_all_of": list(detectors)}}


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Extended:
    root = tmp_path_factory.mktemp("extended")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, root / name)
    write_json(root / MARKER_NAME, source_repository(ROOT))
    for folder, module, name, start in ADDED:
        shutil.copy(EXTENSION / f"{module}.py", root / f"invarlock/{folder}/{module}.py")
        table = root / f"invarlock/{folder}/__init__.py"
        before, opening, after = table.read_text().partition(start)
        lines, closing, rest = after.partition("\n)")
        added = f"from invarlock.{folder}.{module} import {name}\n"
        table.write_text(f"{before}{added}{opening}{lines}\n    {name},{closing}{rest}")
    succeed(python(root, ["-m", "invarlock.reports.schemas"]))
    catalog = root / "suites/scenarios.json"
    document = json.loads(catalog.read_bytes())
    spike = {"kind": "error", "error_type": "spike", "params": {"factor": 3}, "params_by_model": {}}
    explosion = {**spike, "error_type": "scale_explosion", "params": {}}
    document["scenarios"] += [
        scenario("snap_clean", "clean", "must_pass", "primary_metric", {"kind": "edit", "edit_spec": "snap:12:ffn"}),
        detected(
            scenario("spike", "error", "must_detect", "peak", spike),
            {"kind": "validation_flag", "flag": "peak_stable", "expected": False},
            {"kind": "peaks_grown", "min": 1},
            {
                "kind": "guard_signal_baseline_relative",
                "guard": "peak",
                "min_new_modules": 1,
                "min_delta_count": 0,
            },
        ),
        detected(
            scenario("explosion", "error", "must_detect", "worst_window", explosion),
            {"kind": "validation_flag", "flag": "worst_window_acceptable", "expected": False},
            {"kind": "worst_window", "min": 0.25},
        ),
    ]
    write_json(catalog, document)
    ran = python(
        root,
        [
            *("-m", "pytest", "suites", "-q", "-p", "no:cacheprovider", "--output-dir", "run"),
            *("-k", "mistral", "--scenario-ids", "snap_clean,spike,explosion"),
        ],
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return Extended(root, ran.stdout, root / "run")


def test_each_has_its_gate_and_its_detectors(extended: Extended) -> None:
    clean, spike, explosion = (
        json.loads(extended.report(name).read_bytes()) for name in ("snap_clean", "spike", "explosion")
    )

    assert clean["edit"] == {"name": "snap", "label": "snap", "spec": "snap:12:ffn", "parameters": {"digits": 12}}
    assert clean["assurance"]["verdict"] == "PASS"
    assert clean["validation"]["peak_stable"] is clean["validation"]["worst_window_acceptable"] is True
    assert spike["validation"]["peak_stable"] is False
    assert spike["assurance"]["blocking_reasons"][-1].startswith("peak_stable: fail: ")
    assert explosion["validation"]["worst_window_acceptable"] is False
    assert all(row["hit"] for row in extended.record("spike")["detectors_all_of"])
    assert extended.record("spike")["primary_guard_hit"] is extended.record("explosion")["primary_guard_hit"] is True
    assert extended.record("spike")["guard_flags"] == {
        "primary_metric": False,
        "fidelity": extended.record("spike")["guard_flags"]["fidelity"],
        "worst_window": False,
        "invariants": False,
        "spectral": extended.record("spike")["guard_flags"]["spectral"],
        "rmt": False,
        "variance": False,
        "peak": True,
    }


def test_each_has_its_section_of_the_page(extended: Extended) -> None:
    path = extended.report("spike")
    page = path.with_name("evaluation.html").read_text()
    growth = json.loads(path.read_bytes())["peak"]["metrics"]["largest_growth"]

    assert "Guard peak" in page
    assert f"largest growth of a peak {number_text(growth)}" in page
    assert "The window that got worst" in page


def test_the_pack_verifies(extended: Extended) -> None:
    checked = extended.command("-m", "invarlock.packer", "verify", "run/evidence_pack", "--require-pass")

    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("block", "path", "value"),
    [
        ("peak", ("metrics", "largest_growth"), 0.1),
        ("peak", ("raw", "subject", "modules"), {}),
        ("worst_window", ("value",), 0.01),
    ],
)
def test_verify_derives_their_numbers_and_refuses_another(
    extended: Extended, tmp_path: Path, block: str, path: tuple[str, ...], value: Any
) -> None:
    report = json.loads(extended.report("spike").read_bytes())
    write_json(tmp_path / "good.json", report)
    inner = report[block]
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    write_json(tmp_path / "evil.json", report)

    good = extended.command("-m", "invarlock", "verify", str(tmp_path / "good.json"))
    evil = extended.command("-m", "invarlock", "verify", str(tmp_path / "evil.json"))

    assert good.returncode == 0, good.stdout + good.stderr
    assert evil.returncode == 7, evil.stdout + evil.stderr
    assert f"{block}." in evil.stdout + evil.stderr


def test_an_edit_is_tuned_by_its_own_ladder(extended: Extended) -> None:
    refused = extended.command("-m", "invarlock", "tune", "model", "--edit", "unknown", "--output", "tuned.json")

    assert "snap" in refused.stderr
    schema = json.loads((extended.root / "contracts/tuned_edit_params.schema.json").read_bytes())
    assert "digits" in schema["properties"]["models"]["additionalProperties"]["properties"]["snap"]["required"]
