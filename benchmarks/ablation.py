"""What each ingredient of the sprites' recipe is for: Pendulum with all of them, and with one left out, over several seeds.

Every cell trains from images and labels, and is scored on images alone. A cell that is done is kept, so a stopped benchmark goes
on where it was; start it twice with different ``--variants`` to use two cores.

python benchmarks/ablation.py --out benchmarks/results/ablation.json
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path

import torch
from environment import describe, write_json

from causalvae_pyro import CausalELBO, ConvDecoder, LabelFit, SleepPhase, SparseEffects, SpriteDecoder, fit
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.evaluation import evaluate
from causalvae_pyro.metrics import seeds_interval
from causalvae_pyro.recipes import Recipe

VARIANTS = {
    "all": "all of it",
    "no_price": "no price on effects",
    "no_regression": "sprites start on their parts, but follow nothing",
    "no_parts": "sprites start in the middle",
    "no_prior_share": "the decoder learns from the guide's concepts",
    "no_sleep": "the guide sees real images only",
    "conv": "convolutions, everything else the same",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--limit", type=int, default=300, help="score so many test images")
    parser.add_argument("--cells", type=Path, default=Path("runs/ablation"), help="where finished cells are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ablation.json"))
    args = parser.parse_args()
    settings = {"epochs": args.epochs, "size": args.size, "limit": args.limit}
    for seed, variant in product(range(args.seeds), args.variants):
        file = args.cells / f"{variant}-{seed}.json"
        if not file.is_file() or json.loads(file.read_text())["settings"] != settings:
            write_json(file, {"settings": settings, **run(variant, seed, args.epochs, args.size, args.limit)})
        print(variant, seed, json.loads(file.read_text())["cf_score"], flush=True)
    result = {}
    for variant in args.variants:
        rows = [json.loads((args.cells / f"{variant}-{seed}.json").read_text()) for seed in range(args.seeds)]
        result[variant] = {
            "what": VARIANTS[variant],
            "cf_score": {key: seeds_interval([row["cf_score"][key] for row in rows]) for key in rows[0]["cf_score"]},
            "cf_r2": seeds_interval([min(row["cf_r2"].values()) for row in rows]),
            "seconds": seeds_interval([row["seconds"] for row in rows]),
        }
    write_json(args.out, {"settings": settings | {"seeds": args.seeds}, "variants": result, **describe()})


def run(variant: str, seed: int, epochs: int, size: int, limit: int) -> dict:
    """One variant trained from one seed, and its scores."""
    train, test = (Pendulum(split, size=size, seed=seed) for split in ("train", "test"))
    torch.manual_seed(seed)
    recipe = Recipe(decoder="sprites")
    pair = recipe.build(train.graph, train.images, train.labels)
    model, n = pair.model, len(train.graph)
    if variant == "conv":
        model.decoder = ConvDecoder.from_images(train.images, n)
    elif variant == "no_regression":
        model.decoder = SpriteDecoder.from_images(train.images, n)
    elif variant == "no_parts":
        fresh = SpriteDecoder(train.images.shape[1:], n, sprites=model.decoder.sprites)
        with torch.no_grad():
            fresh.background.copy_(model.decoder.background)
        model.decoder = fresh
    terms = [LabelFit()]
    if variant not in ("no_price", "conv"):
        terms.append(SparseEffects(recipe.effect_price))
    if variant != "no_sleep":
        terms.append(SleepPhase(pair.guide))
    objective = CausalELBO(prior_share=0.0 if variant == "no_prior_share" else 1.0, terms=terms)
    start = time.perf_counter()
    data = (train.images, train.labels)
    fit(model, pair.guide, data, objective=objective, epochs=epochs, seed=seed, device="cpu", progress=False)
    seconds = time.perf_counter() - start
    scores = evaluate(pair, test, limit=limit, pairs=False)
    return {"seconds": seconds, **{key: scores[key] for key in ("cf_score", "cf_r2", "r2", "reconstruction_mse")}}


if __name__ == "__main__":
    main()
