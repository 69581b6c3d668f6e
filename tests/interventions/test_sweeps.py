"""A grid of values in one pass is one counterfactual after another."""

import pyro.poutine as poutine
import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro import Shift, abduct, counterfactual, intervene
from causalvae_pyro.interventions import predict, sweep
from tests.builders import SPACES, check_one_line, raises
from tests.interventions.test_counterfactuals import SHAPE, N, make

LIGHT, LAMP = torch.linspace(-2, 2, 5), torch.tensor([0.5, -1.0])


@pytest.fixture
def x():
    return torch.rand(N, *SHAPE)


@pytest.mark.parametrize("batch_size", [256, 7, 1])
@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize("space", SPACES)
def test_every_value_of_every_image(space, latent, batch_size, x):
    pair = make(space, dim=2, noise_dim=2)
    images, z = sweep(*pair, x, {"mid": LIGHT, "leaf": 0.3, "lone": LAMP}, latent=latent, batch_size=batch_size)
    assert images.shape == (5, 2, N, *SHAPE)
    assert z.shape == (5, 2, N, 4, 2)
    for i, mid in enumerate(LIGHT):
        for j, lone in enumerate(LAMP):
            do = {"mid": mid, "leaf": 0.3, "lone": lone}
            for ours, one in zip((images, z), counterfactual(*pair, x, do, latent=latent, return_latents=True), strict=True):
                assert_close(ours[i, j], one, rtol=1e-4, atol=1e-5)


def test_one_abduction_and_one_prediction(x):
    model, guide = make("endogenous")
    calls = []

    class Count(poutine.messenger.Messenger):
        def _pyro_sample(self, msg):
            if msg["name"] in ("eps", "x"):
                calls.append((msg["name"], msg["fn"].batch_shape))

    with Count():
        sweep(model, guide, x[:1], {"mid": torch.linspace(-1, 1, 100)})
    assert calls == [("eps", (1,)), ("eps", (100,)), ("x", (100,))]


def test_samples_come_before_the_images(x):
    pair = make("endogenous", noise_dim=2)
    torch.manual_seed(0)
    images, z = sweep(*pair, x, {"mid": LIGHT}, num_samples=3)
    assert images.shape == (5, 3, N, *SHAPE)
    torch.manual_seed(0)
    assert_close(images[1], counterfactual(*pair, x, {"mid": LIGHT[1]}, num_samples=3), rtol=1e-4, atol=1e-5)
    assert torch.equal(z[0, :, :, 1], z[4, :, :, 1]), "the noise is the same for every value"
    assert sweep(*pair, x, {"mid": 1.0})[0].shape == x.shape


def test_gradients(x):
    pair = make("endogenous")
    values = LIGHT.clone().requires_grad_()
    images, _ = sweep(*pair, x, {"mid": values})
    (gradient,) = torch.autograd.grad(images[2].sum(), values)
    assert (gradient != 0).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("do", "argument", "words"),
    [
        ({"middle": 1.0}, "do", ["unknown concept 'middle'"]),
        ({"mid": torch.zeros(2, 2)}, r"do\['mid'\]", [r"\(2, 2\)"]),
        ({"mid": []}, r"do\['mid'\]", [r"values \[V\]"]),
        ({"mid": Shift(1.0)}, r"do\['mid'\]", ["Shift"]),
        ({"mid": float("nan")}, r"do\['mid'\]", ["not finite"]),
    ],
    ids=str,
)
def test_errors(do, argument, words, x):
    with raises(argument, *words) as error:
        sweep(*make(), x, do)
    check_one_line(error)


@pytest.mark.parametrize(("k", "count"), [(7, 4), (4, 4), (7, 1), (1, 3)])
@pytest.mark.parametrize("space", SPACES)
def test_samples_compose(space, k, count):
    model, guide = make(space, noise_dim=2)
    x = torch.rand(count, *SHAPE)
    noise = abduct(guide, x, num_samples=k)
    for do in ({}, {"mid": torch.randn(count)}, {"mid": Shift(1.0), "lone": 0.5}):
        world = intervene(model, do)
        trace = predict(world, noise)
        for name, event in (("z", (4, 1)), ("x_mean", SHAPE), ("x", SHAPE), ("leaf", (1,))):
            assert trace.nodes[name]["value"].shape == (k, count, *event)
        for j in range(k):
            one = predict(world, {name: value[j] for name, value in noise.items()})
            for name in ("z", "x_mean"):
                assert_close(trace.nodes[name]["value"][j], one.nodes[name]["value"], rtol=1e-4, atol=1e-5)
