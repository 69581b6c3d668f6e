"""``causalvae evaluate``: scores a run again and rewrites its report."""

from __future__ import annotations

import argparse

from causalvae_pyro.checkpoints.runs import HISTORY
from causalvae_pyro.cli.runs import load_run, read_history
from causalvae_pyro.cli.scoring import score
from causalvae_pyro.training import resolve_device

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> None:
    """Scores.

    Args:
        arguments: Of the command.
    """
    found = load_run(arguments.path, device=resolve_device(arguments.device))
    rows = read_history(arguments.path / HISTORY)
    predict, fid = (getattr(arguments, name, None) for name in ("predictor", "fid"))
    score(found, arguments.path, rows, limit=arguments.limit, predict=predict, fid=fid)
