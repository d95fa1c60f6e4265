"""The documents that stand beside a report because its scenario asks for them: probes, and what a deployable needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.problems import Problem
from invarlock.reports.deployables import deployable_problems, documents_asked
from invarlock.reports.probes import probe_problems, probes_asked


def companions_asked(scenario: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the documents, by name without ``.json``, that stand beside the reports of a scenario."""
    return (*probes_asked(scenario), *documents_asked(scenario))


def companion_problems(
    scenario: Mapping[str, Any],
    documents: Mapping[str, Any],
    report: Mapping[str, Any],
    baseline: Mapping[str, Any] | None,
    metadata: Mapping[str, Any] | None,
) -> Iterator[Problem]:
    """Yield what is wrong with the documents beside a report.

    Args:
        scenario: the report's.
        documents: all that it asks for, by name.
        report: which verifies.
        baseline: the baseline's own report, None when there is none.
        metadata: the ``edit_metadata.json`` beside the report, None where there is none that is well-formed.
    """
    for name in probes_asked(scenario):
        yield from probe_problems(name, documents[name], report, baseline)
    if documents_asked(scenario):
        yield from deployable_problems(documents, report, metadata)
