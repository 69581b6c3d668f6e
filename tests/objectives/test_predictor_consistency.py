"""Consistency with outside predictors against its closed form, on a model whose pixels are its concepts."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from causalvae_pyro import AmortizedGuide, CausalELBO, CausalGraph, CausalVAE, FixedPrior, GaussianLikelihood, LinearSCM, fit
from causalvae_pyro.metrics import Predictor
from causalvae_pyro.networks import MLPEncoder, RandomSymmetry
from causalvae_pyro.objectives import LabelFit, PredictorConsistency


class Pixels(nn.Module):
    """Draws concepts, and the noise behind them, as a row of pixels."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, z, eps_x=None):
        values = z.squeeze(-1) if eps_x is None else torch.cat([z.squeeze(-1), eps_x], -1)
        return self.gain * values[..., None, None, :]


class Reader(nn.Module):
    """Reads labels ``2 z + 1`` off the first two pixels, with an error."""

    def __init__(self, error=0.0, outputs=2):
        super().__init__()
        self.error, self.outputs = nn.Parameter(torch.tensor(float(error))), outputs
        self.norm = nn.BatchNorm1d(1)
        self.modes = []

    def forward(self, x):
        self.modes.append((self.training, self.norm.training, self.error.requires_grad))
        values = x.flatten(1)[:, : self.outputs]
        self.norm(values[:, :1])
        return 2 * (values + self.error) + 1


class Module(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


class Sigmoids(Pixels):
    image_shape, num_concepts, dim, noise_dim = (1, 1, 2), 2, 1, 0


class Logits(Reader):
    """Reads them off images in [0, 1]."""

    def forward(self, x):
        return super().forward(torch.logit(x.clamp(1e-4, 1 - 1e-4)))


def model_and_trace(batch=6, noise_dim=0, particles=None):
    lead = (batch,) if particles is None else (particles, batch)
    model = SimpleNamespace(
        decoder=Pixels(), likelihood=lambda mean: SimpleNamespace(mean=mean), prior=FixedPrior(2, shift=1.0, scale=2.0)
    )
    nodes = {"z": {"value": torch.randn(*lead, 2, 1)}}
    if noise_dim:
        nodes["eps_x"] = {"value": torch.randn(*lead, noise_dim)}
    return model, SimpleNamespace(nodes=nodes)


@pytest.mark.parametrize("noise_dim", [0, 3])
@pytest.mark.parametrize("particles", [None, 4])
def test_closed_form(noise_dim, particles):
    model, trace = model_and_trace(noise_dim=noise_dim, particles=particles)
    # An error of 0.3 standard deviations in each of two concepts of each of six images.
    loss = PredictorConsistency([Reader(0.3)], std=0.1)(model, trace, None)
    assert_close(loss, torch.tensor(6 * 2 * 0.3**2 / (2 * 0.1**2)))
    assert PredictorConsistency([Reader()])(model, trace, None) == 0


def test_it_may_count_as_much_as_a_pixel_does():
    model, trace = model_and_trace()
    once = PredictorConsistency([Reader(0.3)], std=0.1)(model, trace, None)
    model.likelihood = GaussianLikelihood(0.05, bounded=False)
    assert_close(PredictorConsistency([Reader(0.3)], std=0.1, reference_scale=0.1)(model, trace, None), 4 * once)
    with pytest.raises(ValueError, match=r"^reference_scale: got 0; must be > 0"):
        PredictorConsistency([Reader()], reference_scale=0)


def test_only_the_decoder_learns_and_predictors_stay_as_they_are():
    model, trace = model_and_trace()
    trace.nodes["z"]["value"].requires_grad_()
    reader = Reader(0.3)
    reader.train()
    before = {name: value.clone() for name, value in reader.state_dict().items()}
    PredictorConsistency([reader], std=0.1)(model, trace, None).backward()
    assert model.decoder.gain.grad.abs() > 0
    assert trace.nodes["z"]["value"].grad is None
    assert reader.error.grad is None
    assert reader.modes == [(False, False, False)]
    assert reader.training
    assert reader.norm.training
    assert reader.error.requires_grad
    assert all((value == before[name]).all() for name, value in reader.state_dict().items())


@pytest.mark.parametrize("train_guide", [False, True])
def test_the_noise_may_learn_too(train_guide):
    model, trace = model_and_trace(noise_dim=1)
    noise = trace.nodes["eps_x"]["value"].requires_grad_()
    # The second label is read off the noise's pixel.
    reader = Module(lambda x: x.flatten(1)[:, ::2])
    PredictorConsistency([reader], std=0.1, train_guide=train_guide)(model, trace, None).backward()
    assert (noise.grad is not None) == train_guide


def test_every_step_asks_one_of_them():
    model, trace = model_and_trace()
    readers = [Reader(i / 10) for i in range(3)]
    term = PredictorConsistency(readers, std=1.0)
    found = {round(term(model, trace, None).item(), 3) for _ in range(60)}
    assert found == {0.0, 0.06, 0.24}
    assert sum(len(reader.modes) for reader in readers) == 60


def test_the_augmentation_is_what_they_see():
    model, trace = model_and_trace()
    seen = []
    PredictorConsistency([Reader()], augmentation=lambda x: seen.append(x) or torch.zeros_like(x))(model, trace, None)
    (images,) = seen
    assert images.shape == (6, 1, 1, 2)


def test_concepts_are_swapped():
    torch.manual_seed(0)
    model, trace = model_and_trace(batch=400)
    seen = []
    PredictorConsistency([Reader()], augmentation=lambda x: seen.append(x) or x)(model, trace, None)
    same = seen[0].flatten(1) == trace.nodes["z"]["value"].squeeze(-1)
    assert ((same.float().mean(0) > 0.4) & (same.float().mean(0) < 0.6)).all()
    assert 0.15 < same.all(1).float().mean() < 0.35


def test_bad_arguments():
    with pytest.raises(ValueError, match="^predictors: got none"):
        PredictorConsistency([])
    with pytest.raises(ValueError, match=r"^std: got 0; must be > 0"):
        PredictorConsistency([Reader()], std=0)
    model, trace = model_and_trace()
    with pytest.raises(ValueError, match=r"^predictors: expected labels \[6, 2\] for 6 images, got \[6, 1\]"):
        PredictorConsistency([Reader(outputs=1)])(model, trace, None)


def test_a_decoder_learns_to_draw_what_is_read():
    """In ``fit``'s objective: images of half the contrast are what the likelihood asks for, the predictors ask for all of it."""
    torch.manual_seed(0)
    labels = torch.randn(64, 2)
    gains = {}
    for weight in (0.0, 1.0):
        scm = LinearSCM(CausalGraph(["a", "b"], []))
        model = CausalVAE(scm, FixedPrior(2, std=0.01, shift=1.0, scale=2.0), Sigmoids(), GaussianLikelihood(1.0))
        images = (0.25 + 0.5 * model.decoder(model.prior(labels).mean).sigmoid()).detach()
        guide = AmortizedGuide(MLPEncoder((1, 1, 2), hidden=8), scm, init_scale=0.01)
        term = PredictorConsistency([Logits()], std=0.1, weight=weight)
        objective = CausalELBO(teacher_forcing=1.0, terms=[LabelFit(), term])
        fit(model, guide, (images, labels), objective=objective, epochs=30, lr=3e-2, device="cpu", progress=False)
        gains[weight] = model.decoder.gain.item()
    assert gains[0.0] < 0.7
    assert 0.95 < gains[1.0] < 1.05


def test_targets_that_change_with_the_images():
    """Images made darker with their target teach a predictor brightness that it has never seen."""
    torch.manual_seed(0)
    targets = 0.8 + 0.1 * torch.rand(64, 1)
    images = targets[:, :, None, None].expand(-1, 1, 8, 8).contiguous()

    def darker(x, target):
        factor = 0.3 + 0.7 * torch.rand(len(x), 1)
        return x * factor[..., None, None], target * factor

    dark = torch.full((1, 1, 8, 8), 0.4)
    errors = []
    for pairs in (None, darker):
        predictor = Predictor((1, 8, 8), 1)
        predictor.fit(images, targets, epochs=80, batch_size=32, augment=RandomSymmetry(), augment_pairs=pairs)
        errors.append(abs(predictor.predict(dark).item() - 0.4))
    assert errors[1] < 0.05
    assert errors[0] > 2 * errors[1]
