"""Every row of the page on Pyro's tools runs as it stands and gives something finite."""

import importlib.util
import re

import pyro
import pytest
import torch

from tests import ROOT

PAGE = ROOT / "docs" / "howto" / "pyro.md"
SETUP = re.search(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)[1]


def rows():
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) == 3 and "<br>" in cells[2]:
            code = [re.fullmatch(r"`(.*)`", part)[1] for part in cells[2].split("<br>")]
            yield cells[0], code


ROWS = list(rows())


def test_the_table_is_long_and_its_rows_are_short():
    assert len({tool for tool, _ in ROWS}) == len(ROWS) >= 40
    assert all(len(code) == 2 for _, code in ROWS)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize(("tool", "code"), ROWS, ids=[tool for tool, _ in ROWS])
def test_row(tool, code):
    for package in ("chirho", "graphviz"):
        if any(f"{package}" in line for line in code) and importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    space = {}
    exec(compile(SETUP, str(PAGE), "exec"), space)
    pyro.set_rng_seed(0)
    exec(compile("\n".join(code), str(PAGE), "exec"), space)
    out = space["out"]
    if isinstance(out, (torch.Tensor, float)):
        assert torch.as_tensor(out).isfinite().all()
    else:
        assert out
