"""Categories: the Gumbel-max model by its own definition, exact inverses and densities, interventions that give kinds."""

import numpy as np
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro import AdditiveNoiseSCM, CausalGraph, CausalVAE, GaussianLikelihood, Run, ate, counterfactual, load, save
from causalvae_pyro.interventions import Shift, intervene, predict
from causalvae_pyro.networks import MLPDecoder, MLPEncoder
from causalvae_pyro.objectives import LabelFit
from causalvae_pyro.priors import CategoricalPrior, FixedPrior
from causalvae_pyro.recipes import fit_mechanisms
from causalvae_pyro.scm import CategoricalSCM, CausalTransform, LinearSCM, MaskLayer, SplineFlowSCM
from causalvae_pyro.scm.base import exogenous_mean
from tests.builders import amortized, check_one_line, jitter, raises

# Against the index order: root -> fruit -> leaf, root -> number -> leaf; fruit has four kinds, leaf three, root is a number.
GRAPH = CausalGraph(
    ["leaf", "number", "fruit", "root"], [("root", "fruit"), ("root", "number"), ("fruit", "leaf"), ("number", "leaf")]
)
LEAF, NUMBER, FRUIT, ROOT = range(4)
KINDS, DIM = [3, 0, 4, 0], 4


def make(inner=AdditiveNoiseSCM, width=0.1, dtype=torch.float64, kinds=KINDS):
    torch.manual_seed(0)
    options = {"learn_noise": True} if inner is AdditiveNoiseSCM else {}
    scm = CategoricalSCM(inner(GRAPH, DIM, hidden=8, **options), kinds, width=width, hidden=8).to(dtype)
    jitter(0.5, scm)
    return scm


@pytest.mark.parametrize("inner", [AdditiveNoiseSCM, SplineFlowSCM])
def test_inverse_and_determinant(inner):
    scm, eps = make(inner), torch.randn(50, 4, DIM, dtype=torch.float64)
    z = scm.to_endogenous(eps)
    assert_close(scm.to_exogenous(z), eps, rtol=1e-7, atol=1e-7)
    for k in range(3):
        jacobian = torch.autograd.functional.jacobian(scm.to_endogenous, eps[k]).reshape(16, 16)
        assert_close(torch.linalg.slogdet(jacobian).logabsdet, scm.log_abs_det_jacobian(eps, z)[k], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_gumbel_max_model_of_the_noise(dtype):
    """The kind is the largest of the log-probabilities plus Gumbel variables, which are a function of the noise alone."""
    scm, eps = make(dtype=dtype), torch.randn(2000, 4, DIM, dtype=dtype)
    z = scm.to_endogenous(eps)
    gumbel = -torch.log(-torch.special.log_ndtr(eps))
    for index, k in ((LEAF, 3), (FRUIT, 4)):
        log_weights = scm._weights(z, [index])[:, 0, :k].log()
        assert torch.equal((log_weights + gumbel[:, index, :k]).argmax(-1), z[:, index, :k].argmax(-1))
    # Kinds are near their unit vectors, whatever the noise.
    nearest = torch.nn.functional.one_hot(z[:, FRUIT].argmax(-1), DIM)
    assert (z[:, FRUIT] - nearest).abs().max() < 9 * scm.width
    assert_close(scm.to_endogenous(scm.to_exogenous(z)).argmax(-1)[:, [LEAF, FRUIT]], z.argmax(-1)[:, [LEAF, FRUIT]])


def test_kinds_are_as_frequent_as_the_softmax_says():
    scm = make()
    z = torch.randn(1, 4, DIM, dtype=torch.float64).expand(100_000, -1, -1)
    weights = scm._weights(z, [FRUIT])
    drawn = scm._value(weights, torch.randn(100_000, 1, DIM, dtype=torch.float64))[:, 0].argmax(-1)
    assert_close(torch.bincount(drawn, minlength=4) / len(drawn), weights[0, 0].float(), rtol=0, atol=0.006)


def test_abduction_is_the_posterior_of_the_gumbels_given_the_kind():
    """Counterfactual kinds are as frequent as by rejection: Gumbels from their prior, kept where they give the kind observed."""
    scm = make()
    root, other = (torch.full((60_000, 4, DIM), value, dtype=torch.float64) for value in (0.3, -0.8))
    before, after = (scm._weights(z, [FRUIT])[:, 0].log() for z in (root, other))
    gumbel = -torch.log(-torch.log(torch.rand(60_000, DIM, dtype=torch.float64)))
    observed = (before + gumbel).argmax(-1)
    kind = int(torch.bincount(observed).argsort()[-2])
    expected = torch.bincount((after + gumbel).argmax(-1)[observed == kind], minlength=4)
    # What of the noise the kind leaves open is its place in the normal.
    z = root.clone()
    place = scm.width * torch.randn(60_000, DIM, dtype=torch.float64)
    z[:, FRUIT] = place + torch.nn.functional.one_hot(torch.tensor(kind), DIM)
    eps = scm.to_exogenous(z)[:, [FRUIT]]
    found = torch.bincount(scm._value(scm._weights(other, [FRUIT]), eps)[:, 0].argmax(-1), minlength=4)
    assert expected.count_nonzero() > 1
    assert_close(found / found.sum(), expected / expected.sum(), rtol=0, atol=0.015)
    assert (scm._value(scm._weights(root, [FRUIT]), eps)[:, 0].argmax(-1) == kind).all()


def test_label_fit_is_softmax_regression():
    torch.manual_seed(0)
    graph, count = CausalGraph(["cause", "kind"], [("cause", "kind")]), 3000
    cause = torch.randn(count)
    logits = torch.stack([1.5 * cause, torch.zeros(count), -cause - 1], 1)
    labels = torch.stack([cause, torch.distributions.Categorical(logits=logits).sample().float()], 1)
    prior = CategoricalPrior.from_labels(labels, [0, 3], std=0.05)
    scm = CategoricalSCM(AdditiveNoiseSCM(graph, 3, hidden=8), prior.kinds)
    model = CausalVAE(scm, prior, MLPDecoder((1, 2, 2), 2, 3), GaussianLikelihood())

    def loss():
        weights = scm._weights(prior(labels).mean, [1])[:, 0]
        return -weights.gather(1, labels[:, 1:].long()).log().sum()

    constant = LabelFit()(model, None, labels) - loss()
    fit_mechanisms(model, labels, steps=150)
    assert_close(LabelFit()(model, None, labels) - loss(), constant, rtol=1e-5, atol=1e-2)
    found = scm._weights(prior(torch.tensor([[-1.0, 0.0], [1.0, 0.0]])).mean, [1])[:, 0]
    truth = torch.tensor([[-1.5, 0.0, 0.0], [1.5, 0.0, -2.0]]).softmax(-1)
    assert_close(found, truth, rtol=0, atol=0.08)


def pair(dtype=torch.float32):
    prior = CategoricalPrior([3, 0, ["apple", "pear", "plum", "fig"], 0], std=0.05)
    scm = make(width=0.05, dtype=dtype)
    model = CausalVAE(scm, prior.to(dtype), MLPDecoder((1, 4, 4), 4, DIM, hidden=8), GaussianLikelihood())
    guide = amortized("endogenous", MLPEncoder((1, 4, 4), 8, hidden=8), scm)
    jitter(0.3, model.decoder, guide)
    return model.to(dtype), guide.to(dtype)


def test_effects_of_an_intervention_are_kinds():
    model, guide = pair()
    x = torch.rand(20, 1, 4, 4)
    _, z = counterfactual(model, guide, x, {"root": 4.0}, return_latents=True)
    labels = model.prior.to_labels(z)
    assert_close(labels[:, ROOT], torch.full((20,), 4.0))
    for index, k in ((LEAF, 3), (FRUIT, 4)):
        assert_close(z[:, index], torch.nn.functional.one_hot(labels[:, index].long(), DIM).float(), rtol=0, atol=0.5)
        assert labels[:, index].long().unique().max() < k


def test_kinds_are_set_by_number_or_word():
    model, guide = pair()
    x = torch.rand(3, 1, 4, 4)
    images, z = counterfactual(model, guide, x, {"fruit": "plum"}, return_latents=True)
    assert_close(z[:, FRUIT], torch.tensor([0.0, 0.0, 1.0, 0.0]).expand(3, -1))
    assert torch.equal(images, counterfactual(model, guide, x, {"fruit": 2}))
    each = counterfactual(model, guide, x, {"fruit": ["apple", "fig", "plum"]})
    assert torch.equal(each, counterfactual(model, guide, x, {"fruit": torch.tensor([0.0, 3.0, 2.0])}))
    assert torch.equal(each[2], images[2])
    assert torch.equal(each, counterfactual(model, guide, x, {"fruit": np.array(["apple", "fig", "plum"])}))
    left = counterfactual(model, guide, x, {"fruit": torch.tensor([torch.nan, 3.0, 2.0])})
    assert torch.equal(left[0], counterfactual(model, guide, x, {})[0])
    natural = model.prior.to_labels(counterfactual(model, guide, x, {}, return_latents=True)[1])[:, FRUIT]
    moved = counterfactual(model, guide, x, {"fruit": lambda kind, parents: 3 - kind}, return_latents=True)[1]
    assert_close(model.prior.to_labels(moved)[:, FRUIT], 3 - natural)


@pytest.mark.parametrize(
    ("do", "words"),
    [
        ({"fruit": "cherry"}, "'cherry'; must be one of apple, pear, plum, fig"),
        ({"fruit": 4}, "got 4; must be one of apple"),
        ({"leaf": 0.5}, "got 0.5; must be a whole number from 0 to 2"),
        ({"leaf": "apple"}, "'apple'; must be a whole number from 0 to 2"),
        ({"fruit": ["fig", "cherry"]}, "'cherry'"),
        ({"root": "apple"}, "expected a number"),
    ],
)
def test_what_is_no_kind_is_refused(do, words):
    model, _ = pair()
    with pytest.raises(ValueError, match=rf"do\['{next(iter(do))}'\]: .*{words}") as error:
        intervene(model, do)
    check_one_line(error)


def test_soft_interventions_have_to_give_kinds():
    model, guide = pair()
    with raises(r"do\['fruit'\]", "must be one of apple"):
        counterfactual(model, guide, torch.rand(2, 1, 4, 4), {"fruit": Shift(0.5)})
    with raises("outcome", "'leaf', a category"):
        ate(model, guide, torch.rand(2, 1, 4, 4), {"root": 0.0}, outcome="leaf")


def test_prior_samples_are_kinds_and_do_reaches_descendants_only():
    scm = make()
    eps = torch.randn(300, 4, DIM, dtype=torch.float64)
    z = scm.to_endogenous(eps)
    done = poutine.do(scm, {"fruit": torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)})(eps)
    assert torch.equal(done[:, [NUMBER, ROOT]], z[:, [NUMBER, ROOT]])
    assert not torch.equal(done[:, LEAF], z[:, LEAF])
    assert scm.sensitivity(z)[ROOT, FRUIT] > 0
    assert scm.means(z)[:, FRUIT].max(-1).values.min() > 0.5


def test_a_guide_over_z_has_its_density():
    scm, eps = make(), torch.randn(6, 4, DIM, dtype=torch.float64)
    z = scm.to_endogenous(eps)
    q = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(torch.zeros_like(z), 1.0).expand(z.shape), [CausalTransform(scm).inv]
    )
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum((-2, -1)) + scm.log_abs_det_jacobian(eps, z)
    assert_close(q.log_prob(eps), expected, rtol=1e-6, atol=1e-6)


def test_a_pair_is_saved_with_its_words(tmp_path):
    model, guide = pair()
    save(Run(model, guide), tmp_path)
    again, x = load(tmp_path), torch.rand(2, 1, 4, 4)
    do = {"fruit": "fig", "root": 1.0}
    assert torch.equal(counterfactual(again.model, again.guide, x, do), counterfactual(model, guide, x, do))
    assert again.model.prior.words == {FRUIT: ("apple", "pear", "plum", "fig")}


@pytest.mark.parametrize("width", [0.005, 0.05])
def test_what_is_read_between_kinds_stays_of_its_kind(width):
    """An image read as 0.9 of one kind and 0.1 of another has that kind, and no threshold is near."""
    scm = make(width=width)
    torch.manual_seed(1)
    z = scm.to_endogenous(torch.randn(400, 4, DIM, dtype=torch.float64))
    for index, k in ((LEAF, 3), (FRUIT, 4)):
        kind = torch.nn.functional.one_hot(z[:, index].argmax(-1), DIM).to(z)
        other = torch.nn.functional.one_hot((z[:, index].argmax(-1) + 1) % k, DIM).to(z)
        z[:, index] = 0.9 * kind + 0.1 * other
    settled = scm.settled(z)
    assert_close(scm.to_endogenous(scm.to_exogenous(settled)), settled, rtol=0, atol=1e-3)
    assert torch.equal(settled[:, [LEAF, FRUIT]].argmax(-1), z[:, [LEAF, FRUIT]].argmax(-1))
    assert_close(settled[:, [NUMBER, ROOT]], z[:, [NUMBER, ROOT]])
    flips = []
    for taken in (z, settled):
        q = dist.TransformedDistribution(dist.Normal(taken, 1e-3).to_event(2), [CausalTransform(scm).inv])
        eps = exogenous_mean(q) if taken is z else scm.to_exogenous(z)
        moved = eps.clone()
        moved[:, ROOT] += 0.02
        before, after = (scm.to_endogenous(e)[:, [LEAF, FRUIT]].argmax(-1) for e in (eps, moved))
        assert taken is not z or torch.equal(before, z[:, [LEAF, FRUIT]].argmax(-1))
        flips.append((before != after).double().mean().item())
    # Without, the noise of most lies on the threshold.
    assert flips[0] < 0.01
    assert width > 0.01 or flips[1] > 0.2


def test_missing_labels_and_null_interventions():
    model, guide = pair()
    labels = torch.tensor([[1.0, torch.nan, 3.0, 0.5], [torch.nan, 0.0, torch.nan, 0.5]])
    trace = poutine.trace(model).get_trace(torch.rand(2, 1, 4, 4), labels)
    assert trace.log_prob_sum().isfinite()
    drawn = poutine.trace(model).get_trace(labels=labels)
    z = drawn.nodes["z"]["value"]
    assert model.prior.to_labels(z)[0, [LEAF, FRUIT]].tolist() == [1, 3]
    noise = {"eps": drawn.nodes["eps"]["value"]}
    assert_close(predict(model, noise).nodes["z"]["value"], z, rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "argument", "words"),
    [
        ({"kinds": [3, 0, 5, 0]}, "kinds", "2 to dim = 4"),
        ({"kinds": [3, 0, 4]}, "kinds", "4 concepts"),
        ({"kinds": [1, 0, 4, 0]}, "kinds", "0 or 2"),
        ({"width": 0.3}, "width", "got 0.3"),
        ({"width": 0.0}, "width", "got 0.0"),
    ],
)
def test_errors(options, argument, words):
    with raises(argument, words) as error:
        make(**options)
    check_one_line(error)
    with pytest.raises(TypeError, match="scm: got MaskLayer, which has no log_slopes"):
        CategoricalSCM(MaskLayer(GRAPH, DIM), KINDS)
    assert CategoricalSCM(LinearSCM(GRAPH, DIM), KINDS).kinds == tuple(KINDS)


def test_the_prior():
    labels = torch.tensor([[1.0, 10.0], [0.0, 20.0], [2.0, 30.0], [torch.nan, 20.0]])
    prior = CategoricalPrior.from_labels(labels, [3, 0], std=0.1)
    mean = prior(labels[:3]).mean
    assert_close(mean[:, 0], torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    assert_close(mean[:, 1], FixedPrior.from_labels(labels[:, 1:], 3)(labels[:3, 1:]).mean[:, 0])
    assert_close(prior.to_labels(mean + 0.05 * torch.randn_like(mean))[:, 0], labels[:3, 0])
    assert_close(prior.to_labels(mean), labels[:3])
    with raises(r"labels\[:, 0\]", "got 3; must be a whole number from 0 to 2"):
        CategoricalPrior.from_labels(labels + 1, [3, 0])
    for kinds, words in (([1, 0], "got 1"), ([["a", "a"], 0], "as many different words"), ([-1, 0], "got -1")):
        with raises("kinds", words):
            CategoricalPrior(kinds)
    with raises("dim", "4 kinds need as many"):
        CategoricalPrior([4, 0], 3)
