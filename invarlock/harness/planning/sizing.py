"""The memory that each model of a run needs, and the disk space of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from invarlock.catalog.cases import Case
from invarlock.catalog.models import Model, Suite
from invarlock.documents.runs import PlannedModel
from invarlock.errors import UsageError
from invarlock.harness.devices.memory_plan import USUAL_SEQ_LEN, USUAL_TOKENS, needed_bytes
from invarlock.harness.sources.texts import text_counts, window_counts
from invarlock.harness.state.run import Run

# Disk space that must stay free beyond the computed need. Packs and reports of the embedded models take 30 MB.
MIN_FREE_DISK_GB = {"gpu": 200.0, "cpu": 1.0}
EXECUTION_MODES = {"gpu": "container", "cpu": "host"}


@dataclass(frozen=True)
class ModelNeed:
    """The needs of one model's cases: bytes of memory for one case, and bytes of disk space for all.

    ``kept_bytes`` is the size of the baseline's most probable tokens; each draw of windows has its own.
    """

    model: Model
    cases: int
    memory_bytes: int
    baseline_bytes: int
    subjects_bytes: int
    kept_bytes: int = 0

    def document(self) -> PlannedModel:
        """Return the need as a row of the plan's document."""
        return {
            "model": self.model.id,
            "cases": self.cases,
            "memory_bytes": self.memory_bytes,
            "baseline_bytes": self.baseline_bytes,
            "subjects_bytes": self.subjects_bytes,
            "kept_bytes": self.kept_bytes,
        }


@dataclass(frozen=True)
class DiskNeed:
    """The bytes that a run writes to the cache of the hub's client and to its own folder."""

    cache_bytes: int
    baselines_bytes: int
    subjects_bytes: int
    kept_bytes: int = 0

    @property
    def run_bytes(self) -> int:
        """Return the bytes that the run directory needs."""
        return self.baselines_bytes + self.subjects_bytes + self.kept_bytes

    def on_run_disk(self, *, shares_cache: bool) -> int:
        """Return the bytes needed on the run's file system, including the cache if it is on the same one."""
        return self.run_bytes + (self.cache_bytes if shares_cache else 0)


def model_needs(run: Run, cases: Sequence[Case]) -> list[ModelNeed]:
    """Return the need of each model, in the order of the plan."""
    suite = run.catalog.models.suites[run.catalog.suite]
    windows, seq_len = forward_pass(run)
    kept = kept_bytes(run)
    needs = []
    for model in {case.model.id: case.model for case in cases}.values():
        own = [case for case in cases if case.model == model]
        sized = run.sources.sized(model)
        subjects = len({case.scenario.id for case in own})
        alive = subjects if run.settings.keep_models else min(run.workers, len(own))
        needs.append(
            ModelNeed(
                sized,
                len(own),
                needed_bytes(sized, suite.requires, windows * seq_len, seq_len),
                sized.weight_bytes,
                alive * sized.weight_bytes,
                len({case.run for case in own}) * kept,
            )
        )
    return needs


def kept_bytes(run: Run) -> int:
    """Return the bytes of a baseline's most probable tokens for one draw of windows; 0 if no text is named.

    Each position has an id and a log-probability per kept token, and the log-probability of the text's token, each of
    4 bytes.
    """
    try:
        positions = sum(counts.final * (counts.seq_len - 1) for _, counts in text_counts(run))
    except UsageError:
        return 0
    return positions * (8 * int(run.settings.top_k) + 4)


def forward_pass(run: Run) -> tuple[int, int]:
    """Return the number of windows in the largest forward pass, and their length; the defaults if no text is named."""
    try:
        first, longest = window_counts(run).seq_len, max(counts.seq_len for _, counts in text_counts(run))
    except UsageError:
        return USUAL_TOKENS // USUAL_SEQ_LEN, USUAL_SEQ_LEN
    # ``score_blocks`` divides windows in the same way
    return max(1, int(run.settings.eval_batch) * first // longest), longest


def disk_bytes(run: Run, needs: Sequence[ModelNeed]) -> int:
    """Return the peak size of a run's folder in bytes: all baselines, and the subjects that exist at the same time."""
    return disk_need(
        needs,
        missing_bytes=0,
        storage=run.settings.baseline_storage_mode,
        keep_models=run.settings.keep_models,
    ).run_bytes


def disk_need(needs: Sequence[ModelNeed], *, missing_bytes: int, storage: str, keep_models: bool) -> DiskNeed:
    """Return the disk space that a run needs at its peak.

    Args:
        needs: the needs of the run's models.
        missing_bytes: the bytes to download into the cache of the hub's client.
        storage: ``snapshot_copy``, or ``snapshot_symlink``, with which baselines take no space. Savings from cloned
            files are ignored.
        keep_models: whether all subjects stay; otherwise at most those of the largest model exist at the same time.
    """
    subjects = [need.subjects_bytes for need in needs]
    copies = 0 if storage == "snapshot_symlink" else sum(need.baseline_bytes for need in needs)
    alive = sum(subjects) if keep_models else max(subjects, default=0)
    return DiskNeed(missing_bytes, copies, alive, sum(need.kept_bytes for need in needs))


def suite_defaults(suite: Suite) -> dict[str, Any]:
    """Return the default settings of a suite."""
    return {
        "clean_runs": suite.clean_runs,
        "stress_runs": suite.stress_runs,
        "calibration_runs": suite.calibration_runs,
        "execution_mode": EXECUTION_MODES[suite.requires],
        "min_free_disk_gb": MIN_FREE_DISK_GB[suite.requires],
    }
