"""The table of ``benchmarks/scenes.py``, of what has been run so far."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from causalvae_pyro.metrics import seeds_interval
from scenes import SCENES
from scenes.scoring import PARTS

__all__ = ["cells_of", "is_of", "markdown", "page", "summarise"]


def cells_of(folder: Path, settings: Mapping[str, Any] | None = None) -> dict[str, list[dict[str, Any]]]:
    """The finished cells of each kind in the order of their seeds; kinds without any are left out.

    Args:
        folder: Where they are kept.
        settings: Only cells with these; by default those whose decoder the data have chosen.
    """
    found = {}
    for name in SCENES:
        files = sorted(folder.glob(f"{name}-[0-9]*.json"), key=lambda file: int(file.stem.split("-")[1]))
        cells = [json.loads(file.read_text()) for file in files]
        cells = [cell for cell in cells if (is_of(cell, settings) if settings else cell["settings"]["decoder"] is None)]
        if cells:
            found[name] = cells
    return found


def is_of(cell: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a cell has these settings, and all scores: those of earlier code have fewer."""
    return cell["settings"] == settings and {"choice", *PARTS} <= cell.keys()


def summarise(name: str, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, with intervals where there are several."""
    return {
        "must": SCENES[name].must,
        "seeds": len(cells),
        "chosen": [cell["chosen"] for cell in cells],
        "seconds": seeds_interval([cell["seconds"] for cell in cells]),
        "choice": seeds_interval([cell["choice"] for cell in cells]),
        **{part: {key: seeds_interval([cell[part][key] for cell in cells]) for key in cells[0][part]} for part in ("r2", *PARTS)},
    }


def markdown(result: Mapping[str, Mapping[str, Any]]) -> str:
    """The scores of each concept, in the graph's order, with their intervals; bold where less than asked for.

    Args:
        result: Of each kind what :func:`summarise` returns.
    """
    lines = [
        "| kind | asked for | CF-score: concept, own detail kept (the decoder's mean) "
        "| worst of the means: ceiling, decoder, mechanism | decoder chosen | seconds, of these the choice's | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in result.items():
        scores, means = row["kept"], row["score"]
        worst = min(means, key=lambda key: means[key]["mean"])
        limits = ", ".join(f"{row[part][worst]['mean']:.3f}" for part in ("ceiling", "decoder", "mechanism"))
        cells = ", ".join(_score(key, cell, means[key]["mean"], row["must"]) for key, cell in scores.items())
        chosen = ", ".join(dict.fromkeys(row["chosen"]))
        seconds = ", ".join(f"{row[key]['mean']:.0f}" for key in ("seconds", "choice"))
        lines.append(f"| {name} | {row['must']} | {cells} | {limits} | {chosen} | {seconds} | {row['seeds']} |")
    return "\n".join(lines)


def _score(name: str, cell: Mapping[str, Any], mean: float, must: float) -> str:
    low, high = cell.get("interval", (0.0, 0.0))
    text = f"{cell['mean']:.3f}" + (f" ± {(high - low) / 2:.3f}" if high > low else "")
    return f"{name} {f'**{text}**' if cell['mean'] < must else text} ({mean:.3f})"


def page(folder: Path) -> str:
    """The table of the finished cells, and which code they are of."""
    found = cells_of(folder)
    commits = dict.fromkeys(cell["commit"] for cells in found.values() for cell in cells)
    result = {name: summarise(name, cells) for name, cells in found.items()}
    return f"{markdown(result)}\n\nOf commit {', '.join(commits)}."
