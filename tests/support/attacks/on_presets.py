"""Attacks on the limits that reports are judged by. The attacker has the maker's key and reseals the pack."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packs import MODEL, REPORT, edit_json, sha256

from attacks.catalogue import Attack, catalogue
from attacks.on_claims import composed
from invarlock.problems import Code
from invarlock.reports.preset_files import render_yaml

ATTACKS: dict[str, Attack] = {}
attack = catalogue(ATTACKS)

PRESETS = "metadata/presets"
PRESET = f"{PRESETS}/calibrated_preset_{MODEL}.json"
NULL_RUN = f"{PRESETS}/{MODEL}/null_run_1.json"


def preset(pack: Path, change: Callable[[Any], object]) -> None:
    """Change a preset, its YAML, and every report that refers to it."""
    path = pack / PRESET
    edit_json(path, change)
    data = path.read_bytes()
    path.with_suffix(".yaml").write_bytes(render_yaml(json.loads(data)))
    for report in pack.glob("reports/**/evaluation.report.json"):
        composed(
            pack,
            str(report.relative_to(pack)),
            lambda raw: raw["policy_provenance"].update(
                preset_sha256=f"sha256:{sha256(data)}", preset_limits=json.loads(data)["limits"]
            ),
        )


def null_run(pack: Path, change: Callable[[Any], object]) -> None:
    """Change a null run, and its digest in the preset."""
    edit_json(pack / NULL_RUN, change)
    digest = f"sha256:{sha256((pack / NULL_RUN).read_bytes())}"
    preset(pack, lambda p: p["null_runs"][0].update(sha256=digest))


@attack(Code.PRESET_DOES_NOT_FOLLOW, PRESET, "limits.rmt.epsilon_by_family.ffn", sealed="all")
def a_loosened_preset_and_all_that_names_it(pack: Path) -> None:
    preset(pack, lambda p: p["limits"]["rmt.epsilon_by_family"].update(ffn=0.5))


@attack(Code.PRESET_DOES_NOT_FOLLOW, PRESET, "limits.variance.min_effect", sealed="all")
def a_loosened_preset_with_its_derivation(pack: Path) -> None:
    def loosen(document: Any) -> None:
        document["limits"]["variance.min_effect"] = 0.5
        document["derivation"]["variance"]["limit"] = 0.5

    preset(pack, loosen)


@attack(Code.PRESET_DOES_NOT_FOLLOW, PRESET, "limits.variance.min_effect", sealed="all")
def a_null_run_with_more_noise_and_the_digests_that_follow(pack: Path) -> None:
    def add_noise(document: Any) -> None:
        losses = document["changes"][1]["logloss"]["final"]
        losses[0], losses[1] = losses[0] + 0.01, losses[1] - 0.01

    null_run(pack, add_noise)


@attack(Code.PRESET_DOES_NOT_FOLLOW, PRESET, "null_runs", sealed="all")
def a_null_run_edited(pack: Path) -> None:
    edit_json(pack / NULL_RUN, lambda n: n["changes"][0]["logloss"]["final"].__setitem__(0, 3.0))


@attack(Code.PRESET_DOES_NOT_FOLLOW, NULL_RUN, sealed="all")
def a_null_run_removed(pack: Path) -> None:
    (pack / NULL_RUN).unlink()


@attack(Code.MODEL_DIFFERS, PRESET, "model_id", sealed="all")
def the_preset_of_another_model(pack: Path) -> None:
    preset(pack, lambda p: p.update(model_id="embedded/qwen2-tiny"))


@attack(Code.PRESET_DIFFERS, REPORT, "policy_provenance.preset_sha256", sealed="all")
def a_report_that_names_a_preset_that_is_not_in_the_pack(pack: Path) -> None:
    composed(pack, REPORT, lambda raw: raw["policy_provenance"].update(preset_sha256=f"sha256:{'7' * 64}"))


@attack(Code.PRESET_DIFFERS, REPORT, "policy_provenance.preset_sha256", sealed="all")
def a_report_that_was_judged_without_the_preset(pack: Path) -> None:
    composed(pack, REPORT, lambda raw: raw["policy_provenance"].update(preset_sha256=None, preset_limits={}))


@attack(Code.PRESET_DIFFERS, REPORT, "policy_provenance.preset_limits.variance.min_effect", sealed="all")
def a_report_with_other_limits_than_its_presets(pack: Path) -> None:
    composed(pack, REPORT, lambda raw: raw["policy_provenance"]["preset_limits"].update({"variance.min_effect": 0.5}))


@attack(
    Code.PRESET_DIFFERS,
    f"reports/{MODEL}/errors/nan_injection/evaluation.report.json",
    "policy_provenance.preset_sha256",
    sealed="all",
)
def all_presets_removed(pack: Path) -> None:
    shutil.rmtree(pack / PRESETS)
    edit_json(pack / "manifest.json", lambda manifest: manifest.update(materials=[]))


@attack(Code.REFERENCE_DANGLES, "manifest.json", "materials[1]", sealed="all")
def all_presets_removed_that_the_manifest_names(pack: Path) -> None:
    shutil.rmtree(pack / PRESETS)


@attack(Code.PRESET_DOES_NOT_FOLLOW, f"metadata/presets/calibrated_preset_{MODEL}.yaml", sealed="all")
def a_preset_whose_yaml_says_something_else(pack: Path) -> None:
    path = (pack / PRESET).with_suffix(".yaml")
    path.write_text(path.read_text().replace('"tier": "balanced"', '"tier": "aggressive"'))


@attack(Code.FILE_DOES_NOT_FOLLOW, "metadata/presets/notes.txt", sealed="all")
def a_file_among_the_presets(pack: Path) -> None:
    (pack / PRESETS / "notes.txt").write_text("all is well\n")
