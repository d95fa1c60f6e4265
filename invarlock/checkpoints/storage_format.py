"""Finds how the weights of a checkpoint are stored, from its small files and headers; PyTorch is not imported.

Example::

    open_checkpoint(Path("mistral-7b-w4a16"))   # a reader of compressed-tensors
    check_dense(Path("mistral-7b"))             # CheckpointFiles: bfloat16
    open_checkpoint(Path("mistral-7b-hqq"))     # CheckpointError: … stored as HQQ, usually by hqq …

Guards and metrics need the values of weights, and the codes of a packed checkpoint are not values. A format without a
reader is therefore refused by name, and never leads to a verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from invarlock.checkpoints.equivalence.layouts import in_form_of
from invarlock.checkpoints.equivalence.names import under_names_of
from invarlock.checkpoints.formats import FORMATS as READERS
from invarlock.checkpoints.formats import adapter, dense, gguf, mxfp4
from invarlock.checkpoints.formats.folder import CheckpointFolder, find_quantisation, read_document
from invarlock.checkpoints.formats.interface import DEQUANTISE, Checkpoint, Format, unreadable
from invarlock.checkpoints.formats.packed import PackedCheckpoint
from invarlock.checkpoints.layout import ADAPTER_FILES, CONFIG_FILE, INDEX_FILE, SINGLE_FILE
from invarlock.checkpoints.safetensors_files import CheckpointFiles, TensorEntry, read_checkpoint
from invarlock.errors import CheckpointError

TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILE = "tokenizer.json"
# Name endings of tensors that accompany packed weights, and the format of each.
PACKED_ENDINGS: Mapping[str, str] = {
    "qweight": "gptq", "qzeros": "gptq", "g_idx": "gptq", "weight_packed": "compressed-tensors",
    "weight_scale_inv": "fp8", "weight_scale_2": "modelopt", "weight_scale": "compressed-tensors",
    "weight_zero_point": "compressed-tensors", "SCB": "bitsandbytes", "quant_map": "bitsandbytes",
    "absmax": "bitsandbytes", "weight_blocks": "mxfp4", "W_q": "hqq", "_data": "quanto", "_scale": "quanto",
}  # fmt: skip
# Stored types of numbers and of buffers; packed weights have others.
DENSE_TYPES = frozenset({"F64", "F32", "F16", "BF16", "I64", "BOOL", "C64"})
# Names of tensors that accompany float8 weights; in models that are not packed, they mean something else.
SCALES = ("scale", "scales", "weight_scales", "scale_inv")
SIZES = ("vocab_size", "hidden_size", "n_embd", "intermediate_size", "head_dim")
HEADS = ("num_attention_heads", "num_key_value_heads", "n_head")
TABLES = ("rope_parameters", "rope_scaling")

WRAPPERS: Mapping[str, str] = {"_orig_mod.": "torch.compile", "module.": "DistributedDataParallel"}


@dataclass(frozen=True)
class StorageFormat:
    """A way to store weights: its common name, and the tools that usually write it."""

    name: str
    tools: str


# Formats by quant_method, under transformers' names in quantization_config.
KNOWN: Mapping[str, StorageFormat] = {
    "compressed-tensors": StorageFormat("compressed-tensors", "llm-compressor"),
    "fp8": StorageFormat("block FP8", "DeepSeek, Qwen and transformers"),
    "fbgemm_fp8": StorageFormat("FBGEMM FP8", "transformers"),
    "modelopt": StorageFormat("ModelOpt", "NVIDIA ModelOpt"),
    "gptq": StorageFormat("GPTQ", "GPTQModel and AutoGPTQ"),
    "awq": StorageFormat("AWQ", "AutoAWQ"),
    "auto-round": StorageFormat("auto-round", "auto-round"),
    "intel/auto-round": StorageFormat("auto-round", "auto-round"),
    "bitsandbytes": StorageFormat("bitsandbytes", "bitsandbytes"),
    "torchao": StorageFormat("torchao", "torchao"),
    "hqq": StorageFormat("HQQ", "hqq"),
    "quanto": StorageFormat("quanto", "optimum-quanto"),
    "mxfp4": StorageFormat("MXFP4", "gpt-oss"),
    "aqlm": StorageFormat("AQLM", "aqlm"),
    "eetq": StorageFormat("EETQ", "eetq"),
    "vptq": StorageFormat("VPTQ", "vptq"),
    "spqr": StorageFormat("SpQR", "spqr"),
    "bitnet": StorageFormat("BitNet", "bitnet"),
}


def open_checkpoint(folder: Path, base: Path | None = None) -> Checkpoint:
    """Return the reader of a checkpoint, chosen by its small files and headers; no weights are read.

    Args:
        folder: the checkpoint.
        base: the baseline, for formats that store changes of it. If the tensor names differ from the baseline's only by
            a prefix, the baseline's names are used.

    Raises:
        CheckpointError: when no format matches, or the checkpoint is not complete; the message says which format it is,
            which tool usually writes it, and what to do.
    """
    _refuse_adapters_of_models(folder)
    _refuse_other_files(folder)
    source = CheckpointFolder(folder, base)
    found = next(one for one in READERS if one.matches(source))
    if found not in (adapter.FORMAT, gguf.FORMAT):
        _refuse_leftovers(source)
    if found is dense.FORMAT:
        _refuse_adapters(folder)
        _refuse_quantised(source)
        _refuse_packed_tensors(folder, source.files.entries)
    elif found not in (adapter.FORMAT, gguf.FORMAT, mxfp4.FORMAT):
        _refuse_packed_stacks(found, source)
    checkpoint = found.open(source)
    if isinstance(checkpoint, PackedCheckpoint):
        checkpoint = replace(checkpoint, base=base)
    _refuse_wrappers(folder, checkpoint.files.entries)
    _check_sizes(folder, checkpoint.files)
    if base is None:
        return checkpoint
    files = read_checkpoint(base)
    return in_form_of(files, under_names_of(files.entries, checkpoint))


def check_dense(folder: Path) -> CheckpointFiles:
    """Return the content of a checkpoint whose stored tensors are the weights themselves.

    Raises:
        CheckpointError: as ``open_checkpoint``, and when the checkpoint is packed.
    """
    checkpoint = open_checkpoint(folder)
    storage = checkpoint.storage()
    if storage.quantisation is not None:
        form = next(one for one in READERS if one.name == storage.format)
        raise CheckpointError(
            f"{folder}: stored as {form.name}, usually by {form.tools}; only the subject may be packed, and the "
            "baseline must be dense: name the model that was quantised"
        )
    return checkpoint.files


def _refuse_packed_stacks(form: Format, source: CheckpointFolder) -> None:
    """Refuse experts that are stored as one packed three-dimensional tensor, which no reader unpacks."""
    for name, entry in source.files.entries.items():
        if len(entry.shape) == 3 and not entry.dtype.startswith(("BF16", "F16", "F32", "F64")):
            raise unreadable(source.path, form, f"its experts are one packed stack, such as {name[:120]}")


def _refuse_adapters_of_models(folder: Path) -> None:
    found = next((name for name in ADAPTER_FILES if (folder / name).exists()), None)
    if found is not None and any((folder / name).exists() for name in (SINGLE_FILE, INDEX_FILE)):
        raise CheckpointError(
            f"{folder}: {found} lies next to the model, and transformers applies it where peft is installed; "
            "merge the adapter, or move its files away"
        )


def _refuse_adapters(folder: Path) -> None:
    if any((folder / name).exists() for name in ADAPTER_FILES):
        raise CheckpointError(
            f"{folder}: a PEFT adapter without the weights of a model; merge it into its base (merge_and_unload) and "
            "save that"
        )


def _refuse_other_files(folder: Path) -> None:
    """Refuse configs that make transformers load other files than those that are digested and guarded."""
    config = read_document(folder / CONFIG_FILE)
    weights = config.get("transformers_weights")
    if weights not in (None, SINGLE_FILE if (folder / SINGLE_FILE).is_file() else INDEX_FILE):
        raise _reads_another(folder / CONFIG_FILE, "transformers_weights", weights)
    if config.get("configuration_files"):
        raise _reads_another(folder / CONFIG_FILE, "configuration_files", config["configuration_files"])
    tokenizer = read_document(folder / TOKENIZER_CONFIG)
    if tokenizer.get("fast_tokenizer_files") not in (None, [], [TOKENIZER_FILE]):
        raise _reads_another(folder / TOKENIZER_CONFIG, "fast_tokenizer_files", tokenizer["fast_tokenizer_files"])


def _reads_another(path: Path, key: str, value: object) -> CheckpointError:
    return CheckpointError(
        f"{path}: {key} is {str(value)[:80]!r}, so transformers reads other files than the checkpoint's own, which "
        "nothing would have checked; remove it, or save the model again"
    )


def _refuse_leftovers(source: CheckpointFolder) -> None:
    """Refuse dense weights whose config, or a quantiser's own file, says that they are packed.

    Servers would look for codes and scales that the files do not have.
    """
    method, stated, where = find_quantisation(source.path)
    if method is None or any(stated.get(key) for key in ("kv_cache_scheme", "kv_cache_quant_algo")):
        return
    for name, entry in source.files.entries.items():
        if entry.dtype not in DENSE_TYPES or name.rpartition(".")[2] in PACKED_ENDINGS:
            return
    field = "the quantization_config in config.json" if where == CONFIG_FILE else where
    raise CheckpointError(
        f"{source.path}: no tensor is packed, and {field} says that the weights are stored as {_known_as(method)}; if "
        f"they were dequantised, remove {'that field' if where == CONFIG_FILE else 'that file'}"
    )


def _refuse_quantised(source: CheckpointFolder) -> None:
    """Refuse a folder whose config, or a quantiser's own file, says that its weights are packed."""
    method, _, where = find_quantisation(source.path)
    if method is not None:
        raise _refused(
            source.path,
            method,
            f"{where} has a quantization_config" if where == CONFIG_FILE else f"{where} is there",
        )


def _refuse_packed_tensors(folder: Path, entries: Mapping[str, TensorEntry]) -> None:
    for name, entry in entries.items():
        scales = (f"{name.rpartition('.')[0]}.{scale}" for scale in SCALES)
        if entry.dtype.startswith("F8") and len(entry.shape) > 1 and not entries.keys().isdisjoint(scales):
            raise _refused(folder, "fp8", f"it has scales next to the float8 tensor {name[:120]}")
        method = PACKED_ENDINGS.get(name.rpartition(".")[2])
        if method is not None:
            raise _refused(folder, method, f"it has a tensor {name[:120]}")


def _refuse_wrappers(folder: Path, names: Iterable[str]) -> None:
    """Refuse tensor names with a wrapper's prefix, because transformers would not find them."""
    for name in names:
        wrapper = next((prefix for prefix in WRAPPERS if name.startswith(prefix)), None)
        if wrapper is not None:
            raise CheckpointError(
                f"{folder}: tensor names begin with {wrapper!r}, as {WRAPPERS[wrapper]} leaves them; save the model "
                "that it wraps"
            )


def _refused(folder: Path, method: str, why: str) -> CheckpointError:
    return CheckpointError(f"{folder}: stored as {_known_as(method)} ({why}), which cannot be read yet; {DEQUANTISE}")


def _known_as(method: str) -> str:
    """Return the name of a format and its tools, for messages."""
    known = KNOWN.get(method.lower().replace("_", "-")) or KNOWN.get(method.lower())
    if known is not None:
        return f"{known.name}, usually by {known.tools}"
    return repr(method[:40]) if method else "'an unnamed method'"


def _check_sizes(folder: Path, files: CheckpointFiles) -> None:
    """Refuse a config with sizes that its files cannot have, because a model of those sizes would be built first.

    Raises:
        CheckpointError: names the field.
    """
    inner = files.config.get("text_config")
    config = {**files.config, **inner} if isinstance(inner, dict) else files.config
    elements = max((entry.elements for entry in files.entries.values()), default=0)
    for key in ("num_hidden_layers", "n_layer", "num_local_experts", "num_experts", "n_routed_experts"):
        value = config.get(key)
        # a stack of experts is one tensor
        most = max(len(files.entries), elements if "expert" in key else 0)
        if value is not None and not (type(value) is int and 0 <= value <= most):
            raise CheckpointError(
                f"{folder / CONFIG_FILE}: {key} is {str(value)[:40]}, and the files hold {len(files.entries)} tensors; "
                "correct it"
            )
    for key in (*SIZES, *HEADS):
        value = config.get(key)
        values = value if isinstance(value, list) else [value]
        # no tensor in the files can be larger
        if value is not None and not all(type(one) is int and 0 < one <= elements for one in values):
            raise CheckpointError(
                f"{folder / CONFIG_FILE}: {key} is {str(value)[:40]}, and the largest tensor has {elements} elements; "
                "correct it"
            )
    for key in TABLES:
        if not isinstance(config.get(key, {}), dict | None):
            raise CheckpointError(f"{folder / CONFIG_FILE}: {key} is {str(config[key])[:40]!r}, no table; correct it")
