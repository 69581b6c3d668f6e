"""Time of the MIC and TIC matrix of four concepts and four labels on one core, at the size of Pendulum's test set and against N.

Two kinds of data: ``independent`` normals, the slowest case because the points change rows most often, and ``noisy`` labels
as concepts, the labels themselves being independent of each other. Every size is measured in several rounds; reported are the
median and range of wall time, and the smallest processor time, which another load on the machine disturbs least.

python benchmarks/metrics.py --out benchmarks/results/metrics.json --figure docs/images/mic_cost.png
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path

import numpy as np
from environment import describe, write_json
from matplotlib.figure import Figure

from causalvae_pyro.metrics.information import mic_matrix
from causalvae_pyro.plots.style import BLUE, GREEN, GREY, ORANGE, VERMILION, figure_style, save_figure, subplots

CONCEPTS = 4
TEST_SET = 1461
SIZES = (250, 500, 1000, TEST_SET, 2000, 4000, 8000)
NOISE = 0.2
LINES = {
    "MIC and TIC, independent": ("independent", False, VERMILION, "o"),
    "MIC and TIC, noisy": ("noisy", False, BLUE, "s"),
    "MIC_e and TIC_e, independent": ("independent", True, ORANGE, "o"),
    "MIC_e and TIC_e, noisy": ("noisy", True, GREEN, "s"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each size")
    parser.add_argument("--largest", type=int, default=max(SIZES), help="leave out sizes above this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--figure", type=Path, help="image file for the cost against N")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds: got {args.rounds}; needs at least 1")
    sizes = [size for size in SIZES if size <= args.largest]
    if TEST_SET not in sizes:
        parser.error(f"--largest: got {args.largest}; needs at least {TEST_SET}")
    cost = measure(sizes, args.rounds, args.seed)
    result = {
        "settings": {"concepts": CONCEPTS, "labels": CONCEPTS, "noise": NOISE, "rounds": args.rounds, "seed": args.seed},
        "test_set": {name: rows[sizes.index(TEST_SET)] for name, rows in cost.items()},
        "cost": cost,
        "exponent": {name: exponent(rows) for name, rows in cost.items()},
        **describe(),
    }
    print_table(result)
    if args.out:
        write_json(args.out, result)
    if args.figure:
        save_figure(draw(result), args.figure)


def sample(kind: str, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Concepts and labels, each ``[size, 4]``."""
    rng = np.random.default_rng([seed, size])
    labels, noise = rng.normal(size=(2, size, CONCEPTS))
    return (noise if kind == "independent" else labels + NOISE * noise), labels


def measure(sizes: list[int], rounds: int, seed: int) -> dict[str, list[dict]]:
    """Times all lines at all sizes; rounds are the outer loop, so that a drift of the machine's speed meets all alike."""
    wall: dict[tuple[str, int], list[float]] = {(name, size): [] for name in LINES for size in sizes}
    processor: dict[tuple[str, int], list[float]] = {key: [] for key in wall}
    scores = {}
    mic_matrix(*sample("independent", 500, seed))
    for _ in range(rounds):
        for name, size in wall:
            kind, equicharacteristic, *_ = LINES[name]
            concepts, labels = sample(kind, size, seed)
            start, cpu = time.perf_counter(), time.process_time()
            scores[name, size] = mic_matrix(concepts, labels, equicharacteristic=equicharacteristic)
            processor[name, size].append(time.process_time() - cpu)
            wall[name, size].append(time.perf_counter() - start)
    return {
        name: [
            {
                "samples": size,
                "seconds": statistics.median(wall[name, size]),
                "seconds_range": [min(wall[name, size]), max(wall[name, size])],
                "processor_seconds": min(processor[name, size]),
                "mean_mic": scores[name, size].mic.mean(),
                "mean_tic": scores[name, size].tic.mean(),
            }
            for size in sizes
        ]
        for name in LINES
    }


def exponent(rows: list[dict]) -> float:
    """``p`` of the cost ``N^p`` between the test set's size and the largest one."""
    first, last = next(row for row in rows if row["samples"] == TEST_SET), rows[-1]
    if first is last:
        return math.nan
    return math.log(last["processor_seconds"] / first["processor_seconds"]) / math.log(last["samples"] / first["samples"])


@figure_style()
def draw(result: dict) -> Figure:
    """Cost against the number of samples."""
    figure, grid = subplots(width=5.2, height=3.6)
    axes = grid[0, 0]
    for name, rows in result["cost"].items():
        _, equicharacteristic, colour, marker = LINES[name]
        sizes, seconds = [row["samples"] for row in rows], [row["processor_seconds"] for row in rows]
        style = "--" if equicharacteristic else "-"
        power = result["exponent"][name]
        text = name.replace("MIC_e and TIC_e", "MIC$_e$ and TIC$_e$").replace("noisy", f"label + {NOISE} sd noise")
        label = text if math.isnan(power) else f"{text} (N$^{{{power:.1f}}}$)"
        # The two kinds of data cost nearly the same: a ring shows what lies beneath it.
        ring = {"markersize": 7, "markerfacecolor": "none"} if marker == "o" else {}
        axes.loglog(sizes, seconds, linestyle=style, color=colour, marker=marker, label=label, **ring)
    axes.axvline(TEST_SET, color=GREY, linewidth=0.8, linestyle=":", label=f"Pendulum's test set, N = {TEST_SET}")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("number of samples N")
    axes.set_ylabel("processor time of one core (s)")
    axes.set_title(f"All {CONCEPTS} x {CONCEPTS} pairs of concepts and labels; in brackets the growth beyond N = {TEST_SET}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=True, framealpha=1, edgecolor="none")
    return figure


def print_table(result: dict) -> None:
    print(f"{CONCEPTS} x {CONCEPTS} matrix, one core; wall: median of {result['settings']['rounds']} rounds; processor: smallest")
    print(f"{'':<30}{'N':>6}{'wall s':>10}{'processor s':>13}{'mean MIC':>10}{'mean TIC':>10}")
    for name, rows in result["cost"].items():
        for row in rows:
            times = f"{row['seconds']:>10.3f}{row['processor_seconds']:>13.3f}"
            print(f"{name:<30}{row['samples']:>6}{times}{row['mean_mic']:>10.3f}{row['mean_tic']:>10.3f}")
        print(f"{name:<30}grows as N^{result['exponent'][name]:.2f} from {TEST_SET} on")


if __name__ == "__main__":
    main()
