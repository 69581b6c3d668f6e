"""Whoever asks a pair in the middle of its training sees it as it would be used, and changes nothing."""

import pyro
import pyro.poutine as poutine
import pytest
import torch
from torch import nn

from causalvae_pyro import (
    AdditiveNoiseSCM,
    AmortizedGuide,
    CausalVAE,
    ConvDecoder,
    FixedPrior,
    GaussianLikelihood,
    Shift,
    abduct,
    ate,
    counterfactual,
    encode,
    fit,
    intervene,
    ite,
    reconstruct,
)
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.guides import IterativeGuide, LabelConditionedGuide
from causalvae_pyro.interventions import counterfactual_traces, predict, sample_interventional, twin_worlds
from causalvae_pyro.metrics import Predictor
from causalvae_pyro.networks import AugmentedEncoder, RandomSymmetry, SpatialEncoder
from causalvae_pyro.training import Callback
from causalvae_pyro.utils.modes import evaluation_mode, frozen


class NormalisedDecoder(nn.Module):
    """A decoder whose pictures depend on the mode, and on the batch in training."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder, self.norm, self.dropout = decoder, nn.BatchNorm2d(3), nn.Dropout(0.2)

    def forward(self, z):
        images = self.decoder(z)
        return self.dropout(self.norm(images.reshape(-1, *images.shape[-3:]))).reshape(images.shape)


class NormalisedPrior(FixedPrior):
    """A prior that depends on the mode."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.dropout = nn.Dropout(0.5)

    def lambda1(self, labels):
        return self.dropout(super().lambda1(labels))


@pytest.fixture(scope="module")
def data():
    data = Pendulum("test", size=16)
    return data.images[::20][:48], data.labels[::20][:48]


def make(data, wrapper=None):
    images, labels = data
    torch.manual_seed(0)
    scm = AdditiveNoiseSCM(Pendulum.graph, learn_noise=True)
    prior = NormalisedPrior.from_labels(labels, std=0.1)
    model = CausalVAE(scm, prior, NormalisedDecoder(ConvDecoder.from_images(images, 4)), GaussianLikelihood())
    encoder = AugmentedEncoder(SpatialEncoder((3, 16, 16), 16, channels=4), RandomSymmetry())
    guide = AmortizedGuide(encoder, scm)
    guide = (guide if wrapper is None else wrapper(guide, model)).train()
    # A part that stays in evaluation while the rest trains, as with frozen statistics.
    model.train().decoder.dropout.eval()
    encoder.encoder.convolutions[1].eval()
    return model, guide


def state_of(*modules):
    """Modes, tensors and random numbers."""
    modes = [part.training for module in modules for part in module.modules()]
    tensors = [tensor.clone() for module in modules for tensor in module.state_dict().values()]
    return modes, tensors, torch.get_rng_state()


CALLS = {
    "abduct": lambda model, guide, x, u: abduct(guide, x)["eps"],
    "counterfactual": lambda model, guide, x, u: counterfactual(model, guide, x, {"light": 12.0}, batch_size=3),
    "shift": lambda model, guide, x, u: counterfactual(model, guide, x, {"light": Shift(1.0)}),
    "reconstruct": lambda model, guide, x, u: reconstruct(model, guide, x),
    "encode": lambda model, guide, x, u: encode(model, guide, x),
    "ite": lambda model, guide, x, u: ite(model, guide, x, {"light": 9.0}, outcome="shadow_length").samples,
    "ate": lambda model, guide, x, u: torch.tensor(ate(model, guide, x, {"light": 9.0}, outcome="shadow_length").value),
    "traces": lambda model, guide, x, u: next(counterfactual_traces(model, guide, x, [{}]))[1][0].nodes["x_mean"]["value"],
    "predict": lambda model, guide, x, u: predict(model, abduct(guide, x), pixel_noise=False).nodes["x_mean"]["value"],
    "latent": lambda model, guide, x, u: model.latent({"light": 12.0})["light"],
    "intervene": lambda model, guide, x, u: predict(intervene(model, {"light": 12.0}), abduct(guide, x), pixel_noise=False).nodes[
        "x_mean"
    ]["value"],
    "known labels": lambda model, guide, x, u: counterfactual(model, LabelConditionedGuide(guide, model), x, {}, u),
}


@pytest.mark.parametrize("kind", [None, IterativeGuide])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_in_evaluation_mode_and_back(call, kind, data):
    model, guide = make(data, kind)
    x, u = data[0][:7], data[1][:7]
    before = state_of(model, guide)
    found = call(model, guide, x, u)
    modes, tensors, random = state_of(model, guide)
    assert modes == before[0]
    assert all(map(torch.equal, tensors, before[1]))
    assert torch.equal(random, before[2])
    assert torch.equal(found, call(model.eval(), guide.eval(), x, u))


def test_what_draws_uses_evaluation_mode_too(data):
    model, guide = make(data)
    for call in (
        lambda: abduct(guide, data[0][:7], num_samples=3)["eps"],
        lambda: counterfactual(model, guide, data[0][:7], {"light": 9.0}, num_samples=3),
        lambda: sample_interventional(model, {"light": 9.0}, 5).x_mean,
        lambda: twin_worlds(model, {"light": 9.0}, 5).counterfactual.x_mean,
    ):
        before = state_of(model, guide)
        pyro.set_rng_seed(5)
        found = call()
        assert state_of(model, guide)[0] == before[0]
        assert all(map(torch.equal, state_of(model, guide)[1], before[1]))
        with evaluation_mode(model, guide):
            pyro.set_rng_seed(5)
            assert torch.equal(call(), found)


def test_back_after_an_error_and_between_worlds(data):
    model, guide = make(data)
    before = state_of(model, guide)[0]
    with pytest.raises(ValueError, match="the function returned a value that is not finite"):
        counterfactual(model, guide, data[0][:4], {"light": lambda natural, parents: natural / 0})
    assert state_of(model, guide)[0] == before
    for _ in counterfactual_traces(model, guide, data[0][:6], [{}], batch_size=2):
        assert state_of(model, guide)[0] == before


def test_wrapped_models_and_plain_functions(data):
    model, _ = make(data)
    with evaluation_mode(poutine.do(model, {"light": torch.zeros(1)}), abs, None):
        assert not any(part.training for part in model.modules())
    assert model.training
    with frozen(model):
        assert not any(p.requires_grad for p in model.parameters())
        assert not model.training
    assert all(p.requires_grad for p in model.parameters())


def test_a_predictor_reads_in_evaluation_mode(data):
    predictor = Predictor((3, 16, 16), 2, classify=True)
    before = state_of(predictor)
    found = predictor.features(data[0]), predictor.predict(data[0])
    after = state_of(predictor)
    assert after[0] == before[0]
    assert all(map(torch.equal, after[1], before[1]))
    assert torch.equal(after[2], before[2])
    predictor.eval()
    assert torch.equal(found[0], predictor.features(data[0]))
    assert torch.equal(found[1], predictor.predict(data[0]))


class Look(Callback):
    """Draws counterfactuals of several images and of one of them alone, after each epoch and in the middle of one."""

    def on_epoch_end(self, state):
        x = self.x
        together = counterfactual(state.model, state.guide, x, {"light": 12.0}, return_latents=True)[1]
        alone = counterfactual(state.model, state.guide, x[:1], {"light": 12.0}, return_latents=True)[1]
        torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-4)
        self.seen = True

    def on_step_end(self, state):
        if state.step == 2:
            self.on_epoch_end(state)


def test_a_callback_that_looks_does_not_change_the_training(data):
    trained = []
    for callbacks in ([], [Look()]):
        model, guide = make(data)
        for callback in callbacks:
            callback.x = data[0][:4]
        fit(model, guide, data, epochs=2, batch_size=16, progress=False, device="cpu", callbacks=callbacks)
        trained.append({**model.state_dict(), **{f"guide.{name}": value for name, value in guide.state_dict().items()}})
    assert callbacks[0].seen
    for name, value in trained[0].items():
        assert torch.equal(value, trained[1][name]), name
