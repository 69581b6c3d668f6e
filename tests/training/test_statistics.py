"""Batch normalisation with an average of the weights: its statistics are those of the average."""

import copy

import pytest
import torch
from torch import nn

from causalvae_pyro import fit, load
from causalvae_pyro.checkpoints import SaveCheckpoint
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.networks import SpatialEncoder
from causalvae_pyro.training import Callback
from tests.builders import make_pendulum_pair

COUNT = 48


@pytest.fixture(scope="module")
def data():
    pendulum = Pendulum("test", size=16)
    step = len(pendulum) // COUNT
    return pendulum.images[::step][:COUNT].clone(), pendulum.labels[::step][:COUNT].clone()


def make(data):
    torch.manual_seed(0)
    return make_pendulum_pair(data, encoder=SpatialEncoder((3, 16, 16), 16, channels=4))


def train(pair, data, **options):
    return fit(*pair, data, **{"epochs": 2, "batch_size": 16, "lr": 1e-2, "device": "cpu", "progress": False} | options)


def statistics(*pair):
    return {name: value.clone() for module in pair for name, value in module.named_buffers() if "running" in name}


def same(one, two):
    return one.keys() == two.keys() and bool(one) and all(torch.equal(one[name], two[name]) for name in one)


class Watch(Callback):
    def __init__(self):
        self.steps, self.epochs = [], []

    def on_step_end(self, state):
        self.steps.append(statistics(state.guide))

    def on_epoch_end(self, state):
        assert all(layer.training for layer in state.guide.modules() if isinstance(layer, nn.BatchNorm2d))
        self.epochs.append(statistics(state.guide))


def test_they_are_those_of_the_average(data):
    pair = make(data)
    # One batch of all images: their mean is that of the activations.
    train(pair, data, batch_size=COUNT, epochs=20, ema_decay=0.9)
    seen = []
    layers = [layer for layer in pair[1].modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        layer.register_forward_pre_hook(lambda layer, inputs: seen.append((layer, inputs[0].detach())))
        layer.train()
    before = statistics(pair[1])
    for layer in layers:
        layer.momentum = 0.0
    with torch.no_grad():
        pair[1](data[0] / 255)
    assert len(seen) == len(layers) > 1
    assert same(before, statistics(pair[1]))
    for layer, x in seen:
        torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.running_var, x.var((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_the_training_takes_no_notice(data):
    plain, averaged = Watch(), Watch()
    first, second = make(data), make(data)
    train(first, data, callbacks=[plain])
    train(second, data, callbacks=[averaged], ema_decay=0.5)
    assert len(plain.steps) == len(averaged.steps) == 6
    assert all(same(one, two) for one, two in zip(plain.steps, averaged.steps, strict=True))
    # Without an average they are those of the steps, with one they are not.
    assert same(plain.epochs[-1], plain.steps[-1])
    assert same(statistics(first[1]), plain.steps[-1])
    assert not same(averaged.epochs[-1], averaged.steps[-1])


def test_callbacks_and_files_have_them_too(data, tmp_path):
    watch, pair = Watch(), make(data)
    train(pair, data, callbacks=[watch, SaveCheckpoint(tmp_path)], ema_decay=0.5)
    assert same(statistics(pair[1]), watch.epochs[-1])
    assert same(statistics(pair[1]), statistics(load(tmp_path).guide))
    assert not any(layer.training for layer in pair[1].modules())
    assert {layer.momentum for layer in pair[1].modules() if isinstance(layer, nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize("parts", [1, 3])
def test_they_are_the_same_after_a_resumption(parts, data, tmp_path):
    class Stop(Callback):
        def on_step_end(self, state):
            if state.step == 4:
                raise KeyboardInterrupt

    whole, stopped = make(data), make(data)
    train(whole, data, ema_decay=0.5, micro_batches=parts)
    state = copy.deepcopy(stopped[1].state_dict())
    with pytest.raises(KeyboardInterrupt):
        train(stopped, data, ema_decay=0.5, micro_batches=parts, checkpoint=tmp_path, callbacks=[Stop()])
    for _ in range(2):
        # The second time the training is over.
        stopped[1].load_state_dict(state)
        train(stopped, data, ema_decay=0.5, micro_batches=parts, checkpoint=tmp_path, resume=True)
        assert same(statistics(whole[1]), statistics(stopped[1]))
