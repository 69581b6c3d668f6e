"""The tables of docs/counterfactuals.md, and those of docs/results.md on counterfactuals, from the committed figures."""

from __future__ import annotations

import json
from pathlib import Path

from causalvae_pyro.datasets import Flow, Pendulum
from causalvae_pyro.metrics import seeds_interval
from causalvae_pyro.utils.student_t import half_width

RESULTS = Path(__file__).parent / "results"
TITLES = {"pendulum": "Pendulum", "flow": "Flow"}
# Figures that the tables of concepts have no column for, with their digits.
MORE = {
    "cf_r2": ("R² of the counterfactual, worst concept", 4),
    "mic": ("MIC", 3),
    "tic": ("TIC", 3),
    "composition_growth": ("composition error, 10 null interventions / 1", 2),
}

# How CausalVAE is told apart in the table of handwriting, with the keys of its figures.
OURS = {
    "images alone, ": "ours",
    "labels known, ": "ours labels known",
    "without predictors, labels known, ": "ours_alone labels known",
}


#: Variants of ``benchmarks/ablation_scenes.py``, in words.
ABLATED = {
    "growing_price": "a price that grows twentyfold",
    "same_price": "a price that stays",
    "low_price": "a tenth of the price",
    "no_price": "no price",
    "no_floor": "differences below a grey level count",
    "fast_effects": "effects take steps as long as canvases do",
}


def value(cell: dict, digits: int) -> str:
    """Mean over the seeds and half the width of its 95 % interval."""
    if "interval" not in cell:
        return f"{cell['mean']:.{digits}f}"
    # Not the difference of two numbers of six digits each, which has fewer.
    half = half_width(cell["standard_error"], len(cell["values"]))
    return f"{cell['mean']:.{digits}f} ± {half:.{digits}f}"


def load(name: str) -> dict:
    """A committed result."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def measured(*suffixes: str) -> list[str]:
    """Of these settings, those that have been run on every data set."""
    return [suffix for suffix in suffixes if all((RESULTS / f"{data}{suffix}.json").is_file() for data in TITLES)]


def mean_of_pairs(scores: dict) -> dict:
    """Over all pairs of concepts, seed by seed."""
    return _mean(scores, [key for key in scores if "+" in key])


def mean_of_roots(data: str, scores: dict) -> dict:
    """Over the concepts that nothing causes, seed by seed."""
    return _mean(scores, {"pendulum": Pendulum, "flow": Flow}[data].graph.roots)


def _mean(scores: dict, keys: list[str] | tuple[str, ...]) -> dict:
    rows = zip(*(scores[key]["values"] for key in keys), strict=True)
    return seeds_interval([sum(row) / len(row) for row in rows])


def concepts() -> list[str]:
    """Single concepts, pairs and the rest, for the presets that have been run."""
    seeds, presets = load("pendulum")["seeds"], measured("", "_best")
    titles = {"": ", default" if len(presets) > 1 else "", "_best": ", `--preset best`"}
    command = "`make quality`" if presets == [""] else "`make quality quality-best`"
    head = [f"{title}{titles[preset]}" for preset in presets for title in ("R² of the concept", "CF-score", "ceiling")]
    lines = [
        f"64 x 64 pixels, images alone at test time, random split, {seeds} seeds, mean and 95 % interval ({command}).",
        "CF-score: 1 is the true counterfactual image, 0 no better than leaving the image alone, negative worse than that.",
        "The ceiling is what the reconstruction error alone would allow.",
        "",
        f"| | {' | '.join(head)} |",
        "|---|" + "---|" * len(head),
    ]
    for data, title in TITLES.items():
        runs = [load(data + preset) for preset in presets]
        for name in runs[0]["r2"]:
            cells = [cell for result in runs for cell in _concept(result, name)]
            lines.append(f"| {title}, do({name}) | {' | '.join(cells)} |")
        pairs = [cell for result in runs for cell in _pairs(result)]
        lines.append(f"| {title}, pairs of concepts, mean | {' | '.join(pairs)} |")
    columns = [f"{title}{titles[preset]}" for preset in presets for title in TITLES.values()]
    lines += ["", f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    runs = [load(data + preset) for preset in presets for data in TITLES]
    for key, (what, digits) in MORE.items():
        lines.append(f"| {what} | {' | '.join(value(run[key], digits) for run in runs)} |")
    return lines


def _concept(result: dict, name: str) -> list[str]:
    return [value(result["r2"][name], 4), value(result["cf_score"][name], 3), f"{result['ceiling'][name]['mean']:.3f}"]


def _pairs(result: dict) -> list[str]:
    return ["", value(mean_of_pairs(result["cf_score"]), 3), f"{mean_of_pairs(result['ceiling'])['mean']:.3f}"]


def settings() -> str:
    """Every intervention under the published data, mechanism noise, and the split that holds out combinations of causes."""
    names = {
        "": "default",
        "_best": "`--preset best`",
        "_noise": "`--noise 0.3`",
        "_split": "`--partition compositional`",
    }
    columns = {suffix: names[suffix] for suffix in measured(*names)}
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
    """Each ingredient left out, and some alone; nothing before it has been run."""
    if not (RESULTS / "ablation.json").is_file():
        return "`python benchmarks/ablation.py` leaves them out one by one; it has not been run to its end yet."
    result = load("ablation")
    first = result["variants"]["all"]["cf_score"]
    lines = [
        f"CF-scores on Pendulum after {result['settings']['epochs']} epochs, {result['settings']['seeds']} seeds,"
        f" {result['settings']['limit']} test images (`python benchmarks/ablation.py`):",
        "",
        f"| | {' | '.join(f'do({name})' for name in first)} | R² of the counterfactual, worst"
        " | composition error, 10 nulls / 1 |",
        "|---|" + "---|" * (len(first) + 2),
    ]
    for row in result["variants"].values():
        cells = [value(cell, 3) for cell in row["cf_score"].values()]
        cells += [value(row["cf_r2"], 3), value(row["composition_growth"], 1)]
        lines.append(f"| {row['what']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ablation_scenes() -> str:
    """What three ingredients of the layers' recipes are worth on scenes with and without noise in their effects."""
    result = load("ablation_scenes")
    lines = [
        f"Mean CF-score over a scene's concepts, of the decoder alone with known concepts, {result['seeds']} seeds, and by how"
        " much it changes (`python benchmarks/ablation_scenes.py`):",
        "",
        f"| | as the recipe has it | {' | '.join(ABLATED.values())} |",
        "|---|" + "---|" * (len(ABLATED) + 1),
    ]
    for name, row in result["data"].items():
        gains = [row[variant]["gain"] for variant in ABLATED]
        cells = [value(gain, 4) if any(gain["values"]) else "0" for gain in gains]
        lines.append(f"| {name}, {row['settings']['size']} px | {value(row['all']['mean'], 3)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def pixel_noise() -> str:
    """What is kept of the image's difference from its reconstruction."""
    rows = load("pixel_noise")["rows"]
    lines = [
        "| decoder | share kept | do(pendulum) | do(light) | composition, 1 null | 10 nulls |",
        "|---|---|---|---|---|---|",
    ]
    for decoder, shares in rows.items():
        for share, columns in shares.items():
            cells = [value(cell, 3 if name.startswith("do(") else 2) for name, cell in columns.items()]
            lines.append(f"| {decoder} | {share} | {' | '.join(cells)} |")
    return "\n".join(lines)


def handwriting() -> list[str]:
    """Morpho-MNIST, beside a conditional VAE of the same size."""
    result = load("morphomnist")
    scores = result["scores"]
    lines = [
        f"Morpho-MNIST, 8,000 real digits to learn from, 2,000 to test, {result['seeds']} seeds"
        " (`python benchmarks/morphomnist.py --root FOLDER`).",
        "Mean absolute errors against the closed-form truth, as read by two networks of different kinds, trained on real images",
        "and with no part in training what they judge; the intensity is measured by its definition.",
        "",
        "| Morpho-MNIST | thickness, px | second judge, px | intensity, grey levels | same digit |",
        "|---|---|---|---|---|",
    ]
    doing = ("do(thickness)", "do(intensity)")
    rows = [("real images", "ours real images")]
    rows += [(f"{what}{name}", f"{key} {name}") for what, key in OURS.items() for name in doing]
    rows += [(f"conditional VAE, {name}", f"cvae {name}") for name in doing]
    rows += [(f"conditional VAE, effects told, {name}", f"cvae true labels told {name}") for name in doing[:1]]
    rows += [(f"conditional VAE with predictors, {name}", f"cvae_read {name}") for name in doing]
    columns = {"thickness_mae_px": 3, "second_thickness_mae_px": 3, "intensity_mae_grey": 2, "digit_accuracy": 4}
    for title, key in rows:
        cells = [value(scores[f"{key} {column}"], digits) for column, digits in columns.items()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    r2 = [value(scores[f"ours r2 {name}"], 4) for name in ("thickness", "intensity")]
    return [*lines, "", f"R² read from test images: thickness {r2[0]}, intensity {r2[1]}."]
