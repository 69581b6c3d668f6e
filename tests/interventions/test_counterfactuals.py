"""Abduction, action and prediction, and what they make together."""

import copy
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.nn import PyroModule
from torch.testing import assert_close

from causalvae_pyro import (
    AdditiveNoiseSCM,
    CausalGraph,
    FixedPrior,
    LinearSCM,
    abduct,
    counterfactual,
    encode,
    intervene,
    reconstruct,
)
from causalvae_pyro.interventions import predict
from causalvae_pyro.priors import LearnedPrior
from tests.builders import SPACES, check_one_line, make_pair, raises

# Against the index order: root -> mid -> leaf, and lone beside them.
GRAPH = CausalGraph(["leaf", "root", "lone", "mid"], [("root", "mid"), ("mid", "leaf")])
LEAF, ROOT, LONE, MID = range(4)
SHAPE = (1, 4, 4)
N = 6


def make(guide="exogenous", **options):
    """A model and a guide with random weights."""
    units = {"shift": [1.0, -2.0, 0.0, 3.0], "scale": [2.0, 0.5, 1.0, 4.0]}
    return make_pair(GRAPH, SHAPE, guide, moved=0.2, layer_options={"learn_noise": True}, prior_options=units, **options)


def run_of(pair):
    return SimpleNamespace(model=pair[0], guide=pair[1])


@pytest.fixture
def x():
    return torch.rand(N, *SHAPE)


every_guide = pytest.mark.parametrize("guide", SPACES)


# Abduction


@pytest.mark.parametrize("noise_dim", [0, 2])
@pytest.mark.parametrize("dim", [1, 3])
@every_guide
def test_abduction_gives_means_and_samples_of_the_guides_sites(guide, dim, noise_dim, x):
    model, q = make(guide, dim=dim, noise_dim=noise_dim)
    with torch.no_grad():
        posterior = q.posterior(x)
    mean = abduct(q, x)
    assert set(mean) == {"eps", "eps_x"} if noise_dim else {"eps"}
    if guide == "exogenous":
        assert torch.equal(mean["eps"], posterior["eps"].mean)
    else:
        assert_close(mean["eps"], model.scm.to_exogenous(posterior["eps"].base_dist.mean))
    samples = abduct(q, x, num_samples=2000)
    assert samples["eps"].shape == (2000, N, 4, dim)
    exact = q.posterior(x)["eps"]
    draws = exact.sample((2000,))
    assert_close(samples["eps"].mean(0), draws.mean(0), rtol=0, atol=0.1)
    assert_close(samples["eps"].std(0), draws.std(0), rtol=0.15, atol=0)
    if noise_dim:
        assert torch.equal(mean["eps_x"], posterior["eps_x"].mean)
        assert samples["eps_x"].shape == (2000, N, 2)
    assert not any(value.requires_grad for value in (*mean.values(), *samples.values()))


def test_abduction_uses_labels_where_the_encoder_does(x):
    labels = torch.randn(N, 4)
    _, q = make(label_dim=4)
    assert not torch.equal(abduct(q, x, labels)["eps"], abduct(q, x, labels + 1)["eps"])
    _, blind = make()
    assert torch.equal(abduct(blind, x, labels)["eps"], abduct(blind, x)["eps"])


class NoMean(dist.TorchDistribution):
    """A Gaussian that does not tell its mean."""

    arg_constraints = {}  # noqa: RUF012
    support = dist.constraints.independent(dist.constraints.real, 2)

    def __init__(self, loc):
        self.loc = loc
        super().__init__(loc.shape[:-2], loc.shape[-2:])

    def expand(self, batch_shape, _instance=None):
        return NoMean(self.loc.expand(*batch_shape, *self.event_shape))

    def rsample(self, sample_shape=()):
        return self.loc + 0.1 * torch.randn(*sample_shape, *self.loc.shape)

    def log_prob(self, value):
        return dist.Normal(self.loc, 0.1).log_prob(value).sum((-2, -1))


def test_abduction_with_a_users_guide_whose_distribution_has_no_mean(x):
    model, _ = make()

    def guide(x, labels=None, num_samples=None):
        with pyro.plate("data", len(x)):
            pyro.sample("eps", NoMean(x.flatten(1)[:, :4, None]))

    expected = x.flatten(1)[:, :4, None]
    assert_close(abduct(guide, x)["eps"], expected, rtol=0, atol=0.1)
    samples = abduct(guide, x, num_samples=1000)["eps"]
    assert samples.shape == (1000, N, 4, 1)
    assert_close(samples.std(0), torch.full((N, 4, 1), 0.1), rtol=0.1, atol=0)
    assert counterfactual(model, guide, x, {"mid": 1.0}, num_samples=3).shape == (3, N, *SHAPE)


def test_abduction_with_a_users_guide_whose_sites_depend_on_one_another(x):
    def guide(x, labels=None, num_samples=None):
        with pyro.plate("data", len(x)):
            eps = pyro.sample("eps", dist.Normal(x.flatten(1)[:, :4, None], 1.0).to_event(2))
            pyro.sample("eps_x", dist.Normal(eps[..., :2, 0] * 3, 1e-3).to_event(1))

    mean = abduct(guide, x)
    assert torch.equal(mean["eps"], x.flatten(1)[:, :4, None])
    assert_close(mean["eps_x"], 3 * mean["eps"][:, :2, 0])
    samples = abduct(guide, x, num_samples=50)
    assert_close(samples["eps_x"], 3 * samples["eps"][..., :2, 0], rtol=0, atol=0.01)


# Action


@pytest.mark.parametrize("prior", [FixedPrior, LearnedPrior], ids=lambda p: p.__name__)
@pytest.mark.parametrize("dim", [1, 3])
def test_values_are_in_label_units_and_go_through_lambda1(prior, dim, x):
    model, q = make(dim=dim, prior=prior)
    if prior is LearnedPrior:
        torch.nn.init.normal_(model.prior.output)
    values = torch.linspace(-3, 5, N)
    for value in (4.0, torch.tensor(4.0), values):
        labels = torch.randn(N, 4)
        labels[:, MID] = value
        expected = model.prior.lambda1(labels)[:, MID]
        _, z = counterfactual(model, q, x, {"mid": value}, return_latents=True)
        assert_close(z[:, MID], expected, rtol=1e-6, atol=1e-6)
    if prior is FixedPrior:
        assert_close(z[:, MID], ((values - 3) / 4)[:, None].expand(N, dim))
        assert_close(model.prior.to_labels(z)[:, MID], values)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (N, 3), (N, 1)], ids=str)
def test_latent_values_are_taken_as_they_are(shape, x):
    model, q = make(dim=3)
    value = torch.randn(shape)
    for num_samples in (None, 2):
        _, z = counterfactual(
            model, q, x, {"mid": value}, latent=True, num_samples=num_samples, batch_size=4, return_latents=True
        )
        assert torch.equal(z[..., MID, :], value.expand(*z.shape[:-3], N, 3))


def test_a_latent_value_of_d_numbers_is_not_taken_for_one_per_image():
    model, q = make(dim=3)
    x, value = torch.rand(3, *SHAPE), torch.tensor([1.0, 2.0, 3.0])
    for batch_size in (1, 2, 3):
        for num_samples in (None, 1, 2):
            options = {"latent": True, "batch_size": batch_size, "num_samples": num_samples, "return_latents": True}
            _, z = counterfactual(model, q, x, {"mid": value}, **options)
            assert torch.equal(z[..., MID, :], value.expand(z.shape[:-2] + (3,)))


def test_intervene_is_poutine_do_with_the_values_in_latent_units():
    model, _ = make()
    noise = {"eps": torch.randn(N, 4, 1)}
    friendly = predict(intervene(model, {"mid": 5.0, "lone": -1.0}), noise)
    raw = predict(poutine.do(model, data={"mid": torch.tensor(0.5), "lone": torch.tensor(-1.0)}), noise)
    assert torch.equal(friendly.nodes["z"]["value"], raw.nodes["z"]["value"])
    assert torch.equal(friendly.nodes["x_mean"]["value"], raw.nodes["x_mean"]["value"])
    latent = predict(intervene(model, {"mid": 0.5, "lone": -1.0}, latent=True), noise)
    assert torch.equal(latent.nodes["z"]["value"], raw.nodes["z"]["value"])
    assert intervene(model, {}) is model


# Prediction


def test_prediction_holds_the_noise():
    model, _ = make(noise_dim=2)
    noise = {"eps": torch.randn(N, 4, 1), "eps_x": torch.randn(N, 2)}
    trace = predict(model, noise)
    assert torch.equal(trace.nodes["eps"]["value"], noise["eps"])
    assert torch.equal(trace.nodes["eps_x"]["value"], noise["eps_x"])
    with torch.no_grad():
        z = model.scm.to_endogenous(noise["eps"])
        assert torch.equal(trace.nodes["z"]["value"], z)
        assert torch.equal(trace.nodes["x_mean"]["value"], model.likelihood(model.decoder(z, noise["eps_x"])).mean)
    assert not trace.nodes["x_mean"]["value"].requires_grad


def test_pixels_at_their_mean_take_no_random_numbers(x):
    model, guide = make()
    noise = abduct(guide, x)
    before = torch.get_rng_state()
    trace = predict(model, noise, pixel_noise=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(trace.nodes["x"]["value"], trace.nodes["x_mean"]["value"])
    drawn = predict(model, noise)
    assert not torch.equal(drawn.nodes["x"]["value"], drawn.nodes["x_mean"]["value"])
    assert torch.equal(drawn.nodes["x_mean"]["value"], trace.nodes["x_mean"]["value"])
    assert torch.equal(counterfactual(model, guide, x, {}), trace.nodes["x_mean"]["value"])


# Counterfactuals


@pytest.mark.parametrize("noise_dim", [0, 2])
@every_guide
def test_do_nothing_is_the_reconstruction_to_the_bit(guide, noise_dim, x):
    model, q = make(guide, noise_dim=noise_dim)
    images, z = counterfactual(model, q, x, {}, return_latents=True)
    with torch.no_grad():
        noise = abduct(q, x)
        expected_z = model.scm.to_endogenous(noise["eps"])
        expected = model.likelihood(model.decoder(expected_z, *([noise["eps_x"]] if noise_dim else []))).mean
    assert torch.equal(z, expected_z)
    assert torch.equal(images, expected)
    assert torch.equal(reconstruct(model, q, x), images)
    # To set a concept to what it is anyway changes nothing else either.
    same, same_z = counterfactual(model, q, x, {"lone": z[:, LONE]}, latent=True, return_latents=True)
    assert torch.equal(same, images)
    assert torch.equal(same_z, z)


@pytest.mark.parametrize("num_samples", [None, 4])
@pytest.mark.parametrize(
    ("do", "kept"),
    [
        ({"root": 2.0}, [LONE]),
        ({"mid": 2.0}, [ROOT, LONE]),
        ({"leaf": torch.linspace(-9, 9, N)}, [ROOT, LONE, MID]),
        ({"lone": -3.0}, [LEAF, ROOT, MID]),
        ({"mid": torch.linspace(-9, 9, N), "lone": 1}, [ROOT]),
        ({"root": 0.0, "leaf": 2.0}, [LONE]),
    ],
    ids=lambda v: "+".join(v) if isinstance(v, dict) else "",
)
@every_guide
def test_only_descendants_change(guide, do, kept, num_samples, x):
    model, q = make(guide, dim=2, noise_dim=2)
    pyro.set_rng_seed(3)
    before, natural = counterfactual(model, q, x, {}, num_samples=num_samples, return_latents=True)
    pyro.set_rng_seed(3)
    after, z = counterfactual(model, q, x, do, num_samples=num_samples, return_latents=True)
    assert after.shape == ((N, *SHAPE) if num_samples is None else (num_samples, N, *SHAPE))
    assert z.shape == after.shape[:-3] + (4, 2)
    assert torch.equal(z[..., kept, :], natural[..., kept, :])
    changed = [i for i in range(4) if i not in kept]
    assert (z != natural)[..., changed, :].all()
    assert (after != before).flatten(-3).any(-1).all()
    for name, value in do.items():
        labels = torch.zeros(N, 4)
        labels[:, GRAPH.index(name)] = value
        expected = model.prior(labels).mean[:, GRAPH.index(name)]
        assert_close(z[..., GRAPH.index(name), :], expected.expand(z.shape[:-2] + (2,)))


def test_counterfactual_of_a_linear_model_in_closed_form(x):
    model, q = make(scm=LinearSCM)
    model.double()
    q.double()
    x = x.double()
    images, z = counterfactual(model, q, x, {"mid": 7.0}, return_latents=True)
    eps, scale = abduct(q, x)["eps"], model.scm.noise_scale
    expected = scale[:, None] * eps
    expected[:, MID] = (7.0 - 3) / 4
    expected[:, LEAF] += model.scm.weight[MID, LEAF] * expected[:, MID]
    assert_close(z, expected.detach(), rtol=1e-12, atol=1e-12)
    assert_close(images, model.decoder(z).sigmoid().detach(), rtol=1e-12, atol=1e-12)


def test_the_images_own_noise_is_kept(x):
    model, q = make(noise_dim=2)
    images, z = counterfactual(model, q, x, {"mid": 2.0}, return_latents=True)
    with torch.no_grad():
        assert_close(images, model.decoder(z, abduct(q, x)["eps_x"]).sigmoid())
        assert not torch.allclose(images, model.decoder(z, torch.zeros(N, 2)).sigmoid())


@pytest.mark.parametrize("num_samples", [None, 3])
@pytest.mark.parametrize("label_dim", [0, 4])
def test_batch_size_does_not_matter(label_dim, num_samples, x):
    model, q = make(noise_dim=2, label_dim=label_dim)
    with torch.no_grad():
        # All samples alike, so that the order of the draws does not show.
        for head in (q.head, q.noise_head):
            head.log_scale.bias.fill_(-30.0)
            head.log_scale.weight.zero_()
        q.head.min_scale = q.noise_head.min_scale = 1e-8
    labels = torch.randn(N, 4) if label_dim else None
    do = {"mid": torch.linspace(-9, 9, N), "lone": 1.0}
    options = {"labels": labels, "num_samples": num_samples, "return_latents": True}
    images, z = counterfactual(model, q, x, do, **options)
    for batch_size in (1, 2, 4, 5, 6, 7, 12):
        other, other_z = counterfactual(model, q, x, do, batch_size=batch_size, **options)
        assert_close(other, images, rtol=0, atol=1e-6)
        assert_close(other_z, z, rtol=1e-6, atol=2e-6)
    run = run_of((model, q))
    assert_close(
        encode(run.model, run.guide, x, labels, batch_size=4), encode(run.model, run.guide, x, labels), rtol=1e-6, atol=2e-6
    )
    assert_close(reconstruct(model, q, x, labels, batch_size=4), reconstruct(model, q, x, labels), rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 256])
def test_samples_differ_and_per_image_values_hit_their_image(batch_size, x):
    model, q = make()
    values = torch.arange(N) * 10.0
    options = {"num_samples": 5, "return_latents": True, "batch_size": batch_size}
    images, z = counterfactual(model, q, x, {"mid": values}, **options)
    assert images.shape == (5, N, *SHAPE)
    assert z.shape == (5, N, 4, 1)
    assert_close(z[:, :, MID, 0], ((values - 3) / 4).expand(5, N))
    assert (z[0, :, ROOT] != z[1:, :, ROOT]).all()
    assert (images[0] != images[1:]).flatten(2).any(-1).all()
    # Each sample belongs to its image: the samples' mean is near the image's own posterior mean.
    _, many = counterfactual(model, q, x, {"mid": values}, **options | {"num_samples": 500})
    assert_close(many[:, :, ROOT].mean(0), encode(model, q, x)[:, ROOT], rtol=0, atol=0.05)


def test_plain_sequences_of_values_are_per_image_values_too(x):
    model, q = make()
    values = torch.arange(N) * 10.0
    for given in (values.tolist(), values.numpy()):
        for options in ({"batch_size": 4}, {"num_samples": 2, "batch_size": 4}, {"num_samples": 3, "batch_size": N}):
            _, z = counterfactual(model, q, x, {"mid": given}, return_latents=True, **options)
            assert_close(z[..., MID, 0], ((values - 3) / 4).expand(z.shape[:-2]))


@every_guide
def test_encode_is_the_posterior_mean_of_z(guide, x):
    # Exactly so for a guide over z, and for the linear layer.
    model, q = make(guide, scm=LinearSCM if guide == "exogenous" else AdditiveNoiseSCM)
    z = encode(model, q, x)
    with torch.no_grad():
        loc, _ = q.head(q.encoder(x))
        assert_close(z, loc if guide == "endogenous" else model.scm.matrix() @ loc)
    assert not z.requires_grad
    labelled = make(guide, label_dim=4)
    labels = torch.randn(N, 4)
    assert not torch.allclose(encode(*labelled, x, labels), encode(*labelled, x, labels + 1))


def test_labels_reach_the_encoder(x):
    model, q = make(label_dim=4)
    labels = torch.randn(N, 4)
    for function in (lambda u: counterfactual(model, q, x, {"mid": 1.0}, u), lambda u: reconstruct(model, q, x, u)):
        assert torch.equal(function(labels), function(labels))
        assert not torch.equal(function(labels), function(labels + 1))


# Parameters


@every_guide
def test_the_modules_own_weights_are_used_and_the_parameter_store_is_left_alone(guide, x):
    pair = make(guide, noise_dim=2)
    images, z = counterfactual(*pair, x, {"mid": 1.0}, return_latents=True)
    assert list(pyro.get_param_store().keys()) == [], "the functions put parameters into the store"
    # Another model of the same name, with other weights, has left its parameters in the store.
    other = copy.deepcopy(pair)
    with torch.no_grad():
        for module, own in zip(other, pair, strict=True):
            module._pyro_name = own._pyro_name
            for parameter in module.parameters():
                parameter.add_(1.0)
    other[1](x)
    other[0](x)
    store = pyro.get_param_store()
    kept = {name: value.detach().clone() for name, value in store.items()}
    assert len(kept) == len([p for module in pair for p in module.parameters()]), "the other model is not in the store"
    weights = [copy.deepcopy(module.state_dict()) for module in pair]
    again, again_z = counterfactual(*pair, x, {"mid": 1.0}, return_latents=True)
    assert torch.equal(again, images)
    assert torch.equal(again_z, z)
    encode(*pair, x)
    abduct(pair[1], x, num_samples=2)
    assert set(store.keys()) == set(kept)
    assert all(torch.equal(store[name], value) for name, value in kept.items())
    for module, state in zip(pair, weights, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert not pyro.settings.get("module_local_params")


def test_functions_work_on_modules_of_any_provenance(x):
    model, q = make()
    expected = counterfactual(model, q, x, {"mid": 1.0})
    twin_model, twin_q = copy.deepcopy((model, q))
    assert torch.equal(counterfactual(twin_model, twin_q, x, {"mid": 1.0}), expected)
    # After a run under Pyro's own store, and while modules are wrapped by handlers.
    model(x)
    assert torch.equal(counterfactual(model, q, x, {"mid": 1.0}), expected)
    trace = predict(poutine.do(poutine.block(model, hide=["x"]), data={"mid": torch.tensor(-0.5)}), abduct(q, x))
    assert torch.equal(trace.nodes["x_mean"]["value"], expected)

    class Wrapped(PyroModule):
        def __init__(self, guide):
            super().__init__()
            self.inner = guide

        def forward(self, *args):
            return self.inner(*args)

    assert torch.equal(counterfactual(model, Wrapped(q), x, {"mid": 1.0}), expected)


# Errors


@pytest.mark.parametrize(
    ("do", "argument", "words"),
    [
        ({"middle": 1.0}, "do", ["unknown concept 'middle'", "'leaf', 'root', 'lone', 'mid'"]),
        ({"z": 1.0}, "do", ["unknown concept 'z'"]),
        ({"root": 1.0, "mid": float("nan")}, r"do\['mid'\]", ["not finite"]),
        ({"mid": torch.tensor([1.0] * 5 + [float("inf")])}, r"do\['mid'\]", ["not finite"]),
        ({"mid": torch.zeros(5)}, r"do\['mid'\]", [r"\(6,\)", r"\(5,\)"]),
        ({"mid": torch.zeros(1)}, r"do\['mid'\]", [r"\(6,\)", r"\(1,\)"]),
        ({"mid": torch.zeros(6, 1)}, r"do\['mid'\]", [r"\(6,\)", r"\(6, 1\)"]),
        ({"mid": "high"}, r"do\['mid'\]", ["high"]),
        ({"mid": None}, r"do\['mid'\]", ["None"]),
    ],
    ids=str,
)
def test_errors_of_interventions(do, argument, words, x):
    model, q = make()
    with raises(argument, *words) as error:
        counterfactual(model, q, x, do)
    check_one_line(error)
    with raises(argument, *words) as error:
        intervene(model, do, size=N)
    check_one_line(error)


@pytest.mark.parametrize("shape", [(2,), (4,), (N, 2), (4, 3), (2, N, 3)], ids=str)
def test_errors_of_latent_interventions(shape, x):
    # Also where a batch happens to have as many images as there are values.
    model, q = make(dim=3)
    with raises(r"do\['mid'\]", r"\[d\] or \[N, d\]") as error:
        counterfactual(model, q, x, {"mid": torch.zeros(shape)}, latent=True, batch_size=2)
    check_one_line(error)
    with raises(r"do\['mid'\]"):
        counterfactual(model, q, x[:4].repeat(2, 1, 1, 1), {"mid": torch.zeros(shape)}, latent=True, batch_size=4)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (torch.rand(4, 4), [r"\[4, 4\]"]),
        (torch.rand(1, 4, 4), [r"\[1, 4, 4\]"]),
        (torch.rand(2, N, 1, 4, 4), [r"\[2, 6, 1, 4, 4\]"]),
        (torch.rand(N, 1, 4, 4).numpy(), ["ndarray"]),
        (torch.randint(0, 255, (N, 1, 4, 4)), ["uint8", "int64"]),
        (torch.rand(N, 1, 4, 4) * 255, [r"\[0, 1\]"]),
        (torch.rand(N, 1, 4, 4) - 1, [r"\[0, 1\]"]),
        (torch.full((N, 1, 4, 4), float("nan")), [r"\[0, 1\]", "nan"]),
        (torch.rand(N, 1, 8, 4), ["1, 4, 4", r"\[6, 1, 8, 4\]"]),
        (torch.rand(N, 3, 4, 4), ["1, 4, 4", r"\[6, 3, 4, 4\]"]),
    ],
    ids=["2-d", "3-d", "5-d", "numpy", "int64", "0 to 255", "negative", "nan", "size", "channels"],
)
def test_errors_of_images(bad, words):
    model, q = make()
    for call in (
        lambda: counterfactual(model, q, bad, {"mid": 1.0}),
        lambda: reconstruct(model, q, bad),
        lambda: encode(model, q, bad),
        lambda: abduct(q, bad),
    ):
        with raises("x", *words) as error:
            call()
        check_one_line(error)


@pytest.mark.parametrize("label_dim", [0, 4])
@pytest.mark.parametrize("rows", [1, 5, 7])
def test_errors_of_the_labels_length(rows, label_dim, x):
    model, q = make(label_dim=label_dim)
    labels = torch.zeros(rows, 4)
    for call in (
        lambda: counterfactual(model, q, x, {"mid": 1.0}, labels),
        lambda: reconstruct(model, q, x, labels),
        lambda: encode(model, q, x, labels, batch_size=5),
        lambda: abduct(q, x, labels),
    ):
        with raises("labels", str(rows), "6") as error:
            call()
        check_one_line(error)


def test_errors_of_the_labels_themselves(x):
    model, q = make(label_dim=4)
    with raises("labels", "needs labels, got None") as error:
        reconstruct(model, q, x)
    check_one_line(error)
    for columns in (1, 3):
        with raises("labels", "4", rf"\[6, {columns}\]") as error:
            reconstruct(model, q, x, torch.zeros(N, columns))
        check_one_line(error)


@pytest.mark.parametrize("num_samples", [0, -1])
def test_errors_of_the_number_of_samples(num_samples, x):
    model, q = make()
    for call in (
        lambda: counterfactual(model, q, x, {}, num_samples=num_samples),
        lambda: abduct(q, x, num_samples=num_samples),
    ):
        with raises("num_samples", f"got {num_samples}") as error:
            call()
        check_one_line(error)


def test_error_of_a_guide_without_eps(x):
    def guide(x, labels=None, num_samples=None):
        with pyro.plate("data", len(x)):
            pyro.sample("noise", dist.Normal(torch.zeros(4, 1), 1.0).to_event(2))

    with raises("guide", "'eps'", "'noise'") as error:
        abduct(guide, x)
    check_one_line(error)
