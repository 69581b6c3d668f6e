"""CelebA, on a small data set in its own layout on disk."""

import os

import pytest
import torch
import torchvision.datasets
from PIL import Image

from causalvae_pyro import FixedPrior
from causalvae_pyro.datasets import CELEBA_GROUPS, CelebA, ConceptGroup
from causalvae_pyro.graph import CausalGraph

# Of multiprocessing's own threads, when PyTorch takes its workers down after an error: on a busy machine one of them may find its
# pipe closed already. Nothing of ours waits for it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

ATTRIBUTES = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair Blurry "
    "Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young"
).split()
COUNT = 30


def write(root, count=COUNT):
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    values = torch.randint(0, 2, (count, 40), generator=torch.Generator().manual_seed(0)) * 2 - 1
    names = [f"{i + 1:06d}.jpg" for i in range(count)]
    for i, name in enumerate(names):
        # A grey level of its own for each, so that a mix-up shows.
        Image.new("RGB", (178, 218), (8 * i % 256,) * 3).save(folder / "img_align_celeba" / name, quality=95)
    rows = [f"{name} {' '.join(f'{v:2d}' for v in row)}" for name, row in zip(names, values.tolist(), strict=True)]
    (folder / "list_attr_celeba.txt").write_text(f"{count}\n{' '.join(ATTRIBUTES)} \n" + "\n".join(rows) + "\n")
    parts = [0] * (count - 10) + [1] * 4 + [2] * 6
    (folder / "list_eval_partition.txt").write_text("".join(f"{n} {p}\n" for n, p in zip(names, parts, strict=True)))
    for file, columns in (("identity_CelebA.txt", 1), ("list_bbox_celeba.txt", 4), ("list_landmarks_align_celeba.txt", 10)):
        header = "" if columns == 1 else f"{count}\n{' '.join(f'c{i}' for i in range(columns))}\n"
        (folder / file).write_text(header + "".join(f"{n} {' '.join(['1'] * columns)}\n" for n in names))
    return values


@pytest.fixture
def root(tmp_path, monkeypatch):
    # torchvision compares checksums with the real files'.
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)
    return tmp_path


def load(root, *arguments, **options):
    return CelebA(root, *arguments, workers=0, progress=False, **options)


@pytest.mark.parametrize("group", CELEBA_GROUPS)
@pytest.mark.parametrize("size", [64, 128])
def test_images_and_labels(root, group, size):
    values = write(root)
    data = load(root, group, size=size)
    assert len(data) == 20
    assert data.images.shape == (20, 3, size, size)
    assert data.images.dtype == torch.uint8
    assert (data.images.float().mean((1, 2, 3)) - 8 * torch.arange(20)).abs().max() < 2
    for column, concept in enumerate(data.concepts):
        attribute = CELEBA_GROUPS[group].attributes[concept]
        expected = (values[:20, ATTRIBUTES.index(attribute.removeprefix("-"))] + 1) // 2
        expected = 1 - expected if attribute.startswith("-") else expected
        assert torch.equal(data.labels[:, column], expected.float()), concept
    prior = FixedPrior(len(data.graph), shift=0.5, scale=0.5)
    assert set(prior(data.labels).mean.flatten().tolist()) == {-1.0, 1.0}


def test_splits(root):
    write(root)
    assert [len(load(root, split=split)) for split in ("train", "valid", "test", "all")] == [20, 4, 6, 30]
    test = load(root, split="test")
    image, labels = test[0]
    assert image.mean().item() == pytest.approx(8 * 24 / 255, abs=0.01)
    assert torch.equal(labels, test.labels[0])


def test_published_graphs():
    edges = {name: set(group.graph.edges) for name, group in CELEBA_GROUPS.items()}
    assert edges["smile"] == {("gender", "eyes_open"), ("smile", "eyes_open"), ("smile", "mouth_open")}
    assert edges["beard"] == {(cause, effect) for cause in ("age", "gender") for effect in ("bald", "beard")}
    smile = {("smile", effect) for effect in ("cheekbones", "mouth_open", "narrow_eyes", "chubby")}
    assert edges["dear_smile"] == smile | {("gender", "narrow_eyes")}
    age = {("young", effect) for effect in ("receding_hairline", "makeup", "chubby", "eye_bags")}
    assert edges["dear_age"] == age | {("gender", "receding_hairline"), ("gender", "makeup")}


def test_a_group_of_ones_own(root):
    values = write(root)
    group = ConceptGroup(CausalGraph(["hat"]), {"hat": "Wearing_Hat"})
    assert torch.equal(load(root, group).labels[:, 0], ((values[:20, ATTRIBUTES.index("Wearing_Hat")] + 1) // 2).float())
    with pytest.raises(ValueError, match="attributes: expected one for each of \\['hat'\\]"):
        ConceptGroup(CausalGraph(["hat"]), {"cap": "Wearing_Hat"})
    with pytest.raises(ValueError, match="group: CelebA has no attribute 'Hat'"):
        load(root, ConceptGroup(CausalGraph(["hat"]), {"hat": "Hat"}))


def test_the_cache_is_made_once_and_shared(root):
    write(root)
    first = load(root)
    files = list((root / "celeba").glob("cache_*"))
    assert len(files) == 1
    stamp = files[0].stat().st_mtime_ns
    for image in (root / "celeba" / "img_align_celeba").iterdir():
        image.unlink()
    second = load(root, "beard")
    assert files[0].stat().st_mtime_ns == stamp
    assert torch.equal(first.images, second.images)


def test_a_cache_that_was_not_finished_is_never_taken_for_one(root, monkeypatch):
    write(root)
    bad = root / "celeba" / "img_align_celeba" / "000012.jpg"
    good = bad.read_bytes()
    bad.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="root: an image of .*celeba cannot be decoded .*000012.jpg") as caught:
        load(root)
    assert "\n" not in str(caught.value)
    assert not list((root / "celeba").glob("cache_*"))
    bad.write_bytes(good)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", stop)
        with pytest.raises(KeyboardInterrupt):
            load(root)
    assert not list((root / "celeba").glob("cache_*"))
    assert len(load(root)) == 20


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("grin",), ValueError, "group: got 'grin'; valid: \\['smile', 'beard', 'dear_smile', 'dear_age'\\]"),
        (("smile", "dev"), ValueError, "split: got 'dev'"),
        (("smile", "train", None, 256), ValueError, "size: got 256"),
    ],
)
def test_bad_arguments(root, arguments, error, message):
    with pytest.raises(error, match=message):
        load(root, *arguments[:3], **({"size": arguments[3]} if len(arguments) > 3 else {}))


def test_missing_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="root: no CelebA in "):
        load(tmp_path)


# Pillow leaves the file of a truncated image open until it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "damage", [lambda good: b"not a picture", lambda good: good[: len(good) // 2]], ids=["other", "truncated"]
)
def test_an_image_that_cannot_be_decoded_is_named(root, damage, workers):
    write(root)
    bad = root / "celeba" / "img_align_celeba" / "000007.jpg"
    bad.write_bytes(damage(bad.read_bytes()))
    with pytest.raises(ValueError, match=r"^root: an image of .*celeba cannot be decoded \(000007\.jpg: ") as caught:
        CelebA(root, workers=workers, progress=False)
    assert "\n" not in str(caught.value)
    assert not list((root / "celeba").glob("cache_*"))


@pytest.mark.parametrize(
    "damage",
    [lambda good: good[:-10], lambda good: b"", lambda good: good.replace(b"(20,", b"(10,", 1)],
    ids=["short", "empty", "shape"],
)
def test_a_damaged_cache_is_refused(root, damage):
    write(root)
    load(root)
    cache = next((root / "celeba").glob("cache_*"))
    cache.write_bytes(damage(cache.read_bytes()))
    with pytest.raises(ValueError, match=rf"^root: the cache .*{cache.name} is damaged .*delete it"):
        load(root)


def test_making_the_cache_leaves_the_random_numbers_alone(root):
    write(root)
    torch.manual_seed(0)
    load(root)
    first = torch.rand(3)
    torch.manual_seed(0)
    load(root)
    assert torch.equal(torch.rand(3), first)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), first)


def test_a_cache_that_cannot_be_written_is_not_an_undecodable_image(root, monkeypatch):
    write(root)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        load(root)
    assert not list((root / "celeba").glob("cache_*"))


# torchvision leaves the file of an image open that its transform refuses.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("mode", "size", "found"), [("L", (178, 218), "a L image"), ("RGB", (178, 200), "of 178 x 200")])
def test_an_image_of_another_mode_or_size_is_named(root, mode, size, found):
    write(root)
    Image.new(mode, size).save(root / "celeba" / "img_align_celeba" / "000003.jpg")
    with pytest.raises(ValueError, match=rf"^root: an image of .*\(000003\.jpg: .*{found}.*RGB of 178 x 218\)"):
        load(root)
