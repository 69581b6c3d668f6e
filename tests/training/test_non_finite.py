"""NaN and infinity in every parameter, in the middle of training and before evaluation."""

import math

import pytest
import torch

from causalvae_pyro import CausalGraph, cli, counterfactual, fit, load, save
from causalvae_pyro.checkpoints import SaveCheckpoint
from causalvae_pyro.checkpoints.hub import from_pretrained, save_pretrained
from causalvae_pyro.recipes import Recipe
from causalvae_pyro.training import Callback, NonFiniteLossError, TrainingCheckpoint
from causalvae_pyro.training.resuming import STATE, read_state

GRAPH = CausalGraph(["a", "b"], [("a", "b")])
RECIPES = {"conv": Recipe(noise_dim=2), "sprites": Recipe(decoder="sprites")}
VALUES = [math.nan, math.inf, -math.inf]


def make(name):
    torch.manual_seed(0)
    images, labels = torch.rand(12, 1, 16, 16), torch.randn(12, 2)
    return RECIPES[name].build(GRAPH, images, labels), (images, labels)


def parameters(run):
    return {
        f"{part}.{name}": parameter
        for part, module in (("model", run.model), ("guide", run.guide))
        for name, parameter in module.named_parameters()
    }


def spoil(parameter, value):
    parameter.data[(0,) * parameter.ndim] = value


class Poison(Callback):
    """Spoils one number of a parameter after the fourth step."""

    def __init__(self, parameter, value):
        self.parameter, self.value = parameter, value

    def on_step_end(self, state):
        if state.step == 4:
            spoil(self.parameter, self.value)


CASES = [(recipe, name) for recipe in RECIPES for name in parameters(make(recipe)[0])]
# Some of them by default.
SOME = CASES[::17]


def spoilt_training(recipe, name, value, folder, every):
    run, data = make(recipe)
    parameter = parameters(run)[name]
    callbacks = [SaveCheckpoint(folder), Poison(parameter, value)]
    error = None
    try:
        fit(
            run.model,
            run.guide,
            data,
            objective=RECIPES[recipe].objective(run),
            epochs=4,
            batch_size=4,
            device="cpu",
            progress=False,
            callbacks=callbacks,
            checkpoint=TrainingCheckpoint(folder, every=every),
        )
    except NonFiniteLossError as caught:
        error = caught
    good = load(folder)
    assert all(torch.isfinite(tensor).all() for tensor in parameters(good).values()), f"{name}: the checkpoint is spoilt"
    assert torch.isfinite(counterfactual(good.model, good.guide, data[0][:2], {"a": 0.0})).all()
    state = read_state(folder / STATE)
    assert all(torch.isfinite(tensor).all() for tensor in state["loss"].values() if tensor.is_floating_point()), name
    assert error is not None, f"{name}: the training went on with {value}"
    assert state["step"] == 3
    assert "\n" not in str(error)
    return str(error)


def check(cases, values, tmp_path):
    for i, (recipe, name) in enumerate(cases):
        for j, value in enumerate(values):
            # At once where a state is kept after every step; otherwise as soon as the loss or the epoch's end shows it.
            message = spoilt_training(recipe, name, value, tmp_path / f"{i}-{j}", every=1 + 99 * ((i + j) % 2))
            # An infinity that the loss did not show may have spread by its gradient: then it is among those that are counted.
            assert name in message or " more " in message, f"{name}: {message}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_ends_with_an_error_that_names_the_parameter(recipe, tmp_path):
    check([case for case in SOME if case[0] == recipe], [math.nan], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_training_ends_with_an_error_that_names_any_parameter(recipe, tmp_path):
    check([case for case in CASES if case[0] == recipe], VALUES, tmp_path)


@pytest.mark.parametrize("recipe", RECIPES)
def test_saved_and_loaded_as_they_are_and_refused_by_the_commands(recipe, tmp_path, capsys):
    run, _ = make(recipe)
    for name, value in ((name, value) for r, name in SOME if r == recipe for value in VALUES[:2]):
        parameter = parameters(run)[name]
        good = parameter.detach().clone()
        spoil(parameter, value)
        save(run, tmp_path / "run")
        found = parameters(load(tmp_path / "run"))[name]
        assert torch.equal(found.isnan(), parameter.isnan())
        assert torch.equal(found.isinf(), parameter.isinf())
        save_pretrained(run, tmp_path / "shared")
        assert torch.equal(parameters(from_pretrained(tmp_path / "shared"))[name].isfinite(), parameter.isfinite())
        parameter.data.copy_(good)
        for command in (["evaluate"], ["counterfactual", "--do", "a=1"], ["share", "--to", str(tmp_path / "out")]):
            assert cli.main([*command, str(tmp_path / "run")]) == 2
            expected = f"RUN: the parameter {name!r} of {tmp_path / 'run'} holds NaN or infinities: its training has diverged"
            assert capsys.readouterr().err == f"causalvae: error: {expected}\n"
        assert not (tmp_path / "out").exists()


def test_without_a_checkpoint_an_infinity_that_does_not_show_ends_the_training_too(tmp_path):
    run, data = make("conv")
    bias = run.guide.encoder.convolutions[0].bias
    callbacks = [Poison(bias, -math.inf), SaveCheckpoint(tmp_path)]
    expected = r"^parameters: the parameter 'guide.encoder.convolutions.0.bias' became NaN or infinite by step 6 \(epoch 2\)"
    with pytest.raises(NonFiniteLossError, match=expected):
        fit(run.model, run.guide, data, epochs=3, batch_size=4, device="cpu", progress=False, callbacks=callbacks)
    assert load(tmp_path).config["progress"]["epoch"] == 1
