"""Speed of the CelebA loader: decoding into the cache once, batches from the cache, and whether they outrun training.

The data set is made up, in CelebA's layout on disk and with JPEG files of its size (178 x 218 pixels, 7 kB): smooth random
fields with noise. Batches are 64 shuffled images as float32 in [0, 1], by the code that hands them to ``fit``; every file
has just been written, so all reads are served by the page cache. The loader and ``fit`` with the default network at 64 x 64
take turns, round by round, so that another load on the machine meets both alike.

python benchmarks/celeba_loader.py --out benchmarks/results/celeba_loader.json
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from environment import describe, write_json
from PIL import Image
from torch.nn import functional

from causalvae_pyro import fit
from causalvae_pyro.datasets import CELEBA_GROUPS, CelebA
from causalvae_pyro.recipes import Recipe
from causalvae_pyro.training.batches import make_batches
from causalvae_pyro.utils.images import scale_images

BATCH, ROUNDS, STEPS = 64, 9, 20
SIZES = (64, 128)
WIDTH, HEIGHT = 178, 218


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000, help="number of images in the data set")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of the loader and of fit")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    if args.images <= BATCH:
        parser.error(f"--images: got {args.images}; needs more than {BATCH}")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as root:
        mean_bytes = write_celeba(Path(root), args.images)
        measured = measure(root)
    settings = {"images": args.images, "threads": args.threads, "batch_size": BATCH, "rounds": ROUNDS, "fit_steps": STEPS}
    result = {"settings": settings | {"mean_jpeg_bytes": mean_bytes}, **measured, **describe()}
    print_table(result)
    if args.out:
        write_json(args.out, result)


def write_celeba(root: Path, count: int) -> float:
    """Writes a data set of random images and labels in CelebA's layout; returns the mean size of an image file."""
    folder = root / "celeba"
    pictures = folder / "img_align_celeba"
    pictures.mkdir(parents=True)
    names = [f"{i + 1:06d}.jpg" for i in range(count)]
    total = 0
    for part in torch.arange(count).split(100):
        scene = 128 + 5 * torch.randn(len(part), 1, HEIGHT, WIDTH)
        for cells, contrast in ((4, 50), (14, 25), (55, 8)):
            coarse = torch.randn(len(part), 3, cells, cells * WIDTH // HEIGHT)
            scene = scene + contrast * functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic")
        for i, pixels in zip(part.tolist(), scene.clamp(0, 255).byte().movedim(1, -1).numpy(), strict=True):
            Image.fromarray(pixels).save(pictures / names[i], quality=75)
            total += (pictures / names[i]).stat().st_size
    attributes = sorted({name.removeprefix("-") for name in CELEBA_GROUPS["smile"].attributes.values()})
    labels = torch.randint(0, 2, (count, len(attributes))) * 2 - 1
    write_rows(folder / "list_attr_celeba.txt", names, labels.tolist(), attributes)
    # All but one for training: a partition without test images would not be taken.
    write_rows(folder / "list_eval_partition.txt", names, [[0]] * (count - 1) + [[2]])
    return total / count


def write_rows(path: Path, names: list[str], rows: list[list[int]], columns: list[str] | None = None) -> None:
    header = [str(len(names)), " ".join(columns)] if columns else []
    lines = [" ".join([name, *map(str, row)]) for name, row in zip(names, rows, strict=True)]
    path.write_text("\n".join([*header, *lines]) + "\n")


def measure(root: str) -> dict:
    """Times the making of the caches, then loader and training in turns."""
    data, decoding = {}, {}
    for size in SIZES:
        start = time.perf_counter()
        data[size] = CelebA(root, size=size, progress=False)
        decoding[size] = len(data[size]) / (time.perf_counter() - start)
    small = data[SIZES[0]]
    images, labels = small.images[: STEPS * BATCH], small.labels[: STEPS * BATCH]
    recipe = Recipe()
    run = recipe.build(small.graph, images, labels)
    options = {"batch_size": BATCH, "epochs": 1, "schedule": None, "device": "cpu", "progress": False}
    batches = {size: make_batches(data[size], BATCH, 1, torch.device("cpu"), data[size].graph) for size in SIZES}
    order = torch.Generator().manual_seed(0)
    loading: dict[int, list[float]] = {size: [] for size in SIZES}
    training: list[float] = []
    for round_ in range(ROUNDS + 1):
        speeds = {}
        for size in SIZES:
            start = time.perf_counter()
            count = sum(len(scale_images(x)) for x, *_ in batches[size](order))
            speeds[size] = count / (time.perf_counter() - start)
        history = fit(run.model, run.guide, (images, labels), objective=recipe.objective(run), **options)
        # The first round warms up.
        if round_:
            training += history["images_per_second"]
            for size in SIZES:
                loading[size].append(speeds[size])
    ratios = [a / b for a, b in zip(loading[SIZES[0]], training, strict=True)]
    return {
        "decoding_images_per_second": decoding,
        "loader_images_per_second": {size: spread(values) for size, values in loading.items()},
        "fit_images_per_second": spread(training),
        "loader_faster_than_fit": spread(ratios),
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "smallest": min(values), "largest": max(values)}


def print_table(result: dict) -> None:
    settings = result["settings"]
    print(
        f"{settings['images']} images, batches of {BATCH}, {settings['threads']} thread(s), {ROUNDS} rounds (range over rounds)"
    )
    for size in SIZES:
        print(f"{f'decoding into the cache at {size}':<34}{result['decoding_images_per_second'][size]:>9.0f} images/s")
    for size in SIZES:
        print_line(f"loader from the cache at {size}", result["loader_images_per_second"][size])
    print_line(f"fit at {SIZES[0]}, default network", result["fit_images_per_second"])
    ratio = result["loader_faster_than_fit"]
    text = f"{ratio['median']:.1f} ({ratio['smallest']:.1f} to {ratio['largest']:.1f})"
    print(f"the loader at {SIZES[0]} is faster than fit by a factor of {text}")


def print_line(name: str, value: dict[str, float]) -> None:
    print(f"{name:<34}{value['median']:>9.0f} images/s ({value['smallest']:.0f} to {value['largest']:.0f})")


if __name__ == "__main__":
    main()
