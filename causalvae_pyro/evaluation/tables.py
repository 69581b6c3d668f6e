"""The score card as tables, for the terminal and the report alike."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

__all__ = ["Section", "score_sections", "score_table"]


_INTERVAL = "95 % interval"


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
    if "predicted" in metrics:
        sections += _predicted(metrics["predicted"])
    if "minimality" in metrics:
        sections.append(_minimality(metrics))
    if "fid" in metrics:
        sections.append(_fid(metrics))
    return [*sections, _whole(metrics)]


def score_table(metrics: dict[str, Any]) -> str:
    """The score card as plain text."""
    blocks = []
    for section in score_sections(metrics):
        names, *values = zip(section.columns, *section.rows, strict=True)
        width = max(map(len, names))
        columns = [[name.ljust(width) for name in names], *(_aligned(*column) for column in values)]
        lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
        rule = "-" * max(map(len, lines))
        blocks.append("\n".join([section.title, rule, lines[0], rule, *lines[1:]]))
    return "\n\n".join(blocks)


def _aligned(title: str, *cells: str) -> list[str]:
    """A column of equal widths: numbers with their decimal points below one another, all else to the right."""
    # Intervals have two points.
    numbers = not any(cell.startswith("[") for cell in cells)
    tails = [len(cell) - cell.find(".") if numbers and "." in cell else 0 for cell in cells]
    padded = [cell + " " * (max(tails) - tail) for cell, tail in zip(cells, tails, strict=True)]
    width = max(map(len, (title, *padded)))
    return [cell.rjust(width) for cell in (title, *padded)]


def _concepts(metrics: dict[str, Any]) -> Section:
    scores, intervals = metrics.get("representation", {}), metrics["intervals"].get("r2", {})
    undone = metrics.get("reversibility")
    leak = metrics.get("noise_leak", {})
    right, each = metrics.get("accuracy", {}), metrics.get("f1", {})
    columns = [
        "concept",
        "R^2",
        _INTERVAL,
        "accuracy",
        "F1",
        *(["MIC", "TIC"] if scores else []),
        "covered",
        "uncalibrated",
        "undone",
        "leak",
    ]
    rows = []
    for name, r2 in metrics["r2"].items():
        own = [f"{found[name]:.3f}" if name in found else "" for found in (right, each)]
        own += [f"{scores[key][name]:.3f}" for key in ("mic", "tic")] if scores else []
        own += [_covered(metrics, part, name) for part in ("guide", "uncalibrated")]
        rows.append(
            [
                name,
                f"{r2:.4f}",
                _span(intervals.get(name), 4),
                *own,
                f"{undone[name]:.4f}" if undone else "",
                f"{leak[name]:.3f}" if leak else "",
            ]
        )
    title = "Concepts read from test images; labels that the guide's intervals of 95 percent cover; pixel error after do and undo"
    title += "; leak: R^2 with which the own noise tells what was set (lower is better)" if leak else ""
    return _section(title, columns, rows)


def _covered(metrics: dict[str, Any], part: str, name: str) -> str:
    found = metrics.get("calibration", {})
    share = found[part][name][found["levels"].index(0.95)] if name in found.get(part, ()) else None
    return "" if share is None else f"{share:.3f}"


def _counterfactuals(metrics: dict[str, Any]) -> Section:
    intervals, rows = metrics["intervals"]["cf_score"], []
    for key, score in metrics["cf_score"].items():
        numbers = [f"{metrics[section][key]:.3f}" for section in ("ceiling", "cf_r2")]
        rows.append([f"do({key.replace('+', ', ')})", f"{score:.3f}", _span(intervals.get(key), 3), *numbers])
    if "cf_baselines" in metrics:
        rows.append(["image left alone", "0.000", "", "", ""])
        rows += [
            [name, f"{score:.3f}", "", "", ""] for name, scores in metrics["cf_baselines"].items() for score in scores.values()
        ]
    names = {"cf_roots": "roots", "cf_children": "children", "cf_mean": "single concepts", "cf_pairs": "pairs"}
    means = {label: metrics["summary"].get(key) for key, label in names.items()}
    rows += [[f"mean over {label}", f"{value:.3f}", "", "", ""] for label, value in means.items() if value is not None]
    columns = ["intervention", "CF-score", _INTERVAL, "ceiling", "CF R^2"]
    return _section("Counterfactuals against the truth", columns, rows)


def _effectiveness(metrics: dict[str, Any]) -> Section:
    names, found = list(metrics["r2"]), metrics["effectiveness"]
    lines = {"none": found["factual"]} | {f"do({name})": errors for name, errors in found["do"].items()}
    rows = [[line, *(f"{errors[name]:.3g}" for name in names)] for line, errors in lines.items()]
    return _section("Mean absolute error that an independent predictor reads, in label units", ["intervention", *names], rows)


def _predicted(found: dict[str, Any]) -> list[Section]:
    """Of the values set and of their effects; of what is to stay."""
    alone, rows, others = found["left_alone"], [], []
    for name, scores in found["do"].items():
        rows.append([f"do({name})", name, *_agreement(scores["set"])])
        rows.append(["image left alone", name, *_agreement(alone["set"][name])])
        if name in scores.get("real", {}):
            rows.append(["real images with those labels", name, f"{scores['real'][name]:.3f}", "", "", ""])
        if known := scores.get("overlap"):
            where = f"the {100 * known['share']:.0f} % whose labels images show"
            rows.append([f"do({name}), {where}", name, *_agreement(known["set"])])
            rows.append(["the same images left alone", name, *_agreement(known["left_alone"])])
        rows += [[f"do({name})", effect, *_agreement(own)] for effect, own in scores["effects"].items()]
        kept = [f"{other} {value:.3f}" for other, value in scores["unchanged"].items()]
        detail = f"{scores['fine_detail']:.2f}" if "fine_detail" in scores else ""
        kept_of = ", ".join(kept) or "(all others are effects)"
        others.append([f"do({name})", kept_of, detail, _colour(scores), f"{scores['same_image']:.3f}"])
    others.append(["none", "", "1.00", _colour(alone), f"{alone['same_image']:.3f}"])
    factual = [["none", name, *_agreement(scores)] for name, scores in found["factual"].items()]
    columns = ["intervention", "concept", "accuracy", "F1", "AUC", "absolute error"]
    return [
        _section(
            "A predictor with no part in training reads the value set and the effects that the model means",
            columns,
            factual + rows,
        ),
        _section(
            "What is to stay: the same reading (or its mean absolute change); no more fine detail than the reconstruction has "
            "(ninth decile of the ratio: artefacts are above 1); the change of colour over sixteenths of the image (a cast, in "
            "thousandths of the range); and the factual image found among all test images",
            ["intervention", "concepts that are no effects", "fine detail", "colour", "same image"],
            others,
        ),
    ]


def _colour(scores: dict[str, Any]) -> str:
    return f"{1000 * scores['colour']:.1f}" if "colour" in scores else ""


def _agreement(scores: dict[str, float]) -> list[str]:
    return [f"{scores[key]:.3f}" if key in scores else "" for key in ("accuracy", "f1", "auc", "mae")]


def _minimality(metrics: dict[str, Any]) -> Section:
    alone = metrics.get("minimality_left_alone", {})
    rows = [
        [f"do({name})", f"{value:.3f}", f"{alone[name]:.3f}" if name in alone else ""]
        for name, value in metrics["minimality"].items()
    ]
    return _section("Minimality, lower is better", ["intervention", "divergence", "image left alone"], rows)


def _fid(metrics: dict[str, Any]) -> Section:
    lines = {"none": metrics["fid"]["reconstructions"]}
    lines |= {f"do({name})": distance for name, distance in metrics["fid"]["do"].items()}
    rows = [[line, f"{distance:.3f}"] for line, distance in lines.items()]
    return _section("Frechet distance of the model's images from test images", ["intervention", "FID"], rows)


def _whole(metrics: dict[str, Any]) -> Section:
    scores, intervals, graph = metrics.get("representation"), metrics["intervals"], metrics["graph"]
    rows: list[list[str]] = []

    def add(name: str, value: float, digits: int, interval: list[float] | None = None, limit: float | None = None) -> None:
        rows.append([name, f"{value:.{digits}f}", _span(interval, digits), "" if limit is None else f"{limit:.{digits}f}"])

    error = metrics["reconstruction_mse"]
    add("mean squared error of reconstructions", error, _digits(error, 5), intervals.get("reconstruction_mse"))
    if drift := metrics.get("composition"):
        add("mean absolute error after a null intervention", drift[0], _digits(drift[0], 4))
        add(f"mean absolute error after {len(drift)} null interventions", drift[-1], _digits(drift[0], 4))
    if looks := metrics.get("composition_lpips"):
        add("LPIPS after a null intervention", looks[0], 3)
        add(f"LPIPS after {len(looks)} null interventions", looks[-1], 3)
    if scores:
        limit = scores["of_the_labels"]
        for key in ("mic", "tic"):
            # As the papers' tables have it.
            percent = [100 * end for end in intervals.get(f"{key}_mean", ())] or None
            most = limit.get(f"{key}_mean")
            known = None if most is None else 100 * most
            add(f"{key.upper()}: mean over concepts, percent", 100 * scores[f"{key}_mean"], 1, percent, known)
        for key in ("mcc", "mig", "sap", "irs"):
            if key in scores:
                add(key.upper(), scores[key], 3, intervals.get(key), limit[key])
        for part in ("disentanglement", "completeness", "informativeness"):
            add(f"DCI {part}", scores["dci"][part], 3, None, limit["dci"][part])
    add("structural Hamming distance", graph["shd"], 0)
    add("F1 of the edges", graph["f1"], 2)
    for name, value in metrics["directions"].items():
        if value is not None:
            add(f"in [0, 1]: {name}", value, 3)
    columns = ["score", "value", _INTERVAL, "of the labels themselves"]
    left = f"; {metrics['incomplete']} without all labels are left out" if "incomplete" in metrics else ""
    return _section(f"The whole, on {metrics['images']} test images{left}", columns, rows)


def _section(title: str, columns: list[str], rows: list[list[str]]) -> Section:
    """Without the columns in which nothing stands, as of intervals where there are none."""
    kept = [k for k in range(len(columns)) if any(row[k] for row in rows)]
    return Section(title, [columns[k] for k in kept], [[row[k] for k in kept] for row in rows])


def _digits(error: float, least: int) -> int:
    """So many that two digits of a small error can be seen."""
    return max(least, 1 - math.floor(math.log10(error))) if 0 < error < math.inf else least


def _span(interval: list[float] | None, digits: int) -> str:
    return "" if interval is None else f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"
