"""Runs of one job over several seeds, each in a process of its own; a seed that has finished is not run again."""

from __future__ import annotations

import json
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path

from environment import write_json


def run_seed(seed: int, command: list[str], directory: Path) -> dict:
    """Runs ``python command`` unless an earlier call has, and returns its scores.

    Args:
        seed: The seed.
        command: What follows ``python``; it writes ``metrics.json`` into ``directory``.
        directory: Of the run.

    Returns:
        ``seed``, ``command``, wall time in ``seconds``, ``peak_memory_gib`` and ``metrics``.
    """
    done = directory / "done.json"
    if done.is_file():
        result = json.loads(done.read_text())
        if result["command"] != command:
            sys.exit(
                f"{directory} holds a run of another command: {shlex.join(result['command'])}; delete it or use another --runs"
            )
        return result
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True)
    seconds = time.perf_counter() - start
    # Of all children so far the largest, which is the same for all: every seed does the same work.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    metrics = json.loads((directory / "metrics.json").read_text())
    result = {"seed": seed, "command": command, "seconds": seconds, "peak_memory_gib": peak, "metrics": metrics}
    write_json(done, result)
    return result
