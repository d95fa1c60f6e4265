"""The additional documents that a scenario requires in a report's folder: probes, and documents of deployables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.problems import Problem
from invarlock.reports.deployables import deployable_problems, required_documents
from invarlock.reports.probes import probe_problems, required_probes


def required_companions(scenario: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the additional documents of a scenario's reports, by name without ``.json``."""
    return (*required_probes(scenario), *required_documents(scenario))


def companion_problems(
    scenario: Mapping[str, Any],
    documents: Mapping[str, Any],
    report: Mapping[str, Any],
    baseline: Mapping[str, Any] | None,
    metadata: Mapping[str, Any] | None,
) -> Iterator[Problem]:
    """Yield the problems of the additional documents of a report.

    Args:
        scenario: the scenario of the report.
        documents: all documents that it requires, by name.
        report: the report, which verifies.
        baseline: the baseline's own report, or None.
        metadata: the ``edit_metadata.json`` in the report's folder, None if missing or malformed.
    """
    for name in required_probes(scenario):
        yield from probe_problems(name, documents[name], report, baseline)
    if required_documents(scenario):
        yield from deployable_problems(documents, report, metadata)
