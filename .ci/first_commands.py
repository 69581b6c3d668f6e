"""The README's first commands from a wheel, in an environment with nothing else of the project.

Its dependencies are those of the environment that runs this script, so that nothing is downloaded; a slow test installs them anew
(tests/test_packaging.py).

python .ci/first_commands.py
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What would lead to the repository's own copy.
OURS = ("PYTHON", "VIRTUAL_ENV")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="causalvae-first-") as name:
        place = Path(name)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
        binaries = install(place, environment)
        environment["PATH"] = f"{binaries}{os.pathsep}{environment['PATH']}"
        work = place / "work"
        work.mkdir()
        readme = (ROOT / "README.md").read_text()
        for command in first_commands(readme):
            start = time.perf_counter()
            if "explore" in command:
                explore(command, work, environment)
            else:
                subprocess.run(command, cwd=work, env=environment, check=True, stdout=subprocess.DEVNULL)
            print(f"{time.perf_counter() - start:6.1f} s  {shlex.join(command)}", flush=True)
        assert list(work.glob("*.png")), "no picture was drawn"
        block = re.search(r"```python\n(.*?)```", readme, flags=re.DOTALL)[1]
        (work / "ten_lines.py").write_text(block)
        start = time.perf_counter()
        said = subprocess.run(
            [binaries / "python", "ten_lines.py"], cwd=work, env=environment, check=True, text=True, capture_output=True
        )
        print(f"{time.perf_counter() - start:6.1f} s  the README's first lines of Python: {said.stdout.strip()}", flush=True)


def install(place: Path, environment: dict[str, str]) -> Path:
    """Builds the wheel from what git tracks and installs it alone; returns the folder of its commands."""
    source = place / "source"
    for name in sources():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", place, source], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-m", "venv", place / "venv"], check=True)
    python = place / "venv" / "bin" / "python"
    (wheel,) = place.glob("*.whl")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True, env=environment)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([python, "-c", where], check=True, text=True, capture_output=True).stdout.strip())
    # A folder on the path, whose own .pth files, the editable installation among them, are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    found = "import causalvae_pyro, pathlib, sys; print(pathlib.Path(causalvae_pyro.__file__).is_relative_to(sys.prefix))"
    said = subprocess.run([python, "-c", found], check=True, text=True, capture_output=True, cwd=place, env=environment).stdout
    assert said == "True\n", "not the wheel's own package"
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB", flush=True)
    return python.parent


def sources() -> list[str]:
    """What git tracks or, where it does not say, what a wheel is made from."""
    if shutil.which("git"):
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, text=True, capture_output=True)
        if not done.returncode:
            return [name for name in done.stdout.split("\0") if name]
    parts = [path for path in (ROOT / "causalvae_pyro").rglob("*") if "__pycache__" not in path.parts]
    return [str(path.relative_to(ROOT)) for path in (*parts, *ROOT.iterdir()) if path.is_file()]


def first_commands(readme: str) -> list[list[str]]:
    """Those that need no training and no clone."""
    blocks = re.findall(r"```bash\n(.*?)```", readme, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if re.match(r"causalvae \w+ (pendulum|flow)\b", line)]
    commands = [shlex.split(line, comments=True) for line in lines]
    commands = [command for command in commands if command[1] != "train"]
    assert {command[1] for command in commands} >= {"counterfactual", "explore"}, "the README has other first commands"
    return commands


def explore(command: list[str], work: Path, environment: dict[str, str]) -> None:
    """Starts the page, reads it and ends it as its user does."""
    with subprocess.Popen(command, cwd=work, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            address = re.search(r"http://\S+", line)
            assert address, f"no address in {line!r}"
            with urllib.request.urlopen(f"{address[0]}state", timeout=30) as reply:
                assert reply.status == 200
        finally:
            server.send_signal(signal.SIGINT)
    assert server.returncode in (0, 130), server.returncode


if __name__ == "__main__":
    main()
