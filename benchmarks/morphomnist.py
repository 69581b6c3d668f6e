"""Morpho-MNIST over several seeds: what is read from images, and how good counterfactuals of real handwriting are.

Each seed is one run of ``examples/train_morphomnist.py`` with its own split (8,000 / 2,000), weights and judges. A seed that
has finished is not run again, so a stopped benchmark goes on where it was.

python benchmarks/morphomnist.py --root PATH/TO/morphomnist --out benchmarks/results/morphomnist.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from environment import describe, write_json
from seeds import run_seed

from causalvae_pyro.metrics import seeds_interval

EXAMPLE = Path(__file__).parent.parent / "examples" / "train_morphomnist.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with the published files")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="run only from this seed on, to share the work")
    parser.add_argument("--runs", type=Path, default=Path("runs/quality/morphomnist"), help="where the runs are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/morphomnist.json"))
    parser.add_argument("options", nargs="*", help="passed on to the example, after --")
    args = parser.parse_args()
    results = []
    for seed in range(args.first_seed, args.seeds):
        directory = args.runs / f"seed{seed}"
        command = [str(EXAMPLE), "--root", args.root, "--seed", str(seed), "--out", str(directory), *args.options]
        results.append(run_seed(seed, command, directory))
    if args.first_seed:
        return
    summary = summarise([result["metrics"] for result in results])
    write_json(args.out, {"seeds": args.seeds, "options": args.options, "scores": summary, **describe()})
    print(f"\n{'':<52}{'mean':>10}   95 % interval over {args.seeds} seeds")
    for name, value in summary.items():
        print(f"{name:<52}{value['mean']:>10.4f}   " + " to ".join(f"{end:.4f}" for end in value.get("interval", [])))
    print(f"wrote {args.out}")


def summarise(metrics: list[dict]) -> dict:
    """Intervals of every number in the seeds' scores, keyed by its path."""
    flat = [dict(_flatten(m)) for m in metrics]
    return {key: seeds_interval([values[key] for values in flat]) for key in flat[0]}


def _flatten(scores: dict, prefix: str = ""):
    for key, value in scores.items():
        name = f"{prefix} {key}".strip()
        if isinstance(value, dict):
            yield from _flatten(value, name)
        else:
            yield name, value


if __name__ == "__main__":
    main()
