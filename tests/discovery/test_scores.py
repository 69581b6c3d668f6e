"""Scores of residuals and their dependence, against closed forms and slow implementations."""

import itertools
import math

import numpy as np
import pytest
import torch

from causalvae_pyro.discovery import dependence, entropy_score, gaussian_score

# Scores --------------------------------------------------------------------------------------------------------------


def test_gaussian_score_is_the_entropy_of_a_gaussian():
    residuals = torch.randn(300, 3, dtype=torch.float64) * torch.tensor([0.5, 1.0, 3.0]) + 7
    variances = torch.from_numpy(np.var(residuals.numpy(), axis=0, ddof=1))
    expected = 0.5 * torch.log(2 * math.pi * math.e * (variances + 0.1**2))
    torch.testing.assert_close(gaussian_score(residuals, floor=0.1), expected)
    torch.testing.assert_close(gaussian_score(4 * residuals, floor=0), gaussian_score(residuals, floor=0) + math.log(4))
    # A perfect fit gains so much and no more.
    assert gaussian_score(torch.zeros(9, 1)).item() == pytest.approx(math.log(1e-3) + 0.5 * math.log(2 * math.pi * math.e))


def smoothed_entropy(log_density, low, high, smoothing):
    """The entropy of a density on ``[low, high]`` plus Gaussian noise, by sums over a grid."""
    step = 1e-3
    grid = np.arange(low + step / 2, high, step)
    density = np.exp(log_density(grid))
    reach = np.arange(-6 * smoothing, 6 * smoothing + step, step)
    kernel = np.exp(-0.5 * (reach / smoothing) ** 2)
    density = np.convolve(density, kernel / kernel.sum())
    density = density[density > 1e-300]
    return -np.sum(density * np.log(density)) * step


@pytest.mark.parametrize("smoothing", [0.05, 0.2])
@pytest.mark.parametrize("name", ["normal", "uniform", "exponential"])
def test_entropy_score_of_known_distributions(name, smoothing):
    uniform = torch.rand(20_000, 1, dtype=torch.float64)
    samples, log_density, low, high = {
        "normal": (torch.erfinv(2 * uniform - 1) * 2**0.5, lambda x: -0.5 * x**2 - 0.5 * np.log(2 * np.pi), -9, 9),
        "uniform": (uniform * 2, lambda x: np.full_like(x, -np.log(2.0)), 0, 2),
        "exponential": (-uniform.log(), lambda x: -x, 0, 30),
    }[name]
    expected = smoothed_entropy(log_density, low, high, smoothing)
    if name == "normal":
        assert expected == pytest.approx(0.5 * math.log(2 * math.pi * math.e * (1 + smoothing**2)), abs=1e-4)
    # The standard deviation of -log p is at most 1, so this is about 3 standard errors.
    assert entropy_score(samples, smoothing=smoothing).item() == pytest.approx(expected, abs=0.02)


def test_entropy_score_has_little_bias_in_small_samples():
    uniform = torch.rand(200, 100, dtype=torch.float64)
    for samples, expected in ((uniform, 0.0), (torch.erfinv(2 * uniform - 1) * 2**0.5, 0.5 * math.log(2 * math.pi * math.e))):
        # Without the shorter spacings at both ends, and their expectations, it would be 0.07 and 0.16 too low.
        assert entropy_score(samples, smoothing=0.0).mean().item() == pytest.approx(expected, abs=0.015)


def test_entropy_score_is_a_function_of_each_column_alone():
    x = torch.randn(400, 3, dtype=torch.float64) ** 3
    score = entropy_score(x)
    assert score.shape == (3,)
    assert torch.equal(score, entropy_score(x))
    assert torch.equal(score[[2, 0]], entropy_score(x[:, [2, 0]]))
    assert not torch.equal(score, entropy_score(x, seed=1))
    state = torch.get_rng_state()
    entropy_score(x)
    assert torch.equal(state, torch.get_rng_state())


def test_smoothing_noise_is_not_the_data_drawn_with_the_same_seed():
    torch.manual_seed(0)
    x = torch.randn(20_000, 1)
    expected = 0.5 * math.log(2 * math.pi * math.e * (1 + 0.5**2))
    assert entropy_score(x, smoothing=0.5, seed=0).item() == pytest.approx(expected, abs=0.02)


def test_entropy_score_follows_shift_and_scale():
    x = torch.rand(400, 2, dtype=torch.float64)
    score = entropy_score(x, smoothing=0.1)
    torch.testing.assert_close(entropy_score(x + 3, smoothing=0.1), score)
    torch.testing.assert_close(entropy_score(5 * x, smoothing=0.5), score + math.log(5))


def test_entropy_score_of_values_that_repeat_and_of_perfect_fits():
    grid = torch.arange(3.0).repeat(100)[:, None]
    assert entropy_score(grid).isfinite().all()
    bound = 0.5 * math.log(2 * math.pi * math.e * 0.05**2)
    assert entropy_score(torch.zeros(5000, 1)).item() == pytest.approx(bound, abs=0.03)
    assert entropy_score(torch.zeros(50, 1), smoothing=0.0).isfinite().all()


def test_entropy_score_has_a_gradient():
    x = torch.randn(400, 1, dtype=torch.float64)
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(entropy_score(scale * x, smoothing=1e-3).sum(), scale)
    assert gradient.item() == pytest.approx(0.5, abs=0.01)


def test_entropy_score_needs_8_rows():
    assert entropy_score(torch.randn(8, 1)).isfinite().all()
    with pytest.raises(ValueError, match="residuals: got 7 rows; an entropy takes at least 8"):
        entropy_score(torch.randn(7, 1))


# Dependence ----------------------------------------------------------------------------------------------------------


def slow_hsic(x, y, bandwidth):
    """Equation 5 of Song et al. 2012, as it stands."""
    m, one = len(x), torch.ones(len(x), dtype=torch.float64)
    kernels = torch.zeros(2, m, m, dtype=torch.float64)
    for kernel, column in zip(kernels, (x, y), strict=True):
        values = (column / column.std() / bandwidth).tolist()
        for a, b in itertools.permutations(range(m), 2):
            kernel[a, b] = math.exp(-0.5 * (values[a] - values[b]) ** 2)
    first, second = kernels
    trace = (first @ second).trace()
    sums = (one @ first @ one) * (one @ second @ one) / ((m - 1) * (m - 2))
    return (trace + sums - 2 / (m - 2) * (one @ first @ second @ one)) / (m * (m - 3))


@pytest.mark.parametrize("bandwidth", [0.5, 1.5])
def test_dependence_equals_a_slow_implementation(bandwidth):
    columns = torch.randn(24, 3, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.2]) + 3
    columns[:, 2] += columns[:, 0] ** 2
    expected = torch.zeros(3, 3, dtype=torch.float64)
    # Two parts of 12, averaged.
    for part in columns.split(12):
        for i, j in itertools.product(range(3), repeat=2):
            x, y = part[:, i], part[:, j]
            scale = (slow_hsic(x, x, bandwidth) * slow_hsic(y, y, bandwidth)).sqrt()
            expected[i, j] += slow_hsic(x, y, bandwidth) / scale / 2
    result = dependence(columns, smoothing=0.0, bandwidth=bandwidth, size=12)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-10)


def test_dependence_sees_what_correlation_does_not():
    x = torch.randn(1000, 1)
    columns = torch.cat([x, x.square(), torch.randn(1000, 1)], 1)
    assert abs(torch.corrcoef(columns.T)[0, 1]) < 0.15
    result = dependence(columns)
    assert result[0, 1] > 0.2
    assert abs(result[0, 2]) < 0.02
    torch.testing.assert_close(result.diagonal(), torch.ones(3))
    torch.testing.assert_close(result, result.T)


def test_dependence_of_independent_columns_is_zero_on_average():
    values = torch.stack([dependence(torch.rand(16, 2), seed=seed)[0, 1] for seed in range(400)])
    error = values.std() / len(values) ** 0.5
    # The biased HSIC has a mean of about 0.1 for so few samples.
    assert error < 0.02
    assert abs(values.mean()) < 3 * error
    assert (values < 0).any()


def test_dependence_ignores_units_apart_from_the_smoothing():
    columns = torch.randn(200, 2, dtype=torch.float64)
    columns[:, 1] += columns[:, 0]
    units = torch.tensor([100.0, 0.01], dtype=torch.float64)
    torch.testing.assert_close(dependence(columns * units + 7, smoothing=0.0), dependence(columns, smoothing=0.0))


def test_nearly_constant_columns_are_independent_of_all_others():
    x = torch.randn(1000, 1)
    columns = torch.cat([x, 1e-4 * x, torch.zeros(1000, 1)], 1)
    assert dependence(columns).fill_diagonal_(0).abs().max() < 0.02
    assert dependence(columns[:, :2], smoothing=0.0)[0, 1] > 0.9
    # Nor is the noise that stands in for them the data drawn with the same seed.
    torch.manual_seed(0)
    drawn = torch.randn(1000, 2)
    assert dependence(torch.stack([drawn[:, 1], torch.zeros(1000)], 1), seed=0)[0, 1] < 0.02


def test_dependence_is_reproducible_and_leaves_torchs_state():
    columns = torch.randn(50, 2)
    state = torch.get_rng_state()
    assert torch.equal(dependence(columns), dependence(columns))
    assert not torch.equal(dependence(columns), dependence(columns, seed=1))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": torch.randn(7, 2)}, "columns: got 7 rows; dependence takes at least 8"),
        ({"bandwidth": 0.0}, "bandwidth: got 0.0; must be > 0"),
        ({"size": 7}, "size: got 7; must be at least 8"),
    ],
)
def test_errors_of_dependence(options, message):
    with pytest.raises(ValueError, match=message):
        dependence(**{"columns": torch.randn(20, 2)} | options)


@pytest.mark.parametrize("rows", [8, 11, 12, 23])
def test_parts_are_never_too_small(rows):
    assert dependence(torch.randn(rows, 2), size=8).isfinite().all()
