"""Speed and faithfulness of the simulators' renderer against matplotlib, measured side by side in one run.

matplotlib draws the same scenes in three ways: a new figure for each scene (as the published script does), one figure
whose artists move (``redraw``), and one figure of which only the artists are redrawn on a stored background (``blit``, its
fastest). The ways take turns, round by round, so that another load on the machine meets all of them alike: in each round
the renderer draws all scenes in one call, matplotlib its share of them. matplotlib uses one thread; with ``--threads 1``,
the default, so does the renderer. The whole data set is then made on ``--full-threads``.

python benchmarks/renderer.py --out benchmarks/results/renderer.json
python benchmarks/renderer.py --data flow --out benchmarks/results/renderer_flow.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from environment import describe, write_json
from matplotlib_flow import FlowFigure
from matplotlib_pendulum import PendulumFigure, SceneFigure

from causalvae_pyro.datasets.registry import SIMULATORS
from causalvae_pyro.datasets.simulator import ImageSimulator

FIGURES: dict[str, type[SceneFigure]] = {"pendulum": PendulumFigure, "flow": FlowFigure}
# Many and short, so that a pause of the machine meets few of the ratios.
ROUNDS = 20
FULL_ROUNDS = 5
WAYS = {"new_figure": "new figure for each scene", "redraw": "one figure, redrawn", "blit": "one figure, blitted"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=FIGURES, default="pendulum", help="the simulator")
    parser.add_argument("--scenes", type=int, default=400, help="number of scenes drawn by each way")
    parser.add_argument("--size", type=int, default=96, help="height and width of the images in pixels")
    parser.add_argument("--threads", type=int, default=1, help="threads of the renderer; matplotlib always uses one")
    parser.add_argument("--full-threads", type=int, default=2, help="threads while the whole data set is made")
    parser.add_argument("--seed", type=int, default=0, help="chooses the scenes")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    if args.scenes < ROUNDS:
        parser.error(f"--scenes: got {args.scenes}; needs at least {ROUNDS}")
    simulator, figure = SIMULATORS[args.data], FIGURES[args.data]
    torch.set_num_threads(args.threads)
    result = {"settings": settings(args), **measure(simulator, figure, args.scenes, args.size, args.seed), **describe()}
    result["full_data_set"] = measure_full(simulator, args.size, args.full_threads)
    print_table(result)
    if args.out:
        write_json(args.out, result)


def measure(simulator: type[ImageSimulator], kind: type[SceneFigure], scenes: int, size: int, seed: int) -> dict:
    """Times all ways and compares their images."""
    everything = simulator("all", size=8).labels
    labels = everything[torch.randperm(len(everything), generator=torch.Generator().manual_seed(seed))[:scenes]]
    draw: dict[str, Callable] = {
        "new_figure": lambda label: kind(size).draw(label),
        "redraw": kind(size).draw,
        "blit": kind(size, blit=True).draw,
    }
    for function in draw.values():
        function(labels[0].tolist())
    simulator.render(labels, size)

    seconds: dict[str, list[float]] = {name: [] for name in ("renderer", *draw)}
    differences = []
    for index in torch.arange(scenes).tensor_split(ROUNDS):
        start = time.perf_counter()
        ours = simulator.render(labels, size)
        seconds["renderer"].append((time.perf_counter() - start) / scenes)
        images = {}
        for name, function in draw.items():
            rows = labels[index].tolist()
            start = time.perf_counter()
            images[name] = [function(row) for row in rows]
            seconds[name].append((time.perf_counter() - start) / len(rows))
        reference = np.stack(images["redraw"])
        if any(not np.array_equal(reference, np.stack(other)) for other in images.values()):
            raise RuntimeError("matplotlib's ways of drawing gave different images, so their times cannot be compared")
        target = torch.from_numpy(reference).permute(0, 3, 1, 2).float() / 255
        differences.append((ours[index] - target).abs().mean((1, 2, 3)))

    difference = torch.cat(differences)
    return {
        "images_per_second": {name: 1 / statistics.median(times) for name, times in seconds.items()},
        "times_faster_than_matplotlib": {name: _ratio(seconds[name], seconds["renderer"]) for name in draw},
        "mean_absolute_difference": {"mean": difference.mean().item(), "largest_image": difference.max().item()},
    }


def measure_full(simulator: type[ImageSimulator], size: int, threads: int) -> dict:
    """Times the making of the whole data set."""
    torch.set_num_threads(threads)
    seconds = []
    for _ in range(FULL_ROUNDS):
        start = time.perf_counter()
        images = len(simulator("all", size=size))
        seconds.append(time.perf_counter() - start)
    return {"images": images, "threads": threads, "seconds": statistics.median(seconds), "slowest": max(seconds)}


def _ratio(theirs: list[float], ours: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {"median": statistics.median(ratios), "smallest": min(ratios), "largest": max(ratios)}


def settings(args: argparse.Namespace) -> dict:
    """The options that fix the measurement."""
    names = ("data", "scenes", "size", "threads", "seed")
    return {name: getattr(args, name) for name in names} | {"rounds": ROUNDS, "full_rounds": FULL_ROUNDS}


def print_table(result: dict) -> None:
    name, size, threads = (result["settings"][key] for key in ("data", "size", "threads"))
    name = SIMULATORS[name].__name__
    speed, ratios = result["images_per_second"], result["times_faster_than_matplotlib"]
    print(f"{name} at {size} x {size}, {result['settings']['scenes']} scenes, renderer on {threads} thread(s)")
    print(f"{'':<40}{'images/s':>10}   renderer is faster by (range over rounds)")
    print(f"{name + '.render':<40}{speed['renderer']:>10.0f}")
    for way, text in WAYS.items():
        ratio = ratios[way]
        span = f"{ratio['median']:.1f} times ({ratio['smallest']:.1f} to {ratio['largest']:.1f})"
        print(f"{'matplotlib, ' + text:<40}{speed[way]:>10.0f}   {span}")
    difference, full = result["mean_absolute_difference"], result["full_data_set"]
    print(f"mean absolute difference of the images: {difference['mean']:.4f} (largest image {difference['largest_image']:.4f})")
    print(f"full data set: {full['images']} images in {full['seconds']:.2f} s on {full['threads']} thread(s)")


if __name__ == "__main__":
    main()
