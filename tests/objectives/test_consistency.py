"""Counterfactual consistency against closed forms, on a model whose pixels are its concepts."""

from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from causalvae_pyro import AmortizedGuide, CausalELBO, CausalGraph, CausalVAE, FixedPrior, GaussianLikelihood, LinearSCM, fit
from causalvae_pyro.guides import NormalizingFlow
from causalvae_pyro.networks import MLPDecoder, MLPEncoder
from causalvae_pyro.objectives import CounterfactualConsistency, LabelFit
from causalvae_pyro.objectives.consistency import swap_concepts
from tests.builders import SPACES, amortized

N, R, SIZE = 3, 2, 8


class Pixels(nn.Module):
    """Draws each concept and each dimension of the noise as one pixel, times a gain."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, z, eps_x=None):
        values = z.squeeze(-1) if eps_x is None else torch.cat([z.squeeze(-1), eps_x], -1)
        return self.gain * values[..., None, None, :]


class Reader(nn.Module):
    """Reads them off again, with an offset."""

    def __init__(self, noise=True, offset=0.0, scale=0.5):
        super().__init__()
        self.noise, self.scale = noise, scale
        self.offset = nn.Parameter(torch.tensor(float(offset)))
        self.norm = nn.BatchNorm1d(1)
        self.calls, self.seen = 0, []

    def forward(self, x, labels=None, num_samples=None):
        self.calls += 1
        self.seen.append((x.detach(), self.training, self.norm.training))
        values = x.flatten(1) + self.offset
        self.norm(values[:, :1])
        with pyro.plate("data", len(x)):
            pyro.sample("eps", dist.Normal(values[:, :N, None], self.scale).to_event(2))
            if self.noise:
                pyro.sample("eps_x", dist.Normal(values[:, N:], self.scale).to_event(1))


def make(noise=True, edges=(), **options):
    scm = LinearSCM(CausalGraph(["a", "b", "c"], edges))
    model = CausalVAE(scm, FixedPrior(N), Pixels(), GaussianLikelihood(bounded=False, scale=0.3), noise_dim=R if noise else 0)
    return model, Reader(noise, **options)


def traced(z, eps_x=None):
    nodes = {"z": {"value": z}}
    return SimpleNamespace(nodes=nodes if eps_x is None else {**nodes, "eps_x": {"value": eps_x}})


def test_a_perfect_reader_costs_nothing():
    model, guide = make()
    z, eps_x = torch.randn(SIZE, N, 1), torch.randn(SIZE, R)
    assert CounterfactualConsistency(guide)(model, traced(z, eps_x), None).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("lead", [(), (5,)])
@pytest.mark.parametrize("noise", [True, False])
def test_value(noise, lead):
    model, guide = make(noise, offset=0.3)
    z, eps_x = torch.randn(*lead, SIZE, N, 1), torch.randn(*lead, SIZE, R)
    term = CounterfactualConsistency(guide, std=0.2, noise_weight=0.7)
    value = term(model, traced(z, eps_x if noise else None), None)
    expected = N * 0.3**2 / (2 * 0.2**2) + (0.7 * R * 0.3**2 / (2 * 0.5**2) if noise else 0)
    # Summed over the batch, averaged over particles.
    assert value.item() == pytest.approx(SIZE * expected, rel=1e-5)


def test_concepts_are_read_through_the_causal_layer():
    model, guide = make(False, edges=[("a", "b"), ("b", "c")])
    with torch.no_grad():
        model.scm.weight.fill_(2.0)
    z = torch.randn(SIZE, N, 1)
    pyro.set_rng_seed(1)
    value = CounterfactualConsistency(guide, std=0.5)(model, traced(z), None)
    pyro.set_rng_seed(1)
    # The reader takes the pixels for the exogenous noise, so what it reads as concepts is f(z').
    swapped = swap_concepts(z)
    expected = (model.scm.to_endogenous(swapped) - swapped).square().sum() / (2 * 0.5**2)
    assert_close(value, expected)


def test_the_gradient_reaches_the_decoder_only():
    model, guide = make()
    guide.train()
    before = guide.norm.running_mean.clone()
    z = torch.randn(SIZE, N, 1, requires_grad=True)
    eps_x = torch.randn(SIZE, R, requires_grad=True)
    with torch.no_grad():
        model.decoder.gain.fill_(1.5)
    CounterfactualConsistency(guide)(model, traced(z, eps_x), None).backward()
    assert model.decoder.gain.grad > 0
    assert guide.offset.grad is None
    assert z.grad is None
    assert eps_x.grad is None
    # The guide is as it was.
    assert guide.training
    assert guide.norm.training
    assert all(p.requires_grad for p in guide.parameters())
    assert torch.equal(guide.norm.running_mean, before)


def test_training_the_guide_changes_gradients_only():
    model, guide = make(offset=0.3)
    with torch.no_grad():
        model.decoder.gain.fill_(1.5)
    z, eps_x = (torch.randn(*shape, requires_grad=True) for shape in ((SIZE, N, 1), (SIZE, R)))
    pyro.set_rng_seed(1)
    expected = CounterfactualConsistency(guide)(model, traced(z, eps_x), None)
    pyro.set_rng_seed(1)
    value = CounterfactualConsistency(guide, train_guide=True)(model, traced(z, eps_x), None)
    # The same value, and another gradient.
    assert_close(value, expected)
    value.backward()
    assert model.decoder.gain.grad > 0
    assert guide.offset.grad.abs() > 0
    # What was to be drawn is still given.
    assert z.grad is None
    assert eps_x.grad is None


@pytest.mark.parametrize("train_guide", [False, True])
def test_the_guides_own_mode(train_guide):
    model, guide = make()
    term = CounterfactualConsistency(guide, train_guide=train_guide)
    z, eps_x = torch.randn(SIZE, N, 1), torch.randn(SIZE, R)
    for mode in (True, False):
        guide.train(mode)
        before = guide.norm.running_mean.clone()
        term(model, traced(z, eps_x), None)
        # A judge is in evaluation mode; who learns is in their own.
        _, *modes = guide.seen[-1]
        assert modes == [mode and train_guide] * 2
        assert torch.equal(guide.norm.running_mean, before) == (not (mode and train_guide))
        assert guide.training == guide.norm.training == mode
    guide.train()
    guide.norm.eval()
    guide.offset.requires_grad_(False)
    term(model, traced(z, eps_x), None)
    assert guide.seen[-1][1:] == (train_guide, False)
    assert guide.training
    assert not guide.norm.training
    assert not guide.offset.requires_grad


@pytest.mark.parametrize("train_guide", [False, True])
def test_gradients_of_an_amortised_guide(train_guide):
    images, labels = torch.rand(SIZE, 1, 8, 8), torch.randn(SIZE, N)
    scm = LinearSCM(CausalGraph(["a", "b", "c"], [("a", "b")]))
    model = CausalVAE(scm, FixedPrior(N), MLPDecoder((1, 8, 8), N, 1, noise_dim=R), GaussianLikelihood(), noise_dim=R)
    guide = AmortizedGuide(MLPEncoder((1, 8, 8)), scm, noise_dim=R)
    term = CounterfactualConsistency(guide, train_guide=train_guide)
    guide_trace = pyro.poutine.trace(guide).get_trace(images, labels)
    trace = pyro.poutine.trace(pyro.poutine.replay(model, guide_trace)).get_trace(images, labels)
    term(model, trace, labels).backward()
    assert all((p.grad != 0).any() for p in model.decoder.parameters())
    heads = [guide.head.loc, guide.noise_head.loc]
    for p in (*guide.encoder.parameters(), *(p for head in heads for p in head.parameters())):
        assert (p.grad is not None and (p.grad != 0).any()) if train_guide else p.grad is None
    # It reads means: by how far they may be off is not learned from drawn images.
    assert all(p.grad is None for head in (guide.head, guide.noise_head) for p in head.log_scale.parameters())


def test_in_training_only_the_guide_that_may_learns():
    changes = []
    for weight, train_guide in ((0.0, False), (1.0, False), (1.0, True)):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model, guide = make(offset=0.3)
        data = torch.rand(SIZE, 1, 1, N + R), torch.randn(SIZE, N)
        term = CounterfactualConsistency(guide, train_guide=train_guide, weight=weight)
        objective = CausalELBO(terms=[LabelFit(), term])
        objective.differentiable_loss(model, guide, *data).backward()
        changes.append((guide.offset.grad.item(), model.decoder.gain.grad.item()))
    without, judge, trained = changes
    assert judge[0] == pytest.approx(without[0], rel=1e-5)
    assert abs(trained[0] - without[0]) > 1
    assert trained[1] == pytest.approx(judge[1], rel=1e-5)


def test_pixel_noise_is_what_the_guide_sees():
    model, guide = make()
    z, eps_x = torch.full((2000, N, 1), 0.5), torch.full((2000, R), 0.5)
    term = CounterfactualConsistency(guide, std=0.2, noise_weight=0.7, pixel_noise=0.1)
    value = term(model, traced(z, eps_x), None).item()
    noise = guide.seen[-1][0].reshape(2000, N + R) - 0.5
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std(0).tolist() == pytest.approx([0.1] * (N + R), rel=0.1)
    # Every pixel has its own.
    assert (torch.corrcoef(noise.T) - torch.eye(N + R)).abs().max() < 0.1
    # What the noise covers cannot be read.
    expected = noise[:, :N].square().sum() / (2 * 0.2**2) + 0.7 / 2 * noise[:, N:].square().sum() / 0.5**2
    assert value == pytest.approx(expected.item(), rel=1e-4)
    # Anew each time.
    term(model, traced(z, eps_x), None)
    assert not torch.equal(guide.seen[-1][0], guide.seen[-2][0])


def test_noisy_pixels_stay_in_range():
    model, guide = make()
    z, eps_x = torch.randn(SIZE, N, 1), torch.randn(SIZE, R)
    for noise in (0.0, 1.0):
        CounterfactualConsistency(guide, pixel_noise=noise)(model, traced(z, eps_x), None)
    clean, noisy = (seen[0] for seen in guide.seen)
    assert clean.min() < 0
    assert clean.max() > 1
    assert noisy.min() == 0
    assert noisy.max() == 1
    assert ((noisy > 0) & (noisy < 1)).any()


def test_gradients_pass_through_the_noise():
    model, guide = make(offset=0.3)
    z, eps_x = torch.rand(SIZE, N, 1), torch.rand(SIZE, R)
    CounterfactualConsistency(guide, train_guide=True, pixel_noise=0.05)(model, traced(z, eps_x), None).backward()
    assert model.decoder.gain.grad.abs() > 0
    assert guide.offset.grad.abs() > 0


def test_frozen_parameters_stay_frozen():
    model, guide = make()
    guide.offset.requires_grad_(False)
    guide.norm.eval()
    CounterfactualConsistency(guide)(model, traced(torch.randn(SIZE, N, 1), torch.randn(SIZE, R)), None)
    assert not guide.offset.requires_grad
    assert not guide.norm.training


def test_concepts_are_swapped_one_by_one():
    z = torch.arange(4000.0).reshape(1000, 4, 1) // 4 + 10000 * torch.arange(4.0)[:, None]
    swapped = swap_concepts(z)
    assert swapped.shape == z.shape
    # Every concept stays in its own column and takes values of the batch.
    assert torch.equal(swapped // 10000, z // 10000)
    assert (swapped % 10000 < 1000).all()
    kept = swapped == z
    assert 0.45 < kept.float().mean() < 0.55
    # The columns are swapped independently of each other.
    both = (kept[:, 0] & kept[:, 1]).float().mean()
    assert 0.2 < both < 0.3
    others = [(swapped[:, k] % 10000)[~kept[:, k]] for k in range(4)]
    assert all(len(values.unique()) > 0.6 * len(values) for values in others)


def test_it_sets_in_when_the_encoder_can_read():
    weight = CounterfactualConsistency(Reader()).weight
    assert [weight(p) for p in (0.0, 0.1, 0.175, 0.25, 1.0)] == pytest.approx([0, 0, 0.5, 1, 1])


@pytest.mark.filterwarnings("ignore:.*batch_norm.*")
def test_a_term_of_weight_zero_is_not_computed():
    model, guide = make(offset=0.3)
    x = torch.rand(SIZE, 1, 1, N + R)
    objective = CausalELBO(1.0, 0.0, terms=[CounterfactualConsistency(guide)])
    objective.progress = 0.05
    objective.loss(model, guide, x)
    assert guide.calls == 1
    assert objective.last_terms["consistency"] == 0
    objective.progress = 0.5
    objective.loss(model, guide, x)
    assert guide.calls == 3
    assert objective.last_terms["consistency"] > 0


def test_fit_tells_the_progress():
    model, guide = make()
    seen = []

    class Watch(LabelFit):
        name = "watch"

        def __init__(self):
            self.weight = self.watch

        def watch(self, progress):
            seen.append(progress)
            return 0.0

    objective = CausalELBO(terms=[Watch()])
    fit(
        model,
        guide,
        (torch.rand(16, 1, 1, N + R), torch.randn(16, N)),
        objective=objective,
        epochs=3,
        batch_size=4,
        progress=False,
    )
    assert seen == pytest.approx([k / 11 for k in range(12)])
    assert objective.progress == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"std": 0.0}, "^std: got 0"),
        ({"noise_weight": -1.0}, "^noise_weight: got -1"),
        ({"pixel_noise": -0.1}, "^pixel_noise: got -0.1"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        CounterfactualConsistency(Reader(), **arguments)


@pytest.mark.parametrize("space", SPACES)
def test_a_flow_guide_can_be_the_judge(space):
    images, labels = torch.rand(SIZE, 1, 16, 16), torch.randn(SIZE, N)
    graph = CausalGraph(["a", "b", "c"], [("a", "b")])
    scm = LinearSCM(graph)
    model = CausalVAE(scm, FixedPrior(N), MLPDecoder((1, 16, 16), N, 1), GaussianLikelihood())
    guide = amortized(space, MLPEncoder((1, 16, 16)), scm, family=NormalizingFlow())
    objective = CausalELBO(terms=[LabelFit(), CounterfactualConsistency(guide, weight=1.0)])
    history = fit(model, guide, (images, labels), objective=objective, epochs=1, batch_size=SIZE, device="cpu", progress=False)
    assert history.rows[-1]["consistency"] > 0
