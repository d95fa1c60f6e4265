"""Maps each tensor of a checkpoint to a GGUF file's tensor, and describes how the converter changed its values.

The names are those of the ``gguf`` package's own tables. Source of the changes: llama.cpp ``conversion/llama.py``
(``LlamaModel.permute``) and ``conversion/gemma.py`` (``norm_shift``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from invarlock.checkpoints.formats.gguf_file import GgufTensor
from invarlock.checkpoints.formats.gguf_positions import FREQUENCIES, LONG, SHORT

HEAD = "lm_head.weight"
# Factors of rotary positions, which are numbers in a config.
EXTRAS = frozenset({FREQUENCIES, LONG, SHORT})

# The parts of transformers' stacks of experts, and Mixtral's names for these parts.
STACKS: Mapping[str, tuple[str, ...]] = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
MIXTRAL: Mapping[str, str] = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


@dataclass(frozen=True)
class Conversion:
    """How an architecture of llama.cpp stores models.

    Attributes:
        model_types: transformers' names of the model types that are stored like this.
        paired_rows: whether the rows of queries and keys are in the order of llama.cpp's rotary positions.
        norm_shift: the number that is added to the weights of norms.
    """

    model_types: tuple[str, ...]
    paired_rows: bool = False
    norm_shift: float = 0.0


# Conversions by ``general.architecture``.
CONVERSIONS: Mapping[str, Conversion] = {
    "llama": Conversion(("llama", "mistral", "mixtral"), paired_rows=True),
    "qwen2": Conversion(("qwen2",)),
    "qwen2moe": Conversion(("qwen2_moe",)),
    "qwen3": Conversion(("qwen3",)),
    "qwen3moe": Conversion(("qwen3_moe",)),
    "gemma": Conversion(("gemma",), norm_shift=1.0),
    "gemma2": Conversion(("gemma2",), norm_shift=1.0),
    "gemma3": Conversion(("gemma3_text",), norm_shift=1.0),
    "arcee": Conversion(("arcee",), paired_rows=True),
    "cohere2": Conversion(("cohere2",)),
    "command-r": Conversion(("cohere",)),
    "ernie4_5": Conversion(("ernie4_5",)),
    "exaone4": Conversion(("exaone4",)),
    "glm4": Conversion(("glm4",)),
    "granite": Conversion(("granite",), paired_rows=True),
    "nemotron": Conversion(("nemotron",), norm_shift=1.0),
    "olmo": Conversion(("olmo",), paired_rows=True),
    "olmo2": Conversion(("olmo2",)),
    "olmoe": Conversion(("olmoe",)),
    "phi2": Conversion(("phi",)),
    "phi3": Conversion(("phi3",)),
    "seed_oss": Conversion(("seed_oss",)),
    "smollm3": Conversion(("smollm3",), paired_rows=True),
    "starcoder2": Conversion(("starcoder2",)),
}


@dataclass(frozen=True)
class Source:
    """The place of a dense tensor's values.

    Attributes:
        tensor: the tensor of the file.
        expert: the index in a stack of experts; None if the tensor is not a stack.
        heads: the number of heads of a query or key whose rows must be reordered; 0 if they are in the baseline's
            order.
        shift: the number that was added to the weights.
    """

    tensor: GgufTensor
    expert: int | None
    heads: int
    shift: float

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the dense tensor."""
        return self.tensor.shape if self.expert is None else self.tensor.shape[1:]


def names_apart(shapes: Mapping[str, tuple[int, ...]], model_type: str) -> list[str]:
    """Return a baseline's tensor names, with a name for each expert instead of those of stacks of experts.

    llama.cpp keeps gate and up projections apart, and transformers 5 joins them in its stacks. The names are those
    that the family's checkpoints have without stacks, from which the stacks can be put together again.
    """
    found: list[str] = []
    for name, shape in shapes.items():
        block, _, stack = name.rpartition(".experts.")
        if stack not in STACKS or len(shape) != 3:
            found.append(name)
            continue
        if model_type == "mixtral":
            block = f"{block.removesuffix('mlp')}block_sparse_moe"
        parts = [MIXTRAL.get(part, part) if model_type == "mixtral" else part for part in STACKS[stack]]
        found += [f"{block}.experts.{expert}.{part}.weight" for expert in range(shape[0]) for part in parts]
    return found


def find_sources(
    names: list[str], tensors: Mapping[str, GgufTensor], table: Any, conversion: Conversion, config: Mapping[str, Any]
) -> dict[str, Source]:
    """Return the place of each of a baseline's tensors; missing tensors are left out.

    Args:
        names: the baseline's tensor names.
        tensors: the tensors of the files.
        table: the ``gguf`` package's names for the architecture, its ``TensorNameMap``.
        conversion: the conversion of the architecture.
        config: the baseline's config.
    """
    heads = config.get("num_attention_heads")
    groups = config.get("num_key_value_heads") or heads
    found = {}
    for name in [*names, *([HEAD] if HEAD not in names else [])]:
        stored, expert = _stored_name(name, table)
        tensor = tensors.get(stored or "")
        if tensor is None or (expert is not None and expert >= tensor.shape[0]):
            continue
        module = name.rpartition(".")[0].rpartition(".")[2]
        count = {"q_proj": heads, "k_proj": groups}.get(module) if conversion.paired_rows else None
        shift = conversion.norm_shift if name.endswith("norm.weight") else 0.0
        found[name] = Source(tensor, expert, count if type(count) is int else 0, shift)
    return found


def _stored_name(name: str, table: Any) -> tuple[str | None, int | None]:
    """Return llama.cpp's name of a tensor, and its index if experts are stored as a stack."""
    parts, expert = name.split("."), None
    spellings = [name]
    if "experts" in parts[:-2]:
        number = parts.pop(parts.index("experts") + 1)
        expert = int(number) if number.isdigit() and len(number) < 7 else None
        merged = ".".join(parts)
        # the converter's own names for stacks of experts: as in Qwen's models, and as in early Mixtral files
        spellings = [merged, merged.removeprefix("model.").replace("block_sparse_moe", "feed_forward")]
    found = (table.get_name(one, try_suffixes=(".weight", ".bias")) for one in spellings)
    return next((one for one in found if one is not None), None), expert
