"""The bench on which a worker runs its cases: subjects made, measured against their baseline, and removed.

A case is done when its ``runtime.manifest.json`` is there, which binds the report beside it.
"""

from __future__ import annotations

import shutil
from typing import Any

from invarlock.catalog.cases import Case
from invarlock.catalog.tuned_params import read_tuned_params
from invarlock.evaluation.comparison import compare
from invarlock.evaluation.documents import reference
from invarlock.evaluation.models import Placement
from invarlock.harness.baselines import Baselines
from invarlock.harness.case_files import write_case
from invarlock.harness.resuming import kept_report
from invarlock.harness.run import Run
from invarlock.harness.subjects import make_subject, subject_spec
from invarlock.reports.policy import resolve_policy
from invarlock.reports.probes import probes_asked
from invarlock.runtime.determinism import apply_determinism


class Bench:
    """A worker's bench."""

    def __init__(self, run: Run) -> None:
        self.run = run
        suite = run.catalog.models.suites[run.catalog.suite]
        self.placement = Placement("cuda" if suite.requires == "gpu" else "cpu")
        self.baselines = Baselines(run, self.placement)
        self.policy = resolve_policy(run.settings["tier"], run.settings["profile"], {})
        self.tuned = read_tuned_params(run.tuned_params_path)
        apply_determinism(run.settings["determinism"], run.workers)

    def evaluate(self, case: Case) -> dict[str, Any]:
        """Run a case and return its report with its probes, which are then on disk with its sidecars.

        Raises:
            InvarLockError: when the baseline is not the one pinned, the subject cannot be made, or it does not fit.
        """
        baseline, setup = self.baselines.baseline(case.model), self.baselines.setup(case.model)
        path = self.run.directory.report(case)
        repeats = self.run.settings["repeats"] if case.scenario.category == "clean" else 0
        if self.run.settings["resume"]:
            spec = subject_spec(case, self.tuned)
            kept = kept_report(case, path, setup, baseline.document, baseline.report_sha256, spec, repeats)
            if kept is not None:
                return kept
        subject = self.run.directory.subject(case)
        shutil.rmtree(subject, ignore_errors=True)
        try:
            made = make_subject(case, self.tuned, baseline.snapshot, subject)
            draw = self.baselines.draw(case.model, case.run)
            against = reference(baseline.document, case.run, probe=bool(probes_asked(case.scenario.document)))
            measured, *again = (
                compare(subject, against, draw, setup.plan, self.placement, self.policy["variance"])
                for _ in range(1 + repeats)
            )
        finally:
            # all runs of a scenario have the same subject: one is kept
            if not self.run.settings["keep_models"] or case.run > 1:
                shutil.rmtree(subject, ignore_errors=True)
        return write_case(path, case, setup, baseline, draw, made, measured, again)
