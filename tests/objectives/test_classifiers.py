"""Classifiers of the labels and a discriminator: what they are trained on, and what reaches the decoder."""

import pyro.poutine as poutine
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from causalvae_pyro import AdditiveNoiseSCM, CausalGraph, CausalVAE, FixedPrior, GaussianLikelihood, fit
from causalvae_pyro.guides import HierarchicalGuide
from causalvae_pyro.metrics import LabelWeights
from causalvae_pyro.networks import (
    HierarchicalDecoder,
    LabelPredictor,
    NormalisedEncoder,
    ProjectionDiscriminator,
    RandomView,
    ResidualEncoder,
)
from causalvae_pyro.objectives import CausalELBO, ClassifierConsistency, ClassifierFit, LabelFit, reserved
from tests.builders import jitter

SHAPE, N = (3, 16, 16), 3


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (24, *SHAPE), generator=generator, dtype=torch.uint8) / 255
    labels = torch.randint(0, 2, (24, N), generator=generator).float()
    labels[:, 2] = torch.randn(24, generator=generator)
    return x, labels


@pytest.fixture
def pair():
    torch.manual_seed(0)
    decoder = HierarchicalDecoder(SHAPE, N, channels=(8, 8), noise_channels=(3, 2), blocks=1)
    prior = FixedPrior(N, std=0.3, shift=[0.5, 0.5, 0.0], scale=[0.5, 0.5, 1.0])
    scm = AdditiveNoiseSCM(CausalGraph(["a", "b", "c"], [("a", "b")]))
    model = CausalVAE(scm, prior, decoder, GaussianLikelihood(learn_scale=True), noise_dim=decoder.noise_dim)
    guide = HierarchicalGuide(NormalisedEncoder(SHAPE, 8, channels=8), model)
    jitter(0.05, model, guide)
    return model, guide


def trace_of(model, guide, x, labels):
    guided = poutine.trace(guide).get_trace(x)
    return poutine.trace(poutine.replay(model, guided)).get_trace(x, labels)


class Constant(nn.Module):
    """A classifier that says the same of every image, and keeps what it was shown."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs, self.shown = nn.Parameter(outputs), []

    def forward(self, x):
        self.shown.append(x.detach())
        return self.outputs.expand(len(x), -1)


def test_a_third_is_reserved_by_content(data):
    x, _ = data
    kept = reserved(x)
    assert torch.equal(kept, reserved((255 * x).round().byte()))
    order = torch.randperm(len(x))
    assert torch.equal(kept[order], reserved(x[order]))
    many = torch.randint(0, 256, (3000, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert reserved(many).double().mean().item() == pytest.approx(1 / 3, abs=0.03)


def test_classifiers_are_scored_on_what_is_not_reserved(data, pair):
    (x, labels), (model, guide) = data, pair
    labels = labels.clone()
    labels[:4, 0] = torch.nan
    classifier = Constant(torch.tensor([0.3, -0.2, 0.7]))
    term = ClassifierFit([classifier], augmentations=[lambda x: x], binary=[True, True, False])
    value = term(model, trace_of(model, guide, x, labels), labels)
    keep = ~reserved(x)
    assert_close(classifier.shown[0], x[keep])
    u = labels[keep]
    known = ~u[:, 0].isnan()
    p = torch.tensor([0.3, -0.2]).sigmoid()
    expected = -(torch.where(u[known, 0] > 0, p[0], 1 - p[0])).log().sum() - torch.where(u[:, 1] > 0, p[1], 1 - p[1]).log().sum()
    expected = expected + 0.5 * (0.7 - u[:, 2]).square().sum()
    assert_close(value, expected * len(x) / keep.sum())
    value.backward()
    assert classifier.outputs.grad.abs().min() > 0


def test_a_balanced_classifier_sees_labels_that_are_independent(data, pair):
    (x, labels), (model, guide) = data, pair
    x, labels = x.repeat(20, 1, 1, 1), labels.repeat(20, 1)
    # Of two labels that go together in nine of ten images, few say what the other does not.
    generator = torch.Generator().manual_seed(2)
    labels[:, 1] = torch.where(torch.rand(len(x), generator=generator) < 0.9, labels[:, 0], 1 - labels[:, 0])
    labels[:, 2] = torch.randn(len(x), generator=generator)
    x = (x + 0.2 * torch.rand(x.shape, generator=generator)).clamp(0, 1)
    plain, balanced = (Constant(torch.zeros(N)) for _ in range(2))
    term = ClassifierFit([plain, balanced], augmentations=[lambda x: x] * 2, binary=[True, True, False], balanced=[False, True])
    term(model, trace_of(model, guide, x, labels), labels).backward()
    keep = ~reserved(x)
    u, scale = labels[keep], len(x) / keep.sum()
    weights = LabelWeights([True, True, False])
    weights.update(u)
    factor = weights(u)
    assert factor[u[:, 0] != u[:, 1], :2].min() > 2 > 1 > factor[u[:, 0] == u[:, 1], :2].max()
    slope = torch.where(torch.tensor([True, True, False]), 0.5 - u, -u)
    assert_close(plain.outputs.grad, slope.sum(0) * scale, rtol=1e-4, atol=1e-3)
    assert_close(balanced.outputs.grad, (slope * factor).sum(0) * scale, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="^balanced: got 1 for 2 classifiers; need one for each"):
        ClassifierFit([plain, balanced], augmentations=[lambda x: x] * 2, binary=[True], balanced=[True])


def test_counterfactuals_are_judged_with_their_own_labels(data, pair):
    (x, labels), (model, guide) = data, pair
    labels = labels.clone()
    labels[5, 1] = torch.nan
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(()))

        def forward(self, images, u):
            seen.append((images.detach(), u))
            return self.factor * images.mean((1, 2, 3))

    classifier, spy = Constant(torch.zeros(N)), Spy()
    term = ClassifierConsistency(
        [classifier], augmentations=[lambda x: x], binary=[True, True, False], discriminator=spy, weight=1.0
    )
    trace = trace_of(model, guide, x, labels)
    value = term(model, trace, labels)
    rows = (~reserved(x) & ~labels.isnan().any(1)).nonzero().squeeze(1)
    (both, u), (made, intended) = seen
    # Some images, and some reconstructions, which are as blurred as what it has to tell from them.
    shown, reconstruction = both[: len(rows)], trace.nodes["x"]["fn"].mean.detach()[rows].clamp(0, 1)
    image = torch.stack([torch.equal(a, b) * torch.ones(()) for a, b in zip(shown, x[rows], strict=True)]) > 0
    assert 0 < image.sum() < len(rows)
    assert_close(shown[~image], reconstruction[~image])
    assert_close(u[: len(rows)], (labels[rows] - model.prior.shift) / model.prior.scale)
    # Labels are swapped within their column.
    assert_close(intended.sort(0).values[:, :2].abs(), torch.ones(len(rows), 2))
    assert not torch.equal(intended, u[: len(rows)])
    value.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.decoder.parameters())
    # A discriminator that scores by brightness: the hinge's own part, and nothing of the decoder's.
    real, fake = shown.mean((1, 2, 3)), made.clamp(0, 1).mean((1, 2, 3))
    slope = (-real * (1 - real > 0) + fake * (1 + fake > 0)).sum() * len(x) / len(rows)
    assert_close(spy.factor.grad, slope, rtol=1e-4, atol=1e-4)
    for module in (guide, model.scm, classifier):
        assert all(p.grad is None or p.grad.abs().max() == 0 for p in module.parameters())


def test_pairs_that_no_image_shows_are_not_asked_for(data, pair):
    (x, labels), (model, guide) = data, pair
    x, labels = x.repeat(20, 1, 1, 1), labels.repeat(20, 1)
    x = (x + torch.linspace(0, 0.01, len(x))[:, None, None, None]).clamp(0, 1)
    # b without a is not seen; one image has it.
    labels[:, 1] *= labels[:, 0]
    first = int((~reserved(x)).nonzero()[0])
    labels[first, :2] = torch.tensor([0.0, 1.0])
    asked = {}

    class Spy(nn.Module):
        def forward(self, images, u):
            asked[unseen] = u
            return images.mean((1, 2, 3))

    trace = trace_of(model, guide, x, labels)
    for unseen in ((), (("a", 0, "b", 1),)):
        torch.manual_seed(0)
        ClassifierConsistency(
            [Constant(torch.zeros(N))],
            augmentations=[lambda x: x],
            binary=[True, True, False],
            discriminator=Spy(),
            share=0.9,
            names=["a", "b", "c"],
            unseen=unseen,
        )(model, trace, labels)
    # Of -1 and 1, as the discriminator sees them.
    anything, restricted = (((u[:, 0] < 0) & (u[:, 1] > 0)).tolist() for u in asked.values())
    assert sum(anything) > 20
    assert sum(restricted) <= 1  # the image that is so itself, if no label of it was exchanged
    # All else is: every class of every label, in new combinations.
    before = labels[~reserved(x)]
    changed = (restricted_u := (asked[(("a", 0, "b", 1),)][:, :2] + 1) / 2) != before[:, :2]
    assert changed.double().mean(0).min() > 0.15
    assert {tuple(row) for row in restricted_u.tolist()} >= {(0, 0), (1, 0), (1, 1)}
    with pytest.raises(ValueError, match="unseen: got a pair with 'd'; the names are a, b"):
        ClassifierConsistency([nn.Identity()], augmentations=[lambda x: x], names=["a", "b"], unseen=[("a", 0, "d", 1)])


def test_they_train_with_the_pair(data, pair):
    (x, labels), (model, guide) = data, pair
    classifiers = [
        LabelPredictor(NormalisedEncoder(SHAPE, 8, channels=8), N),
        LabelPredictor(ResidualEncoder(SHAPE, 8, channels=8), N),
    ]
    views, binary = [RandomView(), RandomView(grain=0.1)], [True, True, False]
    critic = ProjectionDiscriminator(SHAPE, N, channels=8)
    before = [p.detach().clone() for module in (*classifiers, critic) for p in module.parameters()]
    terms = [
        LabelFit(),
        ClassifierFit(classifiers, augmentations=views, binary=binary),
        ClassifierConsistency(classifiers, augmentations=views, binary=binary, discriminator=critic, weight=1.0),
    ]
    fit(
        model,
        guide,
        (x, labels),
        objective=CausalELBO(terms=terms, teacher_forcing=1.0),
        epochs=6,
        batch_size=12,
        progress=False,
        device="cpu",
        mixed_precision="bf16",
    )
    after = [p for module in (*classifiers, critic) for p in module.parameters()]
    assert sum(not torch.equal(a, b) for a, b in zip(after, before, strict=True)) > 0.9 * len(after)
    # Precision is full again.
    assert model.decoder(torch.zeros(1, N, 1), torch.zeros(1, model.noise_dim)).dtype == torch.float32


def test_a_discriminator_scores_image_and_labels():
    torch.manual_seed(0)
    critic = ProjectionDiscriminator(SHAPE, N, channels=8)
    x, u = torch.rand(5, *SHAPE), torch.randn(5, N)
    assert critic(x, u).shape == (5,)
    assert (critic(x, u) - critic(x, -u)).abs().min() > 0


def test_a_change_has_a_price(data, pair):
    (x, labels), (model, guide) = data, pair
    model.prior.std.fill_(1e-6)
    trace = trace_of(model, guide, x, labels)
    options = {"augmentations": [lambda x: x], "binary": [True, True, False], "weight": 1.0}
    values = []
    for price in (0.0, 2.0):
        torch.manual_seed(3)
        values.append(ClassifierConsistency([Constant(torch.zeros(N))], minimality=price, **options)(model, trace, labels))
    rows = ~reserved(x)
    seen = []
    torch.manual_seed(3)
    ClassifierConsistency([Constant(torch.zeros(N))], **{**options, "augmentations": [lambda x: seen.append(x) or x]})(
        model, trace, labels
    )
    change = (seen[0] - trace.nodes["x"]["fn"].mean[rows]).abs().sum() * len(x) / rows.sum()
    assert change > 0
    assert_close(values[1] - values[0], 2 * change, rtol=1e-3, atol=1e-3)


def test_readings_of_what_stays_have_a_price(data, pair):
    (x, labels), (model, guide) = data, pair
    jitter(0.3, model.decoder)
    trace = trace_of(model, guide, x, labels)
    rows, seen, concepts = ~reserved(x), [], []

    class Reader(nn.Module):
        """Reads the mean of each channel, up to random numbers that two readings of the same view share."""

        def forward(self, images):
            return images.mean((2, 3)) * 20

    def view(images):
        seen.append(images + torch.rand(len(images), 1, 1, 1))
        return seen[-1]

    model.decoder.register_forward_pre_hook(lambda _, inputs: concepts.append(inputs[0].detach()))
    values = []
    for price in (1e-9, 2.0):
        torch.manual_seed(3)
        term = ClassifierConsistency([Reader()], augmentations=[view], binary=[True, True, False], preservation=price, weight=1.0)
        values.append(term(model, trace, labels))
    _, before, after = (Reader()(images) for images in seen[:3])
    own = trace.nodes["z"]["value"][rows].detach()
    # A label that is drawn anew with the same value is the image's own too, and its concept the very same.
    stays = (concepts[-1] == own).all(-1)
    assert 0.3 < stays.double().mean() < 0.9
    assert stays[:, :2].double().mean() > stays[:, 2].double().mean()
    change = (after - before).abs()
    # Another classifier may read what stays.
    torch.manual_seed(3)
    options = {"augmentations": [view], "binary": [True, True, False], "preservation": 2.0, "weight": 1.0}
    assert_close(ClassifierConsistency([Reader()], preserver=Constant(torch.ones(N)), **options)(model, trace, labels), values[0])
    smooth = torch.where(change < 1, 0.5 * change.square(), change - 0.5)
    assert change.min() < 1 < change.max()
    assert_close(values[1] - values[0], 2 * (smooth * stays).sum() * len(x) / rows.sum(), rtol=1e-3, atol=1e-3)
    model.decoder.zero_grad()
    (values[1] - values[0]).backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.decoder.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augmentations": []}, "^classifiers: got 1 and 0 augmentations; need one for each"),
        ({"share": 0.0}, r"^share: got 0.0; must lie in \(0, 1\]"),
        ({"realism": -1.0}, "^realism: got -1.0; must be >= 0"),
        ({"minimality": -1.0}, "^minimality: got -1.0; must be >= 0"),
        ({"preservation": -1.0}, "^preservation: got -1.0; must be >= 0"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        ClassifierConsistency([nn.Identity()], **{"augmentations": [nn.Identity()], **options})
