"""The battery that every public causal layer passes: a new layer joins by adding its mechanism to ``MECHANISMS``.

What only the conditional flows do is in ``test_flows.py``. The one-pass mask layer takes all of it but the truncated
factorisation, in place of which it has the equations of its single pass.
"""

import copy
import math

import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch.testing import assert_close

import causalvae_pyro.scm
from causalvae_pyro import AdditiveNoiseSCM, CausalGraph, LinearSCM, Shift
from causalvae_pyro.interventions import soft_do
from causalvae_pyro.scm import (
    AdditiveNoiseLayer,
    AffineFlowSCM,
    BinaryEffectSCM,
    CausalLayer,
    CausalTransform,
    ConditionalFlowLayer,
    MaskLayer,
    SplineFlowSCM,
)

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


# Mechanisms ``z_i = f_i(eps_i; parents)`` from the noise ``[N, d]`` of concept ``i`` and its parents ``z = {j: [N, d]}``,
# straight from the parameters and in plain tensor code: they share nothing with the layers that they check.


def scaled_noise(scm, i, eps):
    if scm.log_noise is None:
        return eps
    return (scm.min_noise + (1 - scm.min_noise) * math.exp(scm.log_noise[i].item())) * eps


def network_output(scm, i, z):
    """The network of concept ``i`` at ``A_i o z``; a root's sees nothing, its biases remain."""
    d, first, skip = scm.dim, scm.input_bias[i], 0.0
    for j, z_j in z.items():
        first = first + scm.weight[j, i] * z_j @ scm.input[i, j * d : (j + 1) * d]
        skip = skip + scm.weight[j, i] * z_j @ scm.skip[i, j * d : (j + 1) * d]
    second = first.clamp(min=0) @ scm.hidden[i] + scm.hidden_bias[i]
    return second.clamp(min=0) @ scm.output[i] + scm.output_bias[i] + skip


def linear_mechanism(scm, i, z, eps):
    """``sum_j A[j, i] z_j + s_i eps_i``."""
    return sum((scm.weight[j, i] * z_j for j, z_j in z.items()), scaled_noise(scm, i, eps))


def network_mechanism(scm, i, z, eps):
    """``g_i(A_i o z) + s_i eps_i``; a root has no mechanism."""
    return scaled_noise(scm, i, eps) + (network_output(scm, i, z) if z else 0.0)


def one_pass_mechanism(scm, i, z, eps):
    """``g_i(A_i o z) + eps_i``."""
    return eps + (network_output(scm, i, z) if z else 0.0)


def affine_mechanism(scm, i, z, eps):
    """``m_i(A_i o z) + s_i(A_i o z) eps_i``, a softplus above the floor giving the scale; it is 1 where its input is 0."""
    loc, raw = network_output(scm, i, z).reshape(-1, scm.dim, 2).movedim(-1, 0)
    floor = scm.min_noise
    return loc + (floor + (1 + (math.exp(1 - floor) - 1) * raw.exp()).log()) * eps


def spline_mechanism(scm, i, z, eps):
    """``m_i + s_i spline_i(eps_i)``, all three of ``A_i o z``."""
    k = scm.bins
    out = network_output(scm, i, z).reshape(-1, scm.dim, 3 * k + 1)
    curve = rational_quadratic_spline(eps, out[..., 2 : k + 2], out[..., k + 2 : 2 * k + 2], out[..., 2 * k + 2 :], scm.bound)
    floor = scm.min_noise
    return out[..., 0] + (floor + (1 + (math.exp(1 - floor) - 1) * out[..., 1].exp()).log()) * curve


def rational_quadratic_spline(x, widths, heights, slopes, bound, slope=1e-3):
    """Durkan et al. 2019, equation 4, bin by bin; the identity outside ``[-bound, bound]``.

    The unconstrained parameters are squashed first, as zuko does: bins to a ratio of 1 / slope, derivatives to at least slope.
    """
    limit = -math.log(slope)
    widths, heights = (v / (1 + 2 * v.abs() / limit) for v in (widths, heights))
    widths, heights = (2 * bound * v.exp() / v.exp().sum(-1, keepdim=True) for v in (widths, heights))
    inner = (slopes / (1 + slopes.abs() / limit)).exp()
    one = torch.ones_like(inner[..., :1])
    slopes = torch.cat([one, inner, one], -1)
    y, left, bottom = x, -bound, -bound
    for k in range(widths.shape[-1]):
        width, height, d0, d1 = widths[..., k], heights[..., k], slopes[..., k], slopes[..., k + 1]
        xi, s = (x - left) / width, height / width
        curve = bottom + height * (s * xi**2 + d0 * xi * (1 - xi)) / (s + (d1 + d0 - 2 * s) * xi * (1 - xi))
        y = torch.where((xi >= 0) & (xi <= 1) & (x.abs() <= bound), curve, y)
        left, bottom = left + width, bottom + height
    return y


MECHANISMS = {
    LinearSCM: linear_mechanism,
    AdditiveNoiseSCM: network_mechanism,
    BinaryEffectSCM: network_mechanism,
    AffineFlowSCM: affine_mechanism,
    SplineFlowSCM: spline_mechanism,
    MaskLayer: one_pass_mechanism,
}
ADDITIVE = [cls for cls in MECHANISMS if issubclass(cls, AdditiveNoiseLayer)]
FLOWS = [cls for cls in MECHANISMS if issubclass(cls, ConditionalFlowLayer)]
# Few units and bins, for speed. Normal noise leaves this bound every eighth time: the battery covers the spline's tails too.
OPTIONS = {cls: {"min_noise": 0.05} for cls in (*ADDITIVE, *FLOWS)} | {MaskLayer: {"hidden": 8}}
OPTIONS[AdditiveNoiseSCM] |= {"hidden": 8}
# Without binary effects, which have a file of their own.
OPTIONS[BinaryEffectSCM] |= {"hidden": 8}
OPTIONS[AffineFlowSCM] |= {"hidden": 8}
OPTIONS[SplineFlowSCM] |= {"hidden": 8, "bins": 4, "bound": 1.5}


def random_adjacency(n, seed):
    """About three parents each, along a random order of the nodes: index order is not a topological order."""
    generator = torch.Generator().manual_seed(seed)
    density = min(0.6, 6 / n)
    strict = (torch.rand(n, n, generator=generator) < density).double().triu(1)
    strict[0, 1] = strict[1, 2] = 1  # a path of length two at least
    order = torch.randperm(n, generator=generator)
    if order[0] < order[1]:
        order = order.flip(0)
    inverse = order.argsort()
    return strict[inverse][:, inverse]


def make_layer(cls, adjacency, dim=1, seed=0, dtype=torch.float64, learn_noise=True):
    """A layer with random strengths, networks and noise scales; a flow's scales belong to its networks."""
    graph = CausalGraph.from_adjacency([f"v{i}" for i in range(len(adjacency))], adjacency)
    options = {"learn_noise": learn_noise} if cls in ADDITIVE else {}
    scm = cls(graph, dim, **options, **OPTIONS[cls]).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in scm.named_parameters():
        value = torch.randn(parameter.shape, generator=generator, dtype=dtype)
        # Strengths stay away from zero, where a change of a parent would not show. A flow's networks stay moderate: at 0.5
        # the slopes of forty splines on end fall to 1e-10, and then no inverse in float64 finds the noise to 1e-12.
        size = 0.25 if cls in FLOWS else 0.5
        parameter.data = 0.5 * (value.abs() + 0.5) * value.sign() if name == "weight" else size * value
    return scm


def noise(scm, *lead, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*lead, len(scm.graph), scm.dim, generator=generator, dtype=scm.weight.dtype)


def truncated_factorisation(scm, adjacency, eps, do=()):
    """The structural equations with those of the intervened concepts replaced, one concept at a time."""
    n, do, edges = len(adjacency), dict(do), adjacency.tolist()
    z = {}
    while len(z) < n:
        for i in range(n):
            parents = [j for j in range(n) if edges[j][i]]
            if i in z or not all(j in z for j in parents):
                continue
            if f"v{i}" in do:
                z[i] = torch.as_tensor(do[f"v{i}"], dtype=eps.dtype).expand(eps[:, i].shape)
                continue
            z[i] = MECHANISMS[type(scm)](scm, i, {j: z[j] for j in parents}, eps[:, i])
    return torch.stack([z[i] for i in range(n)], 1)


def one_pass(scm, adjacency, eps, do=()):
    """Linear concepts first, from the strengths alone; then every mechanism once, of the linear or the set values."""
    n, do, edges = len(adjacency), dict(do), adjacency.tolist()
    linear, seen, z = {}, {}, {}
    while len(linear) < n:
        for i in range(n):
            parents = [j for j in range(n) if edges[j][i]]
            if i not in linear and all(j in linear for j in parents):
                linear[i] = eps[:, i] + sum(scm.weight[j, i] * linear[j] for j in parents)
    for i in range(n):
        seen[i] = torch.as_tensor(do[f"v{i}"], dtype=eps.dtype).expand(eps[:, i].shape) if f"v{i}" in do else linear[i]
    for i in range(n):
        parents = {j: seen[j] for j in range(n) if edges[j][i]}
        z[i] = seen[i] if f"v{i}" in do else MECHANISMS[MaskLayer](scm, i, parents, eps[:, i])
    return torch.stack([z[i] for i in range(n)], 1)


def equations(scm, *args):
    """What the layer computes, written out."""
    return (one_pass if type(scm) is MaskLayer else truncated_factorisation)(scm, *args)


def ancestry(adjacency):
    """``R[j, i]`` is true iff there is a directed path (of length >= 0) from ``j`` to ``i``."""
    reach = torch.eye(len(adjacency), dtype=torch.float64) + adjacency
    for _ in range(len(adjacency)):
        reach = ((reach @ reach) > 0).double()
    return reach > 0


# The structural causal models, and with the one-pass layer all there is.
every_layer = pytest.mark.parametrize("cls", [cls for cls in MECHANISMS if cls is not MaskLayer], ids=lambda cls: cls.__name__)
every_class = pytest.mark.parametrize("cls", MECHANISMS, ids=lambda cls: cls.__name__)
every_additive_layer = pytest.mark.parametrize("cls", ADDITIVE, ids=lambda cls: cls.__name__)


ADJACENCY = random_adjacency(5, seed=3)
ROOTS = ADJACENCY.sum(0) == 0
ADDITIVE_KINDS = [(cls, dim, {"learn_noise": learn}) for cls in ADDITIVE for dim in (1, 3) for learn in (False, True)]
KINDS = ADDITIVE_KINDS + [(cls, dim, {}) for cls in (*FLOWS, MaskLayer) for dim in (1, 3)]


def kind_id(kind):
    cls, dim, options = kind
    return f"{cls.__name__}-{dim}" + "".join("-learned" if learn else "-unit" for learn in options.values())


every_kind = pytest.mark.parametrize(("cls", "dim", "options"), KINDS, ids=map(kind_id, KINDS))


@pytest.fixture(params=KINDS, ids=kind_id)
def layer(request):
    cls, dim, options = request.param
    return make_layer(cls, ADJACENCY, dim, **options)


@pytest.fixture(params=ADDITIVE_KINDS, ids=kind_id)
def additive_layer(request):
    cls, dim, options = request.param
    return make_layer(cls, ADJACENCY, dim, **options)


def test_every_public_layer_takes_the_battery():
    public = [getattr(causalvae_pyro.scm, name) for name in causalvae_pyro.scm.__all__]

    def is_concrete(cls):
        return not any(getattr(getattr(cls, name), "__isabstractmethod__", False) for name in dir(cls))

    # A wrapper, whose own equations are in tests/scm/test_categories.py.
    wrappers = {causalvae_pyro.scm.CategoricalSCM}
    assert {cls for cls in public if issubclass(cls, CausalLayer) and is_concrete(cls)} == set(MECHANISMS) | wrappers


def test_forward_and_inverse(layer):
    eps = noise(layer, 6)
    z = layer.to_endogenous(eps)
    assert_close(z, equations(layer, ADJACENCY, eps), **TOLERANCE)
    assert torch.equal(layer(eps), z)
    assert_close(layer.to_exogenous(z), eps, **TOLERANCE)
    assert_close(layer.to_endogenous(layer.to_exogenous(eps)), eps, **TOLERANCE)


def test_log_abs_det_jacobian(layer):
    n, d = len(layer.graph), layer.dim
    eps = noise(layer, 3)
    jacobian = torch.stack([torch.autograd.functional.jacobian(layer.to_endogenous, row) for row in eps])
    expected = torch.linalg.slogdet(jacobian.reshape(3, n * d, n * d)).logabsdet
    z = layer.to_endogenous(eps)
    assert_close(layer.log_abs_det_jacobian(eps, z), expected, **TOLERANCE)
    keeps_volume = getattr(layer, "log_noise", None) is None and type(layer) not in FLOWS
    assert (expected.abs().max() > 0.1) == (not keeps_volume)
    # A concept depends on its own noise and its ancestors' only.
    depends = jacobian.abs().sum((0, 2, 4)) > 0
    assert torch.equal(depends, ancestry(ADJACENCY).mT)


@pytest.mark.parametrize("n", [5, 40])
@every_class
def test_one_site_per_concept_in_topological_order(cls, n):
    adjacency = random_adjacency(n, seed=n)
    scm = make_layer(cls, adjacency, dim=2)
    eps = noise(scm, 6)
    trace = poutine.trace(scm).get_trace(eps)
    names = [name for name in trace.nodes if name not in ("_INPUT", "_RETURN")]
    assert sorted(names) == sorted(scm.graph.names)
    assert names != list(scm.graph.names), "the example must not be in topological order already"
    position = {name: k for k, name in enumerate(names)}
    assert all(position[f"v{j}"] < position[f"v{i}"] for j, i in adjacency.nonzero().tolist())
    for i, name in enumerate(scm.graph.names):
        site = trace.nodes[name]
        assert torch.equal(site["value"], trace.nodes["_RETURN"]["value"][:, i])
        assert (site["fn"].batch_shape, site["fn"].event_shape) == ((6,), (2,))
    assert trace.log_prob_sum() == 0, "concepts are deterministic"
    silent = poutine.trace(scm.to_endogenous).get_trace(eps)
    assert set(silent.nodes) == {"_INPUT", "_RETURN"}


VALUES = {
    "int": lambda n, d: -2,
    "float": lambda n, d: 1.5,
    "0-dim": lambda n, d: torch.tensor(-0.7, dtype=torch.float64),
    "0-dim float32": lambda n, d: torch.tensor(0.25),
    "[d]": lambda n, d: torch.linspace(-1, 2, d, dtype=torch.float64),
    "[N, d]": lambda n, d: torch.linspace(-3, 3, n * d, dtype=torch.float64).reshape(n, d),
    "[N, 1]": lambda n, d: torch.linspace(-3, 3, n, dtype=torch.float64)[:, None],
}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("n", [4, 10, 40])
@every_layer
def test_do_is_the_truncated_factorisation(cls, n, count, kind):
    adjacency = random_adjacency(n, seed=n)
    scm = make_layer(cls, adjacency, dim=3, seed=n)
    eps = noise(scm, 5)
    natural = scm.to_endogenous(eps)
    shift = torch.randperm(n, generator=torch.Generator().manual_seed(count)).tolist()
    for start in range(0, n, max(1, n // 3)):
        chosen = [shift[(start + k) % n] for k in range(count)]
        do = {f"v{i}": VALUES[kind](5, 3) for i in chosen}
        trace = poutine.trace(poutine.do(scm, data=do)).get_trace(eps)
        z = trace.nodes["_RETURN"]["value"]
        assert_close(z, truncated_factorisation(scm, adjacency, eps, do), **TOLERANCE)
        for i in chosen:
            assert torch.equal(z[:, i], torch.as_tensor(do[f"v{i}"]).to(z).expand(5, 3))
        changed = ancestry(adjacency)[chosen].any(0)
        assert torch.equal(z[:, ~changed], natural[:, ~changed])
        assert (z != natural).any(0).any(-1)[changed].all()
        if count == 1:
            # Pitfall: the concept's own site holds the natural value, only what lies downstream sees the set one.
            assert torch.equal(trace.nodes[f"v{chosen[0]}"]["value"], natural[:, chosen[0]])


@pytest.mark.parametrize("value", [3.0, 1e30])
@every_class
def test_non_descendants_are_unchanged_to_the_bit_in_float32(cls, value):
    adjacency = random_adjacency(10, seed=7)
    scm = make_layer(cls, adjacency, dim=2, dtype=torch.float32)
    eps = noise(scm, 33)
    natural = scm(eps)
    for i, name in enumerate(scm.graph.names):
        z = poutine.do(scm, data={name: value})(eps)
        kept = ~ancestry(adjacency)[i]
        assert torch.equal(z[:, kept], natural[:, kept])


@every_class
def test_noise_reaches_descendants_only_to_the_bit(cls):
    adjacency = random_adjacency(10, seed=7)
    scm = make_layer(cls, adjacency, dim=2, dtype=torch.float32)
    scm.weight.data *= 3
    eps = noise(scm, 33)
    z = scm(eps)
    for i in range(10):
        changed = eps.clone()
        changed[:, i] += 1e4
        kept = ~ancestry(adjacency)[i]
        assert torch.equal(scm(changed)[:, kept], z[:, kept])


def test_leading_dimensions(layer):
    name = layer.graph.roots[0]
    eps = noise(layer, 5, 7)
    flat = eps.flatten(0, 1)
    z = layer(eps)
    assert z.shape == eps.shape
    assert_close(z.flatten(0, 1), layer(flat), **TOLERANCE)
    assert_close(layer.to_exogenous(z), eps, **TOLERANCE)
    assert layer.log_abs_det_jacobian(eps, z).shape == (5, 7)
    assert_close(layer(eps[0, 0]), z[0, 0], **TOLERANCE)
    assert layer(eps[:0]).shape == eps[:0].shape
    values = torch.randn(5, 7, layer.dim, dtype=eps.dtype)
    expected = poutine.do(layer, data={name: values.flatten(0, 1)})(flat).unflatten(0, (5, 7))
    assert_close(poutine.do(layer, data={name: values})(eps), expected, **TOLERANCE)
    assert_close(poutine.do(layer, data={name: values[:1]})(eps)[0], expected[0], **TOLERANCE)
    assert_close(poutine.do(layer, data={name: values[0]})(eps)[0], expected[0], **TOLERANCE)


@pytest.mark.parametrize("which", ["root", "leaf"])
def test_an_intervention_may_add_leading_dimensions(layer, which):
    # As several worlds at once do: one value each, [worlds, 1, d], for the same noise.
    name = layer.graph.roots[0] if which == "root" else layer.graph.order[-1]
    eps, worlds = noise(layer, 6), noise(layer, 4)[:, :1]
    z = poutine.do(layer, data={name: worlds})(eps)
    assert_close(z, torch.stack([poutine.do(layer, data={name: value[0]})(eps) for value in worlds]), **TOLERANCE)


@pytest.mark.parametrize("method", ["forward", "to_endogenous", "to_exogenous"])
def test_a_wrong_shape_is_an_error_that_names_the_argument(layer, method):
    n, d = len(layer.graph), layer.dim
    argument = "z" if method == "to_exogenous" else "eps"
    for shape in [(n - 1, d), (6, n + 1, d), (6, n, d + 1), (n,), (6, d, n), (n, d, 6)]:
        with pytest.raises(ValueError, match=rf"^{argument}: expected shape \[\.\.\., {n}, {d}\], got") as error:
            getattr(layer, method)(torch.zeros(shape, dtype=torch.float64))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("which", ["root", "leaf"])
def test_a_wrong_shape_of_an_intervention_is_an_error_that_names_it(layer, which):
    name = layer.graph.roots[0] if which == "root" else layer.graph.order[-1]
    d = layer.dim
    # [N] is the likeliest slip; for d = 1 it would broadcast to [N, N].
    for shape in [(6,), (d + 1,), (5, d), (6, d + 1), (7, 6)]:
        with pytest.raises(ValueError, match=rf"do\['{name}'\].*shape \({shape[0]},") as error:
            poutine.do(layer, data={name: torch.zeros(shape)})(noise(layer, 6))
        assert "\n" not in str(error.value)


def test_a_mechanism_sees_the_parents_only(layer):
    z = noise(layer)
    jacobian = torch.autograd.functional.jacobian(layer.means, z)
    assert torch.equal(jacobian.abs().sum((1, 3)) > 0, ADJACENCY.mT > 0)


def test_means_are_the_mechanisms_at_zero_noise(layer):
    z = noise(layer, 6)
    parents = [{j: z[:, j] for j in ADJACENCY[:, i].nonzero().flatten().tolist()} for i in range(5)]
    zero = torch.zeros(6, layer.dim, dtype=z.dtype)
    expected = [MECHANISMS[type(layer)](layer, i, parents[i], zero).expand(6, -1) for i in range(5)]
    means = layer.means(z)
    assert_close(means, torch.stack(expected, 1), **TOLERANCE)
    # A root's is a constant: its mechanism sees nothing.
    assert torch.equal(means[:, ROOTS], layer.means(noise(layer, 6, seed=2))[:, ROOTS])
    assert_close(means[:, ROOTS], means[:1, ROOTS].expand(6, -1, -1), **TOLERANCE)
    batch = z.unflatten(0, (2, 3))
    assert_close(layer.means(batch), means.unflatten(0, (2, 3)), **TOLERANCE)
    assert_close(layer.means(batch, [3, 0]), layer.means(batch)[..., [3, 0], :], **TOLERANCE)


def test_roots_are_their_scaled_noise(additive_layer):
    layer = additive_layer
    eps = noise(layer, 6)
    scale = layer.noise_scale[:, None]
    assert torch.equal(layer.to_endogenous(eps)[:, ROOTS], (scale * eps)[:, ROOTS])
    assert torch.equal(layer.means(eps)[:, ROOTS], torch.zeros_like(eps[:, ROOTS]))
    assert (layer.log_noise is None) == bool((scale == 1).all())


@every_kind
def test_layers_start_as_the_identity(cls, dim, options):
    scm = cls(CausalGraph(["a", "b", "c"], [("c", "a"), ("a", "b")]), dim=dim, **options)
    eps = torch.randn(4, 3, dim)
    assert_close(scm.to_endogenous(eps), eps)
    # And yet the mechanisms learn.
    scm.to_endogenous(eps).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for name, p in scm.named_parameters() if name != "log_noise")


def test_strengths_outside_the_graph_are_masked(layer):
    assert torch.equal(layer.adjacency, layer.weight * ADJACENCY)
    eps = noise(layer, 4)
    layer.to_endogenous(eps).square().sum().backward()
    assert torch.equal(layer.weight.grad != 0, ADJACENCY > 0)
    before = layer.to_endogenous(eps)
    layer.weight.data[ADJACENCY == 0] = 1e3
    assert torch.equal(layer.to_endogenous(eps), before)


def test_a_strength_of_zero_cuts_the_edge(layer):
    j, i = ADJACENCY.nonzero()[0].tolist()
    layer.weight.data[j, i] = 0
    jacobian = torch.autograd.functional.jacobian(layer.means, noise(layer))
    assert torch.equal(jacobian[i, :, j], torch.zeros(layer.dim, layer.dim).double())


def test_sensitivity_is_the_mean_absolute_derivative(layer):
    z = noise(layer, 2, 3)
    strength = layer.sensitivity(z)
    assert torch.equal(strength > 0, ADJACENCY > 0)
    assert not strength.requires_grad
    assert all(parameter.grad is None for parameter in layer.parameters())
    if layer.dim == 1:
        jacobian = torch.stack([torch.autograd.functional.jacobian(layer.means, row) for row in z.flatten(0, 1)])
        assert_close(strength, jacobian.abs().mean((0, 2, 4)).mT, **TOLERANCE)


@pytest.mark.parametrize("learn_noise", [False, True])
def test_matrix_of_the_linear_layer(learn_noise):
    scm = make_layer(LinearSCM, ADJACENCY, dim=3, learn_noise=learn_noise)
    scale = torch.ones(5) if not learn_noise else 0.05 + 0.95 * scm.log_noise.exp()
    expected = torch.linalg.inv(torch.eye(5, dtype=torch.float64) - (scm.weight * ADJACENCY).T) * scale
    assert_close(scm.matrix(), expected.double(), **TOLERANCE)
    eps = noise(scm, 6)
    assert_close(scm.to_endogenous(eps), torch.einsum("ij,bjd->bid", expected.double(), eps), **TOLERANCE)


def test_state_dict_round_trip(layer):
    fresh = type(layer)(**layer.init_args).double()
    eps = noise(layer, 4)
    assert not torch.equal(fresh.to_endogenous(eps), layer.to_endogenous(eps))
    fresh.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(fresh.to_endogenous(eps), layer.to_endogenous(eps))
    assert "mask" not in layer.state_dict(), "the graph is not learned and lives in the constructor's arguments"


def test_deepcopy(layer):
    twin, eps = copy.deepcopy(layer), noise(layer, 4)
    before = layer.to_endogenous(eps)
    assert torch.equal(twin.to_endogenous(eps), before)
    assert torch.equal(twin(eps), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert not torch.equal(twin.to_endogenous(eps), before)
    assert torch.equal(layer.to_endogenous(eps), before)


def test_causal_transform_is_a_torch_transform(layer):
    transform, eps = CausalTransform(layer), noise(layer, 2, 4)
    z = transform(eps)
    assert torch.equal(z, layer.to_endogenous(eps))
    assert transform.inv.inv is transform
    assert (transform.domain.event_dim, transform.codomain.event_dim) == (2, 2)
    assert transform.forward_shape(eps.shape) == transform.inverse_shape(eps.shape) == eps.shape
    assert_close(transform.inv(z.clone()), eps, **TOLERANCE)
    assert_close(transform.inv.log_abs_det_jacobian(z, eps), -layer.log_abs_det_jacobian(eps, z), **TOLERANCE)
    assert transform.log_abs_det_jacobian(eps, z).shape == (2, 4)


def test_causal_transform_compares_by_its_layer(layer):
    transform, other = CausalTransform(layer), CausalTransform(copy.deepcopy(layer))
    assert transform == CausalTransform(layer)
    assert hash(transform) == hash(CausalTransform(layer))
    assert transform.inv == CausalTransform(layer).inv
    assert transform != other
    assert transform.inv != other.inv
    assert transform != "scm"


def test_causal_transform_caches_the_last_pair(layer, monkeypatch):
    calls = []
    for method in ("to_endogenous", "to_exogenous"):
        original = getattr(layer, method)
        monkeypatch.setattr(
            layer, method, lambda value, method=method, original=original: calls.append(method) or original(value)
        )
    transform, eps = CausalTransform(layer).inv, noise(layer, 4)
    z = layer.to_endogenous(eps)
    calls.clear()
    assert transform(z) is transform(z)
    assert transform.inv(transform(z)) is z
    assert calls == ["to_exogenous"]
    # The density of a fresh sample costs no second solve either.
    q = dist.TransformedDistribution(dist.Normal(eps, 1.0).to_event(2), [CausalTransform(layer).inv])
    calls.clear()
    q.log_prob(q.rsample())
    assert calls == ["to_exogenous"]


def test_density_of_a_gaussian_over_z_seen_from_eps(layer):
    n, d = len(layer.graph), layer.dim
    base = dist.Normal(noise(layer, 3), 0.3).to_event(2)
    q = dist.TransformedDistribution(base, [CausalTransform(layer).inv])
    assert (q.batch_shape, q.event_shape) == ((3,), (n, d))
    assert q.expand([2, 3]).sample().shape == (2, 3, n, d)
    eps = noise(layer, 3, seed=9)
    jacobian = torch.stack([torch.autograd.functional.jacobian(layer.to_endogenous, row) for row in eps]).reshape(3, n * d, -1)
    expected = base.log_prob(layer.to_endogenous(eps)) + torch.linalg.slogdet(jacobian).logabsdet
    assert_close(q.log_prob(eps), expected, **TOLERANCE)


@every_additive_layer
def test_noise_scales(cls):
    graph = CausalGraph(["a", "b"], [("a", "b")])
    fixed = cls(graph)
    assert fixed.log_noise is None
    assert fixed.noise_scale.tolist() == [1, 1]
    scm = cls(graph, learn_noise=True, min_noise=0.03)
    assert_close(scm.noise_scale, torch.ones(2))
    with torch.no_grad():
        scm.log_noise.copy_(torch.tensor([-200.0, 1.0]))
    assert_close(scm.noise_scale, torch.tensor([0.03, 0.03 + 0.97 * math.e]))
    eps = torch.randn(3, 2, 1)
    assert torch.isfinite(scm.to_exogenous(scm.to_endogenous(eps))).all()
    scm.noise_scale.log().sum().backward()
    assert scm.log_noise.grad[1] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_noise": 0.0}, r"^min_noise: got 0\.0"),
        ({"min_noise": 1.0}, r"^min_noise: got 1\.0"),
        ({"min_noise": -0.1}, r"^min_noise: got -0\.1"),
    ],
)
@every_layer
def test_constructor_errors(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(CausalGraph(["a"]), **arguments)


@every_class
def test_a_concept_needs_a_dimension(cls):
    with pytest.raises(ValueError, match="^dim: got 0"):
        cls(CausalGraph(["a"]), dim=0)


@pytest.mark.parametrize("cls", [AdditiveNoiseSCM, MaskLayer, *FLOWS], ids=lambda cls: cls.__name__)
def test_constructor_error_of_the_networks(cls):
    with pytest.raises(ValueError, match=r"^hidden: got 0"):
        cls(CausalGraph(["a"]), hidden=0)


# The one-pass mask layer ----------------------------------------------------------------------------------------------

CHAIN = torch.tensor([[0.0, 1, 0], [0, 0, 1], [0, 0, 0]]).double()  # v0 -> v1 -> v2


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("n", [4, 10, 40])
def test_do_in_the_mask_layer_is_one_pass(n, count, kind):
    adjacency = random_adjacency(n, seed=n)
    scm = make_layer(MaskLayer, adjacency, dim=3, seed=n)
    eps = noise(scm, 5)
    natural = scm.to_endogenous(eps)
    shift = torch.randperm(n, generator=torch.Generator().manual_seed(count)).tolist()
    for start in range(0, n, max(1, n // 3)):
        chosen = [shift[(start + k) % n] for k in range(count)]
        do = {f"v{i}": VALUES[kind](5, 3) for i in chosen}
        trace = poutine.trace(poutine.do(scm, data=do)).get_trace(eps)
        z = trace.nodes["_RETURN"]["value"]
        assert_close(z, one_pass(scm, adjacency, eps, do), **TOLERANCE)
        near = adjacency[chosen].any(0)
        near[chosen] = True
        assert (z != natural).any(0).any(-1)[near].all()
        assert torch.equal(z[:, ~near], natural[:, ~near]), "only direct children may move"
        if count == 1:
            assert torch.equal(trace.nodes[f"v{chosen[0]}"]["value"], natural[:, chosen[0]])


@pytest.mark.parametrize("dim", [1, 3])
def test_an_intervention_on_a_chain_stops_at_the_child_in_one_pass_and_reaches_the_end_otherwise(dim):
    one, full = make_layer(MaskLayer, CHAIN, dim), make_layer(AdditiveNoiseSCM, CHAIN, dim, learn_noise=False)
    full.load_state_dict(one.state_dict())
    eps = noise(one, 6)
    value = torch.full((6, dim), 2.0).double()
    b = network_output(one, 1, {0: value}) + eps[:, 1]  # what the mechanism says
    outcome = {}
    for scm in (one, full):
        natural, z = scm.to_endogenous(eps), poutine.do(scm, data={"v0": value})(eps)
        assert_close(z[:, 1], b, **TOLERANCE)
        assert (z[:, 1] != natural[:, 1]).all()
        outcome[scm] = natural[:, 2], z[:, 2]
    assert torch.equal(*outcome[one])
    assert (outcome[full][0] != outcome[full][1]).all()
    assert_close(outcome[full][1], network_output(full, 2, {1: b}) + eps[:, 2], **TOLERANCE)


def test_the_mask_layers_children_see_the_linear_value_until_something_replaces_it():
    scm = make_layer(MaskLayer, CHAIN, dim=2)
    eps = noise(scm, 6)
    z, linear = scm.to_endogenous(eps), scm.linear(eps)
    strengths = (scm.weight * CHAIN).T
    assert_close(linear, strengths @ linear + eps, **TOLERANCE)
    assert_close(scm.means(linear) + eps, z, **TOLERANCE)
    # A root is what its children see; any other concept, set to its own value, moves them.
    assert torch.equal(poutine.do(scm, data={"v0": z[:, 0]})(eps), z)
    set_to_itself = poutine.do(scm, data={"v1": z[:, 1]})(eps)
    assert torch.equal(set_to_itself[:, :2], z[:, :2])
    assert_close(set_to_itself[:, 2], network_output(scm, 2, {1: z[:, 1]}) + eps[:, 2], **TOLERANCE)
    assert not torch.allclose(set_to_itself[:, 2], z[:, 2])


def test_soft_interventions_on_the_mask_layer():
    scm = make_layer(MaskLayer, CHAIN, dim=2)
    eps = noise(scm, 6)
    z, linear = scm.to_endogenous(eps), scm.linear(eps)
    shifted = soft_do(scm, {"v1": Shift(0.5)})(eps)
    assert_close(shifted[:, 1], z[:, 1] + 0.5, **TOLERANCE)
    assert_close(shifted, poutine.do(scm, data={"v1": z[:, 1] + 0.5})(eps), **TOLERANCE)
    # Of several worlds at once the factual one moves too.
    both = soft_do(scm, {"v1": lambda natural, parents: torch.stack([natural, natural + 0.5])})(eps)
    assert_close(both[1], shifted, **TOLERANCE)
    assert_close(both[0], poutine.do(scm, data={"v1": z[:, 1]})(eps), **TOLERANCE)
    assert not torch.allclose(both[0], z)
    # The parents of a changed concept are what its mechanism saw.
    met = []
    kept = soft_do(scm, {"v2": lambda natural, parents: met.append(parents) or natural})(eps)
    assert torch.equal(kept, z)
    assert met[0].keys() == {"v1"}
    assert torch.equal(met[0]["v1"], linear[:, 1])
    soft_do(poutine.do(scm, data={"v1": 3.0}), {"v2": lambda natural, parents: met.append(parents) or natural})(eps)
    assert torch.equal(met[1]["v1"], torch.full_like(z[:, 1], 3.0))


@every_kind
def test_a_single_concept(cls, dim, options):
    scm = cls(CausalGraph(["only"]), dim, **options)
    eps = torch.randn(4, 1, dim)
    assert_close(scm(eps), eps)
    assert torch.equal(poutine.do(scm, data={"only": 2.0})(eps), torch.full_like(eps, 2.0))
