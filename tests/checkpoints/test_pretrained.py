"""The runs that come with the package: found by name, small, and as good as they say."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import causalvae_pyro
from causalvae_pyro import counterfactual, load
from causalvae_pyro.checkpoints import from_pretrained
from causalvae_pyro.checkpoints.pretrained import PRETRAINED, is_pretrained, run_directory
from causalvae_pyro.checkpoints.runs import are_scores_of
from causalvae_pyro.cli import main
from causalvae_pyro.datasets.registry import SIMULATORS, load_dataset
from causalvae_pyro.evaluation import evaluate

FOLDER = Path(causalvae_pyro.__file__).parent / "pretrained"
# Another processor rounds otherwise, which moves scores in the fifth decimal.
CLOSE = 1e-3


def committed(name):
    return json.loads((FOLDER / name / "metrics.json").read_text())


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_all_of_them_are_there_and_nothing_else():
    assert sorted(PRETRAINED) == sorted(SIMULATORS) == sorted(path.name for path in FOLDER.iterdir())
    for name in PRETRAINED:
        files = {path.name: path.stat().st_size for path in (FOLDER / name).iterdir()}
        assert files.keys() == {"config.json", "model.safetensors", "metrics.json"}
        assert sum(files.values()) < 1.2e6


@pytest.mark.parametrize("name", PRETRAINED)
def test_they_say_what_they_are(name):
    run, scores = load(name), committed(name)
    assert are_scores_of(run, scores)
    assert "weights" in scores
    assert run.data == {"name": name, "noise": 0.0, "partition": "iid", "size": 64, "seed": 0}
    assert run.config["versions"].keys() == {"causalvae_pyro", "torch", "pyro"}
    assert run.config["recipe"]["decoder"] == "sprites"
    assert scores["images"] == len(load_dataset(run.data, "test"))
    # What the README says of five seeds, with room for the sixth.
    assert scores["summary"]["cf_roots"] > 0.99
    assert scores["summary"]["cf_children"] > 0.97
    # No path of the machine that made them.
    assert "/" not in (FOLDER / name / "config.json").read_text()


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_few_counterfactuals_are_right(name):
    run = load(name)
    data = load_dataset(run.data, "test")
    x, labels = data.images[::60], data.labels[::60]
    for concept in run.graph.names:
        do = {concept: data.labels[:, data.graph.index(concept)].quantile(0.8).item()}
        _, true = data.counterfactual(labels, do)
        error = (counterfactual(run.model, run.guide, x, do) - true).square().mean()
        assert error < 0.1 * (x / 255 - true).square().mean(), concept


@pytest.mark.thorough
@pytest.mark.parametrize("name", PRETRAINED)
def test_their_scores_are_those_of_a_fresh_evaluation(name):
    run, scores = load(name), committed(name)
    found = evaluate(run, load_dataset(run.data, "test"), pairs=False, intervals=False, axioms=False)
    for part in ("r2", "cf_score", "ceiling"):
        assert found[part] == {key: pytest.approx(scores[part][key], abs=CLOSE) for key in run.graph.names}
    for key in ("mic_mean", "tic_mean"):
        assert found["representation"][key] == pytest.approx(scores["representation"][key], abs=CLOSE)
    assert found["reconstruction_mse"] == pytest.approx(scores["reconstruction_mse"], rel=0.01)


def test_what_is_in_the_working_directory_comes_first(tmp_path):
    assert run_directory("pendulum") == FOLDER / "pendulum"
    assert run_directory(Path("pendulum")) == FOLDER / "pendulum"
    assert not is_pretrained("runs/pendulum")
    shutil.copytree(FOLDER / "flow", tmp_path / "pendulum")
    assert not is_pretrained("pendulum")
    assert load("pendulum").graph.names == load("flow").graph.names
    shutil.rmtree(tmp_path / "pendulum")
    # A training that has not come far is not passed over for the other.
    (tmp_path / "pendulum").mkdir()
    with pytest.raises(FileNotFoundError, match=r"^path: pendulum/config\.json does not exist; expected .* flow, pendulum"):
        load("pendulum")


def test_what_is_shared_by_name():
    run = from_pretrained("pendulum")
    assert not run.model.training
    torch.testing.assert_close(run.model.state_dict(), load("pendulum").model.state_dict())


def test_the_commands_take_the_names(tmp_path, capsys):
    few = ["--count", "2", "--device", "cpu", "--out", "drawn.png"]
    assert main(["counterfactual", "pendulum", "--do", "light=12", *few]) == 0
    assert "light 17.3 -> 12" in capsys.readouterr().out
    with Image.open(tmp_path / "drawn.png") as picture:
        assert picture.width > 300
    assert main(["share", "flow", "--to", "shared"]) == 0
    assert "CF-score" in (tmp_path / "shared" / "README.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*")}
    assert main(["evaluate", "pendulum", "--limit", "12", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "RUN: pendulum comes with the package: the scores are printed, the report is left out\n" in out
    assert "on 12 test images" in out
    assert before == {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*")}
