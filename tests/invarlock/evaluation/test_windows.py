import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invarlock.errors import EvaluationError
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.windows import draw_windows, window_id


def test_a_windows_id_is_the_digest_of_its_tokens_as_little_endian_int32() -> None:
    tokens = [1, 2, 1000]
    expected = hashlib.sha256(struct.pack("<3i", *tokens)).hexdigest()[:16]

    assert window_id(np.array(tokens, dtype=np.int32)) == expected
    assert window_id(np.array(tokens, dtype=np.int64)) == expected


def test_preview_and_final_are_disjoint_windows_of_the_text() -> None:
    tokens = list(range(1000))

    draw = draw_windows(tokens, 10, preview=20, final=30, seed=3)

    assert (len(draw.preview.ids), len(draw.final.ids)) == (20, 30)
    assert not set(draw.preview.ids) & set(draw.final.ids)
    firsts = np.concatenate([draw.preview.tokens, draw.final.tokens])[:, 0].tolist()
    assert all(first % 10 == 0 for first in firsts)
    assert all(window_id(row) == name for row, name in zip(draw.final.tokens, draw.final.ids, strict=True))


def test_a_draw_is_the_same_again_and_another_with_another_seed() -> None:
    tokens = list(range(2000))

    first, again, other = (draw_windows(tokens, 20, 10, 10, seed) for seed in (1, 1, 2))

    assert first.final.ids == again.final.ids
    assert first.final.ids != other.final.ids
    # made once: a change of the permutation would change what every pack was measured on
    assert [int(row[0]) // 20 for row in first.preview.tokens] == [93, 61, 75, 9, 36, 39, 85, 55, 96, 31]


def test_duplicate_windows_count_once() -> None:
    tokens = [1, 2] * 50 + [3, 4, 5, 6]

    with pytest.raises(EvaluationError, match=r"has 3 distinct windows of 2 tokens, 2 \+ 2 are needed"):
        draw_windows(tokens, 2, preview=2, final=2, seed=0)
    with pytest.raises(EvaluationError, match="has 1 distinct window of 2 tokens"):
        draw_windows([1, 2, 1, 2], 2, preview=1, final=1, seed=0)


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**30))
def test_every_draw_has_distinct_windows_of_the_right_length(preview: int, final: int, seed: int) -> None:
    draw = draw_windows(list(range(8 * 80)), 8, preview, final, seed)

    assert len({*draw.preview.ids, *draw.final.ids}) == preview + final
    assert draw.preview.tokens.shape == (preview, 8)


def test_every_run_of_a_scenario_draws_with_a_seed_of_its_own() -> None:
    plan = WindowPlan(seq_len=128, preview=64, final=64, seed=1000, batch_size=16)

    assert [plan.window_seed(run) for run in (1, 2, 3)] == [1001, 1002, 1003]


@settings(max_examples=30)
@given(st.integers(2, 12), st.lists(st.integers(5000, 6000), min_size=1, max_size=3))
def test_a_prefix_takes_the_place_of_text_and_no_token_is_left_out(seq_len: int, prefix: list[int]) -> None:
    text = list(range(400))
    if seq_len <= len(prefix):
        with pytest.raises(EvaluationError, match="has no room for text"):
            draw_windows(text, seq_len, 2, 3, 0, prefix)
        return
    count = len(text) // (seq_len - len(prefix))

    draw = draw_windows(text, seq_len, 2, count - 2, 0, prefix)

    windows = [*draw.preview.tokens.tolist(), *draw.final.tokens.tolist()]
    assert all(window[: len(prefix)] == prefix and len(window) == seq_len for window in windows)
    assert (
        sorted(token for window in windows for token in window[len(prefix) :])
        == text[: count * (seq_len - len(prefix))]
    )
    assert draw.prefix == tuple(prefix)
    assert window_id(draw.final.tokens[0]) == draw.final.ids[0]
