"""The benchmark of photographs: all methods on the same images, cells that are kept, the table."""

import itertools
import json
import sys

import pytest
import torch
from PIL import Image

from causalvae_pyro.datasets import YaleB
from tests import ROOT
from tests.datasets.test_celeba import write


@pytest.fixture(autouse=True, scope="module")
def _benchmarks_are_importable():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.thorough
def test_methods_are_judged_alike_and_tabled(tmp_path, monkeypatch, capsys):
    import photograph_tables
    import photographs

    write(tmp_path, 240)
    trained = []

    def predictor(*arguments, seed, **options):
        trained.append(seed)
        return train(*arguments, seed=seed, steps=5, **options)

    train = photographs.train_photograph_predictor
    monkeypatch.setattr(photographs, "train_photograph_predictor", predictor)
    out = tmp_path / "result.json"
    words = ["photographs.py", "--root", str(tmp_path), "--group", "smile", "--seeds", "0", "--epochs", "1", "--limit", "40"]
    monkeypatch.setattr(sys, "argv", [*words, "--cells", str(tmp_path / "cells"), "--out", str(out)])
    photographs.main()
    assert trained == [0, 0, 0]
    result = json.loads(out.read_text())
    assert set(result["methods"]) == {"causal_vae", "hvae", "vae"}
    for scores in result["methods"].values():
        # Of methods without edges no concept is an effect: all three others are to stay.
        assert set(scores["predicted"]["do"]) == {"gender", "smile", "eyes_open", "mouth_open"}
    assert set(result["methods"]["causal_vae"]["predicted"]["do"]["smile"]["unchanged"]) == {"gender"}
    assert str(tmp_path) not in out.read_text()
    table = photograph_tables.faces([out])
    assert "| do(smile) seen |" in table
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1
    # What is done is not done again, and what was done otherwise is told.
    photographs.main()
    assert trained == [0, 0, 0]
    sys.argv += ["--epochs", "2"]
    with pytest.raises(SystemExit, match="has other settings"):
        photographs.main()


@pytest.mark.thorough
def test_yale_b_stands_beside_a_ridge_of_persons(tmp_path, monkeypatch):
    import photograph_tables
    import photographs

    lights = [(azimuth, elevation) for azimuth in (-50, -25, 0, 25, 50) for elevation in (-20, 0, 40)]
    own = torch.nn.functional.interpolate(torch.rand(20, 1, 3, 3), size=(16, 16), mode="bicubic").clamp(0, 1)
    across, down = torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 16)[:, None]
    (tmp_path / "images").mkdir()
    rows = ["file,azimuth,elevation,subject"]
    for person, (azimuth, elevation) in itertools.product(range(20), lights):
        shading = 0.5 + 0.3 * azimuth / 50 * across + 0.2 * elevation / 40 * down
        name = f"{person}_{azimuth}_{elevation}.png"
        Image.fromarray((255 * shading * (0.4 + 0.6 * own[person, 0])).byte().numpy()).save(tmp_path / "images" / name)
        rows.append(f"{name},{azimuth},{elevation},{person}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")

    def small(description, split):
        return YaleB(description["root"], split, size=16, seed=description["seed"])

    monkeypatch.setattr(photographs, "load_dataset", small)
    out = tmp_path / "result.json"
    words = ["photographs.py", "--data", "yaleb", "--root", str(tmp_path), "--methods", "causal_vae", "--seeds", "0", "1"]
    monkeypatch.setattr(sys, "argv", [*words, "--epochs", "1", "--cells", str(tmp_path / "cells"), "--out", str(out)])
    photographs.main()
    scores = json.loads(out.read_text())["methods"]["causal_vae"]
    beside = {name: values["azimuth+elevation"]["mean"] for name, values in scores["cf_baselines"].items()}
    assert set(beside) == {"mean training face", "ridge of persons, light given"}
    assert beside["ridge of persons, light given"] > beside["mean training face"]
    assert scores["cf_score"]["azimuth+elevation"]["mean"] > beside["mean training face"]
    table = photograph_tables.light(out)
    assert "| photograph left alone | 0 | 0 | 0 |" in table
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1
