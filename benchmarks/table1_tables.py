"""Table 1 as Markdown, LaTeX and figures, from the committed cells; the published numbers stand beside ours.

python benchmarks/table1_tables.py        writes docs/results.md's tables, docs/table1.tex and the figures
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from counterfactual_tables import value
from label_efficiency import COLUMNS as LABEL_COLUMNS
from table1_methods import SOURCES
from table1_summary import TABLES, load

from causalvae_pyro.plots.style import PALETTE, figure_style, save_figure, subplots

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"

# Yang et al. 2021, table 1: MIC and TIC in percent, mean and standard error.
PUBLISHED = {
    "pendulum": {
        "paper": ("95.1 (2.4)", "81.6 (1.9)"),
        "condition_vae": ("93.8 (3.3)", "80.5 (1.4)"),
        "beta_vae": ("22.6 (4.6)", "12.5 (2.2)"),
        "causal_vae_unsup": ("21.2 (1.4)", "12.0 (1.0)"),
        "ladder_vae": ("22.4 (3.1)", "12.8 (1.2)"),
    },
    "flow": {
        "paper": ("72.1 (1.3)", "56.4 (1.6)"),
        "condition_vae": ("75.5 (2.3)", "56.5 (1.8)"),
        "beta_vae": ("23.6 (3.2)", "12.5 (0.6)"),
        "causal_vae_unsup": ("22.8 (2.7)", "12.4 (1.4)"),
        "ladder_vae": ("34.3 (4.3)", "24.4 (1.5)"),
    },
    "celeba_smile": {
        "paper": ("83.7 (6.2)", "71.6 (7.2)"),
        "condition_vae": ("78.8 (10.9)", "66.1 (12.1)"),
        "beta_vae": ("22.5 (1.2)", "9.92 (1.2)"),
        "causal_vae_unsup": ("27.2 (5.3)", "14.6 (4.2)"),
        "ladder_vae": ("23.5 (3.0)", "10.3 (1.6)"),
    },
    "celeba_beard": {
        "paper": ("92.3 (5.6)", "83.3 (8.6)"),
        "condition_vae": ("89.8 (6.2)", "78.7 (7.7)"),
        "beta_vae": ("22.4 (1.9)", "9.82 (2.2)"),
        "causal_vae_unsup": ("11.4 (1.5)", "20.0 (2.2)"),
        "ladder_vae": ("23.5 (3.0)", "8.1 (1.2)"),
    },
}

# Key, title, factor, digits.
COLUMNS = (
    ("mic", "MIC", 100, 1),
    ("tic", "TIC", 100, 1),
    ("whole_mic", "MIC, whole labels", 100, 1),
    ("whole_tic", "TIC, whole labels", 100, 1),
    ("r2_mean", "R²", 1, 3),
    ("dci_disentanglement", "DCI", 1, 2),
    ("shd", "SHD", 1, 1),
    ("cf_roots", "CF-score, causes", 1, 3),
    ("cf_children", "CF-score, effects", 1, 3),
    ("composition_1", "error of a null", 1, 4),
    ("composition_10", "of ten", 1, 4),
    ("reversibility_mean", "of do and undo", 1, 4),
    ("minimality_mean", "minimality", 1, 3),
    ("seconds", "seconds", 1, 0),
)
# A marker for each method beside its colour.
_MARKERS = "os^DvPXp*h<>d"
# Models that have no graph over concepts.
WITHOUT_GRAPH = ("condition_vae", "ivae", "beta_vae", "causal_vae_unsup", "ladder_vae")


def _scaled(cell: dict, factor: float) -> dict:
    return {key: [factor * x for x in v] if isinstance(v, list) else factor * v for key, v in cell.items()}


def percent(cell: dict) -> str:
    """A score in percent with its interval."""
    return value(_scaled(cell, 100), 1)


def _columns(rows: dict) -> list[tuple[str, str, float, int]]:
    """Those that the data set has."""
    return [column for column in COLUMNS if any(column[0] in scores for scores in rows.values())]


def _titles(data: str, rows: dict) -> list[str]:
    published = ["MIC, published", "TIC, published"] if data in PUBLISHED else []
    return [*published, *(title for _, title, _, _ in _columns(rows))]


def _cells(data: str, row: str, rows: dict) -> list[str]:
    """One row without its name: the published MIC and TIC, then ours."""
    published = list(PUBLISHED[data].get(row, ("", ""))) if data in PUBLISHED else []
    own = [
        "" if key not in rows[row] or (key == "shd" and row in WITHOUT_GRAPH) else value(_scaled(rows[row][key], factor), digits)
        for key, _, factor, digits in _columns(rows)
    ]
    return [*published, *own]


def markdown(result: dict) -> str:
    """A table per data set."""
    seeds, epochs = result["settings"]["seeds"], result["settings"]["epochs"]
    lines = [
        f"{seeds} seeds, {epochs} epochs, mean and 95 % interval; published: mean (standard error). MIC, TIC in percent."
        " *Whole labels*: against the whole numbers of the authors' file names.",
        f"Seconds of training on {_hardware(result)}, which several trainings shared.",
        "",
    ]
    for data, rows in result["data"].items():
        titles = _titles(data, rows)
        lines += [f"| {SOURCES[data].title} | {' | '.join(titles)} |", "|---|" + "---|" * len(titles)]
        lines += [f"| {result['names'][row]} | {' | '.join(_cells(data, row, rows))} |" for row in rows]
        lines.append("")
        if any("effectiveness" in scores for scores in rows.values()):
            lines += [*_effectiveness(result["names"], rows), ""]
    return "\n".join(lines[:-1])


def _hardware(result: dict) -> str:
    found = result["hardware"]
    if "cores" not in found:
        # Of each data set, where they ran on different machines.
        return " and ".join(f"{_hardware({'hardware': one})} ({SOURCES[data].title})" for data, one in found.items())
    return f"one {found['gpu']}" if "gpu" in found else f"{found['cores']} cores of {found['cpu']}"


def _effectiveness(names: dict[str, str], rows: dict) -> list[str]:
    """What a judge reads after each intervention, against what it should."""
    found = next(iter(rows.values()))["effectiveness"]
    cases = [(line, label) for line in found for label in found[line]]
    titles = [f"{label}{'' if line == 'factual' else f' after do({line})'}" for line, label in cases]
    lines = [f"| Error that a judge reads | {' | '.join(titles)} |", "|---|" + "---|" * len(titles)]
    for row, scores in rows.items():
        cells = [value(scores["effectiveness"][line][label], 3) for line, label in cases]
        lines.append(f"| {names[row]} | {' | '.join(cells)} |")
    return lines


def short(result: dict) -> str:
    """MIC / TIC alone, ours and the published ones, for the README."""
    lines = ["| MIC / TIC, % | Pendulum | published | Flow | published |", "|---|---|---|---|---|"]
    for row, name in result["names"].items():
        cells = []
        for data in ("pendulum", "flow"):
            scores = result["data"][data][row]
            cells.append(" / ".join(percent(scores[key]) for key in ("mic", "tic")))
            cells.append(" / ".join(PUBLISHED[data].get(row, ())))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def latex(result: dict) -> str:
    """The same for a paper, with booktabs."""
    lines = ["% Written by benchmarks/table1_tables.py"]
    for data, rows in result["data"].items():
        keep = [i for i, title in enumerate(_titles(data, rows)) if "whole" not in title]
        titles = [_titles(data, rows)[i].replace("R²", "$R^2$") for i in keep]
        lines += ["\\midrule" if len(lines) > 1 else f"\\begin{{tabular}}{{l{'r' * len(titles)}}}\n\\toprule"]
        lines += [f"{SOURCES[data].title} & {' & '.join(titles)} \\\\", "\\midrule"]
        for row in rows:
            cells = [_cells(data, row, rows)[i].replace(" ± ", " $\\pm$ ") for i in keep]
            lines.append(f"{result['names'][row]} & {' & '.join(cells)} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def results_page(text: str) -> str:
    """docs/results.md with its tables replaced."""
    start, end = "<!-- table1:start -->", "<!-- table1:end -->"
    head, rest = text.split(start)
    found = [table for name in TABLES if (table := load(name)) is not None]
    text = f"{head}{start}\n{chr(10).join(markdown(table) + chr(10) for table in found)}{end}{rest.split(end)[1]}"
    start, end = "<!-- labels:start -->", "<!-- labels:end -->"
    head, rest = text.split(start)
    return f"{head}{start}\n{labels(json.loads((RESULTS / 'label_efficiency.json').read_text()))}\n{end}{rest.split(end)[1]}"


def labels(result: dict) -> str:
    """Scores against the share of images that have labels."""
    lines = [f"| images with labels | {' | '.join(title for title, _ in LABEL_COLUMNS.values())} |", "|---|---|---|---|---|"]
    for share, scores in sorted(result["shares"].items(), key=lambda item: -float(item[0])):
        cells = [percent(scores[key]) if key in ("mic", "tic") else value(scores[key], 4) for key in LABEL_COLUMNS]
        lines.append(f"| {100 * float(share):g} % | {' | '.join(cells)} |")
    return "\n".join(lines)


@figure_style()
def draw(result: dict, folder: Path) -> None:
    """The bars of the table and the curves against time."""
    rows = list(result["names"])
    looks = {
        row: {"color": PALETTE[i % len(PALETTE)], "linestyle": ("-", "--", ":")[i // len(PALETTE)], "marker": _MARKERS[i]}
        for i, row in enumerate(rows)
    }
    figure, axes = subplots(2, 2, height=6.2)
    for data, (left, right) in zip(result["data"], axes, strict=True):
        for place, row in enumerate(reversed(rows)):
            scores = result["data"][data][row]
            for shift, key, shade in ((0.2, "mic", 1.0), (-0.2, "tic", 0.5)):
                cell = _scaled(scores[key], 100)
                error = None if "interval" not in cell else cell["interval"][1] - cell["mean"]
                errors = {"elinewidth": 0.9, "capsize": 0}
                left.barh(place + shift, cell["mean"], 0.36, xerr=error, color=looks[row]["color"], alpha=shade, error_kw=errors)
                if row in PUBLISHED[data]:
                    published = float(PUBLISHED[data][row][key == "tic"].split()[0])
                    left.plot(
                        published, place + shift, "kd", markersize=3, markeredgecolor="white", markeredgewidth=0.4, zorder=3
                    )
        left.set_yticks(range(len(rows)), [result["names"][row] for row in reversed(rows)])
        left.set_title(f"{SOURCES[data].title}; diamonds: published")
        left.set_xlabel("MIC (dark) and TIC (light) (%)")
        left.set_ylabel("method")
        left.set_xlim(0, 100)
        for row in rows:
            curve = result["data"][data][row]["curve"]
            seconds = [point["seconds"]["mean"] for point in curve]
            tic = [100 * point["tic"]["mean"] for point in curve]
            right.plot(seconds, tic, markersize=3, markevery=3, label=result["names"][row], **looks[row])
        right.set_title(SOURCES[data].title)
        right.set_xlabel("time of training (s)")
        right.set_ylabel("TIC (%)")
        right.grid(alpha=0.3)
        right.set_xscale("log")
        right.minorticks_off()
        ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if right.get_xlim()[0] <= t <= right.get_xlim()[1]]
        right.set_xticks(ticks, [str(tick) for tick in ticks])
    figure.legend(*axes[0][1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save_figure(figure, folder / "table1.png")


def main() -> None:
    result = load()
    page = ROOT / "docs" / "results.md"
    page.write_text(results_page(page.read_text()))
    (ROOT / "docs" / "table1.tex").write_text(latex(result))
    draw(result, ROOT / "docs" / "images")
    print(markdown(result))


if __name__ == "__main__":
    main()
