"""Counterfactuals that keep the image's own pixel noise, beside those that do not: Pendulum at 32 x 32, clean and with grain.

Grain is Gaussian noise of 0.1 on every pixel of training, test and true counterfactual images, for each image its own: what no
concept explains, and what the true counterfactual shares with the factual image.

python benchmarks/pixel_noise.py --out benchmarks/results/pixel_noise.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from environment import describe, write_json
from torch import Tensor

from causalvae_pyro import Run, counterfactual, fit
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.metrics import cf_score, composition, seeds_interval
from causalvae_pyro.recipes import Recipe
from causalvae_pyro.utils.images import as_images

SIZE, GRAIN, CAUSES, LEVELS = 32, 0.1, ("pendulum", "light"), 255
#: Share that is kept, and the change at which 61 % of it is left.
KEPT: dict[str, dict[str, Any]] = {
    "0": {},
    "0.5": {"pixel_noise": 0.5},
    "1": {"pixel_noise": 1.0},
    **{f"1, fade {width}": {"pixel_noise": 1.0, "fade": width} for width in (0.01, 0.03, 0.1)},
}
#: Decoder, whether the images have grain, what the row is called.
ROWS = (("sprites", False, "sprites"), ("conv", False, "convolutions"), ("conv", True, "convolutions, images with grain"))
COLUMNS = (*(f"do({name})" for name in CAUSES), "composition_1", "composition_10")


def grainy(images: Tensor, seed: int) -> Tensor:
    """Images with grain; the same for the same seed."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + GRAIN * noise).clamp(0, 1)


def scores(run: Run, x: Tensor, worlds: dict[str, tuple[Tensor, Tensor]], kept: dict[str, Any]) -> tuple[float, ...]:
    """CF-scores of interventions, and composition in grey levels; :data:`COLUMNS`."""

    def draw(images: Tensor, do: dict[str, Tensor]) -> Tensor:
        return counterfactual(run.model, run.guide, images, do, **kept).clamp(0, 1)

    found = (cf_score(draw(x, {name: values}), true, x) for name, (values, true) in worlds.items())
    drift = LEVELS * composition(lambda images: draw(images, {}), x, times=10)
    return *found, drift[0].item(), drift[-1].item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--limit", type=int, default=300, help="test images")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    train, test = Pendulum("train", size=SIZE), Pendulum("test", size=SIZE)
    chosen = torch.arange(args.limit) * len(test) // args.limit
    clean, labels = as_images(test.images[chosen]), test.labels[chosen]
    order = torch.randperm(args.limit, generator=torch.Generator().manual_seed(0))
    values = {name: labels[order, test.graph.index(name)] for name in CAUSES}
    clean_true = {name: test.counterfactual(labels, {name: value})[1] for name, value in values.items()}
    result: dict[str, Any] = {}
    for decoder, grain, row in ROWS:
        images = grainy(as_images(train.images), 1) if grain else train.images
        x = grainy(clean, 2) if grain else clean
        worlds = {name: (values[name], grainy(true, 2) if grain else true) for name, true in clean_true.items()}
        found: dict[str, list[tuple[float, ...]]] = {name: [] for name in KEPT}
        for seed in range(args.seeds):
            torch.manual_seed(seed)
            recipe = Recipe(decoder=decoder)
            run = recipe.build(train.graph, images, train.labels)
            options = {"epochs": args.epochs, "seed": seed, "device": "cpu", "progress": False}
            fit(run.model, run.guide, (images, train.labels), objective=recipe.objective(run), **options)
            for name, kept in KEPT.items():
                found[name].append(scores(run, x, worlds, kept))
        result[row] = {}
        for kept_as, seeds in found.items():
            columns = {name: seeds_interval(column) for name, column in zip(COLUMNS, zip(*seeds, strict=True), strict=True)}
            result[row][kept_as] = columns
            cells = " | ".join(cell(column, 3 if name.startswith("do") else 2) for name, column in columns.items())
            print(f"| {row} | {kept_as} | {cells} |", flush=True)
    if args.out is not None:
        write_json(args.out, {"rows": result, "options": {k: v for k, v in vars(args).items() if k != "out"}, **describe()})


def cell(column: Any, digits: int) -> str:
    """Mean and half of the 95 % interval over seeds."""
    if "interval" not in column:
        return f"{column['mean']:.{digits}f}"
    low, high = column["interval"]
    return f"{column['mean']:.{digits}f} ± {(high - low) / 2:.{digits}f}"


if __name__ == "__main__":
    main()
