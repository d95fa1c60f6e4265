"""The invariants guard's judgement: the subject's structure and finiteness, compared with the baseline's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from invarlock.catalog.deployables import BACKENDS, parse_deployable_spec
from invarlock.catalog.edit_specs import EDIT_NAMES, CleanSpec, Scope, parse_edit_spec
from invarlock.digests import short_digest
from invarlock.edits import BY_NAME as EDITS
from invarlock.guards.configuration import configuration_violations
from invarlock.guards.guard import Guard
from invarlock.guards.structure import missing_tensors, stated_sizes
from invarlock.judgement.context import Context
from invarlock.judgement.detector import DetectorKind
from invarlock.judgement.expectations import WIDTHS, expected
from invarlock.judgement.gate import Gate, worst_violation
from invarlock.judgement.widths import Widths, declared_widths, width_of
from invarlock.pages.markup import Markup, element
from invarlock.pages.parts import counted

Facts = Mapping[str, Any]
Violation = dict[str, str]

# With the smallest groups in use (16 weights), scales and zero points add three quarters to the bits of a code.
SPACIOUS = 1.75
# 4-bit packing saves more than this even if unchanged embeddings are most of a model, as in Gemma 3 270M.
BARELY_SMALLER = 0.9
# The kinds of violations that are counted.
COUNTED_KINDS = ("missing", "unexpected", "reshaped", "dtype", "scope")
# The kind of a defect that may change nothing.
DOUBT = "doubt"
# Dtypes that differ only in the precision of their numbers, and their bytes.
PRECISIONS = {"BF16": 2, "F16": 2, "F32": 4}
# No bias is longer; the largest vocabularies have some 300,000 tokens.
MOST_OUTPUTS = 1 << 20
# Families of the matrices in blocks. Embedding and head are excluded because they may be tied.
LAYERS = frozenset({"attn", "ffn", "router"})


def derive_invariants(
    raw: Mapping[str, Facts],
    edit: Mapping[str, Any] | None,
    equivalence: Collection[str] = (),
    seq_len: int | None = None,
    *,
    meant_to_change: bool = False,
) -> dict[str, Any]:
    """Return status, metrics and violations of the guard.

    These fail: non-finite values; missing, unexpected or reshaped tensors; embedding rows that do not fit config or
    tokenizer; a tokenizer with other tokens; a changed tie; a matrix with the values of another matrix; a changed
    tensor outside the scope of the edit; defects of packed weights; configuration that changes the computation on the
    scored text. These warn: a dtype that changed in a part of a dense checkpoint, a bias that became zero,
    packing that saves little, and other differences of configuration. An added bias of zeros is neither.

    Args:
        raw: the facts of ``baseline`` and ``subject``: ``tensors`` (by name: digest, dtype, shape, family, nonfinite,
            sometimes zero), ``config``, ``tokenizer_tokens``, ``vocabulary_sha256``, ``prefix_token_ids``,
            ``embedding``, ``head``, ``added_special_tokens``, ``configuration``, ``tied_by_storage``,
            ``tied_by_value``, ``storage``, ``defects``.
        edit: the report's ``edit``, with its declared changes as ``expected``. None, a fault or a custom edit may
            change anything.
        equivalence: kinds of removed differences; with ``untied_head``, the head equals the embedding after removal.
        seq_len: tokens per scored window; None if not known.
        meant_to_change: whether the subject is meant to answer differently; then fields of ``config.json`` that change
            the computation only warn.
    """
    baseline, subject = raw["baseline"], raw["subject"]
    declared = _Declared.by(edit, baseline, subject)
    violations = [
        *_expectation_violations(baseline, subject, edit),
        *_storage_violations(baseline, subject),
        *_tensor_violations(baseline, subject, declared),
        *_copies(baseline, subject, "warn" if meant_to_change else "fail"),
        *_zeroed_biases(baseline, subject),
        *_embedding_violations(baseline, subject, declared),
        *_tie_violations(baseline, subject, "untied_head" in equivalence),
        *_config_violations(baseline, subject, declared),
        *_configuration_violations(baseline, subject, seq_len, declared, meant_to_change=meant_to_change),
        *_tokenizer_violations(baseline, subject),
        *_scope_violations(baseline, subject, edit),
    ]
    severities = {violation["severity"] for violation in violations}
    status = "fail" if "fail" in severities else "warn" if "warn" in severities else "pass"
    broken = [facts["nonfinite"] for facts in subject["tensors"].values() if facts["nonfinite"]]
    kinds = [violation["kind"] for violation in violations]
    metrics = {
        "tensors": len(subject["tensors"]),
        "baseline_tensors": len(baseline["tensors"]),
        "changed_tensors": len(changed_tensors(baseline, subject)),
        "nonfinite_tensors": len(broken),
        "nonfinite_values": sum(broken),
        **{kind: kinds.count(kind) for kind in COUNTED_KINDS},
    }
    return {"status": status, "passed": status != "fail", "metrics": metrics, "violations": violations}


@dataclass(frozen=True)
class _Declared:
    """The declared sizes of a subject: rows of its embedding, layers and experts; None for a size that is not declared.

    ``widths`` has the shapes and fields that follow from declared widths.
    """

    vocabulary: int | None
    layers: int | None
    experts: int | None
    widths: Widths

    @classmethod
    def by(cls, edit: Mapping[str, Any] | None, baseline: Facts, subject: Facts) -> _Declared:
        sizes = {
            "vocabulary": _rows(baseline),
            "layers": baseline["config"].get("num_hidden_layers"),
            "experts": width_of(stated_sizes(baseline), "experts"),
        }
        wanted = {
            what: None if before is None or (one := expected(edit, what)) is None else one.wanted(before)
            for what, before in sizes.items()
        }
        configs = map(stated_sizes, (baseline, subject))
        return cls(**wanted, widths=declared_widths(edit, *configs))

    def shape_of(self, name: str, own: list[int], base: list[int], baseline: Facts) -> bool:
        """Return whether a tensor has the declared rows and widths, and otherwise the baseline's shape."""
        if name in _vocabulary_tensors(baseline) and own[:1] == [self.vocabulary] and base[:1] == [_rows(baseline)]:
            return self.widths.fits(own[1:], base[1:])
        return self.widths.fits(own, base)


def _vocabulary_tensors(baseline: Facts) -> frozenset[str]:
    names = {baseline["embedding"], baseline["head"]} - {None}
    return frozenset(names | {f"{name.removesuffix('weight')}bias" for name in names})


def _expectation_violations(baseline: Facts, subject: Facts, edit: Mapping[str, Any] | None) -> Iterator[Violation]:
    """Yield each declared change that was not made."""
    for what, (before, after) in _sizes(baseline, subject).items():
        declared = expected(edit, what)
        if declared is None:
            continue
        if before is None or after != declared.wanted(before):
            found = f"{declared} is declared, but the subject has {after} and the baseline has {before}"
            yield _violation("config.json", "expected", f"{found}; {_declaration_to_use(what, before, after)}")


def _declaration_to_use(what: str, before: int | None, after: int | None) -> str:
    """Return what to do about a declared change that was not made."""
    if before is None or after is None:
        return "do not declare a size that config.json does not state"
    if before == after or (what == "vocabulary" and after < before):
        return "leave the declaration out"
    return f"if that is intended, declare {_declaration(what, before, after)}"


def _declaration(what: str, before: int, after: int) -> str:
    return f"vocabulary+{after - before}" if what == "vocabulary" else f"{what}={after}"


def _sizes(baseline: Facts, subject: Facts) -> dict[str, tuple[int | None, int | None]]:
    """Return the sizes that a user can declare, of the baseline and of the subject; None where one is not known."""
    configs = [stated_sizes(side) for side in (baseline, subject)]
    return {
        "vocabulary": (_rows(baseline), _rows(subject)),
        "layers": (baseline["config"].get("num_hidden_layers"), subject["config"].get("num_hidden_layers")),
        **{what: (width_of(configs[0], what), width_of(configs[1], what)) for what in WIDTHS},
    }


def undeclared_changes(raw: Mapping[str, Any], edit: Mapping[str, Any] | None) -> list[str]:
    """Return the declarations that a subject's other sizes lack, such as ``vocabulary+8``; a vocabulary can only grow.

    Args:
        raw: the facts of ``baseline`` and ``subject``, as in ``judge_invariants``.
        edit: the report's ``edit``, with its declared changes as ``expected``.
    """
    lacking = []
    for what, (before, after) in _sizes(raw["baseline"], raw["subject"]).items():
        if before is None or after is None or before == after or expected(edit, what) is not None:
            continue
        if what != "vocabulary" or after > before:
            lacking.append(_declaration(what, before, after))
    return lacking


def _violation(tensor: str, kind: str, reason: str, severity: str = "fail") -> Violation:
    return {"tensor": tensor, "kind": kind, "reason": reason, "severity": severity}


def _is_tied(side: Facts) -> bool:
    return bool(side["tied_by_storage"] or side["tied_by_value"])


def _storage_violations(baseline: Facts, subject: Facts) -> Iterator[Violation]:
    """Yield problems of the storage of packed weights, and a warning if packing saves little."""
    for defect in subject["defects"]:
        severity = "warn" if defect["kind"] == DOUBT else "fail"
        yield _violation(defect["tensor"], defect["kind"], defect["reason"], severity)
    own, base = subject["storage"], baseline["storage"]
    if own["quantisation"] is None or not own["packed_weights"]:
        return
    bits, weights = own["quantisation"]["bits"], own["packed_weights"]
    taken = 8 * own["packed_bytes"] / weights if weights else 0.0
    if bits is not None and taken > SPACIOUS * bits:
        reason = f"config.json says {bits:g} bits a weight, and the packed weights take {taken:.1f}"
        yield _violation("config.json", "size", reason, "warn")
    elif own["stored_bytes"] > BARELY_SMALLER * base["stored_bytes"]:
        reason = f"packed, and {own['stored_bytes']} bytes large, where the baseline has {base['stored_bytes']}"
        yield _violation("config.json", "size", reason, "warn")


def _tensor_violations(baseline: Facts, subject: Facts, declared: _Declared) -> Iterator[Violation]:
    before, after = baseline["tensors"], subject["tensors"]
    heads = {baseline["head"], subject["head"]} - {None}
    missing = frozenset(missing_tensors(baseline, subject, declared.layers, declared.experts))
    # codes have no precision; tensors that a quantiser leaves dense are stored in the dtype of its kernels
    recast = subject["storage"]["packed_weights"] > 0 or _is_recast(before, after)
    for name in sorted({*before, *after}):
        own, base = after.get(name), before.get(name)
        if own is not None and own["nonfinite"]:
            yield _violation(name, "nonfinite", counted(own["nonfinite"], "non-finite value"))
        if name in heads and (own is None or base is None):
            continue  # _tie_violations reports a changed tie
        if own is None and name not in missing:
            continue  # _storage_violations reports it, or it is part of a layer that is declared to be dropped
        if own is None:
            kind = "missing norm layer: " if base["family"] == "norm" else ""
            yield _violation(name, "missing", f"{kind}the baseline has it, the subject does not")
        elif base is None:
            if _is_zero_bias(name, own, before):
                continue
            yield _violation(name, "unexpected", "the subject has it, the baseline does not")
        elif own["shape"] != base["shape"]:
            if declared.shape_of(name, own["shape"], base["shape"], baseline):
                continue
            what = "router shape" if base["family"] == "router" else "shape"
            yield _violation(name, "reshaped", f"{what} {own['shape']} where the baseline has {base['shape']}")
        elif own["dtype"] != base["dtype"] and not (recast and {own["dtype"], base["dtype"]} <= PRECISIONS.keys()):
            reason = f"stored as {own['dtype']} where the baseline has {base['dtype']}"
            # floats of another precision are the same weights; integers instead of floats are not
            alike = _is_float(own["dtype"]) == _is_float(base["dtype"])
            yield _violation(name, "dtype", reason, "warn" if alike else "fail")


def _is_zero_bias(name: str, own: Facts, before: Mapping[str, Facts]) -> bool:
    """Return whether a tensor is a bias of zeros of a layer without one in the baseline; it changes nothing."""
    weight = before.get(f"{name.removesuffix('.bias')}.weight") if name.endswith(".bias") else None
    shape = own["shape"]
    if weight is None or len(shape) != 1 or shape[0] not in weight["shape"]:
        return False
    return _is_zero(own)


def _is_zero(vector: Facts) -> bool:
    """Return whether a vector has only zeros; −0.0 is a zero too, which its digest does not show."""
    zeros = _digest_of_zeros(vector["shape"][0], vector["dtype"])
    return vector.get("zero") is True or bool(vector["digest"] == zeros)


def _copies(baseline: Facts, subject: Facts, severity: str) -> Iterator[Violation]:
    """Yield the matrices in blocks that have the values of another matrix, if the baseline's two matrices differ.

    A tool that writes one expert or block in place of another makes a model with the right shapes.
    """
    before = baseline["tensors"]
    first: dict[str, str] = {}
    for name, own in sorted(subject["tensors"].items()):
        # a vector stored as a matrix may have the values of another one after rounding
        if own["family"] not in LAYERS or len(own["shape"]) < 2 or min(own["shape"][-2:]) < 2 or name not in before:
            continue
        other = first.setdefault(own["digest"], name)
        if before[other]["digest"] != before[name]["digest"]:
            reason = f"it has the same values as {other}, the baseline's two differ"
            yield _violation(name, "copy", reason, severity)


def _zeroed_biases(baseline: Facts, subject: Facts) -> Iterator[Violation]:
    """Yield the biases whose values all became zero, which may matter little to the scored text.

    A norm may become zero when it is folded into the matrices that read it.
    """
    for name, own in sorted(subject["tensors"].items()):
        base = baseline["tensors"].get(name)
        if base is None or len(own["shape"]) != 1 or own["digest"] == base["digest"] or own["family"] == "norm":
            continue
        if _is_zero(own) and not (len(base["shape"]) == 1 and _is_zero(base)):
            yield _violation(name, "zero", "all its values are 0, in the baseline they are not", "warn")


@lru_cache(maxsize=64)
def _digest_of_zeros(elements: int, dtype: str) -> str | None:
    """Return the digest of a vector of zeros, None for one that is no bias; a report may state any shape."""
    size = PRECISIONS.get(dtype)
    return None if size is None or elements > MOST_OUTPUTS else short_digest(bytes(elements * size))


def _is_recast(before: Mapping[str, Facts], after: Mapping[str, Facts]) -> bool:
    """Return whether all matrices of one precision now have one other precision, as if the whole model was cast.

    As converters do, a cast may keep norms, biases and routers in the baseline's precision, or store them in float32.
    """
    cast: dict[str, set[str]] = {}
    kept: list[tuple[str, str]] = []
    for name in before.keys() & after.keys():
        base, own = before[name]["dtype"], after[name]["dtype"]
        if not {base, own} <= PRECISIONS.keys():
            continue
        if len(before[name]["shape"]) < 2 or before[name]["family"] == "router":
            kept.append((base, own))
        else:
            cast.setdefault(base, set()).add(own)
    made = set().union(*cast.values())
    return all(len(dtypes) == 1 for dtypes in cast.values()) and all(own in {base, "F32", *made} for base, own in kept)


def _is_float(dtype: str) -> bool:
    return dtype.startswith(("F", "BF"))


def _embedding_violations(baseline: Facts, subject: Facts, declared: _Declared) -> Iterator[Violation]:
    name = subject["embedding"]
    if name is None:
        if baseline["embedding"] is not None:
            yield _violation(baseline["embedding"], "embedding", "the subject has no input embedding")
        return
    rows = _rows(subject)
    assert rows is not None
    vocabulary, tokens = subject["config"]["vocab_size"], subject["tokenizer_tokens"]
    # Mllama has embedding rows for images that its vocabulary size does not include
    same_vocabulary = (rows, vocabulary) == (_rows(baseline), baseline["config"]["vocab_size"])
    if vocabulary is not None and rows != vocabulary and not same_vocabulary:
        yield _violation(name, "embedding", f"{rows} rows where config.json says a vocabulary of {vocabulary}")
    # the tokenizers of some baselines already have tokens without a row, such as Gemma 3's <image_soft_token>
    as_baseline = (rows, tokens) == (_rows(baseline), baseline["tokenizer_tokens"])
    if tokens is not None and rows < tokens and not as_baseline:
        # a tool that saves a tokenizer may add a padding token; the model has no row for it, but no text contains it
        unused = subject["added_special_tokens"]
        severity = "warn" if unused is not None and rows >= tokens - unused else "fail"
        yield _violation(name, "embedding", f"{rows} rows for a tokenizer of {tokens} tokens", severity)
    if tokens is not None and rows > tokens and rows not in (_rows(baseline), declared.vocabulary):
        yield _violation(
            name, "embedding", f"{rows} rows for a tokenizer of {tokens}, the baseline has {_rows(baseline)}"
        )


def _rows(side: Facts) -> int | None:
    if side["embedding"] is None:
        return None
    shape = side["tensors"][side["embedding"]]["shape"]
    return int(shape[0]) if shape else 0


def _tie_violations(baseline: Facts, subject: Facts, same_head: bool) -> Iterator[Violation]:
    """Yield a changed tie; a stored head that equals the embedding is the same model as a tied head."""
    head = subject["head"] or baseline["head"] or "output head"
    if _is_tied(subject) != _is_tied(baseline) and not (same_head and _is_tied(baseline)):
        words = {True: "tied to the input embedding", False: "not tied"}
        reason = f"{words[_is_tied(subject)]}, in the baseline {words[_is_tied(baseline)]}"
        yield _violation(head, "tie", reason)
    if _contradicts_its_config(subject) and not _contradicts_its_config(baseline):
        yield _violation(head, "tie", "config.json ties it, but it is stored with values of its own")


def _contradicts_its_config(side: Facts) -> bool:
    """Return whether a config ties the head but the stored head differs; a few published models are like this."""
    return side["tied_by_storage"] and side["head"] is not None and not side["tied_by_value"]


def changed_tensors(baseline: Facts, subject: Facts) -> list[str]:
    """Return the tensors whose bytes differ, or that exist on one side only."""
    before, after = baseline["tensors"], subject["tensors"]
    return [
        name
        for name in sorted({*before, *after})
        if name not in before or name not in after or before[name]["digest"] != after[name]["digest"]
    ]


def _configuration_violations(
    baseline: Facts, subject: Facts, seq_len: int | None, declared: _Declared, *, meant_to_change: bool
) -> Iterator[Mapping[str, Any]]:
    found = configuration_violations(baseline, subject, seq_len, layers=declared.layers, excused=declared.widths.fields)
    for violation in found:
        relaxed = meant_to_change and violation["kind"] == "config"
        yield {**violation, "severity": "warn"} if relaxed else violation


def _scope_violations(baseline: Facts, subject: Facts, edit: Mapping[str, Any] | None) -> Iterator[Violation]:
    """Yield the changed tensors that are outside the scope of the edit."""
    if edit is None or edit["name"] not in (*EDIT_NAMES, *BACKENDS):
        return
    spec = parse_deployable_spec(edit["spec"]) if edit["name"] in BACKENDS else parse_edit_spec(edit["spec"])
    scope = None if isinstance(spec, CleanSpec) else spec.scope
    touched = EDITS[edit["name"]].touches if edit["name"] in EDITS else ()
    for name in changed_tensors(baseline, subject):
        if name not in baseline["tensors"] or name not in subject["tensors"]:
            continue  # reported as missing or unexpected
        if touched:
            if baseline["tensors"][name]["family"] not in touched:
                yield _violation(name, "scope", f"changed, though {edit['name']} changes {', '.join(touched)} alone")
        elif scope is None:
            yield _violation(name, "scope", "changed, though nothing was edited")
        elif not _takes(scope, name, baseline["tensors"][name]):
            yield _violation(name, "scope", f"changed, though an edit of {scope} does not take it")


def _takes(scope: Scope, name: str, tensor: Mapping[str, Any]) -> bool:
    """Return whether a scope includes a tensor: a matrix or stack of matrices of the scope's family and block."""
    block = next((int(segment) for segment in name.split(".") if segment.isdigit()), None)
    families = ("attn", "ffn") if scope.family == "all" else (scope.family,)
    return len(tensor["shape"]) > 1 and tensor["family"] in families and scope.layer in (None, block)


def _config_violations(baseline: Facts, subject: Facts, declared: _Declared) -> Iterator[Violation]:
    wanted = {
        "vocab_size": declared.vocabulary,
        "num_hidden_layers": declared.layers,
        "num_experts": declared.experts,
    }
    for key in sorted({*baseline["config"], *subject["config"]}):
        own, base = subject["config"].get(key), baseline["config"].get(key)
        if key != "tie_word_embeddings" and own not in (base, wanted.get(key)):
            yield _violation("config.json", "config", f"{key} is {own}, in the baseline {base}")


def _tokenizer_violations(baseline: Facts, subject: Facts) -> Iterator[Violation]:
    own, base = subject["vocabulary_sha256"], baseline["vocabulary_sha256"]
    if None not in (own, base) and own != base:
        more = subject["added_special_tokens"]
        if more is None:
            # both sides are scored on the baseline's tokens, so measurements with other tokens are not valid
            reason = "it has other tokens, or gives them other ids, than the baseline's"
            yield _violation("tokenizer", "tokenizer", reason)
        else:
            reason = f"it has {more} special {'token' if more == 1 else 'tokens'} that the baseline's does not have"
            yield _violation("tokenizer", "tokenizer", reason, "warn")
    begins, wanted = subject["prefix_token_ids"], baseline["prefix_token_ids"]
    if None not in (begins, wanted) and begins != wanted:
        words = [f"tokens {ids}" if ids else "the text itself" for ids in (begins, wanted)]
        yield _violation("tokenizer", "tokenizer", f"it begins a text with {words[0]}, the baseline's with {words[1]}")


def _judge(raw: Facts, limits: Facts, context: Context) -> dict[str, Any]:
    counts = context.windows["final"]["token_counts"]
    seq_len = max(counts) + 1 if counts else None
    meant_to_change = context.intent == "change"
    return derive_invariants(raw, context.edit, context.equivalence, seq_len, meant_to_change=meant_to_change)


def _gates(block: Facts, limits: Facts) -> list[Gate]:
    return [Gate("invariants_pass", worst_violation(block), "no violation", block["passed"])]


def _page_section(block: Mapping[str, Any]) -> Iterator[Markup]:
    metrics = block["metrics"]
    yield element(
        "p",
        f"{counted(metrics['tensors'], 'tensor')}, {metrics['changed_tensors']} changed (the baseline has "
        f"{metrics['baseline_tensors']}); {counted(metrics['nonfinite_values'], 'non-finite value')} in "
        f"{counted(metrics['nonfinite_tensors'], 'tensor')}; violations and warnings by kind: "
        f"{', '.join(f'{kind} {metrics[kind]}' for kind in COUNTED_KINDS)}",
    )


INVARIANTS = Guard(
    name="invariants",
    judge=_judge,
    page_section=_page_section,
    flags=("invariants_pass",),
    gates=_gates,
    detects=lambda block: bool(block["status"] == "fail"),
    facts=lambda block: {"invariants_status": block["status"]},
    detectors=(DetectorKind("invariants_status", lambda detector, report: report["invariants"]["status"]),),
    has_limits=False,
)
