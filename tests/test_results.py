"""The README's figures are those of the committed benchmark results."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_readme_agrees_with_the_committed_results():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    text = (ROOT / "README.md").read_text()
    assert tables.readme(text) == text
