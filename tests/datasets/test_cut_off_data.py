"""Data whose copying, download or unpacking was cut off: named, never taken for whole, and no obstacle to the next attempt."""

import csv
import hashlib
import json
import os
import shutil
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision.datasets
from PIL import Image, features

from causalvae_pyro.datasets import CelebA, FolderDataset, MorphoMNIST
from causalvae_pyro.explore import read_image
from causalvae_pyro.graph import as_graph
from tests.datasets import test_celeba, test_folder, test_morphomnist


def cuts(content, more=()):
    """Nothing, a few bytes, a third, a half, all but a few and all but the last byte."""
    length = len(content)
    return sorted({0, 1, 3, 10, length // 3, length // 2, length - 10, length - 1, *more} & set(range(length)))


def attempt(act):
    """What it gives, or the message with which it refuses."""
    try:
        return act(), None
    except ValueError as error:
        return None, str(error)


def test_cuts():
    assert cuts(b"x" * 100) == [0, 1, 3, 10, 33, 50, 90, 99]


# CelebA --------------------------------------------------------------------------------------------------------------

TABLES = ("list_attr_celeba.txt", "identity_CelebA.txt", "list_eval_partition.txt")


class Drive:
    """Google's drive with a small CelebA, behind the interface of gdown."""

    def __init__(self, folder):
        self.folder, self.asked, self.act = folder, [], None

    def download(self, id, output, quiet, user_agent):
        self.asked.append(id)
        content = (self.folder / id).read_bytes()
        if self.act is not None:
            content = self.act(id, content, Path(output))
        Path(output).write_bytes(content)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder with the published files, and torchvision's list of them, with their checksums."""
    source = tmp_path / "published"
    test_celeba.write(source)
    source = source / "celeba"
    with zipfile.ZipFile(source / "img_align_celeba.zip", "w") as archive:
        for image in sorted((source / "img_align_celeba").iterdir()):
            archive.write(image, f"img_align_celeba/{image.name}")
    names = ["img_align_celeba.zip", *TABLES]
    assert set(names) <= {name for _, _, name in torchvision.datasets.CelebA.file_list}
    files = [(name, hashlib.md5((source / name).read_bytes()).hexdigest(), name) for name in names]
    monkeypatch.setattr(torchvision.datasets.CelebA, "file_list", files)
    return source


@pytest.fixture
def drive(published, monkeypatch):
    drive = Drive(published)
    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=drive.download))
    return drive


@pytest.fixture
def root(published, tmp_path):
    """All of it, as it lies on a user's disk."""
    shutil.copytree(published, tmp_path / "data" / "celeba")
    return tmp_path / "data"


def load(root, **options):
    return CelebA(root, workers=1, progress=False, **options)


def check_whole(data, root):
    assert len(data) == 20
    assert (data.images.float().mean((1, 2, 3)) - 8 * torch.arange(20)).abs().max() < 2
    assert not [name for name in os.listdir(root / "celeba") if "tmp" in name]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_celeba_that_was_cut_off(name, root, drive):
    path = root / "celeba" / name
    whole = path.read_bytes()
    for size in cuts(whole):
        path.write_bytes(whole[:size])
        if size == len(whole) - 1 and name != "identity_CelebA.txt":
            # All that is missing is the last line's end.
            check_whole(load(root), root)
            continue
        with pytest.raises(ValueError, match=rf"^root: \S+{name}") as caught:
            load(root)
        assert "\n" not in str(caught.value)
        assert not list((root / "celeba").glob("cache_*"))
    # Fetched again, and nothing but this.
    check_whole(load(root, download=True), root)
    assert drive.asked == [name]


def test_files_of_celeba_that_are_missing_are_named(root):
    (root / "celeba" / TABLES[0]).unlink()
    with pytest.raises(FileNotFoundError, match=r"^root: no CelebA in \S+: neither .* has list_attr_celeba.txt or list_"):
        load(root)


class QuotaError(Exception):
    """As gdown's: of no class but Exception."""


@pytest.mark.parametrize(
    "error", [ConnectionResetError("reset by peer"), QuotaError("Too many users\nhave it"), KeyboardInterrupt()], ids=repr
)
def test_a_download_of_celeba_that_breaks(error, drive, tmp_path):
    root = tmp_path / "fresh"

    def breaks(name, content, output):
        output.write_bytes(content[: len(content) // 2])
        raise error

    for name in ("img_align_celeba.zip", *TABLES):
        drive.act = lambda asked, content, output, name=name: breaks(asked, content, output) if asked == name else content
        expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError
        with pytest.raises(expected) as caught:
            load(root, download=True)
        if expected is OSError:
            assert str(caught.value).startswith(f"root: {root / 'celeba' / name} cannot be downloaded (")
            assert "try again" in str(caught.value)
            assert "\n" not in str(caught.value)
        with pytest.raises((ValueError, FileNotFoundError), match="^root: "):
            load(root)
    drive.act, drive.asked = None, []
    check_whole(load(root, download=True), root)
    # Of what came whole before, nothing is fetched again.
    assert drive.asked == [TABLES[-1]]


@pytest.mark.parametrize("name", ["img_align_celeba.zip", TABLES[0]])
def test_a_download_of_celeba_that_ends_early(name, drive, tmp_path):
    root = tmp_path / "fresh"
    for size in cuts((drive.folder / name).read_bytes()):
        drive.act = lambda asked, content, _, size=size: content[:size] if asked == name else content
        with pytest.raises(OSError, match=rf"^root: \S+{name} cannot be downloaded \(File not found or corrupted"):
            load(root, download=True)
        if (root / "celeba" / "img_align_celeba.zip").exists() and size == (drive.folder / name).stat().st_size - 1:
            # All that is missing is the end of the table's last line.
            continue
        with pytest.raises((ValueError, FileNotFoundError), match="^root: "):
            load(root)
    drive.act = None
    check_whole(load(root, download=True), root)


def test_celeba_at_home(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.setenv("USERPROFILE", str(root))
    check_whole(load("~"), root)
    assert list((root / "celeba").glob("cache_*"))


def test_without_gdown(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)
    check_whole(load(root, download=True), root)
    (root / "celeba" / TABLES[0]).unlink()
    with pytest.raises(OSError, match=rf"^root: \S+{TABLES[0]} cannot be downloaded \(.*pip install gdown"):
        load(root, download=True)


def test_an_image_of_celeba_that_was_cut_off(root):
    path = root / "celeba" / "img_align_celeba" / "000007.jpg"
    whole = path.read_bytes()
    for size in cuts(whole):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cannot be decoded \(000007\.jpg: .*; unpack it again from img_align_celeba\.zip$"):
            load(root)
        assert not list((root / "celeba").glob("cache_*"))
    path.write_bytes(whole)
    check_whole(load(root), root)


def test_a_cache_of_celeba_that_was_cut_off(root):
    check_whole(load(root), root)
    (cache,) = (root / "celeba").glob("cache_*")
    whole = cache.read_bytes()
    # The header takes the first 128 bytes.
    for size in cuts(whole, more=range(0, 132, 3)):
        cache.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"^root: the cache \S+{cache.name} is damaged \(.*\); delete it"):
            load(root)
    cache.unlink()
    # What a process leaves that was killed while it wrote.
    cache.with_name(f"{cache.name}.4194304.tmp").write_bytes(whole[:5000])
    assert torch.equal(load(root).images[:, 0, 0, 0], load(root, split="all").images[:20, 0, 0, 0])


# Morpho-MNIST --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("kind", ["images-idx3-ubyte", "labels-idx1-ubyte", "morpho"])
def test_morphomnist_that_was_cut_off(kind, compress, tmp_path):
    pixels = test_morphomnist.write(tmp_path, compress=compress)
    (path,) = tmp_path.glob(f"t10k-{kind}*")
    whole = path.read_bytes()
    # Once every image has its row, nobody can tell whether the very last number lacks digits.
    last = whole.rindex(b",") + 2 if kind == "morpho" else len(whole)
    for size in cuts(whole[:last], more=range(last) if len(whole) < 400 else range(0, 40)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"^root: \S+{path.name}") as caught:
            MorphoMNIST(tmp_path)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    assert torch.equal(MorphoMNIST(tmp_path, "all").images[:, 0, 2:30, 2:30], pixels)


# A folder of one's own -----------------------------------------------------------------------------------------------


def open_folder(folder, split="all"):
    return FolderDataset(folder, folder / "labels.csv", test_folder.GRAPH, split)


def test_a_table_that_was_cut_off(tmp_path):
    test_folder.write(tmp_path)
    path = tmp_path / "labels.csv"
    whole, expected = path.read_bytes(), open_folder(tmp_path)
    accepted = []
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        found, message = attempt(lambda: open_folder(tmp_path))
        if message is not None:
            assert message.startswith(f"labels: {path}"), size
            assert "\n" not in message
        else:
            # The rows there are, are whole.
            assert torch.equal(found.labels[:9], expected.labels[: min(len(found), 9)]), size
            accepted.append(size)
    # Between two rows nobody can tell, nor, once every image is named, in the last number: "81".
    ends = [position + 1 for position, byte in enumerate(whole) if byte == ord("\n")]
    assert accepted == [*ends[2:-1], len(whole) - 2, len(whole) - 1]
    path.write_bytes(whole)
    assert torch.equal(open_folder(tmp_path).labels, expected.labels)


def test_the_message_says_what_shows_it(tmp_path):
    test_folder.write(tmp_path)
    path = tmp_path / "labels.csv"
    path.write_text("file,shade,size\n1.png,1.5,2\n0.png,2.5,1")
    with pytest.raises(
        ValueError, match=r"cut off: .* it does not name \S+2\.png \(8 of 10 images are not named\); copy it again"
    ):
        open_folder(tmp_path)
    # Whole, and as people write them: no line break after the last line, and other files around.
    for number in range(2, 10):
        (tmp_path / f"{number}.png").unlink()
    (tmp_path / "notes.txt").touch()
    assert open_folder(tmp_path).labels.tolist() == [[2, 1.5], [1, 2.5]]


# Pillow warns of a part of a TIFF file's header before it gives up.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    ("kind", "suffix"), [("PNG", "png"), ("JPEG", "jpg"), ("BMP", "bmp"), ("TIFF", "tiff"), ("PPM", "ppm"), ("WEBP", "webp")]
)
def test_an_image_that_was_cut_off(kind, suffix, tmp_path):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow reads no WebP")
    pixels = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8).numpy()
    for number in range(2):
        Image.fromarray(pixels[number]).save(tmp_path / f"{number}.{suffix}", kind)
    (tmp_path / "labels.csv").write_text(f"file,shade,size\n0.{suffix},1,2\n1.{suffix},2,3\n")
    path = tmp_path / f"1.{suffix}"
    whole, expected = path.read_bytes(), open_folder(tmp_path)
    sizes = [size for size in range(len(whole)) if size % 5 == 0 or size > len(whole) - 40]
    refused = 0
    for size in sizes:
        path.write_bytes(whole[:size])
        found, message = attempt(lambda: open_folder(tmp_path))
        if message is not None:
            assert message.startswith(f"images: {path} is no image that can be decoded"), size
            assert "\n" not in message
            refused += 1
            # What is dropped on the page of causalvae explore goes through a reader of its own.
            dropped = attempt(lambda: read_image(path.read_bytes(), (3, 8, 8)))[1]
            assert dropped is not None, size
            assert dropped.startswith("image: the image is no image that can be decoded"), size
        else:
            # No more than a checksum at the end is missing.
            assert torch.equal(found.images, expected.images), size
    assert refused >= len(sizes) - 20
    path.write_bytes(whole)
    assert torch.equal(open_folder(tmp_path).images, expected.images)


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_a_graph_that_was_cut_off(kind, tmp_path):
    path = tmp_path / f"graph.{kind}"
    if kind == "json":
        path.write_text(json.dumps({"a": [], "b": ["a"], "c": ["a", "b"]}) + "\n")
    else:
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([["", "a", "b", "c"], ["a", 0, 1, 0.5], ["b", 0, 0, 1], ["c", 0, 0, 0]])
    whole, expected = path.read_bytes(), as_graph(path)
    accepted = []
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        found, message = attempt(lambda: as_graph(path))
        if message is not None:
            assert message.startswith(f"graph: {path}"), size
        else:
            assert found == expected, size
            accepted.append(size)
    # All but the line break, which takes two bytes in the table.
    assert accepted == {"json": [len(whole) - 1], "csv": [len(whole) - 2, len(whole) - 1]}[kind]
