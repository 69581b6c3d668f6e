"""How the command starts: quickly, as a module too, and with Ctrl-C in effect from the beginning."""

import argparse
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import causalvae_pyro
from causalvae_pyro import cli
from causalvae_pyro.cli import arguments
from causalvae_pyro.datasets.registry import PUBLISHED, SIMULATORS
from causalvae_pyro.datasets.simulator import PARTITIONS
from causalvae_pyro.explore.server import PORT
from causalvae_pyro.interventions import FADE
from causalvae_pyro.recipes import Recipe
from tests.test_imports import HEAVY, imported

COMMANDS = ("train", "evaluate", "counterfactual", "explore", "share")


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS), ["fly"], ["train", "sea"]]
)
def test_help_and_usage_import_nothing_heavy(words):
    found = imported(f"from causalvae_pyro.cli import main\ntry:\n    main({words})\nexcept SystemExit:\n    pass")
    assert not found & (HEAVY | {"numpy", "pyro", "torch", "networkx"})


def test_values_of_the_parser_are_those_of_the_package():
    assert set(arguments.SIMULATORS) == set(SIMULATORS)
    assert set(arguments.PUBLISHED) == set(PUBLISHED)
    assert arguments.PARTITIONS == PARTITIONS
    assert {name: getattr(Recipe, name) for name in arguments.RECIPE} == arguments.RECIPE
    assert arguments.PORT == PORT
    assert arguments.FADE == FADE
    parsed = arguments.parse(["train", "flow"])
    for name in ("decoder", "encoder"):
        with pytest.raises(ValueError, match=f"{name}: got 'none'"):
            Recipe(**{name: "none"})
        for choice in choices("train", name):
            # A recipe for images of a group takes no other.
            assert getattr(Recipe(**{name: choice, "grouped": choice == "bilinear"}), name) == choice
    assert parsed.partition in PARTITIONS


def choices(command, name):
    """Of an option of a command."""
    parser = arguments._make_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    assert set(commands.choices) == set(COMMANDS)
    return next(action.choices for action in commands.choices[command]._actions if action.dest == name)


def test_the_package_is_a_command():
    done = subprocess.run([sys.executable, "-m", "causalvae_pyro", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"causalvae {causalvae_pyro.__version__}\n"
    assert done.stderr == ""
    assert subprocess.run([sys.executable, "-m", "causalvae_pyro"], capture_output=True).returncode == 2


@pytest.mark.skipif(os.name == "nt", reason="sends a signal to one process")
def test_ctrl_c_during_the_imports_takes_one_line(tmp_path):
    """PyTorch's stand-in takes long, and makes of an interruption what a C extension may make of it."""
    (tmp_path / "torch.py").write_text(
        textwrap.dedent(
            """
            import time

            print("importing", flush=True)
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                raise ImportError("PyTorch could not be initialised")
            """
        )
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    # Where the tests run in the background, their children ignore Ctrl-C.
    start = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", start + "runpy.run_module('causalvae_pyro', run_name='__main__', alter_sys=True)"]
    process = subprocess.Popen(
        [*command, "train", "pendulum"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == "causalvae: interrupted\n"


def interrupt(*_, **__):
    """Ctrl-C in the middle of a library, which makes an error of its own of it."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    except KeyboardInterrupt:
        raise RuntimeError("Failed to import something\nbecause of something") from None


@pytest.mark.skipif(os.name == "nt", reason="sends a signal to one process")
@pytest.mark.parametrize("place", ["resolve_device", "load_dataset", "fit"])
def test_an_interruption_stays_one_whatever_libraries_make_of_it(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(f"causalvae_pyro.cli.train.{place}", interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = cli.main(
            ["train", "pendulum", "--size", "16", "--limit", "64", "--device", "cpu", "--out", str(tmp_path / "run")]
        )
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert status == 130
    err = capsys.readouterr().err
    assert err == "causalvae: interrupted; the same command with --resume continues from here\n"


def test_an_error_that_is_none_of_the_users_is_raised(monkeypatch):
    def fail(*_):
        raise RuntimeError("a defect")

    monkeypatch.setattr("causalvae_pyro.cli.train.resolve_device", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        cli.main(["train", "pendulum"])


@pytest.mark.skipif(os.name == "nt", reason="sends a signal to one process")
def test_a_handler_of_ones_own_is_kept(monkeypatch):
    pressed = []

    def own(*_):
        pressed.append(1)

    def run(_):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("causalvae_pyro.cli.train.run", run)
    before = signal.signal(signal.SIGINT, own)
    try:
        assert cli.main(["train", "pendulum"]) == 0
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)
    assert pressed == [1]
