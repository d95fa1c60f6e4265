"""Each edit against a straightforward reference, and the properties that it promises."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from invarlock.edits import EDITS
from invarlock.edits.fp8_quant import FP8_QUANT, quantize_fp8
from invarlock.edits.lowrank_svd import LOWRANK_SVD, approximate_lowrank, randomised_lowrank
from invarlock.edits.magnitude_prune import MAGNITUDE_PRUNE, prune_magnitude
from invarlock.edits.quant_rtn import QUANT_RTN, quantize_rtn
from invarlock.errors import UsageError

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 40))
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


def random_weight(shape: tuple[int, int], seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def reference_rtn(weight: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    result = weight.float().clone()
    largest = 2 ** (bits - 1) - 1
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], group_size):
            group = weight[row, start : start + group_size].float()
            scale = group.abs().max() / largest
            if scale > 0:
                group = torch.round(group / scale).clamp(-largest - 1, largest) * scale
            result[row, start : start + group_size] = group
    return result.to(weight.dtype)


def test_rtn_by_hand() -> None:
    weight = torch.tensor([[1.0, -3.0, 0.5, 0.0, 7.0]])

    # 3 bits, groups of 2: levels -4..3; scales 1, 1/6, 7/3; 0.5 is 3 steps of 1/6.
    assert quantize_rtn(weight, bits=3, group_size=2).tolist() == [pytest.approx([1.0, -3.0, 0.5, 0.0, 7.0])]
    # 2 bits: levels -2..1; scales 3, 0.5, 7; 1/3 rounds to 0.
    assert quantize_rtn(weight, bits=2, group_size=2).tolist() == [[0.0, -3.0, 0.5, 0.0, 7.0]]


@given(SHAPES, st.integers(2, 8), st.integers(1, 50), st.integers(0, 999), DTYPES)
@settings(max_examples=60)
def test_rtn_agrees_with_a_loop(
    shape: tuple[int, int], bits: int, group_size: int, seed: int, dtype: torch.dtype
) -> None:
    weight = random_weight(shape, seed, dtype)

    edited = quantize_rtn(weight, bits, group_size)

    assert edited.dtype == dtype
    assert torch.equal(edited, reference_rtn(weight, bits, group_size))


def test_rtn_keeps_zero_groups_and_survives_subnormal_ones() -> None:
    weight = torch.tensor([[0.0, 0.0, 1e-45, 0.0]])

    assert quantize_rtn(weight, 8, 2).isfinite().all()
    assert quantize_rtn(weight, 8, 2)[0, :2].tolist() == [0.0, 0.0]


@given(SHAPES, st.sampled_from(["e4m3", "e5m2"]), st.integers(0, 999), DTYPES, st.floats(1e-6, 1e4))
@settings(max_examples=60)
def test_fp8_error_is_within_half_a_step_and_finite(
    shape: tuple[int, int], fp8_format: str, seed: int, dtype: torch.dtype, size: float
) -> None:
    weight = (random_weight(shape, seed) * size).to(dtype)
    mantissa_bits = {"e4m3": 3, "e5m2": 2}[fp8_format]

    edited = quantize_fp8(weight, fp8_format)

    # Half a step relative, plus the subnormal step of a scaled row, plus the cast back to a 16-bit dtype.
    row_largest = weight.float().abs().amax(dim=1, keepdim=True)
    subnormal_step = {"e4m3": 2.0**-9 / 448, "e5m2": 2.0**-16 / 57344}[fp8_format]
    allowed = (
        weight.float().abs() * (2.0 ** -(mantissa_bits + 1) + torch.finfo(dtype).eps)
        + row_largest * subnormal_step
        + torch.finfo(dtype).smallest_normal
    )
    assert edited.isfinite().all()
    assert ((edited.float() - weight.float()).abs() <= allowed * 1.001).all()
    assert torch.equal(edited == 0, edited.float() == 0)


@pytest.mark.parametrize("fp8_format", ["e4m3", "e5m2"])
def test_fp8_leaves_rows_of_zeros_as_they_are(fp8_format: str) -> None:
    weight = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, -2.0]])

    assert quantize_fp8(weight, fp8_format).tolist() == weight.tolist()
    with pytest.raises(ValueError, match="matrix"):
        quantize_fp8(torch.zeros(3), fp8_format)


def test_fp8_keeps_the_largest_weight_of_a_row_exactly() -> None:
    weight = random_weight((16, 64), 3)

    edited = quantize_fp8(weight, "e4m3")

    assert torch.allclose(edited.abs().amax(dim=1), weight.abs().amax(dim=1), rtol=1e-6)


@given(SHAPES, st.floats(0, 0.999), st.integers(0, 999), DTYPES)
@settings(max_examples=80)
def test_prune_zeroes_exactly_the_smallest(
    shape: tuple[int, int], fraction: float, seed: int, dtype: torch.dtype
) -> None:
    weight = random_weight(shape, seed, dtype)
    count = math.floor(fraction * weight.numel())
    order = sorted(range(weight.numel()), key=lambda index: (abs(weight.flatten()[index].item()), index))

    edited = prune_magnitude(weight, fraction)

    expected = weight.clone().flatten()
    expected[order[:count]] = 0
    assert torch.equal(edited.flatten(), expected)


def test_prune_breaks_ties_by_index() -> None:
    weight = torch.tensor([[2.0, -1.0], [1.0, 1.0]])

    assert prune_magnitude(weight, 0.5).tolist() == [[2.0, 0.0], [0.0, 1.0]]


@given(SHAPES, st.floats(0, 0.999), st.integers(0, 999), DTYPES, st.integers(1, 9))
@settings(max_examples=80)
def test_ties_across_pieces_go_by_index(
    shape: tuple[int, int], fraction: float, seed: int, dtype: torch.dtype, piece_elements: int
) -> None:
    weight = (random_weight(shape, seed, torch.float32) * 2).round().to(dtype)
    order = sorted(range(weight.numel()), key=lambda index: (abs(weight.flatten()[index].item()), index))
    expected = weight.clone().flatten()
    expected[order[: math.floor(fraction * weight.numel())]] = 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("invarlock.edits.magnitude_prune.PIECE_ELEMENTS", piece_elements)
        edited = prune_magnitude(weight, fraction)

    assert torch.equal(edited.flatten(), expected)


@given(st.tuples(st.integers(2, 40), st.integers(2, 40)), st.integers(1, 12), st.integers(0, 999))
@settings(max_examples=40)
def test_lowrank_reaches_the_optimal_error(shape: tuple[int, int], rank: int, seed: int) -> None:
    weight = random_weight(shape, seed)

    edited = approximate_lowrank(weight, rank)

    optimal = torch.linalg.svdvals(weight)[rank:].square().sum().sqrt()
    assert torch.linalg.norm(weight - edited) == pytest.approx(float(optimal), rel=1e-4, abs=1e-4)


def test_a_long_matrix_with_a_short_side_is_approximated_exactly() -> None:
    weight = random_weight((100, 1200), 2)

    left, singular, right = torch.linalg.svd(weight, full_matrices=False)

    assert torch.allclose(approximate_lowrank(weight, 8), (left[:, :8] * singular[:8]) @ right[:8], atol=1e-4)


def test_the_randomised_method_gives_the_same_each_time_and_the_rank_that_is_wanted() -> None:
    weight = random_weight((40, 30), 3)

    edited = randomised_lowrank(weight, 4)

    assert torch.equal(edited, randomised_lowrank(weight, 4))
    assert int(torch.linalg.matrix_rank(edited)) == 4
    assert randomised_lowrank(weight, 29).shape == weight.shape


def reference_randomised(values: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the approximation of Halko, Martinsson and Tropp, in float64: 32 further columns, six power iterations."""
    start = torch.randn(values.shape[1], min(rank + 32, *values.shape), generator=torch.Generator().manual_seed(0x5EED))
    exact = values.double()
    basis = torch.linalg.qr(exact @ start.double()).Q
    for _ in range(6):
        basis = torch.linalg.qr(exact @ (exact.T @ basis)).Q
    left, singular, right = torch.linalg.svd(basis.T @ exact, full_matrices=False)
    return (basis @ left[:, :rank] @ singular[:rank].diag() @ right[:rank]).float()


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
def test_the_randomised_method_is_the_published_one_with_the_same_draw_each_time(shape: tuple[int, int]) -> None:
    weight = random_weight(shape, 4)

    edited = randomised_lowrank(weight, 3)

    # another draw, one iteration or one column more or less changes weights by far more than this
    torch.testing.assert_close(edited, reference_randomised(weight, 3), rtol=0, atol=2e-4)


def test_only_the_approximation_of_lower_rank_is_tuned_on_one_block() -> None:
    assert [edit.name for edit in EDITS if edit.tunes_one_block] == ["lowrank_svd"]


def test_the_words_of_a_spec_are_read_within_their_bounds() -> None:
    read_bits, read_format = QUANT_RTN.parameters[0].read, FP8_QUANT.parameters[0].read

    assert [read_bits(text, "spec") for text in ("2", "8")] == [2, 8]
    assert [read_format(text, "spec") for text in ("e4m3", "e5m2")] == ["e4m3", "e5m2"]
    for text in ("1", "9", "", "4.0", "-4", "00000004"):
        with pytest.raises(UsageError):
            read_bits(text, "spec")
    with pytest.raises(UsageError):
        read_format("e3m4", "spec")


def test_ladders_go_from_gentle_to_harsh() -> None:
    assert LOWRANK_SVD.ladder is not None
    ranks = [int(step["rank"]) for step in LOWRANK_SVD.ladder(100)]
    assert ranks == sorted(set(ranks), reverse=True)
    assert ranks[:4] == [97, 94, 91, 88]
    assert (len(ranks), ranks[-1]) == (32, 1)
    assert [step["rank"] for step in LOWRANK_SVD.ladder(1)] == [1]
    assert FP8_QUANT.ladder is not None
    assert [step["format"] for step in FP8_QUANT.ladder(100)] == ["e4m3", "e5m2"]
    assert MAGNITUDE_PRUNE.ladder is not None
    shares = [float(step["sparsity"]) for step in MAGNITUDE_PRUNE.ladder(100)]
    assert shares == sorted(set(shares))
    assert 0.0 < shares[0] < shares[-1] < 1.0
    assert QUANT_RTN.ladder is not None
    steps = [(int(step["bits"]), int(step["group_size"])) for step in QUANT_RTN.ladder(4096)]
    assert steps == [
        (8, 128), (7, 128), (6, 128), (5, 128), (4, 32), (4, 64), (4, 128), (3, 32), (3, 64), (3, 128), (2, 32),
        (2, 128),
    ]  # fmt: skip


def test_the_randomised_method_is_within_one_per_cent_of_optimal() -> None:
    # A flat spectrum, as of random weights, is the hardest for a randomised method.
    weight = random_weight((600, 900), 5)

    error = torch.linalg.norm(weight - randomised_lowrank(weight, 32))

    optimal = torch.linalg.svdvals(weight)[32:].square().sum().sqrt()
    assert float(error / optimal) < 1.01


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2)])
@pytest.mark.parametrize(
    "edit",
    [
        lambda w: quantize_rtn(w, 4, 2),
        lambda w: quantize_fp8(w, "e4m3"),
        lambda w: prune_magnitude(w, 0.5),
        lambda w: approximate_lowrank(w, 1),
    ],
    ids=["quant_rtn", "fp8_quant", "magnitude_prune", "lowrank_svd"],
)
def test_a_tensor_that_is_not_a_matrix_is_refused(
    edit: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="a matrix is needed"):
        edit(torch.ones(shape))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: quantize_rtn(w, 1, 32), "bits must be 2 to 8"),
        (lambda w: quantize_rtn(w, 9, 32), "bits must be 2 to 8"),
        (lambda w: quantize_rtn(w, 4, 0), "group size"),
        (lambda w: quantize_fp8(w, "e3m4"), "format must be one of e4m3, e5m2"),
        (lambda w: prune_magnitude(w, 1.0), "fraction must be"),
        (lambda w: prune_magnitude(w, -0.1), "fraction must be"),
        (lambda w: approximate_lowrank(w, 0), "rank must be"),
        (lambda w: quantize_rtn(w[0], 4, 32), "a matrix is needed"),
    ],
)
def test_parameters_out_of_range_are_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(random_weight((4, 4), 0))  # type: ignore[operator]
