"""A stopped training that is resumed ends as one that was never stopped, to the bit."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from causalvae_pyro import (
    CausalELBO,
    LinearSCM,
    fit,
)
from causalvae_pyro.checkpoints import SaveCheckpoint
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.discovery import GraphSearch, LinearCandidates
from causalvae_pyro.discovery.acyclicity import polynomial_acyclicity
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.networks import SpatialEncoder, SpriteDecoder
from causalvae_pyro.objectives import EffectSparsity, LabelFit, SleepPhase
from causalvae_pyro.training import Callback, EarlyStopping, TrainingCheckpoint
from causalvae_pyro.training.resuming import STATE, read_state
from tests import ROOT
from tests.builders import make_pendulum_pair

SIZE, BATCH, EPOCHS = 100, 24, 3


@pytest.fixture(scope="module")
def data():
    pendulum = Pendulum("test", size=16)
    return pendulum.images[::15][:SIZE].clone(), pendulum.labels[::15][:SIZE].clone()


def make(data, decoder=None, encoder=None, graph=Pendulum.graph):
    scm = None if graph.edges else LinearSCM(graph)
    return make_pendulum_pair(data, decoder=decoder, encoder=encoder, scm=scm)


class Killed(RuntimeError):
    pass


class KillAt(Callback):
    """Ends the training without any of the ends that it knows."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, state):
        if state.step == self.step:
            raise Killed


class Draws(Callback):
    """Draws from every generator, and remembers."""

    def __init__(self):
        self.drawn = []

    def on_step_end(self, state):
        self.drawn.append([torch.rand(()).item(), random.random(), float(np.random.rand())])  # noqa: NPY002

    def state_dict(self):
        return {"drawn": self.drawn}

    def load_state_dict(self, state):
        self.drawn = state["drawn"]


class Noisy(Dataset):
    """Images whose transform is random."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data[0])

    def __getitem__(self, i):
        image = self.data[0][i].float() / 255
        return (image + 0.01 * torch.rand_like(image)).clamp(0, 1), self.data[1][i]


def plain(data):
    return make(data), data, {}


def everything(data):
    """All that has a memory of its own."""
    objective = CausalELBO(terms=[LabelFit()])
    options = {"ema_decay": 0.9, "max_grad_norm": 100.0, "micro_batches": 3, "callbacks": [Draws(), EarlyStopping(patience=99)]}
    return make(data), data, {"objective": objective, **options}


def graph_search(data):
    """The augmented Lagrangian, its multiplier and its snapshots."""
    pair = make(data, graph=CausalGraph(Pendulum.graph.names, []))
    search = GraphSearch(LinearCandidates(1 - torch.eye(4)), acyclicity=polynomial_acyclicity)
    return pair, data, {"objective": CausalELBO(terms=[search]), "remembers": search}


def sprites(data):
    torch.manual_seed(1)
    pair = make(data, SpriteDecoder.from_images(data[0], 4, sprites=3))
    terms = [LabelFit(), EffectSparsity(10.0), SleepPhase(pair[1])]
    return pair, data, {"objective": CausalELBO(teacher_forcing=1.0, terms=terms)}


def held_out(data):
    """Another loss beside the training's, and an early end that watches it."""
    return make(data), data, {"validation": (data[0][::3], data[1][::3]), "callbacks": [Draws(), EarlyStopping(patience=99)]}


def batch_norm(data):
    torch.manual_seed(1)
    return make(data, encoder=SpatialEncoder((3, 16, 16), 16, channels=4)), data, {}


def missing_labels(data):
    labels = data[1].clone()
    labels[::3] = torch.nan
    return make(data), (data[0], labels), {"labelled_repeats": 2}


def loader(data):
    return make(data), Noisy(data), {}


def sgd(data):
    return make(data), data, {"optimizer": lambda p: torch.optim.SGD(p, lr=1e-6, momentum=0.9), "schedule": None}


CASES = [plain, everything, graph_search, sprites, held_out, batch_norm, missing_labels, loader, sgd]


def train(case, data, path, *, every=2, kill=None, resume=False, epochs=EPOCHS):
    pair, images, options = case(data)
    remembers = options.pop("remembers", None)
    callbacks = [*options.pop("callbacks", []), *([] if kill is None else [KillAt(kill)])]
    checkpoint = TrainingCheckpoint(path, every=every)
    settings = {"epochs": epochs, "batch_size": BATCH, "device": "cpu", "progress": False, "seed": 3} | options
    with contextlib.nullcontext() if kill is None else pytest.raises(Killed):
        history = fit(*pair, images, callbacks=callbacks, checkpoint=checkpoint, resume=resume, **settings)
        return pair, history, [t.clone() for t in getattr(remembers, "snapshots", [])]


def equal(a, b, where=""):
    """Of states: everything but the clock."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            if key not in ("seconds", "images_per_second"):
                equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            equal(*pair, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def same_pair(first, second):
    for a, b in zip(first, second, strict=True):
        equal(dict(a.state_dict()), dict(b.state_dict()))


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_it_ends_as_if_it_had_never_been_stopped(case, data, tmp_path):
    whole, history, snapshots = train(case, data, tmp_path / "whole")
    # In the middle of the first epoch, at its end, right after a write, right before one; several times over.
    for kill in (3, 5, 10, 13):
        train(case, data, tmp_path / "stopped", kill=kill, resume=True)
    resumed, again, snapshots_again = train(case, data, tmp_path / "stopped", resume=True)
    same_pair(whole, resumed)
    equal(history.rows, again.rows)
    equal(snapshots, snapshots_again)
    states = [read_state(tmp_path / name / STATE) for name in ("whole", "stopped")]
    if case is everything:
        (name, drawn), _ = states[0]["callbacks"]
        assert name == "Draws"
        assert len(drawn["drawn"]) == states[0]["step"]
    equal(states[0], states[1])
    assert states[0]["finished"] is True
    assert states[0]["step"] == history["step"][-1] == EPOCHS * history["step"][0]


def test_without_a_state_it_starts(data, tmp_path):
    first, *_ = train(plain, data, tmp_path / "a")
    second, *_ = train(plain, data, tmp_path / "b", resume=True)
    same_pair(first, second)


def test_what_is_over_is_not_trained_again(data, tmp_path):
    first, history, _ = train(everything, data, tmp_path)

    class Never(Callback):
        def on_step_end(self, state):
            raise AssertionError

    pair, images, options = everything(data)
    options["callbacks"].append(Never())
    settings = {"epochs": EPOCHS, "batch_size": BATCH, "seed": 3, "device": "cpu", "checkpoint": tmp_path, "progress": False}
    fit(*pair, images, resume=True, **settings, **options)
    same_pair(first, pair)
    # What a callback remembers has to go somewhere.
    pair, images, options = everything(data)
    del options["callbacks"][0]
    with pytest.raises(ValueError, match=r"does not fit this training \(it had the callback Draws, which remembered \['drawn'\]"):
        fit(*pair, images, resume=True, **settings, **options)
    second, again, _ = train(everything, data, tmp_path, resume=True)
    same_pair(first, second)
    equal(history.rows, again.rows)


def test_without_resume_it_starts_anew(data, tmp_path):
    train(plain, data, tmp_path, kill=7)
    pair, *_ = train(plain, data, tmp_path)
    same_pair(pair, train(plain, data, tmp_path / "other")[0])


def test_a_stop_from_early_stopping_is_kept(data, tmp_path):
    def stops(data):
        return make(data), data, {"callbacks": [EarlyStopping("lr", patience=1)], "schedule": None}

    _, history, _ = train(stops, data, tmp_path)
    assert history["epoch"] == [1, 2]
    _, again, _ = train(stops, data, tmp_path, resume=True)
    assert again["epoch"] == [1, 2]


def test_ctrl_c_waits_for_the_step_and_keeps_it(data, tmp_path):
    class PressesCtrlC(Callback):
        interrupted = None

        def on_step_end(self, state):
            if state.step == 7:
                signal.raise_signal(signal.SIGINT)

        def on_interrupt(self, state):
            self.interrupted = state.step

    presses = PressesCtrlC()
    options = {"epochs": EPOCHS, "batch_size": BATCH, "seed": 3, "device": "cpu", "progress": False, "checkpoint": tmp_path}
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(*make(data), data, callbacks=[presses], **options)
    assert presses.interrupted == 7
    assert signal.getsignal(signal.SIGINT) is before
    assert read_state(tmp_path / STATE)["step"] == 7
    resumed = make(data)
    fit(*resumed, data, callbacks=[Callback()], resume=True, **options)
    same_pair(train(plain, data, tmp_path / "whole")[0], resumed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 25}, "batch_size = 24, this one has 25"),
        ({"epochs": 4}, "epochs = 3, this one has 4"),
        ({"seed": 4}, "seed = 3, this one has 4"),
        ({"ema_decay": 0.5}, "ema_decay = None, this one has 0.5"),
    ],
)
def test_the_state_of_another_training_is_refused(data, tmp_path, options, message):
    train(plain, data, tmp_path, kill=5)
    settings = {"epochs": EPOCHS, "batch_size": BATCH, "seed": 3, "device": "cpu", "progress": False} | options
    with pytest.raises(ValueError, match=f"^resume: .*{STATE} belongs to a training run with {message}"):
        fit(*make(data), data, checkpoint=tmp_path, resume=True, **settings)


def test_settings_of_ones_own_count_too(data, tmp_path):
    options = {"epochs": 1, "batch_size": BATCH, "device": "cpu", "progress": False}
    fit(*make(data), data, checkpoint=TrainingCheckpoint(tmp_path, settings={"data": ["a", 1]}), **options)
    fit(*make(data), data, checkpoint=TrainingCheckpoint(tmp_path, settings={"data": ["a", 1]}), resume=True, **options)
    with pytest.raises(ValueError, match=r"own = {'data': \['a', 1\]}, this one has {'data': \['b', 1\]}"):
        fit(*make(data), data, checkpoint=TrainingCheckpoint(tmp_path, settings={"data": ["b", 1]}), resume=True, **options)


def test_settings_of_ones_own_do_not_rule_the_training(data, tmp_path):
    checkpoint = TrainingCheckpoint(tmp_path, settings={"epochs": 5, "seed": 9, "micro_batches": 7})
    options = {"epochs": 2, "batch_size": BATCH, "device": "cpu", "progress": False}
    assert len(fit(*make(data), data, checkpoint=checkpoint, **options)) == 2


@pytest.mark.parametrize("change", ["images", "labels"])
def test_other_data_of_the_same_size_are_refused(change, data, tmp_path):
    train(plain, data, tmp_path, kill=5)
    images, labels = (t.clone() for t in data)
    if change == "images":
        images[0] = 255 - images[0]
    else:
        labels[-1, 2] += 1e-3
    with pytest.raises(ValueError, match="belongs to a training run with other data; use the same"):
        train(plain, (images, labels), tmp_path, resume=True)


def test_another_precision_is_refused(data, tmp_path):
    train(plain, data, tmp_path, kill=5)
    options = {"epochs": EPOCHS, "batch_size": BATCH, "seed": 3, "device": "cpu", "progress": False}
    with pytest.raises(ValueError, match="mixed_precision = no, this one has bf16"):
        fit(*make(data), data, checkpoint=tmp_path, resume=True, mixed_precision="bf16", **options)


def test_a_fresh_start_leaves_nothing_of_an_older_training(data, tmp_path):
    train(plain, data, tmp_path)
    assert read_state(tmp_path / STATE)["finished"]
    # Killed before it has written anything itself.
    train(plain, data, tmp_path, every=100, kill=2)
    assert not (tmp_path / STATE).exists()


def test_a_stop_after_the_last_step_of_an_epoch(data, tmp_path):
    """Where all of an epoch's batches are done, but the epoch is not over."""

    class KillAtEnd(Callback):
        def on_epoch_end(self, state):
            raise Killed

    options = {"epochs": EPOCHS, "batch_size": BATCH, "seed": 3, "device": "cpu", "progress": False}
    with pytest.raises(Killed):
        fit(*make(data), data, checkpoint=TrainingCheckpoint(tmp_path, every=5), callbacks=[KillAtEnd()], **options)
    kept = read_state(tmp_path / STATE)
    assert (kept["done"], kept["step"], kept["epoch"]) == (5, 5, 1)
    resumed, history, _ = train(plain, data, tmp_path, resume=True)
    whole, again, _ = train(plain, data, tmp_path / "whole")
    same_pair(resumed, whole)
    equal(history.rows, again.rows)


def test_ctrl_c_after_the_last_step_still_stops(data, tmp_path):
    class PressesAtTheEnd(Callback):
        def on_epoch_end(self, state):
            if state.epoch == EPOCHS:
                signal.raise_signal(signal.SIGINT)

    options = {"epochs": EPOCHS, "batch_size": BATCH, "seed": 3, "device": "cpu", "progress": False, "checkpoint": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        fit(*make(data), data, callbacks=[PressesAtTheEnd()], **options)
    assert read_state(tmp_path / STATE)["finished"]


def test_numbers_of_numpy_are_kept_as_numbers(data, tmp_path):
    class Remembers(Callback):
        def __init__(self):
            self.value = {}

        def on_epoch_end(self, state):
            # Empty until now.
            self.value = {"best": np.float64(state.epoch), "rows": [np.int64(3)]}

        def state_dict(self):
            return self.value

        def load_state_dict(self, state):
            self.value = dict(state)

    options = {"batch_size": BATCH, "device": "cpu", "progress": False, "checkpoint": tmp_path, "epochs": 2}
    options["schedule"] = lambda progress: np.cos(progress)
    first, second = Remembers(), Remembers()
    fit(*make(data), data, callbacks=[first], **options)
    fit(*make(data), data, callbacks=[second], resume=True, **options)
    assert second.value == {"best": 2.0, "rows": [3]}


def test_what_cannot_be_read_again_is_not_written(data, tmp_path):
    class Odd(Callback):
        def state_dict(self):
            return {"path": Path("somewhere")}

    with pytest.raises(ValueError, match=r"^checkpoint: state\['callbacks'\]\[0\]\[1\]\['path'\] is of type PosixPath"):
        fit(*make(data), data, callbacks=[Odd()], checkpoint=tmp_path, epochs=1, batch_size=BATCH, device="cpu", progress=False)
    assert not list(tmp_path.iterdir())


class Malicious:
    def __reduce__(self):
        return (os.system, (f"touch {os.environ['MARK']}",))


@pytest.mark.parametrize("damage", ["empty", "half", "tail", "text", "pickle", "weights", "format"])
def test_a_file_that_is_no_state_is_refused_and_kept(damage, data, tmp_path, monkeypatch):
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    train(plain, data, tmp_path, kill=5)
    file = tmp_path / STATE
    content = file.read_bytes()
    if damage == "pickle":
        torch.save({"format": 1, "evil": Malicious()}, file)
    elif damage == "weights":
        torch.save({"weight": torch.zeros(3)}, file)
    elif damage == "format":
        torch.save({"format": 99}, file)
    else:
        spoilt = {"empty": b"", "half": content[: len(content) // 2], "tail": content[:-7], "text": b"not a state\n"}[damage]
        file.write_bytes(spoilt)
    found = file.read_bytes()
    with pytest.raises(ValueError, match=f"^resume: .*{STATE}") as error:
        train(plain, data, tmp_path, resume=True)
    assert "\n" not in str(error.value)
    assert file.read_bytes() == found
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_state_before(function, data, tmp_path, monkeypatch):
    train(plain, data, tmp_path, every=4, kill=5)
    assert read_state(tmp_path / STATE)["step"] == 4
    calls = []

    def fails(*_):
        calls.append(1)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fails)
        with pytest.raises(OSError, match="No space left"):
            train(plain, data, tmp_path, every=4, resume=True)
    assert calls
    assert read_state(tmp_path / STATE)["step"] == 4
    assert [path.name for path in tmp_path.iterdir()] == [STATE]
    same_pair(train(plain, data, tmp_path / "whole")[0], train(plain, data, tmp_path, every=4, resume=True)[0])


def test_a_diverged_state_does_not_replace_a_good_one(data, tmp_path):
    class Poisons(Callback):
        def on_step_end(self, state):
            if state.step == 6:
                state.guide.head.loc.bias.data.fill_(torch.nan)

    options = {"epochs": EPOCHS, "batch_size": BATCH, "device": "cpu", "progress": False}
    with pytest.raises(FloatingPointError):
        fit(*make(data), data, callbacks=[Poisons()], checkpoint=TrainingCheckpoint(tmp_path, every=1), **options)
    assert read_state(tmp_path / STATE)["step"] == 5


def test_arguments(data, tmp_path):
    with pytest.raises(ValueError, match="^resume: got True without a checkpoint"):
        fit(*make(data), data, resume=True)
    with pytest.raises(ValueError, match="^every: got 0; must be at least 1"):
        TrainingCheckpoint(tmp_path, every=0)


def test_checkpoints_of_both_kinds_lie_in_one_directory(data, tmp_path):
    options = {"epochs": 1, "batch_size": BATCH, "device": "cpu", "progress": False}
    fit(*make(data), data, callbacks=[SaveCheckpoint(tmp_path)], checkpoint=tmp_path, **options)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "history.csv", STATE}


SCRIPT = """
import os, random, signal, sys, time
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from tests.training import test_resume
from causalvae_pyro.datasets import Pendulum

pendulum = Pendulum("test", size=16)
data = pendulum.images[::15][:100].clone(), pendulum.labels[::15][:100].clone()
epochs = int(sys.argv[2])

def life(path, seconds):
    # A process of its own that has learned everything but how to train.
    child = os.fork()
    if not child:
        test_resume.train(test_resume.everything, data, path, every=3, resume=True, epochs=epochs)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)

root = sys.argv[1]
assert not life(root + "/whole", None)
kills, draw = 0, random.Random(int(sys.argv[3]))
while kills < int(sys.argv[4]):
    assert life(root + "/killed", draw.uniform(0.05, 0.6)), "it was over before it had been killed often enough"
    kills += 1
assert not life(root + "/killed", None)
print("killed", kills)
"""


@pytest.mark.thorough
@pytest.mark.parametrize(("kills", "epochs"), [(3, 30), pytest.param(20, 150, marks=pytest.mark.slow)])
def test_killed_at_random(kills, epochs, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).format(tests=str(ROOT)))
    command = [sys.executable, str(script), str(tmp_path), str(epochs), "0", str(kills)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout == f"killed {kills}\n"
    whole, killed = (read_state(tmp_path / name / STATE) for name in ("whole", "killed"))
    assert whole["finished"]
    assert whole["step"] == epochs * 5
    equal(whole, killed)
    assert [path.name for path in (tmp_path / "killed").iterdir() if not path.name.endswith(".tmp")] == [STATE]
