"""One concept through its range, over the network too: a sweep, its files, and the pixels that follow it."""

import base64
import io
import json

import pytest
import torch
from PIL import Image, features

from causalvae_pyro import counterfactual
from causalvae_pyro.explore import Explorer, effect_maps, encode_frames, sweep_concept
from causalvae_pyro.explore.session import Session
from tests.builders import Small
from tests.explore.test_explore import NAMES, Album, ask, make_run, server  # noqa: F401  (the server is a fixture)


@pytest.fixture(scope="module")
def data():
    return Small("test", size=16)


@pytest.fixture(scope="module")
def explorer(data):
    return Explorer(make_run(data, "pendulum"), data)


@pytest.mark.parametrize("do", [{}, {"light": 9.0}, {"pendulum": 0.2, "shadow_length": 8.0}], ids=str)
def test_a_sweep_is_a_counterfactual_for_each_value(do, explorer, data):
    factual = explorer.test_image(7)
    found = sweep_concept(explorer, factual, do, "pendulum", 5)
    ends = explorer.concept("pendulum").ends()
    torch.testing.assert_close(found.values, torch.linspace(*ends, 5))
    for value, image, true in zip(found.values.tolist(), found.images, found.true_images, strict=True):
        answer = explorer.answer(factual, {**do, "pendulum": value})
        torch.testing.assert_close(image, answer.image)
        torch.testing.assert_close(true, answer.true_image)
    model, guide = explorer.run.model, explorer.run.guide
    expected = counterfactual(model, guide, data.images[[7]], {**do, "pendulum": ends[0]}, data.labels[[7]])
    torch.testing.assert_close(found.images[:1], expected)


def test_without_the_truth(explorer, data):
    mine = explorer.own_image(data.images[7] / 255, "mine.png")
    assert sweep_concept(explorer, mine, {}, "light").true_images is None
    album = Explorer(make_run(Album("test", size=16), "pendulum"), Album("test", size=16))
    assert sweep_concept(album, album.test_image(0), {}, "light").true_images is None


def test_effects_are_of_the_concepts_that_the_pixels_follow(explorer):
    factual = explorer.test_image(7)
    maps = effect_maps(explorer, factual, {})
    assert list(maps) == list(NAMES)
    for name, found in maps.items():
        images = sweep_concept(explorer, factual, {}, name, 7).images
        expected = (images - images.mean(0)).square().mean((0, 1)).sqrt()
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)

    class Blind(torch.nn.Module):
        """Draws the pendulum alone."""

        def __init__(self, decoder):
            super().__init__()
            self.decoder = decoder

        def forward(self, z, *noise):
            return self.decoder(torch.cat([z[..., :1, :], torch.zeros_like(z[..., 1:, :])], -2), *noise)

    run = make_run(explorer.data, "pendulum")
    run.model.decoder = Blind(run.model.decoder)
    blind = Explorer(run, explorer.data)
    maps = effect_maps(blind, blind.test_image(7), {})
    assert maps["pendulum"].max() > 1e-4
    assert all(maps[name].max() == 0 for name in NAMES[1:])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_files(channels):
    images = torch.linspace(-0.1, 1.1, 6).view(6, 1, 1, 1).expand(6, channels, 12, 20)
    strip = Image.open(io.BytesIO(encode_frames(images, "png")))
    assert strip.size == (6 * 260, 156)
    pixels = torch.frombuffer(bytearray(strip.convert("L").tobytes()), dtype=torch.uint8).view(156, 6, 260)
    if channels < 4:
        assert pixels[0, :, 0].tolist() == [0, 36, 97, 158, 219, 255]
    for kind in ("gif", "webp") if features.check("webp") else ("gif",):
        film = Image.open(io.BytesIO(encode_frames(images, kind)))
        # There and back without the ends twice, for ever.
        assert (film.format, film.size, film.n_frames, film.info["loop"]) == (kind.upper(), (260, 156), 10, 0)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda e: sweep_concept(e, e.test_image(0), {}, "sun"), "concept: got 'sun'; valid: pendulum, light"),
        (lambda e: sweep_concept(e, e.test_image(0), {}, "light", 1), "steps: got 1; must lie between 2 and 100"),
        (lambda e: sweep_concept(e, e.test_image(0), {"sun": 1.0}, "light"), "do: unknown concept 'sun'"),
        (lambda e: encode_frames(torch.zeros(2, 3, 4, 4), "mp4"), "format: got 'mp4'; valid: gif, webp, png"),
    ],
)
def test_bad_questions(act, words, explorer):
    with pytest.raises(ValueError, match="^" + words):
        act(explorer)


def test_a_pillow_without_webp(monkeypatch):
    monkeypatch.setattr("causalvae_pyro.explore.ranges.features.check", lambda name: False)
    with pytest.raises(ValueError, match="^format: the installed Pillow writes no WebP; use gif"):
        encode_frames(torch.zeros(2, 3, 4, 4), "webp")


# Over the network ----------------------------------------------------------------------------------------------------


def decoded(url):
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))


QUESTION = {"image": 7, "do": {"light": 3}, "concept": "pendulum"}


def test_over_the_network(server, explorer):  # noqa: F811
    found = json.loads(ask(server, "/sweep", QUESTION)[1])
    assert found.keys() == {"concept", "values", "frames", "true"}
    assert (found["values"][0], found["values"][-1]) == pytest.approx(explorer.concept("pendulum").ends())
    assert len(found["values"]) == len(found["frames"]) == len(found["true"]) == 9
    assert {decoded(url).size for url in found["frames"] + found["true"]} == {(16, 16)}
    found = json.loads(ask(server, "/effects", QUESTION)[1])
    assert list(found["maps"]) == list(NAMES)
    assert found["largest"] > 0
    # Of one scale: the brightest pixel of all is the colour map's end.
    red = [decoded(url).getextrema()[0][1] for url in found["maps"].values()]
    assert max(red) > 200
    assert min(red) < max(red)
    for kind in ("gif", "png"):
        response, content = ask(server, "/animation", {**QUESTION, "format": kind})
        assert response.headers.get_content_type() == f"image/{kind}"
        assert Image.open(io.BytesIO(content)).format == kind.upper()


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/sweep", {"image": 0}, "concept: expected the name of a concept, got None"),
        ("/sweep", {"image": 0, "concept": "sun"}, "concept: got 'sun'"),
        ("/sweep", [], "question: expected an object"),
        ("/effects", {"image": 50}, "index: got 50"),
        ("/animation", {"image": 0, "concept": "light"}, "format: got None; valid: gif, webp, png"),
        ("/animation", {"image": 0, "concept": "light", "format": ["gif"]}, "format: got ['gif']"),
        ("/animation", [], "format: got None"),
    ],
)
def test_bad_questions_over_the_network(path, body, words, server):  # noqa: F811
    response, content = ask(server, path, body)
    assert response.status == 400
    assert words in json.loads(content)["error"]


def test_a_session_shares_its_abductions(explorer, monkeypatch):
    session = Session(explorer, "runs/tiny")
    session.answer(QUESTION)
    monkeypatch.setattr(explorer, "test_image", None)
    session.sweep(QUESTION)
    session.effects(QUESTION)
