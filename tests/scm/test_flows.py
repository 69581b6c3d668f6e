"""What the conditional flows do beyond the battery of ``test_scm.py``: noise whose scale and shape depend on the parents."""

import math
from types import SimpleNamespace

import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro import (
    AmortizedGuide,
    CausalELBO,
    CausalGraph,
    CausalVAE,
    FixedPrior,
    GaussianLikelihood,
    counterfactual,
    fit,
    load,
    save,
)
from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.networks import MLPDecoder, MLPEncoder
from causalvae_pyro.objectives import LabelFit
from causalvae_pyro.scm import AffineFlowSCM, SplineFlowSCM
from tests.builders import SPACES, amortized
from tests.scm.test_layers import ADJACENCY, FLOWS, MECHANISMS, ROOTS, TOLERANCE, make_layer, noise

every_flow = pytest.mark.parametrize("cls", FLOWS, ids=lambda cls: cls.__name__)
PAIR = CausalGraph(["a", "b"], [("a", "b")])
LONE = CausalGraph(["a"])


@pytest.fixture(params=[(cls, dim) for cls in FLOWS for dim in (1, 3)], ids=lambda p: f"{p[0].__name__}-{p[1]}")
def layer(request):
    cls, dim = request.param
    return make_layer(cls, ADJACENCY, dim)


# The functions of the noise ------------------------------------------------------------------------------------------


def test_concepts_increase_with_their_own_noise(layer):
    z = noise(layer)
    eps = torch.linspace(-8, 8, 2001, dtype=z.dtype)[:, None, None].expand(-1, 5, layer.dim)
    values = layer.solve_level(list(range(5)), eps, z.expand(2001, -1, -1))
    assert (values.diff(dim=0) > 0).all()
    # And so do those of steep networks, as far as numbers can tell.
    for parameter in (layer.output, layer.output_bias, layer.skip):
        parameter.data *= 20
    values = layer.solve_level(list(range(5)), eps, z.expand(2001, -1, -1))
    assert (values.diff(dim=0) >= -1e-12 * values.abs().max()).all()
    assert torch.isfinite(values).all()


def test_the_log_det_depends_on_the_parents_and_the_splines_on_the_noise_too(layer):
    eps, z = noise(layer, 6), noise(layer, 6, seed=2)
    log_det = layer.log_abs_det_jacobian(eps, layer.to_endogenous(eps))
    assert log_det.std() > 0.1
    # With the parents held, only the spline's slope still varies.
    held = [layer.log_abs_det_jacobian(e, z) for e in (eps, 0.5 * eps)]
    assert torch.equal(*held) == isinstance(layer, AffineFlowSCM)


@pytest.mark.parametrize("min_noise", [1e-3, 0.05, 0.9])
@every_flow
def test_scales_start_at_one_and_have_a_floor(cls, min_noise):
    scm = cls(PAIR, min_noise=min_noise)
    eps = torch.linspace(-6, 6, 13)[:, None, None].expand(-1, 2, 1)
    assert_close(scm.to_endogenous(eps), eps)
    scm.output_bias.data[..., 1] = -1e3  # the scale's own parameter follows the location's
    z = scm.to_endogenous(eps)
    assert_close(z, min_noise * eps)
    assert_close(scm.to_exogenous(z), eps)
    assert_close(scm.log_abs_det_jacobian(eps, z), torch.full((13,), 2 * math.log(min_noise)))
    # Above, it grows no faster than the network: parents far from the data overflow nothing.
    scm.output_bias.data[..., 1] = 1e3
    shift = math.log(math.expm1(1 - min_noise))
    assert_close(scm.to_endogenous(eps), (min_noise + 1e3 + shift) * eps)


def test_a_spline_of_zeros_leaves_the_affine_flow():
    affine, spline = make_layer(AffineFlowSCM, ADJACENCY, dim=3), make_layer(SplineFlowSCM, ADJACENCY, dim=3)
    for name, parameter in spline.named_parameters():
        source = getattr(affine, name).data
        if name in ("output", "output_bias", "skip"):
            parameter.data.zero_()
            parameter.data.unflatten(-1, (3, -1))[..., :2] = source.unflatten(-1, (3, 2))
        else:
            parameter.data.copy_(source)
    eps = noise(affine, 6)
    z = affine.to_endogenous(eps)
    assert_close(spline.to_endogenous(eps), z, **TOLERANCE)
    assert_close(spline.log_abs_det_jacobian(eps, z), affine.log_abs_det_jacobian(eps, z), **TOLERANCE)
    assert_close(spline.means(z), affine.means(z), **TOLERANCE)


def default_spline(size=0.5, dtype=torch.float64):
    """A root with a random spline of the default size: its curve alone, the location and scale left at 0 and 1."""
    scm = SplineFlowSCM(LONE).to(dtype)
    scm.output_bias.data[..., 2:].normal_(std=size)
    return scm


def test_the_tails_are_the_identity():
    scm = default_spline()
    tails = torch.tensor([5.0 + 1e-9, 5.5, 50.0, 1e6]).double()
    tails = torch.cat([-tails, tails])[:, None, None]
    assert_close(scm.to_endogenous(tails), tails, **TOLERANCE)
    assert_close(scm.to_exogenous(tails), tails, **TOLERANCE)
    assert_close(scm.log_abs_det_jacobian(tails, tails), torch.zeros(8).double(), **TOLERANCE)
    inside = torch.linspace(-4.9, 4.9, 99).double()[:, None, None]
    assert ((scm.to_endogenous(inside) - inside).abs() > 1e-3).double().mean() > 0.9
    # Value and slope are continuous where the tails begin.
    for edge in (-5.0, 5.0):
        near = torch.tensor([edge * (1 - 1e-9), edge, edge * (1 + 1e-9)]).double()[:, None, None].requires_grad_()
        z = scm.to_endogenous(near)
        assert_close(z, near, rtol=0, atol=1e-7)
        assert_close(torch.autograd.grad(z.sum(), near)[0], torch.ones_like(near), rtol=0, atol=1e-6)
        assert_close(scm.to_exogenous(z), near, **TOLERANCE)
        assert_close(scm.log_abs_det_jacobian(near, z), torch.zeros(3).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bound", [0.5, 3.0])
def test_the_bound_is_where_the_tails_begin(bound):
    scm = SplineFlowSCM(LONE, bound=bound).double()
    scm.output_bias.data[..., 2:].normal_()
    eps = torch.linspace(-6, 6, 240).double()[:, None, None]  # not on the bound itself
    moved = (scm.to_endogenous(eps) - eps).abs().flatten() > 1e-9
    assert torch.equal(moved, eps.abs().flatten() < bound)


@pytest.mark.parametrize("bins", [2, 5])
def test_every_piece_counts(bins):
    scm = SplineFlowSCM(LONE, bins=bins).double()
    scm.output_bias.data.normal_()
    eps = torch.linspace(-6, 6, 400).double()[:, None, None]
    assert_close(scm.to_endogenous(eps)[:, 0], MECHANISMS[SplineFlowSCM](scm, 0, {}, eps[:, 0]), **TOLERANCE)
    scm.to_endogenous(eps).square().sum().backward()
    assert (scm.output_bias.grad.abs() > 1e-6).all()
    assert scm.output_bias.shape == (1, 1, 3 * bins + 1)


@pytest.mark.thorough
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-12), (torch.float32, 2e-3)])
@pytest.mark.parametrize("size", [0.5, 3.0, 10.0])
def test_the_inverse_is_as_exact_as_the_slopes_allow(size, dtype, tolerance):
    # Steep splines have flat pieces, where a range of noise gives one value: there z comes back, eps to fewer digits.
    eps, z = torch.randn(2, 5000, 1, 1).to(dtype).mul(2)
    for _ in range(20):
        scm = default_spline(size, dtype)
        found = scm.to_exogenous(z)
        assert_close(scm.to_endogenous(found), z, rtol=0, atol=tolerance)
        image = scm.to_endogenous(eps).detach().requires_grad_()
        back = scm.to_exogenous(image)
        assert ((back - eps).abs().flatten() * scm.log_abs_det_jacobian(eps, image).exp()).max() < tolerance
        assert torch.isfinite(torch.autograd.grad(back.sum(), image)[0]).all()


# Roots and means -----------------------------------------------------------------------------------------------------


def test_a_roots_marginal_is_its_networks_constant(layer):
    eps, others = noise(layer, 6), noise(layer, 6, seed=2)
    constant = layer.networks(others)[:, ROOTS]
    assert torch.equal(constant, layer.networks(torch.zeros_like(others))[:, ROOTS])
    assert (constant.abs() > 1e-3).all()
    layer.to_endogenous(eps)[:, ROOTS].square().sum().backward()
    assert (layer.output_bias.grad[ROOTS] != 0).any(-1).all()
    assert torch.equal(layer.output_bias.grad[~ROOTS], torch.zeros_like(layer.output_bias.grad[~ROOTS]))


def test_means_are_the_values_at_zero_noise(layer):
    zero = torch.zeros(5, layer.dim, dtype=torch.float64)
    z = layer.to_endogenous(zero)
    assert_close(layer.means(z), z, **TOLERANCE)
    # A spline's is not the location alone.
    location = layer.networks(z).unflatten(-1, (layer.dim, -1))[..., 0]
    assert torch.allclose(location, z) == isinstance(layer, AffineFlowSCM)


def test_counterfactuals_rescale_the_residual():
    # What a scale that depends on the parents means for "the same noise": z' = m(a') + s(a') / s(a) (z - m(a)).
    scm = make_layer(AffineFlowSCM, torch.tensor([[0.0, 1.0], [0.0, 0.0]]).double())
    z = noise(scm, 6)
    after = poutine.do(scm, data={"v0": 1.3})(scm.to_exogenous(z))

    def location_and_scale(a):
        at = [poutine.do(scm, data={"v0": a})(torch.full((6, 2, 1), e).double())[:, 1] for e in (0.0, 1.0)]
        return at[0], at[1] - at[0]

    (m, s), (m_new, s_new) = location_and_scale(z[:, 0]), location_and_scale(torch.tensor([1.3]).double())
    assert_close(after[:, 1], m_new + s_new / s * (z[:, 1] - m), **TOLERANCE)
    assert ((s_new / s - 1).abs() > 0.01).all()


# Fitting -------------------------------------------------------------------------------------------------------------


def labels_loss(scm, labels):
    """``LabelFit`` per row, at labels that are the concepts."""
    model = SimpleNamespace(scm=scm, prior=FixedPrior(labels.shape[-1], scm.dim).to(labels))
    return LabelFit()(model, None, labels) / len(labels)


def train(scm, labels, steps, lr):
    optimizer = torch.optim.Adam(scm.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        labels_loss(scm, labels).backward()
        optimizer.step()
        schedule.step()
    return scm


@every_flow
def test_label_fit_is_the_negative_log_density(cls):
    scm = make_layer(cls, ADJACENCY)
    labels = noise(scm, 7, seed=4).squeeze(-1)
    value = labels_loss(scm, labels)
    eps = scm.to_exogenous(labels[..., None])
    # Triangular in topological order: the determinant is the product of each concept's slope in its own noise.
    jacobians = torch.stack([torch.autograd.functional.jacobian(scm.to_endogenous, e) for e in eps])
    slopes = jacobians[:, :, 0, :, 0].diagonal(dim1=-2, dim2=-1)
    expected = dist.Normal(0.0, 1.0).log_prob(eps.squeeze(-1)) - slopes.log()
    assert value.item() == pytest.approx(-expected.sum(-1).mean().item(), rel=1e-12)
    if cls is AffineFlowSCM:
        z = labels[..., None]
        normal = dist.Normal(scm.means(z).squeeze(-1), slopes)
        assert value.item() == pytest.approx(-normal.log_prob(labels).sum(-1).mean().item(), rel=1e-12)
    value.backward()
    assert all((parameter.grad != 0).any() for parameter in scm.parameters())


@every_flow
def test_a_roots_marginal_is_learned(cls):
    labels = 3 + 0.5 * torch.randn(1000, 1)
    scm = train(cls(LONE, hidden=4), labels, steps=200, lr=0.1)
    z = scm.to_endogenous(torch.randn(20_000, 1, 1))
    # In quantiles: what the data says of the tails is little.
    q = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    assert_close(z.quantile(q), labels.quantile(q), rtol=0, atol=0.08)


@pytest.mark.thorough
def test_the_affine_flow_recovers_a_scale_that_depends_on_the_parent():
    def scale(a):
        return 0.1 + 0.3 * torch.sigmoid(2 * a)

    a, noise_b = torch.randn(2, 8000)
    labels = torch.stack([a, 0.5 * a + scale(a) * noise_b], -1)
    scm = train(AffineFlowSCM(PAIR, hidden=8), labels, steps=200, lr=0.03)
    grid = torch.linspace(-1.5, 1.5, 31)[:, None]
    at = [poutine.do(scm, data={"a": grid})(torch.full((31, 2, 1), e))[:, 1] for e in (0.0, 1.0)]
    assert ((at[1] - at[0]) / scale(grid) - 1).abs().max() < 0.1
    assert (at[0] - 0.5 * grid).abs().max() < 0.05
    # One scale for all would be wrong by far more.
    assert scale(grid).max() / scale(grid).min() > 2.5


NOISES = {
    # Standardised; in both cases the best Gaussian's mean log-density is that of N(0, 1), -1.42.
    "exponential": lambda n: dist.Exponential(1.0).sample((n,)) - 1,
    "squashed": lambda n: (torch.sigmoid(2 * torch.randn(n) + 1) - 0.649) / 0.302,
}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", NOISES)
def test_the_spline_flow_fits_skewed_noise_better_than_the_affine_one(kind):
    def draw(n):
        a = torch.randn(n)
        return torch.stack([a, a + NOISES[kind](n)], -1)

    labels, held_out = draw(800), draw(4000)
    losses = {}
    for cls, steps in ((AffineFlowSCM, 100), (SplineFlowSCM, 150)):
        scm = train(cls(PAIR, hidden=8), labels, steps, lr=0.03)
        losses[cls] = labels_loss(scm, held_out).item()
    gaussian = 2 * 0.5 * (1 + math.log(2 * math.pi))
    assert losses[AffineFlowSCM] == pytest.approx(gaussian, abs=0.1)
    assert losses[SplineFlowSCM] < losses[AffineFlowSCM] - 0.15


# Inside a model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
@every_flow
def test_a_flow_in_a_model(cls, space, tmp_path):
    graph = CausalGraph(["c", "a", "b"], [("a", "b"), ("b", "c")])
    x, labels = torch.rand(32, 1, 4, 4), torch.randn(32, 3)
    scm, encoder = cls(graph, hidden=8), MLPEncoder((1, 4, 4), 8, hidden=16)
    guide = amortized(space, encoder, scm)
    model = CausalVAE(scm, FixedPrior(3), MLPDecoder((1, 4, 4), 3, hidden=16), GaussianLikelihood())
    objective = CausalELBO(0.3, 1.0, terms=[LabelFit()])
    history = fit(model, guide, (x, labels), epochs=3, batch_size=16, objective=objective, progress=False, device="cpu")
    losses = [row["loss"] for row in history.rows]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
    natural, z = (counterfactual(model, guide, x, do, return_latents=True)[1] for do in ({}, {"b": 5.0}))
    assert torch.equal(z[:, 1], natural[:, 1])
    assert torch.equal(z[:, 2], torch.full_like(z[:, 2], 5.0))
    assert (z[:, 0] != natural[:, 0]).all()
    save(Run(model, guide), tmp_path)
    restored = load(tmp_path)
    assert restored.model.scm.init_args == scm.init_args
    assert torch.equal(counterfactual(restored.model, restored.guide, x, {"b": 5.0}, return_latents=True)[1], z)


def test_the_constructors_arguments_survive_a_checkpoint(tmp_path):
    options = {"dim": 2, "hidden": 5, "bins": 3, "bound": 2.5, "min_noise": 0.2}
    scm = SplineFlowSCM(PAIR, **options)
    scm.output_bias.data.normal_()
    model = CausalVAE(scm, FixedPrior(2, 2), MLPDecoder((1, 4, 4), 2, 2, hidden=4), GaussianLikelihood())
    save(Run(model, AmortizedGuide(MLPEncoder((1, 4, 4), 4, hidden=4), scm)), tmp_path)
    restored = load(tmp_path).model.scm
    assert {name: getattr(restored, name) for name in ("dim", "bins", "bound", "min_noise")} == {
        name: options[name] for name in ("dim", "bins", "bound", "min_noise")
    }
    eps = 3 * torch.randn(50, 2, 2)
    assert torch.equal(restored.to_endogenous(eps), scm.to_endogenous(eps))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bins": 1}, "^bins: got 1; must be at least 2"),
        ({"bound": 0.0}, r"^bound: got 0\.0; must be positive and finite"),
        ({"bound": -1.0}, r"^bound: got -1\.0"),
        ({"bound": math.inf}, "^bound: got inf"),
        ({"bound": math.nan}, "^bound: got nan"),
        ({"min_noise": math.nan}, "^min_noise: got nan"),
    ],
)
def test_constructor_errors_of_the_spline(arguments, message):
    with pytest.raises(ValueError, match=message):
        SplineFlowSCM(LONE, **arguments)
