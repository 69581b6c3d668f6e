"""Handwritten digits: thickness causes intensity; digit and handwriting are the image's own noise, kept by counterfactuals.

python examples/train_morphomnist.py --root PATH/TO/morphomnist
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn
from torchvision.transforms import RandomAffine

from causalvae_pyro import (
    AugmentedEncoder,
    CausalELBO,
    CausalVAE,
    CounterfactualConsistency,
    EndogenousGuide,
    FixedPrior,
    GainDecoder,
    GaussianLikelihood,
    LabelFit,
    LabelledGuide,
    PooledEncoder,
    PredictorConsistency,
    RandomBrightness,
    RandomSymmetry,
    Run,
    SaveCheckpoint,
    SparseEffects,
    SpatialEncoder,
    SplineFlowSCM,
    counterfactual,
    encode,
    fit,
    warm_up,
)
from causalvae_pyro.datasets import MorphoMNIST
from causalvae_pyro.metrics import Predictor, r2_score
from causalvae_pyro.plots import plot_comparison
from causalvae_pyro.training import resolve_device


def make(images, labels, graph, noise_dim, prior_std):
    """The model and its guide."""
    shape = tuple(images.shape[1:])
    scm = SplineFlowSCM(graph)
    prior = FixedPrior.from_labels(labels, std=prior_std)
    # Intensity is what all pixels are multiplied by: learned once, from all digits.
    decoder = GainDecoder.from_images(images, len(graph), noise_dim=noise_dim)
    model = CausalVAE(scm, prior, decoder, GaussianLikelihood(learn_scale=True), noise_dim=noise_dim)
    # Thickness and intensity do not change with orientation and place; the handwriting does.
    reader = AugmentedEncoder(PooledEncoder(shape), RandomSymmetry())
    guide = EndogenousGuide(reader, scm, noise_dim=noise_dim, noise_encoder=SpatialEncoder(shape), init_scale=prior_std)
    return model, guide


def make_readers(images, labels, number, epochs, seed, device):
    """Predictors of both labels, trained on the real images alone, in random brightness, place and orientation."""
    readers = []
    for i in range(number):
        torch.manual_seed(1000 * (seed + 1) + i)
        reader = Predictor(tuple(images.shape[1:]), labels.shape[1]).to(device)
        reader.fit(images, labels, epochs=epochs, augment=RandomSymmetry(), augment_pairs=rescale, seed=i)
        readers.append(reader)
    return readers


def rescale(x, labels):
    """Makes images brighter or darker at random, and their intensity with them. Real ones show it with the thickness only."""
    brighter = RandomBrightness()(x)
    factor = brighter.amax((-3, -2, -1)) / x.amax((-3, -2, -1)).clamp(min=1e-6)
    return brighter, labels * torch.stack([torch.ones_like(factor), factor], 1)


def make_objective(guide, readers=()):
    """What it is trained with."""
    terms = [LabelFit(), CounterfactualConsistency(guide, std=0.07, noise_weight=0.05), SparseEffects(20.0)]
    if readers:
        terms.append(PredictorConsistency(readers, std=0.015, augmentation=RandomSymmetry()))
    # The handwriting has to get into eps_x first.
    return CausalELBO(w_eps_x=warm_up(0.1), terms=terms)


class Judges:
    """Thickness and digit as independent predictors read them, trained on real images, and the intensity by its definition.

    In real images the brightness tells the thickness. The predictors see them in random brightness, or they would take
    it for a hint where an intervention has set it.
    """

    def __init__(self, train, seed, limit=None, device="cpu"):
        torch.manual_seed(seed + 1)
        shape, images = tuple(train.images.shape[1:]), train.images[:limit]
        self.measure, self.classify = (p.to(device) for p in (Predictor(shape, 1), Predictor(shape, 10, classify=True)))
        augment = nn.Sequential(RandomBrightness(), RandomSymmetry())
        self.measure.fit(images, train.labels[:limit, :1], epochs=30 if limit is None else 1, augment=augment)
        augment = nn.Sequential(RandomBrightness(), RandomAffine(12, translate=(0.05, 0.05), scale=(0.9, 1.1), shear=8))
        self.classify.fit(images, train.digits[:limit], epochs=20 if limit is None else 1, augment=augment)

    def __call__(self, pictures, labels, digits):
        """Mean absolute error of thickness and intensity, and the share of digits that are still the same."""
        found = torch.stack([self.measure.predict(pictures)[:, 0], MorphoMNIST.measure_intensity(pictures)], 1)
        thickness, intensity = (found - labels).abs().mean(0).tolist()
        accuracy = (self.classify.predict(pictures) == digits).float().mean().item()
        return {"thickness_mae_px": thickness, "intensity_mae_grey": intensity, "digit_accuracy": accuracy}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with the published files")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--limit", type=int, help="train on the first so many images only")
    parser.add_argument("--noise-dim", type=int, default=32, help="dimensions of the image's own noise")
    parser.add_argument("--prior-std", type=float, default=0.01)
    parser.add_argument("--readers", type=int, default=3, help="predictors that read drawn counterfactuals in training; 0: none")
    parser.add_argument("--reader-epochs", type=int, default=20, help="passes over the images to train each of them")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/morphomnist")
    args = parser.parse_args()

    started = time.perf_counter()
    data, test = (MorphoMNIST(args.root, split, seed=args.seed) for split in ("train", "test"))
    images, labels = data.images[: args.limit], data.labels[: args.limit]
    readers = make_readers(images, labels, args.readers, args.reader_epochs, args.seed, resolve_device(args.device))
    torch.manual_seed(args.seed)
    model, guide = make(images, labels, data.graph, args.noise_dim, args.prior_std)
    config = {"data": {"name": "morphomnist", "root": args.root, "seed": args.seed}}
    fit(
        model,
        guide,
        (images, labels),
        objective=make_objective(guide, readers),
        epochs=args.epochs,
        lr=3e-3,
        device=args.device,
        seed=args.seed,
        callbacks=[SaveCheckpoint(args.out, config)],
    )
    run = Run(model, guide, config)
    seconds = time.perf_counter() - started

    judges = Judges(data, args.seed, args.limit, model.zero.device)
    x = test.images.float() / 255
    r2 = r2_score(run.model.prior.to_labels(encode(run, x)).cpu(), test.labels)
    rebuilt = counterfactual(model, guide, x, {}).cpu()
    scores = {"seconds": seconds, "r2": dict(zip(test.graph.names, r2.tolist(), strict=True))}
    scores["reconstruction_mse"] = (rebuilt - x).square().mean().item()
    scores["real images"] = judges(x, test.labels, test.digits)
    scores["reconstructions"] = judges(rebuilt.clamp(0, 1), test.labels, test.digits)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    rows = [("factual", x[:10])]
    for column, name in enumerate(test.graph.names):
        do = {name: test.labels[order, column]}
        after = counterfactual(model, guide, x, do).cpu().clamp(0, 1)
        truth = MorphoMNIST.counterfactual_labels(test.labels, do)
        scores[f"do({name})"] = judges(after, truth, test.digits)
        after = counterfactual(model, LabelledGuide(guide, model), x, do, test.labels).cpu().clamp(0, 1)
        scores[f"do({name}), labels known"] = judges(after, truth, test.digits)
        for quantile in (0.05, 0.5, 0.95):
            value = test.labels[:, column].quantile(quantile).item()
            rows.append((f"do({name}\n= {value:.3g})", counterfactual(model, guide, x[:10], {name: value})))
    print(f"R^2 from images: thickness {r2[0]:.4f}, intensity {r2[1]:.4f}")
    for name in [name for name in scores if name.startswith(("real", "rec", "do(")) and name != "reconstruction_mse"]:
        s = scores[name]
        errors = f"thickness {s['thickness_mae_px']:.3f} px, intensity {s['intensity_mae_grey']:.2f} grey levels"
        print(f"{name:<28} mean absolute error: {errors}; digit accuracy {s['digit_accuracy']:.4f}")
    Path(args.out, "metrics.json").write_text(json.dumps(scores, indent=1) + "\n")
    plot_comparison(rows).savefig(f"{args.out}/counterfactuals.png", dpi=130)
    print(f"wrote {args.out}/counterfactuals.png")


if __name__ == "__main__":
    main()
