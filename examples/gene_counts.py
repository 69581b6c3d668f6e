"""A table of gene counts in place of images: a knock-out as an intervention, beside the true counterfactual counts.

python examples/gene_counts.py
"""

import argparse

import torch

from causalvae_pyro import AdditiveNoiseSCM, AmortizedGuide, CausalVAE, FixedPrior, counterfactual, fit
from causalvae_pyro.datasets import SyntheticSCM
from causalvae_pyro.likelihoods import NegativeBinomialLikelihood
from causalvae_pyro.networks import MLPDecoder, MLPEncoder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--cells", type=int, default=4000)
    parser.add_argument("--genes", type=int, default=60)
    args = parser.parse_args()

    # The truth: the activities of three regulators, of which one drives the others, and genes that follow them all.
    truth = SyntheticSCM(
        {"myc": [], "tp53": ["myc"], "growth": ["myc", "tp53"]},
        {"tp53": lambda p: torch.tanh(p["myc"]), "growth": lambda p: p["myc"] - 0.8 * p["tp53"] ** 2},
        noise_std={"myc": 1.0, "tp53": 0.5, "growth": 0.3},
    )
    generator = torch.Generator().manual_seed(0)
    loadings = 0.6 * torch.randn(3, args.genes, generator=generator, dtype=torch.float64)

    def mean_counts(activities):
        return (2 + activities @ loadings).clamp(max=7).exp()

    def sequence(activities):
        # Negative binomial: a Poisson whose rate varies from cell to cell.
        rate = mean_counts(activities) * torch.distributions.Gamma(10.0, 10.0).sample((len(activities), args.genes))
        return torch.poisson(rate).float()

    torch.manual_seed(0)
    activities = truth.sample(args.cells)
    counts, labels = sequence(activities), activities.float()
    held_out = truth.sample(500, seed=1)

    scm = AdditiveNoiseSCM(truth.graph, hidden=32, learn_noise=True)
    prior = FixedPrior.from_labels(labels, std=0.05)
    decoder = MLPDecoder((args.genes,), 3, hidden=64)
    model = CausalVAE(scm, prior, decoder, NegativeBinomialLikelihood(learn_dispersion=True))
    guide = AmortizedGuide(MLPEncoder((args.genes,), 64, hidden=128, log1p=True), scm, init_scale=0.05)
    history = fit(model, guide, (counts, labels), epochs=args.epochs, progress=False, device="cpu")
    print(f"loss per cell: {history['loss'][0]:.1f} -> {history['loss'][-1]:.1f} nats")
    print(f"dispersion of the counts: learned {model.likelihood.log_dispersion.exp().item():.1f}, true 10")

    # What would each cell's counts be, had the regulator been off? Only its descendants change with it.
    x = sequence(held_out)
    for name in truth.graph.names:
        do = {name: -1.5}
        true = truth.counterfactual(held_out, do)
        predicted, z = counterfactual(model, guide, x, do, return_latents=True)
        errors = (prior.to_labels(z) - true.float()).abs().mean(0).tolist()
        expected, before = mean_counts(true).log(), mean_counts(held_out).log()
        # As a share of what the intervention changes, on the scale of the logarithm.
        score = 1 - ((predicted.log() - expected).square().sum() / (before - expected).square().sum()).item()
        what = ", ".join(f"{concept} {error:.2f}" for concept, error in zip(truth.graph.names, errors, strict=True))
        print(f"do({name} = -1.5): error of {what}; score of the expected counts {score:.3f} (0: left alone, 1: true)")


if __name__ == "__main__":
    main()
