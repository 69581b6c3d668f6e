"""uint8 images are taken wherever images are, and what is out of range is refused in the same words."""

import re

import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro import (
    AdditiveNoiseSCM,
    AmortizedGuide,
    CausalVAE,
    FixedPrior,
    GaussianLikelihood,
    abduct,
    ate,
    counterfactual,
    encode,
    fit,
    ite,
    reconstruct,
)
from causalvae_pyro.baselines import PaperRecipe, align
from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.datasets import MorphoMNIST, Pendulum
from causalvae_pyro.evaluation.evaluate import evaluate, train_predictor
from causalvae_pyro.explore.answers import Explorer
from causalvae_pyro.guides import IterativeGuide
from causalvae_pyro.interventions import counterfactual_traces
from causalvae_pyro.metrics import Predictor, cf_score, composition, fid, reversibility
from causalvae_pyro.networks import BrightnessDecoder, ConvDecoder, ConvEncoder, MLPEncoder, SpriteDecoder
from causalvae_pyro.plots import plot_comparison, plot_concepts, plot_reconstructions
from causalvae_pyro.recipes import Recipe
from causalvae_pyro.utils.images import as_images, check_images, scale_images

COUNT = 12


@pytest.fixture(scope="module")
def data():
    data = Pendulum("test", size=16)
    data.images, data.labels = data.images[::50][:COUNT].clone(), data.labels[::50][:COUNT].clone()
    return data


def make(data, dtype=torch.float32):
    torch.manual_seed(0)
    scm = AdditiveNoiseSCM(data.graph)
    decoder = ConvDecoder.from_images(data.images, 4)
    model = CausalVAE(scm, FixedPrior.from_labels(data.labels, std=0.1), decoder, GaussianLikelihood())
    guide = AmortizedGuide(ConvEncoder((3, 16, 16)), scm)
    return Run(model.to(dtype), guide.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_helper(dtype):
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    like = torch.zeros((), dtype=dtype)
    assert as_images(every, like=like).dtype == dtype
    assert torch.equal(as_images(every, like=like), every.to(dtype) / 255)
    assert torch.equal(as_images(every), every.float() / 255)
    x = (every / 255).to(dtype)
    assert as_images(x) is x
    assert as_images(x, like=like) is x
    assert as_images(x, like=torch.zeros((), dtype=torch.float64)).dtype == torch.float64
    assert torch.equal(scale_images(every[0, 0, 0]), every[0, 0, 0] / 255)
    assert every.dtype == torch.uint8
    assert every.amax() == 255


REFUSED = {
    "bool": (lambda x: x > 9, "expected uint8, or floating point in [0, 1], got torch.bool"),
    "int64": (lambda x: x.long(), "expected uint8, or floating point in [0, 1], got torch.int64"),
    "0 to 255": (lambda x: x.float(), "pixels must lie in [0, 1] or be uint8, got 0 to 255"),
    "-1 to 1": (lambda x: x.float() / 127.5 - 1, "pixels must lie in [0, 1] or be uint8, got -1 to 1"),
    "nan": (lambda x: x.float() / 255 * torch.nan, "pixels must lie in [0, 1] or be uint8, got nan to nan"),
    "3-d": (lambda x: x[0], "expected a tensor of images [N, C, H, W], got [3, 16, 16]"),
    "none": (lambda x: x[:0], "got no images"),
    "no rows": (lambda x: x[:, :, :0], "got no pixels"),
    "numpy": (lambda x: x.numpy(), "expected a tensor of images [N, C, H, W], got ndarray"),
}

# Each takes images, labels and a run, and returns tensors.
CALLS = {
    "abduct": lambda x, u, run: abduct(run.guide, x, u)["eps"],
    "counterfactual": lambda x, u, run: counterfactual(run.model, run.guide, x, {"light": 12.0}, batch_size=5),
    "reconstruct": lambda x, u, run: reconstruct(run.model, run.guide, x),
    "encode": lambda x, u, run: encode(run.model, run.guide, x, batch_size=5),
    "counterfactual_traces": lambda x, u, run: next(counterfactual_traces(run.model, run.guide, x, [{}]))[1][0].nodes["z"][
        "value"
    ],
    "ite": lambda x, u, run: ite(run.model, run.guide, x, {"light": 12.0}, outcome="shadow_length").samples,
    "ate": lambda x, u, run: torch.tensor(ate(run.model, run.guide, x, {"light": 12.0}, outcome="light").value),
    "composition": lambda x, u, run: composition(lambda images: images.sqrt(), x),
    "reversibility": lambda x, u, run: reversibility(torch.sqrt, torch.square, x),
    "fid": lambda x, u, run: torch.tensor(fid(x[:8], x[4:], feature=lambda images: images.mean((-2, -1)))),
    "ConvDecoder": lambda x, u, run: ConvDecoder.from_images(x, 4).background.detach(),
    "BrightnessDecoder": lambda x, u, run: BrightnessDecoder.from_images(x, 4).level.detach(),
    "Predictor.predict": lambda x, u, run: predictor().predict(x),
    "Predictor.features": lambda x, u, run: predictor().features(x),
    "align": lambda x, u, run: align(run, x, u, run.graph.names).model.prior.to_label,
    "Recipe": lambda x, u, run: Recipe().build(run.graph, x, u).model.decoder.background.detach(),
    "PaperRecipe": lambda x, u, run: PaperRecipe(graph="given").build(run.graph, x, u).model.decoder.background.detach(),
    "measure_intensity": lambda x, u, run: MorphoMNIST.measure_intensity(x),
}


def traced(trace):
    return trace.nodes["z"]["value"]


def predictor():
    torch.manual_seed(0)
    return Predictor((3, 16, 16), 2)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_bytes_are_the_numbers_that_they_stand_for(call, data):
    results = []
    for x in (data.images, data.images.float() / 255):
        torch.manual_seed(1)
        results.append(call(x, data.labels, make(data)))
    assert_close(*results, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_same_refusal_everywhere(call, change, message, data):
    argument = "(x|images)"
    with pytest.raises(ValueError, match=f"^{argument}: {re.escape(message)}$"):
        call(change(data.images), data.labels, make(data))


def test_in_the_precision_of_the_model(data):
    run = make(data, torch.float64)
    exact = data.images.double() / 255
    for call in (CALLS["abduct"], CALLS["counterfactual"], CALLS["encode"]):
        assert torch.equal(call(data.images, data.labels, run), call(exact, data.labels, run))
    # The programs themselves.
    trace = [run.model.double()(x, data.labels.double()) for x in (data.images, exact)]
    assert torch.equal(*trace)
    assert torch.equal(run.guide.posterior(data.images)["eps"].base_dist.mean, run.guide.posterior(exact)["eps"].base_dist.mean)


def test_the_encoder_takes_bytes(data):
    encoder = MLPEncoder((3, 16, 16), 5)
    assert torch.equal(encoder(data.images), encoder(data.images / 255))


def test_a_guide_that_draws_takes_bytes(data):
    run = make(data)
    guide = IterativeGuide(AmortizedGuide(ConvEncoder((3, 16, 16)), run.model.scm), run.model).eval()
    assert torch.equal(encode(run.model, guide, data.images), encode(run.model, guide, data.images / 255))


def test_sprites_start_from_bytes(data):
    decoders = []
    for x in (data.images, data.images / 255):
        torch.manual_seed(0)
        decoders.append(SpriteDecoder.from_images(x, 4))
    assert_close(decoders[0].state_dict(), decoders[1].state_dict())
    with pytest.raises(ValueError, match=r"^images: pixels must lie in \[0, 1\] or be uint8, got 0 to 255"):
        SpriteDecoder.from_images(data.images.float(), 4)


def test_scores_of_bytes(data):
    bright = data.images // 2 + 100
    expected = cf_score(bright / 255, data.images.flip(0) / 255, data.images / 255)
    assert cf_score(bright, data.images.flip(0), data.images) == pytest.approx(expected, abs=1e-6)
    assert cf_score(bright / 255, data.images.flip(0), data.images) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="^factual: expected uint8, or floating point"):
        cf_score(bright / 255, bright / 255, data.images.long())


def test_the_score_card_and_the_judge(data):
    run = make(data)
    cards = []
    for images in (data.images, data.images / 255):
        other = Pendulum.__new__(Pendulum)
        other.__dict__.update(data.__dict__, images=images)
        judge = train_predictor(images, data.labels, steps=2)
        cards.append(evaluate(run, other, predictor=judge.predict, pairs=False, axioms=False, limit=7))
    assert cards[0]["reconstruction_mse"] == pytest.approx(cards[1]["reconstruction_mse"])
    assert cards[0]["cf_score"] == pytest.approx(cards[1]["cf_score"])
    assert cards[0]["effectiveness"]["factual"] == pytest.approx(cards[1]["effectiveness"]["factual"], rel=1e-4)
    other.images = data.images.float()
    with pytest.raises(ValueError, match=r"^data.images: pixels must lie in \[0, 1\] or be uint8, got 0 to 255"):
        evaluate(run, other)


def test_figures(data):
    run = make(data)
    for x in (data.images, data.images / 255):
        rows = plot_comparison([("factual", x[:2])]).axes[0].images[0].get_array()
        assert_close(torch.tensor(rows), (data.images[0] / 255).movedim(0, -1))
        plot_reconstructions(run, x, count=2)
        plot_concepts(run, x, data.labels)


def test_the_live_page(data):
    explorer = Explorer(make(data), data)
    factuals = [explorer.own_image(image, "own.png") for image in (data.images[3], data.images[3] / 255)]
    assert torch.equal(factuals[0].image, factuals[1].image)
    assert torch.equal(factuals[0].reconstruction, factuals[1].reconstruction)
    with pytest.raises(ValueError, match=r"^image: pixels must lie in \[0, 1\] or be uint8, got 0 to 255"):
        explorer.own_image(data.images[3].float(), "own.png")


class Own(torch.utils.data.Dataset):
    """Pairs as they come from somebody's transform."""

    def __init__(self, data, change, first=0):
        self.data, self.change, self.first = data, change, first

    def __len__(self):
        return len(self.data.images)

    def __getitem__(self, i):
        image = self.data.images[i : i + 1]
        return (self.change(image) if i >= self.first else image / 255)[0], self.data.labels[i]


@pytest.mark.parametrize("kind", ["tensors", "dataset"])
@pytest.mark.parametrize("name", ["bool", "int64", "0 to 255", "-1 to 1", "nan"])
def test_training_refuses_in_the_same_words(name, kind, data):
    change, message = REFUSED[name]
    given = (change(data.images), data.labels) if kind == "tensors" else Own(data, change)
    run = make(data)
    before = run.model.decoder.background.clone()
    # One image of a batch may have another range than all of them.
    message = re.escape(message.split(", got")[0])
    with pytest.raises(ValueError, match=f"^images: {message}"):
        fit(run.model, run.guide, given, epochs=1, batch_size=COUNT, progress=False, device="cpu")
    assert torch.equal(run.model.decoder.background, before)


def test_training_looks_at_every_batch_of_a_dataset(data):
    run = make(data)
    with pytest.raises(ValueError, match="^images: pixels must lie in"):
        fit(run.model, run.guide, Own(data, lambda x: x.float(), 11), epochs=1, batch_size=2, progress=False, device="cpu")


def test_check_says_nothing_of_what_is_right(data):
    assert check_images(data.images) is None
    assert check_images(data.images / 255) is None
