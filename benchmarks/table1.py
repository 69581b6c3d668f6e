"""Table 1 of the paper, all of it: data sets x methods x seeds, scored on images alone.

Every cell (a method trained on a data set from one seed) is a JSON file under ``--cells``. A cell that is there is not run
again, so a stopped table goes on where it was, and ``--seeds`` can be raised later. Cells run side by side, one per GPU, or
on the CPU one per core. The simulators' columns take no files; Morpho-MNIST's and CelebA's come in where their folders are
given.

python -m benchmarks.table1            five seeds of everything (hours on 2 cores)
python -m benchmarks.table1 --quick    one seed
python -m benchmarks.table1 --data morphomnist --morphomnist-root PATH --out benchmarks/results/table1_morphomnist.json
python -m benchmarks.table1 --data celeba_smile celeba_beard --celeba-root PATH --out benchmarks/results/table1_celeba.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from queue import Queue
from typing import Any

# As a module (python -m) or as a script.
sys.path.insert(0, str(Path(__file__).parent))

import torch
from environment import describe, write_json
from table1_cells import run_cell
from table1_methods import SOURCES, rows_of
from tqdm import tqdm

from causalvae_pyro.metrics import seeds_interval

METHODS = list(dict.fromkeys(row for data in SOURCES for row in rows_of(data)))

RESULTS = Path(__file__).parent / "results"


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
    parser.add_argument("--cells", type=Path, default=RESULTS / "table1", help="where finished cells are kept")
    parser.add_argument("--out", type=Path, default=RESULTS / "table1.json")
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
    cells = [(data, row, seed) for seed in seeds for data in args.data for row in rows[data]]
    failed = run_all(cells, settings, args.cells, args.jobs, roots)
    done = {cell: read(args.cells, cell, settings) for cell in cells}
    if any(result is None for result in done.values()):
        print(f"{failed} cells failed; the others are kept in {args.cells}, run the same command again", file=sys.stderr)
        return 1
    results = {
        data: {row: summarise([done[data, row, seed] for seed in seeds]) for row in rows[data]}  # type: ignore[misc]
        for data in args.data
    }
    names = {row: rows_of(data)[row].method.name for data in args.data for row in rows[data]}
    write_json(args.out, {"settings": settings | {"seeds": len(seeds)}, "names": names, "data": results, **describe()})
    for data, scores in results.items():
        columns = {"mic": 100, "tic": 100, "cf_roots": 1, "cf_children": 1, "seconds": 1}
        print(f"\n{SOURCES[data].title:<48}" + "".join(f"{column:>12}" for column in columns))
        for row, s in scores.items():
            found = (f"{factor * s[column]['mean']:.3f}" if column in s else "" for column, factor in columns.items())
            print(f"{names[row]:<48}" + "".join(f"{cell:>12}" for cell in found))
    print(f"\nwrote {args.out}")
    return 0


def path_of(folder: Path, cell: tuple[str, str, int]) -> Path:
    data, row, seed = cell
    return folder / data / f"{row}-{seed}.json"


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
        tqdm(total=len(cells), initial=len(cells) - len(todo), unit="cell", smoothing=0) as bar,
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
                    tqdm.write(f"{path_of(folder, cell)}: a process has died (out of memory?)", file=sys.stderr)
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
                    tqdm.write(f"{path_of(folder, cell)}: {type(error).__name__}: {error}", file=sys.stderr)
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


def summarise(cells: list[dict]) -> dict:
    """Intervals over the seeds; columns that the data set has not are left out."""
    columns = {name: [find(cell) for cell in cells] for name, find in COLUMNS.items() if _has(find, cells[0])}
    result = {name: seeds_interval(values) for name, values in columns.items()}
    for part in ("cf_score", "minimality", "reversibility"):
        if part in cells[0]["scores"]:
            values = {key: [cell["scores"][part][key] for cell in cells] for key in cells[0]["scores"][part]}
            result[part] = {key: seeds_interval(found) for key, found in values.items()}
    if "effectiveness" in cells[0]["scores"]:
        found = [cell["scores"]["effectiveness"] for cell in cells]
        lines = {"factual": [f["factual"] for f in found]} | {name: [f["do"][name] for f in found] for name in found[0]["do"]}
        result["effectiveness"] = {
            line: {label: seeds_interval([row[label] for row in rows]) for label in rows[0]} for line, rows in lines.items()
        }
    points = zip(*(cell["curve"] for cell in cells), strict=True)
    result["curve"] = [{key: seeds_interval([point[key] for point in row]) for key in row[0]} for row in points]
    return result


def _of_scores(*path: str) -> Callable[[dict], Any]:
    def find(cell: dict) -> Any:
        found = cell["scores"]
        for key in path:
            found = found[key]
        return found

    return find


def _has(find: Callable[[dict], Any], cell: dict) -> bool:
    try:
        find(cell)
    except KeyError:
        return False
    return True


def _mean(part: str) -> Callable[[dict], float]:
    return lambda cell: sum(cell["scores"][part].values()) / len(cell["scores"][part])


COLUMNS: dict[str, Callable[[dict], Any]] = {
    "mic": _of_scores("representation", "mic_mean"),
    "tic": _of_scores("representation", "tic_mean"),
    "whole_mic": _of_scores("whole_labels", "mic_mean"),
    "whole_tic": _of_scores("whole_labels", "tic_mean"),
    "r2_min": _of_scores("summary", "r2_min"),
    "r2_mean": _mean("r2"),
    "dci_disentanglement": _of_scores("representation", "dci", "disentanglement"),
    "dci_completeness": _of_scores("representation", "dci", "completeness"),
    "shd": _of_scores("graph", "shd"),
    "cf_roots": _of_scores("summary", "cf_roots"),
    "cf_children": _of_scores("summary", "cf_children"),
    "cf_mean": _of_scores("summary", "cf_mean"),
    "composition_1": lambda cell: cell["scores"]["composition"][0],
    "composition_10": lambda cell: cell["scores"]["composition"][-1],
    "reversibility_mean": _mean("reversibility"),
    "minimality_mean": _mean("minimality"),
    "reconstruction_mse": _of_scores("reconstruction_mse"),
    "seconds": lambda cell: cell["seconds"],
}


if __name__ == "__main__":
    sys.exit(main())
