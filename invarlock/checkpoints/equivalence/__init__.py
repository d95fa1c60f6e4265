"""The same function in other weights: what maps a subject onto its baseline, and both sides in one form.

Example::

    sides = find_equivalence(baseline, subject)     # two ``formats.interface.Checkpoint``
    sides.removed                                   # (Removed("norms", ("model.norm.weight", …), 3.2), …)
    sides.base_matrix(site), sides.own_matrix(site) # what guards compare

Norms folded into the next matrices, scales and rotations that the next matrix undoes, a rotated residual stream, hidden
units, heads and experts in another order: none of them changes what a model computes, and all of them its weights.
"""
