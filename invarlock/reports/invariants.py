"""The invariants guard's judgement: structure and finiteness of subject against baseline, from their facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Facts = Mapping[str, Any]
Violation = dict[str, str]


def derive_invariants(raw: Mapping[str, Facts]) -> dict[str, Any]:
    """Return status, metrics and violations of the guard.

    Non-finite values, missing, unexpected or reshaped tensors, embedding rows that do not fit config or tokenizer,
    and a changed tie structure fail; a changed dtype warns.

    Args:
        raw: the facts of ``baseline`` and ``subject``: ``tensors`` (by name: dtype, shape, family, nonfinite),
            ``config``, ``tokenizer_tokens``, ``embedding``, ``head``, ``tied_by_storage``, ``tied_by_value``.
    """
    baseline, subject = raw["baseline"], raw["subject"]
    violations = [
        *_tensor_violations(baseline, subject),
        *_embedding_violations(baseline, subject),
        *_tie_violations(baseline, subject),
        *_config_violations(baseline, subject),
    ]
    severities = {violation["severity"] for violation in violations}
    status = "fail" if "fail" in severities else "warn" if "warn" in severities else "pass"
    broken = [facts["nonfinite"] for facts in subject["tensors"].values() if facts["nonfinite"]]
    kinds = [violation["kind"] for violation in violations]
    metrics = {
        "tensors": len(subject["tensors"]),
        "baseline_tensors": len(baseline["tensors"]),
        "nonfinite_tensors": len(broken),
        "nonfinite_values": sum(broken),
        **{kind: kinds.count(kind) for kind in ("missing", "unexpected", "reshaped", "dtype")},
    }
    return {"status": status, "passed": status != "fail", "metrics": metrics, "violations": violations}


def _violation(tensor: str, kind: str, reason: str, severity: str = "fail") -> Violation:
    return {"tensor": tensor, "kind": kind, "reason": reason, "severity": severity}


def _is_tied(side: Facts) -> bool:
    return bool(side["tied_by_storage"] or side["tied_by_value"])


def _tensor_violations(baseline: Facts, subject: Facts) -> Iterator[Violation]:
    before, after = baseline["tensors"], subject["tensors"]
    heads = {baseline["head"], subject["head"]} - {None}
    for name in sorted({*before, *after}):
        own, base = after.get(name), before.get(name)
        if own is not None and own["nonfinite"]:
            yield _violation(name, "nonfinite", f"{own['nonfinite']} values are not finite")
        if name in heads and (own is None or base is None):
            continue  # a tie that changed, told by _tie_violations
        if own is None:
            kind = "missing norm layer" if base["family"] == "norm" else "missing"
            yield _violation(name, "missing", f"{kind}: the baseline has it, the subject does not")
        elif base is None:
            yield _violation(name, "unexpected", "the subject has it, the baseline does not")
        elif own["shape"] != base["shape"]:
            what = "router shape" if base["family"] == "router" else "shape"
            yield _violation(name, "reshaped", f"{what} {own['shape']} where the baseline has {base['shape']}")
        elif own["dtype"] != base["dtype"]:
            reason = f"stored as {own['dtype']} where the baseline has {base['dtype']}"
            yield _violation(name, "dtype", reason, "warn")


def _embedding_violations(baseline: Facts, subject: Facts) -> Iterator[Violation]:
    name = subject["embedding"]
    if name is None:
        if baseline["embedding"] is not None:
            yield _violation(baseline["embedding"], "embedding", "the subject has no input embedding")
        return
    rows = subject["tensors"][name]["shape"][0]
    vocabulary, tokens = subject["config"]["vocab_size"], subject["tokenizer_tokens"]
    if vocabulary is not None and rows != vocabulary:
        yield _violation(name, "embedding", f"{rows} rows where config.json says a vocabulary of {vocabulary}")
    if tokens is not None and rows < tokens:
        yield _violation(name, "embedding", f"{rows} rows for a tokenizer of {tokens} tokens")
    if tokens is not None and rows > tokens and rows != _rows(baseline):
        yield _violation(
            name, "embedding", f"{rows} rows for a tokenizer of {tokens}, the baseline has {_rows(baseline)}"
        )


def _rows(side: Facts) -> int | None:
    return None if side["embedding"] is None else int(side["tensors"][side["embedding"]]["shape"][0])


def _tie_violations(baseline: Facts, subject: Facts) -> Iterator[Violation]:
    head = subject["head"] or baseline["head"] or "output head"
    if _is_tied(subject) != _is_tied(baseline):
        words = {True: "tied to the input embedding", False: "not tied"}
        reason = f"{words[_is_tied(subject)]}, in the baseline {words[_is_tied(baseline)]}"
        yield _violation(head, "tie", reason)
    elif subject["tied_by_storage"] != baseline["tied_by_storage"]:
        yield _violation(head, "tie", "tied in another way than the baseline, with the same values", "warn")
    elif (subject["head"] is None) != (baseline["head"] is None):
        yield _violation(head, "tie", "the output head is stored on one side only", "warn")
    if subject["tied_by_storage"] and subject["head"] is not None and not subject["tied_by_value"]:
        yield _violation(head, "tie", "config.json ties it, but it is stored with values of its own")


def _config_violations(baseline: Facts, subject: Facts) -> Iterator[Violation]:
    for key in sorted({*baseline["config"], *subject["config"]}):
        own, base = subject["config"].get(key), baseline["config"].get(key)
        if key != "tie_word_embeddings" and own != base:
            yield _violation("config.json", "config", f"{key} is {own}, in the baseline {base}")
