"""Writes the results in the README and docs from the committed figures, so that they cannot disagree (a test checks it).

python benchmarks/tables.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import counterfactual_tables
import photograph_tables
import protocol_table
import scenes.table
import table1_tables
from counterfactual_tables import value as _value
from table1_summary import load

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def reached() -> str:
    """The README's table: the default model beside a conditional VAE of the same size and the published scores."""
    table = load()
    data, published = table["data"], table1_tables.PUBLISHED
    digits, time = counterfactual_tables.load("morphomnist"), counterfactual_tables.load("time_to_score")
    lines = [
        f"{table['settings']['seeds']} seeds, mean and 95 % interval. CF-score: 1 is the true counterfactual image, 0 no better",
        "than leaving the image alone, negative worse than that.",
        "",
        "| | CausalVAE, here | conditional VAE, here | CausalVAE, published |",
        "|---|---|---|---|",
    ]
    for name, title in counterfactual_tables.TITLES.items():
        for key, what in (("cf_roots", "causes"), ("cf_children", "effects")):
            cells = [_value(data[name][row][key], 3) for row in ("best", "condition_vae")]
            lines.append(f"| {title}, CF-score, {what} | {cells[0]} | {cells[1]} | |")
    for name, title in counterfactual_tables.TITLES.items():
        ours, theirs = (
            f"{table1_tables.percent(data[name][row]['mic'])} / {table1_tables.percent(data[name][row]['tic'])}"
            for row in ("best", "condition_vae")
        )
        lines.append(f"| {title}, MIC / TIC, % | {ours} | {theirs} | {' / '.join(published[name]['paper'])} |")
    ours, theirs = (
        f"{_value(digits['scores'][f'{row} do(thickness) thickness_mae_px'], 3)} px" for row in ("ours labels known", "cvae")
    )
    lines.append(f"| Morpho-MNIST, error of do(thickness) | {ours} | {theirs} | |")
    seconds = time["methods"]["best"]["paper"]
    lines.append(f"| Seconds of training (2 cores) to the published Pendulum scores | {_value(seconds, 1)} | | |")
    return "\n".join(lines)


def results() -> str:
    """The sections of docs/results.md beside Table 1."""
    names = ("pendulum", "step", "renderer", "renderer_flow", "celeba_loader", "metrics")
    pendulum, step, renderer, renderer_flow, loader, metrics = (
        json.loads((RESULTS / f"{name}.json").read_text()) for name in names
    )
    memory = pendulum["peak_memory_gib"]
    lines = [
        *counterfactual_tables.concepts(),
        "",
        "The paper's Table 1 (`make table1`; mean and 95 % interval, published: mean and standard error; all columns below):",
        "",
        table1_tables.short(load()),
        "",
        *_scale(load("scale")["data"]),
        "",
        *_time_to_score(json.loads((RESULTS / "time_to_score.json").read_text())),
        "",
        *_few_labels(json.loads((RESULTS / "few_labels.json").read_text())),
        "",
        *counterfactual_tables.handwriting(),
        "",
        f"The whole Pendulum job, data to report, takes {memory:.1f} GiB at most, no GPU.",
        f"A training step through `fit` takes {step['ratio_median']:.2f} times a hand-written PyTorch step of the same maths.",
        *_speed(renderer, renderer_flow, loader, metrics),
        *_concepts(json.loads((RESULTS / "concepts.json").read_text())),
        *_scorecard(RESULTS / "scorecard.json"),
    ]
    return "\n".join(lines)


def _scale(data: dict) -> list[str]:
    paper, code = (
        " and ".join(
            f"{table1_tables.percent(data[name][row]['mic'])} / {table1_tables.percent(data[name][row]['tic'])}"
            for name in ("pendulum", "flow")
        )
        for row in ("paper_unit", "paper_code_unit")
    )
    return [
        "All rows learn the likelihood's scale. With a scale of 1 the published objective comes to",
        f"{paper} on Pendulum and Flow, that of the authors' code to {code} ([why](#how-to-read-it)).",
    ]


def _time_to_score(result: dict) -> list[str]:
    found, bars, seeds = result["methods"]["best"], result["bars"], result["settings"]["seeds"]
    return [
        f"Seconds of training on {result['settings']['threads']} CPU cores (`python benchmarks/time_to_score.py`)"
        f" until test images reach the paper's Pendulum scores (MIC {100 * bars['mic']:.1f}, TIC {100 * bars['tic']:.1f}):",
        f"{_value(found['paper'], 1)} ({found['paper']['reached']} of {seeds} seeds); until both causes' CF-scores reach"
        f" {bars['cf_roots_min']}: {_value(found['roots'], 1)} ({found['roots']['reached']} of {seeds}).",
    ]


def _few_labels(result: dict) -> list[str]:
    share = float(result["options"][result["options"].index("--label-share") + 1])
    worst = min(result["r2"], key=lambda name: result["r2"][name]["mean"])
    return [
        f"With the labels of {share:.0%} of Pendulum's images (`--label-share {share}`, {result['seeds']} seeds):"
        f" MIC {_value(result['mic'], 3)}, TIC {_value(result['tic'], 3)},",
        f"R² of the worst concept, `{worst}`, {_value(result['r2'][worst], 3)}.",
    ]


def _speed(renderer: dict, renderer_flow: dict, loader: dict, metrics: dict) -> list[str]:
    both = (renderer, renderer_flow)
    new, redraw = (
        " and ".join(f"{r['times_faster_than_matplotlib'][way]['median']:.{digits}f}" for r in both)
        for way, digits in (("new_figure", 0), ("redraw", 1))
    )
    full = " and ".join(f"{r['full_data_set']['seconds']:.1f}" for r in both)
    cache = loader["loader_images_per_second"]["64"]["median"]
    ratio = loader["loader_faster_than_fit"]["median"]
    mic = metrics["test_set"]["MIC and TIC, independent"]["processor_seconds"]
    return [
        f"The renderers of Pendulum and Flow draw {new} times as many scenes per second as matplotlib with a new figure",
        f"for each, as published, and {redraw} times as many as matplotlib redrawing one figure; a full data set at",
        f"96 x 96 takes {full} s on 2 cores. CelebA at 64 x 64 comes from its cache at {cache:,.0f} images/s,",
        f"{ratio:.0f} times as fast as training takes them. MIC and TIC of 4 x 4 concepts and labels take {mic:.2f} s of one",
        "core at 1,461 samples (all by `make bench`; [cost against samples](images/mic_cost.png)).",
    ]


def _concepts(result: dict) -> list[str]:
    times = ", ".join(f"{cells['40']['median']:.1f} ({kind})" for kind, cells in result["trace_do_ms"].items())
    return [
        f"An intervention on {result['settings']['batch_size']} samples of 40 concepts, `trace(do(model))`, takes, in ms of",
        f"one core: {times}.",
        f"A training step with 100 concepts takes {result['step']['100']['ratio']:.2f} times one with 4.",
    ]


def _scorecard(path: Path) -> list[str]:
    if not path.is_file():
        return []
    result = json.loads(path.read_text())
    seconds = {name: values["median"] for name, values in result["seconds"].items()}
    return [
        f"Scoring a Pendulum run on all {result['images']:,} test images takes {seconds['all']:.0f} s on"
        f" {result['options']['threads']} cores, {seconds['figures and report']:.0f} s of them for the report's figures.",
    ]


def coverage() -> str:
    """What ``benchmarks/coverage.py`` found, in Markdown."""
    cases = json.loads((RESULTS / "coverage.json").read_text())["cases"]
    lines = ["| codes | MIC | TIC | MIG |", "|---|---|---|---|"]
    for name, scores in cases.items():
        cells = [
            f"{row['mean']:.3f} ± {row['standard_deviation']:.4f} ({row['standard_error']:.4f}); {100 * row['coverage']:.0f} %"
            for row in scores.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def discovery() -> str:
    """The tables of docs/discovery.md."""
    result = json.loads((RESULTS / "discovery.json").read_text())
    settings, cells = result["settings"], result["shd"]
    stages = {
        "labels, linear descent": "descent on labels, linear mechanisms (the paper's)",
        "labels, descent": "descent on labels, networks",
        "labels, all graphs": "**all graphs compared on labels** (the default)",
        "labels, order known": "the same, order known",
        "labels, super-graph known": "the same, super-graph known",
        "joint descent": "joint descent, images and labels",
        "concepts read from images, all graphs": "all graphs compared on the concepts that the encoder reads",
    }
    lines = [
        f"Seeds of {settings['seeds']} with SHD 0 and, in brackets, the mean SHD (`python benchmarks/discovery.py`);",
        f"the last two rows over {settings['image_seeds']} seeds, after {settings['epochs']} epochs at {settings['size']} px:",
        "",
        f"| | {' | '.join(name.capitalize() for name in cells)} |",
        f"|---|{'---|' * len(cells)}",
    ]
    for stage, title in stages.items():
        row = [f"{cell[stage]['found']} of {cell[stage]['seeds']} ({cell[stage]['mean']:.1f})" for cell in cells.values()]
        lines.append(f"| {title} | {' | '.join(row)} |")
    path = RESULTS / "discovery_random.json"
    if path.is_file():
        lines += ["", *_random(json.loads(path.read_text()))]
    return "\n".join(lines)


def _random(result: dict) -> list[str]:
    lines = [
        f"Random graphs (Erdos-Renyi, {result['settings']['edges']} edges, MLP mechanisms,"
        f" {result['settings']['samples']:,} standardised samples; `python benchmarks/discovery_random.py`):",
        "",
        "| concepts | seeds | descent | descent, then climb | DAGMA's package | climb minus DAGMA |",
        "|---|---|---|---|---|---|",
    ]
    for nodes, cell in result["nodes"].items():
        columns = [
            _value(cell["shd"][k], 1) if k in cell["shd"] else "" for k in ("descent", "climb", "dagma", "climb minus dagma")
        ]
        lines.append(f"| {nodes} | {len(cell['shd']['climb']['values'])} | {' | '.join(columns)} |")
    return lines


def readme(text: str) -> str:
    """The README with its table replaced."""
    return _replaced(text, "results", reached())


def results_page(text: str) -> str:
    """docs/results.md with its tables replaced."""
    text = _replaced(text, "photographs", photograph_tables.faces(sorted(RESULTS.glob(photograph_tables.FACES))))
    text = _replaced(text, "beard", photograph_tables.faces([RESULTS / "photographs_celeba_beard.json"]))
    text = _replaced(text, "light", photograph_tables.light(RESULTS / "photographs_yaleb.json"))
    text = _replaced(text, "protocol", protocol_table.markdown(RESULTS / "protocol_morphomnist.json"))
    text = _replaced(text, "protocol faces", protocol_table.faces(RESULTS / "protocol_celeba.json"))
    text = _replaced(text, "scenes", scenes.table.page(RESULTS / "scenes"))
    return table1_tables.results_page(_replaced(text, "results", results()))


def metrics_page(text: str) -> str:
    """docs/metrics.md with its table of coverage replaced."""
    return _replaced(text, "coverage", coverage())


def discovery_page(text: str) -> str:
    """docs/discovery.md with its table replaced."""
    return _replaced(text, "results", discovery())


def counterfactuals_page(text: str) -> str:
    """docs/counterfactuals.md with its tables replaced."""
    text = _replaced(text, "settings", counterfactual_tables.settings())
    text = _replaced(text, "pixel noise", counterfactual_tables.pixel_noise())
    text = _replaced(text, "ablation scenes", counterfactual_tables.ablation_scenes())
    return _replaced(text, "ablation", counterfactual_tables.ablation())


def _replaced(text: str, name: str, content: str) -> str:
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    head, rest = text.split(start)
    _, tail = rest.split(end)
    return f"{head}{start}\n{content}\n{end}{tail}"


def main() -> None:
    docs = ROOT / "docs"
    pages = {
        ROOT / "README.md": readme,
        docs / "metrics.md": metrics_page,
        docs / "discovery.md": discovery_page,
        docs / "counterfactuals.md": counterfactuals_page,
        docs / "results.md": results_page,
    }
    for path, write in pages.items():
        path.write_text(write(path.read_text()))
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
