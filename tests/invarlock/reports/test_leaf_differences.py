from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invarlock.jsonio import digest_document
from invarlock.reports.leaf_differences import leaf_differences

documents = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([-0.0, 0.0, 1.0]) | st.text("ab.", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.", max_size=2), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"a": 1, "b": [1, 2]}, {"a": 1, "b": [1, 3]}, [(("b", 1), 2, 3)]),
        ({"a": 1}, {"b": 2}, [(("a",), 1, None), (("b",), None, 2)]),
        ([1, 2], [1], [((), [1, 2], [1])]),
        (1, "1", [((), 1, "1")]),
        (1, 1.0, [((), 1, 1.0)]),
        (1, True, [((), 1, True)]),
        ([0.0], [-0.0], [((0,), 0.0, -0.0)]),
        ({"a": None}, {}, [(("a",), None, None)]),
    ],
)
def test_each_leaf_that_differs_is_yielded_with_its_place(one: Any, other: Any, expected: list[Any]) -> None:
    assert list(leaf_differences(one, other)) == expected


@given(documents)
def test_a_document_does_not_differ_from_itself(document: Any) -> None:
    assert list(leaf_differences(document, document)) == []


@given(documents, documents)
def test_places_are_those_of_both_documents(one: Any, other: Any) -> None:
    for path, ours, theirs in leaf_differences(one, other):
        assert (at(one, path), at(other, path)) == (ours, theirs)


@given(documents, documents)
def test_documents_without_a_difference_are_those_with_the_same_digest(one: Any, other: Any) -> None:
    assert (not list(leaf_differences(one, other))) == (digest_document(one) == digest_document(other))


def at(document: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        document = document.get(part) if isinstance(document, dict) else document[part]
    return document
