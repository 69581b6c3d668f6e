"""The whole of it in plain Pyro: SVI, Trace_ELBO and poutine.do, without this package's trainer; and whether it is causal.

python examples/svi_by_hand.py
"""

import argparse

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import CosineAnnealingLR

from causalvae_pyro import AdditiveNoiseSCM, AmortizedGuide, CausalVAE, ConvDecoder, ConvEncoder, FixedPrior, GaussianLikelihood
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.metrics import cf_score


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()

    pyro.set_rng_seed(0)
    data = Pendulum("train", size=args.size)
    images, labels = data.images[: args.limit], data.labels[: args.limit]
    scm = AdditiveNoiseSCM(data.graph, learn_noise=True)
    prior = FixedPrior.from_labels(labels, std=0.005)
    model = CausalVAE(scm, prior, ConvDecoder.from_images(images, 4), GaussianLikelihood(learn_scale=True))
    # Over z: a guide over eps would have to learn the mechanisms backwards, and the bound alone then hardly teaches the layer.
    guide = AmortizedGuide(ConvEncoder(tuple(images.shape[1:])), scm, init_scale=0.005)

    batches = torch.arange(len(images)).split(64)
    optim = CosineAnnealingLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 4e-3}, "T_max": max(1, args.epochs * len(batches))}
    )
    svi = SVI(model, guide, optim, loss=Trace_ELBO())
    for epoch in range(args.epochs):
        total = 0.0
        for index in torch.randperm(len(images)).split(64):
            total += svi.step(images[index], labels[index])
            optim.step()
        print(f"epoch {epoch + 1}: loss {total / len(images):.1f} nats per image")

    # Abduction, action, prediction, in test images. poutine.do works in units of z; model.latent turns labels into them.
    model.eval(), guide.eval()
    test = Pendulum("test", size=args.size)
    x, factual = test.images[::20], test.labels[::20]
    true_labels, true_images = test.counterfactual(factual, do={"light": 12.0})
    with torch.no_grad():
        eps = poutine.trace(guide).get_trace(x).nodes["eps"]["value"]
        world = poutine.condition(poutine.do(model, data=model.latent({"light": 12.0})), data={"eps": eps})
        nodes = poutine.trace(world).get_trace(num_samples=len(x)).nodes

        # What each cause does to its effects, in label standard deviations: by least squares on labels and on mechanisms.
        z = prior(labels).mean
        learned, least_squares = (slopes(scm.graph, z, outcome) for outcome in (scm.means(z), z))
    for edge, strength in learned.items():
        print(f"strength of {edge}: learned {strength:.3f}, least squares {least_squares[edge]:.3f}")
    found = prior.to_labels(nodes["z"]["value"])
    for name in ("light", *test.graph.descendants("light")):
        column = test.graph.index(name)
        error = (found - true_labels)[:, column].abs().mean().item()
        moved = (factual - true_labels)[:, column].abs().mean().item()
        print(f"{name} under do(light = 12): mean error {error:.3f}; it moves by {moved:.3f}")
    score = cf_score(nodes["x_mean"]["value"], true_images, x)
    error = (nodes["x_mean"]["value"] - true_images).square().mean().item()
    print(
        f"counterfactual images: mean squared error {error:.5f}, CF-score {score:.3f} (0: the image left alone, 1: the true one)"
    )


def slopes(graph, z, outcome):
    """Of the linear regression of each effect on its causes, by edge."""
    found = {}
    for child in graph.children:
        parents = [graph.index(parent) for parent in graph.parents(child)]
        solution = torch.linalg.lstsq(z[:, parents, 0], outcome[:, graph.index(child), 0, None]).solution
        found |= {f"{parent} -> {child}": value.item() for parent, value in zip(graph.parents(child), solution, strict=True)}
    return found


if __name__ == "__main__":
    main()
