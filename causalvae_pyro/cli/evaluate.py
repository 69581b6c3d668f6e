"""``causalvae evaluate``: scores a run again and rewrites its report."""

from __future__ import annotations

import argparse
import errno
from pathlib import Path
from typing import Any

from causalvae_pyro.checkpoints.pretrained import is_pretrained, run_directory
from causalvae_pyro.checkpoints.runs import HISTORY
from causalvae_pyro.cli.runs import data_of, load_run, read_history
from causalvae_pyro.cli.scoring import score
from causalvae_pyro.cli.stages import Stages
from causalvae_pyro.training import resolve_device
from causalvae_pyro.utils.files import check_writable

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> None:
    """Scores.

    Args:
        arguments: Of the command.
    """
    stages = Stages(quiet=arguments.quiet, scores=arguments.json)
    found = load_run(arguments.path, device=resolve_device(arguments.device))
    report = _is_writable(arguments.path, stages)
    rows = read_history(run_directory(arguments.path) / HISTORY)
    predict, fid = (getattr(arguments, name, None) for name in ("predictor", "fid"))
    options: dict[str, Any] = {"limit": arguments.limit, "predict": predict, "fid": fid, "report": report, "stages": stages}
    options["lpips_weights"] = arguments.lpips
    score(found, arguments.path, rows, description=data_of(found, arguments), **options)


def _is_writable(path: Path, stages: Stages) -> bool:
    """Whether the report can be written; who may only read the run is told before the work, and gets the scores all the same."""
    if is_pretrained(path):
        stages.say(f"RUN: {path} comes with the package: the scores are printed, the report is left out")
        return False
    try:
        check_writable(path, "RUN")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        stages.say(f"{error}: the scores are printed, the report is left out")
        return False
    return True
