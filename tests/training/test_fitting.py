"""Training: `fit` takes the steps of Pyro's SVI, keeps models apart, and explains what goes wrong."""

import csv
import math
import os
import re

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from causalvae_pyro import (
    AmortizedGuide,
    CausalELBO,
    fit,
    load,
)
from causalvae_pyro.checkpoints import SaveCheckpoint
from causalvae_pyro.checkpoints.runs import HISTORY
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.networks import MLPEncoder
from causalvae_pyro.objectives import LabelFit
from causalvae_pyro.training import Callback, History, NonFiniteLossError, TrainingState, cosine_schedule, resolve_device
from causalvae_pyro.training.monitor import Monitor
from causalvae_pyro.utils import missing_labels
from causalvae_pyro.utils.local_params import local_params
from tests.builders import make_pendulum_pair

SIZE = 96


@pytest.fixture(scope="module")
def pendulum():
    data = Pendulum("test", size=16)
    # Every 15th scene, as a data set of its own.
    data.images, data.labels = data.images[::15][:SIZE].clone(), data.labels[::15][:SIZE].clone()
    return data


@pytest.fixture
def data(pendulum):
    return pendulum.images, pendulum.labels


def make(data, seed=0, prior_std=0.1):
    return make_pendulum_pair(data, seed=seed, std=prior_std, hidden=32)


def run(pair, data, **options):
    options = {"epochs": 2, "batch_size": 40, "seed": 1, "device": "cpu", "progress": False} | options
    return fit(*pair, data, **options)


def state(pair):
    return [t.clone() for module in pair for t in module.state_dict().values()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# What training does --------------------------------------------------------------------------------------------------


def test_the_loss_falls(data):
    pair = make(data)
    history = run(pair, data, epochs=10, objective=CausalELBO(terms=[LabelFit()]))
    assert history["loss"][-1] < history["loss"][0] - 20
    assert history["kl_z"][-1] < history["kl_z"][0]
    assert history["label_fit"][-1] < history["label_fit"][0]
    assert not any(module.training for module in pair)


@pytest.mark.parametrize("objective", [lambda: CausalELBO(0.3, 1.0, terms=[LabelFit(0.5)]), Trace_ELBO], ids=["causal", "plain"])
def test_takes_the_steps_of_svi(data, objective):
    images, labels = data
    ours, theirs = make(data), make(data)
    options = {"epochs": 3, "batch_size": 40, "lr": 1e-3, "seed": 4}
    history = run(ours, data, objective=objective(), schedule=None, optimizer=lambda p: torch.optim.Adam(p, lr=1e-3), **options)

    svi = SVI(*theirs, pyro.optim.Adam({"lr": 1e-3}), objective())
    pyro.set_rng_seed(4)
    order = torch.Generator().manual_seed(4)
    losses = []
    for _ in range(3):
        losses.append(0.0)
        for index in torch.randperm(SIZE, generator=order).split(40):
            losses[-1] += svi.step(images[index].float() / 255, labels[index]) / SIZE
    torch.testing.assert_close(history["loss"], losses, rtol=1e-5, atol=0)
    assert not same(state(ours), state(make(data)))
    torch.testing.assert_close(state(ours), state(theirs), rtol=1e-5, atol=1e-6)


def test_default_optimizer_is_adam(data):
    first, second = make(data), make(data)
    run(first, data, lr=3e-3, objective=CausalELBO(terms=[LabelFit()]))
    run(second, data, lr=1.0, objective=CausalELBO(terms=[LabelFit()]), optimizer=lambda p: torch.optim.Adam(p, lr=3e-3))
    torch.testing.assert_close(state(first), state(second), rtol=1e-4, atol=1e-5)


def test_seed_decides_everything(data):
    pairs = [make(data) for _ in range(3)]
    histories = [run(pair, data, seed=seed) for pair, seed in zip(pairs, (1, 1, 2), strict=True)]
    assert same(state(pairs[0]), state(pairs[1]))
    assert histories[0]["loss"] == histories[1]["loss"]
    assert not same(state(pairs[0]), state(pairs[2]))


def test_models_do_not_share_parameters(data):
    alone = [make(data, seed) for seed in (0, 1)]
    for pair in alone:
        run(pair, data)
        run(pair, data, seed=2)
    pyro.param("mine", torch.ones(()))
    together = [make(data, seed) for seed in (0, 1)]
    for module, name in zip(sum(together, ()), ["model", "guide"] * 2, strict=True):
        # The worst case: both models under one name.
        module._pyro_name = name
    for seed in (1, 2):
        for pair in together:
            run(pair, data, seed=seed)
    for first, second in zip(alone, together, strict=True):
        assert same(state(first), state(second))
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert pyro.settings.get("module_local_params") is False


def test_modules_made_under_local_params_train_alike(data):
    plain = make(data)
    with pyro.settings.context(module_local_params=True):
        local = make(data)
    run(plain, data)
    run(local, data)
    assert same(state(plain), state(local))


def test_frozen_parameters_stay(data):
    model, guide = make(data)
    model.scm.requires_grad_(False)
    before = model.scm.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    run((model, guide), data)
    assert all(torch.equal(before[name], value) for name, value in model.scm.state_dict().items())


# Data ----------------------------------------------------------------------------------------------------------------


def test_simulator_uint8_and_float_images_are_alike(pendulum, data):
    pairs = [make(data) for _ in range(3)]
    for pair, given in zip(pairs, (pendulum, data, (data[0].float() / 255, data[1].double())), strict=True):
        run(pair, given)
    assert same(state(pairs[0]), state(pairs[1]))
    assert same(state(pairs[0]), state(pairs[2]))


def test_dataset_with_a_transform(pendulum, data):
    dark = Pendulum("test", size=16, transform=lambda image: image * 0)
    dark.images, dark.labels = data
    model, guide = make(data)
    history = run((model, guide), dark, epochs=15, lr=5e-3)
    assert history["loss"][-1] < history["loss"][0]
    assert history["step"] == [3 * epoch for epoch in range(1, 16)]
    # It learns the black images that the transform makes, so the transform was applied.
    assert model.decoder.background.mean() < make(data)[0].decoder.background.mean() - 0.05


def test_without_labels(data):
    pair = make(data)
    history = run(pair, (data[0], None), epochs=6, objective=CausalELBO(1.0, 0.0))
    assert "kl_z" not in history.columns
    assert history["loss"][-1] < history["loss"][0]


class Spy(nn.Module):
    """Keeps the labels of every batch that a guide is given."""

    def __init__(self, guide):
        super().__init__()
        self.guide, self.seen = guide, []

    def forward(self, x, labels=None, num_samples=None):
        self.seen.append((x, labels))
        return self.guide(x, labels)


@pytest.mark.parametrize("repeats", [1, 7])
def test_images_with_labels_are_shown_as_often_as_told(data, repeats):
    images, labels = data
    hidden = torch.full_like(labels, math.nan)
    hidden[3], hidden[50, :2] = labels[3], labels[50, :2]
    hidden[60, 2:] = labels[60, 2:]
    model, guide = make(data)
    spy = Spy(guide)
    history = run((model, spy), (images, hidden), epochs=1, labelled_repeats=repeats)
    total = SIZE + 3 * (repeats - 1)
    x, u = (torch.cat(parts) for parts in zip(*spy.seen, strict=True))
    assert len(x) == total
    assert history["step"] == [math.ceil(total / 40)]
    shown = (x[:, None].mul(255).round() == images[None]).flatten(2).all(2)
    counts = torch.ones(SIZE).long()
    counts[[3, 50, 60]] = repeats
    assert torch.equal(shown.sum(0), counts)
    # Each with its own labels, and with those that are missing still missing.
    assert torch.equal(u.nan_to_num(-9), hidden[shown.int().argmax(1)].nan_to_num(-9).float())
    model, guide = make(data)
    again = Spy(guide)
    run((model, again), (images, hidden), epochs=2, labelled_repeats=repeats)
    orders = [torch.cat([x for x, _ in half]) for half in (again.seen[: len(spy.seen)], again.seen[len(spy.seen) :])]
    assert torch.equal(orders[0], x)
    assert not torch.equal(*orders)


def test_whether_labels_are_missing_is_looked_up_outside_of_the_steps(pendulum, data):
    images, labels = data
    hidden = spoilt(labels, (slice(None, None, 2), 3), math.nan)
    loaded = Pendulum("test", size=16, transform=lambda image: image)
    declared = []

    class Declared(Spy):
        def forward(self, x, labels=None, num_samples=None):
            declared.append((missing_labels._declared.get(), bool(labels.isnan().any())))
            return super().forward(x, labels)

    for given in (data, (images, hidden)):
        model, guide = make(data)
        run((model, Declared(guide)), given, epochs=1)
        loaded.images, loaded.labels = given
        model, guide = make(data)
        run((model, Declared(guide)), loaded, epochs=1, batch_size=2)
    assert all(said is truth for said, truth in declared)
    assert {said for said, _ in declared} == {True, False}
    assert missing_labels._declared.get() is None


def test_repeats_change_nothing_where_no_label_is_missing(data):
    first, second = make(data), make(data)
    run(first, data)
    run(second, data, labelled_repeats=5)
    assert same(state(first), state(second))


def test_learns_from_images_without_labels(data):
    images, labels = data
    hidden = torch.full_like(labels, math.nan)
    hidden[::4], hidden[1::4, 0] = labels[::4], labels[1::4, 0]
    pair = make((images, hidden))
    history = run(pair, (images, hidden), epochs=10, labelled_repeats=3)
    assert history["loss"][-1] < history["loss"][0] - 20
    assert history["label_fit"][-1] < history["label_fit"][0]
    assert all(torch.isfinite(t).all() for t in state(pair))
    plain = run(make((images, hidden)), (images, hidden), epochs=10, objective=Trace_ELBO())
    assert plain["loss"][-1] < plain["loss"][0] - 20


def test_a_dataset_may_lack_labels(pendulum, data):
    images, labels = data
    hidden = labels.clone()
    hidden[::2], hidden[1::4, 3] = math.nan, math.nan
    loaded = Pendulum("test", size=16, transform=lambda image: image)
    loaded.images, loaded.labels = images, hidden
    pairs = [make((images, hidden)) for _ in range(2)]
    histories = [run(pair, given) for pair, given in zip(pairs, (loaded, (images, hidden)), strict=True)]
    assert all(torch.isfinite(t).all() for t in state(pairs[0]))
    assert histories[0].columns == histories[1].columns
    message = "labelled_repeats: got 2, but which images have labels is known of tensors only; must be 1"
    with pytest.raises(ValueError, match=f"^{message}$"):
        run(pairs[0], loaded, labelled_repeats=2)


def test_an_encoder_that_reads_labels_has_to_have_them(data):
    images, labels = data
    model, _ = make(data)
    guide = AmortizedGuide(MLPEncoder((3, 16, 16), 16, hidden=32, label_dim=4), model.scm)
    with pytest.raises(ValueError, match=r"^labels: some are missing, but the guide's encoder reads them; give it label_dim=0"):
        run((model, guide), (images, spoilt(labels, (5, 2), math.nan)))


# History and schedule ------------------------------------------------------------------------------------------------


def test_history(data, tmp_path):
    history = run(make(data), data, objective=CausalELBO(0.5, 2.0, terms=[LabelFit(0.25)]), lr=1e-3)
    terms = ["reconstruction", "kl_eps", "kl_z", "label_fit"]
    assert history.columns == ["epoch", "step", "seconds", "images_per_second", "lr", "loss", *terms]
    assert (history["epoch"], history["step"], len(history)) == ([1, 2], [3, 6], 2)
    for row in history.rows:
        weighted = -row["reconstruction"] + 0.5 * row["kl_eps"] + 2 * row["kl_z"] + 0.25 * row["label_fit"]
        assert row["loss"] == pytest.approx(weighted, rel=1e-5)
    # The last step of the cosine has 2 % of the rate.
    assert history["lr"][-1] == pytest.approx(2e-5)
    history.to_csv(tmp_path / "history.csv")
    with open(tmp_path / "history.csv", newline="") as file:
        assert [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)] == history.rows
    assert os.listdir(tmp_path) == ["history.csv"]


def test_csv_is_written_atomically(tmp_path, monkeypatch):
    path = tmp_path / "history.csv"
    History([{"epoch": 1}]).to_csv(path)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        History([{"epoch": 1}, {"epoch": 2}]).to_csv(path)
    assert path.read_text() == "epoch\n1\n"


def test_cosine_schedule():
    values = [cosine_schedule(i / 1000) for i in range(1001)]
    assert max(values) == values[20] == 1.0
    assert min(values) > 0
    assert values[:21] == sorted(values[:21])
    assert values[20:] == sorted(values[20:], reverse=True)
    assert values[510] == pytest.approx(0.51)
    assert values[-1] == pytest.approx(0.02)


def test_schedule_and_optimizer_are_used(data):
    pair = make(data)
    seen = []

    def schedule(progress):
        seen.append(progress)
        return 1 - progress / 2

    groups = [{"params": list(pair[0].parameters())}, {"params": list(pair[1].parameters()), "lr": 0.0}]
    before = state(pair[1:])
    history = run(pair, data, schedule=schedule, optimizer=lambda _: torch.optim.SGD(groups, lr=1e-6))
    assert seen == [i / 5 for i in range(6)]
    assert history["lr"] == pytest.approx([1e-6 * 0.8, 1e-6 * 0.5])
    assert same(before, state(pair[1:]))


# Failures ------------------------------------------------------------------------------------------------------------


class Recorder(Callback):
    def __init__(self):
        self.epochs, self.interruptions = [], []

    def on_epoch_end(self, state):
        self.epochs.append(state.epoch)

    def on_interrupt(self, state):
        self.interruptions.append((state.epoch, state.step, state.interrupted))


class Breaks(nn.Module):
    """A part of the model that is fine for three batches, then spoils its output."""

    def __init__(self, module, spoil):
        super().__init__()
        self.module, self.spoil, self.calls = module, spoil, 0

    def forward(self, *inputs):
        self.calls += 1
        output = self.module(*inputs)
        return self.spoil(output) if self.calls > 3 else output

    def to_labels(self, z):
        return self.module.to_labels(z)


def infinite(p):
    return pyro.distributions.Normal(p.mean, p.base_dist.scale + math.inf).to_event(2)


@pytest.mark.filterwarnings("ignore:objective. it gives the causal layer no gradient")
@pytest.mark.parametrize(
    ("part", "spoil", "objective", "culprit"),
    [
        ("decoder", lambda output: output * math.nan, CausalELBO, "'reconstruction'"),
        ("decoder", lambda output: output * math.nan, Trace_ELBO, "'model site x'"),
        ("prior", infinite, CausalELBO, "'kl_z'"),
        ("prior", infinite, Trace_ELBO, "'model site z'"),
    ],
)
def test_non_finite_loss_names_the_term_and_the_step(data, part, spoil, objective, culprit):
    model, guide = make(data)
    setattr(model, part, Breaks(getattr(model, part), spoil))
    recorder = Recorder()
    with pytest.raises(NonFiniteLossError, match=rf"^loss: the term {culprit} became \S+ in step 4 \(epoch 2\)") as caught:
        run((model, guide), data, objective=objective(), callbacks=[recorder])
    assert "\n" not in str(caught.value)
    assert recorder.epochs == [1]
    assert recorder.interruptions == [(2, 3, True)]
    assert not model.training


def test_huge_labels_are_named(data):
    pair = make(data)
    labels = data[1].clone()
    labels[3, 2] = 1e30
    with pytest.raises(NonFiniteLossError, match=r"the term 'kl_z' and 'label_fit' became inf in step 1"):
        run(pair, (data[0], labels), batch_size=SIZE, objective=CausalELBO(terms=[LabelFit()]))


@pytest.mark.parametrize("finish", [False, True])
def test_the_step_is_right_where_steps_are_checked_in_groups(data, finish):
    # As on a GPU, where looking at every single step would cost a synchronisation each.
    progress = TrainingState(*make(data), None, History(), epoch=1)
    monitor = Monitor(CausalELBO(), progress, check_every=50 if finish else 5)
    monitor.start_epoch()

    def go():
        for step in range(1, 6):
            monitor.record(torch.tensor(math.nan if step >= 3 else 1.0), 1)
            progress.step += 1
        monitor.finish_epoch(1e-3)

    with pytest.raises(NonFiniteLossError, match="in step 3 "):
        go()


def test_errors_of_other_kinds_pass_through(data):
    model, guide = make(data)
    model.likelihood = Breaks(model.likelihood, lambda _: pyro.distributions.Bernoulli(torch.full((3, 16, 16), 0.5)).to_event(3))
    model.likelihood.calls = 3  # from the first step on, which is the one that is validated
    with pytest.raises(ValueError, match="within the support"):
        run((model, guide), data)


def test_interrupt_saves_and_goes_on(data, tmp_path):
    class Interrupts(Callback):
        def on_epoch_end(self, state):
            if state.epoch == 2:
                raise KeyboardInterrupt

    pair, recorder = make(data), Recorder()
    saver = SaveCheckpoint(tmp_path, {"note": "mine"}, every=10)
    with pytest.raises(KeyboardInterrupt):
        run(pair, data, epochs=5, callbacks=[Interrupts(), recorder, saver])
    assert recorder.interruptions == [(2, 6, True)]
    restored = load(tmp_path)
    assert restored.config == {"note": "mine", "progress": {"epoch": 2, "step": 6, "interrupted": True}}
    assert same(state(pair), state((restored.model, restored.guide)))
    assert len((tmp_path / HISTORY).read_text().splitlines()) == 3
    assert pyro.settings.get("module_local_params") is False


def test_a_diverged_model_does_not_replace_a_good_checkpoint(data, tmp_path):
    class Poisons(Callback):
        def on_epoch_end(self, state):
            state.guide.head.loc.bias.data.fill_(math.nan)

    with pytest.raises(NonFiniteLossError):
        run(make(data), data, callbacks=[SaveCheckpoint(tmp_path), Poisons()])
    restored = load(tmp_path)
    assert all(torch.isfinite(t).all() for t in state((restored.model, restored.guide)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs: got 0; must be at least 1"),
        ({"batch_size": 0}, "batch_size: got 0; must be at least 1"),
        ({"labelled_repeats": 0}, "labelled_repeats: got 0; must be at least 1"),
        ({"batch_size": 97}, "batch_size: got 97, the data has 96 images; must be at most that"),
        ({"lr": 0.0}, "lr: got 0.0; must be > 0"),
        ({"lr": math.nan}, "lr: got nan; must be > 0"),
        ({"device": "gpu"}, "device: got 'gpu'; valid: 'auto', 'cpu', 'cuda'"),
        ({"device": "meta"}, "device: got 'meta'; valid: 'auto', 'cpu', 'cuda'"),
        ({"device": "cuda"}, "device: got 'cuda', but PyTorch finds 0 CUDA devices here"),
        ({"device": "cuda:1"}, "device: got 'cuda:1', but PyTorch finds 0 CUDA devices here"),
        ({"device": "mps"}, "device: got 'mps', but PyTorch finds no MPS device here"),
    ],
    ids=str,
)
def test_bad_arguments(data, monkeypatch, options, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    pair = make(data)
    before = state(pair)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        run(pair, data, **options)
    assert same(before, state(pair))


def spoilt(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x, u: (x, spoilt(u, (5, 2), math.inf)),
            "labels: got inf in row 5, column 2; must be finite, or NaN where missing",
        ),
        (lambda x, u: (x, spoilt(u, (0, 1), -math.inf)), "labels: got -inf in row 0, column 1; must be finite, or NaN where"),
        (
            lambda x, u: (x, spoilt(u, (slice(None), 1), math.nan)),
            "labels: the concept 'light' has 0 of them; each concept",
        ),
        (lambda x, u: (x, spoilt(u, (slice(1, None), 2), math.nan)), "labels: the concept 'shadow_length' has 1 of them; each"),
        (lambda x, u: (x, u[:, :3]), "labels: expected shape [96, 4] (images x concepts), got [96, 3]"),
        (lambda x, u: (x, u[:90]), "labels: expected shape [96, 4] (images x concepts), got [90, 4]"),
        (lambda x, u: (x[0], u), "images: expected a tensor of images [N, C, H, W], got [3, 16, 16]"),
        (lambda x, u: (x.float(), u), "images: pixels must lie in [0, 1] or be uint8, got 0 to 255"),
        (lambda x, u: (spoilt(x.float() / 255, (7, 0), math.nan), u), "images: pixels must lie in [0, 1] or be uint8, got nan"),
    ],
    ids=range(9),
)
def test_bad_data(data, change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        run(make(data), change(*data), batch_size=2)


def test_auto_device(monkeypatch):
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert resolve_device() == torch.device(expected)


def test_progress(data, capsys):
    run(make(data), data, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [re.match(r"epoch (\d)/2: (\d)/6 steps, loss -?[\d.]+, \d+ img/s, \d+ s", line).groups() for line in lines] == [
        ("1", "3"),
        ("2", "6"),
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_trains_on_cuda(data):
    pair = make(data)
    history = run(pair, data, epochs=10, device="cuda")
    assert {t.device.type for t in state(pair)} == {"cuda"}
    assert history["loss"][-1] < history["loss"][0] - 20
    model, guide = make(data)
    model.decoder = Breaks(model.decoder, lambda output: output * math.nan)
    with pytest.raises(NonFiniteLossError, match="'reconstruction' became nan in step 4 "):
        run((model, guide), data, device="cuda")


def test_parameters_are_spoken_of_to_whoever_listens(data):
    """And to nobody else: that is most of what Pyro does in a step."""
    heard = []

    class Listens(poutine.messenger.Messenger):
        def _pyro_post_param(self, msg):
            heard.append(msg["name"])

    run(make(data), data, epochs=1)
    quiet, loud = make(data), make(data)
    run(quiet, data, epochs=1)
    with Listens():
        run(loud, data, epochs=1)
    assert any("decoder" in name for name in heard)
    for name, tensor in state_of(quiet).items():
        assert torch.equal(tensor, state_of(loud)[name]), name
    model, guide = quiet
    x, labels = data[0][:4].float() / 255, data[1][:4]
    for silent in (True, False):
        with local_params(model, guide, quiet=silent):
            nodes = poutine.trace(model).get_trace(x, labels).nodes.values()
        assert any(node["type"] == "param" for node in nodes) != silent


def state_of(pair):
    return {f"{i}.{key}": tensor for i, module in enumerate(pair) for key, tensor in module.state_dict().items()}
