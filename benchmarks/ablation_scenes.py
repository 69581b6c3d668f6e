"""What three ingredients of the layers' recipes are worth beyond Pendulum: growing price, grey-level floor, slow geometry.

The decoder alone, the one that the data choose for each kind, on known concepts: no guide and no mechanism hide what it has
learned. After the start the price is to the likelihood what it is at 64 x 64, which the recipe is for. Scores are CF-scores of
the decoder's images under interventions on each concept, with the true counterfactual concepts; differences from the recipe are
taken seed by seed. A cell that is done is kept, so a stopped benchmark goes on where it was.

python benchmarks/ablation_scenes.py --out benchmarks/results/ablation_scenes.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import torch
from environment import describe, write_json
from scenes import SCENES, SceneData

from causalvae_pyro.datasets import Flow
from causalvae_pyro.metrics import cf_score, seeds_interval
from causalvae_pyro.networks import SceneDecoder, SpriteDecoder
from causalvae_pyro.objectives import EffectSparsity
from causalvae_pyro.priors import FixedPrior
from causalvae_pyro.recipes import Recipe, grow_scene, grow_sprites
from causalvae_pyro.recipes.price import price_growth
from causalvae_pyro.recipes.recipe import PIXEL_PRICE, PIXEL_SCALE
from causalvae_pyro.training.optimizers import parameter_groups
from causalvae_pyro.utils.images import scale_images
from causalvae_pyro.utils.numbers import evenly_spaced

#: The price's growth, the scale below which errors do not count, and whether effects take shorter steps than canvases.
VARIANTS: dict[str, dict[str, Any]] = {
    "all": {},
    "growing_price": {"growth": 20.0},
    "same_price": {"growth": 1.0},
    "low_price": {"weight": Recipe().sparsity_weight / 10},
    "no_price": {"weight": 0.0},
    "no_floor": {"floor": 1e-3},
    "fast_effects": {"slow": False},
}
_PIXELS = 64 * 64
#: At 32 x 32 its jet is less than a pixel wide.
_SMALLEST = {"flow": 64}
#: With the decoder that the data choose.
DATA = {
    "flow": "sprites",
    "rotation": "sprites",
    "generations": "sprites",
    "contact": "scene",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--cells", type=Path, default=Path("runs/ablation_scenes"), help="where finished cells are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ablation_scenes.json"))
    args = parser.parse_args()
    # The others are compared with it, and some are it.
    args.variants = list(dict.fromkeys(["all", *args.variants]))
    result: dict[str, dict[str, Any]] = {}
    for seed, name in product(range(args.seeds), args.data):
        settings = settings_of(name, args)
        files = {variant: args.cells / f"{name}-{variant}-{seed}.json" for variant in args.variants}
        missing = [
            variant
            for variant, file in files.items()
            if not file.is_file() or json.loads(file.read_text())["settings"] != settings
        ]
        if missing:
            train, test = _data(name, seed, args.count, settings["size"])
            torch.manual_seed(seed)
            concepts = FixedPrior.from_labels(train.labels, 1)(train.labels).mean
            grow = grow_sprites if DATA[name] == "sprites" else grow_scene
            start = grow(train.images, len(train.graph), concepts=concepts)
        for variant in missing:
            if VARIANTS[variant].get("growth") == price_growth(train.labels):
                # What the recipe does.
                shutil.copy(files["all"], files[variant])
                continue
            found = run(deepcopy(start), train, test, seed, steps=args.steps, **VARIANTS[variant])
            write_json(files[variant], {"settings": settings, **found})
            print(name, variant, seed, found, flush=True)
    for name, variant in product(args.data, args.variants):
        cells = [json.loads((args.cells / f"{name}-{variant}-{seed}.json").read_text()) for seed in range(args.seeds)]
        scores = {key: sum(cell["score"][key] for cell in cells) / len(cells) for key in cells[0]["score"]}
        means = [sum(cell["score"].values()) / len(cell["score"]) for cell in cells]
        result.setdefault(name, {})[variant] = {"score": scores, "mean": seeds_interval(means)}
        if variant != "all":
            gains = [mean - own for mean, own in zip(means, result[name]["all"]["mean"]["values"], strict=True)]
            result[name][variant]["gain"] = seeds_interval(gains)
        print(name, variant, {key: round(score, 4) for key, score in scores.items()}, result[name][variant].get("gain", ""))
    for name in args.data:
        result[name]["settings"] = settings_of(name, args)
    write_json(args.out, {"seeds": args.seeds, "data": result, **describe()})


def settings_of(name: str, args: argparse.Namespace) -> dict[str, int]:
    """Of the cells of one kind."""
    return {"steps": args.steps, "count": args.count, "size": max(args.size, _SMALLEST.get(name, 0))}


def run(
    net: SpriteDecoder,
    train: Any,
    test: Any,
    seed: int,
    *,
    steps: int,
    weight: float = Recipe().sparsity_weight,
    growth: float | None = None,
    floor: float = 1 / 255,
    slow: bool = True,
) -> dict:
    """A decoder trained from its start on true concepts, and its scores; variants of one seed see the same batches."""
    torch.manual_seed(seed)
    prior = FixedPrior.from_labels(train.labels, 1)
    concepts = prior(train.labels).mean
    growth = growth or price_growth(train.labels)
    # The likelihood sums over pixels, the price does not.
    weight *= train.images[0, 0].numel() / _PIXELS
    if not slow:
        net.effects_of_concepts.lr_factor = SpriteDecoder.lr_factor
    groups = parameter_groups([net], list(net.parameters()), 2e-3)
    adam = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, [group["lr"] for group in groups], total_steps=steps, pct_start=0.1)
    error, start = torch.tensor(0.01), time.perf_counter()
    for step in range(steps):
        batch = torch.randint(len(concepts), (32,))
        x, z = scale_images(train.images[batch]).float(), concepts[batch]
        squares = (net(z).sigmoid() - x).square().flatten(1).sum(1)
        error = 0.9 * error + 0.1 * squares.detach().mean() / x[0].numel()
        price = _price(net.effect_sizes(z), EffectSparsity().scale)
        if isinstance(net, SceneDecoder):
            price = price + PIXEL_PRICE / growth * _price(net.field_sizes(z), PIXEL_SCALE)
        # As a likelihood whose scale is learned, not below the floor.
        loss = squares.mean() / (2 * error.clamp(min=floor**2)) + weight * growth ** (step / steps) * price
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    seconds = time.perf_counter() - start

    def draw(labels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return net(prior(labels).mean).sigmoid()

    generator = torch.Generator().manual_seed(seed)
    scores, x = {}, scale_images(test.images).float()
    for j, concept in enumerate(test.graph.names):
        labels, true = test.counterfactual(test.labels, {concept: test.labels[torch.randperm(len(x), generator=generator), j]})
        scores[concept] = cf_score(draw(labels), true, x)
    return {"score": scores, "mse": (draw(test.labels) - x).square().mean().item(), "seconds": seconds}


def _price(sizes: torch.Tensor, scale: float) -> torch.Tensor:
    return scale * torch.log1p(sizes / scale).sum()


def _data(name: str, seed: int, count: int, size: int) -> tuple[Any, Any]:
    if name != "flow":
        return SceneData(SCENES[name], count, 2 * seed + 1, size), SceneData(SCENES[name], 200, 2 * seed + 2, size)
    train, test = (Flow(split, size=size, seed=seed) for split in ("train", "test"))
    # The first ones are a corner of the grid.
    for data, some in ((train, count), (test, 200)):
        rows = evenly_spaced(some, len(data.labels))
        data.images, data.labels = data.images[rows], data.labels[rows]
    return train, test


if __name__ == "__main__":
    main()
