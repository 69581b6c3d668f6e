"""Sharing: a folder or a repository that loads elsewhere, with a card that says what it is."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from causalvae_pyro import CausalGraph, Run, cli, counterfactual, save
from causalvae_pyro.checkpoints.hub import CARD, from_pretrained, model_card, push_to_hub, save_pretrained
from causalvae_pyro.checkpoints.runs import weights_digest
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.recipes import Recipe

SCORES = {
    "r2": {"pendulum": 0.5, "light": 0.25, "shadow_length": 0.125, "shadow_position": 0.0625},
    "cf_score": {"pendulum": 0.75, "light": -1.5, "shadow_length": 0.1, "shadow_position": 0.2, "pendulum+light": 0.3},
    "representation": {"mic_mean": 0.987, "tic_mean": 0.654},
}


@pytest.fixture(scope="module")
def data():
    data = Pendulum("test", size=16)
    return data.images[:40], data.labels[:40]


@pytest.fixture
def run(data):
    torch.manual_seed(0)
    found = Recipe(decoder="conv").build(Pendulum.graph, *data)
    found.model.eval()
    found.guide.eval()
    found.config["data"] = {
        "name": "folder",
        "images": "/home/me/secret",
        "labels": "/home/me/l.csv",
        "graph": "g",
        "cache": "/home/me/secret",
        "size": 16,
    }
    return found


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Hugging Face's hub in a folder."""
    import huggingface_hub

    calls = []

    class Api:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, name, private, exist_ok):
            calls.append(("create", name, private, exist_ok))

        def upload_folder(self, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id, dirs_exist_ok=True)
            return f"https://hub/{repo_id}"

    def download(name, revision, allow_patterns, force_download=False):
        calls.append(("download", revision, tuple(allow_patterns)))
        return str(tmp_path / "hub" / name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


def same(run, other, images):
    x = images[:4]
    expected = counterfactual(run.model, run.guide, x, {"light": 12.0})
    assert torch.equal(counterfactual(other.model, other.guide, x, {"light": 12.0}), expected)


def test_a_folder_loads_elsewhere(run, data, tmp_path):
    picture = tmp_path / "some.png"
    picture.write_bytes(b"png")
    save_pretrained(run, tmp_path / "shared", scores=SCORES, pictures=[picture])
    moved = (tmp_path / "shared").rename(tmp_path / "elsewhere")
    assert {path.name for path in moved.iterdir()} == {"config.json", "model.safetensors", "README.md", "some.png"}
    other = from_pretrained(moved)
    assert other.graph == run.graph
    same(run, other, data[0])
    # Nothing of where the data lie; the run in memory keeps it.
    assert "secret" not in "".join(path.read_text() for path in (moved / "config.json", moved / CARD))
    assert other.config["data"] == {"name": "folder", "size": 16}
    assert run.config["data"]["images"] == "/home/me/secret"
    assert "![`some`](some.png)" in (moved / CARD).read_text()


def test_the_card_says_what_it_is_and_its_code_runs(run, data, tmp_path):
    card = model_card(run, scores=SCORES)
    header = card.split("---")[1]
    assert "library_name: causalvae_pyro" in header
    for parent, child in run.graph.edges:
        assert f"- `{parent}` causes `{child}`" in card
    assert "| `light` | 0.2500 | -1.500 |" in card
    assert "MIC 98.7 %, TIC 65.4 %." in card
    assert "3 x 16 x 16" in card
    assert "| decoder | `ConvDecoder` |" in card
    save_pretrained(run, tmp_path)
    (source,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    namespace = {"x": data[0][:2]}
    exec(source.replace("PATH OR OWNER/NAME", str(tmp_path)), namespace)
    assert namespace["images"].shape == (2, 3, 16, 16)


def test_names_in_the_card_are_shown_as_text():
    run = Run(Recipe().build(CausalGraph(["a"]), *tiny()).model, torch.nn.Identity())
    run.config["data"] = {"name": "x\n\n<img src=x onerror=alert(1)>\n# fake"}
    scores = {"r2": {"# a|b": 0.5, "`<img src=x>`\n\n# c": 0.5}}
    pictures = ["my picture.png", "a](http:evil).png", "x<img src=x>.png"]
    card = model_card(run, scores=scores, pictures=pictures)
    assert "\n# CausalVAE of `x <img src=x onerror=alert(1)> # fake`\n" in card
    assert "\n| `# a\\|b` | 0.5000 |  |\n| `` `<img src=x>` # c `` | 0.5000 |  |\n" in card
    assert "\n![`my picture`](my%20picture.png)\n" in card
    assert "\n![`a](http:evil)`](a%5D%28http%3Aevil%29.png)\n" in card
    # As a reader of Markdown sees it.
    reader = pytest.importorskip("markdown_it", reason="needs the extra docs").MarkdownIt("commonmark").enable("table")
    page = reader.render(card.split("---\n", 2)[2])
    assert page.count("<img") == len(pictures)
    assert page.count("onerror") == 1
    assert "<img src=x" not in page
    assert re.findall("<h1>(.*)</h1>", page) == ["CausalVAE of <code>x &lt;img src=x onerror=alert(1)&gt; # fake</code>"]
    assert "<td><code># a|b</code></td>" in page


def test_a_card_of_few_words():
    card = model_card(Run(Recipe().build(CausalGraph(["a"]), *tiny()).model, torch.nn.Identity()))
    assert "none: the concepts are independent" in card
    assert "Scores" not in card


def tiny():
    return torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8), torch.randn(20, 1)


def test_up_and_down(run, data, hub, tmp_path):
    address = push_to_hub(run, "me/pendulum", scores=SCORES, private=True, token="t")
    assert address == "https://hub/me/pendulum"
    assert hub == [("token", "t"), ("create", "me/pendulum", True, True)]
    assert set(load_file(tmp_path / "hub" / "me" / "pendulum" / "model.safetensors"))
    same(run, from_pretrained("me/pendulum", revision="v1"), data[0])
    # Nothing but what is read, so nothing that could be run.
    assert hub[-1] == ("download", "v1", ("config.json", "model.safetensors"))


def test_a_folder_wins_over_a_repository_of_its_name(run, tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    save_pretrained(run, Path("me/pendulum"))
    from_pretrained("me/pendulum")
    assert hub == []


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "/no/folder", "./x", "../x", "a/", ""])
def test_neither_folder_nor_repository(source, tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((FileNotFoundError, ValueError), match="source|path"):
        from_pretrained(source)
    assert hub == []


def test_bad_pictures_leave_nothing_behind(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="pictures: .*missing.png does not exist"):
        save_pretrained(run, tmp_path / "a", pictures=[tmp_path / "missing.png"])
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "p.png").write_bytes(b"")
    with pytest.raises(ValueError, match="'p.png' is the name of another file"):
        save_pretrained(run, tmp_path / "a", pictures=[tmp_path / "one" / "p.png", tmp_path / "two" / "p.png"])
    (tmp_path / "README.md").write_text("")
    with pytest.raises(ValueError, match="'README.md' is the name of another file"):
        save_pretrained(run, tmp_path / "a", pictures=[tmp_path / "README.md"])
    assert not (tmp_path / "a").exists()


def test_command(run, data, tmp_path, hub, capsys):
    save(run, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(SCORES))
    (tmp_path / "run" / "graph.png").write_bytes(b"png")
    assert cli.main(["share", str(tmp_path / "run"), "--to", str(tmp_path / "shared")]) == 0
    same(run, from_pretrained(tmp_path / "shared"), data[0])
    card = (tmp_path / "shared" / CARD).read_text()
    assert "![`graph`](graph.png)" in card
    assert "| `light` | 0.2500 |" in card
    assert cli.main(["share", str(tmp_path / "run"), "--repository", "me/it"]) == 0
    assert capsys.readouterr().out.endswith("https://hub/me/it\n")
    assert (tmp_path / "hub" / "me" / "it" / "graph.png").is_file()
    assert cli.main(["share", str(tmp_path / "run"), "--to", str(tmp_path / "run")]) == 2
    assert "which is the run itself" in capsys.readouterr().err
    save(run, tmp_path / "other")
    (tmp_path / "other" / "history.csv").write_text("epoch\n1\n")
    assert cli.main(["share", str(tmp_path / "run"), "--to", str(tmp_path / "other")]) == 2
    assert "which is another run; give a folder" in capsys.readouterr().err
    assert cli.main(["share", str(tmp_path / "none"), "--to", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()


def shared_pictures(run, tmp_path, *more):
    """What ``causalvae share`` makes of a run with pictures: its files, and those that its card shows."""
    source, target = tmp_path / "run", tmp_path / "shared"
    save(run, source)
    for name in ("graph", "counterfactuals", "scores", "reconstructions"):
        (source / f"{name}.png").write_bytes(b"png")
    assert cli.main(["share", str(source), "--to", str(target), *more]) == 0
    named = set(re.findall(r"\((\w+\.png)\)", (target / CARD).read_text()))
    assert named == {path.name for path in target.glob("*.png")}
    return named


@pytest.mark.parametrize("name", ["folder", "celeba"])
def test_photographs_are_shared_on_request_only(name, run, tmp_path, capsys):
    run.config["data"]["name"] = name
    assert shared_pictures(run, tmp_path) == {"graph.png", "scores.png"}
    left_out = "counterfactuals.png, which shows test images: left out (--pictures includes it)\n"
    assert capsys.readouterr().out == f"{left_out}wrote {tmp_path / 'shared'}\n"
    assert shared_pictures(run, tmp_path, "--pictures") == {"graph.png", "counterfactuals.png", "scores.png"}
    assert "which shows test images: included" in capsys.readouterr().out
    # Those of an earlier time would still lie there.
    assert cli.main(["share", str(tmp_path / "run"), "--to", str(tmp_path / "shared")]) == 2
    assert "holds counterfactuals.png, which is to be left out; remove it" in capsys.readouterr().err


def test_photographs_do_not_reach_the_hub(run, tmp_path, hub):
    save(run, tmp_path / "run")
    (tmp_path / "run" / "counterfactuals.png").write_bytes(b"png")
    for more, there in (([], False), (["--pictures"], True)):
        assert cli.main(["share", str(tmp_path / "run"), "--repository", "me/it", *more]) == 0
        assert (tmp_path / "hub" / "me" / "it" / "counterfactuals.png").exists() == there


def test_scores_and_pictures_of_other_weights_are_left_out(run, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.json").write_text(json.dumps({"weights": "0" * 64, **SCORES}))
    assert shared_pictures(run, tmp_path, "--pictures") == set()
    assert "which are of other weights: left out (causalvae evaluate makes them anew)\n" in capsys.readouterr().out
    assert "Scores" not in (tmp_path / "shared" / CARD).read_text()
    (tmp_path / "run" / "metrics.json").write_text(json.dumps({"weights": weights_digest(run), **SCORES}))
    assert shared_pictures(run, tmp_path, "--pictures")
    assert "Scores" in (tmp_path / "shared" / CARD).read_text()


def test_what_a_simulator_draws_is_shared(run, tmp_path, capsys):
    run.config["data"] = {"name": "pendulum", "size": 16}
    assert shared_pictures(run, tmp_path) == {"graph.png", "counterfactuals.png", "scores.png"}
    assert capsys.readouterr().out == f"wrote {tmp_path / 'shared'}\n"
    shutil.rmtree(tmp_path / "shared")
    assert shared_pictures(run, tmp_path, "--no-pictures") == {"graph.png", "scores.png"}


def test_what_was_downloaded_in_part_is_refused(run, tmp_path, hub):
    save_pretrained(run, tmp_path / "sound")
    folder = tmp_path / "hub" / "me" / "part"
    weights = (tmp_path / "sound" / "model.safetensors").read_bytes()
    config = (tmp_path / "sound" / "config.json").read_bytes()
    for found, message in (
        ({}, "config.json does not exist"),
        ({"config.json": config}, "model.safetensors does not exist"),
        ({"config.json": config, "model.safetensors": weights[: len(weights) // 2]}, "model.safetensors is truncated"),
        ({"config.json": config, "model.safetensors": b""}, "model.safetensors is truncated"),
        ({"config.json": config, "model.safetensors.incomplete": weights}, "model.safetensors does not exist"),
        ({"config.json": config[:100], "model.safetensors": weights}, "config.json is not a run's configuration"),
    ):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, content in found.items():
            (folder / name).write_bytes(content)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            from_pretrained("me/part")


def test_a_hub_that_cannot_be_reached(run, tmp_path, monkeypatch, capsys):
    # Nothing listens there. The library beneath the hub's raises errors of its own.
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    save(run, tmp_path / "run")
    with pytest.raises(ConnectionError, match=r"^the hub cannot be reached \("):
        push_to_hub(run, "me/it", token="hf_none")
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    assert cli.main(["share", str(tmp_path / "run"), "--repository", "me/it"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("causalvae: error: the hub cannot be reached (")
    assert err.count("\n") == 1


def test_an_error_of_the_hubs_in_the_middle_of_a_download(monkeypatch):
    import huggingface_hub

    class Breaks(Exception):
        pass

    def download(*_, **__):
        raise Breaks("peer closed connection\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(
        ConnectionError, match=r"^the hub cannot be reached \(Breaks: peer closed connection\); me/it is as it was .*try again$"
    ):
        from_pretrained("me/it")


@pytest.mark.parametrize(
    "scores", ["[]", "?", '"x"', '{"r2": []}', '{"r2": {"light": null}}', '{"representation": {"mic_mean": "1"}}']
)
def test_scores_that_are_none(scores, run, tmp_path, capsys):
    save(run, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_text(scores)
    assert cli.main(["share", str(tmp_path / "run"), "--to", str(tmp_path / "shared")]) == 2
    expected = f"causalvae: error: RUN: {tmp_path / 'run' / 'metrics.json'} does not hold the scores of a run ("
    assert capsys.readouterr().err.startswith(expected)
    assert not (tmp_path / "shared").exists()
