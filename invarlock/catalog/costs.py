"""Estimates how long cases take, from the sizes of their models.

Example::

    Costs().case_seconds(case)                                          # 42.7
    Costs().subject_seconds(ModelSize.of(model), "quant_rtn:4:32:all")  # the same, of a model's size and an edit

The estimates order and divide work; only their ratios matter. Measured times replace them while a run is in progress.
"""

from __future__ import annotations

from dataclasses import dataclass

from invarlock.catalog.cases import Case, planned_edit
from invarlock.catalog.models import Model

GB = 1_000_000_000


@dataclass(frozen=True)
class ModelSize:
    """The size of a model, from which times are estimated."""

    parameters: int
    weight_bytes: int

    @staticmethod
    def of(model: Model) -> ModelSize:
        """Return the size of a model."""
        return ModelSize(model.parameters, model.weight_bytes)


@dataclass(frozen=True)
class Costs:
    """Estimates seconds from model sizes, with the rates of one 80 GB data-centre GPU and a local disk.

    Attributes:
        disk: bytes read or written per second.
        compute: floating-point operations per second that scoring reaches.
        tokens: the tokens of all windows of a case.
        fixed_seconds: seconds of a case for any model: tokenising, statistics, files.
        edit_passes: how often the weights are read or written to make and hash a subject.
        low_rank: additional seconds of a low-rank edit per GB of weights.
    """

    disk: float = 2e9
    compute: float = 2e14
    tokens: int = 400 * 512
    fixed_seconds: float = 5.0
    edit_passes: float = 3.0
    low_rank: float = 1.0

    def case_seconds(self, case: Case) -> float:
        """Return the seconds of a case: making its subject, reading it and scoring it."""
        return self.subject_seconds(ModelSize.of(case.model), planned_edit(case.scenario.document, case.model.id))

    def subject_seconds(self, size: ModelSize, edit: str) -> float:
        """Return the seconds of a case, given the model's size and the edit spec or the name of the fault."""
        slow = self.low_rank * size.weight_bytes / GB if edit.startswith("lowrank") else 0.0
        return self.fixed_seconds + (self.edit_passes + 1) * size.weight_bytes / self.disk + slow + self._scoring(size)

    def baseline_seconds(self, size: ModelSize, runs: int) -> float:
        """Return the seconds to make a model's snapshot, its own report and its null runs, which happens once."""
        return self.fixed_seconds + 3 * size.weight_bytes / self.disk + runs * self._scoring(size)

    def _scoring(self, size: ModelSize) -> float:
        return 2 * size.parameters * self.tokens / self.compute
