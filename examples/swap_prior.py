"""Swap the conditional prior: any module from labels to a distribution over the concepts.

Compares the paper's N(u, 1), a tight fixed prior, the learned lambda1 and lambda2, and a prior written here.

python examples/swap_prior.py
"""

import argparse

import pyro.distributions as dist
import torch
from torch import nn

from causalvae_pyro import (
    AdditiveNoiseSCM,
    AmortizedGuide,
    CausalELBO,
    CausalVAE,
    ConvDecoder,
    ConvEncoder,
    FixedPrior,
    GaussianLikelihood,
    counterfactual,
    encode,
    fit,
)
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.metrics import cf_score
from causalvae_pyro.objectives import LabelFit
from causalvae_pyro.priors import LearnedPrior


class HeavyTailedPrior(nn.Module):
    """A Student-t around the standardised label: labels may be wrong now and then."""

    def __init__(self, labels, std):
        super().__init__()
        self.std = std
        self.register_buffer("shift", labels.mean(0))
        self.register_buffer("scale", labels.std(0))

    def forward(self, labels):
        loc = (labels - self.shift) / self.scale
        return dist.StudentT(4.0, loc[..., None], self.std).to_event(2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()

    data, test = Pendulum("train", size=args.size), Pendulum("test", size=args.size)
    images, labels = data.images[: args.limit], data.labels[: args.limit]
    x, factual = test.images[: args.limit], test.labels[: args.limit]
    # The light moves; what it does to the shadow, the model has to know.
    truth, true_images = test.counterfactual(factual, {"light": 12.0})
    shadow = test.graph.index("shadow_position")

    priors = {
        "paper: N(u, 1)": FixedPrior.from_labels(labels, std=1.0),
        "fixed: N(u, 0.005^2)": FixedPrior.from_labels(labels, std=0.005),
        "learned lambda1, lambda2": LearnedPrior.from_labels(labels, std=0.1),
        "Student-t, written here": HeavyTailedPrior(labels, std=0.005),
    }
    for name, prior in priors.items():
        torch.manual_seed(0)
        scm = AdditiveNoiseSCM(data.graph, learn_noise=True)
        model = CausalVAE(scm, prior, ConvDecoder.from_images(images, len(data.graph)), GaussianLikelihood(learn_scale=True))
        guide = AmortizedGuide(ConvEncoder(tuple(images.shape[1:])), scm, init_scale=0.005)
        objective = CausalELBO(terms=[LabelFit()])
        history = fit(model, guide, (images, labels), objective=objective, epochs=args.epochs, progress=False)
        z = encode(model, guide, x).squeeze(-1)
        correlation = torch.stack([torch.corrcoef(torch.stack([z[:, i], test.labels[: len(x), i]]))[0, 1] for i in range(4)])
        print(f"{name:<26} loss {history['loss'][-1]:>12.1f}   label correlation {[round(c, 4) for c in correlation.tolist()]}")
        made, z = counterfactual(model, guide, x, {"light": 12.0}, return_latents=True)
        # In units of z, since a prior need not read labels back; there the true effects are its means.
        there, wanted = (prior(labels).mean[:, shadow, 0] for labels in (factual, truth))
        error, moved = ((at - wanted).abs().mean().item() for at in (z[:, shadow, 0], there))
        print(
            f"{'':<26} do(light = 12): CF-score {cf_score(made, true_images, x):.3f}, "
            f"error of the shadow's position {error:.3f} (it moves by {moved:.3f})"
        )


if __name__ == "__main__":
    main()
