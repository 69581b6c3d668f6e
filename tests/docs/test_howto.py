"""The Python blocks of the how-to pages, and of the pages beside them, run as they stand, page by page."""

import re

import pytest

from tests import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(
    [*(DOCS / "howto").glob("*.md"), *(DOCS / f"{name}.md" for name in ("concepts", "how_it_works", "migrating", "quickstart"))]
)
#: What makes a page's program run in seconds.
SHORT = {"quickstart": {"size=64": "size=16", "(3, 64, 64)": "(3, 16, 16)", "epochs=2": "epochs=1"}}


def blocks_of(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)


@pytest.mark.thorough
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_page(path, tmp_path, monkeypatch):
    blocks = blocks_of(path)
    assert blocks
    if path.stem == "chirho":
        pytest.importorskip("chirho", reason="needs the extra chirho")
    monkeypatch.chdir(tmp_path)  # some pages save
    namespace = {}
    # Padded to its own line of the page, which a failure then names.
    for source in blocks:
        line = path.read_text()[: path.read_text().index(source)].count("\n")
        for before, after in SHORT.get(path.stem, {}).items():
            source = source.replace(before, after)
        exec(compile("\n" * line + source, str(path), "exec"), namespace)
    check = CHECKS.get(path.stem)
    if check is not None:
        check(namespace)


def _few_labels(space):
    # Most labels were missing, and repeats made up for it.
    assert 0.05 < (~space["labels"].isnan()).float().mean() < 0.9
    assert space["recipe"].labelled_repeats(space["labels"]) >= 1


def _objective(space):
    assert space["one"].isfinite()
    assert space["twenty"].isfinite()


def _interventions(space):
    average = space["average"]
    assert average.interval[0] < average.value < average.interval[1]
    assert space["single"].std.shape == (8,)


CHECKS = {"few_labels": _few_labels, "objective": _objective, "interventions": _interventions}


def test_figures_of_the_migration_page_are_the_files(monkeypatch):
    """Every row of its tables of scores against the cells that the row names."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from table1_summary import CELLS, summarise_table

    text = (DOCS / "migrating.md").read_text()
    table = text[text.index("<!-- scores:start -->") : text.index("<!-- scores:end -->")]
    columns = {"mic": (100, 1), "tic": (100, 1), "cf_roots": (1, 3), "cf_children": (1, 3)}
    data, checked = "", 0
    for line in table.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells or cells[0].startswith("-"):
            continue
        if cells[1] == "MIC":
            data = cells[0].lower()
            continue
        (key,) = re.fullmatch(r"`(\w+)`", cells[-1]).groups()
        scores = summarise_table(CELLS, {data: [key]}, 5)["data"][data][key]
        for cell, (column, (factor, digits)) in zip(cells[1:-1], columns.items(), strict=True):
            mean = scores[column]["mean"]
            half = scores[column]["interval"][1] - mean
            assert cell == f"{factor * mean:.{digits}f} ± {factor * half:.{digits}f}", (data, key, column)
            checked += 1
    assert checked == 56
