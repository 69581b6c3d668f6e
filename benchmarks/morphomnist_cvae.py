"""Morpho-MNIST by a conditional VAE of the same size, beside CausalVAE's figures from ``benchmarks/morphomnist.py``.

Same decoder, encoder of the image's own noise, images, labels, epochs, split and judges as ``examples/train_morphomnist.py``.
A conditional VAE is given an image's true labels, and knows no mechanism: ``do(thickness)`` leaves the intensity as it is. It is
therefore scored twice, so and with *all* labels of the true counterfactual told to it. A seed that has finished is not run again.

python benchmarks/morphomnist_cvae.py --root PATH/TO/morphomnist --out benchmarks/results/morphomnist_cvae.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from environment import describe, write_json

from causalvae_pyro import (
    CausalELBO,
    FixedPrior,
    GaussianLikelihood,
    ModulatedDecoder,
    SpatialEncoder,
    counterfactual,
    fit,
    warm_up,
)
from causalvae_pyro.baselines import CVAE, CVAEGuide
from causalvae_pyro.datasets import MorphoMNIST
from causalvae_pyro.metrics import seeds_interval

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from train_morphomnist import Judges, make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with the published files")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="run only from this seed on, to share the work")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--noise-dim", type=int, default=32, help="dimensions of the image's own noise")
    parser.add_argument("--limit", type=int, help="train on the first so many images only")
    parser.add_argument("--cells", type=Path, default=Path("runs/morphomnist_cvae"), help="where finished seeds are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/morphomnist_cvae.json"))
    args = parser.parse_args()
    settings = {"epochs": args.epochs, "noise_dim": args.noise_dim, "limit": args.limit}
    for seed in range(args.first_seed, args.seeds):
        file = args.cells / f"{seed}.json"
        if not file.is_file() or json.loads(file.read_text())["settings"] != settings:
            write_json(file, {"settings": settings, "scores": run(args.root, seed, **settings)})
        print(seed, json.loads(file.read_text())["scores"], flush=True)
    if args.first_seed:
        return
    rows = [json.loads((args.cells / f"{seed}.json").read_text())["scores"] for seed in range(args.seeds)]
    scores = {
        case: {name: seeds_interval([row[case][name] for row in rows]) for name in rows[0][case]}
        for case in rows[0]
        if case not in ("seconds", "parameters")
    }
    extra = {"seconds": seeds_interval([row["seconds"] for row in rows]), "parameters": rows[0]["parameters"]}
    write_json(args.out, {"settings": settings | {"seeds": args.seeds}, "scores": scores, **extra, **describe()})


def run(root: str, seed: int, epochs: int, noise_dim: int, limit: int | None) -> dict:
    """One seed, trained and scored."""
    started = time.perf_counter()
    torch.manual_seed(seed)
    train, test = (MorphoMNIST(root, split, seed=seed) for split in ("train", "test"))
    images, labels = train.images[:limit], train.labels[:limit]
    shape, n = tuple(images.shape[1:]), len(train.graph)
    prior = FixedPrior.from_labels(labels)
    decoder = ModulatedDecoder.from_images(images, n, noise_dim=noise_dim)
    model = CVAE(train.graph.names, prior, decoder, GaussianLikelihood(learn_scale=True), noise_dim=noise_dim)
    shift, scale = labels.mean(0).tolist(), labels.std(0).tolist()
    encoder = SpatialEncoder(shape, label_dim=n, label_shift=shift, label_scale=scale)
    guide = CVAEGuide(encoder, prior, noise_dim=noise_dim)
    objective = CausalELBO(w_eps=1.0, w_z=0.0, w_eps_x=warm_up(0.1))
    fit(model, guide, (images, labels), objective=objective, epochs=epochs, lr=3e-3, seed=seed, device="cpu")
    seconds = time.perf_counter() - started
    causal = make(images, labels, train.graph, noise_dim, 0.01)
    parameters = {"CVAE": _count(model, guide), "CausalVAE": _count(*causal)}

    judges = Judges(train, seed, limit)
    x = test.images.float() / 255
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    scores = {"seconds": seconds, "parameters": parameters, "real images": judges(x, test.labels, test.digits)}

    def draw(do: dict) -> torch.Tensor:
        return counterfactual(model, guide, x, do, test.labels).clamp(0, 1)

    scores["reconstructions"] = judges(draw({}), test.labels, test.digits)
    for column, name in enumerate(test.graph.names):
        do = {name: test.labels[order, column]}
        truth = MorphoMNIST.counterfactual_labels(test.labels, do)
        scores[f"do({name})"] = judges(draw(do), truth, test.digits)
        told = {concept: truth[:, i] for i, concept in enumerate(test.graph.names)}
        scores[f"do({name}), true labels told"] = judges(draw(told), truth, test.digits)
    return scores


def _count(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


if __name__ == "__main__":
    main()
