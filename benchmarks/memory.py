"""How much memory training takes: the peak over what it cannot do without (weights, optimiser's state, gradients and data).

Of the process on a CPU (Linux): growth of the resident set from before the data are loaded, libraries warmed up; on a GPU that of
the allocator. Each decoder, and each number of parts in which a batch goes through, in a process of its own.

python benchmarks/memory.py --out benchmarks/results/memory.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from environment import describe, write_json

from causalvae_pyro import fit
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.recipes import Recipe

_MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[1, 4, 8], help="parts in which a batch goes through")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--decoder", choices=("conv", "sprites"), help="this one only, as JSON to standard output")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    if args.decoder:
        print(json.dumps(measure(args.decoder, args.size, args.batch_size, args.micro_batches[0], args.device)))
        return
    found = {}
    for decoder in ("conv", "sprites"):
        for parts in args.micro_batches:
            command = [sys.executable, __file__, "--decoder", decoder, "--device", args.device, "--size", str(args.size)]
            command += ["--batch-size", str(args.batch_size), "--micro-batches", str(parts)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[f"{decoder}, {parts}"] = figures = json.loads(output.splitlines()[-1])
            print(f"{decoder}, {parts} parts: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()), flush=True)
    if args.out is not None:
        options = {"size": args.size, "batch_size": args.batch_size, "device": args.device}
        write_json(args.out, {"options": options, "micro_batches": found, **describe()})


def measure(decoder: str, size: int, batch: int, parts: int, device: str) -> dict[str, float]:
    """Sizes in MiB and their ratio, of one epoch, and its time."""
    torch.manual_seed(0)
    recipe = Recipe(decoder=decoder)
    # Libraries take their buffers and caches at first use, whatever the data.
    small = Pendulum("train", size=16)
    some = small.images[::50].clone(), small.labels[::50].clone()
    tiny = recipe.build(small.graph, *some)
    fit(tiny.model, tiny.guide, some, objective=recipe.objective(tiny), epochs=1, device=device, progress=False)
    del tiny, small, some
    before = _resident(device)
    data = Pendulum("train", size=size)
    run = recipe.build(data.graph, data.images, data.labels)
    images, labels = data.images, data.labels
    # Drawing the scenes and starting the sprites is not training.
    _reset_peak(device)
    options = {"batch_size": batch, "micro_batches": parts, "device": device, "progress": False}
    start = time.perf_counter()
    fit(run.model, run.guide, (images, labels), objective=recipe.objective(run), epochs=1, **options)
    seconds = time.perf_counter() - start
    peak = _peak(device) - before
    weights = sum(p.numel() * p.element_size() for module in (run.model, run.guide) for p in module.parameters())
    # Adam keeps two moments, and a gradient is as large as its weight.
    needed = 4 * weights + images.numel() * images.element_size() + labels.numel() * labels.element_size()
    return {"needed_mib": needed / _MIB, "peak_mib": peak / _MIB, "ratio": peak / needed, "seconds": seconds}


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def _resident(device: str) -> int:
    return torch.cuda.memory_allocated() if device.startswith("cuda") else _status("VmRSS")


def _reset_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else _status("VmHWM")


if __name__ == "__main__":
    main()
