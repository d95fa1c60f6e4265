from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invarlock.catalog.edit_labels import PATH_LABELS, edit_text, is_label, is_planned, label_in_path
from invarlock.settings import readers


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/models/Mistral-7B-GPTQ", "gptq"),
        ("/models/quant_rtn/checkpoint-100", "quant_rtn"),
        ("/cache/models--TheBloke--Mistral-AWQ/snapshots/0123abcd", "awq"),
        ("/models/magnitude-prune_50", "magnitude_prune"),
        ("/models/mistral.fp8", "fp8"),
        ("/models/fp8_quant_e5m2", "fp8_quant"),
        ("/models/low-rank", "lowrank"),
        ("/models/lowrank_svd-32", "lowrank_svd"),
        ("/models/mistral-bnb-4bit", "bitsandbytes"),
        # the nearest name decides
        ("/awq/gptq", "gptq"),
        ("/models/AutoRound/run", "auto-round"),
        # which of two is meant cannot be known
        ("/models/gptq-and-awq", None),
        ("/awq/gptq-fp8/run", None),
        # words, not parts of them
        ("/models/hawq", None),
        ("/models/gptqmodel", None),
        ("/models/fp8x", None),
        ("/models/quanto1", None),
        ("/models/noop", None),
        # too far above to be about this folder
        ("/awq/a/b/c", None),
        ("/models/mistral-7b", None),
    ],
)
def test_a_label_is_a_whole_word_of_the_nearest_folder_that_has_one(path: str, label: str | None) -> None:
    assert label_in_path(PurePosixPath(path)) == label


@given(st.sampled_from(sorted(label for label in PATH_LABELS if label.isalnum())), st.text("abcxyz089", min_size=1))
def test_no_label_is_found_inside_another_word(label: str, letters: str) -> None:
    for name in (letters + label, label + letters, letters + label + letters):
        assert label_in_path(PurePosixPath("/", name)) is None


@given(st.text(max_size=120))
def test_a_setting_takes_what_a_report_can_hold(text: str) -> None:
    try:
        taken = readers.edit_label(text) == text
    except ValueError:
        taken = False

    assert taken == is_label(text)


def test_a_label_is_shown_where_there_is_no_spec() -> None:
    gptq = {"name": "custom", "label": "gptq", "spec": "custom", "label_source": "inferred"}

    assert edit_text(gptq) == "gptq (inferred)"
    assert edit_text({**gptq, "label_source": "given"}) == "gptq"
    assert edit_text({**gptq, "label": "custom"}) == "custom"
    assert edit_text({"name": "quant_rtn", "label": "quant_rtn", "spec": "quant_rtn:8:32:ffn"}) == "quant_rtn:8:32:ffn"


@pytest.mark.parametrize(
    ("edit", "label", "source", "planned"),
    [
        ({"name": "custom", "label": "gptq", "label_source": "inferred"}, "gptq", "inferred", True),
        ({"name": "custom", "label": "gptq", "label_source": "given"}, "gptq", "inferred", False),
        ({"name": "custom", "label": "awq", "label_source": "inferred"}, "gptq", "inferred", False),
        ({"name": "quant_rtn", "label": "quant_rtn"}, "quant_rtn", "edit_metadata", True),
        ({"name": "custom", "label": "custom"}, "custom", None, True),
        ({"name": "noop", "label": "noop"}, "gptq", "inferred", True),
        ({"name": "noop", "label": "noop"}, "custom", None, True),
        ({"name": "noop", "label": "noop"}, "gptq", "given", False),
        ({"name": "noop", "label": "noop"}, "noop", "given", True),
    ],
)
def test_an_edit_is_the_planned_one_or_no_edit(
    edit: dict[str, Any], label: str, source: str | None, planned: bool
) -> None:
    assert is_planned(edit, label, source) == planned
