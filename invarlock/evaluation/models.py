"""Loading a checkpoint as a model, from disk only."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.utils import logging

from invarlock.checkpoints.formats.interface import Checkpoint
from invarlock.checkpoints.safetensors_files import CheckpointFiles, read_checkpoint
from invarlock.errors import EvaluationError, OutOfMemoryError
from invarlock.evaluation.memory import (
    FLOAT32_BYTES,
    check_room,
    one_out_of_memory,
    return_freed_memory,
    tune_allocator,
)
from invarlock.evaluation.output_heads import note_head
from invarlock.pages.parts import counted
from invarlock.problems import Code

# transformers leaves these without types, or types them without output_loading_info
_LOGGING: Any = logging
_AUTO_MODEL: Any = AutoModelForCausalLM
_AUTO_MULTIMODAL: Any = AutoModelForImageTextToText
_CAUSAL: Any = MODEL_FOR_CAUSAL_LM_MAPPING
_MULTIMODAL: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

EAGER = "eager"
DEQUANTISED, NATIVE = "dequantised", "native"

# After reading this many bytes, a file is opened again, which unmaps what was read.
MAPPED_AT_ONCE = 64_000_000

_LOGGING.set_verbosity_error()
_LOGGING.disable_progress_bar()


@dataclass(frozen=True)
class Placement:
    """Where and how models are loaded: float32 on a CPU, the stored dtype on a GPU.

    Attributes:
        device: ``cpu`` or ``cuda``.
        rooms: the memory limits of a lease: each device's CUDA number and the bytes that may be used on it; one entry
            for a CPU. Empty if there is no limit; the current device is used then.
        remote_code: whether code that comes with the model may run.
        attention: transformers' name of the attention implementation. Eager uses plain matrix products, the same on
            every device; the others are faster, need less memory, and round differently.
        scoring: how a packed checkpoint is scored: ``dequantised`` (its weights in a dense model) or ``native`` (as
            stored, by the library and kernels that serve it).
    """

    device: str
    rooms: tuple[tuple[int, int], ...] = ()
    remote_code: bool = False
    attention: str = EAGER
    scoring: str = DEQUANTISED

    @property
    def dtype(self) -> torch.dtype | str:
        """Return the dtype that weights are loaded in: float32 on a CPU, else the stored dtype."""
        return torch.float32 if self.device == "cpu" else "auto"

    @property
    def dtype_name(self) -> str:
        """Return the name of the weights' dtype as reports state it."""
        return "float32" if self.device == "cpu" else "stored"

    @property
    def room_bytes(self) -> int | None:
        """Return the memory limit that is enforced by estimate, on a CPU; a GPU's allocator enforces its own."""
        return sum(room for _, room in self.rooms) if self.device == "cpu" and self.rooms else None

    @property
    def target(self) -> str:
        """Return the device for a model that is not spread over several devices."""
        return f"cuda:{self.rooms[0][0]}" if self.device == "cuda" and self.rooms else self.device


# Options of from_pretrained: report every tensor that does not fit, instead of raising an error that names none.
REPORTED = {"output_loading_info": True, "ignore_mismatched_sizes": True}


def load_model(folder: Path, placement: Placement) -> PreTrainedModel:
    """Return the language model of a dense checkpoint, in evaluation mode.

    Raises:
        EvaluationError: when it cannot be loaded, or a tensor is missing, unexpected or has the wrong shape: such a
            model would be measured with random weights.
        OutOfMemoryError: when it does not fit.
    """
    config = functools.cache(lambda: _read_config(folder, placement.remote_code))
    files = read_checkpoint(folder)
    tensors = _Tensors(files.entries, _DenseTensors(files).read)

    def load(options: Mapping[str, Any]) -> Any:
        if placement.device == "cpu" and not placement.remote_code:
            return _load_one_by_one(config(), tensors, options)
        return auto_class(config()).from_pretrained(
            folder, local_files_only=True, trust_remote_code=placement.remote_code, **options
        )

    return _load(folder, files.total_parameters, placement, config, load, tensors)


def _read_config(folder: Path, remote_code: bool) -> PreTrainedConfig:
    config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=remote_code)
    return config


def auto_class(config: PreTrainedConfig) -> Any:
    """Return the transformers class of a config's language model.

    A multimodal model is scored on text alone. The whole model is loaded if transformers has no causal class for its
    config, or has one that would be loaded without the tensors of the other parts.

    Raises:
        EvaluationError: when transformers has no language model for the config.
    """
    kind = type(config)
    if kind not in _MULTIMODAL:
        if kind not in _CAUSAL and not getattr(config, "auto_map", None):
            raise EvaluationError(
                f"transformers has no language model for model_type {config.model_type!r}; where a language model is "
                "part of it, save that part and evaluate it",
                code=Code.MODEL_NOT_LOADABLE,
            )
        return _AUTO_MODEL
    if kind not in _CAUSAL:
        return _AUTO_MULTIMODAL
    causal = _CAUSAL[kind]
    whole = causal is _MULTIMODAL[kind] or causal._keys_to_ignore_on_load_unexpected
    return _AUTO_MODEL if whole else _AUTO_MULTIMODAL


def load_dequantised(checkpoint: Checkpoint, placement: Placement) -> PreTrainedModel:
    """Return the dense model of a packed checkpoint, in evaluation mode; its tensors are read one at a time.

    No code of the checkpoint is run, and nothing is written.

    Raises:
        EvaluationError, OutOfMemoryError: as ``load_model``.
    """
    files = checkpoint.files
    config = functools.cache(lambda: _dense_config(files))
    tensors = _Tensors(files.entries, checkpoint.read)

    def load(options: Mapping[str, Any]) -> Any:
        return _load_one_by_one(config(), tensors, options)

    return _load(files.folder, files.total_parameters, placement, config, load, tensors)


@dataclass(frozen=True)
class _Tensors:
    """The names of a checkpoint's tensors, and the function that reads one."""

    names: Collection[str]
    read: Callable[[str], torch.Tensor]

    def is_zero_bias(self, name: str) -> bool:
        """Return whether a tensor is a bias of zeros; GPTQ-for-LLaMa and early AutoGPTQ stored one for each layer."""
        return name.endswith(".bias") and name in self.names and not bool(self.read(name).float().any())


def _load_one_by_one(config: PreTrainedConfig, tensors: _Tensors, options: Mapping[str, Any]) -> Any:
    """Return a model and the report of its loading; tensors are read when the library takes them."""
    with torch.device("meta"):
        # of a multimodal model this may be the language model alone, with a config of its own
        made = auto_class(config).from_config(config)
    weights = {name: _LazyTensor(tensors.read, name) for name in tensors.names}
    return type(made).from_pretrained(None, config=made.config, state_dict=weights, local_files_only=True, **options)


def _dense_config(files: CheckpointFiles) -> PreTrainedConfig:
    made: PreTrainedConfig = type(AutoConfig.for_model(files.model_type)).from_dict(dict(files.config))
    return made


def _load(
    folder: Path,
    parameters: int,
    placement: Placement,
    config: Callable[[], PreTrainedConfig],
    load: Callable[[Mapping[str, Any]], Any],
    tensors: _Tensors,
) -> PreTrainedModel:
    spread = placement.device == "cuda" and len(placement.rooms) > 1
    tune_allocator()
    return_freed_memory()
    try:
        with one_out_of_memory():
            check_room(parameters * FLOAT32_BYTES, placement.room_bytes)
            device_map = {"device_map": spread_over(config(), placement.rooms, placement.remote_code)} if spread else {}
            model, info = load(
                {
                    "dtype": placement.dtype,
                    "attn_implementation": placement.attention,
                    **REPORTED,
                    **device_map,
                }
            )
            placed: PreTrainedModel = model.eval() if spread else model.to(placement.target).eval()
    except torch.OutOfMemoryError:
        raise OutOfMemoryError(f"the model does not fit in the memory of {placement.target}") from None
    except Exception as error:  # noqa: BLE001 - a config may make a library raise anything
        raise _not_loaded(folder, error) from None
    _check_loading(info, tensors)
    note_head(placed)
    return placed


@dataclass(frozen=True)
class _LazyTensor:
    """A tensor that is read only when the library takes it, like the slices of a safetensors file."""

    read: Callable[[str], torch.Tensor]
    name: str

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self.read(self.name)[index]


class _DenseTensors:
    """Reads the tensors of a dense checkpoint, with a limited part of its files mapped into memory at a time.

    If a whole file stayed mapped, its pages would count as this process's memory until all weights are converted.
    """

    def __init__(self, files: CheckpointFiles) -> None:
        self._files = files
        self._shard: Any = None
        self._name = ""
        self._mapped = 0
        # the library reads several tensors at once
        self._lock = Lock()

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor as it is stored."""
        entry = self._files.entries[name]
        with self._lock:
            if entry.shard != self._name or self._mapped > MAPPED_AT_ONCE:
                self._shard = safe_open(self._files.folder / entry.shard, framework="pt")
                self._name, self._mapped = entry.shard, 0
            self._mapped += entry.size_bytes
            tensor: torch.Tensor = self._shard.get_tensor(name)
        return tensor


def _not_loaded(folder: Path, error: Exception) -> EvaluationError:
    line = " ".join(str(error).replace(str(folder), folder.name).split())
    return EvaluationError(
        f"the model cannot be loaded ({line[:200] or type(error).__name__})", code=Code.MODEL_NOT_LOADABLE
    )


def _check_loading(info: Mapping[str, Collection[object]], tensors: _Tensors) -> None:
    """Refuse a model with a part that was not loaded or was initialised at random.

    Raises:
        EvaluationError: names the first such tensor.
    """
    shapes: list[Any] = sorted(info["mismatched_keys"], key=str)
    if shapes:
        name, stored, needed = shapes[0]
        raise EvaluationError(
            f"the model cannot be loaded: {counted(len(shapes), 'tensor')} not of the shape that its config gives, "
            f"such as {name}: {list(stored)} instead of {list(needed)}",
            code=Code.MODEL_NOT_LOADABLE,
        )
    missing = sorted(str(key) for key in info["missing_keys"])
    if missing:
        raise EvaluationError(
            f"the checkpoint lacks {counted(len(missing), 'tensor')} of the model that its config describes, such as "
            f"{missing[0]}",
            code=Code.MODEL_NOT_LOADABLE,
        )
    unused = sorted(str(key) for key in info["unexpected_keys"] if not tensors.is_zero_bias(str(key)))
    if unused:
        raise EvaluationError(
            f"the model that the config describes does not use {counted(len(unused), 'tensor')} of the checkpoint, "
            f"such as {unused[0]}",
            code=Code.MODEL_NOT_LOADABLE,
        )


def load_stored_model(folder: Path, placement: Placement, *, quantization_config: Any = None) -> PreTrainedModel:
    """Return a model as it is stored, in evaluation mode: stored dtypes, packed weights still packed, as when served.

    Args:
        folder: the checkpoint.
        placement: the device; packed models are not spread over several devices.
        quantization_config: quantises a dense checkpoint while it is loaded.

    Raises:
        EvaluationError: when it cannot be loaded, or a tensor is missing or unexpected.
        OutOfMemoryError: when it does not fit.
    """
    packing = {} if quantization_config is None else {"quantization_config": quantization_config}
    try:
        with one_out_of_memory():
            model, info = auto_class(_read_config(folder, remote_code=False)).from_pretrained(
                folder,
                dtype="auto",
                device_map={"": placement.target},
                local_files_only=True,
                attn_implementation=placement.attention,
                **REPORTED,
                **packing,
            )
    except torch.OutOfMemoryError:
        raise OutOfMemoryError(f"the model does not fit in the memory of {placement.target}") from None
    except Exception as error:  # noqa: BLE001 - a config may make a library raise anything
        raise _not_loaded(folder, error) from None
    files = read_checkpoint(folder)
    _check_loading(info, _Tensors(files.entries, _DenseTensors(files).read))
    loaded: PreTrainedModel = model.eval()
    return loaded


def spread_over(config: PreTrainedConfig, rooms: Sequence[tuple[int, int]], trust_remote_code: bool) -> dict[str, int]:
    """Return the device of each part of a model: only leased devices, and no part on the CPU or disk.

    Args:
        config: the model's config.
        rooms: each device's CUDA number and the bytes that may be used on it.
        trust_remote_code: whether the model may bring its own code.

    Raises:
        torch.OutOfMemoryError: when the model does not fit on them.
    """
    # imported here because it takes a second and few models are spread; the package has no types
    accelerate: Any = importlib.import_module("accelerate")
    with accelerate.init_empty_weights():
        model = auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
    model.tie_weights()
    dtype = getattr(config, "dtype", None) or torch.float32
    whole = list(model._no_split_modules or ())
    even = accelerate.utils.get_balanced_memory(model, dict(rooms), no_split_module_classes=whole, dtype=dtype)
    limits: dict[int | str, int | str] = {number: even.get(number, room) for number, room in rooms}
    places = accelerate.infer_auto_device_map(model, limits, no_split_module_classes=whole, dtype=dtype)
    outside = sorted(name for name, place in places.items() if place not in dict(rooms))
    if outside:
        raise torch.OutOfMemoryError(f"{outside[0]} does not fit")
    return {name: int(place) for name, place in places.items()}


def forward(model: PreTrainedModel, batch: torch.Tensor) -> Any:
    """Return the output of a causal language model for token ids of shape (windows, seq_len), including ``logits``.

    Raises:
        EvaluationError: when the forward pass fails, with the library's message.
        torch.OutOfMemoryError: when it does not fit in memory.
    """
    return _call(model, batch, {})


def run_layers(model: PreTrainedModel, batch: torch.Tensor) -> None:
    """Run a causal language model on token ids of shape (windows, seq_len), for the hooks on its layers.

    If the model allows it, logits are computed only for the last position.

    Raises:
        EvaluationError, torch.OutOfMemoryError: as ``forward``.
    """
    can = "logits_to_keep" in inspect.signature(model.forward).parameters
    _call(model, batch, {"logits_to_keep": 1} if can else {})


def _call(model: PreTrainedModel, batch: torch.Tensor, options: Mapping[str, Any]) -> Any:
    call: Any = model
    try:
        with one_out_of_memory():
            return call(input_ids=batch, use_cache=False, **options)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a broken model may raise anything
        line = " ".join(str(error).split())[:200]
        if isinstance(error, TypeError) and "required positional argument" in line:
            raise EvaluationError(
                f"the model reads more than text ({line}); save its language model and evaluate that",
                code=Code.MODEL_NOT_LOADABLE,
            ) from None
        raise EvaluationError(
            f"the model's forward pass fails ({type(error).__name__}: {line})", code=Code.MODEL_NOT_LOADABLE
        ) from None
