"""A simulator's job over several seeds: scores with 95 % intervals, wall time and peak memory.

Each seed is one ``causalvae train DATA`` in a process of its own, with its own split, weights and data order. A seed
that has finished is not run again, so a stopped benchmark goes on where it was.

python benchmarks/quality.py --seeds 5 --out benchmarks/results/pendulum.json
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

from environment import describe, write_json
from scipy.stats import t as student


def run_seed(data: str, seed: int, directory: Path, options: list[str]) -> dict:
    """Trains and scores one seed, or reads what an earlier call left."""
    done = directory / "done.json"
    command = ["train", data, "--seed", str(seed), "--out", str(directory), *options]
    if done.is_file():
        result = json.loads(done.read_text())
        if result["command"] != command:
            sys.exit(
                f"{directory} holds a run of another command: {shlex.join(result['command'])}; delete it or use another --runs"
            )
        return result
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "causalvae_pyro.cli", *command], check=True)
    seconds = time.perf_counter() - start
    # Of all children so far the largest, which is the same for all: every seed does the same work.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    metrics = json.loads((directory / "metrics.json").read_text())
    result = {"seed": seed, "command": command, "seconds": seconds, "peak_memory_gib": peak, "metrics": metrics}
    write_json(done, result)
    return result


def interval(values: list[float]) -> dict:
    """Mean, standard error and 95 % t interval."""
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return {"mean": mean, "values": values}
    error = statistics.stdev(values) / math.sqrt(n)
    half = float(student.ppf(0.975, n - 1)) * error
    return {"mean": mean, "standard_error": error, "interval": [mean - half, mean + half], "values": values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="pendulum", choices=["pendulum", "flow"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"), help="where the runs are kept")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/DATA.json")
    parser.add_argument("options", nargs="*", help="passed on to causalvae train, after --")
    args = parser.parse_args()
    out = args.out or Path("benchmarks/results") / f"{args.data}.json"
    results = [run_seed(args.data, seed, args.runs / args.data / f"seed{seed}", args.options) for seed in range(args.seeds)]
    metrics = [result["metrics"] for result in results]
    summary = {
        "r2": {name: interval([m["r2"][name] for m in metrics]) for name in metrics[0]["r2"]},
        "cf_score": {key: interval([m["cf_score"][key] for m in metrics]) for key in metrics[0]["cf_score"]},
        "ceiling": {key: interval([m["ceiling"][key] for m in metrics]) for key in metrics[0]["ceiling"]},
        "reconstruction_mse": interval([m["reconstruction_mse"] for m in metrics]),
        "seconds": interval([result["seconds"] for result in results]),
        "peak_memory_gib": max(result["peak_memory_gib"] for result in results),
    }
    write_json(out, {"data": args.data, "seeds": args.seeds, "options": args.options, **summary, **describe()})
    print(f"\n{'':<36}{'mean':>10}   95 % interval over {args.seeds} seeds")
    rows = [(f"R^2 {name}", value) for name, value in summary["r2"].items()]
    rows += [(f"CF-score do({key.replace('+', ', ')})", value) for key, value in summary["cf_score"].items()]
    rows += [("reconstruction MSE", summary["reconstruction_mse"]), ("seconds", summary["seconds"])]
    for name, value in rows:
        span = " to ".join(f"{end:.4f}" for end in value.get("interval", []))
        print(f"{name:<36}{value['mean']:>10.4f}   {span}")
    print(f"peak memory {summary['peak_memory_gib']:.2f} GiB; wrote {out}")


if __name__ == "__main__":
    main()
