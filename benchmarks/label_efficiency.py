"""Scores against the share of Pendulum's images that have labels, over several seeds, and their figure.

Each run is ``causalvae train pendulum --label-share SHARE`` in a process of its own, with convolutions for every share, so that
nothing but the labels differs. A seed that has finished is not run again, so a stopped benchmark goes on where it was.

python benchmarks/label_efficiency.py --out benchmarks/results/label_efficiency.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from environment import describe, write_json
from seeds import run_seed

from causalvae_pyro.metrics import seeds_interval
from causalvae_pyro.plots.style import figure_style, save_figure, subplots

COLUMNS = {
    "mic": ("MIC", lambda m: m["representation"]["mic_mean"]),
    "tic": ("TIC", lambda m: m["representation"]["tic_mean"]),
    "cf_roots": ("CF-score of the causes", lambda m: m["summary"]["cf_roots"]),
    "r2_min": ("R² of the worst concept", lambda m: m["summary"]["r2_min"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.1, 0.01])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/label_efficiency"), help="where the runs are kept")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "label_efficiency.json")
    parser.add_argument("--figure", type=Path, default=Path(__file__).parent.parent / "docs" / "images" / "label_efficiency.png")
    parser.add_argument("options", nargs="*", help="passed on to causalvae train, after --")
    args = parser.parse_args()
    shares = {}
    for share in args.shares:
        metrics = []
        for seed in range(args.seeds):
            directory = args.runs / f"{share:g}" / f"seed{seed}"
            command = ["-m", "causalvae_pyro", "train", "pendulum", "--decoder", "conv", "--label-share", str(share)]
            command += ["--seed", str(seed), "--out", str(directory), "--overwrite", *args.options]
            metrics.append(run_seed(seed, command, directory)["metrics"])
        shares[f"{share:g}"] = {key: seeds_interval([find(m) for m in metrics]) for key, (_, find) in COLUMNS.items()}
    result = {"seeds": args.seeds, "options": args.options, "shares": shares, **describe()}
    write_json(args.out, result)
    draw(result, args.figure)
    print(json.dumps(shares, indent=1))


@figure_style()
def draw(result: dict[str, Any], path: Path) -> None:
    """The scores against the share, with their intervals."""
    shares = sorted(result["shares"], key=float)
    x = [100 * float(share) for share in shares]
    figure, grid = subplots(width=4.6, height=2.9)
    axes = grid[0, 0]
    for place, (key, (title, _)) in enumerate(COLUMNS.items()):
        cells = [result["shares"][share][key] for share in shares]
        errors = [cell["interval"][1] - cell["mean"] if "interval" in cell else 0.0 for cell in cells]
        # A little apart, so that no interval covers another.
        shifted = [share * 1.04 ** (place - 1.5) for share in x]
        axes.errorbar(shifted, [cell["mean"] for cell in cells], errors, label=title)
    axes.set_xscale("log")
    axes.set_xticks(x, [f"{share:g}" for share in x])
    axes.minorticks_off()
    axes.set_xlabel("images with labels (%)")
    axes.set_ylabel("score (1 is best), mean and 95 % interval")
    axes.set_title(f"Pendulum, {result['seeds']} seeds")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    main()
