"""The job of a simulator or of a published data set over several seeds: scores with 95 % intervals, wall time and peak memory.

Each seed is one ``causalvae train DATA`` in a process of its own, with its own split, weights and data order. A seed
that has finished is not run again, so a stopped benchmark goes on where it was.

python benchmarks/quality.py --seeds 5 --out benchmarks/results/pendulum.json
python benchmarks/quality.py --data celeba --seeds 3 --out benchmarks/results/celeba_smile.json -- --root PATH --group smile
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from environment import describe, write_json
from seeds import run_seed

from causalvae_pyro.metrics import seeds_interval as interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="pendulum", choices=["pendulum", "flow", "celeba", "morphomnist", "yaleb"])
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
    summary = summarised(metrics) | {
        "seconds": interval([result["seconds"] for result in results]),
        "peak_memory_gib": max(result["peak_memory_gib"] for result in results),
    }
    write_json(out, {"data": args.data, "seeds": args.seeds, "options": _public(args.options), **summary, **describe()})
    print(f"\n{'':<44}{'mean':>10}   95 % interval over {args.seeds} seeds")
    for name, value in flat({name: value for name, value in summary.items() if name != "peak_memory_gib"}):
        span = " to ".join(f"{end:.4g}" for end in value.get("interval", []))
        print(f"{name:<44}{value['mean']:>10.4g}   {span}")
    print(f"peak memory {summary['peak_memory_gib']:.2f} GiB; wrote {out}")


def _public(options: list[str]) -> list[str]:
    """Without the folders of this machine."""
    return ["DIR" if before == "--root" else option for before, option in zip(["", *options], options, strict=False)]


def summarised(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Intervals over the seeds of the scores that all of them have."""
    first = metrics[0]
    summary = {
        key: over_seeds([m[key] for m in metrics])
        for key in ("r2", "accuracy", "cf_score", "ceiling", "cf_baselines", "predicted")
        if key in first
    }
    if "cf_r2" in first:
        summary["cf_r2"] = interval([min(m["cf_r2"].values()) for m in metrics])
    if "composition" in first:
        summary["composition_growth"] = interval([m["composition"][-1] / m["composition"][0] for m in metrics])
    if "representation" in first:
        summary["mic"] = interval([m["representation"]["mic_mean"] for m in metrics])
        summary["tic"] = interval([m["representation"]["tic_mean"] for m in metrics])
        for key in ("mic", "tic"):
            # Labels of few classes allow no more.
            if f"{key}_mean" in first["representation"]["of_the_labels"]:
                values = [m["representation"]["of_the_labels"][f"{key}_mean"] for m in metrics]
                summary[f"{key}_of_the_labels"] = interval(values)
    return summary | {"reconstruction_mse": interval([m["reconstruction_mse"] for m in metrics])}


def over_seeds(values: list[Any]) -> Any:
    """Nested dictionaries of numbers, one per seed, as one of intervals."""
    if isinstance(values[0], dict):
        return {key: over_seeds([value[key] for value in values]) for key in values[0] if all(key in value for value in values)}
    return interval(values)


def flat(summary: dict[str, Any], before: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Its intervals, each with the path to it."""
    for key, value in summary.items():
        name = f"{before} {key}".strip().replace("_", " ")
        if "mean" in value:
            yield name, value
        else:
            yield from flat(value, name)


if __name__ == "__main__":
    main()
