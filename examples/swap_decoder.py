"""Swap the decoder: a convolutional one against layers that the concepts move.

The shadow follows from the pendulum and the light in every training scene, so data do not say which of them its pixels follow.
A convolutional decoder draws it from its causes, and do(shadow_position) goes wrong. Sprites with a price on every effect
leave it to the shadow's own concepts. About five minutes on one core.

python examples/swap_decoder.py
"""

import argparse
from pathlib import Path

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
    counterfactual,
    fit,
)
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.evaluation.evaluate import evaluate
from causalvae_pyro.networks import SpriteDecoder
from causalvae_pyro.objectives import EffectSparsity, LabelFit, SleepPhase
from causalvae_pyro.plots import plot_comparison
from causalvae_pyro.plots.style import save_figure


def make(data, images, labels, name):
    """A pair with this decoder and its objective; causal layer, prior and encoder are alike."""
    scm = AdditiveNoiseSCM(data.graph, learn_noise=True)
    prior = FixedPrior.from_labels(labels, std=0.005)
    guide = AmortizedGuide(ConvEncoder(tuple(images.shape[1:])), scm, init_scale=0.005)
    if name == "convolutions":
        decoder = ConvDecoder.from_images(images, len(data.graph))
        objective = CausalELBO(terms=[LabelFit()])
    else:
        # Layers that start on what moves in the images, following the concepts that it follows.
        decoder = SpriteDecoder.from_images(images, len(data.graph), concepts=prior(labels).mean)
        # The decoder learns from the labels' concepts, the guide from drawn interventions as well as from images.
        terms = [LabelFit(), EffectSparsity(2000.0), SleepPhase(guide)]
        objective = CausalELBO(teacher_forcing=1.0, terms=terms)
    likelihood = GaussianLikelihood(learn_scale=True, lr_factor=getattr(decoder, "lr_factor", 1.0))
    return CausalVAE(scm, prior, decoder, likelihood), guide, objective


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--limit", type=int, help="use so many training images only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("swap_decoder.png"))
    args = parser.parse_args()

    data, test = (Pendulum(split, size=args.size, seed=args.seed) for split in ("train", "test"))
    images, labels = data.images[: args.limit], data.labels[: args.limit]
    chosen = torch.arange(8) * len(test) // 8
    x, factual = test.images[chosen], test.labels[chosen]
    # Each image's shadow goes where another image's is; everything else stays.
    do = {"shadow_position": factual[:, test.graph.index("shadow_position")].roll(4)}

    rows = [("factual", x)]
    for name in ("convolutions", "sprites"):
        torch.manual_seed(args.seed)
        model, guide, objective = make(data, images, labels, name)
        fit(model, guide, (images, labels), objective=objective, epochs=args.epochs, seed=args.seed, progress=False)
        scores = evaluate(Run(model, guide), test, limit=200, pairs=False)
        print(name, "CF-scores", {concept: round(score, 3) for concept, score in scores["cf_score"].items()}, flush=True)
        rows.append((f"do(shadow position)\n{name}", counterfactual(model, guide, x, do)))
    rows.append(("true", test.counterfactual(factual, do)[1]))
    save_figure(plot_comparison(rows), args.out)
    print("wrote", args.out)


if __name__ == "__main__":
    main()
