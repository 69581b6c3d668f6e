"""The figures in the README and the docs are those of the committed benchmark results."""

import importlib.util
import json

import pytest

from tests import ROOT


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_agrees_with_the_committed_results(tables):
    text = (ROOT / "README.md").read_text()
    assert tables.readme(text) == text


def test_metrics_page_agrees_with_the_committed_coverage(tables):
    text = (ROOT / "docs" / "metrics.md").read_text()
    assert tables.metrics_page(text) == text
    # What the page's sentences state.
    result, words = json.loads((tables.RESULTS / "coverage.json").read_text()), " ".join(text.split())
    sets, given = result["settings"]["sets"], result["cases"]["label + 0.05 sd"]["MIC"]["intervals"]
    assert f"{result['settings']['samples']:,} samples, {sets} data sets of each" in words
    assert f"in {sets - given} of the {sets} data sets with 0.05 sd" in words


def test_the_time_of_the_score_card_is_told_once_it_is_measured(tables, tmp_path):
    path = tmp_path / "scorecard.json"
    assert tables._scorecard(path) == []
    seconds = {"all": {"median": 31.4}, "figures and report": {"median": 6.5}}
    path.write_text(json.dumps({"images": 1461, "seconds": seconds, "options": {"threads": 2}}))
    (line,) = tables._scorecard(path)
    assert line == (
        "Scoring a Pendulum run on all 1,461 test images takes 31 s on 2 cores, 6 s of them for the report's figures."
    )


def test_discovery_page_agrees_with_the_committed_results(tables):
    text = (ROOT / "docs" / "discovery.md").read_text()
    assert tables.discovery_page(text) == text


def test_results_page_agrees_with_the_committed_cells(tables):
    text = (ROOT / "docs" / "results.md").read_text()
    assert tables.results_page(text) == text
    latex = (ROOT / "docs" / "table1.tex").read_text()
    assert tables.table1_tables.latex(tables.load()) == latex


def test_committed_results_are_small(tables, tmp_path):
    from environment import write_json

    files = list(tables.RESULTS.rglob("*.json"))
    for file in files:
        write_json(tmp_path / "again.json", json.loads(file.read_text()))
        assert (tmp_path / "again.json").read_text() == file.read_text(), file
    assert sum(file.stat().st_size for file in files) <= 800_000


def test_handwriting_beside_the_conditional_vae(tables, tmp_path, monkeypatch):
    """Of figures in the form that the benchmark writes."""
    judged = {"thickness_mae_px": 0.1, "second_thickness_mae_px": 0.2, "intensity_mae_grey": 5.0, "digit_accuracy": 0.98}
    cases = dict.fromkeys(("real images", "reconstructions", "do(thickness)", "do(intensity)"), judged)
    ours = {"r2": {"thickness": 0.97, "intensity": 0.99}, **cases, "labels known": cases}
    theirs = {**cases, "true labels told": cases}
    import morphomnist

    scores = {name: ours if name.startswith("ours") else theirs for name in morphomnist.MODELS}
    result = {"seeds": 2, "scores": morphomnist.summarise([scores, scores])}
    (tmp_path / "morphomnist.json").write_text(json.dumps(result))
    monkeypatch.setattr(tables.counterfactual_tables, "RESULTS", tmp_path)
    lines = tables.counterfactual_tables.handwriting()
    figures = "0.100 ± 0.000 | 0.200 ± 0.000 | 5.00 ± 0.00 | 0.9800 ± 0.0000 |"
    assert f"| images alone, do(intensity) | {figures}" in lines
    assert f"| labels known, do(thickness) | {figures}" in lines
    assert f"| conditional VAE, effects told, do(thickness) | {figures}" in lines
    assert lines[-1] == "R² read from test images: thickness 0.9700 ± 0.0000, intensity 0.9900 ± 0.0000."


def test_counterfactuals_page_agrees_with_the_committed_results(tables):
    text = (ROOT / "docs" / "counterfactuals.md").read_text()
    assert tables.counterfactuals_page(text) == text


def test_training_page_agrees_with_the_committed_costs(tables):
    lines = (ROOT / "docs" / "training.md").read_text().splitlines()
    found = json.loads((tables.RESULTS / "memory.json").read_text())["micro_batches"]
    for parts in (1, 2, 3, 4, 8):
        cells = [found[f"{decoder}, {parts}"] for decoder in ("conv", "sprites")]
        row = " | ".join(f"{cell['tensors_ratio']:.2f} | {cell['seconds']:.1f} s" for cell in cells)
        assert f"  | {parts} | {row} |" in lines
    words = " ".join(" ".join(lines).split())
    again = json.loads((tables.RESULTS / "memory_recompute.json").read_text())["micro_batches"]
    ratios, seconds = (
        " and ".join(f"{again[f'{decoder}, 1'][key]:.{digits}f}" for decoder in ("conv", "sprites"))
        for key, digits in (("tensors_ratio", 2), ("seconds", 1))
    )
    assert f"{ratios}, at {seconds} s" in words
    one, three = ([f"{found[f'{d}, {p}']['process_ratio']:.2f}" for d in ("conv", "sprites")] for p in (1, 3))
    assert f"{one[0]} and {one[1]} times at one part and {three[0]} and {three[1]} at three" in words
    for name, place in (("step", "a hand-written one of the same maths on two cores"), ("step_one_core", "on one")):
        step = json.loads((tables.RESULTS / f"{name}.json").read_text())
        low, high = step["ratio_range"]
        assert f"{step['ratio_median']:.2f} times {place} (" in words
        assert f"{low:.2f} to {high:.2f})" in words
