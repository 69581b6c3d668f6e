"""The look of the figures: one style, colours for everyone, names and units on every axis, type that can be read in print."""

import ast
import importlib
import io
import itertools
import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import cbook
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from causalvae_pyro import CausalGraph, load, plots, save
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.evaluation import report
from causalvae_pyro.explore import Explorer
from causalvae_pyro.explore.picture import plot_answer
from causalvae_pyro.plots import style
from causalvae_pyro.recipes import Recipe
from tests import ROOT

UNITS = dict(zip(Pendulum.graph.names, Pendulum.units, strict=True))
# The published scenes, pixel by pixel; not figures for a reader.
SCENES = {"benchmarks/matplotlib_pendulum.py", "benchmarks/matplotlib_flow.py"}


class Some:
    """Some images of the simulator, as a data set that knows no units and no truth."""

    def __init__(self, data):
        self.graph, self.images, self.labels = data.graph, data.images[::40], data.labels[::40]


@pytest.fixture(scope="module")
def data():
    return Pendulum("test", size=16)


@pytest.fixture(scope="module")
def run(data):
    return Recipe().build(data.graph, data.images, data.labels, {"units": UNITS})


HISTORY = [
    {"epoch": e, "step": e, "seconds": 1, "images_per_second": 9, "lr": 1, "loss": 30 / e, "reconstruction": 20 / e}
    | {"kl_z": 0.1**e, "label_fit": 4 / e}
    for e in (1, 2, 3)
]
SCORES = {"pendulum": 0.5, "shadow_length": -0.25, "pendulum+shadow_length": -3.14}


def answer(run, data):
    explorer = Explorer(run, data)
    factual = explorer.test_image(3)
    return plot_answer(explorer, factual, explorer.answer(factual, {"light": 12.0}, uncertainty=True))


def script(folder, name, *results):
    """The figure that a script of the project draws from committed results."""

    def draw(run, data):
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(ROOT / folder))
            module = importlib.import_module(name)
            read = [json.loads((ROOT / "benchmarks" / "results" / f"{result}.json").read_text()) for result in results]
            drawn = []
            patch.setattr(module, "save_figure", lambda figure, path: drawn.append(figure))
            return SCRIPTS[name](module, *read) or drawn[0]

    return draw


SCRIPTS = {
    "metrics": lambda module, result: module.draw(result),
    "label_efficiency": lambda module, result: module.draw(result, Path("unused")),
    "throughput": lambda module, two, gpu: module.draw({"2 threads": two, gpu["hardware"]["gpu"]: gpu}, Path("unused")),
    "table1_tables": lambda module: module.draw(module.load(), Path("unused")),
    "discover_graph": lambda module: module.draw([torch.rand(4, 4)] * 5, [torch.rand(4, 4)] * 3, Pendulum.graph, Pendulum.graph),
}
FIGURES = {
    "plot_graph": lambda run, data: plots.plot_graph(run.graph, run.model.scm.adjacency, title="the graph"),
    "plot_history": lambda run, data: plots.plot_history(HISTORY),
    "plot_reconstructions": lambda run, data: plots.plot_reconstructions(run, data.images, data.labels, count=4),
    "plot_counterfactuals": lambda run, data: plots.plot_counterfactuals(run, data, index=3, steps=4),
    "plot_comparison": lambda run, data: plots.plot_comparison([("factual", data.images[:8] / 255)]),
    "plot_concepts": lambda run, data: plots.plot_concepts(run, data.images[:40], data.labels[:40]),
    "plot_effects": lambda run, data: plots.plot_effects(run, data.images, count=8),
    "plot_matrix": lambda run, data: plots.plot_matrix({"MIC": torch.eye(4), "TIC": torch.eye(4)}, data.graph.names),
    "plot_scores": lambda run, data: plots.plot_scores(SCORES, {"pendulum": [0.25, 0.75]}, dict.fromkeys(SCORES, 0.9)),
    "plot_model": lambda run, data: plots.plot_model(run.model, data.images[:1], data.labels[:1]),
    "plot_coverage": lambda run, data: plots.plot_coverage(
        [0.5, 0.95], {key: [0.4, None] for key in "abcd"}, {key: [0.0, 1.0] for key in "abcd"}
    ),
    "plot_answer": answer,
    "mic_cost.png": script("benchmarks", "metrics", "metrics"),
    "label_efficiency.png": script("benchmarks", "label_efficiency", "label_efficiency"),
    "cost.png": script("benchmarks", "throughput", "throughput", "throughput_gpu"),
    "table1.png": script("benchmarks", "table1_tables"),
    "discovery.png": script("examples", "discover_graph"),
}
#: Panels with numbers on their axes; the other figures have pictures, graphs and words alone.
WITH_AXES = {
    "plot_history": 4,
    "plot_concepts": 4,
    "plot_matrix": 2,
    "plot_scores": 1,
    "plot_coverage": 4,
    "mic_cost.png": 1,
    "label_efficiency.png": 1,
    "cost.png": 2,
    "table1.png": 4,
    "discovery.png": 8,
}


@pytest.fixture(scope="module")
def figures(run, data):
    """Each figure, drawn as a reader would who has never heard of the style."""
    drawn = {name: draw(run, data) for name, draw in FIGURES.items()}
    for figure in drawn.values():
        FigureCanvasAgg(figure).draw()
    return drawn


def words(figure):
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def test_every_plot_is_looked_at():
    assert {name for name in plots.__all__ if name.startswith("plot_")} | {"plot_answer"} <= set(FIGURES)


def has_data(axes):
    """Whether it shows numbers against its axes: lines, points, bars, or a matrix whose columns are named."""
    named = any(text.get_text() for text in axes.get_xticklabels())
    return bool(axes.axison and (axes.lines or axes.collections or axes.patches or (axes.images and named)))


@pytest.mark.parametrize("name", FIGURES)
def test_axes_have_names(name, figures):
    figure = figures[name]
    with_data = [axes for axes in figure.axes if has_data(axes) and axes.get_label() != "<colorbar>"]
    for axes in with_data:
        assert axes.get_xlabel(), name
        assert axes.get_ylabel(), name
    for axes in figure.axes:
        if axes.get_label() == "<colorbar>":
            assert axes.get_ylabel(), name
    assert len(with_data) == WITH_AXES.get(name, 0)


@pytest.mark.parametrize("name", FIGURES)
def test_type_can_be_read_in_print(name, figures):
    figure = figures[name]
    width = figure.get_size_inches()[0]
    # Wider than a page it would be shown smaller.
    shrunk = min(1.0, style.WIDTH / width)
    assert shrunk == 1.0
    for text in words(figure):
        assert text.get_fontsize() * shrunk >= style.MIN_FONT, text
    assert style.MIN_FONT >= 7
    assert figure.dpi >= 150


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off(name, figures):
    width, height = figures[name].get_size_inches()
    box = figures[name].get_tightbbox()  # in inches, of all that is drawn
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.005


def test_a_wide_graph_keeps_its_type_and_its_nodes_apart():
    graph = CausalGraph([f"concept_{i}" for i in range(6)])
    figure = plots.plot_graph(graph)
    assert figure.get_size_inches()[0] <= style.WIDTH
    FigureCanvasAgg(figure).draw()
    (nodes,) = (c for c in figure.axes[0].collections if len(c.get_offsets()) == 6)
    places = figure.axes[0].transData.transform(np.asarray(nodes.get_offsets()))
    assert np.diff(np.sort(places[:, 0])).min() / figure.dpi * 72 > np.sqrt(nodes.get_sizes()[0])


def test_many_concepts_stand_below_each_other():
    names = [f"c{i}" for i in range(12)]
    side, below = (plots.plot_matrix({"MIC": np.eye(n), "TIC": np.eye(n)}, names[:n]) for n in (4, 12))
    assert side.axes[0].get_subplotspec().get_gridspec().ncols == 2
    assert below.axes[0].get_subplotspec().get_gridspec().ncols == 1
    assert below.get_size_inches()[0] <= style.WIDTH


# Units ---------------------------------------------------------------------------------------------------------------


def test_units_of_the_data(data, figures):
    assert style.units_of(data) == UNITS
    assert style.units_of(Some(data)) == {}
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figures["plot_concepts"].axes]
    assert labels[0] == ("label: pendulum (rad)", "read: pendulum (rad)")
    assert labels[3] == ("label: shadow position (units)", "read: shadow position (units)")
    texts = {text.get_text() for text in words(figures["plot_counterfactuals"])}
    assert {"do(pendulum)\n(rad)\nmodel", "do(shadow length)\n(units)\nmodel"} <= texts
    assert figures["plot_answer"].subfigs[0].get_suptitle() == "do(light = 12.0 units) on test image 3"


def test_a_run_from_a_directory_knows_its_units(run, data, tmp_path):
    save(run, tmp_path)
    again = load(tmp_path)
    assert again.units == UNITS
    some = Some(data)
    axes = plots.plot_concepts(again, some.images, some.labels).axes[0]
    assert axes.get_xlabel() == "label: pendulum (rad)"
    assert "do(pendulum)\n(rad)\nmodel" in {t.get_text() for t in words(plots.plot_counterfactuals(again, some, steps=2))}
    assert [c.unit for c in Explorer(again, some).concepts] == list(Pendulum.units)
    # What is handed over wins.
    axes = plots.plot_concepts(again, some.images, some.labels, ["degrees"] * 4).axes[0]
    assert axes.get_xlabel() == "label: pendulum (degrees)"


@pytest.mark.parametrize("units", [None, "rad", ["rad"], {"pendulum": 3, "someone": "px", "light": ""}])
def test_a_run_without_units_loads_and_draws(units, run, data, tmp_path):
    save(run, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("units")
    (tmp_path / "config.json").write_text(json.dumps(config if units is None else config | {"units": units}))
    older = load(tmp_path)
    assert older.units == {}
    some = Some(data)
    assert plots.plot_concepts(older, some.images, some.labels).axes[0].get_xlabel() == "label: pendulum"
    texts = {t.get_text() for t in words(plots.plot_counterfactuals(older, some, steps=2))}
    assert "do(pendulum)\nmodel" in texts


def test_the_reports_pictures_have_units_and_dots_enough(run, data, tmp_path, monkeypatch):
    seen = {}

    def spy(name, draw):
        def drawn(*arguments, **options):
            figure = draw(*arguments, **options)
            # The report clears it when it is written.
            seen[name] = [axes.get_xlabel() for axes in figure.axes], {text.get_text() for text in words(figure)}
            seen[f"width of {name}"] = int(figure.get_size_inches()[0] * 200)
            return figure

        monkeypatch.setattr(plots, name, drawn)

    for name in ("plot_concepts", "plot_counterfactuals"):
        spy(name, getattr(plots, name))
    some = Some(data)
    # The scores have tests of their own.
    monkeypatch.setattr(report, "score_sections", lambda metrics: [])
    report.write_report(run, some, {}, [], tmp_path)
    assert seen["plot_concepts"][0][1] == "label: light (units)"
    assert "do(pendulum)\n(rad)\nmodel" in seen["plot_counterfactuals"][1]
    height, width, _ = matplotlib.image.imread(tmp_path / "counterfactuals.png").shape
    assert width == seen["width of plot_counterfactuals"]


def test_interventions_in_words():
    assert style.do_label({"shadow_length": 5}, UNITS) == "do(shadow length = 5 units)"
    assert style.do_label({"pendulum": 0.25, "light": torch.ones(3)}, UNITS) == "do(pendulum = 0.25 rad, light)"
    assert style.do_label({"pendulum": -0.61287}) == "do(pendulum = -0.613)"
    assert style.axis_label("shadow_length") == "shadow length"


# Colours -------------------------------------------------------------------------------------------------------------


def differences(colours, kind):
    """CAM02-UCS distances between all pairs as seen with full deuteranopia, protanopia or tritanopia, or without."""
    colorspacious = pytest.importorskip("colorspacious", reason="needs the extra test")
    seen = np.array([to_rgb(colour) for colour in colours])
    if kind:
        space = {"name": "sRGB1+CVD", "cvd_type": kind, "severity": 100}
        seen = np.clip(colorspacious.cspace_convert(seen, space, "sRGB1"), 0, 1)
    return [colorspacious.deltaE(a, b, input_space="sRGB1") for a, b in itertools.combinations(seen, 2)]


@pytest.mark.parametrize("kind", [None, "deuteranomaly", "protanomaly", "tritanomaly"])
def test_colours_of_lines_can_be_told_apart(kind):
    colours = [look["color"] for look in style.STYLE["axes.prop_cycle"]]
    assert colours == list(style.PALETTE)
    # Just noticeable is 1; these are apart at a glance. The first four, which most figures do with, by more.
    assert min(differences(colours, kind)) >= 10
    assert min(differences(colours[:4], kind)) >= 15


def test_lines_differ_in_more_than_colour():
    looks = list(style.STYLE["axes.prop_cycle"])
    assert len({look["marker"] for look in looks}) == len({str(look["linestyle"]) for look in looks}) == len(looks)
    figure, grid = style.subplots(height=2)
    lines = [grid[0, 0].plot([0, 1], [i, i])[0] for i in range(len(looks))]
    assert [to_hex(line.get_color()).upper() for line in lines] == list(style.PALETTE)


@pytest.mark.parametrize("kind", [None, "deuteranomaly", "protanomaly", "tritanomaly"])
def test_the_colour_map_gets_brighter_in_even_steps(kind):
    colorspacious = pytest.importorskip("colorspacious", reason="needs the extra test")
    colours = matplotlib.colormaps[style.SEQUENTIAL](np.linspace(0, 1, 16))[:, :3]
    if kind:
        space = {"name": "sRGB1+CVD", "cvd_type": kind, "severity": 100}
        colours = np.clip(colorspacious.cspace_convert(colours, space, "sRGB1"), 0, 1)
    lightness = colorspacious.cspace_convert(colours, "sRGB1", "CAM02-UCS")[:, 0]
    assert np.all(np.diff(lightness) > 1)


# One style everywhere ------------------------------------------------------------------------------------------------


def python_files():
    folders = ("causalvae_pyro", "benchmarks", "examples", "docs")
    # Without what building the docs has left there.
    written = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return [path for path in written if "auto_gallery" not in path.parts]


def names_of(path):
    """Modules and names that a file imports, and the strings and attributes in it."""
    imports, attributes, strings = set(), set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            imports |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            attributes.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.add(node.value)
    return imports, attributes, strings


def test_whoever_draws_goes_through_the_style():
    drawing = []
    for path in python_files():
        name = str(path.relative_to(ROOT))
        imports, attributes, strings = names_of(path)
        if name in SCENES or name == "causalvae_pyro/plots/style.py":
            continue
        # Figures belong to no screen, so that nothing here needs pyplot.
        assert not any("pyplot" in module for module in imports), name
        assert "rc_context" not in attributes | {module.rpartition(".")[2] for module in imports}, name
        # Colours have their names in the style alone.
        assert not {text.upper() for text in strings} & {*style.PALETTE, style.GREY}, name
        if "matplotlib.figure.Figure" in imports or attributes & {"subplots", "imshow", "errorbar", "barh", "savefig"}:
            drawing.append(name)
            styled = {module for module in imports if module.startswith("causalvae_pyro.plots.")}
            assert styled & {
                f"causalvae_pyro.plots.{at}{way}" for at in ("", "style.") for way in ("figure_style", "save_figure")
            }, name
    assert {
        "causalvae_pyro/plots/charts.py",
        "causalvae_pyro/plots/graphs.py",
        "causalvae_pyro/plots/images.py",
        "causalvae_pyro/explore/picture.py",
        "benchmarks/table1_tables.py",
    } <= set(drawing)
    assert len(drawing) >= 10


def test_figures_are_the_same_whatever_was_set_before(run, data):
    plain = plots.plot_scores(SCORES)
    with matplotlib.rc_context({"font.size": 20, "figure.dpi": 50, "axes.labelsize": 30, "xtick.labelsize": 30}):
        other = plots.plot_scores(SCORES)
        FigureCanvasAgg(other).draw()
    FigureCanvasAgg(plain).draw()
    assert [text.get_fontsize() for text in words(plain)] == [text.get_fontsize() for text in words(other)]
    assert plain.dpi == other.dpi


def test_pictures_are_written_in_the_format_of_their_name(tmp_path):
    figure, grid = style.subplots(height=2)
    assert isinstance(figure, Figure)
    grid[0, 0].plot([0, 1], [0, 1])
    grid[0, 0].set_xlabel("pendulum (rad)")
    for name, start in (("a/b.png", b"\x89PNG"), ("a/b.pdf", b"%PDF"), ("a/plain", b"\x89PNG")):
        style.save_figure(figure, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    style.save_figure(figure, tmp_path / "a" / "b.svg")
    # Words stay words in a vector file.
    assert "pendulum (rad)</text>" in (tmp_path / "a" / "b.svg").read_text()
    assert b"/Type3" not in (tmp_path / "a" / "b.pdf").read_bytes()
    with pytest.raises(ValueError, match="xyz"):
        style.save_figure(figure, tmp_path / "new" / "b.xyz")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["b.pdf", "b.png", "b.svg", "plain"]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("unit", ["$", "US$", r"$\foo$", "$x_$", "50%", "<b>", "m\u00b2", "\n"])
def test_units_are_shown_as_they_are(unit):
    """A pair of dollar signs is mathematics to matplotlib, which may even fail to parse it."""
    figure, grid = style.subplots(width=4, height=3)
    axes = grid[0, 0]
    axes.set_title(style.do_label({"light": 12.0, "dark": 1.0}, {"light": unit, "dark": unit}))
    axes.set_xlabel(style.axis_label("light", unit) + style.value_label(3.0, unit))
    figure.savefig(io.BytesIO())
    shown = axes.title.get_text().replace(r"\$", "$")
    assert " ".join(unit.split()) in shown
    assert not [part for part in (axes.title, axes.xaxis.label) if cbook.is_math_text(part.get_text())]
