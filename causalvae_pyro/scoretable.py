"""The score card as tables, for the terminal and the report alike."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Section", "score_sections", "score_table"]


class Section(NamedTuple):
    """One table."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def score_sections(metrics: dict[str, Any]) -> list[Section]:
    """The score card that :func:`~causalvae_pyro.evaluation.evaluate` returns, as tables of text."""
    sections = [_concepts(metrics)]
    if "cf_score" in metrics:
        sections.append(_counterfactuals(metrics))
    if "effectiveness" in metrics:
        sections.append(_effectiveness(metrics))
    return [*sections, _whole(metrics)]


def score_table(metrics: dict[str, Any]) -> str:
    """The score card as plain text."""
    blocks = []
    for section in score_sections(metrics):
        table = [section.columns, *section.rows]
        widths = [max(len(row[k]) for row in table) for k in range(len(section.columns))]
        lines = [_line(row, widths) for row in table]
        rule = "-" * max(map(len, lines))
        blocks.append("\n".join([section.title, rule, lines[0], rule, *lines[1:]]))
    return "\n\n".join(blocks)


def _line(row: list[str], widths: list[int]) -> str:
    first = row[0].ljust(widths[0])
    return "  ".join([first, *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]).rstrip()


def _concepts(metrics: dict[str, Any]) -> Section:
    scores, intervals = metrics.get("representation", {}), metrics["intervals"].get("r2", {})
    columns = ["concept", "R^2"] + (["MIC", "TIC", "undone"] if scores else ["undone"])
    rows = []
    for name, r2 in metrics["r2"].items():
        own = [f"{scores[key][name]:.3f}" for key in ("mic", "tic")] if scores else []
        rows.append([name, f"{r2:.4f}{_span(intervals.get(name), 4)}", *own, f"{metrics['reversibility'][name]:.4f}"])
    return Section("Concepts read from test images; mean absolute pixel error after do and undo", columns, rows)


def _counterfactuals(metrics: dict[str, Any]) -> Section:
    intervals, rows = metrics["intervals"]["cf_score"], []
    for key, score in metrics["cf_score"].items():
        value = f"{score:.3f}{_span(intervals.get(key), 3)}"
        rows.append([f"do({key.replace('+', ', ')})", value, f"{metrics['ceiling'][key]:.3f}", f"{metrics['cf_r2'][key]:.3f}"])
    names = {"cf_roots": "roots", "cf_children": "children", "cf_mean": "single concepts", "cf_pairs": "pairs"}
    means = {label: metrics["summary"].get(key) for key, label in names.items()}
    rows += [[f"mean over {label}", f"{value:.3f}", "", ""] for label, value in means.items() if value is not None]
    return Section("Counterfactuals against the truth", ["intervention", "CF-score", "ceiling", "CF R^2"], rows)


def _effectiveness(metrics: dict[str, Any]) -> Section:
    names = list(metrics["r2"])
    rows = [
        ["none" if key == "factual" else f"do({key})", *(f"{errors[name]:.3g}" for name in names)]
        for key, errors in metrics["effectiveness"].items()
    ]
    return Section("Mean absolute error that an independent predictor reads, in label units", ["intervention", *names], rows)


def _whole(metrics: dict[str, Any]) -> Section:
    scores, intervals, graph = metrics.get("representation"), metrics["intervals"], metrics["graph"]
    rows = [["mean squared error of reconstructions", f"{metrics['reconstruction_mse']:.5f}", ""]]
    drift = metrics["composition"]
    rows.append(["mean absolute error after 1 and 10 null interventions", f"{drift[0]:.4f}, {drift[-1]:.4f}", ""])
    if scores:
        limit = scores["of_the_labels"]
        rows.append(
            ["MIC, TIC: mean over concepts, percent", f"{100 * scores['mic_mean']:.1f}, {100 * scores['tic_mean']:.1f}", ""]
        )
        for key in ("mcc", "mig", "sap", "irs"):
            if key in scores:
                rows.append([key.upper(), f"{scores[key]:.3f}{_span(intervals.get(key), 3)}", f"{limit[key]:.3f}"])
        parts = ("disentanglement", "completeness", "informativeness")
        rows += [[f"DCI {part}", f"{scores['dci'][part]:.3f}", f"{limit['dci'][part]:.3f}"] for part in parts]
    rows.append(["structural Hamming distance, F1 of the edges", f"{graph['shd']}, {graph['f1']:.2f}", ""])
    rows += [[f"in [0, 1]: {name}", f"{value:.3f}", ""] for name, value in metrics["directions"].items() if value is not None]
    return Section(f"The whole, on {metrics['images']} test images", ["score", "value", "of the labels themselves"], rows)


def _span(interval: list[float] | None, digits: int) -> str:
    return "" if interval is None else f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"
