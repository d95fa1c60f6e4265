"""Where transformers 5 puts the stored tensors of a model: their names in memory, and the experts that it stacks.

transformers has one table for each family that says how stored tensors become tensors in memory. It reads that table
when it loads a model, and reverses it when it saves one, unless ``save_original_format=False`` is given. Source:
transformers 5.24 ``conversion_mapping.py`` and ``core_model_loading.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from invarlock.checkpoints.layout import CONFIG_FILE

# An expert of a stack (None outside stacks), and the number of a tensor among those that are joined.
Cell = tuple[int | None, int]

# transformers' names of operations: on load, they stack the experts, join tensors, cut one, and exchange dimensions.
_STACK, _JOIN, _CUT, _TURN = "MergeModulelist", "Concatenate", ("Chunk", "Split"), "Transpose"


@dataclass(frozen=True)
class Grid:
    """How a whole tensor consists of cells: for each expert of a stack, ``parts`` tensors that are joined.

    Attributes:
        parts: the tensors that are joined.
        dimension: the dimension along which they are joined, in the shape of one expert.
        stacked: whether the whole tensor has a row of cells for each expert.
    """

    parts: int
    dimension: int
    stacked: bool


@dataclass(frozen=True)
class Place:
    """A stored tensor's place: a tensor in memory or, if ``cell`` is given, one cell of it.

    If transformers cuts a stored tensor into several, they are its cells, and the whole has the names of all.
    """

    tensor: str
    cell: Cell | None = None


@dataclass(frozen=True)
class Places:
    """The place of each stored tensor of a checkpoint, and the grids of the tensors that consist of cells.

    Attributes:
        of: the places, without tensors that transformers does not use, or converts in a way that is not known here.
        grids: the grids, by the name of the whole tensor.
        cut: the place of each tensor in memory that transformers cuts from a stored one.
        turned: the tensors in memory whose last two dimensions transformers exchanges if they do not fit.
    """

    of: Mapping[str, Place]
    grids: Mapping[str, Grid]
    cut: Mapping[str, Place]
    turned: frozenset[str]


def find_places(folder: Path, names: Iterable[str]) -> Places | None:
    """Return the places of the tensors of a checkpoint; None if transformers has no table or cannot build the model.

    Args:
        folder: the folder with the config of the model.
        names: all tensors of the checkpoint, because some entries of the table depend on several.
    """
    try:
        return _find_places(_model(folder, (folder / CONFIG_FILE).stat().st_mtime_ns), names)
    except Exception:  # noqa: BLE001 - a config may make a library raise anything, and loading the model reports it
        return None


@lru_cache(maxsize=4)
def _model(folder: Path, written_ns: int) -> Any:
    """Return the model of a config, without weights; it is built again if the file was written since."""
    # imported here because only tensors with other names than the baseline's need them
    import torch
    import transformers

    # without a refusal, transformers asks on the terminal whether the checkpoint's own code may run
    own_code = {"trust_remote_code": False}
    config: Any = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, **own_code)
    named = getattr(transformers, str((config.architectures or [None])[0]), None)
    with torch.device("meta"):
        if isinstance(named, type) and issubclass(named, transformers.PreTrainedModel):
            return named(config)
        of_config: Any = transformers.AutoModelForCausalLM.from_config  # transformers gives it no type
        return of_config(config, **own_code)


def _find_places(model: Any, names: Iterable[str]) -> Places:
    # imported here because transformers 4 has no such tables
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    # a new table each time, because its entries remember what they have matched
    table = get_model_conversion_mapping(model)
    renamings = [one for one in table if isinstance(one, WeightRenaming)]
    converters: list[Any] = [one for one in table if isinstance(one, WeightConverter)]
    of_pattern = {pattern: one for one in converters for pattern in one.source_patterns}
    prefix, known = model.base_model_prefix, model.state_dict()
    places: dict[str, Place] = {}
    grids: dict[str, Grid] = {}
    cut: dict[str, Place] = {}
    turned: set[str] = set()
    for name in sorted(names):
        tensor, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if tensor not in known and name in known:
            tensor, pattern = rename_source_key(name, [], [], prefix, known)
        if tensor not in known:
            continue
        if pattern is None:
            places[name] = Place(tensor)
            continue
        converter = of_pattern[pattern]
        kinds = [type(one).__name__ for one in converter.operations]
        if kinds == [_TURN] and converter.source_patterns == converter.target_patterns:
            places[name] = Place(tensor)
            turned.add(tensor)
        elif len(kinds) == 1 and kinds[0] in _CUT and len(converter.source_patterns) == 1:
            first, *_ = converter.target_patterns
            made = [tensor.replace(first, target) for target in converter.target_patterns]
            dimension, whole = converter.operations[0].dim, "+".join(made)
            grids[whole] = Grid(len(made), dimension, False)
            cut |= {one: Place(whole, (None, part)) for part, one in enumerate(made)}
            places[name] = Place(whole)
        elif (found := _cell(name, pattern, converter, kinds)) is not None:
            places[name], grids[tensor] = Place(tensor, found[0]), found[1]
    return Places(places, grids, cut, frozenset(turned))


def _cell(name: str, pattern: str, converter: Any, kinds: list[str]) -> tuple[Cell, Grid] | None:
    """Return the cell of a tensor that is joined or stacked, and its grid; None if it is converted in another way."""
    sources, last = converter.source_patterns, converter.operations[-1].dim if kinds[-1:] == [_JOIN] else 0
    part = sources.index(pattern)
    if kinds == [_JOIN] and "*" not in pattern:
        return (None, part), Grid(len(sources), last, False)
    numbers = [int(segment) for segment in name.split(".") if segment.isdigit()]
    stacks = (kinds == [_STACK] and len(sources) == 1) or (kinds == [_STACK, _JOIN] and last > 0)
    if not stacks or converter.operations[0].dim != 0 or not numbers:
        return None
    return (numbers[-1], part), Grid(len(sources), max(last - 1, 0), True)
