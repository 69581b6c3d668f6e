"""``x`` that is no image: vectors, counts, volumes; what it is, is the likelihood's matter."""

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import nn
from torch.testing import assert_close

from causalvae_pyro import CausalGraph, LinearSCM, Run, abduct, counterfactual, encode, fit, ite, load, reconstruct, save
from causalvae_pyro.interventions import sample_interventional, sweep
from causalvae_pyro.likelihoods import GaussianLikelihood, LaplaceLikelihood, NegativeBinomialLikelihood, PoissonLikelihood
from causalvae_pyro.networks import MLPDecoder, MLPEncoder
from tests.builders import SPACES, check_one_line, make_pair, raises

GRAPH = CausalGraph(["a", "b"], [("a", "b")])
N = 12


def counts(shape):
    return torch.poisson(5 * torch.rand(N, *shape))


def reals(shape):
    return 10 * torch.randn(N, *shape)


class Volume(nn.Module):
    """A likelihood of the user's own that says nothing of pixels."""

    def forward(self, output):
        return dist.Normal(output, 1.0).to_event(4)


KINDS = {
    "counts": (lambda: PoissonLikelihood(), (5,), counts),
    "integers": (lambda: NegativeBinomialLikelihood(learn_dispersion=True), (5,), lambda shape: counts(shape).long()),
    "images of counts": (lambda: PoissonLikelihood(event_dim=3), (1, 2, 3), counts),
    "bytes that are counts": (lambda: PoissonLikelihood(event_dim=3), (1, 2, 3), lambda shape: counts(shape).byte()),
    "vectors": (lambda: GaussianLikelihood(1.0, learn_scale=True, bounded=False, event_dim=1), (5,), reals),
    "heavy tails": (lambda: LaplaceLikelihood(1.0, bounded=False, event_dim=1), (5,), reals),
    "volumes": (Volume, (1, 2, 3, 2), reals),
    "a function": (lambda: lambda output: dist.Normal(output, 1.0).to_event(1), (5,), reals),
}


def make(kind, space="endogenous"):
    likelihood, shape, draw = KINDS[kind]
    pair = make_pair(GRAPH, shape, space, scm=LinearSCM, likelihood=likelihood(), layer_options={"learn_noise": True})
    return *pair, draw(shape), torch.randn(N, 2)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", KINDS)
def test_everything_takes_it(kind, space, tmp_path):
    model, guide, x, labels = make(kind, space)
    shape = tuple(x.shape[1:])
    trace = poutine.trace(model).get_trace(x, labels)
    assert trace.nodes["x"]["fn"].event_shape == trace.nodes["x_mean"]["fn"].event_shape == shape
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (N,)
    expected = model.likelihood(model.decoder(trace.nodes["z"]["value"])).log_prob(x.float())
    assert_close(trace.nodes["x"]["log_prob"], expected)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    assert svi.step(x.float(), labels) > 0
    history = fit(model, guide, (x, labels), epochs=20, batch_size=6, lr=0.01, progress=False, device="cpu")
    assert history["loss"][-1] < history["loss"][0]
    assert encode(model, guide, x).shape == (N, 2, 1)
    if len(shape) == 1:  # a guide alone takes images for images
        assert abduct(guide, x.float(), num_samples=2)["eps"].shape == (2, N, 2, 1)
    assert reconstruct(model, guide, x).shape == x.shape
    y = counterfactual(model, guide, x, {"a": 1.0}, num_samples=3)
    assert y.shape == (3, *x.shape)
    assert sweep(model, guide, x, {"a": [0.0, 1.0]})[0].shape == (2, *x.shape)
    assert sample_interventional(model, {"a": 1.0}, 7).x.shape == (7, *shape)
    assert ite(model, guide, x, {"a": 1.0}, outcome=lambda rows: rows.flatten(1).sum(1)).mean.shape == (N,)
    assert Predictive(model, num_samples=3)(None, labels)["x"].shape == (3, N, *shape)
    if kind not in ("volumes", "a function"):
        save(Run(model, guide), tmp_path)
        again = load(tmp_path)
        assert_close(counterfactual(again.model, again.guide, x, {"a": 1.0}), counterfactual(model, guide, x, {"a": 1.0}))


def test_the_counts_distributions():
    output = torch.randn(4, 3)
    poisson, spread = PoissonLikelihood()(output), NegativeBinomialLikelihood(3.0)(output)
    assert_close(poisson.mean, output.exp())
    assert_close(spread.mean, output.exp())
    assert_close(spread.variance, output.exp() + output.exp().square() / 3)
    draws = spread.sample((40000,))
    assert_close(draws.mean(0), spread.mean, rtol=0.05, atol=0.05)
    assert poisson.event_shape == spread.event_shape == (3,)


def test_counts_are_read_by_their_logarithm():
    torch.manual_seed(0)
    encoder = MLPEncoder((5,), log1p=True)
    torch.manual_seed(0)
    plain = MLPEncoder((5,))
    x = counts((5,))
    assert torch.equal(encoder(x), plain(x.log1p()))
    assert encoder(x.reshape(3, 4, 5)).shape == (3, 4, 128)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (torch.rand(5), [r"\[N, \.\.\.\]", r"\[5\]"]),
        (torch.rand(N, 5).numpy(), ["ndarray"]),
        (torch.rand(0, 5), ["no rows"]),
        (torch.full((N, 5), torch.nan), ["not finite"]),
        (torch.rand(N, 6), [r"\[\.\.\., 5\]", r"\[12, 6\]"]),
    ],
    ids=["one row", "an array", "no rows", "not a number", "another width"],
)
def test_errors(bad, words):
    model, guide, _, labels = make("counts")
    for call in (
        lambda: counterfactual(model, guide, bad, {"a": 1.0}),
        lambda: encode(model, guide, bad),
        lambda: abduct(guide, bad),
    ):
        with raises("x", *words) as error:
            call()
        check_one_line(error)


def test_errors_of_fit():
    model, guide, x, labels = make("counts")
    with raises("images", "not finite") as error:
        fit(model, guide, (x / 0, labels), epochs=1, batch_size=6, progress=False, device="cpu")
    check_one_line(error)


@pytest.mark.parametrize("kind", [MLPEncoder, lambda shape: MLPDecoder(shape, 2)])
def test_errors_of_shapes(kind):
    for shape in ((), (0,), (3, 0, 4)):
        with raises("image_shape", "length"):
            kind(shape)


@pytest.mark.parametrize("value", [0, 1.5])
def test_errors_of_likelihoods(value):
    with raises("event_dim", str(value)):
        PoissonLikelihood(event_dim=value)
    with raises("dispersion", "-1"):
        NegativeBinomialLikelihood(-1.0)
