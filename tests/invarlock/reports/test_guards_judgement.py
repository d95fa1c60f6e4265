import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from configurations import configuration

from invarlock.guards.guard import signals_when_not_passed
from invarlock.guards.invariants import derive_invariants
from invarlock.guards.spectral import derive_spectral
from invarlock.guards.spectral_raw import raw_problems
from invarlock.judgement.null_level import SAME_ANSWERS
from invarlock.measuring.invariants import tensor_digest
from invarlock.reports.policy import resolve_policy

LIMITS = resolve_policy("balanced", "dev", {})["spectral"]
DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32, "I8": torch.int8}

DENSE = {
    "format": "dense",
    "stored_bytes": 1000,
    "weights": 500,
    "packed_weights": 0,
    "packed_bytes": 0,
    "bits_per_weight": 16.0,
    "unpacked_modules": [],
    "quantisation": None,
}


def packed(stored: int, weights: int, taken: int, bits: float | None = 4) -> dict[str, Any]:
    return {
        **DENSE,
        "stored_bytes": stored,
        "packed_weights": weights,
        "packed_bytes": taken,
        "quantisation": {"bits": bits},
    }


def facts(**tensors: tuple[str, list[int], str, int]) -> dict[str, Any]:
    rows = {
        "embed.weight": ("BF16", [8, 4], "embed", 0),
        "up.weight": ("BF16", [6, 4], "ffn", 0),
        "norm.weight": ("BF16", [4], "norm", 0),
        "head.weight": ("BF16", [8, 4], "embed", 0),
    } | tensors
    return {
        "measurement_contract_hash": "0" * 16,
        "tensors": {
            name: {"digest": "0" * 16, "dtype": dtype, "shape": shape, "family": family, "nonfinite": nonfinite}
            for name, (dtype, shape, family, nonfinite) in rows.items()
        },
        "config": {"vocab_size": 8, "num_hidden_layers": 1, "tie_word_embeddings": False},
        "tokenizer_tokens": 8,
        "vocabulary_sha256": "a" * 64,
        "prefix_token_ids": [],
        "added_special_tokens": None,
        "configuration": configuration(),
        "modules_known_by": "table",
        "embedding": "embed.weight",
        "head": "head.weight",
        "tied_by_storage": False,
        "tied_by_value": False,
        "storage": DENSE,
        "defects": [],
    }


def judged(subject: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    block = derive_invariants({"baseline": facts(), "subject": subject}, None)
    return block["status"], [(row["tensor"], row["kind"]) for row in block["violations"]]


def test_a_subject_equal_to_its_baseline_passes_without_findings() -> None:
    block = derive_invariants({"baseline": facts(), "subject": facts()}, None)

    assert (block["status"], block["passed"], block["violations"]) == ("pass", True, [])
    assert block["metrics"]["tensors"] == 4


def test_one_value_that_is_not_finite_fails_and_names_the_tensor() -> None:
    subject = facts(**{"up.weight": ("BF16", [6, 4], "ffn", 1)})

    assert judged(subject) == ("fail", [("up.weight", "nonfinite")])


def test_missing_unexpected_and_reshaped_tensors_fail() -> None:
    missing, reshaped = facts(), facts(**{"up.weight": ("BF16", [4, 6], "ffn", 0)})
    del missing["tensors"]["norm.weight"]

    assert judged(missing) == ("fail", [("norm.weight", "missing")])
    assert judged(facts(**{"new.weight": ("BF16", [2], "other", 0)})) == ("fail", [("new.weight", "unexpected")])
    assert judged(reshaped) == ("fail", [("up.weight", "reshaped")])


@pytest.mark.parametrize(
    ("shape", "dtype", "was_zero", "warns"),
    [
        ([64], "BF16", False, True),
        ([64], "F32", False, True),
        ([64], "BF16", True, False),
        ([8, 8], "BF16", False, False),
        ([2**40], "BF16", False, False),
        ([64], "I8", False, False),
    ],
)
def test_a_bias_that_became_zero_warns(shape: list[int], dtype: str, *, was_zero: bool, warns: bool) -> None:
    def side(digest: str, stored: str) -> dict[str, Any]:
        whole = facts(**{"up.bias": (stored, shape, "ffn", 0)})
        whole["tensors"]["up.bias"]["digest"] = digest
        return whole

    zeros = {kind: tensor_digest(torch.zeros(64, dtype=own)) for kind, own in DTYPES.items()}
    base = side(zeros["F32"] if was_zero else "5" * 16, "F32" if was_zero else dtype)
    block = derive_invariants({"baseline": base, "subject": side(zeros[dtype], dtype)}, None)

    found = [row for row in block["violations"] if row["kind"] == "zero"]
    assert [(row["tensor"], row["severity"]) for row in found] == ([("up.bias", "warn")] if warns else [])
    assert block["passed"]


def test_a_norm_may_become_zero_because_it_is_folded_into_what_reads_it() -> None:
    folded = facts()
    folded["tensors"]["norm.weight"]["digest"] = tensor_digest(torch.zeros(4, dtype=torch.bfloat16))

    assert judged(folded) == ("pass", [])


def test_a_matrix_with_the_values_of_another_fails_unless_a_change_is_meant() -> None:
    def side(shape: tuple[int, int] = (6, 4), **digests: str) -> dict[str, Any]:
        whole = facts(**{f"{name}.weight": ("BF16", [*shape], "ffn", 0) for name in digests})
        for name, digest in digests.items():
            whole["tensors"][f"{name}.weight"]["digest"] = digest
        return whole

    base, copied = side(one="1" * 16, two="2" * 16), side(one="3" * 16, two="3" * 16)
    block = derive_invariants({"baseline": base, "subject": copied}, None)
    meant = derive_invariants({"baseline": base, "subject": copied}, None, meant_to_change=True)
    alike = derive_invariants({"baseline": side(one="1" * 16, two="1" * 16), "subject": copied}, None)

    assert block["status"] == "fail"
    assert [(row["tensor"], row["kind"]) for row in block["violations"]] == [("two.weight", "copy")]
    assert "one.weight" in block["violations"][0]["reason"]
    assert (meant["status"], meant["passed"]) == ("warn", True)
    assert alike["status"] == "pass"

    rows = side((1, 4), one="1" * 16, two="2" * 16), side((1, 4), one="3" * 16, two="3" * 16)
    assert derive_invariants({"baseline": rows[0], "subject": rows[1]}, None)["status"] == "pass"


@pytest.mark.parametrize(("dtype", "warned"), [("F16", False), ("F32", False), ("F8_E4M3", True)])
def test_a_model_cast_to_another_precision_is_no_finding_and_one_cast_to_eight_bits_is(
    dtype: str, warned: bool
) -> None:
    subject = facts()
    for tensor in subject["tensors"].values():
        tensor["dtype"] = dtype

    block = derive_invariants({"baseline": facts(), "subject": subject}, None)

    assert (block["status"], block["metrics"]["dtype"]) == (("warn", 4) if warned else ("pass", 0))


def test_a_dtype_that_changed_in_one_tensor_warns() -> None:
    block = derive_invariants({"baseline": facts(), "subject": facts(**{"up.weight": ("F32", [6, 4], "ffn", 0)})}, None)

    assert (block["status"], block["passed"]) == ("warn", True)
    assert [row["kind"] for row in block["violations"]] == ["dtype"]


@pytest.mark.parametrize("kept", ["BF16", "F32", "F16"])
@pytest.mark.parametrize("shape", [[4], [2, 4]])
def test_a_cast_that_keeps_norms_and_routers_in_another_precision_is_no_finding(kept: str, shape: list[int]) -> None:
    small = {"norm.weight": ("norm", [4]), "up.bias": ("ffn", [6]), "gate.weight": ("router", shape)}
    base = facts(**{name: ("BF16", shape, family, 0) for name, (family, shape) in small.items()})
    subject = facts(**{name: (kept, shape, family, 0) for name, (family, shape) in small.items()})
    for name in ("embed.weight", "up.weight", "head.weight"):
        subject["tensors"][name]["dtype"] = "F16"

    assert derive_invariants({"baseline": base, "subject": subject}, None)["status"] == "pass"

    subject["tensors"]["up.weight"]["dtype"] = "F32"
    block = derive_invariants({"baseline": base, "subject": subject}, None)
    assert {row["tensor"] for row in block["violations"]} >= {"embed.weight", "head.weight", "up.weight"}
    assert block["status"] == "warn"


def test_norms_in_a_less_precise_dtype_than_all_matrices_warn() -> None:
    whole = {name: ("F32", shape, family, 0) for name, shape, family in (
        ("embed.weight", [8, 4], "embed"), ("up.weight", [6, 4], "ffn"), ("head.weight", [8, 4], "embed"),
    )}  # fmt: skip
    base = facts(**whole, **{"norm.weight": ("F32", [4], "norm", 0)})
    subject = facts(**whole, **{"norm.weight": ("BF16", [4], "norm", 0)})

    block = derive_invariants({"baseline": base, "subject": subject}, None)

    assert [(row["tensor"], row["severity"]) for row in block["violations"]] == [("norm.weight", "warn")]


def test_a_precision_of_a_packed_checkpoint_is_no_finding() -> None:
    def kinds(dtype: str) -> list[tuple[str, str]]:
        subject = facts(**{"up.weight": (dtype, [6, 4], "ffn", 0), "norm.weight": (dtype, [4], "norm", 0)})
        block = derive_invariants({"baseline": facts(), "subject": subject | {"storage": packed(400, 24, 220)}}, None)
        return [(row["kind"], row["severity"]) for row in block["violations"] if row["kind"] != "size"]

    assert kinds("F16") == kinds("F32") == []
    assert kinds("I8") == [("dtype", "fail")] * 2
    assert kinds("F8_E4M3") == [("dtype", "warn")] * 2


def test_defects_of_packed_weights_fail_with_one_line_each() -> None:
    subject = facts() | {"storage": packed(400, 400, 220)}
    subject["defects"] = [
        {"tensor": "up.weight", "kind": "scale", "reason": "weight_scale is missing"},
        {"tensor": "gate.weight", "kind": "packing", "reason": "weight_packed is missing"},
    ]
    del subject["tensors"]["up.weight"]

    assert judged(subject) == ("fail", [("up.weight", "scale"), ("gate.weight", "packing")])


@pytest.mark.parametrize(
    ("storage", "status"),
    [
        (packed(420, 400, 220), "pass"),
        (packed(899, 400, 220), "pass"),
        (packed(950, 400, 220), "warn"),
        (packed(600, 400, 420), "warn"),
        (packed(600, 400, 420, bits=8), "pass"),
        (packed(600, 400, 420, bits=None), "pass"),
        (packed(300, 0, 0), "pass"),
    ],
)
def test_packed_weights_that_save_little_warn(storage: dict[str, Any], status: str) -> None:
    block = derive_invariants({"baseline": facts(), "subject": facts() | {"storage": storage}}, None)

    assert block["status"] == status
    assert [row["kind"] for row in block["violations"]] == (["size"] if status == "warn" else [])


def edit(spec: str) -> dict[str, Any]:
    return {"name": spec.partition(":")[0], "label": spec.partition(":")[0], "spec": spec, "parameters": {}}


@pytest.mark.parametrize(
    ("spec", "changed", "violating"),
    [
        ("quant_rtn:4:32:ffn", ["layers.0.up.weight"], []),
        ("quant_rtn:4:32:all", ["layers.0.up.weight", "layers.1.q.weight"], []),
        ("quant_rtn:4:32:ffn", ["layers.1.q.weight"], ["layers.1.q.weight"]),
        ("quant_rtn:4:32:ffn", ["layers.0.up.bias"], ["layers.0.up.bias"]),
        ("lowrank_svd:2:attn@layer=1", ["layers.1.q.weight"], []),
        ("lowrank_svd:2:attn@layer=0", ["layers.1.q.weight"], ["layers.1.q.weight"]),
        ("quant_rtn:4:32:all", ["embed.weight", "norm.weight"], ["embed.weight", "norm.weight"]),
        ("noop", ["norm.weight"], ["norm.weight"]),
        # a report says the parameters that were used: one that does not has no edit that could have changed anything
        ("quant_rtn:clean:ffn", ["layers.0.up.weight"], ["layers.0.up.weight"]),
        ("custom", ["embed.weight"], []),
        ("nan_injection", ["embed.weight"], []),
    ],
)
def test_an_edit_changes_what_it_takes_and_nothing_else(spec: str, changed: list[str], violating: list[str]) -> None:
    more = {
        "layers.0.up.weight": ("BF16", [6, 4], "ffn", 0),
        "layers.0.up.bias": ("BF16", [6], "ffn", 0),
        "layers.1.q.weight": ("BF16", [4, 4], "attn", 0),
    }
    baseline, subject = facts(**more), facts(**more)
    for name in changed:
        subject["tensors"][name]["digest"] = "1" * 16

    block = derive_invariants({"baseline": baseline, "subject": subject}, edit(spec))

    assert [row["tensor"] for row in block["violations"]] == violating
    assert block["metrics"]["changed_tensors"] == len(changed)
    assert block["status"] == ("fail" if violating else "pass")


def test_embedding_rows_are_compared_with_config_and_tokenizer() -> None:
    grown = facts(**{"embed.weight": ("BF16", [9, 4], "embed", 0)})
    short = facts()
    short["tokenizer_tokens"] = 10

    assert ("embed.weight", "embedding") in judged(grown)[1]
    assert judged(short) == ("fail", [("embed.weight", "embedding")])


def test_a_subject_without_an_input_embedding_fails_unless_the_baseline_has_none_either() -> None:
    without = facts()
    without["embedding"] = None

    of_neither = derive_invariants({"baseline": without, "subject": copy.deepcopy(without)}, None)

    assert judged(without) == ("fail", [("embed.weight", "embedding")])
    assert (of_neither["status"], of_neither["violations"]) == ("pass", [])


def test_a_tokenizer_with_other_tokens_of_the_same_number_fails() -> None:
    other, unknown = facts(), facts()
    other["vocabulary_sha256"] = "b" * 64
    unknown["vocabulary_sha256"] = None

    assert judged(other) == ("fail", [("tokenizer", "tokenizer")])
    assert judged(unknown) == ("pass", [])


def test_special_tokens_that_a_tool_added_to_the_tokenizer_warn() -> None:
    padded, renumbered = facts(), facts()
    for side in (padded, renumbered):
        side["vocabulary_sha256"], side["tokenizer_tokens"] = "b" * 64, 9
    padded["added_special_tokens"] = 1
    short = {**padded, "tokenizer_tokens": 10}

    assert judged(padded) == ("warn", [("embed.weight", "embedding"), ("tokenizer", "tokenizer")])
    assert judged(renumbered) == ("fail", [("embed.weight", "embedding"), ("tokenizer", "tokenizer")])
    assert judged(short) == ("fail", [("embed.weight", "embedding"), ("tokenizer", "tokenizer")])


def test_a_baseline_with_more_tokens_than_rows_is_no_fault_of_its_subject() -> None:
    baseline, subject, shorter = facts(), facts(), facts()
    for side in (baseline, subject):
        side["tokenizer_tokens"] = 9
    shorter["tokenizer_tokens"] = 10

    as_stored = derive_invariants({"baseline": baseline, "subject": subject}, None)
    more_tokens = derive_invariants({"baseline": baseline, "subject": shorter}, None)

    assert (as_stored["status"], as_stored["violations"]) == ("pass", [])
    assert [row["kind"] for row in more_tokens["violations"]] == ["embedding"]


def test_a_tokenizer_that_begins_a_text_in_another_way_fails() -> None:
    with_bos, unknown = facts(), facts()
    with_bos["prefix_token_ids"], unknown["prefix_token_ids"] = [2], None

    assert judged(with_bos) == ("fail", [("tokenizer", "tokenizer")])
    (violation,) = derive_invariants({"baseline": facts(), "subject": with_bos}, None)["violations"]
    assert violation["reason"] == "it begins a text with tokens [2], the baseline's with the text itself"
    assert judged(unknown) == ("pass", [])


def test_tying_and_untying_fail_and_name_the_head() -> None:
    tied = facts()
    tied |= {"head": None, "tied_by_storage": True}
    del tied["tensors"]["head.weight"]

    assert judged(tied) == ("fail", [("head.weight", "tie")])
    back = derive_invariants({"baseline": tied, "subject": facts()}, None)
    assert (back["status"], [row["kind"] for row in back["violations"]]) == ("fail", ["tie"])


def test_a_head_that_config_ties_but_that_is_stored_differently_fails() -> None:
    subject = facts()
    subject["tied_by_storage"] = True

    assert judged(subject)[0] == "fail"


def test_a_tie_by_value_counts_as_a_tie() -> None:
    subject = facts()
    subject["tied_by_value"] = True

    assert judged(subject) == ("fail", [("head.weight", "tie")])


def test_a_changed_config_fails() -> None:
    subject = facts()
    subject["config"]["num_hidden_layers"] = 2

    assert judged(subject) == ("fail", [("config.json", "config")])


def spectra(**sigmas: float | None) -> dict[str, Any]:
    return {
        "measurement_contract_hash": "0" * 16,
        "modules": {
            name: {
                "family": "ffn",
                "shape": [4, 4],
                "sigma": sigma,
                "residual": 0.0,
                "frobenius": None if sigma is None else sigma * 2,
            }
            for name, sigma in sigmas.items()
        },
    }


def change(**numbers: Any) -> dict[str, Any]:
    """Return a change as compression makes one, but for the numbers given."""
    return {"relative": 0.1, "coherent": 0.02, "flipped": 0.0, "edge_risk": 1.0, "unit_order": None} | numbers


def raw_spectral(
    baseline: dict[str, Any], subject: dict[str, Any], changes: dict[str, Any] | None = None
) -> dict[str, Any]:
    before, after = baseline["modules"], subject["modules"]
    changed = {name: change() for name in after if after[name] != before.get(name) and after[name]["sigma"] is not None}
    return {"baseline": baseline, "subject": subject, "changes": changed if changes is None else changes}


def spectral(
    subject: dict[str, Any], baseline: dict[str, Any] | None = None, changes: dict[str, Any] | None = None
) -> dict[str, Any]:
    return derive_spectral(raw_spectral(baseline or spectra(a=1.0, b=2.0, c=3.0), subject, changes), LIMITS)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda raw: None, None),
        # what the baseline does not have is in another form too
        (lambda raw: raw["baseline"]["modules"].pop("a"), None),
        *[
            (lambda raw, part=part: raw["canonical"][part].pop("a"), "not in each of baseline, subject and changes")
            for part in ("baseline", "subject", "changes")
        ],
        (lambda raw: raw["subject"]["modules"].pop("a"), "that the stored checkpoints do not share"),
        (lambda raw: raw["baseline"]["modules"]["a"].update(shape=[8, 4]), "the stored checkpoints do not share"),
        (lambda raw: raw["canonical"]["subject"]["a"].update(family="attn"), "another family or shape"),
        (lambda raw: raw["canonical"]["baseline"]["a"].update(shape=[8, 4]), "another family or shape"),
    ],
)
def test_matrices_in_another_form_belong_to_the_stored_ones(harm: Callable[[Any], object], words: str | None) -> None:
    raw = raw_spectral(spectra(a=1.0, b=2.0), spectra(a=1.1, b=2.0))
    form = {side: {"a": copy.deepcopy(raw[side]["modules"]["a"])} for side in ("baseline", "subject")}
    raw["canonical"] = {**form, "changes": {"a": change()}}
    harm(raw)

    found = [(problem.field, problem.message) for problem in raw_problems("raw", raw, {})]

    if words is None:
        assert found == []
    else:
        ((field, message),) = found
        assert field == "raw.canonical.a"
        assert words in message


@pytest.mark.parametrize(
    ("stored", "measured", "sides", "changed"),
    [
        ([4, 4], [4, 4], ("baseline", "subject"), True),
        # an embedding with more rows is measured by as many as the baseline's has
        ([6, 4], [4, 4], ("baseline", "subject"), True),
        ([6, 4], [6, 4], ("baseline", "subject"), False),
        ([2, 4], [4, 4], ("baseline", "subject"), False),
        ([4, 6], [4, 4], ("baseline", "subject"), False),
        ([4, 4], [4, 4], ("baseline",), False),
        ([4, 4], [4, 4], ("subject",), False),
    ],
)
def test_each_matrix_that_changed_has_a_change_where_both_sides_measured_as_much_and_no_other(
    stored: list[int], measured: list[int], sides: tuple[str, ...], changed: bool
) -> None:
    shapes = {"baseline": [4, 4], "subject": stored}
    tensors = {side: {"tensors": {"a": {"shape": shape, "digest": side}}} for side, shape in shapes.items()}
    raw = raw_spectral(spectra(a=1.0), spectra(a=1.1))
    raw["subject"]["modules"]["a"]["shape"] = measured
    for side in shapes.keys() - sides:
        del raw[side]["modules"]["a"]

    with_change = raw_problems("raw", {**raw, "changes": {"a": change()}}, {"invariants": tensors})
    without = raw_problems("raw", {**raw, "changes": {}}, {"invariants": tensors})

    assert [problem.message for problem in with_change] == ([] if changed else ["a change of a matrix that has none"])
    assert [problem.message for problem in without] == (["it changed, and its change is left out"] if changed else [])


def test_equal_spectra_pass_without_a_signal() -> None:
    block = spectral(spectra(a=1.0, b=2.0, c=3.0))

    assert (block["status"], block["violations"], block["metrics"]["caps_applied"]) == ("pass", [], 0)
    assert all(row["log_ratio"] == 0 for row in block["modules"].values())


def test_a_scaled_matrix_is_capped_whether_it_grew_or_shrank() -> None:
    grown, shrunk = spectral(spectra(a=1.2, b=2.0, c=3.0)), spectral(spectra(a=1.0, b=2.0, c=2.4))

    assert grown["metrics"]["capped_modules"] == ["a"]
    assert shrunk["metrics"]["capped_modules"] == ["c"]
    assert grown["modules"]["a"]["z"] == pytest.approx(math.log(1.2) / 0.01)
    assert grown["status"] == "warn"
    assert grown["passed"]


def test_a_ratio_that_no_float_holds_is_shown_as_the_largest_that_is_shown() -> None:
    block = spectral(spectra(a=1e150, b=2.0, c=3.0), spectra(a=1e-155, b=2.0, c=3.0))

    assert block["modules"]["a"]["log_ratio"] == pytest.approx(305 * math.log(10))
    (row,) = [row for row in block["violations"] if "spectral norm" in row["reason"]]
    assert f"spectral norm {math.exp(700):.4g} times the baseline's" in row["reason"]


def test_a_family_without_a_scale_of_its_own_has_the_tiers() -> None:
    base, subject = spectra(a=1.0, b=1.0), spectra(a=1.02, b=1.02)
    base["modules"]["b"]["family"] = subject["modules"]["b"]["family"] = "attn"
    limits = {**LIMITS, "null_scale_by_family": {"attn": LIMITS["null_scale"] / 10}}

    rows = derive_spectral(raw_spectral(base, subject), limits)["modules"]

    assert rows["a"]["z"] == spectral(subject, base)["modules"]["a"]["z"]
    assert rows["b"]["z"] == pytest.approx(10 * rows["a"]["z"])


def test_a_change_within_the_deadband_is_no_cap() -> None:
    assert spectral(spectra(a=1.049, b=2.0, c=3.0))["metrics"]["caps_applied"] == 0


@pytest.mark.parametrize(
    ("sigma", "norm", "numbers", "capped"),
    [
        # clipped: the norm fell, and the spectral norm by as much again
        (0.93, 0.965, {}, False),
        (0.93, 0.94, {}, True),
        (0.93, 1.0, {}, True),
        (1.06, 1.06, {}, True),
        # low rank and pruning lower the norm, and keep the spectral norm
        (0.96, 0.8, {}, False),
        (0.93, 0.965, {"coherent": 0.26}, True),
        (0.93, 0.965, {"flipped": 0.021}, True),
        (0.93, 0.965, {"edge_risk": 3.01}, True),
    ],
)
def test_clipping_that_compression_does_is_no_cap_and_a_scale_is(
    sigma: float, norm: float, numbers: dict[str, float], capped: bool
) -> None:
    subject = spectra(a=sigma, b=2.0, c=3.0)
    subject["modules"]["a"]["frobenius"] = 2 * norm

    block = spectral(subject, changes={"a": change(**numbers)})

    assert block["metrics"]["caps_applied"] == int(capped)


def test_the_source_of_a_scale_that_was_moved_is_named_too() -> None:
    raw = raw_spectral(spectra(up=1.0, down=2.0), spectra(up=1.0, down=3.0))

    block = derive_spectral(raw, LIMITS, scaled_by={"down": "up"})

    (violation,) = block["violations"]
    assert violation["module"] == "down"
    assert "may be in up," in violation["reason"]


@pytest.mark.parametrize(
    ("canonical", "relative", "warned"), [(True, 0.003, False), (True, 0.005, True), (False, 0.003, True)]
)
def test_what_rounding_leaves_of_a_canonical_form_is_not_judged(canonical: bool, relative: float, warned: bool) -> None:
    changes = {"a": change(coherent=0.9, relative=relative)}
    same = spectra(a=1.0)
    raw = raw_spectral(same, same, changes)
    if canonical:
        raw["canonical"] = {"baseline": same["modules"], "subject": same["modules"], "changes": changes}

    block = derive_spectral(raw, LIMITS, rounding=2**-8)

    assert block["metrics"]["suspicious_changes"] == (["a"] if warned else [])


def test_more_caps_than_the_tier_allows_fail() -> None:
    names = [f"m{index}" for index in range(8)]
    base, subject = spectra(**dict.fromkeys(names, 1.0)), spectra(**dict.fromkeys(names, 1.5))

    block = spectral(subject, base)

    assert (block["metrics"]["caps_applied"], block["status"], block["passed"]) == (8, "fail", False)


def test_as_many_caps_as_the_tier_allows_warn_and_one_more_fails() -> None:
    names = [f"m{index}" for index in range(LIMITS["max_caps"] + 1)]
    base = spectra(**dict.fromkeys(names, 1.0))
    allowed = spectra(**{**dict.fromkeys(names, 1.5), names[0]: 1.0})

    at_the_limit, beyond = spectral(allowed, base), spectral(spectra(**dict.fromkeys(names, 1.5)), base)

    assert at_the_limit["metrics"]["caps_applied"] == LIMITS["max_caps"] > 0
    assert (at_the_limit["status"], beyond["status"]) == ("warn", "fail")


def test_caps_that_change_no_answer_warn_and_name_every_module() -> None:
    names = [f"m{index}" for index in range(8)]
    raw = raw_spectral(spectra(**dict.fromkeys(names, 1.0)), spectra(**dict.fromkeys(names, 1.5)))

    block = derive_spectral(raw, LIMITS, unchanged=True)

    assert (block["status"], block["passed"], block["metrics"]["capped_modules"]) == ("warn", True, names)
    assert [(row["module"], row["severity"]) for row in block["violations"]] == [
        *((name, "cap") for name in names),
        ("*", "warn"),
    ]
    assert block["violations"][-1]["reason"] == f"8 modules capped; {SAME_ANSWERS}"


@pytest.mark.parametrize(("sigma", "status"), [(0.0, "fail"), (None, "error")])
def test_a_matrix_of_zeros_or_without_a_norm_fails_though_no_answer_changes(sigma: float | None, status: str) -> None:
    raw = raw_spectral(spectra(a=1.0, b=2.0), spectra(a=sigma, b=2.0))

    block = derive_spectral(raw, LIMITS, unchanged=True)

    assert (block["status"], block["passed"]) == (status, False)


def test_a_matrix_that_became_zero_fails_however_many_caps_are_allowed() -> None:
    block = spectral(spectra(a=0.0, b=2.0, c=3.0))

    assert LIMITS["max_caps"] > 1
    assert block["metrics"]["capped_modules"] == ["a"]
    assert block["modules"]["a"]["log_ratio"] is None
    assert (block["status"], block["passed"]) == ("fail", False)


def test_a_matrix_that_is_too_small_for_a_format_may_become_zero() -> None:
    dead, alive = spectra(a=1e-5, b=2.0, c=3.0), spectra(a=3e-5, b=2.0, c=3.0)
    zero = spectra(a=0.0, b=2.0, c=3.0)

    assert (spectral(zero, dead)["status"], spectral(zero, dead)["metrics"]["capped_modules"]) == ("warn", ["a"])
    assert spectral(zero, alive)["status"] == "fail"


def test_a_matrix_of_zeros_in_both_is_no_finding_and_one_of_the_baseline_alone_is_a_cap() -> None:
    zeros, weights = spectra(a=0.0, b=2.0, c=3.0), spectra(a=1.0, b=2.0, c=3.0)

    same, filled = spectral(zeros, zeros), spectral(weights, zeros)

    assert (same["status"], same["metrics"]["capped_modules"]) == ("pass", [])
    assert (filled["status"], filled["metrics"]["capped_modules"]) == ("warn", ["a"])


def test_a_module_that_could_not_be_measured_is_an_error_and_fails_closed() -> None:
    nonfinite, missing = spectral(spectra(a=None, b=2.0, c=3.0)), spectral(spectra(a=1.0, b=2.0))

    assert (nonfinite["status"], nonfinite["passed"]) == ("error", False)
    assert (missing["status"], missing["passed"]) == ("error", False)
    assert "only the baseline has it" in missing["violations"][0]["reason"]


def test_a_norm_that_is_not_finite_is_an_error_though_the_largest_singular_value_is() -> None:
    whole, broken = spectra(a=1.0), spectra(a=1.0)
    broken["modules"]["a"]["frobenius"] = None

    assert [spectral(after, before, {})["status"] for before, after in ((whole, broken), (broken, whole))] == [
        "error",
        "error",
    ]


def test_each_module_says_how_it_stands_within_its_family_of_the_baseline() -> None:
    base = spectra(a=1.0, b=2.0, c=3.5, d=None, e=7.0, f=None)
    for name, family in (("d", "ffn"), ("e", "attn"), ("f", "embed")):
        base["modules"][name]["family"] = family
    subject = copy.deepcopy(base)

    rows = spectral(subject, base, {})["modules"]

    mean, deviation = 6.5 / 3, math.sqrt(sum((x - 6.5 / 3) ** 2 for x in (1.0, 2.0, 3.5)) / 3)
    assert {name: row["family_z"] for name, row in rows.items()} == {
        "a": pytest.approx((1.0 - mean) / deviation),
        "b": pytest.approx((2.0 - mean) / deviation),
        "c": pytest.approx((3.5 - mean) / deviation),
        # alone in its family
        "e": None,
    }


def test_sides_measured_in_different_ways_are_not_compared() -> None:
    subject = spectra(a=1.0, b=2.0, c=3.0)
    subject["measurement_contract_hash"] = "1" * 16

    assert spectral(subject)["status"] == "error"


def test_a_collapse_of_rank_that_keeps_the_spectral_norm_is_seen() -> None:
    base, subject = spectra(a=1.0, b=2.0), spectra(a=1.0, b=2.0)
    warned = copy.deepcopy(subject)
    subject["modules"]["a"]["frobenius"] = 0.9  # stable rank 0.81 of 4: below a quarter
    warned["modules"]["a"]["frobenius"] = 1.3  # 1.69 of 4: below a half

    assert spectral(subject, base)["metrics"]["capped_modules"] == ["a"]
    assert (spectral(warned, base)["status"], spectral(warned, base)["metrics"]["caps_applied"]) == ("warn", 0)


def test_the_correction_is_benjamini_hochberg_or_bonferroni_over_modules() -> None:
    # z of 4 modules: two-sided p 0.0124, 0.0455, 0.32, 0.32; wide deadband off
    limits = {**LIMITS, "deadband_ratio": 1.0}
    base = spectra(a=1.0, b=1.0, c=1.0, d=1.0)
    subject = spectra(a=math.exp(0.025), b=math.exp(0.0235), c=math.exp(0.01), d=math.exp(-0.01))

    capped = {
        name: derive_spectral(raw_spectral(base, subject), {**limits, "correction": name})["metrics"]["capped_modules"]
        for name in ("benjamini_hochberg", "bonferroni")
    }

    assert capped == {"benjamini_hochberg": ["a", "b"], "bonferroni": ["a"]}


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"coherent": 0.26}, "26.0% of its change rescales its own weights, limit 25.0%"),
        ({"flipped": 0.021}, "2.1% of its change flips the sign of large weights, limit 2.0%"),
        ({"edge_risk": 3.01}, "its change runs along one direction, 3.01 times the edge of noise, limit 3"),
    ],
)
def test_a_change_that_is_not_as_compression_changes_weights_warns(numbers: dict[str, float], said: str) -> None:
    same = spectra(a=1.0, b=2.0, c=3.0)

    block = spectral(same, changes={"a": change(), "b": change(**numbers)})

    assert (block["status"], block["passed"], block["metrics"]["caps_applied"]) == ("warn", True, 0)
    assert block["violations"] == [{"module": "b", "severity": "warn", "reason": said}]
    assert block["metrics"]["suspicious_changes"] == ["b"]
    assert block["modules"]["b"]["change"] == change(**numbers)
    assert block["modules"]["c"]["change"] is None


def test_a_change_as_small_as_rounding_is_not_looked_at() -> None:
    block = spectral(spectra(a=1.0, b=2.0, c=3.0), changes={"a": change(relative=0.0009, coherent=1.0)})

    assert (block["status"], block["metrics"]["max_coherent"]) == ("pass", None)


def test_a_share_that_was_not_measured_is_left_out_of_the_largest() -> None:
    changes = {"a": change(coherent=0.1), "b": change(flipped=None, edge_risk=None, coherent=0.2)}

    block = spectral(spectra(a=1.0, b=2.0, c=3.0), changes=changes)

    largest = {key: block["metrics"][f"max_{key}"] for key in ("coherent", "flipped", "edge_risk")}
    assert largest == {"coherent": 0.2, "flipped": 0.0, "edge_risk": 1.0}


def test_weights_that_came_from_zero_are_looked_at_though_they_have_no_relative_change() -> None:
    zero, one = spectra(a=0.0), spectra(a=1.0)

    block = spectral(one, zero, {"a": change(relative=None, edge_risk=9.0)})

    assert [row["severity"] for row in block["violations"]] == ["cap", "warn"]


def test_a_matrix_that_changed_without_a_measured_change_is_an_error() -> None:
    changed, unknown = spectra(a=1.0, b=2.001, c=3.0), change(coherent=None)

    assert spectral(changed, changes={})["status"] == "error"
    assert spectral(changed, changes={"b": unknown})["status"] == "error"
    assert spectral(spectra(a=1.0, b=2.0 * (1 + 1e-8), c=3.0), changes={})["status"] == "pass"


def test_hidden_units_in_one_other_order_are_the_same_function() -> None:
    names = ["0.mlp.up.weight", "0.mlp.down.weight", "1.mlp.up.weight", "1.mlp.down.weight"]
    same = spectra(**dict.fromkeys(names, 1.0))
    moved = {name: change(relative=1.4, flipped=0.5, unit_order=f"{name[0]}" * 16) for name in names}
    elsewhere = {**moved, "1.mlp.down.weight": change(relative=1.4, flipped=0.5, unit_order="2" * 16)}
    one = {"0.mlp.up.weight": moved["0.mlp.up.weight"]}

    assert (spectral(same, same, moved)["status"], spectral(same, same, moved)["metrics"]["reordered_modules"]) == (
        "pass",
        4,
    )
    assert spectral(same, same, elsewhere)["metrics"]["suspicious_changes"] == ["1.mlp.down.weight", "1.mlp.up.weight"]
    assert spectral(same, same, one)["metrics"]["suspicious_changes"] == ["0.mlp.up.weight"]


@pytest.mark.parametrize(
    ("status", "signals"), [("pass", False), ("warn", True), ("fail", True), ("error", True), ("not_evaluated", None)]
)
def test_a_guard_signals_unless_it_passes_and_has_no_answer_where_it_was_not_run(
    status: str, signals: bool | None
) -> None:
    assert signals_when_not_passed({"status": status}) is signals
