"""Local fits: residuals of one regression per concept and set of parents."""

import math
import re

import pytest
import torch

from causalvae_pyro.discovery import LocalFits, independent_graph
from tests.discovery.test_graphs import FAST, everything, uniform

NONE = frozenset()


def test_residuals_are_the_noise_in_the_concepts_units():
    generator = torch.Generator().manual_seed(0)
    a, b, c = uniform(generator, 3, rows=2000)
    effect = 50 + 10 * (torch.sin(2 * a) + 0.5 * b + 0.3 * c)
    fits = LocalFits(torch.stack([effect, a, b], 1), **FAST, holdout=0.6)
    none, one, both = fits.residuals([(0, NONE), (0, frozenset({1})), (0, frozenset({1, 2}))]).double().T * effect.std()
    assert both.std().item() == pytest.approx(3.0, rel=0.1)
    assert one.std().item() == pytest.approx(10 * math.sqrt(0.5**2 + 0.3**2), rel=0.1)
    assert none.std().item() == pytest.approx(effect.std().item(), rel=0.1)
    assert len(none) == 1200
    # The noise itself, not only its spread.
    noise = LocalFits(torch.stack([effect, a, b, c], 1), holdout=0.6).test[:, 3]
    assert torch.corrcoef(torch.stack([both.float(), noise]))[0, 1] > 0.9


def test_families_are_fitted_once(monkeypatch):
    fits = LocalFits(torch.randn(60, 3), hidden=4, steps=3)
    families = [(0, frozenset({1})), (2, NONE), (0, frozenset({1}))]
    first = fits.residuals(families)
    assert torch.equal(first[:, 0], first[:, 2])
    monkeypatch.setattr(fits, "_fit", lambda families: pytest.fail(f"fits {families} again"))
    assert torch.equal(fits.residuals(families[::-1]), first.flip(1))


def test_more_families_than_run_at_once(monkeypatch):
    monkeypatch.setattr("causalvae_pyro.discovery.local._AT_ONCE", 2)
    x = torch.randn(400, 3)
    x[:, 1] += 3 * x[:, 0]
    families = [(1, NONE), (0, NONE), (1, frozenset({0})), (0, frozenset({1})), (2, frozenset({0, 1}))]
    spread = LocalFits(x, **FAST).residuals(families).std(0)
    assert spread.tolist() == pytest.approx([1, 1, 10**-0.5, 10**-0.5, 1], abs=0.15)


def test_fits_are_decided_by_the_seed_and_leave_torchs_state():
    data, families = torch.randn(60, 3), [(0, frozenset({1})), (2, NONE)]
    state = torch.get_rng_state()
    first, same, other = (LocalFits(data, hidden=4, steps=3, seed=seed).residuals(families) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_residuals_are_of_samples_that_are_not_trained_on():
    data = torch.randn(60, 6)
    fits, seen, more = (LocalFits(data, hidden=32, steps=200, holdout=0.3) for _ in range(3))
    assert fits.train.shape == (42, 6)
    rows, standardised = torch.cat([fits.train, fits.test]), (data - data.mean(0)) / data.std(0)
    torch.testing.assert_close(rows[rows[:, 0].argsort()], standardised[standardised[:, 0].argsort()])
    # A network that learns 42 samples of pure noise by heart says nothing about the other 18.
    family = [(0, frozenset(range(1, 6)))]
    seen.test = seen.train
    assert seen.residuals(family).std() < 0.2
    assert fits.residuals(family).std() > 0.9
    more.test = torch.cat([more.test, more.test + 5])
    torch.testing.assert_close(more.residuals(family)[:18], fits.residuals(family))


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (torch.randn(19, 2), {}, "labels: expected shape [N, n] with N >= 20, got [19, 2]"),
        (torch.randn(30), {}, "labels: expected shape [N, n] with N >= 20, got [30]"),
        (torch.randn(30, 2).index_put((torch.tensor(7), torch.tensor(1)), torch.tensor(math.nan)), {}, "nan in row 7, column 1"),
        (torch.randn(30, 2).index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(math.inf)), {}, "inf in row 0, column 0"),
        (torch.cat([torch.randn(30, 1), torch.ones(30, 1)], 1), {}, "labels: column 1 is constant"),
        # Its standard deviation is 1e-17, not 0.
        (torch.full((50, 1), 0.1, dtype=torch.float64), {}, "labels: column 0 is constant"),
        (torch.randn(30, 2), {"holdout": 0.0}, "holdout: got 0.0; must lie in (0, 1)"),
        (torch.randn(30, 2), {"holdout": 1.0}, "holdout: got 1.0; must lie in (0, 1)"),
        (torch.randn(30, 2), {"holdout": 0.1}, "holdout: 0.1 splits 30 samples into 27 and 3; needs 8 of each"),
        (torch.randn(30, 2), {"holdout": 0.9}, "holdout: 0.9 splits 30 samples into 3 and 27; needs 8 of each"),
    ],
)
def test_errors_of_local_fits(data, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LocalFits(data, **options)


def test_units_and_offsets_do_not_matter():
    data = torch.randn(60, 2, dtype=torch.float64)
    moved = data * torch.tensor([1e-6, 1e6]) + torch.tensor([1e3, -1e9])
    torch.testing.assert_close(LocalFits(moved).train, LocalFits(data).train, atol=1e-4, rtol=1e-4)


def test_the_smallest_data_work():
    fits = LocalFits(torch.randn(20, 2), hidden=4, steps=2)
    assert independent_graph(fits, everything(2)).shape == (2, 2)
