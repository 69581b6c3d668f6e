"""Your own data: folders, tables and graphs."""

import json
import re

import pytest
import torch
from PIL import Image

from causalvae_pyro.datasets import FolderDataset, read_graph
from causalvae_pyro.graph import CausalGraph
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
    graph = read_graph(FORMS[form](tmp_path), ["a", "b", "c"])
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
        ("g.csv", "", "the file is empty"),
        ("g.csv", ",a,b\na,0,1\n", "first column must name the concepts"),
        ("g.csv", ",a,b\na,0,x\nb,0,0\n", "row 'a', column 'b': 'x' is not a number"),
        ("g.csv", ",a,b\na,0\nb,0,0\n", "row 'a' has 1 entries, expected 2"),
    ],
)
def test_bad_graph_files(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=f"(?s)^graph: .*{message}") as caught:
        read_graph(file(tmp_path, name, text))
    assert name in str(caught.value)


def test_bad_graph_objects(tmp_path):
    with pytest.raises(FileNotFoundError, match="graph: .*nothing.json does not exist"):
        read_graph(tmp_path / "nothing.json")
    with pytest.raises(ValueError, match="graph: expected pairs"):
        read_graph([("a", "b", "c")])


def edit(before, after):
    def act(folder):
        text = (folder / "labels.csv").read_text()
        assert before in text
        (folder / "labels.csv").write_text(text.replace(before, after))

    return act


BAD = {
    "no image": (lambda f: (f / "3.png").unlink(), FileNotFoundError, "images: .*3.png does not exist, but the table names it"),
    "no table": (lambda f: (f / "labels.csv").unlink(), FileNotFoundError, "labels: .*labels.csv does not exist"),
    "empty table": (lambda f: (f / "labels.csv").write_text(""), ValueError, "labels: .* is empty"),
    "no rows": (lambda f: (f / "labels.csv").write_text("file,shade,size\n"), ValueError, "labels: .* has 0 rows"),
    "not text": (lambda f: (f / "labels.csv").write_bytes(b"\xff\xfe\x00"), ValueError, "labels: .* is not a CSV table"),
    "no column": (edit("size", "sizes"), ValueError, "labels: .* has 0 columns named 'size'"),
    "column twice": (edit("note", "size"), ValueError, "labels: .* has 2 columns named 'size'"),
    "text": (edit("3.png,1.5", "3.png,dark"), ValueError, "line 5, column 'shade': 'dark' is not a number"),
    "missing": (edit("3.png,1.5", "3.png,"), ValueError, "line 5, column 'shade': '' is not a number"),
    "short row": (edit("3.png,1.5,x,9", "3.png"), ValueError, "line 5, column 'size': None is not a number"),
    "infinite": (edit("3.png,1.5", "3.png,inf"), ValueError, "line 5, column 'shade': 'inf' is not finite"),
    "file twice": (edit("4.png", "3.png"), ValueError, "line 6: file '3.png' occurs in line 5 already"),
    "no name": (edit("4.png", ""), ValueError, "line 6, column 'file': no file name"),
    "corrupt": (lambda f: (f / "3.png").write_bytes(b"hello"), ValueError, "images: .*3.png cannot be decoded"),
    "truncated": (lambda f: (f / "3.png").write_bytes((f / "3.png").read_bytes()[:60]), ValueError, "3.png cannot be decoded"),
    "size": (
        lambda f: write_png(torch.zeros(3, 8, 16, dtype=torch.uint8), str(f / "3.png")),
        ValueError,
        "images: .*3.png is 16 x 8 with 3 channels, .*0.png is 16 x 16 with 3 channels; all must agree; size=",
    ),
    "channels": (
        lambda f: write_png(torch.zeros(1, 16, 16, dtype=torch.uint8), str(f / "3.png")),
        ValueError,
        "3.png is 16 x 16 with 1 channels",
    ),
    "mode": (lambda f: Image.new("P", (16, 16)).save(f / "3.png"), ValueError, "3.png has mode P; valid: L, RGB, RGBA"),
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
