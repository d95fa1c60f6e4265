"""Attacks on the pack of a guard-value sweep. The attacker has the maker's key and reseals the pack."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from invarlock.packer.format.layout import GUARD_VALUE
from packs import SCENARIOS, edit_json

from attacks.catalogue import Act, Attack, catalogue
from invarlock.problems import Code

ATTACKS: dict[str, Attack] = {}
attack = catalogue(ATTACKS)


def edited(path: str, change: Callable[[Any], object]) -> Act:
    return lambda pack: edit_json(pack / path, change)


def fault(document: Any) -> Any:
    return next(row for row in document["points"] if row["role"] == "fault")


def step(document: Any, role: str) -> Any:
    return next(row["guard_value"] for row in document["scenarios"] if row["guard_value"]["role"] == role)


RESULT = (Code.RESULT_DOES_NOT_FOLLOW, GUARD_VALUE)
PLAN = (Code.PLAN_CONTRADICTS_ITSELF, SCENARIOS, "scenarios")

for case, path, change, reason in (
    ("detection_count", GUARD_VALUE, lambda s: s["faults"].update(accepted_and_detected=9),
     (*RESULT, "faults.accepted_and_detected")),
    ("false_alarm_less", GUARD_VALUE, lambda s: s["controls"].update(false_alarms=7),
     (*RESULT, "controls.false_alarms")),
    ("guard_that_saw_it", GUARD_VALUE, lambda s: fault(s)["guards_that_signal"].clear(), (*RESULT, None)),
    ("perplexity_that_saw_nothing", GUARD_VALUE, lambda s: fault(s).update(perplexity_accepts=False), (*RESULT, None)),
    ("share_of_a_limit", GUARD_VALUE, lambda s: fault(s)["limits_used"].update({"spectral.deadband_ratio": 0.1}),
     (*RESULT, None)),
    ("report", GUARD_VALUE, lambda s: fault(s).update(report_sha256=f"sha256:{'0' * 64}"), (*RESULT, None)),
    ("point_less", GUARD_VALUE, lambda s: s["points"].pop(), (*RESULT, "points")),
    ("format", GUARD_VALUE, lambda s: s.clear(), (*RESULT, "faults")),
    ("step_of_a_fault", SCENARIOS, lambda s: step(s, "fault").update(value=1.0), PLAN),
    ("guard_of_a_fault", SCENARIOS, lambda s: step(s, "fault").update(guard="rmt"), PLAN),
    ("role", SCENARIOS, lambda s: step(s, "control").update(role="fault", guard="rmt"), PLAN),
):  # fmt: skip
    ATTACKS[f"a_sweep_with_another_{case}"] = Attack(edited(path, change), reason[0], reason[1], reason[2], "all")


@attack(Code.FILE_ABSENT, GUARD_VALUE, sealed="all")
def a_sweep_without_its_document(pack: Path) -> None:
    (pack / GUARD_VALUE).unlink()
