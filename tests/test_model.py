"""The generative program: its sites, its densities, Pyro's handlers on it, and parts of the user's own."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.testing import assert_close

from causalvae_pyro import (
    AdditiveNoiseSCM,
    CausalELBO,
    CausalGraph,
    CausalVAE,
    FixedPrior,
    GaussianLikelihood,
    LinearSCM,
    counterfactual,
    encode,
    fit,
    intervene,
)
from causalvae_pyro.scm import AffineFlowSCM, SplineFlowSCM
from tests.builders import SPACES, make_pair

# Against the index order: root -> mid -> leaf, and lone beside them.
GRAPH = CausalGraph(["leaf", "root", "lone", "mid"], [("root", "mid"), ("mid", "leaf")])
LEAF, ROOT, LONE, MID = range(4)
SHAPE = (1, 4, 4)
BATCH = 5

every_guide = pytest.mark.parametrize("guide", SPACES)


def make(guide="exogenous", *, scm_module=None, scm=AdditiveNoiseSCM, **options):
    """A model and a guide with random weights; options replace the model's parts."""
    options = {"prior_options": {"std": 0.5}, "likelihood": GaussianLikelihood(0.3, learn_scale=True), **options}
    return make_pair(GRAPH, SHAPE, guide, scm=scm_module or scm, moved=0.2, layer_options={"learn_noise": True}, **options)


def data(size=BATCH, dtype=torch.float32):
    return torch.rand(size, *SHAPE, dtype=dtype), torch.randn(size, 4, dtype=dtype)


def value(trace, name):
    return trace.nodes[name]["value"]


# Sites


@pytest.mark.parametrize("noise_dim", [0, 2])
@pytest.mark.parametrize("given", ["x and labels", "x", "labels", "num_samples", "nothing"])
def test_sites_and_shapes(given, noise_dim):
    model, _ = make(dim=3, noise_dim=noise_dim)
    x, labels = data()
    arguments = {
        "x and labels": {"x": x, "labels": labels},
        "x": {"x": x},
        "labels": {"labels": labels},
        "num_samples": {"num_samples": BATCH},
        "nothing": {},
    }[given]
    size = 1 if given == "nothing" else BATCH
    trace = poutine.trace(model).get_trace(**arguments)
    names = [name for name in trace.nodes if name not in ("_INPUT", "_RETURN", "data") and "$$$" not in name]
    names = [name for name in names if trace.nodes[name]["type"] == "sample"]
    events = {"eps": (4, 3), **dict.fromkeys(GRAPH.names, (3,)), "z": (4, 3), "x_mean": SHAPE, "x": SHAPE}
    if noise_dim:
        events["eps_x"] = (2,)
    assert set(names) == set(events)
    # Concepts after their causes, and z, which records interventions, after all of them.
    assert [name for name in names if name in GRAPH.names] == list(GRAPH.order) != list(GRAPH.names)
    assert names.index("eps") < names.index(GRAPH.order[0])
    assert names.index(GRAPH.order[-1]) < names.index("z") < names.index("x")
    trace.compute_log_prob()
    for name, event in events.items():
        site = trace.nodes[name]
        assert (site["fn"].batch_shape, site["fn"].event_shape) == ((size,), event)
        assert site["value"].shape == (size, *event)
        assert site["log_prob"].shape == (size,)
        assert [frame.name for frame in site["cond_indep_stack"]] == ["data"]

    observed = {name for name in events if trace.nodes[name]["is_observed"]}
    deterministic = {name for name in events if trace.nodes[name]["infer"].get("_deterministic")}
    scored = ({"x"} if "x" in arguments else set()) | ({"z"} if "labels" in arguments else set())
    assert observed - deterministic == scored
    assert deterministic == {*GRAPH.names, "x_mean"} | (set() if "labels" in arguments else {"z"})
    assert torch.equal(trace.nodes["_RETURN"]["value"], value(trace, "x"))
    if "x" in arguments:
        assert value(trace, "x") is x
    for i, name in enumerate(GRAPH.names):
        assert torch.equal(value(trace, name), value(trace, "z")[:, i])


@pytest.mark.parametrize("rows", [1, 4, 6])
def test_mismatched_lengths_are_an_error(rows):
    model, _ = make()
    x, _ = data()
    with pytest.raises(ValueError, match=rf"^labels: got {rows} rows for 5 images$"):
        model(x, torch.zeros(rows, 4))


def test_the_model_has_the_graph_of_its_causal_layer():
    model, _ = make()
    assert model.graph is GRAPH


# Densities


def normal(value, loc, scale):
    scale = torch.as_tensor(scale, dtype=value.dtype)
    return (-0.5 * ((value - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)


def joint(model, x, labels, eps, eps_x=None):
    """``log p(x, z, eps, eps_x | u)`` by hand, ``[batch]``."""
    z = model.scm.to_endogenous(eps)
    output = model.decoder(z) if eps_x is None else model.decoder(z, eps_x)
    total = normal(x, output.sigmoid(), model.likelihood.scale.detach()) + normal(eps, 0, 1)
    if labels is not None:
        total = total + normal(z, labels[..., None], 0.5)
    return total if eps_x is None else total + normal(eps_x, 0, 1)


@pytest.mark.parametrize("with_labels", [True, False])
@pytest.mark.parametrize("noise_dim", [0, 2])
def test_log_prob_of_the_joint(noise_dim, with_labels):
    model, _ = make(dim=3, noise_dim=noise_dim)
    model.double()
    x, labels = data(dtype=torch.float64)
    labels = labels if with_labels else None
    trace = poutine.trace(model).get_trace(x, labels)
    eps_x = value(trace, "eps_x") if noise_dim else None
    expected = joint(model, x, labels, value(trace, "eps"), eps_x)
    assert_close(trace.log_prob_sum(), expected.sum(), rtol=1e-12, atol=1e-10)
    trace.compute_log_prob()
    scored = [site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample"]
    assert_close(sum(scored), expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO], ids=lambda e: e.__name__)
def test_pyros_elbo_is_the_bound_written_by_hand_and_so_is_its_gradient(elbo):
    model, guide = make(noise_dim=2)
    model.double()
    guide.double()
    x, labels = data(dtype=torch.float64)
    parameters = [*model.parameters(), *guide.parameters()]
    with pyro.get_param_store().scope():
        pyro.set_rng_seed(1)
        loss = elbo().differentiable_loss(model, guide, x, labels)
        gradient = torch.autograd.grad(loss, parameters, allow_unused=True)
    pyro.set_rng_seed(1)
    q = guide.posterior(x)
    noise = {name: q[name].rsample() for name in ("eps", "eps_x")}
    scale = model.likelihood.scale
    z = model.scm.to_endogenous(noise["eps"])
    error = (x - model.decoder(z, noise["eps_x"]).sigmoid()) / scale
    bound = (-0.5 * error**2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum() + normal(z, labels[..., None], 0.5).sum()
    for name, distribution in q.items():
        loc, std = distribution.base_dist.loc, distribution.base_dist.scale
        if elbo is Trace_ELBO:
            bound = bound + normal(noise[name], 0, 1).sum() - distribution.log_prob(noise[name]).sum()
        else:
            bound = bound - (0.5 * (loc**2 + std**2 - 1) - std.log()).sum()
    assert_close(loss, -bound, rtol=1e-12, atol=1e-10)
    for ours, expected in zip(gradient, torch.autograd.grad(-bound, parameters, allow_unused=True), strict=True):
        assert (ours is None) == (expected is None)
        if ours is not None:
            assert_close(ours, expected, rtol=1e-9, atol=1e-9)


# Interventions

VALUES = {
    "float": lambda d: 2.5,
    "int": lambda d: 2,
    "0-dim": lambda d: torch.tensor(-1.5),
    "[d]": lambda d: torch.arange(1.0, d + 1),
    "[batch, d]": lambda d: torch.randn(BATCH, d),
    "[batch, 1]": lambda d: torch.randn(BATCH, 1),
}


@pytest.mark.parametrize("with_labels", [True, False])
@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("dim", [1, 3])
def test_do_is_recorded_in_z_and_reaches_the_descendants(dim, kind, with_labels):
    model, _ = make(dim=dim, noise_dim=2)
    x, labels = data()
    arguments = (None, labels) if with_labels else (None, None, BATCH)
    natural = poutine.trace(model).get_trace(*arguments)
    noise = {name: value(natural, name) for name in ("eps", "eps_x")}
    setting = VALUES[kind](dim)
    trace = poutine.trace(poutine.do(poutine.condition(model, noise), data={"mid": setting})).get_trace(*arguments)
    z = value(trace, "z")
    assert torch.equal(z[:, MID], torch.as_tensor(setting, dtype=z.dtype).expand(BATCH, dim))
    assert torch.equal(z[:, [ROOT, LONE]], value(natural, "z")[:, [ROOT, LONE]])
    assert (z[:, LEAF] != value(natural, "z")[:, LEAF]).all()
    assert_close(value(trace, "x_mean"), model.likelihood(model.decoder(z, noise["eps_x"])).mean)
    # Pitfall: the concept's own site holds what it would have been.
    assert torch.equal(value(trace, "mid"), value(natural, "mid"))
    assert torch.equal(value(trace, "leaf"), z[:, LEAF])
    if with_labels:
        assert_close(trace.nodes["z"]["fn"].log_prob(z), normal(z, labels[..., None], 0.5))


def test_do_on_unknown_names_is_ignored_by_pyro_and_refused_by_intervene():
    model, _ = make()
    pyro.set_rng_seed(5)
    natural = model(num_samples=BATCH)
    pyro.set_rng_seed(5)
    assert torch.equal(poutine.do(model, data={"middle": 3.0})(num_samples=BATCH), natural)
    with pytest.raises(ValueError, match=r"^do: unknown concept 'middle'; known: \['leaf', 'root', 'lone', 'mid'\]"):
        intervene(model, {"middle": 3.0})


def test_do_twice_on_one_site_fails_and_a_merged_do_works():
    model, _ = make()
    with pytest.raises((RecursionError, RuntimeWarning)):
        poutine.do(poutine.do(model, data={"mid": 1.0}), data={"mid": 2.0})(num_samples=BATCH)
    both = poutine.do(poutine.do(model, data={"mid": 1.0}), data={"lone": 2.0})
    merged = intervene(model, {"mid": 1.0, "lone": 2.0})
    for program in (both, merged):
        z = value(poutine.trace(program).get_trace(num_samples=BATCH), "z")
        assert z[:, [MID, LONE], 0].tolist() == [[1.0, 2.0]] * BATCH


def test_condition_on_a_concept_is_no_conditioning():
    # Pitfall: it overrides the value as ``do`` does, and does not change what is upstream. Condition ``eps``.
    model, _ = make()
    natural = poutine.trace(model).get_trace(num_samples=BATCH)
    noise, setting = {"eps": value(natural, "eps")}, torch.randn(BATCH, 1)
    with pytest.warns(UserWarning, match=r"^condition: the concept 'mid' .* as do does.*; condition eps"):
        conditioned = poutine.trace(poutine.condition(model, noise | {"mid": setting})).get_trace(num_samples=BATCH)
    done = poutine.trace(poutine.do(poutine.condition(model, noise), {"mid": setting})).get_trace(num_samples=BATCH)
    assert torch.equal(value(conditioned, "z"), value(done, "z"))
    assert conditioned.nodes["mid"]["fn"].log_prob(setting).sum() == 0
    # What puts back all that was drawn, as Predictive does, sets nothing; do and the image's own observation neither.
    everything = {name: value(natural, name) for name in ("eps", *model.graph.names)}
    again = poutine.trace(poutine.condition(model, everything)).get_trace(num_samples=BATCH)
    assert torch.equal(value(again, "z"), value(natural, "z"))
    poutine.do(poutine.condition(model, {"x": value(natural, "x")}), {"mid": setting})(num_samples=BATCH)


def test_the_warning_comes_once():
    model, _ = make()
    program = poutine.condition(model, {"mid": torch.ones(BATCH, 1)})
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            program(num_samples=BATCH)
    assert len(seen) == 1


def test_the_image_is_of_what_site_z_holds():
    model, _ = make(dim=2, noise_dim=2)
    x, labels = data()
    noise = {name: value(poutine.trace(model).get_trace(num_samples=BATCH), name) for name in ("eps", "eps_x")}
    kept = poutine.condition(model, noise)
    for setting in (torch.randn(BATCH, 4, 2), torch.randn(4, 2), torch.tensor(0.5), 0.5):
        wanted = model.likelihood(model.decoder(torch.as_tensor(setting).expand(BATCH, 4, 2), noise["eps_x"])).mean
        programs = [poutine.do(kept, {"z": setting})]
        programs += [poutine.condition(kept, {"z": setting})] if isinstance(setting, torch.Tensor) else []
        for program in programs:
            for arguments in ((None, None, BATCH), (None, labels), (x, labels)):
                assert_close(value(poutine.trace(program).get_trace(*arguments), "x_mean"), wanted)
    # Pitfall: under do the record is the natural value, under condition it is the one set.
    done, natural = (poutine.trace(program).get_trace(num_samples=BATCH) for program in (programs[0], kept))
    assert torch.equal(value(done, "z"), value(natural, "z"))
    with pytest.raises(ValueError, match=r"^do\['z'\]: a value of shape \(3, 2\) does not broadcast to the site's \(5, 4, 2\)"):
        poutine.do(model, {"z": torch.zeros(3, 2)})(num_samples=BATCH)


def test_uncondition_decodes_the_z_that_it_draws():
    model, _ = make(prior_options={"std": 0.01})
    x, labels = data()
    trace = poutine.trace(poutine.uncondition(model)).get_trace(x, labels)
    z = value(trace, "z")
    assert_close(z, labels[..., None], rtol=0, atol=0.06)
    assert (z != model.scm.to_endogenous(value(trace, "eps"))).all()
    assert_close(value(trace, "x_mean"), model.likelihood(model.decoder(z)).mean)


def test_predictive():
    model, guide = make(noise_dim=2)
    x, _ = data()
    for parallel in (False, True):
        draws = Predictive(model, num_samples=7, parallel=parallel)(num_samples=BATCH)
        assert draws["x"].shape == draws["x_mean"].shape == (7, BATCH, *SHAPE)
        assert draws["z"].shape == draws["eps"].shape == (7, BATCH, 4, 1)
        assert draws["eps_x"].shape == (7, BATCH, 2)
        assert torch.equal(draws["mid"], draws["z"][:, :, MID])
        done = Predictive(poutine.do(model, data={"mid": 2.0}), num_samples=7, parallel=parallel)(num_samples=BATCH)
        assert (done["z"][:, :, MID] == 2).all()
        assert (done["mid"] != 2).all(), "pitfall: read z"
    posterior = Predictive(model, guide=guide, num_samples=300, parallel=True)(x)
    assert posterior["x_mean"].shape == (300, BATCH, *SHAPE)
    assert_close(posterior["eps"].mean(0), guide.posterior(x)["eps"].mean, rtol=0, atol=0.1)


# Particles, masks, stores


@pytest.mark.parametrize("noise_dim", [0, 2])
@every_guide
def test_vectorised_particles(guide, noise_dim):
    model, q = make(guide, dim=2, noise_dim=noise_dim)
    x, labels = data()
    pyro.set_rng_seed(2)
    with pyro.plate("particles", 3, dim=-2):
        guide_trace = poutine.trace(q).get_trace(x, labels)
        trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x, labels)
    trace.compute_log_prob()
    guide_trace.compute_log_prob()
    assert value(trace, "z").shape == value(trace, "eps").shape == (3, BATCH, 4, 2)
    assert value(trace, "x_mean").shape == (3, BATCH, *SHAPE)
    sites = [name for name in ("eps", "eps_x") if name in trace.nodes]
    log_p = sum(trace.nodes[name]["log_prob"] for name in (*sites, "z", "x"))
    log_q = sum(guide_trace.nodes[name]["log_prob"] for name in sites)
    assert log_p.shape == log_q.shape == (3, BATCH)
    for k in range(3):
        assert_close(log_p[k], joint(model, x, labels, *(value(trace, name)[k] for name in sites)), rtol=1e-4, atol=1e-3)
    pyro.clear_param_store()
    pyro.set_rng_seed(2)
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    loss = elbo.differentiable_loss(model, q, x, labels)
    assert_close(loss, (log_q - log_p).sum() / 3)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in q.parameters())


class MaskedPrior(FixedPrior):
    """An image with a label of -9 is not scored at ``z``."""

    def forward(self, labels):
        return super().forward(labels).mask((labels != -9).all(-1))


@every_guide
def test_labels_that_a_prior_masks(guide):
    model, q = make(guide, prior=MaskedPrior(4, std=0.5))
    x, labels = data()
    missing = labels.clone()
    missing[1:3, LONE] = -9
    trace = poutine.trace(model).get_trace(x, missing)
    trace.compute_log_prob()
    scores = trace.nodes["z"]["log_prob"]
    assert scores[1:3].tolist() == [0, 0]
    assert_close(scores[[0, 3, 4]], normal(value(trace, "z"), labels[..., None], 0.5)[[0, 3, 4]])
    # The image says what the labels do not, hence nothing of the KL divergence from p(z | u) may remain for them.
    objective = CausalELBO(0, 1)
    objective.loss(model, q, x[1:3], missing[1:3])
    assert objective.last_terms["kl_z"].item() == 0
    objective.loss(model, q, x, labels)
    assert objective.last_terms["kl_z"].item() != 0
    history = fit(model, q, (x, labels), epochs=2, batch_size=BATCH, progress=False, device="cpu")
    assert math.isfinite(history["loss"][-1])
    assert counterfactual(model, q, x, {"mid": 1.0}).shape == (BATCH, *SHAPE)


@every_guide
def test_labels_masked_by_a_handler(guide):
    model, q = make(guide)
    x, labels = data()
    seen = torch.tensor([True, False, False, True, True])

    class MaskLabels(poutine.messenger.Messenger):
        def _pyro_sample(self, msg):
            if msg["name"] == "z":
                msg["mask"] = seen

    with MaskLabels():
        trace = poutine.trace(model).get_trace(x, labels)
        trace.compute_log_prob()
    assert ((trace.nodes["z"]["log_prob"] != 0) == seen).all()
    assert (trace.nodes["x"]["log_prob"] != 0).all()


@pytest.mark.thorough
@every_guide
def test_two_models_in_one_process_both_train_under_svi(guide):
    # Pitfall: under SVI, parameters live in one store, keyed by name.
    pairs = [make(guide, noise_dim=2) for _ in range(2)]
    x, labels = data(20)
    starts = [[p.detach().clone() for module in pair for p in module.parameters()] for pair in pairs]
    losses = []
    for model, q in pairs:
        svi = SVI(model, q, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        losses.append([svi.step(x, labels) for _ in range(30)])
    for run, pair, start in zip(losses, pairs, starts, strict=True):
        assert sum(run[-5:]) < 0.9 * sum(run[:5])
        parameters = [(name, p) for module in pair for name, p in module.named_parameters()]
        for (name, parameter), before in zip(parameters, start, strict=True):
            # No gradient: the roots' rows of the causal layer's networks; never a whole parameter.
            assert (parameter != before).any(), f"{name} did not train"
    count = sum(len(list(module.parameters())) for pair in pairs for module in pair)
    assert len(pyro.get_param_store()) == count
    assert pairs[0][0]._pyro_name != pairs[1][0]._pyro_name


def test_a_guide_over_z_shares_the_models_causal_layer_without_owning_it():
    model, guide = make("endogenous")
    assert guide.scm is model.scm
    assert not {id(p) for p in guide.parameters()} & {id(p) for p in model.parameters()}
    assert not any("scm" in name for name in guide.state_dict())
    x, labels = data()
    Trace_ELBO().differentiable_loss(model, guide, x, labels).backward()
    assert (model.scm.skip.grad != 0).any()


# Parts of the user's own


class LaplacePrior(nn.Module):
    """A conditional prior that is no Gaussian."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(4))

    def forward(self, labels):
        return dist.Laplace(labels[..., None] / 2, self.log_scale.exp()[:, None]).to_event(2)


class TanhSCM(nn.Module):
    """``mid = tanh(w root) + eps, leaf = mid^2 + eps``: a causal layer from scratch."""

    graph, dim = GRAPH, 1

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))

    def _solve(self, eps, site):
        root = site("root", eps[..., ROOT, :])
        lone = site("lone", eps[..., LONE, :])
        mid = site("mid", torch.tanh(self.w * root) + eps[..., MID, :])
        leaf = site("leaf", mid**2 + eps[..., LEAF, :])
        return torch.stack(torch.broadcast_tensors(leaf, root, lone, mid), -2)

    def forward(self, eps):
        return self._solve(eps, lambda name, natural: pyro.deterministic(name, natural, event_dim=1).expand(natural.shape))

    def to_endogenous(self, eps):
        return self._solve(eps, lambda name, natural: natural)

    def to_exogenous(self, z):
        leaf, root, lone, mid = z.unbind(-2)
        return torch.stack([leaf - mid**2, root, lone, mid - torch.tanh(self.w * root)], -2)

    def log_abs_det_jacobian(self, eps, z):
        return eps.new_zeros(eps.shape[:-2])


class PatchDecoder(nn.Module):
    """Each concept paints one row of the image."""

    def __init__(self):
        super().__init__()
        self.paint = nn.Parameter(0.1 * torch.randn(4, 4))

    def forward(self, z):
        return (z * self.paint).unsqueeze(-3)


class StudentLikelihood(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, output):
        return dist.StudentT(5.0, output, self.log_scale.exp()).to_event(3)


class HandMadeGuide(PyroModule):
    """A guide with parameters of its own, one of them constrained, and heavy tails."""

    def __init__(self):
        super().__init__("hand_made")
        self.linear = PyroModule[nn.Linear](16, 4)
        self.scale = PyroParam(torch.full((4, 1), 0.3), constraint=dist.constraints.positive)

    def forward(self, x, labels=None, num_samples=None):
        loc = self.linear(x.flatten(1))[..., None]
        with pyro.plate("data", len(x)):
            return pyro.sample("eps", dist.StudentT(6.0, loc, self.scale).to_event(2))


def swapped(part):
    own = {"prior": LaplacePrior, "decoder": PatchDecoder, "likelihood": StudentLikelihood, "scm_module": TanhSCM}
    if part == "all":
        parts = {name: cls() for name, cls in own.items()}
        return *make(**parts)[:1], HandMadeGuide(), [*parts.values()]
    if part == "guide":
        guide = HandMadeGuide()
        return make()[0], guide, [guide]
    module = own[part]()
    return *make(**{part: module}), [module]


@pytest.mark.thorough
@pytest.mark.parametrize("objective", [CausalELBO, lambda: CausalELBO(1, 1), Trace_ELBO], ids=["default", "paper", "Trace_ELBO"])
@pytest.mark.parametrize("part", ["prior", "decoder", "likelihood", "scm_module", "guide", "all"])
def test_a_part_of_the_users_own_trains_and_can_be_intervened_on(part, objective):
    model, guide, own = swapped(part)
    x, labels = data(32)
    before = [[p.detach().clone() for p in module.parameters()] for module in own]
    history = fit(
        model, guide, (x, labels), objective=objective(), epochs=20, batch_size=16, lr=0.01, progress=False, device="cpu"
    )
    assert sum(history["loss"][-5:]) < 0.95 * sum(history["loss"][:5])
    for module, start in zip(own, before, strict=True):
        assert start, "a part without parameters shows nothing"
        assert all((p != old).any() for p, old in zip(module.parameters(), start, strict=True))
    x = x[:BATCH]
    for num_samples in (None, 3):
        pyro.set_rng_seed(1)
        factual, natural = counterfactual(model, guide, x, {}, num_samples=num_samples, return_latents=True)
        pyro.set_rng_seed(1)
        images, z = counterfactual(model, guide, x, {"mid": 3.0}, num_samples=num_samples, return_latents=True)
        labels = torch.full((BATCH, 4), 3.0)
        assert_close(z[..., MID, :], model.prior(labels).mean[:, MID].expand(z.shape[:-2] + (1,)))
        assert torch.equal(z[..., [ROOT, LONE], :], natural[..., [ROOT, LONE], :])
        assert (z[..., LEAF, :] != natural[..., LEAF, :]).all()
        assert (images != factual).flatten(-3).any(-1).all()


def function_guide():
    net = nn.Linear(16, 4)

    def guide(x, labels=None, num_samples=None):
        net_ = pyro.module("users_net", net)
        scale = pyro.param("users_scale", torch.full((4, 1), 0.3), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            return pyro.sample("eps", dist.Normal(net_(x.flatten(1))[..., None], scale).to_event(2))

    return guide, net


def test_a_plain_function_as_the_guide_trains_under_svi_and_serves_counterfactuals():
    (model, _), (guide, net) = make(), function_guide()
    x, labels = data(32)
    weight = net.weight.detach().clone()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), CausalELBO())
    losses = [svi.step(x, labels) for _ in range(20)]
    assert losses[-1] < losses[0]
    assert (net.weight != weight).all()
    assert (pyro.param("users_scale") != 0.3).all()
    trained = {name: parameter.detach().clone() for name, parameter in pyro.get_param_store().items()}
    _, z = counterfactual(model, guide, x[:BATCH], {"mid": 3.0}, return_latents=True)
    assert_close(z[:, MID, 0], torch.full((BATCH,), 3.0))
    # Abduction runs on the trained parameters, whose home the store is.
    expected = net(x[:BATCH].flatten(1))[:, ROOT]
    assert_close(z[:, ROOT, 0], (expected * model.scm.noise_scale[ROOT]).detach())
    assert all(torch.equal(parameter, trained[name]) for name, parameter in pyro.get_param_store().items())


def test_fit_does_not_silently_leave_a_plain_functions_parameters_untrained():
    (model, _), (guide, net) = make(), function_guide()
    weight = net.weight.detach().clone()
    try:
        fit(model, guide, data(32), epochs=2, batch_size=16, progress=False, device="cpu")
    except (TypeError, ValueError) as error:
        assert str(error).startswith("guide: "), error  # noqa: PT017
    else:
        assert (net.weight != weight).any(), "fit trained the model only"


def test_encode_with_a_causal_layer_of_the_users_own():
    model, guide = make(scm_module=TanhSCM())
    x, _ = data()
    with torch.no_grad():
        expected = model.scm.to_endogenous(guide.posterior(x)["eps"].mean)
    run = type("Run", (), {"model": model, "guide": guide})
    assert_close(encode(run.model, run.guide, x), expected)


@pytest.mark.parametrize("scm", [LinearSCM, AdditiveNoiseSCM, AffineFlowSCM, SplineFlowSCM], ids=lambda s: s.__name__)
def test_double_precision_and_back(scm):
    model, _ = make(scm_module=scm(GRAPH), noise_dim=2)
    x, labels = data(dtype=torch.float64)
    model.double()
    trace = poutine.trace(model).get_trace(x, labels)
    assert all(value(trace, name).dtype == torch.float64 for name in ("eps", "eps_x", "z", "x_mean", "mid"))
    model.float()
    assert model(num_samples=2).dtype == torch.float32


@pytest.mark.parametrize("argument", ["scm", "prior", "decoder", "likelihood"])
def test_parts_that_cannot_be_called(argument):
    parts = {"scm": LinearSCM(CausalGraph(["a"])), "prior": FixedPrior(1), "decoder": nn.Identity(), "likelihood": nn.Identity()}
    with pytest.raises(ValueError, match=f"^{argument}: expected a module or another callable, got 0.5"):
        CausalVAE(**parts | {argument: 0.5})
