"""What holds for every graph, causal layer, precision, batch and image shape, on examples that hypothesis draws.

Each property meets few examples by default and many as a slow test (``make test-slow``).
"""

import math

import pyro.poutine as poutine
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from causalvae_pyro import (
    AdditiveNoiseSCM,
    CausalELBO,
    CausalGraph,
    FixedPrior,
    GaussianLikelihood,
    LinearSCM,
    Shift,
    abduct,
    counterfactual,
    encode,
    fit,
    reconstruct,
)
from causalvae_pyro.networks import ConvDecoder, ConvEncoder, FiLMDecoder, MLPDecoder, MLPEncoder, PooledEncoder, SpatialEncoder
from causalvae_pyro.objectives.terms import LabelFit
from causalvae_pyro.priors import LearnedPrior
from causalvae_pyro.recipes import Recipe
from causalvae_pyro.scm import AffineFlowSCM, MaskLayer, SplineFlowSCM
from tests.builders import SPACES, make_pair

LAYERS = [LinearSCM, MaskLayer, AdditiveNoiseSCM, AffineFlowSCM, SplineFlowSCM]
every_layer = pytest.mark.parametrize("cls", LAYERS, ids=lambda cls: cls.__name__)
few_or_many = pytest.mark.parametrize("examples", [4, pytest.param(200, marks=pytest.mark.slow)])

# Relative to the largest value; the mechanisms below are tame.
TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-9}


def holds(examples, **strategies):
    """Runs the decorated property on so many examples."""

    def run(prop):
        options = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
        settings(max_examples=examples, **options)(given(**strategies)(prop))()

    return run


@st.composite
def graphs(draw, most=6):
    n = draw(st.integers(1, most))
    names = draw(st.permutations([f"c{i}" for i in range(n)]))
    pairs = [(names[i], names[j]) for i in range(n) for j in range(i + 1, n)]
    edges = [pair for pair in pairs if draw(st.booleans())]
    return CausalGraph(sorted(names), edges)


SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from([torch.float32, torch.float64])
CASE = {"graph": graphs(), "dim": st.integers(1, 3), "seed": SEEDS, "dtype": DTYPES}


def make(cls, graph, dim, seed, dtype):
    torch.manual_seed(seed)
    scm = cls(graph, dim, **({} if cls is LinearSCM else {"hidden": 8}))
    with torch.no_grad():
        for parameter in scm.parameters():
            parameter.normal_(0, 0.3)
    return scm.to(dtype)


def close(a, b, dtype):
    assert a.shape == b.shape
    assert a.dtype == b.dtype == dtype
    assert (a - b).abs().max() <= TOLERANCE[dtype] * max(1, b.abs().max().item())


def descendants(graph, name):
    found = {name}
    for other in graph.order:
        if found & set(graph.parents(other)):
            found.add(other)
    return found


# Causal layers -------------------------------------------------------------------------------------------------------


@few_or_many
@every_layer
def test_there_and_back(cls, examples):
    @holds(examples, lead=st.sampled_from([(), (1,), (4,), (2, 3)]), **CASE)
    def prop(graph, dim, seed, dtype, lead):
        scm = make(cls, graph, dim, seed, dtype)
        eps = torch.randn(*lead, len(graph), dim, dtype=dtype)
        z = scm.to_endogenous(eps)
        close(scm.to_exogenous(z), eps, dtype)
        close(scm.to_endogenous(scm.to_exogenous(z)), z, dtype)
        assert torch.equal(scm(eps), z)


@few_or_many
@every_layer
def test_the_log_det_is_that_of_autograd(cls, examples):
    @holds(examples, graph=graphs(4), dim=st.integers(1, 2), seed=SEEDS)
    def prop(graph, dim, seed):
        scm = make(cls, graph, dim, seed, torch.float64)
        eps = torch.randn(2, len(graph), dim, dtype=torch.float64)
        found = scm.log_abs_det_jacobian(eps, scm.to_endogenous(eps))
        for row, value in zip(eps, found, strict=True):
            size = row.numel()
            jacobian = torch.autograd.functional.jacobian(scm.to_endogenous, row).reshape(size, size)
            assert value.item() == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item(), abs=1e-8)


@few_or_many
@every_layer
def test_do_sets_the_value_and_leaves_non_descendants_alone_to_the_bit(cls, examples):
    @holds(examples, data=st.data(), **CASE)
    def prop(graph, dim, seed, dtype, data):
        scm = make(cls, graph, dim, seed, dtype)
        eps = torch.randn(3, len(graph), dim, dtype=dtype)
        z = scm(eps)
        do = {}
        for name in data.draw(st.sets(st.sampled_from(graph.names), min_size=1)):
            shape = data.draw(st.sampled_from([(), (dim,), (3, dim)]))
            do[name] = torch.full(shape, data.draw(st.floats(-1e6, 1e6, width=32)), dtype=dtype)
        after = poutine.do(scm, data=do)(eps)
        reached = set().union(*(descendants(graph, name) for name in do))
        for i, name in enumerate(graph.names):
            if name in do:
                assert torch.equal(after[:, i], do[name].expand(3, dim))
            elif name not in reached:
                assert torch.equal(after[:, i], z[:, i])
        assert torch.isfinite(after).all()


@few_or_many
@every_layer
def test_an_intervention_that_changes_nothing(cls, examples):
    @holds(examples, data=st.data(), **CASE)
    def prop(graph, dim, seed, dtype, data):
        scm = make(cls, graph, dim, seed, dtype)
        eps = torch.randn(3, len(graph), dim, dtype=dtype)
        z = scm(eps)
        # The mask layer's children see the linear concept until something replaces it; a root's is its own.
        names = graph.roots if cls is MaskLayer else graph.names
        do = {name: z[:, graph.index(name)] for name in data.draw(st.sets(st.sampled_from(names)))}
        assert torch.equal(poutine.do(scm, data=do)(eps), z)


@few_or_many
@every_layer
def test_rows_do_not_see_each_other(cls, examples):
    @holds(examples, size=st.integers(2, 5), **CASE)
    def prop(graph, dim, seed, dtype, size):
        scm = make(cls, graph, dim, seed, dtype)
        eps = torch.randn(size, len(graph), dim, dtype=dtype)
        z = scm.to_endogenous(eps)
        order = torch.randperm(size)
        close(scm.to_endogenous(eps[order]), z[order], dtype)
        for i in range(size):
            close(scm.to_endogenous(eps[i : i + 1]), z[i : i + 1], dtype)
        # Other memory, same numbers.
        strided = torch.stack([eps, eps], -1)[..., 0]
        assert not strided.is_contiguous() or strided.numel() == 1
        close(scm.to_endogenous(strided), z, dtype)
        close(scm.to_exogenous(strided), scm.to_exogenous(eps), dtype)


@every_layer
def test_no_rows(cls):
    graph = CausalGraph(["a", "b", "c"], [("a", "b"), ("b", "c")])
    scm = make(cls, graph, 2, 0, torch.float32)
    for lead in ((0,), (3, 0), (0, 3)):
        empty = torch.zeros(*lead, 3, 2)
        assert scm(empty).shape == scm.to_endogenous(empty).shape == scm.to_exogenous(empty).shape == empty.shape
        assert scm.log_abs_det_jacobian(empty, empty).shape == lead


@pytest.mark.parametrize("method", ["forward", "to_endogenous", "to_exogenous"])
@every_layer
def test_another_precision_is_an_error_that_names_the_argument(cls, method):
    graph = CausalGraph(["a", "b"], [("a", "b")])
    argument = "z" if method == "to_exogenous" else "eps"
    for own, other in ((torch.float32, torch.float64), (torch.float64, torch.float32), (torch.float32, torch.int64)):
        scm = make(cls, graph, 1, 0, own)
        with pytest.raises(ValueError, match=rf"^{argument}: expected {own}, as the layer has it, got {other}$"):
            getattr(scm, method)(torch.zeros(2, 2, 1, dtype=other))


# Models --------------------------------------------------------------------------------------------------------------


def pair(graph, shape, cls=AdditiveNoiseSCM, space="endogenous", dim=1, dtype=torch.float32, **options):
    scm = make(cls, graph, dim, 0, dtype)
    options = {"dim": dim, "hidden": 8, "likelihood": GaussianLikelihood(0.1), "dtype": dtype, **options}
    model, guide = make_pair(graph, shape, space, scm=scm, **options)
    return model.eval(), guide.eval()


SHAPES = st.tuples(st.sampled_from([1, 2, 3, 4]), st.integers(1, 7), st.integers(1, 7))


@few_or_many
@every_layer
def test_counterfactuals_of_any_shape_batch_and_precision(cls, examples):
    @holds(
        examples,
        graph=graphs(4),
        shape=SHAPES,
        count=st.integers(1, 4),
        num_samples=st.sampled_from([None, 1, 2]),
        batch_size=st.integers(1, 5),
        dtype=DTYPES,
        seed=SEEDS,
        data=st.data(),
    )
    def prop(graph, shape, count, num_samples, batch_size, dtype, seed, data):
        model, guide = pair(graph, shape, cls, dtype=dtype)
        torch.manual_seed(seed)
        # In the other precision, and strided; both are the caller's business.
        x = torch.rand(count, shape[0], shape[2], shape[1], dtype=torch.float64).transpose(-1, -2)
        name, value = data.draw(st.sampled_from(graph.names)), data.draw(st.floats(-3, 3, width=32))
        options = {"num_samples": num_samples, "batch_size": batch_size}
        images, z = counterfactual(model, guide, x, {name: value}, return_latents=True, **options)
        lead = (count,) if num_samples is None else (num_samples, count)
        assert images.shape == (*lead, *shape)
        assert images.dtype == z.dtype == dtype
        assert torch.equal(z[..., graph.index(name), :], torch.full((*lead, 1), value, dtype=dtype))
        assert torch.isfinite(images).all()
        close(counterfactual(model, guide, x, {}, batch_size=batch_size), reconstruct(model, guide, x), dtype)
        if num_samples is None:
            whole = counterfactual(model, guide, x.contiguous(), {name: value})
            close(images, whole, dtype)
            close(counterfactual(model, guide, x[-1:], {name: value}), whole[-1:], dtype)
            if cls is not MaskLayer:
                close(counterfactual(model, guide, x, {name: Shift(0.0)}), reconstruct(model, guide, x), dtype)


@few_or_many
def test_labels_that_are_missing_anywhere_leave_the_bound_finite(examples):
    @holds(examples, graph=graphs(4), prior=st.sampled_from([FixedPrior, LearnedPrior]), count=st.integers(1, 4), data=st.data())
    def prop(graph, prior, count, data):
        model, guide = pair(graph, (1, 4, 4), prior=prior)
        labels = torch.randn(count, len(graph))
        missing = data.draw(st.lists(st.booleans(), min_size=labels.numel(), max_size=labels.numel()))
        missing = torch.tensor(missing).reshape(labels.shape)
        x = torch.rand(count, 1, 4, 4)
        torch.manual_seed(0)
        found = CausalELBO(1.0, 1.0, terms=[LabelFit()])(model, guide)(x, labels.masked_fill(missing, math.nan))
        found.backward()
        assert torch.isfinite(found)
        assert all(torch.isfinite(p.grad).all() for m in (model, guide) for p in m.parameters() if p.grad is not None)
        # What stands in the place of a missing label does not matter.
        trace = poutine.trace(model).get_trace(x, labels.masked_fill(missing, math.nan))
        trace.compute_log_prob()
        assert torch.isfinite(trace.nodes["z"]["log_prob"]).all()
        assert (trace.nodes["z"]["log_prob"][missing.all(1)] == 0).all()


@pytest.mark.parametrize("space", SPACES)
def test_an_empty_batch_is_an_error_that_names_the_argument(space):
    graph = CausalGraph(["a", "b"], [("a", "b")])
    model, guide = pair(graph, (1, 4, 4), space=space)
    x, labels = torch.rand(0, 1, 4, 4), torch.zeros(0, 2)
    with pytest.raises(ValueError, match=r"^x: got an empty batch$"):
        model(x, labels)
    with pytest.raises(ValueError, match=r"^labels: got an empty batch$"):
        model(labels=labels)
    with pytest.raises(ValueError, match=r"^x: got an empty batch$"):
        guide(x)
    for ask in (
        lambda: counterfactual(model, guide, x, {"a": 1.0}),
        lambda: reconstruct(model, guide, x),
        lambda: abduct(guide, x),
        lambda: encode(model, guide, x),
    ):
        with pytest.raises(ValueError, match=r"^x: got no images$"):
            ask()
    with pytest.raises(ValueError, match=r"^batch_size: got 1, the data has 0 images; must be at most that$"):
        fit(model, guide, (x, labels), batch_size=1, device="cpu", progress=False)


@pytest.mark.parametrize("count", [0, -1, 1.5, "2"], ids=repr)
@pytest.mark.parametrize("argument", ["num_samples", "batch_size"])
def test_counts_of_a_counterfactual(argument, count):
    graph = CausalGraph(["a", "b"], [("a", "b")])
    model, guide = pair(graph, (1, 4, 4))
    with pytest.raises(ValueError, match=rf"^{argument}: got {count!r}; must be (an integer, )?at least 1"):
        counterfactual(model, guide, torch.rand(2, 1, 4, 4), {"a": 1.0}, **{argument: count})


@pytest.mark.parametrize("do", [None, ["a"], "a", 1.0], ids=repr)
def test_interventions_have_to_be_a_mapping(do):
    model, guide = pair(CausalGraph(["a", "b"], [("a", "b")]), (1, 4, 4))
    with pytest.raises(ValueError, match=rf"^do: expected a mapping from concepts to values, got {type(do).__name__}$"):
        counterfactual(model, guide, torch.rand(2, 1, 4, 4), do)


# Training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_batches_of_one_image_train(count):
    model, guide = pair(CausalGraph(["a", "b"], [("a", "b")]), (1, 4, 4))
    options = {"epochs": 2, "batch_size": 1, "device": "cpu", "progress": False}
    history = fit(model, guide, (torch.rand(count, 1, 4, 4), torch.randn(count, 2)), **options)
    assert all(math.isfinite(value) for value in history["loss"])


class Pairs(torch.utils.data.Dataset):
    def __init__(self, images, labels):
        self.pairs = list(zip(images, labels, strict=True))

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


@pytest.mark.parametrize("loader", [False, True])
def test_images_of_any_precision_and_layout_train_alike(loader):
    graph = CausalGraph(["a", "b"], [("a", "b")])
    pixels, labels = torch.randint(0, 256, (6, 3, 5, 4), dtype=torch.uint8), torch.randn(6, 2)
    exact = pixels.double() / 255
    forms = [pixels, exact, exact.float(), exact.float().transpose(-1, -2).contiguous().transpose(-1, -2)]
    losses = []
    for images in forms:
        model, guide = pair(graph, (3, 5, 4))
        data = Pairs(images, labels) if loader else (images, labels.t().contiguous().t())
        losses.append(fit(model, guide, data, epochs=2, batch_size=4, device="cpu", progress=False)["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)
    assert losses[0] == pytest.approx(losses[3], rel=1e-5)


IMAGES, LABELS = torch.rand(4, 1, 4, 4), torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            (IMAGES, LABELS, LABELS),
            r"data: expected a pair of tensors \(images, labels or None\), got \(Tensor, Tensor, Tensor\)",
        ),
        ((IMAGES,), r"data: expected a pair of tensors \(images, labels or None\), got \(Tensor\)"),
        ((IMAGES, LABELS.tolist()), r"data: expected a pair of tensors .* got \(Tensor, list\)"),
        ((IMAGES.numpy(), LABELS), r"data: expected a pair of tensors .* got \(ndarray, Tensor\)"),
        ([IMAGES, LABELS], r"data: expected a pair of tensors \(images, labels\), or a dataset of pairs, got list"),
        (IMAGES, r"data: expected a pair of tensors \(images, labels\), or a dataset of pairs, got Tensor"),
        (None, r"data: expected a pair of tensors \(images, labels\), or a dataset of pairs, got NoneType"),
        ((IMAGES > 0.5, LABELS), r"images: expected uint8, or floating point in \[0, 1\], got torch.bool"),
        (((IMAGES > 0.5).long(), LABELS), r"images: expected uint8, or floating point in \[0, 1\], got torch.int64"),
    ],
)
def test_data_of_another_kind(data, message):
    model, guide = pair(CausalGraph(["a", "b"], [("a", "b")]), (1, 4, 4))
    with pytest.raises(ValueError, match=f"^{message}$"):
        fit(model, guide, data, epochs=1, batch_size=2, device="cpu", progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 1.5}, "epochs: got 1.5; must be an integer, at least 1"),
        ({"batch_size": 2.0}, "batch_size: got 2.0; must be an integer, at least 1"),
        ({"micro_batches": "2"}, "micro_batches: got '2'; must be an integer, at least 1"),
        ({"lr": math.inf}, "lr: got inf; must be > 0 and finite"),
    ],
)
def test_numbers_of_another_kind(options, message):
    model, guide = pair(CausalGraph(["a", "b"], [("a", "b")]), (1, 4, 4))
    with pytest.raises(ValueError, match=f"^{message}$"):
        fit(model, guide, (IMAGES, LABELS), **{"epochs": 1, "batch_size": 2, "device": "cpu", "progress": False} | options)


# Image shapes --------------------------------------------------------------------------------------------------------

ENCODERS = {ConvEncoder: 16, PooledEncoder: 4, SpatialEncoder: 4, MLPEncoder: 1}
DECODERS = {ConvDecoder: 16, FiLMDecoder: 8, MLPDecoder: 1}
SIDES = st.sampled_from([-4, 0, 1, 4, 7, 8, 12, 15, 16, 24, 32])


@few_or_many
@pytest.mark.parametrize("cls", [*ENCODERS, *DECODERS], ids=lambda cls: cls.__name__)
def test_a_network_takes_an_image_shape_or_says_which_it_takes(cls, examples):
    multiple = (ENCODERS | DECODERS)[cls]
    fits_any = cls in (MLPEncoder, MLPDecoder)

    @holds(5 * examples, channels=st.sampled_from([0, 1, 2, 3, 4, 5]), height=SIDES, width=SIDES)
    def prop(channels, height, width):
        shape = (channels, height, width)
        valid = channels in (1, 3, 4) or (fits_any and channels > 0)
        valid = valid and all(side > 0 and side % multiple == 0 for side in shape[1:])
        if not valid:
            with pytest.raises(ValueError, match=r"^image_shape: got "):
                cls(shape) if cls in ENCODERS else cls(shape, 2)
        elif cls in ENCODERS:
            encoder = cls(shape, 5).eval()
            assert encoder(torch.rand(2, *shape)).shape == (2, 5)
            with pytest.raises(ValueError, match=r"^x: expected images of shape "):
                encoder(torch.rand(2, channels, height + 1, width))
        else:
            assert cls(shape, 2)(torch.rand(2, 2, 1)).shape == (2, *shape)


def test_an_encoder_names_another_precision():
    encoder = ConvEncoder((1, 16, 16))
    with pytest.raises(ValueError, match=r"^x: expected torch.float32, as the encoder has it, got torch.float64$"):
        encoder(torch.rand(2, 1, 16, 16, dtype=torch.float64))


@pytest.mark.parametrize("decoder", ["conv", "sprites"])
def test_a_recipe_takes_labels_of_its_graph_only(decoder):
    graph = CausalGraph(["a", "b", "c"], [("a", "b")])
    images = torch.rand(4, 3, 16, 16)
    for labels in (torch.randn(4, 2), torch.randn(3, 3), torch.randn(4)):
        with pytest.raises(ValueError, match=r"^labels: expected shape \[4, 3\] \(images x concepts\), got \["):
            Recipe(decoder=decoder).build(graph, images, labels)
