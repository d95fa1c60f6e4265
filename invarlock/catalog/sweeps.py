"""Sweeps: rows of the catalog that expand to several scenarios, one for each value of a parameter.

Example::

    row = {"id": "scale", "generation": {"kind": "error", "params": {}},
           "sweep": {"role": "fault", "guard": "spectral", "parameter": "factor", "values": [1.02, 1.1]}}
    [step["id"] for step in steps(row)]     # ["scale_factor_1.02", "scale_factor_1.1"]

Each step describes its sweep under ``guard_value``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.errors import DocumentError
from invarlock.problems import Code

# The parameter name for the whole spec of an edit.
EDIT_SPEC = "edit_spec"


def steps(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the scenarios that a row of the catalog expands to: the row itself without a sweep.

    Raises:
        DocumentError: when the sweep is over a single parameter of an edit, or over the edit spec of a fault.
    """
    if "sweep" not in row:
        yield dict(row)
        return
    sweep, generation = row["sweep"], row["generation"]
    parameter = sweep["parameter"]
    if (parameter == EDIT_SPEC) != (generation["kind"] == "edit"):
        raise DocumentError(
            f"scenario {row['id']!r}: a sweep of a fault needs one of its parameters, one of an edit {EDIT_SPEC!r}",
            code=Code.SUITE_MALFORMED,
        )
    kept = {key: value for key, value in row.items() if key != "sweep"}
    common = {key: value for key, value in sweep.items() if key != "values"}
    for value in sweep["values"]:
        yield {
            **kept,
            "id": f"{row['id']}_{_name(parameter, value)}",
            "generation": _generation(generation, parameter, value),
            "guard_value": {**common, "value": value},
        }


def step_problem(row: Mapping[str, Any]) -> str | None:
    """Return the mismatch between a scenario's sweep step and the generation of its subject, or None.

    A fault's step belongs to the primary guard of the scenario; a control's step has no guard and is made by an edit.
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
            return f"scenario {row['id']!r}: guard_value.{key} is {found!r}, but its subject has {wanted!r}"
    by_model = generation.get("params_by_model" if is_fault else "edit_spec_by_model", {})
    if by_model and (not is_fault or any(parameter in own for own in by_model.values())):
        return f"scenario {row['id']!r}: guard_value: a model overrides {parameter}; remove the override"
    return None


def _generation(generation: Mapping[str, Any], parameter: str, value: Any) -> dict[str, Any]:
    if parameter == EDIT_SPEC:
        return {**generation, EDIT_SPEC: value}
    return {**generation, "params": {**generation.get("params", {}), parameter: value}}


def _name(parameter: str, value: Any) -> str:
    """Return the part of a scenario id for a step: ``factor_1.02``, or a spec with its separators replaced."""
    if parameter == EDIT_SPEC:
        return re.sub(r"[^A-Za-z0-9.]+", "_", str(value))
    return f"{parameter}_{value:g}"
