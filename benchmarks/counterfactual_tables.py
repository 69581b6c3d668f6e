"""The tables of docs/counterfactuals.md, and the README's on counterfactuals, from the committed figures."""

from __future__ import annotations

import json
from pathlib import Path

from causalvae_pyro.datasets import Flow, Pendulum
from causalvae_pyro.metrics import seeds_interval

RESULTS = Path(__file__).parent / "results"
TITLES = {"pendulum": "Pendulum", "flow": "Flow"}
# Figures that the tables of concepts have no column for, with their digits.
MORE = {
    "cf_r2": ("R² of the counterfactual, worst concept", 4),
    "mic": ("MIC", 3),
    "tic": ("TIC", 3),
    "composition_growth": ("error after 10 interventions that change nothing, over that after 1", 2),
}


def value(cell: dict, digits: int) -> str:
    """Mean and half the width of its interval."""
    if "interval" not in cell:
        return f"{cell['mean']:.{digits}f}"
    return f"{cell['mean']:.{digits}f} ± {cell['interval'][1] - cell['mean']:.{digits}f}"


def load(name: str) -> dict:
    """A committed result."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def mean_of_pairs(scores: dict) -> dict:
    """Over all pairs of concepts, seed by seed."""
    return _mean(scores, [key for key in scores if "+" in key])


def mean_of_roots(data: str, scores: dict) -> dict:
    """Over the concepts that nothing causes, seed by seed."""
    return _mean(scores, {"pendulum": Pendulum, "flow": Flow}[data].graph.roots)


def _mean(scores: dict, keys: list[str] | tuple[str, ...]) -> dict:
    rows = zip(*(scores[key]["values"] for key in keys), strict=True)
    return seeds_interval([sum(row) / len(row) for row in rows])


def readme() -> list[str]:
    """Single concepts, pairs and the rest, for both presets."""
    seeds = load("pendulum")["seeds"]
    lines = [
        f"64 x 64 pixels, images alone at test time, random split, {seeds} seeds, mean and 95 % interval (`make quality`,"
        " `make quality-best`).",
        "CF-score: 1 is the true counterfactual image, 0 no better than leaving the image alone, negative worse than that.",
        "The ceiling is what the reconstruction error alone would allow.",
        "",
        "| | R² of the concept | CF-score | ceiling | R², `--preset best` | CF-score | ceiling |",
        "|---|---|---|---|---|---|---|",
    ]
    for data, title in TITLES.items():
        both = load(data), load(f"{data}_best")
        for name in both[0]["r2"]:
            cells = [cell for result in both for cell in _concept(result, name)]
            lines.append(f"| {title}, do({name}) | {' | '.join(cells)} |")
        pairs = [cell for result in both for cell in _pairs(result)]
        lines.append(f"| {title}, pairs of concepts, mean | {' | '.join(pairs)} |")
    lines += ["", "| | Pendulum | Flow | Pendulum, `--preset best` | Flow |", "|---|---|---|---|---|"]
    runs = [load(name) for name in ("pendulum", "flow", "pendulum_best", "flow_best")]
    for key, (what, digits) in MORE.items():
        lines.append(f"| {what} | {' | '.join(value(run[key], digits) for run in runs)} |")
    return lines


def _concept(result: dict, name: str) -> list[str]:
    return [value(result["r2"][name], 4), value(result["cf_score"][name], 3), f"{result['ceiling'][name]['mean']:.3f}"]


def _pairs(result: dict) -> list[str]:
    return ["", value(mean_of_pairs(result["cf_score"]), 3), f"{mean_of_pairs(result['ceiling'])['mean']:.3f}"]


def settings() -> str:
    """Every intervention under the published data, mechanism noise, and the split that holds out combinations of causes."""
    columns = {
        "": "default",
        "_best": "`--preset best`",
        "_noise": "`--noise 0.3`",
        "_split": "`--partition compositional`",
    }
    seeds = load("pendulum")["seeds"]
    lines = [f"CF-scores, {seeds} seeds:", ""]
    for data, title in TITLES.items():
        runs = [load(data + suffix) for suffix in columns]
        lines += [f"| {title} | {' | '.join(columns.values())} |", "|---|" + "---|" * len(columns)]
        for key in runs[0]["cf_score"]:
            cells = [value(run["cf_score"][key], 3) for run in runs]
            lines.append(f"| do({key.replace('+', ', ')}) | {' | '.join(cells)} |")
        roots = [value(mean_of_roots(data, run["cf_score"]), 3) for run in runs]
        lines.append(f"| causes, mean | {' | '.join(roots)} |")
        pairs = [value(mean_of_pairs(run["cf_score"]), 3) for run in runs]
        lines.append(f"| pairs, mean | {' | '.join(pairs)} |")
        worst = [value(min(run["r2"].values(), key=lambda cell: cell["mean"]), 4) for run in runs]
        lines.append(f"| R² of the worst concept | {' | '.join(worst)} |")
        for key, (what, digits) in MORE.items():
            lines.append(f"| {what} | {' | '.join(value(run[key], digits) for run in runs)} |")
        lines.append("")
    return "\n".join(lines[:-1])


def ablation() -> str:
    """Each ingredient left out, and some alone."""
    result = load("ablation")
    first = result["variants"]["all"]["cf_score"]
    lines = [
        f"CF-scores on Pendulum after {result['settings']['epochs']} epochs, {result['settings']['seeds']} seeds,"
        f" {result['settings']['limit']} test images (`python benchmarks/ablation.py`):",
        "",
        f"| | {' | '.join(f'do({name})' for name in first)} | R² of the counterfactual, worst | error after 10 nulls over 1 |",
        "|---|" + "---|" * (len(first) + 2),
    ]
    for row in result["variants"].values():
        cells = [value(cell, 3) for cell in row["cf_score"].values()]
        cells += [value(row["cf_r2"], 3), value(row["composition_growth"], 1)]
        lines.append(f"| {row['what']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def handwriting() -> list[str]:
    """Morpho-MNIST, beside a conditional VAE."""
    ours, other = load("morphomnist"), load("morphomnist_cvae")
    lines = [
        f"Morpho-MNIST, 8,000 real digits to learn from, 2,000 to test, {ours['seeds']} seeds"
        " (`python benchmarks/morphomnist.py --root FOLDER`, and `morphomnist_cvae.py` for a conditional VAE of the same size).",
        "Mean absolute errors that an independent predictor, trained on real images, reads against the closed-form truth:",
        "",
        "| Morpho-MNIST | thickness, px | intensity, grey levels | same digit |",
        "|---|---|---|---|",
    ]
    columns = {"thickness_mae_px": 3, "intensity_mae_grey": 2, "digit_accuracy": 4}
    for name in ("real images", "reconstructions", "do(thickness)", "do(intensity)"):
        cells = [value(ours["scores"][f"{name} {column}"], digits) for column, digits in columns.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    cases = ("reconstructions", "do(thickness)", "do(thickness), true labels told", "do(intensity)")
    for name in cases:
        cells = [value(other["scores"][name][column], digits) for column, digits in columns.items()]
        lines.append(f"| conditional VAE, {name} | {' | '.join(cells)} |")
    r2 = [value(ours["scores"][f"r2 {name}"], 4) for name in ("thickness", "intensity")]
    return [*lines, "", f"R² read from test images: thickness {r2[0]}, intensity {r2[1]}."]
