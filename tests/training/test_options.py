"""What can be added to a training: averages, clipping, parts of batches, precision, compilation, logs and early ends."""

import itertools
import os
import sys

import pytest
import torch
from torch import nn

from causalvae_pyro import CausalELBO, fit, load
from causalvae_pyro.baselines import DeterministicNormal
from causalvae_pyro.checkpoints.runs import SaveCheckpoint
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.guides import IterativeGuide
from causalvae_pyro.networks import SpriteDecoder
from causalvae_pyro.objectives import LabelFit
from causalvae_pyro.training import (
    Callback,
    CSVLogger,
    EarlyStopping,
    TensorBoardLogger,
    cosine_schedule,
    linear_schedule,
)
from causalvae_pyro.training.devices import networks_of, reproducible
from causalvae_pyro.training.ema import MovingAverage
from tests.builders import make_pendulum_pair


@pytest.fixture(scope="module")
def data():
    pendulum = Pendulum("test", size=16)
    return pendulum.images[::15][:96].clone(), pendulum.labels[::15][:96].clone()


def make(data, deterministic=False):
    if deterministic:
        return make_pendulum_pair(data, space="exogenous", family=DeterministicNormal())
    return make_pendulum_pair(data)


def run(pair, data, **options):
    return fit(*pair, data, **{"epochs": 2, "batch_size": 24, "device": "cpu", "progress": False, "seed": 1} | options)


def flat(pair):
    return torch.cat([p.detach().flatten() for module in pair for p in module.parameters()])


class Watch(Callback):
    """Weights and gradients after each step, and what callbacks see at the end of each epoch."""

    def __init__(self):
        self.weights, self.gradients, self.epochs = [], [], []

    def on_step_end(self, state):
        parameters = [p for module in (state.model, state.guide) for p in module.parameters()]
        self.weights.append(torch.cat([p.detach().flatten() for p in parameters]))
        self.gradients.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))

    def on_epoch_end(self, state):
        self.epochs.append(flat((state.model, state.guide)))


def test_the_average_of_the_weights(data, tmp_path):
    plain, averaged = make(data), make(data)
    run(plain, data)
    watch = Watch()
    run(averaged, data, ema_decay=0.8, callbacks=[watch, SaveCheckpoint(tmp_path)])
    # Training itself takes no notice of it.
    assert torch.equal(watch.weights[-1], flat(plain))
    steps = torch.stack(watch.weights).double()
    share = 0.8 ** torch.arange(len(steps) - 1, -1, -1).double()
    expected = (share[:, None] * steps).sum(0) / share.sum()
    assert (flat(averaged) - expected).abs().max() < 1e-6
    assert torch.equal(watch.epochs[-1], flat(averaged))
    assert torch.equal(flat((load(tmp_path).model, load(tmp_path).guide)), flat(averaged))
    with pytest.raises(ValueError, match="^ema_decay: got 1; must lie in"):
        MovingAverage([nn.Parameter(torch.zeros(2))], 1)


def test_large_gradients_are_scaled_down(data):
    free, held = Watch(), Watch()
    run(make(data), data, callbacks=[free], epochs=1)
    limit = free.gradients[0].norm().item() / 3
    run(make(data), data, callbacks=[held], epochs=1, max_grad_norm=limit)
    assert held.gradients[0].norm().item() == pytest.approx(limit, rel=1e-4)
    assert (held.gradients[0] * 3 - free.gradients[0]).norm() < 1e-3 * free.gradients[0].norm()
    run(make(data), data, callbacks=[held], epochs=1, max_grad_norm=1e12)
    assert torch.equal(held.weights[-1], free.weights[-1])


@pytest.mark.parametrize("parts", [2, 5, 100])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(data, parts):
    # A guide that draws nothing: parts draw other numbers than the whole.
    whole, split = Watch(), Watch()
    options = {"objective": CausalELBO(0.3, 1.0, terms=[LabelFit()]), "epochs": 1, "batch_size": 40}
    histories = [
        run(make(data, deterministic=True), data, callbacks=[watch], micro_batches=count, **options)
        for watch, count in ((whole, 1), (split, parts))
    ]
    assert len(whole.gradients) == len(split.gradients) == 3
    assert (whole.gradients[0] - split.gradients[0]).norm() < 1e-5 * whole.gradients[0].norm()
    assert histories[0]["loss"] == pytest.approx(histories[1]["loss"], rel=1e-4)


def test_schedules():
    for schedule in (cosine_schedule, linear_schedule):
        values = [schedule(i / 1000) for i in range(1001)]
        assert max(values) == pytest.approx(1.0, abs=1e-3)
        assert values[-1] == pytest.approx(0.02)
        assert 0 < values[0] < 0.1
        assert all(a >= b for a, b in itertools.pairwise(values[20:]))
    assert linear_schedule(0.51) == pytest.approx(0.51)


@pytest.mark.parametrize(("patience", "min_delta", "epochs"), [(1, 0.0, 2), (3, 0.0, 4), (2, 1e9, 3)])
def test_early_stopping(data, patience, min_delta, epochs):
    column = "lr" if not min_delta else "loss"
    # A constant never improves, and nothing by so much.
    history = run(
        make(data), data, epochs=9, schedule=None, callbacks=[EarlyStopping(column, patience=patience, min_delta=min_delta)]
    )
    assert len(history) == epochs


def test_early_stopping_lets_what_improves_go_on(data):
    assert len(run(make(data), data, epochs=4, callbacks=[EarlyStopping(patience=1)])) == 4
    with pytest.raises(ValueError, match=r"^column: got 'x'; the history has \['epoch'"):
        run(make(data), data, callbacks=[EarlyStopping("x")])
    for options, message in (({"patience": 0}, "^patience: got 0"), ({"min_delta": -1}, "^min_delta: got -1")):
        with pytest.raises(ValueError, match=message):
            EarlyStopping(**options)


def test_csv_logger(data, tmp_path):
    history = run(make(data), data, callbacks=[CSVLogger(tmp_path / "logs" / "log.csv")])
    history.to_csv(tmp_path / "same.csv")
    assert (tmp_path / "logs" / "log.csv").read_text() == (tmp_path / "same.csv").read_text()


def test_tensorboard(data, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = run(make(data), data, callbacks=[TensorBoardLogger(tmp_path)])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = events.Scalars("loss")
    assert [event.step for event in found] == history["step"]
    assert [event.value for event in found] == pytest.approx(history["loss"])


def test_tensorboard_is_an_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboard"):
        TensorBoardLogger(tmp_path)


class Dtypes(nn.Module):
    """A network that notes in what precision its layers work."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.seen = inner, set()
        self.out_features = inner.out_features
        first = next(m for m in inner.modules() if isinstance(m, nn.Linear))
        first.register_forward_hook(lambda module, inputs, output: self.seen.add(output.dtype))

    def forward(self, *arguments):
        return self.inner(*arguments)


def test_mixed_precision_reaches_a_wrapped_guides_networks(data):
    model, guide = make(data)
    guide.encoder = Dtypes(guide.encoder)
    run((model, IterativeGuide(guide, model)), data, epochs=1, mixed_precision="bf16")
    assert guide.encoder.seen == {torch.bfloat16}


def test_mixed_precision_is_for_the_networks_only(data):
    model, guide = make(data)
    guide.encoder = Dtypes(guide.encoder)
    heads = set()
    guide.head.loc.register_forward_hook(lambda module, inputs, output: heads.add(output.dtype))
    history = run((model, guide), data, mixed_precision="bf16")
    assert guide.encoder.seen == {torch.bfloat16}
    assert heads == {torch.float32}
    exact = run(make(data), data)
    assert history["loss"] != exact["loss"]
    assert history["loss"] == pytest.approx(exact["loss"], rel=0.05)
    # Afterwards they work as before.
    guide.encoder.seen.clear()
    guide.encoder(data[0][:2].float())
    assert guide.encoder.seen == {torch.float32}
    assert all("forward" not in vars(network) for network in networks_of(model, guide))


def test_half_precision_takes_a_gpu(data):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="fp16"):
        run(make(data), data, mixed_precision="fp16")
    # And leaves nothing behind.
    run(make(data), data, epochs=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_networks_train_alike(data):
    plain, compiled = make(data), make(data)
    first, second = run(plain, data), run(compiled, data, compiled=True)
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-3)
    assert all(network._compiled_call_impl is None for network in networks_of(*compiled))


def test_deterministic(data):
    class Asks(Callback):
        def on_step_end(self, state):
            assert torch.are_deterministic_algorithms_enabled()

    before = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    try:
        run(make(data), data, deterministic=True, callbacks=[Asks()])
        assert not torch.are_deterministic_algorithms_enabled()
        with pytest.raises(RuntimeError), reproducible(True):
            # An operation that has no deterministic algorithm.
            raise RuntimeError
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        if before is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_early_stopping_leaves_the_stops_of_others_alone(data):
    class Stops(Callback):
        def on_epoch_end(self, state):
            state.stop = state.epoch == 2 or state.stop

    assert len(run(make(data), data, epochs=5, callbacks=[Stops(), EarlyStopping(patience=5)])) == 2


@pytest.fixture
def accelerate_state():
    """Nothing of accelerate's before or after."""
    from accelerate.state import AcceleratorState, GradientState

    def reset():
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    reset()
    yield
    reset()


@pytest.mark.parametrize("steps", [1, 4])
def test_an_accelerator_of_ones_own(steps, data, accelerate_state):
    from accelerate import Accelerator

    own = Accelerator(cpu=True, gradient_accumulation_steps=steps)
    first, second = (make(data) for _ in range(2))
    watch = [Watch(), Watch()]
    run(first, data, accelerator=own, device="nonsense", callbacks=[watch[0]])
    # Used without being handed over, too, and left as it was.
    run(second, data, callbacks=[watch[1]])
    assert own.gradient_accumulation_steps == steps
    assert torch.equal(flat(first), flat(second))
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    plain, third = Watch(), make(data)
    run(third, data, callbacks=[plain])
    # Steps to accumulate are no business of fit's: batches are batches.
    assert torch.equal(plain.gradients[0], watch[0].gradients[0])


def test_the_users_accelerator_decides(data, accelerate_state):
    from accelerate import Accelerator

    theirs = Accelerator(cpu=True, mixed_precision="bf16")
    model, guide = make(data)
    guide.encoder = Dtypes(guide.encoder)
    run((model, guide), data, epochs=1)
    assert guide.encoder.seen == {torch.bfloat16}
    with pytest.raises(ValueError, match="^accelerator: this process has one on cpu with mixed precision 'bf16'"):
        run(make(data), data, mixed_precision="no")
    assert theirs.mixed_precision == "bf16"


def test_nothing_of_accelerates_stays(data, accelerate_state):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    run(make(data), data, epochs=1, mixed_precision="bf16")
    assert not AcceleratorState._shared_state
    assert not PartialState._shared_state
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ
    assert Accelerator(cpu=True, mixed_precision="no").mixed_precision == "no"


def test_a_forward_of_the_users_own_is_left_alone(data):
    for precision in ("no", "bf16"):
        model, guide = make(data)
        calls, original = [], guide.encoder.forward

        def forward(*args, calls=calls, original=original):
            calls.append(1)
            return original(*args)

        guide.encoder.forward = forward
        run((model, guide), data, epochs=1, mixed_precision=precision)
        assert calls
        assert guide.encoder.forward is forward


def test_sprites_know_places_in_full_precision(data):
    decoder = SpriteDecoder((3, 32, 32), 4, sprites=3)
    with torch.no_grad():
        decoder.base[..., 0] = 0.123
    z = torch.randn(5, 4, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decoder(z)
    assert torch.equal(found, decoder(z))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batches": 0}, "^micro_batches: got 0; must be at least 1"),
        ({"max_grad_norm": 0.0}, "^max_grad_norm: got 0.0; must be > 0"),
        ({"max_grad_norm": float("nan")}, "^max_grad_norm: got nan; must be > 0"),
        ({"ema_decay": 0.0}, "^ema_decay: got 0.0; must lie in"),
        ({"mixed_precision": "fp8"}, "^mixed_precision: got 'fp8'; valid: 'no', 'fp16', 'bf16'"),
    ],
)
def test_bad_options(data, options, message):
    with pytest.raises(ValueError, match=message):
        run(make(data), data, **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_precisions_on_cuda(data, precision):
    history = run(make(data), data, device="cuda", mixed_precision=precision, epochs=4)
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_no_device_syncs_in_the_step(data):
    images = data[0].repeat(4, 1, 1, 1).cuda(), data[1].repeat(4, 1).cuda()

    class Listens(Callback):
        def on_step_end(self, state):
            # After the first steps, and between two looks at the loss.
            torch.cuda.set_sync_debug_mode("error" if 3 <= state.step < 14 else "default")

    try:
        run(make(data), images, device="cuda", epochs=1, callbacks=[Listens()])
    finally:
        torch.cuda.set_sync_debug_mode("default")
