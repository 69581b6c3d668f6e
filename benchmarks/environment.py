"""What every benchmark records beside its figures, and how it writes them."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pyro
import torch

import causalvae_pyro


def describe() -> dict:
    """The command, versions and processor."""
    modules = {"torch": torch, "pyro": pyro, "numpy": np, "matplotlib": matplotlib, "causalvae_pyro": causalvae_pyro}
    return {
        # Without the folders of this machine.
        "command": shlex.join(
            ["python", os.path.relpath(sys.argv[0]), *("DIR" if os.path.isabs(a) else a for a in sys.argv[1:])]
        ),
        "versions": {"python": platform.python_version(), **{name: module.__version__ for name, module in modules.items()}},
        "hardware": {"cpu": cpu_model(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), **_gpu()},
    }


def commit() -> str | None:
    """The commit that the code is of, with a ``+`` where it has been changed since; ``None`` without git."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=False).stdout.strip()

    try:
        # Results are no code.
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "../causalvae_pyro", "*.py")
        head = git("rev-parse", "--short", "HEAD")
    except FileNotFoundError:
        return None
    return head + "+" * bool(changed) if head else None


def _gpu() -> dict:
    return {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}


def cpu_model() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def write_json(path: str | os.PathLike, result: dict) -> None:
    """Writes the file as a whole or not at all: six significant digits, a line for each key of the outermost level."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    short = json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.6g}"))
    lines = (f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in short.items())
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
