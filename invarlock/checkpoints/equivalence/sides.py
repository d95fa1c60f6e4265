"""Both checkpoints during the search for their equivalence: matrices are returned after the steps found so far."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from invarlock.checkpoints.equivalence.anatomy import Rows, Site
from invarlock.checkpoints.equivalence.steps import Step, apply, apply_to_outputs
from invarlock.checkpoints.formats.interface import Checkpoint

Steps = Mapping[Site, tuple[Step, ...]]

# A bias counts as moved if this share of its square changed; fine-tuning and bias correction change it by less.
BIAS_MOVED = 0.01
# If a step increases a bias's difference to more than this multiple, the bias did not go through the step.
BIAS_WORSE = 1.1
# Elements that are squared together, so that they stay in the cache.
PART_ELEMENTS = 1 << 18
# The reason for which a step is not used although the weights alone would justify it.
BIAS = "a bias did not change with its weights"


@dataclass(frozen=True)
class Removed:
    """One kind of removed difference: its modules, and the largest value.

    ``largest`` is a factor for scales, a relative change for rotations, and a number of features for orders.
    """

    kind: str
    modules: tuple[str, ...]
    largest: float | None


@dataclass(frozen=True)
class Skipped:
    """One kind of difference that was found but cannot be removed, and the reason."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Sides:
    """A baseline and a subject whose tensors have the same names, and the steps that bring both into one form.

    Attributes:
        base: the baseline.
        own: the subject.
        base_steps: steps on the baseline's matrices.
        own_steps: steps on the subject's matrices, by the baseline's site.
        base_sources: the stored site of a baseline's matrix, if it is another tensor.
        own_sources: the same for the subject, such as an expert with another number.
        compares_biases: whether a bias that does not follow its matrix rules out a step. False if the biases of norms
            differ: folded LayerNorms change them and the biases of matrices.
    """

    base: Checkpoint
    own: Checkpoint
    base_steps: Steps = field(default_factory=dict)
    own_steps: Steps = field(default_factory=dict)
    base_sources: Mapping[Site, Site] = field(default_factory=dict)
    own_sources: Mapping[Site, Site] = field(default_factory=dict)
    compares_biases: bool = True
    removed: tuple[Removed, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def has(self, *sites: Site) -> bool:
        """Return whether both sides have all of these matrices, with equal shapes."""
        stored = [(self.base_sources.get(site, site), self.own_sources.get(site, site)) for site in sites]
        return all(
            base.tensor in self.base.files.shapes
            and self.base.files.shapes[base.tensor] == self.own.files.shapes.get(own.tensor)
            for base, own in stored
        )

    def outputs(self, site: Site) -> int:
        """Return how many outputs a matrix of the baseline has."""
        name = self.base_sources.get(site, site).tensor
        shape = self.base.files.shapes[name]
        return shape[-1] if self.base.files.modules[name].transposed else shape[-2]

    def stored_shape(self, site: Site) -> tuple[int, ...]:
        """Return the shape of a matrix as the baseline stores it."""
        return tuple(self.base.files.shapes[self.base_sources.get(site, site).tensor][-2:])

    def base_matrix(self, site: Site) -> torch.Tensor:
        """Return a matrix of the baseline in its form, shape (out, in), float32."""
        return apply(self.base_steps.get(site, ()), _stored(self.base, self.base_sources.get(site, site)))

    def own_matrix(self, site: Site) -> torch.Tensor:
        """Return the subject's matrix for a site of the baseline, shape (out, in), float32."""
        return apply(self.own_steps.get(site, ()), _stored(self.own, self.own_sources.get(site, site)))

    def pair(self, site: Site) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a matrix of both sides with non-finite values as zero, so that one value does not hide the others."""
        return _finite(self.base_matrix(site)), _finite(self.own_matrix(site))

    def same(self, *sites: Site) -> bool:
        """Return whether each of these matrices is equal on both sides, so that no step can reduce the difference."""
        return all(self._same(site) for site in sites)

    def _same(self, site: Site) -> bool:
        if any(site in moved for moved in (self.base_steps, self.own_steps, self.base_sources, self.own_sources)):
            return False
        base, own = (_part(side.read(site.tensor), site) for side in (self.base, self.own))
        return base.dtype == own.dtype and torch.equal(base, own)

    def slices(self, site: Site, rows: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield slices of some rows of ``pair``; a matrix without steps is never converted as a whole."""
        if site in self.base_steps or site in self.own_steps:
            sides = self.pair(site)
        else:
            own_site = self.own_sources.get(site, site)
            sides = _as_stored(self.base, self.base_sources.get(site, site)), _as_stored(self.own, own_site)
        for base, own in zip(*(torch.split(side, rows) for side in sides), strict=True):
            yield _finite(base.float()), _finite(own.float())

    def pair_of_rows(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Return some rows of both sides, with the shape of ``rows.index`` followed by the inputs."""
        base, own = self.pair(rows.site)
        return base[rows.index.to(base.device)], own[rows.index.to(own.device)]

    def vector(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a one-dimensional tensor of both sides, float32."""
        return self.base.read(name).float(), self.own.read(name).float()

    def biases_follow(self, steps: Steps, turned: Rows | None = None, parts: Sequence[Rows] = ()) -> bool:
        """Return whether the matrices' biases, if there are any, also match the baseline's after the steps.

        The function is the same only if each bias went through the same steps as its matrix.

        Args:
            steps: the steps of each matrix.
            turned: the heads of a matrix whose outputs may also be rotated, which is found later; for these only the
                length of each head's bias is compared.
            parts: rows that are compared separately, if queries, keys and values are rows of one matrix.
        """
        if not self.compares_biases:
            return True
        return all(
            self._bias_follows(
                site,
                more,
                None if turned is None or site != turned.site else turned.index,
                [part.index.flatten() for part in parts if part.site == site],
            )
            for site, more in steps.items()
            if site not in self.own_sources
        )

    def _bias_follows(
        self, site: Site, steps: Sequence[Step], heads: torch.Tensor | None, parts: Sequence[torch.Tensor]
    ) -> bool:
        name = f"{site.tensor.removesuffix('.weight')}.bias"
        shapes = (self.base.files.shapes.get(name), self.own.files.shapes.get(name))
        if site.expert is not None or shapes[0] is None or shapes[0] != shapes[1] or len(shapes[0]) != 1:
            return True
        base, own = (_finite(side)[None] for side in self.vector(name))
        base = apply_to_outputs(self.base_steps.get(site, ()), base)
        own = apply_to_outputs(self.own_steps.get(site, ()), own)
        after = apply_to_outputs(steps, own)
        if heads is not None:
            base, own, after = (torch.linalg.vector_norm(side[0][heads], dim=1) for side in (base, own, after))
            return _follows(base, own, after)
        parts = parts or [torch.arange(base.shape[1])]
        return all(_follows(base[:, rows], own[:, rows], after[:, rows]) for rows in parts)

    def with_steps(
        self, own: Mapping[Site, Sequence[Step]], base: Mapping[Site, Sequence[Step]] | None = None
    ) -> Sides:
        """Return both sides with additional steps."""
        return replace(self, own_steps=_joined(self.own_steps, own), base_steps=_joined(self.base_steps, base or {}))

    def with_own_sources(self, sources: Mapping[Site, Site]) -> Sides:
        """Return both sides with other tensors of the subject for some sites of the baseline."""
        return replace(self, own_sources={**self.own_sources, **sources})

    def remove(self, kind: str, modules: Sequence[str], largest: float | None) -> Sides:
        """Return these sides with one more difference recorded as removed.

        Args:
            kind: the kind of the transformation.
            modules: the modules that it was removed from.
            largest: the largest factor or angle; None if there is no such number.
        """
        return replace(self, removed=(*self.removed, Removed(kind, tuple(modules), largest)))

    def skip(self, kind: str, reason: str) -> Sides:
        """Return these sides with a transformation recorded as not searched for, and the reason."""
        return replace(self, skipped=(*self.skipped, Skipped(kind, reason)))


def _joined(one: Steps, other: Mapping[Site, Sequence[Step]]) -> Steps:
    return {**one, **{site: (*one.get(site, ()), *steps) for site, steps in other.items()}}


def _stored(checkpoint: Checkpoint, site: Site) -> torch.Tensor:
    return _as_stored(checkpoint, site).float()


def _as_stored(checkpoint: Checkpoint, site: Site) -> torch.Tensor:
    tensor = _part(checkpoint.read(site.tensor), site)
    return tensor.mT if checkpoint.files.modules[site.tensor].transposed else tensor


def _part(tensor: torch.Tensor, site: Site) -> torch.Tensor:
    return tensor if site.expert is None else tensor[site.expert]


def _finite(matrix: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(matrix, 0.0, 0.0, 0.0)


def _follows(base: torch.Tensor, own: torch.Tensor, after: torch.Tensor) -> bool:
    left = energy(after - base)
    return left <= BIAS_WORSE * energy(own - base) or left <= BIAS_MOVED * energy(base)


def energy(matrix: torch.Tensor) -> float:
    """Return the sum of squares, in float64."""
    rows = max(1, PART_ELEMENTS * len(matrix) // max(1, matrix.numel()))
    return math.fsum(float(part.double().square_().sum()) for part in torch.split(matrix, rows))
