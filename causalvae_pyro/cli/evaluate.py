"""``causalvae evaluate``: scores a run again and rewrites its report."""

from __future__ import annotations

import argparse

from causalvae_pyro.checkpoints.runs import HISTORY
from causalvae_pyro.cli.runs import data_of, load_run, read_history
from causalvae_pyro.cli.scoring import score
from causalvae_pyro.training import resolve_device
from causalvae_pyro.utils.files import check_writable

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> None:
    """Scores.

    Args:
        arguments: Of the command.
    """
    found = load_run(arguments.path, device=resolve_device(arguments.device))
    # Before the work: a score card that cannot be written is lost.
    check_writable(arguments.path)
    rows = read_history(arguments.path / HISTORY)
    predict, fid = (getattr(arguments, name, None) for name in ("predictor", "fid"))
    score(found, arguments.path, rows, description=data_of(found, arguments), limit=arguments.limit, predict=predict, fid=fid)
