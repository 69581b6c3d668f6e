"""Peaks of the density of colours, against scikit-learn's mean shift."""

import numpy as np
import pytest
import torch
from sklearn.cluster import MeanShift
from torch.testing import assert_close

from causalvae_pyro.networks.sprites.colours import density_peaks


@pytest.mark.parametrize("bandwidth", [0.12, 0.35])
@pytest.mark.parametrize("colours", [1, 3])
def test_the_peaks_of_mean_shift(colours, bandwidth):
    generator = torch.Generator().manual_seed(colours)
    centres = torch.rand(6, colours, generator=generator, dtype=torch.double)
    which = torch.randint(0, 6, (2000,), generator=generator)
    points = centres[which] + 0.03 * torch.randn(2000, colours, generator=generator, dtype=torch.double)
    found = density_peaks(points, bandwidth, 4)
    shift = MeanShift(bandwidth=bandwidth, bin_seeding=True, min_bin_freq=4, cluster_all=False)
    expected = shift.fit(points.numpy()).cluster_centers_
    assert 1 <= len(expected) <= 12
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_no_cell_is_full_enough():
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    assert density_peaks(points, 0.05, 5).shape == (0, 3)


def test_one_colour():
    assert_close(
        density_peaks(torch.full((10, 3), 0.25, dtype=torch.double), 0.1, 1), torch.full((1, 3), 0.25, dtype=torch.double)
    )
