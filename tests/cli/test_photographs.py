"""``causalvae train`` on data with much of their own: what it chooses, says, scores; and published data sets."""

import json

import pytest
import torch
from markupsafe import escape
from PIL import Image

from causalvae_pyro import fit, load
from causalvae_pyro.cli import main
from causalvae_pyro.datasets.registry import load_dataset
from causalvae_pyro.explore import Explorer
from causalvae_pyro.explore.session import Session
from causalvae_pyro.networks import BackdropDecoder, BilinearDecoder, HierarchicalDecoder
from tests.networks.sprites.scenes import before_backgrounds
from tests.networks.test_bilinear import persons


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Images of two binary labels and much else, with table and graph."""
    root = tmp_path_factory.mktemp("faces")
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (300, 2), generator=generator)
    x = torch.randint(0, 256, (300, 3, 16, 16), generator=generator, dtype=torch.uint8)
    x[:, :, :5, :5] = 255 * labels[:, 0, None, None, None].to(torch.uint8)
    return write(root, x, labels, "smile", "mouth")


def write(root, x, labels, cause, effect):
    """Images as files, with their table and graph."""
    (root / "images").mkdir(parents=True)
    names = [f"{i:04d}.png" for i in range(len(x))]
    for name, image in zip(names, x, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / "images" / name)
    rows = "".join(f"{name},{a},{b}\n" for name, (a, b) in zip(names, labels.tolist(), strict=True))
    (root / "labels.csv").write_text(f"file,{cause},{effect}\n" + rows)
    (root / "graph.json").write_text(json.dumps({cause: [], effect: [cause]}))
    return root


def own(root):
    return ["--images", str(root / "images"), "--labels", str(root / "labels.csv"), "--graph", str(root / "graph.json")]


def test_photographs_are_recognised(faces, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("causalvae_pyro.cli.scoring._PREDICTOR_STEPS", 20)
    out = tmp_path / "run"
    assert main(["train", *own(faces), "--size", "16", "--epochs", "2", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "unexplained: noise of the image's own at several resolutions (decoder 'hierarchical')" in said
    assert "(options: --decoder" in said
    assert "in all, without the predictor that the scores may need" in said
    assert "predictor trained on the images that no classifier of the training saw" in said
    assert "image left alone" in said
    run = load(out)
    assert isinstance(run.model.decoder, HierarchicalDecoder)
    assert "(decoder 'hierarchical')" in run.config["chosen"]
    assert f"<p>Chosen by the data: {escape(run.config['chosen'])}.</p>" in (out / "report.html").read_text()
    assert run.config["training"]["batch_size"] == 32
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["predicted"]["do"]["smile"]["set"]) == {"accuracy", "f1", "auc"}
    assert list(metrics["predicted"]["do"]["smile"]["effects"]) == ["mouth"]
    assert "effectiveness" not in metrics
    assert list(metrics["minimality"]) == ["smile", "mouth"]
    assert metrics["minimality_left_alone"]["smile"] > 0.2
    assert "image left alone" in said.partition("Minimality")[2]
    # Everything else that takes a run takes this one.
    assert main(["counterfactual", str(out), "--do", "smile=1", "--count", "2", "--out", str(tmp_path / "cf.png")]) == 0
    assert main(["evaluate", str(out), "--limit", "16", "--no-predictor"]) == 0


def test_persons_on_both_sides_are_told(faces, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("causalvae_pyro.cli.train.score", lambda *args, **options: None)
    table = (faces / "labels.csv").read_text().splitlines()
    rows = [f"{table[0]},person", *(f"{row},p{i % 150}" for i, row in enumerate(table[1:]))]
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    words = ["train", "--images", str(faces / "images"), "--labels", str(tmp_path / "labels.csv")]
    words += ["--graph", str(faces / "graph.json"), "--size", "16", "--epochs", "1", "--decoder", "conv", "--group-by", "person"]
    for apart in ([], ["--split-by", "person"]):
        assert main([*words, *apart, "--out", str(tmp_path / f"run{len(apart)}")]) == 0
        said = capsys.readouterr().out
        assert ("of 'person' have images on both sides" in said) == (not apart)
        assert ("--split-by person keeps them apart" in said) == (not apart)


def test_test_images_are_checked_before_the_training(faces, tmp_path, capsys):
    table = (faces / "labels.csv").read_text().splitlines()
    names = [row.partition(",")[0] for row in table[1:5]]
    # Each test image lacks a label.
    test = [f"{name},{labels},test" for name, labels in zip(names, ("0,", "1,", ",0", ",1"), strict=True)]
    rows = [f"{table[0]},split", *test, *(f"{row},train" for row in table[5:])]
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    words = ["train", "--images", str(faces / "images"), "--labels", str(tmp_path / "labels.csv")]
    assert main([*words, "--graph", str(faces / "graph.json"), "--size", "16", "--out", str(tmp_path / "run")]) == 2
    assert "data: 0 of 4 images have all labels; the scores take at least 2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_rows_for_validation_are_used_for_it(faces, tmp_path, capsys, monkeypatch):
    given = {}

    def spy(model, guide, data, **options):
        given.update(options, data=data)
        return fit(model, guide, data, **options)

    monkeypatch.setattr("causalvae_pyro.cli.train.fit", spy)
    monkeypatch.setattr("causalvae_pyro.cli.train.score", lambda *args, **options: None)
    header, *rows = (faces / "labels.csv").read_text().splitlines()
    words = ["train"] * 6 + ["validation"] * 3 + ["test"]
    rows = [f"{row},{words[i % 10]}" for i, row in enumerate(rows)]
    (tmp_path / "labels.csv").write_text("\n".join([f"{header},split", *rows]) + "\n")
    words = ["train", "--images", str(faces / "images"), "--labels", str(tmp_path / "labels.csv"), "--decoder", "conv"]
    words += [
        "--graph",
        str(faces / "graph.json"),
        "--size",
        "16",
        "--epochs",
        "1",
        "--overwrite",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*words, "--dim", "2"]) == 0
    assert "90 images are held out for validation, as the table has it\n" in capsys.readouterr().out
    assert [len(given[name][1]) for name in ("data", "validation")] == [180, 90]
    valid = load_dataset(json.loads((tmp_path / "run" / "config.json").read_text())["data"], "valid")
    assert torch.equal(torch.as_tensor(given["validation"][0]), torch.as_tensor(valid.images))
    # A share of the training images in their place, and no more of them than asked for.
    assert main([*words, "--validation-share", "0.1"]) == 0
    assert "18 images are held out for validation\n" in capsys.readouterr().out
    assert main([*words, "--limit", "40"]) == 0
    assert "40 images are held out for validation, as the table has it\n" in capsys.readouterr().out


def test_a_table_that_lacks_most_labels_is_one_of_few(faces, tmp_path, capsys, monkeypatch):
    given = {}

    def spy(model, guide, data, **options):
        given.update(options)
        return fit(model, guide, data, **options)

    monkeypatch.setattr("causalvae_pyro.cli.train.fit", spy)
    monkeypatch.setattr("causalvae_pyro.cli.train.score", lambda *args, **options: None)
    header, *rows = (faces / "labels.csv").read_text().splitlines()
    # One in ten has labels: of 270 images to train on 27, shown twice.
    rows = [row if i % 10 == 0 else row.partition(",")[0] + ",," for i, row in enumerate(rows)]
    split = [f"{row},{'test' if i >= 270 else 'train'}" for i, row in enumerate(rows)]
    (tmp_path / "labels.csv").write_text("\n".join([f"{header},split", *split]) + "\n")
    words = ["train", "--images", str(faces / "images"), "--labels", str(tmp_path / "labels.csv"), "--decoder", "conv"]
    words += ["--graph", str(faces / "graph.json"), "--size", "16", "--epochs", "1", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    assert "with the labels of 27 images, each shown 2 times an epoch\n" in capsys.readouterr().out
    assert given["labelled_repeats"] == 2
    training = json.loads((tmp_path / "run" / "config.json").read_text())["training"]
    assert (training["label_share"], training["labelled"]) == (0.1, 27)


def test_labels_that_are_hidden_say_nothing(faces, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("causalvae_pyro.cli.train.score", lambda *args, **options: None)
    words = ["train", *own(faces), "--size", "16", "--epochs", "1", "--label-share", "0.1", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    assert "24 images with all labels are too few" in capsys.readouterr().out


def test_what_no_image_shows_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("causalvae_pyro.cli.scoring._PREDICTOR_STEPS", 20)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (300, 2), generator=generator)
    # No beard without being a man.
    labels[:, 1] *= labels[:, 0]
    x = torch.randint(0, 256, (300, 3, 16, 16), generator=generator, dtype=torch.uint8)
    x[:, :, :5, :5] = 255 * labels[:, 0, None, None, None].to(torch.uint8)
    root, out = write(tmp_path, x, labels, "man", "beard"), tmp_path / "run"
    pair = "man 0 with beard 1"
    assert main(["train", *own(root), "--size", "16", "--epochs", "1", "--decoder", "hierarchical", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"hardly any image has {pair}: counterfactuals of that kind are not learned" in said
    # Women, of whom do(beard=1) asks it.
    assert "do(beard), the " in said
    assert "% whose labels images show" in said
    command = ["counterfactual", str(out), "--count", "6", "--out", str(tmp_path / "cf.png"), "--do"]
    assert main([*command, "beard=1", "--do", "man=0"]) == 0
    assert f"6 of 6 have {pair}, as hardly any training image: nothing taught how that looks" in capsys.readouterr().out
    assert main([*command, "beard=1", "--do", "man=1"]) == 0
    assert pair not in capsys.readouterr().out
    run = load(out)
    session = Session(Explorer(run, load_dataset(run.config["data"], "test")), "run")
    assert session.answer({"image": 0, "do": {"man": 0, "beard": 1}})["unseen"] == [pair]
    assert session.answer({"image": 0, "do": {"man": 1, "beard": 1}})["unseen"] == []


def test_images_of_a_group_share_their_noise(faces, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("causalvae_pyro.cli.scoring._PREDICTOR_STEPS", 10)
    generator = torch.Generator().manual_seed(1)
    persons = torch.randint(0, 200, (12, 3, 16, 16), generator=generator, dtype=torch.uint8)
    root = tmp_path / "grouped"
    (root / "images").mkdir(parents=True)
    table = (faces / "labels.csv").read_text().splitlines()[1:]
    rows = ["file,smile,mouth,person"]
    for i, row in enumerate(table):
        name, smile, mouth = row.split(",")
        x = persons[i % 12].clone()
        x[:, 5:10, 3:6] = x[:, 5:10, 10:13] = 255 * int(smile)
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(root / "images" / name)
        rows.append(f"{name},{smile},{mouth},p{i % 12}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    (root / "graph.json").write_text((faces / "graph.json").read_text())
    out = tmp_path / "run"
    words = ["train", *own(root), "--size", "16", "--epochs", "1", "--group-by", "person", "--split-by", "person"]
    assert main([*words, "--out", str(out)]) == 0
    assert "images of a group share their noise (grouped True)" in capsys.readouterr().out
    config = load(out).config
    assert config["recipe"]["grouped"]
    assert config["data"]["group_by"] == "person"
    assert main(["evaluate", str(out), "--limit", "16", "--no-predictor"]) == 0
    assert main(["train", *own(faces), "--grouped", "--out", str(tmp_path / "other")]) == 2
    assert "--grouped: the images have no groups; --group-by names the column that has" in capsys.readouterr().err


@pytest.mark.thorough
def test_persons_under_lights(faces, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("causalvae_pyro.cli.scoring._PREDICTOR_STEPS", 10)
    x, light, person = persons(20, 16)
    root = tmp_path / "lights"
    (root / "images").mkdir(parents=True)
    rows = ["file,light,person"]
    # Several photographs of each person under each light, with grain.
    for i in range(3 * len(x)):
        k = i % len(x)
        image = (x[k] + 0.01 * torch.randn(x[k].shape, generator=torch.Generator().manual_seed(i))).clamp(0, 1)
        Image.fromarray((255 * image[0]).byte().numpy()).save(root / "images" / f"{i:03d}.png")
        rows.append(f"{i:03d}.png,{30 * float(light[k])},p{int(person[k])}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    (root / "graph.json").write_text(json.dumps({"light": []}))
    out, words = tmp_path / "run", ["train", *own(root), "--size", "16", "--mode", "L", "--epochs", "2"]
    words += ["--group-by", "person", "--split-by", "person", "--out", str(out)]
    assert main(words) == 0
    assert (
        "(grouped True); other groups' images explain those of a group held out: linear in the noise" in capsys.readouterr().out
    )
    run = load(out)
    assert isinstance(run.model.decoder, BilinearDecoder)
    assert run.config["recipe"]["decoder"] == "bilinear"
    assert run.config["training"]["batch_size"] == 32
    # Persons that it has not seen.
    assert json.loads((out / "metrics.json").read_text())["r2"]["light"] > 0.7
    assert main(["counterfactual", str(out), "--do", "light=30", "--count", "2", "--out", str(tmp_path / "cf.png")]) == 0
    # The basis is made of persons' photographs.
    assert main(["share", str(out), "--to", str(tmp_path / "shared")]) == 2
    assert "weights of a BilinearDecoder hold pictures of training images; --pictures shares them" in capsys.readouterr().err
    assert main(["share", str(out), "--to", str(tmp_path / "shared"), "--pictures"]) == 0
    before = {name: value.clone() for name, value in run.guide.state_dict().items()}
    assert main([*words, "--resume"]) == 0
    assert all(torch.equal(value, before[name]) for name, value in load(out).guide.state_dict().items())
    assert main(["train", *own(faces), "--decoder", "bilinear", "--out", str(tmp_path / "other")]) == 2
    error = capsys.readouterr().err.strip()
    assert "groups: got None; decoder 'bilinear' takes the group of each image" in error


def test_no_change_of_an_image_keeps_its_labels(faces, tmp_path, monkeypatch):
    monkeypatch.setattr("causalvae_pyro.cli.train.score", lambda *args, **options: None)
    out = tmp_path / "run"
    assert main(["train", *own(faces), "--size", "16", "--limit", "64", "--epochs", "1", "--out", str(out), "--views"]) == 0
    assert load(out).config["recipe"]["views"] == []


@pytest.mark.parametrize(("option", "decoder"), [(["--decoder", "conv"], "conv"), (["--noise-dim", "8"], "conv")])
def test_options_override_the_choice(faces, tmp_path, capsys, option, decoder):
    out = tmp_path / "run"
    assert main(["train", *own(faces), "--size", "16", "--epochs", "1", "--limit", "64", "--out", str(out), *option]) == 0
    assert "unexplained" not in capsys.readouterr().out
    recipe = load(out).config["recipe"]
    assert recipe["decoder"] == decoder
    assert recipe["noise_dim"] == (8 if "--noise-dim" in option else 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["celeba"], "--root: got nothing; celeba takes the folder that its files are in"),
        (["yaleb", "--root", ".", "--group", "smile"], "--group: got smile; yaleb has no such option"),
        (["celeba", "--root", ".", "--noise", "0.3"], "--noise: got 0.3; it is for simulators"),
        (["celeba", "--root", ".", "--partition", "grid"], "--partition: got grid; it is for simulators"),
        (["--images", ".", "--labels", "x", "--graph", "y", "--group", "person"], "and --graph and --group; give"),
        (["pendulum", "--root", "."], "data: got pendulum and --root; give a simulator"),
        (["morphomnist", "--root", "nowhere"], "nowhere"),
        (["pendulum", "--decoder", "sprites", "--noise-dim", "4"], "noise_dim: got 4"),
        (["pendulum", "--noise-dim", "-1"], "noise_dim: got -1"),
    ],
)
def test_refusals(words, message, tmp_path, capsys):
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_parts_before_backgrounds(tmp_path, capsys, monkeypatch):
    x, z, _ = before_backgrounds(200)
    x = (x * 255).round().to(torch.uint8)
    data, out = write(tmp_path / "discs", x, z[..., 0], "across", "down"), tmp_path / "run"
    given = {}

    def spy(*args, **options):
        given.update(options)
        return fit(*args, **options)

    monkeypatch.setattr("causalvae_pyro.cli.train.fit", spy)
    monkeypatch.setattr("causalvae_pyro.cli.train.score", lambda *args, **options: None)
    options = ["--size", "16", "--epochs", "1", "--device", "cpu", "--decoder", "backdrop"]
    assert main(["train", *own(data), *options, "--out", str(out)]) == 0
    assert (given["batch_size"], given["mixed_precision"]) == (32, None)
    assert isinstance(load(out).model.decoder, BackdropDecoder)
    assert main(["counterfactual", str(out), "--do", "across=0.5", "--count", "2", "--out", str(tmp_path / "cf.png")]) == 0
    capsys.readouterr()
    assert main(["train", *own(data), *options, "--patience", "2", "--out", str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err.startswith("causalvae: error: --patience: the sprites' loss increases")
    # Labels that say nothing of the images.
    data = write(tmp_path / "shuffled", x, z[torch.randperm(len(z)), :, 0], "across", "down")
    assert main(["train", *own(data), *options, "--out", str(tmp_path / "other")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("causalvae: error: images: nothing of one colour")
    assert "decoder 'hierarchical'" in line
