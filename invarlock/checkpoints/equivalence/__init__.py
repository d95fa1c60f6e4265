"""Models with different weights that compute the same function: the map between them, and both sides in one form.

Example::

    sides = find_equivalence(baseline, subject)     # two ``formats.interface.Checkpoint``
    sides.removed                                   # (Removed("norms", ("model.norm.weight", …), 3.2), …)
    sides.base_matrix(site), sides.own_matrix(site) # what guards compare

These differences change a model's weights but not its function: norms folded into the next matrices; scales and
rotations that the next matrix undoes; a rotated residual stream; hidden units, heads and experts in another order.
"""
