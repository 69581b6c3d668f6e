import math
import re

import numpy as np
import pytest
import scipy.stats
import torch

from causalvae_pyro.metrics import intervals
from causalvae_pyro.metrics.disentanglement import mcc
from causalvae_pyro.metrics.information import tic
from causalvae_pyro.metrics.intervals import bootstrap_interval, seeds_interval, subsampling_interval


def skewed(n, seed=0):
    return np.random.default_rng(seed).exponential(size=n)


def ratio(errors, baselines, axis):
    """The CF-score of per-image errors."""
    return 1 - errors.sum(axis) / baselines.sum(axis)


def r2(predicted, target, axis):
    centre = target.mean(axis, keepdims=True)
    return 1 - np.square(target - predicted).sum(axis) / np.square(target - centre).sum(axis)


STATISTICS = {
    "mean": (np.mean, (skewed(60),)),
    "ratio": (ratio, (skewed(60), 3 + skewed(60, 1))),
    "r2": (r2, (skewed(60) + skewed(60, 1), skewed(60))),
    # Many resamples equal the value.
    "share": (np.mean, ((skewed(60) > 1.5).astype(float),)),
}


# Bootstrap ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_agrees_with_scipy(name, method, level):
    statistic, arrays = STATISTICS[name]
    result = bootstrap_interval(arrays, statistic, level=level, resamples=2000, method=method, seed=1)
    expected = scipy.stats.bootstrap(
        arrays,
        statistic,
        paired=True,
        vectorized=True,
        confidence_level=level,
        n_resamples=2000,
        method={"bca": "BCa"}.get(method, method),
        random_state=np.random.default_rng(1),
    )
    assert result["value"] == pytest.approx(statistic(*arrays, axis=-1), rel=1e-12)
    assert result["standard_error"] == pytest.approx(expected.standard_error, rel=1e-9)
    assert result["interval"] == pytest.approx(list(expected.confidence_interval), rel=1e-9)


@pytest.mark.parametrize(("method", "low"), [("bca", 0.88), ("percentile", 0.86)])
def test_coverage_of_a_known_mean(method, low):
    covered = 0
    for seed in range(300):
        interval = bootstrap_interval(skewed(40, seed), np.mean, resamples=300, method=method, seed=seed)["interval"]
        covered += interval[0] <= 1 <= interval[1]
    # About 0.93 for so few and so skewed values; the count's own standard deviation is 0.015.
    assert low < covered / 300 < 0.98


def test_bca_misses_the_long_tail_less_often_than_percentiles():
    above = {"bca": 0, "percentile": 0}
    for seed in range(400):
        for method in above:
            above[method] += bootstrap_interval(skewed(30, seed), np.mean, resamples=200, method=method)["interval"][1] < 1
    assert above["bca"] < above["percentile"]


def test_an_interval_of_many_images_is_the_normal_one():
    values = skewed(4000)
    error = values.std() / math.sqrt(4000)
    for method in ("bca", "percentile"):
        result = bootstrap_interval(values, np.mean, resamples=4000, method=method)
        assert result["value"] == pytest.approx(values.mean())
        assert result["standard_error"] == pytest.approx(error, rel=0.05)
        expected = [values.mean() - 1.96 * error, values.mean() + 1.96 * error]
        assert result["interval"] == pytest.approx(expected, abs=0.2 * error)


def test_higher_levels_give_wider_intervals():
    widths = [np.ptp(bootstrap_interval(skewed(50), np.mean, level=level)["interval"]) for level in (0.5, 0.8, 0.95, 0.99)]
    assert widths == sorted(widths)
    normal = np.array([0.674, 1.282, 1.960, 2.576]) * 2 * skewed(50).std() / math.sqrt(50)
    assert widths == pytest.approx(normal, rel=0.15)


def test_the_interval_moves_with_the_unit_and_the_sign():
    values = skewed(50)
    result = bootstrap_interval(values, np.mean)
    moved = bootstrap_interval(10 - 4 * values, np.mean)
    assert moved["value"] == pytest.approx(10 - 4 * result["value"])
    assert moved["standard_error"] == pytest.approx(4 * result["standard_error"])
    assert moved["interval"] == pytest.approx([10 - 4 * end for end in result["interval"][::-1]])


@pytest.mark.parametrize("name", STATISTICS)
def test_one_call_for_all_resamples_equals_one_call_for_each(name):
    statistic, arrays = STATISTICS[name]
    result = bootstrap_interval(arrays, statistic, resamples=200)
    slow = bootstrap_interval(arrays, lambda *rows: statistic(*rows, axis=-1), resamples=200)
    assert slow["value"] == pytest.approx(result["value"])
    assert slow["standard_error"] == pytest.approx(result["standard_error"])
    assert slow["interval"] == pytest.approx(result["interval"])


def test_batches_change_nothing(monkeypatch):
    result = bootstrap_interval(skewed(50), np.mean, resamples=203)
    shapes = []

    def mean(values, axis):
        shapes.append(values.shape)
        return values.mean(axis)

    monkeypatch.setattr(intervals, "_BATCH", 1000)
    again = bootstrap_interval(skewed(50), mean, resamples=203)
    assert again["value"] == pytest.approx(result["value"])
    assert again["interval"] == pytest.approx(result["interval"])
    assert shapes == [(1, 50)] + [(20, 50)] * 10 + [(3, 50)] + [(20, 49)] * 2 + [(10, 49)]


def test_pairs_stay_together():
    values = skewed(50)
    result = bootstrap_interval([values, values], ratio)
    assert result == {"value": 0.0, "standard_error": 0.0, "interval": [0.0, 0.0]}


def test_rows_stay_together_and_tensors_are_arrays():
    u = np.random.default_rng(0).normal(size=(40, 2))
    z = u @ np.array([[1.0, 0.5], [-0.5, 1.0]]) + 0.3 * np.random.default_rng(1).normal(size=(40, 2))
    result = bootstrap_interval((z, u), mcc, resamples=100)
    assert result["value"] == pytest.approx(mcc(z, u))
    assert result["interval"][0] < result["value"] < result["interval"][1]
    assert bootstrap_interval([torch.tensor(z, requires_grad=True), torch.tensor(u)], mcc, resamples=100) == result
    # Three intervention values an image.
    scores = torch.rand(40, 3)
    one = bootstrap_interval(scores, np.mean)
    assert one["value"] == pytest.approx(scores.mean().item())
    assert one["interval"] == pytest.approx(bootstrap_interval(scores.double().mean(1), np.mean)["interval"])


def test_the_seed_fixes_the_resamples():
    values = skewed(50)
    assert bootstrap_interval(values, np.mean, seed=5) == bootstrap_interval(values, np.mean, seed=5)
    assert bootstrap_interval(values, np.mean, seed=5) != bootstrap_interval(values, np.mean, seed=6)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    bootstrap_interval(values, np.mean)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_degenerate_statistics(method):
    assert bootstrap_interval(np.full(20, 0.5), np.mean, method=method)["interval"] == [0.5, 0.5]
    # A median of ranks that no single image moves.
    steps = np.array([1.0] * 6 + [2.0] * 8 + [3.0] * 6)
    median = bootstrap_interval(steps, np.median, method=method, resamples=2000)
    assert median["value"] == 2
    assert 1 <= median["interval"][0] <= 2 <= median["interval"][1] <= 3


def test_a_value_beyond_all_resamples():
    result = bootstrap_interval(np.arange(50.0), lambda values: len(np.unique(values)))
    assert result["value"] == 50
    drawn = [len(np.unique(row)) for row in np.random.default_rng(0).integers(50, size=(1000, 50))]
    assert result["interval"][1] == max(drawn)
    assert np.quantile(drawn, 0.9) < result["interval"][0] <= max(drawn)


def test_bca_does_not_turn_round_past_its_pole():
    # Acceleration 1/6 at most, shift 3.3: the upper end's correction would divide by a negative number.
    left_out = -np.array([1.0] + [0.0] * 5000)
    tails = intervals._bca(np.array([0.0005, 0.9995]), 1.0, np.linspace(-1, 0, 1000), left_out)
    assert tails[0] < tails[1]
    assert tails[1] == pytest.approx(1)


def test_functions_without_a_signature():
    assert bootstrap_interval(skewed(20), max)["value"] == skewed(20).max()


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (([1.0],), {}, "arrays: got a single number; each needs one row per image"),
        (([],), {}, "arrays: got [] images; all need the same number, at least 2"),
        ((np.ones(1),), {}, "arrays: got [1] images; all need the same number, at least 2"),
        ((np.ones(0),), {}, "arrays: got [0] images; all need the same number, at least 2"),
        (([np.ones(3), np.ones(4)],), {}, "arrays: got [3, 4] images; all need the same number, at least 2"),
        ((torch.tensor([1.0, math.nan]),), {}, "arrays: got NaN or infinite values; all must be finite"),
        ((np.arange(9),), {"level": 0.0}, "level: got 0.0; valid: between 0 and 1"),
        ((np.arange(9),), {"level": 95}, "level: got 95; valid: between 0 and 1"),
        ((np.arange(9),), {"resamples": 99}, "resamples: got 99; valid: whole numbers from 100"),
        ((np.arange(9),), {"resamples": 1e3}, "resamples: got 1000.0; valid: whole numbers from 100"),
        ((np.arange(9),), {"method": "BCA"}, "method: got 'BCA'; valid: 'bca', 'percentile'"),
    ],
)
def test_invalid_arguments_of_the_bootstrap(args, kwargs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        bootstrap_interval(*args, np.mean, **kwargs)


def test_invalid_statistics():
    with pytest.raises(ValueError, match=re.escape("statistic: expected one number per resample, got shape () for 1")):
        bootstrap_interval(skewed(9), lambda values, axis: values.mean())
    with pytest.raises(ValueError, match=re.escape("statistic: expected one number per resample, got shape (1, 9) for 1")):
        bootstrap_interval(skewed(9), lambda values: values)
    with pytest.raises(ValueError, match=re.escape("statistic: not finite on 1 of 1 resamples or subsets")):
        bootstrap_interval(skewed(9), lambda values: math.nan)
    message = r"statistic: not finite on [0-9]+ of 1000 resamples or subsets"
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(np.arange(3.0), lambda values: 1.0 if np.ptp(values) else math.inf)


# Subsampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_subsampling_has_the_standard_error_of_a_mean_for_every_share(share):
    values = skewed(200)
    result = subsampling_interval(values, np.mean, share=share, subsamples=4000)
    error = values.std(ddof=1) / math.sqrt(200)
    assert result["value"] == pytest.approx(values.mean())
    # The spread of 4,000 subsamples is known to 1 %.
    assert result["standard_error"] == pytest.approx(error, rel=0.05)
    assert result["interval"] == pytest.approx([values.mean() - 1.96 * error, values.mean() + 1.96 * error], abs=0.1 * error)


def test_subsampling_in_closed_form():
    values, level = skewed(31), 0.9
    rng = np.random.default_rng(4)
    # 0.3 of 31 is nearest to 9; drawn without replacement.
    drawn = [values[rng.choice(31, 9, replace=False)].mean() for _ in range(12)]
    error = np.std(drawn, ddof=1) * math.sqrt(9 / 22)
    half = scipy.stats.t.ppf(0.95, 11) * error
    result = subsampling_interval(values, np.mean, level=level, share=0.3, subsamples=12, seed=4)
    assert result["standard_error"] == pytest.approx(error)
    assert result["interval"] == pytest.approx([values.mean() - half, values.mean() + half])


@pytest.mark.parametrize(("share", "size"), [(1e-6, 1), (0.5, 20), (1 - 1e-6, 39)])
def test_subsamples_are_distinct_rows_of_all_arrays(share, size):
    values, seen = np.arange(40.0), []

    def statistic(one, two):
        seen.append(one)
        assert (two[:, 1] == -one).all()
        return one.sum()

    subsampling_interval([values, np.stack([values, -values], 1)], statistic, share=share)
    assert [len(rows) for rows in seen] == [40] + [size] * 30
    assert all(len(np.unique(rows)) == len(rows) for rows in seen)
    assert len({tuple(sorted(rows)) for rows in seen}) > 15


def test_coverage_of_subsampling():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        low, high = subsampling_interval(rng.exponential(size=60), np.mean)["interval"]
        covered += low <= 1 <= high
    # The count's own standard deviation is 0.012.
    assert 0.9 < covered / 400 < 0.98


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.5, 1e6], ids=["noisy label", "independent"])
def test_subsampling_holds_the_mean_of_a_score_that_repeated_rows_mislead(spread):
    def draw(seed):
        rng = np.random.default_rng(seed)
        u = rng.normal(size=100)
        return u + spread * rng.normal(size=100), u

    mean = np.mean([tic(*draw(seed)) for seed in range(300)])
    covered = {"subsampling": 0, "bootstrap": 0}
    for seed in range(40):
        pair = draw(seed)
        found = {
            "subsampling": subsampling_interval(pair, tic, seed=seed),
            "bootstrap": bootstrap_interval(pair, tic, method="percentile", resamples=100, seed=seed),
        }
        for name, result in found.items():
            covered[name] += result["interval"][0] <= mean <= result["interval"][1]
    assert covered["subsampling"] >= 35
    assert covered["bootstrap"] < 30


def test_subsampling_keeps_to_bounds_and_to_its_seed():
    values = np.array([0.0, 1.0] * 10)
    low, high = subsampling_interval(values, np.mean)["interval"]
    assert 0 < low < 0.5 < high < 1
    assert subsampling_interval(values, np.mean, bounds=(0.4, 0.6))["interval"] == [0.4, 0.6]
    assert subsampling_interval(values, np.mean, bounds=(-1, 0.6))["interval"] == [low, 0.6]
    assert subsampling_interval(values, np.mean, seed=1) == subsampling_interval(torch.tensor(values), np.mean, seed=1)
    assert subsampling_interval(values, np.mean, seed=1) != subsampling_interval(values, np.mean, seed=2)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (([np.ones(3), np.ones(4)],), {}, "arrays: got [3, 4] images; all need the same number, at least 2"),
        ((np.ones(1),), {}, "arrays: got [1] images; all need the same number, at least 2"),
        (([],), {}, "arrays: got [] images; all need the same number, at least 2"),
        ((np.arange(9),), {"level": 95}, "level: got 95; valid: between 0 and 1"),
        ((np.arange(9),), {"subsamples": 9}, "subsamples: got 9; valid: whole numbers from 10"),
        ((np.arange(9),), {"subsamples": 30.0}, "subsamples: got 30.0; valid: whole numbers from 10"),
        ((np.arange(9),), {"share": 0.0}, "share: got 0.0; valid: between 0 and 1"),
        ((np.arange(9),), {"share": 1}, "share: got 1; valid: between 0 and 1"),
        ((np.ones(9),), {}, "statistic: 1 on all 30 subsamples; they tell nothing of its spread"),
    ],
)
def test_invalid_arguments_of_subsampling(args, kwargs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        subsampling_interval(*args, np.mean, **kwargs)


def test_a_statistic_that_is_not_finite_on_a_subsample():
    with pytest.raises(ValueError, match=r"statistic: not finite on [0-9]+ of 30"):
        subsampling_interval(np.arange(9.0), lambda values: 1.0 if 0 in values else math.inf)


# Seeds --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 3, 10, 200])
def test_seeds_interval_is_students(n, level):
    values = skewed(n)
    result = seeds_interval(values.tolist(), level)
    assert set(result) == {"mean", "standard_error", "interval", "values"}
    assert result["mean"] == pytest.approx(values.mean())
    assert result["standard_error"] == pytest.approx(scipy.stats.sem(values))
    expected = scipy.stats.t.interval(level, n - 1, values.mean(), scipy.stats.sem(values))
    assert result["interval"] == pytest.approx(list(expected))
    assert result["values"] == values.tolist()


def test_seeds_interval_in_closed_form():
    # With two values Student's t is Cauchy: tan(pi (level) / 2) standard errors of half the difference.
    result = seeds_interval([0.0, 2.0])
    half = math.tan(math.pi * 0.95 / 2)
    assert result["standard_error"] == pytest.approx(1)
    assert result["interval"] == pytest.approx([1 - half, 1 + half])
    assert seeds_interval([0.5, 0.5, 0.5])["interval"] == [0.5, 0.5]


def test_coverage_of_the_seeds_interval():
    rng = np.random.default_rng(0)
    ends = np.array([seeds_interval(rng.normal(3, 2, size=5))["interval"] for _ in range(2000)])
    assert ((ends[:, 0] < 3) & (ends[:, 1] > 3)).mean() == pytest.approx(0.95, abs=0.015)


def test_one_seed_has_no_interval():
    assert seeds_interval([0.25]) == {"mean": 0.25, "values": [0.25]}


def test_seeds_may_be_tensors():
    result = seeds_interval(torch.tensor([1.0, 2.0, 4.0]))
    assert result == seeds_interval([1, 2, 4])
    assert all(type(value) is float for value in result["values"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (([],), "values: got none; give one per seed"),
        (([1.0, math.nan],), "values: got [1.0, nan]; all must be finite"),
        (([math.inf],), "values: got [inf]; all must be finite"),
        (([1.0, 2.0], 1.0), "level: got 1.0; valid: between 0 and 1"),
    ],
)
def test_invalid_arguments_of_the_seeds_interval(args, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        seeds_interval(*args)
