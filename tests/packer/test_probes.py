"""Probes in packs: derived again like everything else."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packs import MODEL, edit_json, messages, seal, strict

RMT = f"reports/{MODEL}/errors/rmt_norm_noise/rmt_probe.json"
VE = f"reports/{MODEL}/errors/ve_mlp_scale_skew/ve_probe.json"
BASELINE = f"baselines/{MODEL}/evaluation.report.json"
UP = "model.layers.0.mlp.up_proj"


@pytest.fixture
def probed(probed_run: Any, tmp_path: Path) -> Path:
    shutil.copytree(probed_run.pack, tmp_path / "pack")
    return tmp_path / "pack"


def test_a_pack_with_probes_verifies(probed: Path) -> None:
    result = strict(probed)

    assert (result.code, result.errors) == (0, [])
    assert {path.name for path in probed.glob("reports/**/*_probe.json")} == {"rmt_probe.json", "ve_probe.json"}


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        (RMT, lambda p: p.update(detected=False), "rmt_probe.json: detected: False, derived True"),
        (RMT, lambda p: p["modules"].update({UP: 0.0}), f"rmt_probe.json: modules.{UP}"),
        (RMT, lambda p: p.update(run_id="0" * 16), "rmt_probe.json: run_id"),
        (RMT, lambda p: p["raw"]["subject"]["modules"][UP].update(tokens=7), f"{UP}.tokens: not that of the baseline"),
        (RMT, lambda p: p["raw"]["baseline"]["modules"][UP].update(edge_risk=99.0), "not what the baseline's report"),
        (RMT, lambda p: p["raw"]["subject"].update(measurement_contract_hash="0" * 16), "by the measurement contract"),
        (RMT, lambda p: p.clear(), "does not hold to the rmt_probe format"),
        (VE, lambda p: p["raw"]["subject"].update(scaled_logloss=None), "ve_probe.json: "),
        (VE, lambda p: p["proposed_scales"].update({"model.layers.0.mlp.down_proj": 1.0}), "proposed_scales"),
        (VE, lambda p: p["predictive_gate"].update(mean_delta=-1.0), "predictive_gate.mean_delta"),
    ],
)
def test_a_probe_that_does_not_follow_is_refused(
    probed: Path, probed_run: Any, path: str, change: Callable[[Any], object], message: str
) -> None:
    edit_json(probed / path, change)
    seal(probed, probed_run.key)

    result = strict(probed)

    assert (result.code, message in messages(result)) == (7, True), messages(result)


def test_a_probe_that_is_missing_or_not_asked_for_is_refused(probed: Path, probed_run: Any) -> None:
    (probed / VE).rename((probed / RMT).with_name("ve_probe.json"))
    seal(probed, probed_run.key)

    told = messages(strict(probed))

    assert f"{VE}: missing" in told
    assert f"{(Path(RMT)).with_name('ve_probe.json')}: does not follow from the reports" in told


def test_the_baselines_probe_is_bound(probed: Path, probed_run: Any) -> None:
    def change(baseline: Any) -> None:
        baseline["draws"][0]["probe"]["variance"]["modules"]["model.layers.0.mlp.down_proj"]["rms"] = 1.0

    edit_json(probed / BASELINE, change)
    seal(probed, probed_run.key)

    assert strict(probed).code == 7
