"""Declared changes of a model's widths, and the tensor shapes and config fields that follow from them.

Example::

    widths = declared_widths({"expected": ["ffn=1024"]}, baseline_config, subject_config)
    widths.fits([1024, 768], [2048, 768])     # True: an up projection with 1024 of 2048 units
    widths.fits([1024, 700], [2048, 768])     # False
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from invarlock.judgement.expectations import WIDTHS, expected

# The names of a width in configs; the first one that a config has is used.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "width": ("hidden_size", "n_embd", "d_model"),
    "ffn": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
    "heads": ("num_attention_heads", "n_head"),
    "kv-heads": ("num_key_value_heads",),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
}
HEAD_SIZE = "head_dim"
# If the config of a GPT-2-like model does not state its FFN size, it is this many times the model's width.
FFN_BY_WIDTH = 4
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Widths:
    """The consequences of declared widths: the lengths of dimensions that change, and the fields of a config."""

    lengths: frozenset[tuple[int, int]] = frozenset()
    fields: frozenset[str] = frozenset()

    def fits(self, own: Sequence[int], base: Sequence[int]) -> bool:
        """Return whether each dimension is the baseline's or changes as declared."""
        if len(own) != len(base):
            return False
        return all(mine == theirs or (theirs, mine) in self.lengths for mine, theirs in zip(own, base, strict=True))


def width_of(config: Facts, what: str) -> int | None:
    """Return a width that a config states, by its name in ``--expect``; None if it is not stated."""
    for field in FIELDS[what]:
        value = _stated(config, field)
        if value is not None:
            return value
    if what == "kv-heads":
        return width_of(config, "heads")
    width = width_of(config, "width") if what == "ffn" else None
    return None if width is None else FFN_BY_WIDTH * width


def declared_widths(edit: Facts | None, before: Facts, after: Facts) -> Widths:
    """Return the consequences of the widths that an edit declares.

    Args:
        edit: the report's ``edit``.
        before: the baseline's ``configuration.config``.
        after: the subject's ``configuration.config``, for the size of a head.
    """
    found = {what: expected(edit, what) for what in WIDTHS}
    if not any(found.values()):
        return Widths()
    base = {what: width_of(before, what) for what in WIDTHS}
    own = {}
    for what, size in base.items():
        declared = found[what]
        own[what] = size if declared is None or size is None else declared.wanted(size)
    if found["width"] is not None and not any(_stated(before, field) for field in FIELDS["ffn"]):
        own["ffn"] = None if own["width"] is None else FFN_BY_WIDTH * own["width"]
    fields = {field for what in WIDTHS if found[what] is not None for field in FIELDS[what]}
    sizes = (_head_size(before, base), _head_size(after, own))
    if sizes[0] != sizes[1] and {"width", "heads"} & {what for what in WIDTHS if found[what] is not None}:
        # the head size follows from width and heads, unless a config states another
        if sizes == (_quotient(base), _quotient(own)):
            fields.add(HEAD_SIZE)
        else:
            sizes = (sizes[0], sizes[0])
    pairs = zip(_lengths(base, sizes[0]), _lengths(own, sizes[1]), strict=True)
    lengths = {(one, other) for one, other in pairs if one is not None and other is not None and one != other}
    return Widths(frozenset(lengths), frozenset(fields))


def _stated(config: Facts, field: str) -> int | None:
    value = config.get(field, config.get(f"text_config.{field}"))
    return value if type(value) is int else None


def _quotient(sizes: Mapping[str, int | None]) -> int | None:
    width, heads = sizes["width"], sizes["heads"]
    return width // heads if width and heads else None


def _head_size(config: Facts, sizes: Mapping[str, int | None]) -> int | None:
    stated = _stated(config, HEAD_SIZE)
    return _quotient(sizes) if stated is None else stated


def _lengths(sizes: Mapping[str, int | None], head: int | None) -> Iterator[int | None]:
    """Yield the possible lengths of weight dimensions, in one order for both sides; None if a length is not known."""
    width, units, heads, groups, experts = (sizes[what] for what in ("width", "ffn", "heads", "kv-heads", "experts"))
    yield from (width, None if width is None else 3 * width, units, None if units is None else 2 * units, heads, head)
    yield experts
    whole = [None if count is None or head is None else count * head for count in (heads, groups)]
    yield from whole
    yield None if whole[0] is None or whole[1] is None else whole[0] + 2 * whole[1]
