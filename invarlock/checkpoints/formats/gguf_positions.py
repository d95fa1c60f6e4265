"""Compares the rotary positions of a GGUF file with those of the baseline's config.

llama.cpp divides positions by ``rope.scaling.factor``, unless the type is ``none``; ``yarn`` also needs the original
context length and two bounds. The scaling of Llama 3 and LongRoPE is stored as tensors of factors. Source: llama.cpp
``src/llama-model.cpp`` (``load_hparams``), ``src/llama-context.cpp`` and ``conversion/llama.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from invarlock.checkpoints.formats.gguf_file import GgufTensor

BASE, DEFAULT_BASE, SLIDING_BASE = "rope.freq_base", 10000.0, "rope.freq_base_swa"
SIZE = "rope.dimension_count"
KIND, FACTOR, OLD_FACTOR = "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear"
ORIGINAL, CONTEXT = "rope.scaling.original_context_length", "context_length"
LONG_FACTOR, LOG_FACTOR = "rope.scaling.attn_factor", "rope.scaling.yarn_log_multiplier"
# For each number of YaRN, its name in configs, and the value that llama.cpp and transformers use if none is stated.
YARN: Mapping[str, tuple[str, float]] = {
    "rope.scaling.yarn_beta_fast": ("beta_fast", 32.0),
    "rope.scaling.yarn_beta_slow": ("beta_slow", 1.0),
    "rope.scaling.yarn_ext_factor": ("extrapolation_factor", 1.0),
}
FREQUENCIES, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
# The kinds of scaling whose effect is known; those that divide positions by a factor, and those with factors by length.
KNOWN = frozenset({"default", "linear", "yarn", "llama3", "longrope", "su", "dynamic"})
KINDS = ("none", "linear", "yarn", "longrope")
DIVIDED, BY_LENGTH = frozenset({"linear", "yarn"}), frozenset({"longrope", "su"})
# Tolerance, because GGUF stores a config's numbers in float32; factors of single frequencies are computed in it.
RELATIVE, COMPUTED = 1e-6, 1e-4
F32 = 0


def position_problems(
    metadata: Mapping[str, Any], tensors: Mapping[str, GgufTensor], config: Mapping[str, Any]
) -> Iterator[str]:
    """Yield the differences between a file's rotary positions and those of a config, each as one line.

    Args:
        metadata: the metadata of the file.
        tensors: the tensors of all its parts.
        config: the baseline's config, with the fields of its language model.
    """
    architecture = metadata["general.architecture"]
    stated = {
        key.removeprefix(f"{architecture}."): value
        for key, value in metadata.items()
        if key.startswith(f"{architecture}.")
    }
    prefix = f"{architecture}."
    turned, size = number(stated.get(SIZE)), rotated_features(config)
    if turned is not None and size is not None and turned != size:
        yield f"{prefix}{SIZE} is {turned:.8g}, in the baseline {size}"
    for key, wanted, default in (
        (BASE, rope_bases(config), DEFAULT_BASE),
        (SLIDING_BASE, _sliding_bases(config), None),
    ):
        base = stated.get(key, default)
        found = number(base)
        if base is not None and wanted and not any(_close(found, one) for one in wanted):
            yield f"{prefix}{key} is {str(base)[:40]}, in the baseline {' or '.join(f'{one:.8g}' for one in wanted)}"
    if _kind(config) in KNOWN:
        for reason in _scaling_problems(stated, config):
            yield f"{prefix}{reason}"
    yield from _factor_problems(tensors, config)


def number(value: object) -> float | None:
    """Return a finite number; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def rope_bases(config: Mapping[str, Any]) -> list[float]:
    """Return the rotary bases that a config states for layers with full attention, or for all layers."""
    stated = [config.get("rope_theta"), _table(config).get("rope_theta")]
    return list(dict.fromkeys(found for one in stated if (found := number(one)) is not None))


def rotated_features(config: Mapping[str, Any]) -> int | None:
    """Return how many features of a head rotary positions rotate; None if a config does not state it."""
    shares = [config.get("partial_rotary_factor"), *(one.get("partial_rotary_factor") for one in _tables(config))]
    share = next((found for one in shares if (found := number(one)) is not None), None)
    size = _head_features(config)
    return None if share is None or size is None else int(share * size)


def _head_features(config: Mapping[str, Any]) -> float | None:
    width, heads = number(config.get("hidden_size")), number(config.get("num_attention_heads"))
    return number(config.get("head_dim")) or (width // heads if width and heads else None)


def _tables(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a config's settings of rotary positions, one for each kind of layer if they differ."""
    for key in ("rope_parameters", "rope_scaling"):
        table = config.get(key)
        if isinstance(table, dict) and table:
            inner: list[Mapping[str, Any]] = [one for one in table.values() if isinstance(one, dict)]
            return inner or [table]
    return []


def _table(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings that the converter writes: those of full attention if kinds of layers differ."""
    for key in ("rope_parameters", "rope_scaling"):
        table = config.get(key)
        if isinstance(table, dict) and isinstance(table.get("full_attention"), dict):
            return dict(table["full_attention"])
    return next(iter(_tables(config)), {})


def _sliding_bases(config: Mapping[str, Any]) -> list[float]:
    tables = (config.get("rope_parameters"), config.get("rope_scaling"))
    inner = [table.get("sliding_attention") for table in tables if isinstance(table, dict)]
    stated = [config.get("rope_local_base_freq"), *(one.get("rope_theta") for one in inner if isinstance(one, dict))]
    return [found for one in stated if (found := number(one)) is not None]


def _kind(config: Mapping[str, Any]) -> str:
    table = _table(config)
    return str(table.get("rope_type") or table.get("type") or "default")[:40]


def _scaling_problems(stated: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the differences in how positions are scaled, given a file's keys without the name of its architecture."""
    table, wanted_kind = _table(config), _kind(config)
    kind = stated.get(KIND, "linear")
    divisor = number(stated.get(FACTOR, stated.get(OLD_FACTOR))) or 1.0
    factor = 1.0 if kind == "none" else divisor
    wanted = (number(table.get("factor")) or 1.0) if wanted_kind in DIVIDED else 1.0
    if not _close(factor, wanted):
        yield f"{FACTOR} is {factor:.8g} ({KIND} {str(kind)[:40]}), in the baseline {wanted:.8g} ({wanted_kind})"
        return
    by_length = kind == "longrope" and wanted_kind not in BY_LENGTH
    if kind not in KINDS or by_length or (factor != 1.0 and (kind == "yarn") != (wanted_kind == "yarn")):
        yield f"{KIND} is {str(kind)[:40]!r}, in the baseline {wanted_kind!r}"
        return
    if factor != 1.0 and kind == "yarn":
        yield from _yarn_problems(stated, config)
    scale = number(stated.get(LONG_FACTOR, 1.0))
    expected = _long_scale(config) if wanted_kind in BY_LENGTH else 1.0
    if expected is not None and wanted_kind != "yarn" and not _close(scale, expected, COMPUTED):
        yield f"{LONG_FACTOR} is {str(stated.get(LONG_FACTOR, 1.0))[:40]}, in the baseline {expected:.8g}"


def _yarn_problems(stated: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    table = _table(config)
    longest = config.get("max_position_embeddings")
    sizes = (table.get("original_max_position_embeddings"), config.get("original_max_position_embeddings"), longest)
    wanted = next((found for one in sizes if (found := number(one)) is not None), None)
    original = number(stated.get(ORIGINAL, stated.get(CONTEXT)))
    if wanted is not None and original is not None and original != wanted:
        yield f"{ORIGINAL} is {original:.8g}, in the baseline {wanted:.8g}"
    for key, (name, default) in YARN.items():
        own, base = number(stated.get(key, default)), number(table.get(name)) or default
        if not _close(own, base):
            yield f"{key} is {str(stated.get(key, default))[:40]}, in the baseline {base:.8g}"
    own, base = number(stated.get(LOG_FACTOR, 0.0)), number(table.get("mscale_all_dim")) or 0.0
    if LOG_FACTOR in stated and not _close(own, base):
        yield f"{LOG_FACTOR} is {str(stated[LOG_FACTOR])[:40]}, in the baseline {base:.8g}"


def _long_scale(config: Mapping[str, Any]) -> float | None:
    """Return the factor of attention with LongRoPE; None if a config states it itself, or not enough to compute it."""
    table = _table(config)
    longest, original = (
        number(table.get(name, config.get(name)))
        for name in ("max_position_embeddings", "original_max_position_embeddings")
    )
    if number(table.get("attention_factor")) is not None or not longest or not original or original <= 1:
        return None
    scale = longest / original
    return math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0


def _factor_problems(tensors: Mapping[str, GgufTensor], config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the tensors of factors that are missing, should not be there, or have other values."""
    table, kind = _table(config), _kind(config)
    wanted: dict[str, list[float] | None] = {FREQUENCIES: None, LONG: None, SHORT: None}
    if kind == "llama3":
        wanted[FREQUENCIES] = _llama3_factors(config)
    if kind in BY_LENGTH:
        for name, key in ((LONG, "long_factor"), (SHORT, "short_factor")):
            wanted[name] = _numbers(table.get(key))
    for name, factors in wanted.items():
        if (factors is not None) != (name in tensors):
            there = "missing" if factors is not None else "there"
            yield f"{name} is {there}, and the baseline's rope_type is {kind}"
        elif factors and not _same(tensors[name], factors):
            yield f"{name} has other factors than the baseline's rope_type {kind}"


def _llama3_factors(config: Mapping[str, Any]) -> list[float]:
    """Return the factor of each frequency with Llama 3's scaling; empty if a config does not state enough."""
    table = _table(config)
    size, base = _head_features(config), next(iter(rope_bases(config)), DEFAULT_BASE)
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    factor, low, high, original = (
        number(table.get(name, default)) for name, default in zip(names, (8.0, 1.0, 4.0, 8192), strict=True)
    )
    if not (size and factor and low and high and original) or low == high:
        return []
    size = rotated_features(config) or size
    factors = []
    for place in range(0, int(size), 2):
        length = 2 * math.pi * base ** (place / size)
        smooth = (original / length - low) / (high - low)
        factors.append(1 / ((1 - smooth) / factor + smooth) if 0 <= smooth <= 1 else 1.0 if smooth > 1 else factor)
    return factors


def _same(tensor: GgufTensor, factors: list[float]) -> bool:
    if tensor.kind != F32 or tensor.shape != (len(factors),):
        return False
    values = np.memmap(tensor.path, "<f4", "r", tensor.offset, tensor.shape)
    return bool(np.allclose(values, factors, rtol=COMPUTED, atol=0))


def _numbers(values: object) -> list[float]:
    """Return the finite numbers in a list of a config; empty for any other value."""
    return [found for one in values if (found := number(one)) is not None] if isinstance(values, list) else []


def _close(own: float | None, base: float, relative: float = RELATIVE) -> bool:
    return own is not None and math.isclose(own, base, rel_tol=relative)
