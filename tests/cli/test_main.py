"""The command line: a whole run in miniature, and one clear line for everything that can be wrong with the input."""

import csv
import functools
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from causalvae_pyro import counterfactual, fit, load, save
from causalvae_pyro.cli import main
from causalvae_pyro.cli.scoring import score
from causalvae_pyro.cli.stages import Stages
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.datasets import registry as sources
from causalvae_pyro.datasets.celeba_files import eye_places
from causalvae_pyro.evaluation.evaluate import evaluate, score_table, train_predictor
from causalvae_pyro.explore import read_image
from causalvae_pyro.guides import CalibratedGuide
from causalvae_pyro.interventions import FADE, reconstruct
from causalvae_pyro.likelihoods import ContinuousBernoulliLikelihood
from causalvae_pyro.plots import plot_comparison
from causalvae_pyro.training import TrainingCheckpoint
from causalvae_pyro.training.resuming import STATE, read_state
from causalvae_pyro.utils.missing_labels import keep_labels
from tests import ROOT
from tests.builders import Small

OPTIONS = ["--noise", "0.1", "--dim", "2", "--w-eps", "0.3", "--seed", "3", "--batch-size", "16"]
FILES = {
    "config.json",
    "model.safetensors",
    "history.csv",
    "metrics.json",
    "report.html",
    "graph.png",
    "reconstructions.png",
    "counterfactuals.png",
    "concepts.png",
    "scores.png",
    "information.png",
    "training.png",
    "program.png",
    "coverage.png",
    "effects.png",
    "training.pt",
}
# As the installed command, with Ctrl-C in effect even where the tests run in the background.
COMMAND = [
    sys.executable,
    "-c",
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from causalvae_pyro.cli import main; sys.exit(main())",
]


# The same on the few scenes below.
SMALL_COMMAND = [
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.cli import test_main; "
    "test_main.sources.SIMULATORS['pendulum'] = test_main.Small; sys.exit(test_main.main())",
]


@pytest.fixture(scope="module", autouse=True)
def _small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sources.SIMULATORS, "pendulum", Small)
        patch.setattr("causalvae_pyro.cli.scoring.train_predictor", functools.partial(train_predictor, steps=60))
        yield


def train(out, *more):
    return main(
        ["train", "pendulum", "--size", "16", "--epochs", "1", "--limit", "64", "--device", "cpu", "--out", str(out), *more]
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "deep" / "pendulum"
    assert train(out, *OPTIONS) == 0
    return out


@pytest.fixture
def run(finished, tmp_path):
    """A run of one's own to spoil."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


# What works ----------------------------------------------------------------------------------------------------------


def test_images_held_out_calibrate_the_guide(tmp_path, capsys):
    assert train(tmp_path, "--validation-share", "0.5", "--decoder", "conv", "--batch-size", "16") == 0
    assert "the guide's intervals are calibrated on the images held out\n" in capsys.readouterr().out
    guide = load(tmp_path).guide
    assert isinstance(guide, CalibratedGuide)
    assert not torch.allclose(guide.temperature, torch.ones(4))
    assert {"guide", "uncalibrated"} <= set(json.loads((tmp_path / "metrics.json").read_text())["calibration"])
    # A finished training that is resumed is not calibrated twice.
    assert train(tmp_path, "--validation-share", "0.5", "--decoder", "conv", "--batch-size", "16", "--resume") == 0
    again = load(tmp_path).guide
    assert not isinstance(again.guide, CalibratedGuide)
    torch.testing.assert_close(again.temperature, guide.temperature)


@pytest.mark.thorough
def test_train_leaves_a_whole_run(finished):
    assert {path.name for path in finished.iterdir()} == FILES
    config = json.loads((finished / "config.json").read_text())
    assert config["data"] == {"name": "pendulum", "size": 16, "noise": 0.1, "partition": "iid", "seed": 3}
    assert config["recipe"].items() >= {"dim": 2, "w_eps": 0.3, "w_z": 1.0}.items()
    assert {"epochs": 1, "batch_size": 16, "lr": 2e-3, "images": 64, "device": "cpu"}.items() <= config["training"].items()
    assert config["progress"] == {"epoch": 1, "step": 4, "interrupted": False}
    assert config["units"] == dict(zip(Pendulum.graph.names, Pendulum.units, strict=True))
    with open(finished / "history.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert {"epoch", "step", "seconds", "images_per_second", "lr", "loss", "reconstruction", "kl_z", "label_fit"} <= row.keys()
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["images"] == 50
    assert len(metrics["cf_score"]) == 10
    assert metrics.keys() >= {"representation", "composition", "reversibility", "graph", "directions", "intervals"}
    assert "effectiveness" not in metrics


def test_presets_give_what_is_not_given(tmp_path, monkeypatch, capsys):
    given = []

    def spy(model, guide, *args, epochs, batch_size, **options):
        given.append((epochs, batch_size, getattr(guide, "refinements", None)))
        return fit(model, guide, *args, epochs=1, batch_size=batch_size, **options)

    monkeypatch.setattr("causalvae_pyro.cli.train.fit", spy)
    monkeypatch.setattr("causalvae_pyro.cli.train.score", lambda *args, **options: None)
    small = ["train", "pendulum", "--size", "16", "--limit", "64", "--device", "cpu", "--overwrite", "--out", str(tmp_path)]
    best = ["--preset", "best"]
    given_options = ([], best, [*best, "--epochs", "3"], [*best, "--refinements", "0"], ["--refinements", "3"])
    for options in (*given_options, ["--batch-size", "16"], ["--decoder", "conv"], ["--quick"], ["--quick", "--epochs", "5"]):
        assert main([*small, *options]) == 0
    assert given[:5] == [(6, 32, 1), (30, 64, 2), (3, 64, 2), (30, 64, 0), (6, 32, 3)]
    assert given[5:] == [(6, 16, 1), (12, 64, None), (90, 32, 1), (5, 32, 1)]
    assert main(["train", "flow", *small[2:]]) == 0
    assert given[-1] == (12, 64, 1)
    capsys.readouterr()
    assert main([*small, "--mirror"]) == 0
    assert "not used with decoder 'sprites': --mirror" in "".join(capsys.readouterr())


def test_a_quick_look(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("causalvae_pyro.cli.train.QUICK", (96, 20))
    small = ["train", "pendulum", "--size", "16", "--decoder", "conv", "--epochs", "1", "--device", "cpu", "--quick", "--json"]
    assert main([*small, "--out", str(tmp_path / "quick")]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 20
    assert load(tmp_path / "quick").config["training"]["images"] == 96
    assert main([*small, "--limit", "64", "--quiet", "--out", str(tmp_path / "limited")]) == 0
    assert load(tmp_path / "limited").config["training"]["images"] == 64


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("options", "decoder", "encoder"),
    [
        ([], "SpriteDecoder", "ConvEncoder"),
        (["--decoder", "conv"], "ConvDecoder", "ConvEncoder"),
        (["--decoder", "scene"], "SceneDecoder", "ConvEncoder"),
        (["--decoder", "auto", "--patience", "9"], "ConvDecoder", "ConvEncoder"),
        (["--label-share", "0.5", "--encoder", "spatial"], "ConvDecoder", "SpatialEncoder"),
        (["--label-share", "0.5", "--decoder", "sprites"], "SpriteDecoder", "ConvEncoder"),
        (["--preset", "best"], "SpriteDecoder", "ConvEncoder"),
        (["--preset", "best", "--encoder", "spatial"], "SpriteDecoder", "SpatialEncoder"),
    ],
    ids=" ".join,
)
def test_train_with_another_decoder_or_encoder(options, decoder, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("causalvae_pyro.cli.train.score", lambda *args, **options: None)
    assert train(tmp_path, *options) == 0
    run = load(tmp_path)
    assert [type(module).__name__ for module in (run.model.decoder, getattr(run.guide, "guide", run.guide).encoder)] == [
        decoder,
        encoder,
    ]


@pytest.mark.thorough
def test_train_says_what_it_does_and_repeats_it(finished, tmp_path, capsys):
    assert train(tmp_path, *OPTIONS) == 0
    out, err = capsys.readouterr()
    data, start, *_ = out.splitlines()
    assert re.match(r"data      64 images of Small\(.*noise=0\.1, seed=3: 202 images\) \(", data)
    seen = r"parts seen in the images \(\d\) explain \d+ % of their variance at the start"
    assert re.match(rf"start     .* million parameters, on cpu; {seen} \(", start)
    for words in (
        "do(pendulum, light)",
        "mean over single concepts",
        "mean squared error of reconstructions",
        f"{tmp_path / 'report.html'}",
    ):
        assert words in out
    assert re.match(r"epoch 1/1: 4/4 steps, .*img/s", err)
    assert load(tmp_path).model.scm.dim == 2
    for name in ("model.safetensors", "metrics.json"):
        assert (finished / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.thorough
@pytest.mark.parametrize(("share", "labelled", "repeats"), [("0.1", 6, 2), ("1e-9", 2, 6)])
def test_train_with_a_share_of_the_labels(share, labelled, repeats, tmp_path, capsys, monkeypatch):
    given = []
    monkeypatch.setattr("causalvae_pyro.cli.train.fit_mechanisms", lambda model, labels: given.append(("mechanisms", labels)))

    def spy(model, guide, data, **options):
        given.append(("fit", data[1]))
        assert options["labelled_repeats"] == repeats
        return fit(model, guide, data, **options)

    monkeypatch.setattr("causalvae_pyro.cli.train.fit", spy)
    assert train(tmp_path, "--seed", "3", "--label-share", share) == 0
    assert f"with the labels of {labelled} images, each shown {repeats} times an epoch\n" in capsys.readouterr().out
    training = json.loads((tmp_path / "config.json").read_text())["training"]
    expected = {"images": 64, "label_share": float(share), "labelled": labelled, "labelled_repeats": repeats}
    assert expected.items() <= training.items()
    (first, labels), (second, same) = given
    assert (first, second) == ("mechanisms", "fit")
    assert labels is same
    known = ~labels.isnan().any(1)
    assert known.sum() == labelled
    every = Small("train", size=16, seed=3).labels
    every = every[torch.arange(64) * len(every) // 64]
    assert torch.equal(labels[known], every[known])
    assert torch.equal(labels.isnan(), keep_labels(every, float(share), seed=3).isnan())
    # The concepts are in units of the known labels.
    torch.testing.assert_close(load(tmp_path).model.prior.shift, labels[known].mean(0).float())


def test_train_with_images_held_out(tmp_path, capsys, monkeypatch):
    given = {}

    def spy(model, guide, data, **options):
        given.update(options, data=data)
        return fit(model, guide, data, **options)

    monkeypatch.setattr("causalvae_pyro.cli.train.fit", spy)
    assert train(tmp_path, "--validation-share", "0.25", "--seed", "3", "--label-share", "0.5", "--batch-size", "16") == 0
    assert "16 images are held out for validation\n" in capsys.readouterr().out
    every = Small("train", size=16, seed=3)
    chosen = torch.arange(64) * len(every) // 64
    parts = [[tuple(image.flatten().tolist()) for image in images] for images, _ in (given["data"], given["validation"])]
    assert list(map(len, parts)) == [48, 16]
    assert set(parts[0]) | set(parts[1]) == {tuple(image.flatten().tolist()) for image in every.images[chosen]}
    # They have labels to the same share.
    assert [int((~labels.isnan()).all(1).sum()) for _, labels in (given["data"], given["validation"])] == [24, 8]
    training = json.loads((tmp_path / "config.json").read_text())["training"]
    assert (training["images"], training["validation"]) == (48, 16)
    with open(tmp_path / "history.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["validation_loss"]) != float(row["loss"])
    assert (tmp_path / "training.png").exists()


@pytest.mark.thorough
def test_all_labels_are_the_default(finished, run, capsys):
    config = json.loads((finished / "config.json").read_text())
    assert "label_share" not in config["training"]
    assert train(run, *OPTIONS, "--label-share", "1", "--overwrite") == 0
    assert "labels of" not in capsys.readouterr().out
    assert (finished / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


@pytest.mark.thorough
def test_evaluate_scores_again(run, capsys, monkeypatch):
    before = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").unlink()
    (run / "report.html").unlink()
    assert main(["evaluate", str(run), "--device", "cpu"]) == 0
    assert json.loads((run / "metrics.json").read_text()) == before
    assert {path.name for path in run.iterdir()} == FILES
    # On some of the images, and without the history of the training.
    written = []
    monkeypatch.setattr("causalvae_pyro.cli.scoring.write_report", lambda *arguments: written.append(arguments))
    (run / "history.csv").unlink()
    assert main(["evaluate", str(run), "--device", "cpu", "--limit", "20"]) == 0
    (_, _, metrics, history, path), *more = written
    assert (metrics["images"], history, path, more) == (20, [], run, [])
    assert "20 test images" in capsys.readouterr().out


@pytest.mark.thorough
def test_evaluate_with_a_judge_where_the_truth_is_known(run, capsys):
    before = json.loads((run / "metrics.json").read_text())
    for flags in (["--predictor"], [], ["--no-predictor"]):
        assert main(["evaluate", str(run), "--device", "cpu", *flags]) == 0
        metrics = json.loads((run / "metrics.json").read_text())
        out, page = capsys.readouterr().out, (run / "report.html").read_text()
        for text in (out, page):
            assert ("an independent predictor reads" in text) == (flags == ["--predictor"])
        assert ("predictor trained on 202 images" in out) == (flags == ["--predictor"])
        found = metrics.pop("effectiveness", None)
        assert metrics == before
        assert (found is not None) == (flags == ["--predictor"])
        if found:
            # Of the training images alone, and against the true labels.
            train, test = (Small(split, size=16, noise=0.1, seed=3) for split in ("train", "test"))
            judge = train_predictor(train.images, train.labels, steps=60)
            expected = evaluate(load(run), test, predictor=judge.predict, pairs=False)["effectiveness"]
            assert found["do"].keys() == set(test.concepts)
            for name in test.concepts:
                assert found["do"][name] == pytest.approx(expected["do"][name], rel=1e-4)
            assert found["factual"] == pytest.approx(expected["factual"], rel=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("judge", [[], ["--predictor"]], ids=["no judge", "judge"])
def test_evaluate_with_the_distance_by_the_judges_features(judge, run, capsys):
    assert main(["evaluate", str(run), "--device", "cpu", "--limit", "30", "--fid", "predictor", *judge]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert ("effectiveness" in metrics) == (judge == ["--predictor"])
    train, test = (Small(split, size=16, noise=0.1, seed=3) for split in ("train", "test"))
    features = train_predictor(train.images, train.labels, steps=60).features
    expected = evaluate(load(run), test, fid_features=features, limit=30, pairs=False)["fid"]
    assert metrics["fid"]["reconstructions"] == pytest.approx(expected["reconstructions"], rel=1e-3)
    assert metrics["fid"]["do"] == pytest.approx(expected["do"], rel=1e-3)
    assert "Frechet distance" in capsys.readouterr().out
    assert "Frechet distance" in (run / "report.html").read_text()


def test_the_distance_is_by_inception_unless_told_otherwise(run, monkeypatch):
    asked = []

    def refuse(*arguments, **options):
        asked.append(options)
        raise OSError("feature: no weights")

    monkeypatch.setattr("causalvae_pyro.cli.scoring.evaluate", refuse)
    for flags in (["--fid"], ["--fid", "inception"]):
        assert main(["evaluate", str(run), *flags]) == 2
        assert asked.pop() == {"limit": None, "progress": True, "fid_features": 2048}
    assert main(["evaluate", str(run)]) == 2
    assert asked.pop() == {"limit": None, "progress": True}


def test_counterfactual_draws(run, tmp_path, capsys, monkeypatch):
    rows = []

    def spy(named):
        rows.extend(name for name, _ in named)
        return plot_comparison(named)

    monkeypatch.setattr("causalvae_pyro.cli.counterfactual.plot_comparison", spy)
    out = tmp_path / "pictures" / "cf.png"
    arguments = ["--do", "light=12", "--do", "pendulum=0.2", "--count", "3", "--out", str(out), "--device", "cpu"]
    assert main(["counterfactual", str(run), *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"wrote {out}"
    assert rows == ["factual", "reconstruction\nmodel", "do(light = 12 units, pendulum = 0.2 rad)\nmodel", "true"]
    test = Small("test", size=16, noise=0.1, seed=3)
    # Evenly spaced over the test set.
    chosen = [place * len(test) // 3 for place in range(3)]
    true = test.counterfactual(test.labels[chosen], {"light": 12.0, "pendulum": 0.2})[0]
    for i, after, line in zip(chosen, true, lines[-4:-1], strict=True):
        assert line.startswith(f"image {i}: pendulum {test.labels[i, 0]:.3g} -> 0.2, light {test.labels[i, 1]:.3g} -> 12, ")
        assert line.endswith(f"shadow_position {test.labels[i, 3]:.3g} -> {after[3]:.3g}")
    assert matplotlib.image.imread(out)[..., :3].std() > 0.05


def test_counterfactual_of_ones_own_files(run, tmp_path, capsys, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "causalvae_pyro.cli.counterfactual.plot_comparison", lambda rows: drawn.update(rows) or plot_comparison(rows)
    )
    test, files = Small("test", size=16, noise=0.1, seed=3), [str(tmp_path / f"{name}.png") for name in "ab"]
    for file, image in zip(files, test.images, strict=False):
        Image.fromarray(image.movedim(0, -1).numpy()).save(file)
    arguments = ["counterfactual", str(run), "--do", "light=12", "--out", str(tmp_path / "cf.png"), "--device", "cpu", "--file"]
    assert main([*arguments, *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": read as pendulum ")[0] for line in lines[:2]] == ["a.png", "b.png"]
    pair = load(run)
    assert list(drawn) == ["factual", "reconstruction\nmodel", "do(light = 12 units)\nmodel"]
    torch.testing.assert_close(drawn["factual"], test.images[:2] / 255)
    expected = counterfactual(pair.model, pair.guide, test.images[:2], {"light": 12.0}, pixel_noise=1.0, fade=FADE)
    torch.testing.assert_close(drawn["do(light = 12 units)\nmodel"], expected)
    assert main([*arguments, str(tmp_path / "none.png")]) == 2
    assert capsys.readouterr().err.strip() == f"causalvae: error: image: {tmp_path / 'none.png'} does not exist"


def test_counterfactual_of_a_face_of_ones_own(run, tmp_path, capsys, monkeypatch):
    drawn, faces = {}, tmp_path / "faces"
    monkeypatch.setattr(
        "causalvae_pyro.cli.counterfactual.plot_comparison", lambda rows: drawn.update(rows) or plot_comparison(rows)
    )
    file = str(tmp_path / "me.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 40, 3), dtype=np.uint8)).save(file)
    common = ["--do", "light=12", "--out", str(tmp_path / "cf.png"), "--device", "cpu"]
    eyes = ["--eyes", "12", "30", "26", "33"]
    shutil.copytree(run, faces)
    config = json.loads((faces / "config.json").read_text())
    (faces / "config.json").write_text(json.dumps(config | {"data": {"name": "celeba", "root": "none", "crop": 150}}))
    assert main(["counterfactual", str(faces), *common, "--file", file, *eyes]) == 0
    points = ((12.0, 30.0), (26.0, 33.0)), eye_places(150)
    torch.testing.assert_close(drawn["factual"][0], read_image(file, (3, 16, 16), points=points))
    capsys.readouterr()
    for path, given, said in (
        (faces, [], "--eyes: got no file"),
        (faces, ["--file", file, file], "--eyes: got 2 files; valid: one"),
        (run, ["--file", file], "--eyes: got data 'pendulum'; valid: a run on 'celeba'"),
    ):
        assert main(["counterfactual", str(path), *common, *eyes, *given]) == 2
        assert capsys.readouterr().err.startswith(f"causalvae: error: {said}")
    assert main(["counterfactual", str(faces), *common, "--file", file, "--eyes", "26", "33", "12", "30"]) == 2
    assert "--eyes: got 26 33 12 30; the left one first" in capsys.readouterr().err


def test_eyes_of_aligned_faces():
    (left, height), (right, same) = eye_places(178)
    assert height == same
    assert (left * 178, right * 178, height * 178 + 20) == pytest.approx((69.6, 108.6, 111.1))


def test_counterfactual_keeps_pixel_noise(run, tmp_path, monkeypatch, capsys):
    drawn = {}
    monkeypatch.setattr(
        "causalvae_pyro.cli.counterfactual.plot_comparison",
        lambda rows: drawn.clear() or drawn.update(rows) or plot_comparison(rows),
    )
    test = Small("test", size=16, noise=0.1, seed=3)
    do = f"light={test.labels[0, 1].item()}"
    arguments = ["--do", do, "--count", "1", "--out", str(tmp_path / "cf.png"), "--device", "cpu"]
    pair, x, told = load(run), test.images[:1], {"light": test.labels[:1, 1]}
    mean = reconstruct(pair.model, pair.guide, x)
    for options, kept in (
        ([], {"pixel_noise": 1.0, "fade": FADE}),
        (["--pixel-noise", "0"], {}),
        (["--pixel-noise", "1"], {"pixel_noise": 1.0}),
        (["--pixel-noise", "1", "--fade", "0.05"], {"pixel_noise": 1.0, "fade": 0.05}),
        (["--fade", "0.05"], {"pixel_noise": 1.0, "fade": 0.05}),
    ):
        assert main(["counterfactual", str(run), *arguments, *options]) == 0
        expected = counterfactual(pair.model, pair.guide, x, told, **kept)
        torch.testing.assert_close(next(images for name, images in drawn.items() if name.startswith("do(")), expected)
        assert ("own detail is kept" in capsys.readouterr().out) == (not options)
        # What the model itself sees stands beside it.
        torch.testing.assert_close(drawn.get("reconstruction\nmodel", mean), mean)
        assert ("reconstruction\nmodel" in drawn) == (options != ["--pixel-noise", "0"])
    assert main(["counterfactual", str(run), *arguments, "--fade", "0"]) == 2
    assert capsys.readouterr().err.strip() == "causalvae: error: --fade: got 0.0; must be > 0, and left out with --pixel-noise 0"


def test_a_likelihood_without_a_scale_keeps_nothing(run, tmp_path, capsys):
    pair, there = load(run), str(tmp_path / "bernoulli")
    pair.model.likelihood = ContinuousBernoulliLikelihood()
    save(pair, there)
    arguments = ["counterfactual", there, "--do", "light=9", "--count", "1", "--out", str(tmp_path / "cf.png"), "--device", "cpu"]
    assert main(arguments) == 0
    assert "own detail" not in capsys.readouterr().out
    for options in (["--fade", "0.1"], ["--pixel-noise", "1"]):
        assert main([*arguments, *options]) == 2
        assert capsys.readouterr().err.strip() == (
            "causalvae: error: --pixel-noise: got 1; must be 0, or left out (as --fade): the likelihood has no scale"
        )


@pytest.mark.thorough
def test_a_fresh_process_gives_the_same_counterfactuals(finished, tmp_path):
    program = """
import sys
from safetensors.torch import save_file
from causalvae_pyro import counterfactual, load
from causalvae_pyro.datasets import Pendulum
run, data = load(sys.argv[1]), Pendulum("test", size=16)
images = counterfactual(run.model, run.guide, data.images[:20], {"light": 12.0})
save_file({"images": images}, sys.argv[2])
"""
    subprocess.run([sys.executable, "-c", program, finished, tmp_path / "images"], check=True)
    run, data = load(finished), Pendulum("test", size=16)
    images = counterfactual(run.model, run.guide, data.images[:20], {"light": 12.0})
    assert torch.equal(load_file(tmp_path / "images")["images"], images)


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["counterfactual"], ["explore"]], ids=str)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: causalvae{' ' if command else ''}{' '.join(command)}")
    if not command:
        assert all(word in out for word in ("train", "evaluate", "counterfactual", "explore"))


# What does not -------------------------------------------------------------------------------------------------------


def truncate(run):
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def rewrite(**changes):
    def act(run):
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(config | changes))

    return act


def diverge(run):
    tensors = load_file(run / "model.safetensors")
    save_file({name: t * float("nan") for name, t in tensors.items()}, run / "model.safetensors")


DO = ["--do", "light=12"]
TRAIN = ["train", "pendulum", "--size", "16", "--limit", "64"]
BAD = {
    # What is done to the run first, the arguments, words of the message.
    "unknown concept": (
        None,
        ["counterfactual", "RUN", "--do", "sun=1"],
        "do: unknown concept 'sun'; known: ['pendulum', 'light'",
    ),
    "no equals sign": (None, ["counterfactual", "RUN", "--do", "light"], "--do: got 'light'; expected CONCEPT=NUMBER"),
    "not a number": (None, ["counterfactual", "RUN", "--do", "light=far"], "--do: got 'light=far'; expected CONCEPT=NUMBER"),
    "nan": (None, ["counterfactual", "RUN", "--do", "light=nan"], "do['light']: got a value that is not finite"),
    "twice": (None, ["counterfactual", "RUN", *DO, "--do", "light=13"], "--do: 'light' is given twice"),
    "pixel noise": (None, ["counterfactual", "RUN", *DO, "--pixel-noise", "2"], "--pixel-noise: got 2.0; must lie in [0, 1]"),
    "count": (None, ["counterfactual", "RUN", *DO, "--count", "0"], "--count: got 0; must be at least 1"),
    "picture's format": (None, ["counterfactual", "RUN", *DO, "--out", "TMP/a.xyz"], "xyz"),
    "missing run": (None, ["evaluate", "TMP/nothing"], "nothing/config.json does not exist"),
    "missing run, counterfactual": (None, ["counterfactual", "TMP/nothing", *DO], "nothing/config.json does not exist"),
    "truncated": (truncate, ["evaluate", "RUN"], "model.safetensors is truncated or not a safetensors file"),
    "truncated, counterfactual": (truncate, ["counterfactual", "RUN", *DO], "model.safetensors is truncated"),
    "not json": (lambda run: (run / "config.json").write_text("?"), ["evaluate", "RUN"], "is not a run's configuration"),
    "no data": (rewrite(data=None), ["evaluate", "RUN"], "config.json names no data set of this package"),
    "other data": (rewrite(data={"name": "tides"}), ["evaluate", "RUN"], "config.json names no data set of this package"),
    "nan weights": (diverge, ["evaluate", "RUN"], ": the parameter 'model.scm."),
    "limit of evaluate": (None, ["evaluate", "RUN", "--limit", "0"], "limit: got 0; must be at least 1"),
    "negative limit of evaluate": (None, ["evaluate", "RUN", "--limit", "-5"], "limit: got -5; must be at least 1"),
    "torchmetrics": (
        None,
        ["evaluate", "RUN", "--fid"],
        "fid: needs torchmetrics (import of torchmetrics.image.fid halted; None in sys.modules); install the extra",
    ),
    "cuda": (None, ["evaluate", "RUN", "--device", "cuda"], "device: got 'cuda', but PyTorch finds 0 CUDA devices here"),
    "device": (None, ["counterfactual", "RUN", *DO, "--device", "gpu"], "device: got 'gpu'; valid: 'auto', 'cpu'"),
    "cuda training": (None, [*TRAIN, "--device", "cuda"], "device: got 'cuda', but PyTorch finds 0 CUDA devices here"),
    "epochs": (None, [*TRAIN, "--epochs", "0"], "epochs: got 0; must be at least 1"),
    "batch size": (None, [*TRAIN, "--batch-size", "65"], "batch_size: got 65, the data has 64 images; must be at most that"),
    "no batch": (None, [*TRAIN, "--batch-size", "0"], "batch_size: got 0; must be at least 1"),
    "lr": (None, [*TRAIN, "--lr", "-1"], "lr: got -1.0; must be > 0"),
    "validation share": (None, [*TRAIN, "--validation-share", "1"], "--validation-share: got 1.0; must lie in [0, 1)"),
    "all held out": (None, [*TRAIN, "--limit", "2", "--validation-share", "0.1"], "--validation-share: got 0.1, which leaves no"),
    "limit": (None, [*TRAIN, "--limit", "0"], "--limit: got 0; must be at least 1"),
    "one image": (None, [*TRAIN, "--limit", "1", "--batch-size", "1"], "labels: got 1 "),
    "size": (None, [*TRAIN, "--size", "24"], "--size: got 24; must be a multiple of 16"),
    "tiny": (None, [*TRAIN, "--size", "0"], "--size: got 0; must be a multiple of 16"),
    "noise": (None, [*TRAIN, "--noise", "-0.1"], "noise: got -0.1; must be"),
    "infinite noise": (None, [*TRAIN, "--noise", "inf"], "noise: got inf"),
    "dim": (None, [*TRAIN, "--dim", "0"], "dim: got 0; "),
    "prior": (None, [*TRAIN, "--prior-std", "0"], "std: got "),
    "weight": (None, [*TRAIN, "--w-z", "-1"], "w_z: got -1.0; must be >= 0"),
    "no labels": (None, [*TRAIN, "--label-share", "0"], "--label-share: got 0.0; must lie in (0, 1]"),
    "more than all labels": (None, [*TRAIN, "--label-share", "1.01"], "--label-share: got 1.01; must lie in (0, 1]"),
    "nan labels": (None, [*TRAIN, "--label-share", "nan"], "--label-share: got nan; must lie in (0, 1]"),
    "seed": (None, [*TRAIN, "--seed", "-1"], "seed: got -1"),
    "big seed": (None, [*TRAIN, "--seed", "99999999999999999999999"], "seed: got 99999999999999999999999"),
    "file in the way": (lambda run: (run / "a").write_text(""), [*TRAIN, "--out", "RUN/a"], "RUN/a"),
    "file in the path": (lambda run: (run / "a").write_text(""), [*TRAIN, "--out", "RUN/a/b"], "RUN/a"),
    "picture in the way": (
        lambda run: (run / "a").write_text(""),
        ["counterfactual", "RUN", *DO, "--out", "RUN/a/b.png"],
        "RUN/a",
    ),
}


def prepare(name, run, tmp_path):
    damage, arguments, words = BAD[name]
    if damage:
        damage(run)
    if arguments[0] == "train" and "--out" not in arguments:
        arguments = [*arguments, "--out", "TMP/out"]
    if arguments[0] == "counterfactual" and "--out" not in arguments:
        arguments = [*arguments, "--out", "TMP/out.png"]
    return [a.replace("RUN", str(run)).replace("TMP", str(tmp_path)) for a in arguments], words.replace("RUN", str(run))


def assert_one_line(err, words):
    assert err.startswith("causalvae: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert words in err


@pytest.mark.thorough
@pytest.mark.parametrize("name", BAD)
def test_bad_input_takes_one_line(name, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    arguments, words = prepare(name, run, tmp_path)
    assert main(arguments) == 2
    assert_one_line(capsys.readouterr().err, words)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    assert not (tmp_path / "out.png").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["truncated", "file in the way"])
def test_bad_input_takes_one_line_in_a_process(name, run, tmp_path):
    arguments, words = prepare(name, run, tmp_path)
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert_one_line(done.stderr, words)


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["train", "tides"], [*TRAIN, "--epochs", "many"], ["counterfactual", "RUN"]], ids=str
)
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert re.search(r"^causalvae.*: error: ", capsys.readouterr().err.splitlines()[-1])


@pytest.mark.parametrize("arguments", [["--device=--"], ["--do=--"], ["--do", "light=12", "--out=--"]], ids=" ".join)
def test_two_dashes_are_no_value(arguments, run, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["counterfactual", str(run), *DO, *arguments])
    assert caught.value.code == 2
    assert "expected one argument" in capsys.readouterr().err


def test_divergence_exits_with_1_and_says_so(tmp_path, capsys):
    assert train(tmp_path, "--lr", "1e30", "--epochs", "3", "--batch-size", "64") == 1
    err = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"causalvae: error: loss: the term '.*' became \S+ in step 2 \(epoch 2\)", err)


@pytest.mark.thorough
def test_ctrl_c_leaves_a_checkpoint(tmp_path):
    arguments = [
        "train",
        "pendulum",
        "--size",
        "16",
        "--limit",
        "256",
        "--epochs",
        "100000",
        "--device",
        "cpu",
        "--out",
        tmp_path,
    ]
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "config.json").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.endswith("causalvae: interrupted; the same command with --resume continues from here\n")
    assert "Traceback" not in err
    run = load(tmp_path)
    assert run.config["progress"]["interrupted"] is True
    assert run.config["progress"]["step"] >= 4
    images = Pendulum("test", size=16).images[:2].float() / 255
    assert torch.isfinite(counterfactual(run.model, run.guide, images, {"light": 12.0})).all()
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.thorough
def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch):
    scored = []
    monkeypatch.setattr("causalvae_pyro.cli.train.score", lambda run, out, *_, **__: scored.append(out.name))
    small = ["--size", "16", "--limit", "256", "--epochs", "60", "--device", "cpu", "--decoder", "conv", "--ema", "0.9"]
    runs = {name: ["train", "pendulum", *small, "--out", str(tmp_path / name)] for name in ("whole", "killed")}
    process = subprocess.Popen([*SMALL_COMMAND, *runs["killed"]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "killed" / STATE).exists() or read_state(tmp_path / "killed" / STATE)["epoch"] < 5:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    finally:
        process.kill()
    assert not read_state(tmp_path / "killed" / STATE)["finished"]
    assert main([*runs["killed"], "--resume"]) == 0
    assert main(runs["whole"]) == 0
    for name in ("model.safetensors", "history.csv"):
        whole, killed = ((tmp_path / run / name).read_bytes() for run in runs)
        if name == "history.csv":
            whole, killed = (list(csv.DictReader(text.decode().splitlines())) for text in (whole, killed))
            for row in whole + killed:
                del row["seconds"], row["images_per_second"]
        assert whole == killed
    # A finished run is scored again, not trained.
    assert main([*runs["whole"], "--resume"]) == 0
    assert scored == ["killed", "whole", "whole"]
    assert main([*runs["whole"], "--resume", "--seed", "1"]) == 2


def test_starting_anew_says_what_is_lost(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("causalvae_pyro.cli.train.score", lambda *_, **__: None)
    arguments = [
        "train",
        "pendulum",
        "--size",
        "16",
        "--limit",
        "128",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
    ]
    assert main(arguments) == 0
    assert "--resume would have" not in capsys.readouterr().out
    state = read_state(tmp_path / STATE)
    state = {name: value for name, value in state.items() if name not in ("format", "digest")}
    TrainingCheckpoint(tmp_path).write(state | {"finished": False, "epoch": 7})
    assert main(arguments) == 0
    assert f"{tmp_path} holds a training run that was stopped in epoch 7; it is replaced" in capsys.readouterr().out
    (tmp_path / STATE).write_bytes(b"nonsense")
    assert main([*arguments, "--resume"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("causalvae: error: resume:")
    assert err.count("\n") == 1


@pytest.mark.parametrize("state", ["finished", "damaged", "none"])
def test_a_finished_run_is_replaced_on_request_only(state, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("causalvae_pyro.cli.train.score", lambda *_, **__: None)
    out = tmp_path / "run"
    assert train(out, "--batch-size", "32") == 0
    if state == "damaged":
        (out / STATE).write_bytes(b"nonsense")
    elif state == "none":
        # As where weights alone were copied.
        (out / STATE).unlink()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("causalvae_pyro.cli.train.load_dataset", lambda *_: pytest.fail("it has begun to work"))
        capsys.readouterr()
        assert train(out, "--seed", "1") == 2
    assert_one_line(capsys.readouterr().err, f"--out: {out} holds a finished run; --overwrite replaces it")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert train(out, "--batch-size", "32", "--seed", "1", "--overwrite") == 0
    assert load(out).config["training"]["seed"] == 1
    assert (out / "model.safetensors").read_bytes() != before["model.safetensors"]


def test_a_run_that_is_finished_meanwhile_is_kept(finished, tmp_path, capsys, monkeypatch):
    out, real = tmp_path / "run", sources.load_dataset

    def meanwhile(*arguments):
        shutil.copytree(finished, out)
        return real(*arguments)

    monkeypatch.setattr("causalvae_pyro.cli.train.load_dataset", meanwhile)
    assert train(out, "--batch-size", "32") == 2
    assert f"--out: {out} holds a finished run" in capsys.readouterr().err
    assert (out / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


def test_a_run_is_either_resumed_or_replaced(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        train(tmp_path, "--resume", "--overwrite")
    assert caught.value.code == 2
    assert "--overwrite: not allowed with argument --resume" in capsys.readouterr().err


def test_how_it_is_trained(tmp_path, monkeypatch, capsys):
    given = {}

    def stop(model, guide, data, **options):
        given.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr("causalvae_pyro.cli.train.fit", stop)
    options = "--ema 0.99 --max-grad-norm 5 --patience 3 --mixed-precision bf16 --micro-batches 2 --compile --deterministic"
    assert main(["train", "pendulum", *options.split(), "--out", str(tmp_path)]) == 2
    # The sprites' price grows, and with it the loss.
    assert capsys.readouterr().err.startswith("causalvae: error: --patience: the sprites' loss increases")
    assert main(["train", "pendulum", *options.split(), "--decoder", "conv", "--out", str(tmp_path)]) == 130
    assert [type(callback).__name__ for callback in given["callbacks"]] == ["SaveCheckpoint", "EarlyStopping", "_Estimate"]
    kept = ("ema_decay", "max_grad_norm", "mixed_precision", "micro_batches", "compiled", "deterministic", "resume")
    assert [given[name] for name in kept] == [0.99, 5.0, "bf16", 2, True, True, False]


# The user's own data ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    data = Pendulum("all", size=16)
    chosen = torch.arange(60) * 121
    for i, image in zip(chosen.tolist(), data.images[chosen], strict=True):
        Image.fromarray(image.movedim(0, -1).numpy()).save(folder / f"{i}.png")
    rows = [f"{i}.png,{data.labels[i, 1]},{data.labels[i, 3]}" for i in chosen.tolist()]
    (folder / "labels.csv").write_text("\n".join(["file,light,shadow", *rows]) + "\n")
    (folder / "graph.json").write_text('{"light": [], "shadow": ["light"]}')
    return ["--images", str(folder), "--labels", str(folder / "labels.csv"), "--graph", str(folder / "graph.json")]


@pytest.mark.thorough
def test_ones_own_data_train_evaluate_and_draw(own, tmp_path, capsys):
    out = tmp_path / "run"
    train = ["train", *own, "--size", "16", "--epochs", "1", "--batch-size", "16", "--limit", "32", "--out", str(out)]
    assert main([*train, "--unit", "light=cm"]) == 0
    assert load(out).units == {"light": "cm"}
    assert {path.name for path in out.iterdir()} == FILES - {"scores.png"}
    printed = capsys.readouterr().out
    assert all(words in printed for words in ("R^2", "null interventions", "The whole, on 12 test images"))
    # The judge sees all the training images there are.
    assert "predictor trained on 48 images" in printed
    assert "an independent predictor reads" in printed
    assert "do(shadow)" in printed
    assert "CF-score" not in printed
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["r2"]) == {"light", "shadow"}
    assert metrics["images"] == 12
    assert "cf_score" not in metrics
    assert set(metrics["reversibility"]) == {"light", "shadow"}
    assert 0 < metrics["representation"]["mic_mean"] <= 1
    assert matplotlib.image.imread(out / "counterfactuals.png").std() > 0.01
    assert "<td>shadow</td>" in (out / "report.html").read_text()
    data = [sources.load_dataset(load(out).config["data"], split) for split in ("train", "test")]
    judge = train_predictor(data[0].images, data[0].labels, steps=60)
    expected = evaluate(load(out), data[1], predictor=judge.predict)
    assert set(metrics["effectiveness"]["do"]) == {"light", "shadow"}
    assert metrics["effectiveness"]["factual"] == pytest.approx(expected["effectiveness"]["factual"], rel=1e-4)
    assert score_table(metrics) in printed
    for errors in metrics["effectiveness"]["do"].values():
        assert all(f"<td>{error:.3g}</td>" in (out / "report.html").read_text() for error in errors.values())
    assert main(["evaluate", str(out)]) == 0
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert main(["evaluate", str(out), "--no-predictor"]) == 0
    assert json.loads((out / "metrics.json").read_text()) == {k: v for k, v in metrics.items() if k != "effectiveness"}
    assert "an independent predictor reads" not in (out / "report.html").read_text()
    assert main(["counterfactual", str(out), "--do", "light=9", "--count", "2", "--out", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").is_file()


@pytest.mark.thorough
def test_a_size_that_no_judge_takes(own, tmp_path, monkeypatch):
    out, asked = tmp_path / "run", []
    assert main(["train", *own, "--size", "16", "--epochs", "1", "--batch-size", "16", "--out", str(out)]) == 0
    # As a run that was put together in Python may have it.
    run = load(out)
    run.config["data"]["size"] = 18
    monkeypatch.setattr(
        "causalvae_pyro.cli.scoring.evaluate", lambda *arguments, **options: asked.append(options) or {"images": 3}
    )
    for name in ("write_report", "score_table"):
        monkeypatch.setattr(f"causalvae_pyro.cli.scoring.{name}", lambda *arguments: None)
    stages = Stages(quiet=True)
    score(run, out, [], stages=stages)
    assert asked == [{"limit": None, "progress": False}]
    with pytest.raises(ValueError, match=r"^image_shape: got \(3, 18, 18\); the sides must be divisible by 4"):
        score(run, out, [], stages=stages, predict=True)


def test_ones_own_data_are_all_or_nothing(own, capsys):
    for unit, error in (("light", "'light'; expected"), ("light=", "'light='; expected"), ("hue=nm", "one for 'hue'")):
        assert main(["train", *own, "--unit", unit]) == 2
        assert f"got {error}" in capsys.readouterr().err
    assert main(["train", *own, "--unit", "light=cm", "--unit", "light=m"]) == 2
    assert "--unit: 'light' is given twice" in capsys.readouterr().err
    assert main(["train", "pendulum", "--unit", "light=cm"]) == 2
    assert "data: got pendulum and --unit" in capsys.readouterr().err
    for arguments, given in ((own[:4], "--images and --labels"), (["pendulum", *own], "pendulum and --images"), ([], "neither")):
        assert main(["train", *arguments]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"causalvae: error: data: got {given}")
        assert err.count("\n") == 1


@pytest.mark.parametrize("row", ["1,2", "1,2,3,4", "1,x,2"])
def test_a_history_that_is_none(row, run, capsys):
    (run / "history.csv").write_text(f"epoch,step,loss\n1,2,3\n{row}\n")
    assert main(["evaluate", str(run), "--limit", "1", "--device", "cpu"]) == 2
    assert_one_line(capsys.readouterr().err, f"RUN: {run / 'history.csv'} is not a training history")
