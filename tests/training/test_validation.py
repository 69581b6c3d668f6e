"""The loss of images held out, beside that of the training."""

import random

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.utils.data import TensorDataset

from causalvae_pyro import CausalELBO, Recipe, fit
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.networks import MLPEncoder, SpatialEncoder
from causalvae_pyro.objectives import LabelFit, SleepPhase
from causalvae_pyro.training import Callback, EarlyStopping
from causalvae_pyro.training.resuming import STATE, read_state
from causalvae_pyro.utils.modes import evaluation_mode
from tests.builders import check_one_line, make_pendulum_pair, raises

OPTIONS = {"epochs": 3, "batch_size": 24, "device": "cpu", "progress": False, "seed": 1}


@pytest.fixture(scope="module")
def data():
    pendulum = Pendulum("test", size=16)
    return pendulum.images[::15][:72].clone(), pendulum.labels[::15][:72].clone()


@pytest.fixture(scope="module")
def held():
    pendulum = Pendulum("test", size=16)
    return pendulum.images[7::50][:29].clone(), pendulum.labels[7::50][:29].clone()


def make(data, **options):
    return make_pendulum_pair(data, **options)


def normalised(data):
    torch.manual_seed(1)
    return make(data, encoder=SpatialEncoder((3, 16, 16), 16, channels=4))


def same(first, second):
    for a, b in zip(first, second, strict=True):
        for name, value in a.state_dict().items():
            assert torch.equal(value.nan_to_num(9.0), b.state_dict()[name].nan_to_num(9.0)), name


class Draws(Callback):
    """Draws from every generator."""

    def __init__(self):
        self.drawn = []

    def on_epoch_end(self, state):
        self.drawn.append([torch.rand(()).item(), random.random(), float(np.random.rand())])  # noqa: NPY002


class Steps(Callback):
    """Counts them."""

    count = 0

    def on_step_end(self, state):
        self.count += 1


def photographs(data):
    """The recipe whose terms remember labels: with numbers among them, and a classifier that weighs them."""
    torch.manual_seed(1)
    recipe = Recipe(decoder="hierarchical", preservation=0.5)
    run = recipe.build(Pendulum("test", size=16).graph, *data)
    return run.model, run.guide, recipe.objective(run)


def test_terms_do_not_remember_it(data, held):
    first, second = photographs(data), photographs(data)
    options = OPTIONS | {"epochs": 4}
    fit(*first[:2], data, objective=first[2], **options)
    fit(*second[:2], data, objective=second[2], validation=held, **options)
    same(first[:2], second[:2])
    same(first[2].terms[1:], second[2].terms[1:])


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}, {"micro_batches": 3}], ids=str)
@pytest.mark.parametrize("build", [make, normalised])
def test_training_takes_no_notice_of_it(build, options, data, held):
    draws = Draws(), Draws()
    objectives = []
    pairs = build(data), build(data)
    for pair in pairs:
        objectives.append(CausalELBO(terms=[LabelFit(), SleepPhase(pair[1])]))
    plain = fit(*pairs[0], data, objective=objectives[0], callbacks=[draws[0]], **OPTIONS, **options)
    watched = fit(*pairs[1], data, objective=objectives[1], callbacks=[draws[1]], validation=held, **OPTIONS, **options)
    same(*pairs)
    assert draws[0].drawn == draws[1].drawn
    clock = {"seconds", "images_per_second"}
    for row, other in zip(plain.rows, watched.rows, strict=True):
        assert {k: v for k, v in row.items() if k not in clock} == {
            k: v for k, v in other.items() if k not in clock and not k.startswith("validation_")
        }
    terms = {"loss", "reconstruction", "kl_z", "label_fit", "sleep"}
    assert {name for name in watched.columns if name.startswith("validation_")} == {f"validation_{name}" for name in terms}


def test_it_is_the_objective_of_the_weights_at_the_epochs_end(data, held):
    """Of a pair whose training moves nothing, and of the average that callbacks see."""
    found = []

    class Asks(Callback):
        def on_epoch_end(self, state):
            objective = CausalELBO(terms=[LabelFit()], num_particles=200, vectorize_particles=False)
            with torch.no_grad(), evaluation_mode(state.model, state.guide):
                x = held[0].float() / 255 if held[0].dtype == torch.uint8 else held[0]
                found.append(objective.differentiable_loss(state.model, state.guide, x, held[1]).item() / len(held[1]))

    objective = CausalELBO(terms=[LabelFit()], num_particles=50, vectorize_particles=False)
    history = fit(
        *make(data), data, validation=held, objective=objective, ema_decay=0.9, callbacks=[Asks()], **OPTIONS | {"epochs": 2}
    )
    # Of samples of the guide: their spread is a few hundredths.
    assert history["validation_loss"] == pytest.approx(found, rel=5e-3)
    assert history["validation_loss"][0] != pytest.approx(history["validation_loss"][1], rel=5e-3)
    assert history["validation_loss"] != pytest.approx(history["loss"], rel=5e-3)


def test_epochs_differ_by_their_weights_alone(data, held):
    history = fit(*make(data), data, validation=held, optimizer=lambda p: torch.optim.SGD(p, lr=1e-30), schedule=None, **OPTIONS)
    assert len(set(history["validation_loss"])) == 1
    assert len(set(history["loss"])) == 3


def test_all_images_count_alike_whatever_the_batches(data, held):
    # Fewer than a batch, and a last batch that is smaller; nothing is drawn where the reconstruction alone is counted.
    columns = []
    for size in (8, 24, 72):
        pair = make(data)
        for part in pair:
            for p in part.parameters():
                p.requires_grad_(False)
        pair[0].scm.log_noise.requires_grad_(True)
        options = OPTIONS | {"epochs": 1, "batch_size": size}
        history = fit(*pair, data, validation=held, optimizer=lambda p: torch.optim.SGD(p, lr=1e-30), **options)
        columns.append(history["validation_kl_z"][0])
    assert columns == pytest.approx([columns[0]] * 3, rel=1e-5)


@pytest.mark.parametrize("form", ["dataset", "simulator", "bytes", "missing", "unlabelled"])
def test_forms_of_the_data(form, data, held):
    images, labels = held
    objective = None
    if form == "dataset":
        given = TensorDataset(images.float() / 255 if images.dtype == torch.uint8 else images, labels)
    elif form == "simulator":
        given = Pendulum("test", size=16)
        given.images, given.labels = held
    elif form == "bytes":
        given = (images if images.dtype == torch.uint8 else (255 * images).to(torch.uint8)), labels
    elif form == "missing":
        given = images, torch.where(torch.arange(len(labels))[:, None] % 3 == 0, torch.nan, labels)
    else:
        given, objective = (images, None), CausalELBO(1.0, 0.0)
    history = fit(*make(data), data, validation=given, objective=objective, **OPTIONS | {"epochs": 1})
    assert np.isfinite(history["validation_loss"]).all()


def test_an_objective_without_terms(data, held):
    history = fit(*make(data), data, validation=held, objective=Trace_ELBO(), **OPTIONS | {"epochs": 1})
    assert [name for name in history.columns if name.startswith("validation")] == ["validation_loss"]


def test_early_stopping_watches_it(data, held):
    class Scripted(Callback):
        """The loss of images held out rises from the second epoch on, whatever the training's does."""

        def on_epoch_end(self, state):
            state.history.rows[-1]["validation_loss"] = abs(state.epoch - 2)

    options = OPTIONS | {"epochs": 9}
    stopped = fit(*make(data), data, validation=held, callbacks=[Scripted(), EarlyStopping(patience=2)], **options)
    assert len(stopped) == 4
    told = fit(*make(data), data, validation=held, callbacks=[Scripted(), EarlyStopping("loss", patience=2)], **options)
    assert len(told) == 9


class Killed(RuntimeError):
    pass


class KillAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, state):
        if state.step == self.step:
            raise Killed


def test_a_resumed_training_has_the_same_columns(data, held, tmp_path):
    pairs = normalised(data), normalised(data)
    options = OPTIONS | {"validation": held, "ema_decay": 0.9}
    whole = fit(*pairs[0], data, checkpoint=tmp_path / "whole", **options)
    stopped = tmp_path / "stopped"
    with pytest.raises(Killed):
        fit(*normalised(data), data, checkpoint=stopped, callbacks=[KillAt(5)], **options)
    resumed = fit(*pairs[1], data, checkpoint=stopped, resume=True, **options)
    same(*pairs)
    assert resumed["validation_loss"] == whole["validation_loss"]
    assert read_state(stopped / STATE)["history"][0]["validation_loss"] == whole["validation_loss"][0]
    other = held[0], held[1] + 0.1
    for changed in (None, other, (held[0][:9], held[1][:9])):
        with raises("resume", "validation"):
            fit(*make(data), data, checkpoint=stopped, resume=True, **options | {"validation": changed})


def test_pyros_store_and_generators_are_left_alone(data, held):
    pyro.set_rng_seed(5)
    fit(*make(data), data, validation=held, **OPTIONS | {"epochs": 1})
    assert not list(pyro.get_param_store())


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda x, u: (x, u[:, :3]), "labels: expected shape"),
        (lambda x, u: (x.float() + 300, u), "pixels"),
        (lambda x, u: (x[:0], u[:0]), "got no images"),
        (lambda x, u: (x, None), "labels: got None"),
        (lambda x, u: (x[:, :, :8, :8], u), "expected images"),
        (lambda x, u: (), ""),
        (lambda x, u: x, "data: expected a pair"),
    ],
    ids=["labels", "pixels", "empty", "no labels", "size", "nothing", "no pair"],
)
def test_errors(bad, words, data, held):
    steps = Steps()
    with raises("validation", words) as error:
        fit(*make(data), data, validation=bad(*held), callbacks=[steps], **OPTIONS)
    check_one_line(error)
    # Not after hours of training.
    assert not steps.count


def test_error_of_missing_labels_that_the_guide_reads(data, held):
    pair = make(data, encoder=MLPEncoder((3, 16, 16), 16, hidden=16, label_dim=4))
    labels = held[1].clone()
    labels[3] = torch.nan
    with raises("validation: labels", "label_dim=0"):
        fit(*pair, data, validation=(held[0], labels), **OPTIONS)
