"""Temperatures from held-out images make the guide's intervals hold what they say."""

import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro import CausalGraph, Run, abduct, encode, load, save
from causalvae_pyro.guides import BlockDiagonalNormal, CalibratedGuide, DiagonalNormal, FullRankNormal, NormalizingFlow, calibrate
from causalvae_pyro.metrics import interval_coverage
from tests.builders import check_one_line, make_pair, raises

GRAPH, SHAPE, N = CausalGraph(["a", "b", "c"], [("a", "b")]), (1, 4, 4), 2000
#: Of the errors with which the guide reads each concept. It takes them for 0.1.
ERRORS = torch.tensor([0.5, 0.1, 0.02])


def make(family=None, dim=1, **options):
    model, guide = make_pair(GRAPH, SHAPE, "endogenous", family=family or DiagonalNormal(), dim=dim, moved=0.05, **options)
    for module in guide.head.modules():
        if hasattr(module, "log_scale"):
            torch.nn.init.zeros_(module.log_scale.weight)
            torch.nn.init.constant_(module.log_scale.bias, torch.tensor(0.1).log().item())
    return model.eval(), guide.eval()


def data(model, guide, count=N):
    x = torch.rand(count, *SHAPE)
    return x, encode(model, guide, x)[..., 0] + ERRORS * torch.randn(count, 3)


def read(model, guide, x):
    eps = abduct(guide, x, num_samples=300)["eps"]
    with torch.no_grad():
        return model.prior.to_labels(model.scm.to_endogenous(eps))


@pytest.mark.parametrize("family", [DiagonalNormal(), BlockDiagonalNormal(), FullRankNormal()], ids=str)
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_hold_the_labels_of_new_images_as_often_as_they_say(level, family):
    model, guide = make(family)
    calibrated = calibrate(model, guide, *data(model, guide), level=level)
    assert_close(calibrated.temperature, 10 * ERRORS, rtol=0.1, atol=0)
    x, labels = data(model, guide)
    before = interval_coverage(read(model, guide, x), labels, level=level)
    after = interval_coverage(read(model, calibrated, x), labels, level=level)
    assert before[0] < level / 2
    assert before[2] > 0.999
    assert_close(after, torch.full((3,), level), rtol=0, atol=0.025)
    # The mean stays.
    assert_close(abduct(calibrated, x), abduct(guide, x))


def test_labels_may_be_missing_and_the_result_is_saved(tmp_path):
    model, guide = make()
    x, labels = data(model, guide)
    labels[: N // 2, 1] = torch.nan
    calibrated = calibrate(model, guide, x, labels, batch_size=300)
    assert_close(calibrated.temperature, 10 * ERRORS, rtol=0.1, atol=0)
    save(Run(model, calibrated), tmp_path)
    again = load(tmp_path)
    assert isinstance(again.guide, CalibratedGuide)
    assert_close(again.guide.temperature, calibrated.temperature)
    q = (guide.posterior(x[:3])["eps"].base_dist for guide in (again.guide, calibrated))
    assert_close(next(q).stddev, next(q).stddev)


def test_training_sees_the_guide_as_it_is():
    model, guide = make()
    calibrated = CalibratedGuide(guide, model, [5.0, 1.0, 1.0])
    x = torch.rand(2, *SHAPE)
    stds = [calibrated.train(mode).posterior(x)["eps"].base_dist.stddev for mode in (True, False)]
    assert_close(stds[1], stds[0] * torch.tensor([5.0, 1.0, 1.0])[:, None])


def test_coverage_by_hand():
    samples = torch.linspace(-1, 1, 201)[:, None, None].expand(201, 4, 2)
    truth = torch.tensor([[0.0, torch.nan], [0.94, 0.0], [0.96, torch.nan], [-2.0, torch.nan]])
    assert interval_coverage(samples, truth).tolist() == [0.5, 1.0]
    assert interval_coverage(samples, truth, level=0.5).tolist() == [0.25, 1.0]
    assert interval_coverage(samples, truth, level=(0.5, 0.95)).tolist() == [[0.25, 1.0], [0.5, 1.0]]


def test_errors():
    model, guide = make()
    x, labels = data(model, guide, 30)
    for argument, call, words in (
        ("level", lambda: calibrate(model, guide, x, labels, level=1.0), ["1.0"]),
        ("labels", lambda: calibrate(model, guide, x, labels[:, :2]), [r"\[30, 3\]", r"\[30, 2\]"]),
        ("labels", lambda: calibrate(model, guide, x[:10], labels[:10]), ["'a' has 10", "at least 20"]),
        ("temperature", lambda: CalibratedGuide(guide, model, -1.0), ["-1.0"]),
        ("temperature", lambda: CalibratedGuide(guide, model, [1.0, 2.0]), ["3 of them"]),
        ("samples", lambda: interval_coverage(labels, labels), [r"\[30, 3\]"]),
        ("level", lambda: interval_coverage(labels[None], labels, level=0.0), ["0.0"]),
    ):
        with raises(argument, *words) as error:
            call()
        check_one_line(error)
    model, flow = make(NormalizingFlow())
    with pytest.raises(TypeError, match="^guide: its distribution of z is .*; must be Gaussian"):
        CalibratedGuide(flow, model).eval().posterior(x)
