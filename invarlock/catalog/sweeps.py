"""Sweeps: rows of the catalog that stand for many scenarios, one for each value of a parameter.

Example::

    row = {"id": "scale", "generation": {"kind": "error", "params": {}, …},
           "sweep": {"role": "fault", "guard": "spectral", "parameter": "factor", "values": [1.02, 1.1]}, …}
    [step["id"] for step in steps(row)]     # ["scale_factor_1.02", "scale_factor_1.1"]

Each step says what it is a step of under ``guard_value``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.errors import DocumentError

# The parameter that stands for the whole spec of an edit.
EDIT_SPEC = "edit_spec"


def steps(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the scenarios that a row of the catalog stands for: itself where it has no sweep.

    Raises:
        DocumentError: when the sweep is of an edit's parameter by name, or of a fault's edit spec.
    """
    if "sweep" not in row:
        yield dict(row)
        return
    sweep, generation = row["sweep"], row["generation"]
    parameter = sweep["parameter"]
    if (parameter == EDIT_SPEC) != (generation["kind"] == "edit"):
        raise DocumentError(
            f"scenario {row['id']!r}: a sweep of a fault names one of its parameters, that of an edit {EDIT_SPEC!r}"
        )
    kept = {key: value for key, value in row.items() if key != "sweep"}
    told = {key: value for key, value in sweep.items() if key != "values"}
    for value in sweep["values"]:
        yield {
            **kept,
            "id": f"{row['id']}_{_name(parameter, value)}",
            "generation": _generation(generation, parameter, value),
            "guard_value": {**told, "value": value},
        }


def step_problem(row: Mapping[str, Any]) -> str | None:
    """Return where what a scenario says to be a step of is not what its subject is made by; None where all is well.

    A fault's step is of the guard that the scenario is meant for, a control's of no guard and made by an edit.
    """
    step, generation = row.get("guard_value"), row["generation"]
    if step is None:
        return None
    parameter, is_fault = step["parameter"], generation["kind"] == "error"
    made = generation.get("params", {}) if is_fault else generation
    pairs = [
        ("role", step["role"], "fault" if is_fault else "control"),
        ("guard", step.get("guard"), row["primary_guard"] if is_fault else None),
        ("value", step["value"], made.get(parameter)),
    ]
    for key, found, wanted in pairs:
        if found != wanted:
            return f"scenario {row['id']!r}: guard_value.{key} is {found!r}, its subject's is {wanted!r}"
    by_model = generation.get("params_by_model" if is_fault else "edit_spec_by_model", {})
    if by_model and (not is_fault or any(parameter in own for own in by_model.values())):
        return f"scenario {row['id']!r}: guard_value: a model has another {parameter}"
    return None


def _generation(generation: Mapping[str, Any], parameter: str, value: Any) -> dict[str, Any]:
    if parameter == EDIT_SPEC:
        return {**generation, EDIT_SPEC: value}
    return {**generation, "params": {**generation.get("params", {}), parameter: value}}


def _name(parameter: str, value: Any) -> str:
    """Return a step's part of a scenario id: ``factor_1.02``, or a spec with its separators replaced."""
    if parameter == EDIT_SPEC:
        return re.sub(r"[^A-Za-z0-9.]+", "_", str(value))
    return f"{parameter}_{value:g}"
