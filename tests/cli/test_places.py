"""Where the data and the run are: the home folder, data that moved, columns and images that are read otherwise."""

import errno
import functools
import json
import os
import shutil

import pytest
from PIL import Image

from causalvae_pyro import cli, load
from causalvae_pyro.evaluation import train_predictor
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


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS, errno.ENOSPC], ids=os.strerror)
def test_who_may_only_read_a_run_gets_its_scores(error, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise OSError(error, os.strerror(error))

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("causalvae_pyro.cli.train.score", lambda *_, **__: None)
        assert cli.main(["train", *own(tmp_path / "d"), *QUICK, "--out", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    said = f"RUN: {out} cannot be written ({os.strerror(error)})"
    # Root may write everywhere, whatever the modes say.
    monkeypatch.setattr("causalvae_pyro.utils.files._temporary", refuse)
    monkeypatch.setattr("causalvae_pyro.cli.scoring.train_predictor", functools.partial(train_predictor, steps=5))
    capsys.readouterr()
    status = cli.main(["evaluate", str(out), "--device", "cpu"])
    printed = capsys.readouterr()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    if error == errno.ENOSPC:
        assert (status, printed.err) == (2, f"causalvae: error: {said}\n")
    else:
        assert status == 0
        assert printed.out.startswith(f"{said}: the scores are printed, the report is left out\n")
        assert "R^2" in printed.out


@pytest.mark.parametrize("command", ["train", "counterfactual"])
def test_where_nothing_can_be_written_nothing_is_begun(command, tmp_path, capsys, monkeypatch, no_score):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    places = own(tmp_path / "d")
    assert cli.main(["train", *places, *QUICK, "--out", str(tmp_path / "run")]) == 0
    there = tmp_path / "there" / "a.png"
    words = {
        "train": [*places, *QUICK, "--out", str(there)],
        "counterfactual": [str(tmp_path / "run"), "--do", "a=3", "--out", str(there)],
    }
    monkeypatch.setattr("causalvae_pyro.utils.files._temporary", refuse)
    monkeypatch.setattr(f"causalvae_pyro.cli.{command}.load_dataset", lambda *_: pytest.fail("it has begun to work"))
    capsys.readouterr()
    assert cli.main([command, *words[command]]) == 2
    folder = there if command == "train" else there.parent
    assert capsys.readouterr().err == f"causalvae: error: --out: {folder} cannot be written (Permission denied)\n"
    assert not there.parent.exists()


def test_a_run_knows_its_graph_where_the_file_is_gone(tmp_path, no_score):
    places = own(tmp_path / "d")
    assert cli.main(["train", *places, *QUICK, "--out", str(tmp_path / "run")]) == 0
    (tmp_path / "d" / "graph.json").unlink()
    ask = ["counterfactual", str(tmp_path / "run"), "--do", "a=3", "--count", "2", "--device", "cpu"]
    assert cli.main([*ask, "--out", str(tmp_path / "c.png")]) == 0
    assert cli.main([*ask, "--out", str(tmp_path / "c.png"), *places[4:]]) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_called_a_pipe(tmp_path, capsys):
    places = own(tmp_path / "d")
    read, write = os.pipe()
    try:
        assert cli.main(["train", *places[:2], "--labels", f"/dev/fd/{read}", *places[4:], "--out", str(tmp_path / "run")]) == 2
    finally:
        os.close(read)
        os.close(write)
    assert f"labels: /dev/fd/{read} is a pipe or a device; expected a file" in capsys.readouterr().err


def test_images_that_the_table_does_not_name_are_told(tmp_path, capsys, no_score):
    asked = own(tmp_path)
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-12]) + "\n")
    # By default a step takes 64 images, or all of them where there are fewer.
    by_default = ["--size", "16", "--epochs", "1", "--device", "cpu", "--decoder", "conv"]
    assert cli.main(["train", *asked, *by_default, "--out", str(tmp_path / "run")]) == 0
    assert "12 images beside them that the table does not name: left out (28.png, 29.png, 30.png, ...)" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["training"]["batch_size"] == 22
