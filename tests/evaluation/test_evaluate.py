"""Scores, figures and the report, on a toy world whose model can be exactly right."""

import json
import math
import re
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from torch import nn

from causalvae_pyro import CausalGraph, CausalVAE, FixedPrior, GaussianLikelihood, LinearSCM, Run, counterfactual, plots
from causalvae_pyro.checkpoints.runs import weights_digest
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.evaluation.evaluate import evaluate, score_table
from causalvae_pyro.evaluation.report import write_report
from causalvae_pyro.evaluation.tables import score_sections
from causalvae_pyro.metrics import cf_errors, cf_score, cf_score_of_errors, minimality, r2_score
from causalvae_pyro.plots import (
    plot_comparison,
    plot_concepts,
    plot_counterfactuals,
    plot_graph,
    plot_history,
    plot_matrix,
    plot_reconstructions,
    plot_scores,
)
from causalvae_pyro.plots.style import BLUE, VERMILION
from causalvae_pyro.recipes import Recipe
from causalvae_pyro.training import History

GAIN, SIDE = 0.02, 16


def draw(labels):
    """Grey vertical stripes, one per concept; their brightness is the label."""
    stripes = (0.5 + GAIN * labels).repeat_interleave(SIDE // labels.shape[-1], -1)
    return stripes[..., None, None, :].expand(*stripes.shape[:-1], 1, SIDE, SIDE)


class Stripes:
    """b = 2 a + noise; so is every child of a, the first concept and the only cause."""

    units = ("A", "B", "C", "D")
    slope = 2.0

    def __init__(self, edges=(("a", "b"),), names=("a", "b"), count=40):
        self.graph = CausalGraph(names, edges)
        self.labels = torch.randn(count, len(names), generator=torch.Generator().manual_seed(1))
        for name in self.graph.children:
            self.labels[:, self.graph.index(name)] += self.slope * self.labels[:, 0]
        self.images = draw(self.labels)

    def counterfactual(self, labels, do):
        new = labels.clone()
        for column, name in enumerate(self.graph.names):
            if name in do:
                new[:, column] = torch.as_tensor(do[name])
            elif name in self.graph.children:
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


class Clerk(nn.Module):
    """A guide that looks the concepts up in the labels, and does without the image but not without them."""

    def __init__(self, scm):
        super().__init__()
        self.scm = [scm]

    def forward(self, x, labels, num_samples=None):
        with pyro.plate("data", len(x)):
            return pyro.sample("eps", dist.Normal(self.scm[0].to_exogenous(labels[..., None]), 0.01).to_event(2))


class Reordered:
    """The same world with its concepts in another order."""

    def __init__(self, data, order):
        self.data, self.order, self.inverse = data, order, [order.index(i) for i in range(len(order))]
        self.images, self.labels = data.images, data.labels[:, order]
        self.units = [data.units[i] for i in order]
        self.graph = CausalGraph([data.graph.names[i] for i in order], data.graph.edges)

    def counterfactual(self, labels, do):
        new, images = self.data.counterfactual(labels[:, self.inverse], do)
        return new[:, self.order], images


class Photos:
    """A world of which nobody knows the counterfactuals."""

    def __init__(self, data):
        self.images, self.labels, self.graph = data.images, data.labels, data.graph


def make(data, slope=2.0, offset=0.0, *, graph=None, guide=Reader, scale=1.0):
    """The model of a world: with ``slope`` 2 and no offset the exact one; or of another graph over the same concepts."""
    scm = LinearSCM(graph or data.graph)
    scm.weight.data.fill_(slope)
    model = CausalVAE(scm, FixedPrior(len(scm.graph), scale=scale), Painter(offset), GaussianLikelihood(bounded=False))
    return Run(model, guide(scm), {"note": "<b>mine</b>"})


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


def test_cf_errors_are_the_parts_of_the_score():
    images, true, factual = torch.rand(3, 5, 2, 4, 6)
    errors, baselines = cf_errors(images, true, factual)
    for i in range(5):
        assert errors[i].item() == pytest.approx((images[i] - true[i]).square().mean().item(), rel=1e-5)
        assert baselines[i].item() == pytest.approx((factual[i] - true[i]).square().mean().item(), rel=1e-5)
    assert errors.dtype == baselines.dtype == torch.float64
    # A ratio of sums, not a mean of ratios.
    assert cf_score_of_errors(errors, baselines) == cf_score(images, true, factual)
    assert cf_score_of_errors(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 3.0])) == 0.75
    # An image on which nothing changes is no trouble among others.
    assert cf_score_of_errors(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 4.0])) == 0.5
    with pytest.raises(ValueError, match=r"^images: got \[5, 2, 4, 6\] beside true \[5, 2, 4, 6\] and factual \[4, 2, 4, 6\]"):
        cf_errors(images, true, factual[1:])
    with pytest.raises(ValueError, match=r"^true: equals the factual images everywhere"):
        cf_score_of_errors(errors, torch.zeros(5))


# The score card ------------------------------------------------------------------------------------------------------


def test_a_perfect_model_scores_one(data):
    scores = evaluate(make(data), data)
    assert scores["images"] == 40
    assert scores["reconstruction_mse"] < 1e-12
    assert list(scores["r2"]) == ["a", "b"]
    assert list(scores["r2"].values()) == pytest.approx([1.0] * 2)
    for part in ("cf_score", "ceiling", "cf_r2"):
        assert list(scores[part]) == ["a", "b", "a+b"]
        assert list(scores[part].values()) == pytest.approx([1.0] * 3, abs=1e-5)
    assert scores["composition"] == pytest.approx([0.0] * 10, abs=1e-6)
    assert scores["reversibility"] == pytest.approx({"a": 0.0, "b": 0.0}, abs=1e-6)
    assert scores["graph"] == {"shd": 0, "precision": 1.0, "recall": 1.0, "f1": 1.0, "order_error": 0}
    directions = ["reconstruction", "disentanglement", "discovery", "counterfactual"]
    assert scores["directions"] == pytest.approx(dict.fromkeys(directions, 1.0))
    assert scores["representation"]["mic"] == {"a": 1.0, "b": 1.0}
    # No better than the labels themselves, of which either tells much about the other.
    for score, value in scores["representation"]["of_the_labels"].items():
        assert scores["representation"][score] == pytest.approx(value, abs=1e-5)
    assert scores["representation"]["sap"] < 0.2
    assert scores["summary"] == pytest.approx(dict.fromkeys(["r2_min", "cf_roots", "cf_children", "cf_mean", "cf_pairs"], 1.0))


def test_images_with_a_missing_label_are_left_out(data, tmp_path):
    missing, whole = Stripes(count=40), Stripes(count=40)
    missing.labels = missing.labels.clone()
    missing.labels[::4, 1] = torch.nan
    rows = (~missing.labels.isnan().any(1)).nonzero().squeeze(1)
    whole.images, whole.labels = whole.images[rows], whole.labels[rows]
    run = make(data)
    scores, expected = (evaluate(run, part, intervals=False) for part in (missing, whole))
    assert scores.pop("incomplete") == 10
    assert scores == expected
    assert "on 30 test images; 10 without all labels are left out" in score_table(scores | {"incomplete": 10})
    write_report(run, missing, scores, [], tmp_path)
    missing.labels[1:, 0] = torch.nan
    with pytest.raises(ValueError, match="^data: 0 of 40 images have all labels; the scores take at least 2"):
        evaluate(run, missing)


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
    assert scores["intervals"]["reconstruction_mse"] == pytest.approx([offset**2] * 2, rel=1e-4)


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
    other = evaluate(run, data, seed=1)
    for part in ("cf_score", "intervals"):
        assert other[part] != first[part]
    # DCI's split is drawn too; nothing else of the representation is.
    assert other["representation"].pop("dci") != first["representation"].pop("dci")
    del other["representation"]["of_the_labels"], first["representation"]["of_the_labels"]
    assert other["representation"] == first["representation"]


@pytest.mark.parametrize("limit", [10, 40, 1000])
def test_limit(limit, data):
    seen = []
    scores = evaluate(make(data), data, limit=limit, predictor=lambda x: seen.append(x) or data.labels[: len(x)])
    count = min(limit, 40)
    assert scores["images"] == count
    # Evenly spaced.
    torch.testing.assert_close(seen[0], data.images[:: 40 // count])


def test_bad_limits(data):
    for limit in (0, -3):
        with pytest.raises(ValueError, match=f"^limit: got {limit}; must be at least 1"):
            evaluate(make(data), data, limit=limit)


def test_untrained_pendulum_model(pendulum):
    run, data = pendulum
    scores = evaluate(run, data, limit=60)
    names = data.graph.names
    keys = [*names, *(f"{a}+{b}" for i, a in enumerate(names) for b in names[i + 1 :])]
    sections = (
        "images reconstruction_mse r2 representation graph calibration composition reversibility intervals directions summary"
    )
    assert set(scores) == {*sections.split(), "cf_score", "ceiling", "cf_r2"}
    assert list(scores["r2"]) == list(scores["reversibility"]) == list(scores["intervals"]["r2"]) == list(names)
    assert list(scores["intervals"]["cf_score"]) == list(scores["intervals"]["ceiling"]) == keys
    assert all(0 <= value <= 1 for value in scores["directions"].values())
    assert scores["composition"][0] > 0.01
    for part in ("cf_score", "ceiling", "cf_r2"):
        assert list(scores[part]) == keys
        assert all(math.isfinite(value) for value in scores[part].values())
    assert json.loads(json.dumps(scores)) == scores
    assert max(scores["cf_score"].values()) < 0.9


@pytest.mark.thorough
@pytest.mark.parametrize(("names", "absent"), [(("a", "b"), "children"), (("a",), "pairs")])
def test_worlds_without_children_or_pairs(names, absent, tmp_path):
    data = Stripes(edges=(), names=names)
    scores = evaluate(make(data), data)
    assert scores["summary"][f"cf_{absent}"] is None
    page = write_report(make(data), data, scores, [], tmp_path).read_text()
    for text in (score_table(scores), page):
        assert f"mean over {absent}" not in text
        assert "mean over roots" in text


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
SCORES = (
    {"a": 0.5, "b_c": -0.25, "a+b_c": -3.14},
    {"a": [0.25, 0.75], "b_c": [-0.5, 0.125], "a+b_c": [-4.0, -2.0]},
    {"a": 0.875, "b_c": 0.75, "a+b_c": 0.625},
)
FIGURES = {
    "graph": lambda run, data: plot_graph(run.graph, run.model.scm.adjacency, title="A graph"),
    "history": lambda run, data: plot_history(History(HISTORY)),
    "reconstructions": lambda run, data: plot_reconstructions(run, data.images, data.labels),
    "counterfactuals": lambda run, data: plot_counterfactuals(run, data, index=3, steps=5),
    "comparison": lambda run, data: plot_comparison([("factual", data.images[:4]), ("model", data.images[4:6])]),
    "concepts": lambda run, data: plot_concepts(run, data.images, data.labels, data.units),
    "matrix": lambda run, data: plot_matrix({"MIC": [[1.0, 0.25], [0.5, 0.875]], "TIC": torch.eye(2)}, ["a", "b_c"]),
    "scores": lambda run, data: plot_scores(*SCORES),
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
        assert {(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes} == {("epoch", "nats per image")}
        assert figure.axes[1].lines[0].get_xydata().tolist() == [[1, 2], [2, 1]]
    # What is held out lies in the panel of its term.
    both = [{**row, "validation_loss": 7.0 + row["epoch"]} for row in HISTORY]
    axes = plot_history(both).axes
    assert [panel.get_title() for panel in axes] == ["loss", "KL z"]
    assert [line.get_label() for line in axes[0].lines] == ["training", "validation"]
    assert axes[0].lines[1].get_xydata()[:, 1].tolist() == [row["validation_loss"] for row in both]
    assert axes[0].get_legend() is not None
    assert axes[1].get_legend() is None
    # Terms are kept as they are before their weights, and a price is nothing in nats.
    figure = plot_history([{"epoch": 1, "loss": 3.0, "effect_sparsity": 0.5}])
    assert [axes.get_ylabel() for axes in figure.axes] == ["nats per image", "per image, unweighted"]


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
    assert {"do(a)\n(A)\nmodel", "do(b)\n(B)\nmodel", "true", "factual"} <= set(texts(figure))
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
    assert [axes.get_xlabel() for axes in figure.axes] == ["label: a (A)", "label: b (B)"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["read: a (A)", "read: b (B)"]
    for column, axes in enumerate(figure.axes):
        label, read = axes.collections[0].get_offsets().T
        np.testing.assert_allclose(label, data.labels[:, column])
        np.testing.assert_allclose(read, data.labels[:, column], atol=1e-3)


def test_counterfactual_figure_hands_the_guide_its_labels(data):
    for world in (data, Reordered(data, [1, 0])):
        rows = images_in(plot_counterfactuals(make(data, guide=Clerk), world, index=3, steps=5, labels_for_guide=True))
        for model, true in zip(rows[::2], rows[1::2], strict=True):
            np.testing.assert_allclose(np.stack(model[1:]), np.stack(true[1:]), atol=1e-5)


def test_matrix_figure(data):
    figure = FIGURES["matrix"](make(data), data)
    for axes, title, table in zip(figure.axes, ("MIC", "TIC"), ([[1, 0.25], [0.5, 0.875]], [[1, 0], [0, 1]]), strict=True):
        assert axes.get_title() == title
        assert axes.get_xlabel() == "label"
        for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
            assert [text.get_text() for text in ticks] == ["a", "b c"]
        (image,) = axes.get_images()
        np.testing.assert_array_equal(image.get_array(), table)
        assert image.get_clim() == (0, 1)
        # The number in every cell, dark on bright and bright on dark.
        written = {text.get_position(): text for text in axes.texts}
        assert len(written) == 4
        for (x, y), text in written.items():
            assert text.get_text() == f"{table[y][x]:.2f}"
            ground = image.to_rgba(image.get_array())[y, x, :3].mean()
            assert abs(ground - {"white": 1, "black": 0}[text.get_color()]) > 0.4
    assert {axes.get_ylabel() for axes in figure.axes} == {"concept read from the image"}


def lines_in(axes):
    """Segments of the horizontal intervals: height to both ends."""
    segments = [segment for lines in axes.collections if isinstance(lines, LineCollection) for segment in lines.get_segments()]
    return {round(float(y)): [float(x), float(end)] for (x, y), (end, _) in segments}


def test_score_figure():
    scores, intervals, ceiling = SCORES
    axes = plot_scores(scores, intervals, ceiling).axes[0]
    # From the top in the order given, and cut at -1 with the number beside it.
    heights = [round(bar.get_y() + bar.get_height() / 2) for bar in axes.patches]
    assert heights == [2, 1, 0]
    assert [bar.get_width() for bar in axes.patches] == [0.5, -0.25, -1.0]
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == [colour.lower() for colour in (BLUE, VERMILION, VERMILION)]
    assert dict(zip(axes.get_yticks(), [text.get_text() for text in axes.get_yticklabels()], strict=True)) == {
        2: "do(a)",
        1: "do(b c)",
        0: "do(a, b c)",
    }
    (number,) = axes.texts
    assert (number.get_text(), number.get_position()[1]) == ("-3.1", 0)
    assert lines_in(axes) == {2: [0.25, 0.75], 1: [-0.5, 0.125]}
    marks = next(line for line in axes.lines if line.get_label() == "ceiling")
    assert marks.get_xydata().tolist() == [[0.875, 2], [0.75, 1], [0.625, 0]]
    assert axes.get_xlim() == pytest.approx((-1.02, 1.03))


@pytest.mark.parametrize("bare", [(None, None), ({}, {})], ids=["none", "empty"])
def test_score_figure_without_intervals_and_ceilings(bare):
    figure = plot_scores(SCORES[0], *bare)
    assert not figure.legends
    assert len(figure.axes[0].lines) == 1
    assert lines_in(figure.axes[0]) == {}
    assert plot_scores(*SCORES).legends


def test_score_figure_shows_whole_intervals_and_those_it_has():
    scores = {"a": 0.5, "b": 0.25, "c": 0.125}
    # Ends on one side of the score, as bias-corrected intervals may have them.
    axes = plot_scores(scores, {"a": [-0.75, 0.625], "c": [0.25, 0.375]}).axes[0]
    assert lines_in(axes) == {2: [-0.75, 0.625], 0: [0.25, 0.375]}
    assert axes.get_xlim()[0] == pytest.approx(-0.77)
    assert plot_scores(scores).axes[0].get_xlim()[0] == pytest.approx(-0.07)
    assert plot_scores(scores, None, {"a": 0.5, "b": -0.25, "c": 1.0}).axes[0].get_xlim()[0] == pytest.approx(-0.27)
    # Nothing is shown below -1.
    assert plot_scores({"a": -5.0}, {"a": [-7.0, -3.0]}, {"a": -2.0}).axes[0].get_xlim()[0] == pytest.approx(-1.02)
    assert plot_scores({"a": -0.5}, {"a": [-3.0, 0.0]}).axes[0].get_xlim()[0] == pytest.approx(-1.02)


# The report ----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page shows: tables under their headings, rows of cells; and the alternative texts of its pictures."""

    def __init__(self, text):
        super().__init__()
        self.headings, self.tables, self.alts, self._inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._inside = tag
        if tag in ("h2", "h3"):
            self.headings.append("")
        if tag == "table":
            self.tables.append((self.headings[-1], []))
        if tag == "tr":
            self.tables[-1][1].append([])
        if tag in ("td", "th"):
            self.tables[-1][1][-1].append("")
        if tag == "img":
            assert {name for name, _ in attributes} == {"alt", "src"}
            self.alts.append(dict(attributes)["alt"])

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, text):
        if self._inside in ("h2", "h3"):
            self.headings[-1] += text
        if self._inside in ("td", "th"):
            self.tables[-1][1][-1][-1] += text


ALTS = {
    "counterfactuals.png": "Counterfactuals",
    "concepts.png": "Concepts read from test images",
    "coverage.png": "Calibration",
    "reconstructions.png": "Reconstructions",
    "effects.png": "What each concept does",
    "graph.png": "Causal graph",
    "program.png": "The model as a program",
    "true_graph.png": "The data's graph",
    "scores.png": "Counterfactual scores",
    "information.png": "Information",
    "training.png": "Training",
}


def check_report(run, data, scores, history, directory, absent):
    """The report shows every table, and all the pictures but those."""
    page = write_report(run, data, scores, history, directory)
    pictures = set(ALTS) - set(absent)
    assert {path.name for path in page.parent.iterdir()} == {"report.html", "metrics.json"} | pictures
    # With a digest of the weights that they are of.
    assert json.loads((page.parent / "metrics.json").read_text()) == {"weights": weights_digest(run), **scores}
    text = page.read_text()
    shown = Page(text)
    assert sorted(shown.alts) == sorted(ALTS[name] for name in pictures)
    assert set(shown.alts) <= set(shown.headings)
    assert shown.tables == [(section.title, [section.columns, *section.rows]) for section in score_sections(scores)]
    for name in pictures:
        picture = matplotlib.image.imread(page.parent / name)
        assert picture[..., :3].std() > 0.02
    return text


@pytest.mark.thorough
@pytest.mark.parametrize("history", [HISTORY, []], ids=["history", "no history"])
def test_report(history, data, tmp_path):
    run = make(data)
    scores = evaluate(run, data)
    directory = tmp_path / "new" / "run"
    text = check_report(run, data, scores, history, directory, ["true_graph.png"] + ["training.png"] * (not history))
    sources = re.findall(r"(?:src|href)\s*=\s*['\"]?([^'\" >]{0,40})", text)
    assert len(sources) == len(list(directory.glob("*.png")))
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in sources)
    assert not re.search(r"https?:|<script|<link|@import|url\(", text)
    assert "&lt;b&gt;mine" in text
    assert "<b>mine" not in text
    for words in ("do(a, b)", "a → b", "<td>mean over single concepts</td><td>1.000</td>"):
        assert words in text
    # Written again, in place.
    write_report(run, data, scores, [], directory)
    assert not list(directory.glob("*.tmp"))


@pytest.mark.thorough
def test_report_of_another_graph_shows_both(data, tmp_path, monkeypatch):
    run = make(data, graph=CausalGraph(("a", "b"), [("b", "a")]), slope=0.0)
    drawn = []
    monkeypatch.setattr(
        plots, "plot_graph", lambda graph, *more, title: drawn.append((title, graph)) or plot_graph(graph, *more, title=title)
    )
    text = check_report(run, data, evaluate(run, data), HISTORY, tmp_path, [])
    assert "Edges: b → a." in text
    assert drawn == [("the run's graph", run.graph), ("the data's graph", data.graph)]


def test_report_without_the_truth(data, tmp_path):
    run, photos = make(data), Photos(data)
    absent = ["true_graph.png", "scores.png", "training.png"]
    assert "do(a)" not in check_report(run, photos, evaluate(run, photos), [], tmp_path, absent)


@pytest.mark.thorough
def test_report_of_few_images(data, tmp_path):
    scores = evaluate(make(data), data, limit=7)
    check_report(make(data), data, scores, [], tmp_path, ["true_graph.png", "information.png", "training.png"])


@pytest.mark.thorough
def test_report_hands_the_guide_its_labels(data, tmp_path, monkeypatch):
    shown = []
    original = plots.plot_concepts

    def spy(*arguments):
        figure = original(*arguments)
        # The report clears it when it is written.
        shown.append([(axes.get_xlabel(), np.asarray(axes.collections[0].get_offsets())) for axes in figure.axes])
        return figure

    monkeypatch.setattr(plots, "plot_concepts", spy)
    concepts = []
    sensitivity = LinearSCM.sensitivity
    monkeypatch.setattr(LinearSCM, "sensitivity", lambda scm, z: concepts.append(z) or sensitivity(scm, z))
    for world in (data, Reordered(data, [1, 0])):
        run = make(data, guide=Clerk)
        write_report(run, world, evaluate(run, world, limit=7, pairs=False), [], tmp_path)
        torch.testing.assert_close(concepts.pop()[..., 0], data.labels)
        # Another order is not another graph.
        assert not (tmp_path / "true_graph.png").exists()
    # The same, whatever the order of the data's labels.
    assert len(shown) == 2
    for panels in shown:
        assert [label for label, _ in panels] == ["label: a (A)", "label: b (B)"]
        for column, (_, points) in enumerate(panels):
            np.testing.assert_allclose(points, data.labels[:, [column, column]], atol=1e-5)


@pytest.mark.thorough
def test_pendulum_report(pendulum, tmp_path):
    run, data = pendulum
    write_report(run, data, evaluate(run, data, limit=60, pairs=False), [], tmp_path)
    assert "shadow_position" in (tmp_path / "report.html").read_text()


@pytest.mark.thorough
def test_a_report_leaves_no_figure_of_an_earlier_one(data, tmp_path):
    run = make(data)
    write_report(run, data, evaluate(run, data), [{"epoch": 1.0, "loss": 2.0}], tmp_path)
    assert {"scores.png", "training.png"} <= {path.name for path in tmp_path.iterdir()}
    photos = Photos(data)
    page = write_report(run, photos, evaluate(run, photos), [], tmp_path)
    assert not {"scores.png", "training.png", "true_graph.png"} & {path.name for path in tmp_path.iterdir()}
    assert "CF-score" not in page.read_text()


def test_without_the_axioms(data):
    scores = evaluate(make(data), data, axioms=False)
    assert "composition" not in scores
    assert "reversibility" not in scores
    whole = evaluate(make(data), data)
    assert scores["cf_score"] == whole["cf_score"]
    table = score_table(scores)
    assert "null intervention" not in table
    assert "undone" not in table
    assert "undone" in score_table(whole)


def test_minimality_is_that_of_the_metric(data):
    def features(images):
        return images.flatten(1)

    run, scores = make(data), evaluate(make(data), data, features=features)
    expected = {}
    for column, name in enumerate(data.graph.names):
        values = data.labels[torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(0)), column]
        after = counterfactual(run.model, run.guide, data.images, {name: values}).clamp(0, 1)
        expected[name] = minimality(features(data.images), features(after), data.labels[:, column].contiguous(), values)
    assert scores["minimality"] == pytest.approx(expected)
    assert f"{expected['a']:.3f}" in score_table(scores)
    assert "minimality" not in evaluate(make(data), data)


def test_effectiveness_knows_true_labels_without_true_images(data):
    """As for handwriting, whose thickness sets the brightness in closed form."""

    class LabelsOnly:
        images, labels, graph = data.images, data.labels, data.graph

        def counterfactual_labels(self, labels, do):
            return data.counterfactual(labels, do)[0]

    def judge(images):
        return (images[:, 0, 0, :: SIDE // 2] - 0.5) / GAIN

    # A model that knows no mechanism: its own labels are not the true ones.
    run = make(data, slope=0.0)
    told = evaluate(run, LabelsOnly(), predictor=judge)["effectiveness"]["do"]
    assert told["a"]["b"] == pytest.approx(evaluate(run, data, predictor=judge)["effectiveness"]["do"]["a"]["b"], rel=1e-4)
    assert told["a"]["b"] > 1
    assert told["a"]["a"] < 0.01


def test_images_that_are_all_alike(data):
    photos = Photos(data)
    photos.images = photos.images[:1].expand(len(photos.images), -1, -1, -1)
    assert evaluate(make(data, offset=0.1), photos, limit=7)["directions"]["reconstruction"] == 0
