"""Two trainings in one directory: the second is refused, and nothing of the first outlives its process."""

import errno
import os
import signal
import socket
import subprocess
import sys

import pytest
import torch

from causalvae_pyro import CausalGraph, cli, counterfactual, fit, load
from causalvae_pyro.checkpoints import SaveCheckpoint
from causalvae_pyro.recipes import Recipe
from causalvae_pyro.training import Callback, TrainingCheckpoint
from causalvae_pyro.training import locking as module
from causalvae_pyro.training.locking import DirectoryLock
from causalvae_pyro.training.resuming import LOCK, STATE, read_state
from causalvae_pyro.utils import files

fcntl = pytest.importorskip("fcntl", reason="what the tests interfere with is POSIX's")
HOLDER = "training.holder"
GRAPH = CausalGraph(["a", "b"], [("a", "b")])
OPTIONS = {"epochs": 1, "batch_size": 8, "device": "cpu", "progress": False}
TRAIN = ["train", "pendulum", "--size", "16", "--limit", "64", "--epochs", "1", "--device", "cpu", "--decoder", "conv"]


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    return torch.rand(16, 1, 16, 16), torch.randn(16, 2)


@pytest.fixture
def run(data):
    return Recipe().build(GRAPH, *data)


# The module and what it imports alone, without the seconds that torch takes to import.
ALONE = f"""
import importlib.util, os, runpy, sys, time
for name in ("causalvae_pyro", "causalvae_pyro.utils"):
    sys.modules[name] = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, None))
spec = importlib.util.spec_from_file_location("causalvae_pyro.utils.files", {files.__file__!r})
sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[spec.name])
lock = runpy.run_path({module.__file__!r})["DirectoryLock"](sys.argv[1])
"""


def start(script, *arguments):
    command = [sys.executable, "-c", ALONE + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of a directory."""
    process = start("with lock.held():\n    print('held', flush=True)\n    time.sleep(120)\n", tmp_path / "run" / LOCK)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_second_is_refused_until_the_first_is_killed(other, run, data, tmp_path, capsys):
    here = tmp_path / "run"
    message = f"process {other.pid} on {socket.gethostname()} is training into {here}; wait for its end"
    with pytest.raises(ValueError, match=f"^checkpoint: {message}"):
        fit(run.model, run.guide, data, checkpoint=here, **OPTIONS)
    before = os.listdir(here)
    assert cli.main([*TRAIN, "--out", str(here)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"causalvae: error: checkpoint: {message}")
    assert err.count("\n") == 1
    assert sorted(os.listdir(here)) == sorted(before) == [HOLDER, LOCK]
    other.send_signal(signal.SIGKILL)
    other.wait()
    # The files are still there, and mean nothing any more.
    assert (here / LOCK).is_file()
    assert (here / HOLDER).is_file()
    fit(run.model, run.guide, data, checkpoint=here, **OPTIONS)
    assert os.listdir(here) == [STATE]
    # Nor for a resumption.
    (here / LOCK).touch()
    (here / HOLDER).write_text("process 1 on nowhere\n")
    fit(run.model, run.guide, data, checkpoint=here, resume=True, **OPTIONS)
    assert os.listdir(here) == [STATE]


def test_in_one_process_too_and_readers_do_not_mind(run, data, tmp_path):
    found = []

    class Meanwhile(Callback):
        def on_epoch_end(self, state):
            with pytest.raises(ValueError, match=f"^checkpoint: process {os.getpid()} on "):
                fit(run.model, run.guide, data, checkpoint=tmp_path, resume=True, **OPTIONS)
            # A training without a state to keep is nobody's business, nor are readers.
            other = load(tmp_path)
            found.append(counterfactual(other.model, other.guide, data[0][:2], {"a": 0.0}))
            found.append(read_state(tmp_path / STATE)["step"])
            fit(other.model, other.guide, data, checkpoint=tmp_path / "another", **OPTIONS)

    callbacks = [SaveCheckpoint(tmp_path), Meanwhile()]
    fit(run.model, run.guide, data, checkpoint=TrainingCheckpoint(tmp_path, every=1), callbacks=callbacks, **OPTIONS)
    assert len(found) == 2
    assert sorted(os.listdir(tmp_path)) == ["another", "config.json", "history.csv", "model.safetensors", STATE]
    assert os.listdir(tmp_path / "another") == [STATE]


def test_the_command_holds_it_until_it_has_scored(tmp_path, monkeypatch, capsys):
    calls = []

    def score(loaded, out, *_, **__):
        calls.append(out)
        assert (out / HOLDER).read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
        assert cli.main([*TRAIN, "--resume", "--out", str(tmp_path)]) == 2

    monkeypatch.setattr("causalvae_pyro.cli.train.score", score)
    assert cli.main([*TRAIN, "--out", str(tmp_path)]) == 0
    assert calls == [tmp_path]
    assert "is training into" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name in (LOCK, HOLDER)]


@pytest.mark.parametrize("options", [["--epochs", "0"], ["--lr", "0"], ["--batch-size", "1000"]], ids=" ".join)
def test_a_refused_training_leaves_no_directory(options, tmp_path, capsys):
    assert cli.main([*TRAIN, *options, "--out", str(tmp_path / "a" / "b")]) == 2
    assert not (tmp_path / "a").exists()
    # What was there before stays.
    (tmp_path / "a").mkdir()
    assert cli.main([*TRAIN, *options, "--out", str(tmp_path / "a")]) == 2
    assert os.listdir(tmp_path) == ["a"]


def test_it_may_be_taken_twice_by_its_holder_and_is_gone_afterwards(tmp_path):
    lock, other = (DirectoryLock(tmp_path / "a" / "b" / "lock") for _ in range(2))
    with lock.held():
        with lock.held():
            assert lock.path.is_file()
        with pytest.raises(ValueError, match="is training into"), other.held():
            pass
        assert lock.path.is_file()
    assert not (tmp_path / "a").exists()
    with other.held(), pytest.raises(ValueError, match="is training into"), lock.held():
        pass


def test_a_file_that_its_holder_removes_is_made_anew(tmp_path, monkeypatch):
    # The other lets go between our opening of the file and our locking it: what we hold then is a file that nobody sees.
    first, second = (DirectoryLock(tmp_path / "lock") for _ in range(2))
    holding = first.held()
    holding.__enter__()
    original, calls = fcntl.flock, []

    def flock(descriptor, how):
        if not calls:
            calls.append(1)
            holding.__exit__(None, None, None)
        return original(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with second.held():
        assert second.holder.read_text().startswith(f"process {os.getpid()} on ")
        with pytest.raises(ValueError, match="is training into"), first.held():
            pass


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_let_go_of_it(tmp_path):
    lock = DirectoryLock(tmp_path / "lock")
    held = lock.held()
    held.__enter__()
    child = os.fork()
    if not child:
        held.__exit__(None, None, None)
        os._exit(0)
    os.waitpid(child, 0)
    assert lock.path.is_file()
    assert lock.holder.is_file()
    with pytest.raises(ValueError, match="is training into"), DirectoryLock(lock.path).held():
        pass
    held.__exit__(None, None, None)
    assert not os.listdir(tmp_path)


def test_where_there_are_no_locks_nobody_is_kept_out(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    with DirectoryLock(tmp_path / "lock").held(), DirectoryLock(tmp_path / "lock").held():
        assert not os.listdir(tmp_path)


@pytest.mark.parametrize("target", ["there", "missing"])
def test_a_symbolic_link_in_its_place_is_refused(target, tmp_path, capsys):
    victim, here = tmp_path / "thesis.tex", tmp_path / "run"
    if target == "there":
        victim.write_text("important")
    here.mkdir()
    (here / LOCK).symlink_to(victim)
    assert cli.main([*TRAIN, "--out", str(here)]) == 2
    assert capsys.readouterr().err == f"causalvae: error: checkpoint: {here / LOCK} is a symbolic link; remove it\n"
    assert victim.read_text() == "important" if target == "there" else not victim.exists()
    # What says who holds it is replaced, never followed.
    (here / LOCK).unlink()
    (here / HOLDER).symlink_to(victim)
    with TrainingCheckpoint(here).lock():
        assert (here / HOLDER).read_text().startswith(f"process {os.getpid()} on ")
    assert victim.read_text() == "important" if target == "there" else not victim.exists()


def test_a_read_only_directory_is_one_line(tmp_path, capsys, monkeypatch):
    if not os.geteuid():
        # Nothing is read-only to the superuser: what the system says to others.
        genuine = os.open

        def refuse(path, flags, *args, **options):
            if flags & (os.O_WRONLY | os.O_RDWR) and str(tmp_path) in os.fsdecode(path):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return genuine(path, flags, *args, **options)

        monkeypatch.setattr(os, "open", refuse)
    tmp_path.chmod(0o555)
    try:
        assert cli.main([*TRAIN, "--out", str(tmp_path)]) == 2
    finally:
        tmp_path.chmod(0o755)
    err = capsys.readouterr().err
    assert str(tmp_path) in err
    assert err.count("\n") == 1


def test_an_error_of_the_file_system_is_passed_on(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, "Input/output error")

    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"), DirectoryLock(tmp_path / "lock").held():
        pass
    if descriptors is not None:
        assert len(os.listdir("/proc/self/fd")) == descriptors


CROWD = """
taken, refused = 0, 0
while taken < 100:
    try:
        with lock.held():
            os.close(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL))
            os.unlink(sys.argv[2])
            taken += 1
    except ValueError as error:
        assert 'is training into' in str(error)
        refused += 1
"""


def test_no_two_of_a_crowd_are_in_at_the_same_time(tmp_path):
    crowd = [start(CROWD, tmp_path / "run" / LOCK, tmp_path / "inside") for _ in range(3)]
    for process in crowd:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    # The directory may stay: who made it may have left while another was in.
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
