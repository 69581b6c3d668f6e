"""Several processes on one machine take the steps of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from causalvae_pyro import Run, load
from causalvae_pyro.training import TrainingCheckpoint
from causalvae_pyro.training.resuming import read_state

SCRIPT = """
import shutil, sys, warnings
warnings.simplefilter("error")
# Of accelerate, when it finds no number of threads set.
import torch
torch.set_num_threads(1)
from causalvae_pyro import AdditiveNoiseSCM, AmortizedGuide, CausalELBO, CausalVAE, FixedPrior, GaussianLikelihood, fit
from causalvae_pyro.networks import MLPDecoder, MLPEncoder
from causalvae_pyro.objectives import LabelFit
from causalvae_pyro.baselines import DeterministicNormal
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.training import Callback, TrainingCheckpoint

root, count = sys.argv[1], int(sys.argv[2])
pendulum = Pendulum("test", size=16)
images, labels = pendulum.images[::15][:count].clone(), pendulum.labels[::15][:count].clone()

def make(deterministic=False):
    torch.manual_seed(0)
    scm = AdditiveNoiseSCM(Pendulum.graph, hidden=8, learn_noise=True)
    prior = FixedPrior.from_labels(labels, std=0.1)
    model = CausalVAE(scm, prior, MLPDecoder.from_images(images, 4, hidden=16), GaussianLikelihood(0.3, learn_scale=True))
    encoder = MLPEncoder((3, 16, 16), 16, hidden=16)
    if deterministic:
        return model, AmortizedGuide(encoder, family=DeterministicNormal(), num_concepts=4)
    return model, AmortizedGuide(encoder, scm, init_scale=0.1)

class Gradients(Callback):
    def __init__(self):
        self.seen = []
    def on_step_end(self, state):
        grads = [p.grad for m in (state.model, state.guide) for p in m.parameters() if p.grad is not None]
        self.seen.append(torch.cat([g.flatten() for g in grads]).clone())

class Copies(Callback):
    # The state as it was after the step before.
    def on_step_end(self, state):
        if state.step == 5:
            shutil.copytree(root + "/whole", root + "/stopped", dirs_exist_ok=True)

found = {}
for dtype in (torch.float32, torch.float64):
    torch.set_default_dtype(dtype)
    images, labels = images if dtype == torch.float32 else images.double() / 255, labels.to(dtype)
    pair, gradients = make(deterministic=True), Gradients()
    # The divergence of z, which one reads of the mean alone, and the labels: no draw, so that parts add up to the whole.
    objective = CausalELBO(0.3, 1.0, terms=[LabelFit()])
    history = fit(*pair, (images, labels), objective=objective, epochs=2, batch_size=25, device="cpu", progress=False,
                  callbacks=[gradients])
    found[str(dtype)] = {"gradients": gradients.seen, "loss": history["loss"],
                         "weights": [p.detach() for m in pair for p in m.parameters()]}
torch.set_default_dtype(torch.float32)
images, labels = pendulum.images[::15][:count].clone(), pendulum.labels[::15][:count].clone()
options = dict(epochs=2, batch_size=25, device="cpu", progress=False)
pair = make()
whole = TrainingCheckpoint(root + "/whole", every=2)
first = fit(*pair, (images, labels), checkpoint=whole, callbacks=[Copies()], **options)
again = make()
torch.rand(7)
from accelerate import PartialState
PartialState().wait_for_everyone()
second = fit(*again, (images, labels), checkpoint=TrainingCheckpoint(root + "/stopped", every=2), resume=True, **options)

# Ctrl-C reaches the processes at different steps; they stop at the same.
import signal
from causalvae_pyro.training import loop
rank, real, pressed = PartialState().process_index, loop.Loop._step, []
def step(self, *arguments):
    real(self, *arguments)
    if self.state.step == 3 + 2 * rank and not pressed:
        pressed.append(1)
        signal.raise_signal(signal.SIGINT)
loop.Loop._step = step
try:
    fit(*make(), (images, labels), checkpoint=TrainingCheckpoint(root + "/pressed"), **(options | {"epochs": 9}))
    raise SystemExit("it was not stopped")
except KeyboardInterrupt:
    pass
loop.Loop._step = real
# One process may ask for the end of all.
class Stops(Callback):
    def on_epoch_end(self, state):
        state.stop = state.epoch == 2
assert len(fit(*make(), (images, labels), callbacks=[Stops()], **(options | {"epochs": 5}))) == 2
# History and sums of an epoch that was under way are those of all processes.
assert [row["loss"] for row in first.rows] == [row["loss"] for row in second.rows], (first.rows, second.rows)
for a, b in zip(pair, again):
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values()):
        assert torch.equal(x, y), name
if PartialState().is_main_process:
    torch.save(found, root + "/found.pt")
print("process", PartialState().process_index, "of", PartialState().num_processes, [round(l, 6) for l in history["loss"]])
PartialState().wait_for_everyone()
PartialState().destroy_process_group()
"""


def launch(script, *arguments, processes):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", "0"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"] if processes > 1 else []
    command = [*command, script, *arguments] if processes > 1 else [sys.executable, script, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


# Batches of 25 in two: 13 and 12; the last of 98 has 12 and 11. That of 76 is one image, and does not reach for both.
@pytest.mark.thorough
@pytest.mark.parametrize("count", [98, pytest.param(76, marks=pytest.mark.slow)])
def test_two_processes_take_the_steps_of_one(count, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    found = {}
    for processes in (1, 2):
        root = tmp_path / str(processes)
        root.mkdir()
        lines = launch(script, root, count, processes=processes).splitlines()
        assert len(lines) == processes
        # Every process knows the whole history.
        assert len({line.partition(" of ")[2] for line in lines}) == 1
        found[processes] = torch.load(root / "found.pt", weights_only=True)
        state = read_state(root / "whole" / "training.pt")
        assert state["settings"]["processes"] == processes
        assert read_state(root / "pressed" / "training.pt")["step"] == (3 if processes == 1 else 10)
        assert len(state["processes"]) == processes
    if count == 76:
        # One process takes the last image too.
        assert [len(found[p]["torch.float32"]["gradients"]) for p in (1, 2)] == [8, 6]
        return
    for dtype, limit in (("torch.float32", 1e-6), ("torch.float64", 1e-12)):
        one, two = found[1][dtype], found[2][dtype]
        assert len(one["gradients"]) == len(two["gradients"]) == 8
        for step, pair in enumerate(zip(one["gradients"], two["gradients"], strict=True)):
            # Steps of Adam divide small gradients by their own size, and so grow small differences.
            assert (pair[0] - pair[1]).abs().max() <= limit * pair[0].abs().max() * 10**step, (dtype, step)
        assert one["loss"] == pytest.approx(two["loss"], rel=max(limit, 1e-6))
        weights = [torch.cat([w.flatten() for w in part["weights"]]) for part in (one, two)]
        assert (weights[0] - weights[1]).abs().max() < 1e3 * limit


@pytest.mark.slow
def test_the_command_in_two_processes(tmp_path):
    out = tmp_path / "run"
    command = ["-m", "causalvae_pyro", "train", "pendulum", "--size", "16", "--limit", "128", "--epochs", "1"]
    script = tmp_path / "script.py"
    script.write_text("import sys\nfrom causalvae_pyro.cli import main\nsys.exit(main(sys.argv[1:]))\n")
    text = launch(script, *command[2:], "--device", "cpu", "--out", out, processes=2)
    assert text.count("training on") == text.count("Pictures, scores and settings") == 1
    assert isinstance(load(out), Run)
    assert Path(out, "report.html").is_file()


@pytest.mark.slow
def test_the_command_in_two_processes_is_refused_where_another_trains(tmp_path):
    out = tmp_path / "run"
    script = tmp_path / "script.py"
    script.write_text("import sys\nfrom causalvae_pyro.cli import main\nsys.exit(main(sys.argv[1:]))\n")
    command = ["train", "pendulum", "--size", "16", "--limit", "128", "--epochs", "1", "--device", "cpu", "--out", out]
    with TrainingCheckpoint(out).lock(), pytest.raises(AssertionError) as caught:
        launch(script, *command, processes=2)
    assert f"causalvae: error: checkpoint: process {os.getpid()} on " in str(caught.value)
    assert not out.exists()
