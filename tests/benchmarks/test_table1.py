"""The table's runner on a tiny case: cells are kept, a stopped run goes on, failures are told, tables say what was found."""

import functools
import json
import sys

import pytest

from tests import ROOT

SETTINGS = {"epochs": 1, "size": 16, "limit": 40, "train_limit": 64}
OPTIONS = ["--quick", *(part for key, v in SETTINGS.items() for part in (f"--{key.replace('_', '-')}", str(v)))]


@pytest.fixture(scope="module", autouse=True)
def _benchmarks_are_importable():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def table1(_benchmarks_are_importable):
    import table1

    return table1


@pytest.fixture(scope="module")
def summary(table1):
    import table1_summary

    return table1_summary


@pytest.fixture
def cells(tmp_path, table1, monkeypatch):
    """A stand-in for training that says what it was asked for."""
    made = []

    def run_cell(row, data, seed, settings, device, roots):
        made.append((row, data, seed, device))
        if row == "ivae" and (tmp_path / "fail").exists():
            raise RuntimeError("no luck")
        scores = {
            "representation": {
                "mic_mean": 0.9 + seed / 100,
                "tic_mean": 0.8,
                "dci": {"disentanglement": 0.5, "completeness": 0.4},
            },
            "whole_labels": {"mic_mean": 0.7, "tic_mean": 0.6},
            "summary": {"r2_min": 0.1, "cf_roots": 0.2, "cf_children": -0.3, "cf_mean": 0.0},
            "r2": {"a": 0.1, "b": 0.3},
            "graph": {"shd": 2},
            "cf_score": {"a": 0.2},
            "reconstruction_mse": 0.01,
        }
        curve = [{"epoch": 1, "seconds": 2.0, "mic": 0.9, "tic": 0.8, "cf_roots": 0.2, "cf_children": -0.3}]
        return {"scores": scores, "seconds": 5.0, "curve": curve, "hardware": {"cpu": "some", "cores": 2}}

    monkeypatch.setattr(table1, "run_cell", run_cell)

    class Here:
        """A pool whose only process is this one."""

        def __init__(self, *args, **kwargs):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *args):
            pass

        def submit(self, function, *args):
            from concurrent.futures import Future

            future = Future()
            try:
                future.set_result(function(*args))
            except RuntimeError as error:
                future.set_exception(error)
            return future

    monkeypatch.setattr(table1, "ProcessPoolExecutor", Here)
    return made


def arguments(tmp_path, *more):
    return ["--cells", str(tmp_path / "cells"), *more]


def test_cells_are_run_once(tmp_path, table1, summary, cells, capsys):
    options = ["--data", "pendulum", "--methods", "conv", "ivae", "--jobs", "1"]
    assert table1.main(arguments(tmp_path, *options, "--seeds", "2")) == 0
    assert cells == [("conv", "pendulum", 0, "cpu"), ("ivae", "pendulum", 0, "cpu")] + [
        ("conv", "pendulum", 1, "cpu"),
        ("ivae", "pendulum", 1, "cpu"),
    ]
    result = summary.summarise_table(tmp_path / "cells", {"pendulum": ["conv", "ivae"]}, 2)
    found = result["data"]["pendulum"]["conv"]
    assert found["mic"]["mean"] == pytest.approx(0.905)
    assert found["r2_mean"]["mean"] == pytest.approx(0.2)
    assert len(found["mic"]["interval"]) == 2
    assert result["settings"]["seeds"] == 2
    cells.clear()
    # A third seed, and a cell lost.
    (tmp_path / "cells" / "pendulum" / "conv-0.json").unlink()
    assert table1.main(arguments(tmp_path, *options, "--seeds", "3")) == 0
    assert cells == [("conv", "pendulum", 0, "cpu"), ("conv", "pendulum", 2, "cpu"), ("ivae", "pendulum", 2, "cpu")]
    cells.clear()
    # Other settings are another table.
    assert table1.main(arguments(tmp_path, *options, "--quick", "--epochs", "3")) == 0
    assert len(cells) == 2
    assert "iVAE" in capsys.readouterr().out


def test_a_cell_that_fails_does_not_take_others_with_it(tmp_path, table1, cells, capsys):
    (tmp_path / "fail").touch()
    options = arguments(tmp_path, "--quick", "--data", "flow", "--methods", "ivae", "conv", "--jobs", "1")
    assert table1.main(options) == 1
    err = capsys.readouterr().err
    assert "ivae-0.json: RuntimeError: no luck" in err
    assert "1 cells failed" in err
    assert not list(tmp_path.glob("cells/flow/ivae-*"))
    (tmp_path / "fail").unlink()
    cells.clear()
    assert table1.main(options) == 0
    assert cells == [("ivae", "flow", 0, "cpu")]


def test_a_process_that_dies_ends_the_run_with_a_word(tmp_path, table1, cells, monkeypatch, capsys):
    from concurrent.futures.process import BrokenProcessPool

    submit = table1.ProcessPoolExecutor.submit

    def dies(self, function, cell, *args):
        if cell[1] == "ivae":
            raise BrokenProcessPool
        return submit(self, function, cell, *args)

    monkeypatch.setattr(table1.ProcessPoolExecutor, "submit", dies)
    options = ["--quick", "--data", "flow", "--methods", "conv", "ivae", "beta_vae", "--jobs", "1"]
    assert table1.main(arguments(tmp_path, *options)) == 1
    err = capsys.readouterr().err
    assert "ivae-0.json: a process has died (out of memory?)" in err
    assert "2 cells failed" in err
    assert [path.name for path in (tmp_path / "cells" / "flow").iterdir()] == ["conv-0.json"]


@pytest.mark.parametrize("option", ["--seeds", "--epochs", "--jobs", "--limit", "--train-limit"])
def test_bad_options(option, table1, capsys):
    with pytest.raises(SystemExit):
        table1.main([option, "0"])
    assert f"{option}: got 0; must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--morphomnist-root", "--celeba-root"])
def test_files_that_are_not_there_are_asked_for(option, table1, capsys):
    data = {"--morphomnist-root": "morphomnist", "--celeba-root": "celeba_beard"}[option]
    with pytest.raises(SystemExit):
        table1.main(["--data", "pendulum", data])
    assert f"{option}: not given; {data} lies in a folder of yours" in capsys.readouterr().err


def photographs(data, folder, monkeypatch):
    """A stand-in for the user's files."""
    from tests.datasets import test_celeba, test_morphomnist

    if data == "morphomnist":
        folder.mkdir()
        test_morphomnist.write(folder, 160)
    else:
        test_celeba.write(folder, 90)
        # More test images than that file gives.
        partition = folder / "celeba" / "list_eval_partition.txt"
        partition.write_text("".join(f"{i + 1:06d}.jpg {0 if i < 74 else 2}\n" for i in range(90)))
    return {"morphomnist_root": str(folder), "celeba_root": str(folder)}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("data", "row"),
    [("morphomnist", row) for row in ("best", "paper", "condition_vae", "ivae", "beta_vae", "causal_vae_unsup", "ladder_vae")]
    + [("celeba_smile", "best"), ("celeba_beard", "ladder_vae")],
)
def test_a_cell_of_photographs(data, row, summary, tmp_path, monkeypatch):
    import table1_cells
    from table1_cells import run_cell

    monkeypatch.setattr(table1_cells, "train_predictor", functools.partial(table1_cells.train_predictor, steps=5))
    roots = photographs(data, tmp_path / "files", monkeypatch)
    result = run_cell(row, data, 0, {"epochs": 1, "size": 16, "limit": 12, "train_limit": 72}, "cpu", roots)
    json.dumps(result)
    names = set(result["scores"]["r2"])
    assert (
        names
        == {
            "morphomnist": {"thickness", "intensity"},
            "celeba_smile": {"gender", "smile", "eyes_open", "mouth_open"},
            "celeba_beard": {"age", "gender", "bald", "beard"},
        }[data]
    )
    assert len(result["scores"]["composition"]) == 10
    for part in ("reversibility", "minimality"):
        assert set(result["scores"][part]) == names
    assert set(result["scores"]["effectiveness"]["do"]) == names
    assert "cf_score" not in result["scores"]
    found = summary.summarise([result, result])
    assert "cf_roots" not in found
    assert found["composition_10"]["mean"] == pytest.approx(result["scores"]["composition"][-1])


@pytest.mark.parametrize("row", ["paper_code_whole", "ladder_vae"])
def test_a_real_cell(row, summary):
    from table1_cells import run_cell

    result = run_cell(row, "pendulum", 0, SETTINGS, "cpu")
    (point,) = result["curve"]
    assert 0 < point["seconds"] <= result["seconds"]
    scores = result["scores"]
    assert scores["representation"]["mic_mean"] >= scores["representation"]["tic_mean"] > 0
    assert set(scores["cf_score"]) == {"pendulum", "light", "shadow_length", "shadow_position"}
    json.dumps(result)
    found = summary.summarise([result, result])
    assert found["curve"][0]["mic"]["mean"] == pytest.approx(point["mic"])


@pytest.mark.thorough
def test_cells_run_in_processes_of_their_own(tmp_path, table1):
    settings = SETTINGS | {"limit": 30}
    assert table1.run_all([("pendulum", "conv", 0), ("flow", "conv", 0)], settings, tmp_path, 2) == 0
    assert {path.name for path in tmp_path.glob("*/*")} == {"conv-0.json"}
    kept = json.loads((tmp_path / "flow" / "conv-0.json").read_text())
    assert kept["hardware"]["threads"] == 1
    assert kept["settings"] == settings


def test_cells_of_different_settings_make_no_table(tmp_path, table1, summary, cells):
    options = arguments(tmp_path, "--quick", "--data", "flow", "--jobs", "1", "--methods")
    table1.main([*options, "conv"])
    table1.main([*options, "ivae", "--epochs", "3"])
    with pytest.raises(ValueError, match="mixes settings"):
        summary.load(folder=tmp_path / "cells")


def test_methods_that_the_data_has_not(table1, capsys):
    with pytest.raises(SystemExit):
        table1.main(["--data", "morphomnist", "--morphomnist-root", "files", "--methods", "conv"])
    assert "--methods: got conv; no row of morphomnist" in capsys.readouterr().err


def test_a_table_is_of_the_seeds_that_all_its_rows_have(tmp_path, table1, summary, cells):
    assert summary.load(folder=tmp_path / "cells") is None
    for row, seeds in (("conv", "3"), ("ivae", "2")):
        table1.main(arguments(tmp_path, "--data", "flow", "--methods", row, "--seeds", seeds, "--jobs", "1"))
    result = summary.load(folder=tmp_path / "cells")
    assert result["settings"]["seeds"] == 2
    assert {data: list(rows) for data, rows in result["data"].items()} == {"flow": ["conv", "ivae"]}
    assert len(result["data"]["flow"]["conv"]["mic"]["values"]) == 2


def test_tables_say_what_was_found(tmp_path, table1, summary, cells):
    import table1_tables

    table1.main(arguments(tmp_path, "--seeds", "2", "--jobs", "1"))
    result = summary.load(folder=tmp_path / "cells")
    page = table1_tables.markdown(result)
    assert "| CausalVAE, as published | 95.1 (2.4) | 81.6 (1.9) | 90.5 ± 6.4 | 80.0 ± 0.0 |" in page
    assert "| ConditionVAE | 75.5 (2.3) | 56.5 (1.8) |" in page
    latex = table1_tables.latex(result)
    rows = [line for line in latex.splitlines() if line.endswith("\\\\")]
    assert len(rows) == 2 * (1 + len(result["names"]))
    assert "90.5 $\\pm$ 6.4" in latex
    assert "| beta-VAE | 90.5 ± 6.4 / 80.0 ± 0.0 | 22.6 (4.6) / 12.5 (2.2) |" in table1_tables.short(result)
    table1_tables.draw(result, tmp_path)
    assert (tmp_path / "table1.png").stat().st_size > 10_000
