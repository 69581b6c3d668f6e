"""Soft interventions: the handler against the structural equations, and label units, batches and errors of the friendly API."""

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Predictive
from torch import nn
from torch.testing import assert_close

from causalvae_pyro import FixedPrior, LinearSCM, Replace, Scale, Shift, abduct, counterfactual, intervene
from causalvae_pyro.interventions import SoftIntervention, predict, soft_do
from causalvae_pyro.interventions.handlers import SoftDoMessenger
from causalvae_pyro.priors import LearnedPrior
from tests.interventions.test_counterfactuals import (
    GRAPH,
    LEAF,
    LONE,
    MID,
    ROOT,
    SHAPE,
    N,
    check_one_line,
    every_guide,
    make,
    raises,
)
from tests.scm.test_layers import ADJACENCY, MECHANISMS, TOLERANCE, ancestry, every_layer, make_layer, noise, random_adjacency


@pytest.fixture
def x():
    return torch.rand(N, *SHAPE)


# The handler ---------------------------------------------------------------------------------------------------------


def squashed_sum(values):
    return sum((v.tanh() for v in values), 0.0)


class Squash(SoftIntervention):
    """A user's own class."""

    def apply(self, natural, parents, noise):
        return natural.tanh() + noise * squashed_sum(parents.values())


# What is given to the handler, and the same as a function of the natural value, the list of parents and the noise.
CHANGES = {
    "shift": (Shift(0.7), lambda natural, parents, eps: natural + 0.7),
    "shift by [d]": (
        Shift([0.1, -2.0, 3.0]),
        lambda natural, parents, eps: natural + torch.tensor([0.1, -2.0, 3.0], dtype=natural.dtype),
    ),
    "scale": (Scale(-1.5), lambda natural, parents, eps: -1.5 * natural),
    "scale around": (Scale(0.3, around=2.0), lambda natural, parents, eps: 2 + 0.3 * (natural - 2)),
    "function": (
        lambda natural, parents: 0.5 * natural + squashed_sum(parents.values()),
        lambda natural, parents, eps: 0.5 * natural + squashed_sum(parents),
    ),
    "replaced": (
        Replace(lambda parents, eps: 0.5 - squashed_sum(parents.values()) + 0.1 * eps**3),
        lambda natural, parents, eps: 0.5 - squashed_sum(parents) + 0.1 * eps**3,
    ),
    "constant": (Replace(lambda parents, eps: 1.25), lambda natural, parents, eps: torch.full_like(natural, 1.25)),
    "class": (Squash(), lambda natural, parents, eps: natural.tanh() + eps * squashed_sum(parents)),
}


def equations(scm, adjacency, eps, changes, do=()):
    """The structural equations one concept at a time, some set to values and some changed."""
    n, do, edges, z = len(adjacency), dict(do), adjacency.tolist(), {}
    while len(z) < n:
        for i in range(n):
            parents = {j: z.get(j) for j in range(n) if edges[j][i]}
            if i in z or any(value is None for value in parents.values()):
                continue
            z[i] = MECHANISMS[type(scm)](scm, i, parents, eps[:, i])
            if f"v{i}" in changes:
                z[i] = changes[f"v{i}"](z[i], list(parents.values()), eps[:, i])
            if f"v{i}" in do:
                z[i] = torch.full_like(z[i], do[f"v{i}"])
    return torch.stack([z[i] for i in range(n)], 1)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("n", [4, 10, 40])
@every_layer
def test_a_changed_concept_is_the_truncated_factorisation_with_its_mechanism_replaced(cls, n, kind):
    adjacency = random_adjacency(n, seed=n)
    scm = make_layer(cls, adjacency, dim=3, seed=n)
    eps = noise(scm, 5)
    natural = scm.to_endogenous(eps)
    change, reference = CHANGES[kind]
    for i in range(0, n, max(1, n // 4)):
        name = f"v{i}"
        trace = poutine.trace(soft_do(scm, {name: change})).get_trace(eps)
        z = trace.nodes["_RETURN"]["value"]
        assert_close(z, equations(scm, adjacency, eps, {name: reference}), **TOLERANCE)
        changed = ancestry(adjacency)[i]
        assert torch.equal(z[:, ~changed], natural[:, ~changed])
        assert (z != natural).any(0).any(-1)[changed].all()
        # As with poutine.do, the concept's own site holds what it would have been.
        assert torch.equal(trace.nodes[name]["value"], natural[:, i])


@pytest.mark.parametrize("order", ["soft inside", "soft outside"])
@pytest.mark.parametrize("n", [4, 10, 40])
@every_layer
def test_several_at_once_hard_and_soft(cls, n, order):
    adjacency = random_adjacency(n, seed=n)
    scm = make_layer(cls, adjacency, dim=3, seed=n)
    eps = noise(scm, 5)
    for seed in range(3):
        chosen = [f"v{i}" for i in torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()]
        count = max(1, n // 5)
        do = {name: 0.5 - k for k, name in enumerate(chosen[:count])}
        kinds = list(CHANGES)[seed:]
        soft = {name: CHANGES[kinds[k % len(kinds)]] for k, name in enumerate(chosen[count : 3 * count])}
        given = {name: change for name, (change, _) in soft.items()}
        inside = order == "soft inside"
        program = poutine.do(soft_do(scm, given), data=do) if inside else soft_do(poutine.do(scm, data=do), given)
        expected = equations(scm, adjacency, eps, {name: reference for name, (_, reference) in soft.items()}, do)
        assert_close(program(eps), expected, **TOLERANCE)


@every_layer
def test_functions_see_the_natural_value_and_the_parents_after_all_interventions(cls):
    scm = make_layer(cls, ADJACENCY, dim=2)
    eps, seen = noise(scm, 6), {}

    def spy(name, change):
        def function(natural, parents):
            seen[name] = natural, parents
            return change(natural)

        return function

    names = scm.graph.order
    changes = {name: spy(name, lambda v, k=k: v + 1 + k) for k, name in enumerate(names[1:])}
    z = poutine.do(soft_do(scm, changes), data={names[0]: torch.tensor(2.5)})(eps)
    assert list(seen) == list(names[1:])
    for k, name in enumerate(names[1:]):
        natural, parents = seen[name]
        index = scm.graph.index(name)
        assert tuple(parents) == scm.graph.parents(name)
        assert all(torch.equal(value, z[:, scm.graph.index(parent)]) for parent, value in parents.items())
        assert torch.equal(natural + 1 + k, z[:, index])
        columns = {scm.graph.index(parent): value for parent, value in parents.items()}
        assert_close(natural, MECHANISMS[cls](scm, index, columns, eps[:, index]), **TOLERANCE)


@every_layer
def test_no_change_changes_nothing_to_the_bit(cls):
    scm = make_layer(cls, ADJACENCY, dim=2, dtype=torch.float32)
    eps = noise(scm, 33)
    natural = scm(eps)
    for change in (Shift(0), Scale(1), Scale(1.0, around=7.3), lambda value, parents: value, Shift(torch.zeros(33, 1))):
        for names in [[name] for name in scm.graph.names] + [list(scm.graph.names)]:
            assert torch.equal(soft_do(scm, dict.fromkeys(names, change))(eps), natural)


def test_numbers_are_exact_in_double_precision():
    scm = make_layer(LinearSCM, ADJACENCY)
    eps, root = noise(scm, 4), scm.graph.roots[0]
    index = scm.graph.index(root)
    natural = scm.to_endogenous(eps)[:, index]
    changes = ((Shift(0.1), natural + 0.1), (Scale(1.1, around=0.1), natural + (1.1 - 1) * (natural - 0.1)))
    for change, expected in changes:
        assert_close(soft_do(scm, {root: change})(eps)[:, index], expected, rtol=1e-15, atol=1e-15)
    constant = soft_do(scm, {root: lambda value, parents: 0.1})(eps)[:, index]
    assert torch.equal(constant, torch.full_like(constant, 0.1))


def test_a_concept_that_do_sets_stays_as_it_is_set():
    scm = make_layer(LinearSCM, ADJACENCY)
    eps = noise(scm, 6)
    for name in scm.graph.names:
        value = torch.tensor(0.75, dtype=eps.dtype)
        expected = poutine.do(scm, data={name: value})(eps)
        for program in (
            poutine.do(soft_do(scm, {name: Shift(5.0)}), data={name: value}),
            soft_do(poutine.do(scm, data={name: value}), {name: Shift(5.0)}),
        ):
            trace = poutine.trace(program).get_trace(eps)
            assert torch.equal(trace.nodes["_RETURN"]["value"], expected)
            assert torch.equal(trace.nodes[name]["value"], scm.to_endogenous(eps)[:, scm.graph.index(name)])
        # A trace inside holds the natural value too, and a function is not asked for nothing.
        with poutine.do(data={name: value}), SoftDoMessenger({name: Shift(5.0)}), poutine.trace() as inner:
            scm(eps)
        assert torch.equal(inner.trace.nodes[name]["value"], scm.to_endogenous(eps)[:, scm.graph.index(name)])
        calls = []
        soft_do(poutine.do(scm, data={name: value}), {name: lambda natural, parents, calls=calls: calls.append(1) or natural})(
            eps
        )
        assert not calls


def test_nested_changes_of_one_concept_apply_from_the_inside_out():
    scm = make_layer(LinearSCM, ADJACENCY)
    eps, root = noise(scm, 6), scm.graph.roots[0]
    nested = soft_do(soft_do(scm, {root: Shift(1.0)}), {root: Scale(2.0)})
    assert_close(nested(eps), soft_do(scm, {root: lambda value, parents: 2 * (value + 1)})(eps), **TOLERANCE)
    nested = soft_do(soft_do(scm, {root: Scale(2.0)}), {root: Shift(1.0)})
    trace = poutine.trace(nested).get_trace(eps)
    assert_close(trace.nodes["_RETURN"]["value"], soft_do(scm, {root: lambda v, _: 2 * v + 1})(eps), **TOLERANCE)
    assert torch.equal(trace.nodes[root]["value"], scm.to_endogenous(eps)[:, scm.graph.index(root)])


def test_the_handler_is_a_context_and_can_be_used_again():
    scm = make_layer(LinearSCM, ADJACENCY)
    eps, root = noise(scm, 6), scm.graph.roots[0]
    handler = SoftDoMessenger({root: Shift(1.0)})
    expected = soft_do(scm, {root: Shift(1.0)})(eps)
    for _ in range(2):
        with handler:
            z = scm(eps)
        assert torch.equal(z, expected)
    assert torch.equal(scm(eps), scm.to_endogenous(eps))


@every_layer
def test_leading_dimensions(cls):
    scm = make_layer(cls, ADJACENCY, dim=2)
    eps, name = noise(scm, 5, 7), scm.graph.order[2]
    changes = {name: CHANGES["function"][0], scm.graph.order[0]: Shift(0.5)}
    z = soft_do(scm, changes)(eps)
    assert z.shape == eps.shape
    assert_close(z.flatten(0, 1), soft_do(scm, changes)(eps.flatten(0, 1)), **TOLERANCE)
    assert_close(soft_do(scm, changes)(eps[0, 0]), z[0, 0], **TOLERANCE)
    # A change may add some, as several worlds at once do: by is [worlds, 1, d] for the same noise.
    by = noise(scm, 4)[:, :1]
    worlds = soft_do(scm, changes | {name: Shift(by)})(eps[0])
    assert_close(worlds, torch.stack([soft_do(scm, changes | {name: Shift(b[0])})(eps[0]) for b in by]), **TOLERANCE)
    # And a function sees those that others added.
    last = scm.graph.order[-1]
    worlds = soft_do(poutine.do(scm, data={scm.graph.roots[0]: by}), {last: CHANGES["function"][0]})(eps[0])
    single = [soft_do(poutine.do(scm, data={scm.graph.roots[0]: b[0]}), {last: CHANGES["function"][0]})(eps[0]) for b in by]
    assert_close(worlds, torch.stack(single), **TOLERANCE)


def test_gradients_flow_through_a_change():
    scm = make_layer(LinearSCM, ADJACENCY)
    eps, root = noise(scm, 6).requires_grad_(), scm.graph.roots[0]
    by = torch.tensor(0.3, dtype=eps.dtype, requires_grad=True)
    soft_do(scm, {root: lambda value, parents: 2 * value + by})(eps).sum().backward()
    doubled = eps.grad[:, scm.graph.index(root)].clone()
    eps.grad = None
    scm(eps).sum().backward()
    assert_close(doubled, 2 * eps.grad[:, scm.graph.index(root)], **TOLERANCE)
    assert by.grad != 0
    # And from the parents that a function sees, the only way from the root to a child whose mechanism is replaced.
    child = next(name for name in scm.graph.names if root in scm.graph.parents(name))
    eps.grad = None
    soft_do(scm, {child: Replace(lambda parents, noise: 3 * parents[root])})(eps)[:, scm.graph.index(child)].sum().backward()
    slope = 3 * scm.noise_scale[scm.graph.index(root)]
    assert_close(eps.grad[:, scm.graph.index(root)], slope.detach().expand(6, 1), **TOLERANCE)


def test_a_function_that_works_in_place_does_not_reach_the_noise():
    scm = make_layer(LinearSCM, ADJACENCY, learn_noise=False)
    eps, root = noise(scm, 6), scm.graph.roots[0]
    kept = eps.clone()
    for change in (lambda value, parents: value.add_(1), Replace(lambda parents, eps: eps.add_(1))):
        trace = poutine.trace(soft_do(scm, {root: change})).get_trace(eps)
        assert torch.equal(eps, kept)
        assert torch.equal(trace.nodes[root]["value"], kept[:, scm.graph.index(root)])
        assert_close(trace.nodes["_RETURN"]["value"], soft_do(scm, {root: Shift(1.0)})(eps), **TOLERANCE)


def test_the_whole_model_runs_under_the_handler_and_z_records_the_change():
    model, _ = make(dim=2, noise_dim=2)
    program = soft_do(model, {"mid": Shift(3.0)})
    eps = torch.randn(N, 4, 2)
    trace = predict(program, {"eps": eps, "eps_x": torch.randn(N, 2)})
    z = trace.nodes["z"]["value"]
    with torch.no_grad():
        natural = model.scm.to_endogenous(eps)
    assert torch.equal(z[:, MID], natural[:, MID] + 3)
    assert torch.equal(trace.nodes["mid"]["value"], natural[:, MID])
    assert torch.equal(z[:, [ROOT, LONE]], natural[:, [ROOT, LONE]])
    draws = Predictive(program, num_samples=7, return_sites=["z", "mid", "x_mean"])(num_samples=3)
    assert draws["z"].shape == (7, 3, 4, 2)
    assert torch.equal(draws["z"][..., MID, :], draws["mid"] + 3)
    parallel = Predictive(program, num_samples=7, parallel=True, return_sites=["z", "mid"])(num_samples=3)
    assert torch.equal(parallel["z"][..., MID, :], parallel["mid"] + 3)


# Label units ---------------------------------------------------------------------------------------------------------


def z_of(pair, x, do, **options):
    return counterfactual(*pair, x, do, return_latents=True, **options)[1]


def encode_of(pair, x):
    return z_of(pair, x, {})


def curved(pair):
    """The pair with a prior that is far from linear."""
    for concept in range(4):
        with torch.no_grad():
            pair[0].prior.output[concept].normal_(std=0.1)
    return pair


@pytest.mark.parametrize("dim", [1, 3])
@every_guide
def test_label_units_of_the_fixed_prior(guide, dim, x):
    pair = make(guide, dim=dim)
    shift, scale = pair[0].prior.shift, pair[0].prior.scale
    by = torch.linspace(-3, 3, N)
    for labels, latent in (
        (Shift(2.0), Shift(2.0 / scale[MID])),
        (Shift(by), Shift((by / scale[MID])[:, None])),
        (Scale(1.7), Scale(1.7, around=-shift[MID] / scale[MID])),
        (Scale(1.7, around=-1.0), Scale(1.7, around=(-1.0 - shift[MID]) / scale[MID])),
        (Scale(by, around=by + 1), Scale(by[:, None], around=((by + 1 - shift[MID]) / scale[MID])[:, None])),
    ):
        expected = z_of(pair, x, {"mid": latent}, latent=True)
        if isinstance(labels, Scale) and dim > 1:
            # A label is the mean over dimensions: their differences stay, where the latent factor acts on each of them.
            z = z_of(pair, x, {"mid": labels})
            assert_close(z[:, MID].mean(-1), expected[:, MID].mean(-1), rtol=1e-5, atol=1e-5)
            natural = encode_of(pair, x)[:, MID]
            assert_close(z[:, MID].diff(dim=-1), natural.diff(dim=-1), rtol=1e-5, atol=1e-5)
        else:
            assert_close(z_of(pair, x, {"mid": labels}), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_samples", [None, 3])
@pytest.mark.parametrize("prior", [FixedPrior, LearnedPrior], ids=lambda p: p.__name__)
@pytest.mark.parametrize("dim", [1, 3])
def test_no_change_of_labels_changes_nothing_to_the_bit(dim, prior, num_samples, x):
    pair = make(dim=dim, noise_dim=2, prior=prior)
    if prior is LearnedPrior:
        curved(pair)
    pyro.set_rng_seed(4)
    images, z = counterfactual(*pair, x, {}, num_samples=num_samples, return_latents=True)
    for change in (Shift(0), Scale(1), Scale(1.0, around=7.3), lambda value, parents: value, Shift(torch.zeros(N))):
        pyro.set_rng_seed(4)
        do = dict.fromkeys(GRAPH.names, change)
        same, same_z = counterfactual(*pair, x, do, num_samples=num_samples, return_latents=True)
        assert torch.equal(same_z, z)
        assert torch.equal(same, images)


@pytest.mark.parametrize("num_samples", [None, 4])
@every_guide
def test_only_descendants_change(guide, num_samples, x):
    pair = make(guide, dim=2, noise_dim=2)
    draw = {"num_samples": num_samples}
    for name, change, kept in (
        ("root", Shift(1.0), [LONE]),
        ("mid", Scale(0.5), [ROOT, LONE]),
        ("leaf", Replace(lambda parents, noise: 3 * parents["mid"] + 1), [ROOT, LONE, MID]),
        ("lone", lambda value, parents: value**2 + 0.1, [LEAF, ROOT, MID]),
    ):
        pyro.set_rng_seed(3)
        natural = z_of(pair, x, {}, **draw)
        pyro.set_rng_seed(3)
        z = z_of(pair, x, {name: change}, **draw)
        assert torch.equal(z[..., kept, :], natural[..., kept, :])
        changed = [i for i in range(4) if i not in kept]
        assert (z != natural)[..., changed, :].all()


@pytest.mark.parametrize("prior", [FixedPrior, LearnedPrior], ids=lambda p: p.__name__)
def test_a_shift_of_a_root_is_a_hard_do_at_the_shifted_label(prior, x):
    pair = make(prior=prior)
    if prior is LearnedPrior:
        curved(pair)
    model = pair[0]
    labels = model.prior.to_labels(encode_of(pair, x))
    by = torch.linspace(-0.8, 0.8, N) * model.prior.scale[ROOT]
    # The learned prior finds a label on its grid only; between two grid points the slope is all but constant.
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if prior is FixedPrior else {"rtol": 0, "atol": 5e-3}
    for shift in (by, 0.5):
        images, z = counterfactual(*pair, x, {"root": Shift(shift)}, return_latents=True)
        hard_images, hard_z = counterfactual(*pair, x, {"root": labels[:, ROOT] + shift}, return_latents=True)
        assert_close(z, hard_z, **tolerance)
        assert_close(images, hard_images, rtol=0, atol=1e-5 if prior is FixedPrior else 5e-3)
    replaced = z_of(pair, x, {"root": Replace(lambda parents, noise: -1.5)})
    assert torch.equal(replaced, z_of(pair, x, {"root": -1.5}))
    assert torch.equal(z_of(pair, x, {"root": lambda natural, parents: natural + 0.5}), z_of(pair, x, {"root": Shift(0.5)}))


@pytest.mark.parametrize("dim", [1, 3])
def test_a_learned_prior_moves_a_concept_by_what_lambda1_moves_and_keeps_the_rest(dim, x):
    pair = curved(make(dim=dim, prior=LearnedPrior))
    model = pair[0]
    natural = encode_of(pair, x)
    u = model.prior.to_labels(natural)
    moved = u.clone()
    moved[:, MID] += 0.9 * model.prior.scale[MID]
    z = z_of(pair, x, {"mid": Shift(0.9 * model.prior.scale[MID].item())})
    with torch.no_grad():
        expected = natural[:, MID] + (model.prior.lambda1(moved) - model.prior.lambda1(u))[:, MID]
        straight = natural[:, MID] + 0.9 * model.prior.slope[MID]
    assert_close(z[:, MID], expected, rtol=1e-5, atol=1e-5)
    assert (z[:, MID] - straight).abs().max() > 0.05, "this prior is as good as linear and tells nothing"
    # Beyond the grid of labels the change is that at its end.
    eps = torch.full((1, 4, dim), 100.0)
    value = predict(intervene(model, {"lone": Shift(0.5)}), {"eps": eps}).nodes["z"]["value"][:, LONE]
    ends = torch.zeros(2, 4)
    ends[:, LONE] = model.prior.shift[LONE] + 4 * model.prior.scale[LONE] + torch.tensor([0.0, 0.5])
    with torch.no_grad():
        step = model.prior.lambda1(ends)[:, LONE].diff(dim=0)
        assert_close(value, model.scm.to_endogenous(eps)[:, LONE] + step, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dim", [1, 3])
def test_functions_on_labels_see_labels(dim, x):
    pair, seen = make(dim=dim), {}
    model = pair[0]

    def change(natural, parents):
        seen["mid"] = natural, parents
        return 2 * natural + parents["root"]

    def mechanism(parents, noise):
        seen["leaf"] = parents, noise
        return parents["mid"] - 7 + noise.reshape(N, -1)[:, 0]

    z = z_of(pair, x, {"root": Shift(1.5), "mid": change, "leaf": Replace(mechanism), "lone": 4.0})
    labels = model.prior.to_labels(z)
    (natural, of_mid), (of_leaf, noise) = seen["mid"], seen["leaf"]
    eps = abduct(pair[1], x)["eps"]
    assert (set(of_mid), set(of_leaf)) == ({"root"}, {"mid"})
    assert natural.shape == of_mid["root"].shape == of_leaf["mid"].shape == (N,)
    assert torch.equal(noise, eps[:, LEAF, 0] if dim == 1 else eps[:, LEAF])
    assert_close(of_mid["root"], model.prior.to_labels(encode_of(pair, x))[:, ROOT] + 1.5, rtol=1e-5, atol=1e-5)
    assert_close(labels[:, MID], 2 * natural + of_mid["root"], rtol=1e-5, atol=1e-5)
    assert_close(of_leaf["mid"], labels[:, MID], rtol=1e-5, atol=1e-5)
    assert_close(labels[:, LEAF], labels[:, MID] - 7 + eps[:, LEAF, 0], rtol=1e-5, atol=1e-5)
    assert_close(labels[:, LONE], torch.full((N,), 4.0))


@every_guide
def test_the_natural_value_is_that_of_the_abducted_noise_and_the_intervened_parents(guide, x):
    pair = make(guide, scm=LinearSCM)
    model = pair[0]
    eps = abduct(pair[1], x)["eps"]
    z = z_of(pair, x, {"root": 3.0, "mid": Shift(2.0)})
    with torch.no_grad():
        s, w = model.scm.noise_scale, model.scm.weight
        root = (3.0 - model.prior.shift[ROOT]) / model.prior.scale[ROOT]
        mid = w[ROOT, MID] * root + s[MID] * eps[:, MID] + 2.0 / model.prior.scale[MID]
        leaf = w[MID, LEAF] * mid + s[LEAF] * eps[:, LEAF]
    assert_close(z[:, MID], mid, rtol=1e-5, atol=1e-5)
    assert_close(z[:, LEAF], leaf, rtol=1e-5, atol=1e-5)
    assert torch.equal(z[:, LONE], encode_of(pair, x)[:, LONE])


def test_mixed_interventions_are_the_two_handlers_together(x):
    pair = make()
    model, q = pair
    do = {"root": Shift(0.5), "mid": 5.0, "leaf": Scale(2.0), "lone": Replace(lambda parents, noise: 2 * noise)}
    noise = abduct(q, x)
    trace = predict(intervene(model, do), noise)
    images, z = counterfactual(model, q, x, do, return_latents=True)
    assert torch.equal(trace.nodes["z"]["value"], z)
    assert torch.equal(trace.nodes["x_mean"]["value"], images)
    shift, scale = model.prior.shift, model.prior.scale
    by_hand = soft_do(
        poutine.do(model, data={"mid": torch.tensor(0.5)}),
        {
            "root": Shift(0.5 / scale[ROOT]),
            "leaf": Scale(2.0, around=-shift[LEAF] / scale[LEAF]),
            "lone": lambda natural, parents: (2 * noise["eps"][:, LONE] - shift[LONE]) / scale[LONE],
        },
    )
    assert_close(predict(by_hand, noise).nodes["z"]["value"], z, rtol=1e-5, atol=1e-5)
    assert intervene(model, {}) is model


@pytest.mark.parametrize("latent", [False, True])
def test_parameters_are_the_modules_own_and_the_store_is_left_alone(latent, x):
    pair = curved(make(prior=LearnedPrior))
    z_of(pair, x, {"mid": Shift(0.5), "leaf": lambda value, parents: value + parents["mid"]}, latent=latent)
    assert list(pyro.get_param_store().keys()) == []
    trace = predict(intervene(pair[0], {"mid": Shift(0.5)}), abduct(pair[1], x))
    assert not [name for name in trace.nodes if "prior" in name], "a handler must not run statements of its own"


# Batches, samples and values per image -------------------------------------------------------------------------------


def certain(pair):
    """The pair with a posterior of almost no spread, so that the order of the draws does not show."""
    with torch.no_grad():
        for head in (pair[1].head, pair[1].noise_head):
            head.log_scale.bias.fill_(-30.0)
            head.log_scale.weight.zero_()
        pair[1].head.min_scale = pair[1].noise_head.min_scale = 1e-8
    return pair


@pytest.mark.parametrize("num_samples", [None, 3])
@pytest.mark.parametrize("latent", [False, True])
def test_values_per_image_hit_their_image_in_batches_of_any_size(latent, num_samples, x):
    pair = certain(make(dim=2, noise_dim=2))
    by = torch.linspace(-9, 9, N)
    per_image = torch.stack([by, by.flip(0)], -1) if latent else by
    do = {
        "root": per_image.clone(),
        "mid": Shift(per_image),
        "leaf": Scale(per_image, around=per_image + 1),
        "lone": Replace(lambda parents, noise: 2.0),
    }
    options = {"num_samples": num_samples, "latent": latent}
    z = z_of(pair, x, do, **options)
    assert z.shape == ((N, 4, 2) if num_samples is None else (3, N, 4, 2))
    for batch_size in (1, 2, 4, 5, 6, 7, 12):
        assert_close(z_of(pair, x, do, batch_size=batch_size, **options), z, rtol=1e-5, atol=1e-5)
    for i in range(N):
        one = {
            "root": per_image[i] if latent else by[i],
            "mid": Shift(per_image[i]),
            "leaf": Scale(per_image[i], around=per_image[i] + 1),
            "lone": 2.0,
        }
        assert_close(z_of(pair, x[i : i + 1], one, **options)[..., 0, :, :], z[..., i, :, :], rtol=1e-5, atol=1e-5)


def test_lists_and_arrays_are_values_per_image_too(x):
    pair = make()
    by = torch.linspace(-9, 9, N)
    expected = z_of(pair, x, {"mid": Shift(by)})
    for given in (by.tolist(), by.numpy()):
        assert torch.equal(z_of(pair, x, {"mid": Shift(given)}, batch_size=256), expected)
        assert_close(z_of(pair, x, {"mid": Shift(given)}, batch_size=4), expected, rtol=1e-5, atol=1e-5)


def test_latent_values_of_d_numbers_are_not_taken_for_one_per_image():
    pair = make(dim=3)
    x, by = torch.rand(3, *SHAPE), torch.tensor([1.0, 2.0, 3.0])
    natural = encode_of(pair, x)
    for batch_size in (1, 2, 3):
        z = z_of(pair, x, {"mid": Shift(by)}, latent=True, batch_size=batch_size)
        assert_close(z[:, MID], natural[:, MID] + by, rtol=1e-5, atol=1e-5)


def test_every_posterior_sample_is_changed_from_its_own_natural_value(x):
    pair = make()
    pyro.set_rng_seed(1)
    natural = z_of(pair, x, {}, num_samples=50)
    pyro.set_rng_seed(1)
    z = z_of(pair, x, {"mid": Scale(3.0)}, num_samples=50, latent=True)
    assert_close(z[..., MID, :], 3 * natural[..., MID, :], rtol=1e-5, atol=1e-5)
    assert natural[..., MID, :].std(0).min() > 0.01


# Errors --------------------------------------------------------------------------------------------------------------

MIDDLE = r"do\['mid'\]"


@pytest.mark.parametrize(
    ("change", "argument", "words"),
    [
        (Shift(float("nan")), MIDDLE + r"\.by", ["not finite"]),
        (Shift(torch.zeros(5)), MIDDLE + r"\.by", [r"\(6,\)", r"\(5,\)"]),
        (Shift(torch.zeros(N, 1)), MIDDLE + r"\.by", [r"\(6,\)", r"\(6, 1\)"]),
        (Shift("far"), MIDDLE + r"\.by", ["far"]),
        (Shift(None), MIDDLE + r"\.by", ["None"]),
        (Scale(2.0, around=float("inf")), MIDDLE + r"\.around", ["not finite"]),
        (Scale(torch.zeros(5)), MIDDLE + r"\.by", [r"\(5,\)"]),
        (Shift, MIDDLE, [r"Shift\(1\.0\)"]),
        pytest.param(object(), MIDDLE, ["expected a number or a tensor"], id="object"),
    ],
    ids=str,
)
def test_errors_of_the_values(change, argument, words, x):
    pair = make()
    with raises(argument, *words) as error:
        counterfactual(*pair, x, {"root": Shift(1.0), "mid": change})
    check_one_line(error)
    with raises(argument, *words) as error:
        intervene(pair[0], {"root": 1.0, "mid": change}, size=N)
    check_one_line(error)


@pytest.mark.parametrize("shape", [(2,), (4,), (N, 2), (4, 3), (2, N, 3)], ids=str)
def test_errors_of_latent_values(shape, x):
    pair = make(dim=3)
    with raises(MIDDLE + r"\.by", r"\[d\] or \[N, d\]") as error:
        counterfactual(*pair, x, {"mid": Shift(torch.zeros(shape))}, latent=True, batch_size=2)
    check_one_line(error)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda v: torch.zeros(5), [r"\(5,\)"]),
        (lambda v: v[:, None] * v, [r"\(6, 6\)"]),
        (lambda v: v[:, None], [r"\(6, 1\)"]),
        (lambda v: v[:1], [r"\(1,\)"]),
        (lambda v: v.expand(2, N), [r"\(2, 6\)"]),
        (lambda v: None, ["NoneType"]),
        (lambda v: [1.0] * N, ["list"]),
        (lambda v: v / 0, ["not finite"]),
        (lambda v: float("nan"), ["not finite"]),
    ],
)
@pytest.mark.parametrize("replaced", [False, True])
def test_errors_of_what_functions_on_labels_return(replaced, returned, words, x):
    pair = make(dim=2)
    change = Replace(lambda parents, noise: returned(parents["root"])) if replaced else lambda natural, parents: returned(natural)
    with raises(MIDDLE, *words) as error:
        counterfactual(*pair, x, {"mid": change})
    check_one_line(error)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda v: v[:, 0], [r"\(6, 6\)", r"\(6,\)"]),  # six dimensions for six images: not one value per dimension
        (lambda v: torch.zeros(6), [r"\(6,\)"]),
        (lambda v: v[:, :2], [r"\(6, 2\)"]),
        (lambda v: v[:4], [r"\(4, 6\)"]),
        (lambda v: "high", ["str"]),
        (lambda v: v.log(), ["not finite"]),
    ],
)
def test_errors_of_what_functions_on_z_return(returned, words):
    model, _ = make(dim=6)
    program = soft_do(model, {"mid": lambda natural, parents: returned(-natural.abs())})
    with raises(MIDDLE, *words) as error:
        program(num_samples=6)
    check_one_line(error)
    assert len(pyro.poutine.runtime._PYRO_STACK) == 0


def test_errors_of_names_and_models(x):
    pair = make()
    model = pair[0]
    for call in (lambda: counterfactual(*pair, x, {"middle": Shift(1.0)}), lambda: intervene(model, {"middle": Shift(1.0)})):
        with raises("do", "unknown concept 'middle'", "'leaf', 'root', 'lone', 'mid'") as error:
            call()
        check_one_line(error)
    # Pyro's own do ignores them; this handler knows the names once the program has run.
    for name in ("middle", "z", "eps"):
        with raises("do", f"unknown concept '{name}'", "'root'") as error:
            soft_do(model, {"mid": Shift(1.0), name: Shift(1.0)})(num_samples=2)
        check_one_line(error)
    for wrapped in (soft_do(model, {"mid": Shift(1.0)}), poutine.do(model, data={"mid": torch.tensor(1.0)})):
        with raises("model", "wrapped by a handler") as error:
            intervene(wrapped, {"mid": Shift(1.0)})
        check_one_line(error)
    for bad in (Shift, 3.0, None):
        with raises(MIDDLE, "expected a function"):
            soft_do(model, {"mid": bad})
    with raises("mechanism", "got 3"):
        Replace(3)


def test_the_programs_own_error_comes_first():
    model, _ = make()

    def fails(natural, parents):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="^mine$"):
        soft_do(model, {"mid": fails, "middle": Shift(1.0)})(num_samples=2)


class Plain(nn.Module):
    """A user's prior that maps labels one way only."""

    def forward(self, labels):
        return pyro.distributions.Normal(labels[..., None], 1.0).to_event(2)


def test_error_of_a_prior_that_reads_no_labels(x):
    model, q = make()
    model.prior = Plain()
    with raises(MIDDLE, "Plain has no to_labels", "latent=True") as error:
        counterfactual(model, q, x, {"mid": Shift(1.0)})
    check_one_line(error)
    counterfactual(model, q, x, {"mid": Shift(1.0)}, latent=True)
    assert_close(z_of((model, q), x, {"mid": 2.0})[:, MID], torch.full((N, 1), 2.0))
