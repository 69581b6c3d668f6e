"""The wheel and the source distribution: what they hold, and that the wheel works where nothing else of the project is."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import causalvae_pyro
from causalvae_pyro.checkpoints.pretrained import PRETRAINED
from tests import ROOT

# An environment takes 6 GB; while it is made, what pip downloads lies beside it.
ROOM = 12e9
# Of the wheel, in bytes; all but a quarter of a megabyte are the trained runs.
LARGEST = 2.4e6
FRONT = f"causalvae_pyro-{causalvae_pyro.__version__}"
# What the test's own environment would leak into another one.
OURS = ("PYTHON", "VIRTUAL_ENV", "COV", "PYTEST")


def call(*command, cwd, status=0):
    """Runs a command without the variables of this environment; returns all that it printed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=cwd, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == status, f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout[-6000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def tracked():
    """The files of the repository, as git names them."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True) if shutil.which("git") else None
    if done is None or done.returncode:
        pytest.skip("these tests build from the files that git tracks, and this is no git repository")
    names = [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert "setup.cfg" in names
    return names


@pytest.fixture(scope="module")
def source(tracked, tmp_path_factory):
    """A copy of them, so that nothing is written to the repository."""
    copy = tmp_path_factory.mktemp("source")
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    return copy


def check_wheel(content, tracked):
    """It holds every file of the package, the types' mark and the page's files among them, no test, and what pip needs."""
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        assert wheel.testzip() is None
        names = wheel.namelist()
        about = wheel.read(f"{FRONT}.dist-info/METADATA").decode()
        entries = wheel.read(f"{FRONT}.dist-info/entry_points.txt").decode()
    own = {name for name in names if not name.startswith(f"{FRONT}.dist-info/")}
    assert own == {name for name in tracked if name.startswith("causalvae_pyro/")}
    assert "causalvae_pyro/py.typed" in own
    assert {f"causalvae_pyro/explore/page/{name}" for name in ("index.html", "page.css", "page.js")} <= own
    assert {"causalvae_pyro/evaluation/templates/report.html", "causalvae_pyro/checkpoints/templates/card.md"} <= own
    pretrained = {f"causalvae_pyro/pretrained/{name}/model.safetensors" for name in PRETRAINED}
    assert pretrained <= own
    assert len(content) < LARGEST
    assert not [name for name in names if "test" in name]
    assert f"{FRONT}.dist-info/licenses/LICENSE" in names
    assert "causalvae = causalvae_pyro.cli:main" in entries
    assert f"\nVersion: {causalvae_pyro.__version__}\n" in about
    assert "# causalvae_pyro" in about


def check_sdist(content, tracked):
    """It holds the package and what builds it, and no part of the tests, which need the whole repository."""
    with tarfile.open(fileobj=io.BytesIO(content)) as sdist:
        names = {member.name.removeprefix(f"{FRONT}/") for member in sdist.getmembers() if member.isfile()}
    assert {name for name in tracked if name.startswith("causalvae_pyro/")} < names
    assert {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} < names
    assert {name.split("/")[0] for name in names if "/" in name} == {"causalvae_pyro", "causalvae_pyro.egg-info"}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_what_is_built_holds_the_package_and_nothing_else(kind, source, tracked, tmp_path):
    # Straight through the build's backend, which takes a second; the front end and its own environment are below.
    pytest.importorskip("setuptools", minversion="70.1")
    shutil.copytree(source, tmp_path / "copy")
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    call(sys.executable, "-c", code, tmp_path / "dist", cwd=tmp_path / "copy")
    (built,) = (tmp_path / "dist").iterdir()
    {"wheel": check_wheel, "sdist": check_sdist}[kind](built.read_bytes(), tracked)


class Elsewhere:
    """A virtual environment with the wheel and its dependencies alone, and an empty directory to work in."""

    def __init__(self, folder, constraints):
        self.folder, self.work = folder, folder / "work"
        self.work.mkdir()
        call(sys.executable, "-m", "venv", folder / "venv", cwd=self.work)
        self.bin = folder / "venv" / "bin"
        (self.wheel,) = (folder / "dist").glob("*.whl")
        call(self.bin / "python", "-m", "pip", "install", "--quiet", "--constraint", constraints, self.wheel, cwd=self.work)

    def python(self, name, code, *arguments):
        # A script and not -c: the directory of a script is on the path in its place, and it is empty of packages.
        (self.work / name).write_text(code)
        return call(self.bin / "python", name, *arguments, cwd=self.work)


@pytest.fixture(scope="module")
def elsewhere(source):
    for name in ("build", "twine", "mypy"):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed; it is part of the extra test")
    # Not pytest's own folder, which is kept: this one has to go, whatever happens.
    with tempfile.TemporaryDirectory(prefix="causalvae-packaging-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        assert not folder.is_relative_to(ROOT)
        free = shutil.disk_usage(folder).free
        if free < ROOM:
            pytest.skip(f"{folder.parent} has room for {free / 1e9:.0f} GB; an environment of its own takes {ROOM / 1e9:.0f} GB")
        constraints = folder / "constraints.txt"
        constraints.write_text("".join(f"{package}=={metadata.version(package)}\n" for package in ("torch", "torchvision")))
        # Nothing of ours takes part in this, so nothing of ours can turn a failure into a skip.
        probe = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
        probe += ["--constraint", str(constraints), "torch", "torchvision", "pyro-ppl", "setuptools"]
        done = subprocess.run(probe, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "pip gave no reason")
            pytest.skip(f"no package index, or it does not have the releases of this environment ({reason})")
        call(sys.executable, "-m", "build", "--wheel", "--sdist", "--outdir", folder / "dist", source, cwd=folder)
        yield Elsewhere(folder, constraints)


@pytest.mark.slow
def test_wheel_and_sdist_pass_twine(elsewhere, tracked):
    built = sorted((elsewhere.folder / "dist").iterdir())
    assert [path.name for path in built] == [f"{FRONT}-py3-none-any.whl", f"{FRONT}.tar.gz"]
    said = call(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *built, cwd=elsewhere.work)
    assert said.count("PASSED") == 2
    check_wheel(built[0].read_bytes(), tracked)
    check_sdist(built[1].read_bytes(), tracked)


@pytest.mark.slow
def test_a_wheel_can_be_built_from_the_sdist_alone(elsewhere, tracked):
    sdist, out = elsewhere.folder / "dist" / f"{FRONT}.tar.gz", elsewhere.folder / "again"
    call(elsewhere.bin / "python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, sdist, cwd=elsewhere.work)
    (again,) = out.iterdir()
    check_wheel(again.read_bytes(), tracked)
    with zipfile.ZipFile(again) as found, zipfile.ZipFile(elsewhere.wheel) as expected:
        for name in expected.namelist():
            if not name.endswith("/RECORD"):
                assert found.read(name) == expected.read(name), name


EVERY_MODULE = """
import importlib, pathlib, pkgutil, sys
import causalvae_pyro

assert pathlib.Path(causalvae_pyro.__file__).is_relative_to(sys.prefix), causalvae_pyro.__file__
assert sys.prefix != sys.base_prefix
names = [module.name for module in pkgutil.walk_packages(causalvae_pyro.__path__, "causalvae_pyro.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


@pytest.mark.slow
def test_every_module_can_be_imported_with_no_extra_installed(elsewhere, tracked):
    modules = [name for name in tracked if name.startswith("causalvae_pyro/") and name.endswith(".py")]
    assert int(elsewhere.python("every_module.py", EVERY_MODULE)) == len(modules) - 1
    call(elsewhere.bin / "python", "-m", "pip", "check", cwd=elsewhere.work)
    assert call(elsewhere.bin / "causalvae", "--version", cwd=elsewhere.work) == f"causalvae {causalvae_pyro.__version__}\n"


# What the README's block speaks of, from a run that was trained and shared by the command.
COUNTERFACTUAL = """
import pathlib, sys
import torch
import causalvae_pyro
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.checkpoints.hub import from_pretrained

assert pathlib.Path(causalvae_pyro.__file__).is_relative_to(sys.prefix), causalvae_pyro.__file__
run = from_pretrained("shared")
model = run.model
test = Pendulum("test", size=64)
x = test.images[:8]
README
z, images = trace.nodes["z"]["value"], trace.nodes["x_mean"]["value"]
assert images.shape == x.shape and bool(images.isfinite().all())
assert torch.allclose(model.prior.to_labels(z)[:, 1], torch.tensor(12.0))
with torch.no_grad():
    factual = poutine.trace(poutine.condition(model, data=eps)).get_trace(num_samples=8)
assert torch.equal(factual.nodes["z"]["value"][:, 0], z[:, 0])  # no effect of the light
assert not torch.equal(factual.nodes["z"]["value"][:, 3], z[:, 3])  # the shadow is
assert (factual.nodes["x_mean"]["value"] - images).abs().max() > 0.05
print("drawn")
"""


@pytest.mark.slow
def test_a_training_and_a_counterfactual_in_an_empty_directory(elsewhere):
    command = elsewhere.bin / "causalvae"
    # Two passes over two fifths of the images, then the whole score card: two minutes on two cores.
    train = [command, "train", "pendulum", "--limit", "1000", "--epochs", "2", "--device", "cpu", "--out", "run"]
    assert "run/report.html" in call(*train, cwd=elsewhere.work)
    scores = json.loads((elsewhere.work / "run" / "metrics.json").read_text())
    assert scores["r2"]["pendulum"] > 0.5  # 0 is that of a constant
    call(command, "counterfactual", "run", "--do", "light=12", "--count", "2", "--device", "cpu", cwd=elsewhere.work)
    assert (elsewhere.work / "counterfactual.png").read_bytes().startswith(b"\x89PNG")
    call(command, "share", "run", "--to", "shared", cwd=elsewhere.work)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (block,) = [block for block in blocks if "world = poutine.do(" in block]
    assert elsewhere.python("intervene.py", COUNTERFACTUAL.replace("README", block)) == "drawn\n"


@pytest.mark.slow
def test_types_come_with_the_wheel(elsewhere):
    use = "from causalvae_pyro import CausalGraph\n\nCausalGraph({})\n"
    (elsewhere.work / "right.py").write_text(use.format('["a", "b"], [("a", "b")]'))
    (elsewhere.work / "wrong.py").write_text(use.format('3, edges=[("a", "b")]'))
    check = [sys.executable, "-m", "mypy", "--python-executable", elsewhere.bin / "python", "--cache-dir", "cache"]
    assert call(*check, "right.py", cwd=elsewhere.work).startswith("Success: no issues found")
    said = call(*check, "wrong.py", cwd=elsewhere.work, status=1)
    assert re.match(r'wrong\.py:3: error: Argument 1 to "CausalGraph" has incompatible type "int"; .*\[arg-type\]\n', said)
    assert "Found 1 error in 1 file" in said
