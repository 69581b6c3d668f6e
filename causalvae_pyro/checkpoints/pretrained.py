"""Trained runs that come with the package, for a first look without training.

They are what ``causalvae train flow`` and ``causalvae train pendulum`` leave: configuration, weights and scores.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["PRETRAINED", "is_pretrained", "run_directory"]

#: Their names.
PRETRAINED = ("flow", "pendulum")
_FOLDER = Path(__file__).parents[1] / "pretrained"


def is_pretrained(path: str | os.PathLike) -> bool:
    """Whether a path is the name of a run that comes with the package, and nothing of that name is in the working directory."""
    return os.fspath(path) in PRETRAINED and not os.path.lexists(path)


def run_directory(path: str | os.PathLike) -> Path:
    """Where a run lies.

    Args:
        path: Its directory, or the name of a run that comes with the package. What is in the working directory comes first.
    """
    return _FOLDER / os.fspath(path) if is_pretrained(path) else Path(path)
