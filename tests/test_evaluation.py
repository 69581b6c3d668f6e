"""Scores, figures and the report, on a toy world whose model can be exactly right."""

import json
import math
import re

import matplotlib
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from torch import nn

from causalvae_pyro import CausalGraph, CausalVAE, FixedPrior, GaussianLikelihood, History, LinearSCM, Run
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.evaluation import evaluate, score_table
from causalvae_pyro.metrics import cf_score, r2_score
from causalvae_pyro.plots import (
    plot_comparison,
    plot_concepts,
    plot_counterfactuals,
    plot_graph,
    plot_history,
    plot_reconstructions,
)
from causalvae_pyro.recipes import Recipe
from causalvae_pyro.report import write_report

GAIN, SIDE = 0.02, 16


def draw(labels):
    """Grey vertical stripes, one per concept; their brightness is the label."""
    stripes = (0.5 + GAIN * labels).repeat_interleave(SIDE // labels.shape[-1], -1)
    return stripes[..., None, None, :].expand(*stripes.shape[:-1], 1, SIDE, SIDE)


class Stripes:
    """b = 2 a + noise."""

    units = ("A", "B")

    def __init__(self, edges=(("a", "b"),), names=("a", "b")):
        self.graph, self.slope = CausalGraph(names, edges), 2.0 * bool(edges)
        self.labels = torch.randn(40, len(names), generator=torch.Generator().manual_seed(1))
        if edges:
            self.labels[:, 1] += self.slope * self.labels[:, 0]
        self.images = draw(self.labels)

    def counterfactual(self, labels, do):
        new = labels.clone()
        for name in self.graph.names:
            column = self.graph.index(name)
            if name in do:
                new[:, column] = torch.as_tensor(do[name])
            elif column:
                new[:, column] += self.slope * (new[:, 0] - labels[:, 0])
        return new, draw(new)


class Painter(nn.Module):
    def __init__(self, offset):
        super().__init__()
        self.offset = offset

    def forward(self, z):
        return draw(z[..., 0]) + self.offset


class Reader(nn.Module):
    """A guide that reads the concepts off the stripes."""

    def __init__(self, scm):
        super().__init__()
        self.scm = [scm]

    def forward(self, x, labels=None, num_samples=None):
        n = len(self.scm[0].graph)
        z = ((x[:, 0, 0, :: SIDE // n] - 0.5) / GAIN)[..., None]
        with pyro.plate("data", len(x)):
            return pyro.sample("eps", dist.Normal(self.scm[0].to_exogenous(z), 0.01).to_event(2))


def make(data, slope=2.0, offset=0.0):
    scm = LinearSCM(data.graph)
    scm.weight.data.fill_(slope)
    n = len(data.graph)
    model = CausalVAE(scm, FixedPrior(n), Painter(offset), GaussianLikelihood(bounded=False))
    return Run(model, Reader(scm), {"note": "<b>mine</b>"})


@pytest.fixture
def data():
    return Stripes()


@pytest.fixture(scope="module")
def pendulum():
    data = Pendulum("test", size=16)
    torch.manual_seed(0)
    run = Recipe().build(data.graph, data.images, data.labels)
    run.model.eval()
    run.guide.eval()
    return run, data


# Metrics -------------------------------------------------------------------------------------------------------------


def test_r2_score():
    target = torch.tensor([[1.0, 10.0], [2.0, 30.0], [6.0, 20.0]])
    predicted = torch.tensor([[1.0, 20.0], [3.0, 20.0], [6.0, 20.0]])
    # Column 0: total 4 + 1 + 9, residual 1; column 1: the mean.
    torch.testing.assert_close(r2_score(predicted, target), torch.tensor([1 - 1 / 14, 0.0]).double())
    assert r2_score(-target, target).max() < 0
    assert r2_score(predicted[:, 0], target[:, 0]).shape == ()
    with pytest.raises(ValueError, match=r"^predicted: expected the target's shape \[3, 2\], got \[3\]"):
        r2_score(predicted[:, 0], target)
    with pytest.raises(ValueError, match=r"^target: a column is constant"):
        r2_score(predicted, torch.ones(3, 2))


def test_cf_score():
    factual, true = torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), 0.5)
    assert cf_score(true, true, factual) == 1
    assert cf_score(factual, true, factual) == 0
    # Three quarters of the error, that is 9/16 of the squared error, are left.
    assert cf_score(torch.full_like(true, 0.125), true, factual) == pytest.approx(1 - 9 / 16)
    assert cf_score(torch.full_like(true, 1.5), true, factual) == pytest.approx(1 - 4)
    with pytest.raises(ValueError, match=r"^images: got \[1, 1, 4, 4\] beside true \[2, 1, 4, 4\]"):
        cf_score(true[:1], true, factual)
    with pytest.raises(ValueError, match="nothing changes"):
        cf_score(true, factual, factual)


# The score card ------------------------------------------------------------------------------------------------------


def test_a_perfect_model_scores_one(data):
    scores = evaluate(make(data), data)
    assert scores["images"] == 40
    assert scores["reconstruction_mse"] < 1e-12
    assert list(scores["r2"]) == ["a", "b"]
    for part in ("cf_score", "ceiling", "cf_r2"):
        assert list(scores[part]) == ["a", "b", "a+b"]
        assert list(scores[part].values()) == pytest.approx([1.0] * 3, abs=1e-5)
    assert scores["summary"] == pytest.approx(dict.fromkeys(["r2_min", "cf_roots", "cf_children", "cf_mean", "cf_pairs"], 1.0))


def test_a_reconstruction_error_lowers_score_and_ceiling_alike(data):
    offset = 0.01
    scores = evaluate(make(data, offset=offset), data, pairs=False)
    assert scores["reconstruction_mse"] == pytest.approx(offset**2, rel=1e-4)
    # Read again, the brighter images shift every label by offset / GAIN.
    generator = torch.Generator().manual_seed(0)
    for column, name in enumerate("ab"):
        do = {name: data.labels[torch.randperm(40, generator=generator), column]}
        labels, true = data.counterfactual(data.labels, do)
        score = 1 - offset**2 / (true - data.images).square().mean().item()
        assert scores["cf_score"][name] == pytest.approx(score, rel=1e-4)
        assert scores["ceiling"][name] == pytest.approx(score, rel=1e-4)
        worst = 1 - (offset / GAIN) ** 2 / labels.var(0, correction=0).min().item()
        assert scores["cf_r2"][name] == pytest.approx(worst, rel=1e-3)
    assert list(scores["r2"].values()) == pytest.approx([1.0, 1.0])


def test_a_missing_mechanism_lowers_the_score_below_the_ceiling(data):
    scores = evaluate(make(data, slope=0.0), data)
    # Of the change under do(a), b's part is 4/5 and is missed; do(b) has no descendants.
    assert scores["cf_score"]["a"] == pytest.approx(0.2, abs=1e-4)
    assert scores["cf_score"]["b"] == pytest.approx(1.0, abs=1e-4)
    assert list(scores["ceiling"].values()) == pytest.approx([1.0] * 3, abs=1e-5)
    assert scores["cf_r2"]["a"] < 0.9
    assert scores["summary"]["cf_roots"] == scores["cf_score"]["a"]
    assert scores["summary"]["cf_children"] == scores["cf_score"]["b"]
    assert scores["summary"]["cf_mean"] == pytest.approx(0.6, abs=1e-4)
    assert scores["summary"]["cf_pairs"] == scores["cf_score"]["a+b"]


def test_the_seed_fixes_the_interventions(data):
    run = make(data, offset=0.01)
    pyro.set_rng_seed(1)
    first = evaluate(run, data)
    pyro.set_rng_seed(2)
    assert evaluate(run, data) == first
    assert evaluate(run, data, seed=1)["cf_score"] != first["cf_score"]


def test_limit(data):
    assert evaluate(make(data), data, limit=10)["images"] == 10
    for limit in (0, -3):
        with pytest.raises(ValueError, match=f"^limit: got {limit}; must be at least 1"):
            evaluate(make(data), data, limit=limit)


def test_untrained_pendulum_model(pendulum):
    run, data = pendulum
    scores = evaluate(run, data, limit=60)
    names = data.graph.names
    keys = [*names, *(f"{a}+{b}" for i, a in enumerate(names) for b in names[i + 1 :])]
    assert set(scores) == {"images", "reconstruction_mse", "r2", "cf_score", "ceiling", "cf_r2", "summary"}
    assert list(scores["r2"]) == list(names)
    for part in ("cf_score", "ceiling", "cf_r2"):
        assert list(scores[part]) == keys
        assert all(math.isfinite(value) for value in scores[part].values())
    assert json.loads(json.dumps(scores)) == scores
    assert max(scores["cf_score"].values()) < 0.9


# The table -----------------------------------------------------------------------------------------------------------


def test_score_table(data):
    scores = evaluate(make(data, slope=0.0), data)
    lines = score_table(scores).splitlines()
    assert lines[0].split() == ["concept", "R^2", "CF-score", "ceiling", "CF", "R^2"]
    assert lines[2].split()[:4] == ["do(a)", "1.0000", "0.200", "1.000"]
    assert lines[3].split() == ["do(b)", "1.0000", "1.000", "1.000", "1.000"]
    assert lines[4].startswith("do(a, b) ")
    assert [line.rsplit(None, 1)[0] for line in lines[6:10]] == [
        f"mean over {name}" for name in ("roots", "children", "single concepts", "pairs")
    ]
    assert lines[8].endswith(" 0.600")
    assert lines[10] == "reconstruction MSE 0.00000 on 40 test images"
    assert "pairs" not in score_table(evaluate(make(data), data, pairs=False))


@pytest.mark.parametrize(("names", "absent"), [(("a", "b"), "children"), (("a",), "pairs")])
def test_worlds_without_children_or_pairs(names, absent, tmp_path):
    data = Stripes(edges=(), names=names)
    scores = evaluate(make(data), data)
    assert f"mean over {absent}" not in score_table(scores)
    assert "mean over roots" in score_table(scores)
    assert f"mean over {absent}" not in write_report(make(data), data, scores, [], tmp_path).read_text()


# Figures -------------------------------------------------------------------------------------------------------------


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(float)


def images_in(figure):
    """Rows of what each panel of a grid shows."""
    grid = figure.axes[0].get_subplotspec().get_gridspec()
    shown = [axes.get_images()[0].get_array() if axes.get_images() else None for axes in figure.axes]
    return [shown[i * grid.ncols : (i + 1) * grid.ncols] for i in range(grid.nrows)]


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


HISTORY = [
    {"epoch": e, "step": 3 * e, "seconds": 1, "images_per_second": 9, "lr": 1, "loss": 3 / e, "kl_z": 2 / e} for e in (1, 2)
]
FIGURES = {
    "graph": lambda run, data: plot_graph(run.graph, run.model.scm.adjacency, title="A graph"),
    "history": lambda run, data: plot_history(History(HISTORY)),
    "reconstructions": lambda run, data: plot_reconstructions(run, data.images, data.labels),
    "counterfactuals": lambda run, data: plot_counterfactuals(run, data, index=3, steps=5),
    "comparison": lambda run, data: plot_comparison([("factual", data.images[:4]), ("model", data.images[4:6])]),
    "concepts": lambda run, data: plot_concepts(run, data.images, data.labels, data.units),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_off_screen(name, data):
    import matplotlib.pyplot as plt

    before = dict(matplotlib.rcParams)
    figure = FIGURES[name](make(data), data)
    assert isinstance(figure, Figure)
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == before
    drawn = pixels(figure)
    assert drawn.std() > 5
    # Something in every panel that is switched on.
    for axes in figure.axes:
        if axes.axison:
            box = axes.get_window_extent()
            height = drawn.shape[0]
            assert drawn[int(height - box.y1) : int(height - box.y0), int(box.x0) : int(box.x1)].std() > 1


def test_graph_figure(data):
    figure = FIGURES["graph"](make(data), data)
    assert {"a", "b", "2.00", "A graph"} <= set(texts(figure))
    assert len(figure.findobj(FancyArrowPatch)) == 1
    assert "2.00" not in texts(plot_graph(data.graph))


def test_history_figure():
    for history in (HISTORY, History(HISTORY)):
        figure = plot_history(history)
        assert [axes.get_title() for axes in figure.axes] == ["loss", "KL z"]
        assert {axes.get_xlabel() for axes in figure.axes} == {"epoch"}
        assert figure.axes[1].lines[0].get_xydata().tolist() == [[1, 2], [2, 1]]


def test_reconstruction_figure(data):
    x, again, difference = images_in(FIGURES["reconstructions"](make(data, offset=0.1), data))
    assert len(x) == 8
    shown = data.images[torch.arange(8) * len(data.images) // 8, 0]
    np.testing.assert_allclose(np.stack(x), shown, atol=1e-6)
    np.testing.assert_allclose(np.stack(again), shown + 0.1, atol=1e-5)
    np.testing.assert_allclose(np.stack(difference), 0.9, atol=1e-5)


def test_counterfactual_figure(data):
    figure = FIGURES["counterfactuals"](make(data), data)
    rows = images_in(figure)
    assert [len(row) for row in rows] == [6] * 4
    assert {"do(a)\nmodel", "do(b)\nmodel", "true", "factual"} <= set(texts(figure))
    for column, (model, true) in enumerate(zip(rows[::2], rows[1::2], strict=True)):
        np.testing.assert_allclose(model[0], data.images[3, 0], atol=1e-6)
        assert true[0] is None
        np.testing.assert_allclose(np.stack(model[1:]), np.stack(true[1:]), atol=1e-5)
        low, high = (torch.quantile(data.labels[:, column], q).item() for q in (0.02, 0.98))
        expected = [f"{low + (high - low) * i / 4:.3g}" for i in range(5)]
        assert [axes.get_title() for axes in figure.axes[12 * column + 1 : 12 * column + 6]] == expected
        # Row by row one stripe runs from dark to bright; do(b) leaves a's stripe alone.
        assert np.all(np.diff(np.stack(true[1:])[:, 0, 8 * column]) > 0)
    assert np.ptp(np.stack(rows[2])[:, 0, 0]) < 1e-5


def test_comparison_figure(data, pendulum):
    rows = images_in(FIGURES["comparison"](make(data), data))
    assert rows[1][2:] == [None, None]
    np.testing.assert_allclose(np.stack(rows[1][:2]), data.images[4:6, 0])
    colour = images_in(plot_comparison([("factual", pendulum[1].images[:2].float() / 255)]))
    np.testing.assert_allclose(np.stack(colour[0]), pendulum[1].images[:2].movedim(1, -1) / 255, atol=1e-6)


def test_concept_figure(data):
    figure = FIGURES["concepts"](make(data), data)
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["label (A)", "label (B)"]
    for column, axes in enumerate(figure.axes):
        label, read = axes.collections[0].get_offsets().T
        np.testing.assert_allclose(label, data.labels[:, column])
        np.testing.assert_allclose(read, data.labels[:, column], atol=1e-3)


# The report ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [HISTORY, []], ids=["history", "no history"])
def test_report(history, data, tmp_path):
    run = make(data)
    scores = evaluate(run, data)
    page = write_report(run, data, scores, history, tmp_path / "new" / "run")
    pictures = {"counterfactuals.png", "concepts.png", "reconstructions.png", "graph.png"} | (
        {"training.png"} if history else set()
    )
    assert {path.name for path in page.parent.iterdir()} == {"report.html", "metrics.json"} | pictures
    assert json.loads((page.parent / "metrics.json").read_text()) == scores
    text = page.read_text()
    sources = re.findall(r"(?:src|href)\s*=\s*['\"]?([^'\" >]{0,40})", text)
    assert len(sources) == len(pictures)
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in sources)
    assert not re.search(r"https?:|<script|<link|@import|url\(", text)
    assert "&lt;b&gt;mine" in text
    assert "<b>mine" not in text
    for words in ("do(a, b)", "a → b", "mean over single concepts 1.000"):
        assert words in text
    for name in pictures:
        picture = matplotlib.image.imread(page.parent / name)
        assert picture[..., :3].std() > 0.02
    # Written again, in place.
    write_report(run, data, scores, [], page.parent)
    assert not list(page.parent.glob("*.tmp"))


def test_pendulum_report(pendulum, tmp_path):
    run, data = pendulum
    write_report(run, data, evaluate(run, data, limit=60, pairs=False), [], tmp_path)
    assert "shadow_position" in (tmp_path / "report.html").read_text()
