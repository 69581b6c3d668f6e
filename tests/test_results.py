"""The figures in the README and the docs are those of the committed benchmark results."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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
