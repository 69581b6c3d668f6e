"""Your own data: folders, tables and graphs."""

import json
import os
import re
import struct
import zlib
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from PIL import Image

from causalvae_pyro.datasets import FolderDataset
from causalvae_pyro.graph import CausalGraph, as_graph
from causalvae_pyro.plots.style import units_of

GRAPH = {"size": [], "shade": ["size"]}


def write_png(image, path):
    Image.fromarray(image.movedim(0, -1).squeeze(-1).numpy()).save(path)


def write(folder, count=10, channels=3, side=16):
    images = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for i, image in enumerate(images):
        write_png(image, str(folder / f"{i}.png"))
    rows = [f"{i}.png,{i / 2},x,{i * i}" for i in range(count)]
    (folder / "labels.csv").write_text("\n".join(["file,shade,note,size", *rows]) + "\n")
    return images


def load(folder, graph=GRAPH, split="all", **options):
    return FolderDataset(folder, folder / "labels.csv", graph, split, **options)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_reads_images_and_the_graphs_columns(tmp_path, channels):
    images = write(tmp_path, channels=channels)
    data = load(tmp_path)
    assert torch.equal(data.images, images)
    assert data.concepts == ("size", "shade")
    assert torch.equal(data.labels, torch.tensor([[i * i, i / 2] for i in range(10)]))
    image, labels = data[4]
    torch.testing.assert_close(image, images[4] / 255)
    assert labels.tolist() == [16, 2]


def test_images_without_a_row_are_left_out_and_named(tmp_path, monkeypatch):
    write(tmp_path)
    assert load(tmp_path).unnamed == ()
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-2]) + "\n")
    assert load(tmp_path).unnamed == ("8.png", "9.png")
    # Whatever the suffix, and in whatever sub-folder.
    for name in ("a.PNG", "b.jpg", "more/deep/c.JPEG", "notes.txt", "._0.png", ".hidden/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    beside = ("8.png", "9.png", "a.PNG", "b.jpg", "more/deep/c.JPEG")
    assert load(tmp_path).unnamed == beside
    monkeypatch.chdir(tmp_path)
    assert load(Path()).unnamed == beside


def test_images_that_are_named_through_links_are_not_unnamed(tmp_path):
    (tmp_path / "v3").mkdir()
    write(tmp_path / "v3")
    relink_folder = tmp_path / "latest"
    relink_folder.symlink_to("v3")
    table = tmp_path / "v3" / "labels.csv"
    table.write_text(re.sub(r"^(\d)", r"latest/\1", table.read_text(), flags=re.MULTILINE))
    assert FolderDataset(tmp_path, table, GRAPH, "all").unnamed == ()
    (tmp_path / "v3" / "10.png").touch()
    assert FolderDataset(tmp_path, table, GRAPH, "all").unnamed == ("latest/10.png",)
    (tmp_path / "5.png").symlink_to("v3/5.png")
    table.write_text(table.read_text().replace("latest/5.png", "5.png"))
    assert FolderDataset(tmp_path, table, GRAPH, "all").unnamed == ("latest/10.png",)


def test_a_last_line_that_is_not_ended_and_images_of_another_kind(tmp_path):
    write(tmp_path)
    table = tmp_path / "labels.csv"
    table.write_text(table.read_text().rstrip("\n"))
    (tmp_path / "masks").mkdir()
    for name in ("masks/0.png", "graph.jpg"):
        (tmp_path / name).touch()
    assert len(load(tmp_path)) == 10
    (tmp_path / "10.PNG").touch()
    with pytest.raises(ValueError, match=r"cut off: .* it does not name \S+10\.PNG \(1 of 11 images are not named\)"):
        load(tmp_path)


def test_signs_become_0_and_1(tmp_path):
    write(tmp_path)
    assert load(tmp_path).recoded == ()
    rows = [f"{i}.png,{('', '-1', ' 1')[i % 3]},{i % 3 - 1},{'test' if 3 < i < 7 else 'train'}" for i in range(10)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,shade,size,split", *rows]) + "\n")
    expected = torch.tensor([[i % 3 - 1, (torch.nan, 0, 1)[i % 3]] for i in range(10)])
    for split in ("all", "train", "test"):
        data = load(tmp_path, split=split)
        # Beside 0, -1 is a number.
        assert data.recoded == ("shade",)
        chosen = [int(name.removesuffix(".png")) for name in data.files]
        torch.testing.assert_close(data.labels, expected[chosen], equal_nan=True)
    # The whole table decides: of one other number among the held-out images training takes notice.
    edit("6.png,,", "6.png,2,")(tmp_path)
    data = load(tmp_path, split="train")
    assert data.recoded == ()
    assert data.labels[:3, 1].tolist()[1:] == [-1, 1]
    # Of a category too.
    rows_of(lambda i: f"{i % 2 * 2 - 1},x,{i}")(tmp_path)
    data = load(tmp_path, categories=["shade"])
    assert (data.recoded, data.kinds) == (("shade",), {"shade": 2})
    assert data.labels[:, 1].tolist() == [i % 2 for i in range(10)]


def test_splits_and_sizes(tmp_path):
    images = write(tmp_path, side=24)
    train, test = load(tmp_path, split="train"), load(tmp_path, split="test")
    assert len(train) == 8
    assert len(test) == 2
    assert not set(train.files) & set(test.files)
    position = train.files.index(train.files[3])
    assert torch.equal(train.images[position], images[int(train.files[3].removesuffix(".png"))])
    assert load(tmp_path, size=16).images.shape == (10, 3, 16, 16)


def test_units(tmp_path):
    write(tmp_path)
    assert load(tmp_path).units == ("", "")
    assert load(tmp_path, units={"size": "px"}).units == ("px", "")
    assert units_of(load(tmp_path)) == {}
    assert units_of(load(tmp_path, units={"size": "px"})) == {"size": "px"}
    for units, message in (
        ({"hue": "nm"}, "got one for 'hue'; the concepts are size, shade"),
        (["size"], "got ['size']"),
        ({"size": 3}, "3"),
    ):
        with pytest.raises(ValueError, match=r"^units: .*" + re.escape(message)):
            load(tmp_path, units=units)


def test_other_file_column(tmp_path):
    write(tmp_path)
    text = (tmp_path / "labels.csv").read_text().replace("file,shade,note,size", "shade0,shade,note,size")
    (tmp_path / "labels.csv").write_text(text)
    assert len(load(tmp_path, file_column="shade0")) == 10


EXPECTED = CausalGraph(["a", "b", "c"], [("a", "c"), ("b", "c")])
FORMS = {
    "graph": lambda _: EXPECTED,
    "mapping": lambda _: {"a": [], "b": None, "c": ["a", "b"]},
    "edges": lambda _: [("a", "c"), ("b", "c")],
    "networkx": lambda _: nx.DiGraph(EXPECTED.to_networkx()),
    "json": lambda f: file(f, "g.json", json.dumps({"a": [], "b": [], "c": ["a", "b"]})),
    "yaml": lambda f: file(f, "g.yaml", "a:\nb: []\nc: [a, b]\n"),
    "yml": lambda f: file(f, "g.yml", "a: []\nb: []\nc:\n  - a\n  - b\n"),
    "csv": lambda f: file(f, "g.csv", ",a,b,c\na,0,0,1\nb,0,0,0.5\nc,0,0,0\n"),
}


def file(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_graph(tmp_path, form):
    graph = as_graph(FORMS[form](tmp_path), ["a", "b", "c"])
    assert graph == EXPECTED
    assert graph.names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("g.json", '{"a": ["b"], "b": ["a"]}', "the graph has a cycle"),
        ("g.json", "{", "Expecting property name"),
        ("g.json", "[1]", "expected a mapping"),
        ("g.json", '{"a": ["z"]}', "unknown concept 'z'"),
        ("g.txt", "", "unknown kind of file '.txt'"),
        ("g.json", '{"a": [], "b": [], "c": ["a"], "c": ["b"]}', "'c' is given twice"),
        ("g.yaml", "a: []\nb: []\nc: [a]\nc: [b]\n", "'c' is given twice"),
        ("g.json", "[" * 200_000, "nested too deeply"),
        ("g.json", '{"a":' * 20_000, "nested too deeply"),
        ("g.yaml", "[" * 5000, "nested too deeply"),
        ("g.yaml", "a: " + "{b: " * 3000, "nested too deeply"),
        ("g.yaml", "a: &a [*a]", "expected names of concepts, each with a list of its causes, got 'a'"),
        ("g.yaml", "a: &a {b: *a}", "unknown concept 'b'"),
        ("g.json", '{"5_o_Clock_Shadow": []}', "'5_o_Clock_Shadow' is not a valid concept name: it starts with '5'"),
        ("g.csv", ",a,a\na,0,1\na,0,0\n", "a concept is named twice"),
        ("g.csv", "", "the file is empty"),
        ("g.csv", ",a,b\na,0,1\n", "first column must name the concepts"),
        ("g.csv", ",a,b\na,0,x\nb,0,0\n", "row 'a', column 'b': 'x' is not a number"),
        ("g.csv", ",a,b\na,0\nb,0,0\n", "line 2 has 2 cells, the header has 3"),
    ],
    ids=lambda value: value[:30],
)
def test_bad_graph_files(tmp_path, name, text, message):
    if name.endswith("yaml"):
        pytest.importorskip("yaml")
    with pytest.raises(ValueError, match=f"(?s)^graph: .*{message}") as caught:
        as_graph(file(tmp_path, name, text))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_graph_objects(tmp_path):
    with pytest.raises(FileNotFoundError, match="graph: .*nothing.json does not exist"):
        as_graph(tmp_path / "nothing.json")
    with pytest.raises(ValueError, match="graph: expected pairs"):
        as_graph([("a", "b", "c")])
    with pytest.raises(ValueError, match="graph: got an undirected graph"):
        as_graph(nx.Graph([("a", "b")]))
    with pytest.raises(ValueError, match="graph: got 3; expected a graph"):
        as_graph(3)


def edit(before, after):
    def act(folder):
        text = (folder / "labels.csv").read_text()
        assert before in text
        (folder / "labels.csv").write_text(text.replace(before, after))

    return act


def rows_of(cells):
    def act(folder):
        rows = "".join(f"{i}.png,{cells(i)}\n" for i in range(10))
        (folder / "labels.csv").write_text("file,shade,note,size\n" + rows)

    return act


def blank(column):
    return rows_of(lambda i: ",".join("" if name == column else str(i) for name in ("shade", "note", "size")))


def move(path, make):
    path.unlink()
    make(path)


def move_table(folder, make):
    move(folder / "labels.csv", make)


def relink(path, target):
    path.unlink()
    path.symlink_to(target)


def bomb(path):
    """A PNG whose header announces 900 million pixels."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(90001))),
        (b"IEND", b""),
    ]
    content = b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def tiff(path, dtype, corner=1):
    pixels = np.zeros((16, 16), dtype)
    pixels[0, 0] = corner
    Image.fromarray(pixels).save(path, "TIFF")


BAD = {
    "no image": (
        lambda f: (f / "3.png").unlink(),
        FileNotFoundError,
        "images: 1 of the 10 that .*labels.csv names are not in .*: 3.png$",
    ),
    "no images": (
        lambda f: [(f / f"{i}.png").unlink() for i in range(2, 7)],
        FileNotFoundError,
        r"images: 5 of the 10 that .*labels.csv names are not in .*: \d.png, \d.png, \d.png, \.\.\.$",
    ),
    "no table": (lambda f: (f / "labels.csv").unlink(), FileNotFoundError, "labels: .*labels.csv does not exist"),
    "empty table": (lambda f: (f / "labels.csv").write_text(""), ValueError, "labels: .* is empty"),
    "no rows": (lambda f: (f / "labels.csv").write_text("file,shade,size\n"), ValueError, "labels: .* has 0 rows"),
    "not text": (lambda f: (f / "labels.csv").write_bytes(b"\xff\xfe\x00"), ValueError, "labels: .* is not a CSV table"),
    "no column": (edit("size", "sizes"), ValueError, "labels: .* has 0 columns named 'size'"),
    "column twice": (edit("note", "size"), ValueError, "labels: .* has 2 columns named 'size'"),
    "text": (edit("3.png,1.5", "3.png,dark"), ValueError, "line 5, column 'shade': 'dark' is not a number"),
    "short row": (edit("3.png,1.5,x,9", "3.png"), ValueError, "line 5 has 1 cells, the header has 4$"),
    "long row": (edit("3.png,1.5", "3.png,1,5"), ValueError, "line 5 has 5 cells, the header has 4; is a comma part of a number"),
    "one quote": (
        edit("3.png,1.5,x", '3.png,1.5,"5 inch'),
        ValueError,
        "line 5: unexpected end of data; is a quotation mark not",
    ),
    "two quotes": (
        lambda f: [edit("3.png,1.5,x", '3.png,1.5,"5 inch')(f), edit("7.png,3.5,x", '7.png,3.5,5"')(f)],
        ValueError,
        "line 5: a quotation mark is closed only in line 9",
    ),
    "unknown": (blank("size"), ValueError, "column 'size' holds no known value"),
    "seconds": (rows_of(lambda i: f"{i},x,{1_700_000_000 + 10 * i}"), ValueError, "'size': float32 rounds .* subtract an offset"),
    "large": (rows_of(lambda i: f"{i},x,{i}e300"), ValueError, "column 'size': float32 rounds its values by up to inf"),
    "other name": (edit("4.png", "./3.png"), ValueError, "line 6: file './3.png' occurs in line 5 already"),
    "link": (lambda f: relink(f / "4.png", "3.png"), ValueError, "line 6: file '4.png' occurs in line 5 already"),
    "a folder": (lambda f: move_table(f, Path.mkdir), ValueError, "labels: .*labels.csv is a folder; expected a file"),
    "a pipe": (lambda f: move_table(f, os.mkfifo), ValueError, "labels: .*labels.csv is a pipe or a device; expected a file"),
    "image is a pipe": (lambda f: move(f / "3.png", os.mkfifo), ValueError, "images: .*3.png is a pipe or a device"),
    "infinite": (edit("3.png,1.5", "3.png,inf"), ValueError, "line 5, column 'shade': 'inf' is not finite"),
    "file twice": (edit("4.png", "3.png"), ValueError, "line 6: file '3.png' occurs in line 5 already"),
    "no name": (edit("4.png", ""), ValueError, "line 6, column 'file': no file name"),
    "corrupt": (lambda f: (f / "3.png").write_bytes(b"hello"), ValueError, "images: .*3.png is no image that can be decoded$"),
    "truncated": (
        lambda f: (f / "3.png").write_bytes((f / "3.png").read_bytes()[:60]),
        ValueError,
        "images: .*3.png is no image that can be decoded",
    ),
    "size": (
        lambda f: write_png(torch.zeros(3, 8, 16, dtype=torch.uint8), str(f / "3.png")),
        ValueError,
        "images: .*3.png is 16 x 8 with 3 channels, .*0.png is 16 x 16 with 3 channels; all must agree; size=",
    ),
    "channels": (
        lambda f: write_png(torch.zeros(1, 16, 16, dtype=torch.uint8), str(f / "3.png")),
        ValueError,
        '3.png is 16 x 16 with 1 channels, .*0.png is 16 x 16 with 3 channels; all must agree; mode="RGB" converts',
    ),
    "bomb": (lambda f: bomb(f / "3.png"), ValueError, "images: .*3.png has more than [0-9]+ pixels, which is not safe to decode"),
    "integers": (lambda f: tiff(f / "3.png", np.int32), ValueError, "images: .*3.png holds 32-bit integers"),
    "floats": (lambda f: tiff(f / "3.png", np.float32, 9), ValueError, "3.png holds floating point pixels from 0 to 9; valid: 0"),
    "NaN": (lambda f: tiff(f / "3.png", np.float32, np.nan), ValueError, "3.png holds floating point pixels from nan to nan"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_named(tmp_path, name):
    write(tmp_path)
    act, error, message = BAD[name]
    act(tmp_path)
    with pytest.raises(error, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_bad_arguments(tmp_path):
    write(tmp_path)
    with pytest.raises(FileNotFoundError, match="images: the folder .*nothing does not exist"):
        FolderDataset(tmp_path / "nothing", tmp_path / "labels.csv", GRAPH)
    with pytest.raises(ValueError, match="split: got 'dev'"):
        load(tmp_path, split="dev")
    (tmp_path / "labels.csv").write_text("file,shade,size\n" + "".join(f"{i}.png,1,{i}\n" for i in range(10)))
    with pytest.raises(ValueError, match="labels: .*column 'shade' is constant"):
        load(tmp_path)
    for options, message in (
        ({"mode": "CMYK"}, "mode: got 'CMYK'; valid: L, RGB, RGBA"),
        ({"augment": "mirror"}, "augment: got 'mirror'; valid: a list of mirror, shift"),
        ({"augment": ["turn"]}, "augment: got .'turn'.; valid"),
        ({"size": 0}, "size: got 0"),
        ({"rename": ["a"]}, "rename: expected columns"),
        ({"rename": {"hue": "a"}}, "rename: .* has no column 'hue'; its columns are .'file', 'shade', 'size'."),
        ({"split_by": "who"}, "labels: .* has 0 columns named 'who'"),
        ({"split": "valid"}, "split: got 'valid', but .*labels.csv has no row for validation"),
    ):
        write(tmp_path)
        (tmp_path / "labels.csv").write_text("file,shade,size\n" + "".join(f"{i}.png,{i % 3},{i}\n" for i in range(10)))
        with pytest.raises(ValueError, match=f"^{message}"):
            load(tmp_path, **options)


def test_repr_describes_one_image(tmp_path):
    write(tmp_path, side=24)
    assert "10 images, 16 x 16 with 3 channels" in repr(load(tmp_path, size=16))


def test_empty_cells_are_missing_labels(tmp_path):
    write(tmp_path)
    rows_of(lambda i: f"{['', ' ', 'NA', 'nan'][i] if i < 4 else i},x,{i}")(tmp_path)
    labels = load(tmp_path).labels
    assert labels[:4, 1].isnan().all()
    assert torch.equal(labels[4:, 1], torch.arange(4.0, 10))
    assert not labels[:, 0].isnan().any()


def test_a_cell_with_line_breaks_is_no_lost_row(tmp_path):
    write(tmp_path)
    rows_of(lambda i: f'{i},"first\nsecond, and ""third""",{i}')(tmp_path)
    assert len(load(tmp_path)) == 10


def test_home(tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    write(tmp_path)
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    assert len(FolderDataset("~", "~/labels.csv", "~/graph.json", "all", cache="~/cache")) == 10
    assert list((tmp_path / "cache").iterdir())


def test_what_is_held_out_is_read_before_a_training(tmp_path):
    write(tmp_path)
    held_out = load(tmp_path, split="test").files[0]
    content = (tmp_path / held_out).read_bytes()
    (tmp_path / held_out).write_bytes(content[:60])
    with pytest.raises(ValueError, match=f"^images: .*{held_out} is no image that can be decoded"):
        load(tmp_path, split="train")
    write_png(torch.zeros(1, 16, 16, dtype=torch.uint8), tmp_path / held_out)
    with pytest.raises(ValueError, match=f"^images: .*{held_out} is 16 x 16 with 1 channels"):
        load(tmp_path, split="train")
    (tmp_path / held_out).unlink()
    with pytest.raises(FileNotFoundError, match=f"images: 1 of the 10 that .*labels.csv names are not in .*: {held_out}$"):
        load(tmp_path, split="train")
    # A training's images are not needed for scores.
    (tmp_path / held_out).write_bytes(content)
    for name in set(map(str, range(10))) - {file.removesuffix(".png") for file in load(tmp_path, split="test").files}:
        (tmp_path / f"{name}.png").unlink()
    assert len(load(tmp_path, split="test")) == 2


@pytest.mark.parametrize(("split", "value"), [("test", "1"), ("test", ""), ("train", "1"), ("train", "")])
def test_a_label_that_varies_in_one_split_only(tmp_path, split, value):
    write(tmp_path)
    numbers = {int(name.removesuffix(".png")) for name in load(tmp_path, split=split).files}
    rows_of(lambda i: f"{value if i in numbers else i},x,{i}")(tmp_path)
    assert len(load(tmp_path)) == 10
    what = "is constant" if value else "holds no known value"
    with pytest.raises(ValueError, match=rf"^labels: .*, column 'shade' {what} in the {len(numbers)} images for '{split}'"):
        load(tmp_path, split="train")


def write_fruit(folder, cells, others=None):
    write(folder, count=len(cells))
    rows = [f"{i}.png,{cell},{i if others is None else others[i]}" for i, cell in enumerate(cells)]
    (folder / "labels.csv").write_text("\n".join(["file,fruit,size", *rows]) + "\n")
    return {"size": [], "fruit": ["size"]}


def test_a_column_of_words_is_a_category(tmp_path):
    cells = ["pear", "apple", "", " plum", "pear", "NA", "apple", "plum", "pear", "apple"]
    data = load(tmp_path, write_fruit(tmp_path, cells))
    assert data.kinds == {"fruit": ("apple", "pear", "plum")}
    expected = torch.tensor([1, 0, torch.nan, 2, 1, torch.nan, 0, 2, 1, 0])
    torch.testing.assert_close(data.labels[:, 1], expected, equal_nan=True)
    # The same in every split.
    assert load(tmp_path, {"size": [], "fruit": ["size"]}, split="test", seed=3).kinds == data.kinds


def test_numbers_are_a_category_where_that_is_said(tmp_path):
    graph = write_fruit(tmp_path, ["3", "0", "1", "", "3", "1", "0", "3", "1", "0"], others=[0, 1] * 5)
    plain, data = load(tmp_path, graph), load(tmp_path, graph, categories=["fruit"])
    assert plain.kinds == {}
    assert data.kinds == {"fruit": 4}
    torch.testing.assert_close(data.labels, plain.labels, equal_nan=True)
    # As other programs write whole numbers of a column with gaps.
    graph = write_fruit(tmp_path, ["3.0", "0.0", "10.0", "", "3.0", "1.0", "3.0", "0.0", "1.0", "3.0"])
    data = load(tmp_path, graph, categories=["fruit"])
    assert data.kinds == {"fruit": 11}
    assert data.labels[:, 1].nan_to_num(-1).tolist() == [3, 0, 10, -1, 3, 1, 3, 0, 1, 3]


@pytest.mark.parametrize(
    ("cells", "options", "words"),
    [
        (["apple", "1", "pear", "2"], {}, "column 'fruit': 'apple' is not a number"),
        (["0", "1", "700", "2"], {"categories": ["fruit"]}, "whole numbers up to 700; a category takes them from 0 to 99"),
        (["3", "b", "1", "b"], {"categories": ["fruit"]}, "got the word 'b' and the number '1'; a category takes either"),
        (["-1", "1", "0", "1"], {"categories": ["fruit"]}, "got '-1'; a category takes words, or whole numbers from 0 to 99"),
        (["0.5", "1", "0", "1"], {"categories": ["fruit"]}, "got '0.5'; a category takes words, or whole numbers from 0 to 99"),
        ([f"kind{i}" for i in range(101)], {}, "101 different words, e.g. 'kind0'; a category has at most 100 kinds"),
        (["a", "b", "a", "b"], {"categories": ["colour"]}, "categories: got 'colour'; the concepts are size, fruit"),
        (["a", "a", "a", "a"], {}, "column 'fruit' is constant"),
    ],
)
def test_bad_categories_are_named(tmp_path, cells, options, words):
    graph = write_fruit(tmp_path, cells)
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        load(tmp_path, graph, **options)
    assert "\n" not in str(error.value)
