"""The sixth symmetry: the same tensors under the names, and in the stacks, that transformers 5 has in memory.

A model that was saved with ``save_original_format=False`` has one stack of all experts' matrices where its baseline has
a tensor for each expert, and other names. transformers loads both forms. The subject is read in the baseline's form.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from invarlock.checkpoints.equivalence.names import RenamedCheckpoint
from invarlock.checkpoints.equivalence.places import Cell, Grid, Place, Places, find_places
from invarlock.checkpoints.formats.interface import Checkpoint, Defect, Storage
from invarlock.checkpoints.safetensors_files import ITEM_BYTES, CheckpointFiles, TensorEntry

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
Entries = Mapping[str, TensorEntry]
Cells = Mapping[Cell | None, TensorEntry]
# More experts than any model has; a header may state any number.
MOST_EXPERTS = 1 << 14
# The number of an expert in a name: the last number between dots.
_EXPERT = re.compile(r"(?<=\.)[0-9]+(?=\.(?!.*\.[0-9]+\.))")


@dataclass(frozen=True)
class Piece:
    """A part of a stored tensor.

    Attributes:
        source: the stored tensor.
        shape: the shape of the part.
        expert: its number in the stack; None if the stored tensor is no stack.
        dimension: the dimension that is cut, in the shape of the part.
        start: where the part begins along it.
        turned: whether the last two dimensions are exchanged first.
    """

    source: str
    shape: Shape
    expert: int | None = None
    dimension: int = 0
    start: int = 0
    turned: bool = False


@dataclass(frozen=True)
class Layout:
    """A tensor in another form: its shape and the pieces that it consists of, by their place in it.

    A place is the expert (None for a tensor that is no stack) and the start along ``dimension`` of an expert's shape.
    """

    shape: Shape
    pieces: Mapping[tuple[int | None, int], Piece]
    dimension: int = 0

    @property
    def sources(self) -> frozenset[str]:
        """The stored tensors that it is made of."""
        return frozenset(piece.source for piece in self.pieces.values())


@dataclass(frozen=True)
class LaidOutCheckpoint:
    """A checkpoint of which some tensors are read in another form; ``layouts`` has these by their new names."""

    stored: Checkpoint
    layouts: Mapping[str, Layout]

    @cached_property
    def files(self) -> CheckpointFiles:
        """The entries in the new form."""
        files = self.stored.files
        used = frozenset[str]().union(*(layout.sources for layout in self.layouts.values()))
        entries = {name: entry for name, entry in files.entries.items() if name not in used}
        for name, layout in self.layouts.items():
            first = files.entries[min(layout.sources)]
            size_bytes = math.prod(layout.shape) * ITEM_BYTES[first.dtype]
            entries[name] = TensorEntry(name, first.shard, first.dtype, layout.shape, size_bytes)
        return replace(files, entries=entries)

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor in the new form; only the parts of a file that it consists of are read."""
        layout = self.layouts.get(name)
        if layout is None:
            return self.stored.read(name)
        if len(layout.pieces) == 1:
            return self._piece(*layout.pieces.values()).reshape(layout.shape)
        whole: torch.Tensor | None = None
        for (expert, start), piece in layout.pieces.items():
            part = self._piece(piece)
            whole = part.new_empty(layout.shape) if whole is None else whole
            into = whole if expert is None else whole[expert]
            into.narrow(layout.dimension, start, part.shape[layout.dimension]).copy_(part)
        assert whole is not None
        return whole

    def _piece(self, piece: Piece) -> torch.Tensor:
        tensor = self.stored.read(piece.source)
        tensor = tensor if piece.expert is None else tensor[piece.expert]
        tensor = tensor.mT if piece.turned else tensor
        if tuple(tensor.shape) != piece.shape:
            tensor = tensor.narrow(piece.dimension, piece.start, piece.shape[piece.dimension])
        return tensor.contiguous()

    def storage(self) -> Storage:
        """Return how the checkpoint stores its weights."""
        return self.stored.storage()

    def check(self) -> tuple[Defect, ...]:
        """Return the defects of the checkpoint; a tensor in another form gives its name, or the first of its parts."""
        new = {source: name for name, layout in reversed([*self.layouts.items()]) for source in layout.sources}
        return tuple(replace(one, tensor=new.get(one.tensor, one.tensor)) for one in self.stored.check())


def other_names(checkpoint: Checkpoint) -> list[str]:
    """Return the tensors of a checkpoint that are read under another name or in another form.

    They have the names of the side that has fewer of them, such as the stacks of experts.
    """
    if isinstance(checkpoint, RenamedCheckpoint):
        return sorted(checkpoint.names)
    if not isinstance(checkpoint, LaidOutCheckpoint):
        return []
    used = {source for layout in checkpoint.layouts.values() for source in layout.sources}
    inner = other_names(checkpoint.stored)
    return sorted({*inner, *(used if len(used) < len(checkpoint.layouts) else checkpoint.layouts)})


def in_form_of(baseline: CheckpointFiles, subject: Checkpoint) -> Checkpoint:
    """Return a subject in its baseline's form; the subject itself if it is, or no table of transformers relates them.

    Tensors are only read in another form if every tensor of the subject that is the same tensor in memory is used once,
    and the baseline's tensors are complete. All others keep their names, and are compared or missed as they are.
    """
    before, own = baseline.entries, subject.files.entries
    same = own.keys() & before.keys()
    turned = any(own[name].shape != before[name].shape == _turned(own[name].shape) for name in same)
    if not turned and (len(same) == len(own) or len(same) == len(before)):
        return subject
    sides = [find_places(baseline.folder, names) for names in (before, own)]
    base_places, own_places = sides
    if base_places is None or own_places is None:
        return subject
    layouts = _layouts(base_places, own_places, before, own)
    return LaidOutCheckpoint(subject, layouts) if layouts else subject


def _layouts(base: Places, own: Places, before: Entries, entries: Entries) -> dict[str, Layout]:
    """Return the baseline's tensors that the subject has in another form."""
    grids, cut = {**base.grids, **own.grids}, {**base.cut, **own.cut}
    stored = _by_tensor(own, cut)
    groups: list[dict[str, Layout]] = []
    for tensor, wanted in _by_tensor(base, cut).items():
        have = stored.get(tensor, {})
        if any(len(names) > 1 for names in (*wanted.values(), *have.values())):
            continue  # two stored tensors for one place
        asked = {cell: before[names[0]] for cell, names in wanted.items()}
        given = {cell: entries[names[0]] for cell, names in have.items()}
        if asked.keys() == given.keys():
            groups.append(dict(_renamed(asked, given, turned=tensor in base.turned)))
        elif tensor in grids:
            groups.append(dict(_laid_out(asked, given, grids[tensor])))
    while True:
        found = {name: layout for group in groups for name, layout in group.items()}
        # a new name that another tensor of the subject keeps would hide that tensor
        kept = entries.keys() - {source for layout in found.values() for source in layout.sources}
        clear = [group for group in groups if not group.keys() & kept]
        if len(clear) == len(groups):
            return found
        groups = clear


def _by_tensor(places: Places, cut: Mapping[str, Place]) -> dict[str, dict[Cell | None, list[str]]]:
    """Return the names of stored tensors by the tensor in memory, or all that are cut from one, and by cell."""
    found: dict[str, dict[Cell | None, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, place in places.of.items():
        place = cut.get(place.tensor, place)
        found[place.tensor][place.cell].append(name)
    return found


def _renamed(wanted: Cells, have: Cells, *, turned: bool) -> Iterator[tuple[str, Layout]]:
    """Yield the tensors that have another name in the subject, or exchanged dimensions if ``turned``."""
    for cell, entry in wanted.items():
        own = have[cell]
        shape = _turned(own.shape) if turned and own.shape != entry.shape == _turned(own.shape) else own.shape
        if (own.name, own.shape) != (entry.name, shape):
            yield entry.name, Layout(shape, {(None, 0): Piece(own.name, shape, turned=shape != own.shape)})


def _laid_out(wanted: Cells, have: Cells, grid: Grid) -> Iterator[tuple[str, Layout]]:
    """Yield the baseline's tensors of a grid, if one side has the whole and the other the cells."""
    cells, own_cells = ({cell: one for cell, one in side.items() if cell is not None} for side in (wanted, have))
    if cells.keys() == wanted.keys() and have.keys() == {None}:
        yield from _cut(cells, have[None], grid)
    elif own_cells.keys() == have.keys() and wanted.keys() == {None}:
        layout = _joined(own_cells, grid)
        if layout is not None:
            yield wanted[None].name, layout


def _turned(shape: Shape) -> Shape:
    """Return a shape with its last two dimensions exchanged."""
    return (*shape[:-2], *reversed(shape[-2:]))


def _cut(wanted: Mapping[Cell, TensorEntry], entry: TensorEntry, grid: Grid) -> Iterator[tuple[str, Layout]]:
    """Yield the cells of a stored tensor; experts that the baseline does not have are numbered like its own."""
    shape = entry.shape[1:] if grid.stacked else entry.shape
    like = {part: wanted[expert, part] for expert, part in sorted(wanted, reverse=True)}
    if like.keys() != {*range(grid.parts)}:
        return
    sizes = _sizes(shape, [like[part].shape for part in range(grid.parts)], grid)
    if not sizes or (grid.stacked and entry.shape[0] > MOST_EXPERTS):
        return
    for expert in range(entry.shape[0]) if grid.stacked else (None,):
        for part, size in enumerate(sizes):
            own = (*shape[: grid.dimension], size, *shape[grid.dimension + 1 :])
            name = wanted[expert, part].name if (expert, part) in wanted else _EXPERT.sub(str(expert), like[part].name)
            piece = Piece(entry.name, own, expert, grid.dimension, sum(sizes[:part]))
            yield name, Layout(own, {(None, 0): piece})


def _sizes(shape: Shape, wanted: Sequence[Shape], grid: Grid) -> tuple[int, ...]:
    """Return the size of each part of a tensor along the grid's dimension; empty if it cannot be cut like that.

    Parts have the baseline's sizes if these fill the tensor, and equal sizes otherwise.
    """
    if len(shape) <= grid.dimension or any(len(one) != len(shape) for one in wanted):
        return ()
    length, sizes = shape[grid.dimension], tuple(one[grid.dimension] for one in wanted)
    if sum(sizes) == length:
        return sizes
    return () if length % grid.parts else (length // grid.parts,) * grid.parts


def _joined(cells: Mapping[Cell, TensorEntry], grid: Grid) -> Layout | None:
    """Return the layout of a tensor that is put together from its cells; None if some are missing or do not fit."""
    experts = range(len(cells) // grid.parts) if grid.stacked else (None,)
    if len(cells) != len(experts) * grid.parts:
        return None
    pieces: dict[tuple[int | None, int], Piece] = {}
    rows: set[Shape] = set()
    ends: set[int] = set()
    dtypes: set[str] = set()
    for expert in experts:
        start = 0
        for part in range(grid.parts):
            entry = cells.get((expert, part))
            if entry is None or len(entry.shape) <= grid.dimension:
                return None
            pieces[expert, start] = Piece(entry.name, entry.shape)
            dtypes.add(entry.dtype)
            start += entry.shape[grid.dimension]
            rows.add((*entry.shape[: grid.dimension], 0, *entry.shape[grid.dimension + 1 :]))
        ends.add(start)
    if not len(rows) == len(ends) == len(dtypes) == 1:
        return None
    row = rows.pop()
    own = (*row[: grid.dimension], ends.pop(), *row[grid.dimension + 1 :])
    return Layout((len(experts), *own) if grid.stacked else own, pieces, grid.dimension)
