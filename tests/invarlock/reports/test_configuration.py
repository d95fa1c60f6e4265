"""Which differences of configuration are findings, and which of them fail."""

from __future__ import annotations

import json
from typing import Any

import pytest
from configurations import configuration

from invarlock.guards.configuration import configuration_violations

ROPE = {"rope_parameters.rope_type": "default", "rope_parameters.rope_theta": 10000.0}


def found(
    own: dict[str, Any], base: dict[str, Any], seq_len: int = 512, layers: int | None = None, **facts: Any
) -> list[tuple[str, str, str]]:
    """Return file, severity and reason of each finding on two configurations."""
    same = {"vocabulary_sha256": "a" * 64, "added_special_tokens": None}
    baseline = {**same, "configuration": configuration(**base)}
    subject = {**same, **facts, "configuration": configuration(**own)}
    rows = list(configuration_violations(baseline, subject, seq_len, layers=layers))
    return [(row["tensor"], row["severity"], row["reason"]) for row in rows]


@pytest.mark.parametrize(
    ("field", "old", "new"),
    [
        ("rope_parameters.rope_theta", 10000.0, 500000.0),
        ("rope_parameters.rope_type", "default", "linear"),
        ("rope_parameters.factor", None, 8.0),
        ("rope_parameters.partial_rotary_factor", None, 0.5),
        ("rotary_pct", 1.0, 0.25),
        ("rms_norm_eps", 1e-6, 1e-5),
        ("layer_norm_epsilon", 1e-5, 1e-3),
        ("hidden_act", "silu", "gelu"),
        ("activation_function", "gelu_new", "gelu"),
        ("sliding_window", None, 64),
        ("layer_types", "[full_attention]", "[linear_attention]"),
        ("attn_logit_softcapping", 50.0, None),
        ("final_logit_softcapping", None, 30.0),
        ("query_pre_attn_scalar", 256, 224),
        ("attention_multiplier", 0.0078125, 0.0884),
        ("logits_scaling", 8.0, 1.0),
        ("head_dim", 128, 64),
        ("num_attention_heads", 32, 16),
        ("num_key_value_heads", 8, 4),
        ("attention_bias", None, True),
        ("num_experts_per_tok", 8, 2),
        ("norm_topk_prob", True, False),
        ("text_config.rms_norm_eps", 1e-6, 1e-5),
    ],
)
def test_what_computes_something_else_fails_with_both_values(field: str, old: Any, new: Any) -> None:
    before = {name: value for name, value in {field: old}.items() if value is not None}
    after = {name: value for name, value in {field: new}.items() if value is not None}

    ((where, severity, reason),) = found({"config": after}, {"config": before})

    assert (where, severity) == ("config.json", "fail")
    words = ["not set" if value is None else json.dumps(value).strip('"') for value in (new, old)]
    assert reason == f"{field} is {words[0]}, in the baseline {words[1]}"


@pytest.mark.parametrize(
    ("field", "old", "new"),
    [
        ("rms_norm_eps", 1e-6, 9.999999974752427e-07),
        ("rope_parameters.rope_theta", 10000.0, 10000),
        ("attention_bias", None, False),
        ("logit_scale", 1, 1.0),
    ],
)
def test_another_spelling_of_the_same_value_is_no_finding(field: str, old: Any, new: Any) -> None:
    before = {} if old is None else {field: old}

    assert found({"config": {field: new}}, {"config": before}) == []


@pytest.mark.parametrize(
    ("field", "old", "new"),
    [
        ("max_position_embeddings", 32768, 131072),
        ("sliding_window", 4096, None),
        ("attention_chunk_size", 8192, 4096),
        ("eos_token_id", 2, 32000),
        ("bos_token_id", 1, 2),
        ("unheard_of", None, 7),
        ("vision_config.hidden_act", "gelu", "silu"),
    ],
)
def test_changes_that_the_scored_text_cannot_show_warn(field: str, old: Any, new: Any) -> None:
    before = {} if old is None else {field: old}
    after = {} if new is None else {field: new}

    ((where, severity, reason),) = found({"config": after}, {"config": before})[:1]

    assert (where, severity) == ("config.json", "warn")
    assert reason.startswith(f"{field} is ")


def test_a_window_matters_where_scored_windows_are_longer() -> None:
    sides = {"config": {"sliding_window": 4096}}, {"config": {"sliding_window": 1024}}

    assert [severity for _, severity, _ in found(*sides, seq_len=1024)] == ["warn"]
    assert [severity for _, severity, _ in found(*sides, seq_len=1025)] == ["fail"]


def test_layers_that_slide_beyond_the_scored_windows_warn() -> None:
    own = {"config": {"layer_types": '["full_attention", "sliding_attention"]', "sliding_window": 1024}}
    base = {"config": {"layer_types": '["full_attention", "full_attention"]', "sliding_window": 1024}}

    assert [severity for _, severity, _ in found(own, base, seq_len=512)] == ["warn"]
    assert [severity for _, severity, _ in found(own, base, seq_len=2048)] == ["fail"]


def test_a_list_of_layers_ends_where_the_declared_layers_do() -> None:
    def sides(layer_types: str | None) -> dict[str, Any]:
        return {"config": {} if layer_types is None else {"layer_types": layer_types}}

    whole, none = sides('["full_attention", "linear_attention", "full_attention"]'), sides(None)
    cut = sides('["full_attention", "linear_attention"]')
    other = sides('["linear_attention", "full_attention"]')

    assert found(cut, whole, layers=2) == []
    for own, layers in ((cut, None), (cut, 3), (other, 2), (none, 2)):
        assert [severity for _, severity, _ in found(own, whole, layers=layers)] == ["fail"]
    assert [severity for _, severity, _ in found(whole, none, layers=3)] == ["fail"]


def test_more_positions_fail_where_rotary_positions_are_computed_with_them() -> None:
    yarn = {**ROPE, "rope_parameters.rope_type": "yarn"}
    own, base = {"max_position_embeddings": 8192}, {"max_position_embeddings": 4096}

    assert [row[1] for row in found({"config": {**yarn, **own}}, {"config": {**yarn, **base}})] == ["fail"]
    assert [row[1] for row in found({"config": {**ROPE, **own}}, {"config": {**ROPE, **base}})] == ["warn"]


def test_generation_and_chat_warn_each_on_one_line() -> None:
    own = {"generation": {"temperature": 0.6, "eos_token_id": "[2, 7]"}, "chat_template": "1" * 16}
    base = {"generation": {"eos_token_id": 2}}

    assert found(own, base) == [
        (
            "generation_config.json",
            "warn",
            "eos_token_id is [2, 7], in the baseline 2; it is used to generate text",
        ),
        (
            "generation_config.json",
            "warn",
            "temperature is 0.6, in the baseline not set; it is used to generate text",
        ),
        (
            "chat template",
            "warn",
            f"the template {'1' * 16}, in the baseline none; chats are given to the model in another form",
        ),
    ]


def test_ids_that_a_generation_config_repeats_are_no_difference() -> None:
    ids = {"bos_token_id": 1, "eos_token_id": 2}

    assert found({"config": ids, "generation": ids}, {"config": ids}) == []
    assert found({"config": ids, "generation": None}, {"config": ids, "generation": {"eos_token_id": 5}}) == []


def test_ids_of_the_config_are_reported_once_where_no_generation_config_has_them() -> None:
    assert [row[0] for row in found({"config": {"eos_token_id": 3}}, {"config": {"eos_token_id": 2}})] == [
        "config.json"
    ]


def test_a_tokenizer_that_splits_the_scored_text_otherwise_fails() -> None:
    own = {"tokenizer": {"merges": "1" * 16, "model": "3" * 16}, "text_as_baseline": False}
    base = {"tokenizer": {"merges": "2" * 16, "model": "3" * 16}}

    assert [(row[0], row[1]) for row in found(own, base)] == [("tokenizer", "fail"), ("tokenizer", "warn")]
    assert [row[1] for row in found({**own, "text_as_baseline": True}, base)] == ["warn"]


def test_tokens_that_were_added_are_not_reported_here() -> None:
    own = {"tokenizer": {"added_tokens": "1" * 16}, "special_tokens": {"eos_token": "</s>"}}
    base = {"tokenizer": {"added_tokens": "2" * 16}}

    assert found(own, base, vocabulary_sha256="b" * 64, added_special_tokens=1) == []
    assert len(found(own, base)) == 2


def test_what_a_text_ends_with_and_renamed_special_tokens_warn() -> None:
    own = {"appended_token_ids": [2], "special_tokens": {"eos_token": "<|im_end|>"}}
    base = {"special_tokens": {"eos_token": "</s>"}}

    assert [(where, severity) for where, severity, _ in found(own, base)] == [("tokenizer", "warn")] * 2


LINEAR = {"rope_parameters.rope_type": "linear", "rope_parameters.factor": 2.0}


@pytest.mark.parametrize(
    ("own", "base"),
    [
        (LINEAR, {**LINEAR, "rope_parameters.type": "linear"}),
        ({"rope_parameters.type": "linear", "rope_parameters.factor": 2.0}, LINEAR),
        ({"rope_scaling.type": "default"}, {}),
        ({**ROPE, "rope_parameters.factor": 4.0}, ROPE),
        ({"rope_parameters.rope_theta": 10000.0}, ROPE),
        ({**ROPE, "rope_parameters.rope_type": "linear", "rope_parameters.factor": 1.0}, ROPE),
        ({"rope_parameters.full_attention.type": "default"}, {}),
    ],
)
def test_the_same_rotary_positions_in_another_spelling_are_no_finding(
    own: dict[str, Any], base: dict[str, Any]
) -> None:
    assert found({"config": own}, {"config": base}) == []
    assert found({"config": base}, {"config": own}) == []


@pytest.mark.parametrize(
    "own",
    [
        {**LINEAR, "rope_parameters.factor": 4.0},
        {**LINEAR, "rope_parameters.rope_type": "dynamic"},
        {**LINEAR, "rope_parameters.type": "yarn"},
        {"rope_parameters.type": "linear", "rope_parameters.factor": 4.0},
        ROPE,
        {},
    ],
)
def test_other_rotary_positions_fail_in_any_spelling(own: dict[str, Any]) -> None:
    assert {severity for _, severity, _ in found({"config": own}, {"config": LINEAR})} == {"fail"}
