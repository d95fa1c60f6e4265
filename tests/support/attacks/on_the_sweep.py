"""Attacks by somebody with the maker's key on the pack of a guard-value sweep; all is sealed again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from invarlock.packer.layout import GUARD_VALUE
from packs import SCENARIOS, edit_json

from attacks.catalogue import Act, Attack, catalogue

ATTACKS: dict[str, Attack] = {}
attack = catalogue(ATTACKS)


def edited(path: str, change: Callable[[Any], object]) -> Act:
    return lambda pack: edit_json(pack / path, change)


def fault(document: Any) -> Any:
    return next(row for row in document["points"] if row["role"] == "fault")


def step(document: Any, role: str) -> Any:
    return next(row["guard_value"] for row in document["scenarios"] if row["guard_value"]["role"] == role)


for case, path, change, reason in (
    ("detection_count", GUARD_VALUE, lambda s: s["faults"].update(accepted_and_detected=9), "accepted_and_detected: 9"),
    ("false_alarm_less", GUARD_VALUE, lambda s: s["controls"].update(false_alarms=7), "controls.false_alarms: 7"),
    ("guard_that_saw_it", GUARD_VALUE, lambda s: fault(s)["guards_that_signal"].clear(), "guards_that_signal"),
    ("perplexity_that_saw_nothing", GUARD_VALUE, lambda s: fault(s).update(perplexity_accepts=False),
     "perplexity_accepts: False, derived True"),
    ("share_of_a_limit", GUARD_VALUE, lambda s: fault(s)["limits_used"].update({"spectral.deadband_ratio": 0.1}),
     "limits_used.spectral.deadband_ratio: 0.1"),
    ("report", GUARD_VALUE, lambda s: fault(s).update(report_sha256=f"sha256:{'0' * 64}"), "report_sha256"),
    ("point_less", GUARD_VALUE, lambda s: s["points"].pop(), "points: 2 entries, derived 3"),
    ("format", GUARD_VALUE, lambda s: s.clear(), "faults: missing, derived"),
    ("step_of_a_fault", SCENARIOS, lambda s: step(s, "fault").update(value=1.0), "guard_value.value is 1.0, its"),
    ("guard_of_a_fault", SCENARIOS, lambda s: step(s, "fault").update(guard="rmt"), "guard_value.guard is 'rmt'"),
    ("role", SCENARIOS, lambda s: step(s, "control").update(role="fault", guard="rmt"), "guard_value.role is 'fault'"),
):  # fmt: skip
    ATTACKS[f"a_sweep_with_another_{case}"] = Attack(edited(path, change), 7, reason, "all")


@attack(7, f"{GUARD_VALUE}: missing", sealed="all")
def a_sweep_without_its_document(pack: Path) -> None:
    (pack / GUARD_VALUE).unlink()
