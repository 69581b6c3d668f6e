"""What a GPU must do as a CPU does: training with every option, exact resume, losses, gradients and counterfactuals."""

import contextlib
import copy

import pytest
import torch

from causalvae_pyro import (
    AdditiveNoiseSCM,
    AmortizedGuide,
    CausalELBO,
    CausalVAE,
    FixedPrior,
    GaussianLikelihood,
    counterfactual,
    encode,
    fit,
    load,
)
from causalvae_pyro.checkpoints import SaveCheckpoint
from causalvae_pyro.datasets import Flow, Pendulum
from causalvae_pyro.evaluation.evaluate import evaluate, train_predictor
from causalvae_pyro.objectives import EffectSparsity, LabelFit, SleepPhase
from causalvae_pyro.recipes import Recipe
from causalvae_pyro.scm import SplineFlowSCM
from causalvae_pyro.training import Callback
from tests.training.test_resume import KillAt, Killed

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DECODERS = ["conv", "sprites"]


@pytest.fixture(scope="module")
def pendulum():
    data = Pendulum("test", size=32)
    data.images, data.labels = data.images[::8][:192].clone(), data.labels[::8][:192].clone()
    return data


@pytest.fixture
def data(pendulum):
    return pendulum.images, pendulum.labels


def make(data, decoder="conv"):
    torch.manual_seed(0)
    recipe = Recipe(decoder=decoder)
    run = recipe.build(Pendulum.graph, *data)
    return run, recipe.objective(run)


def run(made, data, **options):
    pair, objective = made
    settings = {"epochs": 2, "batch_size": 64, "device": "cuda", "progress": False, "seed": 1, "objective": objective}
    return fit(pair.model, pair.guide, data, **settings | options)


def state(made):
    return {f"{i}.{key}": t for i in (0, 1) for key, t in (made[0].model, made[0].guide)[i].state_dict().items()}


@contextlib.contextmanager
def exact_products():
    """No TF32, which cuDNN uses for convolutions by default and which keeps 10 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("decoder", DECODERS)
def test_loss_and_gradients_are_those_of_the_cpu(data, decoder):
    """In double precision, where two orders of summation agree to more than ten digits."""
    (pair, _), found = make(data, decoder), {}
    x = data[0][:16].double() / 255
    for device in ("cpu", "cuda"):
        model, guide = copy.deepcopy((pair.model, pair.guide))
        model.double().to(device).eval()
        guide.double().to(device).eval()
        z = torch.linspace(-1, 1, 64, dtype=torch.float64, device=device).view(16, 4, 1)
        loss = (model.likelihood(model.decoder(z)).log_prob(x.to(device))).sum()
        once = getattr(guide, "guide", guide)
        loc = once.head(once.encoder(x.to(device)))[0]
        (loss + loc.square().sum()).backward()
        named = ((f"{i}.{key}", p.grad) for i, m in enumerate((model, guide)) for key, p in m.named_parameters())
        gradients = {name: gradient.cpu() for name, gradient in named if gradient is not None}
        found[device] = loss.item(), gradients
    (loss, gradients), (loss_gpu, gradients_gpu) = found["cpu"], found["cuda"]
    assert loss_gpu == pytest.approx(loss, rel=1e-9)
    assert len(gradients) > 10
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_gpu[name], gradient, rtol=1e-6, atol=1e-8 * float(gradient.abs().max()) + 1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch.compile's own
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "options",
    [
        {"mixed_precision": "bf16"},
        {"mixed_precision": "fp16"},
        {"micro_batches": 2, "max_grad_norm": 1000.0, "ema_decay": 0.9},
        {"compiled": True},
    ],
    ids=lambda options: next(iter(options)) + "-" + str(next(iter(options.values()))),
)
def test_options(data, decoder, options):
    made = make(data, decoder)
    # In half precision the first steps only find out how large gradients may be.
    history = run(made, data, epochs=12, **options)
    # Not the loss, which grows with the sparsity weight.
    assert history["reconstruction"][-1] > history["reconstruction"][0] + 30
    assert {t.device.type for t in state(made).values()} == {"cuda"}
    assert all(torch.isfinite(t).all() for t in state(made).values())


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("decoder", DECODERS)
def test_no_device_syncs_in_the_step(data, decoder):
    images = data[0].repeat(6, 1, 1, 1).cuda(), data[1].repeat(6, 1).cuda()

    class Listens(Callback):
        def on_step_end(self, state):
            # In the second epoch, and between two looks at the loss.
            torch.cuda.set_sync_debug_mode("error" if 22 <= state.step < 32 else "default")

    try:
        run(make(data, decoder), images, callbacks=[Listens()])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("decoder", DECODERS)
def test_resumes_to_the_bit(data, decoder, tmp_path):
    """With deterministic algorithms; the state that is killed is that of the middle of an epoch."""
    whole = make(data, decoder)
    history = run(whole, data, deterministic=True)
    torch.cuda.manual_seed(99)
    with pytest.raises(Killed):
        run(make(data, decoder), data, deterministic=True, checkpoint=tmp_path, callbacks=[KillAt(5)])
    torch.cuda.manual_seed(7)
    resumed = make(data, decoder)
    again = run(resumed, data, deterministic=True, checkpoint=tmp_path, resume=True)
    assert again["loss"] == history["loss"]
    for name, tensor in state(whole).items():
        assert torch.equal(tensor, state(resumed)[name]), name


def test_a_run_of_the_gpu_is_read_on_a_cpu(data, tmp_path):
    made = make(data, "sprites")
    run(made, data, callbacks=[SaveCheckpoint(tmp_path)])
    x, do = data[0][:32].float() / 255, {"light": 12.0}
    with exact_products():
        there = counterfactual(made[0].model, made[0].guide, x, do)
    assert there.device.type == "cuda"
    here = load(tmp_path, device="cpu")
    torch.testing.assert_close(counterfactual(here.model, here.guide, x, do), there.cpu(), atol=2e-4, rtol=0)
    torch.testing.assert_close(
        encode(here.model, here.guide, x), encode(made[0].model, made[0].guide, x).cpu(), atol=5e-3, rtol=0
    )


def test_scores_are_those_of_the_cpu(pendulum, data):
    made = make(data, "sprites")
    run(made, data, epochs=4)
    with exact_products():
        there = evaluate(made[0], pendulum, intervals=False)
    made[0].model.cpu()
    made[0].guide.cpu()
    here = evaluate(made[0], pendulum, intervals=False)
    for key in ("cf_score", "r2", "cf_r2"):
        for name, value in here[key].items():
            assert there[key][name] == pytest.approx(value, abs=2e-3), (key, name)
    assert there["reconstruction_mse"] == pytest.approx(here["reconstruction_mse"], rel=1e-2)


def test_judge(data):
    judge = train_predictor(*data, device="cuda")
    assert judge.predict(data[0].float() / 255).device.type == "cpu"
    assert judge.features(data[0].float() / 255).device.type == "cpu"


def test_flow_mechanisms(data):
    """Splines, whose bins are searched on the device."""
    torch.manual_seed(0)
    images, labels = data
    scm = SplineFlowSCM(Pendulum.graph)
    model, guide = make(data)[0].model, None
    model = CausalVAE(scm, FixedPrior.from_labels(labels), model.decoder, GaussianLikelihood(0.1, learn_scale=True))
    guide = AmortizedGuide(make(data)[0].guide.encoder, scm, init_scale=0.1)
    history = fit(model, guide, data, epochs=4, device="cuda", progress=False)
    assert history["loss"][-1] < history["loss"][0]
    pictures = counterfactual(model, guide, images[:8].float() / 255, {"pendulum": labels[:8, 0]})
    assert torch.isfinite(pictures).all()


def test_sleep_phase_and_price_on_the_device():
    """Flow's sprites, by hand."""
    flow = Flow("test", size=32)
    images, labels = flow.images[:128], flow.labels[:128]
    torch.manual_seed(0)
    pair = Recipe(decoder="sprites").build(flow.graph, images, labels)
    objective = CausalELBO(teacher_forcing=1.0, terms=[LabelFit(), EffectSparsity(10.0), SleepPhase(pair.guide)])
    history = fit(pair.model, pair.guide, (images, labels), objective=objective, epochs=4, device="cuda", progress=False)
    assert history["reconstruction"][-1] > history["reconstruction"][0]
    assert isinstance(pair.model.scm, AdditiveNoiseSCM)
