"""The Morpho-MNIST loader, on files that the tests write and on the real ones where they are."""

import gzip
import os
import struct
from pathlib import Path

import pytest
import torch

from causalvae_pyro.datasets import MorphoMNIST
from causalvae_pyro.datasets.registry import load_dataset
from tests import ROOT

REAL = Path(os.environ.get("MORPHOMNIST", ROOT.parent / "shared" / "data" / "morphomnist"))
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="Morpho-MNIST is not here; set MORPHOMNIST to its folder")


def write(folder, count=20, name="t10k", compress=True):
    pixels = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = struct.pack(">IIII", 2051, count, 28, 28) + pixels.numpy().tobytes()
    digits = struct.pack(">II", 2049, count) + bytes(i % 10 for i in range(count))
    suffix, pack = (".gz", gzip.compress) if compress else ("", bytes)
    (folder / f"{name}-images-idx3-ubyte{suffix}").write_bytes(pack(images))
    (folder / f"{name}-labels-idx1-ubyte{suffix}").write_bytes(pack(digits))
    # Rows in another order than the images: the index decides.
    rows = [f"{i},{1 + i / 10},{100 + i}" for i in reversed(range(count))]
    (folder / f"{name}-morpho.csv").write_text("\n".join(["index,thickness,intensity", *rows]) + "\n")
    return pixels


@pytest.mark.parametrize("compress", [True, False])
def test_reads_the_published_layout(tmp_path, compress):
    pixels = write(tmp_path, compress=compress)
    data = MorphoMNIST(tmp_path, "all")
    assert torch.equal(data.images[:, 0, 2:30, 2:30], pixels)
    assert data.images.shape == (20, 1, 32, 32)
    assert data.images.sum() == pixels.sum()
    torch.testing.assert_close(data.labels[3], torch.tensor([1.3, 103.0]))
    assert data.digits.tolist() == [i % 10 for i in range(20)]
    image, labels = data[3]
    torch.testing.assert_close(image[0, 2:30, 2:30], pixels[3] / 255)
    assert torch.equal(labels, data.labels[3])
    assert MorphoMNIST(tmp_path, "all", size=28).images.shape == (20, 1, 28, 28)


def test_splits_are_disjoint_and_seeded(tmp_path):
    write(tmp_path)
    train, test = MorphoMNIST(tmp_path, "train"), MorphoMNIST(tmp_path, "test")
    assert len(train) == 16
    assert len(test) == 4
    assert not set(train.labels[:, 1].tolist()) & set(test.labels[:, 1].tolist())
    assert torch.equal(MorphoMNIST(tmp_path, "test").labels, test.labels)
    assert not torch.equal(MorphoMNIST(tmp_path, "test", seed=1).labels, test.labels)


def test_the_digit_may_be_a_concept(tmp_path):
    write(tmp_path)
    data = load_dataset({"name": "morphomnist", "root": tmp_path, "digit": True}, "all")
    assert data.concepts == ("thickness", "intensity", "digit")
    assert data.graph.edges == (("thickness", "intensity"),)
    assert data.kinds == {"digit": 10}
    assert torch.equal(data.labels[:, 2].long(), data.digits)
    plain = MorphoMNIST(tmp_path, "all")
    assert plain.kinds == {}
    assert torch.equal(data.labels[:, :2], plain.labels)
    do = {"digit": 7.0, "thickness": 2.0}
    changed = MorphoMNIST.counterfactual_labels(data.labels, do)
    assert (changed[:, 2] == 7).all()
    torch.testing.assert_close(changed[:, :2], MorphoMNIST.counterfactual_labels(plain.labels, {"thickness": 2.0}))
    with pytest.raises(ValueError, match="do: unknown concept 'digit'"):
        MorphoMNIST.counterfactual_labels(plain.labels, do)


def test_true_counterfactuals_in_closed_form():
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)
    thickness = torch.linspace(1, 4, 9, dtype=torch.float64)
    labels = torch.stack([thickness, 191 * torch.sigmoid(0.5 * noise + 2 * thickness - 5) + 64], 1)
    torch.testing.assert_close(MorphoMNIST.noise(labels), noise)
    after = MorphoMNIST.counterfactual_labels(labels, {"thickness": 2.0})
    torch.testing.assert_close(after[:, 1], 191 * torch.sigmoid(0.5 * noise - 1) + 64)
    after = MorphoMNIST.counterfactual_labels(labels, {"intensity": 100.0})
    assert torch.equal(after[:, 0], thickness)
    assert (after[:, 1] == 100).all()
    with pytest.raises(ValueError, match="do: unknown concept 'digit'"):
        MorphoMNIST.counterfactual_labels(labels, {"digit": 1.0})


def replace(name, text):
    return lambda folder: (folder / name).write_bytes(text)


CSV = "t10k-morpho.csv"
IMAGES = "t10k-images-idx3-ubyte.gz"
BAD = {
    "no images": (lambda folder: (folder / IMAGES).unlink(), FileNotFoundError, "neither t10k-images-idx3-ubyte.gz nor"),
    "no table": (lambda folder: (folder / CSV).unlink(), FileNotFoundError, "t10k-morpho.csv does not exist"),
    "not gzip": (replace(IMAGES, b"hello"), ValueError, "t10k-images-idx3-ubyte.gz is damaged"),
    "truncated gzip": (lambda f: (f / IMAGES).write_bytes((f / IMAGES).read_bytes()[:900]), ValueError, "is damaged"),
    "magic": (replace(IMAGES, gzip.compress(b"\0\0\0\1" * 9)), ValueError, "magic number is 1, expected 2051"),
    "short": (
        replace(IMAGES, gzip.compress(struct.pack(">IIII", 2051, 20, 28, 28))),
        ValueError,
        "truncated or too long: 16 bytes",
    ),
    "sides": (
        replace(IMAGES, gzip.compress(struct.pack(">IIII", 2051, 20, 40, 28) + bytes(20 * 40 * 28))),
        ValueError,
        "t10k-images-idx3-ubyte.gz announces 20 x 40 x 28; Morpho-MNIST has at most 1000000 images of 28 x 28",
    ),
    "count": (replace(IMAGES, gzip.compress(struct.pack(">IIII", 2051, 2**31, 28, 28))), ValueError, "announces 2147483648 x 28"),
    "bomb": (
        replace(IMAGES, gzip.compress(struct.pack(">IIII", 2051, 20, 28, 28) + bytes(10**6))),
        ValueError,
        "truncated or too long: 15697 bytes or more, its header announces 15696",
    ),
    "empty": (replace(IMAGES, gzip.compress(b"")), ValueError, "magic number is 0"),
    "column": (replace(CSV, b"index,thickness\n0,1\n"), ValueError, "has no column 'intensity'"),
    "text": (
        replace(CSV, b"index,thickness,intensity\n0,1,dark\n"),
        ValueError,
        "line 2, column 'intensity': 'dark' is not a number",
    ),
    "missing cell": (
        replace(CSV, b"index,thickness,intensity\n0,1\n"),
        ValueError,
        "line 2 has 2 cells, the header has 3",
    ),
    "nan": (replace(CSV, b"index,thickness,intensity\n0,nan,1\n"), ValueError, "line 2, column 'thickness': 'nan' is not finite"),
    "twice": (replace(CSV, b"index,thickness,intensity\n0,1,1\n0,1,1\n"), ValueError, "line 3: index 0 occurs twice"),
    "beyond": (replace(CSV, b"index,thickness,intensity\n99,1,1\n"), ValueError, "line 2: index 99 has no image"),
    "rows": (
        replace(CSV, b"index,thickness,intensity\n0,1,1\n"),
        ValueError,
        "no row for image 1 \\(19 of 20 rows are missing\\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(tmp_path, name):
    write(tmp_path)
    act, error, message = BAD[name]
    act(tmp_path)
    with pytest.raises(error, match=f"^root: .*{message}") as caught:
        MorphoMNIST(tmp_path)
    assert "\n" not in str(caught.value)


def test_home_and_repr(tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    write(tmp_path)
    assert repr(MorphoMNIST("~")) == "MorphoMNIST(split='train', size=32, seed=0: 16 images)"


def test_bad_options(tmp_path):
    for options, message in (({"split": "dev"}, "split: got 'dev'"), ({"size": 16}, "size: got 16")):
        with pytest.raises(ValueError, match=message):
            MorphoMNIST(tmp_path, **options)


@needs_real_data
def test_the_real_data_follow_the_published_process():
    data = MorphoMNIST(REAL, "all")
    assert len(data) == 10000
    noise = data.noise(data.labels)
    assert abs(noise.mean()) < 0.05
    assert noise.std().item() == pytest.approx(1.0, abs=0.03)
    assert (data.labels[:, 0].mean().item(), data.labels[:, 0].std().item()) == pytest.approx((2.5, 0.632), abs=0.02)
    # The intensity is (about) the brightest grey level of each image.
    brightest = data.images.flatten(1).amax(1).float()
    assert torch.corrcoef(torch.stack([brightest, data.labels[:, 1]]))[0, 1] > 0.97
    assert set(data.digits.tolist()) == set(range(10))
    measured = data.measure_intensity(data.images[::5].float() / 255)
    assert (measured - data.labels[::5, 1]).abs().mean() < 0.7


def test_intensity_is_the_median_of_the_brighter_half():
    images = torch.zeros(2, 1, 4, 4)
    images[0, 0, 0] = torch.tensor([40, 60, 70, 100]) / 255  # half way is 50
    images[1] = 0.5
    images[1, 0, 0, 0] = 0.3
    assert MorphoMNIST.measure_intensity(images).tolist() == pytest.approx([70.0, 127.5])


def test_a_run_can_be_opened_again(tmp_path):
    write(tmp_path, 40)
    description = {"name": "morphomnist", "root": str(tmp_path), "seed": 3}
    found = load_dataset(description, "test")
    assert torch.equal(found.images, MorphoMNIST(tmp_path, "test", seed=3).images)
    with pytest.raises(ValueError, match="^RUN: its config.json names no data set of this package"):
        load_dataset({"name": "morphomnist", "seed": 3}, "test")
