import pytest
from hypothesis import given
from hypothesis import strategies as st

from invarlock.catalog.edit_specs import CleanSpec, EditSpec, Scope, parse_edit_spec
from invarlock.errors import UsageError
from invarlock.problems import Code


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("noop", EditSpec("noop")),
        ("quant_rtn:4:32:ffn@layer=15", EditSpec("quant_rtn", {"bits": 4, "group_size": 32}, Scope("ffn", 15))),
        ("fp8_quant:e5m2:all", EditSpec("fp8_quant", {"format": "e5m2"}, Scope("all"))),
        ("magnitude_prune:0.5:attn", EditSpec("magnitude_prune", {"sparsity": 0.5}, Scope("attn"))),
        ("lowrank_svd:32:all", EditSpec("lowrank_svd", {"rank": 32}, Scope("all"))),
        ("quant_rtn:clean:ffn", CleanSpec("quant_rtn", Scope("ffn"))),
        ("packed_rtn:8:32", EditSpec("packed_rtn", {"bits": 8, "group_size": 32})),
    ],
)
def test_a_spec_is_parsed(text: str, spec: EditSpec | CleanSpec) -> None:
    assert parse_edit_spec(text) == spec


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("prune:0.5:all", "unknown edit 'prune'"),
        ("noop:1", "noop takes no parameters"),
        ("quant_rtn:4:ffn", "write quant_rtn:<bits 2..8>:<group size>:<scope>"),
        ("quant_rtn:9:32:ffn", "bits must be a whole number from 2 to 8, not '9'"),
        ("quant_rtn:4:0:ffn", "group_size must be a whole number from 1"),
        ("quant_rtn:٤:32:ffn", "bits must be a whole number"),
        ("fp8_quant:e3m4:ffn", "format 'e3m4' is unknown; use one of e4m3, e5m2"),
        ("magnitude_prune:half:all", "between 0 and 1, not 'half'"),
        ("magnitude_prune:nan:all", "between 0 and 1, not 'nan'"),
        ("magnitude_prune:1:all", "between 0 and 1, not '1'"),
        ("magnitude_prune:0:all", "between 0 and 1, not '0'"),
        ("magnitude_prune:1.5:all", "between 0 and 1, not '1.5'"),
        ("magnitude_prune:-0.5:all", "between 0 and 1, not '-0.5'"),
        ("quant_rtn:1:32:ffn", "bits must be a whole number from 2 to 8, not '1'"),
        ("quant_rtn:4:1048577:ffn", "group_size must be a whole number from 1 to 1048576, not '1048577'"),
        ("packed_rtn:6:32", "bits must be one of 4, 8, not 6"),
        ("lowrank_svd:32:mlp", "unknown scope 'mlp'; use ffn, attn, all"),
        ("lowrank_svd:32:ffn@layer=-1", "scope 'ffn@layer=-1'"),
    ],
)
def test_a_wrong_spec_is_refused_with_the_correct_syntax(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_edit_spec(text)

    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.code == Code.EDIT_SPEC_INVALID
    assert text in str(caught.value)


def test_the_largest_and_smallest_parameters_are_parsed() -> None:
    assert parse_edit_spec("quant_rtn:2:1048576:ffn") == EditSpec(
        "quant_rtn", {"bits": 2, "group_size": 1 << 20}, Scope("ffn")
    )
    assert parse_edit_spec("quant_rtn:8:1:ffn") == EditSpec("quant_rtn", {"bits": 8, "group_size": 1}, Scope("ffn"))


@given(
    bits=st.integers(2, 8),
    group=st.integers(1, 4096),
    family=st.sampled_from(["ffn", "attn", "all"]),
    layer=st.none() | st.integers(0, 200),
)
def test_the_text_of_a_spec_reads_back_as_the_spec(bits: int, group: int, family: str, layer: int | None) -> None:
    place = family if layer is None else f"{family}@layer={layer}"

    spec = parse_edit_spec(f"quant_rtn:{bits}:{group}:{place}")

    assert parse_edit_spec(str(spec)) == spec
    assert str(spec) == f"quant_rtn:{bits}:{group}:{place}"
