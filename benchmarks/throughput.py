"""Counterfactual images per second against the bare networks, and the step's time against resolution and batch.

Predictions, ``predict`` under an intervention with the noise held, are set beside the bare decoder on the same concepts; whole
counterfactuals, abduction included, beside encoder and decoder. Turns alternate, and each figure is the median of the rounds.

python benchmarks/throughput.py --out benchmarks/results/throughput.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from environment import describe, write_json

from causalvae_pyro import counterfactual, fit, intervene
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.guides import IterativeGuide
from causalvae_pyro.interventions import predict
from causalvae_pyro.interventions.counterfactuals import abduct
from causalvae_pyro.plots.style import BLUE, VERMILION, figure_style, save_figure, subplots
from causalvae_pyro.recipes import Recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--sizes", type=int, nargs="*", default=[32, 64, 96, 128])
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 64, 256])
    parser.add_argument("--steps", type=int, default=12, help="steps per round of training")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--figure", type=Path, help="draw it beside the committed one of a GPU")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {"counterfactuals": {}, "milliseconds_per_step": {}}
    for decoder in ("conv", "sprites"):
        data = Pendulum("train", size=args.size)
        torch.manual_seed(0)
        run = Recipe(decoder=decoder).build(data.graph, data.images, data.labels)
        found = images_per_second(run, data, args.batch_size, args.rounds, args.device)
        result["counterfactuals"][decoder] = found
        for name, value in found.items():
            print(f"{decoder:<8} {name:<44} {value:10.3f}", flush=True)
        for size, batch in [(size, 64) for size in args.sizes] + [(args.size, batch) for batch in args.batches if batch != 64]:
            value = 1000 * step_seconds(decoder, size, batch, args.steps, args.device)
            result["milliseconds_per_step"][f"{decoder}, {size} x {size}, batch {batch}"] = value
            print(f"{decoder:<8} {size} x {size}, batch {batch}: {value:.1f} ms per step", flush=True)
    result["options"] = {key: value for key, value in vars(args).items() if key not in ("out", "figure")}
    if args.out:
        write_json(args.out, {**result, **describe()})
    if args.figure:
        gpu = json.loads((Path(__file__).parent / "results" / "throughput_gpu.json").read_text())
        draw({f"{args.threads} threads": result, gpu["hardware"]["gpu"]: gpu}, args.figure)


@figure_style()
def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Milliseconds per step against resolution and batch, a line for each decoder and machine.

    Args:
        results: What this benchmark has written, by the machine's name.
        path: Of the picture.
    """
    figure, grid = subplots(1, 2, height=2.9, sharey=True)
    left, right = grid[0]
    for (machine, result), style in zip(results.items(), ("-", "--"), strict=False):
        sizes, batches = result["options"]["sizes"], sorted({64, *result["options"]["batches"]})
        for decoder, colour, marker in (("conv", BLUE, "o"), ("sprites", VERMILION, "s")):
            times, options = result["milliseconds_per_step"], {"color": colour, "linestyle": style, "marker": marker}
            left.plot(sizes, [times[f"{decoder}, {n} x {n}, batch 64"] for n in sizes], label=f"{decoder}, {machine}", **options)
            side = result["options"]["size"]
            right.plot(batches, [times[f"{decoder}, {side} x {side}, batch {n}"] for n in batches], **options)
    left.set(xscale="log", yscale="log", xlabel="side of the images (pixels)", title="batches of 64 images")
    right.set(xscale="log", xlabel="images in a batch", title=f"images of {side} x {side} pixels")
    times_shown = [10, 20, 50, 100, 200, 500, 1000, 2000]
    for axes, ticks in ((left, sizes), (right, batches)):
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        low, high = axes.get_ylim()
        shown = [time for time in times_shown if low <= time <= high]
        axes.set_yticks(shown, [str(time) for time in shown])
        axes.set_ylabel("time of a training step (ms)")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.legend()
    save_figure(figure, path)


def images_per_second(run: Any, data: Pendulum, count: int, rounds: int, device: str = "cpu") -> dict[str, float]:
    """Speeds and their ratios."""
    model, guide = run.model.to(device).eval(), run.guide.to(device).eval()
    # A second reading is another pass through both networks.
    guide = guide.guide if isinstance(guide, IterativeGuide) else guide
    x = data.images[:count].to(device).float() / 255
    with torch.no_grad():
        noise = abduct(guide, x)
        z = model.scm.to_endogenous(noise["eps"])
    world = intervene(model, {"light": 12.0})

    def decode() -> Any:
        with torch.no_grad():
            return model.likelihood(model.decoder(z)).mean

    def networks() -> Any:
        with torch.no_grad():
            guide.encoder(x)
        return decode()

    cases: dict[str, Callable[[], Any]] = {
        "decoder": decode,
        "predict": lambda: predict(world, noise, pixel_noise=False),
        "encoder and decoder": networks,
        "counterfactual": lambda: counterfactual(model, guide, x, {"light": 12.0}),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for round_ in range(rounds + 1):
        for name in list(cases)[:: 1 if round_ % 2 else -1]:
            start = time.perf_counter()
            cases[name]()
            if x.is_cuda:
                torch.cuda.synchronize()
            # The first round warms up.
            if round_:
                seconds[name].append(time.perf_counter() - start)

    def ratio(fast: str, slow: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[fast], seconds[slow], strict=True))

    speeds = {f"{name}, images/s": count / statistics.median(values) for name, values in seconds.items()}
    return speeds | {
        "predict over decoder, images/s": ratio("decoder", "predict"),
        "counterfactual over both networks, images/s": ratio("encoder and decoder", "counterfactual"),
    }


def step_seconds(decoder: str, size: int, batch: int, steps: int, device: str = "cpu") -> float:
    """Median over three rounds."""
    data = Pendulum("train", size=size)
    count = min(batch * steps, len(data))
    images, labels = data.images[:count], data.labels[:count]
    torch.manual_seed(0)
    recipe = Recipe(decoder=decoder)
    run = recipe.build(data.graph, data.images, data.labels)
    rounds = []
    for _ in range(4):
        start = time.perf_counter()
        options: dict[str, Any] = {"objective": recipe.objective(run), "epochs": 1, "batch_size": batch, "device": device}
        fit(run.model, run.guide, (images, labels), progress=False, **options)
        rounds.append((time.perf_counter() - start) / -(-count // batch))
    return statistics.median(rounds[1:])


if __name__ == "__main__":
    main()
