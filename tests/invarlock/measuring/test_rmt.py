import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from invarlock.measuring.rmt import GRAM_SIDE, MIN_TOKENS, EdgeRisk, edge_risk, join
from invarlock.measuring.variance import root_mean_square, sum_of_squares


def noise(tokens: int, features: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(tokens, features, generator=torch.Generator().manual_seed(seed))


def exact_edge_risk(rows: torch.Tensor) -> float:
    """Return the edge risk by the singular values that numpy computes in float64."""
    values = rows.double().numpy()
    centred = values - values.mean(axis=0)
    deviation = np.sqrt(np.square(centred).mean(axis=0))
    varies = deviation > np.maximum(1e-12, 1e-6 * np.abs(values.mean(axis=0)))
    scaled = np.where(varies, centred / np.where(varies, deviation, 1.0), 0.0)
    return float(np.linalg.svd(scaled, compute_uv=False)[0] / sum(map(math.sqrt, scaled.shape)))


@settings(max_examples=60)
@given(
    tokens=st.integers(MIN_TOKENS, 300),
    features=st.integers(1, 300),
    # the largest float32 is 3.4e38; squares overflow beyond 1.8e19, sums of 300 values beyond 1e36
    scales=st.tuples(st.floats(-9, 37.5), st.floats(-9, 37.5)),
    offset=st.floats(-100, 100),
    common=st.sampled_from([0.0, 0.3, 3.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_the_edge_risk_is_that_of_numpys_decomposition_at_any_size_and_scale(
    tokens: int, features: int, scales: tuple[float, float], offset: float, common: float, seed: int
) -> None:
    rows = noise(tokens, features, seed) + common * noise(tokens, 1, seed + 1) + offset
    largest = torch.finfo(torch.float32).max
    rows = (rows.double() * torch.logspace(*scales, features, dtype=torch.float64)).clamp(-largest, largest).float()

    found = edge_risk(rows)

    assert found.nonfinite == 0
    assert found.value == pytest.approx(exact_edge_risk(rows), rel=2e-5, abs=1e-6)


@pytest.mark.parametrize(("tokens", "features"), [(1000, 100), (100, 1000), (512, 512)])
def test_noise_stands_at_the_edge(tokens: int, features: int) -> None:
    assert edge_risk(noise(tokens, features)).value == pytest.approx(1.0, abs=0.03)


def test_a_common_direction_stands_out_by_as_much_as_the_exact_value_says() -> None:
    rows = noise(400, 60) + 3.0 * noise(400, 1, seed=2)

    centred = (rows - rows.mean(dim=0)).double()
    exact = torch.linalg.svdvals(centred / centred.square().mean(dim=0).sqrt())[0]

    found = edge_risk(rows).value
    assert found == pytest.approx(float(exact) / (math.sqrt(400) + math.sqrt(60)), rel=1e-4)
    assert found is not None
    assert found > 4


def test_the_scale_and_the_mean_of_a_feature_do_not_matter() -> None:
    rows = noise(300, 40)

    moved = rows * torch.linspace(0.1, 10, 40) + torch.linspace(-5, 5, 40)

    assert edge_risk(moved).value == pytest.approx(edge_risk(rows).value, rel=1e-4)


def test_features_that_never_change_count_as_zero() -> None:
    rows = noise(300, 40)
    rows[:, :10] = 7.0

    risk = edge_risk(rows).value

    assert risk is not None
    assert risk < edge_risk(noise(300, 40)).value  # type: ignore[operator]
    assert edge_risk(torch.ones(100, 8)).value == 0.0
    # the mean of 300 times 0.1 is rounded
    rows[:, :10] = 0.1
    assert edge_risk(rows).value == risk


def test_features_whose_squares_overflow_are_measured_as_others_are() -> None:
    rows = noise(300, 40) + 3.0 * noise(300, 1, seed=2)
    huge = rows.clone()
    huge[:, 5] *= 1e30

    assert edge_risk(huge).value == pytest.approx(edge_risk(rows).value, rel=1e-6)
    assert edge_risk(rows * 1e37).value == pytest.approx(edge_risk(rows).value, rel=1e-6)
    huge[7, 5] = math.inf
    assert edge_risk(huge) == EdgeRisk(300, 40, 1, None)


def test_activations_that_are_not_finite_are_counted_and_not_measured() -> None:
    rows = noise(100, 10)
    rows[3, 4], rows[5, 6] = math.nan, math.inf

    assert edge_risk(rows) == EdgeRisk(100, 10, 2, None)


def test_too_few_tokens_are_not_measured() -> None:
    assert edge_risk(noise(MIN_TOKENS - 1, 10)).value is None
    assert edge_risk(noise(0, 10)) == EdgeRisk(0, 10, 0, None)


def test_chunks_count_by_their_tokens_and_those_too_small_do_not() -> None:
    chunks = [EdgeRisk(300, 8, 0, 1.0), EdgeRisk(100, 8, 0, 2.0), EdgeRisk(5, 8, 0, None)]

    assert join(chunks) == {"tokens": 405, "features": 8, "nonfinite": 0, "edge_risk": 1.25}
    assert join([EdgeRisk(5, 8, 1, None)]) == {"tokens": 5, "features": 8, "nonfinite": 1, "edge_risk": None}


def test_the_root_mean_square_is_that_of_all_values_and_none_where_one_is_not_finite() -> None:
    outputs = torch.tensor([[3.0, 4.0], [0.0, 0.0]])

    assert root_mean_square(*sum_of_squares(outputs)) == 2.5
    outputs[0, 0] = math.nan
    assert root_mean_square(*sum_of_squares(outputs)) is None
    assert root_mean_square(0.0, 0) is None


@pytest.mark.parametrize("features", [8, GRAM_SIDE, GRAM_SIDE + 1, 384])
def test_many_tokens_of_few_features_have_the_exact_value_too(features: int) -> None:
    rows = noise(1024, features) + 0.5 * noise(1024, 1, seed=2) * noise(1, features, seed=3)

    centred = (rows - rows.mean(dim=0)).double()
    exact = torch.linalg.svdvals(centred / centred.square().mean(dim=0).sqrt())[0]

    assert edge_risk(rows).value == pytest.approx(float(exact) / (32 + math.sqrt(features)), rel=5e-5)


def test_tokens_along_few_directions_have_the_exact_value_too() -> None:
    # as of a destructive edit: most eigenvalues are zero but for rounding
    rows = noise(1024, 24) @ noise(24, GRAM_SIDE, seed=2)

    assert edge_risk(rows).value == pytest.approx(exact_edge_risk(rows), rel=2e-5)
