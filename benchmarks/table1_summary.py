"""Table 1 as numbers: means and intervals over the seeds, computed from the cells."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from table1_methods import SOURCES, rows_of

from causalvae_pyro.metrics import seeds_interval

CELLS = Path(__file__).parent / "results" / "table1"

#: The tables of docs/results.md, by name: rows by data set.
TABLES: dict[str, dict[str, list[str]]] = {
    "main": {data: [row for row in rows_of(data) if not row.endswith("_unit")] for data in ("pendulum", "flow")},
    # The paper's rows with a likelihood of scale 1.
    "scale": {data: [row for row in rows_of(data) if row.endswith("_unit")] for data in ("pendulum", "flow")},
    # Data sets whose files the user has: shown once they have been run.
    "morphomnist": {"morphomnist": list(rows_of("morphomnist"))},
    "celeba": {data: list(rows_of(data)) for data in SOURCES if data.startswith("celeba")},
}


def path_of(folder: Path, cell: tuple[str, str, int]) -> Path:
    """The file of a cell: data set, row and seed."""
    data, row, seed = cell
    return folder / data / f"{row}-{seed}.json"


def load(name: str = "main", folder: Path = CELLS) -> dict | None:
    """A table of the committed cells, over the seeds that all its rows have; ``None`` where there is no cell of it.

    Args:
        name: A key of :data:`TABLES`.
        folder: Where the cells are.
    """
    seeds = {(data, row): len(list((folder / data).glob(f"{row}-*.json"))) for data in TABLES[name] for row in TABLES[name][data]}
    rows = {data: [row for row in found if seeds[data, row]] for data, found in TABLES[name].items()}
    return summarise_table(folder, rows, min(filter(None, seeds.values()))) if any(seeds.values()) else None


def summarise_table(folder: Path, rows: Mapping[str, Sequence[str]], seeds: int) -> dict:
    """Reads the cells of a table and summarises them.

    Args:
        folder: Where the cells are.
        rows: Rows by data set.
        seeds: Number of seeds.

    Returns:
        ``settings`` (with ``seeds``), ``names`` by row, ``hardware`` (by data set where it differs), and ``data``: what
            :func:`summarise` returns, by data set and row.

    Raises:
        ValueError: If the cells were made with different settings.
    """
    cells = {
        data: {row: [json.loads(path_of(folder, (data, row, seed)).read_text()) for seed in range(seeds)] for row in rows[data]}
        for data in rows
        if rows[data]
    }
    settings = [cell["settings"] for found in cells.values() for row in found.values() for cell in row]
    if other := [found for found in settings if found != settings[0]]:
        raise ValueError(f"cells: {folder} mixes settings, {settings[0]} and {other[0]}; run the table again")
    hardware = {data: next(iter(found.values()))[0]["hardware"] for data, found in cells.items()}
    first = next(iter(hardware.values()))
    return {
        "settings": settings[0] | {"seeds": seeds},
        "names": {row: rows_of(data)[row].method.name for data in rows for row in rows[data]},
        "data": {data: {row: summarise(found[row]) for row in found} for data, found in cells.items()},
        "hardware": first if all(found == first for found in hardware.values()) else hardware,
    }


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
