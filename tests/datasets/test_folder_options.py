"""Your own data, as runs keep them in ``config.json``: modes, splits, groups, other names, the cache and augmentation."""

import json
import os

import pytest
import torch
from PIL import Image

from causalvae_pyro.datasets import FolderDataset, image_stack, load_dataset

GRAPH = {"size": [], "shade": ["size"]}


def write(folder, header="file,shade,size", row=lambda i: f"{i}.png,{i % 7},{i}", count=30, mode=lambda i: "RGB"):
    for i in range(count):
        path = folder / row(i).split(",")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (8 * i, 0, 100)).convert(mode(i)).save(path)
    (folder / "labels.csv").write_text("\n".join([header, *map(row, range(count))]) + "\n")


def load(folder, split="all", graph=GRAPH, **options):
    return FolderDataset(folder, folder / "labels.csv", graph, split, **options)


def test_grey_among_colour_images_is_converted_if_asked(tmp_path):
    write(tmp_path, mode=lambda i: "L" if i == 7 else "RGB")
    for split in ("all", "train"):
        with pytest.raises(ValueError, match=r'7\.png is .* 1 channels, .*0\.png is .* 3 channels; .*mode="RGB" converts'):
            load(tmp_path, split)
    assert load(tmp_path, mode="RGB").images.shape == (30, 3, 16, 16)
    assert load(tmp_path, mode="L").images.shape == (30, 1, 16, 16)


def test_a_column_says_the_split(tmp_path):
    words = ["train", "Training", " test ", "TESTING", "val", "validation", "valid", "dev", "train", "train"]
    write(tmp_path, "file,shade,size,split", lambda i: f"{i}.png,{i % 7},{i},{words[i % 10]}")
    rows = {name: [int(file.removesuffix(".png")) for file in load(tmp_path, name).files] for name in ("train", "test", "valid")}
    expected = {"train": (0, 1, 8, 9), "test": (2, 3), "valid": (4, 5, 6, 7)}
    assert rows == {name: [i for i in range(30) if i % 10 in digits] for name, digits in expected.items()}
    assert len(load(tmp_path)) == 30


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (lambda i: "first" if i == 4 else "train", "line 6, column 'split': got 'first'; valid: train, training, .*rename the"),
        (lambda i: "" if i == 4 else "train", "line 6, column 'split': the cell is empty"),
        (lambda i: "train", "column 'split': no row is for 'test'"),
        (lambda i: "val" if i else "test", "column 'split': no row is for 'train'"),
    ],
)
def test_a_column_that_says_no_split(tmp_path, word, message):
    write(tmp_path, "file,shade,size,split", lambda i: f"{i}.png,{i % 7},{i},{word(i)}")
    with pytest.raises(ValueError, match=f"^labels: .*labels.csv, {message}"):
        load(tmp_path, "train")


def test_groups_are_kept_apart_and_numbered(tmp_path):
    # In a folder for each person.
    people = ["eve", "bob", "ann", "joe", "liz", "kim"]
    row = lambda i: f"{people[i % 6]}/{i}.png,{i % 7},{i},{people[i % 6]}"  # noqa: E731
    write(tmp_path, "file,shade,size,person", row)
    train, test = (load(tmp_path, split, split_by="person", group_by="person") for split in ("train", "test"))
    for data in (train, test):
        assert data.groups.dtype == torch.int64
        assert [data.group_names[group] for group in data.groups] == [file.split("/")[0] for file in data.files]
    assert train.group_names == tuple(people)
    assert not set(train.groups.tolist()) & set(test.groups.tolist())
    assert len(train) == 25
    assert len(test) == 5
    other = [load(tmp_path, "test", split_by="person", seed=seed).files for seed in range(8)]
    assert len({files[0] for files in other}) > 1
    # A group does not split by itself, and nobody has to have any.
    assert load(tmp_path, group_by="person").groups.tolist() == [i % 6 for i in range(30)]
    assert load(tmp_path).groups is None


def test_groups_that_cannot_be_kept_apart(tmp_path):
    write(tmp_path, "file,shade,size,person,split", lambda i: f"{i}.png,{i % 7},{i},{i // 2},{'test' if i % 5 == 0 else 'train'}")
    assert len(load(tmp_path, "train", group_by="person")) == 24
    with pytest.raises(ValueError, match="labels: .*, column 'person': '0' is in two splits, test and train"):
        load(tmp_path, "train", split_by="person")
    write(tmp_path, "file,shade,size,person", lambda i: f"{i}.png,{i % 7},{i},ann")
    with pytest.raises(ValueError, match="column 'person': there is one group only, 'ann'; it takes at least 2"):
        load(tmp_path, "train", split_by="person")
    write(tmp_path, "file,shade,size,person", lambda i: f"{i}.png,{i % 7},{i},{'ann' if i else ''}")
    for option in ("split_by", "group_by"):
        with pytest.raises(ValueError, match="line 2, column 'person': the cell is empty"):
            load(tmp_path, **{option: "person"})


def test_columns_by_other_names(tmp_path):
    write(tmp_path, "file,5_o_Clock_Shadow,size")
    rename = {"5_o_Clock_Shadow": "shade"}
    expected = torch.tensor([[float(i), i % 7] for i in range(30)])
    assert torch.equal(load(tmp_path, rename=rename).labels, expected)
    for name, text in (
        ("g.json", json.dumps({**GRAPH, "rename": rename})),
        ("g.yaml", "size: []\nshade: [size]\nrename: {5_o_Clock_Shadow: shade}\n"),
    ):
        if name.endswith("yaml"):
            pytest.importorskip("yaml")
        (tmp_path / name).write_text(text)
        data = load(tmp_path, graph=tmp_path / name)
        assert data.concepts == ("size", "shade")
        assert torch.equal(data.labels, expected)
    # A concept may have that name all the same.
    write(tmp_path, "file,rename,size")
    (tmp_path / "g.json").write_text('{"size": [], "rename": ["size"]}')
    assert load(tmp_path, graph=tmp_path / "g.json").concepts == ("size", "rename")
    with pytest.raises(ValueError, match="names: '5_o_Clock_Shadow' is not a valid concept name: it starts with '5'; .*rename"):
        load(tmp_path, graph={"5_o_Clock_Shadow": []})


@pytest.mark.parametrize("asked", [True, False])
def test_many_images_are_mapped_from_a_file(tmp_path, asked, monkeypatch):
    images, cache = tmp_path / "images", tmp_path / "fast" / "cache"
    images.mkdir()
    write(images)
    expected = load(images).images
    options = {"cache": cache} if asked else {}
    if not asked:
        monkeypatch.setattr(image_stack, "IN_MEMORY", 1000)
    where = cache if asked else images
    train = load(images, "train", **options)
    files = {path.name for path in where.glob("*.npy*")}
    # That of the held-out images has been made on the way.
    assert len(files) == 2
    assert all(name.startswith(("causalvae_train_", "causalvae_test_")) and name.endswith(".npy") for name in files)
    assert torch.equal(train.images, expected[[int(file.removesuffix(".png")) for file in train.files]])
    decoded = []
    decode = image_stack.decode_image
    monkeypatch.setattr(
        image_stack, "decode_image", lambda path, *rest, **more: decoded.append(path) or decode(path, *rest, **more)
    )
    again = load(images, "train", **options)
    assert torch.equal(again.images, train.images)
    # For their shape.
    assert {path.name for path in decoded} == {"0.png"}
    # An image that has changed is decoded again.
    Image.new("RGB", (16, 16), "white").save(images / train.files[0])
    assert load(images, "train", **options).images[0].min() == 255
    next(where.glob("causalvae_test_*")).write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match="is damaged .*delete it"):
        load(images, "test", **options)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(image_stack, "IN_MEMORY", 1000)
    monkeypatch.setattr(os, "access", lambda *_: False)
    for name, level in (("one", 0), ("two", 255)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
        for i in range(30):
            path = tmp_path / name / f"{i}.png"
            Image.new("RGB", (16, 16), (level,) * 3).save(path)
            # Folders share that of the caches: the same names, sizes and times in two of them are not the same images.
            path.write_bytes(path.read_bytes().ljust(200, b"\0"))
            os.utime(path, (0, 0))
        assert (load(tmp_path / name).images == level).all()
        assert not list((tmp_path / name).glob("*.npy*"))
    assert len(list((tmp_path / "home" / "causalvae_pyro").glob("causalvae_all_*.npy"))) == 2


def test_a_cache_is_whole_or_not_there(tmp_path):
    write(tmp_path)
    (tmp_path / "12.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^images: .*12\.png is no image that can be decoded$") as caught:
        load(tmp_path, cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())


def test_augmentation_changes_training_images_and_nothing_else(tmp_path):
    write(tmp_path)
    ramp = Image.linear_gradient("L").rotate(90).resize((16, 16))
    for i in range(30):
        ramp.save(tmp_path / f"{i}.png")
    plain = load(tmp_path, "train")
    still = plain.images[0].float() / 255
    assert torch.equal(plain[0][0], still)
    torch.manual_seed(0)
    for name, count in (("mirror", 2), ("shift", 3)):
        data = load(tmp_path, "train", augment=[name])
        assert data.augment == (name,)
        seen = {tuple(data[0][0][0, 8].tolist()) for _ in range(40)}
        # A column that is shifted up or down looks the same.
        assert len(seen) == count
        assert torch.equal(data.images, plain.images)
        held_out = load(tmp_path, "test", augment=[name])
        assert all(torch.equal(held_out[0][0], held_out.images[0] / 255) for _ in range(10))
    mirrored = {tuple(load(tmp_path, "train", augment=["mirror"])[0][0][0, 8].tolist()) for _ in range(40)}
    assert mirrored == {tuple(still[0, 8].tolist()), tuple(still[0, 8].flip(0).tolist())}


def test_a_run_opens_them_again(tmp_path):
    write(tmp_path, "file,dark,size,person", lambda i: f"{i}.png,{i % 7},{i},{i % 5}", mode=lambda i: "L" if i == 7 else "RGB")
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    options = {"mode": "RGB", "split_by": "person", "group_by": "person", "rename": {"dark": "shade"}, "augment": ["shift"]}
    paths = {"images": str(tmp_path), "labels": str(tmp_path / "labels.csv"), "graph": str(tmp_path / "graph.json")}
    description = json.loads(json.dumps({"name": "folder", **paths, **options, "cache": str(tmp_path / "cache")}))
    data = load_dataset(description, "train")
    expected = load(tmp_path, "train", **options)
    assert data.files == expected.files
    assert torch.equal(data.images, expected.images)
    assert torch.equal(data.groups, expected.groups)
