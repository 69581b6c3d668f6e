"""How much memory training takes: the peak over what it cannot do without (weights, optimiser's state, gradients and data).

Two figures. ``tensors``: the bytes of all tensors that live at once, as a GPU's allocator reports it; on a CPU from the
profiler's record of every allocation in a few steps. ``process`` (a CPU under Linux): growth of the resident set over an epoch
from before the data are loaded, libraries warmed up; it also counts what the C library's allocator keeps between its pieces, and
the libraries' own buffers. Each decoder, and each number of parts in which a batch goes through, in a process of its own; with
the seconds that an epoch takes.

python benchmarks/memory.py --out benchmarks/results/memory.json
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from environment import describe, write_json
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from causalvae_pyro import fit
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.recipes import Recipe
from causalvae_pyro.training.devices import networks_of

_MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--micro-batches", type=int, nargs="+", default=[1, 2, 3, 4, 8], help="parts in which a batch goes through"
    )
    parser.add_argument(
        "--recompute",
        type=int,
        default=0,
        help="recompute encoders and decoder for so many images at a time; 0: keep activations",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--decoder", choices=("conv", "sprites"), help="this one only, as JSON to standard output")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    if args.decoder:
        options = {"parts": args.micro_batches[0], "device": args.device, "recompute": args.recompute}
        print(json.dumps(measure(args.decoder, args.size, args.batch_size, **options)))
        return
    found = {}
    for decoder in ("conv", "sprites"):
        for parts in args.micro_batches:
            command = [sys.executable, __file__, "--decoder", decoder, "--device", args.device, "--size", str(args.size)]
            command += ["--batch-size", str(args.batch_size), "--micro-batches", str(parts), "--recompute", str(args.recompute)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[f"{decoder}, {parts}"] = figures = json.loads(output.splitlines()[-1])
            print(f"{decoder}, {parts} parts: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()), flush=True)
    if args.out is not None:
        options = {"size": args.size, "batch_size": args.batch_size, "device": args.device, "recompute": args.recompute}
        write_json(args.out, {"options": options, "micro_batches": found, **describe()})


def measure(
    decoder: str, size: int, batch: int, parts: int, device: str, recompute: int = 0, epoch: bool = True
) -> dict[str, float]:
    """Sizes in MiB, their ratios to what is needed, and the seconds of an epoch; without ``epoch`` of a few steps only."""
    torch.manual_seed(0)
    recipe, options = Recipe(decoder=decoder), {"device": device, "progress": False, "epochs": 1}
    if epoch:
        # Libraries take their buffers and caches at first use, whatever the data.
        small = Pendulum("train", size=16)
        some = small.images[::50].clone(), small.labels[::50].clone()
        tiny = recipe.build(small.graph, *some)
        fit(tiny.model, tiny.guide, some, objective=recipe.objective(tiny), **options)
        del tiny, small, some
    before = _resident(device)
    data = Pendulum("train", size=size)
    images, labels = data.images, data.labels
    run = recipe.build(data.graph, images, labels)
    if recompute:
        for network in networks_of(run.model, run.guide):
            network.forward = _recomputed(network.forward, recompute)
    weights = sum(p.numel() * p.element_size() for module in (run.model, run.guide) for p in module.parameters())
    stored = images.numel() * images.element_size() + labels.numel() * labels.element_size()
    # Adam keeps two moments, and a gradient is as large as its weight.
    needed = 4 * weights + stored
    options |= {"batch_size": batch, "micro_batches": parts}
    found = {"needed_mib": needed / _MIB}
    if epoch:
        # Drawing the scenes and starting the sprites is not training.
        _reset_peak(device)
        start = time.perf_counter()
        fit(run.model, run.guide, (images, labels), objective=recipe.objective(run), **options)
        found["seconds"] = time.perf_counter() - start
        found |= {"peak": _peak(device) - before}
    if device.startswith("cuda"):
        tensors = found.pop("peak")
    else:
        few = images[: 4 * batch], labels[: 4 * batch]
        objective = recipe.objective(run)
        for term in objective.terms:
            if callable(getattr(term, "weight", None)):
                # As it is in the end, from the first of these steps on.
                term.weight = term.weight(1.0)
        tensors = weights + stored + peak_of_tensors(lambda: fit(run.model, run.guide, few, objective=objective, **options))
        if epoch:
            process = found.pop("peak")
            found |= {"process_mib": process / _MIB, "process_ratio": process / needed}
    return {**found, "tensors_mib": tensors / _MIB, "tensors_ratio": tensors / needed}


def _recomputed(forward: Callable[..., Tensor], images: int) -> Callable[..., Tensor]:
    """A network that keeps its inputs only and computes the rest again in the backward pass."""

    def run(*inputs: Tensor | None) -> Tensor:
        given = [tensor.split(images) for tensor in inputs if tensor is not None]
        return torch.cat([checkpoint(forward, *part, use_reentrant=False) for part in zip(*given, strict=True)])

    return run


def peak_of_tensors(function: Callable[[], object]) -> int:
    """Most bytes allocated at once by a call, beyond what was there before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    events = record.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    if not changes:
        raise RuntimeError("the profiler recorded no allocation")
    peak = here = 0
    for _, change in changes:
        here += change
        peak = max(peak, here)
    return peak


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def _resident(device: str) -> int:
    """On a CPU that of the process, once everything that is free has gone back to the system."""
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return _status("VmRSS")


def _reset_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return
    _resident(device)
    Path("/proc/self/clear_refs").write_text("5")


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else _status("VmHWM")


if __name__ == "__main__":
    main()
