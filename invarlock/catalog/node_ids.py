"""The parts of a pytest node id, such as ``suites/test_scenarios.py::test_scenario[mistral-noop-run1]``."""

from __future__ import annotations


def parameter_id(node_id: str) -> str:
    """Return the bracketed part of a node id, or an empty string if it has no brackets."""
    return node_id.partition("[")[2].removesuffix("]")


def file_part(node_id: str) -> str:
    """Return the path at the start of a node id or of an argument of pytest's command line."""
    return node_id.partition("::")[0].partition("[")[0]
