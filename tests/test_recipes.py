"""The default pairs: what they are made of, and what a few steps of the sprites' objective do."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from causalvae_pyro import ConvDecoder, ConvEncoder, counterfactual, fit
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.evaluation.evaluate import evaluate
from causalvae_pyro.guides import HierarchicalGuide, IterativeGuide
from causalvae_pyro.networks import (
    BackdropDecoder,
    HierarchicalDecoder,
    SceneDecoder,
    SpatialEncoder,
    SpriteDecoder,
)
from causalvae_pyro.recipes import Recipe, choose_recipe
from causalvae_pyro.recipes.choice import _choose
from causalvae_pyro.recipes.mirroring import left_right_matters
from causalvae_pyro.recipes.trial import unusual
from causalvae_pyro.recipes.views import VIEWS, misread_after, telling_changes, view
from causalvae_pyro.utils.label_columns import kind_counts, one_hot_categories
from tests.builders import raises
from tests.networks.sprites.scenes import before_backgrounds


@pytest.fixture(scope="module")
def data():
    return Pendulum("train", size=32)


def build(data, labels=None, **options):
    torch.manual_seed(0)
    recipe = Recipe(**options)
    return recipe, recipe.build(data.graph, data.images, data.labels if labels is None else labels)


def test_parts(data):
    _, run = build(data)
    assert type(run.model.decoder) is ConvDecoder
    assert type(run.guide.encoder) is ConvEncoder
    objective = Recipe().objective(run)
    assert (objective.teacher_forcing, [term.name for term in objective.terms]) == (0.0, ["label_fit"])
    objective = Recipe(teacher_forcing=True).objective(run)
    assert (objective.teacher_forcing, [term.name for term in objective.terms]) == (1.0, ["label_fit", "sleep"])
    recipe, run = build(data, decoder="sprites", encoder="spatial", sparsity_weight=7.0)
    assert type(run.model.decoder) is SpriteDecoder
    assert isinstance(run.guide, IterativeGuide)
    assert type(run.guide.guide.encoder) is SpatialEncoder
    assert run.config["recipe"]["decoder"] == "sprites"
    assert run.config["start"]["parts"] == run.model.decoder.sprites
    assert 0 < run.config["start"]["unexplained"] < 1
    objective = recipe.objective(run)
    assert objective.teacher_forcing == 1.0
    assert [term.name for term in objective.terms] == ["label_fit", "effect_sparsity", "sleep"]
    price = objective.terms[1].weight
    assert [price(0.0), price(0.5), price(1.0)] == pytest.approx([7.0, 7.0 * 20**0.5, 140.0])
    # Less than a grey level of 8 bits is no difference.
    assert run.model.likelihood.min_scale == pytest.approx(1 / 255)
    assert objective.terms[2].guide is run.guide


def test_what_the_labels_do_not_say(data):
    recipe, run = build(data, noise_dim=3)
    assert run.model.noise_dim == run.model.decoder.noise_dim == run.guide.noise_dim == 3
    assert type(run.guide.noise_encoder) is SpatialEncoder
    chosen = slice(0, 128)
    objective = recipe.objective(run)
    history = fit(run.model, run.guide, (data.images[chosen], data.labels[chosen]), objective=objective, epochs=1, progress=False)
    assert history["kl_eps_x"][0] > 0
    assert [objective.w_eps_x(p) for p in (0.0, 0.05, 1.0)] == [0.0, 0.5, 1.0]
    for bad in (-1, 2):
        with pytest.raises(ValueError, match="^noise_dim: got"):
            Recipe(decoder="sprites", noise_dim=bad)


def test_the_price_grows_where_a_label_follows_from_the_others(data):
    recipe, run = build(data, decoder="sprites")
    assert run.config["recipe"]["sparsity_weight_growth"] == 20.0
    assert [recipe.objective(run).terms[1].weight(p) for p in (0.0, 1.0)] == pytest.approx([2000.0, 40000.0])
    noisy = data.labels + 0.3 * data.labels.std(0) * torch.randn(data.labels.shape, generator=torch.Generator().manual_seed(0))
    recipe, run = build(data, noisy, decoder="sprites")
    assert run.config["recipe"]["sparsity_weight_growth"] == 1.0
    assert [recipe.objective(run).terms[1].weight(p) for p in (0.0, 1.0)] == [2000.0, 2000.0]
    # What is asked for is had; what has no such price has no growth.
    recipe, run = build(data, decoder="sprites", sparsity_weight_growth=3.0)
    assert recipe.objective(run).terms[1].weight(1.0) == pytest.approx(6000.0)
    assert build(data)[1].config["recipe"]["sparsity_weight_growth"] is None


@pytest.mark.parametrize(("name", "value"), [("sparsity_weight", -5.0), ("sparsity_weight_growth", 0.0)])
def test_prices_that_are_none(name, value):
    with pytest.raises(ValueError, match=f"^{name}: got {value}; must be >"):
        Recipe(decoder="sprites", **{name: value})


def test_the_likelihood_starts_at_the_error_of_drawing_nothing(data):
    for images in (data.images, data.images.float() / 255):
        torch.manual_seed(0)
        run = Recipe(decoder="sprites").build(data.graph, images, data.labels)
        x = data.images.float() / 255
        expected = (x - x.median(0).values).square().mean().sqrt().item()
        assert run.model.likelihood.scale.item() == pytest.approx(expected, rel=0.1)
    # A picture that never changes has no error at all.
    still = data.images[:1].expand(64, -1, -1, -1)
    labels = data.labels[torch.arange(64) * len(data) // 64]
    run = Recipe(decoder="sprites").build(data.graph, still, labels)
    assert run.model.likelihood.scale.item() == pytest.approx(0.01)


def test_missing_labels(data):
    labels = data.labels.clone()
    labels[::2] = torch.nan
    labels[1::4, 0] = torch.nan
    recipe, run = build(data, labels, decoder="sprites")
    assert all(p.isfinite().all() for p in run.model.parameters())
    chosen = slice(0, 256)
    history = fit(
        run.model, run.guide, (data.images[chosen], labels[chosen]), objective=recipe.objective(run), epochs=1, progress=False
    )
    assert torch.tensor(history["loss"]).isfinite().all()


@pytest.mark.parametrize("argument", ["decoder", "encoder"])
def test_errors_name_the_argument(argument):
    with pytest.raises(ValueError, match=f"^{argument}: got 'mlp'; valid: 'conv', "):
        Recipe(**{argument: "mlp"})
    with pytest.raises(ValueError, match="^refinements: got -1; must be at least 0"):
        Recipe(refinements=-1)


@pytest.mark.slow
def test_sprites_draw_effects_that_do_not_follow_their_causes():
    data, test = Pendulum("train", size=64), Pendulum("test", size=64)
    recipe, run = build(data, decoder="sprites")
    fit(run.model, run.guide, (data.images, data.labels), objective=recipe.objective(run), epochs=12, progress=False)
    scores = evaluate(run, test, limit=200, pairs=False)
    assert min(scores["cf_score"].values()) > 0.8
    assert min(scores["cf_r2"].values()) > 0.9


@pytest.mark.parametrize("decoder", ["conv", "sprites", "scene"])
@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float64])
def test_labels_of_any_kind(kind, decoder, data):
    step = len(data) // 48
    images, labels = data.images[::step], data.labels[::step] > data.labels.median(0).values

    def train(labels):
        torch.manual_seed(0)
        recipe = Recipe(decoder=decoder)
        run = recipe.build(data.graph, images, labels)
        objective = recipe.objective(run)
        return fit(
            run.model, run.guide, (images, labels), objective=objective, epochs=1, progress=False, device="cpu", batch_size=16
        )

    # Sums of a hundred thousand nats, in single precision for some kinds of labels.
    assert train(labels.to(kind)).rows[0]["loss"] == pytest.approx(train(labels.float()).rows[0]["loss"], rel=1e-6)


def photographs(count=300, side=16):
    """Binary labels that two patches show, and much that they do not say."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (count, 2), generator=generator).float()
    x = torch.rand(count, 3, side, side, generator=generator)
    x[:, :, :4, :4] = labels[:, 0, None, None, None]
    x[:, :, -4:, -4:] = labels[:, 1, None, None, None]
    return x, labels


def test_left_and_right_matter_where_mirrored_images_are_read_worse():
    generator, grid = torch.Generator().manual_seed(0), torch.linspace(-1, 1, 16)
    place = 1.6 * torch.rand(400, 2, generator=generator) - 0.8
    across, down = ((-8 * (grid - place[:, k, None]) ** 2).exp() for k in (0, 1))
    x = across[:, None, None, :] * down[:, None, :, None]
    assert left_right_matters(x, place) == [0]
    assert left_right_matters(x.transpose(-1, -2), place) == [1]
    place[30:, 0] = torch.nan
    assert left_right_matters(x, place) == []


def blobs(count=800):
    """Blobs on black: their place, how bright and how large they are, and whether they are square."""
    generator, grid = torch.Generator().manual_seed(0), torch.linspace(-1, 1, 24)
    place, bright, size, square = torch.rand(4, count, generator=generator)
    across = (grid - 1.2 * (place[:, None] - 0.5)).abs() / (0.25 + 0.3 * size[:, None])
    down = grid.abs().expand(count, -1) / (0.25 + 0.3 * size[:, None])
    round_ = across[:, None, :] ** 2 + down[:, :, None] ** 2
    box = torch.maximum(across[:, None, :], down[:, :, None].expand(-1, -1, 24)) ** 2
    shape = torch.where((square > 0.5)[:, None, None], box, round_)
    x = (0.3 + 0.6 * bright[:, None, None]) * torch.sigmoid(6 * (1 - shape))
    return x[:, None], torch.stack([place, bright, size, (square > 0.5).float()], 1)


def test_changes_that_labels_tell_of():
    x, labels = blobs()
    assert "shift" in telling_changes(x, labels[:, :1])
    assert telling_changes(x, labels[:, 1:2]) == ["light"]
    assert "zoom" in telling_changes(x, labels[:, 2:3])
    assert telling_changes(x, labels[:, 3:]) == []
    # Whatever the other labels are, and of what is known of them.
    labels[700:, 1] = torch.nan
    assert {"shift", "light", "zoom"} <= set(telling_changes((255 * x).byte(), labels))
    assert telling_changes(x[:150], labels[:150, 1:2]) == []
    # What a change says by chance of few errors is nothing.
    for seed in range(20):
        shuffled = torch.randn(200, 1, generator=torch.Generator().manual_seed(seed))
        assert telling_changes(x[:200], shuffled) == []
    state = torch.get_rng_state()
    telling_changes(x, labels[:, 1:2])
    assert torch.equal(state, torch.get_rng_state())


def dots(count=800):
    """Points of one pixel, one to eight in each image, and how bright they are."""
    generator = torch.Generator().manual_seed(0)
    bright, number = torch.rand(count, generator=generator), torch.randint(1, 9, (count,), generator=generator)
    x = torch.zeros(count, 1, 16, 16)
    for image, value, n in zip(x, bright, number.tolist(), strict=True):
        places = 3 + torch.randperm(100, generator=generator)[:n]
        image[0, 3 + places // 10, 3 + places % 10] = 0.3 + 0.7 * value
    return x, bright[:, None]


def test_resampling_blurs_what_is_measured():
    x, labels = dots()
    state = torch.get_rng_state()
    # A shift by half a pixel takes half of the brightness.
    assert misread_after(x, labels, ("shift",)) == [0]
    assert torch.equal(state, torch.get_rng_state())
    assert misread_after(x, labels, ()) == []
    # Of wide blobs a turn changes nothing, and classes are not measured.
    wide, bright = blobs()
    assert misread_after(wide, bright[:, 1:2], ("turn",)) == []
    assert misread_after(x, (labels > 0.5).float(), ("shift",)) == []
    assert misread_after(x[:300], labels[:300], ("shift",)) == []
    recipe, line = choose_recipe(x, labels, decoder="hierarchical", mirror=True)
    assert recipe.views == ()
    expected = "numbers are read worse by a network that learns from images changed at random"
    assert line.endswith(f"{expected}: no such changes in training (views none)")
    # A category has no error in numbers.
    kind = (labels > 0.5).float() + (labels > 0.8).float()
    assert choose_recipe(x, kind, decoder="hierarchical", mirror=True)[0].views == ()
    assert "numbers" not in choose_recipe(x, kind, kinds=[3], decoder="hierarchical", mirror=True)[1]


def test_categories_are_columns_of_their_kinds():
    labels = torch.tensor([[2.0, 0.5], [torch.nan, 1.5], [0.0, torch.nan]])
    hot = one_hot_categories(labels, [3, 0])
    expected = torch.tensor([[0, 0, 1, 0.5], [torch.nan, torch.nan, torch.nan, 1.5], [1, 0, 0, torch.nan]])
    assert torch.equal(hot.nan_to_num(-1), expected.nan_to_num(-1))
    with raises("kinds", "some of 'sex'; the concepts are fruit, size"):
        kind_counts({"sex": 2}, ["fruit", "size"])
    assert kind_counts({"fruit": ["apple", "fig"]}, ["fruit", "size"]) == [2, 0]
    # A brightness for each of five kinds, in no order.
    generator = torch.Generator().manual_seed(0)
    kind = torch.randint(0, 5, (600,), generator=generator)
    x = torch.tensor([0.1, 0.9, 0.2, 0.8, 0.5])[kind][:, None, None, None].expand(-1, 1, 16, 16)
    recipe, line = choose_recipe(x, kind[:, None].float(), kinds=[5])
    assert recipe.decoder == "conv"
    assert recipe.teacher_forcing
    assert line.startswith("the labels leave 0 % of the pixels' variance unexplained")


def test_what_is_asked_for_beside_auto_is_had():
    """Noise in one vector was refused where the images have noise, and groups where labels say all: with decoders never named."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(240, 1, generator=generator)
    noisy = (255 * torch.rand(240, 1, 16, 16, generator=generator)).byte()
    recipe, line = choose_recipe(noisy, labels, noise_dim=4)
    assert (recipe.decoder, recipe.noise_dim, recipe.teacher_forcing) == ("conv", 4, False)
    assert "noise in one vector, as asked for" in line
    clear = (255 * labels[..., None, None].expand(-1, 1, 16, 16)).byte()
    recipe, line = choose_recipe(clear, labels, grouped=True)
    assert (recipe.decoder, recipe.grouped) == ("hierarchical", True)
    assert Recipe(decoder="auto", grouped=True).grouped
    # Too few to tell: what is known is learned from all the same.
    assert choose_recipe(clear[:50], labels[:50])[0].teacher_forcing
    few = torch.where(torch.arange(240)[:, None] < 100, labels, torch.nan)
    assert not choose_recipe(clear, few)[0].teacher_forcing


def test_training_leaves_out_changes_that_labels_tell_of():
    x, labels = blobs()
    x, labels = x[..., :16, :16], labels[:, 1:3]
    recipe, line = choose_recipe(x, labels, decoder="hierarchical", mirror=True)
    assert "light" not in recipe.views
    assert line.startswith("the labels change with ")
    assert line.endswith(f"no such changes in training (views {' '.join(recipe.views) or 'none'})")
    run = recipe.build({"a": [], "b": []}, x, labels)
    augmentation = run.guide.encoder.augmentation
    assert augmentation.light == 0
    assert all((getattr(augmentation, name) > 0) == (name in recipe.views) for name in VIEWS)
    assert Recipe(**run.config["recipe"] | {"views": list(recipe.views)}) == recipe
    assert choose_recipe(x, labels, decoder="hierarchical", mirror=True, views=("light",))[0].views == ("light",)
    for bad in ("light", ("light", "colour")):
        with pytest.raises(ValueError, match=r"^views: got .*; valid: any of 'shift', 'turn', 'zoom', 'light'"):
            Recipe(views=bad)


def test_views_change_what_they_name():
    x = torch.rand(6, 3, 16, 16)
    torch.testing.assert_close(view(False, ())(x), x)
    lit = view(False, ("light",))(x)
    assert not torch.allclose(lit, x)
    for image, before in zip(lit, x, strict=True):
        inner = (image > 0) & (image < 1)
        line = np.polyfit(before[inner].double(), image[inner].double(), 1)
        np.testing.assert_allclose(np.polyval(line, before[inner].double()), image[inner].double(), atol=1e-5)
    mirrored = view(True, ("shift",), shift=0.0)(x.repeat(4, 1, 1, 1)).unflatten(0, (4, 6))
    assert all(
        torch.isclose(a, b, atol=1e-5).all() or torch.isclose(a, b.flip(-1), atol=1e-5).all()
        for row in mirrored
        for a, b in zip(row, x, strict=True)
    )


def test_a_cast_is_smooth_and_of_each_colour():
    torch.manual_seed(0)
    x = 0.5 * torch.ones(200, 3, 16, 16)
    change = view(False, (), cast=0.2)(x) - x
    assert 0.18 < change.abs().max() <= 0.2
    corners = change[..., [0, 0, -1, -1], [0, -1, 0, -1]]
    # Bilinear between the corners, which have nothing to do with each other, as the colours have not.
    torch.testing.assert_close(
        change[..., 0, :], corners[..., :1] + (corners[..., 1:2] - corners[..., :1]) * torch.arange(16) / 15
    )
    between = torch.corrcoef(corners.flatten(1).T)
    assert (between - torch.eye(12)).abs().max() < 0.3


def test_critics_look_through_coloured_light():
    x, labels = photographs()
    for options, expected in (({}, 0.15), ({"cast": 0.0}, 0.0), ({"views": ("shift",)}, 0.0)):
        recipe = Recipe(decoder="hierarchical", **options)
        run = recipe.build({"a": [], "b": []}, x, labels)
        terms = {term.name: term for term in recipe.objective(run).terms}
        assert [v.cast for v in terms["classifier_consistency"].augmentations] == [expected] * 2
        # The encoder reads images as they are lit.
        assert run.guide.encoder.augmentation.cast == 0


def test_groups_share_their_noise_where_that_explains_images():
    x, labels = photographs(600)
    groups = torch.arange(600) % 20
    person = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    recipe, line = choose_recipe((0.2 * x + 0.8 * person[groups]), labels, groups=groups, mirror=True)
    assert recipe.grouped
    assert line.endswith("images of a group share their noise (grouped True)")
    recipe, line = choose_recipe(x, labels, groups=groups, mirror=True)
    assert not recipe.grouped
    assert line.endswith("the noise is each image's own, not its group's (grouped False)")
    recipe, line = choose_recipe(x, labels, groups=torch.arange(600) // 2, mirror=True)
    assert not recipe.grouped
    assert "not its group's (groups: none has 11 images" in line
    assert choose_recipe(x, labels, groups=groups, grouped=True, mirror=True)[1].endswith("(decoder 'hierarchical')")
    with pytest.raises(ValueError, match="^grouped: got True; with decoder 'conv' it must be False"):
        Recipe(decoder="conv", grouped=True)


def test_the_data_choose(data):
    labels = data.labels[:1000]
    recipe, line = choose_recipe(data.images[:1000], labels, candidates=("conv",))
    assert recipe.decoder == "conv"
    assert "unexplained: no noise of the image's own (decoder 'conv')" in line
    for bad in ((), ("conv", "mlp")):
        with pytest.raises(ValueError, match="^candidates: got .* valid: 'sprites', 'scene', 'conv'"):
            choose_recipe(data.images[:1000], labels, candidates=bad)
    x, own = photographs()
    recipe, line = choose_recipe(x, own, mirror=False, candidates=("conv",))
    assert (recipe.decoder, recipe.mirror) == ("hierarchical", False)
    assert line.startswith("the labels leave 69 % of the pixels' variance unexplained: noise of the image's own at several")
    assert choose_recipe(x, own, decoder="conv")[0].decoder == "conv"
    # The patches are in opposite corners: mirrored images do not show them.
    recipe, line = choose_recipe(x, own, candidates=("conv",))
    assert not recipe.mirror
    assert line.endswith("; mirrored images are read worse: they do not keep their labels (mirror False)")
    assert choose_recipe(torch.cat([x, x.flip(-1)]), torch.cat([own, own]), candidates=("conv",))[0].mirror
    recipe, line = choose_recipe(x[:100], own[:100])
    assert recipe.decoder == "conv"
    assert line.startswith("100 images with all labels are too few")


def lamp(count=400, side=16):
    """A lamp that brightens the whole picture, and a lower half that darkens with a noisy effect of it."""
    generator = torch.Generator().manual_seed(0)
    light = torch.rand(count, generator=generator)
    shade = 0.7 * light + 0.3 * torch.rand(count, generator=generator)
    x = (0.2 + 0.6 * light)[:, None, None, None].expand(-1, 3, side, side).clone()
    x[:, :, side // 2 :] *= (1 - 0.8 * shade)[:, None, None, None]
    return x, torch.stack([light, shade], 1)


def test_a_trial_decides():
    """What brightens in place is for fields; what a square's place says is for layers, with which convolutions cannot compete."""
    x, labels = lamp()
    before = torch.get_rng_state()
    # So small a picture is as easy for convolutions, which of them leaves less is chance.
    layers = ("sprites", "scene")
    recipe, line = choose_recipe(x, labels, dim=2, candidates=layers)
    assert torch.equal(before, torch.get_rng_state())
    assert (recipe.decoder, recipe.dim) == ("scene", 2)
    assert re.search(
        r"unusual images after a trial: sprites \S+, scene \S+; the first that no other .*\(decoder 'scene'\)$", line
    )
    assert choose_recipe(x, labels, dim=2, candidates=layers) == (recipe, line)
    assert re.search(r"after a trial: sprites \S+, scene \S+, conv \S+; the first", choose_recipe(x, labels, dim=2)[1])
    place = torch.randint(0, 12, (400, 2), generator=torch.Generator().manual_seed(1))
    squares = torch.full((400, 3, 16, 16), 0.9)
    for picture, (column, row) in zip(squares, place.tolist(), strict=True):
        picture[0, row : row + 4, column : column + 4] = 0.1
    # Sprites and scenes both draw them to two grey levels; which of the two leaves less is chance.
    assert choose_recipe(squares, place.float(), candidates=("sprites", "conv"))[0].decoder == "sprites"


def rows_of_squares(count, own_background):
    """Four squares, each of which slides along its own row."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(count, 4, generator=generator)
    x = torch.full((count, 3, 32, 32), 0.1)
    if own_background:
        x = 0.6 * F.interpolate(torch.rand(count, 3, 4, 4, generator=generator), 32, mode="bilinear")
    colours = torch.tensor([[0.9, 0.2, 0.2], [0.2, 0.9, 0.3], [0.3, 0.4, 0.95], [0.9, 0.9, 0.2]])
    for row, colour in enumerate(colours):
        for image, start in zip(x, (25 * labels[:, row]).round().long().tolist(), strict=True):
            image[:, 8 * row : 8 * row + 7, start : start + 7] = colour[:, None, None]
    return x, labels


def test_sharp_parts_are_no_noise():
    """Neighbours among few images differ as if by noise; a decoder that draws them says that it is none."""
    recipe, line = choose_recipe(*rows_of_squares(300, False))
    assert recipe.decoder in ("sprites", "scene")
    found = re.search(r"^the labels leave (\d+) % .* unexplained by their neighbours, but a decoder (\d+) %: no noise", line)
    assert int(found[1]) > 10
    assert int(found[2]) < 5
    # A background of each image's own no decoder explains.
    assert choose_recipe(*rows_of_squares(300, True))[0].decoder == "backdrop"


def test_a_trial_that_diverges_is_not_chosen():
    assert _choose({"sprites": float("nan"), "scene": 1e-3, "conv": 1e-3}) == "scene"
    assert _choose({"sprites": 1e-3, "scene": float("nan"), "conv": float("inf")}) == "sprites"


def test_auto(monkeypatch):
    x, labels = lamp()
    errors = {"sprites": 1e-2, "scene": 1e-4, "conv": 1e-2}
    monkeypatch.setattr("causalvae_pyro.recipes.choice._try", lambda *_: errors)
    recipe = Recipe(decoder="auto", dim=2)
    run = recipe.build({"light": [], "shade": ["light"]}, x, labels, {"more": 1})
    assert type(run.model.decoder) is SceneDecoder
    assert run.config["recipe"]["decoder"] == "scene"
    assert "(decoder 'scene')" in run.config["chosen"]
    assert run.config["more"] == 1
    terms = recipe.objective(run).terms
    assert [term.name for term in terms] == ["label_fit", "effect_sparsity", "sleep", "field_sparsity"]
    # At the end it is the same, whether it has grown or not.
    for growth in (1.0, 20.0):
        terms = Recipe(decoder="scene", sparsity_weight_growth=growth).objective(run).terms
        assert [terms[3].weight(p) for p in (0.0, 1.0)] == pytest.approx([2.0 / growth, 2.0])
    assert Recipe(decoder="scene", sparsity_weight=0.0).objective(run).terms[3].weight(0.5) == 0.0


def test_the_strongest_assumption_is_taken_that_no_weaker_one_beats_by_a_tenth():
    # Contact, rotation, generations: trials at 64 x 64.
    assert _choose({"sprites": 1.2e-4, "scene": 9.4e-5, "conv": 1.1e-3}) == "scene"
    assert _choose({"sprites": 1.2e-5, "scene": 1.5e-5, "conv": 4.1e-4}) == "sprites"
    assert _choose({"sprites": 2.6e-5, "scene": 2.2e-5, "conv": 1.6e-4}) == "sprites"
    assert _choose({"sprites": 1e-2, "scene": 2.1e-4, "conv": 1.7e-4}) == "conv"
    assert _choose({"sprites": 1e-2, "scene": 1.8e-4, "conv": 1.7e-4}) == "scene"


def test_unusual_effects_are_held_out():
    torch.manual_seed(0)
    cause = torch.randn(1000)
    noise = torch.randn(1000)
    labels = torch.stack([cause, 3 * cause + 0.5 * noise + 7, torch.randn(1000)], 1)
    held = unusual(labels)
    assert held.sum() == 200
    # All but for what chance adds to the correlations.
    assert noise[held].abs().min() > 0.8 * noise[~held].abs().max()
    # Where no label follows from another, chance decides.
    free = unusual(torch.randn(1000, 3))
    assert 190 <= free.sum() <= 210
    # A label twice over, and one that is the same everywhere.
    assert 0 < unusual(torch.stack([cause, cause, torch.ones(1000)], 1)).sum() < 1000


def test_parts_for_photographs():
    x, labels = photographs()
    labels[:, 1] = torch.randn(300, generator=torch.Generator().manual_seed(1)) * 3 + 5
    labels[0, 0] = torch.nan
    recipe, run = build_photographs(x, labels)
    assert type(run.model.decoder) is HierarchicalDecoder
    assert type(run.guide) is HierarchicalGuide
    assert run.config["binary"] == [True, False]
    prior = run.model.prior
    assert (prior.shift[0], prior.scale[0], prior.std[0]) == pytest.approx((0.5, 0.5, 0.3))
    assert (prior.shift[1].item(), prior.scale[1].item(), prior.std[1].item()) == pytest.approx((5.0, 3.0, 0.05), abs=0.3)
    objective = recipe.objective(run)
    assert [term.name for term in objective.terms] == ["label_fit", "classifier_fit", "classifier_consistency"]
    assert objective.terms[1].binary.tolist() == [True, False]
    assert (objective.w_eps, objective.w_z) == (0.0, 1.0)
    other = build_photographs(x, labels, w_eps=0.3, w_z=2.0)[0].objective(run)
    assert (other.w_eps, other.w_z) == (0.3, 2.0)
    weight = objective.terms[2].weight
    assert (weight(0.05), weight(1.0)) == (0.0, recipe.consistency)
    assert build_photographs(x, labels, realism=0.0)[0].objective(run).terms[2].discriminator is None
    # What reads the concepts that are to stay takes none of them from another.
    assert objective.terms[1].balanced == [False, False]
    priced = build_photographs(x, labels, preservation=0.5)[0].objective(run)
    assert priced.terms[1].balanced == [False, False, True]
    assert priced.terms[2].preservation == 0.5
    fit(run.model, run.guide, (x, labels), objective=priced, epochs=1, batch_size=100, progress=False, device="cpu")
    fit(run.model, run.guide, (x, labels), objective=objective, epochs=1, batch_size=100, progress=False, device="cpu")


def build_photographs(x, labels, **options):
    recipe = Recipe(decoder="hierarchical", **options)
    return recipe, recipe.build({"a": [], "b": ["a"]}, x, labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"realism": -1.0}, "^realism: got -1.0; must be >= 0"),
        ({"consistency": -1.0}, "^consistency: got -1.0; must be >= 0"),
        ({"preservation": -1.0}, "^preservation: got -1.0; must be >= 0"),
        ({"cast": -0.1}, "^cast: got -0.1; must be >= 0"),
        ({"noise_dim": 4, "decoder": "hierarchical"}, "^noise_dim: got 4; must be at least 0, and 0 with decoder 'hierarchical'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


def discs(count=300, missing=False):
    """A disc that two labels place, before a background of the image's own."""
    images, z, masks = before_backgrounds(count)
    labels = 5 + 2 * z[..., 0]
    if missing:
        labels[::5] = torch.nan
        labels[1::5, 1] = torch.nan
    return (images * 255).round().to(torch.uint8), labels, masks


def build_backdrop(images, labels, **options):
    torch.manual_seed(0)
    recipe = Recipe(decoder="backdrop", **options)
    return recipe, recipe.build({"across": [], "down": ["across"]}, images, labels, {"more": 1})


def test_parts_before_backgrounds():
    images, labels, _ = discs()
    recipe, run = build_backdrop(images, labels, dim=2)
    decoder = run.model.decoder
    assert type(decoder) is BackdropDecoder
    assert (decoder.scene.sprites, decoder.dim) == (1, 2)
    # 16 pixels: two resolutions, of 4 and 8 pixels, with noise at the coarser one.
    assert decoder.backdrop.noise_shapes == [(32, 4, 4), (0, 8, 8)]
    assert (type(run.guide), run.guide.refinements) == (IterativeGuide, 1)
    assert (type(run.guide.guide), type(run.guide.guide.encoder)) == (HierarchicalGuide, SpatialEncoder)
    assert build_backdrop(images, labels, refinements=3)[1].guide.refinements == 3
    assert (run.config["recipe"]["decoder"], run.config["more"]) == ("backdrop", 1)
    assert run.model.prior.std[0].item() == pytest.approx(0.05)
    assert build_backdrop(images, labels, prior_std=0.2)[1].model.prior.std[0].item() == pytest.approx(0.2)
    assert run.model.likelihood.min_scale == pytest.approx(1 / 255)
    objective = recipe.objective(run)
    assert (objective.w_eps, objective.w_z, objective.teacher_forcing, objective.concepts_first) == (0.0, 1.0, 1.0, 0.25)
    assert [objective.w_eps_x(p) for p in (0.0, 0.25, 0.4, 0.55, 1.0)] == pytest.approx([0.02, 0.02, 0.5, 1.0, 1.0])
    assert [term.name for term in objective.terms] == ["label_fit", "effect_sparsity", "sleep"]
    # The price of an effect is to the likelihood what it is where that is as sharp as a grey level.
    sparsity = objective.terms[1]
    assert sparsity.sharpness == pytest.approx(1 / 255)
    # Its labels are independent of each other.
    assert run.config["recipe"]["sparsity_weight_growth"] == 1.0
    assert [sparsity.weight(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([2000.0, 2000.0, 2000.0])
    weight = Recipe(decoder="backdrop", sparsity_weight=100.0, sparsity_weight_growth=20.0).objective(run).terms[1].weight
    assert [weight(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([100.0, 100 * 20**0.5, 2000.0])
    assert (objective.terms[2].guide, objective.terms[2].noise) == (run.guide, False)


@pytest.mark.parametrize("missing", [False, True])
def test_a_few_steps_before_backgrounds(missing):
    images, labels, masks = discs(200, missing=missing)
    recipe, run = build_backdrop(images, labels)
    objective = recipe.objective(run)
    history = fit(
        run.model, run.guide, (images, labels), objective=objective, epochs=8, batch_size=32, progress=False, device="cpu"
    )
    assert torch.tensor(history["loss"]).isfinite().all()
    # A sprite lies on each disc, whatever is behind it.
    run.model.eval(), run.guide.eval()
    known = ~labels.isnan().any(1)
    z = run.model.prior(labels[known]).mean
    drawn = run.model.decoder(z, torch.zeros(len(z), run.model.noise_dim)).sigmoid()
    disc = drawn.movedim(1, -1)[masks[known]]
    assert (disc - torch.tensor([0.9, 0.05, 0.05])).abs().mean() < 0.1
    # An intervention that moves it changes what is there and where it was, and nothing else.
    far = counterfactual(run.model, run.guide, images[:40], {"across": 7.0}, batch_size=40)
    near = counterfactual(run.model, run.guide, images[:40], {"across": 3.0}, batch_size=40)
    changed = (far - near).abs().amax(1)
    assert changed[:, :, 1:4].amax((1, 2)).min() > 0.1
    assert changed[:, :, -4:-1].amax((1, 2)).min() > 0.1
    assert changed[:, [0, -1]].max() < 0.05


def test_nothing_before_the_background_moves():
    images, labels, _ = discs()
    with pytest.raises(ValueError, match="^images: nothing of one colour .*use a HierarchicalDecoder .decoder 'hierarchical'.$"):
        build_backdrop(images, labels[torch.randperm(len(labels))])
    with pytest.raises(ValueError, match="^kinds: got categories, which decoder 'backdrop' cannot have"):
        Recipe(decoder="backdrop").build({"across": [], "down": []}, images, labels, kinds={"down": 3})
    with pytest.raises(ValueError, match="^noise_dim: got 4; must be at least 0, and 0 with decoder 'backdrop'"):
        Recipe(decoder="backdrop", noise_dim=4)
    with pytest.raises(ValueError, match="^grouped: got True; with decoder 'backdrop' it must be False"):
        Recipe(decoder="backdrop", grouped=True)


def test_the_data_choose_a_backdrop():
    images, labels, _ = discs(240)
    recipe, reason = choose_recipe(images, labels)
    assert recipe.decoder == "backdrop"
    some = torch.where(torch.arange(240)[:, None] < 30, torch.nan, labels)
    assert choose_recipe(images, some)[0].decoder == "backdrop"
    assert "2 of 2 concepts move parts of one colour: before a background of each image's own (decoder 'backdrop')" in reason
    # Not where nothing moves with the labels, nor where it could not be used.
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    assert choose_recipe(images, shuffled)[0].decoder == "hierarchical"
    assert choose_recipe(images, labels, candidates=("conv",))[0].decoder == "hierarchical"
    assert choose_recipe(images, labels, grouped=True)[0].decoder == "hierarchical"
    # One concept of two is not enough: the other may be anything.
    half = torch.stack([labels[:, 0], shuffled[:, 1]], 1)
    assert choose_recipe(images, half)[0].decoder == "hierarchical"
    assert choose_recipe(images, labels, decoder="backdrop") == (Recipe(decoder="backdrop"), "")
