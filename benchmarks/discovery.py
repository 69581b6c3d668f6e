"""Graph discovery on Pendulum and Flow over seeds: structural Hamming distances after each stage, without and with an order.

For every data set and mechanism noise: the descent on the labels with the paper's linear mechanisms and with networks; all
graphs compared on the labels; the same with the true order, and with a super-graph of the true graph, given; and on the
concepts that an encoder reads from the images after joint training with a graph search (``--epochs`` at ``--size``). A cell
that is done is kept.

python benchmarks/discovery.py --out benchmarks/results/discovery.json
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path

import torch
from environment import describe, write_json

import causalvae_pyro as cv
from causalvae_pyro.datasets import Flow, Pendulum
from causalvae_pyro.discovery import (
    GraphSearch,
    LinearCandidates,
    LocalFits,
    allowed_edges,
    discover_graph,
    independent_graph,
    refine_graph,
)
from causalvae_pyro.metrics import seeds_interval, shd

SOURCES = {"pendulum": Pendulum, "flow": Flow}
NOISES = (0.3, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument(
        "--noise", nargs="+", type=float, default=list(NOISES), help="of the mechanisms, in label standard deviations"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--image-seeds", type=int, default=5, help="joint training for so many of the seeds")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--epochs", type=int, default=3, help="of joint training")
    parser.add_argument("--cells", type=Path, default=Path("runs/discovery"), help="where finished cells are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/discovery.json"))
    args = parser.parse_args()
    cells: dict[str, list[dict]] = {}
    for seed, (name, noise) in product(range(args.seeds), product(args.data, args.noise)):
        path = args.cells / f"{name}-{noise}-{args.size}-{args.epochs}-{seed}.json"
        if not path.is_file():
            write_json(path, run(name, noise, seed, args.size, args.epochs if seed < args.image_seeds else 0))
        cell = json.loads(path.read_text())
        cells.setdefault(f"{name}, noise {noise}", []).append(cell)
        print(f"{name} noise {noise} seed {seed}: {cell}", flush=True)
    summary = {}
    for key, rows in cells.items():
        summary[key] = {}
        for stage in rows[0]:
            values = [float(row[stage]) for row in rows if stage in row]
            summary[key][stage] = seeds_interval(values)
            if stage != "seconds":
                summary[key][stage] |= {"found": values.count(0), "seeds": len(values), "shd": values}
    settings = {"seeds": args.seeds, "image_seeds": args.image_seeds, "size": args.size, "epochs": args.epochs}
    write_json(args.out, {"settings": settings, "shd": summary, **describe()})
    for key, stages in summary.items():
        print(f"\n{key}")
        for stage, result in stages.items():
            if stage != "seconds":
                print(f"  {stage:<40}found in {result['found']} of {result['seeds']}, mean SHD {result['mean']:.1f}")
    print(f"wrote {args.out}")


def run(name: str, noise: float, seed: int, size: int, epochs: int) -> dict[str, float]:
    """Distances of one seed."""
    started = time.perf_counter()
    data = SOURCES[name]("train", noise=noise, size=size, seed=seed)
    names, truth, labels = data.graph.names, data.graph, data.labels
    linear = discover_graph(labels, names, candidates=LinearCandidates(allowed_edges(names)), refine=False, seed=seed)
    found = discover_graph(labels, names, refine=False, seed=seed)
    fits, everything = LocalFits(labels, seed=seed), allowed_edges(names)
    ordered = allowed_edges(names, order=truth.order)
    masked = allowed_edges(names, supergraph=supergraph(truth, seed))
    result = {
        "labels, linear descent": shd(linear.continuous, truth),
        "labels, descent": shd(found.continuous, truth),
        "labels, all graphs": shd(independent_graph(fits, everything), truth.adjacency),
        "labels, order known": shd(independent_graph(fits, ordered), truth.adjacency),
        "labels, super-graph known": shd(independent_graph(fits, masked), truth.adjacency),
    }
    if not epochs:
        return result | {"seconds": time.perf_counter() - started}
    torch.manual_seed(seed)
    scm = cv.LinearSCM(cv.CausalGraph(names), dim=2)
    prior = cv.FixedPrior.from_labels(labels, dim=2, std=0.005)
    decoder = cv.ConvDecoder.from_images(data.images, len(names), dim=2)
    model = cv.CausalVAE(scm, prior, decoder, cv.GaussianLikelihood(learn_scale=True))
    guide = cv.AmortizedGuide(cv.ConvEncoder(tuple(data.images.shape[1:])), scm, init_scale=0.005)
    search = GraphSearch(found.candidates, lagrangian=found.lagrangian)
    objective = cv.CausalELBO(terms=[search])
    cv.fit(model, guide, (data.images, labels), objective=objective, epochs=epochs, seed=seed, progress=False)
    z = cv.encode(model, guide, data.images).mean(-1)
    graph = refine_graph(z, search.graph(names), seed=seed)
    result |= {"joint descent": shd(search.graph(names), truth), "concepts read from images, all graphs": shd(graph, truth)}
    return result | {"seconds": time.perf_counter() - started}


def supergraph(truth: cv.CausalGraph, seed: int) -> cv.CausalGraph:
    """The true graph with as many false edges along its order, where it has room for them."""
    order = truth.order
    free = [(a, b) for k, a in enumerate(order) for b in order[k + 1 :] if (a, b) not in truth.edges]
    chosen = torch.randperm(len(free), generator=torch.Generator().manual_seed(seed))[: len(truth.edges)]
    return cv.CausalGraph(truth.names, [*truth.edges, *(free[k] for k in chosen.tolist())])


if __name__ == "__main__":
    main()
