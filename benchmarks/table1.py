"""Table 1 of the paper, all of it: data sets x methods x seeds, scored on images alone.

Every cell (a method trained on a data set from one seed) is a JSON file under ``--cells``. A cell that is there is not run
again, so a stopped table goes on where it was, and ``--seeds`` can be raised later. Cells run side by side, one per GPU, or
on the CPU one per core.

python -m benchmarks.table1            five seeds of everything (hours on 2 cores)
python -m benchmarks.table1 --quick    one seed
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from queue import Queue

# As a module (python -m) or as a script.
sys.path.insert(0, str(Path(__file__).parent))

import torch
from environment import describe, write_json
from table1_cells import ROWS, run_cell
from tqdm import tqdm

from causalvae_pyro.metrics import seeds_interval
from causalvae_pyro.sources import SIMULATORS


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=sorted(SIMULATORS), default=["pendulum", "flow"])
    parser.add_argument("--methods", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--train-limit", type=int, help="train on so many images only, evenly spaced")
    parser.add_argument("--limit", type=int, help="score so many test images only, evenly spaced")
    parser.add_argument("--jobs", type=int, help="cells at a time (default: GPUs, or else cores)")
    parser.add_argument("--cells", type=Path, default=Path("runs/table1"), help="where finished cells are kept")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "table1.json")
    args = parser.parse_args(argv)
    for name in ("seeds", "epochs", "jobs", "limit", "train_limit"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: got {getattr(args, name)}; must be at least 1")
    seeds = range(1 if args.quick else args.seeds)
    settings = {name: getattr(args, name) for name in ("epochs", "size", "limit", "train_limit")}
    cells = [(data, row, seed) for seed in seeds for data in args.data for row in args.methods]
    failed = run_all(cells, settings, args.cells, args.jobs)
    done = {cell: read(args.cells, cell, settings) for cell in cells}
    if any(result is None for result in done.values()):
        print(f"{failed} cells failed; the others are kept in {args.cells}, run the same command again", file=sys.stderr)
        return 1
    results = {
        data: {row: summarise([done[data, row, seed] for seed in seeds]) for row in args.methods}  # type: ignore[misc]
        for data in args.data
    }
    names = {row: ROWS[row][0].name for row in args.methods}
    write_json(args.out, {"settings": settings | {"seeds": len(seeds)}, "names": names, "data": results, **describe()})
    for data, rows in results.items():
        print(f"\n{data:<48}{'MIC':>8}{'TIC':>8}{'CF roots':>10}{'children':>10}{'seconds':>9}")
        for row, s in rows.items():
            numbers = (100 * s["mic"]["mean"], 100 * s["tic"]["mean"], s["cf_roots"]["mean"], s["cf_children"]["mean"])
            print(f"{names[row]:<48}{numbers[0]:>8.1f}{numbers[1]:>8.1f}{numbers[2]:>10.3f}{numbers[3]:>10.3f}", end="")
            print(f"{s['seconds']['mean']:>9.0f}")
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


def run_all(cells: list[tuple[str, str, int]], settings: dict, folder: Path, jobs: int | None) -> int:
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
                running[pool.submit(work, cell, settings, folder, device)] = cell, device
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


def work(cell: tuple[str, str, int], settings: dict, folder: Path, device: str) -> None:
    """Runs one cell and keeps it."""
    data, row, seed = cell
    result = run_cell(row, data, seed, settings, device)
    write_json(path_of(folder, cell), {"settings": settings, "data": data, "method": row, "seed": seed, **result})


def summarise(cells: list[dict]) -> dict:
    """Intervals over the seeds."""
    scores = [cell["scores"] for cell in cells]
    columns = {
        "mic": [s["representation"]["mic_mean"] for s in scores],
        "tic": [s["representation"]["tic_mean"] for s in scores],
        "whole_mic": [s["whole_labels"]["mic_mean"] for s in scores],
        "whole_tic": [s["whole_labels"]["tic_mean"] for s in scores],
        "r2_min": [s["summary"]["r2_min"] for s in scores],
        "r2_mean": [sum(s["r2"].values()) / len(s["r2"]) for s in scores],
        "dci_disentanglement": [s["representation"]["dci"]["disentanglement"] for s in scores],
        "dci_completeness": [s["representation"]["dci"]["completeness"] for s in scores],
        "shd": [s["graph"]["shd"] for s in scores],
        "cf_roots": [s["summary"]["cf_roots"] for s in scores],
        "cf_children": [s["summary"]["cf_children"] for s in scores],
        "cf_mean": [s["summary"]["cf_mean"] for s in scores],
        "reconstruction_mse": [s["reconstruction_mse"] for s in scores],
        "seconds": [cell["seconds"] for cell in cells],
    }
    result = {name: seeds_interval(values) for name, values in columns.items()}
    result["cf_score"] = {key: seeds_interval([s["cf_score"][key] for s in scores]) for key in scores[0]["cf_score"]}
    points = zip(*(cell["curve"] for cell in cells), strict=True)
    result["curve"] = [{key: seeds_interval([point[key] for point in row]) for key in row[0]} for row in points]
    return result


if __name__ == "__main__":
    sys.exit(main())
