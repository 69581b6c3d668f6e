"""What importing the package imports: its names on first use, and heavy packages where they are used."""

import ast
import pkgutil
import subprocess
import sys

import pytest

import causalvae_pyro
from tests import ROOT

#: Slow to import, and used by parts of the package alone.
HEAVY = {
    "accelerate",
    "huggingface_hub",
    "matplotlib",
    "pandas",
    "PIL",
    "scipy",
    "sklearn",
    "tensorboard",
    "torchmetrics",
    "torchvision",
}


def imported(program):
    """The packages that a program has imported in the end, in a process of its own."""
    program += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules}, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.splitlines())


def test_the_package_alone_imports_nothing_heavy():
    found = imported("import causalvae_pyro; causalvae_pyro.__version__; dir(causalvae_pyro)")
    assert "causalvae_pyro" in found
    assert not found & (HEAVY | {"numpy", "pyro", "torch", "networkx"})


def test_the_names_import_nothing_heavy():
    found = imported("from causalvae_pyro import *; fit, Recipe, counterfactual")
    assert {"torch", "pyro"} <= found
    assert not found & HEAVY


def test_each_name_has_one_home():
    tree = ast.parse((ROOT / "causalvae_pyro" / "__init__.py").read_text())
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {node.module.partition(".")[2]: {alias.name for alias in node.names} for node in checked.body}
    homes = {module: set(names) for module, names in causalvae_pyro._MODULES.items()}
    assert typed == {module: names for module, names in homes.items() if names}
    assert sorted(name for names in homes.values() for name in names) == causalvae_pyro.__all__
    assert {module.name for module in pkgutil.iter_modules(causalvae_pyro.__path__)} == {*homes, "__main__"}


def test_names_and_modules_are_attributes():
    imported("import causalvae_pyro; causalvae_pyro.interventions.handlers; causalvae_pyro.Shift")
    for name in (*causalvae_pyro.__all__, *causalvae_pyro._MODULES):
        assert name in dir(causalvae_pyro)
        assert getattr(causalvae_pyro, name) is not None
    assert causalvae_pyro.fit is causalvae_pyro.training.fit
    with pytest.raises(AttributeError, match="module 'causalvae_pyro' has no attribute 'flit'"):
        _ = causalvae_pyro.flit
