import importlib.util
import math
import re

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.datasets.pendulum import FIREBRICK, ORANGE
from causalvae_pyro.datasets.rendering import Canvas
from tests import ROOT

ANGLE, LIGHT, LENGTH, POSITION = range(4)
PARTITIONS = ["iid", "grid", "compositional"]
CLAMPED = 2894


@pytest.fixture(scope="module")
def data():
    return Pendulum("all", size=8)


@pytest.fixture(scope="module")
def noisy():
    return Pendulum("all", size=8, noise=0.3)


@pytest.fixture(scope="module")
def matplotlib_pendulum():
    path = ROOT / "benchmarks" / "matplotlib_pendulum.py"
    spec = importlib.util.spec_from_file_location("matplotlib_pendulum", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def some(labels, count, seed=0):
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]]


def expected_shadow(angle, light):
    """Length (before the clamp) and position, by two rays that run from the light's direction to the ground."""
    elevation = math.atan2(20.5 - 10.5, light - 10)
    ends = []
    for x, y in ((10, 10.5), (10 + 9.5 * math.sin(angle), 10.5 - 9.5 * math.cos(angle))):
        travelled = (y + 0.5) / math.sin(elevation)
        ends.append(x - travelled * math.cos(elevation))
    return abs(ends[0] - ends[1]), sum(ends) / 2


def rows(labels):
    return {tuple(row) for row in labels.tolist()}


# Scenes --------------------------------------------------------------------------------------------------------------


def test_published_grid(data):
    assert len(data) == 7308 == 84 * 87
    assert data.images.shape == (7308, 3, 8, 8)
    assert data.images.dtype == torch.uint8
    assert data.labels.shape == (7308, 4)
    assert data.labels.dtype == torch.float32
    assert len(data.labels[:, ANGLE].unique()) == 84
    assert len(data.labels[:, LIGHT].unique()) == 87
    assert len(rows(data.labels)) == 7308
    assert data.concepts == ("pendulum", "light", "shadow_length", "shadow_position")
    assert len(data.units) == 4
    assert data.graph.roots == ("pendulum", "light")
    assert all(data.graph.parents(name) == data.graph.roots for name in data.graph.children)


def test_labels_equal_an_independent_computation(data):
    expected = []
    for i in range(-40, 44):
        for j in range(60, 148):
            if j == 100:
                continue
            angle, light = i * math.pi / 200, 10 + 10 / math.tan(j * math.pi / 200)
            length, position = expected_shadow(angle, light)
            expected.append([angle, light, max(3.0, length), position])
    torch.testing.assert_close(data.labels.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=2e-6)


def test_label_ranges_are_those_of_the_docstring(data):
    low, high = data.label_range()
    assert low.dtype == high.dtype == torch.float64
    for column, name in enumerate(data.concepts):
        text = re.search(rf"``{name}``.*\[(.*), (.*)\]", Pendulum.__doc__)
        for value, documented in zip((low[column].item(), high[column].item()), text.groups(), strict=True):
            decimals = len(documented.partition(".")[2])
            assert round(value, decimals) == float(documented)
    torch.testing.assert_close(data.labels.amin(0).double(), low)
    torch.testing.assert_close(data.labels.amax(0).double(), high)
    torch.testing.assert_close(data.labels.double().std(0), data.label_std())


def test_the_clamp_holds_where_the_shadow_would_be_shorter(data):
    raw = torch.tensor([expected_shadow(angle, light)[0] for angle, light, _, _ in data.labels.tolist()])
    clamped = data.labels[:, LENGTH] == 3
    assert clamped.sum() == CLAMPED
    assert torch.equal(clamped, raw < 3)


# Splits --------------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_train_and_test_divide_all_scenes(partition, noise):
    train, test, everything = (Pendulum(split, partition=partition, size=8, noise=noise) for split in ("train", "test", "all"))
    assert not rows(train.labels) & rows(test.labels)
    assert rows(train.labels) | rows(test.labels) == rows(everything.labels)
    assert len(train) + len(test) == len(everything) == 7308
    if partition != "compositional":
        assert len(test) == 1461
    assert len(train.images) == len(train)
    # Not even the roots alone occur on both sides.
    assert not rows(train.labels[:, :2]) & rows(test.labels[:, :2])


def test_iid_split_depends_on_the_seed_only():
    labels = [Pendulum("test", size=8, seed=seed).labels for seed in (0, 0, 1)]
    assert torch.equal(labels[0], labels[1])
    shared = len(rows(labels[0]) & rows(labels[2]))
    # Two independent fifths share a fifth: 292 of 1,461, with a standard deviation of 14.
    assert 230 < shared < 360


def test_grid_split_takes_every_fifth_scene(data):
    test = Pendulum("test", partition="grid", size=8, seed=3)
    assert torch.equal(test.labels, data.labels[4::5])
    assert torch.equal(test.images, data.images[4::5])


def test_compositional_split_holds_out_two_corners_but_no_single_value(data):
    train, test = (Pendulum(split, partition="compositional", size=8) for split in ("train", "test"))
    assert 0.15 < len(test) / len(data) < 0.3
    for column in (ANGLE, LIGHT):
        assert set(train.labels[:, column].tolist()) == set(data.labels[:, column].tolist())
    # A held-out scene is low in both roots or high in both.
    ranks = [data.labels[:, column].unique() for column in (ANGLE, LIGHT)]
    angle, light = (torch.searchsorted(r, test.labels[:, c].contiguous()) / len(r) for c, r in enumerate(ranks))
    assert (((angle < 0.35) & (light < 0.35)) | ((angle > 0.64) & (light > 0.64))).all()
    assert (angle < 0.5).any()
    assert (angle > 0.5).any()


# Noise ---------------------------------------------------------------------------------------------------------------


def test_noise_is_as_large_as_stated_and_leaves_the_roots(data, noisy):
    assert torch.equal(noisy.labels[:, :2], data.labels[:, :2])
    noise = (noisy.labels - data.labels)[:, 2:].double() / data.label_std()[2:]
    # The standard error of the sd of 7,308 values is 0.8 per cent of it, that of their mean 0.0035.
    torch.testing.assert_close(noise.std(0), torch.full((2,), 0.3, dtype=torch.float64), rtol=0.04, atol=0)
    torch.testing.assert_close(noise.mean(0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=0.016)
    # Independent of one another and of the roots.
    correlation = torch.corrcoef(torch.cat([noise.T, data.labels[:, :2].T.double()]))
    assert correlation[:2].abs().sum() - 2 < 5 * 0.06


def test_noise_is_fixed_by_the_seed(noisy):
    again, other = (Pendulum("all", size=8, noise=0.3, seed=seed) for seed in (0, 1))
    assert torch.equal(again.labels, noisy.labels)
    assert torch.equal(again.images, noisy.images)
    assert not torch.isclose(other.labels[:, 2:], noisy.labels[:, 2:]).all(1).any()


def test_making_a_data_set_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    Pendulum("train", size=8, noise=0.3).simulate(2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_simulated_scenes_follow_the_mechanisms_off_the_grid(data, noise):
    source = Pendulum("test", size=16, noise=noise)
    labels, images = source.simulate(500, seed=5)
    assert labels.dtype == torch.float32
    assert images.shape == (500, 3, 16, 16)
    assert torch.equal(images, Pendulum.render(labels, 16))
    low, high = data.label_range()
    inside = (labels[:, :2] >= low[:2] - 1e-5) & (labels[:, :2] <= high[:2] + 1e-5)
    assert inside.all()
    assert not rows(labels) & rows(data.labels)
    shadows = [expected_shadow(angle, light) for angle, light, _, _ in labels.tolist()]
    predicted = torch.tensor([[max(3.0, length), position] for length, position in shadows])
    residual = ((labels[:, 2:] - predicted).double() / data.label_std()[2:]).std(0)
    torch.testing.assert_close(residual, torch.full((2,), noise, dtype=torch.float64), rtol=0.15, atol=1e-5)
    assert torch.equal(source.simulate(500, seed=5)[0], labels)
    assert not torch.equal(source.simulate(500, seed=6)[0], labels)


# Counterfactuals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["data", "noisy"])
def test_doing_nothing_or_what_is_the_case_anyway_gives_the_factual(request, source):
    source = request.getfixturevalue(source)
    labels = some(source.labels, 50)
    for do in ({}, {"light": labels[:, LIGHT]}, {name: labels[:, i] for i, name in enumerate(source.concepts)}):
        result, images = source.counterfactual(labels, do)
        torch.testing.assert_close(result, labels, rtol=0, atol=1e-6)
        torch.testing.assert_close(images, source.render(labels, 8), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["pendulum", "light"])
def test_a_root_moves_both_shadows_by_the_mechanisms_and_keeps_their_noise(noisy, name, dtype):
    labels = some(noisy.labels, 60).to(dtype)
    before = labels.clone()
    column = noisy.graph.index(name)
    value = torch.linspace(*noisy.root_ranges()[name], 60, dtype=dtype)
    result, images = noisy.counterfactual(labels, {name: value})
    expected = []
    for row, new in zip(labels.double().tolist(), value.tolist(), strict=True):
        length, position = expected_shadow(*row[:2])
        noise = row[LENGTH] - max(3.0, length), row[POSITION] - position
        row[column] = new
        length, position = expected_shadow(*row[:2])
        expected.append([*row[:2], max(3.0, length) + noise[0], position + noise[1]])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-11
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance)
    # The root is set and the other root untouched, to the bit.
    assert torch.equal(result[:, column], value)
    assert torch.equal(result[:, 1 - column], labels[:, 1 - column])
    assert torch.equal(images, noisy.render(result, noisy.size))
    assert torch.equal(labels, before), "the factual labels were changed in place"


@pytest.mark.parametrize("name", ["shadow_length", "shadow_position"])
@pytest.mark.parametrize("source", ["data", "noisy"])
def test_a_leaf_changes_alone(request, source, name):
    source = request.getfixturevalue(source)
    # Far from the mechanisms and with all bits of float64 in use: predicting the other leaf anew and adding its noise back
    # would change its last bits.
    labels = some(source.labels, 200).double()
    labels += 50 * torch.rand_like(labels)
    expected = labels.clone()
    expected[:, source.graph.index(name)] = 7.25
    result, images = source.counterfactual(labels, {name: 7.25})
    assert torch.equal(result, expected)
    assert torch.equal(images, source.render(expected, source.size))


def test_several_concepts_at_once(noisy):
    labels = some(noisy.labels, 20)
    light = torch.linspace(2, 16, 20)
    result, _ = noisy.counterfactual(labels, {"shadow_length": 5.0, "light": light, "pendulum": 0.25})
    alone, _ = noisy.counterfactual(labels, {"pendulum": 0.25})
    alone, _ = noisy.counterfactual(alone, {"light": light})
    assert torch.equal(result[:, LIGHT], light)
    assert (result[:, ANGLE] == 0.25).all()
    # The mechanism of an intervened concept is cut, that of the other child is not.
    assert (result[:, LENGTH] == 5.0).all()
    torch.testing.assert_close(result[:, POSITION], alone[:, POSITION], rtol=0, atol=1e-5)


def test_counterfactual_accepts_integer_labels(data):
    result, _ = data.counterfactual(torch.tensor([[0, 12, 3, 8]]), {"light": 12.5})
    assert result[0, LIGHT] == 12.5
    assert result.is_floating_point()


def test_counterfactual_of_no_scenes(data):
    result, images = data.counterfactual(data.labels[:0], {"light": 12.0})
    assert result.shape == (0, 4)
    assert images.shape == (0, 3, 8, 8)


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "valid"}, "split: got 'valid'; valid: ['train', 'test', 'all']"),
        ({"partition": "random"}, "partition: got 'random'; valid: ['iid', 'grid', 'compositional']"),
        ({"size": 7}, "size: got 7; images need at least 8 pixels a side"),
        ({"noise": -0.1}, "noise: got -0.1; must be finite and >= 0"),
        ({"noise": math.nan}, "noise: got nan; must be finite and >= 0"),
    ],
)
def test_errors_of_the_options(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Pendulum(**{"split": "test", "size": 8, **options})


@pytest.mark.parametrize(
    ("do", "message"),
    [
        ({"sun": 1.0}, "do: unknown concept 'sun'; known: ['pendulum', 'light', 'shadow_length', 'shadow_position']"),
        ({"light": torch.zeros(3)}, "do['light']: expected a number or shape (4,), got shape (3,)"),
        ({"light": torch.zeros(4, 1)}, "do['light']: expected a number or shape (4,), got shape (4, 1)"),
        ({"light": math.nan}, "do['light']: got a value that is not finite"),
        ({"light": torch.tensor([1, 2, 3, math.inf])}, "do['light']: got a value that is not finite"),
    ],
)
def test_errors_of_interventions(data, do, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        data.counterfactual(data.labels[:4], do)


@pytest.mark.parametrize("method", ["render", "render_uint8", "counterfactual"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            torch.zeros(5, 3),
            "labels: expected shape [N, 4] for ['pendulum', 'light', 'shadow_length', 'shadow_position'], got [5, 3]",
        ),
        (torch.zeros(4), "got [4]"),
        (torch.full((1, 4), math.nan), "labels: got a value that is not finite"),
    ],
    ids=["width", "vector", "nan"],
)
def test_errors_of_labels(data, method, labels, message):
    arguments = ({"light": 1.0},) if method == "counterfactual" else ()
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(data, method)(labels, *arguments)


# Images --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [8, 32, 48, 64, 96, 128])
def test_any_size_renders_in_the_unit_interval(data, size, dtype):
    images = Pendulum.render(some(data.labels, 20).to(dtype), size)
    assert images.shape == (20, 3, size, size)
    assert images.dtype == dtype
    assert images.min() >= 0
    assert images.max() <= 1
    # Black, white and the discs' colours all occur.
    if size >= 32:
        assert images.amin() < 0.01
        assert (images.amin(1) == 1).any()
        assert torch.isclose(images, torch.tensor(ORANGE, dtype=dtype)[:, None, None]).all(1).any(-1).any(-1).all()
        assert torch.isclose(images, torch.tensor(FIREBRICK, dtype=dtype)[:, None, None]).all(1).any(-1).any(-1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_empty_batch_renders(dtype):
    images = Pendulum.render(torch.zeros(0, 4, dtype=dtype), 32)
    assert images.shape == (0, 3, 32, 32)
    assert images.dtype == dtype
    assert Pendulum.render_uint8(torch.zeros(0, 4), 32).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("size", [8, 20, 64])
def test_an_image_does_not_depend_on_its_batch(noisy, size):
    # More scenes than one internal chunk, and noise, which sends some shadows out of the axes.
    labels = some(noisy.labels, 150)
    together = Pendulum.render(labels, size)
    apart = torch.cat([Pendulum.render(row[None], size) for row in labels])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-6)


def test_float32_is_as_good_as_float64(data):
    labels = some(data.labels, 50)
    torch.testing.assert_close(Pendulum.render(labels, 64).double(), Pendulum.render(labels.double(), 64), rtol=0, atol=1e-4)


def test_stored_images_are_the_rendered_ones_rounded(data):
    target = Pendulum.render(data.labels[::50], 8)
    assert torch.equal(data.images[::50], (target * 255).round().to(torch.uint8))
    assert torch.equal(Pendulum.render_uint8(data.labels[::50], 8), data.images[::50])


@pytest.mark.parametrize(("size", "tolerance"), [(96, 0.005), (64, 0.006), (160, 0.004)])
def test_images_are_those_of_matplotlib(data, matplotlib_pendulum, size, tolerance):
    labels = some(data.labels, 40)
    figure = matplotlib_pendulum.PendulumFigure(size)
    reference = np.stack([figure.draw(row) for row in labels.tolist()]) / 255
    difference = np.abs(Pendulum.render(labels, size).permute(0, 2, 3, 1).numpy() - reference)
    assert difference.mean() <= tolerance
    # No image deviates as a whole: the figure above is not carried by the white margin.
    assert difference.mean((1, 2, 3)).max() <= 2 * tolerance


def test_the_reference_drawing_does_not_depend_on_the_reuse_of_its_figure(data, matplotlib_pendulum):
    figures = matplotlib_pendulum.PendulumFigure(48), matplotlib_pendulum.PendulumFigure(48, blit=True)
    for row in some(data.labels, 5).tolist():
        new = matplotlib_pendulum.draw_new_figure(row, 48)
        assert all(np.array_equal(figure.draw(row), new) for figure in figures)


def test_resolution_does_not_change_the_scene(data):
    labels = some(data.labels, 20)
    halved = torch.nn.functional.avg_pool2d(Pendulum.render(labels, 192), 2)
    assert (halved - Pendulum.render(labels, 96)).abs().mean() < 0.002


def test_a_mirrored_scene_gives_the_mirrored_image(data):
    # At 80 pixels the axes' middle (0.125 + 0.9) / 2 falls on an edge between pixels, one to the right of the image's.
    labels = some(data.labels, 30).double()
    mirrored = torch.stack([-labels[:, 0], 20 - labels[:, 1], labels[:, 2], 20 - labels[:, 3]], 1)
    images, flipped = Pendulum.render(labels, 80)[..., 2:], Pendulum.render(mirrored, 80)[..., 2:].flip(-1)
    torch.testing.assert_close(images, flipped, rtol=0, atol=1e-9)
    assert (images - images.flip(-1)).abs().mean() > 0.01


def test_mechanisms_commute_with_mirroring():
    angle, light = torch.rand(20, dtype=torch.float64) - 0.5, 20 * torch.rand(20, dtype=torch.float64)
    here, there = {"pendulum": angle, "light": light}, {"pendulum": -angle, "light": 20 - light}
    length, position = (Pendulum.mechanism(name, here) for name in ("shadow_length", "shadow_position"))
    torch.testing.assert_close(Pendulum.mechanism("shadow_length", there), length)
    torch.testing.assert_close(Pendulum.mechanism("shadow_position", there), 20 - position)


@pytest.mark.parametrize("light", [3.0, 10.0, 17.0])
def test_every_label_draws_what_it_names(light):
    angle, length, position, size = -0.4, 6.0, 12.0, 96
    image = Pendulum.render(torch.tensor([[angle, light, length, position]], dtype=torch.float64), size)[0]

    def column(x):
        return (0.125 + 0.775 * x / 20) * size

    def row(y):
        return (1 - 0.11 - 0.77 * (y + 1) / 22) * size

    def centre(mask):
        y, x = mask.nonzero().double().add(0.5).T
        return x.mean().item(), y.mean().item()

    orange, brick = (
        (image - torch.tensor(colour, dtype=image.dtype)[:, None, None]).abs().amax(0) < 0.05 for colour in (ORANGE, FIREBRICK)
    )
    black = image.amax(0) < 0.5
    assert centre(brick) == pytest.approx((column(10 + 8 * math.sin(angle)), row(10.5 - 8 * math.cos(angle))), abs=0.2)
    assert centre(orange)[0] == pytest.approx(column(light), abs=0.2)
    # The axes cut the light off at y = 21, half a unit above its centre.
    assert orange.nonzero()[:, 0].min().item() == pytest.approx(row(21), abs=1)
    shadow = black & (torch.arange(size)[:, None] > row(0.5))
    assert centre(shadow) == pytest.approx((column(position), row(-0.5)), abs=0.6)
    assert shadow.sum(1).amax().item() == pytest.approx(0.775 * size / 20 * length, abs=1.1)
    # The rod runs from the pivot towards the bob, 4 pixels wide.
    rod = black & ~shadow
    assert rod[int(row(10.5)) + 2, int(column(10) - 0.5)]
    assert not rod[: int(row(10.5)) - 2].any()
    assert rod[int(row(7))].sum().item() == pytest.approx(4 / math.cos(angle), abs=1.1)
    # White outside the axes.
    outside = torch.ones(size, size, dtype=torch.bool)
    outside[int(row(21)) : int(row(-1)) + 1, int(column(0)) : int(column(20)) + 1] = False
    assert (image[:, outside] == 1).all()


@pytest.mark.parametrize("position", [-8.0, 0.0, 20.0, 30.0])
def test_the_axes_clip_shadow_and_light(position):
    size = 96
    image = Pendulum.render(torch.tensor([[0.0, position, 8.0, position]]), size)[0]
    left, right = 0.125 * size, 0.9 * size
    assert (image[:, :, : math.floor(left)] == 1).all()
    assert (image[:, :, math.ceil(right) :] == 1).all()
    shadow = (image[:, -14:].amax(0) < 0.5).any()
    assert shadow == (-4 < position < 24)


@pytest.mark.parametrize(("length", "visible"), [(0.0, False), (1.0, True), (-6.0, True), (1e-8, False)])
def test_unusual_lengths_draw_without_error(length, visible):
    image = Pendulum.render(torch.tensor([[0.0, 5.0, length, 10.0]]), 96)[0]
    assert image.isfinite().all()
    assert (image[:, -14:].amin() < 0.6) == visible
    assert torch.equal(image, Pendulum.render(torch.tensor([[0.0, 5.0, abs(length), 10.0]]), 96)[0])


@pytest.mark.parametrize(("size", "angle", "light"), [(40, 0.3, 10.0), (120, 0.3, 10.0), (200, 0.0, 3.0)])
def test_a_disc_that_is_centred_on_a_pixel_has_no_hole(size, angle, light):
    image = Pendulum.render(torch.tensor([[angle, light, 3.0, 10.0]], dtype=torch.float64), size)[0]
    x, y, colour = (10.0, 2.5, FIREBRICK) if size == 200 else (light, 20.5, ORANGE)
    column, row = (0.125 + 0.775 * x / 20) * size, (1 - 0.11 - 0.77 * (y + 1) / 22) * size
    assert (column % 1, row % 1) == pytest.approx((0.5, 0.5))
    torch.testing.assert_close(image[:, int(row), int(column)], torch.tensor(colour, dtype=torch.float64))


@pytest.mark.parametrize("width", [0.3, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("offset", [0.0, 0.25, 0.4, 0.5])
def test_a_stroke_keeps_its_width_wherever_it_falls_on_the_pixels(width, offset):
    canvas = Canvas(1, 20, dtype=torch.float64)
    start, end = torch.tensor([[[10 + offset, 4.0]], [[10 + offset, 16.0]]], dtype=torch.float64)
    coverage, rows_drawn = canvas.segment(start, end, width)
    canvas.paint(coverage, rows_drawn, (0.0, 0.0, 0.0))
    darkness = (1 - canvas.images[0, 0]).sum(1)
    torch.testing.assert_close(darkness[4:16], torch.full((12,), width, dtype=torch.float64))
    assert darkness.sum().item() == pytest.approx(12 * width)


@pytest.mark.parametrize("radii", [(10.0, 4.0), (3.0, 11.0), (6.0, 6.0), (1.5, 1.5)])
def test_an_ellipse_covers_what_supersampling_says(radii):
    canvas, fine, centre = Canvas(1, 32, dtype=torch.float64), 16, (15.3, 17.8)
    canvas.paint(*canvas.ellipse(torch.tensor([centre], dtype=torch.float64), radii), (0.0, 0.0, 0.0))
    coverage = 1 - canvas.images[0, 0]
    points = (torch.arange(32 * fine, dtype=torch.float64) + 0.5) / fine
    inside = ((points - centre[0]) / radii[0]).square() + ((points.flip(0)[:, None] - centre[1]) / radii[1]).square() < 1
    exact = torch.nn.functional.avg_pool2d(inside.double()[None, None], fine)[0, 0]
    assert (coverage - exact).abs().max() < 0.15
    assert coverage.sum().item() == pytest.approx(math.pi * radii[0] * radii[1], rel=0.01, abs=0.4)


# The data set --------------------------------------------------------------------------------------------------------


def test_indexing_returns_a_float_image_and_its_labels(data):
    for index in (0, 5, -1):
        image, labels = data[index]
        assert image.shape == (3, 8, 8)
        assert image.dtype == torch.float32
        assert 0 <= image.min() < image.max() <= 1
        assert torch.equal(image, data.images[index] / 255)
        assert torch.equal(labels, data.labels[index])
    with pytest.raises(IndexError):
        data[len(data)]


def test_transform_is_applied_to_the_float_image():
    plain = Pendulum("test", size=8)
    changed = Pendulum("test", transform=lambda image: 1 - image, size=8)
    torch.testing.assert_close(changed[3][0], 1 - plain[3][0])
    assert torch.equal(changed[3][1], plain[3][1])
    assert len(changed) == len(plain) == 1461


def test_a_data_loader_goes_through_all_scenes():
    data = Pendulum("test", size=8)
    batches = list(DataLoader(data, batch_size=500, shuffle=True))
    assert [len(images) for images, _ in batches] == [500, 500, 461]
    assert batches[0][0].shape == (500, 3, 8, 8)
    assert rows(torch.cat([labels for _, labels in batches])) == rows(data.labels)
    images, labels = batches[0]
    torch.testing.assert_close(images, Pendulum.render(labels, 8), rtol=0, atol=0.51 / 255)


def test_repr_names_the_options():
    text = repr(Pendulum("test", size=8, noise=0.3, partition="grid", seed=2))
    assert text == "Pendulum(split='test', partition='grid', size=8, noise=0.3, seed=2: 1461 images)"
