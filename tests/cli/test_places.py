"""Where the data and the run are: the home folder, data that moved, columns and images that are read otherwise."""

import json
import os
import shutil

import pytest
import torch
from PIL import Image

from causalvae_pyro import cli, load
from tests.builders import write_images, write_table

QUICK = ["--size", "16", "--epochs", "1", "--batch-size", "8", "--device", "cpu"]


def own(folder, count=40, header=("file", "a", "b"), graph=None):
    write_images(folder / "images", count)
    write_table(folder / "labels.csv", header, [[f"{i}.png", i, i % 3, f"p{i // 4}"][: len(header)] for i in range(count)])
    (folder / "graph.json").write_text(json.dumps(graph or {"a": [], "b": ["a"]}))
    return ["--images", str(folder / "images"), "--labels", str(folder / "labels.csv"), "--graph", str(folder / "graph.json")]


@pytest.fixture
def no_score(monkeypatch):
    monkeypatch.setattr("causalvae_pyro.cli.train.score", lambda *_, **__: None)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, no_score):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    elsewhere.mkdir()
    own(home / "fruit")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    places = ["--images=~/fruit/images", "--labels=~/fruit/labels.csv", "--graph=~/fruit/graph.json", "--out=~/runs/a"]
    assert cli.main(["train", *places, *QUICK]) == 0
    assert (home / "runs" / "a" / "model.safetensors").is_file()
    assert not list(elsewhere.iterdir())
    assert cli.main(["counterfactual", "~/runs/a", "--do", "a=3", "--out", "~/c.png", "--device", "cpu"]) == 0
    assert (home / "c.png").is_file()


def test_data_that_moved_are_found_where_the_command_says(tmp_path, capsys, no_score):
    here, there = tmp_path / "here", tmp_path / "there"
    assert cli.main(["train", *own(here), *QUICK, "--out", str(here / "run")]) == 0
    shutil.move(here, there)
    ask = [
        "counterfactual",
        str(there / "run"),
        "--do",
        "a=3",
        "--count",
        "2",
        "--out",
        str(tmp_path / "c.png"),
        "--device",
        "cpu",
    ]
    assert cli.main(ask) == 2
    places = [
        f"--{name}={there / place}" for name, place in (("images", "images"), ("labels", "labels.csv"), ("graph", "graph.json"))
    ]
    assert cli.main([*ask, *places]) == 0
    assert (tmp_path / "c.png").is_file()
    capsys.readouterr()
    assert cli.main([*ask, "--root", str(there)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("causalvae: error: --root: got ")
    assert "valid: --images, --labels, --graph" in err


def test_grey_among_colour_columns_renamed_and_persons_apart(tmp_path, capsys, no_score):
    places = own(tmp_path / "d", header=("file", "a", "5_o_Clock_Shadow", "person"), graph={"a": [], "shadow": ["a"]})
    Image.new("L", (16, 16), 90).save(tmp_path / "d" / "images" / "7.png")
    options = ["--rename", "5_o_Clock_Shadow=shadow", "--split-by", "person", "--out", str(tmp_path / "run")]
    assert cli.main(["train", *places, *QUICK, *options]) == 2
    assert "7.png" in capsys.readouterr().err
    assert cli.main(["train", *places, *QUICK, *options, "--mode", "RGB"]) == 0
    run = load(tmp_path / "run")
    assert run.graph.names == ("a", "shadow")
    assert run.data["split_by"] == "person"
    assert cli.main(["train", "pendulum", "--mode", "RGB"]) == 2
    assert "--mode" in capsys.readouterr().err
    assert cli.main(["train", *places, "--rename", "shadow"]) == 2
    assert "--rename: got 'shadow'; expected COLUMN=CONCEPT" in capsys.readouterr().err


def test_values_stand_beside_their_names_in_any_order_of_concepts(tmp_path, capsys, monkeypatch):
    from causalvae_pyro import CausalGraph, save
    from causalvae_pyro.datasets import registry
    from tests.builders import Small, make_run

    monkeypatch.setitem(registry.SIMULATORS, "pendulum", Small)
    data, order = Small("test", size=16), [2, 0, 3, 1]
    graph = CausalGraph([data.graph.names[i] for i in order], data.graph.edges)
    run = make_run(graph, data.images, data.labels[:, order])
    run.config["data"] = {"name": "pendulum", "size": 16}
    save(run, tmp_path / "run")
    ask = ["counterfactual", str(tmp_path / "run"), "--do", "light=12", "--count", "1", "--out", str(tmp_path / "c.png")]
    assert cli.main([*ask, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "-> 12" in out.split("light")[1][:20]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_run_is_refused_before_the_work(tmp_path, capsys, no_score):
    assert cli.main(["train", *own(tmp_path / "d"), *QUICK, "--out", str(tmp_path / "run")]) == 0
    (tmp_path / "run").chmod(0o500)
    torch.manual_seed(0)
    assert cli.main(["evaluate", str(tmp_path / "run"), "--device", "cpu"]) == 2
