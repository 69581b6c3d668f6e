"""
Swapping the prior
==================

The conditional prior ``p(z | u)`` ties each concept to its label. How tightly decides what the concepts mean. The same
model is trained with four priors: the paper's width of 1, a narrow one, one with learned mean and width, and one written here. Eighty steps each, so the figures are
worse than those of a full training and say how *fast* each prior ties the concepts down; :doc:`/notes` has longer runs.
"""

import pyro.distributions as dist
import torch

from causalvae_pyro import (
    AdditiveNoiseSCM,
    AmortizedGuide,
    CausalELBO,
    CausalVAE,
    ConvDecoder,
    ConvEncoder,
    FixedPrior,
    GaussianLikelihood,
    Run,
    encode,
    fit,
)
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.metrics import r2_score
from causalvae_pyro.objectives import LabelFit
from causalvae_pyro.plots.style import BLUE, GREY, MIN_FONT, axis_label, figure_style, subplots
from causalvae_pyro.priors import LearnedPrior

IMAGES, EPOCHS = 640, 8

train, test = (Pendulum(split, size=32) for split in ("train", "test"))
chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:IMAGES]
images, labels = train.images[chosen], train.labels[chosen]
x, u = test.images[::4], test.labels[::4]


class HeavyTailedPrior(FixedPrior):
    """A Student-t around the label: labels may be wrong now and then."""

    def forward(self, labels):
        """``p(z | u)``."""
        return dist.StudentT(4.0, self.lambda1(labels), self.lambda2(labels)).to_event(2)


priors = {
    "N(u, 1), the paper's": FixedPrior.from_labels(labels, std=1.0),
    "N(u, 0.005²)": FixedPrior.from_labels(labels, std=0.005),
    "learned": LearnedPrior.from_labels(labels, std=0.1),
    "Student-t, width 0.005": HeavyTailedPrior.from_labels(labels, std=0.005),
}
runs = {}
for name, prior in priors.items():
    torch.manual_seed(0)
    scm = AdditiveNoiseSCM(train.graph, learn_noise=True)
    model = CausalVAE(scm, prior, ConvDecoder.from_images(images, 4), GaussianLikelihood(learn_scale=True))
    guide = AmortizedGuide(ConvEncoder((3, 32, 32)), scm, init_scale=0.005)
    objective = CausalELBO(terms=[LabelFit()])
    fit(model, guide, (images, labels), objective=objective, epochs=EPOCHS, lr=4e-3, progress=False, device="cpu")
    runs[name] = Run(model, guide)

# %%
# What is read from test images, against the labels. The columns are priors; perfect reading is the grey line.

with figure_style():
    figure, panels = subplots(2, len(runs), height=4.0, sharex="row", sharey="row")
for column, (name, run) in enumerate(runs.items()):
    read = run.model.prior.to_labels(encode(run.model, run.guide, x))
    r2 = r2_score(read.double(), u.double())
    print(
        f"{name:<24}R² " + "  ".join(f"{concept} {value:.3f}" for concept, value in zip(test.concepts, r2.tolist(), strict=True))
    )
    for row, concept in enumerate(("light", "shadow_position")):
        index, axes = test.graph.index(concept), panels[row, column]
        low, high = u[:, index].min().item(), u[:, index].max().item()
        axes.plot([low, high], [low, high], color=GREY, linestyle="-", marker="", linewidth=0.8)
        axes.scatter(u[:, index].tolist(), read[:, index].tolist(), s=4, color=BLUE, alpha=0.5, linewidths=0)
        axes.set_ylim(low - 6, high + 6)
        axes.text(0.04, 0.9, f"R² {r2[index]:.3f}", transform=axes.transAxes, fontsize=MIN_FONT)
        named = axis_label(concept, test.units[index])
        axes.set_xlabel(f"label: {named}", fontsize=MIN_FONT)
        axes.set_ylabel(f"read: {named}", fontsize=MIN_FONT)
        axes.set_title(name, fontsize=MIN_FONT)
        axes.grid(alpha=0.3)

# %%
# How hard a prior pulls a concept that lies ``d`` label standard deviations off its label is the slope of its negative logarithm, in nats: ``d`` for the paper's prior, ``40,000 d`` for the narrow one,
# ``100 d`` for the learned one as it starts. Against the first the image's likelihood wins: in these few steps nothing is read at all. The Student-t allows for labels that are wrong now and then: far off it pulls with ``5 / d``, whatever its
# width, and takes what an encoder that cannot read yet says for a wrong label. How a prior of your own has to look is in :doc:`/howto/prior`.
