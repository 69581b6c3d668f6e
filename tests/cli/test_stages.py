"""What the commands say while they work, and what scripts read from them."""

import io
import json
import re

import pytest
import torch

from causalvae_pyro.cli import main
from causalvae_pyro.cli.stages import Stages
from causalvae_pyro.cli.train import _duration
from causalvae_pyro.datasets import registry
from tests.builders import Small

SCORES = {"weights": "0", "r2": {"light": 0.5}}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def work(stages):
    with stages.stage("data") as note:
        stages.say("a word")
        note("12 images")
    with stages.stage("training", bars=True) as note:
        note("3 epochs")
        note("stopped early")
    stages.finish(SCORES, "a table", "report.html")


def seconds(text):
    return re.sub(r"\d+\.\d s", "- s", text)


PLAIN = "a word\ndata      12 images (- s)\ntraining  3 epochs, stopped early (- s)\n"
TABLE = "\na table\n\nFigures, scores and settings: report.html\n"


def test_a_line_for_each_stage(capsys):
    work(Stages())
    out, err = capsys.readouterr()
    assert (seconds(out), err) == (PLAIN + TABLE, "")


def test_scores_have_standard_output_to_themselves(capsys):
    work(Stages(scores=True))
    out, err = capsys.readouterr()
    assert (json.loads(out), seconds(err)) == (SCORES, PLAIN)


@pytest.mark.parametrize("scores", [False, True])
def test_quiet(scores, capsys):
    work(Stages(quiet=True, scores=scores))
    out, err = capsys.readouterr()
    assert err == ""
    assert (json.loads(out) == SCORES) if scores else (out == "")


@pytest.mark.parametrize(
    ("environment", "green", "over"),
    [({}, True, True), ({"NO_COLOR": "1"}, False, True), ({"NO_COLOR": ""}, True, True), ({"TERM": "dumb"}, False, False)],
    ids=str,
)
def test_a_terminal_shows_colour_and_the_present_stage(environment, green, over, monkeypatch):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    work(Stages())
    shown = seconds(terminal.getvalue())
    assert ("\x1b[32mdata     \x1b[0m 12 images" in shown) == green
    assert shown.startswith("data ...\r\x1b[Ka word\ndata ...\r\x1b[K") == over
    # Stages with bars of their own are not announced on their line.
    assert "training ..." not in shown
    assert seconds(re.sub(r"data \.\.\.|\r|\x1b\[[0-9]*[mK]", "", shown)) == PLAIN + TABLE


def test_a_stage_that_fails_leaves_its_line_empty(monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", terminal)
    with pytest.raises(ValueError, match="no data"), Stages().stage("data"):
        raise ValueError("no data")
    assert terminal.getvalue() == "data ...\r\x1b[K"


def test_durations():
    assert [_duration(seconds) for seconds in (3.4, 89, 91, 500)] == ["3 s", "89 s", "2 minutes", "8 minutes"]


# The commands --------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setitem(registry.SIMULATORS, "pendulum", Small)


def train(out, *more):
    small = ["--size", "16", "--epochs", "2", "--limit", "64", "--device", "cpu", "--decoder", "conv"]
    return main(["train", "pendulum", *small, "--out", str(out), *more])


def test_train_says_where_it_is(tmp_path, capsys):
    assert train(tmp_path) == 0
    out, err = capsys.readouterr()
    head, _, _ = seconds(out).partition("\n\n")
    assert [line.split()[0] for line in head.splitlines()] == ["data", "start", "an", "training", "scoring", "report"]
    assert re.search(r"^an epoch takes \d+ s: about \d+ s in all$", head, flags=re.MULTILINE)
    assert f"report    {tmp_path / 'report.html'} (- s)" in head
    assert re.search(r"\ndone in \d+ s\n$", out)
    # Not a terminal: a line for each epoch.
    assert [line.split(",")[0] for line in err.splitlines()] == ["epoch 1/2: 1/2 steps", "epoch 2/2: 2/2 steps"]


def test_scores_for_scripts(tmp_path, capsys):
    assert train(tmp_path / "run", "--quiet", "--json") == 0
    out, err = capsys.readouterr()
    scores = json.loads(out)
    assert err == ""
    assert scores == json.loads((tmp_path / "run" / "metrics.json").read_text())
    torch.manual_seed(1)
    assert main(["evaluate", str(tmp_path / "run"), "--json", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == scores
    assert err.startswith("scoring   50 test images (")
    assert main(["evaluate", str(tmp_path / "run"), "--quiet", "--device", "cpu"]) == 0
    assert capsys.readouterr() == ("", "")
