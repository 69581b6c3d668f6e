"""The protocol's own parts: which values are set, what is scored, and that finished cells are not run again."""

import dataclasses
import json
import sys

import pytest
import torch

from causalvae_pyro.discovery import discover_graph
from causalvae_pyro.graph import CausalGraph
from tests import ROOT
from tests.builders import raises
from tests.datasets import test_morphomnist


@pytest.fixture(autouse=True, scope="module")
def _benchmarks_are_importable():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


def test_values_lie_in_another_bin():
    import protocol_scores

    generator = torch.Generator().manual_seed(0)
    pool = torch.rand(400, generator=generator) ** 2
    drawn = protocol_scores.draw_values(pool, pool, False, generator)
    assert set(drawn.tolist()) <= set(pool.tolist())
    low, width = pool.min(), (pool.max() - pool.min()) / 10
    bins = [((values - low) / width).floor().clamp(0, 9) for values in (pool, drawn)]
    assert (bins[0] != bins[1]).all()
    digits = torch.arange(200.0) % 10
    others = protocol_scores.draw_values(digits, digits, True, generator)
    assert (others != digits).all()
    assert len(others.unique()) == 10


class Judges:
    """Reads a number off the first pixel, a class of two off the second; the features are the pixels."""

    def __init__(self):
        self.predictors = {"size": lambda x: 10 * x[:, 0, 0, 0], "kind": lambda x: (x[:, 0, 0, 1] > 0.5).float()}
        self.also = {"size": lambda x: 10 * x[:, 0, 0, 0] + 1}
        self.features = self.posterior = lambda x: x.flatten(1)


def test_scores_of_a_method_that_is_right():
    import protocol_scores

    graph = CausalGraph(["size", "kind"])
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(60, 1, 2, 2, generator=generator)
    x[:, 0, 0, 1] = torch.arange(60) % 2
    labels = torch.stack([10 * x[:, 0, 0, 0], x[:, 0, 0, 1]], 1)

    def answer(images, labels, do):
        images, meant = images.clone(), labels.clone()
        for name, values in do.items():
            column = graph.index(name)
            meant[:, column] = values
            images[:, 0, 0, column] = values / (10 if column == 0 else 1)
        return images, meant

    def truth(labels, do):
        # What the method calls right is off by one.
        meant = answer(x, labels, do)[1]
        meant[:, 0] += 1
        return meant

    scores = protocol_scores.score(answer, Judges(), graph, (0, 2), x, labels, labels, x, truth=truth, lpips_weights=None, seed=0)
    for name in graph.names:
        found = scores["effectiveness"][f"do({name})"]
        assert found["size"] == pytest.approx(0, abs=1e-5)
        assert found["size_by_definition"] == pytest.approx(1)
        assert found["against the truth"]["size"] == pytest.approx(1)
        assert found["kind"] == found["kind_f1"] == 1
        assert scores["reversibility_l1_grey"][name] == pytest.approx(0, abs=1e-4)
    assert scores["composition_l1_grey"] == {"1": 0, "10": 0}
    assert "composition_lpips" not in scores
    assert scores["fid"]["test images"] == pytest.approx(0, abs=1e-6)
    assert scores["cld"]["size, left alone"] == pytest.approx(0.2954, abs=1e-3)


def test_discovery_refuses_categories():
    labels = torch.stack([torch.randn(30), torch.arange(30.0) % 3], 1)
    with raises("kinds", "got 'fruit', a category"):
        discover_graph(labels, ["size", "fruit"], kinds={"fruit": 3})


def test_a_part_of_the_work_is_no_summary(tmp_path, monkeypatch, capsys):
    import protocol

    monkeypatch.setattr(protocol, "run", lambda method, args, seed: {"scores": {"": {}}})
    monkeypatch.setattr(protocol, "RESULTS", tmp_path)
    words = ["--data", "morphomnist", "--root", "here", "--cells", str(tmp_path / "cells"), "--seeds", "2"]
    for part in (["--methods", "ours"], ["--first-seed", "1"]):
        protocol.main([*words, *part])
        assert "a part of the work: its cells are kept" in capsys.readouterr().out
    assert sorted(file.stem for file in (tmp_path / "cells" / "morphomnist").iterdir()) == ["hvae-1", "ours-0", "ours-1", "vae-1"]
    assert not list(tmp_path.glob("*.json"))
    with pytest.raises(SystemExit):
        protocol.main([*words, "--first-seed", "2"])
    assert "--seeds: got 2 with --first-seed 2" in capsys.readouterr().err


def test_other_images_have_other_judges(tmp_path, monkeypatch):
    """Nothing of a run is taken up by one of other images or with other judges."""
    import protocol

    files = []

    def stop(images, labels, names, epochs, seed, file):
        files.append(file)
        raise KeyboardInterrupt

    class Data:
        images, labels = torch.zeros(4, 1, 8, 8), torch.zeros(4, 3)
        graph = CausalGraph(["thickness", "intensity", "digit"])

    source = dataclasses.replace(protocol.SOURCES["morphomnist"], open=lambda *_: Data(), judges=stop)
    monkeypatch.setitem(protocol.SOURCES, "morphomnist", source)
    words = [
        "--data",
        "morphomnist",
        "--root",
        "here",
        "--seeds",
        "1",
        "--runs",
        str(tmp_path),
        "--cells",
        str(tmp_path / "cells"),
    ]
    for option in ([], ["--source", "train"], ["--judge-epochs", "2"], ["--limit", "3"]):
        with pytest.raises(KeyboardInterrupt):
            protocol.main([*words, *option])
    assert len(set(files)) == 4


@pytest.mark.slow
def test_cells_are_resumed(tmp_path, capsys, monkeypatch):
    import protocol
    import protocol_figure

    monkeypatch.setattr(protocol, "_STEPS", 5)
    test_morphomnist.write(tmp_path, count=100)
    arguments = ["--data", "morphomnist", "--root", str(tmp_path), "--seeds", "1", "--limit", "66"]
    arguments += ["--epochs", "1", "--judge-epochs", "1", "--reader-epochs", "1", "--runs", str(tmp_path / "runs")]
    arguments += ["--cells", str(tmp_path / "cells"), "--out", str(tmp_path / "out.json")]
    protocol.main(arguments)
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    variants = ("", " pixel noise 1", " pixel noise 1, fade 0.03")
    assert set(rows) == {"judges on real images", *(method + kept for method in ("vae", "hvae", "ours") for kept in variants)}
    for row in rows:
        if "pixel noise" in row:
            assert rows[row]["composition_l1_grey 10"]["mean"] == pytest.approx(0, abs=1e-3), row
    protocol_figure.main([str(tmp_path / "runs" / "morphomnist" / "0-66"), "--figure", str(tmp_path / "protocol.png")])
    assert (tmp_path / "protocol.png").stat().st_size > 10_000
    monkeypatch.setattr(protocol, "run", None)
    protocol.main(arguments)
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == rows
    with pytest.raises(TypeError):
        protocol.main([*arguments, "--epochs", "2"])
