"""Progress: a bar where somebody watches, a line now and then where a file keeps what is written."""

import io
import re

import pytest

from causalvae_pyro.utils import progress
from causalvae_pyro.utils.progress import Progress, is_terminal, say, tracked


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def log(capsys):
    """Reads what has been shown."""
    return lambda: capsys.readouterr().err


@pytest.fixture
def terminal(log, monkeypatch):
    monkeypatch.setattr(progress, "is_terminal", lambda stream: True)
    return log


def count(total, **options):
    with Progress(total, "epoch 1/2", **options) as bar:
        for done in range(total):
            if done == total // 2:
                bar.describe("epoch 2/2")
            bar.update(note=f"loss {done}")


def test_a_log_gets_a_line_each_so_many_units(log):
    count(1000, every=500)
    first, second = log().splitlines()
    assert re.fullmatch(r"epoch 1/2: 500/1000 steps, loss 499, \d+ s", first)
    assert re.fullmatch(r"epoch 2/2: 1000/1000 steps, loss 999, \d+ s", second)


def test_a_log_gets_the_time_left(log, monkeypatch):
    now = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    # 10 of 30 were done in another process: 10 more take 10 s, so do the last ten.
    with Progress(30, "images", unit="image", initial=10, every=10) as bar:
        bar.update(10)
        bar.update(10)
    assert log() == "images: 20/30 images, 10 s, 10 s left\nimages: 30/30 images, 20 s\n"


def test_several_units_at_a_time_and_a_last_line(log):
    with Progress(25, "images", unit="image", every=10) as bar:
        for size in (8, 8, 8, 1):
            bar.update(size)
    assert re.findall(r"(\d+)/25", log()) == ["16", "24", "25"]


@pytest.mark.parametrize("options", [{}, {"show": False}, {"every": 5, "show": False}], ids=str)
def test_a_log_gets_nothing(options, log):
    count(20, **options)
    assert log() == ""


@pytest.mark.parametrize(("total", "lines"), [(3, 3), (20, 10), (95, 11)])
def test_ten_lines_or_so_of_a_loop(total, lines, log):
    assert list(tracked(total, "predictor", unit="epoch")) == list(range(total))
    shown = log().splitlines()
    assert len(shown) == lines
    assert shown[-1].startswith(f"predictor: {total}/{total} epochs")


def test_a_terminal_gets_a_bar_that_ends(terminal):
    count(20, every=10)
    shown = terminal()
    assert re.search(r"epoch 2/2: 100%\|█+\| 20/20 \[.*, loss 19\]\n$", shown)
    # One line, written over.
    assert shown.count("\n") == 1


def test_a_broken_loop_ends_its_bar(terminal):
    def work():
        with Progress(20, "work") as bar:
            bar.update(5)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert terminal().endswith("\n")


def test_a_line_stands_above_the_bar(terminal):
    with Progress(20, "work") as bar:
        bar.update()
        say("a word")
        bar.update(19)
    *_, word, end, _ = terminal().split("\n")
    assert word.endswith("\ra word")
    assert "20/20" in end


def test_what_is_no_terminal(tmp_path):
    assert is_terminal(Terminal())
    closed = Terminal()
    closed.close()
    assert not any(map(is_terminal, (None, io.StringIO(), closed)))
