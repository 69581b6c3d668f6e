"""Counterfactuals of scenes of twelve kinds, against the truth: what the recipe that the data choose makes of own images.

Every scene is a small structural causal model with a drawing (``benchmarks/scenes/``). Each cell trains on its images and
labels as ``causalvae train --images`` would, and is scored on other images, without their labels: the decoder's mean, and the
same where it keeps the image's own detail (``kept``). Beside each score stands what limits the mean: the reconstruction
(``ceiling``), the decoder (counterfactual concepts known), and decoder and mechanisms (factual concepts known). A cell that is
done is kept, with its commit, so a stopped benchmark goes on where it was; start it twice with different ``--scenes`` to use
two cores.

python benchmarks/scenes.py
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path

import torch
from environment import commit, describe, write_json
from scenes import SCENES, Scene, SceneData
from scenes.scoring import score, strip
from scenes.table import cells_of, is_of, markdown, summarise

from causalvae_pyro import fit
from causalvae_pyro.plots import plot_comparison, save_figure
from causalvae_pyro.recipes import Recipe, choose_recipe, usual_schedule
from causalvae_pyro.training import resolve_device
from causalvae_pyro.utils.compat import has_bf16
from causalvae_pyro.utils.label_columns import kind_counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", choices=list(SCENES), default=list(SCENES))
    parser.add_argument("--decoder", help="by default the data choose")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--count", type=int, default=4000, help="images to train on")
    parser.add_argument("--test", type=int, default=300, help="images to score on")
    parser.add_argument("--epochs", type=int, help="by default as many as the command takes")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cells", type=Path, default=Path("benchmarks/results/scenes"), help="where finished cells are kept")
    parser.add_argument("--pictures", type=Path, default=Path("runs/scenes"), help="where a strip of each is kept")
    parser.add_argument("--out", type=Path, help="JSON file for means and intervals")
    args = parser.parse_args()
    settings = {name: getattr(args, name) for name in ("decoder", "count", "test", "epochs", "size")}
    # As it is now: what is committed while cells run is not what they are of.
    code = commit()
    for seed, name in product(range(args.seeds), args.scenes):
        file = cell_file(args, name, seed)
        if not file.is_file() or not is_of(json.loads(file.read_text()), settings):
            found = run(SCENES[name], seed, picture=args.pictures / f"{file.stem}.png", device=args.device, **settings)
            write_json(file, {"settings": settings, **found, "commit": code})
        cell = json.loads(file.read_text())
        print(
            name, seed, f"{cell['seconds']:.0f} s", cell["chosen"], {k: round(v, 3) for k, v in cell["kept"].items()}, flush=True
        )
    # Those of other calls too, so that two of them can share the work: the last to end writes all.
    result = {name: summarise(name, cells) for name, cells in cells_of(args.cells, settings).items()}
    if args.out is not None:
        write_json(args.out, {"settings": {**settings, "seeds": args.seeds}, "scenes": result, **describe()})
    print("\n" + markdown(result))


def cell_file(args: argparse.Namespace, name: str, seed: int) -> Path:
    """Where a cell is kept; what another decoder makes of the same images is another cell."""
    return args.cells / ("-".join([name, f"{seed}", *([args.decoder] if args.decoder else [])]) + ".json")


def run(
    scene: Scene,
    seed: int,
    *,
    decoder: str | None,
    count: int,
    test: int,
    epochs: int | None,
    size: int,
    device: str = "auto",
    picture: Path | None = None,
) -> dict:
    """One scene trained from one seed, and its scores."""
    train, held = SceneData(scene, count, 2 * seed + 1, size), SceneData(scene, test, 2 * seed + 2, size)
    torch.manual_seed(seed)
    start = time.perf_counter()
    recipe = Recipe(decoder=decoder or "auto")
    if decoder is None:
        recipe = choose_recipe(train.images, train.labels, kinds=kind_counts(scene.kinds, scene.graph.names))[0]
    chosen = time.perf_counter()
    pair = recipe.build(scene.graph, train.images, train.labels, kinds=scene.kinds)
    # As the command does.
    photographs = recipe.decoder == "hierarchical"
    usual, batch_size = usual_schedule(recipe.decoder, count)
    fit(
        pair.model,
        pair.guide,
        (train.images, train.labels),
        objective=recipe.objective(pair),
        epochs=usual if epochs is None else epochs,
        batch_size=batch_size,
        mixed_precision="bf16" if photographs and has_bf16(resolve_device(device)) else None,
        seed=seed,
        device=device,
        progress=False,
    )
    seconds = {"seconds": time.perf_counter() - start, "choice": chosen - start}
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        save_figure(plot_comparison(strip(pair, held)), picture)
    return {**seconds, "chosen": recipe.decoder, **score(pair, held, seed)}


if __name__ == "__main__":
    main()
