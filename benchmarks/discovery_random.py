"""Graph discovery on random additive noise models, beside DAGMA's own package on the same data in the same run.

Erdos-Renyi graphs with ``2 n`` edges, MLP mechanisms, Gaussian noise, 2,000 standardised samples. ``descent`` is the augmented
Lagrangian alone, ``climb`` what ``discover_graph`` makes of it; ``dagma`` is ``DagmaNonlinear`` with the settings of its
documentation (``pip install dagma``), left out with ``--no-dagma``. A cell that is done is kept.

python benchmarks/discovery_random.py --out benchmarks/results/discovery_random.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from environment import describe, write_json
from random_models import random_graph, sample_mlp_model

from causalvae_pyro.discovery import discover_graph
from causalvae_pyro.metrics import edge_scores, seeds_interval, shd

SAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--dagma", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cells", type=Path, default=Path("runs/discovery_random"), help="where finished cells are kept")
    parser.add_argument("--only", nargs=3, metavar=("METHOD", "NODES", "SEED"), help="one cell, in this process")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/discovery_random.json"))
    args = parser.parse_args()
    if args.only:
        method, nodes, seed = args.only[0], int(args.only[1]), int(args.only[2])
        write_json(path(args.cells, method, nodes, seed), run(method, nodes, seed))
        return
    methods = ["ours", *(["dagma"] if args.dagma else [])]
    for seed, nodes, method in product(range(args.seeds), args.nodes, methods):
        file = path(args.cells, method, nodes, seed)
        if not file.is_file():
            # DAGMA sets torch's default dtype for good: a process for each.
            only = ["--only", method, str(nodes), str(seed), "--cells", str(args.cells)]
            subprocess.run([sys.executable, __file__, *only], check=True)
        print(method, nodes, seed, json.loads(file.read_text()), flush=True)
    result = summary(args.cells, args.nodes, args.seeds, methods)
    write_json(args.out, {"settings": {"samples": SAMPLES, "seeds": args.seeds, "edges": "2 n"}, "nodes": result, **describe()})


def path(cells: Path, method: str, nodes: int, seed: int) -> Path:
    """Where a cell is kept."""
    return cells / f"{method}-{nodes}-{seed}.json"


def run(method: str, nodes: int, seed: int) -> dict:
    """One method on one data set."""
    rng = np.random.default_rng([seed, nodes])
    truth = random_graph(nodes, 2 * nodes, rng)
    x = sample_mlp_model(truth, SAMPLES, rng)
    started = time.perf_counter()
    torch.manual_seed(seed)
    if method == "dagma":
        from dagma.nonlinear import DagmaMLP, DagmaNonlinear

        strengths = DagmaNonlinear(DagmaMLP([nodes, 10, 1])).fit(x, lambda1=0.02, lambda2=0.005)
        return {"shd": shd(strengths != 0, truth), "seconds": time.perf_counter() - started}
    found = discover_graph(torch.tensor(x), [f"x{i}" for i in range(nodes)], seed=seed)
    scores = edge_scores(found.graph.adjacency, truth)
    return {
        "shd": shd(found.graph.adjacency, truth),
        "descent": shd(found.continuous.adjacency, truth),
        "f1": scores.f1,
        "seconds": time.perf_counter() - started,
    }


def summary(cells: Path, sizes: list[int], seeds: int, methods: list[str]) -> dict:
    """Means and intervals over the seeds, and the difference seed by seed."""
    result: dict = {}
    for nodes in sizes:
        rows = {m: [json.loads(path(cells, m, nodes, seed).read_text()) for seed in range(seeds)] for m in methods}
        shds = {"climb": [row["shd"] for row in rows["ours"]], "descent": [row["descent"] for row in rows["ours"]]}
        if "dagma" in rows:
            shds["dagma"] = [row["shd"] for row in rows["dagma"]]
            shds["climb minus dagma"] = [ours - theirs for ours, theirs in zip(shds["climb"], shds["dagma"], strict=True)]
        result[nodes] = {
            "shd": {name: {"values": values, **seeds_interval([float(v) for v in values])} for name, values in shds.items()},
            "seconds": {m: seeds_interval([row["seconds"] for row in rows[m]]) for m in methods},
        }
        for name, score in result[nodes]["shd"].items():
            print(f"n = {nodes}, {name:<20} mean SHD {score['mean']:.1f} {score.get('interval')}")
    return result


if __name__ == "__main__":
    main()
