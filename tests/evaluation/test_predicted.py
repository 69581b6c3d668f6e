"""A predictor for photographs, and what it says about counterfactuals."""

import pytest
import torch

from causalvae_pyro.evaluation import train_photograph_predictor
from causalvae_pyro.evaluation.predicted import predicted_scores
from causalvae_pyro.evaluation.tables import score_table
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.metrics import PhotographPredictor
from causalvae_pyro.objectives import reserved
from tests.builders import raises

GRAPH = CausalGraph(["top", "left", "size"], [("top", "size")])
BINARY = [True, True, False]
METRICS = {
    "r2": {"top": 0.9, "left": 0.9, "size": 0.9},
    "intervals": {},
    "graph": {"shd": 0, "f1": 1.0},
    "reconstruction_mse": 0.0,
    "directions": {},
    "images": 600,
}


def draw(labels, seed=0):
    """Brightness above and on the left by two binary labels, a square by a number, and noise of the image's own."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.35 + 0.05 * torch.randn(len(labels), 1, 16, 16, generator=generator)
    x[:, :, :5] += 0.4 * labels[:, 0, None, None, None]
    x[:, :, 8:, :5] += 0.4 * labels[:, 1, None, None, None]
    x[:, :, 10:14, 9:13] += 0.2 * labels[:, 2, None, None, None]
    return x.clamp(0, 1)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (600, 3), generator=generator).float()
    labels[:, 2] = 2 * torch.rand(600, generator=generator) - 1
    return draw(labels), labels


@pytest.fixture(scope="module")
def predictor(data):
    return train_photograph_predictor(*data, BINARY, mirror=False, steps=120)


def test_it_learns_from_reserved_images(data, predictor, monkeypatch):
    x, labels = data
    shown = []
    monkeypatch.setattr(PhotographPredictor, "fit", lambda self, images, labels, **options: shown.append((images, labels)))
    train_photograph_predictor(x, labels, BINARY)
    keep = reserved(x)
    assert torch.equal(shown[0][0], x[keep])
    assert torch.equal(shown[0][1], labels[keep])
    read = predictor.predict(x[~keep])
    assert ((read[:, :2] > 0.5) == (labels[~keep, :2] > 0.5)).double().mean() > 0.97
    assert (read[:, 2] - labels[~keep, 2]).abs().mean() < 0.25
    assert torch.equal(predictor.predict((255 * x[:4]).round().byte()), predictor.predict((255 * x[:4]).round().byte() / 255))


def test_labels_that_go_together_are_read_apart():
    """A weak sign is not read from the strong one of another label that agrees with it in most images."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randint(0, 2, (1500,), generator=generator).float()
    top = torch.where(torch.rand(1500, generator=generator) < 0.9, left, 1 - left)
    x = draw(torch.stack([0.05 * top, left, torch.zeros(1500)], 1))
    labels = torch.stack([top, left], 1)
    predictor = train_photograph_predictor(x, labels, [True, True], mirror=False, steps=150)
    rare = (top != left) & ~reserved(x)
    assert ((predictor.predict(x[rare])[:, 0] > 0.5) == (top[rare] > 0.5)).double().mean() > 0.6  # 0.0 without weights


def test_missing_labels_do_not_count(data):
    x, labels = data
    labels = labels.clone()
    labels[::3, 0] = torch.nan
    predictor = train_photograph_predictor(x, labels, BINARY, mirror=False, steps=30)
    assert predictor.predict(x).isfinite().all()


def test_scores_tell_right_from_wrong(data, predictor):
    x, labels = data
    values = 1 - labels[:, 0]
    meant = torch.stack([values, labels[:, 1], labels[:, 2] + 0.5], 1)
    right, wrong = draw(meant), draw(torch.stack([labels[:, 0], 1 - labels[:, 1], labels[:, 2]], 1))
    good, bad = (predicted_scores(predictor, GRAPH, x, labels, x, {"top": (values, images, meant)}) for images in (right, wrong))
    assert good["do"]["top"]["set"]["accuracy"] > 0.97
    assert good["do"]["top"]["set"]["auc"] > 0.99
    assert good["do"]["top"]["unchanged"]["left"] > 0.97
    assert good["do"]["top"]["effects"]["size"]["mae"] < 0.3
    assert list(good["do"]["top"]["unchanged"]) == ["left"]
    # Nothing was set, and another concept changed.
    assert bad["do"]["top"]["set"]["accuracy"] < 0.05
    assert bad["do"]["top"]["unchanged"]["left"] < 0.05
    # Real images with the labels meant are read as well as others.
    assert good["do"]["top"]["real"] == pytest.approx(
        {name: good["factual"][name]["accuracy"] for name in ("top", "left")}, abs=0.02
    )
    # Artefacts that the predictor does not see.
    grid = 0.2 * (torch.arange(16) % 2 - 0.5)
    marred = predicted_scores(predictor, GRAPH, x, labels, x, {"top": (values, right + grid, meant)})
    assert marred["do"]["top"]["fine_detail"] > 1.3 * good["do"]["top"]["fine_detail"]
    assert good["do"]["top"]["fine_detail"] < 1.3
    # The trivial answer stands beside it.
    assert good["left_alone"]["set"]["top"]["accuracy"] < 0.05
    assert good["left_alone"]["same_image"] == 1.0
    assert good["factual"]["left"]["f1"] > 0.97


def test_a_cast_of_colour_counts(data, predictor):
    x, labels = data

    class Colourblind:
        binary, kinds = predictor.binary, predictor.kinds

        def predict(self, images):
            return predictor.predict(images.mean(1, keepdim=True))

    def colour(images, before):
        found = predicted_scores(Colourblind(), GRAPH, before, labels, before, {"top": (labels[:, 0], images, labels)})
        assert "colour" in score_table(METRICS | {"predicted": found})
        assert found["left_alone"]["colour"] == 0.0
        return found["do"]["top"]["colour"]

    before = 0.25 + 0.5 * x.expand(-1, 3, -1, -1)
    # Green on one side, pink on the other, nothing in the middle: no predictor that sees brightness minds.
    side = torch.linspace(-0.1, 0.1, 16) * torch.tensor([1.0, -2.0, 1.0])[:, None, None]
    assert colour(before + side, before) == pytest.approx(0.0711, rel=1e-3)
    # Brighter, or coloured in details: no cast.
    assert colour(before + 0.1, before) < 1e-6
    chequers = 0.1 * (torch.arange(16) % 2 * 2.0 - 1) * torch.tensor([1.0, -1.0, 0.0])[:, None, None]
    assert colour(before + chequers, before) < 1e-6


def test_what_no_image_shows_is_scored_apart(data, predictor):
    x, labels = data
    values = 1 - labels[:, 0]
    meant = torch.stack([values, labels[:, 1], labels[:, 2] + 0.5], 1)
    beyond = (values == 1) & (labels[:, 1] == 0)
    # Right where images show such labels, and as it was where none does.
    images = torch.where(beyond[:, None, None, None], x, draw(meant))
    found = predicted_scores(predictor, GRAPH, x, labels, x, {"top": (values, images, meant)}, [("top", 1, "left", 0)])
    scores = found["do"]["top"]
    assert scores["set"]["accuracy"] == pytest.approx(1 - beyond.double().mean().item(), abs=0.03)
    assert scores["overlap"]["share"] == pytest.approx(1 - beyond.double().mean().item())
    assert scores["overlap"]["set"]["accuracy"] > 0.97
    assert scores["overlap"]["left_alone"]["accuracy"] < 0.05
    without = predicted_scores(predictor, GRAPH, x, labels, x, {"top": (values, images, meant)}, [("left", 5, "top", 0)])
    assert "overlap" not in without["do"]["top"]


def test_the_image_is_another_when_images_are_exchanged(data, predictor):
    x, labels = data
    values = labels[:, 0]
    kept = predicted_scores(predictor, GRAPH, x, labels, x, {"top": (values, x, labels)})
    lost = predicted_scores(predictor, GRAPH, x, labels, x, {"top": (values, x.roll(1, 0), labels)})
    assert kept["do"]["top"]["same_image"] == 1.0
    assert lost["do"]["top"]["same_image"] < 0.05


def test_the_table_has_both(data, predictor):
    x, labels = data
    found = predicted_scores(predictor, GRAPH, x, labels, x, {"top": (1 - labels[:, 0], x, labels)})
    table = score_table(METRICS | {"predicted": found})
    assert "image left alone" in table
    assert "same image" in table
    assert "real images with those labels" in table
    assert "fine detail" in table


def test_sides():
    with raises("image_shape", r"\(3, 24, 32\)"):
        PhotographPredictor((3, 24, 32), BINARY)
