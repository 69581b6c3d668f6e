"""Extended Yale B: the reader on a stand-in, and true counterfactuals on the photographs where they are at hand."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from causalvae_pyro.datasets import YaleB, load_dataset
from causalvae_pyro.metrics import cf_score
from tests import ROOT

REAL = Path(os.environ.get("YALEB", ROOT.parent / "shared" / "data" / "yaleb"))
needs_real_data = pytest.mark.skipif(
    not (REAL / "labels.csv").is_file(), reason="Extended Yale B is not here; set YALEB to its folder"
)
LIGHTS = [(-30.0, 0.0), (0.0, 20.0), (35.0, 15.0)]
PERSONS = 10


def photograph(person, light):
    image = np.full((20, 20), 20 * person, np.uint8)
    image[:, :10] += int(light[0]) + 40
    return image


def write(folder, *, zipped=True, change=None, leave_out=()):
    folder.mkdir(exist_ok=True)
    rows, files = ["file,azimuth,elevation,subject"], {}
    for person in range(PERSONS):
        for number, light in enumerate(LIGHTS):
            name = f"p{person}_{number}.png"
            if (person, number) in leave_out:
                continue
            rows.append(f"{name},{light[0]},{light[1]},B{person:02d}")
            buffer = io.BytesIO()
            Image.fromarray(photograph(person, light)).save(buffer, "PNG")
            files[name] = buffer.getvalue()
    if change is not None:
        change(rows, files)
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    if zipped:
        with zipfile.ZipFile(folder / "images.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        (folder / "images").mkdir()
        for name, content in files.items():
            (folder / "images" / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("zipped", [True, False])
def test_no_person_is_on_both_sides(zipped, tmp_path):
    root = write(tmp_path / "faces", zipped=zipped)
    train, test, everything = (YaleB(root, split, size=16) for split in ("train", "test", "all"))
    assert len(train) + len(test) == len(everything) == PERSONS * len(LIGHTS)
    assert not {*train.subjects.tolist()} & {*test.subjects.tolist()}
    assert len(test.subjects.unique()) == PERSONS // 5
    assert test.images.shape == (6, 1, 16, 16)
    assert test.images.dtype == torch.uint8
    assert torch.equal(test.groups, test.subjects)
    assert torch.equal(load_dataset({"name": "yaleb", "root": str(root), "size": 16}, "test").images, test.images)
    assert "6 images of 2 of 10 persons" in repr(test)


def test_the_true_counterfactual_is_the_same_persons_photograph(tmp_path):
    data = YaleB(write(tmp_path / "faces"), "all", size=20)
    labels, images = data.counterfactual(torch.tensor([0, 4]), {"azimuth": 35.0, "elevation": torch.tensor([15.0, 15.0])})
    assert labels.tolist() == [[35.0, 15.0]] * 2
    for image, person in zip(images, (0, 1), strict=True):
        assert torch.equal(image[0] * 255, torch.from_numpy(photograph(person, (35.0, 15.0))).float())
    targets = data.counterfactual_targets(4)
    assert data.subjects[targets].tolist() == [1, 1]
    assert 4 not in targets.tolist()


def test_where_no_photograph_exists_the_message_names_the_nearest(tmp_path):
    data = YaleB(write(tmp_path / "faces", leave_out={(0, 2)}), "all", size=16)
    with pytest.raises(
        ValueError, match=r"^do: no photograph of person B00 has azimuth 35, elevation 15; the nearest has azimuth 0"
    ):
        data.counterfactual(0, {"azimuth": 35.0, "elevation": 15.0})


BAD = {
    "number": (
        lambda rows, files: rows.__setitem__(1, rows[1].replace("-30.0", "left")),
        r"line 2, column 'azimuth': 'left' is not",
    ),
    "angle": (lambda rows, files: rows.__setitem__(1, rows[1].replace("-30.0", "200")), r"got 200; valid: -180 to 180"),
    "twice": (lambda rows, files: rows.append(rows[1]), r"the same file as in line 2"),
    "missing": (lambda rows, files: files.pop("p0_0.png"), r"1 of 30 photographs are not in .*: p0_0.png"),
    "more": (
        lambda rows, files: files.update({"q.png": files["p0_0.png"]}),
        r"1 photographs in .* have no row in labels.csv: q.png",
    ),
    "damaged": (lambda rows, files: files.update({"p0_0.png": b"no"}), r"p0_0.png in .* cannot be decoded"),
    "header": (lambda rows, files: rows.__setitem__(0, "file,azimuth,elevation,who"), r"has no column 'subject'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_in_one_line(name, tmp_path):
    change, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        YaleB(write(tmp_path / "faces", change=change), size=16)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_table(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^root: .*labels.csv does not exist"):
        YaleB(tmp_path)


@needs_real_data
def test_the_mean_training_face_under_the_same_light_is_a_strong_baseline():
    """It knows nothing of the person; leaving the image alone scores 0."""
    data = YaleB(REAL, "test", size=32)
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(0, len(data), 3)
    targets = torch.stack(
        [(t := data.counterfactual_targets(int(row)))[torch.randint(len(t), (), generator=generator)] for row in rows]
    )
    do = {name: data.labels[targets, i] for i, name in enumerate(data.concepts)}
    labels, true = data.counterfactual(rows, do)
    assert torch.equal(labels, data.labels[targets])
    score = cf_score(data.counterfactual_baselines(labels)["mean training face"], true, data.images[rows])
    assert 0.78 < float(score) < 0.92
