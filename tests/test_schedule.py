"""How long images of one's own are trained on."""

import pytest

from causalvae_pyro.recipes import usual_schedule


@pytest.mark.parametrize(
    ("decoder", "count", "options", "expected"),
    [
        ("sprites", 4000, {}, (20, 32)),
        ("sprites", 4000, {"epochs": 30}, (30, 32)),
        ("conv", 4000, {"batch_size": 128}, (81, 128)),
        ("scene", 60_000, {}, (12, 32)),
        # However few images: no more than so many passes over them.
        ("scene", 160, {}, (400, 32)),
        ("backdrop", 160, {}, (200, 32)),
        ("conv", 7, {}, (400, 6)),
        ("conv", 1, {}, (400, 1)),
        ("hierarchical", 8000, {}, (12, 32)),
        ("hierarchical", 500, {}, (67, 32)),
        ("bilinear", 300, {"epochs": 30}, (3, 32)),
    ],
)
def test_few_images_are_seen_more_often(decoder, count, options, expected):
    assert usual_schedule(decoder, count, **options) == expected


def test_what_is_not_chosen_has_no_schedule():
    with pytest.raises(ValueError, match="^decoder: got 'auto'; valid: 'conv', 'sprites'"):
        usual_schedule("auto", 100)
