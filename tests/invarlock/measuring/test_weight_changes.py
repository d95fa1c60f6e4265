import math

import pytest
import torch

from invarlock.measuring.weight_changes import WeightChange, measure_changes, unit_order


def changed(before: torch.Tensor, after: torch.Tensor) -> WeightChange:
    (change,) = measure_changes(before[None], after[None])
    return change


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_relative_change_is_the_norm_of_the_change_over_the_baselines() -> None:
    before, after = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[3.0, 0.0], [1.0, 4.0]])

    assert changed(before, after).relative == pytest.approx(1 / 5)


def test_a_scale_is_coherent_and_nothing_else() -> None:
    before = torch.tensor([[1.0, -2.0], [3.0, 4.0]])

    change = changed(before, 1.01 * before)

    assert change.coherent == pytest.approx(1.0)
    assert change.flipped == 0.0


def test_each_group_of_32_inputs_may_have_a_scale_of_its_own() -> None:
    before = noise(1, 64)
    factors = torch.tensor([1.1] * 32 + [0.9] * 32)
    halves = torch.tensor([1.1, 0.9] * 32)

    assert changed(before, before * factors).coherent == pytest.approx(1.0, abs=1e-6)
    assert (changed(before, before * halves).coherent or 0.0) < 0.1


def test_coherence_is_the_share_of_the_change_that_scales_explain() -> None:
    # along the baseline: <D,B> = 1, <B,B> = 1; along the subject: <D,S> = 1 * 2 + 2 * 2 = 6, <S,S> = 8
    before, after = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 2.0]])

    assert changed(before, after).coherent == pytest.approx(min(1 / 1, 36 / 8) / 5)


def test_pruning_is_orthogonal_to_what_is_left_and_not_coherent() -> None:
    before = torch.tensor([[1.0, 5.0], [4.0, 2.0]])
    after = torch.tensor([[0.0, 5.0], [4.0, 0.0]])

    change = changed(before, after)
    assert change.relative == pytest.approx(math.sqrt(5 / 46))
    assert (change.coherent, change.flipped) == (0.0, 0.0)


def test_flips_of_large_weights_are_counted_by_their_share_of_the_change() -> None:
    # RMS 2: a weight is large from 1; -3 flips to 3 (36 of the change), 0.5 to -0.5 is small (1)
    before = torch.tensor([[-3.0, 0.5], [math.sqrt(6.5), 0.5]])
    after = torch.tensor([[3.0, -0.5], [math.sqrt(6.5), 0.5]])

    assert changed(before, after).flipped == pytest.approx(36 / 37)


def test_noise_is_at_the_edge_and_a_direction_beyond_it() -> None:
    before, direction = noise(128, 256), noise(256, seed=1)
    one_way = before.clone()
    one_way[:32] += 0.1 * direction

    assert changed(before, before + 0.01 * noise(128, 256, seed=2)).edge_risk == pytest.approx(1.0, abs=0.05)
    # 32 equal rows of 128: once columns have one RMS, sqrt(128 * 256) over the edge
    assert changed(before, one_way).edge_risk == pytest.approx(math.sqrt(128 * 256) / (math.sqrt(128) + 16), rel=1e-3)


def test_rows_and_columns_of_unequal_noise_are_no_direction() -> None:
    before = noise(128, 128)
    loud = noise(128, 128, seed=1) * torch.logspace(0, 2, 128)[:, None] * torch.logspace(0, -2, 128)[None, :]

    assert (changed(before, before + loud).edge_risk or 9.0) < 1.5


def test_a_matrix_that_is_not_finite_has_no_numbers_and_its_neighbours_keep_theirs() -> None:
    before = noise(3, 8, 8)
    after = before * 1.5
    after[1, 2, 3] = math.nan

    first, second, third = measure_changes(before, after)

    assert second == WeightChange(None, None, None, None)
    assert [first, third] == [changed(before[0], after[0]), changed(before[2], after[2])]


def test_matrices_without_a_change_or_without_a_baseline_have_numbers_all_the_same() -> None:
    zero, one = torch.zeros(4, 4), torch.ones(4, 4)

    assert changed(one, one) == WeightChange(0.0, 0.0, 0.0, 0.0)
    assert changed(zero, one).relative is None
    assert changed(zero, one).coherent == 0.0
    assert changed(one * 1e-30, one * 2e-30) == changed(one, one * 2)


def test_a_large_matrix_is_worked_on_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    before = noise(2, 40, 96)
    after = before + 0.1 * noise(2, 40, 96, seed=1)
    whole = measure_changes(before, after)

    monkeypatch.setattr("invarlock.measuring.weight_changes.SLICE_ELEMENTS", 2 * 96 * 7)

    assert measure_changes(before, after) == whole


def test_the_order_of_rows_is_found_whatever_the_rows_contain() -> None:
    order = torch.tensor([2, 0, 1, 3])
    one, other = noise(4, 8).to(torch.bfloat16), noise(4, 3, seed=1)

    assert unit_order(one, one[order]) == unit_order(other, other[order])
    assert unit_order(one, one) != unit_order(one, one[order])
    assert unit_order(one, one[order] * 2) is None
    assert unit_order(one, one[torch.tensor([0, 0, 1, 2])]) is None


@pytest.mark.parametrize("size", [0.01, 0.3, 1.0, 3.0])
def test_the_share_of_flips_is_that_of_its_definition_for_small_and_large_changes(size: float) -> None:
    before = noise(24, 40)
    after = before + size * noise(24, 40, seed=1)

    wide, moved = before.double(), after.double()
    large = 0.5 * wide.square().mean().sqrt()
    flips = (wide * moved < 0) & (wide.abs() >= large) & (moved.abs() >= large)
    expected = ((moved - wide).square() * flips).sum() / (moved - wide).square().sum()
    assert changed(before, after).flipped == pytest.approx(float(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_neither_side_is_changed_by_measuring(dtype: torch.dtype) -> None:
    before, after = noise(8, 64).to(dtype), noise(8, 64, seed=1).to(dtype)
    kept = before.clone(), after.clone()

    changed(before, after)

    assert torch.equal(before, kept[0])
    assert torch.equal(after, kept[1])


def test_a_transposed_view_has_the_numbers_of_its_copy() -> None:
    before, after = noise(64, 40).mT, noise(64, 40, seed=1).mT

    view, copy = changed(before, after), changed(before.contiguous(), after.contiguous())

    assert (view.relative, view.coherent, view.flipped) == (copy.relative, copy.coherent, copy.flipped)
    assert view.edge_risk == pytest.approx(copy.edge_risk, rel=1e-6)
