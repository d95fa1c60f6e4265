import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from invarlock.measuring.invariants import count_nonfinite
from invarlock.measuring.spectral import TOLERANCE, Spectrum, measure_spectra


def exact(matrix: torch.Tensor) -> tuple[float, float]:
    values = torch.linalg.svdvals(matrix.double())
    return float(values[0]), float(torch.linalg.vector_norm(values))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (5, 3), (64, 200), (200, 64), (128, 128)])
def test_sigma_and_norm_agree_with_the_exact_decomposition(shape: tuple[int, int]) -> None:
    matrices = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))

    for matrix, spectrum in zip(matrices, measure_spectra(matrices), strict=True):
        sigma, norm = exact(matrix)
        assert spectrum.sigma == pytest.approx(sigma, rel=1e-4)
        assert spectrum.frobenius == pytest.approx(norm, rel=1e-6)


def test_the_residual_says_how_well_the_estimate_converged() -> None:
    easy = torch.diag(torch.tensor([3.0] + [1.0] * 31))
    # nine almost equal values: more than the block can tell apart
    hard = torch.diag(torch.linspace(1.0, 0.99999, 32))

    spectra = measure_spectra(torch.stack([easy, hard]))

    assert spectra[0].residual is not None
    assert spectra[0].residual < 1e-5
    assert spectra[0].sigma == pytest.approx(3.0, rel=1e-6)
    assert spectra[1].sigma == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("shape", [(64, 65), (90, 71), (300, 700), (700, 300)])
def test_noise_whose_largest_values_lie_close_together_converges(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(4))

    for matrix, spectrum in zip(matrices, measure_spectra(matrices), strict=True):
        assert spectrum.residual is not None
        assert spectrum.residual <= TOLERANCE
        # the residual bounds the relative error of sigma squared
        assert spectrum.sigma == pytest.approx(exact(matrix)[0], rel=TOLERANCE / 2)


def test_a_matrix_of_low_rank_and_one_with_equal_values_converge() -> None:
    generator = torch.Generator().manual_seed(5)
    low = torch.randn(100, 3, generator=generator) @ torch.randn(3, 80, generator=generator)
    equal = torch.linalg.qr(torch.randn(100, 80, generator=generator)).Q

    for matrix, spectrum in zip((low, equal), measure_spectra(torch.stack([low, equal])), strict=True):
        assert spectrum.residual is not None
        assert spectrum.residual <= TOLERANCE
        assert spectrum.sigma == pytest.approx(exact(matrix)[0], rel=TOLERANCE / 2)


def test_a_matrix_that_is_not_finite_is_not_measured_and_does_not_spoil_the_batch() -> None:
    matrices = torch.eye(4).repeat(3, 1, 1)
    matrices[1, 2, 3] = math.nan
    matrices[2, 0, 0] = math.inf

    first, second, third = measure_spectra(matrices)

    assert first.sigma == pytest.approx(1.0)
    assert (second.sigma, second.residual, second.frobenius) == (None, None, None)
    assert third.sigma is None


def test_a_matrix_of_zeros_has_sigma_zero() -> None:
    (spectrum,) = measure_spectra(torch.zeros(1, 8, 8))

    assert (spectrum.sigma, spectrum.residual, spectrum.frobenius) == (0.0, 0.0, 0.0)


@settings(max_examples=25)
@given(st.floats(1e-30, 1e30), st.sampled_from([torch.float32, torch.bfloat16]))
def test_sigma_scales_with_the_matrix(factor: float, dtype: torch.dtype) -> None:
    matrix = torch.randn(24, 16, generator=torch.Generator().manual_seed(2))
    scaled = (matrix * factor).to(dtype)

    (spectrum,) = measure_spectra(scaled[None])

    assert spectrum.sigma == pytest.approx(exact(scaled)[0], rel=1e-4)


def test_the_same_matrix_gives_the_same_numbers_in_any_batch() -> None:
    matrices = torch.randn(3, 32, 48, generator=torch.Generator().manual_seed(3))

    together = measure_spectra(matrices)

    assert together[1].sigma == pytest.approx(measure_spectra(matrices[1:2])[0].sigma, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_every_value_that_is_not_finite_is_counted(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[1.0, math.nan], [math.inf, -math.inf]]).to(dtype)

    assert count_nonfinite(tensor) == 3


def test_integers_are_finite() -> None:
    assert count_nonfinite(torch.tensor([1, 2])) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_matrix_is_looked_at_in_slices_and_left_as_it_was(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrices = torch.randn(3, 40, 48, generator=torch.Generator().manual_seed(6)).to(dtype)
    matrices[1, 39, 47] = math.nan
    before, whole = matrices.clone(), measure_spectra(matrices)

    monkeypatch.setattr("invarlock.measuring.spectral.PART_ELEMENTS", 7 * 48)
    sliced = measure_spectra(matrices)

    assert [one.frobenius for one in sliced] == [one.frobenius for one in whole]
    assert (sliced[1], whole[1]) == (Spectrum(None, None, None), Spectrum(None, None, None))
    assert [sliced[0].sigma, sliced[2].sigma] == pytest.approx([whole[0].sigma, whole[2].sigma], rel=1e-6)
    torch.testing.assert_close(matrices, before, rtol=0, atol=0, equal_nan=True)
