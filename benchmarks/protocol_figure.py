"""A picture of what ``benchmarks/protocol.py`` keeps: test images and their counterfactuals, of each method from one seed.

python benchmarks/protocol_figure.py runs/protocol/morphomnist/0
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from causalvae_pyro.plots import plot_comparison
from causalvae_pyro.plots.style import save_figure

_TITLES = {"vae": "VAE", "hvae": "HVAE", "ours": "ours"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a seed")
    parser.add_argument("--figure", type=Path, default=Path(__file__).parent.parent / "docs" / "images" / "protocol.png")
    args = parser.parse_args(argv)
    kept = {method: torch.load(args.folder / f"{method}_shown.pt") for method in _TITLES}
    rows = [("factual", kept["ours"]["factual"])]
    for name in list(kept["ours"])[1:]:
        rows += [(f"do({name}), {title}", kept[method][name]) for method, title in _TITLES.items()]
    save_figure(plot_comparison(rows), args.figure)
    print(f"wrote {args.figure}")


if __name__ == "__main__":
    main()
