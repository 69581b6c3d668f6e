"""Handwritten digits: thickness causes intensity; digit and handwriting are the image's own noise, kept by counterfactuals.

python examples/train_morphomnist.py --root PATH/TO/morphomnist
"""

import argparse

import torch

from causalvae_pyro import (
    AdditiveNoiseSCM,
    CausalVAE,
    ConvDecoder,
    ConvEncoder,
    EndogenousGuide,
    FixedPrior,
    GaussianLikelihood,
    Run,
    counterfactual,
    encode,
    fit,
    save,
)
from causalvae_pyro.datasets import MorphoMNIST
from causalvae_pyro.metrics import Predictor, r2_score
from causalvae_pyro.plots import plot_comparison


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with the published files")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--limit", type=int, help="train on the first so many images only")
    parser.add_argument("--noise-dim", type=int, default=16, help="dimensions of the image's own noise")
    parser.add_argument("--prior-std", type=float, default=0.02)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/morphomnist")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    data, test = (MorphoMNIST(args.root, split, seed=args.seed) for split in ("train", "test"))
    images, labels = data.images[: args.limit], data.labels[: args.limit]
    shape, r = tuple(images.shape[1:]), args.noise_dim

    scm = AdditiveNoiseSCM(data.graph, learn_noise=True)
    prior = FixedPrior.from_labels(labels, std=args.prior_std)
    decoder = ConvDecoder.from_images(images, 2, noise_dim=r)
    model = CausalVAE(scm, prior, decoder, GaussianLikelihood(learn_scale=True), noise_dim=r)
    guide = EndogenousGuide(ConvEncoder(shape, 256, channels=(32, 32, 64, 64)), scm, noise_dim=r, init_scale=args.prior_std)
    fit(model, guide, (images, labels), epochs=args.epochs, device=args.device, seed=args.seed)
    run = Run(model, guide, {"data": {"name": "morphomnist", "seed": args.seed}})
    save(run, args.out)

    # Independent judges, trained on real images.
    torch.manual_seed(args.seed)
    measure, classify = Predictor(shape, 2), Predictor(shape, 10, classify=True)
    epochs = 12 if args.limit is None else 1
    measure.fit(images, labels, epochs=epochs)
    classify.fit(images, data.digits[: args.limit], epochs=epochs)

    x = test.images.float() / 255
    r2 = r2_score(prior.to_labels(encode(run, x)).cpu(), test.labels)
    print(f"R^2 from images: thickness {r2[0]:.4f}, intensity {r2[1]:.4f}")
    error = (measure.predict(x) - test.labels).abs().mean(0)
    accuracy = (classify.predict(x) == test.digits).float().mean()
    print(f"judges on real test images: MAE {error[0]:.3f} px, {error[1]:.2f} grey levels; digit accuracy {accuracy:.4f}")

    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    rows = [("factual", x[:10])]
    for column, name in enumerate(test.graph.names):
        do = {name: test.labels[order, column]}
        after = counterfactual(model, guide, x, do).cpu().clamp(0, 1)
        truth = MorphoMNIST.counterfactual_labels(test.labels, do)
        error = (measure.predict(after) - truth).abs().mean(0)
        accuracy = (classify.predict(after) == test.digits).float().mean()
        print(f"do({name}): MAE {error[0]:.3f} px, {error[1]:.2f} grey levels; digit accuracy {accuracy:.4f}")
        for quantile in (0.05, 0.5, 0.95):
            value = test.labels[:, column].quantile(quantile).item()
            rows.append((f"do({name}\n= {value:.3g})", counterfactual(model, guide, x[:10], {name: value})))
    plot_comparison(rows).savefig(f"{args.out}/counterfactuals.png", dpi=130)
    print(f"wrote {args.out}/counterfactuals.png")


if __name__ == "__main__":
    main()
