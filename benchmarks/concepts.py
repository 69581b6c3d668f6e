"""Cost against the number of concepts: a traced intervention, and a training step relative to four concepts.

``trace(do(model))`` runs on random graphs of ``2 n`` edges; the decoder behind it is one matrix product, so that the causal
layer and Pyro's statements are what is timed. A training step is that of ``fit`` at 64 x 64 with the default networks, whose
decoder is the same but for its first layer; the sizes take turns within every round.

python benchmarks/concepts.py --out benchmarks/results/concepts.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import pyro.poutine as poutine
import torch
from environment import describe, write_json
from random_models import random_graph
from torch import Tensor, nn

import causalvae_pyro as cv
from causalvae_pyro.objectives import LabelFit
from causalvae_pyro.scm import AdditiveNoiseSCM, AffineFlowSCM, LinearSCM, SplineFlowSCM

LAYERS = {
    "linear": LinearSCM,
    "additive noise": AdditiveNoiseSCM,
    "affine flow": AffineFlowSCM,
    "spline flow": SplineFlowSCM,
}
STEP_SIZES = (4, 10, 40, 100)


class Flat(nn.Module):
    """A decoder of one matrix product."""

    def __init__(self, concepts: int) -> None:
        super().__init__()
        self.dim, self.linear = 1, nn.Linear(concepts, 64)

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z.flatten(-2)).reshape(*z.shape[:-2], 1, 8, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds: got {args.rounds}; needs at least 1")
    torch.set_num_threads(1)
    traces = {
        name: {n: intervention(layer, n, args.rounds, args.batch_size) for n in (4, 10, 40)} for name, layer in LAYERS.items()
    }
    steps = training_steps(args.rounds, args.batch_size)
    settings = {"rounds": args.rounds, "batch_size": args.batch_size}
    result = {"settings": settings, "trace_do_ms": traces, "step": steps, **describe()}
    for name, row in traces.items():
        print(f"trace(do(model)), {name:<15}" + "".join(f"  n = {n}: {cost['median']:.2f} ms" for n, cost in row.items()))
    for n, cost in steps.items():
        print(f"training step, n = {n}: {cost['ms']:.1f} ms, {cost['ratio']:.2f} times that of n = 4 ({cost['range']})")
    if args.out:
        write_json(args.out, result)


def graph(n: int) -> cv.CausalGraph:
    """A random graph with two edges per concept, where there is room for them."""
    adjacency = random_graph(n, min(2 * n, n * (n - 1) // 2), np.random.default_rng(n))
    return cv.CausalGraph.from_adjacency([f"c{i}" for i in range(n)], torch.tensor(adjacency))


def intervention(layer: type, n: int, rounds: int, batch_size: int) -> dict[str, float]:
    """Milliseconds of ``trace(do(model))`` without gradients."""
    scm = layer(graph(n))
    model = cv.CausalVAE(scm, cv.FixedPrior(n), Flat(n), cv.GaussianLikelihood())
    name = scm.graph.order[0]
    times = []
    with torch.no_grad():
        for _ in range(20 * rounds):
            start = time.perf_counter()
            poutine.trace(poutine.do(model, data={name: torch.tensor(1.0)})).get_trace(num_samples=batch_size)
            times.append(1e3 * (time.perf_counter() - start))
    return {"median": statistics.median(times), "smallest": min(times)}


def training_steps(rounds: int, batch_size: int) -> dict[int, dict]:
    """Milliseconds of a training step of every size, and its ratio to the smallest size, round by round."""
    runs = {n: stepper(n, batch_size) for n in STEP_SIZES}
    times: dict[int, list[float]] = {n: [] for n in STEP_SIZES}
    for _ in range(rounds):
        for n, step in runs.items():
            start = time.perf_counter()
            for _ in range(4):
                step()
            times[n].append(1e3 * (time.perf_counter() - start) / 4)
    first = STEP_SIZES[0]
    result = {}
    for n in STEP_SIZES:
        ratios = [mine / base for mine, base in zip(times[n], times[first], strict=True)]
        result[n] = {
            "ms": statistics.median(times[n]),
            "ratio": statistics.median(ratios),
            "range": [round(min(ratios), 2), round(max(ratios), 2)],
        }
    return result


def stepper(n: int, batch_size: int):
    """One training step of the default networks on random images and labels of ``n`` concepts."""
    torch.manual_seed(0)
    images, labels = torch.rand(batch_size, 3, 64, 64), torch.randn(batch_size, n)
    scm = AdditiveNoiseSCM(graph(n), 2, learn_noise=True)
    decoder = cv.ConvDecoder.from_images((255 * images).to(torch.uint8), n, 2)
    model = cv.CausalVAE(scm, cv.FixedPrior.from_labels(labels, 2, std=0.005), decoder, cv.GaussianLikelihood(learn_scale=True))
    guide = cv.AmortizedGuide(cv.ConvEncoder((3, 64, 64)), scm, init_scale=0.005)
    objective = cv.CausalELBO(terms=[LabelFit()])
    parameters = [*model.parameters(), *guide.parameters()]
    optimizer = torch.optim.Adam(parameters, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        objective.differentiable_loss(model, guide, images, labels).backward()
        optimizer.step()

    step()
    return step


if __name__ == "__main__":
    main()
