"""How closely labels follow from each other, on labels for which it is known."""

import pytest
import torch

from causalvae_pyro.metrics.determination import undetermined_shares


def labels(count=1000, noise=0.0, seed=0):
    """Two roots, and a curved function of them with noise of so many of its standard deviations."""
    generator = torch.Generator().manual_seed(seed)
    first, second, more = torch.randn(3, count, generator=generator)
    child = torch.tanh(0.5 * first) + 0.5 * first * second
    return torch.stack([first, second, child / child.std() + noise * more], 1)


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_the_share_is_the_noise(noise):
    first, second = torch.rand(2, 2000, generator=torch.Generator().manual_seed(1))
    # Nearly uniform, so that ranks are as values.
    found = undetermined_shares(torch.stack([first, first + noise * second], 1))
    assert found.shape == (2,)
    assert found[1].item() == pytest.approx(noise**2 / (1 + noise**2), rel=0.2, abs=0.003)


def test_a_function_leaves_nothing_open_whatever_its_unit():
    u = labels(4000) * torch.tensor([1.0, 1e-3, 1e4]) + torch.tensor([0.0, 50.0, -1e5])
    assert undetermined_shares(u)[2] < 0.01
    assert undetermined_shares(labels(4000, noise=1.0))[2] > 0.4
    # Nor does one of many.
    more = torch.cat([u, torch.randn(len(u), 5, generator=torch.Generator().manual_seed(1))], 1)
    found = undetermined_shares(torch.cat([more, more[:, 3:4] + 2 * more[:, 4:5]], 1))
    assert found[-1] < 0.03
    assert found[5:8].min() > 0.8


def test_functions_of_any_form_are_seen():
    first, second = torch.rand(2, 2000, generator=torch.Generator().manual_seed(4))
    for child, most in (
        ((4 * torch.pi * first).sin() + second, 0.01),
        ((first - 0.5).abs(), 0.01),
        ((first + second > 1).float(), 0.1),
        (7 * first % (2 * torch.pi), 0.1),
    ):
        assert undetermined_shares(torch.stack([first, second, child], 1))[2] < most


def test_long_tails_do_not_hide_a_function():
    generator = torch.Generator().manual_seed(3)
    first, second = torch.randn(2, 1000, generator=generator)
    for cause, child in (
        (first.mul(1.5).exp(), first + second),
        (first, (first + second).mul(2).exp()),
        (first**3, first + second),
    ):
        u = torch.stack([cause, second, child], 1)
        assert undetermined_shares(u)[2] < 0.02
        u[:, 2] = torch.randn(1000, generator=generator)
        assert undetermined_shares(u)[2] > 0.9


def test_what_cannot_be_told_is_open():
    u = labels()
    assert undetermined_shares(u[:39]).tolist() == [1.0, 1.0, 1.0]
    assert undetermined_shares(u[:, :1]).tolist() == [1.0]
    constant = torch.cat([u, torch.full((len(u), 1), 3.0)], 1)
    assert undetermined_shares(constant)[3] == 1.0
    independent = torch.randn(500, 3, generator=torch.Generator().manual_seed(2))
    assert undetermined_shares(independent).min() > 0.9


def test_rows_with_a_missing_label_do_not_count():
    u = labels(200)
    missing = torch.cat([u, torch.full((50, 3), 7.0)])
    missing[200:, 1] = torch.nan
    assert torch.equal(undetermined_shares(missing), undetermined_shares(u))
