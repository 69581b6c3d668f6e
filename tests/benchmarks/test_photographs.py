"""The benchmark of photographs: all methods on the same images, cells that are kept, the table."""

import json
import sys

import pytest

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
