"""Compares weights in a form that subject and baseline share, if their stored forms differ too much.

Two models can compute the same function with different weights (``checkpoints.equivalence``). If the stored matrices
differ by more than rounding, this module looks for the transformation that maps one model onto the other, and measures
again, one by one, the matrices that it changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from invarlock.checkpoints.equivalence.anatomy import Site
from invarlock.checkpoints.equivalence.finding import find_equivalence
from invarlock.checkpoints.equivalence.layouts import other_names
from invarlock.checkpoints.equivalence.sides import Sides
from invarlock.checkpoints.equivalence.steps import Rotate, RotateHeads, Step
from invarlock.checkpoints.storage_format import open_checkpoint
from invarlock.evaluation.checkpoint_facts import SPECTRAL_FAMILIES, CheckpointFacts
from invarlock.measuring import spectral, weight_changes
from invarlock.stages import stage

Rows = dict[str, dict[str, Any]]

# A subject whose changes are all below these limits is compared as it is stored. They are at most half of the strictest
# tier's limits. Rounding to 4 bits changes a matrix by at most 0.15.
LARGE_CHANGE: Mapping[str, float] = {"relative": 0.3, "coherent": 0.1, "flipped": 0.005, "edge_risk": 1.25}
LARGE_LOG_RATIO = 0.02
# Numbers in the report have as many digits as those of a spectrum.
DIGITS = spectral.DIGITS


@dataclass(frozen=True)
class OutputTransform:
    """Transforms outputs of the subject's layers into the baseline's form.

    Attributes:
        residual: the steps for layers that write to the residual stream.
        values: the steps for value projections, by module name.
        experts: the baseline's number of each of the subject's experts, by block.
    """

    residual: Rotate | None
    values: Mapping[str, RotateHeads]
    experts: Mapping[int, tuple[int, ...]]

    def of_linear(self, module: str, role: str) -> tuple[Step, ...]:
        """Return the steps for the outputs of a linear layer with this role."""
        if role in ("o", "down"):
            return () if self.residual is None else (self.residual,)
        return (self.values[module],) if module in self.values else ()


NO_TRANSFORM = OutputTransform(None, {}, {})


@dataclass(frozen=True)
class CanonicalForm:
    """The form in which a subject is compared: the differences removed, those that cannot be, and the new measurements.

    Attributes:
        removed: the report's ``equivalence``.
        skipped: the report's ``equivalence_not_used``.
        spectra: rows by module, for ``baseline`` and ``subject``.
        changes: rows by module.
        outputs: the transformation of outputs, for the guards on activations.
    """

    removed: list[dict[str, Any]]
    skipped: list[dict[str, Any]]
    spectra: Mapping[str, Rows]
    changes: Rows
    outputs: OutputTransform


def needs_canonical_form(baseline: CheckpointFacts, subject: CheckpointFacts) -> bool:
    """Return whether a subject's matrices differ from the baseline's by more than rounding does, or it has a head more.

    A quantiser may store the head of a model apart from the embedding to which it is tied.
    """
    if baseline.invariants["head"] is None and subject.invariants["head"] is not None:
        return True
    for row in subject.changes.values():
        if any(row[key] is not None and row[key] > limit for key, limit in LARGE_CHANGE.items()):
            return True
    before, after = baseline.spectral["modules"], subject.spectral["modules"]
    return any(
        abs(math.log(own[key] / before[name][key])) > LARGE_LOG_RATIO
        for name, own in after.items()
        if name in before
        for key in ("sigma", "frobenius")
        if own[key] and before[name][key]
    )


def measure_canonical_form(
    baseline: Path, subject: Path, stored: CheckpointFacts, own: CheckpointFacts
) -> CanonicalForm | None:
    """Return the form in which a subject is compared, or None if it is compared as it is stored.

    Peak memory is one matrix of both sides with its working copies, and the tensors read last.

    Args:
        baseline: the baseline's folder.
        subject: the subject's folder.
        stored: the facts of the baseline as it is stored.
        own: the facts of the subject as it is stored.

    Raises:
        CheckpointError: when one cannot be read.
    """
    before, after = open_checkpoint(baseline), open_checkpoint(subject, baseline)
    sides = Sides(before, after)
    if needs_canonical_form(stored, own):
        with stage("checking for equivalent weights"):
            sides = find_equivalence(before, after)
    names = other_names(after)
    if names:
        sides = sides.remove("names", names, None)
    if not sides.removed and not sides.skipped:
        return None
    spectra: dict[str, Rows] = {"baseline": {}, "subject": {}}
    changes: Rows = {}
    for site in _moved(sides):
        family = sides.base.files.modules.get(site.tensor, sides.own.files.modules.get(site.tensor))
        if family is None or family.family not in SPECTRAL_FAMILIES:
            continue
        was, now = (_on_device(side) for side in (sides.base_matrix(site), sides.own_matrix(site)))
        shape = sides.stored_shape(site)
        as_stored = site not in sides.base_steps and site not in sides.base_sources
        spectra["baseline"][site.label] = (
            stored.spectral["modules"][site.label] if as_stored else _spectrum(family.family, shape, was)
        )
        spectra["subject"][site.label] = _spectrum(family.family, shape, now)
        (change,) = weight_changes.measure_changes(was[None], now[None])
        changes[site.label] = {**asdict(change), "unit_order": None}
    return CanonicalForm(
        [{"kind": one.kind, "modules": list(one.modules), "largest": _number(one.largest)} for one in sides.removed],
        [{"kind": one.kind, "reason": one.reason} for one in sides.skipped],
        {side: dict(sorted(rows.items())) for side, rows in spectra.items()},
        dict(sorted(changes.items())),
        _output_transform(sides),
    )


def _moved(sides: Sides) -> Iterator[Site]:
    """Yield the matrices whose form differs from the stored one on either side; those of one block are adjacent."""
    moved = {*sides.base_steps, *sides.own_steps, *sides.own_sources, *sides.base_sources}
    yield from sorted(moved, key=lambda site: (site.tensor, site.expert or 0))


def _spectrum(family: str, shape: Sequence[int], matrix: torch.Tensor) -> dict[str, Any]:
    (found,) = spectral.measure_spectra(matrix[None])
    return {
        "family": family,
        "shape": list(shape),
        "sigma": found.sigma,
        "residual": found.residual,
        "frobenius": found.frobenius,
    }


def _on_device(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.cuda() if torch.cuda.is_available() else matrix


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def _output_transform(sides: Sides) -> OutputTransform:
    residual: Rotate | None = None
    values: dict[str, RotateHeads] = {}
    for site, steps in sides.own_steps.items():
        for step in _of_outputs(steps):
            if isinstance(step, Rotate):
                residual = step
            elif isinstance(step, RotateHeads):
                values[site.tensor.removesuffix(".weight")] = step
    experts: dict[int, dict[int, int]] = {}
    modules = sides.base.files.modules
    for site, source in sides.own_sources.items():
        module = modules.get(site.tensor)
        if module is None or module.role != "down" or module.layer is None:
            continue
        number = module.expert if site.expert is None else site.expert
        other = modules[source.tensor].expert if source.expert is None else source.expert
        if number is not None and other is not None:
            experts.setdefault(module.layer, {})[other] = number
    return OutputTransform(
        residual,
        values,
        {layer: tuple(order[number] for number in sorted(order)) for layer, order in experts.items()},
    )


def _of_outputs(steps: Sequence[Step]) -> Iterator[Step]:
    return (step for step in steps if step.side == "outputs")
