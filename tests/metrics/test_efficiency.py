"""Efficiency curves."""

import numpy as np
import pytest
import torch

from causalvae_pyro.metrics import efficiency_curve, r2_score, sample_efficiency, seeds_interval


def test_curve_calls_every_share_with_every_seed():
    calls = []

    def score(share, seed):
        calls.append((share, seed))
        return {"a": share + seed, "b": -seed}

    curve = efficiency_curve(score, [1.0, 0.5], seeds=[3, 4, 8])
    assert calls == [(share, seed) for share in (1.0, 0.5) for seed in (3, 4, 8)]
    assert curve == {
        "a": [seeds_interval([4.0, 5.0, 9.0]), seeds_interval([3.5, 4.5, 8.5])],
        "b": [seeds_interval([-3.0, -4.0, -8.0])] * 2,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5, 0.0],), r"^shares: got \[0\.5, 0\.0\]"),
        (([1.1],), r"^shares: got"),
        (([],), r"^shares: got \[\]"),
    ],
)
def test_curve_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        efficiency_curve(lambda share, seed: {"a": 1.0}, *arguments)
    with pytest.raises(ValueError, match="^seeds: got none"):
        efficiency_curve(lambda share, seed: {"a": 1.0}, [1.0], seeds=[])
    with pytest.raises(ValueError, match="^score: returned other scores"):
        efficiency_curve(lambda share, seed: {f"a{seed}": 1.0}, [1.0], seeds=[0, 1])


def codes(count, seed):
    u = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))
    return torch.stack([u[:, 0] + u[:, 1], u[:, 0] - u[:, 1]], 1), u


class Line:
    """Least squares, which learns a linear map from few samples exactly."""

    def get_params(self, deep=True):
        return {}

    def fit(self, z, u):
        self.weight = np.linalg.lstsq(np.c_[z, np.ones(len(z))], u, rcond=None)[0]
        return self

    def predict(self, z):
        return np.c_[z, np.ones(len(z))] @ self.weight


def test_a_predictor_that_fits_needs_few_samples():
    (z, u), (z_test, u_test) = codes(100, 0), codes(60, 1)
    scores = sample_efficiency(z, u, z_test, u_test, [3, 100], estimator=Line())
    np.testing.assert_allclose(scores, 1.0)
    # One sample too few for two slopes and an intercept.
    assert sample_efficiency(z, u, z_test, u_test, [2], estimator=Line()).max() < 0.99


def test_codes_that_lie_along_the_factors_need_fewer_samples():
    (z, u), (z_test, u_test) = codes(400, 0), codes(200, 1)
    mixed = sample_efficiency(z, u, z_test, u_test, [20, 400])
    plain = sample_efficiency(u, u, u_test, u_test, [20, 400])
    assert mixed.shape == (2, 2)
    assert (plain > mixed).all()
    assert (plain[1] > plain[0]).all()
    again = sample_efficiency(z.numpy(), u.numpy(), z_test[..., None], u_test, [20, 400])
    np.testing.assert_array_equal(again, mixed)
    assert not np.array_equal(sample_efficiency(z, u, z_test, u_test, [20], seed=1)[0], mixed[0])


def test_score_is_r2_on_the_test_codes():
    (z, u), (z_test, u_test) = codes(100, 0), codes(60, 1)
    noisy = u + 0.1 * torch.randn(u.shape, generator=torch.Generator().manual_seed(2))
    found = sample_efficiency(z, noisy, z_test, u_test, [100], estimator=Line())[0]
    line = np.stack(
        [Line().fit(z.double().numpy(), noisy[:, j].double().numpy()).predict(z_test.double().numpy()) for j in (0, 1)], 1
    )
    np.testing.assert_allclose(found, r2_score(torch.from_numpy(line), u_test.double()))


def test_sample_errors():
    z, u = codes(20, 0)
    for size in (1, 21):
        with pytest.raises(ValueError, match=rf"^sizes: got {size}; valid: 2 to 20"):
            sample_efficiency(z, u, z, u, [5, size])
    with pytest.raises(ValueError, match="^z_test: got 1 codes"):
        sample_efficiency(z, u, z[:, :1], u, [5])
    with pytest.raises(ValueError, match="^z: got NaN"):
        sample_efficiency(z * torch.nan, u, z, u, [5])
