"""Table 1 of the paper, all of it: data sets x methods x seeds, scored on images alone.

Every cell (a method trained on a data set from one seed) is a JSON file under ``--cells``. A cell that is there is not run
again, so a stopped table goes on where it was, and ``--seeds`` can be raised later. Cells run side by side, one per GPU, or
on the CPU one per core. The simulators' columns take no files; Morpho-MNIST's and CelebA's come in where their folders are
given.

python -m benchmarks.table1            five seeds of everything (hours on 2 cores)
python -m benchmarks.table1 --quick    one seed
python -m benchmarks.table1 --data morphomnist --morphomnist-root PATH
python -m benchmarks.table1 --data celeba_smile celeba_beard --celeba-root PATH

The table itself is not kept: table1_summary.py computes it from the cells.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from queue import Queue

# As a module (python -m) or as a script.
sys.path.insert(0, str(Path(__file__).parent))

import torch
from environment import write_json
from table1_cells import run_cell
from table1_methods import SOURCES, rows_of
from table1_summary import CELLS, path_of, summarise_table

from causalvae_pyro.utils.progress import Progress, say

METHODS = list(dict.fromkeys(row for data in SOURCES for row in rows_of(data)))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(SOURCES), default=["pendulum", "flow"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="default: all that fit the data")
    parser.add_argument("--morphomnist-root", help="folder with Morpho-MNIST's published files")
    parser.add_argument("--celeba-root", help="folder that holds celeba/, as for torchvision")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--train-limit", type=int, help="train on so many images only, evenly spaced")
    parser.add_argument("--limit", type=int, help="score so many test images only, evenly spaced")
    parser.add_argument("--jobs", type=int, help="cells at a time (default: GPUs, or else cores)")
    parser.add_argument("--cells", type=Path, default=CELLS, help="where finished cells are kept")
    args = parser.parse_args(argv)
    for name in ("seeds", "epochs", "jobs", "limit", "train_limit"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: got {getattr(args, name)}; must be at least 1")
    roots = {"morphomnist_root": args.morphomnist_root, "celeba_root": args.celeba_root}
    for data in args.data:
        option = SOURCES[data].root
        if option is not None and roots[option] is None:
            parser.error(f"--{option.replace('_', '-')}: not given; {data} lies in a folder of yours")
    seeds = range(1 if args.quick else args.seeds)
    settings = {name: getattr(args, name) for name in ("epochs", "size", "limit", "train_limit")}
    rows = {data: [row for row in rows_of(data) if row in args.methods] for data in args.data}
    if not any(rows.values()):
        parser.error(f"--methods: got {' '.join(args.methods)}; no row of {' or '.join(args.data)}")
    cells = [(data, row, seed) for seed in seeds for data in args.data for row in rows[data]]
    failed = run_all(cells, settings, args.cells, args.jobs, roots)
    if any(read(args.cells, cell, settings) is None for cell in cells):
        print(f"{failed} cells failed; the others are kept in {args.cells}, run the same command again", file=sys.stderr)
        return 1
    result = summarise_table(args.cells, rows, len(seeds))
    for data, scores in result["data"].items():
        columns = {"mic": 100, "tic": 100, "cf_roots": 1, "cf_children": 1, "seconds": 1}
        print(f"\n{SOURCES[data].title:<48}" + "".join(f"{column:>12}" for column in columns))
        for row, s in scores.items():
            found = (f"{factor * s[column]['mean']:.3f}" if column in s else "" for column, factor in columns.items())
            print(f"{result['names'][row]:<48}" + "".join(f"{cell:>12}" for cell in found))
    print(f"\nthe cells are in {args.cells}")
    return 0


def read(folder: Path, cell: tuple[str, str, int], settings: dict) -> dict | None:
    """A finished cell; ``None`` where there is none, or one of other settings."""
    path = path_of(folder, cell)
    if not path.is_file():
        return None
    result = json.loads(path.read_text())
    return result if result["settings"] == settings else None


def run_all(
    cells: list[tuple[str, str, int]], settings: dict, folder: Path, jobs: int | None, roots: dict[str, str | None] | None = None
) -> int:
    """Runs what is missing, and returns how many cells failed."""
    todo = [cell for cell in cells if read(folder, cell, settings) is None]
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = min(jobs or gpus or cores, max(1, len(todo)))
    # More threads than cores would wait for each other.
    threads = max(1, cores // jobs)
    free: Queue[str] = Queue()
    for i in range(jobs):
        free.put(f"cuda:{i % gpus}" if gpus else "cpu")
    failed, waiting, running = 0, list(todo), {}
    with (
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_start, initargs=(threads,)) as pool,
        Progress(len(cells), "cells", unit="cell", initial=len(cells) - len(todo), every=1) as bar,
    ):
        while waiting or running:
            while waiting and not free.empty():
                cell, device = waiting.pop(0), free.get()
                try:
                    running[pool.submit(work, cell, settings, folder, device, roots)] = cell, device
                except BrokenProcessPool:
                    # A process was killed, for memory as a rule; the pool takes no more.
                    failed += 1 + len(waiting)
                    waiting.clear()
                    say(f"{path_of(folder, cell)}: a process has died (out of memory?)")
            if not running:
                break
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                cell, device = running.pop(future)
                free.put(device)
                bar.update()
                error = future.exception()
                if error is not None:
                    failed += 1
                    say(f"{path_of(folder, cell)}: {type(error).__name__}: {error}")
    return failed


def _start(threads: int) -> None:
    torch.set_num_threads(threads)


def work(
    cell: tuple[str, str, int], settings: dict, folder: Path, device: str, roots: dict[str, str | None] | None = None
) -> None:
    """Runs one cell and keeps it."""
    data, row, seed = cell
    result = run_cell(row, data, seed, settings, device, roots)
    write_json(path_of(folder, cell), {"settings": settings, "data": data, "method": row, "seed": seed, **result})


if __name__ == "__main__":
    sys.exit(main())
