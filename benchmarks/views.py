"""Which small changes of images their labels tell of, on the simulators, on scenes, and on published data of your own.

python benchmarks/views.py --roots celeba=DIR yaleb=DIR morphomnist=DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from scenes import SCENES, SceneData

from causalvae_pyro.datasets import Flow, Pendulum
from causalvae_pyro.datasets.registry import load_dataset
from causalvae_pyro.recipes.views import VIEWS, told_shares

_COUNT = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--roots", nargs="*", default=[], metavar="DATA=DIR", help="of published data")
    parser.add_argument("--seeds", type=int, default=2, help="splits of published data")
    args = parser.parse_args()
    print(f"{'data':<24}{'label':<18}" + "".join(f"{name:>8}" for name in VIEWS))
    for title, data in _all(dict(root.split("=", 1) for root in args.roots), args.seeds):
        shares = told_shares(torch.as_tensor(data.images), data.labels)
        for column, share in shares.items():
            print(f"{title:<24}{data.graph.names[column]:<18}" + "".join(f"{share[name]:>8.3f}" for name in VIEWS), flush=True)


def _all(roots: dict[str, str], seeds: int) -> Iterator[tuple[str, Any]]:
    yield "pendulum", Pendulum("train", size=64)
    yield "flow", Flow("train", size=64)
    for name, scene in SCENES.items():
        yield name, SceneData(scene, _COUNT, 1, 64)
    for name, root in roots.items():
        for seed in range(seeds):
            for group in ("smile", "beard") if name == "celeba" else (None,):
                description = {"name": name, "root": root, "seed": seed} | ({"group": group} if group else {})
                yield f"{name} {group or ''} {seed}", load_dataset(description, "train")


if __name__ == "__main__":
    main()
