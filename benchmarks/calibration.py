"""How often the guide's 95 % intervals hold the true label, before and after calibration: Pendulum at 32 x 32, several seeds.

Each seed trains on nine tenths of the training images, fits the temperatures on the others and counts on unseen test images.

python benchmarks/calibration.py --out benchmarks/results/calibration.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from environment import describe, write_json

from causalvae_pyro import fit
from causalvae_pyro.checkpoints import Run
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.evaluation import evaluate
from causalvae_pyro.guides import calibrate
from causalvae_pyro.metrics import seeds_interval
from causalvae_pyro.recipes import Recipe

SIZE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--decoder", default="conv", choices=["conv", "sprites"])
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {"uncalibrated": {}, "guide": {}}
    for seed in range(args.seeds):
        train, test = (Pendulum(split, size=SIZE, seed=seed) for split in ("train", "test"))
        held = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)) < len(train) // 10
        torch.manual_seed(seed)
        recipe = Recipe(decoder=args.decoder)
        run = recipe.build(train.graph, train.images[~held], train.labels[~held])
        data = train.images[~held], train.labels[~held]
        fit(run.model, run.guide, data, objective=recipe.objective(run), epochs=args.epochs, seed=seed, progress=False)
        calibrated = Run(run.model, calibrate(run.model, run.guide, train.images[held], train.labels[held]), run.config)
        coverage = evaluate(calibrated, test, intervals=False, axioms=False, pairs=False, limit=500)["calibration"]
        at = coverage["levels"].index(0.95)
        for part, values in found.items():
            for name, shares in coverage[part].items():
                values.setdefault(name, []).append(shares[at])
        print(f"seed {seed}:", {part: [round(values[name][-1], 3) for name in train.concepts] for part, values in found.items()})
    summary = {part: {name: seeds_interval(values) for name, values in own.items()} for part, own in found.items()}
    for part, own in summary.items():
        print(part, {name: f"{value['mean']:.3f}" for name, value in own.items()})
    if args.out is not None:
        write_json(args.out, {"settings": vars(args) | {"out": args.out.name, "size": SIZE}, "coverage": summary, **describe()})


if __name__ == "__main__":
    main()
