"""What three ingredients of the sprites' recipe are worth beyond Pendulum: growing price, grey-level floor, slow geometry.

The decoder alone, on known concepts: no guide and no mechanism hide what it has learned. Scores are CF-scores of its images under
interventions on each concept, with the true counterfactual concepts. A cell that is done is kept, so a stopped benchmark goes on
where it was.

python benchmarks/ablation_scenes.py --out benchmarks/results/ablation_scenes.json
"""

from __future__ import annotations

import argparse
import json
import time
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
from causalvae_pyro.recipes import Recipe
from causalvae_pyro.training.optimizers import parameter_groups
from causalvae_pyro.utils.images import scale_images
from causalvae_pyro.utils.numbers import evenly_spaced

#: The price's growth, the scale below which errors do not count, and whether effects take shorter steps than canvases.
VARIANTS: dict[str, dict[str, Any]] = {
    "all": {},
    "same_price": {"growth": 1.0},
    "no_price": {"weight": 0.0},
    "no_floor": {"floor": 1e-3},
    "fast_effects": {"slow": False},
}
DATA = ("flow", "contact", "occlusion", "generations")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=("flow", *SCENES), default=DATA)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--decoder", choices=("sprites", "scene"), default="sprites")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--cells", type=Path, default=Path("runs/ablation_scenes"), help="where finished cells are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ablation_scenes.json"))
    args = parser.parse_args()
    settings = {key: getattr(args, key) for key in ("decoder", "steps", "count", "size")}
    result: dict[str, dict[str, Any]] = {}
    for seed, name, variant in product(range(args.seeds), args.data, args.variants):
        file = args.cells / f"{name}-{variant}-{seed}.json"
        if not file.is_file() or json.loads(file.read_text())["settings"] != settings:
            write_json(file, {"settings": settings, **run(name, seed, **settings, **VARIANTS[variant])})
        print(name, variant, seed, json.loads(file.read_text())["score"], flush=True)
    for name, variant in product(args.data, args.variants):
        cells = [json.loads((args.cells / f"{name}-{variant}-{seed}.json").read_text()) for seed in range(args.seeds)]
        scores = {key: seeds_interval([cell["score"][key] for cell in cells]) for key in cells[0]["score"]}
        result.setdefault(name, {})[variant] = {
            "score": scores,
            "worst": seeds_interval([min(cell["score"].values()) for cell in cells]),
            "mse": seeds_interval([cell["mse"] for cell in cells]),
        }
        row = result[name][variant]["worst"]
        print(f"{name:12} {variant:14} worst concept {row['mean']:.3f} {row.get('interval', '')}")
    write_json(args.out, {"settings": {**settings, "seeds": args.seeds}, "data": result, **describe()})


def run(
    name: str,
    seed: int,
    *,
    decoder: str,
    steps: int,
    count: int,
    size: int,
    weight: float = Recipe().sparsity_weight,
    growth: float = Recipe().sparsity_weight_growth,
    floor: float = 1 / 255,
    slow: bool = True,
) -> dict:
    """One decoder trained from one seed on true concepts, and its scores."""
    train, test = _data(name, seed, count, size)
    torch.manual_seed(seed)
    n = len(train.graph)
    prior = FixedPrior.from_labels(train.labels, 1)
    concepts = prior(train.labels).mean
    kind = SpriteDecoder if decoder == "sprites" else SceneDecoder
    net = kind.from_images(train.images, n, concepts=concepts)
    if not slow:
        net.effects_of_concepts.lr_factor = SpriteDecoder.lr_factor
    groups = parameter_groups([net], list(net.parameters()), 2e-3)
    adam = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, [group["lr"] for group in groups], total_steps=steps, pct_start=0.1)
    sparsity, error, start = EffectSparsity(weight), torch.tensor(0.01), time.perf_counter()
    for step in range(steps):
        batch = torch.randint(len(concepts), (32,))
        x, z = scale_images(train.images[batch]).float(), concepts[batch]
        squares = (net(z).sigmoid() - x).square().flatten(1).sum(1)
        error = 0.9 * error + 0.1 * squares.detach().mean() / x[0].numel()
        price = sparsity.scale * torch.log1p(net.effect_sizes(z) / sparsity.scale).sum()
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
