"""Handwritten digits: thickness causes intensity; digit and handwriting are the image's own noise, kept by counterfactuals.

python examples/train_morphomnist.py --root PATH/TO/morphomnist
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn

from causalvae_pyro import AmortizedGuide, CausalELBO, CausalVAE, FixedPrior, GaussianLikelihood, counterfactual, fit
from causalvae_pyro.checkpoints import SaveCheckpoint
from causalvae_pyro.datasets import MorphoMNIST
from causalvae_pyro.guides import LabelConditionedGuide
from causalvae_pyro.metrics import Predictor
from causalvae_pyro.networks import (
    AugmentedEncoder,
    BrightnessDecoder,
    PooledEncoder,
    RandomBrightness,
    RandomSymmetry,
    SpatialEncoder,
)
from causalvae_pyro.objectives import CounterfactualConsistency, EffectSparsity, LabelFit, PredictorConsistency, warm_up
from causalvae_pyro.plots import plot_comparison
from causalvae_pyro.plots.style import do_label, save_figure, units_of
from causalvae_pyro.scm import SplineFlowSCM
from causalvae_pyro.training import resolve_device


def make(images, labels, graph, noise_dim, prior_std):
    """The model and its guide."""
    shape = tuple(images.shape[1:])
    scm = SplineFlowSCM(graph)
    prior = FixedPrior.from_labels(labels, std=prior_std)
    # Intensity is what all pixels are multiplied by: learned once, from all digits.
    decoder = BrightnessDecoder.from_images(images, len(graph), noise_dim=noise_dim)
    model = CausalVAE(scm, prior, decoder, GaussianLikelihood(learn_scale=True), noise_dim=noise_dim)
    # Thickness and intensity do not change with orientation and place; the handwriting does.
    reader = AugmentedEncoder(PooledEncoder(shape), RandomSymmetry())
    guide = AmortizedGuide(reader, scm, noise_dim=noise_dim, noise_encoder=SpatialEncoder(shape), init_scale=prior_std)
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
    terms = [LabelFit(), CounterfactualConsistency(guide, std=0.07, noise_weight=0.05), EffectSparsity(20.0)]
    if readers:
        terms.append(PredictorConsistency(readers, std=0.015, augmentation=RandomSymmetry()))
    # The handwriting has to get into eps_x first.
    return CausalELBO(w_eps_x=warm_up(0.1), terms=terms)


def read_errors(judge, pictures, labels):
    """Mean absolute errors: the thickness as a judge reads it, and the intensity by its definition."""
    found = torch.stack([judge.predict(pictures)[:, 0], MorphoMNIST.measure_intensity(pictures)], 1)
    return dict(zip(("thickness_px", "intensity_grey_levels"), (found - labels).abs().mean(0).tolist(), strict=True))


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
    fit(
        model,
        guide,
        (images, labels),
        objective=make_objective(guide, readers),
        epochs=args.epochs,
        lr=3e-3,
        device=args.device,
        seed=args.seed,
        callbacks=[SaveCheckpoint(args.out, {"data": {"name": "morphomnist", "root": args.root, "seed": args.seed}})],
    )
    seconds = time.perf_counter() - started
    # Trained on real images apart from the readers, in random brightness, or it would take that for a hint at the thickness.
    torch.manual_seed(args.seed + 1)
    judge = Predictor(tuple(images.shape[1:]), 1).to(model.zero.device)
    augment = nn.Sequential(RandomBrightness(), RandomSymmetry())
    judge.fit(images, labels[:, :1], epochs=30 if args.limit is None else 1, augment=augment)
    x = test.images
    scores = {"real images": read_errors(judge, x, test.labels)}
    guides = {"images alone": guide, "labels known": LabelConditionedGuide(guide, model)}
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    rows = [("factual", x[:10])]
    for column, name in enumerate(test.graph.names):
        do = {name: test.labels[order, column]}
        truth = MorphoMNIST.counterfactual_labels(test.labels, do)
        scores[f"do({name}), image left alone"] = read_errors(judge, x, truth)
        for what, reading in guides.items():
            after = counterfactual(model, reading, x, do, test.labels).cpu().clamp(0, 1)
            scores[f"do({name}), {what}"] = read_errors(judge, after, truth)
        for value in test.labels[:, column].quantile(torch.tensor([0.05, 0.5, 0.95])).tolist():
            rows.append((do_label({name: value}, units_of(test)), counterfactual(model, guide, x[:10], {name: value})))
    print(f"mean absolute errors after {seconds:.0f} s of training:")
    for name, errors in scores.items():
        print(f"{name:<32}" + ", ".join(f"{what.replace('_', ' ')} {error:.3f}" for what, error in errors.items()))
    Path(args.out, "metrics.json").write_text(json.dumps({"seconds": seconds, **scores}, indent=1) + "\n")
    save_figure(plot_comparison(rows), f"{args.out}/counterfactuals.png")
    print(f"wrote {args.out}/counterfactuals.png")


if __name__ == "__main__":
    main()
