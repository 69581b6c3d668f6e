"""Noise that tells what was set: stripes over a margin whose brightness is each image's own."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from causalvae_pyro import CausalVAE, FixedPrior, GaussianLikelihood, LinearSCM, Run
from causalvae_pyro.evaluation.evaluate import evaluate, score_table
from causalvae_pyro.evaluation.noise_leak import noise_leak
from causalvae_pyro.evaluation.scorecard import Scorer
from tests.evaluation.test_evaluate import GAIN, SIDE, Photos, Stripes, draw

MARGIN = 4


class Margined(Stripes):
    """The last rows are of a brightness that no label tells."""

    def __init__(self, count=200):
        super().__init__(count=count)
        self.own = torch.randn(count, generator=torch.Generator().manual_seed(7))
        self.images = self.images.clone()
        self.images[:, :, -MARGIN:] = 0.5 + GAIN * self.own[:, None, None, None]


class Painter(nn.Module):
    noise_dim = 1

    def forward(self, z, eps_x):
        margin = (0.5 + GAIN * eps_x[..., None, None]).expand(*eps_x.shape[:-1], 1, MARGIN, SIDE)
        return torch.cat([draw(z[..., 0])[..., :-MARGIN, :], margin], -2)


class Reader(nn.Module):
    """Reads all of it, and takes a part of the first stripe for the margin's."""

    leak = 0.0

    def __init__(self, scm):
        super().__init__()
        self.scm = [scm]

    def forward(self, x, labels=None, num_samples=None):
        z = ((x[:, 0, 0, :: SIDE // 2] - 0.5) / GAIN)[..., None]
        own = (x[:, 0, -1, :1] - 0.5) / GAIN + self.leak * z[:, 0]
        with pyro.plate("data", len(x)):
            pyro.sample("eps_x", dist.Normal(own, 0.01).to_event(1))
            return pyro.sample("eps", dist.Normal(self.scm[0].to_exogenous(z), 0.01).to_event(2))


def make(data, leak=0.0):
    scm = LinearSCM(data.graph)
    scm.weight.data.fill_(data.slope)
    model = CausalVAE(scm, FixedPrior(2), Painter(), GaussianLikelihood(bounded=False), noise_dim=1)
    run = Run(model, Reader(scm), {})
    run.guide.leak = leak
    return run


def leak_of(run, data):
    return noise_leak(Scorer(run, data, data.images, data.labels, 0, False))


def test_noise_that_is_the_images_own_tells_nothing():
    data = Margined()
    assert list(leak_of(make(data), data).values()) == pytest.approx([0.0, 0.0], abs=0.03)


def test_a_ghost_of_a_concept():
    """Read as ``own + a``, drawn so, and read of the counterfactual as ``own + a + a'``: the ``a'`` set is a third of it."""
    data = Margined()
    found = leak_of(make(data, leak=1.0), data)
    assert found["a"] == pytest.approx(1 / 3, abs=0.12)
    assert found["b"] == pytest.approx(0, abs=0.03)


def test_pixel_noise_makes_no_difference():
    data = Margined()
    data.images = (data.images + 0.01 * torch.randn(data.images.shape, generator=torch.Generator().manual_seed(3))).clamp(0, 1)
    run = make(data, leak=1.0)
    kept = Scorer(run, data, data.images, data.labels, 0, False, None, 1.0)
    assert noise_leak(kept) == leak_of(run, data)


def test_the_score_card_shows_it():
    data = Photos(Margined())
    scores = evaluate(make(Margined(), leak=1.0), data, intervals=False)
    assert scores["noise_leak"]["a"] > 0.2
    table = score_table(scores)
    assert "own noise tells what was set" in table
    assert f"{scores['noise_leak']['a']:.3f}" in next(line for line in table.splitlines() if line.startswith("a "))
    assert "noise_leak" not in evaluate(make(Margined()), data, intervals=False, axioms=False)
    # Too few images to tell.
    few = Margined(30)
    assert "noise_leak" not in evaluate(make(few), few, intervals=False)
