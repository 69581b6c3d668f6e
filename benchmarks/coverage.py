"""How often the score card's intervals of MIC, TIC and MIG hold what they are for: the estimator's mean at that number of images.

Many independent data sets of four concepts and four labels, the size of Pendulum's test set: codes that know nothing of normal
labels, normal labels with noise, and labels that depend on each other as Pendulum's do, with noise. Of each data set the
interval is computed as the score card does; the mean over the data sets stands for the estimator's mean.

python benchmarks/coverage.py --out benchmarks/results/coverage.json
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
from environment import describe, write_json

from causalvae_pyro.metrics import mic_tic, mig, subsampling_interval

CONCEPTS = 4
# Noise in standard deviations of the label; None for codes that know nothing.
CASES = {
    "independent": ("normal", None),
    "label + 1 sd": ("normal", 1.0),
    "label + 0.5 sd": ("normal", 0.5),
    "label + 0.2 sd": ("normal", 0.2),
    "label + 0.1 sd": ("normal", 0.1),
    "label + 0.05 sd": ("normal", 0.05),
    "Pendulum's label + 0.2 sd": ("pendulum", 0.2),
}
SCORES = ("MIC", "TIC", "MIG")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=120, help="data sets of each kind")
    parser.add_argument("--samples", type=int, default=1461)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    if args.sets < 2:
        parser.error(f"--sets: got {args.sets}; needs at least 2")
    cases = {}
    for name in CASES:
        found = [intervals(*sample(name, args.samples, [args.seed, number])) for number in range(args.sets)]
        cases[name] = {score: summary([one[score] for one in found]) for score in SCORES}
        for score, row in cases[name].items():
            print(f"{name:<28}{score}  " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
    result = {"settings": {"sets": args.sets, "samples": args.samples, "seed": args.seed}, "cases": cases, **describe()}
    if args.out:
        write_json(args.out, result)


def sample(name: str, count: int, seed: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Concepts and labels, each ``[count, 4]``."""
    kind, spread = CASES[name]
    rng = np.random.default_rng([list(CASES).index(name), *seed])
    labels, noise = rng.normal(size=(2, count, CONCEPTS))
    if kind == "pendulum":
        # Two independent causes, and two effects that they determine, one of them with many ties.
        angle, light = rng.uniform(-1, 1, size=(2, count))
        labels = np.stack([angle, light, np.maximum(0.3, np.abs(angle) + np.abs(light) / 2), light + angle / 2], 1)
        labels = (labels - labels.mean(0)) / labels.std(0)
    return (noise if spread is None else labels + spread * noise), labels


def intervals(concepts: np.ndarray, labels: np.ndarray) -> dict[str, dict]:
    """Value and interval of each score; without an interval where there is none."""
    known: dict[bytes, tuple[float, float]] = {}

    def both(z: np.ndarray, u: np.ndarray) -> tuple[float, float]:
        # The subsamples of one score are those of the other.
        key = z.tobytes()
        if key not in known:
            known[key] = mic_tic(z, u)
        return known[key]

    found = {}
    for name, score in {"MIC": lambda z, u: both(z, u)[0], "TIC": lambda z, u: both(z, u)[1], "MIG": mig}.items():
        try:
            found[name] = subsampling_interval((concepts, labels), score, bounds=(0, 1))
        except ValueError:
            found[name] = {"value": score(concepts, labels)}
    return found


def summary(found: list[dict]) -> dict[str, float]:
    """Of one score in all data sets of a kind."""
    values = [one["value"] for one in found]
    mean = statistics.fmean(values)
    given = [one for one in found if "interval" in one]
    held = [low <= mean <= high for low, high in (one["interval"] for one in given)]
    return {
        "mean": mean,
        "standard_deviation": statistics.stdev(values),
        "standard_error": float(np.sqrt(np.mean([one["standard_error"] ** 2 for one in given]))) if given else 0.0,
        "intervals": len(given),
        "coverage": sum(held) / len(given) if given else 0.0,
    }


if __name__ == "__main__":
    main()
