"""What each ingredient of the sprites' recipe is for: Pendulum with all of them, and with one left out, over several seeds.

Every cell trains from images and labels for half of the default's epochs, and is scored on images alone. A cell that is done is
kept, so a stopped benchmark goes on where it was; start it twice with different ``--variants`` to use two cores.

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

from causalvae_pyro import CausalELBO, ConvDecoder, fit
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.evaluation.evaluate import evaluate
from causalvae_pyro.metrics import Predictor, seeds_interval
from causalvae_pyro.networks import SpriteDecoder
from causalvae_pyro.networks.sprites import compositing
from causalvae_pyro.objectives import EffectSparsity, LabelFit, PredictorConsistency, SleepPhase
from causalvae_pyro.recipes import Recipe
from causalvae_pyro.training import resolve_device

# What a variant trains with, in words.
VARIANTS = {
    "all": "all of it",
    "no_price": "no sparsity penalty",
    "same_price": "constant sparsity weight",
    "no_floor": "differences below a grey level count",
    "no_regression": "sprites start on their parts, but follow nothing",
    "no_parts": "sprites start in the middle",
    "fast_effects": "effects take steps as long as canvases do",
    "stretched_edges": "edges and lines stretch with their sprite",
    "no_frame": "the background hides nothing",
    "no_prior_share": "the decoder learns from the guide's concepts",
    "no_sleep": "the guide sees real images only",
    "sprites_alone": "sprites with their start, but no price, true concepts or sleep phase",
    "conv": "convolutions instead of sprites",
    "conv_alone": "convolutions, and the bound on log p(x, u) alone",
    "predictors": "predictors, trained on real images, read drawn interventions instead of the sleep phase",
    "and_predictors": "predictors beside the sleep phase",
    "conv_predictors": "convolutions, with predictors instead of the sleep phase",
    "more_scenes": "three times as many scenes, drawn at random, in as many steps",
}
# Scored with the weights of another.
ONE_READING = "one_reading", "all", "the guide does not read its own drawing"
CONV = ("conv", "conv_alone", "conv_predictors")
NO_PRICE = ("no_price", "sprites_alone", *CONV)
NO_SHARE = ("no_prior_share", "sprites_alone", "conv_alone")
NO_SLEEP = ("no_sleep", "sprites_alone", "conv_alone", "predictors", "conv_predictors")
READ = ("predictors", "and_predictors", "conv_predictors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--limit", type=int, default=200, help="score so many test images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cells", type=Path, default=Path("runs/ablation"), help="where finished cells are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ablation.json"))
    args = parser.parse_args()
    settings = {"epochs": args.epochs, "size": args.size, "limit": args.limit}
    for seed, variant in product(range(args.seeds), args.variants):
        file = args.cells / f"{variant}-{seed}.json"
        if not file.is_file() or json.loads(file.read_text())["settings"] != settings:
            write_json(file, {"settings": settings, **run(variant, seed, args.epochs, args.size, args.limit, args.device)})
        print(variant, seed, json.loads(file.read_text())["scores"]["cf_score"], flush=True)
    result = {}
    for variant, source, what in [*((name, name, VARIANTS[name]) for name in args.variants), ONE_READING]:
        if source not in args.variants:
            continue
        cells = [json.loads((args.cells / f"{source}-{seed}.json").read_text()) for seed in range(args.seeds)]
        rows = [cell["one_reading" if variant == ONE_READING[0] else "scores"] | {"seconds": cell["seconds"]} for cell in cells]
        result[variant] = {
            "what": what,
            "cf_score": {key: seeds_interval([row["cf_score"][key] for row in rows]) for key in rows[0]["cf_score"]},
            "cf_r2": seeds_interval([min(row["cf_r2"].values()) for row in rows]),
            "r2_min": seeds_interval([min(row["r2"].values()) for row in rows]),
            "composition_growth": seeds_interval([row["composition"][-1] / row["composition"][0] for row in rows]),
            "seconds": seeds_interval([row["seconds"] for row in rows]),
        }
    write_json(args.out, {"settings": settings | {"seeds": args.seeds}, "variants": result, **describe()})


def run(variant: str, seed: int, epochs: int, size: int, limit: int, device: str) -> dict:
    """One variant trained from one seed, and its scores."""
    train, test = (Pendulum(split, size=size, seed=seed) for split in ("train", "test"))
    images, labels, graph = train.images, train.labels, train.graph
    if variant == "more_scenes":
        images, labels, epochs = *scenes(train, 3 * len(labels)), epochs // 3
    torch.manual_seed(seed)
    recipe = Recipe(decoder="sprites")
    pair = recipe.build(graph, images, labels)
    model, n = pair.model, len(graph)
    if variant in CONV:
        model.decoder = ConvDecoder.from_images(images, n)
    elif variant == "no_regression":
        model.decoder = SpriteDecoder.from_images(images, n)
    elif variant == "no_parts":
        fresh = SpriteDecoder(images.shape[1:], n, sprites=model.decoder.sprites)
        with torch.no_grad():
            fresh.background.copy_(model.decoder.background)
        model.decoder = fresh
    elif variant == "fast_effects":
        model.decoder.effects_of_concepts.lr_factor = SpriteDecoder.lr_factor
    elif variant == "no_frame":
        model.decoder.frame.requires_grad_(False)
    # So steep a reference that no slope differs from it.
    compositing._FLAT = 1e9 if variant == "stretched_edges" else 10.0
    if variant == "no_floor":
        model.likelihood.min_scale = 1e-3
    terms = [LabelFit()]
    if variant not in NO_PRICE:
        growth = 1.0 if variant == "same_price" else pair.config["recipe"]["sparsity_weight_growth"]
        terms.append(EffectSparsity(lambda progress: recipe.sparsity_weight * growth**progress))
    if variant not in NO_SLEEP:
        terms.append(SleepPhase(pair.guide))
    start = time.perf_counter()
    if variant in READ:
        terms.append(PredictorConsistency(predictors(images, labels, seed, device)))
    objective = CausalELBO(teacher_forcing=0.0 if variant in NO_SHARE else 1.0, terms=terms)
    fit(model, pair.guide, (images, labels), objective=objective, epochs=epochs, seed=seed, device=device, progress=False)
    result = {"seconds": time.perf_counter() - start, "scores": score(pair, test, limit)}
    if variant == ONE_READING[1]:
        pair.guide.refinements = 0
        result[ONE_READING[0]] = score(pair, test, limit)
    return result


def predictors(images: torch.Tensor, labels: torch.Tensor, seed: int, device: str) -> list[Predictor]:
    """Three of them, trained on the real images as they are: where and how large something is tells the concepts."""
    found = []
    for i in range(3):
        torch.manual_seed(1000 * (seed + 1) + i)
        predictor = Predictor(images.shape[1:], labels.shape[1]).to(resolve_device(device))
        predictor.fit(images, labels, epochs=12, seed=i)
        found.append(predictor)
    return found


def scenes(data: Pendulum, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (uint8) and labels of scenes off the published grid."""
    labels, images = data.simulate(count)
    return (images * 255).round().to(torch.uint8), labels


def score(pair, test: Pendulum, limit: int) -> dict:
    """The scores that are kept."""
    scores = evaluate(pair, test, limit=limit, pairs=False, intervals=False)
    return {key: scores[key] for key in ("cf_score", "cf_r2", "r2", "composition", "reconstruction_mse")}


if __name__ == "__main__":
    main()
