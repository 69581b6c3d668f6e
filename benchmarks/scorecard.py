"""Time of scoring a run: ``evaluate`` and ``write_report`` of the default model on Pendulum's whole test set, by section.

The model is trained for one epoch first, which is not timed: how well it does makes no difference to what is computed. Every
round scores the same run again; reported are the median and range of wall time.

python benchmarks/scorecard.py --out benchmarks/results/scorecard.json
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from environment import describe, write_json

from causalvae_pyro import fit
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.evaluation.evaluate import evaluate
from causalvae_pyro.evaluation.report import write_report
from causalvae_pyro.evaluation.scorecard import Scorer
from causalvae_pyro.recipes import Recipe

# What stands for each method of the score card's.
SECTIONS = {
    "__init__": "concepts and reconstructions",
    "representation": "representation, graph and intervals",
    "axioms": "composition and reversibility",
    "counterfactuals": "counterfactuals against the truth",
}
REPORT = "figures and report"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--train", type=int, help="train on so many images only")
    parser.add_argument("--limit", type=int, help="score so many test images only, evenly spaced")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds: got {args.rounds}; needs at least 1")
    torch.set_num_threads(args.threads)

    train, test = Pendulum("train", size=args.size), Pendulum("test", size=args.size)
    images, labels = train.images[: args.train], train.labels[: args.train]
    torch.manual_seed(0)
    recipe = Recipe(decoder="sprites")
    run = recipe.build(train.graph, images, labels)
    fit(run.model, run.guide, (images, labels), objective=recipe.objective(run), epochs=1, seed=0, device="cpu")

    seconds: dict[str, list[float]] = {name: [] for name in (*SECTIONS.values(), REPORT, "all")}
    for method, section in SECTIONS.items():
        setattr(Scorer, method, timed(getattr(Scorer, method), seconds[section]))
    with tempfile.TemporaryDirectory() as directory:
        # The first round warms up.
        for _ in range(args.rounds + 1):
            start = time.perf_counter()
            metrics = evaluate(run, test, limit=args.limit)
            timed(write_report, seconds[REPORT])(run, test, metrics, [], directory)
            seconds["all"].append(time.perf_counter() - start)
    result = {
        "images": metrics["images"],
        "seconds": {
            name: {"median": statistics.median(values[1:]), "range": [min(values[1:]), max(values[1:])]}
            for name, values in seconds.items()
        },
        "options": {name: value for name, value in vars(args).items() if name != "out"},
        **describe(),
    }
    print(f"{result['images']} test images, {args.threads} threads, median of {args.rounds} rounds")
    for name, values in result["seconds"].items():
        print(f"{name:<38}{values['median']:8.2f} s  ({values['range'][0]:.2f} to {values['range'][1]:.2f})")
    if args.out:
        write_json(args.out, result)


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """The same function, which appends to a list how long it took."""

    def call(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments, **options)
        seconds.append(time.perf_counter() - start)
        return result

    return call


if __name__ == "__main__":
    main()
