"""Numbers of any size and kind: a value, or one line."""

import math
import re

import numpy as np
import pytest
import torch

from causalvae_pyro import CausalGraph, FixedPrior, Shift, counterfactual
from causalvae_pyro.baselines import IVAEPrior
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.datasets.structural import check_do
from causalvae_pyro.utils.configurable import check_count
from causalvae_pyro.utils.numbers import check_scale, number_tensor
from tests.builders import check_one_line, make_pair

HUGE = 10**400


@pytest.mark.parametrize("value", [HUGE, -HUGE])
def test_beyond_all_numbers_is_infinite(value):
    assert math.isinf(number_tensor(value))


@pytest.mark.parametrize("value", [3, 2**70, True, 0.5, np.float32(0.5), np.int64(4), torch.tensor([1.0, 2.0])], ids=repr)
def test_other_numbers_are_what_they_are(value):
    found = number_tensor(value, dtype=torch.float64)
    assert found.dtype == torch.float64
    assert torch.equal(found, torch.tensor(np.asarray(value, dtype=float)))


@pytest.mark.parametrize("value", [HUGE, Shift(HUGE), lambda natural, parents: HUGE], ids=["hard", "soft", "function"])
def test_interventions_without_end_take_a_line(value):
    model, guide = make_pair(CausalGraph(["a", "b"], [("a", "b")]), (1, 4, 4))
    with pytest.raises(ValueError, match=r"^do\['a'\].* not finite$") as error:
        counterfactual(model, guide, torch.rand(2, 1, 4, 4), {"a": value})
    check_one_line(error)


def test_nor_do_simulators_take_them():
    check_do(Pendulum.graph, {"light": 2**70}, 1)
    with pytest.raises(ValueError, match=r"^do\['light'\]: got a value that is not finite$"):
        check_do(Pendulum.graph, {"light": HUGE}, 1)


@pytest.mark.parametrize("value", [True, False, 2.0, "2", None])
def test_counts_are_whole_numbers(value):
    with pytest.raises(ValueError, match=rf"^num_samples: got {re.escape(repr(value))}; must be an integer, at least 1$"):
        check_count("num_samples", value)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-40, math.nan])
def test_scales_that_nothing_can_be_divided_by(scale):
    with pytest.raises(
        ValueError, match=r"^scale: got \[1.0, .*; must be positive, at least 1.2e-38 \(is a label constant\?\)$"
    ) as error:
        check_scale(torch.tensor([1.0, scale]))
    check_one_line(error)
    # The inverse of the smallest one that is taken is finite.
    smallest = torch.tensor(torch.finfo(torch.float32).tiny)
    check_scale(smallest)
    assert smallest.reciprocal().isfinite()


@pytest.mark.parametrize("make", [FixedPrior.from_labels, lambda labels: IVAEPrior.from_labels(labels, 2)], ids=["ours", "iVAE"])
@pytest.mark.parametrize("scale", [0.0, 1e-40])
def test_labels_on_too_small_a_scale(scale, make):
    with pytest.raises(ValueError, match="^scale: got |^labels: all 5 in column 1, "):
        make(torch.stack([torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 5) * scale], 1))
