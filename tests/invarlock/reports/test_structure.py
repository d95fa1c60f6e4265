"""What decides whether a subject is loaded, and the guard that judges it, say the same."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from configurations import configuration
from hypothesis import given
from hypothesis import strategies as st

from invarlock.guards.invariants import derive_invariants
from invarlock.guards.structure import missing_tensors

NAMES = ("embed", "head", "layers.0.up", "layers.0.norm", "layers.1.up")


def facts(names: set[str], *, head: str | None = None, unreadable: Collection[str] = ()) -> dict[str, Any]:
    family = {"layers.0.norm": "norm"}
    return {
        "tensors": {
            name: {
                "digest": "0" * 16,
                "dtype": "F32",
                "shape": [4, 4],
                "family": family.get(name, "ffn"),
                "nonfinite": 0,
            }
            for name in names
        },
        "config": {"vocab_size": 4},
        "tokenizer_tokens": 4,
        "vocabulary_sha256": "0" * 64,
        "prefix_token_ids": [],
        "configuration": configuration(),
        "embedding": "embed" if "embed" in names else None,
        "head": head,
        "tied_by_storage": head is None,
        "tied_by_value": head is None,
        "storage": {"quantisation": None, "packed_weights": 0, "packed_bytes": 0, "stored_bytes": 1},
        "defects": [{"tensor": name, "kind": "unreadable", "reason": "torn"} for name in sorted(unreadable)],
    }


def test_a_tensor_that_only_the_baseline_has_is_missing() -> None:
    whole = facts(set(NAMES) - {"head"})

    assert missing_tensors(whole, facts(set(NAMES) - {"head", "layers.0.up", "embed"})) == ["embed", "layers.0.up"]
    assert missing_tensors(whole, whole) == []
    assert missing_tensors(facts({"embed"}), whole) == []


def test_a_head_that_is_tied_and_a_tensor_that_is_torn_are_there() -> None:
    stored = facts({"embed", "head"}, head="head")

    assert missing_tensors(stored, facts({"embed"})) == []
    assert missing_tensors(facts({"embed", "layers.1.up"}), facts({"embed"}, unreadable={"layers.1.up"})) == []


subsets = st.sets(st.sampled_from(NAMES), min_size=1)


@given(subsets, subsets, subsets, st.booleans(), st.booleans())
def test_the_guard_calls_the_same_tensors_missing(
    base: set[str], own: set[str], torn: set[str], base_head: bool, own_head: bool
) -> None:
    baseline = facts(base, head="head" if base_head and "head" in base else None)
    subject = facts(own, head="head" if own_head and "head" in own else None, unreadable=torn - own)

    judged = derive_invariants({"baseline": baseline, "subject": subject}, None)

    found = [row["tensor"] for row in judged["violations"] if row["kind"] == "missing"]
    assert found == missing_tensors(baseline, subject)
