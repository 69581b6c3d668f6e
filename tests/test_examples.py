"""Every example runs, with tiny arguments; so do the README's blocks."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import matplotlib.image
import pytest
import test_celeba
import test_morphomnist
import torch
import torchvision.datasets

from causalvae_pyro import cli

ROOT = Path(__file__).parent.parent
TINY = ["--size", "16", "--epochs", "1", "--limit", "96"]
EXAMPLES = {
    "train_pendulum.py": [*TINY, "--out", "{tmp}/run"],
    "counterfactual_pendulum.py": ["--run", "{run}", "--count", "3", "--out", "{tmp}/picture.png"],
    "swap_prior.py": TINY,
    "swap_guide.py": TINY,
    "svi_by_hand.py": TINY,
    "train_morphomnist.py": ["--root", "{digits}", "--epochs", "1", "--limit", "96", "--noise-dim", "2", "--out", "{tmp}"],
    "train_celeba.py": [
        "--root",
        "{faces}",
        "--epochs",
        "1",
        "--limit",
        "70",
        "--noise-dim",
        "2",
        "--workers",
        "0",
        "--out",
        "{tmp}",
    ],
}


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "pendulum"
    assert cli.main(["train", "pendulum", *TINY, "--out", str(path)]) == 0
    return path


def test_every_example_is_tested():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, tmp_path, tiny_run, monkeypatch, capsys):
    places = {"tmp": tmp_path, "run": tiny_run, "digits": tmp_path / "digits", "faces": tmp_path / "faces"}
    if name == "train_morphomnist.py":
        places["digits"].mkdir()
        test_morphomnist.write(places["digits"], 130)
    if name == "train_celeba.py":
        test_celeba.write(places["faces"], 90)
        monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)
    arguments = [argument.format(**places) for argument in EXAMPLES[name]]
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert re.search(r"\d", capsys.readouterr().out)
    if name == "counterfactual_pendulum.py":
        assert matplotlib.image.imread(tmp_path / "picture.png").std() > 0.01


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_use_the_public_api_only_and_stay_short(path):
    source = path.read_text()
    assert not re.search(r"causalvae_pyro[\w.]*\._|import _", source)
    assert len(source.splitlines()) <= 150


def _blocks(language, file="README.md"):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / file).read_text(), flags=re.DOTALL)


def test_readme_python_blocks_run_in_order():
    blocks = _blocks("python")
    assert len(blocks) >= 4
    source = "\n".join(blocks)
    # The same program on small images, so that it takes seconds.
    for before, after in (("size=64", "size=16"), ("(3, 64, 64)", "(3, 16, 16)"), ("epochs=2", "epochs=1")):
        assert before in source
        source = source.replace(before, after)
    source = source.replace(
        "fit(model, guide, data,", "fit(model, guide, (data.images[:128], data.labels[:128]), progress=False,"
    )
    source = source.replace(
        "fit(model, WideGuide(), data,", "fit(model, WideGuide(), (data.images[:128], data.labels[:128]), progress=False,"
    )
    namespace = {}
    exec(compile(source, "README.md", "exec"), namespace)
    trace = namespace["trace"]
    set_value = trace.nodes["z"]["value"][:, 1]
    assert torch.allclose(set_value, namespace["light"])
    assert namespace["images"].shape == (8, 3, 16, 16)


def test_metrics_page_runs_and_prints_what_it_says(capsys):
    blocks = _blocks("python", "docs/metrics.md")
    assert len(blocks) >= 7
    namespace = {}
    for block in blocks:
        exec(compile(block, "docs/metrics.md", "exec"), namespace)
        printed = capsys.readouterr().out.splitlines()
        claims = [line.rsplit("  # ", 1)[1] for line in block.splitlines() if line.startswith("print(") and "  # " in line]
        for claim in claims:
            said = re.match(r"[\d. \[\],]+$|True", claim)
            assert not said or claim in printed, (claim, printed)
    scores = namespace["scores"]
    assert (round(scores["mig"], 2), round(scores["sap"], 2)) == (0.8, 0.57)
    assert abs(namespace["nothing"].informativeness) < 0.05
    assert round(namespace["result"]["value"], 3) == 0.19


def test_readme_shell_blocks_name_real_commands(tiny_run, tmp_path):
    lines = [line.split("#")[0].strip() for block in _blocks("bash") for line in block.splitlines()]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    checked = 0
    for words in map(shlex.split, filter(None, lines)):
        if words[0] == "make":
            assert set(words[1:]) <= targets, words
        elif words[0] == "causalvae":
            words = [
                w.replace("runs/pendulum", str(tiny_run)).replace("counterfactual.png", str(tmp_path / "c.png")) for w in words
            ]
            assert cli.main(words[1:]) == 0, words
        elif words[:2] not in (["pip", "install"], ["git", "clone"]) and words[:1] != ["cd"]:
            assert words[0] == "python", words
            assert (ROOT / words[1]).is_file(), words
        checked += 1
    assert checked >= 3
