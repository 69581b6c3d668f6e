"""Seconds of training until the paper's Pendulum scores are reached, and until both causes' counterfactuals are good.

Scores are taken on test images every few steps; the time that takes does not count. Run it with nothing else on the machine.

python benchmarks/time_to_score.py --out benchmarks/results/time_to_score.json
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from environment import describe, write_json
from table1_cells import scores_in_between
from table1_methods import rows_of

from causalvae_pyro import fit
from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.metrics import seeds_interval
from causalvae_pyro.training import Callback
from causalvae_pyro.utils.modes import evaluation_mode

# Yang et al. 2021, table 1; and the CF-score of do(pendulum) and do(light), both.
BARS = {"mic": 0.951, "tic": 0.816, "cf_roots_min": 0.93}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["best", "conv"], choices=list(rows_of("pendulum")))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12, help="what the schedule is made for")
    parser.add_argument("--limit", type=float, default=120.0, help="give up after so many seconds of training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cells", type=Path, default=Path("runs/time_to_score"), help="where finished seeds are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/time_to_score.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = {"epochs": args.epochs, "limit": args.limit, "threads": args.threads}
    result: dict[str, Any] = {}
    for method in args.methods:
        rows = []
        for seed in range(args.seeds):
            file = args.cells / f"{method}-{seed}.json"
            if not file.is_file() or json.loads(file.read_text())["settings"] != settings:
                write_json(file, {"settings": settings, "curve": run(method, seed, args.epochs, args.limit), **describe()})
            rows.append(json.loads(file.read_text())["curve"])
            found = {bar: reached(rows[-1], names) for bar, names in NEEDED.items()}
            print(
                method, seed, {bar: None if seconds is None else round(seconds, 1) for bar, seconds in found.items()}, flush=True
            )
        result[method] = {"curves": rows}
        for bar, names in NEEDED.items():
            seconds = [reached(curve, names) for curve in rows]
            known = [s for s in seconds if s is not None]
            result[method][bar] = {"reached": len(known), **(seeds_interval(known) if len(known) == len(seconds) else {})}
    write_json(args.out, {"settings": settings | {"seeds": args.seeds}, "bars": BARS, "methods": result, **describe()})


#: What has to be reached together.
NEEDED = {"paper": ("mic", "tic"), "roots": ("cf_roots_min",)}


def reached(curve: list[dict[str, float]], names: tuple[str, ...]) -> float | None:
    """Seconds until all of these are above their bars."""
    return next((point["seconds"] for point in curve if all(point[name] >= BARS[name] for name in names)), None)


def run(method: str, seed: int, epochs: int, limit: float) -> list[dict[str, float]]:
    """One seed: its scores against the seconds of training."""
    train, test = (Pendulum(split, size=64, seed=seed) for split in ("train", "test"))
    torch.manual_seed(seed)
    recipe = rows_of("pendulum")[method].method
    # What is built from images is part of the training.
    started = time.perf_counter()
    pair = recipe.build(train.graph, train.images, train.labels)
    watch = _Watch(pair, test, limit, started)
    options: dict[str, Any] = {"objective": recipe.objective(pair), "epochs": epochs, "seed": seed, "device": "cpu"}
    with suppress(_EnoughError):
        fit(pair.model, pair.guide, (train.images, train.labels), progress=False, callbacks=[watch], **options)
    return watch.curve


class _Watch(Callback):
    """Scores after more and more steps, until all bars are reached or the time is up."""

    def __init__(self, pair: Run, test: Pendulum, limit: float, started: float) -> None:
        self.pair, self.test, self.limit, self.started = pair, test, limit, started
        self.curve: list[dict[str, float]] = []
        self.paused, self.next = 0.0, 5

    def on_step_end(self, state: Any) -> None:
        now = time.perf_counter()
        seconds = now - self.started - self.paused
        if state.step < self.next and seconds < self.limit:
            return
        self.next = max(state.step + 5, int(state.step * 1.15))
        with evaluation_mode(state.model, state.guide), torch.random.fork_rng():
            scores = scores_in_between(self.pair, self.test, None)
        self.curve.append({"step": state.step, "seconds": seconds, **scores})
        self.paused += time.perf_counter() - now
        if seconds >= self.limit or all(self.curve[-1][name] >= bar for name, bar in BARS.items()):
            raise _EnoughError


class _EnoughError(Exception):
    pass


if __name__ == "__main__":
    main()
