"""The sections of the score card, its tables, and the scores of a representation."""

import json
import re

import numpy as np
import pytest
import torch

from causalvae_pyro import CausalGraph, counterfactual, encode, reconstruct
from causalvae_pyro.evaluation.evaluate import evaluate, has_truth, score_table, train_predictor
from causalvae_pyro.evaluation.report import write_report
from causalvae_pyro.evaluation.scorecard import Scorer
from causalvae_pyro.evaluation.tables import score_sections
from causalvae_pyro.metrics import (
    Predictor,
    bootstrap_interval,
    cf_errors,
    dci,
    fid,
    irs,
    mcc,
    mic_matrix,
    mic_tic,
    mig,
    r2_score,
    representation_scores,
    sap,
    subsampling_interval,
)
from causalvae_pyro.utils.images import as_images
from tests.builders import raises
from tests.evaluation.test_evaluate import GAIN, SIDE, Clerk, Photos, Reordered, Stripes, draw, make

NAMES, EDGES = ("a", "b", "c", "d"), (("a", "b"), ("a", "c"))


@pytest.fixture
def data():
    return Stripes()


@pytest.fixture
def wide():
    """Four concepts: b and c are children of a."""
    return Stripes(EDGES, NAMES)


def noisy(count=40, edges=(("a", "b"),), names=("a", "b")):
    """Images with a noise of a quarter of a label unit, which a model without noise neither reads past nor draws."""
    data = Stripes(edges, names, count)
    noise = torch.randn(data.images.shape, generator=torch.Generator().manual_seed(2))
    data.images = (data.images + 0.25 * GAIN * noise).clamp(0, 1)
    return data


def rare():
    """One image in 40 is of another class."""
    data = Stripes(edges=())
    data.labels[:, 1] = 0.5 * (torch.arange(40) == 11)
    data.images = draw(data.labels)
    return data


def read(x, count=2):
    """An independent judge of the stripes: the mean of each."""
    return ((x.mean((1, 2)).unflatten(-1, (count, SIDE // count)).mean(-1)) - 0.5) / GAIN


def drawn(data, column, seed=0):
    """The values that a concept is set to."""
    return data.labels[torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(seed)), column]


# Representations ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codes():
    """Three concepts of two dimensions each, more or less like their labels, two of which depend on each other."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(80, 3, generator=generator)
    u[:, 2] += u[:, 0]
    z = u + torch.tensor([0.1, 0.6, 1.5]) * torch.randn(80, 3, generator=generator)
    # What the dimensions have apart from their mean tells nothing.
    apart = torch.randn(80, 3, generator=generator)
    return torch.stack([z + apart, z - apart], -1), u


def test_representation_scores_are_the_single_ones(codes):
    z, u = codes
    scores = representation_scores(z, u, ["sun", "rain", "mood"], seed=3)
    matrix = mic_matrix(z, u)
    for score in ("mic", "tic"):
        values = getattr(matrix, score)
        assert scores[score] == {"sun": values[0, 0], "rain": values[1, 1], "mood": values[2, 2]}
        assert scores[f"{score}_mean"] == pytest.approx(np.trace(values) / 3)
        assert scores[f"{score}_matrix"] == values.tolist()
    for part, those in ((scores, z), (scores["of_the_labels"], u)):
        for name, score in {"mcc": mcc, "mig": mig, "sap": sap, "irs": irs}.items():
            assert part[name] == pytest.approx(score(those, u), rel=1e-6)
        expected = dci(those, u, seed=3)
        names = ["disentanglement", "completeness", "informativeness"]
        assert part["dci"] == pytest.approx({name: getattr(expected, name) for name in names}, rel=1e-6)
    assert set(scores["of_the_labels"]) == {"mcc", "dci", "mig", "sap", "irs"}
    assert set(scores) == set(scores["of_the_labels"]) | {
        *("mic", "tic", "mic_mean", "tic_mean", "mic_matrix", "tic_matrix", "of_the_labels")
    }
    # Codes fall short of the labels, and the labels of 1 where they depend on one another.
    assert all(scores[name] < scores["of_the_labels"][name] for name in ("mcc", "mig", "sap", "irs"))
    assert scores["of_the_labels"]["sap"] < 0.9
    assert scores["mic"]["sun"] > scores["mic"]["rain"] > scores["mic"]["mood"]


def test_representation_scores_of_every_form_are_the_same(codes):
    z, u = codes
    scores = representation_scores(z, u)
    assert list(scores["mic"]) == list(scores["tic"]) == ["0", "1", "2"]
    assert json.loads(json.dumps(scores)) == scores
    for other in ((z.mean(-1), u), (z.numpy(), u.numpy()), (z.mean(-1).double().numpy(), u.double())):
        again = representation_scores(*other)
        assert again["mic_matrix"] == pytest.approx(np.array(scores["mic_matrix"]))
        for name in ("mcc", "mig", "sap", "irs"):
            assert again[name] == pytest.approx(scores[name], abs=1e-6)
        assert again["dci"] == pytest.approx(scores["dci"], abs=1e-6)


def test_representation_scores_are_shares_and_repeat(codes):
    z, u = codes
    scores = representation_scores(-z, u)
    numbers = [*scores["mic"].values(), *scores["tic"].values()]
    numbers += np.ravel([scores["mic_matrix"], scores["tic_matrix"]]).tolist()
    for part in (scores, scores["of_the_labels"]):
        numbers += [part[name] for name in ("mcc", "mig", "sap", "irs")]
        numbers += [part["dci"]["disentanglement"], part["dci"]["completeness"]]
    assert all(0 <= number <= 1 for number in numbers)
    assert representation_scores(-z, u) == scores
    other = representation_scores(-z, u, seed=1)
    assert other["dci"] != scores["dci"]
    assert other["of_the_labels"]["dci"] != scores["of_the_labels"]["dci"]


def test_concepts_are_rows_and_labels_columns(codes):
    u = codes[1]
    # The first concept tells its own label, the second the first's, the third nothing.
    z = torch.stack([u[:, 0], -u[:, 0], torch.randn(80, generator=torch.Generator().manual_seed(1))], 1)
    scores = representation_scores(z, u)
    for score in ("mic", "tic"):
        own, matrix = scores[score], np.array(scores[f"{score}_matrix"])
        assert matrix[0, 0] > 0.95
        assert matrix[1, 0] == pytest.approx(matrix[0, 0], abs=0.01)
        assert matrix[0, 1] < 0.5
        assert max(own["1"], own["2"]) < 0.5
        assert matrix[1, 2] > matrix[1, 1]
    # The other scores may assign the latents as they like.
    assert scores["mcc"] > 1 / 3


def test_one_concept_has_no_gap_to_a_second(codes):
    z, u = codes
    scores = representation_scores(z[:, :1], u[:, :1], ["sun"])
    single = {"mic", "tic", "mic_mean", "tic_mean", "mic_matrix", "tic_matrix", "mcc", "dci", "irs"}
    assert set(scores) == single | {"of_the_labels"}
    assert set(scores["of_the_labels"]) == {"mcc", "dci", "irs"}
    assert scores["mic"] == {"sun": scores["mic_mean"]} == {"sun": scores["mic_matrix"][0][0]}
    assert scores["mcc"] == pytest.approx(mcc(z[:, :1], u[:, :1]), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, u: (z[:, :2], u), "z: expected one concept per label, [80, 3], got [80, 2, 2]"),
        (lambda z, u: (z[:9], u), "z: expected one concept per label, [80, 3], got [9, 3, 2]"),
        (lambda z, u: (z[..., None], u), "z: expected one concept per label, [80, 3], got [80, 3, 2, 1]"),
        (lambda z, u: (z[:, 0, 0], u[:, 0]), "u: expected [N, n], got shape [80]"),
        (lambda z, u: (z, u[..., None]), "u: expected [N, n], got shape [80, 3, 1]"),
        (lambda z, u: (z[:7], u[:7]), "z: got 7 samples"),
        (lambda z, u: (z * float("nan"), u), "z: got 240 NaN"),
        (lambda z, u: (z, u * 0), "u: columns [0, 1, 2] are constant"),
        (lambda z, u: (z, u, ["a", "b"]), "names: got ['a', 'b'] for 3 labels"),
    ],
    ids=["concepts", "samples", "too deep", "one column", "deep labels", "few", "nan", "constant", "names"],
)
def test_invalid_representations(change, message, codes):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        representation_scores(*change(*codes))


# The axioms' sections ------------------------------------------------------------------------------------------------


def test_an_offset_adds_up_over_interventions_that_change_nothing(data):
    offset = 0.01
    scores = evaluate(make(data, offset=offset), data)
    assert scores["composition"] == pytest.approx([offset * times for times in range(1, 11)], rel=1e-4)
    # Setting a back leaves the offset of one image on a; b would have that of two, but the first image's a, too bright as well,
    # explains twice as much of b, and what is left is none. Setting b back leaves two on a, which nothing set.
    assert scores["reversibility"] == pytest.approx({"a": offset / 2, "b": 1.5 * offset}, rel=1e-3)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_pixel_noise_takes_its_share_of_every_error_that_is_the_reconstructions(share, data):
    offset = 0.01
    without = evaluate(make(data, offset=offset), data, limit=20)
    scores = evaluate(make(data, offset=offset), data, limit=20, pixel_noise=share)
    assert scores["pixel_noise"] == share
    assert "pixel_noise" not in without
    left = 1 - share
    assert scores["composition"] == pytest.approx([left * offset * times for times in range(1, 11)], rel=1e-4, abs=1e-7)
    # What is read off the image, and the image that the concepts alone give, stay as they were.
    assert scores["r2"] == without["r2"]
    assert scores["reconstruction_mse"] == without["reconstruction_mse"]
    for name in data.graph.names:
        assert 1 - scores["ceiling"][name] == pytest.approx(left**2 * (1 - without["ceiling"][name]), rel=1e-3, abs=1e-6)
        assert scores["cf_score"][name] >= without["cf_score"][name]
    if share == 1:
        assert scores["cf_score"] == pytest.approx(dict.fromkeys(scores["cf_score"], 1.0), abs=1e-5)


def test_pixel_noise_that_fades_is_scored(data):
    faded = evaluate(make(data, offset=0.01), data, limit=20, pixel_noise=1.0, fade=1e-6)
    assert faded["fade"] == 1e-6
    assert faded["composition"] == pytest.approx([0.0] * 10, abs=1e-7)
    # Where a concept changes nothing the noise stays; here it is what the true image has too.
    without, all_of_it = (evaluate(make(data, offset=0.01), data, limit=20, pixel_noise=share) for share in (0.0, 1.0))
    for name, score in faded["cf_score"].items():
        assert without["cf_score"][name] - 1e-6 < score < all_of_it["cf_score"][name]
    assert faded["cf_score"]["b"] > without["cf_score"]["b"] + 0.01


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_readings_are_compared_with_an_image_that_keeps_as_much_noise(share, data, monkeypatch):
    seen = {}

    def spy(predictor, graph, x, labels, before, *others):
        seen.update(x=x, before=before)
        raise InterruptedError

    monkeypatch.setattr("causalvae_pyro.evaluation.scorecard.predicted_scores", spy)
    with pytest.raises(InterruptedError):
        evaluate(make(data, offset=0.01), data, limit=20, pixel_noise=share, axioms=False, photograph_predictor=object())
    distance = (seen["before"] - as_images(seen["x"])).abs().mean().item()
    assert distance == pytest.approx((1 - share) * 0.01, abs=1e-3)


def test_how_different_images_look_after_null_interventions(data, monkeypatch):
    monkeypatch.setattr(
        "causalvae_pyro.evaluation.scorecard.lpips", lambda images, x, weights: weights * (images - x).abs().mean((1, 2, 3))
    )
    with_it = evaluate(make(data, offset=0.01), data, limit=5, pairs=False, lpips_weights=3.0)
    assert with_it["composition_lpips"] == pytest.approx([3 * value for value in with_it["composition"]], rel=1e-5)
    without = evaluate(make(data, offset=0.01), data, limit=5, pairs=False)
    assert with_it["composition"] == without["composition"]
    assert "LPIPS after 10 null interventions" in score_table(with_it)
    assert "LPIPS" not in score_table(without)


def test_a_bad_share_of_pixel_noise(data):
    with raises("pixel_noise", "2"):
        evaluate(make(data), data, pixel_noise=2.0)


def test_images_stay_in_range(data):
    scores = evaluate(make(data, offset=0.7), data)
    assert scores["composition"] == pytest.approx([(1 - data.images).mean().item()] * 10, rel=1e-5)
    assert scores["directions"]["reconstruction"] == scores["directions"]["counterfactual"] == 0


def test_a_model_that_ignores_a_concept_cannot_bring_it_back(data):
    run = make(data)
    run.model.decoder.forward = lambda z: draw(z[..., 0] * torch.tensor([1.0, 0.0]))
    lost = GAIN * data.labels[:, 1].abs().mean().item() / 2
    scores = evaluate(run, data)
    assert scores["composition"] == pytest.approx([lost] * 10, rel=1e-4)
    assert scores["reversibility"]["b"] == pytest.approx(lost, rel=1e-4)


def test_each_concept_is_set_to_values_of_its_own_and_back(data, monkeypatch):
    calls = []

    def spy(model, guide, x, do, labels=None, **options):
        calls.append((do, labels))
        return counterfactual(model, guide, x, do, labels, **options)

    monkeypatch.setattr("causalvae_pyro.evaluation.scored_images.counterfactual", spy)
    evaluate(make(data), Photos(data), seed=4)
    assert [list(do) for do, _ in calls] == [[]] * 10 + [["a"], ["a"], ["b"], ["b"]]
    assert all(torch.equal(labels, data.labels) for _, labels in calls[:10])
    calls = calls[10:]
    for column, name in enumerate("ab"):
        torch.testing.assert_close(calls[2 * column][0][name], drawn(data, column, seed=4))
        torch.testing.assert_close(calls[2 * column + 1][0][name], data.labels[:, column])
    undone = {1, 3}
    for number, (_, labels) in enumerate(calls):
        if number not in undone:
            assert torch.equal(labels, data.labels)
    # To undo, the counterfactual image comes with its own labels.
    for column in (0, 1):
        handed = calls[2 * column + 1][1]
        torch.testing.assert_close(handed[:, column], drawn(data, column, seed=4), rtol=0, atol=1e-4)


# The judge -----------------------------------------------------------------------------------------------------------


def test_a_judge_of_a_perfect_model_finds_nothing(data):
    for world in (data, Photos(data)):
        found = evaluate(make(data), world, predictor=read)["effectiveness"]
        assert list(found) == ["factual", "do"]
        assert list(found["do"]) == ["a", "b"]
        for errors in (found["factual"], *found["do"].values()):
            assert errors == pytest.approx({"a": 0.0, "b": 0.0}, abs=1e-4)


def test_concepts_may_have_any_name():
    names = ("factual", "do", "reconstructions", "none")
    world = Stripes((("factual", "do"),), names)
    blind = evaluate(
        make(world), world, predictor=lambda x: torch.zeros(len(x), 4), fid_features=lambda x: x[:, 0, 0, ::4], pairs=False
    )
    found, distances = blind["effectiveness"], blind["fid"]
    assert found["factual"] == pytest.approx(dict(zip(names, world.labels.abs().mean(0).tolist(), strict=True)))
    assert list(found["do"]) == list(distances["do"]) == list(names)
    # Another intervention on the cause than none is another error of its effect.
    assert found["do"]["factual"]["do"] != pytest.approx(found["factual"]["do"])
    assert isinstance(distances["reconstructions"], float)
    for title, count in (("Mean absolute error", 4), ("Frechet", 1)):
        rows = next(section.rows for section in score_sections(blind) if section.title.startswith(title))
        assert [row[0] for row in rows] == ["none", *(f"do({name})" for name in names)]
        assert {len(row) for row in rows} == {1 + count}
    lines = score_sections(blind)[2].rows
    assert lines[0][1:] == [f"{found['factual'][name]:.3g}" for name in names]
    assert lines[1][1:] == [f"{found['do']['factual'][name]:.3g}" for name in names]


def test_a_judge_sees_the_offset(data):
    found = evaluate(make(data, offset=0.01), data, predictor=read)["effectiveness"]
    assert found["factual"] == pytest.approx({"a": 0.0, "b": 0.0}, abs=1e-4)
    for name in "ab":
        assert found["do"][name] == pytest.approx(dict.fromkeys("ab", 0.01 / GAIN), rel=1e-3)


def test_a_judge_finds_the_missing_mechanism_where_the_truth_is_known(data):
    run = make(data, slope=0.0)
    known, unknown = (evaluate(run, world, predictor=read, seed=5)["effectiveness"]["do"] for world in (data, Photos(data)))
    missed = 2 * (drawn(data, 0, seed=5) - data.labels[:, 0]).abs().mean().item()
    assert known["a"] == pytest.approx({"a": 0.0, "b": missed}, abs=1e-4)
    assert known["b"] == pytest.approx({"a": 0.0, "b": 0.0}, abs=1e-4)
    # By its own account the model does as it should.
    assert unknown["a"] == pytest.approx({"a": 0.0, "b": 0.0}, abs=1e-4)


def test_a_blind_judge(data):
    found = evaluate(make(data), data, predictor=lambda x: torch.zeros(len(x), 2))["effectiveness"]
    values, factual = drawn(data, 0), data.labels.abs().mean(0).tolist()
    assert list(found["factual"].values()) == pytest.approx(factual)
    moved = data.labels[:, 1] + 2 * (values - data.labels[:, 0])
    assert found["do"]["a"] == pytest.approx({"a": factual[0], "b": moved.abs().mean().item()}, rel=1e-5)
    assert found["do"]["b"] == pytest.approx(dict(zip("ab", factual, strict=True)), rel=1e-5)


def test_what_a_judge_is_shown(data):
    seen = []
    data.images = (data.images * 255).round().to(torch.uint8)
    evaluate(make(data, offset=0.6), data, predictor=lambda x: seen.append(x) or read(x).double().to(torch.float32))
    assert [x.shape for x in seen] == [data.images.shape] * 3
    torch.testing.assert_close(seen[0], data.images / 255)
    for x in seen:
        assert x.dtype == torch.float32
        assert x.min() >= 0
        assert x.max() <= 1


@pytest.mark.thorough
def test_a_trained_judge_reads_images_it_has_not_seen():
    train, world = Stripes(edges=(), count=200), Stripes(edges=())
    world.labels = world.labels[20:]
    world.images = draw(world.labels)
    judge = train_predictor(train.images[40:], train.labels[40:], steps=150)
    found = evaluate(make(world), world, predictor=judge.predict)["effectiveness"]
    for errors in (found["factual"], *found["do"].values()):
        assert max(errors.values()) < 0.25
    # It has a seed of its own, and leaves everybody else's alone.
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again, other = (train_predictor(train.images[40:], train.labels[40:], steps=150, seed=seed) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again.predict(world.images), judge.predict(world.images))
    assert not torch.equal(other.predict(world.images), judge.predict(world.images))


@pytest.mark.parametrize(
    ("count", "batch_size", "epochs", "first"),
    [(4, 8, 50, [0, 1, 2]), (40, 8, 10, [0, 1, 2]), (200, 25, 6, [0, 1, 2]), (1000, 64, 3, [0, 1, 2]), (6400, 64, 1, [0, 2, 4])],
)
def test_a_judges_training_is_as_long_for_few_images_as_for_many(count, batch_size, epochs, first, monkeypatch):
    calls = []
    monkeypatch.setattr(Predictor, "fit", lambda self, *arguments, **options: calls.append((arguments, options)))
    images, labels = torch.zeros(count, 1, 4, 4), torch.arange(count)[:, None].float()
    train_predictor(images, labels, steps=50, seed=3)
    (((shown, targets), options),) = calls
    assert options == {"epochs": epochs, "batch_size": batch_size, "augment": None, "seed": 3, "progress": False}
    assert targets[:3, 0].tolist() == first
    assert len(shown) == len(targets) == min(count, 50 * 64)


def test_a_judge_of_classes_and_of_a_label_that_is_the_same_in_training():
    images = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    dark = torch.arange(60) % 2
    images[dark == 1] *= 0.2
    judge = train_predictor(images[:40], torch.stack([dark, torch.ones(60)], 1)[:40], steps=60)
    read = judge.predict(images[40:])
    assert (read[:, 0] - dark[40:]).abs().max() < 0.5
    assert (read[:, 1] - 1).abs().max() < 0.5
    with pytest.raises(ValueError, match=r"^image_shape: got \(1, 6, 8\)"):
        train_predictor(images[:, :, :6], dark[:, None].float())


# Distances -----------------------------------------------------------------------------------------------------------


def test_distances_of_a_perfect_model(data):
    for world in (data, Photos(data)):
        found = evaluate(make(data), world, fid_features=read, seed=3, pairs=False)["fid"]
        assert list(found) == ["reconstructions", "do"]
        assert list(found["do"]) == ["a", "b"]
        assert found["reconstructions"] == pytest.approx(0, abs=1e-5)
        for column, name in enumerate("ab"):
            _, true = data.counterfactual(data.labels, {name: drawn(data, column, seed=3)})
            assert found["do"][name] == pytest.approx(fid(data.images, true, feature=read), rel=1e-3)
            assert found["do"][name] > 0.01
    assert "fid" not in evaluate(make(data), data, pairs=False)


def test_distances_of_an_offset_in_closed_form(data):
    offset = 0.01
    found = evaluate(make(data, offset=offset), data, fid_features=read, limit=20)["fid"]
    # All means move alike, and nothing else does.
    assert found["reconstructions"] == pytest.approx(2 * (offset / GAIN) ** 2, rel=1e-3)


def test_what_the_features_are_shown(data):
    seen = []
    data.images = (data.images * 255).round().to(torch.uint8)
    evaluate(make(data, offset=0.6), data, fid_features=lambda x: seen.append(x) or read(x), pairs=False)
    assert [len(x) for x in seen] == [1, 40, 40, 40, 40]
    torch.testing.assert_close(seen[1], data.images / 255)
    for x in seen:
        assert x.dtype == torch.float32
        assert 0 <= x.min() <= x.max() <= 1


def test_features_that_fail_do_so_before_the_rest_is_scored(data):
    def fail(x):
        raise OSError("no weights")

    asked = []
    with pytest.raises(OSError, match="no weights"):
        evaluate(make(data), data, predictor=lambda x: asked.append(x) or read(x), fid_features=fail)
    assert not asked


# The graph -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        (EDGES, (0, 1, 1, 1, 0)),
        ((("a", "b"),), (1, 1, 1 / 2, 2 / 3, 0)),
        ((*EDGES, ("b", "d")), (1, 2 / 3, 1, 4 / 5, 0)),
        ((("b", "a"), ("a", "c")), (1, 1 / 2, 1 / 2, 1 / 2, 1)),
        ((("b", "a"), ("c", "a")), (2, 0, 0, 0, 2)),
        ((), (2, 0, 0, 0, 0)),
    ],
    ids=["same", "missing", "extra", "one reversed", "both reversed", "none"],
)
def test_graph(edges, expected, wide):
    expected = dict(zip(("shd", "precision", "recall", "f1", "order_error"), expected, strict=True))
    run = make(wide, slope=0.0, graph=CausalGraph(NAMES, edges))
    # The order of the concepts makes no difference; this one is not its own inverse.
    for world in (wide, Reordered(wide, [2, 0, 3, 1])):
        scores = evaluate(run, Photos(world), limit=7)
        assert scores["graph"] == pytest.approx(expected)
        assert scores["directions"]["discovery"] == scores["graph"]["f1"]


def test_a_run_of_other_concepts(data):
    for names in (("a", "c"), ("a",)):
        run = make(data, graph=CausalGraph(names))
        message = f"data: got the concepts ['a', 'b']; valid: the run's, {list(names)}"
        with pytest.raises(ValueError, match="^" + re.escape(message)):
            evaluate(run, data)


def test_scores_without_intervals(data):
    run = make(data, offset=0.004)
    full, quick = evaluate(run, data), evaluate(run, data, intervals=False)
    assert quick["intervals"] == {"cf_score": {}, "ceiling": {}}
    assert "95 %" in score_table(full)
    assert "95 %" not in score_table(quick)
    del full["intervals"], quick["intervals"]
    assert quick == full


class Few:
    """A world whose last concept, always 0, has no label."""

    def __init__(self, data):
        data.labels[:, -1] = 0
        self.data, self.labels, self.images = data, data.labels[:, :-1], draw(data.labels)
        self.graph = CausalGraph(NAMES[:-1], EDGES)

    def counterfactual(self, labels, do):
        new, images = self.data.counterfactual(torch.cat([labels, torch.zeros(len(labels), 1)], 1), do)
        return new[:, :-1], images


def test_concepts_of_the_run_that_the_data_has_not(wide):
    run = make(wide, offset=0.004)
    few = evaluate(run, Few(wide))
    wide.images = draw(wide.labels)
    wide.labels = wide.labels.clone()
    wide.labels[:, -1] += 1e-3 * torch.randn(40)
    all_of_it = evaluate(run, wide)
    assert list(few["r2"]) == list(NAMES[:-1])
    for section in ("r2", "reversibility", "cf_score", "ceiling"):
        shared = {key: value for key, value in all_of_it[section].items() if "d" not in key}
        assert few[section].keys() == shared.keys()
        assert few[section] == pytest.approx(shared, rel=1e-2, abs=1e-4)
    assert few["graph"] == {"shd": 0, "precision": 1.0, "recall": 1.0, "f1": 1.0, "order_error": 0}
    assert few["composition"] == pytest.approx(all_of_it["composition"])


@pytest.mark.thorough
@pytest.mark.parametrize("truth", [True, False])
def test_the_order_of_the_datas_concepts_makes_no_difference(truth, wide):
    other = Reordered(wide, [2, 0, 3, 1])
    # Concepts are read too large by different factors, so that none can be taken for another.
    run = make(wide, offset=0.004, scale=[1.0, 1.1, 1.2, 1.3])
    worlds = (wide, other) if truth else (Photos(wide), Photos(other))
    judges = (lambda x: read(x, 4), lambda x: read(x, 4)[:, other.order])
    one, two = (evaluate(run, world, predictor=judge, pairs=False) for world, judge in zip(worlds, judges, strict=True))
    assert list(two["r2"]) == ["c", "a", "d", "b"]
    assert one["composition"] == pytest.approx(two["composition"])
    for section in ("r2", "reversibility", "graph"):
        assert one[section] == pytest.approx(two[section])
    assert one["effectiveness"]["factual"] == pytest.approx(two["effectiveness"]["factual"])
    for name in NAMES:
        assert one["effectiveness"]["do"][name] == pytest.approx(two["effectiveness"]["do"][name])
    for score in ("mic", "tic"):
        assert one["representation"][score] == pytest.approx(two["representation"][score])
    assert one["representation"]["mcc"] == pytest.approx(two["representation"]["mcc"])
    for name in NAMES:
        assert one["intervals"]["r2"][name] == pytest.approx(two["intervals"]["r2"][name])
    if truth:
        for section in ("cf_score", "ceiling", "cf_r2"):
            assert set(one[section]) == set(two[section]) == set(NAMES)
    assert len({round(value, 4) for value in one["r2"].values()}) == 4


@pytest.mark.parametrize("guide", ["Reader", "Clerk"])
def test_a_perfect_model_in_another_order(guide, wide):
    run = make(wide, **({"guide": Clerk} if guide == "Clerk" else {}))
    scores = evaluate(run, Reordered(wide, [2, 0, 3, 1]), pairs=False, predictor=lambda x: read(x, 4)[:, [2, 0, 3, 1]])
    for section in ("r2", "cf_score", "ceiling", "cf_r2"):
        assert list(scores[section].values()) == pytest.approx([1.0] * 4, abs=1e-5)
    found = scores["effectiveness"]
    for errors in (scores["reversibility"], found["factual"], *found["do"].values()):
        assert list(errors.values()) == pytest.approx([0.0] * 4, abs=1e-4)


def test_a_guide_of_labels_is_handed_them(data):
    # It would do as well with images of something else, but for their reconstruction.
    data.images = torch.rand(data.images.shape, generator=torch.Generator().manual_seed(3))
    scores = evaluate(make(data, guide=Clerk), data)
    assert list(scores["r2"].values()) == pytest.approx([1.0] * 2)
    assert list(scores["cf_r2"].values()) == pytest.approx([1.0] * 3)
    # From the first time on it draws what the labels say.
    assert scores["composition"] == pytest.approx([(draw(data.labels) - data.images).abs().mean().item()] * 10, rel=1e-4)
    assert scores["reversibility"] == pytest.approx(dict.fromkeys("ab", scores["composition"][0]), rel=1e-4)
    assert scores["reconstruction_mse"] > 0.05


# Directions and summary ----------------------------------------------------------------------------------------------


def test_directions_in_closed_form(wide):
    offset, scale = 0.008, [1.0, 3.0, 1.2, 1.0]
    run = make(wide, offset=offset, scale=scale, graph=CausalGraph(NAMES, [("a", "b")]))
    # The painter knows nothing of the scale.
    directions = evaluate(run, wide, pairs=False)["directions"]
    assert list(directions) == ["reconstruction", "disentanglement", "discovery", "counterfactual"]
    variance = GAIN**2 * wide.labels.var(0, correction=0).mean().item()
    assert directions["reconstruction"] == pytest.approx(1 - offset**2 / variance, rel=1e-3)
    r2 = r2_score(wide.labels * torch.tensor(scale), wide.labels)
    assert r2.min() < 0
    assert directions["disentanglement"] == pytest.approx(r2.clamp(min=0).mean().item(), rel=1e-4)
    assert directions["discovery"] == pytest.approx(2 / 3)


def test_a_pattern_that_all_images_share_is_nothing_to_explain(data):
    # The model does without it, and in the first row, where the concepts are read, it is 0.
    pattern = 0.2 * torch.tensor([0.0, *([1.0, -1.0] * 7), 0.0])
    data.images = data.images + pattern[:, None]
    scores = evaluate(make(data), data, limit=20)
    assert scores["reconstruction_mse"] == pytest.approx(pattern.square().mean().item(), rel=1e-4)
    assert scores["directions"]["reconstruction"] == 0


def test_negative_scores_count_nothing_in_their_direction(data):
    # Set a, and b moves as far the wrong way: twice the error of the factual image, on 4/5 of the change.
    scores = evaluate(make(data, slope=-2.0), data, pairs=False)
    assert scores["cf_score"] == pytest.approx({"a": 1 - 16 / 5, "b": 1.0}, abs=1e-3)
    assert scores["summary"]["cf_mean"] == pytest.approx(-0.6, abs=1e-3)
    assert scores["directions"]["counterfactual"] == pytest.approx(0.5, abs=1e-3)


def test_pairs_and_summaries(wide):
    scores = evaluate(make(wide, slope=0.5), wide, limit=7)
    singles, pairs = list(NAMES), ["a+b", "a+c", "a+d", "b+c", "b+d", "c+d"]
    for section in ("cf_score", "ceiling", "cf_r2"):
        assert list(scores[section]) == singles + pairs

    def mean(keys):
        return pytest.approx(sum(scores["cf_score"][key] for key in keys) / len(keys))

    expected = {"cf_roots": mean("ad"), "cf_children": mean("bc"), "cf_mean": mean(singles), "cf_pairs": mean(pairs)}
    assert scores["summary"] == {"r2_min": min(scores["r2"].values()), **expected}
    assert scores["directions"]["counterfactual"] == scores["summary"]["cf_mean"]
    single = evaluate(make(wide, slope=0.5), wide, limit=7, pairs=False)
    assert list(single["cf_score"]) == singles
    assert "cf_pairs" not in single["summary"]


def test_without_the_truth(data):
    photos = Photos(data)
    assert (has_truth(data), has_truth(photos)) == (True, False)
    full, scores = evaluate(make(data), data, predictor=read), evaluate(make(data), photos, predictor=read)
    truth = {"cf_score", "ceiling", "cf_r2"}
    assert set(full) - set(scores) == truth
    assert set(full["intervals"]) - set(scores["intervals"]) == {"cf_score", "ceiling"}
    assert set(full["directions"]) - set(scores["directions"]) == {"counterfactual"}
    assert scores["summary"] == {"r2_min": full["summary"]["r2_min"]}
    for section in set(scores) - {"intervals", "directions", "summary", "effectiveness"}:
        assert scores[section] == full[section]
    for world in (data, photos):
        card = evaluate(make(data), world, predictor=read)
        assert json.loads(json.dumps(card)) == card


class Album(Stripes):
    """Other images of the same group of four are the truth; the model knows nothing of the groups."""

    def __init__(self):
        super().__init__(edges=())
        self.groups = torch.arange(len(self.labels)) // 4
        self.asked = []

    def counterfactual(self, index, do):
        raise AssertionError("asked for what need not be there")

    def counterfactual_targets(self, index):
        self.asked.append(index)
        rows = (self.groups == self.groups[index]).nonzero().squeeze(1)
        return rows[rows != index]

    def counterfactual_labels(self, labels, do):
        return torch.stack([torch.as_tensor(do.get(name, labels[:, i])) for i, name in enumerate(self.graph.names)], 1)

    def counterfactual_baselines(self, labels):
        return {"nearly": draw(0.9 * labels), "grey": torch.full((len(labels), 1, SIDE, SIDE), 0.5)}


def test_other_images_as_the_truth():
    album = Album()
    perfect = evaluate(make(album), album, predictor=read, seed=3)
    assert set(perfect["cf_score"]) == set(perfect["ceiling"]) == set(perfect["cf_r2"]) == {"a+b"}
    assert perfect["cf_score"]["a+b"] == pytest.approx(1, abs=1e-5)
    assert perfect["cf_r2"]["a+b"] == pytest.approx(1, abs=1e-4)
    assert len(perfect["intervals"]["cf_score"]["a+b"]) == 2
    assert perfect["directions"]["counterfactual"] == perfect["summary"]["cf_pairs"] == perfect["cf_score"]["a+b"]
    assert perfect["summary"]["cf_mean"] is None
    # Single interventions have no true image, but true labels.
    assert perfect["effectiveness"]["do"]["a"] == pytest.approx({"a": 0, "b": 0}, abs=1e-4)
    assert evaluate(make(album), album, seed=3, pairs=False)["cf_score"] == perfect["cf_score"]
    # Against what the images themselves say.
    generator = torch.Generator().manual_seed(3)
    rows = []
    for index in range(40):
        choices = album.counterfactual_targets(index)
        rows.append(int(choices[torch.randint(3, (), generator=generator)]))
    true, wrong = album.images[rows], evaluate(make(album, offset=0.01), album, seed=3)
    assert wrong["cf_score"]["a+b"] == pytest.approx(1 - 1e-4 / (true - album.images).square().mean().item(), rel=1e-3)
    for name, images in album.counterfactual_baselines(album.labels[rows]).items():
        expected = 1 - (images - true).square().sum() / (album.images - true).square().sum()
        assert perfect["cf_baselines"][name]["a+b"] == pytest.approx(expected.item(), rel=1e-5)
    table = score_table(perfect)
    assert re.search(r"do\(a, b\) +1\.000", table)
    assert re.search(r"image left alone +0\.000\n", table)
    assert re.search(rf"grey +{perfect['cf_baselines']['grey']['a+b']:.3f}\n", table)
    assert json.loads(json.dumps(perfect)) == perfect


def test_only_the_images_used_are_asked_for_their_truth():
    album = Album()
    found = evaluate(make(album), album, limit=10)
    assert album.asked == list(range(0, 40, 4))
    assert found["cf_score"]["a+b"] == pytest.approx(1, abs=1e-5)


def test_a_report_on_other_images_as_the_truth(tmp_path):
    album = Album()
    run = make(album)
    page = write_report(run, album, evaluate(run, album), [], tmp_path).read_text()
    assert "do(a, b)" in page
    assert (tmp_path / "counterfactuals.png").stat().st_size > 1000


# Intervals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 7])
def test_intervals_are_bootstraps_and_subsamples_of_the_images(seed):
    data = noisy(60)
    run, x, labels = make(data, slope=1.5, scale=[1.0, 1.2]), data.images, data.labels
    scores = evaluate(run, data, seed=seed)

    def interval(arrays, statistic, **options):
        return pytest.approx(bootstrap_interval(arrays, statistic, seed=seed, **options)["interval"], rel=1e-6)

    again = reconstruct(run.model, run.guide, x, labels)
    expected = {"reconstruction_mse": interval((again - x).double().square().mean((1, 2, 3)), np.mean)}
    z = encode(run.model, run.guide, x, labels)
    known = run.model.prior.to_labels(z)

    def r2(predicted, target):
        return r2_score(torch.from_numpy(predicted), torch.from_numpy(target)).item()

    expected["r2"] = {name: interval((known[:, i], labels[:, i]), r2) for i, name in enumerate("ab")}
    codes = z.mean(-1)
    for name, score in (("mcc", mcc), ("sap", sap)):
        expected[name] = interval((codes, labels), score, method="percentile", resamples=200)
    dependence = {"mic_mean": lambda z, u: mic_tic(z, u).mic, "tic_mean": lambda z, u: mic_tic(z, u).tic, "mig": mig}
    for name, score in dependence.items():
        # Double precision throughout: what is tied in single need not be.
        found = subsampling_interval((codes.double(), labels), score, bounds=(0, 1), seed=seed)
        expected[name] = pytest.approx(found["interval"], rel=1e-6)
    generator = torch.Generator().manual_seed(seed)
    expected |= {"cf_score": {}, "ceiling": {}}
    for names in (("a",), ("b",), ("a", "b")):
        do = {name: labels[torch.randperm(60, generator=generator), data.graph.index(name)] for name in names}
        true = data.counterfactual(labels, do)[1]
        for section, images in (("cf_score", counterfactual(run.model, run.guide, x, do)), ("ceiling", true + again - x)):
            errors = cf_errors(images, true, x)
            expected[section]["+".join(names)] = interval(errors, lambda error, baseline: 1 - error.sum() / baseline.sum())
    assert scores["intervals"] == expected


def test_intervals_hold_the_value_and_shrink_with_the_images():
    few, many = (noisy(count) for count in (40, 360))
    few, many = (evaluate(make(data, scale=[1.0, 1.2]), data, pairs=False) for data in (few, many))

    def intervals(scores):
        found = {(part, name): scores["intervals"][part][name] for part in ("r2", "cf_score", "ceiling") for name in "ab"}
        return found | {
            ("reconstruction_mse", None): scores["intervals"]["reconstruction_mse"],
            ("mcc", None): scores["intervals"]["mcc"],
        }

    for (part, name), (low, high) in intervals(few).items():
        value = {**few, **few["representation"]}[part]
        assert low < (value if name is None else value[name]) < high
        narrow = intervals(many)[part, name]
        # By 3, the root of 9, on average.
        assert (narrow[1] - narrow[0]) < 0.6 * (high - low)


def test_intervals_of_dependence_hold_the_value():
    data = noisy(60)
    scores = evaluate(make(data, scale=[1.0, 1.2]), data, pairs=False)
    for name in ("mic_mean", "tic_mean", "mig"):
        low, high = scores["intervals"][name]
        assert 0 <= low < scores["representation"][name] < high <= 1
    # 20 bins keep the values of 20 images apart: there is no gap in any subsample.
    assert "mig" not in evaluate(make(noisy()), noisy(), pairs=False)["intervals"]


@pytest.mark.parametrize(("low", "given"), [(0.5, True), (0.949, True), (0.951, False), (0.9999, False)])
def test_mic_near_one_has_no_interval(low, given, monkeypatch):
    scores = representation_scores

    def changed(*arguments, **options):
        return scores(*arguments, **options) | {"mic_mean": low}

    monkeypatch.setattr("causalvae_pyro.evaluation.representation.representation_scores", changed)
    found = evaluate(make(noisy(60)), noisy(60), pairs=False)["intervals"]
    assert ("mic_mean" in found) == given
    assert "tic_mean" in found


def test_fewer_than_eight_images(data):
    few, enough = (evaluate(make(data), data, limit=limit) for limit in (7, 8))
    assert set(enough) - set(few) == {"representation"}
    assert few["intervals"] == {"cf_score": {}, "ceiling": {}}
    assert set(enough["intervals"]) == {"reconstruction_mse", "r2", "mcc", "sap", "cf_score", "ceiling"}
    assert set(few["cf_score"]) == {"a", "b", "a+b"}
    assert evaluate(make(data), Photos(data), limit=7)["intervals"] == {}


def test_a_single_concept():
    data = Stripes(edges=(), names=("a",))
    scores = evaluate(make(data), data, predictor=lambda x: read(x, 1))
    assert scores["effectiveness"]["do"]["a"] == pytest.approx({"a": 0.0}, abs=1e-4)
    assert not {"mig", "sap"} & (set(scores["representation"]) | set(scores["intervals"]))
    assert list(scores["cf_score"]) == ["a"]
    assert scores["summary"]["cf_pairs"] is None
    assert scores["graph"] == {"shd": 0, "precision": 1.0, "recall": 1.0, "f1": 1.0, "order_error": 0}
    assert json.loads(json.dumps(scores)) == scores


def test_a_class_too_rare_for_a_score_leaves_it_out(tmp_path):
    data = rare()
    scores = evaluate(make(data), data)
    # There are resamples without the one image of the class, and on which an intervention on it changes nothing.
    assert "representation" not in scores
    assert list(scores["intervals"]["r2"]) == ["a"]
    assert list(scores["intervals"]["cf_score"]) == list(scores["intervals"]["ceiling"]) == ["a", "a+b"]
    assert not {"mcc", "mig", "sap"} & set(scores["intervals"])
    assert list(scores["cf_score"].values()) == pytest.approx([1.0] * 3, abs=1e-4)
    row = next(line for line in score_table(scores).splitlines() if line.startswith("do(b)"))
    assert re.split(r" {2,}", row) == ["do(b)", "1.000", "1.000", "1.000"]
    assert write_report(make(data), data, scores, [], tmp_path).with_name("scores.png").is_file()


# Tables --------------------------------------------------------------------------------------------------------------


def span(interval, digits):
    return f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


@pytest.fixture(scope="module")
def card():
    """All numbers differ from one another."""
    data = noisy(60)
    graph = CausalGraph(("a", "b"), [("b", "a")])
    run = make(data, slope=0.3, offset=0.004, scale=[1.0, 1.2], graph=graph)
    return evaluate(run, data, predictor=read, fid_features=read)


def test_table_of_concepts(card):
    title, columns, rows = score_sections(card)[0]
    assert "pixel error after do and undo" in title
    assert "intervals of 95 percent" in title
    assert columns == ["concept", "R^2", "95 % interval", "MIC", "TIC", "covered", "undone"]
    scores = card["representation"]
    for name, row in zip("ab", rows, strict=True):
        r2 = [f"{card['r2'][name]:.4f}", span(card["intervals"]["r2"][name], 4)]
        own = [f"{scores[part][name]:.3f}" for part in ("mic", "tic")]
        own.append(f"{card['calibration']['guide'][name][-2]:.3f}")
        assert row == [name, *r2, *own, f"{card['reversibility'][name]:.4f}"]


def test_table_of_counterfactuals(card):
    title, columns, rows = score_sections(card)[1]
    assert title == "Counterfactuals against the truth"
    assert columns == ["intervention", "CF-score", "95 % interval", "ceiling", "CF R^2"]
    for key, label, row in zip(("a", "b", "a+b"), ("do(a)", "do(b)", "do(a, b)"), rows, strict=False):
        score = [f"{card['cf_score'][key]:.3f}", span(card["intervals"]["cf_score"][key], 3)]
        assert row == [label, *score, f"{card['ceiling'][key]:.3f}", f"{card['cf_r2'][key]:.3f}"]
    assert rows[3:] == [
        [f"mean over {label}", f"{card['summary'][key]:.3f}", "", "", ""]
        for label, key in (
            ("roots", "cf_roots"),
            ("children", "cf_children"),
            ("single concepts", "cf_mean"),
            ("pairs", "cf_pairs"),
        )
    ]


def test_table_of_effectiveness(card):
    title, columns, rows = score_sections(card)[2]
    assert "in label units" in title
    assert columns == ["intervention", "a", "b"]
    found = card["effectiveness"]
    assert rows == [
        [label, *(f"{errors[name]:.3g}" for name in "ab")]
        for label, errors in (("none", found["factual"]), ("do(a)", found["do"]["a"]), ("do(b)", found["do"]["b"]))
    ]


def test_table_of_distances(card):
    title, columns, rows = score_sections(card)[3]
    assert "Frechet" in title
    assert columns == ["intervention", "FID"]
    found = card["fid"]
    numbers = [found["reconstructions"], found["do"]["a"], found["do"]["b"]]
    assert rows == [[label, f"{number:.3f}"] for label, number in zip(("none", "do(a)", "do(b)"), numbers, strict=True)]
    assert len({row[1] for row in rows}) == 3


def test_table_of_the_whole(card):
    title, columns, rows = score_sections(card)[4]
    assert title == "The whole, on 60 test images"
    assert columns == ["score", "value", "95 % interval", "of the labels themselves"]
    scores, limit, intervals, graph = (
        card["representation"],
        card["representation"]["of_the_labels"],
        card["intervals"],
        card["graph"],
    )
    parts = ("disentanglement", "completeness", "informativeness")
    assert rows == [
        [
            "mean squared error of reconstructions",
            f"{card['reconstruction_mse']:.6f}",
            span(intervals["reconstruction_mse"], 6),
            "",
        ],
        ["mean absolute error after a null intervention", f"{card['composition'][0]:.4f}", "", ""],
        ["mean absolute error after 10 null interventions", f"{card['composition'][9]:.4f}", "", ""],
        *(
            [
                f"{name.upper()}: mean over concepts, percent",
                f"{100 * scores[f'{name}_mean']:.1f}",
                span([100 * end for end in intervals[f"{name}_mean"]], 1),
                "",
            ]
            for name in ("mic", "tic")
        ),
        *(
            [name.upper(), f"{scores[name]:.3f}", span(intervals[name], 3), f"{limit[name]:.3f}"]
            for name in ("mcc", "mig", "sap")
        ),
        ["IRS", f"{scores['irs']:.3f}", "", f"{limit['irs']:.3f}"],
        *([f"DCI {part}", f"{scores['dci'][part]:.3f}", "", f"{limit['dci'][part]:.3f}"] for part in parts),
        ["structural Hamming distance", f"{graph['shd']}", "", ""],
        ["F1 of the edges", f"{graph['f1']:.2f}", "", ""],
        *([f"in [0, 1]: {name}", f"{value:.3f}", "", ""] for name, value in card["directions"].items()),
    ]
    assert (graph["shd"], graph["f1"]) == (1, 0)


def test_small_errors_have_two_digits(card):
    errors = {"reconstruction_mse": 2.34e-6, "composition": [2.34e-5, 4.0e-5]}
    _, _, rows = score_sections(card | errors)[4]
    assert [row[1] for row in rows[:3]] == ["0.0000023", "0.000023", "0.000040"]
    nothing = {"reconstruction_mse": 0.0, "composition": [0.0, 0.0]}
    _, _, rows = score_sections(card | nothing)[4]
    assert [row[1] for row in rows[:3]] == ["0.00000", "0.0000", "0.0000"]


def test_zeros_are_shown(card):
    zeros = {
        "summary": dict.fromkeys(card["summary"], 0.0),
        "directions": dict.fromkeys(card["directions"], 0.0),
        "intervals": card["intervals"] | {"mcc": [0.0, 0.0]},
    }
    for section, plain in zip(score_sections(card | zeros), score_sections(card), strict=True):
        assert len(section.rows) == len(plain.rows)
    text = score_table(card | zeros)
    assert len(re.findall(r"^mean over .* 0\.000$", text, flags=re.MULTILINE)) == 4
    assert len(re.findall(r"^in \[0, 1\]: .* 0\.000$", text, flags=re.MULTILINE)) == 4
    assert "[0.000, 0.000]" in text


CARDS = {
    "all": lambda: evaluate(make(noisy()), noisy(), predictor=read, fid_features=read),
    "no judge": lambda: evaluate(make(noisy()), noisy()),
    "no pairs": lambda: evaluate(make(noisy()), noisy(), pairs=False),
    "no truth": lambda: evaluate(make(noisy()), Photos(noisy())),
    "no truth, judge": lambda: evaluate(make(noisy()), Photos(noisy()), predictor=read, fid_features=read),
    "few": lambda: evaluate(make(noisy()), noisy(), predictor=read, limit=7),
    "few, no truth": lambda: evaluate(make(noisy()), Photos(noisy()), limit=7),
    "one concept": lambda: evaluate(make(noisy(40, (), ("a",))), noisy(40, (), ("a",))),
    "rare class": lambda: evaluate(make(rare()), rare(), predictor=read),
}


def places(line, row):
    """Where each cell starts in its line."""
    result, after = [], 0
    for cell in row:
        result.append(line.index(cell, after))
        after = result[-1] + len(cell)
    return result


@pytest.mark.parametrize("name", CARDS)
def test_text_tables(name):
    card = CARDS[name]()
    sections = score_sections(card)
    kinds = ["Concepts", "Counterfactuals", "Mean", "Frechet", "The"]
    if "no truth" in name:
        kinds.remove("Counterfactuals")
    if name in ("no judge", "no pairs", "no truth", "few, no truth", "one concept"):
        kinds.remove("Mean")
    if name not in ("all", "no truth, judge"):
        kinds.remove("Frechet")
    assert [section.title.split()[0] for section in sections] == kinds
    # Cards read back from metrics.json give the same tables.
    text = score_table(json.loads(json.dumps(card)))
    for block, section in zip(text.split("\n\n"), sections, strict=True):
        title, rule, head, again, *lines = block.split("\n")
        assert title == section.title
        assert rule == again == "-" * max(len(line) for line in (head, *lines))
        table = [section.columns, *section.rows]
        assert {len(row) for row in table} == {len(section.columns)}
        cells = [re.split(r" {2,}", line) for line in (head, *lines)]
        assert [[cell for cell in row if cell] for row in table] == cells
        assert all(line == line.rstrip() for line in (head, *lines))
        starts = [places(line, row) for line, row in zip((head, *lines), table, strict=True)]
        assert {row[0] for row in starts} == {0}
        # Intervals end where their title does, and numbers have their points below one another.
        for k in range(1, len(section.columns)):
            column = [(row[k], start[k]) for row, start in zip(table, starts, strict=True) if row[k]]
            ends = {start + len(cell) for cell, start in column if cell.startswith("[") or cell == section.columns[k]}
            points = {start + (cell + ".").index(".") for cell, start in column[1:] if not cell.startswith("[")}
            assert len(ends) == 1
            assert len(points) == (section.columns[k] != "95 % interval")
            # Nothing sticks out to the right of the title.
            assert max(start + len(cell) for cell, start in column) == ends.pop()
    everything = " ".join(cell for section in sections for row in (section.columns, *section.rows) for cell in row)
    assert ("MIC" in everything) == ("mic" in card.get("representation", {}))
    assert ("MIG" in everything) == ("SAP" in everything) == ("mig" in card.get("representation", {}))
    assert (re.search(r" \[\d\.\d+, ", everything) is not None) == ("few" not in name)
    assert ("95 % interval" in everything) == ("few" not in name)
    assert ("mean over pairs" in everything) == (card["summary"].get("cf_pairs") is not None)
    assert ("in [0, 1]: counterfactual" in everything) == ("cf_score" in card)
    assert "None" not in everything
    assert "nan" not in everything


def test_undoing_is_abducted_with_the_counterfactual_labels(data):
    """With the factual ones a guide that uses labels would undo the intervention by itself."""
    handed = []

    class Listening(Clerk):
        def forward(self, x, labels=None, num_samples=None):
            handed.append(labels.clone())
            return super().forward(x, labels, num_samples)

    for world in (data, Photos(data)):
        scorer = Scorer(make(world, guide=Listening), world, world.images, world.labels, 0, False)
        handed.clear()
        scorer.axioms()
        # Composition comes first or last; an undo gets the value that was set.
        values = {name: scorer.values(name) for name in world.graph.names}
        for column, name in enumerate(world.graph.names):
            assert any(torch.allclose(labels[:, column].float(), values[name].float(), atol=1e-3) for labels in handed), name
