"""What several tests make alike: models with guides, runs, small data, and checks of error messages."""

import csv

import pytest
import torch
from PIL import Image

from causalvae_pyro import AdditiveNoiseSCM, AmortizedGuide, CausalVAE, FixedPrior, GaussianLikelihood
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.guides import DiagonalNormal
from causalvae_pyro.networks import MLPDecoder, MLPEncoder
from causalvae_pyro.recipes import Recipe

SPACES = ("exogenous", "endogenous")


def amortized(space, encoder, scm, **options):
    """A guide over ``eps`` or over ``z``, of the causal layer's shape."""
    where = {"scm": scm} if space == "endogenous" else {"num_concepts": len(scm.graph), "dim": scm.dim}
    return AmortizedGuide(encoder, **where, **options)


def jitter(size, *modules):
    """Moves every parameter away from where it starts, by about ``size``."""
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.add_(size * torch.randn_like(parameter))


def make_pair(
    graph,
    shape,
    space="exogenous",
    *,
    dim=1,
    noise_dim=0,
    label_dim=0,
    scm=AdditiveNoiseSCM,
    prior=FixedPrior,
    decoder=None,
    encoder=None,
    likelihood=None,
    family=None,
    hidden=16,
    features=8,
    moved=0.0,
    dtype=None,
    layer_options=(),
    prior_options=(),
    **options,
):
    """A model with a guide, of small dense networks.

    Args:
        graph: The causal graph.
        shape: Of the images.
        space: Of the guide, one of ``SPACES``.
        dim: Dimensions of each concept.
        noise_dim: Of the image's own noise.
        label_dim: Labels that the encoder reads.
        scm: Class of the causal layer, or the layer.
        prior: Class of the prior, or the prior.
        decoder: In place of the dense one.
        encoder: In place of the dense one.
        likelihood: In place of a Gaussian.
        family: Of the guide.
        hidden: Width of the dense networks.
        features: Of the dense encoder.
        moved: See :func:`jitter`.
        dtype: Precision of both.
        layer_options: Of the causal layer's class.
        prior_options: Of the prior's class.
        **options: Of the guide.
    """
    layer = scm(graph, dim, **dict(layer_options)) if isinstance(scm, type) else scm
    prior = prior(len(graph), dim, **dict(prior_options)) if isinstance(prior, type) else prior
    decoder = decoder or MLPDecoder(shape, len(graph), dim, noise_dim=noise_dim, hidden=hidden)
    model = CausalVAE(layer, prior, decoder, likelihood or GaussianLikelihood(), noise_dim=noise_dim)
    encoder = encoder or MLPEncoder(shape, features, hidden=hidden, label_dim=label_dim)
    guide = amortized(space, encoder, layer, noise_dim=noise_dim, family=family or DiagonalNormal(), **options)
    if moved:
        jitter(moved, model, guide)
    return (model, guide) if dtype is None else (model.to(dtype), guide.to(dtype))


def make_pendulum_pair(data, *, seed=0, std=0.1, hidden=16, space="endogenous", decoder=None, encoder=None, scm=None, **options):
    """The same for images ``[N, 3, 16, 16]`` and labels of Pendulum, some of which may be missing."""
    torch.manual_seed(seed)
    images, labels = data
    scm = scm or AdditiveNoiseSCM(Pendulum.graph, hidden=8, learn_noise=True)
    return make_pair(
        scm.graph,
        (3, 16, 16),
        space,
        scm=scm,
        prior=FixedPrior.from_labels(labels.nan_to_num(1.0), std=std),
        decoder=decoder or MLPDecoder.from_images(images, 4, hidden=hidden),
        encoder=encoder or MLPEncoder((3, 16, 16), 16, hidden=hidden),
        likelihood=GaussianLikelihood(0.3, learn_scale=True),
        init_scale=std,
        **options,
    )


def make_run(graph, images, labels, seed=0, **recipe):
    """An untrained run of a recipe."""
    torch.manual_seed(seed)
    return Recipe(**recipe).build(graph, images, labels)


def thinned(step):
    """Pendulum with every so many scenes only: scores and figures take no time."""

    class Small(Pendulum):
        @classmethod
        def published_labels(cls):
            return super().published_labels()[::step]

    return Small


#: 202 training scenes and 50 test scenes.
Small = thinned(29)


def write_images(folder, count, side=16):
    """Image files ``0.png``, ``1.png``, ... of different grey."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (side, side), (255 * i // max(count, 1), 0, 40 * (i % 3))).save(folder / f"{i}.png")


def write_table(path, header, rows):
    """A CSV table."""
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def raises(argument, *words):
    """A ``ValueError`` that names the argument first, and the words after it in this order."""
    return pytest.raises(ValueError, match=rf"(?s)^{argument}: .*" + ".*".join(words))


def check_one_line(error):
    """The message is one line."""
    assert "\n" not in str(error.value)
