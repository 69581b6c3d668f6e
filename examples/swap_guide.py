"""Swap the guide: any callable with the model's signature that samples ``eps``.

Compares q(eps | x), q(eps | x, u), q(z | x) mapped back to eps, and a full-covariance guide written here.

python examples/swap_guide.py
"""

import argparse

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
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
    fit,
)
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.metrics import cf_score
from causalvae_pyro.objectives import LabelFit


class FullCovarianceGuide(PyroModule):
    """q(eps | x) = N(m(x), L(x) L(x)^T): the noises of one image may be correlated."""

    def __init__(self, encoder, n):
        super().__init__("full_covariance_guide")
        self.encoder, self.n = encoder, n
        self.head = nn.Linear(encoder.out_features, n + n * n)

    def forward(self, x, labels=None, num_samples=None):
        h = self.head(self.encoder(x))
        lower = h[:, self.n :].reshape(-1, self.n, self.n).tril(-1)
        lower = 0.1 * lower + torch.diag_embed(0.02 * h[:, self.n : 2 * self.n].exp())
        with pyro.plate("data", len(x)):
            flat = dist.MultivariateNormal(h[:, : self.n], scale_tril=lower)
            # One event of shape [n, 1], as the model's site has it.
            to_columns = torch.distributions.ReshapeTransform((self.n,), (self.n, 1))
            return pyro.sample("eps", dist.TransformedDistribution(flat, [to_columns]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()

    data, test = Pendulum("train", size=args.size), Pendulum("test", size=args.size)
    images, labels = data.images[: args.limit], data.labels[: args.limit]
    x, u = test.images[: args.limit], test.labels[: args.limit]
    true_labels, true = test.counterfactual(u, {"light": 12.0})
    shadow = test.graph.index("shadow_position")  # an effect of the light
    moved = (u - true_labels)[:, shadow].abs().mean().item()
    n, shape = len(data.graph), tuple(images.shape[1:])
    standard = {"label_shift": labels.mean(0).tolist(), "label_scale": labels.std(0).tolist()}

    guides = {
        "q(eps | x)": lambda scm: AmortizedGuide(ConvEncoder(shape), num_concepts=n, init_scale=0.005),
        "q(eps | x, u)": lambda scm: AmortizedGuide(
            ConvEncoder(shape, label_dim=n, **standard), num_concepts=n, init_scale=0.005
        ),
        "q(z | x), mapped to eps": lambda scm: AmortizedGuide(ConvEncoder(shape), scm, init_scale=0.005),
        "full covariance": lambda scm: FullCovarianceGuide(ConvEncoder(shape), n),
    }
    for name, make in guides.items():
        torch.manual_seed(0)
        scm = AdditiveNoiseSCM(data.graph, learn_noise=True)
        prior = FixedPrior.from_labels(labels, std=0.005)
        model = CausalVAE(scm, prior, ConvDecoder.from_images(images, n), GaussianLikelihood(learn_scale=True))
        guide = make(scm)
        objective = CausalELBO(terms=[LabelFit()])
        history = fit(model, guide, (images, labels), objective=objective, epochs=args.epochs, progress=False)
        made, z = counterfactual(model, guide, x, {"light": 12.0}, u, return_latents=True)
        error = (prior.to_labels(z) - true_labels)[:, shadow].abs().mean().item()
        print(
            f"{name:<26} loss {history['loss'][-1]:>12.1f}   do(light = 12): CF-score {cf_score(made, true, x):.3f}, "
            f"error of the shadow's position {error:.2f} (it moves by {moved:.2f})"
        )


if __name__ == "__main__":
    main()
