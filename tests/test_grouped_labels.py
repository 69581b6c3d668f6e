"""Labels that are not one for each concept: several columns, none, and columns that only the prior reads."""

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
    GaussianLikelihood,
    LinearSCM,
    Run,
    abduct,
    counterfactual,
    fit,
    intervene,
    load,
    save,
)
from causalvae_pyro.evaluation import evaluate
from causalvae_pyro.guides import LabelConditionedGuide, calibrate
from causalvae_pyro.interventions import Shift, ate, sweep
from causalvae_pyro.networks import MLPDecoder, MLPEncoder
from causalvae_pyro.objectives import LabelFit, SleepPhase
from causalvae_pyro.priors import GroupedPrior
from tests.builders import check_one_line, jitter, raises

# size: one column; light: two, as a direction; dust: none; shadow: one. Column 4 is nobody's.
GRAPH = CausalGraph(["size", "light", "dust", "shadow"], [("size", "shadow"), ("light", "shadow"), ("dust", "shadow")])
COLUMNS, SHAPE, N = [[0], [2, 1], [], [3]], (1, 4, 4), 6
SHIFT, SCALE = [1.0, 0.0, 0.0, 2.0, 0.0], [2.0, 1.0, 4.0, 1.0, 1.0]


class Blurred(GroupedPrior):
    """A covariate that the spread depends on."""

    def lambda2(self, labels):
        return super().lambda2(labels) * (1 + labels[..., 4, None, None])


def make(prior=GroupedPrior, weight=0.7, **options):
    torch.manual_seed(0)
    scm = LinearSCM(GRAPH, 2)
    torch.nn.init.constant_(scm.weight, weight)
    prior = prior(COLUMNS, 2, num_labels=5, std=[0.1, 0.2, 0.3, 0.4], shift=SHIFT, scale=SCALE)
    model = CausalVAE(scm, prior, MLPDecoder(SHAPE, 4, 2, hidden=8), GaussianLikelihood(0.1))
    guide = AmortizedGuide(MLPEncoder(SHAPE, 8, hidden=8), scm, **options)
    jitter(0.1, guide)
    return model.eval(), guide.eval()


def data(count=N):
    return torch.rand(count, *SHAPE), torch.randn(count, 5).abs()


def concepts(program, count=N):
    with torch.no_grad():
        return poutine.trace(program).get_trace(num_samples=count).nodes["z"]["value"]


def test_means_and_spreads():
    labels = torch.tensor([[3.0, 0.6, 0.8, 5.0, 1.0]])
    model, _ = make(Blurred)
    assert_close(model.prior(labels).mean, torch.tensor([[[1.0, 1.0], [0.2, 0.6], [0.0, 0.0], [3.0, 3.0]]]))
    assert_close(model.prior(labels).stddev, torch.tensor([[0.2, 0.4, 0.6, 0.8]])[..., None].expand(1, 4, 2))
    whole = GroupedPrior.from_labels(torch.randn(50, 5) * 3 + 1, COLUMNS, 2)
    assert whole.num_labels == 5
    assert (whole.scale - 3).abs().max() < 1.5


def test_only_known_labels_are_scored():
    model, _ = make(Blurred)
    x, labels = data()
    with torch.no_grad():
        trace = poutine.trace(model).get_trace(x, labels)
        trace.compute_log_prob()
        z, p = trace.nodes["z"]["value"], model.prior(labels).base_dist.log_prob(trace.nodes["z"]["value"]).sum(-1)
        assert_close(trace.nodes["z"]["log_prob"], p[:, [0, 1, 3]].sum(-1))
        # A concept is known where all its columns are.
        labels[0, 1], labels[1, 0] = torch.nan, torch.nan
        again = poutine.trace(poutine.condition(model, {"eps": trace.nodes["eps"]["value"]})).get_trace(x, labels)
        again.compute_log_prob()
        expected = p[:, [0, 1, 3]].sum(-1) - torch.stack([p[0, 1], p[1, 0], *torch.zeros(N - 2)])
    assert_close(again.nodes["z"]["value"], z)
    assert_close(again.nodes["z"]["log_prob"], expected)


@pytest.mark.parametrize("many", [False, True])
def test_a_pair_of_numbers_sets_a_concept_of_two_columns(many):
    model, guide = make()
    x, _ = data()
    value = torch.randn(N, 2) if many else torch.tensor((1.0, 0.5))
    images, z = counterfactual(model, guide, x, {"light": value}, return_latents=True)
    # Its columns are 2 and 1, in this order, and column 2 counts in fours.
    assert_close(z[:, 1], (value / torch.tensor([4.0, 1.0])).expand(N, 2))
    expected = counterfactual(model, guide, x, {"light": value / torch.tensor([4.0, 1.0])}, latent=True)
    assert_close(images, expected)
    moved = z[:, 3] - counterfactual(model, guide, x, {}, return_latents=True)[1][:, 3]
    assert moved.abs().max() > 0.1
    if not many:
        assert_close(counterfactual(model, guide, x, {"light": (1.0, 0.5)}), images)
        assert_close(model.latent({"light": (1.0, 0.5)})["light"], torch.tensor([0.25, 0.5]))


def test_one_column_sets_every_dimension_and_batches_and_samples_do_not_mind():
    model, guide = make()
    x, _ = data()
    do = {"light": torch.randn(N, 2), "size": torch.randn(N)}
    images, z = counterfactual(model, guide, x, do, return_latents=True)
    assert_close(z[:, 0], ((do["size"] - 1) / 2)[:, None].expand(N, 2))
    assert_close(counterfactual(model, guide, x, do, batch_size=2), images)
    _, z = counterfactual(model, guide, x, do, num_samples=3, return_latents=True)
    assert_close(z[:, :, 1], (do["light"] / torch.tensor([4.0, 1.0])).expand(3, N, 2))


def test_nan_leaves_an_image_alone_and_distributions_are_drawn_from():
    model, guide = make()
    x, _ = data()
    natural = counterfactual(model, guide, x, {}, return_latents=True)[1]
    value = torch.randn(N, 2)
    value[0] = torch.nan
    z = counterfactual(model, guide, x, {"light": value}, return_latents=True)[1]
    assert_close(z[0], natural[0])
    assert_close(z[1:, 1, 1], value[1:, 1])
    drawn = counterfactual(model, guide, x, {"light": dist.Normal(torch.zeros(2), 1.0).to_event(1)}, return_latents=True)[1][:, 1]
    assert drawn.unique(dim=0).shape == (N, 2)


def test_gradients_reach_the_pair():
    model, guide = make()
    value = torch.tensor([1.0, 0.5], requires_grad=True)
    counterfactual(model, guide, data()[0], {"light": value}).square().sum().backward()
    assert (value.grad != 0).all()


def test_images_follow_the_labels_and_what_has_none_its_mechanism():
    model, _ = make(Blurred)
    labels = torch.tensor([[3.0, 0.6, 0.8, 5.0, 0.0]]).expand(4000, 5)
    with torch.no_grad():
        z = poutine.trace(model).get_trace(None, labels).nodes["z"]["value"]
    # The shadow pulls at the dust through the mechanism 0.7 (size + light + dust), as the exact product says: it is no N(0, 1).
    assert_close(z[:, 1].mean(0), torch.tensor([0.2, 0.6]), rtol=0, atol=0.1)
    assert (z[:, 2].mean(0) > 0.5).all()
    free = make(weight=0.0)[0]
    with torch.no_grad():
        z = poutine.trace(free).get_trace(None, labels).nodes["z"]["value"][:, 2]
    assert_close((z.mean(0), z.std(0)), (torch.zeros(2), torch.ones(2)), rtol=0, atol=0.08)


def test_training_learns_the_mechanism_of_what_has_no_label():
    model, guide = make(weight=0.0)
    x, labels = data(64)
    before = model.scm.weight.detach().clone()
    history = fit(model, guide, (x, labels), objective=CausalELBO(terms=[LabelFit()]), epochs=2, progress=False, device="cpu")
    assert all(torch.tensor(history["loss"]).isfinite())
    moved = (model.scm.weight.detach() - before).abs() * model.scm.mask
    assert int((moved > 0).sum()) == 3
    # Missing values of concepts are no matter; those of a covariate are.
    labels[3, 1] = torch.nan
    fit(model, guide, (x, labels), epochs=1, progress=False, device="cpu")
    labels[3, 4] = torch.nan
    with raises("labels", r"columns \[4\] belong to no concept", "must be known"):
        fit(model, guide, (x, labels), epochs=1, progress=False, device="cpu")


def test_guides_that_read_labels_and_calibration():
    model, guide = make(Blurred)
    x, labels = data(200)
    z = lambda q: model.scm.to_endogenous(abduct(q, x, labels)["eps"]).detach()  # noqa: E731
    given, own = z(LabelConditionedGuide(guide, model)), z(guide)
    assert_close(given[:, [0, 1, 3]], model.prior(labels).mean[:, [0, 1, 3]], rtol=1e-4, atol=1e-4)
    assert_close(given[:, 2], own[:, 2], rtol=1e-4, atol=1e-4)
    # Nothing says how well the dust is read.
    temperature = calibrate(model, guide, x, labels).temperature
    assert temperature[2] == 1
    assert (temperature[[0, 1, 3]] != 1).all()


def test_save_and_load(tmp_path):
    model, guide = make()
    save(Run(model, guide), tmp_path)
    again = load(tmp_path).model.prior
    labels = data()[1]
    assert again.label_columns == model.prior.label_columns == ((0,), (2, 1), (), (3,))
    assert_close(again(labels).mean, model.prior(labels).mean)


def test_errors():
    model, guide = make()
    x, labels = data()
    reconstruct = Run(model, guide)

    class World:
        images, labels, graph = x, torch.zeros(N, 4), GRAPH

    for argument, call, words in (
        (r"do\['light'\]", lambda: intervene(model, {"light": 1.0}), [r"shape \(2,\) or \(N, 2\)", r"got \(\)"]),
        (r"do\['light'\]", lambda: counterfactual(model, guide, x, {"light": torch.zeros(4, 2)}), [r"\(6, 2\)", r"got \(4, 2\)"]),
        (r"do\['light'\]", lambda: counterfactual(model, guide, x, {"light": torch.zeros(N, 3)}), [r"got \(6, 3\)"]),
        (r"do\['light'\]", lambda: intervene(model, {"light": (1.0, float("nan"))}), ["not finite"]),
        (r"do\['light'\]", lambda: intervene(model, {"light": "left"}), ["2 numbers", "'left'"]),
        (r"do\['dust'\]", lambda: intervene(model, {"dust": 1.0}), ["has no label", "latent=True"]),
        (r"do\['size'\]", lambda: intervene(model, {"size": Shift(1.0)}), ["no to_labels", "latent=True"]),
        ("do", lambda: sweep(model, guide, x, {"light": torch.zeros(2)}), ["takes numbers", "latent=True"]),
        ("outcome", lambda: ate(model, guide, x, {"size": 1.0}, {"size": 0.0}, outcome="shadow"), ["to_labels"]),
        ("prior", lambda: evaluate(reconstruct, World), ["GroupedPrior", "the score card needs one label"]),
        ("prior", lambda: SleepPhase(guide)(model, None, labels), ["SleepPhase needs one label"]),
        ("labels", lambda: model(x, labels[:, :4]), [r"\[..., 5\]", r"\[6, 4\]"]),
        ("labels", lambda: fit(model, guide, (x, labels[:, :4]), batch_size=2), [r"\[6, 5\]", r"\[6, 4\]"]),
        ("columns", lambda: GroupedPrior([[0], [0]]), ["different"]),
        ("columns", lambda: GroupedPrior([[0], [7]], num_labels=3), ["below 3"]),
        ("columns", lambda: GroupedPrior([[0, 1], [2]], dim=3), ["none, one or dim = 3"]),
        ("std", lambda: GroupedPrior([[0]], std=0.0), ["positive"]),
    ):
        with raises(argument, *words) as error:
            call()
        check_one_line(error)
