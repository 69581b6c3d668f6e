"""A campaign to break the console commands: bad arguments and damaged runs are refused in a line, and leave nothing behind.

Each command meets 1,000 inputs as a slow test (``make test-slow``), and forty others by default (eight trainings).
"""

import json
import os
import random
import shutil
import signal

import matplotlib.image
import pytest
import torch

from causalvae_pyro import cli, save
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.datasets import registry as sources
from causalvae_pyro.recipes import Recipe
from causalvae_pyro.training.resuming import STATE
from tests.builders import thinned

SECONDS = 60


Small = thinned(150)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A run as ``causalvae train`` leaves it, untrained, and data of one's own."""
    folder = tmp_path_factory.mktemp("sound")
    data = Small("test", size=16)
    torch.manual_seed(0)
    run = Recipe().build(Pendulum.graph, data.images, data.labels)
    run.config["data"] = {"name": "pendulum", "size": 16, "seed": 0, "noise": 0.0, "partition": "iid"}
    save(run, folder / "run")
    (folder / "run" / "history.csv").write_text("epoch,step,loss\n1,3,5.0\n2,6,4.0\n")
    (folder / "run" / "metrics.json").write_text(json.dumps({"r2": {"light": 0.5}, "cf_score": {"light": 0.2}}))
    matplotlib.image.imsave(folder / "run" / "graph.png", data.images[0].movedim(0, -1).numpy())
    torch.save({"format": 1, "finished": False, "epoch": 1}, folder / "run" / STATE)
    (folder / "images").mkdir()
    for i in range(6):
        matplotlib.image.imsave(folder / "images" / f"{i}.png", data.images[i].movedim(0, -1).numpy())
    (folder / "labels.csv").write_text("\n".join(["file,a,b", *(f"{i}.png,{i * 0.5},{i % 3}" for i in range(6))]))
    (folder / "graph.json").write_text(json.dumps({"a": [], "b": ["a"]}))
    return folder


ODD = [
    "",
    " ",
    "-",
    "--",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "0",
    "-1",
    "-0.0",
    "1.5",
    "0x10",
    "1_0",
    "٣",
    "é\n",
    "a=b=c",
    "*",
    "%s",
    "{}",
]
ODD += [
    "99999999999999999999",
    "true",
    "None",
    "/dev/null",
    "/proc/nothing/x",
    "../..",
    "~",
    "x" * 5000,
    "\x00",
    "~nobody/x",
]
#: Of each command: what is given in any case, and what may be given, with values that are valid.
COMMANDS = {
    "train": (
        [
            "pendulum",
            "--size",
            "16",
            "--limit",
            "12",
            "--batch-size",
            "4",
            "--epochs",
            "1",
            "--device",
            "cpu",
            "--out",
            "HERE/out",
        ],
        {
            "--images": ["HERE/images"],
            "--labels": ["HERE/labels.csv"],
            "--graph": ["HERE/graph.json"],
            "--size": ["16", "32"],
            "--noise": ["0.1"],
            "--partition": ["iid", "compositional"],
            "--preset": ["fast"],
            "--epochs": ["1"],
            "--batch-size": ["3"],
            "--lr": ["1e-3"],
            "--seed": ["5"],
            "--limit": ["9"],
            "--label-share": ["0.5"],
            "--validation-share": ["0.3"],
            "--dim": ["2"],
            "--decoder": ["conv", "sprites"],
            "--encoder": ["conv", "spatial"],
            "--refinements": ["0"],
            "--prior-std": ["0.1"],
            "--w-eps": ["0.5"],
            "--w-z": ["0.5"],
            "--resume": [],
            "--overwrite": [],
            "--ema": ["0.9"],
            "--max-grad-norm": ["10"],
            "--patience": ["2"],
            "--mixed-precision": ["no", "fp16"],
            "--micro-batches": ["2"],
            "--deterministic": [],
            "--device": ["cpu"],
            "--out": ["HERE/out", "HERE/run", "HERE/labels.csv", "HERE/labels.csv/x"],
        },
    ),
    "evaluate": (
        ["HERE/run", "--device", "cpu"],
        {"--limit": ["3"], "--predictor": [], "--no-predictor": [], "--fid": ["judge"], "--device": ["cpu"]},
    ),
    "counterfactual": (
        ["HERE/run", "--do", "light=12", "--count", "1", "--device", "cpu", "--out", "HERE/drawn.png"],
        {
            "--do": ["light=12", "pendulum=0.3", "sun=1", "light", "=", "light=", "=1", "light=1e30", "light=-1e300"],
            "--count": ["2"],
            "--pixel-noise": ["0", "1"],
            "--device": ["cpu"],
            "--out": ["HERE/a/b.png", "HERE/a.pdf", "HERE/a.xyz", "HERE", "HERE/labels.csv/x.png"],
        },
    ),
    "share": (
        ["HERE/run", "--to", "HERE/shared"],
        {
            "--to": ["HERE/shared", "HERE/run", "HERE/labels.csv", "HERE/labels.csv/x"],
            "--private": [],
            "--pictures": [],
            "--no-pictures": [],
            "--repository": ["a", "a/b/c"],
        },
    ),
}


class Attack:
    """Arguments and damage to a run, drawn from one seed."""

    def __init__(self, command, seed, here):
        self.random, self.command, self.here = random.Random(f"{command}-{seed}"), command, here

    def arguments(self):
        draw, (base, options) = self.random, COMMANDS[self.command]
        given = list(base)
        for _ in range(draw.choice([0, 1, 1, 2, 3])):
            kind, option = draw.randrange(8), draw.choice(list(options))
            values = options[option]
            if kind < 3:
                given += [option, *([draw.choice(values)] if values else [])]
            elif kind < 6:
                given += [option, draw.choice(ODD)] if kind < 5 else [f"{option}={draw.choice(ODD)}"]
            elif kind == 6:
                del given[draw.randrange(len(given))]
                if not given:
                    break
            else:
                given.insert(draw.randrange(len(given) + 1), draw.choice([*ODD, option, "--unknown", "-x"]))
        return [self.command, *(text.replace("HERE", str(self.here)) for text in given)]

    def damage(self):
        """To the run, in half of the cases."""
        draw, run = self.random, self.here / "run"
        if draw.random() < 0.5:
            return
        file = run / draw.choice(sorted(path.name for path in run.iterdir()))
        content = file.read_bytes()
        at = draw.randrange(len(content) + 1)
        kind = draw.randrange(9)
        file.unlink()
        if kind == 0:
            return
        if kind == 1:
            file.mkdir()
        elif kind == 2:
            file.symlink_to(file.name)
        elif kind == 7:
            # Of the right form, with something else in it.
            value = draw.choice([[], "x", 1, None, {"r2": []}, {"r2": {"light": None}}, {"cf_score": 1, "r2": {"light": "?"}}])
            file.write_text(json.dumps(value))
        elif kind == 8:
            lines = content.split(b"\n")
            lines.insert(draw.randrange(len(lines)), draw.choice([b"1,2,3,4,5", b"7", b'"', b",,", b"a,b,c", b"nan,inf,-1"]))
            file.write_bytes(b"\n".join(lines))
        else:
            file.write_bytes(
                {3: b"", 4: content[:at], 5: draw.randbytes(100), 6: content[:at] + draw.randbytes(9) + content[at + 9 :]}[kind]
            )


def listing(folder):
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
    }


#: Where each command may write when all is well.
MAY_WRITE = {"train": ("out", "run"), "evaluate": ("run",), "counterfactual": ("drawn.png", "a", "a.pdf"), "share": ("shared",)}


def late(*_):
    raise AssertionError(f"it hangs: more than {SECONDS} s")


def campaign(command, seeds, sound, tmp_path, monkeypatch, capsys):
    """How many of the commands ended with each status."""
    monkeypatch.setitem(sources.SIMULATORS, "pendulum", Small)
    # The rest of it has nothing to do with the input, and takes seconds.
    monkeypatch.setattr("causalvae_pyro.cli.scoring.evaluate", lambda *_, limit=None, **__: check_limit(limit) or {"images": 1})
    monkeypatch.setattr("causalvae_pyro.cli.scoring.write_report", lambda run, data, metrics, rows, out: write_report_of(out))
    monkeypatch.setattr(
        "causalvae_pyro.cli.scoring.train_predictor", lambda *_, **__: type("Judge", (), {"predict": None, "features": None})
    )
    monkeypatch.setattr("causalvae_pyro.cli.scoring.score_table", str)
    here, work = tmp_path / "here", tmp_path / "work"
    found, failures = {}, []
    before_signal = signal.signal(signal.SIGALRM, late)
    try:
        for seed in seeds:
            shutil.copytree(sound, here, symlinks=True)
            work.mkdir()
            monkeypatch.chdir(work)
            attack = Attack(command, seed, here)
            attack.damage()
            arguments = attack.arguments()
            try:
                status = go(command, arguments, here, work, capsys)
                found[status] = found.get(status, 0) + 1
            except Exception as error:
                failures.append(f"{command}-{seed}: {arguments}: {type(error).__name__}: {str(error)[:600]}")
            monkeypatch.chdir(tmp_path)
            shutil.rmtree(here)
            shutil.rmtree(work)
    finally:
        signal.signal(signal.SIGALRM, before_signal)
    assert not failures, "\n\n".join([f"{len(failures)} failures", *failures[:20]])
    return found


def go(command, arguments, here, work, capsys):
    """One command, and what has to be true of it in any case."""
    before = listing(here)
    signal.alarm(SECONDS)
    try:
        status, usage = cli.main(arguments), False
    except SystemExit as stop:
        status, usage = stop.code, True
    finally:
        signal.alarm(0)
    err = capsys.readouterr().err
    assert status in ((0, 2) if usage else (0, 1, 2))
    assert "Traceback" not in err
    after = listing(here)
    changed = {path for path in after.keys() | before.keys() if after.get(path) != before.get(path)}
    if status == 2 and not usage:
        lines = [line for line in err.replace("\r", "\n").split("\n") if line.startswith("causalvae: error: ")]
        assert len(lines) == 1, repr(err)
        assert len(lines[0]) > len("causalvae: error: ")
    if status == 2 or usage:
        assert not changed, f"it was refused and left {sorted(changed)}: {err!r}"
        assert not os.listdir(work), f"it was refused and left {os.listdir(work)}: {err!r}"
    assert all(path.split(os.sep)[0] in MAY_WRITE[command] for path in changed), changed
    assert not [path for path in changed if path.endswith((".tmp", ".lock"))], changed
    return status


def check_limit(limit):
    if limit is not None and limit < 1:
        raise ValueError(f"limit: got {limit}; must be at least 1")


def write_report_of(out):
    (out / "report.html").write_text("")
    return out / "report.html"


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command, sound, tmp_path, monkeypatch, capsys):
    # A training takes its time.
    count = 8 if command == "train" else 40
    found = campaign(command, range(1000, 1000 + count), sound, tmp_path, monkeypatch, capsys)
    assert found[0]
    assert found[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_a_thousand_times(command, sound, tmp_path, monkeypatch, capsys):
    found = campaign(command, range(1000), sound, tmp_path, monkeypatch, capsys)
    assert sum(found.values()) == 1000
    with capsys.disabled():
        print(command, found)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_sound_ones_go_through(command, sound, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sources.SIMULATORS, "pendulum", Small)
    monkeypatch.setattr("causalvae_pyro.cli.train.score", lambda *_, **__: None)
    shutil.copytree(sound, tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    arguments = [text.replace("HERE", str(tmp_path / "here")) for text in COMMANDS[command][0]]
    assert cli.main([command, *arguments]) == 0
