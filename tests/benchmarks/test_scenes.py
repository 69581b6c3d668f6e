"""The scenes' own truth: nothing changes without a change, and a change moves the picture and its descendants only."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

ROOT = Path(__file__).parents[2]
NAMES = ["contact", "occlusion", "rotation", "generations", "photometric", "vanishing", "grey", "counts", "categories"]
NAMES += ["deformation", "person", "background"]


@pytest.fixture(autouse=True)
def _benchmarks_are_importable():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


def make(name, count=12, seed=1):
    from scenes import SCENES, SceneData

    return SceneData(SCENES[name], count, seed, size=32)


def test_all_kinds():
    from scenes import SCENES

    assert sorted(SCENES) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_counterfactuals(name):
    data = make(name)
    assert data.images.shape == (12, 1 if name == "grey" else 3, 32, 32)
    assert data.images.float().std() > 5
    labels, images = data.counterfactual(data.labels, {})
    assert torch.equal(labels, data.labels)
    assert torch.equal((images * 255).round().to(torch.uint8), data.images)
    for j, concept in enumerate(data.graph.names):
        values = data.labels[:, j].roll(1)
        labels, images = data.counterfactual(data.labels, {concept: values})
        assert_close(labels[:, j], values)
        moved = (labels != data.labels).any(0)
        touched = {concept, *data.graph.descendants(concept)}
        assert {data.graph.names[k] for k in moved.nonzero().flatten()} <= touched
        # Descendants keep their noise: what they would be by chance, a value that happens to be the same, is rare.
        assert all(moved[data.graph.index(child)] for child in data.graph.names if concept in data.graph.parents(child))
        changed = (images - data.images / 255).abs().flatten(1).amax(1) > 0.02
        assert changed[values != data.labels[:, j]].float().mean() > 0.7, concept


@pytest.mark.parametrize("name", ["person", "background"])
def test_what_no_concept_describes_stays(name):
    """Two images with the same concepts are two persons, and each counterfactual is of the same person."""
    data = make(name)
    do = {concept: data.labels[0, j] for j, concept in enumerate(data.graph.names)}
    _, images = data.counterfactual(data.labels, do)
    assert_close(images[0], data.images[0] / 255)
    assert (images[1] - images[0]).abs().max() > 0.1


def test_rows_know_their_image():
    data = make("person")
    _, whole = data.counterfactual(data.labels, {"joy": 0.0})
    _, some = data.counterfactual(data.labels[5:8], {"joy": torch.zeros(3)})
    assert torch.equal(some, whole[5:8])


def test_seeds_are_other_images():
    assert not torch.equal(make("grey", seed=1).images, make("grey", seed=2).images)


@pytest.mark.thorough
def test_the_benchmark_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    options = ["--scenes", "grey", "--seeds", "1", "--count", "64", "--test", "16", "--epochs", "1", "--size", "32"]
    options += ["--device", "cpu", "--out", str(tmp_path / "out.json")]
    options += ["--cells", str(tmp_path / "cells"), "--pictures", str(tmp_path / "pictures")]
    monkeypatch.setattr(sys, "argv", ["scenes.py", *options])
    times = []
    for _ in range(2):
        runpy.run_path(str(ROOT / "benchmarks" / "scenes.py"), run_name="__main__")
        times.append((tmp_path / "cells" / "grey-0.json").stat().st_mtime_ns)
    assert times[0] == times[1]
    assert (tmp_path / "pictures" / "grey-0.png").stat().st_size > 5_000
    row = json.loads((tmp_path / "out.json").read_text())["scenes"]["grey"]
    for part in ("score", "kept", "ceiling", "decoder", "mechanism", "r2"):
        assert list(row[part]) == ["arm", "weight", "shadow"]
    assert "| grey | 0.8 | arm " in capsys.readouterr().out


def test_the_table_says_what_falls_short(tmp_path):
    from scenes.scoring import PARTS
    from scenes.table import cells_of, page

    settings = {"decoder": None, "size": 64}
    for seed, needle in enumerate((0.97, 0.91)):
        scores = {part: {"weight": 0.99, "needle": 0.5} for part in (*PARTS, "r2")} | {"kept": {"weight": 0.99, "needle": needle}}
        cell = {"settings": settings, "seconds": 300.0, "choice": 60.0, "chosen": "scene", "commit": f"c{seed}", **scores}
        (tmp_path / f"contact-{seed}.json").write_text(json.dumps(cell))
        # Of a decoder that was asked for.
        (tmp_path / f"contact-{seed}-conv.json").write_text(json.dumps(cell | {"settings": settings | {"decoder": "conv"}}))
    assert [cell["commit"] for cell in cells_of(tmp_path)["contact"]] == ["c0", "c1"]
    row, _, commits = page(tmp_path).splitlines()[2:]
    # The interval of two values: half of 0.06 times 12.7 (t, one degree of freedom).
    assert row == (
        "| contact | 0.95 | weight 0.990 (0.990), needle **0.940 ± 0.381** (0.500) | 0.500, 0.500, 0.500 | scene | 300, 60 | 2 |"
    )
    assert commits == "Of commit c0, c1."
