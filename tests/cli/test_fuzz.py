"""A campaign to break the readers: damaged files get a clear error or are read, nothing else happens.

Each reader meets 1,000 malformed inputs as a slow test (``make test-slow``), and forty others by default.
"""

import copy
import gzip
import json
import random
import shutil
import signal

import pytest
import torch
from PIL import Image

from causalvae_pyro import cli, load, save
from causalvae_pyro.datasets import FolderDataset, MorphoMNIST, Pendulum
from causalvae_pyro.graph import as_graph
from causalvae_pyro.recipes import Recipe
from causalvae_pyro.training import TrainingCheckpoint
from causalvae_pyro.training.resuming import STATE, read_state

#: What stands in the place of something else. The large numbers are sizes that no machine has memory for.
VALUES = [
    None,
    True,
    -1,
    0,
    1,
    3.5,
    10**6,
    10**12,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 50,
    "\0",
    "é",
    [],
    {},
    [[]],
    {"a": 1},
]
SECONDS = 20


class Damage:
    """Ways to damage a file, drawn from one seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def bytes(self, content):
        """Flipped, cut, doubled, shifted, overwritten or replaced."""
        draw, size = self.random, len(content)
        at, length = draw.randrange(size + 1), draw.randint(1, 64)
        kind = draw.randrange(7)
        if kind == 0 and size:
            flipped = bytearray(content)
            for _ in range(draw.randint(1, 8)):
                flipped[draw.randrange(size)] ^= 1 << draw.randrange(8)
            return bytes(flipped)
        return [
            content[:at],
            content[at:],
            content[:at] + content[at + length :],
            content[:at] + draw.randbytes(length) + content[at:],
            content[:at] + draw.randbytes(length) + content[at + length :],
            content * 2,
            draw.randbytes(draw.randint(0, 200)),
        ][kind]

    def json(self, content):
        """One value, key or item replaced, removed or doubled; or the text itself damaged."""
        draw = self.random
        if draw.random() < 0.2:
            return self.bytes(content)
        tree = json.loads(content)
        places = []

        def walk(node):
            for key in list(node) if isinstance(node, dict) else range(len(node)):
                places.append((node, key))
                if isinstance(node[key], (dict, list)) and len(node[key]):
                    walk(node[key])

        walk(tree)
        node, key = draw.choice(places)
        kind = draw.randrange(4)
        if kind == 0:
            del node[key]
        elif kind == 1 and isinstance(node, dict):
            node[draw.choice(["", "class", "args", "ref", "graph", "x"])] = node.pop(key)
        elif kind == 1:
            node.append(copy.deepcopy(node[key]))
        elif kind == 2:
            other, where = draw.choice(places)
            node[key] = copy.deepcopy(other[where])
        else:
            node[key] = draw.choice(VALUES)
        return json.dumps(tree).encode()

    def table(self, content):
        """One cell or line of a CSV file."""
        draw = self.random
        if draw.random() < 0.3:
            return self.bytes(content)
        lines = content.decode().split("\n")
        line = draw.randrange(len(lines))
        cells = lines[line].split(",")
        cell = draw.randrange(len(cells))
        kind = draw.randrange(4)
        if kind == 0:
            del cells[cell]
        elif kind == 1:
            cells[cell] = draw.choice(["", "nan", "inf", "-1", "1e999", '"', "a,b", "\0", "../../etc/passwd", "x" * 200_000, "é"])
        elif kind == 2:
            lines.append(lines[line])
        else:
            cells.append(cells[cell])
        lines[line] = ",".join(cells)
        return "\n".join(lines).encode()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """One sound thing of each kind."""
    folder = tmp_path_factory.mktemp("sound")
    data = Pendulum("test", size=16)
    images, labels = data.images[:40], data.labels[:40]
    torch.manual_seed(0)
    run = Recipe(decoder="sprites").build(Pendulum.graph, images, labels)
    run.config["data"] = {"name": "pendulum", "size": 16, "seed": 0, "noise": 0.0, "partition": "iid"}
    save(run, folder / "run")
    TrainingCheckpoint(folder / "state").write({"loss": dict(run.model.state_dict()), "settings": {"epochs": 1}, "done": 3})
    (folder / "images").mkdir()
    for i in range(6):
        Image.fromarray(images[i].movedim(0, -1).numpy()).save(folder / "images" / f"{i}.png")
    rows = [f"{i}.png,{i * 0.5},{i % 3}" for i in range(6)]
    (folder / "labels.csv").write_text("\n".join(["file,a,b", *rows]))
    (folder / "graph.json").write_text(json.dumps({"a": [], "b": ["a"]}))
    (folder / "adjacency.csv").write_text(",a,b\na,0,1\nb,0,0\n")
    digits = folder / "digits"
    digits.mkdir()
    pixels, classes = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8), bytes(range(5))
    header = b"".join(n.to_bytes(4, "big") for n in (2051, 5, 28, 28))
    (digits / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.numpy().tobytes()))
    (digits / "t10k-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress((2049).to_bytes(4, "big") + (5).to_bytes(4, "big") + classes)
    )
    lines = [f"{i},{1 + i / 10},{100 + i}" for i in range(5)]
    (digits / "t10k-morpho.csv").write_text("\n".join(["index,thickness,intensity", *lines]))
    return folder


def read_folder(folder):
    return FolderDataset(folder / "images", folder / "labels.csv", folder / "graph.json", split="all")


#: What is damaged, how, and who reads it.
READERS = {
    "config": ("run/config.json", "json", lambda folder: load(folder / "run")),
    "weights": ("run/model.safetensors", "bytes", lambda folder: load(folder / "run")),
    "state": (f"state/{STATE}", "bytes", lambda folder: read_state(folder / "state" / STATE)),
    "table": ("labels.csv", "table", read_folder),
    "graph": ("graph.json", "json", read_folder),
    "picture": ("images/3.png", "bytes", read_folder),
    "adjacency": ("adjacency.csv", "table", lambda folder: as_graph(folder / "adjacency.csv")),
    "digits": ("digits/t10k-images-idx3-ubyte.gz", "bytes", lambda folder: MorphoMNIST(folder / "digits", "all")),
    "classes": ("digits/t10k-labels-idx1-ubyte.gz", "bytes", lambda folder: MorphoMNIST(folder / "digits", "all")),
    "morpho": ("digits/t10k-morpho.csv", "table", lambda folder: MorphoMNIST(folder / "digits", "all")),
    "command": ("run/config.json", "json", lambda folder: command(folder, "run")),
    "command_weights": ("run/model.safetensors", "bytes", lambda folder: command(folder, "run")),
}


def command(folder, run):
    """The console command on one image; a bad run is status 2 and one line."""
    out = folder.parent / "drawn.png"
    status = cli.main(
        ["counterfactual", str(folder / run), "--do", "light=12", "--count", "1", "--device", "cpu", "--out", str(out)]
    )
    assert status in (0, 2)
    if status:
        raise ValueError("told")


def listing(folder):
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def attack(name, sound, tmp_path, seeds):
    """Reads so many damaged files, and returns how many were still good."""
    file, way, read = READERS[name]
    folder = tmp_path / "damaged"
    shutil.copytree(sound, folder)
    content, good = (sound / file).read_bytes(), 0

    def late(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    try:
        for seed in seeds:
            damaged = getattr(Damage(f"{name}-{seed}"), way)(content)
            (folder / file).write_bytes(damaged)
            files = listing(folder)
            signal.alarm(SECONDS)
            try:
                read(folder)
                good += 1
            except (ValueError, FileNotFoundError) as error:
                if not str(error).strip():
                    raise AssertionError(f"{name}-{seed}: an error without a word") from error
            except BaseException as error:
                raise AssertionError(f"{name}-{seed}: {type(error).__name__}: {error}; after {damaged[:300]!r}") from error
            finally:
                signal.alarm(0)
            assert listing(folder) == files, f"{name}-{seed}: wrote something"
    finally:
        signal.signal(signal.SIGALRM, before)
    return good


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_readers(name, sound, tmp_path, capsys):
    seeds = range(1000, 1040)
    assert attack(name, sound, tmp_path, seeds) < len(seeds)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_readers_a_thousand_times(name, sound, tmp_path, capsys):
    assert attack(name, sound, tmp_path, range(1000)) < 1000
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", READERS)
def test_the_sound_ones_are_read(name, sound, tmp_path):
    shutil.copytree(sound, tmp_path / "copy")
    READERS[name][2](tmp_path / "copy")
