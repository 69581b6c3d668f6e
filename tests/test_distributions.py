"""The block Gaussian and its divergences against torch's multivariate normal, values and gradients, in float64."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence
from torch.distributions.utils import _standard_normal
from torch.testing import assert_close

from causalvae_pyro import CausalGraph, LinearSCM
from causalvae_pyro.distributions import BlockNormal
from causalvae_pyro.objectives.divergences import kl, kl_endogenous, kl_exogenous, kl_linear_gaussian
from causalvae_pyro.scm import CausalTransform

N, DIM, BATCH = 3, 2, 4
SIZE = N * DIM
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}

every_blocks = pytest.mark.parametrize("blocks", [1, 2, N, SIZE])


def parameters(blocks, batch=(BATCH,)):
    """Leaves that need a gradient: mean and Cholesky factors, with the diagonal away from 0."""
    loc = torch.randn(*batch, N, DIM).double()
    tril = torch.randn(*batch, blocks, SIZE // blocks, SIZE // blocks).double().tril(-1)
    tril = tril + torch.diag_embed(torch.rand(*batch, blocks, SIZE // blocks).double() + 0.4)
    return loc.requires_grad_(), tril.requires_grad_()


def dense(loc, tril):
    """The same as torch's multivariate normal over the flattened dimensions, block by block."""
    blocks, m = tril.shape[-3:-1]
    rows = [
        torch.cat([tril[..., k, :, :] if k == c else torch.zeros_like(tril[..., k, :, :]) for c in range(blocks)], -1)
        for k in range(blocks)
    ]
    return MultivariateNormal(loc.flatten(-2), scale_tril=torch.cat(rows, -2))


def diagonal():
    loc, scale = torch.randn(BATCH, N, DIM).double(), torch.rand(BATCH, N, DIM).double() + 0.3
    return loc.requires_grad_(), scale.requires_grad_()


def assert_same_with_gradients(actual, expected, leaves):
    assert_close(actual, expected, **TOLERANCE)
    weights = torch.randn_like(actual.detach())
    options = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    found, wanted = (torch.autograd.grad((weights * value).sum(), leaves, **options) for value in (actual, expected))
    for gradient, other in zip(found, wanted, strict=True):
        # Entries above a Cholesky factor's diagonal are no parameters.
        same = gradient.tril() if gradient.shape[-1] == gradient.shape[-2] and gradient.ndim > 3 else gradient
        assert_close(same, other.tril() if same is not gradient else other, **TOLERANCE)


@every_blocks
def test_it_is_the_multivariate_normal(blocks):
    leaves = parameters(blocks)
    q, expected = BlockNormal(*leaves), dense(*leaves)
    assert (q.batch_shape, q.event_shape) == ((BATCH,), (N, DIM))
    assert_close(q.mean, leaves[0])
    assert_close(q.variance.flatten(-2), expected.variance, **TOLERANCE)
    assert_close(q.covariance_matrix, expected.covariance_matrix, **TOLERANCE)
    assert_close(q.log_volume, 0.5 * torch.logdet(expected.covariance_matrix), **TOLERANCE)
    values = torch.randn(5, BATCH, N, DIM).double()
    assert_same_with_gradients(q.log_prob(values), expected.log_prob(values.flatten(-2)), leaves)
    assert_same_with_gradients(q.entropy(), expected.entropy(), leaves)


@every_blocks
def test_samples_are_reparametrised(blocks):
    leaves = parameters(blocks)
    q = BlockNormal(*leaves)
    pyro.set_rng_seed(1)
    sample = q.rsample((3,))
    assert sample.shape == (3, BATCH, N, DIM)
    pyro.set_rng_seed(1)
    xi = _standard_normal(torch.Size((3, BATCH, SIZE)), torch.float64, torch.device("cpu"))
    assert_same_with_gradients(sample, leaves[0] + (q.factor @ xi[..., None, :, None])[..., 0], leaves)
    assert not q.sample().requires_grad


@every_blocks
def test_batches_expand_and_broadcast(blocks):
    loc, tril = parameters(blocks, ())
    wide_loc, wide_tril = loc.expand(BATCH, -1, -1), tril.expand(BATCH, -1, -1, -1)
    for q in (BlockNormal(loc, wide_tril), BlockNormal(wide_loc, tril)):
        assert q.batch_shape == (BATCH,)
        assert_close(q.mean, wide_loc)
        assert_close(q.covariance_matrix, dense(loc, tril).covariance_matrix.expand(BATCH, -1, -1), **TOLERANCE)
    wide = q.expand([5, BATCH])
    assert type(wide) is BlockNormal
    assert wide.sample((2,)).shape == (2, 5, BATCH, N, DIM)
    value = torch.randn(N, DIM).double()
    assert_close(wide.log_prob(value), dense(loc, tril).log_prob(value.flatten()).expand(5, BATCH), **TOLERANCE)


@pytest.mark.parametrize(
    "shape", [(2, 2, 2), (3, 3, 3), (1, 5, 5), (6, 6), (3, 2, 1), (1, 6, 1), ()], ids=lambda shape: "x".join(map(str, shape))
)
def test_blocks_that_do_not_fit_are_an_error(shape):
    with pytest.raises(ValueError, match=r"^scale_tril: got shape .* for loc \[3, 2\]; need .* k \* m = n \* d"):
        BlockNormal(torch.zeros(N, DIM), torch.ones(shape))


def test_a_factor_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="scale_tril"):
        BlockNormal(torch.zeros(N, DIM), torch.ones(1, SIZE, SIZE))
    with pytest.raises(ValueError, match="scale_tril"):
        BlockNormal(torch.zeros(N, DIM), -torch.eye(SIZE)[None])


# Divergences ---------------------------------------------------------------------------------------------------------


@every_blocks
def test_kl_from_a_diagonal_gaussian(blocks):
    leaves, (loc, scale) = parameters(blocks), diagonal()
    expected = kl_divergence(dense(*leaves), MultivariateNormal(loc.flatten(-2), torch.diag_embed(scale.flatten(-2).square())))
    p = dist.Normal(loc, scale).to_event(2)
    for value in (kl_divergence(BlockNormal(*leaves), p), kl(BlockNormal(*leaves), p, torch.full((N, DIM), torch.nan))):
        assert_same_with_gradients(value, expected, (*leaves, loc, scale))


def test_kl_from_the_standard_normal():
    leaves = parameters(1)
    p = dist.Normal(torch.zeros(()).double(), 1.0).expand([N, DIM]).to_event(2)
    expected = kl_divergence(dense(*leaves), MultivariateNormal(torch.zeros(SIZE).double(), torch.eye(SIZE).double()))
    assert_same_with_gradients(kl_exogenous(BlockNormal(*leaves), p, None, torch.zeros(N, DIM)), expected, leaves)


def test_kl_without_a_closed_form_is_sampled():
    leaves = parameters(1)
    q, value = BlockNormal(*leaves), torch.randn(BATCH, N, DIM).double()
    for p in (
        dist.Laplace(torch.zeros(N, DIM).double(), 1.0).to_event(2),
        Independent(Normal(torch.zeros(DIM).double(), 1.0), 1),
    ):
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)
    p = dist.Laplace(torch.zeros(N, DIM).double(), 1.0).to_event(2)
    assert_close(kl(q, p, value), q.log_prob(value) - p.log_prob(value))


@pytest.mark.parametrize("acyclic", [True, False])
@every_blocks
def test_kl_linear_gaussian(blocks, acyclic):
    leaves, (loc, scale) = parameters(blocks), diagonal()
    matrix = torch.randn(N, N).double()
    matrix = torch.linalg.inv(torch.eye(N).double() - matrix.tril(-1)) if acyclic else matrix
    matrix = matrix.contiguous().requires_grad_()
    big, q = torch.kron(matrix, torch.eye(DIM).double()), dense(*leaves)
    pushed = MultivariateNormal(q.mean @ big.T, big @ q.covariance_matrix @ big.T)
    expected = kl_divergence(pushed, MultivariateNormal(loc.flatten(-2), torch.diag_embed(scale.flatten(-2).square())))
    value = kl_linear_gaussian(BlockNormal(*leaves), matrix, dist.Normal(loc, scale).to_event(2))
    assert_same_with_gradients(value, expected, (*leaves, loc, scale, matrix))


@every_blocks
def test_the_linear_layer_has_closed_forms_in_both_directions(blocks):
    scm = LinearSCM(CausalGraph(["a", "b", "c"], [("a", "b"), ("a", "c"), ("b", "c")]), DIM, learn_noise=True).double()
    for parameter in scm.parameters():
        parameter.data.normal_(std=0.6)
    leaves, (loc, scale) = parameters(blocks), diagonal()
    q, p = BlockNormal(*leaves), dist.Normal(loc, scale).to_event(2)
    # A value that would spoil any sampled estimate.
    nowhere = torch.full((BATCH, N, DIM), torch.nan).double()
    assert_close(kl_endogenous(q, p, scm, nowhere, nowhere), kl_linear_gaussian(q, scm.matrix(), p), **TOLERANCE)
    back = dist.TransformedDistribution(q, [CausalTransform(scm).inv])
    assert_close(kl_exogenous(back, p, scm, nowhere), kl_linear_gaussian(q, torch.linalg.inv(scm.matrix()), p), **TOLERANCE)
    eps = back.sample()
    assert_close(kl_endogenous(back, p, scm, eps, scm.to_endogenous(eps)), kl_divergence(q, p), **TOLERANCE)
