"""Writes the README's results from the committed figures, so that the two cannot disagree (a test checks it).

python benchmarks/tables.py
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
START, END = "<!-- results:start -->", "<!-- results:end -->"


def results() -> str:
    """The results section in Markdown."""
    pendulum, flow, step, renderer = (
        json.loads((RESULTS / f"{n}.json").read_text()) for n in ("pendulum", "flow", "step", "renderer")
    )
    faster = renderer["times_faster_than_matplotlib"]
    seeds, seconds, memory = pendulum["seeds"], pendulum["seconds"]["mean"], pendulum["peak_memory_gib"]
    cores, cpu = pendulum["hardware"]["cores"], pendulum["hardware"]["cpu"]
    new_figure, redraw = faster["new_figure"]["median"], faster["redraw"]["median"]
    lines = [
        f"64 x 64 pixels, images alone at test time, random split, {seeds} seeds, mean and 95 % interval (`make quality`).",
        "CF-score: 1 is the true counterfactual image, 0 no better than leaving the image alone, negative worse than that.",
        "The ceiling is what the reconstruction error alone would allow.",
        "",
        *_table("Pendulum", pendulum),
        "",
        *_table("Flow", flow),
        "",
        f"The whole Pendulum job, data to report, takes {seconds:.0f} s and {memory:.1f} GiB on {cores} cores ({cpu}), no GPU.",
        f"A training step through `fit` takes {step['ratio_median']:.2f} times a hand-written PyTorch step of the same maths.",
        f"The renderer draws {new_figure:.0f} times as many scenes per second as matplotlib with a new figure for each, as",
        f"published, and {redraw:.1f} times as many as matplotlib redrawing one figure (`make bench`).",
    ]
    return "\n".join(lines)


def _table(title: str, result: dict) -> list[str]:
    lines = [f"| {title} | R² of the concept | CF-score | ceiling |", "|---|---|---|---|"]
    for key, score in result["cf_score"].items():
        name = f"do({key.replace('+', ', ')})"
        r2 = _value(result["r2"][key], 4) if key in result["r2"] else ""
        lines.append(f"| {name} | {r2} | {_value(score, 3)} | {result['ceiling'][key]['mean']:.3f} |")
    return lines


def readme(text: str) -> str:
    """The README with its results section replaced."""
    head, rest = text.split(START)
    _, tail = rest.split(END)
    return f"{head}{START}\n{results()}\n{END}{tail}"


def _value(value: dict, digits: int) -> str:
    if "interval" not in value:
        return f"{value['mean']:.{digits}f}"
    return f"{value['mean']:.{digits}f} ± {value['interval'][1] - value['mean']:.{digits}f}"


def main() -> None:
    path = ROOT / "README.md"
    path.write_text(readme(path.read_text()))
    print(results())


if __name__ == "__main__":
    main()
