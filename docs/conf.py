"""Sphinx: the pages of this folder, the README, a gallery of examples, and an API page for each package, from its ``__all__``."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import causalvae_pyro

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

project = "causalvae_pyro"
author = "The causalvae_pyro authors"
version = release = causalvae_pyro.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["table1.tex", "gallery"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
html_theme = "furo"
html_title = "causalvae_pyro"
copybutton_prompt_text = ">>> |... |$ "
copybutton_prompt_is_regexp = True
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("gallery_figures.scrape",),
    "reset_modules": (),
    # What the last line of a block returns is not worth a line of text.
    "capture_repr": (),
    "first_notebook_cell": "%matplotlib inline",
    "thumbnail_size": (360, 240),
    "remove_config_comments": True,
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "plot_gallery": "True",
}

#: Package, and what it holds.
PACKAGES = {
    "causalvae_pyro": "What the first hour needs",
    "causalvae_pyro.scm": "Causal layers",
    "causalvae_pyro.priors": "Priors",
    "causalvae_pyro.likelihoods": "Likelihoods",
    "causalvae_pyro.networks": "Encoders and decoders",
    "causalvae_pyro.guides": "Guides",
    "causalvae_pyro.objectives": "Objectives",
    "causalvae_pyro.interventions": "Interventions, counterfactuals, effects",
    "causalvae_pyro.training": "Training",
    "causalvae_pyro.discovery": "Graph discovery",
    "causalvae_pyro.datasets": "Data sets",
    "causalvae_pyro.metrics": "Metrics",
    "causalvae_pyro.checkpoints": "Saving, loading and sharing",
    "causalvae_pyro.recipes": "Recipes",
    "causalvae_pyro.evaluation": "Scores and reports",
    "causalvae_pyro.plots": "Figures",
    "causalvae_pyro.explore": "The live page",
    "causalvae_pyro.baselines": "Baselines",
    "causalvae_pyro.distributions": "Distributions",
    "causalvae_pyro.cli": "The command",
}


def write_api_pages() -> None:
    """A page per package; a name stands where it is met first."""
    folder = HERE / "api"
    folder.mkdir(exist_ok=True)
    seen: set[int] = set()
    lines = ["# API", "", "```{toctree}", *(name for name in PACKAGES), "```", ""]
    _write(folder / "index.md", "\n".join(lines))
    for package, title in PACKAGES.items():
        module = importlib.import_module(package)
        names = [name for name in module.__all__ if id(getattr(module, name)) not in seen]
        seen |= {id(getattr(module, name)) for name in names}
        page = [f"# `{package}`: {title[0].lower() + title[1:]}", "", "```{eval-rst}", f".. currentmodule:: {package}", ""]
        for name in names:
            kind = "class" if isinstance(getattr(module, name), type) else "function"
            value = getattr(module, name)
            if not callable(value):
                keys = f", with the keys {', '.join(f'``{key}``' for key in value)}" if isinstance(value, dict) else ""
                page += [f".. py:data:: {name}", "", f"   A ``{type(value).__name__}``{keys}.", ""]
                continue
            options = ["   :members:", *_inherited(value), "   :show-inheritance:"] if kind == "class" else []
            page += [f".. auto{kind}:: {name}", *options, ""]
        _write(folder / f"{package}.md", "\n".join([*page, "```", ""]))


def _inherited(value: type) -> list[str]:
    """Members of a public base that has no entry of its own are shown with the class."""
    return ["   :inherited-members: _Decoder"] if value.__bases__[0].__name__ == "LayersDecoder" else []


_FOLDER = re.compile(r"\[([^\]]+)\]\((?:examples|\.\./benchmarks/results/table1)/?\)")


def _write(path: Path, text: str) -> None:
    # What has not changed keeps its date, and is not read again.
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


# In the repository these links lead to the scripts, on the site to the pages made from them.
_GALLERY = re.compile(r"\]\((\.\./)?gallery/(?:(\w+)\.py)?\)")


def read_page(app: object, name: str, source: list[str]) -> None:
    """Links to the README lead to its page, those to the gallery's scripts to theirs, those to folders nowhere."""
    text = _FOLDER.sub(r"\1", source[0].replace("](../README.md", "](readme.md"))
    source[0] = _GALLERY.sub(lambda link: f"]({link[1] or ''}auto_gallery/{link[2] or 'index'}.rst)", text)


def read_included(app: object, path: Path, name: str, source: list[str]) -> None:
    """Links in the README are from the project's root."""
    text = _FOLDER.sub(r"\1", source[0]).replace("](docs/", "](").replace("](examples/", "](../examples/")
    text = text.replace("](CHANGELOG.md)", "](changelog.md)").replace("](CONTRIBUTING.md)", "](contributing.md)")
    source[0] = text.replace("](LICENSE)", "](../LICENSE)")


def setup(app: object) -> None:
    """What Sphinx calls."""
    write_api_pages()
    app.connect("source-read", read_page)  # type: ignore[attr-defined]
    app.connect("include-read", read_included)  # type: ignore[attr-defined]
