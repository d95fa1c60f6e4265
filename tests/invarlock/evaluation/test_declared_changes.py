"""A change of structure on purpose: declared, it is no violation; not so, or not declared, it is."""

from __future__ import annotations

import copy
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from invarlock.errors import UsageError
from invarlock.evaluation.pair import evaluate_pair
from invarlock.evaluation.pair_request import PairRequest
from invarlock.judgement.expectations import comparable, parse_expectation, parse_expectations
from invarlock.judgement.widths import declared_widths, width_of
from invarlock.reports.rendering import render_report
from invarlock.reports.verification import verify_report

EMBEDDED = Path(__file__).parents[3] / "suites" / "embedded"
AUTO_MODEL: Any = transformers.AutoModelForCausalLM
Judged = Callable[..., dict[str, Any]]


@given(
    st.integers(1, 999_999),
    st.sampled_from(["vocabulary+", "layers=", "layers-", "ffn=", "width-", "kv-heads=", "experts-"]),
)
def test_an_expectation_is_written_as_it_is_read(number: int, form: str) -> None:
    read = parse_expectation(f"{form}{number}")

    assert str(read) == f"{form}{number}"
    assert read.wanted(10**6) == {"+": 10**6 + number, "-": 10**6 - number, "=": number}[form[-1]]


@pytest.mark.parametrize(
    "words", ["", "vocabulary", "vocabulary-8", "layers+1", "layers=0", "width+64", "depth=4", "vocabulary+08"]
)
def test_a_declaration_without_content_is_refused(words: str) -> None:
    with pytest.raises(UsageError, match=r"--expect: .* is not a structural change; write vocabulary"):
        parse_expectation(words)


def test_two_declarations_of_the_same_change_are_refused() -> None:
    with pytest.raises(UsageError, match="about the same"):
        parse_expectations(["layers=2", "layers-1"])


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "austen.txt"
    path.write_bytes(lzma.decompress((EMBEDDED / "text" / "austen_heldout.txt.xz").read_bytes())[:60_000])
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(load(), tmp_path_factory.mktemp("base"))


def load() -> Any:
    return AUTO_MODEL.from_pretrained(EMBEDDED / "mistral-tiny", dtype=torch.float32).eval()


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    for file in (EMBEDDED / "tokenizer").iterdir():
        shutil.copy(file, folder)
    return folder


@pytest.fixture
def judged(base: Path, text: Path, tmp_path: Path) -> Judged:
    def judge(model: Any, *expect: str) -> Any:
        subject = save(model, tmp_path / "subject")
        request = PairRequest(
            base, subject, text, seq_len=64, preview_windows=4, final_windows=16, device="cpu", edit_label="mine",
            expect=expect,
        )  # fmt: skip
        report = evaluate_pair(request, tmp_path / "out")
        assert verify_report(report) == []
        return report

    return judge


def padded(rows: int = 8) -> Any:
    model = load()
    model.resize_token_embeddings(model.config.vocab_size + rows, mean_resizing=False)
    return model


def cut(layers: int) -> Any:
    model = load()
    model.model.layers = model.model.layers[:layers]
    model.config.num_hidden_layers = layers
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:layers]
    return model


def kinds(report: dict[str, Any]) -> set[str]:
    return {row["kind"] for row in report["invariants"]["violations"] if row["severity"] == "fail"}


def test_a_declared_vocabulary_passes_and_the_report_says_it(judged: Judged) -> None:
    report = judged(padded(), "vocabulary+8")

    assert report["assurance"]["verdict"] == "PASS"
    assert report["edit"]["expected"] == ["vocabulary+8"]
    assert b"vocabulary+8" in render_report(report, "0" * 64)
    forged = copy.deepcopy(report)
    forged["edit"]["expected"] = ["vocabulary+9"]
    assert any(problem.field.startswith("invariants") for problem in verify_report(forged))


def test_the_same_vocabulary_undeclared_fails(judged: Judged) -> None:
    report = judged(padded())

    assert report["assurance"]["verdict"] == "FAIL"
    assert kinds(report) >= {"reshaped", "config"}
    assert "expected" not in report["edit"]


def test_a_vocabulary_that_is_not_as_declared_fails(judged: Judged) -> None:
    report = judged(padded(4), "vocabulary+8")

    assert report["assurance"]["verdict"] == "FAIL"
    assert kinds(report) >= {"expected", "reshaped"}
    (reason,) = expectation_reasons(report)
    assert reason.endswith("; if that is intended, declare vocabulary+4")


def test_a_declaration_of_what_did_not_change_fails(judged: Judged) -> None:
    report = judged(load(), "vocabulary+8")

    assert kinds(report) == {"expected"}
    (reason,) = expectation_reasons(report)
    assert reason.endswith("; leave the declaration out")


def test_a_declared_vocabulary_excuses_no_other_change(judged: Judged) -> None:
    model = padded()
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight[0, 0] = float("nan")
        model.get_input_embeddings().weight[:200] *= 3

    report = judged(model, "vocabulary+8")

    assert report["assurance"]["verdict"] == "FAIL"
    assert kinds(report) == {"nonfinite"}
    assert any("embed_tokens" in name for name in report["spectral"]["metrics"]["capped_modules"])


def test_declared_layers_are_no_violation(judged: Judged) -> None:
    layers = load().config.num_hidden_layers

    report = judged(cut(layers - 1), f"layers={layers - 1}")

    assert kinds(report) == set()
    assert report["scoring"]["not_scored"] is None
    assert report["spectral"]["status"] == "pass"
    assert report["rmt"]["status"] != "error"
    assert report["primary_metric"]["ratio_vs_baseline"] > 1.0


def test_dropped_layers_undeclared_are_not_scored(judged: Judged) -> None:
    layers = load().config.num_hidden_layers

    report = judged(cut(layers - 1))

    assert kinds(report) >= {"missing", "config"}
    assert "lacks" in report["scoring"]["not_scored"]


def expectation_reasons(report: dict[str, Any]) -> list[str]:
    return [row["reason"] for row in report["invariants"]["violations"] if row["kind"] == "expected"]


def test_more_layers_than_declared_fail_and_the_report_says_what_to_declare(judged: Judged) -> None:
    layers = load().config.num_hidden_layers

    report = judged(cut(layers - 1), f"layers={layers - 2}")

    assert report["assurance"]["verdict"] == "FAIL"
    assert expectation_reasons(report) == [
        f"layers={layers - 2} is declared, but the subject has {layers - 1} and the baseline has {layers}; if that is "
        f"intended, declare layers={layers - 1}"
    ]
    # the layers that the subject still has are compared
    assert report["spectral"]["violations"] == []
    assert len(report["rmt"]["modules"]) == 7 * (layers - 1)


def test_fewer_layers_than_declared_fail(judged: Judged) -> None:
    layers = load().config.num_hidden_layers

    report = judged(cut(layers - 2), f"layers={layers - 1}")

    (reason,) = expectation_reasons(report)
    assert reason.endswith(f"declare layers={layers - 2}")
    assert {row["reason"] for row in report["spectral"]["violations"]} == {"only the baseline has it"}


def narrowed(**sizes: int) -> Any:
    """Return a model of smaller sizes that has the first units, heads and features of the whole one."""
    whole = load()
    config = copy.deepcopy(whole.config)
    config.head_dim = config.hidden_size // config.num_attention_heads
    for name, size in sizes.items():
        setattr(config, name, size)
    model = AUTO_MODEL.from_config(config).eval()
    for name, tensor in model.state_dict().items():
        before = whole.state_dict()[name]
        tensor.copy_(before[tuple(slice(0, size) for size in tensor.shape)])
    return model


@pytest.mark.parametrize(
    ("sizes", "expect"),
    [
        ({"intermediate_size": 368}, ("ffn=368",)),
        ({"num_attention_heads": 2, "num_key_value_heads": 1}, ("heads=2", "kv-heads=1")),
        ({"hidden_size": 120}, ("width=120",)),
        ({"hidden_size": 96, "intermediate_size": 256}, ("width=96", "ffn=256")),
    ],
)
def test_declared_widths_are_no_violation(judged: Judged, sizes: dict[str, int], expect: tuple[str, ...]) -> None:
    report = judged(narrowed(**sizes), *expect)

    assert [row for row in report["invariants"]["violations"] if row["severity"] == "fail"] == []
    assert report["edit"]["expected"] == sorted(expect)
    assert report["scoring"]["not_scored"] is None
    assert report["primary_metric"]["ratio_vs_baseline"] > 1.0
    statuses = {guard: report[guard]["status"] for guard in ("spectral", "rmt", "variance")}
    assert "error" not in statuses.values(), statuses
    assert report["spectral"]["metrics"]["caps_applied"] == 0


def test_a_narrower_ffn_undeclared_fails(judged: Judged) -> None:
    report = judged(narrowed(intermediate_size=368))

    assert report["assurance"]["verdict"] == "FAIL"
    assert kinds(report) >= {"reshaped", "config"}
    assert report["spectral"]["status"] == "error"


@pytest.mark.parametrize("expect", ["ffn=352", "width=368"])
def test_a_width_that_is_not_as_declared_fails(judged: Judged, expect: str) -> None:
    report = judged(narrowed(intermediate_size=368), expect)

    assert report["assurance"]["verdict"] == "FAIL"
    assert kinds(report) >= {"expected", "reshaped"}


def test_a_declared_width_excuses_no_other_change(judged: Judged) -> None:
    model = narrowed(intermediate_size=368)
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight *= 3
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("inf")

    report = judged(model, "ffn=368")

    assert report["assurance"]["verdict"] == "FAIL"
    assert kinds(report) == {"nonfinite"}
    assert report["spectral"]["metrics"]["capped_modules"] == ["model.layers.1.self_attn.v_proj.weight"]


MIXTRAL = EMBEDDED / "mixtral-tiny"


def with_experts(*kept: int) -> Any:
    """Return the mixture with some of its experts, which have new numbers, and their rows of the routers."""
    whole = AUTO_MODEL.from_pretrained(MIXTRAL, dtype=torch.float32).eval()
    config = copy.deepcopy(whole.config)
    config.num_local_experts = len(kept)
    model = AUTO_MODEL.from_config(config).eval()
    for name, tensor in model.state_dict().items():
        before = whole.state_dict()[name]
        tensor.copy_(before if before.shape == tensor.shape else before[list(kept)])
    return model


@pytest.fixture
def judged_experts(text: Path, tmp_path: Path) -> Judged:
    def judge(model: Any, *expect: str) -> Any:
        base = save(AUTO_MODEL.from_pretrained(MIXTRAL, dtype=torch.float32), tmp_path / "base")
        request = PairRequest(
            base, save(model, tmp_path / "subject"), text, seq_len=64, preview_windows=4, final_windows=16,
            device="cpu", edit_label="mine", expect=expect,
        )  # fmt: skip
        report = evaluate_pair(request, tmp_path / "out")
        assert verify_report(report) == []
        return report

    return judge


def test_declared_experts_are_no_violation_whatever_their_numbers(judged_experts: Judged) -> None:
    report = judged_experts(with_experts(0, 2, 3), "experts=3")

    assert kinds(report) == set()
    assert report["scoring"]["not_scored"] is None
    assert report["primary_metric"]["ratio_vs_baseline"] > 1.0
    assert {report[guard]["status"] for guard in ("spectral", "rmt")} <= {"pass", "warn"}
    assert report["spectral"]["metrics"]["caps_applied"] == 0
    assert not any("experts" in name for name in report["spectral"]["modules"])


def test_fewer_experts_undeclared_fail(judged_experts: Judged) -> None:
    assert kinds(judged_experts(with_experts(0, 1, 2))) >= {"missing", "config", "reshaped"}


def test_a_declaration_of_experts_excuses_nothing_else(judged_experts: Judged) -> None:
    model = with_experts(0, 1, 2)
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight *= 3
        model.model.layers[1].mlp.experts.down_proj[2] = model.model.layers[1].mlp.experts.down_proj[0]

    report = judged_experts(model, "experts-1")

    assert kinds(report) == {"copy"}
    assert report["spectral"]["metrics"]["capped_modules"] == ["model.layers.0.self_attn.v_proj.weight"]


def test_experts_and_routers_are_left_out_of_each_table_that_is_compared() -> None:
    families = {
        "layers.0.attn.q.weight": "attn",
        "layers.0.moe.experts.1.up.weight": "ffn",
        "layers.0.moe.experts.up[1]": "ffn",
        "layers.0.moe.shared_experts.up.weight": "ffn",
        "layers.0.moe.gate.weight": "router",
    }
    rows = {name: {"family": family, "shape": [2, 2]} for name, family in families.items()}
    tables = ("baseline", "subject", "changes")
    raw = {side: {"modules": rows} for side in tables[:2]} | {"changes": rows, "canonical": dict.fromkeys(tables, rows)}

    found = comparable(raw, {"expected": ["experts=3"]}, "shape")

    kept = {"layers.0.attn.q.weight", "layers.0.moe.shared_experts.up.weight"}
    assert all(set(found[side]["modules"]) == kept for side in tables[:2])
    assert set(found["changes"]) == kept
    assert all(set(found["canonical"][table]) == kept for table in tables)
    assert comparable(raw, None) == raw


def test_another_number_of_experts_than_declared_fails(judged_experts: Judged) -> None:
    assert "expected" in kinds(judged_experts(with_experts(0, 1, 2), "experts=2"))


def test_an_expert_of_zeros_fails(judged_experts: Judged) -> None:
    model = with_experts(0, 1, 2, 3)
    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj[3] = 0

    report = judged_experts(model)

    assert report["assurance"]["verdict"] == "FAIL"
    assert report["spectral"]["status"] == "fail"


@given(st.integers(1, 64), st.integers(1, 64))
def test_only_lengths_that_follow_from_a_declared_width_fit(units: int, other: int) -> None:
    before = {"hidden_size": 1000, "intermediate_size": 500, "num_attention_heads": 10, "head_dim": 100}

    widths = declared_widths({"expected": [f"ffn={units}"]}, before, {**before, "intermediate_size": units})

    assert widths.fits([units, 1000], [500, 1000])
    assert widths.fits([3, 2 * units, 1000], [3, 1000, 1000])
    assert widths.fits([other, 1000], [500, 1000]) == (other == units)
    assert not widths.fits([units], [400])
    assert not widths.fits([units, 999], [500, 1000])
    assert not widths.fits([units, 1000], [500])
    assert declared_widths(None, before, before).fits([500], [500])
    assert not declared_widths(None, before, before).fits([units], [500])


def test_a_declared_width_may_be_larger_and_an_undeclared_one_may_not() -> None:
    before = {"hidden_size": 1000, "intermediate_size": 500, "num_attention_heads": 10, "head_dim": 100}

    widths = declared_widths({"expected": ["ffn=700"]}, before, {**before, "intermediate_size": 700})

    assert widths.fits([700, 1000], [500, 1000])
    assert not widths.fits([500, 1300], [500, 1000])


def test_a_size_of_a_head_follows_from_the_width_unless_it_is_stated() -> None:
    def sizes(width: int, head: int) -> dict[str, int]:
        return {"hidden_size": width, "intermediate_size": 64, "num_attention_heads": 4, "head_dim": head}

    edit = {"expected": ["width=96"]}

    assert "head_dim" in declared_widths(edit, sizes(128, 32), sizes(96, 24)).fields
    assert "head_dim" not in declared_widths(edit, sizes(128, 32), sizes(96, 32)).fields
    assert not declared_widths(edit, sizes(128, 32), sizes(96, 16)).fits([16], [32])
    without_heads = ({"hidden_size": 128, "head_dim": 32}, {"hidden_size": 96, "head_dim": 24})
    assert "head_dim" not in declared_widths(edit, *without_heads).fields


def test_a_width_is_read_by_the_words_of_each_family() -> None:
    assert width_of({"n_embd": 64}, "width") == 64
    assert width_of({"n_embd": 64, "n_inner": None}, "ffn") == 256
    assert width_of({"text_config.num_attention_heads": 8}, "kv-heads") == 8
    assert width_of({"vision_config.hidden_size": 8}, "width") is None
