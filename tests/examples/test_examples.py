"""Every example runs, with tiny arguments; so do the blocks of the README and of the pages in docs."""

import json
import re
import runpy
import shlex
import sys

import matplotlib.image
import pytest
import torch

from causalvae_pyro import cli, load
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.explore.server import Server
from tests import ROOT
from tests.datasets import test_celeba, test_folder, test_morphomnist, test_yaleb
from tests.docs import test_howto

TINY = ["--size", "16", "--epochs", "1", "--limit", "96"]
EXAMPLES = {
    "train_pendulum.py": [*TINY, "--out", "{tmp}/run"],
    "discover_graph.py": [*TINY, "--out", "{tmp}/run"],
    "counterfactual_pendulum.py": ["--run", "{run}", "--count", "3", "--out", "{tmp}/picture.png"],
    "soft_interventions.py": ["--run", "{run}", "--count", "3", "--average", "20", "--out", "{tmp}/picture.png"],
    "optimise_intervention.py": ["--run", "{run}", "--count", "3", "--steps", "3", "--out", "{tmp}/picture.png"],
    "gene_counts.py": ["--epochs", "1", "--cells", "200", "--genes", "8"],
    "chirho_worlds.py": ["--run", "{run}", "--count", "3", "--out", "{tmp}/picture.png"],
    "swap_prior.py": TINY,
    "swap_guide.py": TINY,
    "swap_decoder.py": [*TINY, "--out", "{tmp}/picture.png"],
    "svi_by_hand.py": TINY,
    "train_morphomnist.py": [
        "--root",
        "{digits}",
        "--epochs",
        "1",
        "--limit",
        "96",
        "--noise-dim",
        "2",
        "--readers",
        "2",
        "--reader-epochs",
        "1",
        "--out",
        "{tmp}",
    ],
    "train_celeba.py": ["--root", "{faces}", "--epochs", "1", "--predictor-steps", "3", "--workers", "1", "--out", "{tmp}"],
}


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "pendulum"
    assert cli.main(["train", "pendulum", *TINY, "--out", str(path)]) == 0
    return path


def test_every_example_is_tested():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.thorough
@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, tmp_path, tiny_run, monkeypatch, capsys):
    if name == "chirho_worlds.py":
        pytest.importorskip("chirho")
    places = {"tmp": tmp_path, "run": tiny_run, "digits": tmp_path / "digits", "faces": tmp_path / "faces"}
    if name == "train_morphomnist.py":
        places["digits"].mkdir()
        test_morphomnist.write(places["digits"], 130)
    if name == "train_celeba.py":
        test_celeba.write(places["faces"], 90)
    arguments = [argument.format(**places) for argument in EXAMPLES[name]]
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert re.search(r"\d", capsys.readouterr().out)
    if "{tmp}/picture.png" in EXAMPLES[name]:
        assert matplotlib.image.imread(tmp_path / "picture.png").std() > 0.01
    if name == "discover_graph.py":
        assert matplotlib.image.imread(tmp_path / "run" / "discovery.png").std() > 0.01
        assert load(tmp_path / "run").model.graph.names == Pendulum.graph.names


@pytest.mark.thorough
def test_svi_by_hand_learns_what_causes_what(monkeypatch, capsys):
    """On its own budget of epochs, at half the size."""
    monkeypatch.setattr(sys, "argv", ["svi_by_hand.py", "--size", "32"])
    runpy.run_path(str(ROOT / "examples" / "svi_by_hand.py"), run_name="__main__")
    out = capsys.readouterr().out
    strengths = re.findall(r"strength of .*: learned (\S+), least squares (\S+)", out)
    assert len(strengths) == len(Pendulum.graph.edges)
    for learned, least_squares in strengths:
        assert float(learned) == pytest.approx(float(least_squares), abs=0.05)
    for error, moved in re.findall(r"mean error (\S+); it moves by (\S+)", out):
        assert float(error) < 0.1 * float(moved)
    assert float(re.search(r"CF-score (\S+)", out)[1]) >= 0.9


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_use_the_public_api_only_and_stay_short(path):
    source = path.read_text()
    assert not re.search(r"causalvae_pyro[\w.]*\._|import _", source)
    assert len(source.splitlines()) <= 150


def _blocks(language, file="README.md"):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / file).read_text(), flags=re.DOTALL)


def test_readme_python_blocks_run_in_order(capsys):
    blocks = _blocks("python")
    # The first Python comes before any command but the installation.
    text = (ROOT / "README.md").read_text()
    assert text.index("```python") < text.index("make pendulum  ")
    # Without training.
    assert "fit" not in blocks[0]
    source = "\n".join(blocks)
    # The same program on small images, so that it takes seconds.
    for before, after in (
        ('Pendulum("train", size=64)', 'Pendulum("train", size=16)'),
        (
            "fit(mine.model, mine.guide, train,",
            "fit(mine.model, mine.guide, (train.images[:256], train.labels[:256]), progress=False,",
        ),
        ("epochs=4", "epochs=1"),
    ):
        assert before in source
        source = source.replace(before, after)
    namespace = {}
    exec(compile(source, "README.md", "exec"), namespace)
    trace, model = namespace["trace"], namespace["run"].model
    assert torch.allclose(model.prior.to_labels(trace.nodes["z"]["value"])[:, 1], torch.tensor(12.0))
    # The handlers' images are those of the ten lines.
    torch.testing.assert_close(trace.nodes["x_mean"]["value"], namespace["images"], rtol=0, atol=1e-6)
    found = [float(number) for number in re.findall(r"tensor\(([^)]*)\)", capsys.readouterr().out)]
    (words,) = re.findall(
        r"about (\S+), and of leaving the images alone, (\S+)\. ", " ".join((ROOT / "README.md").read_text().split())
    )
    model, alone = map(float, words)
    assert found[1] == pytest.approx(alone, abs=5e-5)
    assert model / 2 < found[0] < model * 2


def test_readme_stays_on_two_screens():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 900
    table = text[text.index("<!-- results:start -->") : text.index("<!-- results:end -->")]
    assert table.count("\n| ") - 1 <= 8


NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.mark.thorough
def test_metrics_page_runs_in_order_and_prints_what_it_shows(capsys):
    page = "docs/metrics.md"
    blocks = re.findall(r"```python\n(.*?)```\n(?:```text\n(.*?)```\n)?", (ROOT / page).read_text(), flags=re.DOTALL)
    assert len(blocks) >= 20
    assert [source for source, _ in blocks] == _blocks("python", page)
    assert [shown for _, shown in blocks if shown] == _blocks("text", page)
    namespace = {}
    for source, shown in blocks:
        exec(compile(source, page, "exec"), namespace)
        printed = capsys.readouterr().out
        # What training gave on one machine stands in a comment and is not compared.
        if shown:
            assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split(), source
            numbers, expected = ([float(number) for number in NUMBER.findall(part)] for part in (printed, shown))
            assert numbers == pytest.approx(expected, abs=0.01, rel=0.01), source


@pytest.mark.thorough
def test_own_data_page_runs(tmp_path, monkeypatch):
    page = "docs/own_data.md"
    images = tmp_path / "fruit" / "images"
    images.mkdir(parents=True)
    test_folder.write(images, count=40)
    values = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)).tolist()
    rows = [f"{i}.png,{','.join(map(str, row))}" for i, row in enumerate(values)]
    (tmp_path / "fruit" / "labels.csv").write_text("\n".join(["file,ripeness,hue,bruises", *rows]) + "\n")
    graph = json.loads(re.search(r"graph\.json\s+(\{.*\})", (ROOT / page).read_text())[1])
    (tmp_path / "fruit" / "graph.json").write_text(json.dumps(graph))
    monkeypatch.chdir(tmp_path)

    namespace = {}
    exec(compile("\n".join(_blocks("python", page)), page, "exec"), namespace)
    assert namespace["data"].labels.shape == (32, 3)

    lines = [line for block in _blocks("bash", page) for line in block.splitlines()]
    assert len(lines) >= 2
    for words in map(shlex.split, lines):
        assert words[0] == "causalvae"
        # The same on small images, so that it takes seconds.
        words = ["16" if word == "64" else word for word in words[1:]]
        small = ["--epochs", "1", "--batch-size", "16"] if words[0] == "train" else []
        assert cli.main([*words, *small]) == 0, words


@pytest.mark.thorough
def test_discovery_page():
    page = "docs/discovery.md"
    namespace = {}
    exec(compile("\n".join(_blocks("python", page)), page, "exec"), namespace)
    assert namespace["found"].graph == namespace["data"].graph


def test_training_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = "docs/training.md"
    namespace = {}
    exec(compile("\n".join(_blocks("python", page)), page, "exec"), namespace)
    assert len(namespace["history"]) == 2
    assert (tmp_path / "runs" / "mine" / "training.pt").is_file()
    out = capsys.readouterr().out
    assert out.startswith("epoch 1:")
    assert "epoch 4" not in out


def test_model_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = "docs/model.md"
    namespace = {}
    exec(compile("\n".join(_blocks("python", page)), page, "exec"), namespace)
    # Where the label 12 lies is what an intervention on the label sets.
    do = namespace["intervene"](namespace["model"], {"light": 12.0})
    trace = namespace["predict"](do, namespace["noise"])
    assert trace.nodes["z"]["value"][0, 1].item() == pytest.approx(namespace["trace"].nodes["z"]["value"][0, 1].item(), abs=1e-5)


def test_explore_page():
    page = "docs/explore.md"
    namespace = {}
    exec(compile("\n".join(_blocks("python", page)), page, "exec"), namespace)
    answer = namespace["answer"]
    assert (tuple(answer.image.shape), answer.true_concepts["light"]) == ((3, 16, 16), 12.0)


def test_faces_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test_celeba.write(tmp_path / "faces")
    (tmp_path / "yaleb").mkdir()
    test_yaleb.write(tmp_path / "yaleb", side=64)
    page = "docs/faces.md"
    blocks, namespace = _blocks("python", page), {}
    exec(compile("\n".join(blocks[:2]), page, "exec"), namespace)
    assert namespace["data"].concepts == ("young", "gender", "shadow", "hair")
    exec(compile(blocks[2], page, "exec"), namespace)
    assert namespace["labels"].tolist() == [[50, 0]]
    assert namespace["photographs"].shape == (1, 1, 64, 64)


def test_every_page_in_docs_with_python_is_tested():
    docs = ROOT / "docs"
    pages = {path for path in docs.rglob("*.md") if path.parent.name != "api" and _blocks("python", path.relative_to(ROOT))}
    here = {
        docs / name for name in ("discovery.md", "explore.md", "faces.md", "metrics.md", "model.md", "own_data.md", "training.md")
    }
    assert pages == here | set(test_howto.PAGES)


def _stop(server):
    raise KeyboardInterrupt


@pytest.mark.thorough
def test_shell_blocks_name_real_commands(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write where they are
    files = ("README.md", "docs/cli.md")
    lines = [line.split("#")[0].strip() for file in files for block in _blocks("bash", file) for line in block.splitlines()]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    checked = 0
    for words in map(shlex.split, filter(None, lines)):
        if words[0] == "make":
            assert set(words[1:]) <= targets, words
        elif {"--images", "--root", "--file"} & set(words):
            # The page on own data runs the first, tests/cli the others; the data are the reader's.
            continue
        elif words[0] == "causalvae":
            words = [
                w.replace("runs/pendulum", str(tiny_run))
                .replace("runs/shared", str(tmp_path / "shared"))
                .replace("counterfactual.png", str(tmp_path / "c.png"))
                for w in words
            ]
            # The same on few small images, so that it takes seconds.
            if words[1] == "explore":
                # It serves until it is stopped.
                monkeypatch.setattr(Server, "serve_forever", _stop)
                assert cli.main(words[1:]) == 130, words
                checked += 1
                continue
            small = ["--size", "16", "--limit", "128", "--epochs", "1", "--batch-size", "16", "--out", str(tmp_path / "run")]
            # Here they all train into one folder.
            small += [] if "--resume" in words else ["--overwrite"]
            assert cli.main([*words[1:], *(small if words[1] == "train" else [])]) == 0, words
        elif words[0] == "source":
            # Where the Makefile puts it.
            assert words[1:] == [".venv/bin/activate"]
        elif words[0] == "torchrun":
            # The rest is the command that it starts so often.
            assert words[1] == "--nproc-per-node"
            assert words[3:] == ["$(which", "causalvae)", "train", "pendulum"]
        elif words[:2] not in (["pip", "install"], ["git", "clone"]) and words[:1] != ["cd"]:
            assert words[0] == "python", words
            assert (ROOT / words[1]).is_file(), words
        checked += 1
    assert checked >= 3
