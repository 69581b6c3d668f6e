"""The documentation site: every public name has its place, and it builds without a warning."""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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


@pytest.mark.slow
def test_builds_without_a_warning(tmp_path):
    pytest.importorskip("myst_parser", reason="needs the extra docs")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "api" / "causalvae_pyro.html").is_file()
