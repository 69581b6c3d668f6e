"""Parts of the benchmarks that can be wrong without a run that takes hours."""

import json
import runpy
import subprocess
import sys

import pytest
import torch

from tests import ROOT


@pytest.fixture(autouse=True, scope="module")
def _benchmarks_are_importable():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")))
def test_every_script_finds_what_it_imports(script):
    runpy.run_path(str(ROOT / "benchmarks" / script), run_name="imported")


def test_time_until_several_scores_are_reached_together():
    import time_to_score

    bars = time_to_score.BARS
    curve = [
        {"seconds": 1.0, "mic": 1.0, "tic": 0.5, "cf_roots_min": 0.1},
        {"seconds": 2.0, "mic": 0.5, "tic": 1.0, "cf_roots_min": 0.2},
        {"seconds": 3.0, "mic": bars["mic"], "tic": bars["tic"], "cf_roots_min": 0.9},
        {"seconds": 4.0, "mic": 1.0, "tic": 1.0, "cf_roots_min": 0.95},
    ]
    assert time_to_score.reached(curve, ("mic", "tic")) == 3.0
    assert time_to_score.reached(curve, ("cf_roots_min",)) == 4.0
    assert time_to_score.reached(curve[:3], ("cf_roots_min",)) is None


def test_scoring_takes_no_time_of_the_training_and_changes_nothing(monkeypatch):
    import time_to_score

    seen = []

    def scores(pair, test, limit):
        seen.append(pair.model.training)
        torch.rand(3)
        return {"mic": 0.0, "tic": 0.0, "cf_roots_min": 0.0}

    monkeypatch.setattr(time_to_score, "scores_in_between", scores)
    clock = iter(range(0, 100_000, 1))
    monkeypatch.setattr(time_to_score.time, "perf_counter", lambda: float(next(clock)))

    class Pair(torch.nn.Module):
        pass

    class State:
        model, guide, step = Pair().train(), Pair().train(), 0

    class Both:
        model = State.model

    watch = time_to_score._Watch(Both, None, 1e9, time_to_score.time.perf_counter())
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    for step in range(1, 21):
        State.step = step
        watch.on_step_end(State)
    assert torch.equal(torch.rand(2), expected)
    assert seen == [False] * len(watch.curve)
    assert State.model.training
    steps = [point["step"] for point in watch.curve]
    assert steps[0] == 5
    assert steps == sorted(set(steps))
    # Each look at the clock is a second here; those that scoring takes are left out.
    assert watch.curve[0]["seconds"] == 5.0
    assert watch.curve[1]["seconds"] == steps[1]


def test_time_is_up(monkeypatch):
    import time_to_score

    monkeypatch.setattr(time_to_score, "scores_in_between", lambda *_: {"mic": 0.99, "tic": 0.99, "cf_roots_min": 0.0})

    class State:
        model = guide = torch.nn.Linear(1, 1)
        step = 1

    watch = time_to_score._Watch(None, None, 0.0, time_to_score.time.perf_counter())
    with pytest.raises(time_to_score._EnoughError):
        watch.on_step_end(State)
    monkeypatch.setattr(time_to_score, "scores_in_between", lambda *_: dict.fromkeys(time_to_score.BARS, 1.0))
    watch = time_to_score._Watch(None, None, 1e9, time_to_score.time.perf_counter())
    State.step = 5
    with pytest.raises(time_to_score._EnoughError):
        watch.on_step_end(State)


def test_label_efficiency_figure(tmp_path):
    import label_efficiency

    cell = {"mean": 0.5, "interval": [0.4, 0.6]}
    shares = {share: dict.fromkeys(label_efficiency.COLUMNS, cell) for share in ("1", "0.1", "0.01")}
    label_efficiency.draw({"seeds": 5, "shares": shares}, tmp_path / "figures" / "figure.png")
    assert (tmp_path / "figures" / "figure.png").stat().st_size > 5_000


def test_throughput_compares_like_with_like():
    import throughput

    from causalvae_pyro.datasets import Pendulum
    from causalvae_pyro.recipes import Recipe

    data = Pendulum("train", size=16)
    run = Recipe(decoder="sprites").build(data.graph, data.images, data.labels)
    found = throughput.images_per_second(run, data, 8, 2)
    assert all(value > 0 for value in found.values())
    assert found["predict over decoder, images/s"] < 2


@pytest.mark.slow
def test_morphomnist(tmp_path):
    """All models from one seed on a few digits; a second call has nothing left to train."""
    from tests.datasets import test_morphomnist

    (tmp_path / "digits").mkdir()
    test_morphomnist.write(tmp_path / "digits", 160)
    options = ["--root", str(tmp_path / "digits"), "--limit", "96", "--epochs", "1", "--seeds", "1", "--device", "cpu"]
    options += ["--cells", str(tmp_path / "cells"), "--predictors", str(tmp_path / "judges"), "--out", str(tmp_path / "out.json")]
    written = []
    for _ in range(2):
        subprocess.run([sys.executable, ROOT / "benchmarks" / "morphomnist.py", *options], check=True, capture_output=True)
        written.append({path.name: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()})
    scores = json.loads((tmp_path / "out.json").read_text())["scores"]
    for model in ("ours", "ours_alone", "cvae", "cvae_read"):
        told = "true labels told" if model.startswith("cvae") else "labels known"
        for what in ("do(thickness)", f"{told} do(intensity)", "real images"):
            assert scores[f"{model} {what} second_thickness_mae_px"]["mean"] > 0
    assert scores["ours real images thickness_mae_px"] == scores["cvae real images thickness_mae_px"]
    assert len(written[0]) == 4
    assert written[1] == written[0]


@pytest.mark.thorough
@pytest.mark.parametrize("decoder", ["conv", "sprites"])
def test_training_in_three_parts_takes_hardly_more_memory_than_what_it_cannot_do_without(decoder):
    import memory

    figures = memory.measure(decoder, 64, 64, 3, "cpu", epoch=False)
    assert 1.0 < figures["tensors_ratio"] < 1.3
    assert "process_mib" not in figures


def test_the_peak_of_tensors_is_that_of_those_alive_at_once():
    import memory

    def one_after_the_other():
        for _ in range(3):
            a = torch.empty(2**20, dtype=torch.uint8)
            b = a.clone()
            del a, b

    assert memory.peak_of_tensors(one_after_the_other) == 2 * 2**20
