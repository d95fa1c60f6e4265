"""The additional documents that a scenario requires in a report's folder: probes, and documents of deployables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.problems import Problem
from invarlock.reports.deployables import deployable_problems, documents_asked
from invarlock.reports.probes import probe_problems, probes_asked


def companions_asked(scenario: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the additional documents of a scenario's reports, by name without ``.json``."""
    return (*probes_asked(scenario), *documents_asked(scenario))


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
    for name in probes_asked(scenario):
        yield from probe_problems(name, documents[name], report, baseline)
    if documents_asked(scenario):
        yield from deployable_problems(documents, report, metadata)
