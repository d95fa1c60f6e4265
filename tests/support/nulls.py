"""Constructed null runs of a model with two matrices and four windows, with preview windows as earlier versions had."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

from invarlock.reports.derivation import contract_hash
from invarlock.reports.documents import NullRunDocument
from invarlock.reports.null_runs import CHANGES, NULL_SEED, NULL_WINDOWS, SCHEMA
from invarlock.reports.presets import NullRun

CONTRACTS: dict[str, Any] = {"rmt": {"guard": "rmt"}, "spectral": {"guard": "spectral"}, "variance": {"guard": "v"}}
LOSSES = [2.0, 2.0, 2.0, 2.0]
WINDOWS = len(LOSSES)
VERSIONS = dict.fromkeys(("invarlock", "python", "torch", "transformers"), "1.0")


def null_run(
    run: int,
    log_ratios: tuple[float, float, float] = (0.0, 0.0, 0.0),
    growths: tuple[float, float, float] = (0.0, 0.0, 0.0),
    deltas: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0),
    preview_delta: float = 0.0,
) -> NullRun:
    """Return null run ``run``. Each of its three changes has a log ratio, and a growth that both matrices share."""
    document = {
        "schema": SCHEMA,
        "run": run,
        "seeds": {"windows": NULL_SEED + run, "changes": NULL_SEED + run},
        "meta": {"model_id": "a/model", "revision": None, "device": "cpu", "dtype": "float32", "attention": "eager",
                 "versions": VERSIONS},
        "baseline": {"digest": f"sha256:{'1' * 64}", "tokenizer_sha256": f"sha256:{'2' * 64}"},
        "dataset": {
            "provider": "embedded", "source_sha256": f"sha256:{'3' * 64}", "tokenizer_sha256": f"sha256:{'2' * 64}",
            "seq_len": 11, "prefix_token_ids": [], "windows": {"preview": WINDOWS, "final": WINDOWS},
        },
        "measurement_contracts": copy.deepcopy(CONTRACTS),
        "windows": {"preview": _part(run, 0), "final": _part(run, WINDOWS)},
        "fidelity": {
            "vocabulary": 8, "top_k": 8, "sha256": f"sha256:{'5' * 64}", "rest_mass": 0.0, "confident": [3] * WINDOWS,
        },
        "spectral": _spectra(0.0),
        "rmt": _risks(0.0),
        "rmt_probe": _risks(0.0),
        "variance": _side("variance", {"down": {"rms": 1.0}}),
        "changes": [
            {
                "name": name,
                "digest": f"sha256:{'4' * 64}",
                "logloss": {
                    "preview": [loss + preview_delta for loss in LOSSES],
                    "final": [loss + delta for loss, delta in zip(LOSSES, deltas, strict=True)],
                },
                "fidelity": _divergences(),
                "spectral": _spectra(log_ratio),
                "weight_changes": {},
                "rmt": _risks(growth),
                "rmt_probe": _risks(2 * growth),
                "variance": {**_side("variance", {"down": {"rms": 1.0}}), "scaled_logloss": None},
            }
            for name, log_ratio, growth in zip(CHANGES, log_ratios, growths, strict=True)
        ],
    }  # fmt: skip
    return NullRun(cast(NullRunDocument, document), f"sha256:{run:064x}")


def without_previews(run: NullRun) -> NullRun:
    """Return a null run as today's version measures it: without preview windows."""
    document: Any = copy.deepcopy(run.document)
    document["windows"]["preview"] = {"window_ids": [], "token_counts": [], "logloss": []}
    for change in document["changes"]:
        change["logloss"]["preview"] = []
    return NullRun(document, run.sha256)


def with_few_windows(run: NullRun, of_a_case: int, windows: int = NULL_WINDOWS) -> NullRun:
    """Return a null run as today's version measures it where a case has more windows: 16 of each text."""
    document: Any = without_previews(run).document
    document["dataset"]["windows"]["final"] = of_a_case
    times = windows // WINDOWS
    final = document["windows"]["final"]
    for block in (final, document["fidelity"], *(change["fidelity"] for change in document["changes"])):
        block |= {key: values * times for key, values in block.items() if isinstance(values, list)}
    final["window_ids"] = [f"{run.run * 100 + index:016x}" for index in range(windows)]
    for change in document["changes"]:
        change["logloss"]["final"] *= times
        change["fidelity"]["histogram"] = {"first": 201, "counts": [10 * windows]}
    return NullRun(document, run.sha256)


def _part(run: int, first: int) -> dict[str, Any]:
    ids = [f"{run * 100 + first + index:016x}" for index in range(WINDOWS)]
    return {"window_ids": ids, "token_counts": [10] * WINDOWS, "logloss": list(LOSSES)}


def _divergences() -> dict[str, Any]:
    """Return divergences of 0.001 nats at ten positions of a window, one of which has a different top token."""
    return {
        "kl_sum": [0.01] * WINDOWS, "kl_max": 0.001, "histogram": {"first": 201, "counts": [10 * WINDOWS]},
        "same_top": [9] * WINDOWS, "confident_same": [3] * WINDOWS, "delta_p_squared": [0.001] * WINDOWS,
    }  # fmt: skip


def _side(guard: str, modules: dict[str, Any]) -> dict[str, Any]:
    return {"measurement_contract_hash": contract_hash(CONTRACTS[guard]), "modules": modules}


def _spectra(log_ratio: float) -> dict[str, Any]:
    rows = {"family": "ffn", "shape": [4, 4], "sigma": math.exp(log_ratio), "residual": 0.0, "frobenius": 1.5}
    return _side("spectral", {"up": rows, "q": {**rows, "family": "attn"}})


def _risks(growth: float) -> dict[str, Any]:
    row = {"family": "ffn", "tokens": 40, "features": 4, "nonfinite": 0, "edge_risk": 1.0 + growth}
    return _side("rmt", {"up": row, "q": {**row, "family": "attn"}})
