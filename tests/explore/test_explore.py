"""Exploring a run: the answers, their picture and lines of Python, the server; the page itself is in test_explore_page.py."""

import gc
import http.client
import io
import json
import re
import socket
import struct
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgba
from matplotlib.image import AxesImage
from PIL import Image

from causalvae_pyro import CausalGraph, counterfactual, load, save
from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.cli.main import main
from causalvae_pyro.datasets import Flow, Pendulum
from causalvae_pyro.explore import Concept, Explorer, read_image, sweep_concept
from causalvae_pyro.explore import session as session_module
from causalvae_pyro.explore.picture import plot_answer
from causalvae_pyro.explore.server import Server
from causalvae_pyro.explore.session import Session, encode_png
from causalvae_pyro.explore.snippet import python_lines
from causalvae_pyro.likelihoods import BernoulliLikelihood
from causalvae_pyro.plots import draw_graph, plot_graph
from causalvae_pyro.plots.style import ORANGE, SKY
from causalvae_pyro.recipes import Recipe, fit_mechanisms
from tests import ROOT
from tests.builders import Small, check_one_line, raises

NAMES = ("pendulum", "light", "shadow_length", "shadow_position")


def make_run(data, name, graph=None, order=None):
    """A run with mechanisms and no training: it answers in one way and no other, which is all that matters here."""
    torch.manual_seed(0)
    order = list(range(len(data.graph))) if order is None else order
    recipe = Recipe(decoder="conv", prior_std=0.05)
    run = recipe.build(graph or data.graph, data.images, data.labels[:, order], {"data": {"name": name, "size": 16}})
    fit_mechanisms(run.model, data.labels[:, order], steps=100)
    return Run(run.model.eval(), run.guide.eval(), run.config)


@pytest.fixture(scope="module")
def data():
    return Small("test", size=16)


@pytest.fixture(scope="module")
def explorer(data):
    return Explorer(make_run(data, "pendulum"), data)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run on the disk, of the whole data set, which a program of its own opens."""
    path = tmp_path_factory.mktemp("runs") / "a 'run'"
    save(make_run(Pendulum("test", size=16), "pendulum"), path)
    return path


# Answers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("do", [{}, {"light": 12.0}, {"shadow_length": 5.0, "pendulum": -0.2}], ids=str)
def test_an_answer_is_the_counterfactual(do, explorer, data):
    factual = explorer.test_image(7)
    answer = explorer.answer(factual, do)
    x, labels = data.images[[7]], data.labels[[7]]
    image, z = counterfactual(explorer.run.model, explorer.run.guide, x, do, labels, return_latents=True)
    torch.testing.assert_close(answer.image, image[0])
    values = explorer.run.model.prior.to_labels(z)[0]
    assert list(answer.concepts) == list(NAMES)
    torch.testing.assert_close(torch.tensor(list(answer.concepts.values())), values)
    true_labels, true = data.counterfactual(labels, do)
    torch.testing.assert_close(answer.true_image, true[0])
    assert list(answer.true_concepts.values()) == pytest.approx(true_labels[0].tolist())
    assert answer.uncertainty is None
    if not do:
        torch.testing.assert_close(factual.reconstruction, answer.image)
        assert factual.concepts == answer.concepts


def test_only_descendants_move(explorer):
    factual = explorer.test_image(7)
    shadows = ("shadow_length", "shadow_position")
    assert explorer.answer(factual, {}).moved == ()
    assert explorer.answer(factual, {"light": 3.0}).moved == shadows
    assert explorer.answer(factual, {"shadow_length": 9.0}).moved == ()
    assert explorer.answer(factual, {"light": 3.0, "shadow_length": 9.0}).moved == shadows[1:]
    # Setting a concept to what it is anyway moves nothing.
    assert explorer.answer(factual, {"light": factual.concepts["light"]}).moved == ()


def test_abduction_is_done_once_for_an_image(explorer, monkeypatch):
    factual = explorer.test_image(3)
    calls = []
    forward = type(explorer.run.guide).forward
    monkeypatch.setattr(type(explorer.run.guide), "forward", lambda *args: calls.append(1) or forward(*args))
    for light in (2.0, 3.0, 4.0):
        explorer.answer(factual, {"light": light})
    assert not calls
    for light in (2.0, 3.0, 4.0):
        explorer.answer(factual, {"light": light}, uncertainty=True)
    assert len(calls) == 1


def test_uncertainty_is_that_of_posterior_samples(explorer, data):
    factual, do = explorer.test_image(5), {"light": 12.0}
    state = torch.get_rng_state()
    found = explorer.answer(factual, do, uncertainty=True).uncertainty
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(explorer.seed)
    x, labels = data.images[[5]], data.labels[[5]]
    given = (explorer.run.model, explorer.run.guide, x, do, labels)
    samples, z = counterfactual(*given, num_samples=explorer.samples, return_latents=True)
    torch.testing.assert_close(found.image, samples[:, 0].var(0).mean(0).sqrt())
    values = explorer.run.model.prior.to_labels(z)[:, 0]
    torch.testing.assert_close(torch.tensor(list(found.concepts.values())), values.std(0))
    assert found.concepts["light"] == pytest.approx(0.0, abs=1e-5)
    assert found.concepts["pendulum"] > 0.01


def test_a_run_with_its_concepts_in_another_order(data):
    order = [2, 0, 3, 1]
    graph = CausalGraph([NAMES[i] for i in order], data.graph.edges)
    explorer = Explorer(make_run(data, "pendulum", graph, order), data)
    assert [concept.name for concept in explorer.concepts] == list(graph.names)
    assert [concept.unit for concept in explorer.concepts] == ["units", "rad", "units", "units"]
    answer = explorer.answer(explorer.test_image(4), {"light": 12.0})
    assert answer.concepts["light"] == pytest.approx(12.0, abs=1e-4)
    true = data.counterfactual(data.labels[[4]], {"light": 12.0})[0][0]
    assert [answer.true_concepts[name] for name in NAMES] == pytest.approx(true.tolist())
    row = Session(explorer, "run").answer({"image": 4})["concepts"][graph.index("light")]
    assert row["label"] == pytest.approx(data.labels[4, 1].item())


def test_what_is_unknown_is_left_out(explorer, data):
    class Plain:
        images, labels, graph = data.images, data.labels, data.graph

    class Opaque(torch.nn.Module):
        forward = staticmethod(explorer.run.model.prior.forward)

    plain = Explorer(explorer.run, Plain)
    answer = plain.answer(plain.test_image(0), {"light": 12.0})
    assert (answer.true_image, answer.true_concepts, plain.concept("light").unit) == (None, None, "")
    run = make_run(data, "pendulum")
    run.model.prior = Opaque()
    opaque = Explorer(run, data)
    answer = opaque.answer(opaque.test_image(0), {"light": 12.0}, uncertainty=True)
    assert (answer.concepts, answer.moved, answer.uncertainty.concepts) == ({}, (), {})
    reply = Session(opaque, "run").answer({"image": 0, "do": {"light": 12.0}, "uncertainty": True})
    assert [row.keys() for row in reply["concepts"]] == [{"label", "true"}] * 4
    assert plot_answer(opaque, opaque.test_image(0), answer).axes


@pytest.mark.parametrize(
    ("low", "high", "step", "ends", "beyond"),
    [
        (-0.628, 0.675, 0.005, (-0.63, 0.675), (-0.89, 0.94)),
        (0.9, 17.27, 0.1, (0.9, 17.3), (-2.4, 20.6)),
        (0.0, 1.0, 0.005, (0.0, 1.0), (-0.2, 1.2)),
        (1000.0, 51000.0, 200.0, (1000.0, 51000.0), (-9000.0, 61000.0)),
    ],
)
def test_sliders_go_in_round_steps_over_the_data(low, high, step, ends, beyond):
    concept = Concept("size", "m", low, high)
    assert concept.step == pytest.approx(step)
    assert concept.ends() == pytest.approx(ends)
    reached = concept.ends(beyond=True)
    assert reached == pytest.approx(beyond, abs=1.01 * step)
    assert reached[0] <= low - 0.2 * (high - low) + 1e-9
    assert reached[1] >= high + 0.2 * (high - low) - 1e-9
    assert concept.describe(low).endswith(" m")


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda e, d: Explorer(e.run, d, samples=1), "samples: got 1; a standard deviation takes at least 2"),
        (lambda e, d: Explorer(e.run, Flow("test", size=16)), "data: has the concepts ['ball_size'"),
        (lambda e, d: Explorer(e.run, Still(d)), "data: the label of 'light' does not vary"),
        (lambda e, d: e.test_image(-1), "index: got -1; the test images are 0 to 49"),
        (lambda e, d: e.test_image(50), "index: got 50"),
        (lambda e, d: e.own_image(torch.zeros(3, 8, 8), "a.png"), r"image: expected shape [3, 16, 16], got [3, 8, 8]"),
        (lambda e, d: e.answer(e.test_image(0), {"sun": 1.0}), "do: unknown concept 'sun'"),
        (lambda e, d: e.answer(e.test_image(0), {"light": float("nan")}), "do['light']: got a value that is not finite"),
    ],
)
def test_bad_questions(act, words, explorer, data):
    with pytest.raises(ValueError, match=re.escape(words)):
        act(explorer, data)


class Still:
    def __init__(self, data):
        self.images, self.graph = data.images, data.graph
        self.labels = data.labels.clone()
        self.labels[:, 1] = 3.0


# Images of one's own -------------------------------------------------------------------------------------------------


def png(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "png", **options)
    return buffer.getvalue()


def test_an_image_of_ones_own_is_as_good_as_a_test_image(explorer, data):
    content = encode_png(data.images[9] / 255)
    image = read_image(content, (3, 16, 16))
    torch.testing.assert_close(image, data.images[9] / 255)
    own, test = explorer.own_image(image, "my.png"), explorer.test_image(9)
    answer = explorer.answer(own, {"light": 12.0})
    torch.testing.assert_close(answer.image, explorer.answer(test, {"light": 12.0}).image)
    assert (own.labels, answer.true_image, answer.true_concepts) == (None, None, None)


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_a_face_is_turned_so_that_its_eyes_lie_where_they_shall(scale):
    def picture(x, y):
        """Of smooth waves, and its left upper quarter brighter."""
        return 0.5 + 0.2 * np.sin(9 * x) * np.cos(7 * y) + 0.2 * np.exp(-20 * ((x - 0.3) ** 2 + (y - 0.3) ** 2))

    # From places in the 32 pixels of the result, in shares, to pixels of the file.
    turn, shift = 32 * scale * np.exp(0.4j), complex(40 * scale, 30 * scale)
    places = ((0.35, 0.52), (0.65, 0.52))
    eyes = tuple(((p := turn * complex(*place) + shift).real, p.imag) for place in places)
    grid = np.arange(round(90 * scale)) + 0.5
    inside = (grid[None, :] + 1j * grid[:, None] - shift) / turn
    file = png(Image.fromarray(np.rint(255 * picture(inside.real, inside.imag)).astype(np.uint8)))
    own = (np.arange(32) + 0.5) / 32
    expected = torch.as_tensor(picture(own[None, :], own[:, None]))[None].float()
    torch.testing.assert_close(read_image(file, (1, 32, 32), points=(eyes, places)), expected, rtol=0, atol=0.02)
    assert (read_image(file, (1, 32, 32)) - expected).abs().max() > 0.1
    # Beyond the file lie its outermost pixels.
    corner = ((0.0, 0.0), (16.0 * scale, 0.0))
    image = read_image(file, (1, 32, 32), points=(corner, ((0.5, 0.5), (1.0, 0.5))))
    torch.testing.assert_close(image[:, :14, :14], image[:, :1, :1].expand(1, 14, 14), rtol=0, atol=0.01)


def test_a_small_face_in_a_large_picture_takes_no_more_than_the_picture():
    file = png(Image.new("RGB", (3000, 2000), "red"))
    tracemalloc.start()
    image = read_image(file, (3, 64, 64), points=(((1500, 900), (1510, 900)), ((0.35, 0.5), (0.65, 0.5))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    torch.testing.assert_close(image, torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 64, 64))
    assert peak < 3 * 3000 * 2000 * 3


def test_errors_of_the_eyes():
    file, places = png(Image.new("RGB", (60, 40))), ((0.35, 0.5), (0.65, 0.5))
    for eyes, part in (
        (((70, 5), (20, 5)), "is 60 x 40: no image of both points"),
        (((5, 5), (6, 5)), "less than two pixels apart"),
    ):
        with raises("image", part) as error:
            read_image(file, (3, 16, 16), points=(eyes, places))
        check_one_line(error)


def test_images_are_made_to_fit():
    wide = Image.new("RGB", (60, 40), "red")
    wide.paste("blue", (10, 0, 50, 40))
    image = read_image(png(wide), (3, 16, 16))
    assert image.shape == (3, 16, 16)
    # The middle, but for what the edges mix.
    torch.testing.assert_close(image[..., 1:-1], torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand(3, 16, 14))
    assert read_image(png(wide), (1, 32, 16)).shape == (1, 32, 16)
    assert read_image(png(Image.new("P", (20, 20))), (4, 16, 16)).shape == (4, 16, 16)
    # 16 bits are scaled, not cut off.
    deep = Image.fromarray(np.full((16, 16), 32896, dtype=np.uint16))
    torch.testing.assert_close(read_image(png(deep), (1, 16, 16)), torch.full((1, 16, 16), 128 / 255))


def test_bad_images(tmp_path, monkeypatch):
    shape = (3, 16, 16)
    with pytest.raises(FileNotFoundError, match="none.png does not exist"):
        read_image(tmp_path / "none.png", shape)
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match=r"a\.png is no image that can be decoded$"):
        read_image(tmp_path / "a.png", shape)
    whole = png(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)))
    with pytest.raises(ValueError, match="no image that can be decoded"):
        read_image(whole[:2000], shape)
    with pytest.raises(ValueError, match="the image is 7 x 20; needs at least 8"):
        read_image(png(Image.new("RGB", (7, 20))), shape)
    with pytest.raises(ValueError, match="1, 3 or 4 channels"):
        read_image(whole, (2, 16, 16))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="more than 100 pixels, which is not safe to decode"):
        read_image(whole, shape)


# Picture and program ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uncertainty", [False, True])
def test_the_picture_shows_all_of_it(uncertainty, explorer):
    factual = explorer.test_image(7)
    answer = explorer.answer(factual, {"light": 3.0}, uncertainty=uncertainty)
    figure = plot_answer(explorer, factual, answer)
    figure.canvas.draw()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:4] == ["image", "reconstruction", "counterfactual", "true counterfactual"]
    assert ("deviation, 16 samples" in titles) == uncertainty
    assert figure.subfigs[0].get_suptitle() == f"do(light = {explorer.concept('light').describe(3.0)}) on test image 7"
    drawn = figure.axes[2].images[0].get_array()
    assert np.allclose(drawn, answer.image.clamp(0, 1).movedim(0, -1).numpy())
    cells = {cell.get_text().get_text() for axes in figure.axes for table in axes.tables for cell in table.get_celld().values()}
    assert cells >= {"do: light", "shadow length", "rad", "3.00", f"{answer.true_concepts['shadow_length']:.2f}"}


def test_the_graph_marks_what_is_set_and_what_moved(data):
    figure = plot_graph(data.graph)
    before = sum(len(c.get_offsets()) for c in figure.axes[0].collections)
    figure.axes[0].clear()
    draw_graph(figure.axes[0], data.graph, set_names=["light"], moved_names=["shadow_length"])
    nodes = [c for c in figure.axes[0].collections if len(c.get_offsets())]
    colours = {tuple(np.round(colour, 3)) for c in nodes for colour in c.get_facecolors()}
    assert sum(len(c.get_offsets()) for c in nodes) == before == 4
    assert colours == {tuple(np.round(to_rgba(c), 3)) for c in (ORANGE, SKY, "white")}


def test_detail_of_ones_own_is_kept_where_nothing_changes(explorer, data):
    factual = explorer.test_image(9)
    torch.testing.assert_close(explorer.answer(factual, {}, detail=True).image, factual.image, rtol=0, atol=1e-5)
    run, do = explorer.run, {"light": 12.0}
    expected = counterfactual(run.model, run.guide, data.images[[9]], do, data.labels[[9]], pixel_noise=1.0, fade=0.03)
    torch.testing.assert_close(explorer.answer(factual, do, detail=True).image, expected[0].clamp(0, 1))
    assert not torch.equal(explorer.answer(factual, do).image, expected[0].clamp(0, 1))
    frames = sweep_concept(explorer, factual, {}, "light", 3, detail=True)
    middle = explorer.answer(factual, {"light": frames.values[1].item()}, detail=True).image
    torch.testing.assert_close(frames.images[1], middle)
    session = Session(explorer, "run")
    question = {"image": 9, "do": do}
    plain, kept = (session.answer(question | {"detail": detail}) for detail in (False, True))
    assert plain["panels"][-1] == kept["panels"][-1]  # the true one
    assert plain["panels"] != kept["panels"]
    assert (plain["detail"], "fade" in plain["code"], "fade" in kept["code"]) == (True, False, True)


def test_there_is_no_detail_without_a_scale(data):
    run = make_run(data, "pendulum")
    run.model.likelihood = BernoulliLikelihood()
    explorer = Explorer(run, data)
    assert explorer.test_image(9).detail is None
    answer = explorer.answer(explorer.test_image(9), {"light": 12.0}, detail=True)
    assert torch.equal(answer.image, explorer.answer(explorer.test_image(9), {"light": 12.0}).image)
    assert not Session(explorer, "run").answer({"image": 9, "detail": True})["detail"]


@pytest.mark.parametrize("detail", [False, True], ids=["mean", "detail"])
@pytest.mark.parametrize("own", [False, True], ids=["test image", "own image"])
def test_the_lines_of_python_give_the_picture(own, detail, saved, tmp_path, monkeypatch):
    data = Pendulum("test", size=16)
    explorer = Explorer(load(saved), data)
    (tmp_path / "my image.png").write_bytes(encode_png(data.images[70] / 255))
    if own:
        factual = explorer.own_image(read_image(tmp_path / "my image.png", (3, 16, 16)), "my image.png")
    else:
        factual = explorer.test_image(1000)
    do = {"light": 12.3, "shadow_length": 5.05}
    answer = explorer.answer(factual, do, uncertainty=True, detail=detail)
    code = python_lines(explorer, factual, do, saved, uncertainty=True, detail=detail)
    # Without uncertainty they are the same but for the last lines.
    assert python_lines(explorer, factual, do, saved, detail=detail) in code
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(code, scope)
    torch.testing.assert_close(scope["image"][0], answer.image)
    torch.testing.assert_close(scope["deviation"][0], answer.uncertainty.image)


def test_the_lines_of_python_for_another_order(data):
    order = [2, 0, 3, 1]
    graph = CausalGraph([NAMES[i] for i in order], data.graph.edges)
    explorer = Explorer(make_run(data, "pendulum", graph, order), data)
    factual = explorer.test_image(4)
    lines = python_lines(explorer, factual, {"light": 2.0}, "run").splitlines()
    (line,) = [line for line in lines if line.startswith("x, labels =")]
    scope = {"data": data, "run": explorer.run}
    exec(line, scope)
    assert torch.equal(scope["labels"], data.labels[[4]][:, order])


# Session and server ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(explorer):
    with Server(Session(explorer, "runs/tiny"), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path, body=None, method=None, headers=None, token=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    body = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
    token = f"/{server.token}" if token is None else token
    connection.request(method or ("GET" if body is None else "POST"), token + path, body, headers or {})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def test_the_page_and_its_files(server):
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        response, content = ask(server, path)
        assert (response.status, response.headers.get_content_type()) == (200, kind)
        check_protected(response.headers)
        # Nothing is fetched from elsewhere, and the browser would refuse it.
        assert b"//" not in content.replace(b"http://www.w3.org/2000/svg", b"").replace(b"\n// ", b"").replace(b"  // ", b"")
    state = json.loads(ask(server, "/state")[1])
    assert (state["title"], state["data"], state["count"], state["truth"]) == ("tiny", "Small", 50, True)
    assert [(c["name"], c["unit"]) for c in state["concepts"]] == list(
        zip(NAMES, ("rad", "units", "units", "units"), strict=True)
    )
    assert len(state["thumbnails"]) == len(set(state["thumbnails"])) == 12
    thumbnail = ask(server, f"/thumbnails/{state['thumbnails'][3]}")[1]
    assert Image.open(io.BytesIO(thumbnail)).size == (16, 16)


def test_the_files_of_the_page_are_installed():
    root = ROOT
    assert "explore/page/*" in (root / "setup.cfg").read_text()
    assert {path.name for path in (root / "causalvae_pyro/explore/page").iterdir()} == {"index.html", "page.css", "page.js"}


def test_questions_over_the_network(server, explorer):
    response, content = ask(server, "/answer", {"image": 7, "do": {"light": 3}, "uncertainty": True})
    reply = json.loads(content)
    assert response.status == 200
    expected = explorer.answer(explorer.test_image(7), {"light": 3.0}, uncertainty=True)
    titles = ["image", "reconstruction", "counterfactual", "true counterfactual", "standard deviation"]
    assert [panel["title"] for panel in reply["panels"]] == titles
    assert reply["moved"] == list(expected.moved)
    assert [row["after"] for row in reply["concepts"]] == pytest.approx(list(expected.concepts.values()))
    assert reply["concepts"][1].keys() == {"label", "before", "after", "true", "deviation"}
    assert reply["deviation"] == pytest.approx(255 * expected.uncertainty.image.max().item())
    assert '{"light": 3.0}' in reply["code"]
    response, picture = ask(server, "/picture", {"image": 7, "do": {"light": 3}})
    assert response.headers.get_content_type() == "image/png"
    assert Image.open(io.BytesIO(picture)).width > 1000


def test_an_image_is_dropped(server, data):
    content = encode_png(data.images[9] / 255)
    reply = json.loads(ask(server, "/image?name=..%2Fmine%20%26%20yours.png", content)[1])
    assert reply["name"] == "mine & yours.png"
    answer = json.loads(ask(server, "/answer", {"image": reply["image"], "do": {"light": 3}})[1])
    test = json.loads(ask(server, "/answer", {"image": 9, "do": {"light": 3}})[1])
    assert answer["panels"] == test["panels"][:3]
    assert "label" not in answer["concepts"][0]
    assert "read_image('mine & yours.png', (3, 16, 16))" in answer["code"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/nothing", None, 404, "there is no /nothing here"),
        ("", None, 404, "there is no"),
        ("/thumbnails/50", None, 400, "index: got 50"),
        ("/thumbnails/" + "9" * 5000, None, 404, "there is no"),
        ("/thumbnails/%D9%A3", None, 404, "there is no"),
        ("/../cli.py", None, 404, "there is no"),
        ("/nothing", {}, 404, "there is no /nothing here"),
        ("/answer", b"?", 400, "question: is no JSON"),
        ("/answer", b"[" * 100_000, 400, "question: is no JSON"),
        ("/answer", b'{"image": ' + b"9" * 5000 + b"}", 400, "question: is no JSON"),
        ("/answer", b'{"image": ' + b"9" * 4000 + b"}", 400, "index: got 999"),
        ("/answer", b'{"image": 0, "do": {"light": 1' + b"0" * 400 + b"}}", 400, "do['light']: got a value that is not finite"),
        ("/picture", b'{"image": 0, "do": {"light": 1' + b"0" * 400 + b"}}", 400, "do['light']: got a value that is not finite"),
        ("/answer", [], 400, "question: expected an object"),
        ("/answer", {"image": 50}, 400, "index: got 50"),
        ("/answer", {"image": True}, 400, "image: expected the index of a test image, got True"),
        ("/answer", {"image": "own-99"}, 400, "image: unknown or evicted image id 'own-99'"),
        ("/answer", {"image": 0, "do": []}, 400, "do: expected concepts and their values"),
        ("/answer", {"image": 0, "do": {"light": "far"}}, 400, "do['light']: expected a number, got 'far'"),
        ("/answer", {"image": 0, "do": {"sun": 1}}, 400, "do: unknown concept 'sun'"),
        ("/answer", b'{"image": 0, "do": {"light": NaN}}', 400, "do['light']: got a value that is not finite"),
        ("/picture", {"image": 0, "do": {"sun": 1}}, 400, "do: unknown concept 'sun'"),
        ("/image?name=a.png", b"no image", 400, "image: the image is no image that can be decoded"),
    ],
)
def test_bad_questions_over_the_network(path, body, status, words, server, capsys):
    response, content = ask(server, path, body)
    assert response.status == status
    assert words in json.loads(content)["error"]
    check_protected(response.headers)
    assert capsys.readouterr().err == ""


def check_protected(headers):
    """No page from elsewhere can show or frame the answer, and what the answer says is not executed."""
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["object-src"] == "'none'"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


def raw(server, request, host=None):
    """What comes back for these bytes."""
    host = f"127.0.0.1:{server.server_port}" if host is None else host
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(request.replace(b"HOST", f"Host: {host}".encode()).replace(b"TOKEN", server.token.encode()))
        with connection.makefile("rb") as file:
            return file.read()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x00\xff\xfe\r\n\r\n", None),
        (b"GET /TOKEN/state\r\n", 400),
        (b"FLY /TOKEN/state HTTP/1.1\r\nHOST\r\nConnection: close\r\n\r\n", 501),
        (b"GET /TOKEN/state HTTP/9.9\r\nHOST\r\n\r\n", None),
        (b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\nHOST\r\n\r\n", 414),
        (b"GET /TOKEN/state HTTP/1.1\r\nHOST\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(200)) + b"\r\n", 431),
        (b"GET http://[::1/TOKEN/ HTTP/1.1\r\nHOST\r\nConnection: close\r\n\r\n", 400),
        (b"POST http://[x]/TOKEN/answer HTTP/1.1\r\nHOST\r\nContent-Length: 2\r\n\r\n{}", 400),
        (b"GET /TOKEN/state HTTP/1.1\r\nConnection: close\r\n\r\n", 403),
        (b"GET /TOKEN/state HTTP/1.1\r\nHOST\r\nHost: evil\r\nConnection: close\r\n\r\n", 403),
        (b"GET /\xe9/state HTTP/1.1\r\nHOST\r\nConnection: close\r\n\r\n", 403),
        (b"GET /TOKEN/../server.py HTTP/1.1\r\nHOST\r\nConnection: close\r\n\r\n", 404),
        (b"GET /TOKEN/%2e%2e/server.py HTTP/1.1\r\nHOST\r\nConnection: close\r\n\r\n", 404),
        (b"POST /TOKEN/answer HTTP/1.1\r\nHOST\r\n\r\n", 400),
        (b"POST /TOKEN/answer HTTP/1.1\r\nHOST\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST /TOKEN/answer HTTP/1.1\r\nHOST\r\nContent-Length: 1_1\r\n\r\n", 400),
        (b"POST /TOKEN/answer HTTP/1.1\r\nHOST\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n{}", 400),
        (b"POST /TOKEN/answer HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else None,
)
def test_malformed_requests_are_answered(request_bytes, status, server, capsys):
    answer = raw(server, request_bytes)
    assert b"nosniff" in answer or status is None
    assert status is None or answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b" 200 " not in answer[:20]
    assert ask(server, "/state")[0].status == 200
    assert capsys.readouterr().err == ""


def test_a_connection_that_ends_early_takes_no_line(server, capsys):
    with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
        # It ends by a reset, as a browser's may.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(f"POST /{server.token}/answer HTTP/1.1\r\n".encode())
        time.sleep(0.1)
    time.sleep(0.1)
    assert ask(server, "/state")[0].status == 200
    assert capsys.readouterr().err == ""


def test_silent_connections_are_closed(server, monkeypatch):
    monkeypatch.setattr(server.RequestHandlerClass, "timeout", 0.1)
    assert raw(server, b"POST /TOKEN/answer HTTP/1.1\r\nHOST\r\nContent-Length: 100\r\n\r\n{") == b""


@pytest.mark.parametrize("token", ["", "/" + "a" * 22], ids=["none", "another"])
def test_nothing_is_shown_without_the_token(token, server, data):
    image = encode_png(data.images[9] / 255)
    for path, body in (("/", None), ("/page.js", None), ("/state", None), ("/thumbnails/0", None), ("/answer", {"image": 0})):
        response, content = ask(server, path, body, token=token)
        assert response.status == 403
        assert json.loads(content)["error"] == "open the whole address that causalvae explore has printed"
        check_protected(response.headers)
    for path in ("/picture", "/image?name=a.png"):
        assert ask(server, path, image, token=token)[0].status == 403


def test_the_token_is_random_and_in_the_address(explorer):
    with Server(Session(explorer, "run"), 0) as first, Server(Session(explorer, "run"), 0) as second:
        assert first.token != second.token
        assert len(first.token) >= 22
        assert first.address == f"http://127.0.0.1:{first.server_port}/{first.token}/"


def test_many_questions_at_once(server):
    # Pyro's handlers are the whole process's: mixed up, one question would see another's intervention.
    questions = [{"image": i % 3, "do": {"light": 7.0 + i / 4, **({"pendulum": i / 100} if i % 2 else {})}} for i in range(24)]
    expected = [server.session.answer(question) for question in questions]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda question: json.loads(ask(server, "/answer", question)[1]), questions))
    assert [reply["concepts"] for reply in found] == [reply["concepts"] for reply in expected]
    assert [reply["panels"] for reply in found] == [reply["panels"] for reply in expected]


def test_large_files_are_refused_unread(server):
    response, content = ask(server, "/image", method="POST", headers={"Content-Length": str(2**40)})
    assert (response.status, response.headers["Content-Type"]) == (413, "application/json")
    assert "32 MiB" in json.loads(content)["error"]


@pytest.mark.parametrize("header", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}], ids=str)
def test_pages_from_elsewhere_may_not_ask(header, server):
    for path, body in (("/state", None), ("/answer", {"image": 0}), ("/image", b"x")):
        response, content = ask(server, path, body, headers=header)
        assert (response.status, json.loads(content)["error"]) == (403, "cross-origin request refused")


def test_it_is_on_the_loopback_only(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.address.startswith(f"http://127.0.0.1:{server.server_port}/")


def test_old_images_are_forgotten(explorer, monkeypatch):
    monkeypatch.setattr(session_module, "_REMEMBERED", 3)
    session = Session(explorer, "run")
    own = session.add_image(encode_png(torch.zeros(3, 16, 16)), "a.png")["image"]
    for index in (0, 1, 0):
        session.answer({"image": index})
    session.answer({"image": own})
    for index in (2, 3):
        session.answer({"image": index})
    assert list(session._factuals) == [own, 2, 3]
    session.answer({"image": 4})
    with pytest.raises(ValueError, match="unknown or evicted image id"):
        session.answer({"image": own})


def large_parts():
    return sum(issubclass(type(thing), (AxesImage, RendererAgg)) for thing in gc.get_objects())


def test_pictures_do_not_pile_up(explorer):
    session = Session(explorer, "run")
    session.picture({"image": 1})
    gc.collect()
    before = large_parts()
    gc.disable()
    try:
        for _ in range(2):
            session.picture({"image": 1, "do": {"light": 3.0}})
        assert large_parts() == before
    finally:
        gc.enable()


# The command -----------------------------------------------------------------------------------------------------------


def test_the_command_serves_until_it_is_interrupted(saved, monkeypatch, capsys):
    monkeypatch.setattr(Server, "serve_forever", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert main(["explore", str(saved), "--port", "0", "--device", "cpu", "--open"]) == 130
    out = capsys.readouterr().out
    address = out.split()[0]
    assert address.startswith("http://127.0.0.1:")
    assert out == f"{address} shows {saved}; Ctrl-C ends it\n"
    assert opened == [address]


def test_another_port_where_the_default_is_taken(explorer):
    with Server(Session(explorer, "run")) as first, Server(Session(explorer, "run")) as second:
        assert first.server_port != second.server_port


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["TMP/nothing"], "nothing/config.json does not exist"),
        (["TMP"], "config.json does not exist"),
        (["RUN", "--port", "70000"], "port: got 70000; must lie between 0 and 65535"),
        (["RUN", "--port", "TAKEN"], "cannot be used (Address already in use); without --port a free one is taken"),
        (["RUN", "--samples", "1"], "samples: got 1; a standard deviation takes at least 2"),
        (["RUN", "--device", "gpu"], "device: got 'gpu'"),
    ],
)
def test_bad_input_takes_one_line(arguments, words, saved, tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        replaced = {"RUN": str(saved), "TAKEN": str(taken.getsockname()[1])}
        arguments = [replaced.get(a, a.replace("TMP", str(tmp_path))) for a in arguments]
        assert main(["explore", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("causalvae: error: ")
    assert err.count("\n") == 1
    assert words in err


def test_a_run_without_data_of_this_package(saved, tmp_path, capsys):
    run = load(saved)
    save(Run(run.model, run.guide, {"data": {"name": "tides"}}), tmp_path)
    assert main(["explore", str(tmp_path)]) == 2
    assert "its config.json names no data set of this package" in capsys.readouterr().err


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["explore", "--help"])
    assert caught.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "(default: 7860, or a free one where that is taken)" in out


class Album(Small):
    """Only images of the data are the truth."""

    def counterfactual(self, labels, do):
        raise AssertionError("asked for what need not be there")

    def counterfactual_targets(self, index):
        return torch.tensor([i for i in range(len(self)) if i != index and i % 2 == index % 2])

    def counterfactual_labels(self, labels, do):
        return torch.stack([torch.as_tensor([do.get(name, labels[0, i])]) for i, name in enumerate(NAMES)], 1)


def test_the_truth_where_it_is_another_image():
    album = Album("test", size=16)
    explorer = Explorer(make_run(album, "pendulum"), album)
    factual = explorer.test_image(0)
    do = dict(zip(NAMES, album.labels[4].tolist(), strict=True))
    answer = explorer.answer(factual, do)
    assert torch.equal(answer.true_image, album.images[4] / 255)
    assert answer.true_concepts == pytest.approx(do)
    assert torch.equal(explorer.answer(factual, {}).true_image, factual.image)
    for other in (dict(zip(NAMES, album.labels[3].tolist(), strict=True)), {"light": 1.25}):
        assert explorer.answer(factual, other).true_image is None
        assert explorer.answer(factual, other).true_concepts is None
