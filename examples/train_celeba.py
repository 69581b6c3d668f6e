"""Faces: SMILE, BEARD or one of DEAR's concept groups; identity and background are the image's own noise.

python examples/train_celeba.py --root PATH --group smile --download
"""

import argparse

import torch

from causalvae_pyro import (
    AdditiveNoiseSCM,
    AmortizedGuide,
    CausalVAE,
    ConvDecoder,
    ConvEncoder,
    FixedPrior,
    GaussianLikelihood,
    Run,
    counterfactual,
    encode,
    fit,
    save,
)
from causalvae_pyro.datasets import CELEBA_GROUPS, CelebA
from causalvae_pyro.plots import plot_comparison
from causalvae_pyro.plots.style import do_label, save_figure


def make(images, labels, graph, noise_dim):
    """The model and its guide."""
    n = len(graph)
    scm = AdditiveNoiseSCM(graph, learn_noise=True)
    prior = FixedPrior(n, shift=0.5, scale=0.5, std=0.3)  # lambda1 maps 0 and 1 to -1 and +1
    decoder = ConvDecoder.from_images(images, n, noise_dim=noise_dim, hidden=512, channels=(128, 64, 32))
    model = CausalVAE(scm, prior, decoder, GaussianLikelihood(learn_scale=True), noise_dim=noise_dim)
    encoder = ConvEncoder(images.shape[1:], 256, channels=(32, 64, 64, 128))
    return model, AmortizedGuide(encoder, scm, noise_dim=noise_dim, init_scale=0.3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with the files, as torchvision or Kaggle has them")
    parser.add_argument("--group", default="smile", choices=sorted(CELEBA_GROUPS))
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--size", type=int, default=64, choices=[64, 128])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--limit", type=int, help="train on the first so many images only")
    parser.add_argument("--noise-dim", type=int, default=128, help="dimensions of the image's own noise")
    parser.add_argument("--workers", type=int, help="processes that decode; by default one per core")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="runs/celeba")
    args = parser.parse_args()

    torch.manual_seed(0)
    options = {"size": args.size, "download": args.download, "workers": args.workers}
    data, test = (CelebA(args.root, args.group, split, **options) for split in ("train", "test"))
    images, labels = data.images[: args.limit], data.labels[: args.limit]
    model, guide = make(images, labels, data.graph, args.noise_dim)
    fit(model, guide, (images, labels), epochs=args.epochs, device=args.device)
    run = Run(model, guide, {"data": {"name": "celeba", "root": args.root, "group": args.group, "size": args.size}})
    save(run, args.out)

    x, truth = test.images[:2000], test.labels[:2000]
    right = ((model.prior.to_labels(encode(run.model, run.guide, x)).cpu() > 0.5) == (truth > 0.5)).float().mean(0)
    for name, accuracy in zip(test.concepts, right.tolist(), strict=True):
        print(f"{name}: read correctly from {100 * accuracy:.1f} % of test images")
    faces = x[:8]
    rows = [("factual", faces)]
    for name in test.concepts:
        for value in (0.0, 1.0):
            rows.append((do_label({name: value}), counterfactual(model, guide, faces, {name: value})))
    save_figure(plot_comparison(rows), f"{args.out}/counterfactuals.png")
    print(f"wrote {args.out}/counterfactuals.png")


if __name__ == "__main__":
    main()
