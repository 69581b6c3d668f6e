"""What counterfactuals must satisfy where nobody knows the truth: against closed forms and loops."""

import math
import re

import numpy as np
import pytest
import torch

from causalvae_pyro.metrics import composition, effectiveness, minimality, reversibility

# Composition and reversibility ---------------------------------------------------------------------------------------


@pytest.fixture
def x():
    return torch.rand(3, 2, 4, 6, generator=torch.Generator().manual_seed(0))


def test_nothing_drifts_under_the_identity(x):
    drift = composition(lambda x: x, x)
    assert drift.dtype == torch.float64
    assert drift.tolist() == [0.0] * 10
    assert reversibility(lambda x: x, lambda x: x, x).tolist() == [0.0]


def test_a_constant_offset_adds_up(x):
    torch.testing.assert_close(composition(lambda x: x + 0.01, x), 0.01 * torch.arange(1.0, 11).double(), atol=1e-6, rtol=0)
    # Its sign cannot cancel over the pixels, nor over the images.
    signs = torch.tensor([1.0, -1.0, 1.0])[:, None, None, None] * torch.tensor([1.0, -1.0])[:, None, None]
    torch.testing.assert_close(composition(lambda x: x + 0.01 * signs, x, times=1).item(), 0.01, atol=1e-6, rtol=0)


def test_a_contraction_converges(x):
    drift = composition(lambda x: 0.75 * x, x, times=5)
    expected = x.double().mean() * (1 - 0.75 ** torch.arange(1.0, 6).double())
    torch.testing.assert_close(drift, expected, atol=1e-6, rtol=0)


def test_drift_is_measured_from_the_first_image_on(x):
    expected = [(1 - 2 * x).abs().mean().item(), 0.0, (1 - 2 * x).abs().mean().item()]
    assert composition(lambda x: 1 - x, x, times=3).tolist() == pytest.approx(expected, abs=1e-6)


def test_drift_is_a_mean_over_images_channels_and_pixels(x):
    def one(now):
        now = now.clone()
        now[1, 0, 2, 3] += 0.5
        return now

    assert composition(one, x, times=2).tolist() == pytest.approx([0.5 / x.numel(), 1 / x.numel()], rel=1e-5)


def test_an_exact_undo_brings_the_image_back_any_number_of_times(x):
    assert reversibility(lambda x: 0.25 * x, lambda x: 4 * x, x, times=6).tolist() == [0.0] * 6


def test_what_the_intervention_loses_no_undo_brings_back(x):
    drift = reversibility(lambda x: (x + 0.4).clamp(max=1), lambda x: x - 0.4, x, times=3)
    # Clipped once, there is nothing left to clip.
    assert drift.tolist() == pytest.approx([(x - 0.6).clamp(min=0).mean().item()] * 3, abs=1e-6)


def test_an_undo_that_falls_short_adds_up(x):
    drift = reversibility(lambda x: x + 0.1, lambda x: x - 0.08, x, times=3)
    assert drift.tolist() == pytest.approx([0.02, 0.04, 0.06], abs=1e-6)


def test_every_step_starts_from_the_last_image_alone(x):
    calls = []

    def step(name):
        return lambda now: calls.append((name, now)) or now + 1

    assert len(reversibility(step("do"), step("undo"), x, times=2)) == 2
    assert [name for name, _ in calls] == ["do", "undo", "do", "undo"]
    for passed, (_, now) in enumerate(calls):
        torch.testing.assert_close(now, x + passed)


@pytest.mark.parametrize("times", [0, -1])
def test_bad_numbers_of_times(times, x):
    for call in (lambda: composition(lambda x: x, x, times=times), lambda: reversibility(abs, abs, x, times=times)):
        with pytest.raises(ValueError, match=f"^times: got {times}; must be at least 1"):
            call()


@pytest.mark.parametrize("step", ["null", "do", "undo"])
def test_functions_that_change_the_shape(step, x):
    def grey(x):
        return x.mean(1, keepdim=True)

    # Images of one channel would broadcast.
    message = r"^x: a function made images of shape \[3, 1, 4, 6\] of images of shape \[3, 2, 4, 6\]"
    calls = {
        "null": lambda: composition(grey, x),
        "do": lambda: reversibility(grey, abs, x),
        "undo": lambda: reversibility(abs, grey, x),
    }
    with pytest.raises(ValueError, match=message):
        calls[step]()


# Effectiveness -------------------------------------------------------------------------------------------------------


def test_effectiveness_of_numbers_is_the_mean_absolute_error_of_every_column():
    intended = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])
    predicted = intended + torch.tensor([[0.5, 0.0], [-0.5, 0.0], [0.5, 8.0], [-0.5, 0.0]])
    error = effectiveness(predicted, intended)
    assert error.dtype == torch.float64
    assert error.tolist() == [0.5, 2.0]
    assert effectiveness(intended, intended).tolist() == [0.0, 0.0]
    assert effectiveness(predicted[:, 0], intended[:, 0]).item() == 0.5
    assert effectiveness(predicted.double()[:, :, None], intended[:, :, None]).tolist() == [[0.5], [2.0]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_effectiveness_of_classes_is_the_share_that_agrees(dtype):
    intended = torch.tensor([0, 1, 1, 1, 0]).to(dtype)
    assert effectiveness(torch.tensor([0, 1, 0, 1, 1]), intended).item() == pytest.approx(0.6)
    assert effectiveness(intended, intended).item() == 1.0
    assert effectiveness(1 - intended.long(), intended).item() == 0.0


@pytest.mark.parametrize(
    ("predicted", "intended", "message"),
    [
        (torch.zeros(3, 1), torch.zeros(3), "predicted: expected intended's shape [3] with rows, got [3, 1]"),
        (torch.zeros(2), torch.zeros(3), "predicted: expected intended's shape [3] with rows, got [2]"),
        (torch.zeros(0, 2), torch.zeros(0, 2), "predicted: expected intended's shape [0, 2] with rows, got [0, 2]"),
        (torch.zeros(3), torch.zeros(3).long(), "predicted: got torch.float32 beside intended's torch.int64; give numbers or"),
        (torch.zeros(3).int(), torch.zeros(3), "predicted: got torch.int32 beside intended's torch.float32; give numbers or"),
    ],
    ids=["columns", "rows", "none", "numbers for classes", "classes for numbers"],
)
def test_invalid_predictions(predicted, intended, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        effectiveness(predicted, intended)


# Minimality ----------------------------------------------------------------------------------------------------------


def classes_by_hand(before, after, bins):
    """Which bin of equal width a number lies in; those beyond the factual ones lie in the outermost."""
    low, high = min(before), max(before)

    def place(value):
        return min(max(math.floor((value - low) / (high - low) * bins), 0), bins - 1)

    return [place(value) for value in before], [place(value) for value in after]


def minimality_by_hand(factual, counterfactual, before, after, weights):
    """One image and one comparison at a time."""
    scores = []
    for i in range(len(factual)):
        moved = np.abs(counterfactual[i] - factual[i]).mean()
        target, same = [], []
        for j in range(len(factual)):
            if j != i:
                distance = np.abs(factual[j] - factual[i]).mean()
                target += [distance <= moved] * (before[j] == after[i])
                same += [distance >= moved] * (before[j] == before[i])
        if target and same:
            too_far, too_near = np.mean(target), np.mean(same)
            scores.append(math.log(weights[0] * math.exp(too_far) + weights[1] * math.exp(too_near)))
    return np.mean(scores), len(scores)


def features(count, seed):
    generator = torch.Generator().manual_seed(seed)
    factual = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return factual, factual + torch.rand(count, 1, generator=generator).double() * torch.randn(count, 3, generator=generator)


@pytest.mark.parametrize("weights", [(0.8, 0.2), (0.5, 0.5), (1.0, 0.0), (0.0, 3.0)], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_minimality_of_classes_against_loops(weights, seed):
    factual, counterfactual = features(40, seed)
    before, after = torch.randint(0, 4, (2, 40), generator=torch.Generator().manual_seed(seed))
    # A class of one image has nothing to compare with on either side; neither has a class that does not occur.
    before[0], after[1:3] = 7, torch.tensor([7, 9])
    expected, used = minimality_by_hand(factual.numpy(), counterfactual.numpy(), before.tolist(), after.tolist(), weights)
    assert used == 38
    assert minimality(factual, counterfactual, before, after, weights=weights) == pytest.approx(expected, rel=1e-12)


def test_distances_that_tie_count_on_both_sides():
    generator = torch.Generator().manual_seed(0)
    factual, counterfactual = torch.randint(0, 3, (2, 30, 2), generator=generator).double()
    before, after = torch.randint(0, 2, (2, 30), generator=generator)
    expected, _ = minimality_by_hand(factual.numpy(), counterfactual.numpy(), before.tolist(), after.tolist(), (0.8, 0.2))
    assert minimality(factual, counterfactual, before, after) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bins", [1, 2, 10, 25])
@pytest.mark.parametrize("seed", [0, 1])
def test_minimality_of_numbers_against_loops(bins, seed):
    factual, counterfactual = features(40, seed)
    before, after = torch.randn(2, 40, generator=torch.Generator().manual_seed(seed))
    after[3], after[4] = 9.0, -9.0
    classes = classes_by_hand(before.tolist(), after.tolist(), bins)
    expected, used = minimality_by_hand(factual.numpy(), counterfactual.numpy(), *classes, (0.8, 0.2))
    assert (used == 40) == (bins < 3)
    assert minimality(factual, counterfactual, before, after, bins=bins) == pytest.approx(expected, rel=1e-12)
    if bins == 10:
        assert minimality(factual, counterfactual, before, after) == pytest.approx(expected, rel=1e-12)


def test_numbers_in_bins_are_the_classes_of_the_bins():
    factual, counterfactual = features(30, 2)
    label, value = torch.randint(0, 5, (2, 30), generator=torch.Generator().manual_seed(3))
    label[:5] = torch.arange(5)
    expected = minimality(factual, counterfactual, label, value)
    assert minimality(factual, counterfactual, 10.0 * label, 10.0 * value, bins=5) == expected
    # Of another type than the factual values.
    assert minimality(factual.float(), counterfactual, 10.0 * label, 10 * value, bins=5) == pytest.approx(expected, abs=0.01)
    # Values that are all the same have one bin.
    same = torch.full((30,), 0.3)
    assert minimality(factual, counterfactual, same, same) == minimality(factual, counterfactual, 0 * label, 0 * value)


@pytest.fixture
def clusters():
    """Two classes of ten images around 0 and 4, half a unit wide, and the intervention that swaps the classes."""
    label = torch.arange(20) // 10
    factual = 4.0 * label + torch.linspace(-0.25, 0.25, 10).repeat(2)
    return factual[:, None], label, 1 - label


def test_minimality_is_best_where_the_change_just_suffices(clusters):
    factual, before, after = clusters
    direction = 1.0 - 2 * before[:, None]

    def score(distance, **options):
        return minimality(factual, factual + distance * direction, before, after, **options)

    right, too_little, too_much = score(3.0), score(0.0), score(9.0)
    # Farther than any image of its own class, nearer than any of the other.
    assert right == pytest.approx(0.0, abs=1e-12)
    # The factual image itself: all images of its class are at least as far.
    assert too_little == pytest.approx(math.log(0.8 + 0.2 * math.e))
    assert too_much == pytest.approx(math.log(0.8 * math.e + 0.2))
    # Too much weighs more than too little, by the default weights; each is blind to the other's.
    assert right < too_little < too_much
    assert score(9.0, weights=(0.0, 1.0)) == score(0.0, weights=(1.0, 0.0)) == score(3.0, weights=(0.5, 0.5)) == 0.0
    assert score(0.0, weights=(0.0, 1.0)) == score(9.0, weights=(1.0, 0.0)) == pytest.approx(1.0)
    # From there it gets worse both ways, never beyond [0, 1].
    nearer, farther = [score(d) for d in (0.5, 0.3, 0.2, 0.1, 0.0)], [score(d) for d in (3.5, 3.7, 3.9, 4.2, 4.5)]
    assert nearer == sorted(nearer)
    assert farther == sorted(farther)
    assert min(nearer + farther) >= 0
    assert max(nearer + farther) <= 1


def test_half_of_the_class_is_nearer(clusters):
    factual, before, after = clusters
    # The first image becomes like the sixth of the ten of the other class: five are nearer, and the sixth is as far. The other
    # images stay as they are, for which no image of the class they should have is near enough.
    counterfactual = factual.clone()
    counterfactual[0] = factual[15]
    weights = (1.0, 0.0)
    alone = 20 * minimality(factual, counterfactual, before, after, weights=weights)
    assert alone == pytest.approx(6 / 10)


def test_images_that_compare_with_nothing_are_left_out():
    factual, counterfactual = features(6, 0)
    before, after = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([1, 1, 9, 0, 2, 0])
    # The third is set to what nobody has; the last is the only one of its class, but the fifth can be set to it.
    used = [0, 1, 3, 4]
    expected, count = minimality_by_hand(factual.numpy(), counterfactual.numpy(), before.tolist(), after.tolist(), (0.8, 0.2))
    assert count == 4
    assert minimality(factual, counterfactual, before, after) == pytest.approx(expected)
    # What they are like makes no difference.
    counterfactual[[i for i in range(6) if i not in used]] += 100
    assert minimality(factual, counterfactual, before, after) == pytest.approx(expected)
    for values in (torch.full((6,), 9), before.new_tensor([3, 3, 3, 3, 3, 3])):
        with pytest.raises(ValueError, match=r"^after: no value set occurs among the other factual images"):
            minimality(factual, counterfactual, before, values)
    # Set to one's own value, with nobody else who has it.
    with pytest.raises(ValueError, match=r"^after: no value set occurs"):
        minimality(factual, counterfactual, torch.arange(6), torch.arange(6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factual": torch.zeros(6)}, "factual: expected [N, f] beside counterfactual's [6, 3], got [6]"),
        (
            {"factual": torch.zeros(6), "counterfactual": torch.zeros(6)},
            "factual: expected [N, f] beside counterfactual's [6], got",
        ),
        ({"counterfactual": torch.zeros(6, 1)}, "factual: expected [N, f] beside counterfactual's [6, 1], got [6, 3]"),
        ({"before": torch.zeros(5)}, "before: expected [6] values, got [5] and [6]"),
        ({"before": torch.zeros(6, 1), "after": torch.zeros(6, 1)}, "before: expected [6] values, got [6, 1] and [6, 1]"),
        ({"after": torch.zeros(7)}, "before: expected [6] values, got [6] and [7]"),
        ({"bins": 0}, "bins: got 0; must be at least 1"),
        ({"weights": (-0.1, 1.1)}, "weights: got (-0.1, 1.1); must be >= 0 and not both 0"),
        ({"weights": (1.1, -0.1)}, "weights: got (1.1, -0.1); must be >= 0 and not both 0"),
        ({"weights": (0.0, 0.0)}, "weights: got (0.0, 0.0); must be >= 0 and not both 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_invalid_arguments_of_minimality(changes, message):
    valid = {"factual": torch.rand(6, 3), "counterfactual": torch.rand(6, 3), "before": torch.zeros(6), "after": torch.zeros(6)}
    minimality(**valid)
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        minimality(**valid | changes)
