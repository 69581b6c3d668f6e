"""Photographs over several seeds: the recipe, and what it is worth beside conditional autoencoders without a causal layer.

Each seed has its own split by persons, weights and predictor; all methods of a seed have the same of each. ``causal_vae`` is
``causalvae train DATA``; ``hvae`` is the same decoder and guide, trained on the bound alone, on a graph without edges: the
conditional hierarchical VAE; ``vae`` has convolutions and one vector of noise in their place: the conditional VAE.

Every pair of a method and a seed is a file under ``--cells`` that is not run again, so a stopped benchmark goes on where it was.
Trained weights are kept beside it; ``--rescore`` scores them anew.

python benchmarks/photographs.py --data celeba --root DIR --group smile --epochs 8

Of Extended Yale B the truth is known, and a linear model of persons stands beside (person_ridge.py):

python benchmarks/photographs.py --data yaleb --root DIR --methods causal_vae --seeds 0 1 2 3 4 --epochs 3
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import person_ridge
import torch
from environment import describe, write_json
from quality import summarised
from torch import Tensor

from causalvae_pyro import CausalELBO, fit
from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.datasets.registry import load_dataset
from causalvae_pyro.evaluation import evaluate
from causalvae_pyro.evaluation.predicted import train_photograph_predictor
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.metrics import seeds_interval
from causalvae_pyro.recipes import Recipe, choose_recipe
from causalvae_pyro.recipes.photographs import is_binary
from causalvae_pyro.training import resolve_device
from causalvae_pyro.utils.compat import has_bf16

METHODS = ("causal_vae", "hvae", "vae")
# As many numbers as the hierarchical noise has at 4 and 8 pixels would not be read from a dense layer.
_VAE_NOISE = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="celeba", choices=["celeba", "yaleb", "morphomnist"])
    parser.add_argument("--root", required=True)
    parser.add_argument("--group", help="of CelebA's labels")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="numbers of the seeds")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--cast", type=float, help="see Recipe; by default the recipe's")
    parser.add_argument("--limit", type=int, default=1000, help="test images to score")
    parser.add_argument("--cells", type=Path, default=Path("runs/photographs"))
    parser.add_argument("--rescore", action="store_true", help="score the weights that are there anew")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/photographs_DATA[_GROUP].json")
    args = parser.parse_args()
    name = "_".join(part for part in (args.data, args.group) if part)
    out = args.out or Path("benchmarks/results") / f"photographs_{name}.json"
    found: dict[str, list[dict[str, Any]]] = {method: [] for method in args.methods}
    for seed in args.seeds:
        for method in args.methods:
            found[method].append(cell(args, method, seed, args.cells / f"{name}_{method}_{seed}.json"))
    methods = {
        method: summarised([done["metrics"] for done in cells])
        | {key: seeds_interval([done[key] for done in cells]) for key in ("seconds", "parameters")}
        for method, cells in found.items()
    }
    settings = {"data": name, "seeds": args.seeds, "epochs": args.epochs, "limit": args.limit}
    write_json(out, settings | {"methods": methods, **describe()})
    print(f"wrote {out}")


def cell(args: argparse.Namespace, method: str, seed: int, path: Path) -> dict[str, Any]:
    """A method trained and scored with a seed, or what an earlier call has found."""
    settings = {"data": args.data, "group": args.group, "epochs": args.epochs, "limit": args.limit}
    settings |= {} if args.cast is None else {"cast": args.cast}
    if path.is_file():
        done = json.loads(path.read_text())
        if done["settings"] != settings:
            raise SystemExit(f"{path} has other settings: {done['settings']}; delete it or use another --cells")
        if not args.rescore:
            return done
    description = {"name": args.data, "root": args.root, "seed": seed} | ({"group": args.group} if args.group else {})
    train, test = (load_dataset(description, split) for split in ("train", "test"))
    images, labels = torch.as_tensor(train.images), train.labels
    torch.manual_seed(seed)
    run, objective, groups, precision = make(method, train, images, labels, args.cast)
    weights, seconds = path.with_suffix(".pt"), 0.0
    if path.is_file():
        state, seconds = torch.load(weights), done["seconds"]
        run.model.load_state_dict(state["model"])
        run.guide.load_state_dict(state["guide"])
    else:
        print(f"{method}, seed {seed}: training on {len(images)} images", flush=True)
        start = time.perf_counter()
        fit(
            run.model,
            run.guide,
            (images, labels),
            objective=objective,
            groups=groups,
            epochs=args.epochs,
            batch_size=32,
            mixed_precision=precision,
            seed=seed,
            progress=False,
        )
        seconds = time.perf_counter() - start
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"model": run.model.state_dict(), "guide": run.guide.state_dict()}, weights)
    options: dict[str, Any] = {}
    if "binary" in run.config and any(run.config["binary"]):
        options["photograph_predictor"] = train_photograph_predictor(images, labels, run.config["binary"], seed=seed)
    metrics = evaluate(run, test, limit=args.limit, intervals=False, pairs=False, **options)
    if args.data == "yaleb" and args.limit >= len(test):
        known = person_ridge.scores(train, test)
        beside = metrics["cf_baselines"]
        ((pair, mean),) = beside["mean training face"].items()
        if abs(mean - known["mean training face"]) > 1e-4:
            raise RuntimeError(f"the ridge was scored on other pairs: {known} against {beside}")
        beside["ridge of persons, light given"] = {pair: known["ridge"]}
    parameters = sum(p.numel() for module in (run.model, run.guide) for p in module.parameters())
    done = {"settings": settings, "seconds": seconds, "parameters": parameters, "metrics": metrics}
    write_json(path, done)
    return done


def make(
    method: str, data: Any, images: Tensor, labels: Tensor, cast: float | None = None
) -> tuple[Run, CausalELBO, Tensor | None, str | None]:
    """The untrained pair, its objective, the groups of its batches and its precision."""
    precision = "bf16" if has_bf16(resolve_device()) else None
    groups = getattr(data, "groups", None)
    recipe, _ = choose_recipe(images, labels, groups=groups)
    if method == "causal_vae":
        recipe = recipe if cast is None else replace(recipe, cast=cast)
        run = recipe.build(data.graph, images, labels, groups=groups)
        precision = precision if recipe.decoder == "hierarchical" else None
        return run, recipe.objective(run), groups if recipe.grouped else None, precision
    # No concept is another's cause: an intervention changes what it names and no other.
    alone = CausalGraph(data.graph.names, [])
    binary = is_binary(labels)
    recipe = Recipe(decoder="conv", noise_dim=_VAE_NOISE, prior_std=0.3 if all(binary) else 0.05)
    if method == "hvae":
        recipe = replace(recipe, decoder="hierarchical", noise_dim=0, consistency=0.0, prior_std=None)
    run = recipe.build(alone, images, labels)
    run.config["binary"] = binary
    return run, recipe.objective(run), None, precision if method == "hvae" else None


if __name__ == "__main__":
    main()
