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
    pendulum = json.loads((RESULTS / "pendulum.json").read_text())
    step = json.loads((RESULTS / "step.json").read_text())
    renderer = json.loads((RESULTS / "renderer.json").read_text())
    hardware = pendulum["hardware"]
    seeds = pendulum["seeds"]
    lines = [
        f"Pendulum, 64 x 64, images alone at test time, random split, {seeds} seeds, mean and 95 % interval (`make quality`).",
        "CF-score: 1 is the true counterfactual image, 0 no better than leaving the image alone, negative worse than that.",
        "The ceiling is what the reconstruction error alone would allow.",
        "",
        "| intervention | R² of the concept | CF-score | ceiling |",
        "|---|---|---|---|",
    ]
    for key, score in pendulum["cf_score"].items():
        name = f"do({key.replace('+', ', ')})"
        r2 = _value(pendulum["r2"][key], 4) if key in pendulum["r2"] else ""
        lines.append(f"| {name} | {r2} | {_value(score, 3)} | {pendulum['ceiling'][key]['mean']:.3f} |")
    new_figure = renderer["times_faster_than_matplotlib"]["new_figure"]["median"]
    redraw = renderer["times_faster_than_matplotlib"]["redraw"]["median"]
    lines += [
        "",
        f"The whole job, data to report, takes {pendulum['seconds']['mean']:.0f} s and {pendulum['peak_memory_gib']:.1f} GiB on "
        f"{hardware['cores']} cores ({hardware['cpu']}), no GPU. A training step through `fit` takes {step['ratio_median']:.2f} "
        f"times a hand-written PyTorch step of the same maths; the renderer draws {new_figure:.0f} times as many scenes per "
        f"second as matplotlib with a new figure for each, as published, and {redraw:.1f} times as many as matplotlib redrawing "
        "one figure (`make bench`).",
    ]
    return "\n".join(lines)


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
