"""What every wrapper has, whichever family it goes round: parameters, statements, checkpoints, copies, refusals."""

import copy
import math

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch.testing import assert_close

import causalvae_pyro.guides
from causalvae_pyro import (
    AmortizedGuide,
    CausalGraph,
    Run,
    abduct,
    counterfactual,
    fit,
    load,
    save,
)
from causalvae_pyro.guides import (
    BlockDiagonalNormal,
    CalibratedGuide,
    DiagonalNormal,
    FullRankNormal,
    GuideWrapper,
    IterativeGuide,
    LabelConditionedGuide,
    NormalizingFlow,
    PosteriorGuide,
)
from causalvae_pyro.scm import LinearSCM
from tests.builders import make_pair

SHAPE, N, BATCH = (1, 6, 6), 2, 4
GRAPH = CausalGraph(["a", "b"], [("a", "b")])
NORMALS = [DiagonalNormal, BlockDiagonalNormal, FullRankNormal]


def nested(guide, model):
    return LabelConditionedGuide(IterativeGuide(guide, model, refinements=2), model)


# Which wrapper goes round which family.
WRAPPED = [
    *((IterativeGuide, family) for family in NORMALS),
    (LabelConditionedGuide, DiagonalNormal),
    (nested, DiagonalNormal),
]
every_wrapper = pytest.mark.parametrize(("wrapper", "family"), WRAPPED, ids=lambda part: part.__name__)


def make(wrapper=IterativeGuide, family=DiagonalNormal, noise_dim=1):
    options = {"dim": 2, "noise_dim": noise_dim, "family": family(), "hidden": 8, "features": 6, "moved": 0.3}
    model, guide = make_pair(GRAPH, SHAPE, "endogenous", layer_options={"hidden": 8}, prior_options={"std": 0.1}, **options)
    return model, guide, wrapper(guide, model)


@pytest.fixture
def data():
    return torch.rand(BATCH, *SHAPE), torch.randn(BATCH, N)


def test_every_public_wrapper_is_tested():
    public = {getattr(causalvae_pyro.guides, name) for name in causalvae_pyro.guides.__all__}
    assert {cls for cls in public if isinstance(cls, type) and issubclass(cls, GuideWrapper)} == {
        CalibratedGuide,
        GuideWrapper,
        IterativeGuide,
        LabelConditionedGuide,
    }


@every_wrapper
def test_sites_and_shapes(wrapper, family, data):
    model, _, wrapped = make(wrapper, family)
    for mode in (True, False):
        wrapped.train(mode)
        with poutine.trace() as tracer, pyro.plate("particles", 3, dim=-2):
            wrapped(*data)
        site = tracer.trace.nodes["eps"]
        assert site["value"].shape == (3, BATCH, N, 2)
        assert site["fn"].log_prob(site["value"]).shape == (3, BATCH)
        assert site["value"].requires_grad
        assert tracer.trace.nodes["eps_x"]["value"].shape == (3, BATCH, 1)
    z = counterfactual(model, wrapped, data[0], {"a": 2.0}, data[1], num_samples=3, return_latents=True)[1]
    assert (z[..., 0, :] == 2.0).all()
    with pytest.raises(ValueError, match="^x: got an empty batch"):
        wrapped(data[0][:0])


@every_wrapper
def test_the_parameters_are_the_wrapped_guides(wrapper, family, data):
    model, guide, wrapped = make(wrapper, family)
    assert {id(p) for p in wrapped.parameters()} == {id(p) for p in guide.parameters()}
    assert wrapped.scm is wrapped.model.scm is model.scm
    with poutine.trace() as tracer:
        wrapped.eval()(*data)
    names = [name for name, site in tracer.trace.nodes.items() if site["type"] == "param"]
    # One statement for each parameter of the guide, none of the model's.
    assert len(names) == len(list(guide.parameters()))
    assert not any(part in name for name in names for part in ("decoder", "scm", "likelihood"))


@every_wrapper
def test_it_is_trained(wrapper, family, data):
    model, guide, wrapped = make(wrapper, family)
    before = [p.clone() for p in guide.parameters()]
    svi = SVI(model, wrapped, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    assert math.isfinite(svi.step(data[0]))
    assert all(not torch.equal(p, old) for p, old in zip(guide.parameters(), before, strict=True))
    pyro.clear_param_store()
    history = fit(model, wrapped, data, epochs=20, batch_size=BATCH, lr=1e-2, progress=False, device="cpu")
    assert history["loss"][-1] < history["loss"][0]
    # Another wrapper round what has run before, which Pyro refuses for nested modules.
    assert LabelConditionedGuide(IterativeGuide(wrapped, model), model)(data[0]).shape == (BATCH, N, 2)


@every_wrapper
def test_round_trip_through_a_checkpoint(wrapper, family, data, tmp_path):
    model, _, wrapped = make(wrapper, family)
    save(Run(model.eval(), wrapped.eval()), tmp_path)
    restored = load(tmp_path)
    expected = counterfactual(model, wrapped, data[0], {"a": 1.0}, data[1])
    assert torch.equal(counterfactual(restored.model, restored.guide, data[0], {"a": 1.0}, data[1]), expected)
    outer, guide = wrapped, restored.guide
    while isinstance(outer, GuideWrapper):
        assert type(guide) is type(outer)
        assert guide.model is restored.model
        outer, guide = outer.guide, guide.guide
    assert type(guide.family) is family
    assert guide.scm is restored.model.scm


@every_wrapper
def test_a_copied_pair_stays_a_pair(wrapper, family, data):
    model, _, wrapped = make(wrapper, family)
    expected = abduct(wrapped.eval(), *data)
    new, copied = copy.deepcopy((model, wrapped))
    assert copied.model is new
    assert copied.scm is new.scm is copied.guide.scm
    for parameter in (*model.parameters(), *wrapped.parameters()):
        parameter.data.zero_()
    assert_close(abduct(copied, *data), expected, rtol=0, atol=0)


class Unmapped(PosteriorGuide):
    """A user's own guide over ``eps``, and as such without an ``scm``."""

    def __init__(self, guide):
        super().__init__()
        self.inner = guide

    def posterior(self, x, labels=None):
        return self.inner.posterior(x, labels)


@pytest.mark.parametrize("wrapper", [IterativeGuide, LabelConditionedGuide])
def test_refusals(wrapper, data):
    model, guide, _ = make()
    with pytest.raises(TypeError, match=r"^guide: got function; must be a module with posterior\(x, labels\)$"):
        wrapper(make, model)
    with pytest.raises(TypeError, match=r"^guide: got MLPEncoder; must be a module with posterior\(x, labels\)$"):
        wrapper(guide.encoder, model)
    exogenous = AmortizedGuide(guide.encoder, num_concepts=N, dim=2)
    with pytest.raises(TypeError, match=r"^guide: got one over eps; must be a guide over z, such as AmortizedGuide\(encoder, m"):
        wrapper(exogenous, model)
    message = "^guide: its posterior of eps is Independent; must be one of z mapped back by the model's causal layer$"
    with pytest.raises(TypeError, match=message):
        wrapper(Unmapped(exogenous), model).posterior(*data)
    another = AmortizedGuide(guide.encoder, LinearSCM(GRAPH, 2))
    with pytest.raises(ValueError, match="^guide: got one that maps through another causal layer than the model's"):
        wrapper(another, model).posterior(*data)
    # A guide over z of the user's own will do.
    assert wrapper(Unmapped(guide), model)(*data).shape == (BATCH, N, 2)


def test_families_that_a_wrapper_cannot_take(data):
    for family in (NormalizingFlow, FullRankNormal, BlockDiagonalNormal):
        model, guide, wrapped = make(LabelConditionedGuide, family)
        with pytest.raises(TypeError, match="^guide: its distribution of z is .*; must be a diagonal Gaussian"):
            wrapped.posterior(*data)
        # Without labels nothing is changed.
        assert_close(abduct(wrapped, data[0]), abduct(guide, data[0]))
    model, _, wrapped = make(IterativeGuide, NormalizingFlow)
    for mode in (True, False):
        with pytest.raises(TypeError, match="^guide: its distribution of z is .*; must have a mean in closed form"):
            wrapped.train(mode).posterior(*data)
