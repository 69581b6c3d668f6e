"""Stage two: the graph search as a term of the loss, how `fit` trains terms, and the model around the graph found."""

import re
from types import SimpleNamespace

import pytest
import torch
from pyro.distributions import TransformedDistribution
from torch import nn
from torch.distributions import Normal

from causalvae_pyro import (
    AmortizedGuide,
    CausalELBO,
    CausalGraph,
    CausalVAE,
    FixedPrior,
    GaussianLikelihood,
    LinearSCM,
    encode,
    fit,
)
from causalvae_pyro.discovery import GraphSearch, LinearCandidates, NetworkCandidates, allowed_edges, discover_graph, with_graph
from causalvae_pyro.discovery.acyclicity import exponential_acyclicity, polynomial_acyclicity
from causalvae_pyro.guides import (
    BlockDiagonalNormal,
    Family,
    FullRankNormal,
    IterativeGuide,
    LabelConditionedGuide,
    NormalizingFlow,
)
from causalvae_pyro.networks import MLPDecoder, MLPEncoder
from causalvae_pyro.objectives import LabelFit
from causalvae_pyro.training import Callback, NonFiniteLossError

NAMES = ("p", "q", "r")


class ShiftedGuide(AmortizedGuide):
    """With a parameter and a buffer of its own."""

    def __init__(self, encoder, scm, **options):
        super().__init__(encoder, scm, **options)
        self.shift = nn.Parameter(torch.zeros(()))
        self.register_buffer("factor", torch.ones(()))

    def posterior(self, x, labels=None):
        posterior = super().posterior(x, labels)
        loc, scale = self.head(self.encoder(x, labels))
        q = self.family.distribution(self.factor * (loc + self.shift), scale)
        return posterior | {"eps": TransformedDistribution(q, posterior["eps"].transforms)}


GUIDES = [AmortizedGuide, FullRankNormal, BlockDiagonalNormal, NormalizingFlow, ShiftedGuide]


@pytest.fixture
def data():
    labels = torch.randn(24, 3)
    labels[:, 1] += 2 * labels[:, 0]
    return torch.rand(24, 3, 8, 8), labels


def make(data, dim=1, guide=AmortizedGuide, noise_dim=0, **options):
    images, labels = data
    scm = LinearSCM(CausalGraph(NAMES), dim=dim)
    decoder = MLPDecoder.from_images(images, 3, dim=dim, hidden=8, noise_dim=noise_dim)
    model = CausalVAE(scm, FixedPrior.from_labels(labels, dim=dim), decoder, GaussianLikelihood(), noise_dim=noise_dim)
    if issubclass(guide, Family):
        guide, options = AmortizedGuide, options | {"family": guide()}
    return model, guide(MLPEncoder((3, 8, 8), 6, hidden=8), scm, noise_dim=noise_dim, **options)


def random_search(dim=1, **options):
    """At random strengths, noise scales and multiplier."""
    search = GraphSearch(NetworkCandidates(allowed_edges(NAMES), dim, hidden=4), **options)
    for parameter in search.parameters():
        nn.init.normal_(parameter, std=0.2)
    search.lagrangian.update(0.3)
    return search


def call(search, z):
    return search(None, SimpleNamespace(nodes={"z": {"value": z}}), None)


def train(pair, data, terms, **options):
    options = {"epochs": 2, "batch_size": 10, "device": "cpu", "progress": False} | options
    return fit(*pair, data, objective=CausalELBO(terms=terms), **options)


# The term ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("particles", [(), (3,)], ids=["one", "three"])
def test_value_by_hand(dim, particles):
    search = random_search(dim, acyclicity=polynomial_acyclicity, sparsity=0.1, shrinkage=0.03, unit=0.7)
    z = torch.randn(*particles, 5, 3, dim)
    scale = 0.02 + search.log_noise.exp()
    log_prob = Normal(search.candidates(z), scale[:, None]).log_prob(z).sum() / (particles or (1,))[0]
    strengths = search.candidates.strengths()
    h = polynomial_acyclicity(strengths / 0.7)
    penalties = 0.1 * strengths.sum() + 0.03 * search.candidates.shrinkage() + 0.3 * h + 0.5 * h**2
    torch.testing.assert_close(call(search, z), -log_prob + 5 * penalties)


def test_candidates_of_one_dimension_see_the_mean_of_each_concept():
    search = random_search()
    z = torch.randn(5, 3, 4)
    torch.testing.assert_close(call(search, z), call(search, z.mean(-1, keepdim=True)))


def test_search_goes_on_from_a_discovery(data):
    found = discover_graph(data[1], NAMES, rounds=2, steps=20, refine=False, unit=0.1)
    multiplier = found.lagrangian.multiplier.item()
    assert multiplier == found.history[-1]["multiplier"] > 0
    search = GraphSearch(found.candidates, lagrangian=found.lagrangian)
    assert search.lagrangian is found.lagrangian
    search.on_epoch_end(None)
    assert torch.equal(search.snapshots[0], found.strengths)
    assert search.lagrangian.multiplier > multiplier
    assert GraphSearch(found.candidates).lagrangian.multiplier == 0


@pytest.mark.parametrize("vectorize", [True, False])
def test_particles_are_averaged(vectorize, data):
    values = []

    class Spy(GraphSearch):
        def __call__(self, model, trace, labels):
            z = trace.nodes["z"]["value"]
            for own in z.reshape(-1, *z.shape[-3:]):
                values.append(call(search, own))
            return super().__call__(model, trace, labels)

    search, model, guide = random_search(), *make(data)
    spy = Spy(search.candidates, weight=0.5)
    spy.load_state_dict(search.state_dict())
    objective = CausalELBO(terms=[spy], num_particles=3, vectorize_particles=vectorize)
    objective.differentiable_loss(model, guide, *data)
    assert len(values) == 3
    assert max(values) > min(values)
    torch.testing.assert_close(objective.last_terms["graph_search"], sum(values) / 3)


def test_weight_counts_in_the_loss(data):
    model, guide = make(data)
    losses, terms = [], []
    for weight in (1.0, 2.5):
        torch.manual_seed(0)
        search = GraphSearch(LinearCandidates(allowed_edges(NAMES)), weight=weight)
        objective = CausalELBO(terms=[search])
        losses.append(objective.differentiable_loss(model, guide, *data).item())
        terms.append(objective.last_terms["graph_search"].item())
    assert terms[0] == terms[1]
    assert losses[1] - losses[0] == pytest.approx(1.5 * terms[0], rel=1e-4)


def test_gradient_reaches_candidates_noise_and_encoder(data):
    search, (model, guide) = random_search(), make(data)
    with_term, without = (CausalELBO(terms=terms).differentiable_loss(model, guide, *data) for terms in ([search], []))
    for parameter in search.parameters():
        (gradient,) = torch.autograd.grad(with_term, parameter, retain_graph=True)
        assert (gradient != 0).any()
    first = next(guide.encoder.parameters())
    z = torch.randn(4, 3, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(call(search, z), z)
    assert (gradient != 0).all()
    both, alone = (torch.autograd.grad(loss, first)[0] for loss in (with_term, without))
    assert (both - alone).abs().max() > 1e-3


def test_on_epoch_end_updates_the_multiplier_and_keeps_a_copy():
    search = random_search(unit=0.7)
    before = search.candidates.strengths().detach()
    search.on_epoch_end(None)
    h = exponential_acyclicity(before / 0.7).item()
    assert search.lagrangian.multiplier.item() == pytest.approx(0.3 + h, rel=1e-5)
    nn.init.zeros_(search.candidates.input)
    assert torch.equal(search.snapshots[0], before)
    assert not search.snapshots[0].requires_grad


def test_graph_of_the_present_strengths():
    search = GraphSearch(LinearCandidates(allowed_edges(NAMES)))
    with torch.no_grad():
        search.candidates.weight.copy_(torch.tensor([[0.0, -0.5, 0.04], [0.3, 0.0, 0.1], [0.0, 0.0, 0.0]]))
    assert search.graph(NAMES) == CausalGraph(NAMES, [("p", "q"), ("q", "r")])
    assert search.graph(NAMES, threshold=0.2) == CausalGraph(NAMES, [("p", "q")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, "weight: got 0.0; must be > 0"),
        ({"unit": 0.0}, "unit: got 0.0; must be > 0"),
        ({"sparsity": -1.0}, "sparsity: got -1.0; must be >= 0"),
        ({"shrinkage": -1.0}, "shrinkage: got -1.0; must be >= 0"),
    ],
)
def test_errors_of_the_search(options, message):
    with pytest.raises(ValueError, match=message):
        GraphSearch(LinearCandidates(torch.ones(2, 2)), **options)


# Terms in training ---------------------------------------------------------------------------------------------------


def test_fit_trains_the_search(data):
    pair, search = make(data), GraphSearch(NetworkCandidates(allowed_edges(NAMES), hidden=4), unit=0.2)
    before = {name: value.clone() for name, value in search.named_parameters()}
    history = train(pair, data, [search], epochs=6, lr=0.02)
    assert all((value != before[name]).any() for name, value in search.named_parameters())
    assert len(search.snapshots) == 6
    assert torch.equal(search.snapshots[-1], search.candidates.strengths())
    assert search.snapshots[0].sum() > 0
    # One update of the multiplier per epoch.
    by_hand = type(search.lagrangian)()
    for strengths in search.snapshots:
        by_hand.update(exponential_acyclicity(strengths / 0.2))
    assert by_hand.multiplier > 0
    assert search.lagrangian.state_dict() == by_hand.state_dict()
    assert history["graph_search"][-1] < history["graph_search"][0]


@pytest.mark.parametrize("vectorize", [True, False])
def test_fit_trains_the_search_with_particles(vectorize, data):
    pair, search = make(data, dim=2), GraphSearch(NetworkCandidates(allowed_edges(NAMES), 2, hidden=4))
    objective = CausalELBO(terms=[search, LabelFit()], num_particles=3, vectorize_particles=vectorize)
    fit(*pair, data, objective=objective, epochs=1, batch_size=10, device="cpu", progress=False)
    assert search.candidates.strengths().sum() > 0


class Term(nn.Module):
    """A term that learns one number, and writes down what happens to it."""

    name, weight = "term", 1.0

    def __init__(self, log, shared=None):
        super().__init__()
        self.log, self.shared = log, shared
        self.number, self.frozen = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()), requires_grad=False)

    def __call__(self, model, trace, labels):
        self.log.append(("call", self.training))
        return (self.number * self.frozen).square() * len(labels)

    def on_epoch_end(self, state):
        self.log.append(("term", state.epoch, len(state.history)))


class Listener(Callback):
    def __init__(self, log, error=None):
        self.log, self.error = log, error

    def on_epoch_end(self, state):
        self.log.append(("callback", state.epoch, len(state.history)))
        if self.error is not None:
            raise self.error


def test_fit_trains_terms_and_tells_them_of_every_epoch(data):
    log = []
    pair, term = make(data), Term(log)
    term.eval()
    train(pair, data, [LabelFit(), term], callbacks=[Listener(log)], lr=0.1)
    assert term.number.item() != 1.0
    assert term.frozen.item() == 1.0
    steps = [("call", True)] * 3
    assert log == [*steps, ("term", 1, 1), ("callback", 1, 1), *steps, ("term", 2, 2), ("callback", 2, 2)]
    assert not any(module.training for module in (*pair, term))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), NonFiniteLossError("loss"), RuntimeError("other")])
def test_terms_are_left_in_evaluation_mode_after_an_error_too(error, data):
    pair, term = make(data), Term([])
    with pytest.raises(type(error)):
        train(pair, data, [term], callbacks=[Listener([], error)])
    assert not any(module.training for module in (*pair, term))


def test_each_parameter_is_trained_once_where_a_term_shares_some(data):
    given = []

    def optimizer(parameters):
        given.extend(parameters)
        return torch.optim.SGD(given, lr=0.0)

    pair = make(data)
    term, other = Term([], shared=pair[0].decoder), Term([], shared=pair[1])
    other.name = "other"
    train(pair, data, [term, other], optimizer=optimizer, epochs=1)
    expected = [*pair[0].parameters(), *pair[1].parameters(), term.number, other.number]
    assert len(given) == len(expected)
    assert {id(p) for p in given} == {id(p) for p in expected if p.requires_grad}


def test_terms_need_not_be_modules(data):
    class Plain:
        name, weight, epochs = "plain", 1.0, 0

        def __call__(self, model, trace, labels):
            return trace.nodes["z"]["value"].sum()

        def on_epoch_end(self, state):
            self.epochs += 1

    term = Plain()
    train(make(data), data, [term])
    assert term.epochs == 2


# The model around the graph found ------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_dim", [0, 2])
@pytest.mark.parametrize("guide", GUIDES)
def test_with_graph_keeps_everything_but_the_layer(guide, noise_dim, data):
    model, q = make(data, dim=2, guide=guide, noise_dim=noise_dim, min_scale=0.2, init_scale=0.3)
    train((model, q), data, [], lr=0.05)
    for buffer in q.buffers(recurse=False):
        buffer.mul_(2)
    graph = CausalGraph(NAMES, [("p", "q"), ("q", "r")])
    new, new_q = with_graph(model, q, graph)
    assert new.graph == graph
    assert new_q.scm is new.scm
    assert new.scm.dim == 2
    assert model.graph == q.scm.graph == CausalGraph(NAMES)
    for part in ("prior", "decoder", "likelihood"):
        assert getattr(new, part) is getattr(model, part)
    assert type(new_q) is type(q)
    assert new_q.family is q.family
    assert {id(parameter) for parameter in new_q.parameters()} == {id(parameter) for parameter in q.parameters()}
    assert (new.noise_dim, new_q.noise_dim, new_q.init_args["min_scale"]) == (noise_dim, noise_dim, 0.2)
    means, new_means = (encode(*pair, data[0]) for pair in ((model, q), (new, new_q)))
    torch.testing.assert_close(new_means, means, atol=1e-5, rtol=1e-5)
    assert means.std() > 0.01
    # And training goes on.
    before = [parameter.clone() for parameter in new.scm.parameters()]
    train((new, new_q), data, [LabelFit()], epochs=1)
    assert any((parameter != old).any() for parameter, old in zip(new.scm.parameters(), before, strict=True))


def test_with_graph_goes_through_wrappers(data):
    model, q = make(data)
    wrapped = LabelConditionedGuide(IterativeGuide(q, model, refinements=2), model)
    new, new_q = with_graph(model, wrapped, CausalGraph(NAMES, [("p", "q")]))
    assert (type(new_q), type(new_q.guide), new_q.guide.refinements) == (LabelConditionedGuide, IterativeGuide, 2)
    assert new_q.model is new_q.guide.model is new
    assert new_q.guide.guide.scm is new.scm
    assert new_q.guide.guide.encoder is q.encoder


def test_with_graph_takes_a_guide_over_z(data):
    model, q = make(data)
    with pytest.raises(ValueError, match="^guide: got one over eps, which depends on the graph; must be a guide over z"):
        with_graph(model, AmortizedGuide(q.encoder, num_concepts=3), CausalGraph(NAMES, [("p", "q")]))


def test_with_graph_takes_another_layer_and_a_noise_encoder(data):
    images, _ = data
    graph = CausalGraph(NAMES, [("p", "q")])
    model, guide = make(data, noise_dim=1, noise_encoder=MLPEncoder((3, 8, 8), 4, hidden=4))
    scm = LinearSCM(graph)
    new, q = with_graph(model, guide, graph, scm)
    assert new.scm is q.scm is scm
    assert q.noise_encoder is guide.noise_encoder
    own, old = (own.posterior(images)["eps_x"] for own in (q, guide))
    assert torch.equal(own.mean, old.mean)


@pytest.mark.parametrize(
    ("names", "scm", "message"),
    [
        (("q", "p", "r"), None, "graph: got the concepts ['q', 'p', 'r']; must be ['p', 'q', 'r'], in this order"),
        (NAMES, LinearSCM(CausalGraph(NAMES, [("q", "p")])), "scm: got a layer of CausalGraph(['p', 'q', 'r']: q -> p); must be"),
    ],
    ids=["names", "scm"],
)
def test_errors_of_with_graph(names, scm, message, data):
    with pytest.raises(ValueError, match=re.escape(message)):
        with_graph(*make(data), CausalGraph(names, [("p", "q")]), scm)
