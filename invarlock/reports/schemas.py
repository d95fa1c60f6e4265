"""Assembling the schemas that have a part for each guard, metric and edit.

    python -m invarlock.reports.schemas        # writes contracts/*.schema.json where a part changed

A part is in ``contracts/parts/NAME.json`` or in the object itself. The shipped schemas are complete, so that nobody
needs this module to read them; a test checks that they equal the output of this module.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from invarlock.edits import EDITS
from invarlock.guards import GUARD_NAMES, GUARDS, LIMITED
from invarlock.guards.guard import Guard, no_modules
from invarlock.jsonio import dump_json, parse_json, read_json
from invarlock.metrics import METRICS
from invarlock.metrics.metric import Metric
from invarlock.reports.policy import CORE_GUARDS, PARTS
from invarlock.reports.probes import PROBED

Schema = dict[str, Any]

COMMENT = "Parts come from contracts/parts: change them there, then run python -m invarlock.reports.schemas"


def part_of(part: Guard | Metric) -> Mapping[str, Any]:
    """Return the schema part of a guard or a metric.

    A part has these optional keys: ``definitions`` of measurements by name; ``measured``, either checkpoint or
    activations; ``raw``, the required content of the raw part, by the name of a definition; ``optional``, its optional
    content; ``derived`` properties of the block; ``limits`` of a tier; ``tiers``, the limits by tier of a guard that is
    not in ``tiers.json``; ``learned`` limits of a preset, each with ``limit`` and ``derivation``; ``detectors`` by
    kind.
    """
    if part.schema is not None:
        return part.schema
    data = resources.files("invarlock.contracts").joinpath("parts", f"{part.name}.json").read_bytes()
    document: Mapping[str, Any] = parse_json(data, where=f"{part.name}.json")
    return document


def assembled(folder: Path) -> Iterator[tuple[Path, Any]]:
    """Yield each schema file of a ``contracts`` folder that has parts, with the document assembled from the parts."""
    for name, assemble in _ASSEMBLERS.items():
        path = folder / f"{name}.schema.json"
        document = read_json(path)
        known = read_json(folder / "evaluation_report.schema.json")["properties"]["guards"]["items"]["enum"]
        document["$comment"] = COMMENT
        yield path, assemble(copy.deepcopy(document), [guard for guard in known if guard not in GUARD_NAMES])
    for name, (guard, _) in PROBED.items():
        path = folder / f"{name}.schema.json"
        yield path, _probe(guard, read_json(path))
    path = folder / "tiers.json"
    yield path, _tiers_document(read_json(path))


def _evaluation_report(document: Schema, gone: list[str]) -> Schema:
    properties = document["properties"]
    for name in gone:
        del properties[name]
    for metric in METRICS:
        properties[metric.name] = copy.deepcopy(properties["resolved_policy"])
        if metric.has_raw:
            part = part_of(metric)
            document["$defs"] |= part["definitions"]
            raw = _closed({key: {"$ref": f"#/$defs/{name}"} for key, name in part["raw"].items()})
            properties[metric.name] |= {"properties": {"raw": raw}, "required": ["raw"]}
    for guard in GUARDS:
        part = part_of(guard)
        document["$defs"] |= part["definitions"]
        raw = _closed({key: {"$ref": f"#/$defs/{name}"} for key, name in part["raw"].items()})
        raw["properties"] |= {key: {"$ref": f"#/$defs/{name}"} for key, name in part.get("optional", {}).items()}
        properties[guard.name] = {
            "additionalProperties": False,
            "properties": {**_frame(document), "raw": raw, **part.get("derived", {})},
            "required": ["status", "passed"],
            "type": "object",
        }
    properties["guards"]["items"]["enum"] = list(GUARD_NAMES)
    kept = {name for name in document["required"] if name in properties}
    document["required"] = sorted({*kept, *GUARD_NAMES, *(metric.name for metric in METRICS)})
    return document


def _baseline_report(document: Schema, gone: list[str]) -> Schema:
    properties, draw = document["properties"], document["properties"]["draws"]["items"]
    places = (document, draw, draw["properties"]["probe"])
    for place in places:
        for name in gone:
            place["properties"].pop(name, None)
        place["required"] = [name for name in place["required"] if name not in gone]
    for guard in GUARDS:
        part = part_of(guard)
        name = part["raw"]["baseline"]
        side = {"$ref": f"#/$defs/{name}"}
        document["$defs"][name] = part["definitions"][name]
        contract = {"measurement_contract": _frame(document)["measurement_contract"]}
        if part.get("measured", "checkpoint") == "checkpoint":
            properties[guard.name] = {
                "additionalProperties": False,
                "properties": {**_frame(document), "raw": side},
                "required": ["raw", "measurement_contract"],
                "type": "object",
            }
            required: tuple[Schema, ...] = (document,)
        else:
            properties[guard.name] = _closed(contract)
            draw["properties"][guard.name] = side
            draw["properties"]["probe"]["properties"][guard.name] = side
            required = places
        for place in required:
            place["required"] = sorted({*place["required"], guard.name})
    for metric in (metric for metric in METRICS if metric.has_raw):
        part = part_of(metric)
        name = part["raw"]["baseline"]
        document["$defs"][name] = part["definitions"][name]
        draw["properties"][metric.name] = {"$ref": f"#/$defs/{name}"}
        draw["required"] = sorted({*draw["required"], metric.name})
    return document


def _tiers(document: Schema, gone: list[str]) -> Schema:
    tier = document["properties"]["tiers"]["additionalProperties"]
    for part in PARTS:
        limits = part_of(part).get("limits")
        if limits is not None:
            tier["properties"][part.name] = limits
    tier["properties"] = {name: schema for name, schema in tier["properties"].items() if name not in gone}
    tier["required"] = sorted(tier["properties"])
    return document


def _tiers_document(document: Schema) -> Schema:
    for part in PARTS:
        for tier, limits in part_of(part).get("tiers", {}).items():
            document["tiers"][tier].setdefault(part.name, limits)
    return document


def _calibrated_preset(document: Schema, gone: list[str]) -> Schema:
    for block, key in (("limits", "limit"), ("derivation", "derivation")):
        rows = {}
        for part in PARTS:
            for learnt in part.learned:
                name = learnt.limit if block == "limits" else learnt.block
                rows[name] = part_of(part)["learned"][learnt.limit][key]
        document["properties"][block] = _closed(rows)
    return document


def _null_run(document: Schema, gone: list[str]) -> Schema:
    change = document["properties"]["changes"]["items"]
    contracts = {}
    example = next(iter(document["properties"]["measurement_contracts"]["properties"].values()))
    for guard in GUARDS:
        if guard.null is None:
            continue
        part = part_of(guard)
        used = set(part["raw"].values())
        document["$defs"] |= {name: schema for name, schema in part["definitions"].items() if name in used}
        sides = {key: {"$ref": f"#/$defs/{name}"} for key, name in part["raw"].items()}
        contracts[guard.name] = example
        for place, side in ((document, "baseline"), (change, "subject")):
            place["properties"][guard.name] = sides[side]
            if guard.probe is not None and guard.probe.in_null_runs:
                place["properties"][guard.probe.name] = sides[side]
        # a measurement of both sides together is a property of the change, by the name of its definition
        for key in sides.keys() - {"baseline", "subject"}:
            change["properties"][part["raw"][key]] = sides[key]
    for metric in (metric for metric in METRICS if metric.has_raw):
        part = part_of(metric)
        document["$defs"] |= part["definitions"]
        for place, side in ((document, "baseline"), (change, "subject")):
            place["properties"][metric.name] = {"$ref": f"#/$defs/{part['raw'][side]}"}
    for place in (document, change):
        place["properties"] = {name: schema for name, schema in place["properties"].items() if name not in gone}
        place["required"] = sorted(place["properties"])
    document["properties"]["measurement_contracts"] = _closed(contracts)
    return document


def _probe(guard: Guard, document: Schema) -> Schema:
    part = part_of(guard)
    sides = {key: part["definitions"][part["raw"][key]] for key in ("baseline", "subject")}
    document["properties"]["raw"] = _closed(sides)
    return document


def _scenarios(document: Schema, gone: list[str]) -> Schema:
    row = document["properties"]["scenarios"]["items"]["properties"]
    row["primary_guard"]["enum"] = list(CORE_GUARDS)
    for place in ("guard_value", "sweep"):
        row[place]["properties"]["guard"]["enum"] = list(LIMITED)
    for place in ("detectors_all_of", "detectors_any_of"):
        items = row["requirements"]["properties"][place]["items"]
        general = {_kind(kind): kind for kind in items["oneOf"]}
        new_modules = general["guard_signal_baseline_relative"]
        new_modules["properties"]["guard"]["enum"] = [
            guard.name for guard in GUARDS if guard.signalled_modules is not no_modules
        ]
        probes = next(kind for name, kind in general.items() if name in PROBED)
        probes["properties"]["kind"]["enum"] = list(PROBED)
        own = [schema for part in PARTS for schema in part_of(part).get("detectors", {}).values()]
        items["oneOf"] = [general["validation_flag"], *own, new_modules, probes]
    return document


def _guard_value_sweep(document: Schema, gone: list[str]) -> Schema:
    guards = document["properties"]["guards"]
    counts = next(iter(guards["properties"].values()))
    document["properties"]["guards"] = _closed({name: copy.deepcopy(counts) for name in LIMITED})
    point = document["properties"]["points"]["items"]["properties"]
    point["guard"]["enum"] = [*LIMITED, None]
    point["guards_that_signal"]["items"]["enum"] = list(GUARD_NAMES)
    point["gates_that_refuse"]["items"]["enum"] = [flag for guard in GUARDS for flag in guard.flags]
    point["probes"]["properties"] = {name: {"type": "boolean"} for name in PROBED}
    return document


def _edit_parameters(entries: Schema) -> None:
    """Put the parameters of each edit into the schema of its entries."""
    example = next(iter(entries["properties"].values()))
    known = {parameter.name for edit in EDITS for parameter in edit.parameters}
    common = {name: schema for name, schema in example["properties"].items() if name not in known}
    required = [name for name in example["required"] if name not in known and name in common]
    entries["properties"] = {
        edit.name: {
            **example,
            "properties": {**common, **{parameter.name: dict(parameter.schema) for parameter in edit.parameters}},
            "required": [*required, *(parameter.name for parameter in edit.parameters)],
        }
        for edit in EDITS
        if edit.parameters and edit.family_scope
    }


def _tuned_edit_params(document: Schema, gone: list[str]) -> Schema:
    _edit_parameters(document["properties"]["models"]["additionalProperties"])
    return document


def _edit_config(document: Schema, gone: list[str]) -> Schema:
    _edit_parameters(document["properties"]["edits"]["additionalProperties"])
    return document


def _models(document: Schema, gone: list[str]) -> Schema:
    limits = document["$defs"]["text"]["properties"]["limits"]
    own = [part_of(metric).get("limits", {}).get("properties", {}).get("slices") for metric in METRICS]
    rows = [slices["additionalProperties"]["properties"] for slices in own if slices is not None]
    limits["properties"] = {name: schema for row in rows for name, schema in row.items()}
    return document


_ASSEMBLERS = {
    "evaluation_report": _evaluation_report,
    "baseline_report": _baseline_report,
    "tiers": _tiers,
    "calibrated_preset": _calibrated_preset,
    "null_run": _null_run,
    "scenarios": _scenarios,
    "guard_value_sweep": _guard_value_sweep,
    "tuned_edit_params": _tuned_edit_params,
    "edit_config": _edit_config,
    "models": _models,
}


def _frame(document: Schema) -> Schema:
    """Return the properties that the blocks of all guards share, taken from the first guard's block."""
    block = document["properties"][GUARD_NAMES[0]]["properties"]
    names = ("measurement_contract", "measurement_contract_hash", "metrics", "modules", "passed", "reason", "status")
    return {name: copy.deepcopy(block[name]) for name in (*names, "violations")}


def _closed(properties: Mapping[str, Any]) -> Schema:
    """Return the schema of an object with these properties and no others."""
    return {
        "additionalProperties": False,
        "properties": dict(properties),
        "required": sorted(properties),
        "type": "object",
    }


def _kind(detector: Schema) -> str:
    kind = detector["properties"]["kind"]
    return str(kind["const"] if "const" in kind else kind["enum"][0])


def main() -> None:
    """Rewrite the schemas whose parts changed, in the checkout that contains this module."""
    for path, document in list(assembled(Path(str(resources.files("invarlock.contracts"))))):
        if path.read_bytes() != dump_json(document):
            path.write_bytes(dump_json(document))


if __name__ == "__main__":
    main()
