"""The documentation site: every public name has its place, and it builds without a warning."""

import importlib
import importlib.util
import io
import re
import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from tests import ROOT


@pytest.fixture(scope="module")
def conf():
    spec = importlib.util.spec_from_file_location("docs_conf", ROOT / "docs" / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_has_a_place_and_a_docstring(conf, tmp_path, monkeypatch):
    monkeypatch.setattr(conf, "HERE", tmp_path)
    conf.write_api_pages()
    pages = "".join(page.read_text() for page in (tmp_path / "api").glob("*.md"))
    packages = [path.parent.name for path in (ROOT / "causalvae_pyro").glob("*/__init__.py")]
    # Helpers for the package itself.
    packages.remove("utils")
    assert {f"causalvae_pyro.{name}" for name in packages} < set(conf.PACKAGES)
    for package in conf.PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            assert f":: {name}\n" in pages, name
            thing = getattr(module, name)
            if callable(thing):
                assert (thing.__doc__ or "").strip(), f"{package}.{name}"
                for member in _undocumented(thing) if isinstance(thing, type) else ():
                    raise AssertionError(f"{package}.{name}.{member} has no docstring")
    # How its layers start is in a base class without an entry of its own.
    assert ".. autoclass:: SpriteDecoder\n   :members:\n   :inherited-members: _Decoder\n" in pages


def _undocumented(kind):
    """Public methods of a class of ours that neither it nor a base class explains."""
    for member, value in vars(kind).items():
        if callable(value) and not member.startswith("_") and getattr(value, "__module__", "") == kind.__module__:
            bases = [base for base in kind.__mro__ if member in vars(base)]
            # What a class of PyTorch or Pyro asks for is explained there.
            theirs = any(not base.__module__.startswith("causalvae_pyro") for base in bases)
            if not theirs and not any((vars(base)[member].__doc__ or "").strip() for base in bases):
                yield member


def test_links_of_the_readme_lead_somewhere_on_the_site(conf):
    source = [(ROOT / "README.md").read_text()]
    conf.read_included(None, ROOT / "README.md", "readme", source)
    for link in re.findall(r"\]\(([^)#]+)", source[0]):
        assert link.startswith("http") or (ROOT / "docs" / link).exists(), link


# What the gallery's scripts are made shorter by.
SHORT = {"IMAGES": 96, "EPOCHS": 1, "STEPS": 3, "DRAWS": 200, "SAMPLES": 100, "ROUNDS": 1, "TRAININGS": 2}
GALLERY = sorted((ROOT / "docs" / "gallery").glob("*.py"))
QUICK = ("plot_0_how_it_works", "plot_2_do_and_see", "plot_4_swap_prior")


def test_every_script_of_the_gallery_is_built():
    assert len(GALLERY) >= 4
    # Sphinx-gallery runs no others.
    assert all(path.name.startswith("plot_") for path in GALLERY)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] * (path.stem not in QUICK), id=path.stem) for path in GALLERY],
)
def test_gallery(path):
    """With fewer images and steps; building the site runs them as they stand."""

    def shorten(match):
        names = match[1].split(", ")
        return f"{match[1]} = {', '.join(str(SHORT[name]) for name in names)}"

    source, count = re.subn(r"^([A-Z]+(?:, [A-Z]+)+) = \d[\d, ]*$", shorten, path.read_text(), flags=re.MULTILINE)
    # It trains nothing.
    assert count == (path.stem != "plot_0_how_it_works"), "the sizes stand on one line, in capitals"
    namespace = {}
    exec(compile(source, path.name, "exec"), namespace)
    figures = [value for value in namespace.values() if isinstance(value, Figure)]
    assert len(figures) >= 1
    for figure in figures:
        drawn = io.BytesIO()
        figure.savefig(drawn, format="rgba", dpi=50)
        assert len(set(drawn.getvalue()[::4])) > 10
        for axes in figure.axes:
            # Pictures and graphs have no axes to name.
            assert axes.get_xlabel() or not axes.lines, path.name


@pytest.mark.slow
def test_builds_without_a_warning(tmp_path):
    for module in ("myst_parser", "sphinx_gallery"):
        pytest.importorskip(module, reason="needs the extra docs")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "api" / "causalvae_pyro.html").is_file()
    for path in GALLERY:
        page = (tmp_path / "auto_gallery" / f"{path.stem}.html").read_text()
        assert f"{path.stem}_001.png" in page
        assert f"{path.stem}.ipynb" in page
