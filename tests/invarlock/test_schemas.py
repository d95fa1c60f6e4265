"""Every schema bounds what it lets in: the length of each text, the size of each list, the value of each number."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CONTRACTS = Path(__file__).parents[2] / "contracts"
SCHEMAS = sorted(CONTRACTS.glob("*.schema.json"))
MAPS = ("properties", "$defs", "patternProperties")
SINGLE = ("items", "additionalProperties", "propertyNames", "contains")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")


def unbounded(node: Any, path: str = "") -> Iterator[str]:
    """Yield the place of each text, number, list and table of a schema that may be of any size."""
    if not isinstance(node, dict):
        return
    kinds = node.get("type", [])
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    if "enum" not in node and "const" not in node:
        if "string" in kinds and "maxLength" not in node and may_repeat(node.get("pattern", ".*")):
            yield f"{path}: a text without maxLength"
        if kinds & {"number", "integer"}:
            for bound in ("inimum", "aximum"):
                if f"m{bound}" not in node and f"exclusiveM{bound}" not in node:
                    yield f"{path}: a number without m{bound}"
        if "array" in kinds and "maxItems" not in node:
            yield f"{path}: a list without maxItems"
        if "object" in kinds and node.get("additionalProperties", True) is not False:
            if "maxProperties" not in node or "maxLength" not in node.get("propertyNames", {}):
                yield f"{path}: a table of any names without maxProperties and propertyNames"
            if not node.get("additionalProperties") or node["additionalProperties"] is True:
                yield f"{path}: a table of any values"
    for key in MAPS:
        for name, inner in node.get(key, {}).items():
            yield from unbounded(inner, f"{path}/{name}")
    for key in SINGLE:
        yield from unbounded(node.get(key), f"{path}/{key}")
    for key in LISTS:
        for index, inner in enumerate(node.get(key, [])):
            yield from unbounded(inner, f"{path}/{key}[{index}]")


def may_repeat(pattern: str) -> bool:
    """Say whether a pattern may match a text of any length."""
    outside = re.sub(r"\[[^\]]*\]", "x", pattern)
    return re.search(r"[*+]|\{\d+,\}", outside) is not None or not pattern.startswith("^")


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name.removesuffix(".schema.json"))
def test_a_schema_bounds_every_text_number_list_and_table(path: Path) -> None:
    assert list(unbounded(json.loads(path.read_bytes()))) == []


def test_what_is_not_bounded_is_found() -> None:
    schema = {
        "type": "object",
        "properties": {
            "text": {"type": "string", "pattern": "^a*$"},
            "digest": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
            "count": {"type": ["integer", "null"], "minimum": 0},
            "list": {"type": "array", "items": {"type": "string", "maxLength": 3}},
        },
        "additionalProperties": False,
    }

    found = list(unbounded(schema))

    assert [line.split(":")[0] for line in found] == ["/text", "/count", "/list"]
    assert list(unbounded({"type": "object"})) == [
        ": a table of any names without maxProperties and propertyNames",
        ": a table of any values",
    ]
