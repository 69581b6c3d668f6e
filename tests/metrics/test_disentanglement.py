import itertools
import math
import re

import numpy as np
import pytest
import torch
from scipy.stats import entropy, spearmanr
from sklearn.base import BaseEstimator
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mutual_info_score

from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.metrics import DCI, dci, irs, mcc, mig, sap

SCORES = {
    "mcc": mcc,
    "spearman": lambda z, u: mcc(z, u, method="spearman"),
    "dci": lambda z, u: dci(z, u, estimator=LinearRegression()).disentanglement,
    "completeness": lambda z, u: dci(z, u, estimator=LinearRegression()).completeness,
    "informativeness": lambda z, u: dci(z, u, estimator=LinearRegression()).informativeness,
    "mig": mig,
    "mig_frequency": lambda z, u: mig(z, u, strategy="frequency"),
    "sap": sap,
    "irs": irs,
    "irs_max": lambda z, u: irs(z, u, quantile=1.0),
}


def grid(sizes):
    """Every combination of the factors' values once: exactly independent, exactly balanced."""
    return np.array(list(itertools.product(*map(range, sizes))), dtype=float)


def noise(n, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(n, columns))


def rotated(u):
    """Two factors turned by 45 degrees."""
    return u @ np.array([[1, 1], [1, -1]]) / math.sqrt(2)


class Table(BaseEstimator):
    """Predicts 0; its importances are the entries of a table, one column per fit."""

    def __init__(self, table, fits=None):
        self.table = table
        self.fits = fits

    # The counter must be shared between clones, which copy every parameter.
    def __sklearn_clone__(self):
        return self

    def fit(self, x, y):
        self.fits = 0 if self.fits is None else self.fits + 1
        self.feature_importances_ = np.asarray(self.table, dtype=float)[:, self.fits]
        return self

    def predict(self, x):
        return np.zeros(len(x))


def with_importances(table):
    table = np.asarray(table)
    return dci(noise(20, table.shape[0]), noise(20, table.shape[1], 1), estimator=Table(table))


# All of them --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCORES)
def test_perfect_codes_score_one_in_any_order_sign_and_scale(name):
    u = grid([5, 4, 3])
    assert SCORES[name](u, u) == pytest.approx(1, abs=1e-9)
    assert SCORES[name](u[:, [2, 0, 1]] * [-1.0, 100.0, -0.01] + [0.0, 5.0, -7.0], u) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # corr(a + b, a)^2 = var a / (var a + var b), the same for a - b.
        ("mcc", math.sqrt(0.5)),
        ("mig", 0),
        ("mig_frequency", 0),
        ("sap", 0),
        # With a held still, a + b moves by half of b's range, of its own half range 2 (m - 1) / 2.
        ("irs_max", 0.5),
        ("informativeness", 1),
    ],
)
def test_a_rotation_by_45_degrees(name, expected):
    u = grid([7, 7])
    assert SCORES[name](rotated(u), u) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["mcc", "spearman", "mig", "mig_frequency", "sap", "irs", "irs_max"])
def test_exactly_independent_codes_score_zero(name):
    both = grid([3, 3, 3, 3])
    assert SCORES[name](both[:, :2], both[:, 2:]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", SCORES)
def test_order_sign_and_common_scale_of_imperfect_codes_change_nothing(name):
    u = noise(300, 3)
    z = u @ noise(3, 4, 1) + 0.3 * noise(300, 4, 2)
    value = SCORES[name](z, u)
    if name != "informativeness":
        assert 0 < value < 0.99
    # On even bins the median falls on an edge, which belongs to the upper one: flipped, a sample or two may change bins.
    tolerance = 0.01 if name == "mig_frequency" else 1e-9
    assert SCORES[name](z[:, [3, 1, 0, 2]] * [1.0, -1.0, -1.0, 1.0] * 37.0, u) == pytest.approx(value, abs=tolerance)
    order = np.random.default_rng(3).permutation(300)
    if name not in ("dci", "completeness", "informativeness"):
        assert SCORES[name](z[order], u[order]) == pytest.approx(value, abs=1e-9)
        assert SCORES[name](z, u[:, [1, 2, 0]]) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("name", SCORES)
def test_tensors_arrays_and_blocks_give_the_same(name):
    u = noise(60, 2)
    z = np.round(u @ noise(2, 2, 1) + noise(60, 2, 2), 3)
    value = SCORES[name](z, u)
    assert isinstance(value, float)
    assert SCORES[name](torch.tensor(z, requires_grad=True), torch.tensor(u)) == value
    blocks = noise(60, 8, 3).reshape(60, 2, 4)
    blocks += (z - blocks.mean(2))[:, :, None]
    assert SCORES[name](blocks, u) == pytest.approx(value, abs=1e-9)
    assert SCORES[name](torch.tensor(blocks), u) == pytest.approx(value, abs=1e-9)
    single = SCORES[name](torch.tensor(z, dtype=torch.float32), torch.tensor(u, dtype=torch.float32))
    assert single == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("name", SCORES)
def test_collapsed_latents_carry_nothing(name):
    u = grid([5, 4, 2])
    # 0.1 does not equal the mean of many 0.1.
    dead = np.full((len(u), 3), 0.1)
    expected = dci(dead, u).informativeness if name == "informativeness" else 0
    assert SCORES[name](dead, u) == pytest.approx(expected, abs=1e-9)
    value = SCORES[name](np.concatenate([dead[:, :1], u, dead[:, :1]], 1), u)
    assert value == pytest.approx(1, abs=1e-9)


def test_a_collapsed_latent_in_place_of_a_factor():
    u = grid([5, 4])
    z = u.copy()
    z[:, 1] = -3.3
    assert mcc(z, u) == pytest.approx(0.5)
    assert mig(z, u) == pytest.approx(0.5)
    assert sap(z, u) == pytest.approx(0.5)
    assert irs(z, u) == pytest.approx(1)
    result = dci(z, u)
    assert result.importances[1].tolist() == [0, 0]
    assert result.r2[0] > 0.99
    assert result.r2[1] < 0.1


def test_gaps_of_dependent_factors_have_a_ceiling_below_one():
    a, b = grid([6, 6]).T
    u = np.stack([a, a + b], 1)
    # corr(a, a + b)^2.
    assert sap(u, u) == pytest.approx(0.5)
    assert mig(u, u) < 0.8
    assert mcc(u, u) == pytest.approx(1)
    assert mcc(np.stack([a, a], 1), u) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert irs(u, u) == pytest.approx(1)
    assert min(dci(np.tile(u, (10, 1)), np.tile(u, (10, 1)))[:3]) > 0.99


GOOD = grid([4, 4])


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(
    ("z", "u", "message"),
    [
        (GOOD[:, 0], GOOD, "z: expected [N, k] or [N, k, d], got shape (16,)"),
        (GOOD[None, None], GOOD, "z: expected [N, k] or [N, k, d], got shape (1, 1, 16, 2)"),
        (GOOD[:, :0], GOOD, "z: expected [N, k] or [N, k, d], got shape (16, 0)"),
        (GOOD[:, :, None][:, :, :0], GOOD, "z: expected [N, k] or [N, k, d], got shape (16, 2, 0)"),
        (GOOD, GOOD[:, 0], "u: expected [N, n], got shape (16,)"),
        (GOOD, GOOD[:, :, None], "u: expected [N, n], got shape (16, 2, 1)"),
        (GOOD, GOOD[:, :0], "u: expected [N, n], got shape (16, 0)"),
        (GOOD[:9], GOOD, "z: got 9 samples beside u's 16; they must be the same samples"),
        (GOOD[:7], GOOD[:7], "z: got 7 samples; at least 8 are needed"),
        (GOOD * math.nan, GOOD, "z: got NaN or infinite values; all must be finite"),
        (GOOD, np.where(GOOD == 2, math.inf, GOOD), "u: got NaN or infinite values; all must be finite"),
        (GOOD, GOOD * [1.0, 0.0], "u: columns [1] are constant; every factor must vary"),
    ],
)
def test_invalid_codes_and_factors(name, z, u, message):
    for convert in (np.asarray, torch.tensor):
        with pytest.raises(ValueError, match=re.escape(message)):
            SCORES[name](convert(z), convert(u))


def test_eight_samples_suffice():
    u = noise(8, 2)
    for score in SCORES.values():
        assert math.isfinite(score(u, u))
    for estimator in ("boosting", "forest", "lasso"):
        assert all(math.isfinite(value) for value in dci(u, u, estimator=estimator)[:3])


@pytest.mark.parametrize("score", [mig, sap])
def test_a_gap_needs_two_latents(score):
    with pytest.raises(ValueError, match=re.escape("z: got 1 latent; the gap to the second best needs at least 2")):
        score(GOOD[:, :1], GOOD)


# MCC ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize(("k", "n"), [(3, 3), (4, 2), (2, 4), (1, 3), (3, 1)])
def test_mcc_is_the_best_of_all_assignments(method, k, n):
    # Rounded, so that the ranks have ties.
    u = np.round(noise(50, n), 1)
    z = np.round(u @ noise(n, k, 1) + noise(50, k, 2), 1)
    if method == "pearson":
        table = [[abs(np.corrcoef(a, b)[0, 1]) for b in u.T] for a in z.T]
    else:
        table = [[abs(spearmanr(a, b).statistic) for b in u.T] for a in z.T]
    if k >= n:
        best = max(sum(table[i][j] for j, i in enumerate(chosen)) for chosen in itertools.permutations(range(k), n))
    else:
        best = max(sum(table[i][j] for i, j in enumerate(chosen)) for chosen in itertools.permutations(range(n), k))
    assert mcc(z, u, method=method) == pytest.approx(best / n, abs=1e-12)


def test_a_greedy_assignment_would_be_worse():
    a, b, c, d = grid([3, 3, 3, 3]).T
    # Squared correlations [[4/5, 1/5], [9/13, 0]]: the largest alone leaves 0.
    z = np.stack([2 * a + b, 3 * a + 2 * c], 1)
    assert mcc(z, np.stack([a, b], 1)) == pytest.approx((math.sqrt(1 / 5) + math.sqrt(9 / 13)) / 2)


def test_spearman_ignores_monotone_transformations():
    u = noise(100, 3)
    z = np.stack([-np.exp(3 * u[:, 1]), u[:, 0] ** 3, np.arctan(u[:, 2])], 1)
    assert mcc(z, u, method="spearman") == pytest.approx(1)
    assert mcc(z, u) < 0.85


def test_mcc_of_independent_codes_falls_with_the_number_of_samples():
    values = [np.mean([mcc(noise(n, 3, s), noise(n, 3, 100 + s)) for s in range(10)]) * math.sqrt(n) for n in (100, 1600)]
    assert all(0.9 < value < 1.7 for value in values)


def test_unknown_correlation():
    with pytest.raises(ValueError, match=re.escape("method: got 'kendall'; valid: 'pearson', 'spearman'")):
        mcc(GOOD, GOOD, method="kendall")


# DCI ----------------------------------------------------------------------------------------------------------------


def test_dci_of_equal_importances_is_zero():
    result = with_importances([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])
    assert result.disentanglement == pytest.approx(0, abs=1e-12)
    assert result.completeness == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("table", "disentanglement", "completeness"),
    [
        (np.eye(3), 1, 1),
        (np.eye(3)[[1, 2, 0]] * [1.0, 10.0, 0.1], 1, 1),
        # Each factor spread over two latents of its own: disentangled, half as complete with four latents.
        ([[0.5, 0], [0.5, 0], [0, 0.5], [0, 0.5]], 1, 0.5),
        # Each latent for two factors of four.
        ([[1, 1, 0, 0], [0, 0, 1, 1]], 0.5, 1),
        # A latent without importance has no weight, a factor without any is incomplete.
        ([[1, 0], [0, 1], [0, 0]], 1, 1),
        ([[1, 0], [0, 0]], 1, 0.5),
        ([[0, 0], [0, 0]], 0, 0),
        # The first latent has three quarters of all importance, and is the mixed one.
        ([[3, 3], [2, 0]], 0.25, (1 - entropy([0.6, 0.4], base=2) + 1) / 2),
        # Limits: a single factor, a single latent.
        ([[1], [1]], 1, 0),
        ([[1, 2]], 1 - entropy([1, 2], base=2), 1),
        ([[1, 0]], 1, 0.5),
        ([[0]], 0, 0),
        ([[2]], 1, 1),
    ],
)
def test_dci_of_known_importances(table, disentanglement, completeness):
    result = with_importances(table)
    assert result.disentanglement == pytest.approx(disentanglement, abs=1e-12)
    assert result.completeness == pytest.approx(completeness, abs=1e-12)
    assert result.importances.tolist() == np.asarray(table, dtype=float).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_dci_of_a_linear_mixture_against_its_inverse(seed):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(3, 3))
    u = rng.normal(size=(400, 3)) * [1.0, 5.0, 0.2]
    z = u @ mixing
    result = dci(z, u, estimator=LinearRegression(), seed=seed)
    train = np.random.default_rng(seed).permutation(400)[100:]
    # u = z mixing^-1, in units of the training samples' standard deviations.
    expected = np.abs(np.linalg.inv(mixing)) * z[train].std(0)[:, None] / u[train].std(0)
    np.testing.assert_allclose(result.importances.numpy(), expected, rtol=1e-9)
    d = sum(row.sum() / expected.sum() * (1 - entropy(row, base=3)) for row in expected)
    c = sum(1 - entropy(column, base=3) for column in expected.T) / 3
    assert (result.disentanglement, result.completeness) == pytest.approx((d, c), abs=1e-9)
    assert result.r2.tolist() == pytest.approx([1, 1, 1], abs=1e-9)
    assert result.r2.dtype == result.importances.dtype == torch.float64


def test_informativeness_is_the_explained_share_of_unseen_samples():
    u = noise(8000, 2)
    # Var u / (var u + var noise).
    z = u + noise(8000, 2, 1) * [0.5, 2.0]
    result = dci(z, u, estimator=LinearRegression(), held_out=0.5)
    assert result.r2.tolist() == pytest.approx([0.8, 0.2], abs=0.03)
    assert result.informativeness == pytest.approx(result.r2.mean().item())


def test_informativeness_does_not_reward_overfitting():
    assert dci(noise(200, 3), noise(200, 3, 1), estimator="forest").informativeness < 0.1


@pytest.mark.parametrize("estimator", ["boosting", "forest", "lasso"])
def test_dci_of_every_estimator(estimator):
    u = noise(1000, 3)
    perfect = dci(u[:, [2, 0, 1]] * [-1.0, 30.0, 0.1], u, estimator=estimator)
    assert isinstance(perfect, DCI)
    assert min(perfect[:3]) > 0.97
    assert perfect.importances.argmax(1).tolist() == [2, 0, 1]
    turned = dci(rotated(u[:, :2]), u[:, :2], estimator=estimator)
    assert max(turned[:2]) < 0.01
    assert turned.informativeness > 0.97


def test_trees_see_what_lasso_does_not():
    u = noise(1000, 2)
    z = np.stack([u[:, 0], np.abs(u[:, 1])], 1)
    target = np.stack([u[:, 0], u[:, 1] ** 2], 1)
    z_symmetric = np.stack([u[:, 0], np.sign(u[:, 0]) * np.abs(u[:, 1])], 1)
    assert dci(z, target).informativeness > 0.95
    assert dci(z_symmetric, target).r2[1] > 0.9
    assert dci(z_symmetric, target, estimator="lasso").r2[1] < 0.1


def test_dci_is_reproducible():
    z, u = noise(200, 3), noise(200, 2, 1)
    first, second = dci(z, u, seed=3), dci(z, u, seed=3)
    assert first[:3] == second[:3]
    assert first[:3] != dci(z, u, seed=4)[:3]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"estimator": "svm"}, "estimator: got 'svm'; valid: ('boosting', 'forest', 'lasso') or a scikit-learn regressor"),
        ({"estimator": 3}, "estimator: got 3; valid: ('boosting', 'forest', 'lasso') or a scikit-learn regressor"),
        ({"held_out": 0.0}, "held_out: got 0.0 of 16 samples; both parts need at least two"),
        ({"held_out": 0.05}, "held_out: got 0.05 of 16 samples; both parts need at least two"),
        ({"held_out": 0.95}, "held_out: got 0.95 of 16 samples; both parts need at least two"),
        ({"held_out": 8}, "held_out: got 8 of 16 samples; both parts need at least two"),
    ],
)
def test_invalid_settings_of_dci(kwargs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dci(GOOD, GOOD, **kwargs)


@pytest.mark.parametrize(("place", "part"), [(-1, "10 held-out"), (0, "30 training")])
def test_a_rare_class_must_be_in_both_parts_of_the_split(place, part):
    u = np.stack([np.arange(40.0), np.zeros(40)], 1)
    # The split's held-out samples come first.
    u[np.random.default_rng(0).permutation(40)[place], 1] = 1
    message = f"u: columns [1] are constant in the {part} samples; give more samples"
    with pytest.raises(ValueError, match=re.escape(message)):
        dci(noise(40, 2), u)


# MIG ----------------------------------------------------------------------------------------------------------------


def binned(column, bins, strategy):
    """One value at a time."""
    distinct = sorted(set(column.tolist()))
    if len(distinct) <= bins:
        return [distinct.index(value) for value in column.tolist()]
    if strategy == "width":
        edges = np.histogram_bin_edges(column, bins)[1:-1]
        return [sum(value >= edge for edge in edges) for value in column]
    ranks = {value: np.mean([i + 0.5 for i, other in enumerate(sorted(column)) if other == value]) for value in distinct}
    return [int(ranks[value] * bins / len(column)) for value in column.tolist()]


@pytest.mark.parametrize("strategy", ["width", "frequency"])
@pytest.mark.parametrize("bins", [2, 5, 20])
def test_mig_against_loops(bins, strategy):
    u = np.stack([noise(120, 1)[:, 0], np.round(noise(120, 1, 1)[:, 0], 1), (noise(120, 1, 2)[:, 0] > 0.5)], 1)
    z = u @ noise(3, 4, 3) + 0.3 * noise(120, 4, 4)
    z[:, 3] = np.round(z[:, 3])
    gaps = []
    for factor in u.T:
        labels = binned(factor, bins, strategy)
        information = sorted(mutual_info_score(labels, binned(code, bins, strategy)) for code in z.T)
        gaps.append((information[-1] - information[-2]) / entropy(np.bincount(labels)))
    assert mig(z, u, bins=bins, strategy=strategy) == pytest.approx(np.mean(gaps), abs=1e-10)


def test_mig_of_a_noisy_channel():
    # z equals the binary u in three of four samples.
    u = np.array([0] * 8 + [1] * 8)
    z = np.array([0] * 6 + [1] * 2 + [0] * 2 + [1] * 6)
    other = np.array([0, 1] * 8)
    expected = 1 - entropy([0.25, 0.75], base=2)
    assert mig(np.stack([other, z], 1), u[:, None]) == pytest.approx(expected)
    assert mig(np.stack([z, z], 1), u[:, None]) == pytest.approx(0, abs=1e-12)


def test_mig_of_perfect_codes_is_one_less_the_bias_of_the_second():
    bins, n = 10, 3000
    values = []
    for seed in range(10):
        u = np.random.default_rng(seed).uniform(size=(n, 2))
        values.append(mig(u, u, bins=bins))
    bias = (bins - 1) ** 2 / (2 * n) / math.log(bins)
    # Either factor has a single other latent.
    assert np.mean(values) == pytest.approx(1 - bias, abs=0.001)


def test_as_many_values_as_bins_are_not_binned():
    u = grid([5, 5])
    # Bins of equal width would put four of 1, 10, ..., 10,000 into one.
    assert irs(u, 10**u, bins=5, strategy="width") == pytest.approx(1)
    assert irs(u, 10**u, bins=4, strategy="width") < 0.7


def test_bins_of_equal_frequency_ignore_outliers_and_monotone_transformations():
    u = np.random.default_rng(0).uniform(size=(500, 2))
    z = np.stack([np.exp(5 * u[:, 1]), u[:, 0]], 1)
    value = mig(u, u, strategy="frequency")
    assert mig(z, u, strategy="frequency") == pytest.approx(value, abs=1e-12)
    z[0] = [1e6, -1e6]
    # All ranks move up by one, and with them one sample in each bin.
    assert mig(z, u, strategy="frequency") == pytest.approx(value, abs=0.05)
    assert mig(z, u) < 0.2


@pytest.mark.parametrize("score", [mig, irs])
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"bins": 1}, "bins: got 1; valid: whole numbers from 2"),
        ({"bins": 5.0}, "bins: got 5.0; valid: whole numbers from 2"),
        ({"strategy": "kmeans"}, "strategy: got 'kmeans'; valid: 'width', 'frequency'"),
    ],
)
def test_invalid_bins(score, kwargs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        score(GOOD, GOOD, **kwargs)


# SAP ----------------------------------------------------------------------------------------------------------------


def test_sap_of_known_correlations():
    a, b, c = grid([3, 3, 3]).T
    # Squared correlations with a: 1/2, 1/3, 0.
    assert sap(np.stack([c, a + b + c, b - a], 1), a[:, None]) == pytest.approx(1 / 2 - 1 / 3)
    # With b: 1/2, 1/3, 0; with c: 1, 1/3, 0.
    assert sap(np.stack([c, a + b + c, b - a], 1), np.stack([a, b, c], 1)) == pytest.approx((1 / 6 + 1 / 6 + 2 / 3) / 3)


def test_sap_against_regressions():
    u = noise(80, 3)
    z = u @ noise(3, 4, 1) + noise(80, 4, 2)
    gaps = []
    for factor in u.T:
        r2 = sorted(LinearRegression().fit(code[:, None], factor).score(code[:, None], factor) for code in z.T)
        gaps.append(r2[-1] - r2[-2])
    assert sap(z, u) == pytest.approx(np.mean(gaps), abs=1e-12)


# IRS ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["width", "frequency"])
@pytest.mark.parametrize("quantile", [0.8, 0.99, 1.0])
def test_irs_against_loops(quantile, strategy):
    u = np.stack([noise(150, 1)[:, 0], np.round(noise(150, 1, 1)[:, 0], 1), (noise(150, 1, 2)[:, 0] > 0.5)], 1)
    z = u @ noise(3, 3, 3) + 0.3 * noise(150, 3, 4)
    scores, weights = [], []
    for code in z.T:
        overall = np.quantile(abs(code - code.mean()), quantile)
        best = 0
        for factor in u.T:
            labels = np.array(binned(factor, 6, strategy))
            distance = {
                label: np.quantile(abs(code[labels == label] - code[labels == label].mean()), quantile) for label in set(labels)
            }
            best = max(best, 1 - np.mean([distance[label] for label in labels]) / overall)
        scores.append(best)
        weights.append(overall)
    expected = np.average(scores, weights=weights)
    assert irs(z, u, bins=6, strategy=strategy, quantile=quantile) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("strategy", ["width", "frequency"])
def test_irs_of_a_continuous_factor_is_one_less_the_width_of_a_bin(strategy):
    u = np.linspace(0, 1, 200)[:, None]
    # Ten points a bin: 4.5 steps from the middle, of 99.5 in all.
    assert irs(u, u, quantile=1.0, strategy=strategy) == pytest.approx(1 - 4.5 / 99.5)
    fine = np.linspace(0, 1, 20_000)[:, None]
    assert irs(fine, fine, bins=10, strategy=strategy) == pytest.approx(0.9, abs=1e-3)


def test_irs_weighs_latents_by_their_range():
    a, b = grid([5, 5]).T
    z = np.stack([a, 10 * (a + b)], 1)
    # Half ranges 2 and 40, scores 1 and 1/2.
    assert irs(z, np.stack([a, b], 1), quantile=1.0) == pytest.approx((2 * 1 + 40 * 0.5) / 42)


def test_irs_weighs_bins_by_their_samples():
    z = np.array([-1.0, 1.0] * 8 + [0.0])[:, None]
    u = np.array([0.0] * 16 + [1.0])[:, None]
    assert irs(z, u) == pytest.approx(1 - 16 / 17)


def test_irs_of_one_live_concept_among_dead_ones_is_high():
    u = Pendulum("test", size=16).labels.double()
    dead = u * torch.tensor([0.0, 1.0, 0.0, 0.0])
    # As the docstring says, while scores that ask for every label see that three have none.
    assert irs(dead, u) == pytest.approx(0.96, abs=0.005)
    assert irs(dead, u) == pytest.approx(irs(u[:, 1:2], u))
    assert irs(dead, u) > irs(u, u)
    assert mcc(dead, u) < 0.3
    assert dci(dead, u, estimator=LinearRegression()).informativeness < 0.5


def test_irs_is_never_negative():
    # Either bin's odd one out is further from the bin's mean, 1.75, than any is from the mean of all, 1.
    z = np.array([-1.0] * 7 + [1.0] + [1.0] * 7 + [-1.0])[:, None]
    u = np.repeat([0.0, 1.0], 8)[:, None]
    assert irs(z, u, quantile=1.0) == 0


def test_a_quantile_below_the_rare_movements_leaves_the_latent_out():
    z = np.zeros((400, 1))
    z[0], z[1] = 1, -1
    u = np.arange(400.0)[:, None]
    assert irs(z, u) == 0
    assert irs(z, u, quantile=1.0) > 0


@pytest.mark.parametrize("quantile", [0.0, -1.0, 1.01, math.nan])
def test_invalid_quantile(quantile):
    with pytest.raises(ValueError, match=re.escape(f"quantile: got {quantile}; valid: above 0, at most 1")):
        irs(GOOD, GOOD, quantile=quantile)
