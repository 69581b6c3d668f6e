"""Checkpoints: bit-exact, readable, never half-written, and clear about what is wrong with a file."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from causalvae_pyro import (
    AdditiveNoiseSCM,
    AmortizedGuide,
    CausalGraph,
    CausalVAE,
    ConvDecoder,
    ConvEncoder,
    FixedPrior,
    GaussianLikelihood,
    LinearSCM,
    Run,
    counterfactual,
    load,
    reconstruct,
    save,
)
from causalvae_pyro.checkpoints import SaveCheckpoint
from causalvae_pyro.checkpoints.runs import weights_digest
from causalvae_pyro.likelihoods import BernoulliLikelihood, ContinuousBernoulliLikelihood, LaplaceLikelihood
from causalvae_pyro.networks import MLPDecoder, MLPEncoder
from causalvae_pyro.priors import LearnedPrior
from causalvae_pyro.scm import AffineFlowSCM, SplineFlowSCM
from causalvae_pyro.training import History, TrainingState
from tests import ROOT
from tests.builders import amortized

GRAPH = CausalGraph(["a", "b", "c"], [("a", "c"), ("b", "c")])
SHAPE = (3, 16, 16)
LABELS = torch.linspace(-1, 1, 12).reshape(4, 3)
DO = {"a": 0.7, "c": torch.tensor([0.1, 0.2, 0.3, 0.4])}

# kind of guide, causal layer, prior, networks, likelihood, dimensions of a concept, dimensions of the image's noise
VARIANTS = {
    "recipe": ("endogenous", AdditiveNoiseSCM, FixedPrior, "conv", GaussianLikelihood, 1, 0),
    "paper": ("exogenous", LinearSCM, LearnedPrior, "mlp", BernoulliLikelihood, 2, 0),
    "style": ("endogenous", LinearSCM, LearnedPrior, "conv", ContinuousBernoulliLikelihood, 2, 3),
    "noisy": ("exogenous", AdditiveNoiseSCM, FixedPrior, "mlp", LaplaceLikelihood, 1, 2),
    "affine": ("exogenous", AffineFlowSCM, LearnedPrior, "mlp", GaussianLikelihood, 2, 0),
    "spline": ("endogenous", SplineFlowSCM, FixedPrior, "mlp", GaussianLikelihood, 1, 0),
}


def make(variant="recipe", hidden=8):
    guide, scm, prior, networks, likelihood, dim, noise_dim = VARIANTS[variant]
    options = {} if scm is LinearSCM else {"hidden": hidden}
    options |= {AdditiveNoiseSCM: {"learn_noise": True}, SplineFlowSCM: {"bins": 3, "bound": 2.5}}.get(scm, {})
    scm = scm(GRAPH, dim, **options)
    prior = prior(3, dim, std=0.3, shift=[0.1, 1 / 3, -2.0], scale=[1.0, 0.7, 3.0])
    shift = {"label_dim": 3, "label_shift": LABELS.mean(0), "label_scale": [1.0, 2.0, 3.0]} if guide == "exogenous" else {}
    if networks == "conv":
        decoder = ConvDecoder(SHAPE, 3, dim, noise_dim=noise_dim, hidden=16, channels=(8, 8, 8))
        encoder = ConvEncoder(SHAPE, 16, channels=[4, 4, 4, 8], **shift)
    else:
        decoder = MLPDecoder(SHAPE, 3, dim, noise_dim=noise_dim, hidden=16)
        encoder = MLPEncoder(SHAPE, 16, hidden=16, **shift)
    options = {"noise_dim": noise_dim, "init_scale": 0.2}
    guide = amortized(guide, encoder, scm, **options)
    model = CausalVAE(scm, prior, decoder, likelihood(), noise_dim=noise_dim)
    return randomised(Run(model, guide, {"note": "mine", "data": {"size": 16}}))


def randomised(run):
    for module in (run.model, run.guide):
        module.eval()
        for parameter in module.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return run


def answers(run):
    x = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(3))
    return {
        "reconstruction": reconstruct(run.model, run.guide, x, LABELS),
        "counterfactual": counterfactual(run.model, run.guide, x, DO, LABELS),
    }


def weights(run):
    return {f"{i}.{k}": t for i, module in enumerate((run.model, run.guide)) for k, t in module.state_dict().items()}


def identical(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Round trips ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip_is_exact(variant, tmp_path):
    run = make(variant)
    expected, before = answers(run), weights(run)
    save(run, tmp_path / "deep" / "down")
    restored = load(tmp_path / "deep" / "down")
    assert identical(weights(restored), before)
    assert identical(answers(restored), expected)
    assert not identical(answers(make(variant)), expected)
    assert restored.config == run.config
    assert restored.graph == GRAPH
    assert not restored.model.training
    assert not restored.guide.training
    for name in ("scm", "prior", "decoder", "likelihood"):
        assert type(getattr(restored.model, name)) is type(getattr(run.model, name))
    assert restored.guide.scm is (restored.model.scm if VARIANTS[variant][0] == "endogenous" else None)
    # Saved again, the files are the same.
    save(restored, tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "deep" / "down" / name).read_bytes()


@pytest.mark.thorough
def test_a_fresh_process_gives_the_same_images(tmp_path):
    for variant in VARIANTS:
        run = make(variant)
        save(run, tmp_path / variant)
        save_file(answers(run), tmp_path / variant / "expected.safetensors")
    program = """
import sys, pathlib, torch
sys.path.insert(0, sys.argv[1])
from tests.checkpoints.test_runs import answers, identical, load, load_file
torch.manual_seed(99)
for path in sorted(pathlib.Path(sys.argv[2]).iterdir()):
    print(path.name, identical(answers(load(path)), load_file(path / "expected.safetensors")))
"""
    here = str(ROOT)
    done = subprocess.run([sys.executable, "-c", program, here, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == [f"{variant} True" for variant in sorted(VARIANTS)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_survive(dtype, tmp_path):
    run = make("paper")
    run.model.to(dtype)
    run.guide.to(dtype)
    save(run, tmp_path)
    assert identical(weights(load(tmp_path)), weights(run))


def test_config_is_readable(tmp_path):
    save(make(), tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["format"], config["note"]) == (1, "mine")
    scm = config["modules"]["model"]["args"]["scm"]
    assert scm["class"] == "AdditiveNoiseSCM"
    assert scm["args"]["graph"]["graph"] == {"names": ["a", "b", "c"], "edges": [["a", "c"], ["b", "c"]]}
    assert scm["args"]["hidden"] == 8
    assert config["modules"]["guide"]["args"]["scm"] == {"ref": "scm"}
    stored = load_file(tmp_path / "model.safetensors")
    assert {"model.scm.weight", "guide.head.loc.weight"} <= stored.keys()
    # The causal layer is the model's alone.
    assert not [name for name in stored if name.startswith("guide.") and "scm" in name]


def test_nothing_is_pickled(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("pickle was used")

    for name in ("save", "load"):
        monkeypatch.setattr(torch, name, refuse)
    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(f"pickle.{name}", refuse)
    save(make(), tmp_path)
    load(tmp_path)


class Doubling(MLPDecoder):
    """A user's own module, a subclass of one of ours."""

    def __init__(self, factor, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.factor = factor

    def forward(self, z, eps_x=None):
        return self.factor * super().forward(z, eps_x)


class Plain(nn.Module):
    """A user's own module that knows nothing of the package."""

    out_features = 4

    def __init__(self, width=4):
        super().__init__()
        self.linear = nn.Linear(768, width)

    def forward(self, x, labels=None):
        return self.linear(x.flatten(1))


def test_classes_of_the_user(tmp_path):
    scm = LinearSCM(GRAPH)
    model = CausalVAE(scm, FixedPrior(3), Doubling(2.5, SHAPE, 3, hidden=8), GaussianLikelihood())
    run = randomised(Run(model, AmortizedGuide(Plain(), scm)))
    save(run, tmp_path)
    restored = load(tmp_path, classes={"Doubling": Doubling, "Plain": lambda: Plain(width=4)})
    assert restored.model.decoder.factor == 2.5
    assert identical(answers(restored), answers(run))
    with pytest.raises(ValueError, match=r"^classes: the run uses 'Doubling'.*load\(\.\.\., classes={'Doubling': Doubling}\)"):
        load(tmp_path)


def test_shared_weights_are_saved(tmp_path):
    run = make("paper")
    run.model.decoder.layers[2].weight = run.model.decoder.layers[2].weight
    run.guide.encoder.layers[2].weight = run.model.decoder.layers[2].weight
    save(run, tmp_path)
    assert identical(answers(load(tmp_path)), answers(run))


def test_arguments_that_json_cannot_hold(tmp_path):
    model = CausalVAE(LinearSCM(GRAPH), FixedPrior(3), Doubling(object(), SHAPE, 3), GaussianLikelihood())
    with pytest.raises(ValueError, match=r"^run: a module was made with <object object at .*config\.json cannot hold"):
        save(Run(model, make("paper").guide), tmp_path)
    assert os.listdir(tmp_path) == []


# Damage --------------------------------------------------------------------------------------------------------------


def edit_config(directory, change):
    config = json.loads((directory / "config.json").read_text())
    change(config)
    (directory / "config.json").write_text(json.dumps(config))


def truncate(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def drop_tensor(directory):
    tensors = load_file(directory / "model.safetensors")
    del tensors["model.scm.weight"]
    save_file(tensors, directory / "model.safetensors")


DAMAGES = {
    "no config": (lambda d: (d / "config.json").unlink(), FileNotFoundError, r"config\.json does not exist"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), FileNotFoundError, r"model\.safetensors does not exist"),
    "truncated weights": (truncate, ValueError, r"model\.safetensors is truncated or not a safetensors file"),
    "empty weights": (
        lambda d: (d / "model.safetensors").write_bytes(b""),
        ValueError,
        r"model\.safetensors is truncated or not a safetensors file",
    ),
    "foreign weights": (
        lambda d: (d / "model.safetensors").write_bytes(b"PK\x03\x04 a zip file" * 99),
        ValueError,
        r"model\.safetensors is truncated or not a safetensors file",
    ),
    "missing tensor": (drop_tensor, ValueError, r"model\.safetensors does not fit \S+config\.json: .*scm\.weight"),
    "other shape": (
        lambda d: save(make(hidden=9), d / "other") or os.replace(d / "other" / "model.safetensors", d / "model.safetensors"),
        ValueError,
        r"model\.safetensors does not fit \S+config\.json: .*size mismatch",
    ),
    "not json": (lambda d: (d / "config.json").write_text("{'a'"), ValueError, r"config\.json is not a run's configuration"),
    "not text": (lambda d: (d / "config.json").write_bytes(b"\xff\xfe\x00"), ValueError, r"config\.json is not a run's conf"),
    "a list": (lambda d: (d / "config.json").write_text("[1]"), ValueError, r"config\.json is not a run's configuration"),
    "other json": (
        lambda d: (d / "config.json").write_text('{"lr": 1}'),
        ValueError,
        r"config\.json is not a run's conf.*format",
    ),
    "other format": (
        lambda d: edit_config(d, lambda c: c.update(format=2)),
        ValueError,
        r"config\.json has format 2; .*format 1",
    ),
    "no guide": (
        lambda d: edit_config(d, lambda c: c["modules"].pop("guide")),
        ValueError,
        r"config\.json does not describe.*guide",
    ),
    "no modules": (lambda d: edit_config(d, lambda c: c.update(modules=None)), ValueError, r"config\.json does not describe"),
    "wrong argument": (
        lambda d: edit_config(d, lambda c: c["modules"]["model"]["args"].update(colour="red")),
        ValueError,
        r"config\.json does not describe.*colour",
    ),
    "bad value": (
        lambda d: edit_config(d, lambda c: c["modules"]["model"]["args"]["scm"]["args"].update(dim=0)),
        ValueError,
        r"config\.json does not describe.*dim: got 0",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(damage, tmp_path):
    act, error, message = DAMAGES[damage]
    save(make(), tmp_path)
    load(tmp_path)
    act(tmp_path)
    with pytest.raises(error, match=message) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_directory(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"nowhere/config\.json does not exist; expected a directory written by"
    ) as caught:
        load(tmp_path / "nowhere")
    assert "\n" not in str(caught.value)


# Atomicity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("function", "nth"), [("replace", 1), ("fsync", 1), ("replace", 2), ("fsync", 2)])
def test_a_failed_save_leaves_whole_files(function, nth, tmp_path, monkeypatch):
    run = make()
    expected = answers(run)
    save(run, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    original, calls = getattr(os, function), []

    def fails(*args):
        calls.append(args)
        if len(calls) == nth:
            # Whatever is half-written by now, a reader does not see it.
            if nth == 1:
                assert identical(answers(load(tmp_path)), expected)
            raise OSError("disk full")
        return original(*args)

    new = randomised(make())
    with monkeypatch.context() as patch:
        patch.setattr(os, function, fails)
        with pytest.raises(OSError, match="disk full"):
            save(Run(new.model, new.guide, {"note": "new"}), tmp_path)
    restored = load(tmp_path)
    assert restored.config["note"] == "mine"
    assert identical(weights(restored), weights(run if nth == 1 else new))
    assert set(os.listdir(tmp_path)) == before.keys()
    save(new, tmp_path)
    assert identical(weights(load(tmp_path)), weights(new))


# The callback --------------------------------------------------------------------------------------------------------


def test_callback_saves_every_few_epochs(tmp_path):
    run = make()
    callback = SaveCheckpoint(tmp_path, {"note": 1}, every=2)
    state = TrainingState(run.model, run.guide, None, History())
    for epoch in range(1, 5):
        state.epoch, state.step = epoch, 10 * epoch
        state.history.rows.append({"epoch": epoch})
        callback.on_epoch_end(state)
        if epoch == 1:
            assert os.listdir(tmp_path) == []
        else:
            progress = load(tmp_path).config["progress"]
            assert progress == {"epoch": epoch // 2 * 2, "step": epoch // 2 * 20, "interrupted": False}
            assert len((tmp_path / "history.csv").read_text().splitlines()) == 1 + epoch // 2 * 2
    with pytest.raises(ValueError, match="^every: got 0; must be at least 1"):
        SaveCheckpoint(tmp_path, every=0)


@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_a_compiled_network_is_saved_as_what_it_was(part, tmp_path):
    scm = LinearSCM(GRAPH)
    networks = {"decoder": MLPDecoder(SHAPE, 3, hidden=8), "encoder": MLPEncoder(SHAPE, 8, hidden=8)}
    networks[part] = torch.compile(networks[part], backend="eager")
    model = CausalVAE(scm, FixedPrior(3), networks["decoder"], GaussianLikelihood())
    run = Run(model.eval(), AmortizedGuide(networks["encoder"], scm).eval())
    save(run, tmp_path)
    again = load(tmp_path)
    assert "_orig_mod" not in (tmp_path / "config.json").read_text()
    assert not any("_orig_mod" in name for name in load_file(tmp_path / "model.safetensors"))
    assert type(again.model.decoder) is MLPDecoder
    assert type(again.guide.encoder) is MLPEncoder
    assert weights_digest(again) == weights_digest(run)
    x = torch.rand(2, *SHAPE)
    assert torch.allclose(
        counterfactual(again.model, again.guide, x, {"a": 1.0}), counterfactual(model, run.guide, x, {"a": 1.0})
    )


def test_the_plates_name_is_kept(tmp_path):
    scm = LinearSCM(GRAPH)
    model = CausalVAE(scm, FixedPrior(3), MLPDecoder(SHAPE, 3, hidden=8), GaussianLikelihood(), plate="photographs")
    save(Run(model, AmortizedGuide(MLPEncoder(SHAPE, 8, hidden=8), scm, plate="photographs")), tmp_path)
    again = load(tmp_path)
    assert (again.model.plate, again.guide.plate) == ("photographs", "photographs")
