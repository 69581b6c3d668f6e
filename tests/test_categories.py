"""Categories from a table to a score card: recipes, terms of the loss, scores, figures, the page and the command line."""

import copy
import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.testing import assert_close

from causalvae_pyro import Recipe, counterfactual, fit, load
from causalvae_pyro.cli.arguments import parse
from causalvae_pyro.cli.data import describe
from causalvae_pyro.cli.main import main
from causalvae_pyro.datasets import FolderDataset
from causalvae_pyro.evaluation import evaluate, train_photograph_predictor
from causalvae_pyro.evaluation.scored_images import ScoredImages
from causalvae_pyro.evaluation.tables import score_table
from causalvae_pyro.explore import Explorer
from causalvae_pyro.guides import LabelConditionedGuide
from causalvae_pyro.interventions import pixel_effects
from causalvae_pyro.objectives import PredictorConsistency
from causalvae_pyro.objectives.classifier_fit import label_loss
from causalvae_pyro.plots import plot_counterfactuals
from causalvae_pyro.priors import CategoricalPrior
from causalvae_pyro.scm import CategoricalSCM
from causalvae_pyro.utils.label_columns import label_features, label_widths
from tests.builders import raises

WORDS = ("apple", "pear", "plum")
COLOURS = np.array([[200, 30, 30], [120, 200, 40], [110, 30, 160]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Discs of a size, whose fruit depends on it, and whose brightness depends on the fruit."""
    path, rng, rows = tmp_path_factory.mktemp("fruit"), np.random.default_rng(0), []
    for i in range(120):
        size = rng.uniform(3, 7)
        chances = np.exp([1.5 * (5 - size), 0.5, 1.2 * (size - 5)])
        kind = rng.choice(3, p=chances / chances.sum())
        bright = 0.5 + 0.12 * kind + 0.05 * rng.normal()
        y, x = np.mgrid[:16, :16]
        image = np.full((16, 16, 3), 20, np.uint8)
        image[(y - 8) ** 2 + (x - 8) ** 2 < size**2] = np.clip(COLOURS[kind] * bright, 0, 255)
        Image.fromarray(image).save(path / f"{i}.png")
        split = "train" if i < 90 else "test"
        rows.append([f"{i}.png", f"{size:.3f}", "" if i % 20 == 3 and split == "train" else WORDS[kind], f"{bright:.4f}", split])
    with open(path / "labels.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["file", "size", "fruit", "bright", "split"], *rows])
    (path / "graph.json").write_text('{"size": [], "fruit": ["size"], "bright": ["fruit"]}')
    return path


def opened(folder, split="train"):
    return FolderDataset(folder, folder / "labels.csv", folder / "graph.json", split)


@pytest.fixture(scope="module", params=["conv", "hierarchical"])
def trained(request, folder):
    data = opened(folder)
    torch.manual_seed(0)
    recipe = Recipe(decoder=request.param)
    run = recipe.build(data.graph, data.images, data.labels, kinds=data.kinds)
    options = {"epochs": 2, "batch_size": 30, "progress": False, "device": "cpu"}
    fit(run.model, run.guide, (data.images, data.labels), objective=recipe.objective(run), **options)
    return run


def test_a_recipe_takes_the_kinds(trained, folder):
    assert isinstance(trained.model.scm, CategoricalSCM)
    assert trained.model.scm.dim == 3
    assert trained.model.prior.words == {1: WORDS}
    x = opened(folder, "test").images[:4]
    images, z = counterfactual(trained.model, trained.guide, x, {"fruit": "plum"}, return_latents=True)
    assert images.isfinite().all()
    assert trained.model.prior.to_labels(z)[:, 1].tolist() == [2, 2, 2, 2]


def test_a_recipe_refuses_what_has_no_kinds(folder):
    data = opened(folder)
    with raises("kinds", "decoder 'sprites' cannot have"):
        Recipe(decoder="sprites").build(data.graph, data.images, data.labels, kinds=data.kinds)
    with raises("kinds", "got some of 'colour'; the concepts are size, fruit, bright"):
        Recipe().build(data.graph, data.images, data.labels, kinds={"colour": 3})


def test_the_score_card_knows_kinds(trained, folder):
    data, test = opened(folder), opened(folder, "test")
    predictor = train_photograph_predictor(data.images, data.labels, [False] * 3, kinds=[0, 3, 0], steps=40)
    scores = evaluate(trained, test, photograph_predictor=predictor, features=predictor.features, intervals=False)
    assert set(scores["accuracy"]) == set(scores["f1"]) == set(scores["f1_by_kind"]) == {"fruit"}
    assert len(scores["f1_by_kind"]["fruit"]) == 3
    assert set(scores["calibration"]["guide"]) == {"size", "bright"}
    set_to = scores["predicted"]["do"]["fruit"]["set"]
    assert set(set_to) == {"accuracy", "f1", "f1_by_kind"}
    # Every image is asked for another kind than its own.
    assert (
        scores["predicted"]["left_alone"]["set"]["fruit"]["accuracy"] <= 1 - scores["predicted"]["factual"]["fruit"]["accuracy"]
    )
    assert "F1" in score_table(scores)
    assert 0 <= scores["minimality"]["fruit"] <= 1
    read = evaluate(trained, test, predictor=lambda x: test.labels, intervals=False, axioms=False)["effectiveness"]
    assert read["factual"] == {"size": 0.0, "fruit": 0.0, "bright": 0.0}
    assert read["do"]["fruit"]["fruit"] == 1.0


def test_labels_that_are_none_of_the_kinds_are_refused(trained, folder):
    data = opened(folder, "test")
    told, options = LabelConditionedGuide(trained.guide, trained.model), {"epochs": 1, "batch_size": 30, "progress": False}
    for wrong in (3.0, -1.0, 0.5):
        labels = data.labels.clone()
        labels[2, 1] = wrong
        words = f"got {wrong:g}; must be one of apple, pear, plum"
        with raises("labels: the concept 'fruit'", words):
            counterfactual(trained.model, told, data.images, {}, labels)
        with raises("labels: the concept 'fruit'", words):
            fit(trained.model, trained.guide, (data.images, labels), **options)
        with raises("validation: labels: the concept 'fruit'", words):
            fit(trained.model, trained.guide, data, validation=(data.images, labels), **options)


class Kind(nn.Module):
    """Draws nothing but the number of the second concept's kind."""

    def __init__(self, decoder):
        super().__init__()
        self.dim, self.noise_dim = decoder.dim, decoder.noise_dim

    def forward(self, z, *_):
        kind = z[..., 1, :].argmax(-1).to(z)
        return kind[..., None, None, None].expand(*kind.shape, 3, 16, 16) / 2


def test_the_effect_of_a_kind_is_that_of_another(trained, folder):
    data, (model, guide) = opened(folder), copy.deepcopy((trained.model, trained.guide))
    # As many of each kind, in any order.
    rows = torch.stack([(data.labels[:, 1] == kind).nonzero().squeeze(1)[:8] for kind in range(3)], 1).flatten()
    x, labels = data.images[rows], data.labels[rows]
    model.decoder = Kind(model.decoder)
    found = pixel_effects(model, LabelConditionedGuide(guide, model), x, labels)
    # Half of all images on there is another kind: 1, 2, 1 away, each as often.
    drawn = torch.stack([model.likelihood(torch.full((1, 3, 16, 16), kind / 2)).mean[0, 0, 0, 0] for kind in range(3)])
    kinds = torch.arange(3).repeat_interleave(8)
    expected = (drawn[kinds.roll(12)] - drawn[kinds]).square().mean().sqrt()
    assert_close(found[1], expected.expand(3, 16, 16))
    assert expected > 0.1
    assert found[2].max() == 0


def test_values_are_of_kinds_that_there_are(trained, folder):
    data = opened(folder, "test")
    # Of three kinds the images have two.
    data.labels[:, 1] = torch.where(data.labels[:, 1] == 0, 2, data.labels[:, 1])
    scored = ScoredImages(trained, data, data.images, data.labels, seed=0, intervals=False)
    values = scored.values("fruit")
    assert torch.equal(values, 3 - data.labels[:, 1])


def test_words_with_other_numbers_are_refused(trained, folder):
    test = opened(folder, "test")
    test.kinds = {"fruit": ("apple", "plum")}
    for use in (lambda: evaluate(trained, test), lambda: Explorer(trained, test)):
        with raises("data", "'fruit' has the kinds apple, plum; must be the run's, apple, pear, plum"):
            use()


def test_figures_and_the_page(trained, folder):
    test = opened(folder, "test")
    titles = [axes.get_title() for axes in plot_counterfactuals(trained, test, index=0).axes]
    assert [title for title in titles if title in WORDS] == list(WORDS)
    explorer = Explorer(trained, test)
    concept = explorer.concept("fruit")
    assert (concept.step, concept.ends(), concept.ends(beyond=True)) == (1.0, (0.0, 2.0), (0.0, 2.0))
    assert concept.unit == "0 apple, 1 pear, 2 plum"
    answer = explorer.answer(explorer.test_image(0), {"fruit": 1.0})
    assert answer.concepts["fruit"] == 1


def test_losses_are_cross_entropies():
    prior = CategoricalPrior([0, 3], std=0.1, shift=[2.0, 0.0], scale=[4.0, 1.0])
    labels = torch.tensor([[6.0, 2.0], [2.0, torch.nan], [torch.nan, 0.0]])
    read = torch.randn(3, 4)
    loss = label_loss(read, labels, prior, torch.tensor([False, False]))
    crossed = F.cross_entropy(read[:, 1:], torch.tensor([2, 0, 0]), reduction="none")
    expected = torch.stack([0.5 * (read[:, 0] - torch.tensor([1.0, 0.0, 0.0])).square(), crossed], 1)
    assert_close(loss, expected.masked_fill(labels.isnan(), 0.0))
    assert label_widths(prior, 2) == [1, 3]
    assert label_features(prior, labels[:1]).tolist() == [[1.0, 0.0, 0.0, 1.0]]

    class Pixels(nn.Module):
        def forward(self, z, eps_x=None):
            return z.flatten(-2)[..., None, None, :]

    class Reader(nn.Module):
        def forward(self, x):
            return torch.cat([4 * x[:, 0, 0, :1] + 2, 5 * x[:, 0, 0, 3:]], 1)

    model = SimpleNamespace(decoder=Pixels(), likelihood=lambda mean: SimpleNamespace(mean=mean), prior=prior)
    # All kinds alike: whatever is swapped, the reader sees kind 1, and the numbers as they are.
    z = prior(torch.tensor([[1.0, 1.0], [3.0, 1.0], [9.0, 1.0]])).mean
    trace = SimpleNamespace(nodes={"z": {"value": z}})
    found = PredictorConsistency([Reader()], category_weight=7.0)(model, trace, None)
    assert_close(found, 3 * 7 * F.cross_entropy(torch.tensor([[0.0, 5.0, 0.0]]), torch.tensor([1])))


def test_the_command_line(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("causalvae_pyro.cli.scoring._PREDICTOR_STEPS", 3)
    own = ["--images", str(folder), "--labels", str(folder / "labels.csv"), "--graph", str(folder / "graph.json")]
    out = str(tmp_path / "run")
    assert main(["train", *own, "--size", "16", "--epochs", "1", "--decoder", "conv", "--device", "cpu", "--out", out]) == 0
    assert load(out).model.prior.words == {1: WORDS}
    assert "F1" in capsys.readouterr().out
    picture = tmp_path / "plum.png"
    assert main(["counterfactual", out, "--do", "fruit=plum", "--count", "2", "--out", str(picture)]) == 0
    assert picture.is_file()
    capsys.readouterr()
    for do, words in (("fruit=cherry", "its kinds are apple, pear, plum"), ("fruit=7", "must be one of apple, pear, plum")):
        assert main(["counterfactual", out, "--do", do, "--out", str(picture)]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_which_concepts_are_categories():
    digits = ["train", "morphomnist", "--root", "here", "--categorical"]
    assert describe(parse([*digits, "digit"]))["digit"] is True
    with raises("--categorical", "got thickness; morphomnist has one such concept, digit"):
        describe(parse([*digits, "thickness"]))
    with raises("--categorical", "celeba has no such option"):
        describe(parse(["train", "celeba", "--root", "here", "--categorical", "sex"]))
    own = ["train", "--images", "a", "--labels", "b", "--graph", "c"]
    assert describe(parse([*own, "--categorical", "digit"]))["categories"] == ["digit"]
    assert "categories" not in describe(parse(own))
    with raises("data", "pendulum and --categorical"):
        describe(parse(["train", "pendulum", "--categorical", "light"]))
