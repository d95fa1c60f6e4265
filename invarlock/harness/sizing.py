"""What a run needs: of memory for each model, and of room on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from invarlock.catalog.cases import Case
from invarlock.catalog.models import Model, Suite
from invarlock.harness.memory_plan import needed_bytes
from invarlock.harness.run import Run

# What must stay free beside the need. The packs and reports of the embedded models take 30 MB.
MIN_FREE_DISK_GB = {"gpu": 200.0, "cpu": 1.0}


@dataclass(frozen=True)
class ModelNeed:
    """What the cases of one model need: bytes of memory for one case, and of disk for all."""

    model: Model
    cases: int
    memory_bytes: int
    baseline_bytes: int
    subjects_bytes: int

    def document(self) -> dict[str, Any]:
        return {
            "model": self.model.id,
            "cases": self.cases,
            "memory_bytes": self.memory_bytes,
            "baseline_bytes": self.baseline_bytes,
            "subjects_bytes": self.subjects_bytes,
        }


def model_needs(run: Run, cases: Sequence[Case]) -> list[ModelNeed]:
    """Return the need of each model, in the order of the plan."""
    suite = run.catalog.models.suites[run.catalog.suite]
    needs = []
    for model in {case.model.id: case.model for case in cases}.values():
        own = [case for case in cases if case.model == model]
        sized = run.sources.sized(model)
        subjects = len({case.scenario.id for case in own})
        alive = subjects if run.settings["keep_models"] else min(run.workers, len(own))
        needs.append(
            ModelNeed(
                sized, len(own), needed_bytes(sized, suite.requires), sized.weight_bytes, alive * sized.weight_bytes
            )
        )
    return needs


def disk_bytes(run: Run, needs: Sequence[ModelNeed]) -> int:
    """Return the room that a run needs at its peak: all baselines, and the subjects that are there at once."""
    subjects = [need.subjects_bytes for need in needs]
    alive = sum(subjects) if run.settings["keep_models"] else max(subjects, default=0)
    return sum(need.baseline_bytes for need in needs) + alive


def suite_defaults(suite: Suite) -> dict[str, Any]:
    """Return the settings that follow from a suite where none are given."""
    return {
        "clean_runs": suite.clean_runs,
        "stress_runs": suite.stress_runs,
        "min_free_disk_gb": MIN_FREE_DISK_GB[suite.requires],
    }
