"""Binary effects: a threshold on the noise, exact densities, and labels that stay 0 or 1 under interventions on causes."""

import math

import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro import (
    AdditiveNoiseSCM,
    CausalGraph,
    CausalVAE,
    FixedPrior,
    GaussianLikelihood,
    Run,
    ate,
    counterfactual,
    load,
    save,
)
from causalvae_pyro.interventions import predict, soft_do
from causalvae_pyro.networks import MLPDecoder, MLPEncoder
from causalvae_pyro.objectives import LabelFit
from causalvae_pyro.recipes import fit_mechanisms
from causalvae_pyro.scm import BinaryEffectSCM, CausalTransform
from causalvae_pyro.scm.base import exogenous_mean
from tests.builders import amortized, check_one_line, jitter, raises

# Against the index order: root -> switch -> leaf, root -> number -> leaf; switch and leaf are binary.
GRAPH = CausalGraph(
    ["leaf", "number", "switch", "root"], [("root", "switch"), ("root", "number"), ("switch", "leaf"), ("number", "leaf")]
)
LEAF, NUMBER, SWITCH, ROOT = range(4)
BINARY = [("switch", -1.0, 1.5), ("leaf", 0.25, 0.75)]
ENDS = {LEAF: (0.25, 0.75), SWITCH: (-1.0, 1.5)}
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def make(width=0.4, dtype=torch.float64, **options):
    torch.manual_seed(0)
    scm = BinaryEffectSCM(GRAPH, binary=BINARY, width=width, hidden=8, learn_noise=True, **options).to(dtype)
    jitter(0.5, scm)
    return scm


def probability(logit):
    return 1e-4 + (1 - 2e-4) * torch.sigmoid(logit)


def by_hand(scm, eps, do=()):
    """The equations one concept at a time, the binary ones by bisection on their cumulative distribution."""
    do, z = dict(do), torch.zeros_like(eps)
    outputs = AdditiveNoiseSCM(GRAPH, hidden=8, learn_noise=True).double()
    outputs.load_state_dict(scm.state_dict())
    normal = torch.distributions.Normal(torch.zeros((), dtype=eps.dtype), 1.0)
    for i in (ROOT, SWITCH, NUMBER, LEAF):
        g = outputs.means(z)[..., i, :]
        if GRAPH.names[i] in do:
            z[..., i, :] = do[GRAPH.names[i]]
        elif i in ENDS:
            z[..., i, :] = quantile(scm, i, probability(g), normal.cdf(eps[..., i, :]))
        else:
            z[..., i, :] = g + outputs.noise_scale[i] * eps[..., i, :]
    return z


def cumulative(scm, i, p, z):
    """Of the two normals, each on its side of the middle."""
    a, b = ENDS[i]
    s, middle = scm.width * (b - a), (a + b) / 2
    low, high = torch.distributions.Normal(a, s), torch.distributions.Normal(b, s)
    at = torch.tensor(middle, dtype=z.dtype)
    below = (1 - p) * low.cdf(torch.minimum(z, at)) / low.cdf(at)
    return below + p * (high.cdf(torch.maximum(z, at)) - high.cdf(at)) / (1 - high.cdf(at))


def quantile(scm, i, p, u):
    low, high = torch.full_like(u, -30.0), torch.full_like(u, 30.0)
    for _ in range(80):
        middle = (low + high) / 2
        above = cumulative(scm, i, p, middle) > u
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


def noise(*lead, dtype=torch.float64):
    return torch.randn(*lead, 4, 1, dtype=dtype, generator=torch.Generator().manual_seed(1))


def test_it_is_the_quantile_function_of_the_two_normals():
    scm, eps = make(), noise(200)
    with torch.no_grad():
        assert_close(scm.to_endogenous(eps), by_hand(scm, eps), rtol=0, atol=1e-7)


def test_inverse():
    scm, eps = make(), noise(500)
    z = scm.to_endogenous(eps)
    assert_close(scm.to_exogenous(z), eps, **TOLERANCE)
    # Numbers between and around the labels are concepts of some noise too.
    near = 0.4 * eps
    assert_close(scm.to_endogenous(scm.to_exogenous(near)), near, **TOLERANCE)
    assert torch.equal(scm(eps), z)


@pytest.mark.parametrize("width", [0.4, 0.05])
def test_log_abs_det_jacobian_is_that_of_autograd(width):
    scm, eps = make(width), noise(20)
    jacobian = torch.stack([torch.autograd.functional.jacobian(scm.to_endogenous, row) for row in eps]).reshape(20, 4, 4)
    found = scm.log_abs_det_jacobian(eps, scm.to_endogenous(eps))
    assert_close(found, torch.linalg.slogdet(jacobian).logabsdet, **TOLERANCE)
    assert found.std() > 0.1


def test_the_density_is_the_labels_probability_times_a_normal():
    scm = make()
    z = noise(50) * 0.7
    eps = scm.to_exogenous(z)
    p = dist.Normal(torch.zeros(4, 1).double(), 1.0).to_event(2)
    found = p.log_prob(eps) - scm.log_abs_det_jacobian(eps, z)
    outputs = AdditiveNoiseSCM.means(scm, z)[..., 0]
    expected = 0.0
    for i in (ROOT, NUMBER):
        expected = expected + dist.Normal(outputs[:, i], scm.noise_scale[i]).log_prob(z[:, i, 0])
    for i, (a, b) in ENDS.items():
        s, label = scm.width * (b - a), z[:, i, 0] > (a + b) / 2
        one = probability(outputs[:, i])
        own = dist.Normal(torch.where(label, b, a).double(), s).log_prob(z[:, i, 0])
        part = 0.5 * math.erfc(-0.5 / scm.width / math.sqrt(2))
        expected = expected + torch.where(label, one, 1 - one).log() + own - math.log(part)
    assert_close(found, expected, **TOLERANCE)


def test_a_guide_over_z_has_its_density():
    scm = make()
    q = dist.TransformedDistribution(dist.Normal(noise(3), 0.3).to_event(2), [CausalTransform(scm).inv])
    eps = noise(3)
    expected = q.base_dist.log_prob(scm.to_endogenous(eps)) + scm.log_abs_det_jacobian(eps, scm.to_endogenous(eps))
    assert_close(q.log_prob(eps), expected, **TOLERANCE)


@pytest.mark.parametrize("concept", GRAPH.names)
def test_do_is_the_truncated_factorisation(concept):
    scm, eps = make(), noise(50)
    natural = scm.to_endogenous(eps)
    with torch.no_grad():
        z = poutine.do(scm, data={concept: torch.tensor(0.6)})(eps)
        assert_close(z, by_hand(scm, eps, {concept: 0.6}), rtol=0, atol=1e-7)
    changed = {concept, *GRAPH.descendants(concept)}
    for i, name in enumerate(GRAPH.names):
        assert torch.equal(z[:, i], natural[:, i]) == (name not in changed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_narrow_normals_keep_every_label_at_its_end(dtype):
    scm, eps = make(0.01, dtype), noise(2000, dtype=dtype)
    for do in (
        {},
        {"root": torch.tensor(3.0)},
        {"root": torch.tensor(-1e6)},
        {"number": torch.tensor(1e30), "switch": torch.tensor(0.0)},
    ):
        with torch.no_grad():
            z = poutine.do(scm, data=do)(eps)
        assert torch.isfinite(z).all()
        for i, (a, b) in ENDS.items():
            if GRAPH.names[i] not in do:
                label = (z[:, i] - a) / (b - a)
                assert ((label.abs() < 0.05) | ((label - 1).abs() < 0.05)).all()
    # Both labels occur.
    with torch.no_grad():
        share = (scm.to_endogenous(eps)[:, SWITCH] > 0.25).double().mean()
    assert 0.05 < share < 0.95


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [-30.0, -3.0, 0.0, 3.0, 30.0])
def test_abduction_keeps_the_label_whatever_the_value(logit, dtype):
    """What lies between the labels, or far away, is read as the nearer label, and stays it."""
    graph = CausalGraph(["a", "b"], [("a", "b")])
    scm = BinaryEffectSCM(graph, binary=[("b", -1.0, 1.0)]).to(dtype)
    scm.output_bias.data[1] = logit
    values = torch.cat([torch.linspace(-4, 4, 1001), torch.tensor([-1e30, -1e3, -1e-6, 1e-6, 1e3, 1e30])]).to(dtype)
    values = values[values != 0].requires_grad_()
    z = torch.stack([torch.zeros_like(values), values], -1)[..., None]
    eps = scm.to_exogenous(z)
    again = scm.to_endogenous(eps)[:, 1, 0]
    assert torch.isfinite(eps).all()
    assert torch.equal(again > 0, values > 0)
    assert ((again.abs() - 1).abs() < 0.3).all()
    log_det = scm.log_abs_det_jacobian(eps, z)
    finite = values.abs() < 1e4
    grads = torch.autograd.grad(eps[finite].sum() + log_det[finite].sum(), [values, scm.output_bias])
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_what_is_read_between_labels_is_not_on_the_threshold():
    """An image read as 0.95 has the label 1, and keeps it where its cause hardly changes."""
    scm = make(width=0.01)
    z = scm.to_endogenous(noise(400))
    for index, (a, b) in ENDS.items():
        is_one = z[:, index] > (a + b) / 2
        z[:, index] = torch.where(is_one, b - 0.05 * (b - a), a + 0.05 * (b - a))
    settled, flips = scm.settled(z), []
    assert_close(scm.to_endogenous(scm.to_exogenous(settled)), settled, rtol=0, atol=1e-6)
    q = dist.TransformedDistribution(dist.Normal(z, 1e-3).to_event(2), [CausalTransform(scm).inv])
    for eps in (exogenous_mean(q), scm.to_exogenous(z)):
        moved = eps.clone()
        moved[:, ROOT] += 0.001
        before, after = (scm.to_endogenous(e)[:, [LEAF, SWITCH], 0] > torch.tensor([0.5, 0.25]) for e in (eps, moved))
        assert torch.equal(before, z[:, [LEAF, SWITCH], 0] > torch.tensor([0.5, 0.25]))
        flips.append((before != after).double().mean().item())
    assert flips[0] == 0
    assert flips[1] > 0.2


def test_label_fit_is_logistic_regression():
    torch.manual_seed(0)
    graph = CausalGraph(["cause", "sign"], [("cause", "sign")])
    cause = torch.randn(4000, dtype=torch.float64)
    label = (torch.rand(4000, dtype=torch.float64) < torch.sigmoid(2 * cause - 1)).double()
    labels = torch.stack([cause, label], -1)
    prior = FixedPrior.from_labels(labels, std=0.01).double()
    scm = BinaryEffectSCM.from_labels(graph, labels, prior, hidden=8, learn_noise=True).double()

    class Model:
        pass

    model = Model()
    model.scm, model.prior = scm, prior
    jitter(0.3, scm)
    z = prior(labels).mean
    logit = AdditiveNoiseSCM.means(scm, z)[:, 1, 0]
    loss = LabelFit()(model, None, labels)
    s = scm.width * scm.gap[1, 0]
    cross_entropy = torch.nn.functional.binary_cross_entropy(probability(logit), label, reduction="sum")
    constant = 4000 * (math.log(s) + 0.5 * math.log(2 * math.pi) + math.log(scm.side))
    root = -dist.Normal(0.0, scm.noise_scale[0]).log_prob(z[:, 0, 0]).sum()
    assert_close(loss, cross_entropy + constant + root)
    found = torch.autograd.grad(loss, scm.output_bias, retain_graph=True)[0]
    assert_close(found[1], torch.autograd.grad(cross_entropy, scm.output_bias)[0][1])


def test_ends_are_where_the_prior_has_the_labels():
    labels = torch.tensor([[0.0, 3.0, 1.0], [1.0, 4.0, 0.0], [1.0, 5.0, float("nan")]])
    graph = CausalGraph(["root", "number", "switch"], [("root", "number"), ("root", "switch")])
    prior = FixedPrior.from_labels(labels, std=0.1)
    scm = BinaryEffectSCM.from_labels(graph, labels, prior)
    ((name, a, b),) = scm.init_args["binary"]
    assert name == "switch"
    ends = prior(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])).mean[:, 2, 0].tolist()
    assert [a, b] == pytest.approx(ends)


def population(width, size=3000):
    """A trained causal layer, and labels of which the second is 1 with probability sigmoid(2 cause - 1)."""
    torch.manual_seed(0)
    graph = CausalGraph(["cause", "sign"], [("cause", "sign")])
    cause = torch.randn(size)
    labels = torch.stack([cause, (torch.rand(size) < torch.sigmoid(2 * cause - 1)).float()], -1)
    prior = FixedPrior.from_labels(labels, std=0.02)
    scm = BinaryEffectSCM.from_labels(graph, labels, prior, width=width, hidden=8, learn_noise=True)
    model = CausalVAE(scm, prior, MLPDecoder((1, 4, 4), 2, hidden=8), GaussianLikelihood())
    fit_mechanisms(model, labels, steps=300)
    return model, labels


def test_counterfactual_labels_are_binary_and_as_frequent_as_they_should_be():
    # The width of the labels' own spread, 0.02 standard deviations.
    width = 0.02 * 0.4
    model, labels = population(width)
    scm, prior = model.scm, model.prior
    spread = prior.std.flatten()[0] if prior.std.ndim else prior.std
    samples = prior(labels).mean + spread * torch.randn(len(labels), 2, 1)
    # The posterior's spread in the binary concept is the mechanism's.
    samples[:, 1] = prior(labels).mean[:, 1] + scm.width * scm.gap[1] * torch.randn(len(labels), 1)
    with torch.no_grad():
        noise = {"eps": scm.to_exogenous(samples)}
        world = poutine.do(model, data=model.latent({"cause": -0.5}))
        read = prior.to_labels(predict(world, noise, pixel_noise=False).nodes["z"]["value"])[:, 1]
    assert ((read.abs() < 0.05) | ((read - 1).abs() < 0.05)).all()
    became = (read > 0.5).double()
    before, after = torch.sigmoid(2 * labels[:, 0] - 1), torch.sigmoid(torch.tensor(-2.0))
    ones = labels[:, 1] == 1
    # P(1 | 1) = min(1, p' / p), P(1 | 0) = max(0, p' - p) / (1 - p).
    assert became[ones].mean().item() == pytest.approx((after / before[ones]).clamp(max=1).mean().item(), abs=0.05)
    rises = (after - before[~ones]).clamp(min=0) / (1 - before[~ones])
    assert became[~ones].mean().item() == pytest.approx(rises.mean().item(), abs=0.03)
    assert became.mean().item() == pytest.approx(after.item(), abs=0.04)


def test_at_the_posterior_mean_it_is_the_more_probable_label():
    model, labels = population(0.01)
    z = model.prior(labels).mean
    with torch.no_grad():
        noise = {"eps": model.scm.to_exogenous(z)}
        assert_close(predict(model, noise, pixel_noise=False).nodes["z"]["value"], z, rtol=0, atol=1e-3)
        world = poutine.do(model, data=model.latent({"cause": -0.5}))
        read = model.prior.to_labels(predict(world, noise, pixel_noise=False).nodes["z"]["value"])[:, 1]
        p = (
            probability(AdditiveNoiseSCM.means(model.scm, x)[:, 1, 0])
            for x in (z, model.prior(torch.full_like(labels, -0.5)).mean)
        )
    before, after = p
    expected = torch.where(labels[:, 1] == 1, after > before / 2, (1 - after) < (1 - before) / 2)
    sure = (after - before / 2).abs().minimum(((1 - after) - (1 - before) / 2).abs()) > 1e-3
    assert torch.equal((read > 0.5)[sure], expected[sure])
    assert (read > 0.5).any()


def test_additive_noise_gives_labels_in_between():
    """What this layer is for."""
    model, labels = population(0.01)
    additive = CausalVAE(AdditiveNoiseSCM(model.graph, hidden=8, learn_noise=True), model.prior, model.decoder, model.likelihood)
    fit_mechanisms(additive, labels, steps=300)
    off = []
    for each in (additive, model):
        with torch.no_grad():
            noise = {"eps": each.scm.to_exogenous(each.prior(labels).mean)}
            world = poutine.do(each, data=each.latent({"cause": -0.5}))
            read = each.prior.to_labels(predict(world, noise, pixel_noise=False).nodes["z"]["value"])[:, 1]
        off.append(read.abs().minimum((read - 1).abs()))
    assert (off[0] > 0.1).double().mean() > 0.5
    assert off[1].max() < 0.05


def test_a_whole_pair_saves_loads_and_answers(tmp_path):
    model, labels = population(0.01, size=200)
    guide = amortized("endogenous", MLPEncoder((1, 4, 4), 8, hidden=8), model.scm, init_scale=0.01)
    x = torch.rand(5, 1, 4, 4)
    _, z = counterfactual(model, guide, x, {"cause": 1.0}, return_latents=True)
    read = model.prior.to_labels(z)[:, 1]
    assert ((read.abs() < 0.05) | ((read - 1).abs() < 0.05)).all()
    save(Run(model, guide), tmp_path)
    again = load(tmp_path)
    assert torch.equal(
        counterfactual(again.model, again.guide, x, {"cause": 1.0}), counterfactual(model, guide, x, {"cause": 1.0})
    )
    effect = ate(model, guide, x, {"cause": 3.0}, {"cause": -3.0}, outcome="sign")
    assert abs(effect.value) <= 1.1


def test_soft_interventions_see_the_natural_label():
    scm, eps = make(0.01), noise(20)
    seen = []
    soft_do(scm, {"switch": lambda natural, parents: seen.append(natural) or natural})(eps)
    assert_close(seen[0], scm.to_endogenous(eps)[:, SWITCH])


def test_strengths_of_edges_are_of_probabilities():
    scm = make(0.01)
    strength = scm.sensitivity(noise(100))
    assert torch.equal(strength > 0, GRAPH.adjacency > 0)
    assert strength[ROOT, SWITCH] > 0.01


def test_without_binary_effects_it_is_the_additive_layer():
    scm, additive = BinaryEffectSCM(GRAPH, 2, hidden=8, learn_noise=True), AdditiveNoiseSCM(GRAPH, 2, hidden=8, learn_noise=True)
    jitter(0.5, scm)
    additive.load_state_dict(scm.state_dict())
    eps = torch.randn(6, 4, 2)
    z = additive.to_endogenous(eps)
    assert torch.equal(scm.to_endogenous(eps), z)
    assert torch.equal(scm.to_exogenous(z), additive.to_exogenous(z))
    assert torch.equal(scm.log_abs_det_jacobian(eps, z), additive.log_abs_det_jacobian(eps, z))


@pytest.mark.parametrize(
    ("options", "argument", "words"),
    [
        ({"binary": [("root", 0.0, 1.0)]}, "binary", "root"),
        ({"binary": [("switch", 1.0, 0.0)]}, "binary", "increasing"),
        ({"binary": [("switch", 0.0, math.inf)]}, "binary", "finite"),
        ({"binary": [("switch", 0.0, 1.0), ("switch", 0.0, 1.0)]}, "binary", "once"),
        ({"binary": BINARY, "dim": 2}, "dim", "1"),
        ({"binary": BINARY, "width": 0.0}, "width", "> 0"),
    ],
    ids=["root", "order", "infinite", "twice", "dim", "width"],
)
def test_errors(options, argument, words):
    with raises(argument, words) as error:
        BinaryEffectSCM(GRAPH, **options)
    check_one_line(error)
