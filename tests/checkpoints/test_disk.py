"""A full disk and a directory that cannot be written: one clear line, the state before intact, no half files.

Each system call that writes fails in turn, and once more at each later one, until everything goes through.
"""

import builtins
import errno
import io
import os
import re
import shutil

import matplotlib
import pytest
import torch

from causalvae_pyro import CausalGraph, cli, fit, load, plots, save
from causalvae_pyro.checkpoints import SaveCheckpoint
from causalvae_pyro.checkpoints.hub import from_pretrained, save_pretrained
from causalvae_pyro.datasets import registry as sources
from causalvae_pyro.evaluation import evaluate
from causalvae_pyro.recipes import Recipe
from causalvae_pyro.training import CSVLogger, TrainingCheckpoint
from causalvae_pyro.training.resuming import STATE, read_state
from tests.builders import make_run, thinned

GRAPH = CausalGraph(["a", "b"], [("a", "b")])
OPTIONS = {"epochs": 1, "batch_size": 4, "device": "cpu", "progress": False}


class Disk:
    """Lets so many calls that write below a folder go through, and none after that."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.patch, self.left, self.failed = str(folder), monkeypatch, None, 0
        self.open, self.mkdir = builtins.open, os.mkdir
        for name in ("replace", "fsync"):
            self.wrap(os, name)
        monkeypatch.setattr(builtins, "open", self.opens)
        monkeypatch.setattr(io, "open", self.opens)
        monkeypatch.setattr(os, "mkdir", self.makes)

    def wrap(self, module, name):
        original = getattr(module, name)

        def wrapped(*arguments, **options):
            self.spend()
            return original(*arguments, **options)

        self.patch.setattr(module, name, wrapped)

    def spend(self):
        if self.left is None:
            return
        if not self.left:
            self.failed += 1
            raise OSError(self.error, os.strerror(self.error))
        self.left -= 1

    def makes(self, path, *arguments, **options):
        if str(path).startswith(self.folder):
            self.spend()
        return self.mkdir(path, *arguments, **options)

    def opens(self, file, mode="r", *arguments, **options):
        if not isinstance(file, int) and str(os.fspath(file)).startswith(self.folder) and set(mode) & set("wax+"):
            self.spend()
            opened = self.open(file, mode, *arguments, **options)
            if "b" in mode:
                write = opened.write

                def half(content):
                    # A full disk takes the beginning.
                    try:
                        self.spend()
                    except OSError:
                        write(bytes(content)[: len(content) // 2])
                        raise
                    return write(content)

                return Writes(opened, half)
            return opened
        return self.open(file, mode, *arguments, **options)

    def __call__(self, left, error=errno.ENOSPC):
        self.left, self.error, self.failed = left, error, 0


class Writes:
    """An open file of which one method is another."""

    def __init__(self, file, write):
        self.file, self.write = file, write

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


@pytest.fixture
def disk(tmp_path, monkeypatch):
    return Disk(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    return torch.rand(8, 1, 16, 16), torch.randn(8, 2)


Small = thinned(100)


def make(data, seed=0):
    return make_run(GRAPH, *data, seed=seed)


def weights(run):
    return torch.cat([p.detach().flatten() for module in (run.model, run.guide) for p in module.parameters()])


def attempts(disk, act, check, error=errno.ENOSPC, more=1, most=200):
    """Acts with so many calls more going through each time, until it succeeds; returns how many had to."""
    for left in range(0, most, more):
        disk(left, error)
        try:
            act()
        except OSError as caught:
            found = caught.errno, disk.failed > 0
            disk(None)
            assert found == (error, True)
            check()
        else:
            assert not disk.failed
            disk(None)
            return left
    raise AssertionError(f"it failed {most} times")


ERRORS = pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)


@ERRORS
def test_saving(error, disk, data, tmp_path):
    old, new = make(data, 0), make(data, 1)
    save(old, tmp_path / "run")
    kept = (tmp_path / "run" / "config.json").read_bytes()

    def check():
        found = weights(load(tmp_path / "run"))
        assert torch.equal(found, weights(old)) or torch.equal(found, weights(new))
        assert (tmp_path / "run" / "config.json").read_bytes() == kept
        assert sorted(os.listdir(tmp_path / "run")) == ["config.json", "model.safetensors"]

    assert attempts(disk, lambda: save(new, tmp_path / "run"), check, error) >= 8
    assert torch.equal(weights(load(tmp_path / "run")), weights(new))


@pytest.mark.parametrize(
    ("error", "more"), [(errno.ENOSPC, 9), *(pytest.param(e, 1, marks=pytest.mark.slow) for e in (errno.ENOSPC, errno.EROFS))]
)
def test_training(error, more, disk, data, tmp_path):
    here = tmp_path / "run"

    def train():
        run = make(data)
        callbacks = [SaveCheckpoint(here), CSVLogger(here / "log.csv")]
        return run, fit(run.model, run.guide, data, callbacks=callbacks, checkpoint=here, resume=True, **OPTIONS)

    steps = []

    def check():
        # Whatever there is, is whole, and the training goes on from it.
        assert not here.exists() or not [name for name in os.listdir(here) if name.endswith((".tmp", ".lock"))]
        steps.append(read_state(here / STATE)["step"] if (here / STATE).exists() else 0)
        if (here / "config.json").exists():
            load(here)

    assert attempts(disk, train, check, error, more) >= 4
    # Each attempt found what those before it had kept.
    assert steps == sorted(steps)
    shutil.copytree(here, tmp_path / "kept")
    shutil.rmtree(here)
    whole, _ = train()
    assert torch.equal(weights(load(tmp_path / "kept")), weights(whole))


def test_a_state_is_whole_after_each_failed_write(disk, tmp_path):
    keep = TrainingCheckpoint(tmp_path / "run")
    keep.write({"step": 1})
    assert attempts(disk, lambda: keep.write({"step": 2}), lambda: check_step(keep, 1)) == 5
    check_step(keep, 2)


def check_step(keep, step):
    assert keep.read()["step"] == step
    assert os.listdir(keep.file.parent) == [STATE]


@pytest.mark.parametrize("picture", [False, True])
def test_sharing(picture, disk, data, tmp_path):
    old, new = make(data, 0), make(data, 1)
    (tmp_path / "a.png").write_bytes(b"new" * 100)
    folder, pictures = tmp_path / "shared", [tmp_path / "a.png"] if picture else []
    save_pretrained(old, folder, pictures=pictures)
    if picture:
        (folder / "a.png").write_bytes(b"old" * 100)
    names = set(os.listdir(folder))

    def check():
        found = weights(from_pretrained(folder))
        assert torch.equal(found, weights(old)) or torch.equal(found, weights(new))
        assert set(os.listdir(folder)) == names
        assert (folder / "README.md").read_text().startswith("---\n")
        if picture:
            assert (folder / "a.png").read_bytes() in (b"old" * 100, b"new" * 100)

    assert attempts(disk, lambda: save_pretrained(new, folder, pictures=pictures), check) >= 12
    if picture:
        assert (folder / "a.png").read_bytes() == b"new" * 100


@pytest.fixture
def finished(tmp_path, monkeypatch):
    monkeypatch.setitem(sources.SIMULATORS, "pendulum", Small)
    data = Small("train", size=16)
    torch.manual_seed(0)
    run = Recipe().build(Small.graph, data.images, data.labels)
    run.config["data"] = {"name": "pendulum", "size": 16, "seed": 0, "noise": 0.0, "partition": "iid"}
    save(run, tmp_path / "run")
    return tmp_path / "run"


def command(disk, arguments, left, capsys):
    disk(left)
    status = cli.main([str(part) for part in arguments])
    failed = disk.failed
    disk(None)
    err = capsys.readouterr().err
    if status:
        assert status == 2
        # A training says a line for each epoch that it ends.
        assert re.search(r"causalvae: error: (\[Errno 28\] |--out: .* cannot be written \()No space left on device\)?\n$", err)
        assert err.count("\n") == 1 + (arguments[0] == "train" and "epoch 1/1" in err)
    assert bool(failed) == bool(status)
    return status


def test_a_picture_of_counterfactuals(finished, disk, tmp_path, capsys):
    out = tmp_path / "out.png"
    out.write_bytes(b"old")
    arguments = ["counterfactual", finished, "--do", "light=12", "--count", "1", "--device", "cpu", "--out", out]
    left = 0
    while command(disk, arguments, left, capsys):
        assert out.read_bytes() == b"old"
        assert sorted(os.listdir(tmp_path)) == ["out.png", "run"]
        left += 1
    assert left >= 3
    assert matplotlib.image.imread(out).ndim == 3


@pytest.mark.parametrize("lefts", [(1, 14), pytest.param(range(0, 45, 2), marks=pytest.mark.slow)], ids=["few", "many"])
def test_a_report(lefts, finished, disk, tmp_path, capsys, monkeypatch):
    # Neither scores nor pictures are what is tested here.
    for name in plots.__all__:
        monkeypatch.setattr(plots, name, lambda *_, **__: matplotlib.figure.Figure((1, 1)))
    metrics = evaluate(load(finished), Small("test", size=16), intervals=False, axioms=False, pairs=False, limit=6)
    monkeypatch.setattr("causalvae_pyro.cli.scoring.evaluate", lambda *_, **__: metrics)
    arguments = ["evaluate", finished, "--device", "cpu"]
    assert cli.main([str(part) for part in arguments]) == 0
    names = set(os.listdir(finished))
    capsys.readouterr()
    for left in lefts:
        before = {name: (finished / name).read_bytes() for name in names}
        if not command(disk, arguments, left, capsys):
            break
        assert set(os.listdir(finished)) == names
        for name in names:
            # Drawn from the same scores, the files are the same, old or new.
            assert len((finished / name).read_bytes()) == len(before[name])


def test_a_full_disk_stops_the_command_in_a_line(disk, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sources.SIMULATORS, "pendulum", Small)
    monkeypatch.setattr("causalvae_pyro.cli.train.score", lambda *_, **__: None)
    out = tmp_path / "out"
    arguments = ["train", "pendulum", "--size", "16", "--limit", "8", "--batch-size", "8", "--epochs", "1", "--device", "cpu"]
    arguments += ["--decoder", "conv", "--out", out]
    for left in (0, 1, 3, 6, 9):
        assert command(disk, arguments, left, capsys) == 2
        assert not out.exists() or not [name for name in os.listdir(out) if name.endswith((".tmp", ".lock"))]
    assert command(disk, arguments, 10**6, capsys) == 0
    load(out)


def test_a_real_full_disk(tmp_path, data):
    """On a file system of its own, where this process may make one."""
    here = tmp_path / "small"
    here.mkdir()
    if os.system(f"mount -t tmpfs -o size=64k none {here} 2>/dev/null"):
        pytest.skip("a file system of one's own takes the right to mount")
    try:
        with pytest.raises(OSError, match="No space left on device"):
            save(make(data), here / "run")
        assert os.listdir(here / "run") == []
    finally:
        os.system(f"umount {here}")
