"""Probes in packs are derived again like all other results."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packs import MODEL, edit_json, messages, places, seal, strict

from invarlock.problems import Code

RMT = f"reports/{MODEL}/errors/rmt_norm_noise/rmt_probe.json"
VE = f"reports/{MODEL}/errors/ve_mlp_scale_skew/ve_probe.json"
BASELINE = f"baselines/{MODEL}/evaluation.report.json"
UP = "model.layers.0.mlp.up_proj"


@pytest.fixture
def probed(probed_run: Any, tmp_path: Path) -> Path:
    shutil.copytree(probed_run.pack, tmp_path / "pack")
    return tmp_path / "pack"


@pytest.mark.slow
def test_a_pack_with_probes_verifies(probed: Path) -> None:
    result = strict(probed)

    assert (result.code, result.problems) == (0, ())
    assert {path.name for path in probed.glob("reports/**/*_probe.json")} == {"rmt_probe.json", "ve_probe.json"}


@pytest.mark.parametrize(
    ("path", "change", "code", "field"),
    [
        (RMT, lambda p: p.update(detected=False), Code.NUMBER_DOES_NOT_FOLLOW, "detected"),
        (RMT, lambda p: p["modules"].update({UP: 0.0}), Code.NUMBER_DOES_NOT_FOLLOW, f"modules.{UP}"),
        (RMT, lambda p: p.update(run_id="0" * 16), Code.NUMBER_DOES_NOT_FOLLOW, "run_id"),
        (
            RMT,
            lambda p: p["raw"]["subject"]["modules"][UP].update(tokens=7),
            Code.RAW_MEASUREMENTS_CONTRADICT,
            f"raw.subject.modules.{UP}.tokens",
        ),
        (
            RMT,
            lambda p: p["raw"]["baseline"]["modules"][UP].update(edge_risk=99.0),
            Code.BASELINE_DIFFERS,
            "raw.baseline",
        ),
        (
            RMT,
            lambda p: p["raw"]["subject"].update(measurement_contract_hash="0" * 16),
            Code.CONTRACT_NOT_KEPT,
            "raw.subject",
        ),
        (RMT, lambda p: p.clear(), Code.COMPANION_DIFFERS, ""),
        (
            VE,
            lambda p: p["raw"]["subject"].update(scaled_logloss=None),
            Code.RAW_MEASUREMENTS_CONTRADICT,
            "raw",
        ),
        (
            VE,
            lambda p: p["proposed_scales"].update({"model.layers.0.mlp.down_proj": 1.0}),
            Code.NUMBER_DOES_NOT_FOLLOW,
            "proposed_scales.model.layers.0.mlp.down_proj",
        ),
        (
            VE,
            lambda p: p["predictive_gate"].update(mean_delta=-1.0),
            Code.NUMBER_DOES_NOT_FOLLOW,
            "predictive_gate.mean_delta",
        ),
    ],
)
def test_a_probe_that_does_not_follow_is_refused(
    probed: Path, probed_run: Any, path: str, change: Callable[[Any], object], code: Code, field: str
) -> None:
    edit_json(probed / path, change)
    seal(probed, probed_run.key)

    result = strict(probed)

    assert (code, path, field) in places(result), messages(result)
    assert result.code == 7


def test_a_missing_or_unrequested_probe_is_refused(probed: Path, probed_run: Any) -> None:
    (probed / VE).rename((probed / RMT).with_name("ve_probe.json"))
    seal(probed, probed_run.key)

    found = places(strict(probed))

    assert (Code.FILE_ABSENT, VE, "") in found
    assert (Code.FILE_DOES_NOT_FOLLOW, str(Path(RMT).with_name("ve_probe.json")), "") in found


def test_the_baselines_probe_is_bound(probed: Path, probed_run: Any) -> None:
    def change(baseline: Any) -> None:
        baseline["draws"][0]["probe"]["variance"]["modules"]["model.layers.0.mlp.down_proj"]["rms"] = 1.0

    edit_json(probed / BASELINE, change)
    seal(probed, probed_run.key)

    assert strict(probed).code == 7
