"""The battery that every public family passes over both spaces, and what only correlated Gaussians and flows do."""

import copy
import itertools
import math
import re
from functools import partial
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.testing import assert_close

import causalvae_pyro.guides
from causalvae_pyro import (
    AdditiveNoiseSCM,
    AmortizedGuide,
    CausalELBO,
    CausalGraph,
    GaussianLikelihood,
    LinearSCM,
    Run,
    abduct,
    counterfactual,
    encode,
    fit,
    load,
    reconstruct,
    save,
)
from causalvae_pyro.distributions import BlockNormal
from causalvae_pyro.guides import BlockDiagonalNormal, DiagonalNormal, Family, FullRankNormal, NormalizingFlow
from causalvae_pyro.guides.families import GaussianHead
from causalvae_pyro.guides.flows import _FlowTransform
from causalvae_pyro.networks import MLPEncoder
from causalvae_pyro.objectives.divergences import kl_endogenous
from causalvae_pyro.scm import MaskLayer
from tests.builders import SPACES, amortized, jitter, make_pair

GRAPH = CausalGraph(["c", "a", "b"], [("a", "b"), ("a", "c"), ("b", "c")])
SHAPE, N, BATCH = (1, 4, 4), 3, 5
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


class Kind(NamedTuple):
    space: str
    family: type


PUBLIC = (getattr(causalvae_pyro.guides, name) for name in causalvae_pyro.guides.__all__)
FAMILIES = [public for public in PUBLIC if isinstance(public, type) and issubclass(public, Family) and public is not Family]


def kinds(families):
    return [Kind(*pair) for pair in itertools.product(SPACES, families)]


def every(kinds):
    return pytest.mark.parametrize("kind", kinds, ids=lambda kind: f"{kind.space}-{kind.family.__name__}")


CORRELATED, FLOWS = kinds([FullRankNormal, BlockDiagonalNormal]), kinds([NormalizingFlow])
every_guide, every_correlated, every_flow = every(kinds(FAMILIES)), every(CORRELATED), every(FLOWS)


def make(kind, dim=2, *, scm=AdditiveNoiseSCM, dtype=torch.float64, size=0.3, noise_dim=0, **options):
    """Model, guide and images, every parameter moved away from where it starts by about ``size``."""
    family = NormalizingFlow(hidden=16, bins=4) if kind in FLOWS else kind.family()
    options = {
        "dim": dim,
        "noise_dim": noise_dim,
        "family": family,
        "features": 7,
        "likelihood": GaussianLikelihood(0.3),
        **options,
    }
    layer = {} if scm is LinearSCM else {"hidden": 8}
    pair = make_pair(GRAPH, SHAPE, kind.space, scm=scm, layer_options=layer, prior_options={"std": 0.5}, dtype=dtype, **options)
    jitter(size, *pair)
    return *pair, torch.rand(BATCH, *SHAPE, dtype=dtype)


def base(guide, x):
    """The family's own distribution: that of ``z`` for a guide over ``z``."""
    q = guide.posterior(x)["eps"]
    return q if guide.scm is None else q.base_dist


def hand_made_factor(guide, features):
    """The Cholesky factor ``[batch, n d, n d]`` from the head's weights, entry by entry."""
    head, size = guide.head, N * guide.dim
    scale = head.min_scale + (features @ head.log_scale.weight.T + head.log_scale.bias).exp()
    entries = features @ head.lower.weight.T + head.lower.bias
    block = size if isinstance(guide.family, FullRankNormal) else guide.dim
    factor, taken = torch.zeros(len(features), size, size).double(), 0
    for row in range(size):
        factor[:, row, row] = scale[:, row]
    for start in range(0, size, block):
        for row in range(start, start + block):
            for column in range(start, row):
                factor[:, row, column] = scale[:, row] * entries[:, taken]
                taken += 1
    assert taken == entries.shape[1]
    return factor


# The battery ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2])
@every_guide
def test_site_and_shapes(kind, dim):
    _, guide, x = make(kind, dim, noise_dim=2)
    with poutine.trace() as tracer, pyro.plate("particles", 3, dim=-2):
        guide(x)
    site = tracer.trace.nodes["eps"]
    assert site["value"].shape == (3, BATCH, N, dim)
    assert (site["fn"].batch_shape, site["fn"].event_shape) == ((3, BATCH), (N, dim))
    assert site["fn"].log_prob(site["value"]).shape == (3, BATCH)
    assert site["fn"].has_rsample
    assert site["value"].requires_grad
    assert site["value"].std(0).min() > 0, "the particles differ"
    assert tracer.trace.nodes["eps_x"]["value"].shape == (3, BATCH, 2)


@pytest.mark.parametrize("dim", [1, 2])
@every_guide
def test_every_family_starts_as_the_diagonal_gaussian(kind, dim):
    _, guide, x = make(kind, dim, size=0.0, init_scale=0.25)
    features = guide.encoder(x)
    head = guide.head.gaussian if kind in FLOWS else guide.head
    expected = dist.Normal(head.loc(features).reshape(BATCH, N, dim), 0.25).to_event(2)
    value = expected.sample((4,))
    assert_close(base(guide, x).log_prob(value), expected.log_prob(value), rtol=1e-6, atol=1e-6)
    # And yet every parameter of the family learns.
    q = base(guide, x)
    (q.log_prob(q.rsample((50,))) - 0.1 * q.rsample((50,)).flatten(-2).cumsum(-1).square().sum(-1)).sum().backward()
    learned = {name for name, p in guide.head.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    # Inside a flow the last layers start at 0, and block the way to those before them for one step.
    assert learned >= {name for name, p in guide.head.named_parameters() if ".hyper." not in name or ".4." in name}
    # Shift, scale, widths, heights and slopes of every dimension.
    assert all((p.grad != 0).all() for name, p in guide.head.named_parameters() if ".4.bias" in name)


@pytest.mark.parametrize("dim", [1, 2])
@every_guide
def test_density_is_the_change_of_variables(kind, dim):
    """Against the Jacobian of the map from the standard normal, by automatic differentiation."""
    _, guide, x = make(kind, dim)
    q, scm = base(guide, x), guide.scm
    if kind in FLOWS:
        standard, xi = q.base_dist, torch.randn(BATCH, N * dim).double()

        def push(row, k):
            return q.transforms[0]._call(xi.clone().index_copy(0, torch.tensor([k]), row[None]))[k]
    else:
        factor = q.factor if isinstance(q, BlockNormal) else torch.diag_embed(q.base_dist.scale.flatten(1)).unflatten(1, (N, dim))
        standard, xi = dist.Normal(torch.zeros(BATCH, N * dim).double(), 1.0).to_event(1), torch.randn(BATCH, N * dim).double()

        def push(row, k):
            return q.mean[k] + factor[k] @ row

    def sample(row, k):
        return push(row, k) if scm is None else scm.to_exogenous(push(row, k))

    eps = torch.stack([sample(xi[k], k) for k in range(BATCH)])
    jacobian = torch.stack([torch.autograd.functional.jacobian(partial(sample, k=k), xi[k]) for k in range(BATCH)])
    expected = standard.log_prob(xi) - torch.linalg.slogdet(jacobian.flatten(1, 2)).logabsdet
    assert_close(guide.posterior(x)["eps"].log_prob(eps), expected, **TOLERANCE)


@pytest.mark.parametrize("sample_shape", [(), (3,)])
@every_guide
def test_a_fresh_samples_density_is_that_of_any_value(kind, sample_shape):
    _, guide, x = make(kind)
    q = guide.posterior(x)["eps"]
    eps = q.rsample(sample_shape)
    fresh, other = q.log_prob(eps), q.log_prob(eps.clone())
    assert_close(fresh, other, **TOLERANCE)
    parameters = list(guide.head.parameters())
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    found, wanted = (torch.autograd.grad(value.sum(), parameters, **options) for value in (fresh, other))
    for gradient, expected in zip(found, wanted, strict=True):
        assert_close(gradient, expected, rtol=1e-6, atol=1e-6)
    other = q.rsample(sample_shape)
    assert_close(q.log_prob(eps), q.log_prob(eps.clone()), **TOLERANCE)
    assert not torch.equal(eps, other)


@pytest.mark.thorough
@pytest.mark.parametrize("scm", [LinearSCM, AdditiveNoiseSCM, MaskLayer])
@every_guide
def test_objectives_train_it(kind, scm):
    model, guide, x = make(kind, scm=scm, dtype=torch.float32)
    labels = torch.randn(BATCH, N)
    vectorised = {"num_particles": 3, "vectorize_particles": True}
    for objective in (
        CausalELBO(1.0, 1.0),
        CausalELBO(0.3, 1.0, **vectorised),
        Trace_ELBO(),
        Trace_ELBO(**vectorised, max_plate_nesting=1),
        TraceMeanField_ELBO(),
    ):
        pyro.clear_param_store()
        before = [p.clone() for p in guide.head.parameters()]
        loss = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), objective).step(x, labels)
        assert math.isfinite(loss)
        assert all(torch.isfinite(p).all() for p in guide.parameters())
        assert all(not torch.equal(p, old) for p, old in zip(guide.head.parameters(), before, strict=True))


@pytest.mark.thorough
@every_guide
def test_particles_in_one_pass_are_particles_in_a_loop(kind):
    model, guide, x = make(kind)
    labels, losses = torch.randn(BATCH, N).double(), []
    for vectorize in (True, False):
        pyro.set_rng_seed(2)
        objective = CausalELBO(1.0, 1.0, num_particles=400, vectorize_particles=vectorize)
        losses.append(objective.differentiable_loss(model, guide, x, labels).item())
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scm", [AdditiveNoiseSCM, MaskLayer])
@every_guide
def test_round_trip_through_a_checkpoint(kind, scm, dtype, tmp_path):
    model, guide, x = make(kind, scm=scm, dtype=dtype, noise_dim=1, init_scale=0.2)
    run = Run(model.eval(), guide.eval())
    save(run, tmp_path)
    restored = load(tmp_path)
    assert (type(restored.guide.family), type(restored.model.scm)) == (kind.family, scm)
    assert repr(restored.guide.family) == repr(guide.family)
    assert {p.dtype for p in restored.guide.parameters()} == {dtype}
    value = torch.randn(BATCH, N, 2, dtype=dtype)
    assert torch.equal(restored.guide.posterior(x)["eps"].log_prob(value), guide.posterior(x)["eps"].log_prob(value))
    expected = counterfactual(model, guide, x, {"a": 1.0})
    assert torch.equal(counterfactual(restored.model, restored.guide, x, {"a": 1.0}), expected)
    assert restored.guide.scm is (restored.model.scm if kind.space == "endogenous" else None)


@every_guide
def test_abduction_and_counterfactuals(kind):
    model, guide, x = make(kind, dtype=torch.float32)
    # As abduction runs it.
    q = base(guide.eval(), x)
    centre = q.transforms[0](torch.zeros(BATCH, N * 2)) if kind in FLOWS else q.mean
    centre = model.scm.to_exogenous(centre) if kind.space == "endogenous" else centre
    assert_close(abduct(guide, x)["eps"], centre.detach())
    assert abduct(guide, x, num_samples=6)["eps"].shape == (6, BATCH, N, 2)
    assert_close(encode(model, guide, x), model.scm.to_endogenous(centre).detach())
    assert_close(counterfactual(model, guide, x, {}), reconstruct(model, guide, x))
    z = counterfactual(model, guide, x, {"a": 2.0}, return_latents=True, num_samples=4)[1]
    assert z.shape == (4, BATCH, N, 2)
    assert (z[..., GRAPH.index("a"), :] == 2.0).all()


@pytest.mark.thorough
@every_guide
def test_fit_trains_it(kind):
    model, guide, x = make(kind, dtype=torch.float32, size=0.0)
    options = {"objective": CausalELBO(0.3, 1.0), "batch_size": BATCH, "lr": 1e-2, "progress": False, "device": "cpu"}
    history = fit(model, guide, (x, torch.randn(BATCH, N)), epochs=30, **options)
    losses = history["loss"]
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]


@every_guide
def test_constructor_errors(kind):
    for options in ({"init_scale": 1e-5}, {"min_scale": 0.0}):
        with pytest.raises(ValueError, match="^init_scale: got init_scale="):
            make(kind, **options)
    with pytest.raises(ValueError, match="^noise_encoder: got one"):
        make(kind, noise_encoder=MLPEncoder(SHAPE, 3, hidden=4))


# Correlated Gaussians ------------------------------------------------------------------------------------------------


@every_correlated
def test_covariance_from_the_heads_weights(kind):
    _, guide, x = make(kind)
    features = guide.encoder(x)
    factor = hand_made_factor(guide, features)
    q = base(guide, x)
    assert_close(q.covariance_matrix, factor @ factor.mT, **TOLERANCE)
    assert_close(q.mean.flatten(1), features @ guide.head.loc.weight.T + guide.head.loc.bias, **TOLERANCE)
    between = ~torch.block_diag(*[torch.ones(2, 2)] * N).bool()
    assert bool((q.covariance_matrix[:, between] == 0).all()) == (kind.family is BlockDiagonalNormal)
    within = torch.block_diag(*[torch.ones(2, 2)] * N).bool() & ~torch.eye(6).bool()
    assert (q.covariance_matrix[:, within] != 0).all()


@every(kinds([BlockDiagonalNormal]))
def test_blocks_of_one_dimension_are_the_diagonal_gaussian(kind):
    _, guide, x = make(kind, 1)
    head = GaussianHead(7, (N, 1), 0.1, 1e-4).double()
    head.load_state_dict(guide.head.state_dict())
    expected = DiagonalNormal().distribution(*head(guide.encoder(x)))
    value = torch.randn(BATCH, N, 1).double()
    assert_close(base(guide, x).log_prob(value), expected.log_prob(value), **TOLERANCE)


@every_correlated
def test_the_diagonal_has_a_floor(kind):
    _, guide, x = make(kind, min_scale=0.05, init_scale=0.1)
    guide.head.log_scale.bias.data.fill_(-1e3)
    guide.head.log_scale.weight.data.zero_()
    diagonal = base(guide, x).scale_tril.diagonal(dim1=-2, dim2=-1)
    assert_close(diagonal, torch.full_like(diagonal, 0.05))


# Flows ---------------------------------------------------------------------------------------------------------------


class Constant(nn.Module):
    """Features that are the same for every image."""

    out_features = 3

    def forward(self, x, labels=None):
        return torch.ones(len(x), 3).to(x)


@pytest.mark.thorough
@pytest.mark.parametrize("transforms", [1, 2])
@every_flow
def test_a_flows_density_integrates_to_one(kind, transforms):
    graph = CausalGraph(["a", "b"], [("a", "b")])
    scm = AdditiveNoiseSCM(graph, hidden=4)
    family = NormalizingFlow(hidden=8, bins=4, transforms=transforms)
    guide = amortized(kind.space, Constant(), scm, family=family, init_scale=0.8).double()
    for parameter in [*guide.head.parameters(), *scm.double().parameters()]:
        parameter.data += 0.4 * torch.randn_like(parameter)
    grid = torch.linspace(-12, 12, 601).double()
    points = torch.cartesian_prod(grid, grid)[:, :, None]
    q = guide.posterior(torch.zeros(1, *SHAPE).double())["eps"]
    with torch.no_grad():
        density = q.log_prob(points).exp().reshape(601, 601)
        spread = q.sample((1000,)).abs().max()
    assert spread < 10, "the grid has to hold the mass"
    assert torch.trapezoid(torch.trapezoid(density, grid), grid).item() == pytest.approx(1.0, abs=2e-3)


@every_flow
def test_a_sample_and_its_density_take_one_pass(kind):
    _, guide, x = make(kind)
    passes = []
    for transform in guide.head.flow.transforms:
        transform.hyper.register_forward_hook(lambda *_: passes.append(1))
    q = guide.posterior(x)["eps"]
    q.log_prob(q.rsample())
    assert len(passes) == len(guide.head.flow.transforms) == 2


@pytest.mark.parametrize("scm", [LinearSCM, AdditiveNoiseSCM])
@every_flow
def test_training_a_flow_never_inverts_it(kind, scm, monkeypatch):
    model, guide, x = make(kind, scm=scm)
    monkeypatch.setattr(_FlowTransform, "_inverse", lambda self, eps: pytest.fail("a sequential pass per dimension"))
    for options in ({}, {"num_particles": 3}, {"num_particles": 3, "vectorize_particles": False}):
        CausalELBO(1.0, 1.0, **options).loss(model, guide, x, torch.randn(BATCH, N).double())
        Trace_ELBO(max_plate_nesting=1, **options).loss(model, guide, x, torch.randn(BATCH, N).double())


@pytest.mark.parametrize("scm", [LinearSCM, AdditiveNoiseSCM])
@every_flow
def test_kl_z_of_a_flow_is_sampled_exactly(kind, scm):
    model, guide, x = make(kind, scm=scm)
    q, p = guide.posterior(x)["eps"], model.prior(torch.randn(BATCH, N).double())
    eps = q.rsample()
    z = model.scm.to_endogenous(eps)
    jacobian = torch.stack([torch.autograd.functional.jacobian(model.scm.to_endogenous, e).reshape(6, 6) for e in eps.detach()])
    expected = q.log_prob(eps.clone()) - torch.linalg.slogdet(jacobian).logabsdet - p.log_prob(z)
    assert_close(kl_endogenous(q, p, model.scm, eps, z), expected, **TOLERANCE)
    assert_close(kl_endogenous(q, p, model.scm, eps.clone(), z), expected, **TOLERANCE)


@every_flow
def test_a_flow_couples_all_dimensions_and_follows_the_image(kind):
    torch.manual_seed(1)  # of 16 rectified units some may be off for good
    _, guide, x = make(kind)
    q = base(guide, x)
    xi = torch.randn(BATCH, 6).double()
    jacobian = torch.autograd.functional.jacobian(lambda v: q.transforms[0]._call(v.expand(BATCH, 6)).flatten(1), xi[0])
    # Rectified units may be off for one of the images.
    assert (jacobian != 0).any(0).all()
    values = q.transforms[0]((xi[:1]).expand(BATCH, 6)).detach()
    centred = (values - guide.head(guide.encoder(x))[0].detach()) / guide.head(guide.encoder(x))[1].detach()
    assert centred.std(0).min() > 1e-3, "the flow itself depends on the features"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transforms": 0}, "^transforms: got 0; must be at least 1"),
        ({"hidden": 5}, r"^hidden: got 5; each of the n \* d = 6 dimensions"),
        ({"bins": 1}, "^bins: got 1; must be at least 2"),
    ],
)
def test_constructor_errors_of_the_flow(options, message):
    with pytest.raises(ValueError, match=message):
        AmortizedGuide(MLPEncoder(SHAPE), num_concepts=N, dim=2, family=NormalizingFlow(**options))


# One guide for all ---------------------------------------------------------------------------------------------------


class Laplace(Family):
    """A family of the user's own."""

    def distribution(self, loc, scale):
        return dist.Laplace(loc, scale).to_event(2)


@every(kinds([Laplace]))
def test_a_family_of_ones_own_serves_both_spaces(kind, tmp_path):
    model, guide, x = make(kind, dtype=torch.float32, noise_dim=1)
    fit(model, guide, (x, torch.randn(BATCH, N)), epochs=1, batch_size=BATCH, progress=False, device="cpu")
    save(Run(model, guide), tmp_path)
    restored = load(tmp_path, classes={"Laplace": Laplace})
    assert_close(abduct(restored.guide, x), abduct(guide, x), rtol=0, atol=0)
    with pytest.raises(ValueError, match="^classes: the run uses 'Laplace'"):
        load(tmp_path)


def test_families_say_what_they_are():
    assert repr(NormalizingFlow(bins=4)) == "NormalizingFlow(bins=4)"
    assert repr(FullRankNormal()) == "FullRankNormal()"


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (ValueError, {}, "num_concepts: got None; a guide over eps needs it, a guide over z needs the causal layer, scm"),
        (ValueError, {"num_concepts": 0}, "num_concepts: got 0; must be at least 1"),
        (ValueError, {"num_concepts": 3, "dim": 1.5}, "dim: got 1.5; must be an integer, at least 1"),
        (ValueError, {"scm": LinearSCM(GRAPH), "num_concepts": 3}, "num_concepts: got 3 together with scm; leave it out"),
        (ValueError, {"scm": LinearSCM(GRAPH), "dim": 2}, "dim: got 2 together with scm; leave it out"),
        (TypeError, {"scm": 3}, "scm: got 3; must be a causal layer, or None for a guide over eps"),
        (
            TypeError,
            {"num_concepts": 3, "family": FullRankNormal},
            "family: got <class 'causalvae_pyro.guides.families.FullRankNo",
        ),
        (TypeError, {"num_concepts": 3, "family": "flow"}, "family: got 'flow'; must be an instance of a Family, e.g. DiagonalN"),
    ],
)
def test_errors_of_the_shape_and_the_family(error, arguments, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        AmortizedGuide(MLPEncoder(SHAPE), **arguments)


def test_one_dimension_is_the_default():
    assert AmortizedGuide(MLPEncoder(SHAPE), num_concepts=3).posterior(torch.rand(2, *SHAPE))["eps"].event_shape == (3, 1)


@every_guide
def test_a_copied_pair_stays_a_pair(kind):
    pair = make(kind)[:2]
    model, guide = copy.deepcopy(pair)
    assert guide.scm is (model.scm if kind.space == "endogenous" else None)
    assert model.scm is not pair[0].scm
