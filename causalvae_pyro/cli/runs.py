"""What the commands read from the directory of a run, and refuse."""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path
from typing import Any

import torch

from causalvae_pyro.checkpoints.runs import Run, load
from causalvae_pyro.training.monitor import non_finite, shortened
from causalvae_pyro.utils.files import open_table

__all__ = ["data_of", "load_run", "read_history", "read_scores"]


def load_run(path: Path, device: torch.device | str = "cpu") -> Run:
    """A run whose parameters are finite.

    Args:
        path: Its directory.
        device: Where to put it.

    Raises:
        ValueError: If it is not a run, or holds NaN or infinities.
    """
    run = load(path, device=device)
    if spoilt := non_finite(model=run.model, guide=run.guide):
        raise ValueError(f"RUN: {shortened(spoilt)} of {path} holds NaN or infinities: its training has diverged")
    return run


def data_of(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """The description of a run's data, with the places that the command gives.

    Args:
        run: The run.
        arguments: Of the command: ``images``, ``labels``, ``graph`` and ``root``, each ``None`` where the data have not moved.

    Raises:
        ValueError: If the run's data have no such place.
    """
    description = run.data
    for name in ("images", "labels", "graph", "root"):
        if (path := getattr(arguments, name)) is not None:
            if name not in description:
                places = [f"--{place}" for place in ("images", "labels", "graph", "root") if place in description]
                valid = ", ".join(places) or "none, the data are a simulator's"
                raise ValueError(f"--{name}: got {path}, but the run's data have no such place; valid: {valid}")
            description[name] = os.path.abspath(path)
    graph = description.get("graph")
    if isinstance(graph, str) and not os.path.exists(graph) and arguments.graph is None:
        # The run knows it by itself.
        description["graph"] = run.graph
    return description


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of the training history; none where there is no file."""
    if not path.is_file():
        return []
    with open_table(path, f"RUN: {path}") as file:
        try:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file, strict=True)]
        except (TypeError, ValueError):
            # Longer and shorter rows have lists and nothing among their values.
            raise ValueError(f"RUN: {path} is not a training history") from None


def read_scores(path: Path) -> dict[str, Any] | None:
    """What an evaluation has found; ``None`` where there is no file."""
    if not path.is_file():
        return None
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        means = {name: scores.get("representation", {}).get(name, 0.0) for name in ("mic_mean", "tic_mean")}
        for name, values in (("r2", scores.get("r2", {})), ("cf_score", scores.get("cf_score", {})), ("representation", means)):
            if not all(isinstance(value, (int, float)) for value in values.values()):
                raise TypeError(f"{name} is not made of numbers")
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"RUN: {path} does not hold the scores of a run ({type(error).__name__}: {error})") from None
    return scores
