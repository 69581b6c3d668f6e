"""A simulator's job over several seeds: scores with 95 % intervals, wall time and peak memory.

Each seed is one ``causalvae train DATA`` in a process of its own, with its own split, weights and data order. A seed
that has finished is not run again, so a stopped benchmark goes on where it was.

python benchmarks/quality.py --seeds 5 --out benchmarks/results/pendulum.json
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from environment import describe, write_json
from seeds import run_seed

from causalvae_pyro.metrics import seeds_interval as interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="pendulum", choices=["pendulum", "flow"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time")
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"), help="where the runs are kept")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/DATA.json")
    parser.add_argument("options", nargs="*", help="passed on to causalvae train, after --")
    args = parser.parse_args()
    out = args.out or Path("benchmarks/results") / f"{args.data}.json"

    def run(seed: int) -> dict:
        directory = args.runs / args.data / f"seed{seed}"
        command = [
            "-m",
            "causalvae_pyro",
            "train",
            args.data,
            "--seed",
            str(seed),
            "--out",
            str(directory),
            "--overwrite",
            *args.options,
        ]
        return run_seed(seed, command, directory)

    with ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(run, range(args.seeds)))
    metrics = [result["metrics"] for result in results]
    summary = {
        "r2": {name: interval([m["r2"][name] for m in metrics]) for name in metrics[0]["r2"]},
        "cf_score": {key: interval([m["cf_score"][key] for m in metrics]) for key in metrics[0]["cf_score"]},
        "ceiling": {key: interval([m["ceiling"][key] for m in metrics]) for key in metrics[0]["ceiling"]},
        "cf_r2": interval([min(m["cf_r2"].values()) for m in metrics]),
        "composition_growth": interval([m["composition"][-1] / m["composition"][0] for m in metrics]),
        "mic": interval([m["representation"]["mic_mean"] for m in metrics]),
        "tic": interval([m["representation"]["tic_mean"] for m in metrics]),
        "reconstruction_mse": interval([m["reconstruction_mse"] for m in metrics]),
        "seconds": interval([result["seconds"] for result in results]),
        "peak_memory_gib": max(result["peak_memory_gib"] for result in results),
    }
    write_json(out, {"data": args.data, "seeds": args.seeds, "options": args.options, **summary, **describe()})
    print(f"\n{'':<36}{'mean':>10}   95 % interval over {args.seeds} seeds")
    rows = [(f"R^2 {name}", value) for name, value in summary["r2"].items()]
    rows += [(f"CF-score do({key.replace('+', ', ')})", value) for key, value in summary["cf_score"].items()]
    rows += [("R^2 of the counterfactual, worst", summary["cf_r2"]), ("MAE growth over 10 nulls", summary["composition_growth"])]
    rows += [("MIC", summary["mic"]), ("TIC", summary["tic"])]
    rows += [("reconstruction MSE", summary["reconstruction_mse"]), ("seconds", summary["seconds"])]
    for name, value in rows:
        span = " to ".join(f"{end:.4g}" for end in value.get("interval", []))
        print(f"{name:<36}{value['mean']:>10.4g}   {span}")
    print(f"peak memory {summary['peak_memory_gib']:.2f} GiB; wrote {out}")


if __name__ == "__main__":
    main()
