"""CelebA, on small data sets in the layouts that people have, and on real faces where they are."""

import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from causalvae_pyro import FixedPrior
from causalvae_pyro.datasets import CELEBA_GROUPS, CelebA, ConceptGroup, celeba
from causalvae_pyro.datasets.registry import load_dataset
from causalvae_pyro.graph import CausalGraph
from tests import ROOT

REAL = Path(os.environ.get("CELEBA", ROOT.parent / "shared" / "data" / "celeba10k"))
needs_real_data = pytest.mark.skipif(
    not REAL.is_dir(), reason="CelebA's first 10,000 images are not here; set CELEBA to the folder"
)

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
def root(tmp_path):
    return tmp_path


def load(root, *arguments, **options):
    return CelebA(root, *arguments, workers=1, progress=False, **options)


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


def test_the_cache_is_made_once_and_shared(root, monkeypatch):
    write(root)
    first = load(root)
    monkeypatch.setattr(celeba, "_fill", lambda *_: pytest.fail("decodes again"))
    assert torch.equal(load(root, "beard").images, first.images)
    assert len(list((root / "celeba").glob("cache_*"))) == 1


@pytest.mark.parametrize("change", [{"crop": 150}, {"size": 32}, {"split": "test"}], ids=str)
def test_the_cache_is_not_shared_with_other_images(root, change):
    write(root)
    load(root)
    load(root, **change)
    assert len(list((root / "celeba").glob("cache_*"))) == 2


def test_the_cache_of_as_many_other_images_is_another(root):
    write(root)
    for missing in (3, 4):
        path = root / "celeba" / "img_align_celeba" / f"{missing:06d}.jpg"
        content = path.read_bytes()
        path.unlink()
        data = load(root)
        expected = 8 * torch.tensor([i for i in range(20) if i != missing - 1])
        assert (data.images.float().mean((1, 2, 3)) - expected).abs().max() < 2
        path.write_bytes(content)


def redraw(folder, level):
    """Other faces of the same names and sizes, in bytes too."""
    folder.mkdir(exist_ok=True)
    for i in range(COUNT):
        path = folder / f"{i + 1:06d}.jpg"
        Image.new("RGB", (178, 218), (level(i),) * 3).save(path, quality=95)
        path.write_bytes(path.read_bytes().ljust(5000, b"\0"))


@pytest.mark.parametrize("zipped", [False, True])
def test_images_that_have_changed_are_decoded_again(root, zipped):
    write(root)
    folder = root / "celeba"
    for seconds, level in ((1, lambda i: 8 * i), (2, lambda i: 250 - 8 * i)):
        redraw(folder / "img_align_celeba", level)
        if zipped:
            pack(folder)
        for path in [folder / "img_align_celeba.zip"] if zipped else (folder / "img_align_celeba").iterdir():
            os.utime(path, (seconds, seconds))
        expected = torch.tensor([float(level(i)) for i in range(20)])
        for _ in range(2):
            assert (load(root).images.float().mean((1, 2, 3)) - expected).abs().max() < 2
        assert len(list(folder.glob("cache_*"))) == seconds


def test_a_folder_that_cannot_be_written(root, tmp_path, monkeypatch):
    write(root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert len(load(root)) == 20
    assert not list((root / "celeba").glob("cache_*"))
    assert len(list((tmp_path / "home" / "causalvae_pyro").glob("cache_*"))) == 1


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
        (("smile", "train", None, 256), ValueError, "size: got 256; must lie between 8 and 128, the crop"),
        ((3,), ValueError, "group: got 3; valid: .* a mapping from each concept to its parents, or a ConceptGroup"),
    ],
)
def test_bad_arguments(root, arguments, error, message):
    with pytest.raises(error, match=message):
        load(root, *arguments[:3], **({"size": arguments[3]} if len(arguments) > 3 else {}))


def test_missing_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="root: no CelebA in "):
        load(tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
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


@pytest.mark.parametrize(
    ("number", "mode", "size", "found"),
    [
        (3, "L", (178, 218), r"grey \(L\); valid: RGB"),
        (3, "CMYK", (178, 218), "CMYK; valid: RGB"),
        (3, "RGB", (178, 200), "178 x 200, 000001.jpg is 178 x 218; all must agree"),
        (3, "RGB", (89, 109), "89 x 109, 000001.jpg is 178 x 218; all must agree"),
        # The others decide.
        (1, "RGB", (89, 109), "89 x 109, 000004.jpg is 178 x 218; all must agree"),
        (1, "RGB", (64, 64), "64 x 64, 000004.jpg is 178 x 218; all must agree"),
    ],
)
def test_an_image_of_another_mode_or_size_is_named(root, number, mode, size, found):
    write(root)
    Image.new(mode, size).save(root / "celeba" / "img_align_celeba" / f"{number:06d}.jpg")
    with pytest.raises(ValueError, match=rf"^root: {number:06d}\.jpg of \S+img_align_celeba is {found}$"):
        load(root)


def test_the_first_image_need_not_be_there_for_a_split_without_it(root):
    write(root)
    (root / "celeba" / "img_align_celeba" / "000001.jpg").write_bytes(b"not a picture")
    assert len(load(root, split="test")) == 6


# Layouts -------------------------------------------------------------------------------------------------------------


def flat(folder, parent):
    """All files in the folder itself."""
    for path in list(folder.iterdir()):
        shutil.move(path, parent / path.name)
    folder.rmdir()
    return parent


def to_csv(folder):
    """Tables with commas, as Kaggle has them, and no identities."""
    rows = [line.split() for line in (folder / "list_attr_celeba.txt").read_text().splitlines()[1:]]
    lines = [["image_id", *rows[0]], *rows[1:]]
    (folder / "list_attr_celeba.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    partition = (folder / "list_eval_partition.txt").read_text().replace(" ", ",")
    (folder / "list_eval_partition.csv").write_text("image_id,partition\n" + partition)
    for path in folder.glob("*.txt"):
        path.unlink()


def kaggle(folder):
    to_csv(folder)
    outer = folder / "outer"
    outer.mkdir()
    shutil.move(folder / "img_align_celeba", outer / "img_align_celeba")
    outer.rename(folder / "img_align_celeba")


def pack(folder, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w", compression) as archive:
        archive.writestr("__MACOSX/img_align_celeba/._000001.jpg", b"not an image")
        for image in sorted((folder / "img_align_celeba").iterdir()):
            archive.write(image, f"img_align_celeba/{image.name}")
    shutil.rmtree(folder / "img_align_celeba")


LAYOUTS = {
    "torchvision": lambda folder: None,
    "kaggle": kaggle,
    "zip": pack,
    "compressed zip": lambda folder: pack(folder, zipfile.ZIP_DEFLATED),
    "kaggle's tables, zip": lambda folder: (to_csv(folder), pack(folder)),
    "beside the system's files": lambda folder: (folder / "img_align_celeba" / ".DS_Store").touch(),
}


@pytest.mark.parametrize(
    ("layout", "at_root", "workers"),
    [(layout, False, 1) for layout in LAYOUTS] + [("kaggle", True, 1), ("zip", True, 1), ("zip", False, 2)],
)
def test_layouts(layout, at_root, workers, tmp_path):
    (tmp_path / "expected").mkdir()
    (tmp_path / "root").mkdir()
    write(tmp_path / "expected")
    write(tmp_path / "root")
    LAYOUTS[layout](tmp_path / "root" / "celeba")
    if at_root:
        flat(tmp_path / "root" / "celeba", tmp_path / "root")
    for split in ("train", "valid", "test", "all"):
        expected, found = load(tmp_path / "expected", split=split), CelebA(tmp_path / "root", "smile", split, workers=workers)
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.labels, expected.labels)
        assert found.files == expected.files


def test_labels_may_be_0_and_1(root):
    write(root)
    before = load(root).labels
    path = root / "celeba" / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace("-1", " 0"))
    assert torch.equal(load(root).labels, before)


def remove(root, numbers):
    for number in numbers:
        (root / "celeba" / "img_align_celeba" / f"{number:06d}.jpg").unlink()


def test_a_part_of_the_images(root, capsys):
    values = write(root)
    remove(root, range(2, 31, 2))
    data = CelebA(root, workers=1)
    summary = "15 of the 30 images in list_attr_celeba.txt are there, split by CelebA's own partition: 10 in 'train'"
    assert data.summary == summary
    assert f"CelebA: {summary}\n" in capsys.readouterr().err
    assert summary in repr(data)
    assert data.files == [f"{i:06d}.jpg" for i in range(1, 20, 2)]
    assert (data.images.float().mean((1, 2, 3)) - 8 * torch.arange(0, 20, 2)).abs().max() < 2
    assert torch.equal(data.labels[:, 0], ((values[0:20:2, ATTRIBUTES.index("Male")] + 1) // 2).float())


def test_the_whole_is_preferred_to_a_part(root):
    write(root)
    shutil.copytree(root / "celeba" / "img_align_celeba", root / "some")
    pack(root / "celeba")
    shutil.move(root / "some", root / "celeba" / "img_align_celeba")
    remove(root, range(5, 10))
    assert len(load(root)) == 20


def write_persons(root, persons=10):
    path = root / "celeba" / "identity_CelebA.txt"
    path.write_text("".join(f"{i + 1:06d}.jpg {100 + i % persons}\n" for i in range(COUNT)))


@pytest.mark.parametrize("partition", ["absent", "of one split"])
def test_split_by_person(partition, root):
    write(root)
    write_persons(root)
    if partition == "absent":
        (root / "celeba" / "list_eval_partition.txt").unlink()
    else:
        # As the first of CelebA's images are.
        remove(root, range(21, 31))
    parts = [load(root, split=split) for split in ("train", "test")]
    assert not set(parts[0].groups.tolist()) & set(parts[1].groups.tolist())
    assert len(parts[1].groups.unique()) == 2
    assert sorted(parts[0].files + parts[1].files) == load(root, split="all").files
    assert torch.equal(load(root, split="test").groups, parts[1].groups)
    assert any(load(root, split="test", seed=seed).files != parts[1].files for seed in (1, 2))
    why = "" if partition == "absent" else " \\(list_eval_partition.txt leaves test without an image\\)"
    with pytest.raises(
        ValueError, match=rf"^split: got 'valid', .* images are split by person{why}; valid: \['train', 'test', 'all'"
    ):
        load(root, split="valid")
    assert ("leaves test" in parts[0].summary) == (partition != "absent")


def test_split_at_random(root):
    write(root)
    for table in ("list_eval_partition.txt", "identity_CelebA.txt"):
        (root / "celeba" / table).unlink()
    train, test = load(root), load(root, split="test")
    assert (len(train), len(test), train.groups) == (24, 6, None)
    assert not set(train.files) & set(test.files)
    assert "split at random: 6 in 'test'" in test.summary


@pytest.mark.parametrize("crop", [128, 150])
@pytest.mark.parametrize("scale", [1, 2])
def test_crops_are_scaled_with_the_images(crop, scale, root):
    # White inside of the crop, black outside.
    write(root)
    for path in (root / "celeba" / "img_align_celeba").iterdir():
        image = Image.new("RGB", (178, 218))
        image.paste((255,) * 3, ((178 - crop) // 2, (218 - crop) // 2, (178 + crop) // 2, (218 + crop) // 2))
        image.resize((178 // scale, 218 // scale), Image.Resampling.BOX).save(path, "PNG")
    images = load(root, crop=crop, size=32).images.float() / 255
    assert images[..., 1:-1, 1:-1].min() > 0.95
    assert images.min() > 0.7
    assert load(root, crop=crop + 16, size=32).images.float().min() < 50


def test_resizing_does_not_alias(root):
    write(root)
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(89).expand(218, 178)
    for path in (root / "celeba" / "img_align_celeba").iterdir():
        Image.fromarray(stripes.numpy()).convert("RGB").save(path, "PNG")
    images = load(root, size=32).images.float()
    assert (images - 127.5).abs().max() < 20


def test_a_mapping_as_a_group(root):
    values = write(root)
    graph = {"hat": [], "Smiling": ["hat"], "shadow": ["hat", "Smiling"]}
    names = {"hat": "-Wearing_Hat", "shadow": "5_o_Clock_Shadow"}
    data = load(root, graph, attributes=names)
    assert data.graph == CausalGraph(["hat", "Smiling", "shadow"], [("hat", "Smiling"), ("hat", "shadow"), ("Smiling", "shadow")])
    for column, (attribute, sign) in enumerate([("Wearing_Hat", -1), ("Smiling", 1), ("5_o_Clock_Shadow", 1)]):
        assert torch.equal(data.labels[:, column], (sign * values[:20, ATTRIBUTES.index(attribute)] > 0).float())
    # As a run's configuration has it.
    description = {"name": "celeba", "root": str(root), "group": graph, "attributes": names, "workers": 1, "progress": False}
    assert torch.equal(load_dataset(description, "train").labels, data.labels)
    with pytest.raises(
        ValueError, match="group: '5_o_Clock_Shadow' is no identifier; .* attributes={'shadow': '5_o_Clock_Shadow'}"
    ):
        load(root, {"5_o_Clock_Shadow": []})
    with pytest.raises(ValueError, match="attributes: got some beside a group that has its own"):
        load(root, "smile", attributes=names)
    with pytest.raises(ValueError, match="attributes: expected one for each of"):
        load(root, {"hat": []}, attributes=names)


@pytest.mark.parametrize(("scale", "size", "enlarged"), [(1, 128, None), (2, 64, None), (2, 128, 64), (4, 40, 32)])
def test_images_that_are_enlarged(root, scale, size, enlarged, capsys):
    write(root)
    for path in (root / "celeba" / "img_align_celeba").iterdir():
        Image.new("RGB", (round(178 / scale), round(218 / scale))).save(path)
    assert CelebA(root, size=size, workers=1).images.shape == (20, 3, size, size)
    end = "" if enlarged is None else f", enlarged from {enlarged} to {size} pixels"
    assert f"split by CelebA's own partition: 20 in 'train'{end}\n" in capsys.readouterr().err


# Bad input -----------------------------------------------------------------------------------------------------------


def edit(name, before, after):
    def act(folder):
        text = (folder / name).read_text()
        assert before in text
        (folder / name).write_text(text.replace(before, after, 1))

    return act


def damage_zip(folder):
    pack(folder)
    path = folder / "img_align_celeba.zip"
    path.write_bytes(path.read_bytes()[:-30])


def damage_member(folder):
    content = (folder / "img_align_celeba" / "000009.jpg").read_bytes()
    pack(folder)
    path = folder / "img_align_celeba.zip"
    path.write_bytes(path.read_bytes().replace(content, content[:-9] + bytes(9)))


def other_images(folder):
    for number in (1, 2, 3, 4):
        images = folder / "img_align_celeba"
        (images / f"{number:06d}.jpg").rename(images / f"face{number}.jpg")


def resize_all(folder):
    for path in (folder / "img_align_celeba").iterdir():
        Image.new("RGB", (64, 64)).save(path)


def grey_all(folder):
    for path in (folder / "img_align_celeba").iterdir():
        Image.new("L", (89, 109)).save(path)


def same_name_twice(folder):
    pack(folder)
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "a") as archive:
        archive.writestr("more/000005.jpg", b"another")


def put(values, line, attribute, table="list_attr_celeba.txt"):
    """Rows of two values, turn by turn, and one entry that is odd."""

    def act(folder):
        rows = [[f"{i + 1:06d}.jpg", *[values[i % 2]] * 40] for i in range(COUNT)]
        rows[line - 3][ATTRIBUTES.index(attribute) + 1] = "0" if "-1" in values else "-1"
        (folder / table).write_text(f"{COUNT}\n{' '.join(ATTRIBUTES)}\n" + "".join(" ".join(row) + "\n" for row in rows))

    return act


def separate(mark, suffix):
    def act(folder):
        to_csv(folder)
        path = folder / "list_attr_celeba.csv"
        path.write_text(path.read_text().replace(",", mark))
        path.rename(path.with_suffix(suffix))

    return act


def constant(attribute):
    """The same in all images for training."""

    def act(folder):
        path, column = folder / "list_attr_celeba.txt", ATTRIBUTES.index(attribute) + 1
        first, header, *rows = (line.split() for line in path.read_text().splitlines())
        for row in rows[:20]:
            row[column] = "-1"
        rows[25][column] = "1"
        path.write_text("".join(" ".join(row) + "\n" for row in (first, header, *rows)))

    return act


def all_but(count):
    def act(folder):
        (folder / "list_eval_partition.txt").unlink()
        remove(folder.parent, range(count + 1, COUNT + 1))

    return act


ATTR, PART, PERSONS = "list_attr_celeba.txt", "list_eval_partition.txt", "identity_CelebA.txt"
BAD = {
    "images without a row": (other_images, r"4 of 30 images in \S+ have no row in \S+: face1.jpg, face2.jpg, face3.jpg, \.\.\.$"),
    "no partition": (edit(PART, "000004.jpg 0\n", ""), rf"root: \S+{PART} has no row for 1 of 30 images: 000004.jpg$"),
    "partition": (
        edit(PART, "000004.jpg 0", "000004.jpg 3"),
        rf"root: \S+{PART}, line 4: .* one of \(0, 1, 2\), got '000004.jpg 3'",
    ),
    "no person": (edit(PERSONS, "000004.jpg 1\n", ""), rf"root: \S+{PERSONS} has no row for 1 of 30 images: 000004.jpg$"),
    "person": (edit(PERSONS, "000004.jpg 1", "000004.jpg x"), rf"root: \S+{PERSONS}, line 4: expected an image and a number"),
    "not binary": (
        lambda folder: (folder / ATTR).write_text(f"{COUNT}\n{' '.join(ATTRIBUTES)}\n" + f"000001.jpg {'2 ' * 40}\n"),
        rf"root: \S+{ATTR}, line 3, column 'Male': got '2'; valid: -1 and 1, or 0 and 1$",
    ),
    "two kinds of binary": (
        lambda folder: (folder / ATTR).write_text(f"{' '.join(ATTRIBUTES)}\na.jpg {'-1 ' * 40}\nb.jpg {'0 ' * 40}\n"),
        rf"root: \S+{ATTR}, line 3, column 'Male': got '0', elsewhere '-1'; valid: -1 and 1, or 0 and 1$",
    ),
    "one 0": (
        put(("-1", "1"), 12, "Smiling"),
        rf"root: \S+{ATTR}, line 12, column 'Smiling': got '0', elsewhere '-1'; valid: -1 and 1, or 0 and 1$",
    ),
    "one 0 in front": (
        put(("-1", "1"), 3, "Mouth_Slightly_Open"),
        rf"root: \S+{ATTR}, line 3, column 'Mouth_Slightly_Open': got '0', elsewhere '-1'; valid",
    ),
    "one -1": (put(("0", "1"), 12, "Smiling"), rf"root: \S+{ATTR}, line 12, column 'Smiling': got '-1', elsewhere '0'; valid"),
    "semicolons": (
        separate(";", ".csv"),
        r"root: \S+list_attr_celeba.csv: no columns found in the header 'image_id;5_o_\S+'; valid: separated by commas$",
    ),
    "spaces in CSV": (separate(" ", ".csv"), r"root: \S+.csv: no columns found in the header 'image_id 5_o_.*by commas$"),
    "commas in text": (separate(",", ".txt"), rf"root: \S+{ATTR}: no columns found in the header 'image_id,5_o_.*by spaces$"),
    "constant": (
        constant("Narrow_Eyes"),
        rf"root: \S+{ATTR}, column 'Narrow_Eyes' is constant in the 20 images for 'train'; a concept has to vary$",
    ),
    "twice": (edit(ATTR, "000004.jpg", "000003.jpg"), rf"root: \S+{ATTR}, line 6: 000003.jpg occurs twice"),
    "short row": (edit(ATTR, "000004.jpg", ""), rf"root: \S+{ATTR}, line 6: has 40 entries, expected 41"),
    "rows missing": (edit(ATTR, "30\n", "31\n"), rf"root: \S+{ATTR} is damaged: it has 30 rows, its first line says 31; copy"),
    "no rows": (lambda folder: (folder / ATTR).write_text(""), rf"root: \S+{ATTR} is damaged: it has 0 rows; copy"),
    "one person": (
        lambda folder: (folder / PART).unlink(),
        "split: .* is empty: images are split by person, and only 1 is there",
    ),
    "one image": (all_but(1), "split: .* is empty: images are split by person, and only 1 is there"),
    "damaged zip": (
        damage_zip,
        r"root: \S+img_align_celeba.zip is damaged \(File is not a zip file\); copy or download it again",
    ),
    "damaged in the zip": (
        damage_member,
        r"root: .* cannot be decoded \(000009.jpg: damaged in the zip \(Bad CRC-32.*\)\); copy or download the zip again$",
    ),
    "one name in two folders": (
        same_name_twice,
        r"root: \S+img_align_celeba.zip holds two files named 000005.jpg: img_align_celeba/000005.jpg and more/000005.jpg; valid",
    ),
    "grey": (grey_all, r"root: 000001.jpg of \S+ is grey \(L\); valid: RGB$"),
    "another shape": (
        resize_all,
        r"root: 000001.jpg of \S+ is 64 x 64; CelebA's aligned images are 178 x 218, or scaled from that",
    ),
    "first image": (
        lambda folder: (folder / "img_align_celeba" / "000001.jpg").write_bytes(b""),
        r"root: an image of \S+ cannot be decoded \(000001.jpg: not an image\); copy it again$",
    ),
    "no image at all": (
        lambda folder: [path.write_bytes(b"?") for path in (folder / "img_align_celeba").iterdir()],
        r"root: an image of \S+ cannot be decoded \(000001.jpg: not an image\); copy it again$",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case, root):
    act, message = BAD[case]
    write(root)
    act(root / "celeba")
    with pytest.raises(ValueError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)
    assert not list((root / "celeba").glob("cache_*"))


def test_an_empty_split_of_the_partition(root):
    write(root)
    remove(root, range(21, 25))
    assert len(load(root)) == 20
    with pytest.raises(
        ValueError, match="^split: no image is in 'valid': of 26 images, split by CelebA's own partition, none is"
    ):
        load(root, split="valid")


def test_no_images(root):
    write(root)
    shutil.rmtree(root / "celeba" / "img_align_celeba")
    with pytest.raises(
        FileNotFoundError, match="^root: no images in .*: put img_align_celeba there, or img_align_celeba.zip, which"
    ):
        load(root)


def test_workers(root):
    write(root)
    assert len(CelebA(root, workers=0, progress=False)) == 20
    with pytest.raises(ValueError, match="workers: got -1; must be at least 0"):
        CelebA(root, workers=-1)


@pytest.mark.parametrize("crop", [7, 179])
def test_bad_crop(crop, root):
    with pytest.raises(ValueError, match=f"crop: got {crop}; must lie between 8 and 178"):
        load(root, crop=crop, size=8)


# Real faces ----------------------------------------------------------------------------------------------------------


@needs_real_data
def test_ten_thousand_faces(tmp_path):
    for path in REAL.iterdir():
        if path.is_file():
            (tmp_path / path.name).symlink_to(path)
    data = load(tmp_path, split="test", size=32)
    assert "10000 of the 10000 images in list_attr_celeba.txt are there, split by person" in data.summary
    assert 1900 < len(data) < 2100
    assert set(data.labels.unique().tolist()) == {0, 1}
    # Men, and smiles, are about as frequent as in all of CelebA: 41.7 and 48.2 %.
    assert (data.labels.mean(0)[:2] - torch.tensor([0.417, 0.482])).abs().max() < 0.05
    # Faces, upright and in the middle: their mean is brighter there than in its corners.
    mean = data.images.float().mean((0, 1))
    assert mean[12:20, 12:20].mean() > mean[:4, :4].mean() + 20
