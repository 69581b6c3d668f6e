"""Yale B, on photographs that the tests draw and on the real ones where they are."""

import io
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from causalvae_pyro import CausalGraph, plots
from causalvae_pyro.checkpoints import save
from causalvae_pyro.cli import main
from causalvae_pyro.datasets import YaleB
from causalvae_pyro.datasets.registry import load_dataset
from causalvae_pyro.evaluation import evaluate, has_truth, score_table
from causalvae_pyro.evaluation.report import write_report
from causalvae_pyro.explore import Explorer
from causalvae_pyro.metrics import cf_score
from causalvae_pyro.recipes import Recipe
from tests import ROOT

REAL = Path(os.environ.get("YALEB", ROOT.parent / "shared" / "data" / "yaleb"))
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="Extended Yale B is not here; set YALEB to its folder")
LIGHTS = [(azimuth, elevation) for azimuth in (-50, 0, 50) for elevation in (-20, 0, 40)]
PERSONS = [1, 2, 3, 5, 7, 11]


def shade(person, azimuth, elevation):
    """A grey level of its own for each photograph."""
    return 2 * LIGHTS.index((azimuth, elevation)) + 20 * PERSONS.index(person) + 20


def png(level, size=(16, 16), mode="L"):
    buffer = io.BytesIO()
    Image.new(mode, size, level if mode == "L" else (level,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder, *, missing=((3, 50, 40),), change=None, unpacked=False, photographs=None, side=16):
    rows = [(person, *light) for person in PERSONS for light in LIGHTS if (person, *light) not in missing]
    names = [f"person{person}_{azimuth:+04d}{elevation:+03d}.png" for person, azimuth, elevation in rows]
    lines = [f"{name},{azimuth},{elevation},{person}" for name, (person, azimuth, elevation) in zip(names, rows, strict=True)]
    lines = lines if change is None else change(lines)
    (folder / "labels.csv").write_text("\n".join(["file,azimuth,elevation,subject", *lines]) + "\n")
    images = {name: png(shade(*row), (side, side)) for name, row in zip(names, rows, strict=True)} | (photographs or {})
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for name, content in images.items():
            if content is not None:
                archive.writestr(f"images/{name}", content)
    if unpacked:
        shutil.unpack_archive(folder / "images.zip", folder)
        (folder / "images.zip").unlink()


@pytest.mark.parametrize("unpacked", [False, True])
def test_reads_photographs_and_lights(unpacked, tmp_path):
    write(tmp_path, unpacked=unpacked)
    data = YaleB(tmp_path, "all", size=8)
    assert data.images.shape == (53, 1, 8, 8)
    assert data.images.dtype == torch.uint8
    assert data.graph == CausalGraph(["azimuth", "elevation"])
    assert data.persons == tuple(map(str, PERSONS))
    for i in range(53):
        assert (data.images[i] == shade(PERSONS[data.subjects[i]], *map(int, data.labels[i].tolist()))).all()
    assert torch.equal(data.groups, data.subjects)
    image, labels = data[7]
    assert torch.equal(image, data.images[7] / 255)
    assert torch.equal(labels, data.labels[7])
    assert repr(data) == "YaleB(split='all', size=8, seed=0: 53 images of 6 of 6 persons)"


def test_no_person_is_in_both_splits(tmp_path):
    write(tmp_path)
    train, test = (YaleB(tmp_path, split, size=8) for split in ("train", "test"))
    assert (len(train.subjects.unique()), len(test.subjects.unique())) == (5, 1)
    assert not set(train.subjects.tolist()) & set(test.subjects.tolist())
    assert len(train) + len(test) == 53
    assert torch.equal(load_dataset({"name": "yaleb", "root": str(tmp_path), "size": 8}, "test").images, test.images)
    assert any(YaleB(tmp_path, "test", size=8, seed=seed).files != test.files for seed in (1, 2))


def test_the_middle_of_a_photograph_that_is_not_square(tmp_path):
    image = Image.new("L", (16, 20))
    image.paste(200, (0, 2, 16, 18))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    names = [f"person{person}_{azimuth:+04d}{elevation:+03d}.png" for person in PERSONS for azimuth, elevation in LIGHTS]
    write(tmp_path, missing=(), photographs=dict.fromkeys(names, buffer.getvalue()))
    assert (YaleB(tmp_path, size=16).images == 200).all()


def test_counterfactuals_are_photographs_of_the_same_person(tmp_path):
    write(tmp_path)
    data = YaleB(tmp_path, "all", size=8)
    index = torch.arange(53)
    for do in (
        {"azimuth": 0},
        {"elevation": -20},
        {"azimuth": -50, "elevation": 0},
        {"azimuth": torch.zeros(53), "elevation": 40},
    ):
        labels, images = data.counterfactual(index, do)
        assert torch.equal(labels, data.counterfactual_labels(data.labels, do))
        levels = [shade(PERSONS[who], *map(int, light.tolist())) for who, light in zip(data.subjects, labels, strict=True)]
        assert torch.equal((255 * images[:, 0, 0, 0]).round(), torch.tensor(levels, dtype=torch.float32))
    labels, images = data.counterfactual(0, {})
    assert torch.equal(images[0], data[0][0])


def test_says_where_there_is_no_photograph(tmp_path):
    write(tmp_path)
    data = YaleB(tmp_path, "all", size=8)
    with pytest.raises(
        ValueError,
        match="^do: no photograph of person 3 has azimuth 50, elevation 40; the nearest has azimuth 0, elevation 40$",
    ):
        data.counterfactual(torch.arange(53), {"azimuth": 50, "elevation": 40})
    with pytest.raises(ValueError, match="azimuth 179, elevation 0; the nearest has azimuth 50, elevation 40$"):
        data.counterfactual(0, {"azimuth": 179, "elevation": 0})
    with pytest.raises(ValueError, match=r"^do: unknown concept 'shade'; known: \['azimuth', 'elevation'\]"):
        data.counterfactual(0, {"shade": 1.0})
    for bad in (53, -1, data.labels):
        with pytest.raises(ValueError, match="^index: got .* images of this data set by their number, 0 to 52"):
            data.counterfactual(bad, {})


def test_targets_and_baselines(tmp_path):
    write(tmp_path)
    data = YaleB(tmp_path, "test", size=8)
    for index in (0, 4, len(data) - 1):
        targets = data.counterfactual_targets(index)
        assert sorted([*targets.tolist(), index]) == [i for i in range(len(data)) if data.subjects[i] == data.subjects[index]]
        assert data.labels[targets].tolist() == sorted(data.labels[targets].tolist())
    train = YaleB(tmp_path, "train", size=8)
    lights = torch.tensor([[0.0, -20.0], [50.0, 40.0], [1.0, -19.0]])
    (name, images), *_ = data.counterfactual_baselines(lights).items()
    assert name == "mean training face"
    for light, image in zip(((0, -20), (50, 40), (0, -20)), images, strict=True):
        own = train.images[(train.labels == torch.tensor(light)).all(1)]
        torch.testing.assert_close(image, own.float().mean(0) / 255)


def test_score_card_report_and_page(tmp_path):
    write(tmp_path, missing=())
    train, data = YaleB(tmp_path, "train", size=16, seed=1), YaleB(tmp_path, "test", size=16, seed=1)
    torch.manual_seed(0)
    run = Recipe(decoder="conv", noise_dim=2).build(train.graph, train.images, train.labels)
    assert has_truth(data)
    metrics = evaluate(run, data)
    assert list(metrics["cf_score"]) == ["azimuth+elevation"]
    baseline = metrics["cf_baselines"]["mean training face"]["azimuth+elevation"]
    assert baseline < 1
    assert re.search(rf"mean training face +{baseline:.3f}\n", score_table(metrics))
    page = write_report(run, data, metrics, [], tmp_path / "report").read_text()
    assert "mean training face" in page
    figure = plots.plot_counterfactuals(run, data)
    titles = [axes.get_title() for axes in figure.axes]
    assert [title for title in titles if title][:3] == ["factual", "-50, 0", "-50, 40"]
    explorer = Explorer(run, data)
    factual = explorer.test_image(0)
    assert torch.equal(explorer.answer(factual, {"azimuth": 50.0, "elevation": 0.0}).true_image, data[7][0])
    assert explorer.answer(factual, {"azimuth": 20.0}).true_image is None


def test_the_command_shows_photographs_where_there_are_some(tmp_path, capsys):
    write(tmp_path, missing=())
    train = YaleB(tmp_path, "train", size=16, seed=1)
    torch.manual_seed(0)
    description = {"name": "yaleb", "root": str(tmp_path), "size": 16, "seed": 1}
    run = Recipe(decoder="conv", noise_dim=2).build(train.graph, train.images, train.labels, {"data": description})
    save(run, tmp_path / "run")
    command = ["counterfactual", str(tmp_path / "run"), "--count", "3", "--out", str(tmp_path / "picture.png"), "--do"]
    assert main([*command, "azimuth=50", "--do", "elevation=0"]) == 0
    assert "-> 50, elevation" in capsys.readouterr().out
    assert main([*command, "azimuth=17"]) == 0
    said = capsys.readouterr().out
    assert "without the truth (do: no photograph of person" in said
    assert "->" not in said


FIRST = "person1_-050-20.png"
BAD = {
    "a number": (
        {"change": lambda lines: [lines[0].replace("-50,", "left,"), *lines[1:]]},
        "line 2, column 'azimuth': 'left' is not",
    ),
    "a range": (
        {"change": lambda lines: [lines[0].replace("-20,", "91,"), *lines[1:]]},
        "column 'elevation': got 91; valid: -90 to 90",
    ),
    "not finite": (
        {"change": lambda lines: [lines[0].replace("-20,", "nan,"), *lines[1:]]},
        "column 'elevation': got nan; valid",
    ),
    "no person": ({"change": lambda lines: [lines[0][:-1], *lines[1:]]}, "labels.csv, line 2: has no subject"),
    "the same light": (
        {"change": lambda lines: [lines[0], lines[1].replace(",0,", ",-20,"), *lines[2:]]},
        "line 3: the same person un",
    ),
    "the same file": ({"change": lambda lines: [*lines, lines[0]]}, "the same file as in line 2"),
    "one photograph": (
        {"change": lambda lines: [*lines, "one.png,0,0,99"]},
        "one photograph only of 1 persons, 99; need at least 2",
    ),
    "one person": ({"change": lambda lines: lines[:9]}, "labels.csv has 1 person; a split needs at least 2"),
    "missing": ({"photographs": {FIRST: None}}, rf"1 of 53 photographs are not in \S+images.zip: {FIRST}$"),
    "unnamed": (
        {"photographs": {f"{i}.png": png(1) for i in range(4)}},
        "4 photographs in .* have no row in labels.csv: 0.png, 1.png, 2",
    ),
    "not an image": ({"photographs": {FIRST: b"?"}}, rf"root: {FIRST} in \S+ cannot be decoded \(not an image\)"),
    "cut off": ({"photographs": {FIRST: png(1)[:40]}}, rf"root: {FIRST} in \S+ cannot be decoded"),
    "another size": (
        {"photographs": {"person2_-050-20.png": png(1, (18, 16))}},
        rf"person2_-050-20.png in \S+ is 18 x 16, {FIRST} is 16 x 16; all must agree$",
    ),
    "coloured": ({"photographs": {FIRST: png(1, mode="RGB")}}, rf"{FIRST} in \S+ is RGB; valid: grey \(L\)$"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case, tmp_path):
    options, message = BAD[case]
    write(tmp_path, **options)
    with pytest.raises(ValueError, match=message) as caught:
        YaleB(tmp_path, size=8)
    assert str(caught.value).startswith("root: ")
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="root: .*labels.csv does not exist; expected a table with the columns file, azimuth"
    ):
        YaleB(tmp_path)
    write(tmp_path)
    path = tmp_path / "images.zip"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"root: \S+images.zip is damaged"):
        YaleB(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="has neither images.zip nor images"):
        YaleB(tmp_path)
    (tmp_path / "labels.csv").write_text("file,azimuth\n")
    with pytest.raises(ValueError, match="has no column 'elevation'; it has"):
        YaleB(tmp_path)


@pytest.mark.parametrize("size", [7, 17])
def test_bad_size(size, tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match=f"size: got {size}; must lie between 8 and 16, the shorter side"):
        YaleB(tmp_path, size=size)


# Real photographs ----------------------------------------------------------------------------------------------------


@needs_real_data
def test_the_mean_training_face_under_a_light():
    scores = []
    for seed in range(4):
        data = YaleB(REAL, "test", size=32, seed=seed)
        assert len(data.subjects.unique()) == 6
        pairs = torch.tensor([(i, j) for i in range(len(data)) for j in data.counterfactual_targets(i)[::7].tolist()])
        before, after = pairs.T
        x = data.images.float() / 255
        (baseline,) = data.counterfactual_baselines(data.labels[after]).values()
        scores.append(cf_score(baseline, x[after], x[before]))
    # Persons differ: over random splits it is 0.865 on average, with a standard deviation of 0.023.
    assert all(0.79 < score < 0.94 for score in scores)
    assert sum(scores) / 4 == pytest.approx(0.865, abs=0.03)
    labels, photograph = data.counterfactual(0, {"azimuth": 35, "elevation": 15})
    assert labels.tolist() == [[35, 15]]
    assert photograph.shape == (1, 1, 32, 32)
