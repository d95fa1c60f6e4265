"""The fourth symmetry: an output of one matrix may be scaled if the next matrix divides its input by the same factor.

This applies to rows of an up projection and columns of its down projection; rows of a value projection (where heads may
also be rotated) and columns of the output projection; rows of a key projection and the rows of the queries that are
multiplied with them. A scale s is estimated by least squares against the baseline's row, s = <w_baseline, w_subject> /
<w_baseline, w_baseline>; the ratio of the rows' lengths would be biased by rounding noise.
"""

from __future__ import annotations

import torch

from invarlock.checkpoints.equivalence.anatomy import Attention, FeedForward, Rows, Site
from invarlock.checkpoints.equivalence.rotation import find_rotation
from invarlock.checkpoints.equivalence.sides import BIAS, Sides, energy
from invarlock.checkpoints.equivalence.steps import RotateHeads, Scale, Step, apply

# A row counts as unscaled if its cosine with the baseline's row is smaller than this.
ALIKE = 0.5
# A step is used only if it leaves at most this share of the squared difference in each of the two matrices: a scale
# without its inverse in the other matrix would increase the difference there.
MOST_LEFT = 0.9
# Heads are rotated back if scales leave more of the values than rounding would, and a rotation leaves far less.
LEAST_LEFT_BY_SCALES = 0.01
MOST_LEFT_BY_ROTATION = 0.25


def undo_unit_scales(sides: Sides, ffn: FeedForward) -> Sides:
    """Return both sides with the scales between the subject's up and down projections undone."""
    if not sides.has(ffn.up.site, ffn.down) or sides.same(ffn.up.site):
        return sides
    scales = _scales(*sides.pair_of_rows(ffn.up))
    if ffn.freedom == "positive":
        scales = torch.where(scales > 0, scales, 1.0)
    steps = _undo(sides, ffn.up, ffn.down, scales, scales)
    if not _helps(sides, steps, ffn.up, ffn.down):
        return sides
    if ffn.freedom == "none":
        return sides.skip("unit_scales", "the activation does not pass a scale on")
    if not sides.biases_follow(steps):
        return sides.skip("unit_scales", BIAS)
    return sides.with_steps(steps).remove("unit_scales", [ffn.up.site.label, ffn.down.label], _largest(scales))


def undo_value_rotations(sides: Sides, attention: Attention) -> Sides:
    """Return both sides with the rotations between the subject's value and output projections undone, head by head."""
    value, output = attention.value, attention.output
    if not sides.has(value.site, output) or sides.same(value.site):
        return sides
    base, own = sides.pair_of_rows(value)  # (groups, head size, inputs)
    left = [_left_by_scales(*heads) for heads in zip(base, own, strict=True)]
    if not left or max(left) < LEAST_LEFT_BY_SCALES:
        return sides
    # rows are features here, so Q maps the subject's columns, as points, to the baseline's
    rotations = torch.stack([find_rotation([(before.mT, after.mT)]) for before, after in zip(base, own, strict=True)])
    rotated = rotations.mT @ own
    share = energy(rotated - base) / max(energy(base), 1e-300)
    if share > MOST_LEFT_BY_ROTATION * energy(own - base) / max(energy(base), 1e-300):
        return sides
    inputs = torch.arange(attention.query.index.numel()).view(attention.query.index.shape)
    repeats = len(inputs) // len(rotations)
    steps: dict[Site, tuple[Step, ...]] = {
        value.site: (RotateHeads("outputs", value.index, rotations),),
        output: (RotateHeads("inputs", inputs, rotations.repeat_interleave(repeats, 0)),),
    }
    if not _helps(sides, steps, value, output):
        return sides
    if not sides.biases_follow(steps, parts=(value,)):
        return sides.skip("value_rotations", BIAS)
    change = (energy(own - base) / max(energy(base), 1e-300)) ** 0.5
    return sides.with_steps(steps).remove("value_rotations", [value.site.label, output.label], change)


def undo_value_scales(sides: Sides, attention: Attention) -> Sides:
    """Return both sides with the scales between the subject's value and output projections undone."""
    value, output = attention.value, attention.output
    if not sides.has(value.site, output) or sides.same(value.site):
        return sides
    base, own = sides.pair_of_rows(value)
    scales = _scales(base.flatten(0, 1), own.flatten(0, 1))
    groups, size = value.index.shape
    repeats = len(attention.query.index) // groups
    inputs = scales.view(groups, size).repeat_interleave(repeats, 0).flatten()
    steps = _undo(sides, value, output, scales, inputs)
    if not _helps(sides, steps, value, output):
        return sides
    if not sides.biases_follow(steps, parts=(value,)):
        return sides.skip("value_scales", BIAS)
    return sides.with_steps(steps).remove("value_scales", [value.site.label, output.label], _largest(scales))


def undo_key_scales(sides: Sides, attention: Attention) -> Sides:
    """Return both sides with the scales between the subject's keys and queries undone.

    Source of such scales: Lin et al. 2024, "QServe", section 4.2 (SmoothAttention), one for each rotary pair.
    """
    key, query, features = attention.key, attention.query, attention.key_features
    if features is None or not sides.has(key.site, query.site) or sides.same(key.site):
        return sides
    base, own = (side[:, features].flatten(2).flatten(0, 1) for side in sides.pair_of_rows(key))
    groups, size = key.index.shape
    scales = torch.ones(groups, size)
    scales[:, features.flatten()] = _scales(base, own).cpu().repeat_interleave(features.shape[1]).view(groups, -1)
    repeats = len(query.index) // groups
    factors = {site: torch.ones(sides.outputs(site)) for site in (key.site, query.site)}
    factors[key.site][key.index.flatten()] = 1 / scales.flatten()
    factors[query.site][query.index.flatten()] = scales.repeat_interleave(repeats, 0).flatten()
    steps: dict[Site, tuple[Step, ...]] = {site: (Scale("outputs", one),) for site, one in factors.items()}
    if not _helps(sides, steps, key, query):
        return sides
    if not sides.biases_follow(steps, parts=(key, query)):
        return sides.skip("key_scales", BIAS)
    return sides.with_steps(steps).remove("key_scales", [key.site.label, query.site.label], _largest(scales))


def _scales(base: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Return the scale of each row, 1 if the rows are not alike; shape (rows,)."""
    base, own = base.double(), own.double()
    along, length = (base * own).sum(dim=1), base.square().sum(dim=1)
    alike = along.abs() > ALIKE * (length * own.square().sum(dim=1)).sqrt()
    return torch.where(alike & (length > 0), along / length, 1.0).float()


def _left_by_scales(base: torch.Tensor, own: torch.Tensor) -> float:
    """Return the share of the squared rows that their scales do not explain."""
    total = energy(own)
    return energy(own - _scales(base, own)[:, None] * base) / total if total > 0 else 0.0


def _undo(
    sides: Sides, rows: Rows, reader: Site, outputs: torch.Tensor, inputs: torch.Tensor
) -> dict[Site, tuple[Step, ...]]:
    factors = torch.ones(sides.outputs(rows.site))
    factors[rows.index.flatten()] = 1 / outputs
    return {rows.site: (Scale("outputs", factors),), reader: (Scale("inputs", inputs),)}


def _helps(sides: Sides, steps: dict[Site, tuple[Step, ...]], *parts: Rows | Site) -> bool:
    """Return whether the steps leave enough less of the difference of each matrix, or of some rows of it."""
    for part in parts:
        site = part.site if isinstance(part, Rows) else part
        base, own = sides.pair(site)
        undone = apply(steps[site], own)
        if isinstance(part, Rows):
            index = part.index.flatten()
            base, own, undone = base[index], own[index], undone[index]
        if not energy(undone - base) < MOST_LEFT * energy(own - base):
            return False
    return True


def _largest(scales: torch.Tensor) -> float:
    sizes = scales.abs()
    return max(float(sizes.max()), float(1 / sizes.min()))
